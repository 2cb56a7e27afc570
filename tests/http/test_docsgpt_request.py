"""Bodies of DocsGPT's API: what is taken, what is refused in which words, and the turn it becomes."""

import json
import random
import time
from typing import Any

import pytest

from supervisor.causes import Cause, Refusal
from supervisor.http.dialects.docsgpt_errors import FieldRefusal, error
from supervisor.http.dialects.docsgpt_request import MOST_ATTACHMENTS, MOST_INDEX, feedback, parse, question
from supervisor.http.dialects.halves import MOST, WINDOW, mended

ID = "0d8f4b0e-6f2c-4c7e-9a55-2f6a4f7e1c33"
NEW = "11111111-2222-4333-8444-555555555555"


def ask(streams: bool = True, **fields: Any) -> Any:
    return question({"question": "q", **fields}, streams=streams)


def turn(asked: Any, **more: Any) -> Any:
    return asked.turn_request(graph="g", user="local", new=NEW, attachments=[], **more)


def test_the_least_that_is_asked() -> None:
    asked = ask()
    wanted = turn(asked)
    wanted.check()
    assert wanted.messages == [{"role": "user", "content": "q"}]
    assert (wanted.kind, wanted.graph, wanted.user, wanted.session, wanted.source) == (
        "chat",
        "g",
        "local",
        NEW,
        "docsgpt",
    )
    assert (wanted.shared, wanted.continues, wanted.store, wanted.replaces) == (True, False, True, None)
    assert (wanted.history, wanted.context, wanted.options, wanted.attachments) == ([], {}, {}, [])
    assert turn(ask(question="")).messages == [{"role": "user", "content": ""}]


def test_all_that_is_asked() -> None:
    body = {
        "api_key": "k",
        "conversation_id": ID.upper(),
        "history": "not looked at",
        "save_conversation": True,
        "passthrough": {"a": [1, {"b": None}]},
        "attachments": ["a", "b"],
        "index": 3,
        "agent_id": "friday",
        "model_id": "m",
        "prompt_id": None,
        "retriever": 7,
        "active_docs": ["x"],
        "chunks": "600",
        "isNoneDoc": True,
        "visibility": {},
        "model": "default",
        "embeddings_key": "x",
        "sender": 1,
    }
    asked = ask(**body)
    assert (asked.api_key, asked.agent, asked.attachments, asked.index) == ("k", "friday", ["a", "b"], 3)
    assert "'k'" not in repr(asked)
    wanted = turn(asked)
    assert (wanted.session, wanted.continues, wanted.replaces, wanted.history) == (ID, True, 3, [])
    assert wanted.context == body["passthrough"]
    assert wanted.options == {
        "model_id": "m",
        "retriever": 7,
        "active_docs": ["x"],
        "chunks": "600",
        "isNoneDoc": True,
        "visibility": {},
    }


@pytest.mark.parametrize("absent", [None, "", "None"])
def test_a_conversation_that_is_left_out(absent: Any) -> None:
    wanted = turn(ask(conversation_id=absent, history='[{"prompt": "a", "response": "b"}]'))
    assert (wanted.session, wanted.continues) == (NEW, False)
    assert len(wanted.history) == 2


@pytest.mark.parametrize(
    "unknown", ["x", "none", "null", f"{ID} ", f"{ID}\n", ID[:-1], f"{{{ID}}}", "channel:x", "\0", "ß" * 36]
)
def test_a_conversation_that_none_can_be(unknown: str) -> None:
    asked = ask(conversation_id=unknown)
    with pytest.raises(Refusal) as refused:
        turn(asked)
    assert refused.value.cause is Cause.CONVERSATION_UNKNOWN


def test_what_is_not_to_be_saved() -> None:
    wanted = turn(ask(save_conversation=False))
    assert (wanted.session, wanted.store, wanted.shared) == (None, False, False)
    wanted = turn(ask(save_conversation=False, conversation_id=ID))
    assert (wanted.session, wanted.store, wanted.shared, wanted.continues) == (ID, False, True, True)
    assert turn(ask(save_conversation=None)).store


HISTORIES: list[tuple[Any, list[str]]] = [
    (None, []),
    ("", []),
    ("[]", []),
    ([], []),
    (" [ ] ", []),
    ([{"prompt": "a", "response": "b"}], ["a", "b"]),
    ('[{"prompt": "a", "response": "b"}, {"prompt": "c", "response": ""}]', ["a", "b", "c", ""]),
    # The widget sends the question along, without an answer; others send more.
    ('[{"prompt": "a", "response": "b", "sources": [], "feedback": "LIKE"}, {"prompt": "q"}]', ["a", "b"]),
    ([1, None, "x", [], {}, {"prompt": "a"}, {"response": "b"}, {"prompt": 1, "response": "b"}], []),
    ([{"prompt": None, "response": "b"}, {"prompt": "a", "response": ["b"]}], []),
    # Half an emoji, as JavaScript cuts them; an escaped backslash before what looks like one.
    ('[{"prompt": "\\ud83e", "response": "\\ud83e\\udd4a \\udd4a"}]', ["\ufffd", "🥊 \ufffd"]),
    ([{"prompt": "\ud83e", "response": "b"}], ["\ud83e", "b"]),
    ('[{"prompt": "\\\\ud83e", "response": "\u2028\\u0000"}]', ["\\ud83e", "\u2028\0"]),
]


