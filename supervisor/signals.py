"""The signals of a server: end, end at once, reload."""

import asyncio
import os
import signal
import sys
from typing import Final

ENDING: Final = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """What the process was told. `listen` before use; each event stays set until somebody clears it."""

    def __init__(self) -> None:
        self.end = asyncio.Event()
        self.hurry = asyncio.Event()  # told to end once more
        self.reload = asyncio.Event()
        self.first: signal.Signals | None = None  # the one that told it to end

    def listen(self) -> None:
        """Take the signals of this process; that of a terminal that closes only if it is not ignored (nohup).

        That one, SIGHUP, ends a server that somebody has started at a terminal. Any other server reloads.
        """
        loop = asyncio.get_running_loop()
        for number in ENDING:
            loop.add_signal_handler(number, self._on_end, number)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            if is_at_terminal():
                loop.add_signal_handler(signal.SIGHUP, self._on_end, signal.SIGHUP)
            else:
                loop.add_signal_handler(signal.SIGHUP, self.reload.set)

    def _on_end(self, number: signal.Signals) -> None:
        if self.first is None:
            self.first = number
            self.end.set()
        else:
            self.hurry.set()


def is_at_terminal() -> bool:
    """Whether somebody started us at a terminal."""
    return sys.stdin is not None and os.isatty(sys.stdin.fileno())
