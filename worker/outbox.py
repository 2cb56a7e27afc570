"""The protocol of the worker's end of the pipes: frames and acknowledgements in, bytes out. Pure (docs/pipes.md)."""

from collections import deque
from typing import Final

from worker.frames import Frame, Up, encode

FIRST_FRAMES: Final = 16  # of a turn: many that begin at once all get to their first words soon
MAX_FRAMES: Final = 1024
MAX_BYTES: Final = 1024 * 1024
PAST_FRAMES: Final = 8192
PAST_BYTES: Final = 1024 * 1024
TURN_PAST_FRAMES: Final = 1024  # of those before a turn: what a supervisor keeps for its readers
CHUNK: Final = 64 * 1024  # what a pipe holds

BEAT: Final = b'{"t":"beat"'
SKIP: Final = b'{"t":"skip",'


class Past:
    """The last frames that were acknowledged, for a supervisor that knows nothing of them. Bounded; pure.

    Beats are not repeated: those that follow each other become one ``skip``, which stands for all numbers up to its
    own.
    """

    __slots__ = ("_bytes", "_entries", "_first", "_max_bytes", "_max_frames")

    def __init__(self, max_frames: int, max_bytes: int) -> None:
        self._entries: deque[tuple[int, bytes]] = deque()  # number of the last frame it stands for, line
        self._first = 1  # number of the first frame that is here, or would be
        self._bytes = 0
        self._max_frames = max_frames
        self._max_bytes = max_bytes

    def add(self, number: int, line: bytes) -> None:
        """Keep a frame, the one after the last."""
        if line.startswith(BEAT):
            if self._entries and self._entries[-1][1].startswith(SKIP):
                self._bytes -= len(self._entries.pop()[1])
            line = b'%b"n":%d}\n' % (SKIP, number)
        self._entries.append((number, line))
        self._bytes += len(line)
        while self._bytes > self._max_bytes:
            self._drop()
        self.trim(self._max_frames)

    def trim(self, most: int) -> None:
        """Keep only the newest."""
        while len(self._entries) > most:
            self._drop()

    def _drop(self) -> None:
        number, line = self._entries.popleft()
        self._first = number + 1
        self._bytes -= len(line)

    def take(self, after: int) -> tuple[int, list[tuple[int, bytes]]]:
        """Give back the frames after this number: the number before the first of them, and they; they are not here
        any more.
        """
        taken: list[tuple[int, bytes]] = []
        while self._entries and self._entries[-1][0] > after:
            number, line = self._entries.pop()
            self._bytes -= len(line)
            taken.append((number, line))
        taken.reverse()
        before = self._entries[-1][0] if self._entries else self._first - 1
        return before, taken


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
        "_past",
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
        self._past = Past(PAST_FRAMES, PAST_BYTES)
        self._kept: deque[tuple[int, bytes]] = deque()  # taken for writing in this epoch, from acked + 1 on
        self._queued: deque[tuple[int, bytes]] = deque()  # not taken yet, up to last
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

    def begin_turn(self) -> None:
        """A turn begins: it may fill what is kept of the past, so that all of it can be told again."""
        self.start_slowly()
        self._past.trim(TURN_PAST_FRAMES)

    @property
    def written(self) -> bool:
        """Whether the kernel has got everything."""
        return not self._wire and not self._queued

    def push(self, frame: Frame) -> int:
        """Number and keep a frame; its number. Raises FrameError, without using up a number, when it cannot be one."""
        line = encode({**frame, "n": self.last + 1})
        self.last += 1
        self._queued.append((self.last, line))
        self._bytes += len(line)
        return self.last

    def ack(self, number: int) -> None:
        """Take the frames up to this number for handed on. One that was never written cannot be acknowledged."""
        before = self.acked
        while self._kept and self._kept[0][0] <= number:
            self.acked, line = self._kept.popleft()
            self._bytes -= len(line)
            self._past.add(self.acked, line)
        if self.acked > before:
            self._window = min(self._window + FIRST_FRAMES, self._max_frames)

    def resume(self, epoch: int, last: int, version: int = 1) -> bool:
        """Begin again for a new reader, who has frames up to `last`; False for an epoch that is not newer (stale).

        What is half written is thrown away: its line ends where the newline before the ``reset`` stands. The ``last``
        of the reset is the number before the next frame: the reader's own; more if frames after it are gone; less if it
        names frames that were never written. From version 2 on frames that were acknowledged before are repeated too,
        as far as they are kept, and ``upto`` is the number of the last frame there is.
        """
        if epoch <= self.epoch:
            return False
        self.epoch = epoch
        self.ack(last)
        self._queued.extendleft(reversed(self._kept))
        self._kept.clear()
        reset: Frame = {"t": Up.RESET, "v": version, "epoch": epoch, "last": self.acked}
        if version > 1:
            if last < self.acked:
                self.acked, again = self._past.take(last)
                self._queued.extendleft(reversed(again))
                self._bytes += sum(len(line) for _, line in again)
            reset |= {"last": self.acked, "upto": self.last}
        self._wire = memoryview(b"\n" + encode(reset))
        return True

    def pending(self) -> memoryview:
        """The bytes to write next: about CHUNK, a burst of frames in one go; empty when there is nothing to write."""
        if not self._wire and self._queued and self.epoch:
            lines, size = [], 0
            while self._queued and size < CHUNK:
                numbered = self._queued.popleft()
                self._kept.append(numbered)
                lines.append(numbered[1])
                size += len(numbered[1])
            self._wire = memoryview(lines[0] if len(lines) == 1 else b"".join(lines))
        return self._wire

    def wrote(self, count: int) -> None:
        """So many of the pending bytes are with the kernel."""
        self._wire = self._wire[count:]
