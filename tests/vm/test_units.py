"""agentd under a real systemd: its leaves in the cgroup of its unit, its limits, its end."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.harness.graphs import ECHO, foreign, own
from tests.harness.leaks import processes_of
from tests.harness.server import PATIENCE
from tests.harness.witness import Witness
from tests.harness.zoo import SETTINGS
from tests.vm.unit import CGROUP, LEVEL, NAME, Unit, cgroup_of, offered, systemctl

USERS = pytest.mark.parametrize("user", ["root", "nobody"])
KINDS = pytest.mark.parametrize("kind", [own, foreign])
LIMITED = pytest.mark.skipif(LEVEL != "full", reason="no memory controller of cgroup version 2 (make test-vm)")
AT_HOME = {"spawner", "server"} if offered() else {"spawner"}
MIB = 1024 * 1024
MOST_PROCESSES = 40


@pytest.fixture(scope="session", autouse=True)
def open_to_all() -> None:
    """Everybody may reach the interpreter and the sources, as they are this machine's for this run only."""
    for place in {sys.executable, os.path.realpath(sys.executable), __file__}:
        for folder in Path(place).parents:
            folder.chmod(folder.stat().st_mode | 0o011)


async def main_pid() -> int:
    """The unit's main process; 0 when there is none."""
    return int(await systemctl("show", "-P", "MainPID", NAME))


async def stopped(unit: Unit) -> None:
    """The unit ends well and leaves nothing."""
    assert await unit.stop() == 0
    assert not CGROUP.exists()
    assert processes_of(unit.state_dir) == {}


# ---------------------------------------------------------------------- where everybody lives


@USERS
async def test_channels_live_and_end_below_the_unit(unit: Unit, witness: Witness, user: str) -> None:
    unit.properties |= {"User": user, "NoNewPrivileges": "yes"}
    await unit.start(graphs=[ECHO, own("daemon_bare", unit.folder), foreign("daemon_stubborn", unit.folder, name="f")])
    details = await unit.details()
    assert (details["containment"], set(details["controllers"])) == (LEVEL, offered())
    assert cgroup_of(details["spawner_pid"]) == unit.base / "spawner"
    assert cgroup_of(await main_pid()) == (unit.base / "server" if offered() else CGROUP)
    assert unit.base.owner() == user

    for name, graph in (("stop", "echo"), ("kill", "beast"), ("foreign", "f")):
        await unit.begin(name, graph, timeout=-1)
        channel = await unit.channel(name)
        assert cgroup_of(channel["pid"]) == unit.base / channel["id"]
    assert len(unit.folders()) == 3 + len(AT_HOME)
    await unit.begin("lapse", timeout=1)
    await witness.hears("daemon")
    assert (await unit.post("/ping", channel_name="stop"))["code"] == "0"
    assert (await unit.end("stop"))["code"] == "0"
    receipt = (await unit.request("DELETE", "/channels/kill?kill=1"))["receipt"]
    assert (receipt["left"], receipt["by"]) == (0, "cgroup")
    assert (await unit.end("foreign"))["code"] == "0"
    causes = {name: (await unit.gone(name))["cause"] for name in ("stop", "kill", "lapse", "foreign")}
    assert causes == {"stop": "stopped", "kill": "killed", "lapse": "lapsed", "foreign": "stopped"}
    assert unit.folders() == AT_HOME
    assert witness.alive() == []
    await stopped(unit)


@USERS
async def test_the_stop_of_the_unit_ends_all(unit: Unit, witness: Witness, user: str) -> None:
    unit.properties |= {"User": user}
    beasts = ["daemon_fork", "daemon_stubborn", "ignore_sigterm"]
    await unit.start(graphs=[ECHO, *(foreign(beast, unit.folder, name=beast) for beast in beasts)], **SETTINGS)
    for name in ("echo", *beasts):
        await unit.begin(name, name)
    await witness.hears("daemon")
    await stopped(unit)
    assert witness.alive() == []


async def test_where_cgroups_are_read_only_there_is_the_sweep(unit: Unit, witness: Witness) -> None:
    unit.properties |= {"ProtectControlGroups": "yes", "NoNewPrivileges": "yes"}
    await unit.start(graphs=[ECHO, own("daemon_fork", unit.folder)], **SETTINGS)
    assert (await unit.details())["containment"] == "sweep"
    note = await unit.event("containment.note")
    assert note["note"].endswith("Read-only file system")
    await unit.begin("beast", "beast")
    await witness.hears("daemon")
    assert (await unit.end("beast"))["code"] == "0"
    assert witness.alive() == []
    await stopped(unit)


