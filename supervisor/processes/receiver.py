"""The receiving half of the pipe protocol: bytes in, frames out, each once and in order. Pure."""

from collections.abc import Iterator
from typing import Final

from worker.frames import Bad, Frame, Splitter, Up

MAX_SHOWN: Final = 64


class Receiver:
    """Puts the upward byte stream of one worker into order.

    Everything before the ``reset`` line of our epoch is what an earlier reader left over, and is skipped. A number that
    was seen already is a repetition, and is skipped. A number that is missing is told as a ``gap`` frame with the count
    of what was lost, never passed over.
    """

    __slots__ = ("_epoch", "_splitter", "_synchronised", "last")

    def __init__(self, epoch: int, last: int = 0) -> None:
        """`last` is the number of the last frame that was safely handed on in an earlier epoch."""
        self._epoch = epoch
        self._splitter = Splitter()
        self._synchronised = False
        self.last = last

    def feed(self, data: bytes) -> Iterator[Frame | Bad]:
        """The frames that `data` completes; `last` moves with each one taken."""
        for frame in self._splitter.feed(data):
            if isinstance(frame, Bad):
                if self._synchronised:
                    yield frame
                continue
            if frame["t"] == Up.RESET:
                self._synchronised = self._synchronised or frame.get("epoch") == self._epoch
                continue
            if not self._synchronised:
                continue
            if frame["t"] == Up.GAP:
                yield Bad(0, "a 'gap' frame, which only a reader tells itself")
                continue
            number = frame.get("n")
            if not isinstance(number, int) or isinstance(number, bool):
                yield Bad(0, f"a {frame['t'][:MAX_SHOWN]!r} frame without a number")
                continue
            if number <= self.last:
                continue
            if number > self.last + 1:
                yield {"t": Up.GAP.value, "n": number - 1, "lost": number - 1 - self.last}
            self.last = number
            yield frame
