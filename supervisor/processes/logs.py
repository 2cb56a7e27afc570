"""Workers' output: from their FIFOs, by complete lines, into a bounded file per channel or to our own output.

One thread writes, so that a slow disk or a stopped terminal never holds the loop. A worker that floods is read no
faster than its rate and slows down by itself; others do not notice. What it makes us log ourselves is throttled too.
"""

import asyncio
import os
import queue
import select
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import orjson
import structlog

from supervisor.telemetry import printable

log = structlog.get_logger("supervisor.logs")

READ_SIZE: Final = 64 * 1024
MAX_LINE: Final = 64 * 1024
PENDING_BYTES: Final = 1024 * 1024
WINDOW_SECONDS: Final = 0.1
STDOUT_SECONDS: Final = 0.2
CATCH_UP_SECONDS: Final = 0.02
CLOSE_SECONDS: Final = 5.0
LARGEST_PIPE: Final = 1024 * 1024
BURST: Final = 5
PER_SECOND: Final = 1.0
MOST_SAID: Final = 500

# A name that was put in the place of ours is not followed, and a FIFO or a device is not waited for.
_WARY: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Target(Protocol):
    """Where the lines of one channel go. Called by the writing thread only."""

    def write(self, lines: bytes) -> None:
        """Write whole lines; raises OSError."""

    def close(self) -> None:
        """Nothing follows."""


class FileTarget:
    """A file that is begun with the first line and rotated once it has `most` bytes; one predecessor is kept."""

    def __init__(self, path: Path, most: int) -> None:
        self._path = path
        self._most = most
        self._fd = -1
        self._size = 0

    def write(self, lines: bytes) -> None:
        """Append, rotating first when the file is full."""
        if self._fd >= 0 and self._size + len(lines) > self._most:
            self.close()
            self._path.replace(self._path.with_name(self._path.name + ".1"))
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _WARY, 0o600)
            self._size = os.fstat(self._fd).st_size
        view = memoryview(lines)
        while view:
            written = os.write(self._fd, view)
            self._size += written
            view = view[written:]

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class StdoutTarget:
    """Our own output, each line behind ``[<channel>] ``. When nobody reads it, lines are dropped and counted."""

    def __init__(self, channel: str, fd: int = 1) -> None:
        self._prefix = f"[{printable(channel)}] ".encode()
        self._fd = fd
        self._dropped = 0
        self._torn = False  # a long line was given up half-way

    def write(self, lines: bytes) -> None:
        """Write line by line; each fits a pipe's atomic size as long as it is no longer than that."""
        for line in lines.splitlines(keepends=True) if b"\r" not in lines else _split_newlines(lines):
            if self._dropped and self._put(b"%s%d lines dropped: nobody read them\n" % (self._prefix, self._dropped)):
                self._dropped = 0
            if self._dropped or not self._put(self._prefix + line):
                self._dropped += 1

    def close(self) -> None:
        """The descriptor is not ours."""

    def _put(self, line: bytes) -> bool:
        """Write one line if there is room soon; a pipe nobody reads says no."""
        view = memoryview(b"\n" + line if self._torn else line)
        size = len(view)
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while view:
            if not poll.poll(STDOUT_SECONDS * 1000 if not self._dropped else 0):
                self._torn = self._torn or len(view) < size
                return False
            view = view[os.write(self._fd, view[:4096]) :]
        self._torn = False
        return True


def _split_newlines(lines: bytes) -> list[bytes]:
    """Lines end at a newline only: a carriage return (a progress bar) does not make another one."""
    return [line + b"\n" for line in lines.split(b"\n")[:-1]]


@dataclass(slots=True)
class _Job:
    target: Target
    lines: bytes
    done: Callable[[int], None] | None


