"""message_collector: pieces in, texts and the transcript out."""

from typing import Any

import orjson
import pytest

from tests.harness.agents import Outside, build
from worker.addons.message_collector import (
    MAX_CHARACTERS,
    MAX_SEGMENTS,
    MAX_STREAMS,
    MAX_TRANSCRIPT,
    MessageCollector,
)
from worker.agent import Kind, Message
from worker.frames import encode


def piece(text: Any, stream: Any = 0, **others: Any) -> Any:
    return Message(kind=Kind.DATA, name="text_data", properties={"text": text, "stream_id": stream, **others})


def last(text: Any, stream: Any = 0, **others: Any) -> Any:
    return piece(text, stream, end_of_segment=True, **others)


async def collect(*pieces: Any) -> tuple[Outside, Any]:
    outside = Outside()
    node = MessageCollector(outside.context())
    for message in pieces:
        await node.on_message(message)
    return outside, (await node.context.handlers["transcript"]({}))["transcript"]


@pytest.mark.parametrize(
    ("pieces", "texts"),
    [
        ([piece("a"), piece("b")], ["a", "ab"]),
        ([piece("a", is_final=True), piece("b", is_final=False), piece("c", is_final=False)], ["a", "ab", "ac"]),
        ([piece("a"), last("b"), piece("c")], ["a", "ab", "c"]),
        ([piece("a", 1), piece("b", 2), piece("c", 1)], ["a", "b", "ac"]),
        ([piece("a", role="user"), piece("b", role="assistant"), piece("c", role="user"), piece("d")],
         ["a", "b", "ac", "bd"]),
        ([Message(kind=Kind.DATA, name="other"), Message(kind=Kind.CMD, name="text_data")], []),
    ],
)  # fmt: skip
async def test_pieces_are_gathered(pieces: Any, texts: Any) -> None:
    outside, transcript = await collect(*pieces)
    assert [message.properties["text"] for message in outside.messages] == texts
    assert {(message.kind, message.name) for message in outside.messages} <= {(Kind.DATA, "data")}
    assert len(transcript) == len(outside.frames)


async def test_each_text_that_ends_is_told_and_kept() -> None:
    outside, transcript = await collect(
        last("Who are you?", 0, role="user"),
        piece("I am ", 0, role="assistant"),
        piece("Fri", 0, is_final=False),
        piece("Friday.", 0),
        last("", 0),
        last("", 7),  # nothing was said
        last("Bye", 3, role="user"),
    )
    assert [{key: value for key, value in frame.items() if key != "node"} for frame in outside.frames] == [
        {"t": "signal", "name": "transcript", "role": "user", "text": "Who are you?", "stream_id": 0},
        {"t": "signal", "name": "transcript", "role": "assistant", "text": "I am Friday.", "stream_id": 0},
        {"t": "signal", "name": "transcript", "role": "user", "text": "Bye", "stream_id": 3},
    ]
    assert transcript == [
        {"role": "user", "text": "Who are you?"},
        {"role": "assistant", "text": "I am Friday."},
        {"role": "user", "text": "Bye"},
    ]
    assert [message.properties["end_of_segment"] for message in outside.messages] == [
        True, False, False, False, True, True, True
    ]  # fmt: skip


async def test_a_text_is_bounded_and_so_is_the_number_of_texts() -> None:
    pieces = [piece("x" * MAX_CHARACTERS, stream) for stream in range(MAX_STREAMS + 1)]
    outside, _ = await collect(*pieces, piece("y", 0), piece("y", 5))  # the first is forgotten
    assert outside.messages[-2].properties["text"] == "y"
    assert len(outside.messages[-1].properties["text"]) == MAX_CHARACTERS
    assert outside.messages[-1].properties["text"].endswith("xy")


async def test_the_transcript_is_bounded() -> None:
    _, transcript = await collect(*(last(str(number)) for number in range(MAX_SEGMENTS + 5)))
    assert [entry["text"] for entry in transcript] == [str(number) for number in range(5, MAX_SEGMENTS + 5)]
    _, transcript = await collect(last("a"), *[last("\0" * MAX_CHARACTERS)] * 3, last("b"))
    assert [len(entry["text"]) for entry in transcript] == [MAX_CHARACTERS, 1]
    assert sum(len(entry["text"]) for entry in transcript) <= MAX_TRANSCRIPT


async def test_the_longest_transcript_fits_a_frame() -> None:
    half = "\0" * (MAX_TRANSCRIPT // MAX_SEGMENTS)  # six bytes each in JSON
    outside, transcript = await collect(*[last(half)] * MAX_SEGMENTS, last("\0" * MAX_CHARACTERS))
    assert encode({"t": "reply", "id": 1, "ok": True, "result": {"transcript": transcript}, "n": 2**53})
    assert len(orjson.dumps(outside.frames[-1])) < 2**20


@pytest.mark.parametrize("bad", [piece(5), piece("x", "y"), piece(None), piece("x", None)])
async def test_what_is_no_text_is_refused(bad: Any) -> None:
    with pytest.raises(TypeError, match="text_data needs a string"):
        await build(MessageCollector).on_message(bad)


@pytest.mark.parametrize("role", ["system", "", None, 5, []])
async def test_an_unknown_role_is_refused(role: Any) -> None:
    with pytest.raises(ValueError, match="role of text_data is one of user, assistant, not "):
        await build(MessageCollector).on_message(piece("x", role=role))
