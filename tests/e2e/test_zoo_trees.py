"""Workers that multiply and hide: nothing of them may outlive the channel."""

import asyncio

import pytest

from tests.harness.graphs import foreign, own
from tests.harness.leaks import processes_of
from tests.harness.zoo import Zoo

KINDS = pytest.mark.parametrize("kind", [own, foreign])
MOST_PROCESSES = 60


@KINDS
async def test_forks_twice_into_a_session_of_its_own(zoo: Zoo, kind) -> None:
    beasts = ["daemon_fork", "daemon_exec", "daemon_bare"]
    await zoo.open(*(kind(beast, zoo.agentd.folder, name=beast) for beast in beasts))
    for beast in beasts:
        zoo.witness.said.clear()
        await zoo.loose(beast)
        await zoo.witness.hears("daemon")
        event = await zoo.stop(beast)
        assert (event["cause"], event["status"]) == ("stopped", 0 if kind is own else -15)


@KINDS
async def test_a_stubborn_daemon_gets_the_grace_and_no_more(zoo: Zoo, kind) -> None:
    await zoo.open(kind("daemon_stubborn", zoo.agentd.folder))
    await zoo.loose()
    await zoo.witness.hears("daemon")
    event = await zoo.stop()
    assert (event["cause"], event["killed"], event["processes"]) == ("stopped", 1, 2)


@KINDS
async def test_a_daemon_of_a_killed_worker_goes_too(zoo: Zoo, kind) -> None:
    await zoo.open(kind("daemon_stubborn", zoo.agentd.folder))
    await zoo.loose()
    await zoo.witness.hears("daemon")
    answer = await zoo.agentd.request("DELETE", "/channels/beast?kill=1")
    assert answer["receipt"]["killed"] == 2
    assert answer["receipt"]["left"] == 0
    assert (await zoo.ended())["cause"] == "killed"


@KINDS
async def test_a_fork_storm_ends_with_the_stop(zoo: Zoo, kind) -> None:
    await zoo.open(kind("storm", zoo.agentd.folder))
    await zoo.loose()
    await zoo.witness.hears("stormed")
    event = await zoo.stop()
    assert event["processes"] == 301
    assert len(processes_of(zoo.agentd.folder)) < 10


@KINDS
async def test_a_fork_storm_meets_its_limit(zoo: Zoo, kind) -> None:
    await zoo.open(kind("storm", zoo.agentd.folder, limits={"processes": MOST_PROCESSES}))
    await zoo.loose()
    async with asyncio.timeout(20):
        while not zoo.witness.said:
            await asyncio.sleep(0)
    if "pids" in (await zoo.agentd.get("/health?details=1"))["data"]["controllers"]:
        assert zoo.witness.said[0][0] == f"denied after {MOST_PROCESSES - 1}"
    event = await zoo.stop()
    assert event["cause"] == "stopped"


@KINDS
async def test_one_that_runs_away_is_caught(zoo: Zoo, kind) -> None:
    await zoo.open(kind("run_away", zoo.agentd.folder))
    await zoo.loose()
    await zoo.witness.hears("running away")
    assert zoo.witness.held()
    answer = await zoo.agentd.request("DELETE", "/channels/beast?kill=1")
    runs_on = zoo.witness.held()
    assert answer["receipt"]["left"] == 0
    assert not runs_on, "it runs on behind the receipt"
    await zoo.ended()
    left = [name for name in processes_of(zoo.agentd.folder).values() if "beasts.py" in name]
    assert left == []


@KINDS
async def test_takes_its_folder_apart(zoo: Zoo, kind) -> None:
    beasts = {"ravage": "ravaged", "vanish": "vanished"}
    graphs = [kind(beast, zoo.agentd.folder, name=beast, cue=True) for beast in beasts]
    for graph in graphs:
        graph["agentd"]["isolation"] = "basic"  # confined it could not remove the folder itself
    await zoo.open(*graphs)
    for beast, word in beasts.items():
        await zoo.loose(beast)
        zoo.witness.cue()
        await zoo.witness.hears(word)
        assert (await zoo.stop(beast))["cause"] == "stopped"
    assert len(list((zoo.agentd.state_dir / "ch").iterdir())) == 1  # of the bystander
