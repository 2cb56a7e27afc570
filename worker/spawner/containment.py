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

from collections.abc import Callable
from pathlib import Path

from worker.spawn import Limits
from worker.spawner import cgroup
from worker.spawner.delegation import Delegation
from worker.spawner.leaves import CgroupLeaf, Leaf, SweepLeaf, kill_folder


class Containment:
    """Makes leaves. `level` is "full", "tracking" or "sweep"; `controllers` are those that enforce limits on a tree."""

    def __init__(self, instance: str, wish: str, changed: Callable[[str], None], standby: int = 0) -> None:
        """`instance` names our cgroup folder, `wish` is "auto", "cgroup" or "sweep", `changed(id)` tells of a leaf.

        `standby` is the process our server is a child of, if it has one: it makes room with it.
        """
        self._standby = standby
        self._instance = instance
        self._changed = changed
        self._v1: dict[str, Path] = {}
        self._leaves: dict[str, Leaf] = {}
        self.watch = cgroup.Watch()
        self.notes: list[str] = []
        trees = cgroup.find_hierarchies()
        unified = next((tree.own for tree in trees if not tree.controllers), None)
        self._delegation = None if wish == "sweep" or unified is None else self._claim_v2(unified)
        for tree in trees:
            for controller in set(tree.controllers) & set(cgroup.CONTROLLERS):
                self._claim_v1(controller, tree.own)
        self.controllers = sorted({*(self._delegation.controllers if self._delegation else ()), *self._v1})
        self.level = self._level()

    def _level(self) -> str:
        if self._delegation is None:
            return "sweep"
        return "full" if "memory" in self._delegation.controllers else "tracking"

    def _claim_v2(self, own: Path) -> Delegation | None:
        try:
            delegation = Delegation(own, self._instance, self._standby)
        except OSError as error:
            self.notes.append(f"no cgroup v2 below {own}: {error.strerror}")
            return None
        self.notes += delegation.notes
        return delegation

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
        folders = [] if self._delegation is None else self._delegation.leaves()
        count = 0
        for folder in folders:
            pids = cgroup.members(folder)
            count += len(pids)
            if pids:
                kill_folder(folder)
        return count, folders

    def create(self, channel: str, limits: Limits) -> Leaf:
        """A leaf for one channel, its limits written. Raises OSError."""
        v1 = {name: base / channel for name, base in self._v1.items() if cgroup.wanted(name, limits)}
        leaf: Leaf = (
            SweepLeaf(channel, v1) if self._delegation is None else CgroupLeaf(self._delegation.base / channel, v1)
        )
        try:
            leaf.make(limits, self.watch, lambda: self._changed(channel))
        except OSError:
            leaf.close()
            raise
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
        if self._delegation is not None:
            self._delegation.close()
        for base in self._v1.values():
            cgroup.remove(base)
        self.watch.close()
