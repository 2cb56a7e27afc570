"""The worker's end of the pipes: numbered frames up, kept until acknowledged and repeated after a resume.

`Outbox` is the protocol (docs/pipes.md): frames and acknowledgements in, bytes out, no I/O. `Pipe` moves those bytes
through the two FIFOs of the channel's folder, which both sides hold open for reading and writing: a reader that dies
shows up neither as an error nor as an end of file.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import structlog

from worker.frames import VERSION, Bad, Down, Frame, Splitter, Up, encode
from worker.spawn import DOWN_FIFO, UP_FIFO

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

FIRST_FRAMES: Final = 16  # of a turn: many that begin at once all get to their first words soon
MAX_FRAMES: Final = 1024
MAX_BYTES: Final = 1024 * 1024
CHUNK: Final = 64 * 1024  # what a pipe holds


class Outbox:
    """The upward frames that are not acknowledged, and the bytes to write next.

    Pure. Nothing is to be written before the first `resume`. The bounds are for the caller to heed (`full`): a frame
    pushed beyond them is kept all the same, so that an ending can always be told.
    """

    __slots__ = (
        "_bytes",
        "_kept",
        "_max_bytes",
        "_max_frames",
        "_queued",
        "_window",
        "_wire",
        "acked",
        "epoch",
        "last",
    )

    def __init__(self, max_frames: int = MAX_FRAMES, max_bytes: int = MAX_BYTES) -> None:
        self.epoch = 0  # of the reader we answered last; 0: none yet
        self.acked = 0  # number of the last frame that is acknowledged
        self.last = 0  # number of the last frame
        self._kept: deque[bytes] = deque()  # taken for writing in this epoch, from acked + 1 on
        self._queued: deque[bytes] = deque()  # not taken yet, up to last
        self._wire = memoryview(b"")  # taken, the kernel has not got it yet
        self._bytes = 0
        self._max_frames = max_frames
        self._max_bytes = max_bytes
        self._window = 0  # frames that may be unacknowledged at present
        self.start_slowly()

    @property
    def full(self) -> bool:
        """Whether a sender has to wait for an acknowledgement."""
        return self.last - self.acked >= self._window or self._bytes >= self._max_bytes

    def start_slowly(self) -> None:
        """Begin with a small window again; it grows by as much with each acknowledgement."""
        self._window = min(FIRST_FRAMES, self._max_frames)

    @property
    def written(self) -> bool:
        """Whether the kernel has got everything."""
        return not self._wire and not self._queued

    def push(self, frame: Frame) -> int:
        """Number and keep a frame; its number. Raises FrameError, without using up a number, when it cannot be one."""
        line = encode({**frame, "n": self.last + 1})
        self.last += 1
        self._queued.append(line)
        self._bytes += len(line)
        return self.last

    def ack(self, number: int) -> None:
        """Forget the frames up to this number. One that was never written cannot be acknowledged and is kept."""
        before = self.acked
        while self._kept and self.acked < number:
            self._bytes -= len(self._kept.popleft())
            self.acked += 1
        if self.acked > before:
            self._window = min(self._window + FIRST_FRAMES, self._max_frames)

    def resume(self, epoch: int, last: int) -> bool:
        """Begin again for a new reader, who has frames up to `last`; False for an epoch that is not newer (stale).

        What is half written is thrown away: its line ends where the newline before the ``reset`` stands. The ``last``
        of the reset is the number before the next frame: the reader's own, more if frames after it were acknowledged
        before and are gone, less if it names frames that were never written.
        """
        if epoch <= self.epoch:
            return False
        self.epoch = epoch
        self.ack(last)
        self._queued.extendleft(reversed(self._kept))
        self._kept.clear()
        reset = {"t": Up.RESET, "v": VERSION, "epoch": epoch, "last": self.acked}
        self._wire = memoryview(b"\n" + encode(reset))
        return True

    def pending(self) -> memoryview:
        """The bytes to write next: about CHUNK, a burst of frames in one go; empty when there is nothing to write."""
        if not self._wire and self._queued and self.epoch:
            lines, size = [], 0
            while self._queued and size < CHUNK:
                line = self._queued.popleft()
                lines.append(line)
                size += len(line)
            self._kept.extend(lines)
            self._wire = memoryview(lines[0] if len(lines) == 1 else b"".join(lines))
        return self._wire

    def wrote(self, count: int) -> None:
        """So many of the pending bytes are with the kernel."""
        self._wire = self._wire[count:]


class Pipe:
    """Both FIFOs of a channel's folder. `on_frame` gets every downward frame but those of the protocol itself."""

    def __init__(self, folder: str, on_frame: Callable[[Frame], None], outbox: Outbox | None = None) -> None:
        self._folder = folder
        self._on_frame = on_frame
        self._outbox = outbox or Outbox()
        self._splitter = Splitter()
        self._loop = asyncio.get_running_loop()
        self._down = self._up = -1
        self._flushing: asyncio.Handle | None = None
        self._blocked = False  # the kernel's pipe is full
        self._seen = 0
        self._room = asyncio.Event()
        self._written = asyncio.Event()

    @property
    def acked(self) -> int:
        """Number of the last frame the supervisor acknowledged."""
        return self._outbox.acked

    @property
    def seen(self) -> int:
        """Number of the last frame the supervisor has read; it acknowledges later, when a slow reader has taken it."""
        return max(self._seen, self._outbox.acked)

    def open(self) -> None:
        """Open both FIFOs and take what the supervisor wrote already; raises OSError when they are not there."""
        flags = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
        self._down = os.open(f"{self._folder}/{DOWN_FIFO}", flags)
        self._up = os.open(f"{self._folder}/{UP_FIFO}", flags)
        self._loop.add_reader(self._down, self._readable)
        self._readable()

    def close(self) -> None:
        """Close both FIFOs; what is not written is lost."""
        if self._flushing is not None:
            self._flushing.cancel()
        for fd in (self._down, self._up):
            if fd >= 0:
                self._loop.remove_reader(fd)
                self._loop.remove_writer(fd)
                os.close(fd)
        self._down = self._up = -1

    async def send(self, frame: Frame) -> int:
        """Send a frame; its number. Waits while the window of unacknowledged frames is full; raises FrameError."""
        while self._outbox.full:
            self._room.clear()
            await self._room.wait()
        return self.post(frame)

    def post(self, frame: Frame) -> int:
        """Send a frame without regard to the window: for the few that must not wait, as ``beat`` and ``bye``."""
        number = self._outbox.push(frame)
        if self._flushing is None and not self._blocked:
            # at the end of this turn of the loop, so that a burst leaves in one write
            self._flushing = self._loop.call_soon(self.flush)
        return number

    def flush(self) -> None:
        """Write as much as the kernel takes, now."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        while data := self._outbox.pending():
            try:
                self._outbox.wrote(os.write(self._up, data))
            except BlockingIOError:
                if not self._blocked:
                    self._loop.add_writer(self._up, self.flush)
                    self._blocked = True
                return
        if self._blocked:
            self._loop.remove_writer(self._up)
            self._blocked = False
        if self._outbox.written:
            self._written.set()

    async def drain(self) -> None:
        """Return when the kernel has got every frame; the FIFO keeps them when the worker ends."""
        while not self._outbox.written:
            self._written.clear()
            await self._written.wait()

    def _readable(self) -> None:
        try:
            data = os.read(self._down, CHUNK)
        except BlockingIOError:
            return
        for frame in self._splitter.feed(data):
            if isinstance(frame, Bad):
                log.warning("pipe.bad_line", bytes=frame.size, reason=frame.reason)
            elif frame["t"] == Down.ACK:
                self._ack(frame)
            elif frame["t"] == Down.RESUME:
                self._resume(frame)
            else:
                if frame["t"] == Down.TURN:
                    self._outbox.start_slowly()
                self._on_frame(frame)

    def _ack(self, frame: Frame) -> None:
        if _count(frame.get("n")):
            self._outbox.ack(frame["n"])
            if _count(seen := frame.get("seen", 0)):
                self._seen = seen
            if not self._outbox.full:
                self._room.set()
        else:
            log.warning("pipe.bad_frame", frame=frame)

    def _resume(self, frame: Frame) -> None:
        if frame.get("v") != VERSION or not _count(frame.get("epoch")) or not _count(frame.get("last")):
            log.warning("pipe.bad_frame", frame=frame)
        elif not self._outbox.resume(frame["epoch"], frame["last"]):
            log.warning("pipe.resume_stale", epoch=frame["epoch"], current=self._outbox.epoch)
        else:
            if not self._outbox.full:
                self._room.set()
            self.flush()


def _count(value: Any) -> bool:
    """Whether this is a number of frames or epochs; true and false are none, though Python counts them as integers."""
    return type(value) is int and value >= 0
