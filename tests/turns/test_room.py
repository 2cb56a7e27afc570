"""Who waits for which channel that ends, with channels that are ended by hand."""

import asyncio
from typing import Any

import pytest

from supervisor.causes import Cause, Refusal
from supervisor.channels.lifecycle import State
from supervisor.settings import Settings
from supervisor.turns import room as module
from supervisor.turns.room import Fits, Room


class Channel:
    def __init__(self, graph: str = "g", state: State = State.RUNNING) -> None:
        self.graph_name, self.state = graph, state
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def gone(self) -> None:
        await asyncio.shield(self._gone)

    def end(self) -> None:
        self._gone.set_result(None)

    def fail(self) -> None:
        self._gone.set_exception(Refusal(Cause.STOP_FAILED))
        self._gone.exception()


class Table:
    """Its channels, and those of idle sessions, which can be evicted."""

    def __init__(self, *channels: Channel, idle: tuple[Channel, ...] = ()) -> None:
        self.channels, self.idle = [*channels, *idle], list(idle)

    def all(self) -> list[Channel]:
        return self.channels

    def evict(self, fits: Fits) -> Channel | None:
        found = next((channel for channel in self.idle if fits(channel)), None)
        if found is not None:
            self.idle.remove(found)
            found.state = State.STOPPING
        return found


def room_of(table: Any) -> Room:
    return Room(table, table.evict, Settings(worker_stop_grace_seconds=0.0))


def any_(_: Any) -> bool:
    return True


def of_g(channel: Any) -> bool:
    return bool(channel.graph_name == "g")


async def begin(room: Room, fits: Fits = any_) -> "asyncio.Task[bool]":
    """Somebody who has looked for room, and waits if there may be any."""
    task = asyncio.create_task(room.make(fits))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return task


async def test_nobody_waits_where_nothing_ends() -> None:
    assert not await room_of(Table(Channel(), Channel())).make(any_)


@pytest.mark.parametrize("told", [True, False])
async def test_a_channel_that_ends_makes_room_for_one(told: bool) -> None:
    channel = Channel(state=State.RUNNING if told else State.STOPPING)
    room = room_of(Table(Channel(), channel))
    if told:
        room.leaves(channel)
    first = await begin(room)
    assert not await room.make(any_), "its slot is spoken for"
    assert not first.done()
    channel.end()
    assert await first
    room.left(channel)


async def test_a_session_is_evicted_only_where_nothing_ends_anyway() -> None:
    ending, idle = Channel(state=State.STOPPING), Channel()
    table = Table(ending, idle=(idle,))
    room = room_of(table)
    first, second = await begin(room), await begin(room)
    assert table.idle == []
    idle.end()
    assert await second
    assert not first.done()
    ending.end()
    assert await first


async def test_room_in_a_graph_comes_of_that_graph_s_channels() -> None:
    other, ending, idle = Channel("other", State.STOPPING), Channel(state=State.STOPPING), Channel("other")
    table = Table(other, ending, idle=(idle,))
    room = room_of(table)
    first = await begin(room, of_g)
    assert not await room.make(of_g)
    assert table.idle == [idle]
    ending.end()
    assert await first


async def test_who_waits_no_more_leaves_the_place_to_others() -> None:
    channel = Channel(state=State.STOPPING)
    room = room_of(Table(channel))
    first = await begin(room)
    first.cancel()
    await asyncio.wait({first})
    second = await begin(room)
    channel.end()
    assert await second


async def test_a_channel_that_ends_slowly_is_waited_for_when_there_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SOON_SECONDS", 0.0)
    slow, idle = Channel(state=State.STOPPING), Channel()
    room = room_of(Table(slow, idle=(idle,)))
    first = asyncio.create_task(room.make(any_))
    async with asyncio.timeout(5):
        while idle.state is State.RUNNING:
            await asyncio.sleep(0.001)
    idle.end()
    assert await first, "a session made room"
    second = asyncio.create_task(room.make(any_))
    await asyncio.sleep(0.01)
    slow.end()
    assert await second


@pytest.mark.parametrize("how", ["late", "failed"])
async def test_a_channel_that_does_not_end_is_waited_for_once(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(module, "SOON_SECONDS", 0.0)
    monkeypatch.setattr(module, "EVICTION_SECONDS", 0.0 if how == "late" else 60.0)
    stuck = Channel(state=State.STOPPING)
    if how == "failed":
        stuck.fail()
    table = Table(stuck)
    room = room_of(table)
    assert not await room.make(any_)
    monkeypatch.setattr(module, "EVICTION_SECONDS", 60.0)
    assert not await room.make(any_), "at once"
    after = Channel(state=State.STOPPING)
    table.channels.append(after)
    after.end()
    assert await room.make(any_), "of another one"
