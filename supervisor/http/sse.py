"""Server-sent events over a chunked response: one event, one chunk; many chunks, one write.

aiohttp's own `write` makes a system call's worth of work for each chunk. Here all events that are ready leave in one
write to the transport, each still a chunk of its own, since some clients read an event per chunk.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from aiohttp import HttpVersion11, hdrs, web

from supervisor.http.streams import Streams

KEEP_ALIVE_SECONDS: Final = 15.0
HIGH_WATER: Final = 64 * 1024
COMMENT: Final = b": keep-alive\n\n"
HEADERS: Final = {
    hdrs.CONTENT_TYPE: "text/event-stream; charset=utf-8",
    hdrs.CACHE_CONTROL: "no-cache",
    "X-Accel-Buffering": "no",
}


class EventStream:
    """One response of events. `open`, then `send` as often as needed, then `close`; `abandon` in any case."""

    def __init__(
        self,
        request: web.Request,
        streams: Streams,
        keep_alive: bytes = COMMENT,
    ) -> None:
        self.response = web.StreamResponse(headers=HEADERS)
        self._request = request
        self._streams = streams
        self._keep_alive = keep_alive
        self._chunked = request.version >= HttpVersion11
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._wrote_at = 0.0

    async def open(self) -> None:
        """Send the head. Raises ConnectionError when the client is gone."""
        if not self._chunked:
            self.response.force_close()  # nothing else tells where the body ends
        await self.response.prepare(self._request)
        self._transport = self._request.transport
        self._wrote_at = self._loop.time()
        self._timer = self._loop.call_later(KEEP_ALIVE_SECONDS, self._tick)

    async def send(self, events: Sequence[bytes]) -> None:
        """Send events, each in a chunk of its own; wait while the client has much to read.

        Raises ConnectionError when the client is gone, or takes nothing for too long.
        """
        if not events:  # some that this API does not tell of: as silent to the client as none
            return
        transport = self._write(events)
        if transport.get_write_buffer_size() >= HIGH_WATER:
            await self._streams.drain(self._request)

    async def close(self) -> None:
        """End the body; the connection stays usable."""
        self.abandon()
        await self._streams.finish(self._request, self.response.write_eof())

    def abandon(self) -> None:
        """Send no more keep-alives."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _write(self, events: Sequence[bytes]) -> asyncio.Transport:
        transport = self._transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        if self._chunked:
            transport.write(b"".join([b"%x\r\n%b\r\n" % (len(event), event) for event in events]))
        else:
            transport.write(b"".join(events))
        self._wrote_at = self._loop.time()
        return transport

    def _tick(self) -> None:
        """Also how it is noticed that a client has gone without a word."""
        now = self._loop.time()
        quiet = now - self._wrote_at
        if quiet >= KEEP_ALIVE_SECONDS:
            quiet = 0.0
            if self._transport is None or self._transport.is_closing():
                return
            self._write((self._keep_alive,))
        self._timer = self._loop.call_later(KEEP_ALIVE_SECONDS - quiet, self._tick)
