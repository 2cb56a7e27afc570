"""Agents that only benchmarks use."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from worker.agent import Agent, Turn


class Stream(Agent):
    """Says ``count`` pieces of text; with ``rate`` so many a second, each the time it was said at."""

    async def chat(self, turn: Turn) -> AsyncIterator[Any]:
        """``context``: count (none: the question is it), rate (none: as fast as it can)."""
        count, rate = int(turn.context.get("count", turn.question)), turn.context.get("rate")
        if rate is None:
            for _ in range(count):
                yield "tick "
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + turn.context.get("delay", 0.0)
        for _ in range(count):
            await asyncio.sleep(max(0.0, due - loop.time()))
            yield f"{time.monotonic_ns()}"
            due += 1 / rate
