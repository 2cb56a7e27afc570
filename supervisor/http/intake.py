"""Reads request bodies from the wire: bounded in size and in time."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web

from supervisor.causes import Cause, Refusal
from supervisor.http.bodies import parse_object

BODY_SECONDS: Final = 30.0
LARGE_BODY: Final = 256 * 1024


async def read_object(
    request: web.Request, limit: int, parse: Callable[[bytes], dict[str, Any]] = parse_object
) -> dict[str, Any]:
    """The JSON object a request carries, whatever its content type says.

    Raises Refusal(BODY_INVALID) and Refusal(BODY_TOO_LARGE), the latter for more than `limit` bytes (decompressed),
    and what `parse` raises.
    """
    try:
        data = await _read(request, limit)
    except web.RequestPayloadError as error:
        raise Refusal(Cause.BODY_INVALID, f"the body cannot be read: {error}") from error
    except TimeoutError as error:
        raise Refusal(Cause.BODY_INVALID, f"the body did not arrive within {BODY_SECONDS:g} s") from error
    if len(data) < LARGE_BODY:
        return parse(data)
    # Megabytes of brackets take long enough to be noticed by everybody else on the loop.
    return await asyncio.to_thread(parse, data)


async def _read(request: web.Request, limit: int) -> bytes:
    content = request.content
    if content.is_eof():  # it arrived together with its headers, as small bodies do: no timer, no await
        data = content.read_nowait()
        check_size(len(data), limit)
        return data
    check_size(request.content_length or 0, limit)
    chunks = bytearray()
    async with asyncio.timeout(BODY_SECONDS):
        while chunk := await content.readany():
            chunks += chunk
            check_size(len(chunks), limit)
    return bytes(chunks)


def check_size(size: int, limit: int) -> None:
    """Raise Refusal(BODY_TOO_LARGE) when `size` is over `limit` bytes."""
    if size > limit:
        raise Refusal(Cause.BODY_TOO_LARGE, f"the body has {size} bytes or more; at most {limit} are allowed")
