"""Who is told by the spawner's client of one channel's process."""

import asyncio
from typing import Protocol

from worker.spawn import Receipt


class Listener(Protocol):
    """Who is told of one channel's process. Called on the loop, never re-entrantly from a request."""

    def on_spawned(self, pid: int, start_time: int) -> None:
        """The process exists."""

    def on_spawn_failed(self, error: str) -> None:
        """There is no process and nothing is left of the attempt. Final."""

    def on_exit(self, status: int, *, oom: bool) -> None:
        """The worker itself has ended (status as `Popen.returncode`); the rest of its tree is being killed."""

    def on_gone(self, receipt: Receipt) -> None:
        """Nothing is left. Final; `SpawnerClient.forget` is to be called once that is on record."""

    def on_unkillable(self, pids: list[int]) -> None:
        """These outlived SIGKILL for some seconds; on_gone follows should they end."""

    def on_spawner_ending(self) -> None:
        """The spawner was told to end, by others than us, and ends its workers first: on_exit and on_gone follow."""

    def on_spawner_lost(self) -> None:
        """The spawner died and took its workers with it. Final."""


class Proof:
    """Hears of one channel that is being ended, until nothing of it is left."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.gone: asyncio.Future[None] = loop.create_future()

    def on_spawned(self, pid: int, start_time: int) -> None:
        """It is killed all the same."""

    def on_spawn_failed(self, error: str) -> None:
        """There is nothing to end."""
        self._is_gone()

    def on_exit(self, status: int, *, oom: bool) -> None:
        """The rest follows."""

    def on_gone(self, receipt: Receipt) -> None:
        """Nothing is left."""
        self._is_gone()

    def on_unkillable(self, pids: list[int]) -> None:
        """It is waited for no longer than for others."""

    def on_spawner_ending(self) -> None:
        """It is ended, as it was to be."""

    def on_spawner_lost(self) -> None:
        """Whatever it was died with the spawner."""
        self._is_gone()

    def _is_gone(self) -> None:
        if not self.gone.done():
            self.gone.set_result(None)
