"""Ports for workers that listen on one (wire/ten-property.md, case 80)."""

import secrets
import socket
from typing import Final

from supervisor.causes import Cause, Refusal

FIRST: Final = 10001  # below the range the kernel takes the ports of outgoing connections from
LAST: Final = 30000


class PortAllocator:
    """Hands out TCP ports that are free at that moment, each to one holder at a time.

    Ports are tried in turn from a random one on, so that a port just released, or just picked by another server on this
    host, comes up late.
    """

    def __init__(self, first: int = FIRST, last: int = LAST) -> None:
        self._first = first
        self._count = last - first + 1
        self._next = secrets.randbelow(self._count)
        self._held: set[int] = set()

    def claim(self) -> int:
        """A free port, held until `release`; raises Refusal(SPAWN_FAILED) when the range has none."""
        for _ in range(self._count):
            port = self._first + self._next
            self._next = (self._next + 1) % self._count
            if port not in self._held and is_free(port):
                self._held.add(port)
                return port
        raise Refusal(Cause.SPAWN_FAILED, f"no port from {self._first} to {self._first + self._count - 1} is free")

    def hold(self, port: int) -> None:
        """The port is a worker's whom an earlier server gave it."""
        if port:
            self._held.add(port)

    def release(self, port: int) -> None:
        """Give a port back; one that is not held is ignored, so that endings may be told twice."""
        self._held.discard(port)


def is_free(port: int) -> bool:
    """Whether a worker could listen on the port now, on every interface, IPv4 and IPv6 where the host has it."""
    families = (socket.AF_INET, socket.AF_INET6) if socket.has_dualstack_ipv6() else (socket.AF_INET,)
    return all(_binds(family, port) for family in families)


def _binds(family: socket.AddressFamily, port: int) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            probe.bind(("", port))
        except OSError:  # in use, or lingering after a close
            return False
    return True
