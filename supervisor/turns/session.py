"""One session: its turns one after the other, and the channel they run in.

A session that was asked for by its name has a channel of its own, started with its first turn and reaped when idle. One
without a name has a channel for its only turn. And a channel that somebody started has a session, which leaves the
channel's life to them.
"""

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

import structlog

from supervisor.causes import Cause, Refusal
from supervisor.channels.channel import Channel
from supervisor.channels.lifecycle import State
from supervisor.turns.archive import Archive, Conversation
from supervisor.turns.requests import Key, TurnRequest
from supervisor.turns.turn import Item, Turn, TurnEnding, ending_of

if TYPE_CHECKING:
    from supervisor.settings import Settings
    from supervisor.turns.sessions import Home

log = structlog.get_logger("supervisor.session")

CANCEL_SECONDS: Final = 1.0  # that an agent has to end a turn that was cancelled
LIVE: Final = frozenset({State.STARTING, State.RUNNING})


class Session:
    """The turns of one conversation."""

    def __init__(self, key: Key, home: "Home", *, single: bool = False, pinned: Channel | None = None) -> None:
        """`single`: it ends with its turn; `pinned`: the channel is somebody else's."""
        self.key = key
        self.channel = pinned
        self.pending: deque[Turn] = deque()
        self.current: Turn | None = None
        self._home = home
        self._settings: Settings = home.settings
        self._archive: Archive = home.archive
        self._single = single
        self._pinned = pinned is not None
        self._conversation: Conversation | None = None
        self._primed: Channel | None = None  # the one whose worker has the agent's state for certain
        self._working = False
        self._stir = asyncio.Event()
        self._idle: asyncio.TimerHandle | None = None
        self._waits: dict[Turn, asyncio.TimerHandle] = {}
        if pinned is not None:
            pinned.when_lost(self._on_lost)

    @property
    def evictable(self) -> bool:
        """Whether it may go to make room."""
        return not self._pinned and not self._single and self._idle is not None and self.channel is not None

    def put(self, turn_id: str, request: TurnRequest) -> Turn:
        """A turn in the session's queue. Raises Refusal(SESSION_QUEUE_FULL)."""
        most = self._settings.session_queue
        if len(self.pending) >= most:
            raise Refusal(Cause.SESSION_QUEUE_FULL, f"{most} turns of this session wait, which is the most")
        turn = Turn(turn_id, request, lambda: self._woken(turn))
        self.pending.append(turn)
        self._rest(None)
        if not self._working:
            self._working = True
            self._home.own(self._work(), f"session {turn_id}")
        seconds = self._settings.session_wait_seconds
        loop = asyncio.get_running_loop()
        self._waits[turn] = loop.call_later(seconds, turn.cancel, Cause.SESSION_BUSY, f"waited for {seconds:g} s")
        return turn

    def _woken(self, turn: Turn) -> None:
        """Somebody wants a turn to end, or it has."""
        if turn in self._waits and turn.wish is not None and turn is not self.current:
            self.pending.remove(turn)
            self._waits.pop(turn).cancel()
            turn.refuse(Refusal(*turn.wish))
            self._home.ended(turn)
        else:
            self._stir.set()

    async def _work(self) -> None:
        while self.pending:
            turn = self.current = self.pending.popleft()
            self._waits.pop(turn).cancel()
            try:
                await self._carry_out(turn)
            except Exception:
                # A fault of ours must not leave a reader or the turns behind this one without an answer.
                log.exception("session.fault", turn=turn.id)
                turn.refuse(Refusal(Cause.INTERNAL))
            finally:
                self.current = None
                self._home.ended(turn)
        self._working = False
        if self._single:
            self._let_go(Cause.TURN_ENDED)
        elif self.channel is None or self.channel.state not in LIVE:
            self._home.forget(self)
        elif not self._pinned:
            loop = asyncio.get_running_loop()
            self._rest(loop.call_later(self._settings.session_idle_seconds, self._let_go, Cause.SESSION_IDLE))

    async def _carry_out(self, turn: Turn) -> None:
        request = turn.request
        try:
            channel, conversation = await self._prepare(turn)
            channel = await self._begin(turn, channel, conversation)
        except Refusal as refusal:
            turn.refuse(refusal)
            if request.store:
                await self._archive.end(turn)
            return
        turn.start(channel)
        channel.announce("turn_begun", turn=turn.id)
        lost = await self._until_over(turn, channel)
        ending, last = turn.concluded or self._conclude(turn, channel, lost or channel.reason)
        if turn.events or ending.completed:
            self._primed = channel
        if request.store:
            await self._archive.end(turn)
            self._archive.remember(conversation, turn)
        channel.asking.end_turn()
        turn.end(ending, last)

    async def _begin(self, turn: Turn, channel: Channel, conversation: Conversation) -> Channel:
        """Ask the worker; the channel it is in. One that dies just now is replaced, once. Raises Refusal."""
        request = turn.request
        history = conversation.history or request.history
        for last in (False, True):
            turn.go_ahead()
            turn.channel = channel
            state = None if self._primed is channel else conversation.state
            try:
                await channel.asking.begin_turn(turn, request.kind, request.for_worker(history, state))
            except Refusal as refusal:
                if refusal.cause is not Cause.CHANNEL_UNKNOWN or self._pinned or last:
                    raise
                channel = await self._channel_for(turn, channel.name)
            else:
                break
        return channel

    def _conclude(self, turn: Turn, channel: Channel, lost: tuple[Cause, str] | None) -> tuple[TurnEnding, Item]:
        """How the turn ended and the event that says so, told to everybody but its reader, who may not be so far."""
        ending = turn.verdict = ending_of(turn, lost)
        channel.announce("turn_ended", turn=turn.id, cause=ending.cause, detail=ending.detail, ms=ending.ms)
        turn.concluded = ending, last_item(turn, channel, ending)
        return turn.concluded

    async def _prepare(self, turn: Turn) -> tuple[Channel, Conversation]:
        """A channel whose worker is ready, the conversation so far, and the turn on record. Raises Refusal."""
        name = self._home.name_for(self.key, single=self._single) if self.channel is None else self.channel.name
        starting = asyncio.create_task(self._channel_for(turn, name), name=f"start of {name}")
        try:
            if self._conversation is None:
                self._conversation = Conversation() if self._single else await self._archive.load(self.key)
            if turn.request.store:
                await self._archive.begin(turn, self.key, name)
        except BaseException:
            # The start is not undone: the session has its worker all the same, until it is idle for long enough.
            await asyncio.wait({starting})
            if not starting.cancelled() and (error := starting.exception()) is not None:
                log.info("session.start_failed", channel=name, error=str(error))
            raise
        return await starting, self._conversation

    async def _channel_for(self, turn: Turn, name: str) -> Channel:
        channel = self.channel
        if channel is not None and channel.state in LIVE:
            await channel.started()
            return channel
        if self._pinned:
            raise Refusal(Cause.CHANNEL_UNKNOWN, f"channel {name!r} has ended")
        self.channel = None
        self.channel = await self._home.start(self.key, name, turn.request)
        self.channel.when_lost(self._on_lost)
        return self.channel

    async def _until_over(self, turn: Turn, channel: Channel) -> tuple[Cause, str] | None:
        """Until the worker ended the turn or is lost (why), or did not end it although it was told to."""
        loop = asyncio.get_running_loop()
        settings = self._settings
        lost: list[tuple[Cause, str]] = []

        def lose(reason: "asyncio.Future[tuple[Cause, str]]") -> None:
            lost.append(reason.result())
            if turn.concluded is None:  # at once: soon the channel says that it has ended, and then nothing more
                self._conclude(turn, channel, lost[0])
            self._stir.set()

        channel.when_lost(lose)
        deadline = loop.time() + settings.turn_seconds
        silent_at, heard = loop.time() + settings.turn_silence_seconds, 0
        cancel_by: float | None = None
        try:
            while True:
                self._stir.clear()
                now = loop.time()
                turn.closing = turn.said is not None or bool(lost)
                if turn.closing and (not turn.held_up or turn.wish is not None):
                    return lost[0] if lost else None
                if now >= deadline:
                    turn.cancel(Cause.TURN_TIMEOUT, f"no answer within {settings.turn_seconds:g} s")
                elif now >= silent_at:
                    if heard == turn.events and not turn.held_up:
                        turn.cancel(Cause.TURN_SILENT, f"nothing said for {settings.turn_silence_seconds:g} s")
                    silent_at, heard = now + settings.turn_silence_seconds, turn.events
                if turn.wish is not None and cancel_by is None:
                    turn.skip()
                    channel.asking.cancel_turn(turn.id)
                    cancel_by = now + CANCEL_SECONDS
                if cancel_by is not None and now >= cancel_by:
                    self._give_up(turn, channel)
                    return None
                await _stirred(self._stir, min(deadline, silent_at, cancel_by or deadline) - now)
        finally:
            channel.forget(lose)

    def _give_up(self, turn: Turn, channel: Channel) -> None:
        """The agent goes on with a turn that was cancelled. A worker of ours makes room for a new one."""
        log.warning("session.cancel_ignored", channel=channel.name, turn=turn.id, after_seconds=CANCEL_SECONDS)
        if not self._pinned:
            self.channel = None
            self._home.stop(channel, Cause.CANCEL_IGNORED, kill=True)

    def _rest(self, timer: asyncio.TimerHandle | None) -> None:
        """Idle from now on, until `timer`; None: not any more."""
        if self._idle is not None:
            self._idle.cancel()
        self._idle = timer
        self._home.rests(self, idle=timer is not None)

    def evict(self) -> Channel | None:
        """Make room: the channel that is being stopped."""
        channel = self.channel
        self._let_go(Cause.SESSION_EVICTED)
        return channel

    def _let_go(self, cause: Cause) -> None:
        self._rest(None)
        self._home.forget(self)
        if self.channel is not None:
            self._home.stop(self.channel, cause)

    def _on_lost(self, _: "asyncio.Future[tuple[Cause, str]]") -> None:
        """The worker ended. Without a turn that waits there is nothing left of the session."""
        if self.current is None and not self.pending:
            self._rest(None)
            self._home.forget(self)


async def _stirred(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await event.wait()
    except TimeoutError:
        return


def last_item(turn: Turn, channel: Channel, ending: TurnEnding) -> Item:
    """The event that tells the reader how the turn ended."""
    event = ending.as_event(turn.id)
    if turn.transcript.gaps:
        event["lost"] = turn.transcript.gaps
    if ending.completed and turn.transcript.has_value:
        event["value"] = turn.transcript.value
    if turn.said is not None:  # the worker's own last event of it is there
        return Item(event, channel.feed.encode(event["type"], event, channel.feed.at(turn.number)))
    return Item(event, channel.feed.publish(event["type"], event))
