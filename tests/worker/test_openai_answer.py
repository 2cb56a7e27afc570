"""Answers put together from their chunks, and what becomes of those that fail."""

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from worker.addons import openai_answer
from worker.addons.openai_answer import Answer, Call, counts
from worker.addons.openai_errors import (
    HIDDEN,
    AnswerInvalidError,
    ContentFilteredError,
    Fault,
    ModelError,
    ModelRefusedError,
    ModelUnavailableError,
    Scrubber,
    StreamBrokenError,
    error_of,
    pause,
    seconds_of,
    told,
)
from worker.addons.openai_tools import MAX_OUTPUT, ArgumentsError, arguments_of, shown
from worker.agent import Text, Thought


def chunk(finish: Any = None, index: Any = 0, **delta: Any) -> Any:
    return {"choices": [{"index": index, "delta": delta, "finish_reason": finish}]}


def piece(index: Any = 0, number: Any = None, name: Any = None, arguments: Any = None) -> Any:
    return {"index": index, "id": number, "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize(
    ("chunks", "pieces"),
    [
        ([chunk(role="assistant", content="")], []),
        ([chunk(content="a"), chunk(content="ü")], [Text("a"), Text("ü")]),
        ([chunk(reasoning_content="hm"), chunk(content="a")], [Thought("hm"), Text("a")]),
        ([chunk(reasoning="hm", reasoning_content=None)], [Thought("hm")]),
        ([chunk(reasoning="hm", reasoning_content="hm", content="a")], [Thought("hm"), Text("a")]),
        ([chunk(refusal="I will not")], [Text("I will not")]),
        ([{"choices": []}, {"choices": None}, {}], []),
        ([{"choices": [{"index": 0, "delta": None}]}, {"choices": [{}]}], []),
        ([chunk(index=1, content="another choice"), chunk(index=None, content="a")], [Text("a")]),
    ],
)
def test_chunks_become_texts_and_thoughts(chunks: Any, pieces: Any) -> None:
    answer = Answer()
    assert [piece for each in chunks for piece in answer.add(each)] == pieces
    assert answer.begun is bool(pieces)
    assert answer.text == "".join(p.text for p in pieces if isinstance(p, Text))


@pytest.mark.parametrize(
    ("pieces", "calls"),
    [
        (
            [[piece(0, "c0", "f", "")], [piece(0, arguments='{"a"')], [piece(0, arguments=":1}")]],
            [("c0", "f", '{"a":1}')],
        ),
        (
            [[piece(0, "c0", "f"), piece(1, "c1", "g")], [piece(1, arguments="[]")], [piece(0, arguments="{}")]],
            [("c0", "f", "{}"), ("c1", "g", "[]")],
        ),
        (
            [[piece(0, "c0", "f", "{}"), piece(0, "c1", "g", "{}")]],
            [("c0", "f", "{}"), ("c1", "g", "{}")],
        ),  # all of index 0
        ([[piece(None, "c0", "f", "{}"), piece(None, "c1", "g", "{}")]], [("c0", "f", "{}"), ("c1", "g", "{}")]),
        ([[piece(0, "c0", "f")], [piece(0, "c0", "f", "{}")]], [("c0", "f", "{}")]),  # id and name in each
        ([[piece(0, None, "f")], [piece(1, "", "g")]], [("p_0", "f", "{}"), ("p_1", "g", "{}")]),  # without ids
        ([[piece(0, "c0", "f", None)]], [("c0", "f", "{}")]),
    ],
)
def test_calls_are_put_together(pieces: Any, calls: Any) -> None:
    answer = Answer("p")
    for each in pieces:
        assert answer.add(chunk(tool_calls=each)) == []
    answer.add(chunk("tool_calls"))
    answer.complete()
    assert [(call.id, call.name, call.arguments) for call in answer.calls] == calls
    message = answer.as_message()
    assert message["content"] is None
    assert [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in message["tool_calls"]] == calls


def test_an_answer_knows_model_usage_and_end() -> None:
    answer = Answer()
    answer.add({"model": "m", "usage": None, **chunk(content="a")})
    answer.add({"model": "m-1", **chunk("length")})
    answer.add({"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}})
    answer.complete()
    assert (answer.model, answer.finish, answer.cut) == ("m-1", "length", True)
    assert answer.usage == {"input_tokens": 2, "output_tokens": 3, "total_tokens": 5}
    assert answer.as_message() == {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 1}, {"input_tokens": 1, "output_tokens": 0, "total_tokens": 1}),
        (
            {"prompt_tokens": 1, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 0}},
            {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3, "cached_tokens": 0},
        ),
        (
            {"completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 1}, "total_tokens": 9},
            {"input_tokens": 0, "output_tokens": 2, "total_tokens": 9, "reasoning_tokens": 1},
        ),
        (
            {"prompt_tokens": 1, "prompt_tokens_details": None},
            {"input_tokens": 1, "output_tokens": 0, "total_tokens": 1},
        ),
    ],
)
def test_counts(usage: Any, expected: Any) -> None:
    assert counts(usage) == expected


