"""The parser of server-sent events: what the standard says, whatever the pieces."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.cli.event_stream import EventParser, EventTooLargeError

STREAMS = [
    (b"", []),
    (b"data: a\n\n", [("message", "a")]),
    (b"data:a\n\ndata:  b\n\n", [("message", "a"), ("message", " b")]),
    (b"event: text\ndata: {}\n\n", [("text", "{}")]),
    (b"data: {}\nevent: text\nid: c:1\nretry: 5\nother: x\n\n", [("text", "{}")]),
    (b"event: text\ndata: a\r\n\r\ndata: b\r\rdata: c\n\n", [("text", "a"), ("message", "b"), ("message", "c")]),
    (b"data: a\ndata: b\ndata\n\n", [("message", "a\nb\n")]),
    (b"data:\n\n", [("message", "")]),
    (b"event: text\n\ndata: a\n\n", [("message", "a")]),
    (b": keep-alive\n\n:\n\n: x\ndata: a\n\n", [("message", "a")]),
    (b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n", [("message", "a")]),
    (b"data: a", []),
    (b"data: a\n", []),
    (b"data: a\r", []),
    ("data: 日本👋\n\n".encode(), [("message", "日本👋")]),
    (b"data: \xff\n\n", [("message", "\ufffd")]),
    (b"data: a:b: c\n\n", [("message", "a:b: c")]),
    (b"data : a\n\nDATA: b\n\n", []),
]  # fmt: skip


def parse(*pieces: bytes) -> Any:
    parser = EventParser()
    return [tuple(event) for piece in pieces for event in parser.feed(piece)]


@pytest.mark.parametrize(("stream", "events"), STREAMS)
def test_streams(stream: bytes, events: Any) -> None:
    assert parse(stream) == events
    assert parse(*(stream[at : at + 1] for at in range(len(stream)))) == events
    for at in range(len(stream)):
        assert parse(stream[:at], b"", stream[at:]) == events


def test_an_event_is_there_as_soon_as_its_line_ends() -> None:
    parser = EventParser()
    assert parser.feed(b"data: a\r\r") == [("message", "a")]
    assert parser.feed(b"\ndata: b\n") == []
    assert parser.feed(b"\n") == [("message", "b")]


WORDS = st.sampled_from([b"data", b"event", b":", b" ", b"\n", b"\r", b"\r\n", b"\n\n", b"x", b"\xe6\x97\xa5", b"\xff"])


@given(st.lists(WORDS, max_size=60).map(b"".join), st.lists(st.integers(0, 200), max_size=20))
def test_any_cut_gives_the_same(stream: bytes, cuts: list[int]) -> None:
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    assert parse(*(stream[a:b] for a, b in pairwise(places))) == parse(stream)


@given(
    st.lists(st.tuples(st.text("abc", min_size=1), st.text(st.characters(exclude_characters="\r", codec="utf-8")))),
    st.sampled_from(["\n", "\r", "\r\n"]),
    st.integers(1, 9),
)
def test_what_is_written_is_read(events: Any, end: str, size: int) -> None:
    written = "".join(
        f":{end}event: {kind}{end}" + "".join(f"data: {line}{end}" for line in data.split("\n")) + end
        for kind, data in events
    ).encode()
    assert parse(*(written[at : at + size] for at in range(0, len(written), size))) == events


@pytest.mark.parametrize("flood", [b"x" * 50, b"data: " + b"x" * 50, b"event: " + b"x" * 50, b"data: x\n" * 6])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_bounds(flood: bytes, size: int) -> None:
    parser = EventParser(max_bytes=40)
    with pytest.raises(EventTooLargeError, match="more than 40 bytes"):
        for at in range(0, len(flood), size):
            parser.feed(flood[at : at + size])


def test_many_small_events_are_no_large_one() -> None:
    parser = EventParser(max_bytes=40)
    assert len(parser.feed(b": comment\nevent: text\ndata: 123\n\n" * 1000)) == 1000
