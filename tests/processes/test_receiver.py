"""The receiving half of the pipe protocol, whatever way its bytes are cut."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.processes.receiver import Receiver
from worker.frames import Bad, encode

RESET = encode({"t": "reset", "v": 1, "epoch": 1, "last": 0})


def received(receiver: Receiver, *pieces: bytes) -> list[Any]:
    return [frame for piece in pieces for frame in receiver.feed(piece)]


def numbers(frames: list[Any]) -> list[int]:
    return [frame["n"] for frame in frames]


def frame(number: Any, kind: str = "event") -> bytes:
    return encode({"t": kind, "n": number})


def cuts(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@given(st.lists(st.text(max_size=30), max_size=20), st.lists(st.integers(0, 10_000), max_size=30))
def test_frames_come_once_and_in_order_however_they_are_cut(texts: list[str], places: list[int]) -> None:
    frames = [
        {"t": "event", "n": n, "text": text}
        for n, text in enumerate((t.encode("utf-8", "replace").decode() for t in texts), 1)
    ]
    data = b"\n" + RESET + b"".join(map(encode, frames))
    receiver = Receiver(epoch=1)
    assert received(receiver, *cuts(data, places)) == frames
    assert receiver.last == len(frames)


@given(st.lists(st.integers(1, 12), max_size=40), st.lists(st.integers(0, 10_000), max_size=10))
def test_what_comes_is_strictly_rising_and_every_hole_is_told(order: list[int], places: list[int]) -> None:
    data = RESET + b"".join(map(frame, order))
    receiver = Receiver(epoch=1)
    last = 0
    for got in received(receiver, *cuts(data, places)):
        if got["t"] == "gap":
            assert got["lost"] == got["n"] - last
            assert got["lost"] > 0
        else:
            assert got["n"] == last + 1
        last = got["n"]
    assert last == receiver.last == max(order, default=0)


@given(st.binary(max_size=300), st.lists(st.integers(0, 400), max_size=5))
def test_no_bytes_break_it(noise: bytes, places: list[int]) -> None:
    receiver = Receiver(epoch=1)
    got = received(receiver, *cuts(RESET + noise + b"\n" + RESET + frame(1), places))
    assert got[-1] == {"t": "event", "n": 1} or receiver.last >= 1
    assert all(isinstance(one, Bad) or one["n"] >= 1 for one in got)


def test_what_an_earlier_reader_left_is_skipped() -> None:
    receiver = Receiver(epoch=2, last=5)
    old = b'lf of a frame"}\n' + frame(4) + frame(6) + encode({"t": "reset", "v": 1, "epoch": 1, "last": 0}) + frame(1)
    assert received(receiver, old) == []
    new = b'{"half\n' + encode({"t": "reset", "v": 1, "epoch": 2, "last": 5}) + frame(6)
    assert numbers(received(receiver, new)) == [6]


def test_a_stale_reset_does_not_put_it_out_of_step() -> None:
    receiver = Receiver(epoch=1)
    stale = encode({"t": "reset", "v": 1, "epoch": 7, "last": 0})
    assert numbers(received(receiver, RESET + frame(1) + stale + frame(2))) == [1, 2]


def test_repetitions_are_skipped_and_gaps_are_told() -> None:
    receiver = Receiver(epoch=1, last=3)
    got = received(receiver, RESET + frame(2) + frame(3) + frame(4) + frame(7) + frame(7) + frame(5))
    assert got == [{"t": "event", "n": 4}, {"t": "gap", "n": 6, "lost": 2}, {"t": "event", "n": 7}]


def test_a_frame_without_a_number_is_bad() -> None:
    receiver = Receiver(epoch=1)
    lines = RESET + b"".join(encode({"t": "event", "n": number}) for number in (True, "1", None, 1.0))
    assert [type(one) for one in received(receiver, lines + encode({"t": "event"}))] == [Bad] * 5
    assert receiver.last == 0


def test_bad_lines_are_told_only_in_step() -> None:
    receiver = Receiver(epoch=1)
    assert received(receiver, b"no frame\n") == []
    assert [type(one) for one in received(receiver, RESET + b"no frame\n")] == [Bad]


def test_a_gap_is_told_by_the_reader_only() -> None:
    receiver = Receiver(epoch=1)
    data = encode({"t": "reset", "v": 1, "epoch": 1, "last": 0}) + encode({"t": "gap", "n": 1, "lost": 10**30 % 7})
    found = list(receiver.feed(data + encode({"t": "event", "n": 1})))
    assert [type(frame) is Bad for frame in found] == [True, False]
    assert receiver.last == 1


# ---------------------------------------------------------------------- a worker that an earlier supervisor had


def adopting(**options: Any) -> Receiver:
    return Receiver(7, adopting=True, **options)


def test_what_is_adopted_begins_where_the_worker_can() -> None:
    receiver = adopting()
    reset = encode({"t": "reset", "v": 2, "epoch": 7, "last": 40, "upto": 42})
    found = received(receiver, b'half a frame"}\n' + frame(12) + b"\n" + reset + frame(41) + frame(42))
    assert found[0] == {"t": "reset", "v": 2, "epoch": 7, "last": 40, "upto": 42}
    assert numbers(found[1:]) == [41, 42]
    assert receiver.version == 2


def test_version_1_tells_no_number_to_catch_up_with() -> None:
    receiver = adopting()
    reset = encode({"t": "reset", "v": 1, "epoch": 7, "last": 3})
    assert received(receiver, reset + frame(4))[0]["upto"] == 3
    assert receiver.version == 1


def test_a_skip_stands_for_all_numbers_up_to_its_own() -> None:
    receiver = adopting()
    reset = encode({"t": "reset", "v": 2, "epoch": 7, "last": 0, "upto": 9})
    found = received(receiver, reset + frame(5, "skip") + frame(6) + frame(9, "skip") + frame(11))
    assert [(one["t"], one["n"]) for one in found[1:]] == [
        ("skip", 5), ("event", 6), ("skip", 9), ("gap", 10), ("event", 11),
    ]  # fmt: skip


@pytest.mark.parametrize("last", [None, "x", -3, True, 1.5])
def test_a_reset_that_says_nonsense_does_no_harm(last: Any) -> None:
    receiver = adopting()
    reset = encode({"t": "reset", "v": "x", "epoch": 7, "last": last, "upto": "y"})
    assert received(receiver, reset + frame(1))[0] == {"t": "reset", "v": "x", "epoch": 7, "last": 0, "upto": 0}


def test_of_one_that_has_ended_everything_whole_is_taken() -> None:
    receiver = adopting(ended=True)
    found = received(receiver, b'alf": 1}\n' + frame(17) + frame(18) + frame(20))
    assert [(one["t"], one["n"]) for one in found] == [("event", 17), ("event", 18), ("gap", 19), ("event", 20)]
