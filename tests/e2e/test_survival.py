"""Any one of the processes is killed: what dies with it, what lives on, and that the next start works."""

import asyncio
import os
import signal

import pytest

from tests.harness import Agentd
from tests.harness.graphs import ECHO, foreign, own
from tests.harness.leaks import processes_of
from tests.harness.server import PATIENCE
from tests.harness.witness import Witness
from worker.spawner.cgroup import find_hierarchies

pytestmark = pytest.mark.own_interpreter

LEVELS = pytest.mark.parametrize("containment", ["auto", "sweep"])


async def ended(pid: int) -> None:
    """Wait for the end of a process that is not our child."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(pidfd, over.set)
    try:
        async with asyncio.timeout(PATIENCE):
            await over.wait()
    finally:
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)


async def all_ended(agentd: Agentd) -> None:
    """Wait for the end of everything that was started in this test."""
    while found := processes_of(agentd.folder):
        for pid in found:
            await ended(pid)


async def spawner_pid(agentd: Agentd) -> int:
    return (await agentd.get("/health?details=1"))["data"]["spawner_pid"]


def cgroups(agentd: Agentd) -> list[str]:
    return [str(path) for tree in find_hierarchies() for path in tree.own.glob("agentd-*") if path.exists()]


# ---------------------------------------------------------------------- the control server


@LEVELS
async def test_workers_of_a_killed_server_end_within_the_orphan_grace(
    agentd: Agentd, witness: Witness, containment: str
) -> None:
    graphs = [ECHO, foreign("daemon_stubborn", agentd.folder), own("daemon_bare", agentd.folder, name="own")]
    await agentd.start(graphs=graphs, AGENTD_ORPHAN_GRACE_SECONDS="0.3", AGENTD_CONTAINMENT=containment)
    for name in ("echo", "beast", "own"):
        await agentd.begin(name, name)
    await witness.hears("daemon")
    await agentd.kill()
    await all_ended(agentd)
    assert witness.alive() == []
    assert (agentd.state_dir / "spawner.log").read_text() == ""
    assert not (agentd.state_dir / "spawn.sock").exists()


async def test_a_new_server_comes_while_a_start_is_under_way(
    agentd: Agentd, successor: Agentd, witness: Witness
) -> None:
    await agentd.start(graphs=[ECHO, own("block", agentd.folder)])
    start = asyncio.create_task(agentd.post("/start", channel_name="beast", graph_name="beast"))
    await witness.hears("blocking")
    assert agentd.process is not None
    agentd.process.kill()
    with pytest.raises(Exception, match="Server disconnected"):
        await start
    await agentd.stop()
    await successor.start()
    assert (await successor.event("server.ready"))["ended_channels"] == 1
    await successor.begin("beast", "echo")


# ---------------------------------------------------------------------- the spawner


async def test_a_killed_spawner_takes_all_workers_and_is_replaced(agentd: Agentd, witness: Witness) -> None:
    graphs = [ECHO, foreign("daemon_fork", agentd.folder), own("daemon_bare", agentd.folder, name="own")]
    await agentd.start(graphs=graphs)
    for name in ("echo", "beast", "own"):
        await agentd.begin(name, name)
    await witness.hears("daemon")
    while len(witness.said) < 2:
        await asyncio.sleep(0)
    pids = [item["pid"] for item in (await agentd.get("/list"))["data"]]
    before = await spawner_pid(agentd)
    os.kill(before, signal.SIGKILL)
    for pid in pids:
        await ended(pid)
    for name in ("echo", "beast", "own"):
        assert (await agentd.gone(name))["cause"] == "spawner_lost"
    assert witness.alive() == []
    replaced = await agentd.event("spawner.replaced")
    assert replaced["pid"] != before
    assert replaced["swept"] >= 2
    assert (await agentd.get("/list"))["data"] == []
    await agentd.begin("echo")
    assert (await agentd.end("echo"))["code"] == "0"


async def test_workers_die_with_their_spawner_where_there_is_no_cgroup(agentd: Agentd) -> None:
    await agentd.start(graphs=[ECHO, foreign("stay", agentd.folder)], AGENTD_CONTAINMENT="sweep")
    os.mkfifo(agentd.folder / "witness", 0o600)
    held = os.open(agentd.folder / "witness", os.O_RDWR)
    try:
        await agentd.begin("echo")
        await agentd.begin("beast", "beast")
        os.kill(await spawner_pid(agentd), signal.SIGKILL)
        for name in ("echo", "beast"):
            assert (await agentd.gone(name))["cause"] == "spawner_lost"
        await agentd.begin("echo")
    finally:
        os.close(held)


async def test_starts_and_stops_over_the_death_of_the_spawner_are_all_answered(agentd: Agentd) -> None:
    await agentd.start(graphs=[ECHO])
    await asyncio.gather(*(agentd.begin(f"old{i}") for i in range(5)))
    pid = await spawner_pid(agentd)
    starts = [asyncio.create_task(agentd.post("/start", channel_name=f"c{i}", graph_name="echo")) for i in range(10)]
    stops = [asyncio.create_task(agentd.end(f"old{i}")) for i in range(5)]
    while len((await agentd.get("/channels"))["channels"]) < 10:
        await asyncio.sleep(0)
    os.kill(pid, signal.SIGKILL)
    assert {answer["code"] for answer in await asyncio.gather(*starts)} <= {"0", "10101"}
    assert {answer["code"] for answer in await asyncio.gather(*stops)} <= {"0", "10002"}
    await agentd.event("spawner.replaced")
    running = {item["channelName"] for item in (await agentd.get("/list"))["data"]}
    for name in running:
        assert (await agentd.end(name))["code"] in {"0", "10002"}
    await agentd.begin("after")


async def test_a_server_ends_well_without_its_spawner(agentd: Agentd) -> None:
    await agentd.start(graphs=[ECHO])
    await agentd.begin("c")
    assert agentd.process is not None
    os.kill(await spawner_pid(agentd), signal.SIGKILL)
    agentd.process.send_signal(signal.SIGTERM)
    assert await agentd.process.wait() == 0
    await agentd.stop()


# ---------------------------------------------------------------------- the zygote


@LEVELS
async def test_a_killed_zygote_harms_no_worker_and_is_replaced(agentd: Agentd, containment: str) -> None:
    await agentd.start(graphs=[ECHO], AGENTD_CONTAINMENT=containment)
    await agentd.begin("c")
    for _ in range(2):
        seen = len(agentd.events)
        zygote = [event for event in agentd.events if event["event"] == "zygote.ready"][-1]["pid"]
        os.kill(zygote, signal.SIGKILL)
        await agentd.event("zygote.died", lambda e, pid=zygote: e["pid"] == pid)
        await agentd.event("zygote.ready", after=seen)
        assert (await agentd.post("/ping", channel_name="c"))["code"] == "0"
    await agentd.begin("d")
    for name in ("c", "d"):
        assert (await agentd.end(name))["code"] == "0"
        event = await agentd.gone(name)
        assert (event["cause"], event["status"], event["killed"]) == ("stopped", 0, 0)


@LEVELS
async def test_starts_over_the_death_of_a_zygote_are_all_answered(agentd: Agentd, containment: str) -> None:
    await agentd.start(graphs=[ECHO], AGENTD_CONTAINMENT=containment)
    zygote = (await agentd.event("zygote.ready"))["pid"]
    os.kill(zygote, signal.SIGSTOP)  # so that they are all under way when it dies
    starts = [asyncio.create_task(agentd.post("/start", channel_name=f"c{i}", graph_name="echo")) for i in range(10)]
    while len((await agentd.get("/channels"))["channels"]) < 10:
        await asyncio.sleep(0)
    os.kill(zygote, signal.SIGKILL)
    answers = await asyncio.gather(*starts)
    assert {answer["code"] for answer in answers} <= {"0", "10101"}
    assert all("the zygote" in answer["detail"] for answer in answers if answer["code"] != "0")
    listed = {item["channelName"] for item in (await agentd.get("/list"))["data"]}
    assert len(listed) == sum(answer["code"] == "0" for answer in answers)
    await agentd.begin("after")
    await agentd.event("zygote.ready", lambda e: e["pid"] != zygote)


async def test_a_zygote_that_keeps_dying_is_started_only_when_asked_for(agentd: Agentd) -> None:
    await agentd.start(graphs=[ECHO])
    for _ in range(3):
        zygote = [event for event in agentd.events if event["event"] == "zygote.ready"][-1]["pid"]
        seen = len(agentd.events)
        os.kill(zygote, signal.SIGKILL)
        await agentd.event("zygote.died", lambda e, pid=zygote: e["pid"] == pid)
        await agentd.begin(f"after{zygote}")
        await agentd.event("zygote.ready", after=seen)


async def test_the_cgroups_of_a_killed_pair_are_taken_over(agentd: Agentd, successor: Agentd) -> None:
    """Server and spawner killed at once: the successor finds nobody, but what they left."""
    await agentd.start(graphs=[ECHO, foreign("stay", agentd.folder)])
    await agentd.begin("c")
    pid = await spawner_pid(agentd)
    assert agentd.process is not None
    agentd.process.send_signal(signal.SIGSTOP)  # so that it cannot start another
    os.kill(pid, signal.SIGKILL)
    await ended(pid)
    await agentd.kill()
    await successor.start()
    assert (await successor.event("server.ready"))["adopted_channels"] == 1  # to tell its end
    assert (await successor.gone("c"))["cause"] == "spawner_lost"
    await successor.begin("c")
