"""The sockets the server listens on: its own at an address, or those a service manager opened (sd_listen_fds(3))."""

import os
import socket
from collections.abc import MutableMapping, Sequence
from contextlib import ExitStack
from typing import Final

from supervisor.addresses import Address
from supervisor.sources import LISTEN_FIELDS, Given, Layer, Problem, SettingsError

BACKLOG: Final = 1024
FIRST_INHERITED: Final = 3
COUNT: Final = "LISTEN_FDS"
VARIABLES: Final = ("LISTEN_PID", COUNT, "LISTEN_FDNAMES")
SOURCE: Final = "socket activation"
FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
ONLY_LOCAL: Final = Address("127.0.0.1", 0)


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


def inherit(environ: MutableMapping[str, str], first: int = FIRST_INHERITED) -> list[socket.socket]:
    """The listening sockets that whoever started us left in descriptor `first` and behind; none is the usual case.

    The variables that tell of them are taken out of `environ`, and no child gets them. Raises SettingsError for a
    descriptor that is no listening stream socket.
    """
    pid, count, names = (environ.pop(name, "") for name in VARIABLES)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    named = dict(enumerate(names.split(":"), first))
    with ExitStack() as opened:
        numbers = range(first, first + int(count))
        inherited = [opened.enter_context(_adopt(fd, named.get(fd, ""))) for fd in numbers]
        opened.pop_all()  # all are good
    return inherited


def _adopt(fd: int, name: str) -> socket.socket:
    try:
        os.set_inheritable(fd, False)
        listener = socket.socket(fileno=fd)
    except OSError as error:
        raise _unfit(fd, name, error.strerror or str(error)) from error
    if (
        listener.family not in FAMILIES
        or listener.type != socket.SOCK_STREAM
        or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        listener.close()
        raise _unfit(fd, name, "it does not listen for streams, of TCP or at a path")
    listener.setblocking(False)
    return listener


def _unfit(fd: int, name: str, why: str) -> SettingsError:
    told = f"descriptor {fd} {f'({name}) ' if name else ''}cannot be served: {why}"
    return SettingsError(Problem(COUNT, SOURCE, f"{told}; allowed in a socket unit: ListenStream= with Accept=no"))


def settings_of(inherited: Sequence[socket.socket]) -> Layer:
    """The addresses of inherited sockets, as settings that win over all others: the same rules are to hold for them.

    A socket at a path is for this machine only, as one at loopback is.
    """
    if not inherited:
        return {}
    addresses = [address_of(listener) for listener in inherited]
    first, *others = [address for address in addresses if address is not None] or [ONLY_LOCAL]
    values = (first.host, first.port, tuple(others))
    return {name: Given(value, COUNT, SOURCE) for name, value in zip(LISTEN_FIELDS, values, strict=True)}


def address_of(listener: socket.socket) -> Address | None:
    """Where a socket listens; None when that is a path."""
    return None if listener.family == socket.AF_UNIX else Address(*listener.getsockname()[:2])


def url_of(listener: socket.socket) -> str:
    """The same for people, and for clients of TCP."""
    address = address_of(listener)
    if address is not None:
        return f"http://{address}"
    name = listener.getsockname()
    return f"unix:{name}" if isinstance(name, str) else f"unix:@{name[1:].decode(errors='replace')}"
