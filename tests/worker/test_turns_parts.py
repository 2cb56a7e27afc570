"""The pure parts of turns: text that is cut and mended, events as frames, state, and what a handler is shown."""

import json
import math
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker import agent
from worker.agent import Attachment, Final, ResponseError, Source, Structured, Text, Turn, Usage
from worker.events import TYPES, as_fields
from worker.memory import MOST_BYTES, Memory
from worker.texts import brief, mend, said, split
from worker.turn import RequestError, text_of

ANY = st.text(st.characters(codec=None, exclude_categories=[]))  # lone surrogates too
WHOLE = st.text(st.characters(codec="utf-8"))


@given(WHOLE)
def test_whole_text_is_not_changed(text: str) -> None:
    assert mend(text) == text


@given(WHOLE)
def test_pairs_of_surrogates_become_their_characters(text: str) -> None:
    raw = text.encode("utf-16-le")
    units = "".join(chr(int.from_bytes(raw[i : i + 2], "little")) for i in range(0, len(raw), 2))
    assert mend(units) == text


@given(ANY)
def test_mending_agrees_with_a_look_at_each_character(text: str) -> None:
    found, rest = [], list(text)
    while rest:
        first = rest.pop(0)
        if "\ud800" <= first <= "\udbff" and rest and "\udc00" <= rest[0] <= "\udfff":
            found.append(chr(0x10000 + (ord(first) - 0xD800 << 10) + ord(rest.pop(0)) - 0xDC00))
        else:
            found.append("\ufffd" if "\ud800" <= first <= "\udfff" else first)
    assert mend(text) == "".join(found)


@given(WHOLE, st.integers(8, 200))
def test_pieces_fit_and_make_the_text_again(text: str, most: int) -> None:
    pieces = list(split(text, most))
    assert "".join(pieces) == text
    assert all(len(orjson.dumps(piece)) <= most for piece in pieces)
    assert all(pieces) or text == ""
    if len(orjson.dumps(text)) <= most:
        assert pieces == [text]


@given(ANY)
def test_brief_text_fits_a_frame(text: str) -> None:
    assert len(brief(text * 3)) <= 2000
    orjson.dumps(brief(text))


class Silent(Exception):  # noqa: N818
    def __str__(self) -> str:
        raise ValueError("never")


@pytest.mark.parametrize(
    ("error", "text"),
    [(ValueError("x\ud800"), "x?"), (ValueError(), "ValueError"), (Silent(), "Silent"), (SystemExit(3), "3")],
)
def test_what_an_exception_says(error: Any, text: Any) -> None:
    assert said(error) == text


# ---------------------------------------------------------------------- events


def test_each_event_has_its_fields() -> None:
    assert as_fields(Text("x")) == {"type": "text", "text": "x"}
    assert as_fields(Source("t")) == {"type": "source", "title": "t", "text": "", "source": ""}
    assert as_fields(Structured([1])) == {"type": "structured", "value": [1], "schema": None}
    assert as_fields(Final(None)) == {"type": "final", "value": None}
    used = {"type": "usage", "input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    assert as_fields(Usage()) == used
    assert as_fields(Usage(details={"input_tokens": 9, "x": 1})) == used | {"x": 1}


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (5, "not int: 5"),
        (None, "not NoneType: None"),
        (Text(None), "Text.text is str, not NoneType: None"),  # type: ignore[arg-type]
        (Source("x", source=5), "Source.source is str, not int: 5"),  # type: ignore[arg-type]
        (Source("x", filename=5), "Source.filename is str or None, not int: 5"),  # type: ignore[arg-type]
        (Usage("x"), "Usage.input_tokens is int, not str: 'x'"),  # type: ignore[arg-type]
        (Usage(details=5), "Usage.details is Mapping, not int: 5"),  # type: ignore[arg-type]
        (Structured(1, "x"), "Structured.schema is dict or None, not str: 'x'"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_event_is_named(event: Any, told: Any) -> None:
    with pytest.raises(ResponseError) as caught:
        as_fields(event)
    assert told in str(caught.value)


def test_every_event_is_exported() -> None:
    assert {kind.__name__ for kind in TYPES} <= set(agent.__all__)
    assert all(hasattr(agent, name) for name in agent.__all__)


# ---------------------------------------------------------------------- state


def test_state_is_told_when_it_is_another() -> None:
    memory = Memory()
    assert memory.take({})[1] is None
    mark, state = memory.take({"a": 1})
    assert state == {"a": 1}
    assert memory.take({"a": 1})[1] == {"a": 1}  # not told yet
    memory.told(mark)
    assert memory.take({"a": 1})[1] is None
    memory.restore({"b": 2})
    assert memory.value == {"b": 2}
    assert memory.take({"b": 2})[1] is None


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ([], "the state is an object, not list: []"),
        ({"a": {1}}, "the state cannot be written as JSON: Type is not JSON serializable: set"),
        ({1: 2}, "the state cannot be written as JSON: Dict key must be str"),
        ({"a": "x" * MOST_BYTES}, f"at most {MOST_BYTES} are allowed"),
    ],
)
def test_state_that_cannot_be_kept_falls_back_to_what_was_told(state: Any, told: Any) -> None:
    memory = Memory()
    memory.restore({"a": 1})
    memory.value["a"] = 2
    with pytest.raises(ResponseError, match=told.replace("[]", r"\[\]")):
        memory.take(state)
    assert memory.value == {"a": 1}


