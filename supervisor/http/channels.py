"""agentd's own API for channels: start them, look at them, give them new properties, stop them.

Real statuses, plain JSON (docs/http.md).
"""

import asyncio
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol
from urllib.parse import quote

import structlog
from aiohttp import hdrs, web
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from supervisor.causes import Cause, Refusal
from supervisor.channels.lifecycle import State
from supervisor.channels.requests import MAX_NAME_BYTES, StartRequest
from supervisor.http import bodies
from supervisor.http.channel_views import channel_json, last_life, nodes_json
from supervisor.http.faults import checked
from supervisor.http.intake import read_object
from supervisor.http.owned import OwnedTasks
from supervisor.http.principals import as_named, check_graph, found, owner_of, shown_name, visible
from supervisor.http.queries import Query, Switch, read_query
from supervisor.http.replies import native, refused
from supervisor.http.request_keys import PRINCIPAL, REQUEST_ID, note
from supervisor.options import LIMIT_RANGES
from supervisor.property import check_overridable
from supervisor.store.errors import StoreError
from supervisor.turns.requests import MAX_KEY_BYTES

if TYPE_CHECKING:
    from supervisor.channels.channel import Channel
    from supervisor.channels.table import ChannelTable
    from supervisor.http.ledger import Records
    from supervisor.processes.monitor import Sample
    from supervisor.settings import Settings
    from supervisor.turns.turn import Turn

log = structlog.get_logger()

CHANNEL: Final = "/channels/{name:[^/]+}"  # without the pattern a name with braces would not match
SAMPLE_SECONDS: Final = 2.0
LAST_SECONDS: Final = 1.0  # for the ledger, when somebody asks for a channel that is not there
READABLE: Final = 40  # of a name that is made up: what is taken from the graph's
MAX_TIMEOUT: Final = 2**31 - 1

# As `check_channel_name` has it, but for the size, which it counts in bytes.
NAME_PATTERN: Final = r"^(?!\.)(?![\s\S]*\.\.)(?!\s*$)[^/\\\u0000]+$"
NAME_SCHEMA: Final = {"type": ["string", "null"], "pattern": NAME_PATTERN, "maxLength": MAX_NAME_BYTES}
LIMITS_SCHEMA: Final = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        name: {"type": ["integer", "null"], "minimum": low, "maximum": high}
        for name, (low, high) in LIMIT_RANGES.items()
    },
}

Sampler = Callable[[Sequence["Channel"]], Awaitable[Mapping[str, "Sample"]]]
Overrides = dict[str, dict[str, Any] | None]


class Turns(Protocol):
    """Who knows which turns are under way."""

    def running(self) -> "Mapping[str, Turn]":
        """The turn each channel is at, by the channel's id."""


class ChannelBody(BaseModel):
    """A channel to start."""

    model_config = ConfigDict(extra="forbid", strict=True)

    graph: str = Field(min_length=1, description="the graph its worker runs")
    name: Annotated[str | None, WithJsonSchema(NAME_SCHEMA)] = Field(
        None, description="its name, at most 100 bytes; none: a readable one is made up"
    )
    user: str = Field("", max_length=MAX_KEY_BYTES, description="whose conversation it carries")
    session: str | None = Field(
        None, min_length=1, max_length=MAX_KEY_BYTES, description="which one; none: one of the channel's own"
    )
    timeout: int | None = Field(
        None, ge=-1, le=MAX_TIMEOUT, description="its lease in seconds; -1: for ever; none or 0: the server's default"
    )
    properties: Overrides = Field({}, description="overrides {node: {property: value}}, at most 1 MiB of JSON")
    limits: Annotated[dict[str, Any], WithJsonSchema(LIMITS_SCHEMA)] = Field(
        {}, description="limits lower than those of the settings and the graph"
    )


class StopQuery(Query):
    """How a channel is stopped."""

    kill: Switch = Field(False, description="at once, without grace")


