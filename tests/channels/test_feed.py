"""The ring of a stream: places, gaps, bounds, readers that wait."""

import asyncio
import json

import pytest

from supervisor.channels.feed import MAX_BYTES, PARTS, Feed, Gap


def numbers(events: list[bytes]) -> list[int]:
    return [json.loads(event.split(b"data: ")[1])["k"] for event in events]


def filled(count: int, most: int = 1024) -> Feed:
    feed = Feed("c1", most)
    for number in range(1, count + 1):
        feed.publish("text", {"k": number}, number)
    return feed


def test_an_event_is_one_block_of_lines() -> None:
    assert Feed("c-1").publish("text", {"text": "a\n\u2028ü"}, 7) == (
        'id: c-1:7\nevent: text\ndata: {"text":"a\\n\u2028ü"}\n\n'.encode()
    )


@pytest.mark.parametrize(("after", "expected"), [(0, [1, 2, 3]), (1 * PARTS, [2, 3]), (3 * PARTS, []), (9 * PARTS, [])])
def test_a_reader_gets_what_came_after_its_place(after: int, expected: list[int]) -> None:
    gap, events = filled(3).read(after)
    assert (gap, numbers(events)) == (None, expected)


@pytest.mark.parametrize(
    ("after", "gap", "expected"),
    [
        (0, Gap(0, 6 * PARTS), [7, 8, 9, 10]),
        (5 * PARTS, Gap(5 * PARTS, 6 * PARTS), [7, 8, 9, 10]),
        (6 * PARTS, None, [7, 8, 9, 10]),
        (9 * PARTS, None, [10]),
    ],
)
def test_what_was_dropped_is_a_gap(after: int, gap: Gap | None, expected: list[int]) -> None:
    found, events = filled(10, most=4).read(after)
    assert (found, numbers(events)) == (gap, expected)


def test_bytes_are_bounded_too() -> None:
    feed = Feed("c")
    for number in range(1, 30):
        feed.publish("text", {"k": number, "text": "x" * 100_000}, number)
    gap, events = feed.read(0)
    assert gap is not None
    assert sum(map(len, events)) <= MAX_BYTES
    assert numbers(events)[-1] == 29


def test_an_event_larger_than_the_ring_leaves_a_gap_only() -> None:
    feed = Feed("c")
    feed.publish("text", {"k": 1, "text": "x" * MAX_BYTES}, 1)
    assert feed.read(0) == (Gap(0, PARTS), [])


def test_our_own_events_follow_the_frame_they_come_after() -> None:
    feed = filled(2)
    assert feed.publish("ended", {"k": 0}).startswith(b"id: c1:2.1\n")
    assert feed.publish("ended", {"k": 0}).startswith(b"id: c1:2.2\n")
    feed.publish("text", {"k": 3}, 3)
    place = feed.place("c1:2.1")
    assert place is not None
    assert numbers(feed.read(place)[1]) == [0, 3]
    assert feed.show(place) == "c1:2.1"


@pytest.mark.parametrize("shown", ["", "1", "c2:1", "c1:", "c1:x", "c1:1.x", "c1:-1", "c1:3", "c1:" + "9" * 40, "c1:²"])
def test_what_is_no_place_of_this_stream(shown: str) -> None:
    assert filled(2).place(shown) is None


def test_every_place_can_be_shown_and_read_again() -> None:
    feed = filled(5)
    assert [feed.place(feed.show(feed.at(number))) for number in range(6)] == [n * PARTS for n in range(6)]


async def test_waiting_readers_are_woken_once_there_is_something() -> None:
    feed = filled(1)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        waiting = [group.create_task(feed.wait(PARTS)) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        feed.publish("text", {"k": 2}, 2)


async def test_a_reader_that_is_behind_or_at_the_end_does_not_wait() -> None:
    feed = filled(2)
    async with asyncio.timeout(10):
        await feed.wait(PARTS)
        feed.close()
        await feed.wait(2 * PARTS)


async def test_a_reader_that_goes_away_leaves_nothing() -> None:
    feed = filled(1)
    task = asyncio.create_task(feed.wait(PARTS))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert feed._bell._waiting == set()


def test_what_is_no_json_is_refused_and_changes_nothing() -> None:
    feed = filled(1)
    with pytest.raises(TypeError):
        feed.publish("text", {"k": object()}, 2)
    assert numbers(feed.read(0)[1]) == [1]


def test_a_stream_that_an_earlier_supervisor_began_goes_on_with_its_places() -> None:
    feed = Feed("c")
    feed.begin_after(7)
    assert feed.read(0) == (Gap(0, feed.at(7)), [])
    assert feed.place("c:7") == feed.at(7)
    assert feed.place("c:7.1") == feed.at(7) + 1  # told behind the seventh frame, by the other one
    assert feed.place("c:8") is None
    feed.publish("text", {}, 8)
    gap, found = feed.read(feed.at(7))
    assert (gap, len(found)) == (None, 1)
    assert feed.read(feed.at(3))[0] == Gap(feed.at(3), feed.at(7))
