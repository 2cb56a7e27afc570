"""What lies in a pipe, without taking it: it is taken once it is written, so that a server that dies loses none."""

import ctypes
import errno
import fcntl
import os
import select
import struct
import termios
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.tee.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_uint]
_libc.tee.restype = ctypes.c_ssize_t


class Peek:
    """Looks into pipes, by way of one of its own, which is empty between two looks. For one thread."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._reader, self._writer = _pipe()

    def __call__(self, pipe: int, most: int) -> bytes:
        """The next bytes of `pipe`, at most so many; none when it is empty. Raises OSError."""
        size = _libc.tee(pipe, self._writer, most, os.SPLICE_F_NONBLOCK)
        if size < 0:
            number = ctypes.get_errno()
            if number == errno.EAGAIN:
                return b""
            raise OSError(number, os.strerror(number))
        try:
            return self._read(size)
        except OSError:
            self._renew()  # what is left in it would be taken for another worker's
            raise

    def close(self) -> None:
        """Close its own pipe."""
        os.close(self._reader)
        os.close(self._writer)

    def _read(self, size: int) -> bytes:
        """All of it, which may be several reads: a worker can make packets of what it writes."""
        data = os.read(self._reader, size)
        while len(data) < size:
            more = os.read(self._reader, size - len(data))
            if not more:
                raise OSError(errno.EIO, "a pipe holds less than was put into it")
            data += more
        return data

    def _renew(self) -> None:
        self.close()
        self._reader, self._writer = _pipe()


def _pipe() -> tuple[int, int]:
    return os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)


def is_full(pipe: int) -> bool:
    """Whether somebody who writes to the pipe waits, or would."""
    poll = select.poll()
    poll.register(pipe, select.POLLOUT)
    return not poll.poll(0)


def held(pipe: int) -> int:
    """How many bytes lie in a pipe. Raises OSError."""
    size: int = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0]
    return size


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
