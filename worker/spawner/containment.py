"""What holds a channel's process tree together: a cgroup leaf, or, where none can be made, the subreaper's sweep.

Decided once, when the spawner starts, by trying; said in ``hello``; never a reason to fail.

========  ==============================  ========================  ====================================
level     when                            kill of the tree          limits
========  ==============================  ========================  ====================================
full      v2 leaf, v2 controllers         cgroup.kill               memory.max, pids.max, cpu.weight
tracking  v2 leaf, no v2 controllers      cgroup.kill               v1 leaves where writable, else rlimits
sweep     no v2 folder can be made        freeze, rescan, kill      v1 leaves where writable, else rlimits
========  ==============================  ========================  ====================================
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from worker.spawn import Limits
from worker.spawner import cgroup, sweep


class Leaf(Protocol):
    """The container of one channel's process tree."""

    by: str

    def fd(self) -> int:
        """A descriptor of the v2 folder to be born in, or -1; the caller closes it."""

    def procs_files(self) -> list[str]:
        """The cgroup.procs files a new worker writes itself into."""

    def began(self, pid: int) -> None:
        """The worker itself has this pid."""

    def members(self) -> list[int]:
        """The live processes of the tree now."""

    def holds(self, pid: int) -> bool:
        """Whether a process is of this tree: asked again after its pidfd is open, before it is signalled."""

    def kill(self) -> None:
        """SIGKILL for every member, also those being forked meanwhile (sweep: call again until it is empty)."""

    def empty(self) -> bool:
        """Whether no live process is left."""

    def oom_killed(self) -> bool:
        """Whether the kernel killed in here at the memory limit."""

    def close(self) -> None:
        """Remove the container; it must be empty."""


class Containment:
    """Makes leaves. `level` is "full", "tracking" or "sweep"; `controllers` are those that enforce limits on a tree."""

    def __init__(self, instance: str, wish: str, changed: Callable[[str], None]) -> None:
        """`instance` names our cgroup folder, `wish` is "auto", "cgroup" or "sweep", `changed(id)` tells of a leaf."""
        self._instance = instance
        self._changed = changed
        self._base: Path | None = None  # our folder in the v2 tree
        self._origin: Path | None = None  # the cgroup this process came from
        self._v1: dict[str, Path] = {}
        self._leaves: dict[str, Leaf] = {}
        self.watch = cgroup.Watch()
        self.notes: list[str] = []
        v2_controllers: list[str] = []
        trees = cgroup.find_hierarchies()
        if wish != "sweep":
            for tree in trees:
                if not tree.controllers:
                    v2_controllers = self._claim_v2(tree.own)
        for tree in trees:
            for controller in set(tree.controllers) & set(cgroup.CONTROLLERS):
                self._claim_v1(controller, tree.own)
        self.controllers = sorted({*v2_controllers, *self._v1})
        self.level = "sweep" if self._base is None else "full" if "memory" in v2_controllers else "tracking"

    def _claim_v2(self, own: Path) -> list[str]:
        """Make our folder below `own`; returns the controllers our leaves will have."""
        base = own / f"agentd-{self._instance}"
        try:
            base.mkdir(exist_ok=True)
            (base / "spawner").mkdir(exist_ok=True)
            # Children are born where their parent is: the spawner and its zygotes live in a leaf of their own,
            # since a folder with processes in it can hand no controllers down.
            (base / "spawner" / "cgroup.procs").write_text("0")
        except OSError as error:
            self.notes.append(f"no cgroup v2 below {own}: {error.strerror}")
            cgroup.remove(base)
            return []
        self._base, self._origin = base, own
        granted: list[str] = []
        try:
            offered = (own / "cgroup.controllers").read_text().split()
        except OSError:
            offered = []
        for controller in (name for name in cgroup.CONTROLLERS if name in offered):
            try:
                (own / "cgroup.subtree_control").write_text(f"+{controller}")
                (base / "cgroup.subtree_control").write_text(f"+{controller}")
            except OSError as error:
                self.notes.append(f"no {controller} controller below {own}: {error.strerror}")
            else:
                granted.append(controller)
        return granted

    def _claim_v1(self, controller: str, own: Path) -> None:
        base = own / f"agentd-{self._instance}"
        try:
            base.mkdir(exist_ok=True)
        except OSError as error:
            self.notes.append(f"no cgroup v1 {controller} below {own}: {error.strerror}")
        else:
            self._v1[controller] = base

    def sweep_leftovers(self) -> tuple[int, list[Path]]:
        """Kill what an earlier spawner of this state folder left; how many processes that were, and their folders."""
        folders = [] if self._base is None else [p for p in cgroup.subfolders(self._base) if p.name != "spawner"]
        count = 0
        for folder in folders:
            pids = cgroup.members(folder)
            count += len(pids)
            if pids:
                CgroupLeaf.kill_folder(folder)
        return count, folders

    def create(self, channel: str, limits: Limits) -> Leaf:
        """A leaf for one channel, its limits written. Raises OSError."""
        v1 = {name: base / channel for name, base in self._v1.items() if cgroup.wanted(name, limits)}
        leaf: Leaf
        if self._base is None:
            leaf = SweepLeaf(channel, v1)
        else:
            leaf = CgroupLeaf(self._base / channel, v1)
            leaf.make(limits, self.watch, lambda: self._changed(channel))
        for controller, folder in v1.items():
            folder.mkdir()
            cgroup.limit_v1(folder, controller, limits)
        self._leaves[channel] = leaf
        return leaf

    def limits_memory(self) -> bool:
        """Whether a controller bounds a tree's memory (else the address space of each process is bounded)."""
        return "memory" in self.controllers

    def discard(self, channel: str) -> None:
        """Close a leaf that is empty."""
        self._leaves.pop(channel).close()

    def close(self) -> None:
        """Remove our folders; every leaf must have been discarded and every zygote have ended."""
        if self._base is not None and self._origin is not None:
            try:
                (self._origin / "cgroup.procs").write_text("0")
            except OSError:
                # Our origin hands controllers down and so may hold no process; whoever delegated it removes it.
                pass
            cgroup.remove(self._base)
        for base in self._v1.values():
            cgroup.remove(base)
        self.watch.close()


