"""What is going on, by server-sent events: what one channel's worker says, and the lives of all channels.

A reader names the last event it has got and goes on behind it. It takes what the feed's ring still holds, at its own
pace: what the ring dropped before it came to it is told by a ``gap`` event, and nobody waits for it.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import orjson
from aiohttp import hdrs, web
from pydantic import Field

from supervisor.auth import SEPARATOR, Principal
from supervisor.causes import Cause, Refusal
from supervisor.channels.hearing import TERMINAL
from supervisor.http.channels import CHANNEL, channel_of
from supervisor.http.principals import owns_turn, shown_name
from supervisor.http.queries import Listed, Query, read_query
from supervisor.http.request_keys import PRINCIPAL, note
from supervisor.http.sse import HEADERS, EventStream
from supervisor.http.streams import Streams

if TYPE_CHECKING:
    from supervisor.channels.channel import Channel
    from supervisor.channels.feed import Feed
    from supervisor.channels.table import ChannelTable
    from supervisor.turns.sessions import Sessions

LAST_EVENT_ID: Final = "Last-Event-ID"
NOW: Final = "now"
SHOWN: Final = 200  # of an id that is none of ours
PORTION: Final = 64 * 1024
WAIT_SECONDS: Final = 15.0  # after which a reader looks for itself whether it is to end
CATCH_UP_SECONDS: Final = 10.0  # for a worker to tell again what it told an earlier supervisor
TURN_SECONDS: Final = 0.5  # the same for one turn, whose end need not be in the feed: it may never have begun

ChannelEvent = Literal[
    "text",
    "thought",
    "tool_call",
    "tool_result",
    "source",
    "structured",
    "usage",
    "final",
    "error",
    "ready",
    "state",
    "signal",
    "bye",
    "gap",
    "ended",
]
LifeEvent = Literal["claimed", "adopted", "ready", "turn_begun", "turn_ended", "stopping", "gone"]
ABOUT_THE_STREAM: Final = frozenset({"gap", "ended"})  # no filter keeps them back

After = Annotated[
    str | None,
    Field(
        description=f"id of the last event that is known; {NOW}: only what is new. The header Last-Event-ID counts more"
    ),
]


class ChannelEventsQuery(Query):
    """Which events of one channel."""

    after: After = None
    types: Annotated[tuple[ChannelEvent, ...], Listed] = Field(
        (), description="only events of these types, and always gap and ended; none: all"
    )
    turn: str | None = Field(None, description="only events of this turn; the stream ends with it")


class LifeEventsQuery(Query):
    """Which events in the lives of channels."""

    after: After = None
    types: Annotated[tuple[LifeEvent, ...], Listed] = Field(
        (), description="only events of these types, and always gap; none: all"
    )
    channel: str | None = Field(None, description="only those of channels of this name")
    graph: str | None = Field(None, description="only those of channels of this graph")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events a reader wants: of these types (none: of all), whose data has these values.

    Of the lives of channels a `principal` is told only what exists for it.
    """

    types: frozenset[str]
    values: Mapping[str, str] = field(default_factory=dict)
    principal: Principal | None = None

    def shown(self, events: Iterable[bytes]) -> Iterable[bytes]:
        """Those of these encoded events that are wanted, as the reader may see them."""
        if self.principal is None:
            return filter(self.takes, events)
        return [seen for event in events if (seen := self._seen_by(event, self.principal)) is not None]

    def _seen_by(self, event: bytes, principal: Principal) -> bytes | None:
        kind, data = parts(event)
        if kind in ABOUT_THE_STREAM:
            return event
        read: dict[str, Any] = orjson.loads(data)
        space, _, name = read["channel"].rpartition(SEPARATOR)
        if (self.types and kind not in self.types) or not principal.sees(space, read["graph"]):
            return None
        if principal.user:
            user = principal.unbind(read["user"])
            read |= {"channel": name, "user": read["user"] if user is None else user}
        if any(read.get(key) != value for key, value in self.values.items()):
            return None
        return b"%b\nevent: %b\ndata: %b\n\n" % (event.partition(b"\n")[0], kind.encode(), orjson.dumps(read))

    def takes(self, event: bytes) -> bool:
        """Whether an encoded event is one of them."""
        kind, data = parts(event)
        if kind in ABOUT_THE_STREAM:
            return True
        return (not self.types or kind in self.types) and self.fits(data)

    def fits(self, data: bytes) -> bool:
        """Whether an event's data has the values."""
        if not self.values:
            return True
        read: dict[str, Any] = orjson.loads(data)
        return all(read.get(name) == value for name, value in self.values.items())

    def ends_with(self, event: bytes) -> bool:
        """Whether an encoded event ends the turn that is wanted."""
        kind, data = parts(event)
        return kind in TERMINAL and self.fits(data)


def parts(event: bytes) -> tuple[str, bytes]:
    """The type and the data of an event as a feed encodes it."""
    _, kind, data, _ = event.split(b"\n", 3)
    return kind.removeprefix(b"event: ").decode(), data.removeprefix(b"data: ")


