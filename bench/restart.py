"""Restarts under load: a server leaves, another one follows at the same socket, clients go on asking."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from bench.figures import Figure
from bench.server import BenchServer
from tests.harness.handover import Load, listening

RATE = 200


async def restart(quick: bool) -> list[Figure]:
    """Restarts in place under 200 requests a second, half of them on kept connections: failures, the slowest answer."""
    restarts = 3 if quick else 20
    gaps = []
    with listening() as listener:
        server = BenchServer(listener=listener, WORKERS_MAX="1000", AGENTD_KEEP_WORKERS="true")
        async with server:
            load, ended = Load(listener.getsockname()[1], RATE, most=500), asyncio.Event()
            running = asyncio.create_task(load.run(ended))
            began = time.perf_counter()
            for _ in range(restarts):
                await asyncio.sleep(2.0)
                told = time.perf_counter()
                await server.again()
                gaps.append(time.perf_counter() - told)
            await asyncio.sleep(2.0)
            took = time.perf_counter() - began
            ended.set()
            await running
    for failure in load.failed[:10]:
        print(failure)
    return [
        Figure(f"{restarts} restarts under {RATE} requests/s: failed", len(load.failed), "requests", at_most=0),
        Figure("requests answered meanwhile", load.answered, "requests"),
        Figure("requests a second", load.answered / took, "/s"),
        Figure("the slowest answer", load.slowest, "s"),
        Figure("from SIGTERM to the successor's ready, longest", max(gaps), "s"),
    ]


SCENARIOS: dict[str, Callable[[bool], Awaitable[list[Figure]]]] = {"restart": restart}
