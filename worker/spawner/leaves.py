"""The containers of one channel's process tree: a cgroup folder, or the sweep of what descends from the worker."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from worker.spawn import Limits
from worker.spawner import cgroup, sweep


class Leaf(Protocol):
    """The container of one channel's process tree."""

    by: str

    def make(self, limits: Limits, watch: cgroup.Watch, changed: Callable[[], None]) -> None:
        """Make the container and write its limits; `changed` is called when it may have become empty.

        Raises OSError; `close` then removes what was made.
        """

    def fd(self) -> int:
        """A descriptor of the v2 folder to be born in, or -1; the caller closes it."""

    def procs_files(self) -> list[str]:
        """The cgroup.procs files a new worker writes itself into."""

    def began(self, pid: int) -> None:
        """The worker itself has this pid."""

    def members(self) -> list[int]:
        """The live processes of the tree now."""

    def kill(self) -> None:
        """SIGKILL for every member, also those being forked meanwhile (sweep: call again until it is empty)."""

    def empty(self) -> bool:
        """Whether it is certain that no live process is left."""

    def oom_killed(self) -> bool:
        """Whether the kernel killed in here at the memory limit."""

    def close(self) -> None:
        """Remove the container; it must be empty."""


def kill_folder(folder: Path) -> None:
    """SIGKILL for every process in a cgroup and below it."""
    try:
        (folder / "cgroup.kill").write_text("1")
    except OSError:
        # Before Linux 5.14 there is no cgroup.kill, or the folder has gone with its last member, or a worker of our own
        # user has taken away our permission: kill by pidfd.
        sweep.kill_members(lambda: cgroup.members(folder))


class _Limited:
    """The version 1 leaves beside a container, for the limits the version 2 tree cannot hold."""

    def __init__(self, v1: dict[str, Path]) -> None:
        self._v1 = v1

    def procs_files(self) -> list[str]:
        """See `Leaf`."""
        return [str(folder / "cgroup.procs") for folder in self._v1.values()]

    def _make_v1(self, limits: Limits) -> None:
        for controller, folder in self._v1.items():
            folder.mkdir()
            cgroup.limit_v1(folder, controller, limits)

    def _oom_folders(self) -> Iterable[Path]:
        return (folder for name, folder in self._v1.items() if name == "memory")

    def oom_killed(self) -> bool:
        """See `Leaf`."""
        return any(cgroup.oom_kills(folder) for folder in self._oom_folders())

    def _remove_v1(self) -> None:
        for folder in self._v1.values():
            cgroup.remove(folder)


class CgroupLeaf(_Limited):
    """A version 2 cgroup folder."""

    by = "cgroup"

    def __init__(self, folder: Path, v1: dict[str, Path]) -> None:
        super().__init__(v1)
        self._folder = folder
        self._token = -1
        self._watch: cgroup.Watch | None = None

    def make(self, limits: Limits, watch: cgroup.Watch, changed: Callable[[], None]) -> None:
        """See `Leaf`."""
        self._folder.mkdir()
        cgroup.limit_v2(self._folder, limits)
        self._make_v1(limits)
        self._watch = watch
        self._token = watch.add(self._folder, changed)

    def fd(self) -> int:
        """See `Leaf`."""
        return os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def procs_files(self) -> list[str]:
        """See `Leaf`."""
        # Written even when the worker is born here: where clone3 is not to be had this is what contains it.
        return [str(self._folder / "cgroup.procs"), *super().procs_files()]

    def began(self, pid: int) -> None:
        """The folder knows its members by itself."""

    def members(self) -> list[int]:
        """See `Leaf`."""
        return cgroup.members(self._folder)

    def kill(self) -> None:
        """See `Leaf`."""
        kill_folder(self._folder)

    def empty(self) -> bool:
        """See `Leaf`."""
        return not cgroup.populated(self._folder)

    def _oom_folders(self) -> Iterable[Path]:
        return (self._folder, *super()._oom_folders())

    def close(self) -> None:
        """See `Leaf`."""
        if self._watch is not None:
            self._watch.discard(self._token)
            self._watch = None
        cgroup.remove(self._folder)
        self._remove_v1()


class SweepLeaf(_Limited):
    """No folder of its own: the tree is what descends from the worker, also after re-parenting to this subreaper."""

    by = "sweep"

    def __init__(self, channel: str, v1: dict[str, Path]) -> None:
        super().__init__(v1)
        self._channel = channel
        self._pid = 0
        self._known: dict[int, int] = {}

    def make(self, limits: Limits, watch: cgroup.Watch, changed: Callable[[], None]) -> None:
        """See `Leaf`."""
        self._make_v1(limits)

    def fd(self) -> int:
        """See `Leaf`."""
        return -1

    def began(self, pid: int) -> None:
        """See `Leaf`."""
        self._pid = pid

    def members(self) -> list[int]:
        """See `Leaf`."""
        return self._look() or []

    def kill(self) -> None:
        """See `Leaf`."""
        sweep.kill_members(self.members)

    def empty(self) -> bool:
        """See `Leaf`."""
        return sweep.whole(self._look) == []

    def _look(self) -> list[int] | None:
        return sweep.members(self._channel, self._pid, self._known)

    def close(self) -> None:
        """See `Leaf`."""
        self._remove_v1()
