"""The worker's end of the pipes: numbered frames up, kept until acknowledged and repeated after a resume.

`outbox` is the protocol; `Pipe` moves its bytes through the two FIFOs of the channel's folder, which both sides hold
open for reading and writing: a reader that dies shows up neither as an error nor as an end of file.
"""

import asyncio
import os
from collections.abc import Callable
from typing import Any

import structlog

from worker.frames import Bad, Down, Frame, Splitter, version_of
from worker.outbox import CHUNK, Outbox
from worker.spawn import DOWN_FIFO, UP_FIFO

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class Pipe:
    """Both FIFOs of a channel's folder.

    `on_frame` gets every downward frame but those of the protocol itself; of these only the ``resume`` of a supervisor
    that is not the first, once it is obeyed.
    """

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
                    self._outbox.begin_turn()
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
        version, before = version_of(frame), self._outbox.epoch
        if version is None or not _count(frame.get("epoch")) or not _count(frame.get("last")):
            log.warning("pipe.bad_frame", frame=frame)
        elif not self._outbox.resume(frame["epoch"], frame["last"], version):
            log.warning("pipe.resume_stale", epoch=frame["epoch"], current=self._outbox.epoch)
        else:
            if not self._outbox.full:
                self._room.set()
            self.flush()
            if before:
                self._on_frame(frame)


def _count(value: Any) -> bool:
    """Whether this is a number of frames or epochs; true and false are none, though Python counts them as integers."""
    return type(value) is int and value >= 0
