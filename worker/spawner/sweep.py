"""The tree below a worker, and its orphans, which the kernel hands to this subreaper: who they are, and their kill.

Without cgroups this is the containment; with them it finds what has left its cgroup.

An orphan is one of our own children that we did not start. It belongs to the channel of its session (the worker leads
one), or, after a setsid of its own, to the channel whose id stands in its initial environment. Only descendants of
this process are ever looked at, so the environment says *which* channel, never *whether* a process is ours.
"""

import os
import signal
from collections.abc import Callable, Collection, Iterable
from typing import Final

from worker.spawn import CHANNEL_VARIABLE
from worker.spawner.identity import open_pidfd, read_stat, signal_pidfd

_ROUNDS: Final = 64
_LOOKS: Final = 3


def children(pid: int) -> list[int]:
    """The children of a process, of all its threads; empty when it is gone."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return found
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found.extend(int(number) for number in file.read().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def channel_of(pid: int) -> str | None:
    """The channel id in a process's initial environment."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    prefix = CHANNEL_VARIABLE.encode() + b"="
    return next((v[len(prefix) :].decode(errors="replace").strip() for v in variables if v.startswith(prefix)), None)


def whole(look: Callable[[], list[int] | None]) -> list[int] | None:
    """What a `look` at our descendants finds; None when that is nothing but one may have been missed.

    One that ends while it is looked at hands its children to us behind our back: neither it nor they are seen. Then our
    children are others than before, since none is reaped meanwhile. Who keeps doing so is looked for again when its
    dead have been reaped: among thousands of them no look is fast enough.
    """
    for _ in range(_LOOKS):
        before = children(os.getpid())
        found = look()
        if found or (found is not None and children(os.getpid()) == before):
            return found
    return None


def orphans(known: Collection[int]) -> list[int]:
    """Our live children beyond the `known` that come from workers: in our session is only what zygotes have made."""
    session = os.getsid(0)
    stats = {pid: read_stat(pid) for pid in children(os.getpid()) if pid not in known}
    return [pid for pid, stat in stats.items() if stat and stat.state not in "ZX" and stat.session != session]


def below(roots: Iterable[int]) -> dict[int, int]:
    """The live ones among these processes and all that descends from them, with their start times."""
    left = list(roots)
    found: dict[int, int] = {}
    while left:
        pid = left.pop()
        stat = read_stat(pid)
        if stat is not None and stat.state not in "ZX" and pid not in found:
            found[pid] = stat.start_time
            left.extend(children(pid))
    return found


def members(channel: str, worker: int, known: dict[int, int]) -> list[int] | None:
    """The live processes of a channel's tree: the worker, its orphans, and all that descends from either.

    `worker` is 0 while its number is not known yet; then it is told by its mark.
    `known` (start times by number) remembers them from one call to the next: an orphan that is just ending, or that
    wrote over its environment, bears no mark any more and is still of this tree. None instead of nothing when an orphan
    is ending that was not known: it may be of this tree, and so may what it leaves.
    """
    roots, doubtful = [], False
    for child in children(os.getpid()):
        stat = read_stat(child)
        if stat is None or stat.state in "ZX":
            continue
        ours = child == worker or stat.session == worker != 0 or known.get(child) == stat.start_time
        mark = channel if ours else channel_of(child)
        if mark == channel:
            roots.append(child)
        elif mark is None:
            stat = read_stat(child)
            doubtful = doubtful or stat is None or stat.exiting
    found = below(roots)
    known.clear()
    known.update(found)
    return None if doubtful and not found else list(found)


def _signal_new(list_members: Callable[[], list[int]], number: int, pidfds: dict[int, int]) -> bool:
    """Signal the members that are not in `pidfds` and put their pidfds there; False when there was none."""
    new = [pid for pid in list_members() if pid not in pidfds]
    for pid in new:
        if (pidfd := open_pidfd(pid)) is not None:
            pidfds[pid] = pidfd
    still = set(list_members()) if new else set()  # behind the open pidfd: a recycled number is not among them
    for pid in new:
        if pid in still and pid in pidfds:
            signal_pidfd(pidfds[pid], number)
        elif pid in pidfds:
            os.close(pidfds.pop(pid))
    return bool(new)


def signal_members(list_members: Callable[[], list[int]], number: int) -> list[int]:
    """A signal for all that are there; who they were."""
    pidfds: dict[int, int] = {}
    try:
        _signal_new(list_members, number, pidfds)
        return list(pidfds)
    finally:
        for pidfd in pidfds.values():
            os.close(pidfd)


def kill_members(list_members: Callable[[], list[int]]) -> None:
    """SIGKILL for all: frozen first and looked at again until no new one appears, so that none forks away meanwhile.

    Raises OSError when there are not descriptors enough for all at once: those that were frozen are killed.
    """
    pidfds: dict[int, int] = {}
    try:
        for _ in range(_ROUNDS):
            if not _signal_new(list_members, signal.SIGSTOP, pidfds):
                break
    finally:
        for pidfd in pidfds.values():
            signal_pidfd(pidfd, signal.SIGKILL)
            os.close(pidfd)