async def test_without_delegation_a_user_gets_the_sweep(unit: Unit) -> None:
    unit.properties |= {"Delegate": "no", "User": "nobody"}
    await unit.start(graphs=[ECHO])
    assert (await unit.details())["containment"] == "sweep"
    assert (await unit.event("containment.note"))["note"].endswith("Permission denied")
    await unit.begin("c")
    assert (await unit.end("c"))["code"] == "0"
    await stopped(unit)


# ---------------------------------------------------------------------- deaths


async def test_a_standby_makes_room_with_its_server(unit: Unit) -> None:
    await unit.start(graphs=[ECHO], AGENTD_STANDBY="true")
    await unit.begin("c")
    details = await unit.details()
    assert (details["containment"], set(details["controllers"])) == (LEVEL, offered())
    for pid in (await main_pid(), details["pid"]):
        assert cgroup_of(pid) == (unit.base / "server" if offered() else CGROUP)
    await stopped(unit)


async def test_a_new_spawner_takes_the_cgroups_over(unit: Unit) -> None:
    await unit.start(graphs=[ECHO])
    await unit.begin("c")
    before = (await unit.details())["spawner_pid"]
    os.kill(before, signal.SIGKILL)
    assert (await unit.gone("c"))["cause"] == "spawner_lost"
    await unit.event("spawner.replaced")
    details = await unit.details()
    assert (details["containment"], set(details["controllers"])) == (LEVEL, offered())
    assert cgroup_of(details["spawner_pid"]) == unit.base / "spawner"
    await unit.begin("c")
    assert len(unit.folders()) == 1 + len(AT_HOME)
    await stopped(unit)


async def test_a_killed_server_is_started_again_by_its_unit(unit: Unit) -> None:
    unit.properties |= {"Restart": "always", "RestartSec": "100ms"}
    await unit.start(graphs=[ECHO], AGENTD_LISTEN="127.0.0.1:8080")
    await unit.begin("c")
    before = await main_pid()
    await systemctl("kill", "--kill-who=main", "--signal=KILL", NAME)
    async with asyncio.timeout(PATIENCE):  # what the new one logs does not come to us
        while await main_pid() in {before, 0} or not await unit.answers():
            await asyncio.sleep(0.1)
    assert (await unit.details())["containment"] == LEVEL
    assert (await unit.get("/list"))["data"] == []
    await unit.begin("c")
    await stopped(unit)


# ---------------------------------------------------------------------- limits


@LIMITED
async def test_limits_are_written(unit: Unit) -> None:
    limits = {"memory_bytes": 256 * MIB, "processes": 50, "cpu_weight": 20}
    await unit.start(graphs=[{**ECHO, "agentd": {"limits": limits}}])
    await unit.begin("c", "echo")
    leaf = unit.base / (await unit.channel("c"))["id"]
    names = ("memory.max", "memory.oom.group", "pids.max", "cpu.weight")
    written = {name: int((leaf / name).read_text()) for name in names}
    assert written == {"memory.max": 256 * MIB, "memory.oom.group": 1, "pids.max": 50, "cpu.weight": 20}
    await stopped(unit)


@LIMITED
@KINDS
@pytest.mark.parametrize("beast", ["allocate", "allocate_in_child"])
async def test_the_memory_limit_ends_the_whole_channel(unit: Unit, witness: Witness, kind, beast: str) -> None:
    unit.properties |= {"User": "nobody"}
    limits = {"memory_bytes": 96 * MIB}
    await unit.start(graphs=[ECHO, kind(beast, unit.folder, cue=True, limits=limits)], **SETTINGS)
    await unit.begin("bystander", "echo", timeout=-1)
    await unit.begin("beast", "beast")
    witness.cue()
    event = await unit.gone("beast")
    assert (event["cause"], event["status"]) == ("out_of_memory", -9)
    assert "memory limit" in event["detail"]
    assert len(unit.folders()) == 1 + len(AT_HOME)
    assert (await unit.post("/ping", channel_name="bystander"))["code"] == "0"
    await stopped(unit)


@LIMITED
@KINDS
async def test_a_fork_storm_meets_its_limit(unit: Unit, witness: Witness, kind) -> None:
    limits = {"processes": MOST_PROCESSES}
    await unit.start(graphs=[ECHO, kind("storm", unit.folder, cue=True, limits=limits)], **SETTINGS)
    await unit.begin("beast", "beast")
    witness.cue()
    await witness.hears("denied after")
    leaf = unit.base / (await unit.channel("beast"))["id"]
    assert int((leaf / "pids.current").read_text()) == MOST_PROCESSES
    assert (await unit.end("beast"))["code"] == "0"
    assert unit.folders() == AT_HOME
    await stopped(unit)
