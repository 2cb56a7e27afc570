"""One process that reads one file: started by the spawner, watched, and taken away with all it has started.

Its folder is made by us and is its own from then on: nothing in it is trusted. There it finds `input`, a link to the
file, and leaves `result`, and perhaps `text`.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import orjson
import structlog

from supervisor.attachments.files import read_bounded
from supervisor.processes.bundle import Bundle
from supervisor.processes.spawner import SpawnerClient
from worker.spawn import CHANNEL_VARIABLE, ERR_FIFO, OUT_FIFO, Isolation, Limits, Receipt, SpawnRequest

log = structlog.get_logger("supervisor.attachments")

# Without the folder it runs in and without a user's own packages on the path; the environment is all ours.
COMMAND: Final = (sys.executable, "-P", "-s", "-m", "worker.reader")
INPUT: Final = "input"
RESULT: Final = "result"
TEXT: Final = "text"
MOST_CHARACTERS: Final = 250_000
MOST_TEXT_BYTES: Final = 4 * MOST_CHARACTERS
MOST_RESULT: Final = 1024
MOST_SAID: Final = 2048
PROGRESS_PIECE: Final = 1024
MOST_PIECES: Final = 1000  # of progress; one that says more is not listened to any more
PROOF_SECONDS: Final = 2.0  # for the receipt of a kill; the spawner goes on with it until nothing is left
CLOSE_SECONDS: Final = 1.0

# What a reader may say of itself, in words for people.
FAULTS: Final[Mapping[str, str]] = {
    "bomb": "The file unpacks to more than is allowed",
    "memory": "The file needs more memory to be read than is allowed",
}
DIED: Final = "The file could not be read"
NOT_STARTED: Final = "The file could not be read now"
LATE: Final = "The file could not be read in time"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was read out of a file: UTF-8, or None if there is no text; or why it could not be read.

    `lost`: its spawner died, and another try may succeed.
    """

    text: bytes | None = None
    failure: str = ""
    lost: bool = False


@dataclass(frozen=True, slots=True)
class _End:
    """How the process ended; None: it was no more to be had."""

    receipt: Receipt | None = None
    error: str = ""
    lost: bool = False