@pytest.mark.parametrize(("history", "texts"), HISTORIES)
def test_histories(history: Any, texts: list[str]) -> None:
    found = turn(ask(history=history)).history
    assert [message["content"] for message in found] == texts
    assert [message["role"] for message in found] == ["user", "assistant"] * (len(texts) // 2)


@pytest.mark.parametrize(
    "history",
    ["{", "x", "{}", "null", "7", '"[]"', "[], 1", "[]}", " ", "[NaN]", "[" * 5000, 7, 0, False, {}, True, {"a": 1}],
)
def test_histories_that_are_none(history: Any) -> None:
    with pytest.raises(FieldRefusal) as refused:
        ask(history=history)
    assert error(refused.value) == (400, {"success": False, "message": "history must be a JSON array"})
    assert ask(history=history, conversation_id=ID).history == [], "it is not looked at"


# A body's fields, whether it is of a stream, and what is said. What is missing goes before what is wrong.
REFUSED: list[tuple[dict[str, Any], bool, str]] = [
    ({}, False, "Missing required fields: question"),
    ({"question": None}, True, "Missing required fields: question"),
    ({"index": 0}, True, "Missing required fields: question, conversation_id"),
    ({"index": 0}, False, "Missing required fields: question"),
    ({"question": "q", "index": 0}, True, "Missing required fields: conversation_id"),
    ({"question": "q", "index": 0, "conversation_id": "None"}, True, "Missing required fields: conversation_id"),
    ({"question": 7, "index": 0, "conversation_id": ""}, True, "Missing required fields: conversation_id"),
    ({"api_key": 7}, True, "Missing required fields: question"),
    ({"question": 7}, True, "question must be a string"),
    ({"question": ["q"]}, False, "question must be a string"),
    ({"question": False}, False, "question must be a string"),
    ({"question": "q", "api_key": 7}, False, "api_key must be a string"),
    ({"question": "q", "conversation_id": 7}, False, "conversation_id must be a string"),
    ({"question": "q", "conversation_id": []}, True, "conversation_id must be a string"),
    ({"question": "q", "save_conversation": "false"}, False, "save_conversation must be a boolean"),
    ({"question": "q", "save_conversation": 0}, False, "save_conversation must be a boolean"),
    ({"question": "q", "passthrough": []}, True, "passthrough must be an object"),
    ({"question": "q", "passthrough": "{}"}, True, "passthrough must be an object"),
    ({"question": "q", "attachments": "a"}, True, "attachments must be an array of strings"),
    ({"question": "q", "attachments": {}}, True, "attachments must be an array of strings"),
    ({"question": "q", "attachments": ["a", 7]}, True, "attachments must be an array of strings"),
    ({"question": "q", "attachments": [None]}, True, "attachments must be an array of strings"),
    (
        {"question": "q", "attachments": ["a"] * (MOST_ATTACHMENTS + 1)},
        True,
        f"attachments has {MOST_ATTACHMENTS + 1} entries; at most {MOST_ATTACHMENTS} are allowed",
    ),
    ({"question": "q", "conversation_id": ID, "index": -1}, True, "index must be an integer from 0 on"),
    ({"question": "q", "conversation_id": ID, "index": "1"}, True, "index must be an integer from 0 on"),
    ({"question": "q", "conversation_id": ID, "index": 1.0}, True, "index must be an integer from 0 on"),
    ({"question": "q", "conversation_id": ID, "index": True}, True, "index must be an integer from 0 on"),
    ({"question": "q", "agent_id": 7}, True, "agent_id must be a string"),
    ({"question": "q", "model_id": {}}, True, "model_id must be a string"),
]


@pytest.mark.parametrize(("body", "streams", "message"), REFUSED)
def test_what_is_refused(body: Any, streams: bool, message: str) -> None:
    with pytest.raises(FieldRefusal) as refused:
        question(body, streams=streams)
    assert error(refused.value) == (400, {"success": False, "message": message})


def test_tools_are_not_resumed() -> None:
    with pytest.raises(FieldRefusal) as refused:
        question({"tool_actions": [], "conversation_id": ID}, streams=True)
    assert error(refused.value) == (400, {"error": "tool_actions is not supported"})
    assert ask(tool_actions=None).question == "q"


def test_an_index_is_bounded_and_of_streams_only() -> None:
    assert ask(conversation_id=ID, index=10**30).index == MOST_INDEX
    assert ask(conversation_id=ID, index=None).index is None
    assert ask(streams=False, conversation_id=ID, index="x").index is None


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'"x"', b"7", b'{"question": NaN}', b"\xff", b'{"a":' * 200])
def test_bodies_that_are_none(data: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        parse(data)
    status, body = error(refused.value)
    assert (status, body.keys()) == (400, {"message"})


def test_null_as_a_body_has_no_question() -> None:
    with pytest.raises(FieldRefusal):
        question(parse(b"null"), streams=False)


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        (r"\ud83e\udd4a", "🥊"),
        (r"\ud83e", "\ufffd"),
        (r"\udd4a", "\ufffd"),
        (r"\udd4a\ud83e", "\ufffd\ufffd"),
        (r"\ud83e\ud83e\udd4a", "\ufffd🥊"),
        (r"\uD83Ex\uDD4A", "\ufffdx\ufffd"),
        (r"\\ud83e", "\\ud83e"),
        (r"\\\ud83e", "\\\ufffd"),
        (r"\u0000\"\n", '\0"\n'),
        (r"\ud7ff\ue000", "\ud7ff\ue000"),
    ],
)
def test_lone_surrogates_are_mended(escaped: str, text: str) -> None:
    assert parse(b'{"question": "%b"}' % escaped.encode()) == {"question": text}


