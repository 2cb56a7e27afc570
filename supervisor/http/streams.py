"""Writes to readers that may be slow, or take nothing at all: bounded in time, and cut short by the shutdown."""

import asyncio
from collections.abc import Awaitable
from typing import Final

from aiohttp import web

STALL_SECONDS: Final = 60.0
LAST_SECONDS: Final = 0.2  # for what is on its way when the server shuts down


class Streams:
    """The responses that are streamed; `closing` is set when those shall end that have no end of their own."""

    def __init__(self) -> None:
        self.closing = asyncio.Event()
        self._last = False  # all of them end: what is on its way has LAST_SECONDS
        self._limits: set[asyncio.Timeout] = set()
        self._pauses: set[asyncio.Timeout] = set()

    async def finish(self, request: web.Request, write: Awaitable[None]) -> None:
        """Await `write`, a part of the answer to `request`.

        A reader that takes nothing for STALL_SECONDS counts as gone: what waits for it is thrown away.
        Raises ConnectionAbortedError.
        """
        transport = request.transport
        seconds = LAST_SECONDS if self._last else STALL_SECONDS
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                self._limits.add(limit)
                await write
        except TimeoutError as error:
            if transport is not None:
                transport.abort()  # a mere close would keep the connection until its buffer has been read
            raise ConnectionAbortedError(f"the reader took nothing for {seconds:g} s") from error
        finally:
            self._limits.discard(limit)

    async def drain(self, request: web.Request) -> None:
        """Wait until the client has read most of what was written. One that is slow but reads is waited for.

        Raises ConnectionAbortedError when it takes nothing for STALL_SECONDS.
        """
        transport = request.transport
        while transport is not None:
            waiting = transport.get_write_buffer_size()
            limit = asyncio.timeout(LAST_SECONDS if self._last else STALL_SECONDS)
            try:
                async with limit:
                    self._limits.add(limit)
                    await request.writer.drain()
            except TimeoutError as error:
                if self._last or transport.get_write_buffer_size() >= waiting:
                    transport.abort()
                    raise ConnectionAbortedError("the reader took nothing for too long") from error
            else:
                return
            finally:
                self._limits.discard(limit)

    async def pause(self, event: Awaitable[object], seconds: float) -> None:
        """Await what may not come: for `seconds` at most, and no longer than until `end`."""
        limit = asyncio.timeout(0 if self.closing.is_set() else seconds)
        try:
            async with limit:
                self._pauses.add(limit)
                await event
        except TimeoutError:
            return
        finally:
            self._pauses.discard(limit)

    def end(self) -> None:
        """Let those end, between two events, that have no end of their own."""
        self.closing.set()
        self._cut(self._pauses, 0.0)

    def close(self) -> None:
        """Let all of them end; those whose readers take nothing get LAST_SECONDS."""
        self.end()
        self._last = True
        self._cut(self._limits, LAST_SECONDS)

    @staticmethod
    def _cut(limits: set[asyncio.Timeout], seconds: float) -> None:
        last = asyncio.get_running_loop().time() + seconds
        for limit in limits:
            if not limit.expired():
                limit.reschedule(last)


STREAMS: Final = web.AppKey("streams", Streams)
