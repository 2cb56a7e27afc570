"""One turn: from the request to its ending, and the events between them for one reader.

The reader's pace is the worker's: what the reader has not taken is not acknowledged, and a worker with too much of that
waits. A turn whose reader is gone is cancelled; what the worker still says of it is dropped.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

from supervisor.causes import EXPLANATIONS, Cause, Refusal
from supervisor.channels.channel import Channel
from supervisor.turns.requests import TurnRequest
from supervisor.turns.transcript import Event, Transcript

# A worker waits by itself when so much is not acknowledged; one that does not is not read.
MOST_WAITING: Final = 4096
MOST_BYTES: Final = 4 * 1024 * 1024

SETTLE_SECONDS: Final = 2.0
MAX_DETAIL: Final = 2000
MAX_KIND: Final = 200

# What a worker may say of why it ended a turn badly.
SAID: Final = frozenset(
    {Cause.AGENT_ERROR, Cause.NOT_IMPLEMENTED, Cause.RESPONSE_INVALID, Cause.TURN_CANCELLED, Cause.BODY_INVALID}
)


class Item(NamedTuple):
    """One event for the reader: as a value, and as an encoded server-sent event."""

    event: Event
    encoded: bytes


@dataclass(frozen=True, slots=True)
class TurnEnding:
    """How a turn ended: COMPLETED or why not, what the agent's error was called, how long it took."""

    cause: Cause
    detail: str = ""
    kind: str = ""
    ms: float = 0.0

    @property
    def completed(self) -> bool:
        """Whether it ended well."""
        return self.cause is Cause.COMPLETED

    def as_event(self, turn_id: str) -> Event:
        """The event that tells of it."""
        event: Event = {"turn": turn_id, "type": "final" if self.completed else "error", "cause": self.cause.value}
        if not self.completed:
            event |= {"kind": self.kind, "message": self.detail, "next_step": EXPLANATIONS[self.cause].next_step}
        return event | {"ms": self.ms}


