"""Answers that are given before a request's body was read: the answer goes out, then the connection is closed.

A connection that is closed while its client still sends is reset, and the answer may be lost with it. So the client
is told that no more comes, and what it sends is thrown away for a moment.
"""

import asyncio
from typing import Final

from aiohttp import web

LINGER_SECONDS: Final = 2.0
LINGER_BYTES: Final = 64 * 1024 * 1024


async def answer_early(request: web.Request, response: web.Response) -> web.Response:
    """Send the response, and close the connection if the request's body has not arrived so far."""
    if request.content.is_eof():
        return response
    response.force_close()
    await response.prepare(request)
    await response.write_eof()
    transport = request.transport
    if transport is not None and not transport.is_closing() and transport.can_write_eof():
        transport.write_eof()
    await _discard(request)
    request.protocol.force_close()
    return response


async def _discard(request: web.Request) -> None:
    left = LINGER_BYTES
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            while left > 0 and (chunk := await request.content.readany()):
                left -= len(chunk)
    except (TimeoutError, ConnectionError, web.RequestPayloadError):
        return  # it has had its time, or has gone
