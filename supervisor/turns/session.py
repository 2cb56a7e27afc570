"""One session: its turns one after the other, and the channel they run in.

A session that was asked for by its name has a channel of its own, started with its first turn and reaped when idle. One
without a name has a channel for its only turn. And a channel that somebody started has a session, which leaves the
channel's life to them.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final

import structlog

from supervisor.causes import Cause, Refusal
from supervisor.channels.channel import Channel
from supervisor.channels.requests import SEPARATOR, Owner
from supervisor.channels.table import LIVE
from supervisor.turns.archive import Archive, Conversation
from supervisor.turns.record import encoded
from supervisor.turns.requests import Key, TurnRequest
from supervisor.turns.turn import Item, Turn, TurnEnding, ending_of, last_item

if TYPE_CHECKING:
    from supervisor.settings import Settings
    from supervisor.turns.sessions import Home

log = structlog.get_logger("supervisor.session")

Prepared = tuple[Channel, Conversation]

LOOKS: Final = 4  # in the time an agent may say nothing
CANCEL_SECONDS: Final = 1.0  # that an agent has to end a turn that was cancelled


class Session:
    """The turns of one conversation."""

    def __init__(
        self,
        key: Key,
        home: "Home",
        owner: Owner,
        *,
        single: bool = False,
        pinned: Channel | None = None,
        adopted: Channel | None = None,
    ) -> None:
        """`owner` asks in it first; `single`: it ends with its turn; `pinned`: the channel is somebody else's.

        `adopted` is the channel that an earlier supervisor started for it.
        """
        self.key = key
        channel = pinned or adopted
        self.name = home.name_for(key, owner, single=single) if channel is None else channel.name
        self.channel = channel
        self.pending: deque[Turn] = deque()
        self.current: Turn | None = None
        self._home = home
        self._settings: Settings = home.settings
        self._archive: Archive = home.archive
        self.single, self._pinned = single, pinned is not None
        self._conversation: Conversation | None = None
        self._primed: Channel | None = None  # the one whose worker has the agent's state for certain
        self._working = False
        self._starting: asyncio.Task[Channel] | None = None
        self._stir = asyncio.Event()
        self._idle: asyncio.TimerHandle | None = None
        self._waits: dict[Turn, asyncio.TimerHandle] = {}
        if channel is not None:
            channel.when_lost(self._on_lost)

    @property
    def evictable(self) -> bool:
        """Whether it may go to make room."""
        lives = self.channel is not None and self.channel.state in LIVE
        return lives and self._idle is not None and not self._pinned and not self.single

    def put(self, turn_id: str, request: TurnRequest) -> Turn:
        """A turn in the session's queue. Raises Refusal(SESSION_QUEUE_FULL)."""
        most = self._settings.session_queue
        if len(self.pending) >= most:
            raise Refusal(Cause.SESSION_QUEUE_FULL, f"{most} turns of this session wait, which is the most")
        turn = self.turn_of(turn_id, request)
        self.pending.append(turn)
        self._rest(None)
        if not self._working:
            self._working = True
            self._home.own(self._work(), f"session {turn_id}")
        seconds = self._settings.session_wait_seconds
        loop = asyncio.get_running_loop()
        self._waits[turn] = loop.call_later(seconds, turn.cancel, Cause.SESSION_BUSY, f"waited for {seconds:g} s")
        return turn

    def take_over(self, turn: Turn | None) -> None:
        """Go on where an earlier supervisor was lost: with the turn it was at, None: it was at none."""
        if turn is not None:
            self.pending.append(turn)
            self._working = True
            self._home.own(self._work(), f"session {turn.id}")
        elif not self._pinned:
            self._rest_from_now()

    def turn_of(self, turn_id: str, request: TurnRequest) -> Turn:
        """A turn that is not put in the queue."""
        return (turn := Turn(turn_id, request, lambda: self._woken(turn)))

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
        linger = True
        while self.pending:
            turn = self.current = self.pending.popleft()
            linger = turn.request.linger or self._pinned
            if (waiting := self._waits.pop(turn, None)) is not None:
                waiting.cancel()
            turn.call()
            try:
                await self._carry_out(turn)
            except Exception:
                log.exception("session.fault", turn=turn.id)
                await self._break(turn)
            finally:
                self.current = None
                self._home.ended(turn)
            if not self.pending and self._starting is not None:  # of a turn that nobody waits for any more
                self._starting.cancel()
                await asyncio.wait({self._starting})
        self._working = False
        if self.single or not linger:
            self._let_go(Cause.TURN_ENDED)
        elif self.channel is None or self.channel.state not in LIVE:
            self._home.forget(self)
        elif not self._pinned:
            self._rest_from_now()

    def _rest_from_now(self) -> None:
        loop = asyncio.get_running_loop()
        self._rest(loop.call_later(self._settings.session_idle_seconds, self._let_go, Cause.SESSION_IDLE))

    async def _break(self, turn: Turn) -> None:
        """A fault of ours must not leave a reader, the turns behind this one or the worker in the middle of it."""
        channel = turn.channel
        if channel is not None:
            channel.asking.cancel_turn(turn.id)
            channel.asking.end_turn()
            self._replace(channel, Cause.INTERNAL)
            channel.announce("turn_ended", turn=turn.id, cause=Cause.INTERNAL, detail="", ms=turn.ms)
        turn.refuse(Refusal(Cause.INTERNAL))
        if turn.recorded:
            await self._archive.end(turn)

    async def _carry_out(self, turn: Turn) -> None:
        request = turn.request
        is_new, known = turn.channel is None, None
        try:
            if (channel := turn.channel) is None:
                channel, known = await self._unless_unwanted(turn, self._prepare(turn))
                channel = await self._begin(turn, channel, known)
        except Refusal as refusal:
            turn.refuse(refusal)
            if turn.recorded:
                await self._archive.end(turn)
            return
        turn.start(channel)
        if is_new:
            channel.announce("turn_begun", turn=turn.id)
        lost = await self._until_over(turn, channel)
        ending, last = turn.concluded or self._conclude(turn, channel, lost or channel.reason)
        if not request.store:
            self._primed = None  # nothing of it is kept, also not what its worker remembers
        elif turn.events or ending.completed:
            self._primed = channel
        if request.store:
            conversation = known or await self._remembered(request)  # of one taken over not before it is needed
            await self._archive.end(turn, conversation)
            self._archive.remember(conversation, turn)
            self._conversation = conversation if is_new else None  # of one taken over we do not know all that was said
            if conversation.is_reset:  # it did not get to begin anew: what its worker remembers does not count
                self._primed = None
            if conversation.is_reset or request.replaces is not None:
                self._conversation = None  # what it is from now on, the store knows
        channel.asking.end_turn()
        turn.end(ending, last)
        await turn.settled()  # should we die before that, the next server takes up the turn, and what is kept of it
        channel.note_turn(None)

    async def _begin(self, turn: Turn, channel: Channel, conversation: Conversation) -> Channel:
        """Ask the worker; the channel it is in. One that dies just now is replaced, once. Raises Refusal."""
        request = turn.request
        history = conversation.history or conversation.earlier or request.history
        for last in (False, True):
            turn.go_ahead()
            turn.channel = channel
            known = self._primed is channel and not conversation.is_reset
            state = None if known else conversation.state
            channel.note_turn(encoded(turn, self.key, single=self.single))
            try:
                await channel.asking.begin_turn(turn, request.kind, request.for_worker(history, state))
            except Refusal as refusal:
                channel.note_turn(None)
                if refusal.cause is not Cause.CHANNEL_UNKNOWN or self._pinned or last:
                    raise
                channel, _ = await self._unless_unwanted(turn, self._again(request, conversation))
            else:
                break
        return channel

    async def _remembered(self, request: TurnRequest) -> Conversation:
        """The conversation of a turn that is taken over; without the store an empty one, for its end counts more."""
        try:
            return await self._converse(request)
        except Refusal as refusal:
            log.warning("session.conversation_unread", session=self.name, detail=refusal.detail)
            return Conversation()

    async def _again(self, request: TurnRequest, conversation: Conversation) -> Prepared:
        """Another worker for a conversation whose last one has just ended. Raises Refusal."""
        channel = await self._claimed(request)
        await channel.started()
        return channel, conversation

    def _conclude(self, turn: Turn, channel: Channel, lost: tuple[Cause, str] | None) -> tuple[TurnEnding, Item]:
        """How the turn ended and the event that says so, told to everybody but its reader, who may not be so far."""
        ending = turn.verdict = ending_of(turn, lost)
        channel.announce("turn_ended", turn=turn.id, cause=ending.cause, detail=ending.detail, ms=ending.ms)
        turn.concluded = ending, last_item(turn, channel, ending)
        return turn.concluded

    async def _unless_unwanted(self, turn: Turn, work: Coroutine[Any, Any, Prepared]) -> Prepared:
        """The result of `work`; raises Refusal as soon as somebody wants the turn to end."""
        task = asyncio.create_task(work, name=f"preparation of {turn.id}")
        try:
            while not task.done():
                self._stir.clear()
                turn.go_ahead()
                stirred = asyncio.create_task(self._stir.wait())
                try:
                    await asyncio.wait({task, stirred}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    stirred.cancel()
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    async def _prepare(self, turn: Turn) -> Prepared:
        """A channel whose worker is ready, the conversation so far, and the turn on record. Raises Refusal."""
        request = turn.request
        if request.continues:  # whoever makes up names of conversations has no worker started
            await self._converse(request)
        if request.shared:
            await self._move(request)
        if self._starting is None and (self.channel is None or self.channel.state not in LIVE):
            self._start(request)
        conversation = await self._converse(request)
        if request.store:
            await self._archive.begin(turn, self.key, self.name, conversation)
            turn.recorded = True
        channel = await self._claimed(request)
        turn.admit()
        await channel.started()
        return channel, conversation

    async def _converse(self, request: TurnRequest) -> Conversation:
        """The conversation as the turn goes on with it. Raises Refusal."""
        if self._conversation is None or self._conversation.before != request.replaces:
            self._conversation = Conversation() if self.single else await self._archive.load(self.key, request.replaces)
        if request.continues and not self._conversation.known:
            raise Refusal(Cause.CONVERSATION_UNKNOWN)
        return self._conversation.for_graph(request.graph) if request.shared else self._conversation

    async def _move(self, request: TurnRequest) -> None:
        """A worker of another graph goes; the session goes on with one of this turn's."""
        if self._starting is not None:  # for a turn before, which did not wait for it
            await asyncio.wait({self._starting})
        channel = self.channel
        if channel is not None and channel.graph_name != request.graph:
            self.channel = None
            if channel.state in LIVE:
                self._home.stop(channel, Cause.SESSION_MOVED)

    def _start(self, request: TurnRequest) -> asyncio.Task[Channel]:
        """Begin to claim a channel. Once it is there, it is not undone by who asked for it: the session has it."""
        if self._pinned:
            raise Refusal(Cause.CHANNEL_UNKNOWN, f"channel {self.name.rpartition(SEPARATOR)[2]!r} has ended")
        self.channel = None
        starting = self._home.own(self._home.claim(self.key, self.name, request), f"start of {self.name}")
        starting.add_done_callback(self._started)
        self._starting = starting
        return starting

    def _started(self, starting: "asyncio.Task[Channel]") -> None:
        self._starting = None
        if not starting.cancelled() and starting.exception() is None:
            self.channel = starting.result()
            self.channel.when_lost(self._on_lost)

    async def _claimed(self, request: TurnRequest) -> Channel:
        """A channel that has a slot; its worker is there, or on its way. Raises Refusal."""
        if self._starting is None and self.channel is not None and self.channel.state in LIVE:
            return self.channel
        return await asyncio.shield(self._starting or self._start(request))

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
        deadline = loop.time() + settings.turn_seconds - (turn.adopted_after or 0.0)
        portion = settings.turn_silence_seconds / LOOKS
        look_at, heard, quiet = loop.time() + portion, 0, 0
        cancel_by: float | None = None
        try:
            while True:
                self._stir.clear()
                now = loop.time()
                turn.closing = turn.said is not None or turn.is_lost or bool(lost)
                if turn.closing and (not turn.held_up or turn.wish is not None):
                    return lost[0] if lost else None
                if now >= deadline:
                    turn.cancel(Cause.TURN_TIMEOUT, f"no answer within {settings.turn_seconds:g} s")
                elif now >= look_at:
                    quiet = quiet + 1 if heard == turn.events and not turn.held_up else 0
                    look_at, heard = now + portion, turn.events
                    if quiet >= LOOKS:
                        turn.cancel(Cause.TURN_SILENT, f"nothing said for {settings.turn_silence_seconds:g} s")
                if turn.wish is not None and cancel_by is None:
                    turn.hurry()
                    channel.asking.cancel_turn(turn.id)
                    cancel_by = now + CANCEL_SECONDS
                if cancel_by is not None and now >= cancel_by:
                    self._give_up(turn, channel)
                    return None
                await _stirred(self._stir, (min(deadline, look_at) if cancel_by is None else cancel_by) - now)
        finally:
            channel.forget(lose)

    def _give_up(self, turn: Turn, channel: Channel) -> None:
        """The agent goes on with a turn that was cancelled. A worker of ours makes room for a new one."""
        log.warning("session.cancel_ignored", channel=channel.name, turn=turn.id, after_seconds=CANCEL_SECONDS)
        self._replace(channel, Cause.CANCEL_IGNORED)

    def _replace(self, channel: Channel, cause: Cause) -> None:
        """The next turn gets another worker, unless this one is somebody else's."""
        if not self._pinned:
            self.channel = None
            self._home.stop(channel, cause, kill=True)

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