class LogWriter:
    """The one thread that writes all logs. `start` before use, `close` joins it."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job | Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, target: Target, lines: bytes, done: Callable[[int], None] | None) -> None:
        """Write later; `done(bytes)` is called in the thread afterwards, whether it could be written or not."""
        self._jobs.put(_Job(target, lines, done))

    def call(self, function: Callable[[], None]) -> None:
        """Run something behind all that was put before it."""
        self._jobs.put(function)

    def close(self) -> None:
        """Write what waits, then end the thread (bounded; a disk that hangs does not keep us)."""
        self._jobs.put(None)
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        failing: OSError | None = None
        while (job := self._jobs.get()) is not None:
            try:
                if isinstance(job, _Job):
                    job.target.write(job.lines)
                else:
                    job()
                failing = None
            except OSError as error:
                if failing is None or failing.errno != error.errno:
                    log.warning("log.write_failed", error=str(error))  # once, not for every line on a full disk
                failing = error
            if isinstance(job, _Job) and job.done is not None:
                job.done(len(job.lines))


class LogSink:
    """Reads one channel's stdout and stderr FIFOs into its target. `rate` in bytes a second."""

    def __init__(self, folder: Path, names: tuple[str, ...], target: Target, writer: LogWriter, rate: int) -> None:
        """Opens the FIFOs; raises OSError."""
        self._loop = asyncio.get_running_loop()
        self._target = target
        self._writer = writer
        self._window_bytes = max(READ_SIZE, int(rate * WINDOW_SECONDS))
        self._rests: dict[int, bytes] = {}
        self._window_end = 0.0
        self._window_left = 0
        self._put_bytes = 0  # written by the loop only
        self._written_bytes = 0  # written by the thread only; the difference is what waits
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        try:
            for name in names:
                fd = os.open(folder / name, os.O_RDWR | _WARY)
                self._rests[fd] = b""
        except OSError:
            for fd in self._rests:
                os.close(fd)
            raise
        self._resume()

    def close(self) -> None:
        """The worker has ended: take what still lies in the pipes, then let go of them."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for fd in list(self._rests):
            self._loop.remove_reader(fd)
            taken = 0  # no more than a pipe can hold: whoever writes on was not the worker
            while taken < LARGEST_PIPE and (size := self._take(fd)):
                taken += size
            if self._rests[fd]:
                self._put(self._rests[fd] + b"\n")
            os.close(fd)
        self._rests.clear()
        self._writer.call(self._target.close)

    def _resume(self) -> None:
        self._timer = None
        if self._put_bytes - self._written_bytes > PENDING_BYTES // 2:
            self._pause_for(CATCH_UP_SECONDS)
            return
        for fd in self._rests:
            self._loop.add_reader(fd, self._read, fd)

    def _pause_for(self, seconds: float) -> None:
        for fd in self._rests:
            self._loop.remove_reader(fd)
        self._timer = self._loop.call_later(seconds, self._resume)

    def _read(self, fd: int) -> None:
        now = time.monotonic()
        if now >= self._window_end:
            self._window_end = now + WINDOW_SECONDS
            self._window_left = self._window_bytes
        self._take(fd)
        if self._put_bytes - self._written_bytes > PENDING_BYTES:
            self._pause_for(CATCH_UP_SECONDS)
        elif self._window_left <= 0:
            self._pause_for(max(0.0, self._window_end - now))

    def _take(self, fd: int) -> int:
        """Read once; how many bytes, 0 when the pipe is empty."""
        try:
            data = os.read(fd, READ_SIZE)
        except BlockingIOError:
            return 0
        size = len(data)
        self._window_left -= size
        data = self._rests[fd] + data
        end = data.rfind(b"\n") + 1
        if end == 0 and len(data) >= MAX_LINE:
            data += b"\n"  # a line without an end is cut, so that what we keep is bounded
            end = len(data)
        self._rests[fd] = data[end:]
        if end:
            self._put(data[:end])
        return size

    def _put(self, lines: bytes) -> None:
        self._put_bytes += len(lines)
        self._writer.put(self._target, lines, self._written)

    def _written(self, size: int) -> None:
        self._written_bytes += size  # in the writing thread


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