class Turn:
    """One turn. Made by `Sessions.begin`; its session carries it out, one reader takes its events."""

    def __init__(self, turn_id: str, request: TurnRequest, wake: Callable[[], None]) -> None:
        """`wake` tells the session that the turn shall end."""
        self.id = turn_id
        self.request = request
        self.channel: Channel | None = None
        self.transcript = Transcript()
        self.state: dict[str, Any] | None = None
        self.ending: TurnEnding | None = None  # once the reader may know
        self.verdict: TurnEnding | None = None  # once it is known
        self.concluded: tuple[TurnEnding, Item] | None = None  # once those who watch the channel know
        self.wish: tuple[Cause, str] | None = None  # why somebody wants it to end
        self.said: Event | None = None  # the worker's last event of it
        self.is_lost = False  # its worker never heard of it
        self.adopted_after: float | None = None  # seconds that it had run when it was taken over
        self.recorded = False  # its beginning is in the store
        self.is_beheaded = False  # it was taken over, and its worker cannot tell its beginning any more
        self._after = 0
        self._kept: asyncio.Future[None] | None = None  # done once what is kept of its answer is on record
        self.left = False  # the server is gone for it; its worker goes on
        self.is_called = False  # no earlier turn of the session is before it
        self.events = 0
        self.closing = False  # the session waits for the reader to take the rest
        self.began_at = time.time()
        self.begun = time.monotonic()
        self._wake = wake
        self._items: list[tuple[int, Event, bytes]] = []
        self._bytes = 0
        self._last: Item | None = None
        self._reading = True
        self._hurried = False
        self.dropped = 0  # events that the reader was not given
        self._taken = False  # what was taken last is not read yet
        self.over = False  # the reader has got the last event
        self._waiting: asyncio.Future[None] | None = None
        loop = asyncio.get_running_loop()
        self._admitted: asyncio.Future[None] = loop.create_future()
        self._started: asyncio.Future[None] = loop.create_future()
        self._done: asyncio.Future[None] = loop.create_future()
        self._retold: asyncio.Future[None] = loop.create_future()

    def take_over(self, channel: Channel, began_at: float, begun: float | None, *, after: int, read: bool) -> None:
        """It was asked by an earlier supervisor, whose reader is gone, when that had heard the worker's frame `after`.

        That was at `began_at` by the wall clock, at `begun` by the monotonic one if that is known. Unless somebody is
        to `read` it from its beginning, what it answers is only collected.
        """
        self._after = after
        if not read:
            self.skip()
        # A wall clock that was set in the meantime would have it be out of time, or never.
        self.adopted_after = max(0.0, time.time() - began_at if begun is None else time.monotonic() - begun)
        self.began_at = began_at
        self.begun -= self.adopted_after
        self.recorded = self.request.store
        self.admit()
        self.start(channel)

    # ------------------------------------------------------------------ for the reader

    async def admitted(self) -> None:
        """Wait until nothing of ours is in its way: it is its turn, it is on record, and its channel has a slot.

        Raises Refusal when that does not come to be. How long its worker then takes to start is not waited for.
        """
        await asyncio.shield(self._admitted)

    async def started(self) -> None:
        """Wait until the worker was asked. Raises Refusal when that cannot be."""
        await asyncio.shield(self._started)

    async def told_again(self) -> None:
        """Wait until the worker of one that was taken over begins to tell it again, or it has ended."""
        await asyncio.shield(self._retold)

    def keep(self) -> None:
        """What it answers is kept by somebody, who says so when that is on record (`release`)."""
        self._kept = asyncio.get_running_loop().create_future()

    def release(self) -> None:
        """What is kept of it is on record, or will not be."""
        if self._kept is not None and not self._kept.done():
            self._kept.set_result(None)

    async def done(self) -> TurnEnding:
        """Wait until it has ended, without reading; what it says is only collected."""
        self.skip()
        return await self.ended_by()

    async def ended_by(self) -> TurnEnding:
        """Wait until it has ended, whoever reads it."""
        await asyncio.shield(self._done)
        if self.ending is None:
            raise RuntimeError("a turn is done without an ending")
        return self.ending

    def take(self) -> list[Item]:
        """All events that are there, in order; the very last is ``final`` or ``error``, and then it is `over`.

        What was taken before counts as read now, and the worker may say more.
        """
        if self._items:
            items, self._items, self._bytes = self._items, [], 0
            if self._taken:
                self._release(items[0][0])
            self._taken = True
            return [Item(event, encoded) for _, event, encoded in items]
        if self._taken:
            self._taken = False
            self._release(None)
        if self._last is not None and not self.over:
            self.over = True
            return [self._last]
        return []

    async def wait(self) -> None:
        """Return when there is something to take, or nothing follows."""
        if self._items or self._taken or self.over or self._last is not None:
            return
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            await self._waiting
        finally:
            self._waiting = None

    def cancel(self, cause: Cause, detail: str = "") -> None:
        """Let it end soon, for this cause; the first one counts. One that has ended is left alone."""
        if self.wish is None and self.ending is None:
            self.wish = (cause, detail or EXPLANATIONS[cause].message)
            self._wake()

    def leave(self) -> None:
        """The reader goes. A turn that has not ended is cancelled."""
        self.skip()
        self.cancel(Cause.CLIENT_GONE)

    def hurry(self) -> None:
        """The worker need not wait for the reader any more, who gets what is there, and the count of what is not."""
        self._hurried = True
        self._release(None)

    def skip(self) -> None:
        """Collect the events, keep none for a reader."""
        self._reading = self._taken = False
        self._items.clear()
        self._bytes = 0
        self._release(None)

    # ------------------------------------------------------------------ for the session

    @property
    def ended(self) -> bool:
        """Whether it is over for everybody."""
        return self.ending is not None

    @property
    def held_up(self) -> bool:
        """Whether the reader is what the worker waits for."""
        return bool(self._items) or self._taken

    @property
    def ms(self) -> float:
        """Its age in milliseconds."""
        return round((time.monotonic() - self.begun) * 1000, 1)

    def go_ahead(self) -> None:
        """Raise Refusal with the cause if somebody wants it to end already."""
        if self.wish is not None:
            raise Refusal(*self.wish)

    def call(self) -> None:
        """It is its turn now."""
        self.is_called = True

    def admit(self) -> None:
        """It is on record and has a channel, whose worker may not be ready yet."""
        if not self._admitted.done():
            self._admitted.set_result(None)

    def start(self, channel: Channel) -> None:
        """The worker is asked now."""
        self.channel = channel
        if not self._started.done():
            self._started.set_result(None)

    def refuse(self, refusal: Refusal) -> None:
        """It cannot be: whoever waits for its start is told why."""
        self.ending = self.verdict = ending = TurnEnding(refusal.cause, refusal.detail, ms=self.ms)
        event = ending.as_event(self.id)
        self._last = Item(event, b"event: error\ndata: %b\n\n" % orjson.dumps(event))  # should a stream have begun
        for waited_for in (self._admitted, self._started):
            if not waited_for.done():
                waited_for.set_exception(refusal)
                waited_for.exception()  # nobody may be waiting
        self._finish()

    def leave_behind(self) -> None:
        """The server goes, the worker stays with the turn: whoever waits here is told to ask the successor."""
        if self.ending is None:
            self.left = True
            self.refuse(Refusal(Cause.SHUTTING_DOWN))

    def end(self, ending: TurnEnding, last: Item) -> None:
        """It is over; `last` is the event that tells the reader."""
        self.ending = self.verdict = ending
        self._last = last
        self._finish()

    async def settled(self) -> None:
        """Wait until what is kept of it is on record, SETTLE_SECONDS at most: a reader may take nothing."""
        if self._kept is not None:
            await asyncio.wait({self._kept}, timeout=SETTLE_SECONDS)

    def _finish(self) -> None:
        if not self._retold.done():
            self._retold.set_result(None)
        if not self._done.done():
            self._done.set_result(None)
        self._notify()

    # ------------------------------------------------------------------ from the worker

    def on_event(self, number: int, event: Event, encoded: bytes) -> None:
        """Take an event that is not the last one: the hottest path."""
        self.events += 1
        self.transcript.add(event)
        if not self._reading:
            return
        items = self._items
        if self._hurried:
            self._keep(number, event, encoded)
            return
        if not items and not self._taken and self.channel is not None:
            self.channel.asking.hold(number)
        items.append((number, event, encoded))
        self._bytes += len(encoded)
        if self._waiting is not None:
            self._notify()
        if (len(items) >= MOST_WAITING or self._bytes >= MOST_BYTES) and self.channel is not None:
            self.channel.asking.pause()

    def _keep(self, number: int, event: Event, encoded: bytes) -> None:
        """Keep an event for the reader as long as there is room: the worker waits no more, and its end is near."""
        if len(self._items) < MOST_WAITING and self._bytes < MOST_BYTES:
            self._items.append((number, event, encoded))
            self._bytes += len(encoded)
            self._notify()
        else:
            self.dropped += 1

    def on_end(self, event: Event, state: Any) -> None:
        """The worker ended it."""
        if self.said is None:
            self.said = event
            self.transcript.add(event)
            if isinstance(state, dict):
                self.state = state
            self._wake()

    def on_unknown(self) -> None:
        """The worker does not know of it: its question was lost with an earlier supervisor."""
        if self.said is None and not self.is_lost:
            self.is_lost = True
            self._wake()

    def on_retold(self, last: int) -> None:
        """The worker tells again what came after this frame; what of the turn was before it is lost."""
        if self.adopted_after is not None and last > self._after:
            self.is_beheaded = True
            self.transcript.gaps += last - self._after
        if not self._retold.done():
            self._retold.set_result(None)

    def on_gap(self, lost: int) -> None:
        """Frames of the worker were lost; the reader sees it by the count at the end."""
        self.transcript.gaps += lost

    def _release(self, held: int | None) -> None:
        """The frames before `held` are read; None: all are."""
        if self.channel is not None and not self.ended:
            asking = self.channel.asking
            asking.taken(None if self._hurried else held)
            asking.go_on()
            if self.closing and held is None:
                self._wake()

    def _notify(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


def ending_of(turn: Turn, lost: tuple[Cause, str] | None) -> TurnEnding:
    """How a turn ended: by what the worker said, by what somebody wanted, or with its worker (`lost`)."""
    said = turn.said
    if said is not None and said["type"] == "final":
        return TurnEnding(Cause.COMPLETED, ms=turn.ms)
    if turn.is_lost:
        return TurnEnding(Cause.SERVER_LOST, "the server was lost before its worker was asked", ms=turn.ms)
    if turn.wish is not None:
        return TurnEnding(*turn.wish, ms=turn.ms)
    if lost is not None and (said is None or said["cause"] == Cause.TURN_CANCELLED):
        return TurnEnding(*lost, ms=turn.ms)
    if said is not None and said["cause"] in SAID:
        kind = str(said.get("kind", ""))[:MAX_KIND]
        return TurnEnding(Cause(said["cause"]), said["message"][:MAX_DETAIL], kind, turn.ms)
    detail = f"the worker ended the turn for {said and said['cause']!r:.100}"
    return TurnEnding(Cause.RESPONSE_INVALID, detail, ms=turn.ms)


def last_item(turn: Turn, channel: Channel, ending: TurnEnding) -> Item:
    """The event that tells the reader how the turn ended."""
    event = ending.as_event(turn.id)
    if lost := turn.transcript.gaps + turn.dropped:
        event["lost"] = lost
    if ending.completed and turn.transcript.has_value:
        event["value"] = turn.transcript.value
    return Item(event, channel.feed.publish(event["type"], event))