class EventsApi:
    """The handlers of events."""

    def __init__(self, table: "ChannelTable", lives: "Feed", sessions: "Sessions", streams: Streams) -> None:
        """`lives` is the feed of what happens to channels."""
        self._table = table
        self._lives = lives
        self._sessions = sessions
        self._streams = streams

    def routes(self) -> list[web.RouteDef]:
        """The routes of this API."""
        return [web.get("/events", self.lives), web.get(f"{CHANNEL}/events", self.of_channel)]

    async def lives(self, request: web.Request) -> web.StreamResponse:
        """``GET /events``: what happens to channels."""
        query = read_query(LifeEventsQuery, request)
        values = query.model_dump(include={"channel", "graph"}, exclude_none=True)
        principal = request[PRINCIPAL]
        bound = bool(principal.user) or principal.graph is not None
        wanted = Wanted(frozenset(query.types), values, principal if bound else None)
        return await _Reader(self._lives, wanted, self._streams).relay(request, query.after)

    async def of_channel(self, request: web.Request) -> web.StreamResponse:
        """``GET /channels/{name}/events``: what its worker says, until the channel has ended."""
        channel = channel_of(request, self._table)
        query = read_query(ChannelEventsQuery, request)
        with contextlib.suppress(TimeoutError):  # else what the reader asks for cannot be told from what never was
            async with asyncio.timeout(CATCH_UP_SECONDS):
                await channel.feed.caught_up()
        if query.turn is None:
            reader = _Reader(channel.feed, Wanted(frozenset(query.types)), self._streams)
        else:
            reader = self._of_turn(request, channel, query.turn, frozenset(query.types))
            note(request, turn=query.turn)
        return await reader.relay(request, query.after)

    def _of_turn(self, request: web.Request, channel: "Channel", turn_id: str, types: frozenset[str]) -> "_Reader":
        wanted = Wanted(types, {"turn": turn_id})
        turn = self._sessions.find(turn_id)
        here = turn is not None and turn.channel in (None, channel) and owns_turn(request, turn)
        if not here and not any(wanted.fits(parts(event)[1]) for event in channel.feed.read(0)[1]):
            name = shown_name(request, channel.name)
            raise Refusal(Cause.TURN_UNKNOWN, f"channel {name!r} knows of no turn {turn_id[:64]!r}")
        return _Reader(channel.feed, wanted, self._streams, lambda: self._sessions.find(turn_id) is None)


class _Reader:
    """One response that is fed from a feed."""

    def __init__(self, feed: "Feed", wanted: Wanted, streams: Streams, over: Callable[[], bool] | None = None) -> None:
        """`over` tells of a reader who wants but one turn whether that is over."""
        self._feed = feed
        self._wanted = wanted
        self._streams = streams
        self._over = over

    async def relay(self, request: web.Request, after: str | None) -> web.StreamResponse:
        """Answer with the events behind the one the request names, else with all that are kept, and what follows."""
        if request.method == hdrs.METH_HEAD:
            return web.StreamResponse(headers=HEADERS)
        events = EventStream(request, self._streams)
        try:
            await events.open()
            await self._send_all(events, request.headers.get(LAST_EVENT_ID) or after)
            await events.close()
        finally:
            events.abandon()
        return events.response

    async def _send_all(self, events: EventStream, after: str | None) -> None:
        known = await self._begin(events, after)
        over = False
        while not over:
            known, over = await self._step(events, known)
            if not over:
                await self._streams.pause(self._feed.wait(known), WAIT_SECONDS if self._over is None else TURN_SECONDS)

    async def _begin(self, events: EventStream, after: str | None) -> int:
        """The place behind which to begin."""
        if not after:
            return 0
        if after == NOW:
            return self._feed.last
        place = self._feed.place(after)
        if place is None:  # of another life, or none at all: all that is kept may be new
            gap = self._feed.read(0)[0]
            place = 0 if gap is None else gap.last
            await events.send([self._gap(after[:SHOWN].encode(errors="replace").decode(), place)])
        return place

    async def _step(self, events: EventStream, known: int) -> tuple[int, bool]:
        """Send some of what is there; up to which place, and whether that was the last of it."""
        last = self._is_last()  # before reading, so that what came until then is read
        gap, found = self._feed.read(known)
        portion, known = self._portion(found, known)
        sent = [] if gap is None else [self._gap(self._feed.show(gap.first), gap.last)]
        sent += self._wanted.shown(portion)
        if sent:
            await events.send(sent)
        done = self._over is not None and any(map(self._wanted.ends_with, portion))
        return known, done or (last and len(portion) == len(found))

    def _portion(self, found: list[bytes], known: int) -> tuple[list[bytes], int]:
        """As much as one that is slow may have waiting for it, and the place up to which that goes."""
        size = 0
        for count, event in enumerate(found, 1):
            size += len(event)
            place = self._feed.place(event[len(b"id: ") : event.index(b"\n")].decode()) if size >= PORTION else None
            if place is not None:
                return found[:count], place
        return found, max(known, self._feed.last)  # which a feed that is behind has yet to reach

    def _is_last(self) -> bool:
        is_over = self._over is not None and not self._feed.behind and self._over()
        return self._feed.closed or self._streams.closing.is_set() or is_over

    def _gap(self, since: str, until: int) -> bytes:
        return self._feed.encode("gap", {"from": since, "to": self._feed.show(until)}, until)
