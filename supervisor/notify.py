"""What a service manager hears of the server (sd_notify(3)): ready, reloading, stopping, a line of status, alive.

One datagram per message, thirty lines in all: the packages for it are either C code to be built (systemd-python) or
write to a socket that blocks the loop (sdnotify).
"""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, MutableMapping
from typing import Final

SOCKET: Final = "NOTIFY_SOCKET"
WATCHDOG_MICROSECONDS: Final = "WATCHDOG_USEC"
WATCHDOG_PID: Final = "WATCHDOG_PID"
FEEDS: Final = 3  # in the time of the watchdog, so that one or two may be late
STATUS_SECONDS: Final = 5.0
MICROSECONDS: Final = 1_000_000


class Notifier:
    """Tells the service manager that started this process; without one, nobody. Never waits, never raises.

    What could not be told is not told again: a manager that waits for it has a timeout.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        """Takes the variables that are for this process only out of `environ`."""
        address = environ.pop(SOCKET, "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address  # @: an abstract one
        self._parent: socket.socket | None = None
        watched = environ.pop(WATCHDOG_MICROSECONDS, "")
        ours = environ.pop(WATCHDOG_PID, str(os.getpid())) == str(os.getpid())
        #: Seconds after which a manager that hears nothing ends us; None: it does not.
        self.watchdog = int(watched) / MICROSECONDS if ours and watched.isdecimal() and int(watched) else None

    def ready(self) -> None:
        """The start, or a reload, is done."""
        self._tell("READY=1")

    def reloading(self) -> None:
        """Settings are read anew; `ready` tells when that is done."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, seconds: float) -> None:
        """The end has begun, and may take so long."""
        self._tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int(seconds * MICROSECONDS)}")

    async def report(self, status: Callable[[], str]) -> None:
        """Tell that the loop turns, and what it is about, until cancelled; at once nothing when nobody listens.

        It is a task of the loop on purpose: a loop that is held up does not feed the watchdog.
        """
        while self._address:
            self._tell("WATCHDOG=1", f"STATUS={status()}")
            await asyncio.sleep(STATUS_SECONDS if self.watchdog is None else self.watchdog / FEEDS)

    def through(self, parent: socket.socket) -> None:
        """From now on tell a parent of ours, over this socket: the manager hears nobody else. It has `pass_on`."""
        self._parent = parent

    def pass_on(self, message: bytes) -> None:
        """Tell what a child of ours has told us."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.setblocking(False)
            manager.sendto(message, self._address)

    def _tell(self, *assignments: str) -> None:
        if not self._address:
            return
        message = "\n".join(assignments).encode()
        if self._parent is None:
            self.pass_on(message)
        else:
            with contextlib.suppress(OSError):
                self._parent.send(message)
