"""What goes wrong: one function for each kind. Each does it, waits if it passes, and undoes it."""

import asyncio
import contextlib
import errno
import os
import resource
import secrets
import shutil
import signal
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.house import House, until
from tests.chaos.plan import Fault
from worker.spawner.cgroup import find_hierarchies, write

SPARE_BYTES = 512 * 1024  # of address space left to a process that starves
ALL = "all"


@dataclass
class Scene:
    """A house while things go wrong in it: the channels there are, and which of them may be lost by it."""

    house: House
    channels: dict[str, dict[str, object]]  # of those that last for the trial: name to what the API shows
    may_end: set[str] = field(default_factory=set)
    may_orphan: bool = False  # the spawner was lost where there are no cgroups: daemons outlive it (docs/processes.md)
    may_err: bool = False  # the server itself lacked something: it may have answered that
    torn: set[str] = field(default_factory=set)  # whose records were spoilt
    done: list[str] = field(default_factory=list)
    # Of a process and a resource: how many faults limit it just now, and what it may have without them.
    limits: dict[tuple[int, int], tuple[int, tuple[int, int]]] = field(default_factory=dict)

    def target(self, fault: Fault) -> str:
        """The channel a fault is about."""
        names = sorted(self.channels)
        return names[fault.target % len(names)]

    def lose_spawner(self) -> None:
        """All channels may end, and with sweep containment the daemons of their workers may not."""
        self.lose(ALL)
        self.may_orphan = self.house.containment == "sweep"

    def lose(self, *names: str) -> None:
        """These channels may end."""
        self.may_end.update(self.channels if ALL in names else names)

    def pid(self, channel: str) -> int:
        """The worker of a channel."""
        return int(str(self.channels[channel]["pid"]))

    def folder(self, channel: str) -> Path:
        """The folder of a channel."""
        return self.house.state_dir / "ch" / str(self.channels[channel]["id"])

    def record(self, channel: str) -> Path:
        """The record of a channel."""
        return self.house.state_dir / "records" / f"{self.channels[channel]['id']}.json"

    def in_want(self, fault: Fault) -> int | None:
        """The same, for what is to lack something: None is a server that only starts, which may give up then."""
        starts = fault.kind.endswith("server") and self.house.last("server.ready") is None
        return None if starts else self.process(fault)

    def process(self, fault: Fault) -> int | None:
        """The process whose role is the last part of the fault's name."""
        role = fault.kind.rpartition("_")[2]
        return self.pid(self.target(fault)) if role == "worker" else self.house.pid_of(role)


Doing = Callable[[Scene, Fault], Awaitable[None]]


async def kill_server(scene: Scene, _: Fault) -> None:
    scene.house.kill_server()


async def kill_below_standby(scene: Scene, _: Fault) -> None:
    await scene.house.kill_below_standby()


async def kill_server_starting(scene: Scene, fault: Fault) -> None:
    """The server is killed, and its successor while it starts."""
    scene.house.kill_server()
    await scene.house.try_to_serve(fault.seconds * 4)


async def kill_server_and_worker(scene: Scene, fault: Fault) -> None:
    target = scene.target(fault)
    scene.lose(target)
    scene.house.signal(scene.pid(target), signal.SIGKILL)
    scene.house.kill_server()


async def kill_server_and_spawner(scene: Scene, _: Fault) -> None:
    scene.lose_spawner()
    spawner = scene.house.pid_of("spawner")
    scene.house.kill_server()
    scene.house.signal(spawner, signal.SIGKILL)


async def kill(scene: Scene, fault: Fault) -> None:
    if fault.kind == "kill_spawner":
        scene.lose_spawner()
    elif fault.kind == "kill_worker":
        scene.lose(scene.target(fault))
    scene.house.signal(scene.process(fault), signal.SIGKILL)


async def stop(scene: Scene, fault: Fault) -> None:
    """A process stands still for a while."""
    pid = scene.process(fault)
    if scene.house.signal(pid, signal.SIGSTOP):
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            scene.house.signal(pid, signal.SIGCONT)


@contextlib.contextmanager
def limited(scene: Scene, pid: int | None, kind: int, most: int) -> Iterator[None]:
    """Meanwhile a process may have so much of a resource."""
    if not pid or not scene.house.is_ours(pid):
        yield
        return
    at_once, before = scene.limits.get((pid, kind), (0, (0, 0)))
    with contextlib.suppress(ProcessLookupError):
        if not at_once:
            before = resource.prlimit(pid, kind)
        resource.prlimit(pid, kind, (most, before[1]))
    scene.limits[pid, kind] = at_once + 1, before
    try:
        yield
    finally:
        at_once, before = scene.limits.pop((pid, kind))
        if at_once > 1:  # another fault of this kind goes on
            scene.limits[pid, kind] = at_once - 1, before
        elif scene.house.is_ours(pid):
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, kind, before)


async def starve(scene: Scene, fault: Fault) -> None:
    """A process gets no more memory for a while."""
    role = fault.kind.rpartition("_")[2]
    if role == "worker":
        scene.lose(scene.target(fault))
    elif role != "zygote":
        scene.lose_spawner() if role == "spawner" else scene.lose(ALL)
        scene.may_err = True
    pid = scene.in_want(fault)
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    except OSError:
        return
    with limited(scene, pid, resource.RLIMIT_AS, pages * resource.getpagesize() + SPARE_BYTES):
        await asyncio.sleep(fault.seconds)