class ChannelsApi:
    """The handlers of channels, but for their logs, events and turns."""

    def __init__(
        self,
        settings: "Settings",
        table: "ChannelTable",
        sample: Sampler,
        owned: OwnedTasks,
        turns: Turns,
        records: "Records",
    ) -> None:
        self._table = table
        self._sample = sample
        self._owned = owned
        self._turns = turns
        self._records = records
        self._body_limit = settings.body_limit_bytes
        self._settings = settings

    def routes(self) -> list[web.RouteDef]:
        """The routes of this API."""
        return [
            web.get("/channels", self.list_all),
            web.post("/channels", self.start),
            web.get(CHANNEL, self.show),
            web.delete(CHANNEL, self.stop),
            web.patch(f"{CHANNEL}/properties", self.update),
        ]

    async def list_all(self, request: web.Request) -> web.Response:
        """``GET /channels``: every channel there is, starting and stopping ones too."""
        return native({"channels": await self._described(request, visible(request, self._table.all()))})

    async def start(self, request: web.Request) -> web.Response:
        """``POST /channels``: answers when the worker is ready; a client that hangs up does not undo the start."""
        body = checked(ChannelBody, await read_object(request, self._body_limit, bodies.parse_start))
        name = made_up(body.graph) if body.name is None else bodies.require_channel({"channel_name": body.name})
        note(request, channel=name)
        check_graph(request, body.graph)
        wanted = StartRequest(
            channel_name=name,
            graph_name=body.graph,
            timeout=body.timeout,
            properties=bodies.read_overrides({"properties": body.properties}),
            limits=bodies.read_limits({"limits": body.limits}),
            request_id=request[REQUEST_ID],
            user=request[PRINCIPAL].bind(body.user),
            session=body.session,
            source="native",
            owner=owner_of(request),
        )
        channel = await self._owned.finish(self._start(wanted))
        response = native(await self._shown(request, channel))
        response.set_status(201)
        response.headers[hdrs.LOCATION] = f"/channels/{quote(name, safe='')}"
        return response

    async def _start(self, wanted: StartRequest) -> "Channel":
        """A session has one worker at most; nothing is awaited between the look and the table's claim."""
        if wanted.session is not None:
            other = self._table.of_session(wanted.graph_name, wanted.user, wanted.session)
            if other is not None:
                shown = wanted.owner.shown(other.name)
                raise Refusal(Cause.CHANNEL_EXISTS, f"session {wanted.session!r} has channel {shown!r} already")
        return await self._table.start(wanted)

    async def show(self, request: web.Request) -> web.Response:
        """``GET /channels/{name}``; of one that has ended the refusal tells its ending."""
        try:
            channel = channel_of(request, self._table)
        except Refusal as refusal:
            return refused(refusal, request.path, strict=False, more={"last": await self._last(request)})
        return native(await self._shown(request, channel))

    async def update(self, request: web.Request) -> web.Response:
        """``PATCH /channels/{name}/properties``: new properties for nodes of a live worker; all are taken, or none."""
        channel = channel_of(request, self._table)
        changes = bodies.read_overrides({"properties": await read_object(request, self._body_limit)})
        if self._settings.overridable is not None:
            check_overridable(changes, self._settings.overridable)
        if channel.state is not State.RUNNING:
            raise Refusal(Cause.CHANNEL_UNKNOWN, f"channel {_name(request)!r} is {channel.state.value}")
        if changes:
            await self._owned.finish(channel.asking.update(changes))
        return native({"name": _name(request), "nodes": nodes_json(channel)})

    async def stop(self, request: web.Request) -> web.Response:
        """``DELETE /channels/{name}``: with grace, or with ``?kill=1`` without; answers the receipt."""
        kill = read_query(StopQuery, request).kill
        channel = channel_of(request, self._table)
        cause = Cause.KILLED if kill else Cause.STOPPED
        note(request, cause=cause.value)
        receipt = await self._owned.finish(self._table.stop(channel.name, cause=cause, kill=kill))
        return native({"name": _name(request), "receipt": None if receipt is None else asdict(receipt)})

    async def _shown(self, request: web.Request, channel: "Channel") -> dict[str, Any]:
        [described] = await self._described(request, [channel])
        return {**described, "nodes": nodes_json(channel)}

    async def _described(self, request: web.Request, channels: Sequence["Channel"]) -> list[dict[str, Any]]:
        samples: Mapping[str, Sample] = {}
        try:
            async with asyncio.timeout(SAMPLE_SECONDS):
                samples = await self._sample(channels)
        except TimeoutError:
            log.warning("sample.late", channels=len(channels), after_seconds=SAMPLE_SECONDS)
        turns = self._turns.running()
        monotonic, wall = time.monotonic(), time.time()
        return [
            {
                **channel_json(channel, samples.get(channel.id), turns.get(channel.id), monotonic, wall),
                "name": shown_name(request, channel.name),
                "user": as_named(request, channel.user),
            }
            for channel in channels
        ]

    async def _last(self, request: web.Request) -> dict[str, Any] | None:
        """How the last channel of this name ended, None when that is not known (in time)."""
        name = owner_of(request).qualified(_name(request))
        try:
            async with asyncio.timeout(LAST_SECONDS):
                rows = await self._records.ledger(channel=name, graph=request[PRINCIPAL].graph, open=False, limit=1)
        except (StoreError, TimeoutError) as error:
            log.info("ledger.unread", channel=name, error=str(error) or "late")
            return None
        return last_life({**rows[0], "user": as_named(request, rows[0]["user"])}) if rows else None


def made_up(graph: str) -> str:
    """A name for a channel that was given none: readable, and hardly ever taken."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", graph)[:READABLE].strip("-") or "channel"
    return f"{readable}-{secrets.token_hex(4)}"


def channel_of(request: web.Request, table: "ChannelTable") -> "Channel":
    """The channel that the request's path names. Raises Refusal(CHANNEL_UNKNOWN)."""
    return found(request, table, _name(request))


def _name(request: web.Request) -> str:
    name = request.match_info["name"]
    note(request, channel=name)
    return name
