"""How a server leaves the clients to its successor, which answers at the same socket: nobody meets a closed door.

Nothing is accepted any more: who connects waits in the socket's queue, which whoever made the socket keeps open. A
connection that is kept alive has its next request answered here, with ``Connection: close``; only one that asks nothing
for LINGER_SECONDS is closed.
"""

import asyncio
import contextlib
from typing import Final

from aiohttp import web

from supervisor.http.connections import CONNECTIONS
from supervisor.http.streams import STREAMS

LINGER_SECONDS: Final = 1.0  # clients that ask more often than that on one connection never find it closed
LOOK_SECONDS: Final = 0.01


async def depart(runner: web.AppRunner, seconds: float, hurry: asyncio.Event) -> int:
    """Accept nothing, end the streams that have no end, answer what was asked; how many requests are left then.

    That takes `seconds` at most, and ends as soon as `hurry` is set.
    """
    server = runner.server
    if server is None:
        raise RuntimeError("the runner is not set up")
    connections = runner.app[CONNECTIONS]
    connections.leaving = True
    for site in runner.sites:
        await site.stop()
    runner.app[STREAMS].end()
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    await _none_left(server, min(until, loop.time() + LINGER_SECONDS), hurry)
    connections.close_idle(server)
    await _none_left(server, until, hurry)
    return connections.busy(server)


async def _none_left(server: web.Server, until: float, hurry: asyncio.Event) -> None:
    """Wait until all connections have ended, until this time of the loop at most; nothing tells of it, so look."""
    loop = asyncio.get_running_loop()
    while server.connections and not hurry.is_set() and loop.time() < until:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                await hurry.wait()
