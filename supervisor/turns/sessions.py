"""All sessions: which turn belongs to which, where their workers come from, and who makes room for whom."""

import asyncio
import hashlib
import secrets
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import quote

import structlog

from supervisor.causes import Cause, Refusal
from supervisor.channels.channel import Channel
from supervisor.channels.lifecycle import State
from supervisor.channels.requests import SEPARATOR, Owner, StartRequest
from supervisor.channels.table import LIVE, ChannelTable
from supervisor.processes.journal import TurnRecord
from supervisor.settings import Settings
from supervisor.turns.archive import Archive
from supervisor.turns.record import key_of, request_of
from supervisor.turns.requests import UNNAMED, Key, TurnRequest
from supervisor.turns.room import Fits, Room
from supervisor.turns.session import Session
from supervisor.turns.turn import Turn

log = structlog.get_logger("supervisor.sessions")

T = TypeVar("T")

FOREVER: Final = -1  # the lease of a session's channel: it is kept by turns, not by pings
NAME_LENGTH: Final = 40
FULL: Final = frozenset({Cause.WORKERS_LIMIT, Cause.GRAPH_LIMIT, Cause.KEY_LIMIT})
MOST_ATTEMPTS: Final = 4  # to make room for one start: others may be quicker
GONE_SECONDS: Final = 10.0  # beyond the grace
CANCEL_SECONDS: Final = 1.0


class Home(Protocol):
    """What a session needs of the whole."""

    settings: Settings
    archive: Archive

    def own(self, work: Coroutine[Any, Any, T], name: str) -> "asyncio.Task[T]":
        """Run `work` in a task that is awaited at the end."""

    def name_for(self, key: Key, owner: Owner, *, single: bool) -> str:
        """The name of the session's channel."""

    async def claim(self, key: Key, name: str, request: TurnRequest) -> Channel:
        """A channel that has a slot. Raises Refusal."""

    def stop(self, channel: Channel, cause: Cause, *, kill: bool = False) -> None:
        """End a channel, without waiting for it."""

    def rests(self, session: Session, *, idle: bool) -> None:
        """The session has nothing to do, or has again."""

    def forget(self, session: Session) -> None:
        """Its next turn makes it anew."""

    def ended(self, turn: Turn) -> None:
        """A turn is over."""


