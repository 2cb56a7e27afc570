"""The decoy as the trials see it: it takes the numbers of our processes as soon as they are free."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterable

from tests.chaos.house import HERE
from worker.spawner.identity import read_stat

LOOK_SECONDS = 0.02
MOST = 12
ANSWER_SECONDS = 30.0


class Strangers:
    """Processes that have nothing to do with agentd and bear numbers that agentd knows."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.taken = 0
        self.missed = 0
        self._process = process
        self._hits: list[str] = []
        self._answers: asyncio.Queue[str] = asyncio.Queue()
        self._reader = asyncio.create_task(self._read(), name="strangers")

    async def follow(self, pids: Iterable[int]) -> None:
        """Take the numbers of these processes when they have ended, until cancelled."""
        waiting = set(pids)
        while waiting:
            for pid in [pid for pid in waiting if read_stat(pid) is None]:
                waiting.discard(pid)
                await self._ask(f"take {pid}")
            await asyncio.sleep(LOOK_SECONDS)

    async def release(self) -> list[str]:
        """Let them go; what signals they got."""
        await self._ask("release")
        hits, self._hits = self._hits, []
        return [f"a stranger with the number of a process of ours got a signal: {hit}" for hit in hits]

    async def close(self) -> None:
        """End."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        await self._reader

    async def _ask(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{text}\n".encode())
        async with asyncio.timeout(ANSWER_SECONDS):
            answer = await self._answers.get()
        self.taken += answer.startswith("took")
        self.missed += answer.startswith("missed")

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := (await self._process.stdout.readline()).decode().strip():
            if line.startswith("hit"):
                self._hits.append(line)
            else:
                self._answers.put_nowait(line)


@contextlib.asynccontextmanager
async def strangers() -> AsyncIterator[Strangers]:
    """Their parent, as a process of its own with an empty environment."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-IS",
        str(HERE / "decoy.py"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={},
    )
    found = Strangers(process)
    try:
        yield found
    finally:
        await found.close()
