"""The supervisor's end of a channel's two FIFOs: reading, acknowledging, writing with a bound."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from supervisor.processes.receiver import Receiver
from supervisor.processes.rota import Rota
from worker.frames import OLDEST, VERSION, Bad, Down, Frame, Up, encode
from worker.spawn import DOWN_FIFO, UP_FIFO

READ_SIZE: Final = 32 * 1024  # at once, then the other channels have their turn
QUIET_FRAMES: Final = 2  # a worker sends a few beats without one
FIRST_ACK_FRAMES: Final = 6  # of a turn, less than a worker's first window; both grow by so much each time
ACK_FRAMES: Final = 256
ACK_BYTES: Final = 256 * 1024
OUTBOX_BYTES: Final = 4 * 1024 * 1024
RATE_BYTES: Final = 16 * 1024 * 1024
WINDOW_SECONDS: Final = 0.1
WINDOW_BYTES: Final = int(RATE_BYTES * WINDOW_SECONDS)
LINE_BYTES: Final = 256  # what a line counts for beyond its length: many short ones cost as much as few long ones
LARGEST_PIPE: Final = 1024 * 1024

_BEAT: Final = Up.BEAT.value
_WARY: Final = os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


class LinkFullError(RuntimeError):
    """The worker does not read: what waits for it has reached its bound."""


class Link:
    """One channel's pipes. Both FIFOs are held open both ways, so that neither side ever sees a broken pipe.

    No more than RATE_BYTES a second are read: a worker that floods waits, and leaves the loop to others.

    `held` is the number of the first frame that somebody who was given it has not taken yet, None when there is none:
    it is acknowledged, and what follows it, only when that has happened (`taken`).
    """

    __slots__ = (
        "_ack_frames",
        "_acked",
        "_beaten",
        "_behind",
        "_down",
        "_is_waiting",
        "_loop",
        "_on_bad",
        "_on_frame",
        "_outbox",
        "_pause",
        "_paused",
        "_receiver",
        "_rota",
        "_unacked_bytes",
        "_up",
        "_window_end",
        "_window_left",
        "_writing",
        "held",
    )

    def __init__(self, on_frame: Callable[[Frame], None], on_bad: Callable[[Bad], None], rota: Rota) -> None:
        """`on_frame` gets every frame once and in order, `on_bad` every stretch of bytes that is none.

        `rota` is what all links share: they are read in turn.
        """
        self._loop = asyncio.get_running_loop()
        self._rota = rota
        self._is_waiting = False  # for its turn
        self._on_frame = on_frame
        self._on_bad = on_bad
        self._up = self._down = -1
        self._outbox = bytearray()
        self._writing = False
        self._acked = 0
        self._ack_frames = FIRST_ACK_FRAMES  # after which the next acknowledgement is due
        self._unacked_bytes = 0
        self._beaten = False
        self._behind = False  # the last acknowledgement left out what was held
        self._pause: asyncio.TimerHandle | None = None
        self._paused = False
        self.held: int | None = None
        self._window_end = 0.0
        self._window_left = 0
        self._receiver = Receiver(epoch=0)

    def open(self, folder: Path, *, epoch: int = 1) -> None:
        """Attach to the FIFOs in `folder` of a worker that is new. Raises OSError."""
        self._open(folder, Receiver(epoch))
        self._ask_to_resume(epoch)

    def adopt(self, folder: Path, *, epoch: int, ended: bool) -> None:
        """Attach to the FIFOs in `folder` of a worker that an earlier supervisor had. Raises OSError.

        `epoch` is later than all that the worker has seen. It is asked for all that it can still tell; its ``reset``,
        which comes first, says from where on that is. One that has `ended` is not asked.
        """
        self._open(folder, Receiver(epoch, adopting=True, ended=ended))
        if not ended:
            self._ask_to_resume(epoch)

    def _open(self, folder: Path, receiver: Receiver) -> None:
        self._receiver = receiver
        self._acked = receiver.last
        self._ack_frames = FIRST_ACK_FRAMES
        self._up = os.open(f"{folder}/{UP_FIFO}", _WARY)
        self._down = os.open(f"{folder}/{DOWN_FIFO}", _WARY)
        self._rota.begin(self._listen)

    def _ask_to_resume(self, epoch: int) -> None:
        # What an earlier supervisor wrote in part ends with the newline; on a new pipe it is an empty line.
        self._outbox += b"\n"
        self.send({"t": Down.RESUME.value, "v": OLDEST, "most": VERSION, "epoch": epoch, "last": 0})

    def send(self, frame: Frame) -> None:
        """Write one frame, now or when there is room. Raises FrameError, LinkFullError, or OSError when closed."""
        line = encode(frame)
        if len(self._outbox) + len(line) > OUTBOX_BYTES:
            raise LinkFullError(f"{len(self._outbox)} bytes wait for the worker; at most {OUTBOX_BYTES} may")
        self._outbox += line
        if not self._writing:
            self._write()

    def start_slowly(self) -> None:
        """A turn is about to be sent: its worker begins with a small window, and needs its acknowledgements sooner."""
        self._ack_frames = FIRST_ACK_FRAMES
        self._send_ack()

    def drain(self) -> None:
        """Take what still lies in the pipe: the worker has ended. No more than a pipe can hold: others may write on."""
        taken = 0
        while self._up >= 0 and taken < LARGEST_PIPE and (size := self._take()):
            taken += size

    @property
    def heard(self) -> int:
        """The number of the last frame that came."""
        return self._receiver.last

    def close(self) -> None:
        """Let go of the FIFOs; what was not written is dropped."""
        if self._pause is not None:
            self._pause.cancel()
        if self._up >= 0:
            self._loop.remove_reader(self._up)
            os.close(self._up)
        if self._down >= 0:
            if self._writing:
                self._loop.remove_writer(self._down)
            os.close(self._down)
        self._up = self._down = -1
        self._outbox.clear()

    def pause(self) -> None:
        """Read no more until `go_on`: what has been read waits for somebody slow, and there is enough of it."""
        if not self._paused and self._up >= 0:
            self._paused = True
            self._loop.remove_reader(self._up)

    def go_on(self) -> None:
        """Read again."""
        if self._paused:
            self._paused = False
            self._listen()

    def taken(self) -> None:
        """What was held has been taken, or some of it."""
        self._acknowledge()

    def _on_readable(self) -> None:
        if not self._is_waiting:
            self._is_waiting = not self._rota.take(self._read)

    def _read(self) -> None:
        self._is_waiting = False
        if self._up < 0 or self._paused or self._pause is not None:  # since it began to wait
            return
        now = time.monotonic()
        if now >= self._window_end:
            self._window_end = now + WINDOW_SECONDS
            self._window_left = WINDOW_BYTES
        self._take()
        self._acknowledge()
        if self._window_left <= 0 and self._up >= 0:
            self._loop.remove_reader(self._up)
            self._pause = self._loop.call_later(self._window_end - now, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._listen()

    def _listen(self) -> None:
        if self._up >= 0 and self._pause is None and not self._paused:
            self._loop.add_reader(self._up, self._on_readable)

    def _take(self) -> int:
        """Read once and hand on; how many bytes, 0 when there were none or a handler closed us."""
        try:
            data = os.read(self._up, READ_SIZE)
        except BlockingIOError:
            return 0
        self._unacked_bytes += len(data)
        self._window_left -= len(data)
        for frame in self._receiver.feed(data):
            if isinstance(frame, Bad):
                self._on_bad(frame)
            else:
                self._beaten = self._beaten or frame["t"] == _BEAT
                self._on_frame(frame)
            if self._up < 0:
                return 0  # a handler closed us
        if self.held is None:  # else the pace is set by who takes the frames
            self._window_left -= LINE_BYTES * data.count(b"\n")
        return len(data)

    def _acknowledge(self) -> None:
        """Acknowledge in batches, and with every other beat: a quiet channel needs no timer for it."""
        seen = self._receiver.last
        done = seen if self.held is None else self.held - 1
        many = done - self._acked >= self._ack_frames or (self._unacked_bytes >= ACK_BYTES and done > self._acked)
        if many or (self._beaten and seen - self._acked >= QUIET_FRAMES) or (self._behind and self.held is None):
            self._send_ack()

    def _send_ack(self) -> None:
        # While other frames wait, the worker does not read: a later acknowledgement covers this one.
        seen = self._receiver.last
        done = seen if self.held is None else self.held - 1
        if not self._outbox and self._down >= 0 and (done > self._acked or self._beaten):
            if done > self._acked:  # else it makes no window larger
                self._ack_frames = min(self._ack_frames + FIRST_ACK_FRAMES, ACK_FRAMES)
            self._acked = done
            self._behind = done < seen
            self._unacked_bytes = 0
            self._beaten = False
            frame: Frame = {"t": Down.ACK.value, "n": done}
            self.send(frame if seen == done else {**frame, "seen": seen})

    def _write(self) -> None:
        try:
            written = os.write(self._down, self._outbox)
        except BlockingIOError:
            written = 0
        del self._outbox[:written]
        if self._outbox and not self._writing:
            self._writing = True
            self._loop.add_writer(self._down, self._write)
        elif not self._outbox and self._writing:
            self._writing = False
            self._loop.remove_writer(self._down)
            self._send_ack()
