"""Server-sent events over a chunked response: one event, one chunk; many chunks, one write.

aiohttp's own `write` makes a system call's worth of work for each chunk. Here all events that are ready leave in one
write to the transport, each still a chunk of its own, since some clients read an event per chunk.
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from aiohttp import HttpVersion11, hdrs, web

from supervisor.http.streams import Streams

KEEP_ALIVE_SECONDS: Final = 15.0
HIGH_WATER: Final = 64 * 1024
COMMENT: Final = b": keep-alive\n\n"
NO_CACHE: Final = "no-cache"
HEADERS: Final = {
    hdrs.CONTENT_TYPE: "text/event-stream; charset=utf-8",
    hdrs.CACHE_CONTROL: NO_CACHE,
    "X-Accel-Buffering": "no",
}


class Pace(NamedTuple):
    """At most so many bytes in so many seconds, but an event that is longer by itself.

    For clients that take what they read at once for whole events: what is written faster than they read comes to them
    in pieces as large as their buffer, which end anywhere.
    """

    size: int
    seconds: float


class EventStream:
    """One response of events. `open`, then `send` as often as needed, then `close`; `abandon` in any case."""

    def __init__(
        self,
        request: web.Request,
        streams: Streams,
        keep_alive: bytes = COMMENT,
        *,
        cache: str = NO_CACHE,
        pace: Pace | None = None,
    ) -> None:
        self.response = web.StreamResponse(headers={**HEADERS, hdrs.CACHE_CONTROL: cache})
        self._pace = pace
        self._free_at = 0.0  # from then on as much may be written again as the pace has it
        self._used = 0  # bytes of that, written before
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
        if self._pace is None:
            await self._send(events)
            return
        for burst in _bursts(events, self._pace.size):
            await self._keep_to(self._pace, sum(map(len, burst)))
            await self._send(burst)

    async def _send(self, events: Sequence[bytes]) -> None:
        transport = self._write(events)
        if transport.get_write_buffer_size() >= HIGH_WATER:
            await self._streams.drain(self._request)

    async def _keep_to(self, pace: Pace, size: int) -> None:
        """Wait until so many bytes may be written."""
        now = self._loop.time()
        if now < self._free_at and self._used + size > pace.size:
            await asyncio.sleep(self._free_at - now)
            now = self._loop.time()
        if now >= self._free_at:
            self._free_at, self._used = now + pace.seconds, 0
        self._used += size

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


def _bursts(events: Sequence[bytes], most: int) -> Iterator[list[bytes]]:
    """The events in groups of at most `most` bytes; one that is longer is a group by itself."""
    group: list[bytes] = []
    size = 0
    for event in events:
        if group and size + len(event) > most:
            yield group
            group, size = [], 0
        group.append(event)
        size += len(event)
    if group:
        yield group