class Sessions:
    """The sessions of one server."""

    def __init__(self, settings: Settings, table: ChannelTable, archive: Archive) -> None:
        self.settings = settings
        self.archive = archive
        self._table = table
        self._room = Room(table, self._evict, settings)
        self._by_key: dict[Key, Session] = {}
        self._by_name: dict[str, Session] = {}  # by the name of the channel, there already or not
        self._resting: dict[Session, None] = {}  # the one that rests longest first
        self._turns: dict[str, Turn] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False

    # ------------------------------------------------------------------ for the APIs

    def begin(self, request: TurnRequest) -> Turn:
        """A turn, which waits for its session's earlier ones. Await `started`, then read or await `done`.

        Raises Refusal: BODY_INVALID, CHANNEL_UNKNOWN, SESSION_QUEUE_FULL, SHUTTING_DOWN, DRAINING.
        """
        if self._closing:
            raise Refusal(Cause.SHUTTING_DOWN)
        request.check()
        turn_id = f"turn-{secrets.token_hex(10)}"
        turn = self._session_for(request, turn_id).put(turn_id, request)
        self._turns[turn_id] = turn
        return turn

    def adopt(self, channel: Channel, record: TurnRecord | None, *, read: bool = False) -> Turn | None:
        """Go on with the session of a channel that was adopted, and with its turn, which somebody may be to `read`."""
        if record is not None:
            key, single = key_of(record), record.single
        elif channel.on_demand and channel.session is None:
            self.stop(channel, Cause.TURN_ENDED)  # it was started for one turn, which is over
            return None
        else:
            key = Key("" if channel.shared else channel.graph_name, channel.user, channel.session or "")
            single = False
        if channel.on_demand:
            session = Session(key, self, channel.owner, single=single, adopted=channel)
            if not single:
                self._by_key[key] = session
        elif record is not None:
            session = Session(key, self, channel.owner, pinned=channel)
        else:
            return None  # whoever asks in it next makes its session
        self._add(session)
        if record is None:
            session.take_over(None)
            return None
        turn = self._turns[record.id] = session.turn_of(record.id, request_of(record))
        turn.take_over(channel, record.began_at, record.begun, after=record.after, read=read)
        channel.asking.take_up(turn)
        session.take_over(turn)
        return turn

    @property
    def closing(self) -> bool:
        """Whether no more turns are begun, since the server shuts down."""
        return self._closing

    def find(self, turn_id: str) -> Turn | None:
        """The turn of this id that waits or runs."""
        return self._turns.get(turn_id)

    def at_work(self, user: str, session: str) -> list[Turn]:
        """The turns that run at present in a user's session of this name, whatever the graph."""
        return [
            turn
            for turn in self._turns.values()
            if turn.is_called and turn.request.session == session and turn.request.user == user
        ]

    def running(self) -> dict[str, Turn]:
        """The turn each channel is at, by the channel's id."""
        return {turn.channel.id: turn for turn in self._turns.values() if turn.channel is not None}

    def turns_in(self, name: str) -> int:
        """How many turns wait or run in the channel of this name."""
        session = self._by_name.get(name)
        return 0 if session is None else len(session.pending) + (session.current is not None)

    def _session_for(self, request: TurnRequest, turn_id: str) -> Session:
        if request.channel is not None:
            return self._of_channel(request.channel, request.only_graph)
        if request.session is None:
            self._table.check_open()
            key = Key(request.graph, request.user, turn_id)
            return self._add(Session(key, self, request.owner, single=True))
        key = Key("" if request.shared else request.graph, request.user, request.session)
        session = self._by_key.get(key)
        if session is None:
            channel = self._table.of_session(*key)
            if channel is None or channel.on_demand:  # one that a session has let go of
                self._table.check_open()
                session = self._by_key[key] = self._add(Session(key, self, request.owner))
            else:
                session = self._of_channel(channel.name)
        return session

    def _of_channel(self, name: str, graph: str | None = None) -> Session:
        """The session that a channel (of a graph) carries: the one that started it, or one that only asks in it."""
        channel = self._table.get(name)
        shown = name.rpartition(SEPARATOR)[2]
        if channel is None or channel.state not in LIVE or graph not in (None, channel.graph_name):
            raise Refusal(Cause.CHANNEL_UNKNOWN, f"no channel {shown!r} is running")
        session = self._by_name.get(name)
        if channel.on_demand and session is None:
            raise Refusal(Cause.CHANNEL_UNKNOWN, f"channel {shown!r} is about to end")
        if session is not None and session.single:
            raise Refusal(Cause.SESSION_BUSY, f"channel {shown!r} was started for the one turn it is at")
        if session is None or (session.channel is not channel and not channel.on_demand):
            own = channel.session
            key = Key(channel.graph_name, channel.user, f"{UNNAMED}{channel.id}" if own is None else own)
            session = self._add(Session(key, self, channel.owner, pinned=channel))
        return session

    def _add(self, session: Session) -> Session:
        self._by_name[session.name] = session
        return session

    # ------------------------------------------------------------------ the end

    def close(self) -> None:
        """Begin no more turns, and end those that wait or run."""
        self._closing = True
        for turn in list(self._turns.values()):
            turn.cancel(Cause.SERVER_STOPPED)

    async def drain(self, seconds: float) -> None:
        """Wait until every turn is over and on record; what takes longer is cancelled."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=seconds)
        for task in late:
            log.error("session.late", task=task.get_name(), after_seconds=seconds)
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=CANCEL_SECONDS)

    async def leave(self) -> None:
        """Leave every turn to a successor: no worker is told, and nothing is put on record."""
        self._closing = True
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        for turn in tuple(self._turns.values()):
            turn.leave_behind()
        if tasks:
            await asyncio.wait(tasks, timeout=CANCEL_SECONDS)

    # ------------------------------------------------------------------ for the sessions

    def own(self, work: Coroutine[Any, Any, T], name: str) -> "asyncio.Task[T]":
        """Run `work` in a task that is awaited at the end."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def name_for(self, key: Key, owner: Owner, *, single: bool) -> str:
        """The name of the session's channel, which is among its first owner's: readable, and as unique as its key."""
        readable = quote(key.graph, safe="")[:NAME_LENGTH].replace("..", "-").lstrip(".") or "session"
        if single:
            return owner.qualified(f"{readable}-{key.session}")
        digest = hashlib.sha256(repr(key).encode("utf-8", "surrogatepass")).hexdigest()
        return owner.qualified(f"{readable}-{digest[:16]}")

    async def claim(self, key: Key, name: str, request: TurnRequest) -> Channel:
        """A channel for a session, whose worker starts; one that ends or is idle makes room. Raises Refusal."""
        space, _, short = name.rpartition(SEPARATOR)
        wanted = StartRequest(
            channel_name=short,
            graph_name=request.graph,
            timeout=FOREVER,
            properties=request.properties,
            user=key.user,
            session=request.session,
            source=request.source,
            on_demand=True,
            shared=request.shared,
            owner=replace(request.owner, space=space),
        )
        await self._gone(key, name)
        for _ in range(MOST_ATTEMPTS):
            try:
                return self._claim(key, wanted)
            except Refusal as refusal:
                if refusal.cause not in FULL or not await self._room.make(_in_the_way(refusal.cause, wanted)):
                    raise
        return self._claim(key, wanted)

    def _claim(self, key: Key, wanted: StartRequest) -> Channel:
        if (other := self._table.of_session(*key)) is not None:
            shown = wanted.owner.shown(other.name)
            raise Refusal(Cause.CHANNEL_EXISTS, f"somebody has just started channel {shown!r} for this session")
        return self._table.claim(wanted)

    async def _gone(self, key: Key, name: str) -> None:
        """Wait until the session's last worker is gone, whoever asked for it: a session has one at most."""
        last = self._table.get(name) or self._table.ending_of_session(*key)
        if last is not None and (last.on_demand or last.state is State.STOPPING):  # the session has let go of it
            try:
                async with asyncio.timeout(GONE_SECONDS + self.settings.worker_stop_grace_seconds):
                    await last.gone()
            except TimeoutError:
                raise Refusal(Cause.STOP_FAILED, f"channel {last.owner.shown(last.name)!r} does not end") from None

    def _evict(self, fits: Fits) -> Channel | None:
        """End the channel that fits of the session that rests longest, if there is one."""
        resting = (one for one in self._resting if one.evictable and one.channel is not None and fits(one.channel))
        session = next(resting, None)
        return None if session is None else session.evict()

    def stop(self, channel: Channel, cause: Cause, *, kill: bool = False) -> None:
        """End a channel, without waiting for it."""
        if not self._closing:  # else the table does
            self._room.leaves(channel)
            self.own(self._stop(channel, cause, kill=kill), f"stop of {channel.name}")

    async def _stop(self, channel: Channel, cause: Cause, *, kill: bool) -> None:
        try:
            await self._table.stop_this(channel, cause=cause, kill=kill)
        except Refusal as refusal:
            log.warning("session.stop_failed", channel=channel.name, cause=refusal.cause, detail=refusal.detail)
        finally:
            self._room.left(channel)

    def rests(self, session: Session, *, idle: bool) -> None:
        """The session has nothing to do, or has again."""
        self._resting.pop(session, None)
        if idle:
            self._resting[session] = None

    def forget(self, session: Session) -> None:
        """Its next turn makes it anew."""
        if self._by_key.get(session.key) is session:
            del self._by_key[session.key]
        if self._by_name.get(session.name) is session:
            del self._by_name[session.name]

    def ended(self, turn: Turn) -> None:
        """A turn is over."""
        self._turns.pop(turn.id, None)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, Refusal):  # whom a refusal concerns has it from the task
            log.error("session.failed", task=task.get_name(), exc_info=error)


def _in_the_way(cause: Cause, wanted: StartRequest) -> Fits:
    """Which channels' ends make room for a start that was refused for this cause."""
    if cause is Cause.GRAPH_LIMIT:
        return lambda channel: channel.graph_name == wanted.graph_name
    if cause is Cause.KEY_LIMIT:
        return lambda channel: channel.owner.key == wanted.owner.key
    return lambda _: True
