"""Work that a request began and that outlives the request: a client that hangs up does not leave it half-done."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

log = structlog.get_logger()
T = TypeVar("T")


class OwnedTasks:
    """The tasks that requests have begun and that must come to their end."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which runs to its end even if the caller is cancelled meanwhile."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done():  # nobody is left who hears how it ends
                task.add_done_callback(_report)
            raise

    async def drain(self, seconds: float) -> None:
        """Wait until all of it has ended, then cancel what has not within `seconds`."""
        tasks = tuple(self._tasks)
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=seconds)
        for task in late:
            task.cancel()
        if late:
            log.warning("http.work_cancelled", tasks=len(late), after_seconds=seconds)
            await asyncio.wait(late, timeout=1)


def _report(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("http.unheard_failure", error=str(error), kind=type(error).__name__)