@pytest.mark.parametrize(
    "bad",
    [
        5,
        "text",
        ["list"],
        None,
        {"choices": 5},
        {"choices": ["x"]},
        {"choices": [{"delta": "x"}]},
        chunk(content=5),
        chunk(content={"text": "x"}),
        chunk(tool_calls=5),
        chunk(tool_calls=["x"]),
        chunk(tool_calls=[piece("x")]),
        chunk(tool_calls=[piece(arguments={})] * 2, content=["x"]),
        chunk(tool_calls=[piece(arguments=5)]),
        {"usage": "many"},
        {"usage": {"prompt_tokens": "x"}},
    ],
)
def test_a_chunk_that_is_none_is_shown(bad: Any) -> None:
    with pytest.raises(AnswerInvalidError, match="a chunk that is none"):
        Answer().add(bad)


@pytest.mark.parametrize(
    ("chunks", "error", "said"),
    [
        ([chunk(content="a")], StreamBrokenError, "without saying that it is complete"),
        ([chunk("content_filter", content="a")], ContentFilteredError, "content filter"),
        ([chunk("length", tool_calls=[piece(0, "c", "f", "{")])], AnswerInvalidError, "cut off in a tool call"),
        ([chunk("tool_calls", tool_calls=[piece(0, "c", None, "{}")])], AnswerInvalidError, "without the name"),
    ],
)
def test_answers_that_may_not_be_used(chunks: Any, error: type[ModelError], said: str) -> None:
    answer = Answer()
    for each in chunks:
        answer.add(each)
    with pytest.raises(error, match=said):
        answer.complete()


def test_answers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_answer, "MAX_CHARACTERS", 10)
    monkeypatch.setattr(openai_answer, "MAX_ARGUMENTS", 10)
    answer = Answer()
    answer.add(chunk(content="x" * 6, reasoning="x" * 4))
    with pytest.raises(AnswerInvalidError, match="more than 10 characters"):
        answer.add(chunk(content="x"))
    answer.add(chunk(tool_calls=[piece(0, "c", "f", "x" * 6), piece(1, "d", "g", "x" * 4)]))
    with pytest.raises(AnswerInvalidError, match="more than 10 characters of arguments"):
        answer.add(chunk(tool_calls=[piece(0, arguments="x")]))
    with pytest.raises(AnswerInvalidError, match="more than 64 tool calls"):
        Answer().add(chunk(tool_calls=[piece(n, f"x{n}", "f") for n in range(65)]))


# ---------------------------------------------------------------------- calls


@pytest.mark.parametrize(("text", "arguments"), [("", {}), ('{"a": [1]}', {"a": [1]}), ('{"a":"ü"}', {"a": "ü"})])
def test_arguments(text: str, arguments: Any) -> None:
    assert arguments_of(Call("c", "f", [text])) == arguments


@pytest.mark.parametrize("text", ["{", "[]", "5", "null", '"x"', "{'a': 1}", '{"a": NaN}'])
def test_arguments_that_are_no_object(text: str) -> None:
    with pytest.raises(ArgumentsError, match="the arguments are"):
        arguments_of(Call("c", "f", [text]))


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("as it is", "as it is"),
        ({"ü": [1, None]}, '{"ü": [1, null]}'),
        (None, "null"),
        (datetime(2024, 1, 2, tzinfo=UTC), '"2024-01-02 00:00:00+00:00"'),
    ],
)
def test_results_for_the_model(output: Any, text: str) -> None:
    assert shown(output) == text


def test_a_long_result_is_cut() -> None:
    text = shown("x" * (MAX_OUTPUT + 1))
    assert text.endswith(f"x\n[cut here: {MAX_OUTPUT} of {MAX_OUTPUT + 1} characters]")


# ---------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("fault", "passing"),
    [
        ({}, True),
        ({"status": 400}, False),
        ({"status": 401}, False),
        ({"status": 404}, False),
        ({"status": 408}, True),
        ({"status": 409}, True),
        ({"status": 422}, False),
        ({"status": 429}, True),
        ({"status": 429, "code": "insufficient_quota"}, False),
        ({"status": 500}, True),
        ({"status": 503}, True),
        ({"status": 503, "final": True}, False),
    ],
)
def test_which_faults_pass(fault: Any, passing: bool) -> None:
    assert Fault(text="", **fault).passing is passing


