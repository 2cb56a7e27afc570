"""The spawner's end of ``spawn.sock``: one control server at a time, its requests in, our events out."""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable
from typing import Any, Final

from worker.spawn import MAX_MESSAGE, pack, unpack
from worker.spawner.identity import descends

CREDENTIALS: Final = struct.Struct("=iII")  # pid, user, group
AT_ONCE: Final = 32
MOST_DESCRIPTORS: Final = 4
PAUSE_SECONDS: Final = 0.1
# What a malformed request, or the lack of a descriptor, can raise while it is read and carried out.
FAULTS: Final = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, OSError)

Handler = Callable[[dict[str, Any], list[int], bool], None]


class Peer:
    """`handle` is called with each request, `lost` when the control server has gone.

    It gets the descriptors that came along, takes out of the list those it keeps, and is told whether some did not
    arrive because this process has none free. It may raise one of `FAULTS`: then the request is refused.
    """

    def __init__(
        self, listener: socket.socket, loop: asyncio.AbstractEventLoop, handle: Handler, lost: Callable[[], None]
    ) -> None:
        """`listener` is bound and listening; the caller closes it."""
        self._listener = listener
        self._loop = loop
        self._handle = handle
        self._lost = lost
        self._control: socket.socket | None = None
        self._outbox: list[bytes] = []
        self._pause: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Take connections from now on."""
        self._pause = None
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener, self._accept)

    def stop_listening(self) -> None:
        """Take no more connections; the one there is goes on."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener)

    def close(self) -> None:
        """End the connection."""
        if self._control is not None:
            self._loop.remove_reader(self._control)
            self._loop.remove_writer(self._control)
            self._control.close()
            self._control = None
        self._outbox.clear()

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message. Without a control server it is dropped: endings are kept in their trees, all else is news."""
        if self._control is None:
            return
        self._outbox.append(pack(message))
        if len(self._outbox) == 1:
            self._flush()

    def _accept(self) -> None:
        try:
            peer, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError:  # no descriptor is free, and the connection stays: it must not keep us busy
            self._loop.remove_reader(self._listener)
            self._pause = self._loop.call_later(PAUSE_SECONDS, self.open)
            return
        if descends(_pid_of(peer), os.getpid()):
            # A worker of our user, while no control server is connected: it would start others, which are not confined.
            peer.close()
            return
        if self._control is not None:
            self._read()  # it may have gone, and its successor come, since we looked last
        if self._control is not None:
            # One policy at a time: the state folder's lock keeps a second control server out before it gets here.
            with peer, contextlib.suppress(ConnectionError):
                peer.send(pack({"ev": "busy"}))
            return
        peer.setblocking(False)
        self._control = peer
        self._outbox.clear()
        self._loop.add_reader(peer, self._read)

    def _read(self) -> None:
        for _ in range(AT_ONCE):  # bounded, so that exits are reaped while a flood of requests comes in
            if self._control is None:
                return
            try:
                data, fds, flags, _ = socket.recv_fds(self._control, MAX_MESSAGE, MOST_DESCRIPTORS)
            except BlockingIOError:
                return
            except ConnectionError:
                data, fds, flags = b"", [], 0
            if not data:
                self.close()
                self._lost()
                return
            try:
                self._handle(unpack(data), fds, bool(flags & socket.MSG_CTRUNC))
            except FAULTS as error:
                self.tell({"ev": "refused", "error": f"{type(error).__name__}: {error}"})
            finally:
                for fd in fds:
                    os.close(fd)

    def _flush(self) -> None:
        control = self._control
        if control is None:
            return
        while self._outbox:
            try:
                control.send(self._outbox[0])
            except BlockingIOError:
                self._loop.add_writer(control, self._flush)
                return
            except ConnectionError:
                self._outbox.clear()
                return  # the reader sees the end
            del self._outbox[0]
        self._loop.remove_writer(control)


def _pid_of(peer: socket.socket) -> int:
    """Who connected, by the kernel's word."""
    pid, _, _ = CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
    return int(pid)


def listen(folder: os.PathLike[str], name: str) -> socket.socket:
    """A listening socket in `folder`, bound through the folder's descriptor: a socket's path has at most 107 bytes."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=fd)
        listener.bind(f"/proc/self/fd/{fd}/{name}")
    finally:
        os.close(fd)
    listener.listen(8)
    return listener
