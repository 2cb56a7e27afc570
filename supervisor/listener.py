"""The sockets a server listens with: inherited from who started it, or made at an address."""

import os
import socket
from collections.abc import Mapping
from typing import Final

from supervisor.addresses import Address

BACKLOG: Final = 1024
FIRST_INHERITED: Final = 3  # sd_listen_fds(3)


def inherited(environ: Mapping[str, str]) -> list[socket.socket]:
    """The listening sockets a service manager has made for this very process, by LISTEN_PID and LISTEN_FDS."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    sockets = [socket.socket(fileno=FIRST_INHERITED + number) for number in range(int(environ.get("LISTEN_FDS", "0")))]
    for one in sockets:
        one.setblocking(False)
        one.set_inheritable(False)
    return sockets


def listen(address: Address) -> socket.socket:
    """A listening TCP socket; raises OSError when the address is taken or not ours."""
    family, kind, protocol, _, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(place)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener
