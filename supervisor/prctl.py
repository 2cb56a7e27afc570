"""What a process may ask of the kernel for itself that Python 3.11 has no name for (prctl(2))."""

import ctypes
import os
import signal
from typing import Final

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4


def hide_memory() -> None:
    """Our environment and memory hold keys; a worker has the same user and could read them in /proc otherwise.

    It does not help against root, who may read everything.
    """
    _prctl(PR_SET_DUMPABLE, 0)


def die_with(parent: int) -> None:
    """Let SIGKILL end this process when its parent ends, of which nothing else would tell it."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended before
        signal.raise_signal(signal.SIGKILL)


def _prctl(option: int, argument: int) -> None:
    """Raises OSError."""
    if ctypes.CDLL(None, use_errno=True).prctl(option, argument, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")