async def no_descriptors(scene: Scene, fault: Fault) -> None:
    """A process can open nothing more for a while."""
    pid = scene.in_want(fault)
    scene.may_err = scene.may_err or fault.kind.endswith("server")
    try:
        open_ = len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return
    with limited(scene, pid, resource.RLIMIT_NOFILE, max(open_ + fault.target % 3 - 1, 3)):
        await asyncio.sleep(fault.seconds)


async def no_forks(scene: Scene, fault: Fault) -> None:
    """No process of the spawner or of the zygote can fork for a while: EAGAIN, by the pids controller."""
    tree = next((tree for tree in find_hierarchies() if "pids" in tree.controllers), None)
    if tree is None:
        scene.house.notes.add("no pids controller of cgroups v1: no fork is refused")
        return
    folder = tree.own / f"chaos-{secrets.token_hex(6)}"
    moved = [pid for role in ("spawner", "zygote") if (pid := scene.house.pid_of(role)) and scene.house.is_ours(pid)]
    try:
        folder.mkdir()
        for pid in moved:
            with contextlib.suppress(ProcessLookupError):
                write(folder / "cgroup.procs", pid)
        write(folder / "pids.max", 1)
        await asyncio.sleep(fault.seconds)
    except OSError as error:
        scene.house.notes.add(f"the pids controller cannot be used: {error}")
    finally:
        for line in (folder / "cgroup.procs").read_text().split() if folder.exists() else ():
            with contextlib.suppress(OSError):
                write(tree.own / "cgroup.procs", line)
        if not await until(lambda: _removed(folder), 5.0):
            raise AssertionError(f"the test cannot remove its own cgroup {folder}")


def _removed(folder: Path) -> bool:
    with contextlib.suppress(FileNotFoundError, OSError):
        folder.rmdir()
    return not folder.exists()


async def fill(scene: Scene, fault: Fault) -> None:
    """A disk is full for a while."""
    disk = scene.house.state_dir if fault.kind == "fill_state" else scene.house.logs
    if disk not in scene.house.disks:
        return
    scene.may_err = True
    ballast = disk / f"agentd-ballast-{fault.at}"  # there may be another one
    try:
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(64 * 1024))
        with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 512)
        await asyncio.sleep(fault.seconds)
    finally:
        ballast.unlink()


async def step_clock(scene: Scene, fault: Fault) -> None:
    """The server's wall clock is put forward or back, and back again."""
    scene.house.step_clock(fault.step)
    try:
        await asyncio.sleep(fault.seconds)
    finally:
        scene.house.step_clock(0)


async def tear_record(scene: Scene, fault: Fault) -> None:
    """The server is killed, and half of a record is gone."""
    target = scene.target(fault)
    scene.lose(target)
    scene.house.kill_server()
    await scene.house.bury()
    with contextlib.suppress(FileNotFoundError), _room_for_all():
        text = scene.record(target).read_bytes()
        scene.torn.add(target)
        scene.record(target).write_bytes(text[: len(text) * (fault.target % 4) // 4])


@contextlib.contextmanager
def _room_for_all() -> Iterator[None]:
    """The disk may be full at the same time: then there is half of it, or nothing."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


async def plant_records(scene: Scene, fault: Fault) -> None:
    """The server is killed, and there are records of nothing, and records that are none."""
    scene.house.kill_server()
    await scene.house.bury()
    records = scene.house.state_dir / "records"
    name = f"{int(fault.at * 1000):x}"  # hexadecimal digits and a number: it might be a channel's
    with contextlib.suppress(FileNotFoundError), _room_for_all():
        (records / f"{name}-1.json").write_bytes(os.urandom(200))
        (records / f"{name}-2.json").write_text("{}")
        (records / f"{name}-3.json").mkdir()
        (records / f"{name}-4.json").symlink_to("/etc/passwd")
        os.mkfifo(records / f"{name}-5.json")
        text = scene.record(scene.target(fault)).read_text()
        (records / f"{name}-6.json").write_text(text)
        (records / f"{name}-7.json.new").write_text(text)


async def remove_folder(scene: Scene, fault: Fault) -> None:
    target = scene.target(fault)
    scene.lose(target)
    shutil.rmtree(scene.folder(target), ignore_errors=True)


async def remove_fifo(scene: Scene, fault: Fault) -> None:
    target = scene.target(fault)
    scene.lose(target)
    with contextlib.suppress(FileNotFoundError):
        (scene.folder(target) / ("up", "down", "out", "lock")[fault.target % 4]).unlink()


DOINGS: dict[str, Doing] = {
    "kill_server": kill_server,
    "kill_below_standby": kill_below_standby,
    "kill_server_starting": kill_server_starting,
    "kill_server_and_worker": kill_server_and_worker,
    "kill_server_and_spawner": kill_server_and_spawner,
    **{f"kill_{role}": kill for role in ("spawner", "zygote", "worker")},
    **{f"stop_{role}": stop for role in ("server", "spawner", "zygote", "worker")},
    **{f"starve_{role}": starve for role in ("server", "spawner", "zygote", "worker")},
    **{f"no_descriptors_{role}": no_descriptors for role in ("server", "spawner")},
    "no_forks": no_forks,
    "fill_state": fill,
    "fill_logs": fill,
    "step_clock": step_clock,
    "tear_record": tear_record,
    "plant_records": plant_records,
    "remove_folder": remove_folder,
    "remove_fifo": remove_fifo,
}