def test_what_needs_no_mending_is_left_alone() -> None:
    data = json.dumps({"question": "x" * 1000}).encode()
    assert mended(data) is data


def told(data: bytes) -> str:
    """The string that JSON holds, half characters replaced, by Python's own parser."""
    text: str = json.loads(data)
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def test_halves_anywhere_in_any_order() -> None:
    chance = random.Random(7)
    parts = [r"\ud83e", r"\udd4a", r"\\", r"\n", "x", r"\u0041", "ü", r"\uD83E", r"\uDD4A", r"\""]
    for _ in range(3000):
        data = ('"' + "".join(chance.choices(parts, k=chance.randrange(12))) + '"').encode()
        assert json.loads(mended(data)) == told(data), data


@pytest.mark.parametrize("shift", range(-14, 15))
def test_halves_at_the_border_of_a_window(shift: int) -> None:
    for middle in (rb"\ud83e\udd4a", rb"\ud83e", rb"\udd4a", rb"\ud83e\ud83e\udd4a", rb"\udd4a\ud83e\udd4a\udd4a"):
        data = b'"%b%b%b\\ud83e"' % (b"x" * (WINDOW - 1 + shift), middle, b"y" * 100)
        assert json.loads(mended(data)) == told(data), middle


def test_many_escapes_are_cheap_and_many_halves_are_refused() -> None:
    data = b'{"question": "%b\\ud83e"}' % (rb"\n" * (8 * 1024 * 1024))
    began = time.process_time()
    assert mended(data).endswith(rb'\ufffd"}')
    assert time.process_time() - began < 3.0  # a step in Python for each of them would take five times as long
    whole = b'{"question": "%b"}' % (rb"\ud83e\udd4a" * 100_000)
    assert mended(whole) is whole
    with pytest.raises(Refusal, match="more than 10000 halves"):
        mended(b'"%b"' % (rb"\ud83e " * (MOST + 1)))


GOOD = {"feedback": "LIKE", "conversation_id": ID.upper(), "question_index": 0}


def test_feedback() -> None:
    said = feedback({**GOOD, "api_key": "k", "question": 7, "answer": None})
    assert (said.feedback, said.conversation, said.index, said.api_key) == ("LIKE", ID, 0, "k")
    assert feedback({**GOOD, "feedback": None}).feedback is None
    assert feedback({**GOOD, "conversation_id": "x"}).conversation == ""


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"conversation_id": None}, "Missing required fields: conversation_id"),
        ({"conversation_id": "None"}, "Missing required fields: conversation_id"),
        ({"question_index": None}, "Missing required fields: question_index"),
        ({"conversation_id": "", "question_index": None}, "Missing required fields: conversation_id, question_index"),
        ({"feedback": "like"}, "feedback must be LIKE, DISLIKE or null"),
        ({"feedback": []}, "feedback must be LIKE, DISLIKE or null"),
        ({"feedback": False}, "feedback must be LIKE, DISLIKE or null"),
        ({"conversation_id": 7}, "conversation_id must be a string"),
        ({"question_index": "0"}, "question_index must be an integer from 0 on"),
        ({"question_index": -1}, "question_index must be an integer from 0 on"),
        ({"api_key": 7}, "api_key must be a string"),
    ],
)
def test_feedback_that_is_refused(changed: Any, message: str) -> None:
    with pytest.raises(FieldRefusal) as refused:
        feedback({**GOOD, **changed})
    assert error(refused.value)[1]["message"] == message


def test_feedback_that_lacks_all() -> None:
    with pytest.raises(FieldRefusal) as refused:
        feedback({})
    assert "feedback, conversation_id, question_index" in refused.value.detail
