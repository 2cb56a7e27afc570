"""Events kept for readers that come later: which are there, which are not any more, who waits for whom."""

import asyncio

from supervisor.http.recording import MOST_BYTES, MOST_EVENTS, WINDOW, Recording


def numbered(first: int, count: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, first + count)]


def read(recording: Recording, number: int) -> list[bytes]:
    with recording.reader(number) as reader:
        return recording.read(reader)


def test_events_are_read_from_any_number() -> None:
    recording = Recording()
    recording.add(numbered(0, 5))
    recording.add(numbered(5, 2))
    found = [read(recording, number) for number in (0, 3, 6, 7, 99)]
    assert found == [numbered(0, 7), numbered(3, 4), numbered(6, 1), [], []]
    assert (recording.first, recording.next) == (0, 7)


def test_a_reader_gets_each_event_once() -> None:
    recording = Recording()
    with recording.reader(0) as reader:
        recording.add(numbered(0, 2))
        assert recording.read(reader) == numbered(0, 2)
        assert recording.read(reader) == []
        recording.add(numbered(2, 1))
        assert recording.read(reader) == numbered(2, 1)
        assert reader.number == 3


def test_too_many_events_are_dropped_at_the_beginning() -> None:
    recording = Recording()
    for number in range(MOST_EVENTS + 3):
        recording.add(numbered(number, 1))
    assert (recording.first, recording.next) == (3, MOST_EVENTS + 3)
    assert read(recording, 3) == numbered(3, MOST_EVENTS)


def test_what_was_added_last_stays_however_large() -> None:
    recording = Recording()
    recording.add([b"x" * (MOST_BYTES // 2)] * 3)
    assert recording.first == 0
    recording.add([b"y" * 2 * MOST_BYTES, b"z"])
    assert (recording.first, recording.next) == (3, 5)
    assert [len(event) for event in read(recording, 3)] == [2 * MOST_BYTES, 1]
    recording.add([b"end"])
    assert (recording.first, recording.next) == (4, 6)


def test_what_a_reader_has_not_read_stays() -> None:
    recording = Recording()
    with recording.reader(1) as reader:
        for number in range(MOST_EVENTS + 10):
            recording.add(numbered(number, 1))
        assert recording.first == 1
        assert recording.read(reader) == numbered(1, MOST_EVENTS + 9)
        recording.add([b"next"])
        assert recording.first == 11
    recording.add([b"next"])
    assert recording.first == 12


async def test_readers_far_behind_are_waited_for() -> None:
    recording = Recording()
    with recording.reader(0) as reader:
        recording.add([b"x" * WINDOW])
        assert recording.crowded
        waiting = asyncio.create_task(recording.wait_for_readers(60))
        await asyncio.sleep(0)
        assert not waiting.done()
        recording.read(reader)
        await waiting
        assert not recording.crowded
        await recording.wait_for_readers(60)
        recording.add([b"x" * WINDOW])
        await recording.wait_for_readers(0)  # not for ever
        waiting = asyncio.create_task(recording.wait_for_readers(60))
        await asyncio.sleep(0)
    await waiting  # who has gone is not waited for
    assert not recording.crowded


async def test_a_reader_waits_for_the_next_event() -> None:
    recording = Recording()
    waiting = asyncio.create_task(recording.wait(1))
    recording.add(numbered(0, 1))
    await recording.wait(0)
    await asyncio.sleep(0)
    recording.add(numbered(1, 1))
    await waiting
    assert read(recording, 1) == [b"1"]


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
    assert read(recording, 0) == [b"0"]