class Reading:
    """The process of one file, told of by the spawner. `run` once."""

    def __init__(
        self,
        spawner: SpawnerClient,
        state_dir: Path,
        reading_id: str,
        environment: Mapping[str, str],
        limits: Limits,
        isolation: Isolation,
        told: Callable[[int], None],
    ) -> None:
        """`told` hears how much was read, in percent. The file that is read is added to `isolation`."""
        self._spawner = spawner
        self._id = reading_id
        self._bundle = Bundle(state_dir, reading_id)
        self._environment = {
            **environment,
            CHANNEL_VARIABLE: reading_id,
            "TMPDIR": str(self._bundle.folder),
        }
        self._limits = limits
        self._isolation = isolation
        self._told = told
        self._loop = asyncio.get_running_loop()
        self._end: asyncio.Future[_End] = self._loop.create_future()
        self._pipes: list[int] = []  # progress and complaints; held open, so that they can be read when it is gone
        self._pieces = 0
        self._lost = False  # its spawner ends
        self._left = False  # nobody waits for its end any more
        self._log = log.bind(reading=reading_id)

    async def run(self, path: Path, kind: str, seconds: float) -> Finding:
        """Read the file at `path` in the way `kind`, within `seconds` and PROOF_SECONDS. Nothing is left afterwards.

        Raises OSError when the process's folder cannot be made.
        """
        try:
            self._start(path, kind)
            await asyncio.wait({self._end}, timeout=seconds)
            late = not self._end.done()
            if late:
                self._spawner.kill(self._id)
                await asyncio.wait({self._end}, timeout=PROOF_SECONDS)
            finding = Finding(failure=LATE) if late else await asyncio.to_thread(self._find, self._end.result())
        except asyncio.CancelledError:
            if not self._end.done():
                self._spawner.kill(self._id)
                await asyncio.wait({self._end}, timeout=CLOSE_SECONDS)
            raise
        finally:
            self._left = True
            self._close_pipes()
            if not self._end.done():
                self._log.error("attachment.reader_left")  # its folder goes when the spawner tells of its end
            elif not self._clear():
                await asyncio.to_thread(self._clear_all)
        return finding

    def _start(self, path: Path, kind: str) -> None:
        folder = self._bundle.folder
        try:
            self._bundle.create()
            (folder / INPUT).symlink_to(path)
            for name in (OUT_FIFO, ERR_FIFO):
                self._pipes.append(os.open(folder / name, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC))
            self._loop.add_reader(self._pipes[0], self._hear)
            request = SpawnRequest(
                id=self._id,
                folder=str(folder),
                environment=self._environment,
                limits=self._limits,
                command=(*COMMAND, kind, str(MOST_CHARACTERS)),
                isolation=replace(self._isolation, read=(*self._isolation.read, str(path))),
            )
            self._spawner.spawn(request, None, self)
        except BaseException as error:
            self._end.set_result(_End(error=str(error)))
            raise

    # ------------------------------------------------------------------ what the process says

    def on_spawned(self, pid: int, start_time: int) -> None:
        """It exists."""
        self._log.debug("attachment.reader_spawned", pid=pid)

    def on_spawn_failed(self, error: str) -> None:
        """There is no process."""
        self._finish(_End(error=error))

    def on_exit(self, status: int, *, oom: bool) -> None:
        """It ended; what it started goes now, and `on_gone` tells of both."""

    def on_gone(self, receipt: Receipt) -> None:
        """Nothing is left."""
        self._spawner.forget(self._id)
        self._finish(_End(receipt, lost=self._lost))

    def on_unkillable(self, pids: list[int]) -> None:
        """Something outlives SIGKILL."""
        self._log.error("attachment.reader_unkillable", pids=pids)

    def on_spawner_ending(self) -> None:
        """The spawner ends, and this process first: that says nothing about the file."""
        self._lost = True

    def on_spawner_lost(self) -> None:
        """The spawner died, and this process with it."""
        self._finish(_End(lost=True))

    def _finish(self, end: _End) -> None:
        if not self._end.done():
            self._end.set_result(end)
        if self._left and not self._clear():
            self._log.warning("attachment.folder_left")  # to the next server, which clears all such folders

    def _hear(self) -> None:
        """Lines of a number each; whatever else it says is left alone."""
        self._pieces += 1
        try:
            said = os.read(self._pipes[0], PROGRESS_PIECE)
        except BlockingIOError:
            return
        for word in said.split():
            if len(word) <= 3 and word.isdigit():
                self._told(int(word))
        if self._pieces == MOST_PIECES:
            self._loop.remove_reader(self._pipes[0])

    # ------------------------------------------------------------------ what it leaves

    def _find(self, end: _End) -> Finding:
        """What the process has found. Blocks."""
        if end.lost:
            return Finding(failure=DIED, lost=True)
        receipt = end.receipt
        if receipt is None:
            self._log.error("attachment.reader_not_started", error=end.error)
            return Finding(failure=NOT_STARTED)
        folder = self._bundle.folder
        try:
            outcome = orjson.loads(read_bounded(folder / RESULT, MOST_RESULT))["outcome"]
            if outcome == "text":
                return Finding(_checked(read_bounded(folder / TEXT, MOST_TEXT_BYTES)))
            if outcome == "none":
                return Finding()
            if outcome in FAULTS:
                return Finding(failure=FAULTS[outcome])
        except (OSError, ValueError, TypeError, KeyError) as error:
            self._log.info("attachment.reader_mute", error=type(error).__name__)
        self._log.warning("attachment.reader_died", status=receipt.status, oom=receipt.oom, said=self._complaint())
        return Finding(failure=FAULTS["memory"] if receipt.oom else DIED)

    def _complaint(self) -> str:
        try:
            return os.read(self._pipes[1], MOST_SAID).decode(errors="replace")
        except OSError:  # it has said nothing
            return ""

    def _close_pipes(self) -> None:
        if self._pipes:
            self._loop.remove_reader(self._pipes[0])
        for fd in self._pipes:
            os.close(fd)
        self._pipes.clear()

    def _clear(self) -> bool:
        """Remove the folder with what belongs into it; False when more is there than that."""
        try:
            for name in (INPUT, RESULT, TEXT):
                (self._bundle.folder / name).unlink(missing_ok=True)
        except OSError:
            return False
        return self._bundle.remove_own()

    def _clear_all(self) -> None:
        """Remove the folder, whatever is in it. Blocks."""
        try:
            self._bundle.remove()
        except OSError as error:
            self._log.warning("attachment.folder_left", error=error.strerror)


def _checked(text: bytes) -> bytes:
    """The text if it is one. Raises ValueError."""
    if len(text.decode()) > MOST_CHARACTERS:
        raise ValueError("the text is too long")
    return text
