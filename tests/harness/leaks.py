"""What a test may have left behind, by containment (cgroups, children) and by marks in the environment."""

import asyncio
import os
import resource
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from worker.spawn import INSTANCE_VARIABLE, instance_of
from worker.spawner.cgroup import find_hierarchies

MARK = "TEST_OF_AGENTD"


@dataclass(frozen=True)
class Traces:
    """What of this process can be left behind, by a name that says what it is."""

    children: frozenset[str]
    descriptors: frozenset[str]
    threads: frozenset[str]
    tasks: frozenset[str]
    faults: int  # page faults of the children that were waited for: each one adds some

    def beyond(self, before: "Traces") -> list[str]:
        """What is here and was not there `before`."""
        return [
            name
            for kind in ("children", "descriptors", "threads", "tasks")
            for name in getattr(self, kind) - getattr(before, kind)
        ]


def look() -> Traces:
    """The traces of this process."""
    faults = resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt
    return Traces(_children(), _descriptors(), _threads(), _tasks(), faults)


def left(before: Traces, folder: Path) -> list[str]:
    """What is here and was not there `before`, and what bears the mark of a test's folder, which nothing did before."""
    now = look()
    found = now.beyond(before) + _cgroups(folder)
    # All that bears a mark descends from a child of ours: without one there is no need to look at every process.
    if (now.children, now.faults) != (before.children, before.faults):
        found += processes_of(folder).values()
    return sorted(found)


def _instances(folder: Path) -> set[str]:
    """The instances of every state folder a test may have made below its temporary folder."""
    folders = [folder]
    for parent, children, _ in os.walk(folder):  # which takes it lightly that a folder disappears meanwhile
        if len(Path(parent).relative_to(folder).parts) >= 3:
            children.clear()
        folders += [Path(parent, child) for child in children]
    return {instance_of(path) for path in folders}


def processes_of(folder: Path) -> dict[int, str]:
    """The live processes and zombies that bear the mark of a test or of a state folder below it."""
    marks = {f"{MARK}={instance_of(folder)}".encode()}
    marks |= {f"{INSTANCE_VARIABLE}={instance}".encode() for instance in _instances(folder)}
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            environment = Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
            if marks & set(environment):
                command = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found[int(entry)] = f"process {entry} ({command.strip()[:120]})"
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def _children() -> frozenset[str]:
    children = set()
    for thread in os.listdir("/proc/self/task"):
        try:
            children |= set(Path(f"/proc/self/task/{thread}/children").read_text().split())
        except FileNotFoundError:
            continue
    return frozenset(f"child process or zombie {pid}" for pid in children)


def _descriptors() -> frozenset[str]:
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue  # the one that listed the folder
        found.add(f"descriptor {number} of {target}")
    return frozenset(found)


def _threads() -> frozenset[str]:
    return frozenset(f"thread {thread.name} {thread.ident}" for thread in threading.enumerate())


def _tasks() -> frozenset[str]:
    # The one registry of all tasks of all loops; it got another name in Python 3.12.
    registry = getattr(asyncio.tasks, "_all_tasks", None) or getattr(asyncio.tasks, "_scheduled_tasks", ())
    return frozenset(f"task {task.get_name()}" for task in list(registry) if not task.done())


@cache
def _own_cgroups() -> list[Path]:
    return [tree.own for tree in find_hierarchies()]


def _cgroups(folder: Path) -> list[str]:
    there = [(own, name) for own in _own_cgroups() for name in os.listdir(own) if name.startswith("agentd-")]
    names = {f"agentd-{instance}" for instance in _instances(folder)} if there else ()
    return [f"cgroup {own / name}" for own, name in there if name in names]