class _Limited:
    """The version 1 leaves beside a container, for the limits the version 2 tree cannot hold."""

    def __init__(self, v1: dict[str, Path]) -> None:
        self._v1 = v1

    def procs_files(self) -> list[str]:
        return [str(folder / "cgroup.procs") for folder in self._v1.values()]

    def _oom_folders(self) -> Iterable[Path]:
        return (folder for name, folder in self._v1.items() if name == "memory")

    def oom_killed(self) -> bool:
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
        self._folder.mkdir()
        cgroup.limit_v2(self._folder, limits)
        self._watch = watch
        self._token = watch.add(self._folder, changed)

    def fd(self) -> int:
        return os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def procs_files(self) -> list[str]:
        # Written even when the worker is born here: where clone3 is not to be had this is what contains it.
        return [str(self._folder / "cgroup.procs"), *super().procs_files()]

    def began(self, pid: int) -> None:
        """The folder knows its members by itself."""

    def members(self) -> list[int]:
        return cgroup.members(self._folder)

    def holds(self, pid: int) -> bool:
        return pid in self.members()

    @staticmethod
    def kill_folder(folder: Path) -> None:
        try:
            (folder / "cgroup.kill").write_text("1")
        except FileNotFoundError:
            # Before Linux 5.14 there is no cgroup.kill, or the folder has gone with its last member: kill by pidfd.
            sweep.kill_members(lambda: cgroup.members(folder))

    def kill(self) -> None:
        self.kill_folder(self._folder)

    def empty(self) -> bool:
        return not cgroup.populated(self._folder)

    def _oom_folders(self) -> Iterable[Path]:
        return (self._folder, *super()._oom_folders())

    def close(self) -> None:
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

    def fd(self) -> int:
        return -1

    def began(self, pid: int) -> None:
        self._pid = pid

    def members(self) -> list[int]:
        return sweep.members(self._channel, self._pid) if self._pid else []

    def holds(self, pid: int) -> bool:
        return pid in self.members()

    def kill(self) -> None:
        sweep.kill_members(self.members)

    def empty(self) -> bool:
        return not self.members()

    def close(self) -> None:
        self._remove_v1()
