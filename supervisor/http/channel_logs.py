"""A channel's log by HTTP: its last lines, and what is added to it until the channel ends."""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated, Any, Final

from aiohttp import hdrs, web
from pydantic import Field

from supervisor.causes import Cause, Refusal
from supervisor.http.channels import CHANNEL, channel_of
from supervisor.http.logtail import LogReader
from supervisor.http.queries import Integer, Query, Switch, read_query
from supervisor.http.streams import Streams

if TYPE_CHECKING:
    from supervisor.channels.table import ChannelTable
    from supervisor.settings import Settings

POLL_SECONDS: Final = 0.25
MAX_TAIL: Final = 1_000_000


class LogsQuery(Query):
    """Which part of a log."""

    tail: Annotated[int, Field(ge=0, le=MAX_TAIL), Integer] | None = Field(
        None, description="the last lines; none: all"
    )
    follow: Switch = Field(False, description="go on until the channel ends")


class LogsApi:
    """The handler of logs."""

    def __init__(self, settings: "Settings", table: "ChannelTable", streams: Streams) -> None:
        self._table = table
        self._streams = streams
        self._logs_to_stdout = settings.log_stdout

    def routes(self) -> list[web.RouteDef]:
        """The routes of this API."""
        return [web.get(f"{CHANNEL}/logs", self.logs)]

    async def logs(self, request: web.Request) -> web.StreamResponse:
        """``GET /channels/{name}/logs``: the last `tail` lines, with ``follow=1`` until the channel ends."""
        channel = channel_of(request, self._table)
        query = read_query(LogsQuery, request)
        if self._logs_to_stdout:
            raise Refusal(Cause.NOT_FOUND, "LOG_STDOUT is set: the workers' output goes to the server's own output")
        response = web.StreamResponse(
            headers={hdrs.CONTENT_TYPE: "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"}
        )
        if request.method == hdrs.METH_HEAD:
            return response
        with LogReader(channel.log_file) as reader:
            await _to_its_end(asyncio.to_thread(reader.open, query.tail))
            await response.prepare(request)
            while True:
                # decided before the last read, so that it also gets what was written up to the end
                last = not query.follow or self._streams.closing.is_set()
                last = last or self._table.get(channel.name) is not channel
                while data := reader.read():
                    await self._streams.finish(request, response.write(data))
                    await asyncio.sleep(0)  # a write does not yield while its buffer has room
                if last or request.transport is None:
                    break
                await self._streams.pause(self._streams.closing.wait(), POLL_SECONDS)
            await self._streams.finish(request, response.write_eof())
        return response


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Await work in a thread, also if we are cancelled: what it uses must not be closed meanwhile."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    finally:
        if not task.done():
            await asyncio.wait({task})
