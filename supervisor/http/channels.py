"""agentd's own API for channels: look at them, stop them, read their logs. Real statuses, plain JSON."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import structlog
from aiohttp import hdrs, web

from supervisor.causes import Cause, Refusal
from supervisor.http.logtail import LogReader
from supervisor.http.owned import OwnedTasks
from supervisor.http.replies import native
from supervisor.http.request_keys import note
from supervisor.http.streams import Streams

if TYPE_CHECKING:
    from supervisor.channels.channel import Channel
    from supervisor.channels.table import ChannelTable
    from supervisor.processes.monitor import Sample
    from supervisor.settings import Settings

log = structlog.get_logger()

CHANNEL: Final = "/channels/{name:[^/]+}"  # without the pattern a name with braces would not match
SAMPLE_SECONDS: Final = 2.0
POLL_SECONDS: Final = 0.25
MAX_TAIL: Final = 1_000_000
SWITCHES: Final[Mapping[str, bool]] = {"1": True, "true": True, "0": False, "false": False}


Sampler = Callable[[Sequence["Channel"]], Awaitable[Mapping[str, "Sample"]]]


def channel_json(channel: "Channel", sample: "Sample | None", monotonic: float, wall: float) -> dict[str, Any]:
    """One channel as the native API shows it; times in seconds, None: never, or not known. Pure."""
    lease = channel.lease
    return {
        "name": channel.name,
        "id": channel.id,
        "graph": channel.graph_name,
        "state": channel.state.value,
        "health": channel.health,
        "pid": channel.pid,
        "created_at": channel.created_at,
        "age_seconds": max(0.0, wall - channel.created_at),
        "last_ping_seconds": None if lease.last_ping is None else monotonic - lease.last_ping,
        "lease_seconds": None if math.isinf(lease.timeout) else lease.timeout,
        "time_left_seconds": lease.remaining(monotonic),
        "rss_bytes": None if sample is None else sample.rss_bytes,
        "cpu_percent": None if sample is None else sample.cpu_percent,
        "processes": None if sample is None else sample.processes,
    }


class ChannelsApi:
    """The handlers below ``/channels``."""

    def __init__(self, settings: "Settings", table: "ChannelTable", sample: Sampler, owned: OwnedTasks) -> None:
        self._table = table
        self._sample = sample
        self._owned = owned
        self._logs_to_stdout = settings.log_stdout
        self._streams = Streams()

    def routes(self) -> list[web.RouteDef]:
        """The routes of this API."""
        return [
            web.get("/channels", self.list_all),
            web.get(CHANNEL, self.show),
            web.delete(CHANNEL, self.stop),
            web.get(f"{CHANNEL}/logs", self.logs),
        ]

    def close(self) -> None:
        """End all streams."""
        self._streams.close()

    async def list_all(self, _: web.Request) -> web.Response:
        """``GET /channels``: every channel there is, starting and stopping ones too."""
        return native({"channels": await self._described(self._table.all())})

    async def show(self, request: web.Request) -> web.Response:
        """``GET /channels/{name}``."""
        [described] = await self._described([self._channel(request)])
        return native(described)

    async def stop(self, request: web.Request) -> web.Response:
        """``DELETE /channels/{name}``: with grace, or with ``?kill=1`` without; answers the receipt."""
        name = _name(request)
        kill = _switch(request, "kill")
        cause = Cause.KILLED if kill else Cause.STOPPED
        receipt = await self._owned.finish(self._table.stop(name, cause=cause, kill=kill))
        return native({"name": name, "receipt": None if receipt is None else asdict(receipt)})

    async def logs(self, request: web.Request) -> web.StreamResponse:
        """``GET /channels/{name}/logs``: the last `tail` lines, with ``follow=1`` until the channel ends."""
        channel = self._channel(request)
        tail, follow = _tail(request), _switch(request, "follow")
        if self._logs_to_stdout:
            raise Refusal(Cause.NOT_FOUND, "LOG_STDOUT is set: the workers' output goes to the server's own output")
        response = web.StreamResponse(
            headers={hdrs.CONTENT_TYPE: "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"}
        )
        if request.method == hdrs.METH_HEAD:
            return response
        with LogReader(channel.log_file) as reader:
            await asyncio.to_thread(reader.open, tail)
            await response.prepare(request)
            while True:
                # decided before the last read, so that it also gets what was written up to the end
                last = not follow or self._streams.closing.is_set() or self._table.get(channel.name) is not channel
                while data := reader.read():
                    await self._streams.finish(request, response.write(data))
                    await asyncio.sleep(0)  # a write does not yield while its buffer has room
                if last or request.transport is None:
                    break
                await self._pause()
            await self._streams.finish(request, response.write_eof())
        return response

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await self._streams.closing.wait()
        except TimeoutError:
            return

    def _channel(self, request: web.Request) -> "Channel":
        name = _name(request)
        channel = self._table.get(name)
        if channel is None:
            raise Refusal(Cause.CHANNEL_UNKNOWN, f"no channel {name!r} is running")
        return channel

    async def _described(self, channels: Sequence["Channel"]) -> list[dict[str, Any]]:
        samples: Mapping[str, Sample] = {}
        try:
            async with asyncio.timeout(SAMPLE_SECONDS):
                samples = await self._sample(channels)
        except TimeoutError:
            log.warning("sample.late", channels=len(channels), after_seconds=SAMPLE_SECONDS)
        monotonic, wall = time.monotonic(), time.time()
        return [channel_json(channel, samples.get(channel.id), monotonic, wall) for channel in channels]


def _name(request: web.Request) -> str:
    name = request.match_info["name"]
    note(request, channel=name)
    return name


def _switch(request: web.Request, key: str) -> bool:
    value = request.query.get(key, "0")
    if value not in SWITCHES:
        raise Refusal(Cause.BODY_INVALID, f"{key} is {value[:64]!r}; allowed are {', '.join(SWITCHES)}")
    return SWITCHES[value]


def _tail(request: web.Request) -> int | None:
    value = request.query.get("tail")
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) <= 7 and int(value) <= MAX_TAIL):
        raise Refusal(Cause.BODY_INVALID, f"tail is {value[:64]!r}; it must be an integer from 0 to {MAX_TAIL}")
    return int(value)
