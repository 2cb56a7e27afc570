"""Workers' output: from their FIFOs, by complete lines, into a bounded file per channel or to our own output.

One thread reads and writes, so that a slow disk or a stopped terminal never holds the loop. What is not written yet
stays in the FIFO, which outlives us. A worker that floods is read no faster than its rate and slows down by itself;
others do not notice. What it makes us log ourselves is throttled too.
"""

import asyncio
import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import orjson
import structlog

from supervisor.processes.peek import Peek, held, is_full
from supervisor.processes.targets import WARY, Target

log = structlog.get_logger("supervisor.logs")

READ_SIZE: Final = 64 * 1024
WINDOW_SECONDS: Final = 0.1
FIRST_LOOK_SECONDS: Final = 0.01
LAST_LOOK_SECONDS: Final = 0.5
CLOSE_SECONDS: Final = 5.0
LARGEST_PIPE: Final = 1024 * 1024
BURST: Final = 5
PER_SECOND: Final = 1.0
MOST_SAID: Final = 500


class LogWriter:
    """The one thread that reads and writes all logs. `start` before use, `close` joins it."""

    def __init__(self) -> None:
        """Raises OSError."""
        self.peek: Final = Peek()  # the thread's own
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def call(self, function: Callable[[], None]) -> None:
        """Run something behind all that was asked for before it. An OSError of it is logged."""
        self._jobs.put(function)

    def close(self) -> None:
        """Write what waits, then end the thread (bounded; a disk that hangs does not keep us)."""
        self._jobs.put(None)
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        failing: OSError | None = None
        while (job := self._jobs.get()) is not None:
            try:
                job()
                failing = None
            except OSError as error:
                if failing is None or failing.errno != error.errno:
                    log.warning("log.write_failed", error=str(error))  # once, not for every line on a full disk
                failing = error
            except Exception:  # a fault of ours in one job must not end the logs of all
                log.exception("log.failed")
        self.peek.close()


@dataclass(slots=True)
class _Spout:
    """One FIFO. `seen` bytes of a line without an end lay in it when it was looked at last."""

    fd: int
    seen: int = 0
    wait: float = FIRST_LOOK_SECONDS
    timer: asyncio.TimerHandle | None = None


