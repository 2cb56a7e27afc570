"""What Ctrl-C does in a chat: it cancels the turn that runs, and a second one ends the program."""

import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Final, Self

INTERRUPTED: Final = 128 + signal.SIGINT  # the exit code


class Interrupts:
    """Enter it for as long as the program runs; between turns Ctrl-C raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.count = 0  # since the last turn began
        self.running = False  # a turn

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def going_to(self, cancel: Callable[[], None]) -> "Watch":
        """While this is entered a turn runs: the first Ctrl-C calls `cancel`, the second raises SystemExit."""
        return Watch(self, cancel)

    def _on_signal(self, _: int, __: FrameType | None) -> None:
        self.count += 1
        if not self.running:
            raise KeyboardInterrupt
        if self.count > 1:
            raise SystemExit(INTERRUPTED)


class Watch:
    """A thread that calls `cancel`, for it may take a while, at the first Ctrl-C.

    The thread learns of it from the signal's wake-up descriptor: Python's own handler has to wait for the main thread,
    which waits for the server if the signal came just before it began to.
    """

    def __init__(self, interrupts: Interrupts, cancel: Callable[[], None]) -> None:
        self._interrupts = interrupts
        self._cancel = cancel
        # A daemon: when the program is to end at once, it does not wait for the server.
        self._thread = threading.Thread(target=self._watch, name="cancel", daemon=True)

    def __enter__(self) -> None:
        self._reading, self._writing = socket.socketpair()
        self._writing.setblocking(False)
        self._before = signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        self._thread.start()
        self._interrupts.count, self._interrupts.running = 0, True

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        signal.set_wakeup_fd(self._before)
        self._writing.close()
        if kind is None or issubclass(kind, Exception):
            self._thread.join()
            self._reading.close()
        self._interrupts.running = False

    def _watch(self) -> None:
        while numbers := self._reading.recv(16):
            if signal.SIGINT in numbers:
                self._cancel()
                return
