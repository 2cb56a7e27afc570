"""The pure core of the worker's end of the pipes, alone and against a model of a reader."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.frames import MAX_FRAME, Bad, FrameError, Splitter
from worker.outbox import CHUNK, FIRST_FRAMES, MAX_FRAMES, PAST_BYTES, PAST_FRAMES, TURN_PAST_FRAMES, Outbox


def lines(data: Any) -> Any:
    return [json.loads(line) for line in bytes(data).split(b"\n") if line]


def take(outbox: Any) -> Any:
    """Everything there is to write, written."""
    data = b""
    while chunk := outbox.pending():
        data += bytes(chunk)
        outbox.wrote(len(chunk))
    return data


def filled(*texts: Any, resumed: Any = True) -> Any:
    outbox = Outbox()
    if resumed:
        outbox.resume(1, 0)
    for text in texts:
        outbox.push({"t": "event", "x": text})
    return outbox


def test_nothing_is_written_before_the_first_resume() -> None:
    outbox = filled("a", "b", resumed=False)
    assert take(outbox) == b""
    assert not outbox.written
    assert outbox.resume(1, 0)
    data = take(outbox)
    assert data.startswith(b"\n")
    assert lines(data) == [
        {"t": "reset", "v": 1, "epoch": 1, "last": 0},
        {"t": "event", "x": "a", "n": 1},
        {"t": "event", "x": "b", "n": 2},
    ]
    assert outbox.written


@pytest.mark.parametrize(
    ("acks", "acked"),
    [([2], 2), ([1, 1, 2], 2), ([2, 1], 2), ([0], 0), ([3], 3), ([99], 3), ([1, 99], 3)],
)
def test_acknowledgements(acks: Any, acked: Any) -> None:
    outbox = filled("a", "b", "c")
    take(outbox)
    for number in acks:
        outbox.ack(number)
    assert outbox.acked == acked


def test_the_window_grows_with_each_acknowledgement_up_to_its_bound() -> None:
    outbox = filled()
    rooms = []
    for _ in range(MAX_FRAMES // FIRST_FRAMES + 3):
        while not outbox.full:
            outbox.push({"t": "event"})
        rooms.append(outbox.last - outbox.acked)
        take(outbox)
        outbox.ack(outbox.last)
        outbox.ack(outbox.last)  # one that tells nothing new counts for nothing
    assert rooms == [*range(FIRST_FRAMES, MAX_FRAMES + 1, FIRST_FRAMES), *[MAX_FRAMES] * 3]
    outbox.start_slowly()
    while not outbox.full:
        outbox.push({"t": "event"})
    assert outbox.last - outbox.acked == FIRST_FRAMES


def test_what_was_never_written_cannot_be_acknowledged() -> None:
    outbox = filled("a")
    outbox.ack(1)
    assert outbox.acked == 0
    assert [frame["t"] for frame in lines(take(outbox))] == ["reset", "event"]


@pytest.mark.parametrize(
    ("acked", "last", "reset", "numbers"),
    [
        (0, 0, 0, [1, 2, 3]),
        (0, 2, 2, [3]),
        (0, 3, 3, []),
        (1, 1, 1, [2, 3]),
        (1, 2, 2, [3]),
        (2, 0, 2, [3]),  # 1 and 2 were acknowledged and are gone: the reset says so
        (0, 7, 3, []),  # 4 to 7 never were: the reset says so
    ],
)
def test_a_resume_repeats_what_the_reader_lacks(acked: Any, last: Any, reset: Any, numbers: Any) -> None:
    outbox = filled("a", "b", "c")
    take(outbox)
    outbox.ack(acked)
    assert outbox.resume(2, last)
    first, *rest = lines(take(outbox))
    assert first == {"t": "reset", "v": 1, "epoch": 2, "last": reset}
    assert [frame["n"] for frame in rest] == numbers


@pytest.mark.parametrize("cut", range(40))
def test_a_half_written_line_ends_before_the_reset(cut: Any) -> None:
    outbox = filled("aaaa")
    torn = bytes(outbox.pending())[:cut]
    outbox.wrote(cut)
    outbox.resume(2, 0)
    assert bytes(outbox.pending()).startswith(b"\n{")  # the other half is thrown away
    frames = [f for f in Splitter().feed(torn + take(outbox)) if not isinstance(f, Bad)]
    reset = next(i for i, f in enumerate(frames) if f["t"] == "reset" and f["epoch"] == 2)
    assert [f["n"] for f in frames[reset + 1 :]] == [1]


@pytest.mark.parametrize("epoch", [0, 1, 2, 3])
def test_an_epoch_that_is_not_newer_is_stale(epoch: Any) -> None:
    outbox = filled("a")
    outbox.resume(3, 0)
    before = bytes(outbox.pending())
    assert not outbox.resume(epoch, 0)
    assert bytes(outbox.pending()) == before


def test_the_window_counts_frames_and_bytes() -> None:
    by_frames, by_bytes = Outbox(max_frames=2), Outbox(max_bytes=100)
    for outbox in (by_frames, by_bytes):
        outbox.resume(1, 0)
        assert not outbox.full
    by_frames.push({"t": "a"})
    assert not by_frames.full
    by_frames.push({"t": "a"})
    assert by_frames.full
    by_bytes.push({"t": "a", "x": "y" * 100})
    assert by_bytes.full
    for outbox in (by_frames, by_bytes):
        take(outbox)
        outbox.ack(1)
        assert not outbox.full
    assert by_frames.push({"t": "bye"}) == 3  # an ending finds a place in a full window, too
    assert by_frames.push({"t": "bye"}) == 4
    assert by_frames.full


@pytest.mark.parametrize("frame", [{"t": "a", "x": "y" * MAX_FRAME}, {"t": "a", "x": "\ud800"}, {"t": "a", "x": {1}}])
def test_what_cannot_be_a_frame_uses_up_no_number(frame: Any) -> None:
    outbox = filled("a")
    with pytest.raises(FrameError):
        outbox.push(frame)
    assert outbox.push({"t": "b"}) == 2


def test_a_burst_leaves_in_chunks() -> None:
    outbox = filled(*("x" * 1000 for _ in range(200)))
    outbox.wrote(len(outbox.pending()))  # the reset
    sizes = []
    while chunk := outbox.pending():
        sizes.append(len(chunk))
        outbox.wrote(len(chunk))
    assert len(sizes) == 4
    assert all(size < CHUNK + 1100 for size in sizes)


class Reader:
    """A model of the supervisor: knows what is durable, may die and come again in a new epoch."""

    def __init__(self) -> None:
        self.epoch, self.got = 0, []
        self.attach()

    def attach(self) -> None:
        self.epoch += 1
        self.splitter, self.synchronised = Splitter(), False

    def feed(self, data: Any) -> None:
        for frame in self.splitter.feed(data):
            if isinstance(frame, Bad):
                assert not self.synchronised, frame
            elif frame["t"] == "reset":
                self.synchronised = self.synchronised or frame["epoch"] == self.epoch
                if frame["epoch"] == self.epoch:
                    assert frame["last"] == len(self.got)
            elif self.synchronised:
                assert frame["n"] == len(self.got) + 1
                self.got.append(frame["x"])


STEPS = st.one_of(
    st.tuples(st.just("push"), st.text(max_size=30)),
    st.tuples(st.just("push"), st.integers(0, 9).map(lambda n: "{\\n}" * n)),
    st.tuples(st.just("write"), st.integers(1, 120)),
    st.tuples(st.just("read"), st.integers(1, 120)),
    st.tuples(st.just("ack"), st.integers(0, 3)),  # so many of the frames that are due are left out
    st.tuples(st.just("ack_lost"), st.just(0)),
    st.tuples(st.just("die"), st.integers(0, 60)),  # so many bytes it had read go down with it
)


@settings(max_examples=400, deadline=None)
@given(st.lists(STEPS, max_size=120))
def test_every_frame_comes_once_and_in_order(steps: Any) -> None:
    outbox, reader, wire, sent = Outbox(), Reader(), b"", []
    outbox.resume(reader.epoch, 0)
    for step, value in steps:
        if step == "push":
            sent.append(value)
            outbox.push({"t": "event", "x": value})
        elif step == "write":
            part = bytes(outbox.pending()[:value])
            outbox.wrote(len(part))
            wire += part
        elif step == "read":
            part, wire = wire[:value], wire[value:]
            reader.feed(part)
        elif step == "ack":
            outbox.ack(max(0, len(reader.got) - value))
        elif step == "die":
            wire = wire[value:]
            reader.attach()
            assert outbox.resume(reader.epoch, len(reader.got))
        assert outbox.last - outbox.acked <= len(sent)
    reader.feed(wire + take(outbox))
    assert reader.got == sent


# ---------------------------------------------------------------------- what was acknowledged is kept for a while


def resumed(outbox: Any, epoch: int, last: int) -> Any:
    """What a new supervisor gets that has frames up to `last`."""
    assert outbox.resume(epoch, last, 2)
    return lines(take(outbox))


def test_a_supervisor_that_knows_nothing_is_told_everything_again() -> None:
    outbox = filled("a", "b", "c", "d")
    take(outbox)
    outbox.ack(3)
    again = resumed(outbox, 2, 0)
    assert again[0] == {"t": "reset", "v": 2, "epoch": 2, "last": 0, "upto": 4}
    assert [frame["n"] for frame in again[1:]] == [1, 2, 3, 4]
    assert (outbox.acked, outbox.last) == (0, 4)
    outbox.ack(4)
    assert [frame["n"] for frame in resumed(outbox, 3, 2)[1:]] == [3, 4]


def test_version_1_is_told_only_what_was_not_acknowledged() -> None:
    outbox = filled("a", "b", "c")
    take(outbox)
    outbox.ack(2)
    outbox.resume(2, 0, 1)
    assert lines(take(outbox)) == [
        {"t": "reset", "v": 1, "epoch": 2, "last": 2},
        {"t": "event", "x": "c", "n": 3},
    ]


def test_beats_that_were_acknowledged_become_one_frame() -> None:
    outbox = filled()
    for _ in range(1000):
        outbox.push({"t": "beat", "lag_ms": 0.1})
    outbox.push({"t": "event", "x": "a"})
    for _ in range(3):
        outbox.push({"t": "beat", "lag_ms": 0.1})
    take(outbox)
    outbox.ack(outbox.last)
    assert resumed(outbox, 2, 0)[1:] == [
        {"t": "skip", "n": 1000},
        {"t": "event", "x": "a", "n": 1001},
        {"t": "skip", "n": 1004},
    ]


@pytest.mark.parametrize(("count", "size", "first"), [(PAST_FRAMES + 10, 1, 11), (64, PAST_BYTES // 16, 50)])
def test_what_is_kept_is_bounded_and_the_reset_says_from_where_on(count: int, size: int, first: int) -> None:
    outbox = Outbox()
    outbox.resume(1, 0)
    for _ in range(count):
        outbox.push({"t": "event", "x": "x" * size})
        take(outbox)
        outbox.ack(outbox.last)
    again = resumed(outbox, 2, 0)
    assert again[0]["last"] + 1 == again[1]["n"] == first
    assert again[0]["upto"] == again[-1]["n"] == count


def test_a_turn_has_room_for_all_of_it() -> None:
    outbox = filled(*"x" * (TURN_PAST_FRAMES + 5))
    take(outbox)
    outbox.ack(outbox.last)
    outbox.begin_turn()
    assert resumed(outbox, 2, 0)[0]["last"] == 5


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("push"), st.sampled_from(["event", "beat"])),
            st.tuples(st.just("ack"), st.integers(0, 60)),
            st.tuples(st.just("write"), st.integers(1, 200)),
            st.tuples(st.just("resume"), st.integers(0, 60)),
        ),
        max_size=80,
    )
)
def test_a_reader_never_misses_nor_repeats_a_number(steps: list[tuple[str, Any]]) -> None:
    """Whatever happens in between, who resumes at a number gets every one after it that is no beat, in order."""
    outbox = Outbox()
    outbox.resume(1, 0, 2)
    epoch, events = 1, set()
    for verb, value in steps:
        if verb == "push":
            number = outbox.push({"t": value})
            if value == "event":
                events.add(number)
        elif verb == "ack":
            outbox.ack(value)
        elif verb == "write":
            outbox.wrote(len(outbox.pending()[:value]))
        else:
            epoch += 1
            outbox.resume(epoch, value, 2)
    found = resumed(outbox, epoch + 1, 0)
    assert found[0]["last"] == 0
    told = [frame["n"] for frame in found[1:]]
    assert told == sorted(set(told))
    assert {frame["n"] for frame in found[1:] if frame["t"] == "event"} == events
    assert max(told, default=0) == outbox.last == found[0]["upto"]