class LogSink:
    """Pours one channel's stdout and stderr FIFOs into its target. `rate` in bytes a second."""

    def __init__(self, folder: Path, names: tuple[str, ...], target: Target, writer: LogWriter, rate: int) -> None:
        """Opens the FIFOs; raises OSError."""
        self._loop = asyncio.get_running_loop()
        self._target = target
        self._writer = writer
        self._window_bytes = max(READ_SIZE, int(rate * WINDOW_SECONDS))
        self._window_end = 0.0
        self._window_left = 0
        self._spouts: list[_Spout] = []
        self._closed = False
        self._over: asyncio.Future[None] = self._loop.create_future()
        try:
            for name in names:
                self._spouts.append(_Spout(os.open(f"{folder}/{name}", os.O_RDWR | WARY)))
        except OSError:
            for spout in self._spouts:
                os.close(spout.fd)
            raise
        for spout in self._spouts:
            self._listen(spout)

    def close(self) -> None:
        """The worker has ended: take what still lies in the pipes, then let go of them."""
        self._let_go(self._drain)

    def leave(self) -> None:
        """Let go of the pipes as they are, for a successor."""
        self._let_go(lambda fd: None)

    def _let_go(self, first: Callable[[int], None]) -> None:
        if self._closed:
            return
        self._closed = True
        for spout in self._spouts:
            if spout.timer is not None:
                spout.timer.cancel()
            self._loop.remove_reader(spout.fd)
            self._writer.call(partial(self._close, spout.fd, first))
        self._writer.call(self._finish)

    async def over(self, seconds: float) -> None:
        """Wait until what there was when it was closed is written; so many seconds at most, for a disk may hang."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.shield(self._over)

    # ------------------------------------------------------------------ in the loop

    def _listen(self, spout: _Spout) -> None:
        spout.timer = None
        self._loop.add_reader(spout.fd, self._ask, spout)

    def _ask(self, spout: _Spout) -> None:
        """Have it poured once; it is not listened to until that is done."""
        spout.timer = None
        self._loop.remove_reader(spout.fd)
        self._writer.call(partial(self._pour, spout))

    def _poured(self, spout: _Spout, taken: int, seen: int) -> None:
        """So much of what was seen was taken: when to look again."""
        if self._closed:
            return
        now = time.monotonic()
        if now >= self._window_end:
            self._window_end = now + WINDOW_SECONDS
            self._window_left = self._window_bytes
        self._window_left -= taken
        if seen and not taken:  # a line without an end: we would be told of it at once, again and again
            spout.wait = FIRST_LOOK_SECONDS if seen != spout.seen else min(2 * spout.wait, LAST_LOOK_SECONDS)
            spout.seen = seen
            spout.timer = self._loop.call_later(spout.wait, self._ask, spout)
            return
        spout.seen = 0
        if self._window_left <= 0:
            spout.timer = self._loop.call_later(max(0.0, self._window_end - now), self._listen, spout)
        else:
            self._listen(spout)

    # ------------------------------------------------------------------ in the thread

    def _pour(self, spout: _Spout) -> None:
        taken, seen = 0, 0
        try:
            there = held(spout.fd)
            data = self._writer.peek(spout.fd, READ_SIZE)
            seen = len(data)
            taken = data.rfind(b"\n") + 1
            if taken == 0 and seen and (seen == READ_SIZE or seen < there or is_full(spout.fd)):
                taken = seen  # a line that cannot be seen whole is cut, or its writer would wait for ever
            if taken:
                self._target.take(spout.fd, data[:taken])
        finally:
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                self._loop.call_soon_threadsafe(self._poured, spout, taken, seen)

    def _drain(self, fd: int) -> None:
        taken = 0  # no more than a pipe can hold: whoever writes on was not the worker
        failure: OSError | None = None
        while taken < LARGEST_PIPE and (data := self._writer.peek(fd, READ_SIZE)):
            lines = data[: data.rfind(b"\n") + 1] or data
            taken += len(lines)
            try:
                self._target.take(fd, lines)
            except OSError as error:  # what follows may have room again
                failure = failure or error
        if failure is not None:
            raise failure

    def _finish(self) -> None:
        try:
            self._target.close()
        finally:
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                self._loop.call_soon_threadsafe(self._over.set_result, None)

    def _close(self, fd: int, first: Callable[[int], None]) -> None:
        try:
            first(fd)
        finally:
            os.close(fd)


class Throttled:
    """Warnings that a worker can cause at will: `BURST` at once, then `PER_SECOND`; what it says is cut.

    The first one behind those that were left out tells how many these were, as `suppressed`.
    """

    __slots__ = ("_at", "_clock", "_log", "_suppressed", "_tokens")

    def __init__(self, logger: Any, clock: Callable[[], float] = time.monotonic) -> None:
        """`logger` is a structlog logger; `clock` counts seconds."""
        self._log = logger
        self._clock = clock
        self._at = clock()
        self._tokens = float(BURST)
        self._suppressed = 0

    def warning(self, event: str, **fields: Any) -> None:
        """Log it, if it is its turn. The fields are JSON values."""
        self._tell(self._log.warning, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """The same of what is no reason to worry."""
        self._tell(self._log.info, event, fields)

    def _tell(self, tell: Callable[..., Any], event: str, fields: dict[str, Any]) -> None:
        now = self._clock()
        self._tokens = min(float(BURST), self._tokens + (now - self._at) * PER_SECOND)
        self._at = now
        if self._tokens < 1:
            self._suppressed += 1
            return
        self._tokens -= 1
        said = {key: _cut(value) for key, value in fields.items()}
        if self._suppressed:
            said["suppressed"] = self._suppressed
            self._suppressed = 0
        tell(event, **said)


def _cut(value: Any) -> Any:
    try:
        text = value if isinstance(value, str) else orjson.dumps(value).decode()
    except TypeError:  # nested deeper than can be written, though not than can be read
        return "too deep to be shown"
    return value if len(text) <= MOST_SAID else f"{text[:MOST_SAID]}..."


def prune(folder: Path, *, total_bytes: int, keep_days: float, now: float, live: Collection[Path] = frozenset()) -> int:
    """Remove log files that are too old, then the oldest while all together are too large; how many were removed.

    `live` are files that are still written to: they count, but stay.
    """
    files = []
    for path in folder.glob("app-*.log*"):
        try:
            stat = path.stat()
        except FileNotFoundError:
            continue
        files.append((stat.st_mtime, stat.st_size, path))
    files.sort(reverse=True)
    kept, removed = 0, 0
    for modified, size, path in files:
        kept += size
        if path not in live and (kept > total_bytes or now - modified > keep_days * 86_400):
            path.unlink(missing_ok=True)
            removed += 1
    return removed
