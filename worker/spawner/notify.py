"""What a service manager is told of the spawner (sd_notify(3)): that it is ready, that it ends."""

import contextlib
import socket
from collections.abc import MutableMapping
from typing import Final

VARIABLE: Final = "NOTIFY_SOCKET"


class Notifier:
    """Tells the service manager that started us; without one, nobody. Never raises: a unit that waits has a timeout."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        """Takes the manager's address out of `environ`: it is not for those that we start."""
        address = environ.pop(VARIABLE, "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address

    def tell(self, *assignments: str) -> None:
        """Send the assignments (``READY=1``) as one message."""
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.setblocking(False)
            manager.sendto("\n".join(assignments).encode(), self._address)