# ---------------------------------------------------------------------- what a handler is shown


def turn(**request: Any) -> Turn:
    async def emit(_: Any) -> None:
        pass

    return Turn("t", kind="chat", request=request, emit=emit)


def user(content: Any) -> Any:
    return {"role": "user", "content": content}


@pytest.mark.parametrize(
    ("messages", "question"),
    [
        ([user("a"), user("b")], "b"),
        ([user("a"), {"role": "assistant", "content": "b"}], "a"),
        ([user([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}, "b"])], "a\nb"),
        ([user({"type": "text", "text": "a"})], "a"),
        ([user({"content": "a"})], "a"),
        ([user({"x": 1})], ""),
        ([user(None)], ""),
        ([{"content": "a"}], "a"),
        ([{"role": "system", "content": "a"}], ""),
        ([], ""),
    ],
)
def test_the_question(messages: Any, question: Any) -> None:
    assert turn(messages=messages).question == question


def test_a_whole_request() -> None:
    attachment = {"id": "f1", "name": "x.txt", "mime_type": "text/plain", "path": "/x", "more": 1}
    full = turn(
        messages=[user("b")],
        history=[user("a")],
        input={"x": 1},
        instructions="be kind",
        session="s",
        user="u",
        conversation="c",
        attachments=[attachment, {**attachment, "text": "read"}],
        context={"k": 1},
        options={"temperature": 0},
    )
    assert full.transcript == [user("a"), user("b")]
    assert (full.input, full.instructions, full.session, full.user) == ({"x": 1}, "be kind", "s", "u")
    assert (full.conversation, full.context, full.options) == ("c", {"k": 1}, {"temperature": 0})
    plain = {"id": "f1", "name": "x.txt", "mime_type": "text/plain", "path": "/x"}
    assert full.attachments == (Attachment(**plain), Attachment(**plain, text="read"))


def test_an_empty_request() -> None:
    empty = turn()
    assert (empty.messages, empty.history, empty.attachments, empty.state) == ([], [], (), {})
    assert (empty.context, empty.options, empty.user, empty.session, empty.instructions) == ({}, {}, "", None, None)


@pytest.mark.parametrize("name", ["messages", "history", "attachments", "context", "options"])
def test_wrong_fields_are_named(name: Any) -> None:
    with pytest.raises(RequestError, match=f"the request's '{name}' is .*, not 5"):
        turn(**{name: 5})


@given(st.recursive(st.none() | st.booleans() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)))
def test_any_content_has_a_text(content: Any) -> None:
    assert isinstance(text_of(content), str)


def test_numbers_that_json_has_not() -> None:
    """Documented: orjson writes null for them."""
    assert json.loads(orjson.dumps(as_fields(Structured(math.nan))))["value"] is None
