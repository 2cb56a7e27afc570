"""The receiving half of the pipe protocol: bytes in, frames out, each once and in order. Pure."""

from collections.abc import Iterator
from typing import Final

from worker.frames import OLDEST, Bad, Frame, Splitter, Up

MAX_SHOWN: Final = 64


class Receiver:
    """Puts the upward byte stream of one worker into order.

    Everything before the ``reset`` line of our epoch is what an earlier reader left over, and is skipped. A number that
    was seen already is a repetition, and is skipped. A number that is missing is told as a ``gap`` frame with the count
    of what was lost, never passed over.

    Who knows nothing of a worker that an earlier supervisor has heard (`adopting`) begins where its worker can: the
    ``reset`` itself is handed on, its ``last`` is what is not told again. Of one that has `ended` no ``reset`` can
    come: what lies in its pipe is taken as it is.
    """

    __slots__ = ("_adopting", "_epoch", "_splitter", "_synchronised", "last", "version")

    def __init__(self, epoch: int, last: int = 0, *, adopting: bool = False, ended: bool = False) -> None:
        """`last` is the number of the last frame that was safely handed on in an earlier epoch."""
        self._epoch = epoch
        self._splitter = Splitter()
        self._synchronised = ended
        self._adopting = adopting or ended
        self.last = last
        self.version = OLDEST  # of the protocol, as the worker's ``reset`` has it

    def feed(self, data: bytes) -> Iterator[Frame | Bad]:
        """The frames that `data` completes; `last` moves with each one taken."""
        for frame in self._splitter.feed(data):
            if isinstance(frame, Bad):
                if self._synchronised and not self._adopting:
                    yield frame
                continue
            if frame["t"] == Up.RESET:
                if not self._synchronised and frame.get("epoch") == self._epoch:
                    yield from self._reset(frame)
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
            if number > self.last:
                yield from self._numbered(number, frame)

    def _numbered(self, number: int, frame: Frame) -> Iterator[Frame]:
        """A frame that is new; behind what is missing before it."""
        if self._adopting:  # the first of a worker that has ended: what was before nobody can tell
            self._adopting = False
            self.last = number - 1
        elif number > self.last + 1 and frame["t"] != Up.SKIP:
            yield {"t": Up.GAP.value, "n": number - 1, "lost": number - 1 - self.last}
        self.last = number  # a ``skip`` stands for all numbers up to its own
        yield frame

    def _reset(self, frame: Frame) -> Iterator[Frame]:
        self._synchronised = True
        if type(frame.get("v")) is int:
            self.version = frame["v"]
        if self._adopting:
            self._adopting = False
            if type(last := frame.get("last")) is int and last > self.last:
                self.last = last
            upto = frame.get("upto")
            yield {**frame, "last": self.last, "upto": upto if type(upto) is int else self.last}
