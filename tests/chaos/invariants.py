"""What must hold after every trial, each a function that tells what does not."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.chaos.clients import Churner, Reader
from tests.chaos.faults import Scene
from tests.chaos.house import House, is_alive, until
from tests.harness import leaks
from tests.harness.server import Agentd
from worker.spawner import sweep
from worker.spawner.cgroup import find_hierarchies, subfolders
from worker.spawner.identity import open_if, read_stat, signal_pidfd

SETTLE_SECONDS = 15.0
PIDFDS = {"server": 1, "spawner": 2}  # a spawner that was found; the zygote and its spare
DESCRIPTORS = {"server": 64, "spawner": 32}  # in all, without channels
KNOWN_REFUSALS = {"10001", "10002", "10003", "10101", "10102"}


def streams(scene: Scene, readers: list[Reader]) -> Iterator[str]:
    """Every piece once and in order; only a turn whose worker was lost may have an end before its last piece."""
    for reader in readers:
        wanted = [f"{number} " for number in range(reader.pieces)]
        if reader.texts != wanted[: len(reader.texts)]:
            yield f"{reader.channel}: not every event exactly once: {_first_fault(reader.texts)}"
        yield from (f"{reader.channel}: {fault}" for fault in reader.faults if reader.channel not in scene.may_end)
        whole = reader.ending == "completed" and len(reader.texts) == reader.pieces
        if not whole and reader.channel not in scene.may_end:
            yield f"{reader.channel}: {len(reader.texts)} of {reader.pieces} pieces, then {reader.ending!r}"
        if reader.ending == "completed" and len(reader.texts) != reader.pieces:
            yield f"{reader.channel}: completed with {len(reader.texts)} of {reader.pieces} pieces"


def _first_fault(texts: list[str]) -> str:
    for number, text in enumerate(texts):
        if text != f"{number} ":
            return f"{text!r} behind {texts[max(0, number - 2) : number]}"
    return "more than were asked for"


async def sessions(scene: Scene, server: Agentd) -> list[str]:
    """Who was not meant to end lives on, as the same process."""
    found = []
    listed = {one["name"]: one for one in (await server.get("/channels"))["channels"]}
    for name, was in scene.channels.items():
        now = listed.get(name)
        if name not in scene.may_end and (now is None or now["pid"] != was["pid"]):
            found.append(f"{name}: was process {was['pid']}, is {now and now['pid']}")
    return found


async def stops(scene: Scene, server: Agentd) -> list[str]:
    """Every stop is answered, with a receipt that says that nothing is left."""
    found = []
    for name in [one["name"] for one in (await server.get("/channels"))["channels"]]:
        seen = len(server.events)
        answer = await server.end(name)
        if answer["code"] == "0":
            event = await server.event("channel.gone", lambda e, name=name: e["channel"] == name, after=seen)
            if event["processes"] is None:
                found.append(f"{name}: stopped without a receipt: {event}")
        elif answer["code"] != "10002":
            found.append(f"{name}: its stop was answered {answer}")
    return found


async def ledger(names: dict[str, int], server: Agentd) -> list[str]:
    """Every start that was accepted is there, with its ending."""
    found = []
    for name, accepted in names.items():
        rows: list[dict[str, Any]] = []
        for _ in range(100):
            rows = (await server.get(f"/ledger?channel={name}&limit=1000"))["lives"]
            if len(rows) >= accepted and all(row["ended_at"] is not None for row in rows):
                break
            await until(lambda: False, 0.1)
        if len(rows) < accepted:
            found.append(f"{name}: {accepted} starts were accepted, the ledger has {len(rows)}")
        found += [f"{name}: no ending in the ledger: {row}" for row in rows if row["ended_at"] is None]
        found += [f"{name}: an ending without a cause: {row}" for row in rows if row["ended_at"] and not row["cause"]]
    return found


def answers(scene: Scene, churners: list[Churner]) -> Iterator[str]:
    """Refusals are of the closed list; an error of ours only when we lacked something ourselves."""
    for churner in churners:
        for path, answer in churner.answers:
            code = answer.get("code")
            if code != "0" and not (code in KNOWN_REFUSALS or scene.may_err):
                yield f"{churner.channel}: {path} was answered {answer}"


async def leftovers(house: House) -> list[str]:
    """No folder, record or cgroup of a channel, and no process but server, spawner, zygotes and their spares."""
    found = []
    for place in ("ch", "records"):
        folder = house.state_dir / place
        if left := await until_empty(lambda folder=folder: sorted(os.listdir(folder))):
            found.append(f"left in {place}: {left}")
    if left := await until_empty(lambda: _cgroups(house)):
        found.append(f"cgroups are left: {left}")
    if left := await until_empty(lambda: _strays(house)):
        found.append(f"strays: {left}")
    if left := await until_empty(lambda: _zombies(house)):
        found.append(f"zombies: {left}")
    return found


async def open_descriptors(house: House) -> list[str]:
    """Server and spawner have nothing open that only channels need."""
    found = []
    for role, pidfds in PIDFDS.items():
        if pid := house.pid_of(role):
            left = await until_empty(lambda pid=pid, role=role, most=pidfds: of_channels(pid, most, DESCRIPTORS[role]))
            found += [f"the {role} still has open: {one}" for one in left]
    return found


async def until_empty(look: Any) -> Any:
    """What is left after some patience."""
    left: list[Any] = []

    def empty() -> bool:
        left[:] = look()
        return not left

    await until(empty, SETTLE_SECONDS)
    return left


def _cgroups(house: House) -> list[str]:
    names = [f"agentd-{instance}" for instance in leaks._instances(house.folder)]
    folders = [tree.own / name for tree in find_hierarchies() for name in names]
    leaves = [leaf for folder in folders if folder.exists() for leaf in subfolders(folder)]
    return [str(leaf) for leaf in leaves if leaf.name != "spawner"]  # it has a place of its own


def _strays(house: House) -> list[str]:
    server, standby, spawner = map(house.pid_of, ("server", "standby", "spawner"))
    kept = {server, standby, spawner, *(pid for pid in sweep.children(spawner or 0) if not sweep.channel_of(pid))}
    strays = [text for pid, text in leaks.processes_of(house.folder).items() if pid not in kept]
    return strays + [f"process {pid} of {name}" for name, pid, began in witnessed(house) if is_alive(pid, began)]


def end_orphans(house: House) -> None:
    """End what is known to outlive a spawner without cgroups, by its own word who it is."""
    for _, pid, began in witnessed(house):
        pidfd = open_if(pid, began)
        if pidfd is not None:
            signal_pidfd(pidfd, signal.SIGKILL)
            os.close(pidfd)


def _zombies(house: House) -> list[str]:
    parents = [pid for pid in map(house.pid_of, ("server", "standby", "spawner", "zygote")) if pid]
    below = {(parent, pid) for parent in parents for pid in sweep.children(parent)}
    stats = [(parent, pid, read_stat(pid)) for parent, pid in below]
    return [f"process {pid} below {parent}" for parent, pid, stat in stats if stat is not None and stat.state == "Z"]


def witnessed(house: House, file: str = "witness") -> list[tuple[str, int, int]]:
    """What workers have put on record of themselves: channel, pid, start time."""
    path = house.witness / file
    lines = path.read_text().splitlines() if path.exists() else []
    return [(name, int(pid), int(began)) for name, pid, began in map(str.split, lines)]


def doubles(house: House) -> list[str]:
    """Never two workers for one channel at a time."""
    return [f"{name}: process {pid} began while another worker had it" for name, pid, _ in witnessed(house, "doubles")]


def descriptors(pid: int) -> list[str]:
    """What a process has open."""
    found = []
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{number}"))
        except FileNotFoundError:
            continue
    return found


def of_channels(pid: int, pidfds: int, most: int) -> list[str]:
    """Descriptors that only channels need, beyond so many pidfds and so many in all: none without channels."""
    now = descriptors(pid)
    signs = ("/ch/", "memfd:", "/app-", "cgroup/")
    left = [target for target in now if any(sign in target for sign in signs)]
    left += [target for target in now if "pidfd" in target][pidfds:]
    if len(now) > most:
        left.append(f"{len(now)} in all, at most {most} are in order")
    return left


def logs(house: House, names: list[str]) -> Iterator[str]:
    """A command's numbered lines are in its log without a gap."""
    for name in names:
        paths = sorted(Path(house.logs).glob(f"app-{name}*"))
        if not paths:
            yield f"{name}: it has no log"
        for path in paths:
            lines = [line for line in path.read_text(errors="replace").splitlines(keepends=True) if line.endswith("\n")]
            numbers = [int(line.split()[1]) for line in lines if line.startswith("line ")]
            if numbers != list(range(len(numbers))):
                wrong = next(at for at, number in enumerate(numbers) if number != at)
                yield f"{name}: its log has line {numbers[wrong]} behind {numbers[max(0, wrong - 2) : wrong]}"