NOW = datetime(2024, 5, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "3"}, 0.25),
        ({"retry-after": "Wed, 01 May 2024 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Wed, 01 May 2024 11:00:00 GMT"}, 0.0),
        ({"retry-after": "Wed, 01 May 2024 12:00:10 -0000"}, 10.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": ""}, None),
    ],
)
def test_when_to_come_back(headers: Any, seconds: Any) -> None:
    assert seconds_of(headers, NOW) == seconds


def test_pauses_grow_and_are_spread() -> None:
    assert [pause(n, None, 0) for n in range(6)] == [0.5, 1, 2, 4, 8, 8]
    assert pause(2, None, 1) == 1.5
    assert pause(5, 0.25, 1) == 0.25


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"error": {"message": "m", "code": "c"}}, "m"),
        ({"message": "m"}, "m"),  # the library has taken off the outer object
        ({"error": "m"}, "m"),
        ({"detail": "m"}, "m"),
        ({"detail": [{"loc": ["x"]}]}, "{'detail': [{'loc': ['x']}]}"),
        ("text", "text"),
        (None, ""),
    ],
)
def test_what_a_body_says(body: Any, text: str) -> None:
    assert told(body) == text


@pytest.mark.parametrize(
    ("fault", "tries", "error", "text"),
    [
        ({"text": "ConnectError: no"}, 1, ModelUnavailableError, "no answer from the model server P: ConnectError: no"),
        ({"text": "x"}, 3, ModelUnavailableError, "no answer from the model server P (tried 3 times): x"),
        ({"status": 404, "text": "x"}, 1, ModelRefusedError, "the model server P answered 404: x"),
        ({"status": 400, "code": "c", "text": ""}, 1, ModelRefusedError, "P answered 400 (c): without a word"),
        ({"status": 401, "text": "x"}, 1, ModelRefusedError, "api_key, or the variable OPENAI_API_KEY"),
        ({"status": 500, "text": "x"}, 2, ModelUnavailableError, "P answered 500 (tried 2 times): x"),
        ({"status": 429, "text": "x", "retry_after": 90.0}, 1, ModelUnavailableError, "it asks to wait 90 s"),
        ({"status": 429, "text": "x", "code": "insufficient_quota"}, 1, ModelUnavailableError, "insufficient_quota"),
    ],
)
def test_errors_say_what_happened(fault: Any, tries: int, error: type[ModelError], text: str) -> None:
    made = error_of(Fault(**fault), "P", tries)
    assert type(made) is error
    assert text in str(made)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("bad key sk-proj-1234/5678.", f"bad key {HIDDEN}."),
        ("quoted sk-proj-1234%2F5678", f"quoted {HIDDEN}"),
        ("masked sk-proj********5678 here", f"masked {HIDDEN} here"),
        ('masked "sk-***"', f'masked "{HIDDEN}"'),
        ("password hunter2!", f"password {HIDDEN}"),
        ("short abc and **bold**", "short abc and **bold**"),
        ("x" * 1001, "x" * 1000 + "..."),
        ("x" * 990 + "sk-proj-1234/5678", "x" * 990 + HIDDEN),
        ("sk-proj-1234/5678 " * 10_000, (HIDDEN + " ") * 111 + HIDDEN[:1] + "..."),
        ("a***b'c***d\"e f****", f"{HIDDEN}'{HIDDEN}\"e {HIDDEN}"),
    ],
)
def test_secrets_are_scrubbed(text: str, clean: str) -> None:
    assert Scrubber(["sk-proj-1234/5678", "hunter2!", "abc", ""])(text) == clean


@pytest.mark.parametrize("text", ["x" * 10**7, "*" * 10**7, "x*" * 10**6, "x**" * 10**6, ("sk-proj-1234/567 " * 10**6)])
def test_a_long_text_is_scrubbed_at_once(text: str) -> None:
    began = time.process_time()
    Scrubber(["sk-proj-1234/5678"])(text)
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize("shift", range(0, 200, 9))
def test_no_beginning_of_a_secret_is_left_where_a_text_is_cut(shift: int) -> None:
    secret = "sk-proj-" + "1" * 192
    clean = Scrubber([secret])("y" * shift + secret * 200)
    assert len(clean) < 1000
    assert "sk-p" not in clean
