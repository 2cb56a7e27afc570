"""Reads request bodies from the wire: bounded in size and in time."""

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar

from aiohttp import web

from supervisor.causes import Cause, Refusal
from supervisor.http.bodies import parse_object
from supervisor.http.density import check_density

BODY_SECONDS: Final = 30.0
LARGE_BODY: Final = 64 * 1024  # what is smaller is parsed, checked and translated within a few milliseconds

Parse = Callable[[bytes], dict[str, Any]]
Made = TypeVar("Made")


async def read_object(request: web.Request, limit: int, parse: Parse = parse_object) -> dict[str, Any]:
    """The JSON object a request carries, whatever its content type says.

    Raises Refusal(BODY_INVALID) and Refusal(BODY_TOO_LARGE), the latter for more than `limit` bytes (decompressed),
    and what `parse` raises.
    """
    return await read_body(request, limit, lambda body: body, parse)


async def read_body(
    request: web.Request, limit: int, make: Callable[[dict[str, Any]], Made], parse: Parse = parse_object
) -> Made:
    """What `make` makes of the JSON object a request carries: it checks the object, and translates it.

    Of a large body all of this is done in a thread, so `make` has to be pure. Raises as `read_object` does, and what
    `make` raises.
    """
    try:
        data = await _read(request, limit)
    except web.RequestPayloadError as error:
        raise Refusal(Cause.BODY_INVALID, f"the body cannot be read: {error}") from error
    except TimeoutError as error:
        raise Refusal(Cause.BODY_INVALID, f"the body did not arrive within {BODY_SECONDS:g} s") from error
    if len(data) < LARGE_BODY:
        return make(parse(data))
    return await asyncio.to_thread(_make_large, data, parse, make)


def _make_large(data: bytes, parse: Parse, make: Callable[[dict[str, Any]], Made]) -> Made:
    check_density(data)
    return make(parse(data))


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
