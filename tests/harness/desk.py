"""One server's attachments, with a real store, a real spawner and real readers."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from supervisor.attachments.readers import Readers
from supervisor.attachments.service import Attachments, Received
from supervisor.attachments.state import TaskState
from supervisor.processes.bundle import prepare_state
from supervisor.processes.launch import SpawnerOptions
from supervisor.processes.spawner import SpawnerClient
from supervisor.store.store import Store
from tests.harness import leaks

PATIENCE = 60.0
MIB = 1024 * 1024


class Desk:
    """One server's attachments and what they need."""

    def __init__(
        self,
        state_dir: Path,
        spawner: SpawnerClient,
        store: Store,
        environ: dict[str, str],
        options: dict[str, Any],
    ) -> None:
        """`environ` is what the readers' environment is chosen from."""
        self.state_dir = state_dir
        self.spawner = spawner
        self.store = store
        self.root = state_dir / "attachments"
        reading = {"at_once": 2, "seconds": 30.0, "memory_bytes": 1024 * MIB}
        keeping = {"keep_days": 30, "user_bytes": 100 * MIB, "total_bytes": 200 * MIB, "queue": 50}
        self.readers = Readers(
            spawner, state_dir, environ, **{name: options.get(name, value) for name, value in reading.items()}
        )
        self.attachments = Attachments(
            store.attachments,
            self.readers,
            self.root,
            instance="i1",
            **{name: options.get(name, value) for name, value in keeping.items()},
        )

    def received(self, name: str, data: bytes) -> Received:
        """A file that has arrived."""
        path = self.attachments.incoming / f"arrived-{os.urandom(8).hex()}"
        path.write_bytes(data)
        path.chmod(0o600)
        return Received(path, name, len(data))

    async def upload(self, name: str, data: bytes, user: str = "ada") -> TaskState:
        """Accept one file."""
        [state] = await self.attachments.accept(user, [self.received(name, data)])
        return state

    async def over(self, state: TaskState) -> TaskState:
        """Wait until the task has ended."""
        async with asyncio.timeout(PATIENCE):
            while not (now := await self.attachments.task(state.id)).over:
                await asyncio.sleep(0.005)
        return now

    async def read(self, name: str, data: bytes, user: str = "ada") -> tuple[TaskState, dict[str, Any] | None]:
        """Accept one file and wait: how its task ended, and what a turn is given."""
        state = await self.over(await self.upload(name, data, user))
        [given] = await self.attachments.given(user, [state.attachment_id])
        return state, given

    def folders(self) -> list[str]:
        """Folders of readers that are there."""
        return os.listdir(self.state_dir / "ch")

    def files(self) -> list[Path]:
        """All files below the root."""
        return sorted(path for path in self.root.rglob("*") if path.is_file())


MakeDesk = Callable[..., Awaitable[Desk]]


@asynccontextmanager
async def desks(state_dir: Path) -> AsyncIterator[MakeDesk]:
    """Opens desks: ``await make(seconds=1.0)``, with ``containment`` and ``environ`` of the readers.

    They are closed afterwards.
    """
    prepare_state(state_dir)
    async with AsyncExitStack() as parts:

        async def make(containment: str = "auto", environ: dict[str, str] | None = None, **options: Any) -> Desk:
            spawner = SpawnerClient(state_dir, SpawnerOptions(containment), os.environ)
            parts.push_async_callback(spawner.close)
            await spawner.start()
            store = Store(str(state_dir / "store.db"), instance="i1")
            parts.push_async_callback(store.close)
            await store.open()
            desk = Desk(state_dir, spawner, store, {**os.environ, **(environ or {})}, options)
            parts.push_async_callback(desk.attachments.close)
            await desk.attachments.open()
            return desk

        yield make


async def closed(desk: Desk) -> None:
    """End a desk before its test ends; ending it once more does no harm."""
    await desk.attachments.close()
    await desk.store.close()
    await desk.spawner.close()


def readers_of(desk: Desk) -> list[str]:
    """The readers that live, by their command lines."""
    return [text for text in leaks.processes_of(desk.state_dir).values() if "worker.reader" in text]
