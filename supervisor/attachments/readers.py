"""Reads files in processes of their own, so many at once; owners take turns, and nothing waits for ever."""

import asyncio
import itertools
import math
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog

from supervisor.attachments.reading import DIED, NOT_STARTED, Finding, Reading
from supervisor.attachments.slots import Slots
from supervisor.processes.spawner import SpawnerClient
from worker.spawn import CONFINED, INSTANCE_VARIABLE, Isolation, Limits, instance_of

log = structlog.get_logger("supervisor.attachments")

# What Python needs to find itself and its modules, and the locale. No secret, and nothing of ours.
ENVIRONMENT: Final = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
WAIT_SHARE: Final = 0.8  # of the time a file has; what waits longer would hardly be read in time
LIGHT: Final = frozenset({"text", "unknown"})  # kinds that need no library: read in a moment, whoever floods the others
TRIES: Final = 2  # a spawner that died is replaced
LEAST_SECONDS: Final = 0.05
BUSY: Final = "Too many files wait to be read; try again later"

MIB: Final = 1024 * 1024


class Readers:
    """Starts readers, at most `at_once` of them and one for plain text. `read` takes any number of files."""

    def __init__(
        self,
        spawner: SpawnerClient,
        state_dir: Path,
        environ: Mapping[str, str],
        *,
        at_once: int,
        seconds: float,
        memory_bytes: int,
        hidden: Sequence[str] = (),
    ) -> None:
        """Each file has `seconds` from its call on, and `memory_bytes` while it is read.

        `hidden` is what no reader may see although it lies in a folder of Python's.
        """
        self._spawner = spawner
        self._state_dir = state_dir
        self._environment = {name: environ[name] for name in ENVIRONMENT if name in environ}
        modules = tuple(filter(None, environ.get("PYTHONPATH", "").split(os.pathsep)))
        self._isolation = Isolation(level=CONFINED, network=False, read=modules, hidden=tuple(hidden))
        self._environment[INSTANCE_VARIABLE] = instance_of(state_dir)
        self._seconds = seconds
        self._limits = Limits(
            memory_bytes=memory_bytes,
            processes=4,
            cpu_weight=50,  # those who wait for an answer come first
            open_files=64,
            file_bytes=16 * MIB,
            cpu_seconds=math.ceil(seconds) + 1,
        )
        self._slots = Slots(at_once)
        self._light = Slots(1)
        self._prefix = secrets.token_hex(12)  # of a length that no channel's id has
        self._numbers = itertools.count(1)

    async def read(self, owner: str, path: Path, kind: str, told: Callable[[int], None]) -> Finding:
        """What there is to be read in a file; `told` hears 0 when a process begins, then percents.

        Owners take turns. Never raises but when it is cancelled; then no process is left.
        """
        until = asyncio.get_running_loop().time() + self._seconds
        slots = self._light if kind in LIGHT else self._slots
        try:
            async with slots.held(owner, self._seconds * WAIT_SHARE):
                return await self._read(path, kind, until, told)
        except TimeoutError:  # of the slot: reading has none that comes out
            return Finding(failure=BUSY)

    async def _read(self, path: Path, kind: str, until: float, told: Callable[[int], None]) -> Finding:
        told(0)
        for _ in range(TRIES):
            left = until - asyncio.get_running_loop().time()
            finding = await self._try(path, kind, max(left, LEAST_SECONDS), told)
            if not finding.lost:
                return finding
        return Finding(failure=DIED)

    async def _try(self, path: Path, kind: str, seconds: float, told: Callable[[int], None]) -> Finding:
        reading_id = f"{self._prefix}-{next(self._numbers)}"
        reading = Reading(
            self._spawner, self._state_dir, reading_id, self._environment, self._limits, self._isolation, told
        )
        try:
            return await reading.run(path, kind, seconds)
        except (OSError, ValueError) as error:
            log.warning("attachment.reader_not_started", reading=reading_id, error=str(error))
            return Finding(failure=NOT_STARTED)
