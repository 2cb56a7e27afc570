"""What lies in a pipe, without taking it: it is taken once it is written, so that a server that dies loses none."""

import ctypes
import errno
import os
import select
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.tee.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_uint]
_libc.tee.restype = ctypes.c_ssize_t


class Peek:
    """Looks into pipes, by way of one of its own. For one thread."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def __call__(self, pipe: int, most: int) -> bytes:
        """The next bytes of `pipe`, at most so many; none when it is empty. Raises OSError."""
        size = _libc.tee(pipe, self._writer, most, os.SPLICE_F_NONBLOCK)
        if size > 0:
            return os.read(self._reader, size)
        number = ctypes.get_errno()
        if size == 0 or number == errno.EAGAIN:
            return b""
        raise OSError(number, os.strerror(number))

    def close(self) -> None:
        """Close its own pipe."""
        os.close(self._reader)
        os.close(self._writer)


def is_full(pipe: int) -> bool:
    """Whether somebody who writes to the pipe waits, or would."""
    poll = select.poll()
    poll.register(pipe, select.POLLOUT)
    return not poll.poll(0)


def take(pipe: int, size: int) -> None:
    """Take so many bytes out of the pipe, or as many as there are."""
    while size > 0:
        try:
            taken = len(os.read(pipe, size))
        except BlockingIOError:
            return
        if not taken:
            return
        size -= taken
