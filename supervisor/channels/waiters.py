"""Who waits for what becomes of a channel: that it has started, that its worker is lost, that nothing is left."""

import asyncio
from collections.abc import Callable

from supervisor.causes import Cause, Refusal

Reason = tuple[Cause, str]


class Waiters:
    """The three answers of one channel."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._lost: asyncio.Future[Reason] = self._loop.create_future()

    async def started(self) -> None:
        """Wait until it is ready. Raises Refusal with the cause of a failed start."""
        await asyncio.shield(self._started)

    async def gone(self) -> None:
        """Wait until nothing is left. Raises Refusal(STOP_FAILED) when something outlives SIGKILL."""
        await asyncio.shield(self._gone)

    def when_lost(self, callback: Callable[["asyncio.Future[Reason]"], None]) -> None:
        """Have `callback` told why the worker is no longer there, once that is known and its last words were heard."""
        self._lost.add_done_callback(callback)

    def forget(self, callback: Callable[["asyncio.Future[Reason]"], None]) -> None:
        """Undo `when_lost`."""
        self._lost.remove_done_callback(callback)

    def tell_started(self) -> None:
        """It is ready."""
        if not self._started.done():
            self._started.set_result(None)

    def tell_lost(self, reason: Reason) -> None:
        """Its worker is no longer there."""
        if not self._lost.done():
            self._lost.set_result(reason)

    def tell_gone(self, ending: Refusal) -> None:
        """Nothing is left; `ending` is for who still waits for its start."""
        self._refuse(self._started, ending)
        self._gone.set_result(None)

    def tell_stop_failed(self, refusal: Refusal) -> None:
        """Its end does not come, so far: who asks from now on waits anew."""
        self.refuse(refusal)
        self._gone = self._loop.create_future()

    def refuse(self, refusal: Refusal) -> None:
        """Nothing of what is waited for comes."""
        for waiting in (self._started, self._gone):
            self._refuse(waiting, refusal)

    def _refuse(self, waiting: "asyncio.Future[None]", refusal: Refusal) -> None:
        if not waiting.done():
            waiting.set_exception(refusal)
            waiting.exception()  # nobody may be waiting
