"""Our part of the version 2 cgroup tree: one folder below the one we were started in.

::

    own/                   what we were started in: of a unit with Delegate=, of a container, or any we may write to
      agentd-INSTANCE/
        spawner/           the spawner and its zygotes
        server/            the control server, where it had to make room
        CHANNEL/           one leaf per channel

A folder with processes in it hands no controllers down, and children are born where their parent is. So the spawner
lives in a leaf of its own, and so does the control server that started it, with its standby, when nobody else is in
`own`: whoever else is there is not ours to move, and there are no controllers then.
"""

import contextlib
import os
from pathlib import Path
from typing import Final

from worker.spawner import cgroup

SPAWNER: Final = "spawner"
SERVER: Final = "server"


def origin(own: Path, name: str) -> Path:
    """The folder that ours, `name`, is or will be in. Pure.

    A spawner that replaces another is born in the ``server`` folder of its predecessor.
    """
    return next((path.parent for path in (own, *own.parents) if path.name == name), own)


class Delegation:
    """Our folder `base`, the `controllers` its leaves have, `notes` on what could not be had."""

    def __init__(self, own: Path, instance: str, standby: int = 0) -> None:
        """Make the folder below `own` and move there. Raises OSError when that cannot be done.

        `standby` is the process our server is a child of, if it has one.
        """
        self._standby = standby
        name = f"agentd-{instance}"
        self._own = origin(own, name)
        self.base = self._own / name
        self.controllers: list[str] = []
        self.notes: list[str] = []
        try:
            (self.base / SPAWNER).mkdir(parents=True, exist_ok=True)
            _move(os.getpid(), self.base / SPAWNER)
        except OSError:
            cgroup.remove(self.base)
            raise
        self._hand_down()

    def leaves(self) -> list[Path]:
        """The folders of channels, also of an earlier spawner's."""
        return [folder for folder in self.base.iterdir() if folder.is_dir() and folder.name not in {SPAWNER, SERVER}]

    def close(self) -> None:
        """Undo it all. What cannot be undone is left to whoever delegated `own`, who removes it as a whole."""
        if not self._is_root():
            names = " ".join(f"-{controller}" for controller in self.controllers)
            with contextlib.suppress(OSError):
                for folder in (self.base, self._own):
                    cgroup.write(folder / "cgroup.subtree_control", names)
        self._return_server()
        with contextlib.suppress(OSError):
            _move(os.getpid(), self._own)
        cgroup.remove(self.base)

    def _hand_down(self) -> None:
        try:
            offered = (self._own / "cgroup.controllers").read_text().split()
        except OSError:
            offered = []
        wanted = [controller for controller in cgroup.CONTROLLERS if controller in offered]
        if wanted and not self._is_root():
            self._make_room()
        for controller in wanted:
            try:
                for folder in (self._own, self.base):
                    cgroup.write(folder / "cgroup.subtree_control", f"+{controller}")
            except OSError as error:
                self.notes.append(f"no {controller} controller below {self._own}: {error.strerror}")
            else:
                self.controllers.append(controller)
        if not self.controllers:
            self._return_server()

    def _is_root(self) -> bool:
        """Whether `own` is the root of the whole tree, which may have both processes and controllers."""
        return not (self._own / "cgroup.type").exists()

    def _make_room(self) -> None:
        inhabitants = cgroup.inhabitants(self._own)
        server = os.getppid()
        if server in inhabitants and {*inhabitants} <= {server, self._standby}:
            with contextlib.suppress(OSError):  # then the controllers are refused, and that is noted
                (self.base / SERVER).mkdir(exist_ok=True)
                for pid in inhabitants:
                    _move(pid, self.base / SERVER)
        elif inhabitants:
            self.notes.append(f"{self._own} has processes that are not ours: {inhabitants}")

    def _return_server(self) -> None:
        for pid in cgroup.inhabitants(self.base / SERVER):
            with contextlib.suppress(OSError):
                _move(pid, self._own)
        cgroup.remove(self.base / SERVER)


def _move(pid: int, folder: Path) -> None:
    cgroup.write(folder / "cgroup.procs", pid)
