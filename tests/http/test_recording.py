"""Events kept for readers that come later: which are there, which are not any more, who waits."""

import asyncio

from supervisor.http.recording import MOST_BYTES, MOST_EVENTS, Recording


def numbered(first: int, count: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, first + count)]


def test_events_are_read_from_any_number() -> None:
    recording = Recording()
    recording.add(numbered(0, 5))
    recording.add(numbered(5, 2))
    assert [recording.read(number) for number in (0, 3, 6, 7, 99)] == [
        numbered(0, 7),
        numbered(3, 4),
        numbered(6, 1),
        [],
        [],
    ]
    assert (recording.first, recording.next) == (0, 7)


def test_too_many_events_are_dropped_at_the_beginning() -> None:
    recording = Recording()
    recording.add(numbered(0, MOST_EVENTS + 3))
    assert (recording.first, recording.next) == (3, MOST_EVENTS + 3)
    assert recording.read(2) is None
    assert recording.read(3) == numbered(3, MOST_EVENTS)


def test_too_large_events_are_dropped_at_the_beginning() -> None:
    recording = Recording()
    recording.add([b"x" * (MOST_BYTES // 2)] * 3)
    assert (recording.first, recording.next) == (2, 3)
    recording.add([b"y" * 2 * MOST_BYTES])
    assert (recording.first, recording.next, recording.size) == (4, 4, 0)
    assert recording.read(3) is None
    assert recording.read(4) == []


async def test_a_reader_waits_for_the_next_event() -> None:
    recording = Recording()
    waiting = asyncio.create_task(recording.wait(1))
    recording.add(numbered(0, 1))
    await recording.wait(0)
    await asyncio.sleep(0)
    recording.add(numbered(1, 1))
    await waiting
    assert recording.read(1) == [b"1"]


async def test_a_reader_waits_for_the_end() -> None:
    recording = Recording()
    waiting = [asyncio.create_task(recording.wait(0)) for _ in range(3)]
    await asyncio.sleep(0)
    recording.close()
    await asyncio.gather(*waiting)
    await recording.wait(99)
    assert recording.closed


async def test_a_reader_that_goes_is_forgotten() -> None:
    recording = Recording()
    waiting = asyncio.create_task(recording.wait(0))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    recording.add([b"0"])
    assert recording.read(0) == [b"0"]
