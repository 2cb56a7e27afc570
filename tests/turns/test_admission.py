"""When a turn is admitted: a session with an archive and a channel that are opened by hand."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from supervisor.causes import Cause, Refusal
from supervisor.channels.lifecycle import State
from supervisor.channels.requests import NOBODY, Owner
from supervisor.settings import Settings
from supervisor.turns.archive import Conversation
from supervisor.turns.requests import Key, TurnRequest
from supervisor.turns.session import Session
from supervisor.turns.turn import Turn


class Gate:
    """What is waited for: it opens, or is refused."""

    def __init__(self) -> None:
        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def passed(self) -> None:
        await asyncio.shield(self._future)

    def open(self) -> None:
        self._future.set_result(None)

    def refuse(self, cause: Cause) -> None:
        self._future.set_exception(Refusal(cause))
        self._future.exception()


class Channel:
    name, state, asking = "c", State.STARTING, None

    def __init__(self) -> None:
        self.ready = Gate()

    async def started(self) -> None:
        await self.ready.passed()

    def when_lost(self, callback: Any) -> None:
        """It is not lost."""


class Home:
    """Everything a session needs; `store` and `slot` are the gates before them."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.archive = settings, self
        self.store, self.slot, self.channel = Gate(), Gate(), Channel()
        self.claims: list[str] = []
        self.ends: list[str] = []
        self.stops: list[Cause] = []
        self.tasks: list[asyncio.Task[Any]] = []

    def own(self, work: Coroutine[Any, Any, Any], name: str) -> "asyncio.Task[Any]":
        self.tasks.append(asyncio.create_task(work, name=name))
        return self.tasks[-1]

    def name_for(self, key: Key, owner: Owner, *, single: bool) -> str:
        return key.session

    async def claim(self, key: Key, name: str, request: TurnRequest) -> Channel:
        await self.slot.passed()
        self.claims.append(name)
        return self.channel

    def stop(self, channel: Channel, cause: Cause, *, kill: bool = False) -> None:
        self.stops.append(cause)

    def rests(self, session: Session, *, idle: bool) -> None:
        """Nobody is evicted."""

    def forget(self, session: Session) -> None:
        """Nobody asks again."""

    def ended(self, turn: Turn) -> None:
        """Nobody looks for it."""

    async def load(self, key: Key) -> Conversation:
        return Conversation()

    async def begin(self, turn: Turn, key: Key, channel: str, conversation: Conversation) -> None:
        await self.store.passed()

    async def end(self, turn: Turn) -> None:
        self.ends.append(turn.id)


@asynccontextmanager
async def house() -> AsyncIterator[tuple[Home, Session]]:
    home = Home(Settings())
    yield home, Session(Key("g", "", "s"), home, NOBODY, single=True)  # type: ignore[arg-type]
    async with asyncio.timeout(5):
        await asyncio.gather(*home.tasks, return_exceptions=True)


def chat() -> TurnRequest:
    return TurnRequest(kind="chat", graph="g", messages=[{"role": "user", "content": "?"}])


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_turn_is_admitted_once_it_is_on_record_and_has_a_slot() -> None:
    async with house() as (home, session):
        turn = session.put("t", chat())
        admitted = asyncio.create_task(turn.admitted())
        await settle()
        assert turn.is_called
        home.slot.open()
        await settle()
        assert not admitted.done(), "it is not on record"
        home.store.open()
        await admitted
        home.channel.ready.refuse(Cause.ADDONS_MISSING)
        with pytest.raises(Refusal) as refused:
            await turn.started()
        assert refused.value.cause is Cause.ADDONS_MISSING
        await turn.admitted()
        assert home.ends == ["t"]


@pytest.mark.parametrize(("gate", "cause"), [("store", Cause.STORE_UNAVAILABLE), ("slot", Cause.WORKERS_LIMIT)])
async def test_a_turn_without_record_or_slot_is_not_admitted(gate: str, cause: Cause) -> None:
    async with house() as (home, session):
        turn = session.put("t", chat())
        gates = {"store": home.store, "slot": home.slot}
        gates.pop(gate).refuse(cause)
        gates.popitem()[1].open()
        for waited_for in (turn.admitted(), turn.started()):
            with pytest.raises(Refusal) as refused:
                await waited_for
            assert refused.value.cause is cause


async def test_a_turn_behind_another_is_not_admitted_before_it_is_called() -> None:
    async with house() as (home, session):
        home.store.open()
        home.slot.open()
        first, second = session.put("t1", chat()), session.put("t2", chat())
        await first.admitted()
        waiting = asyncio.create_task(second.admitted())
        await settle()
        assert not waiting.done()
        second.cancel(Cause.CLIENT_GONE)
        with pytest.raises(Refusal):
            await waiting
        home.channel.ready.refuse(Cause.CRASHED)
        await first.done()


async def test_nobody_claims_a_channel_for_a_turn_that_is_not_wanted_any_more() -> None:
    async with house() as (home, session):
        home.store.open()
        turn = session.put("t", chat())
        await settle()
        turn.leave()
        assert (await turn.done()).cause is Cause.CLIENT_GONE
        await settle()
        home.slot.open()
        await settle()
        assert (home.claims, home.stops) == ([], [])


async def test_a_channel_that_starts_for_a_turn_that_is_not_wanted_any_more_is_stopped() -> None:
    async with house() as (home, session):
        home.store.open()
        home.slot.open()
        turn = session.put("t", chat())
        await turn.admitted()
        turn.leave()
        await turn.done()
        await settle()
        assert home.stops == [Cause.TURN_ENDED]
