"""Workers that end when they should not, or do not end when they should."""

import pytest

from tests.harness.graphs import foreign, own
from tests.harness.zoo import Zoo

KINDS = pytest.mark.parametrize("kind", [own, foreign])


@KINDS
async def test_ignores_sigterm(zoo: Zoo, kind) -> None:
    await zoo.open(kind("ignore_sigterm", zoo.agentd.folder, deaf=True))
    await zoo.loose()
    await zoo.witness.hears("deaf to SIGTERM")
    event = await zoo.stop()
    assert (event["cause"], event["killed"], event["status"]) == ("stopped", 1, -9)
    assert event["seconds"] >= 0.4


@KINDS
async def test_ends_by_sigterm_although_it_never_reads(zoo: Zoo, kind) -> None:
    await zoo.open(kind("stay", zoo.agentd.folder, deaf=True))
    await zoo.loose()
    await zoo.witness.hears("here")
    event = await zoo.stop()
    assert (event["cause"], event["killed"]) == ("stopped", 0)
    assert event["status"] == (0 if kind is own else -15)


@KINDS
async def test_exits_during_its_start(zoo: Zoo, kind) -> None:
    statuses = {"exit_0": 0, "exit_1": 1, "die_of_signal": -9}
    await zoo.open(*(kind(beast, zoo.agentd.folder, name=beast) for beast in statuses))
    for beast, status in statuses.items():
        answer = await zoo.start(beast)
        assert (answer["status"], answer["code"], answer["data"]) == (200, "10101", None)
        assert (f"signal {-status}" if status < 0 else f"code {status}") in answer["detail"]
        event = await zoo.ended(beast)
        assert (event["cause"], event["status"]) == ("exited_before_ready", status)


@KINDS
async def test_exits_while_running(zoo: Zoo, kind) -> None:
    endings = {"exit_0": ("exited", 0), "exit_1": ("crashed", 1), "die_of_signal": ("crashed", -9)}
    await zoo.open(*(kind(beast, zoo.agentd.folder, name=beast, cue=True) for beast in endings))
    for beast, ending in endings.items():
        await zoo.loose(beast)
        zoo.witness.cue()
        event = await zoo.ended(beast)
        assert (event["cause"], event["status"]) == ending
        assert [item["channelName"] for item in (await zoo.agentd.get("/list"))["data"]] == ["bystander"]


@KINDS
async def test_exits_and_leaves_a_child_behind(zoo: Zoo, kind) -> None:
    await zoo.open(kind("leave_child", zoo.agentd.folder, cue=True))
    await zoo.loose()
    zoo.witness.cue()
    event = await zoo.ended()
    assert event["cause"] == "exited"
    assert event["killed"] == 1
    assert [said for said, _ in zoo.witness.said] == ["child"]


@KINDS
async def test_exits_in_its_start_and_leaves_a_child_behind(zoo: Zoo, kind) -> None:
    await zoo.open(kind("leave_child", zoo.agentd.folder))
    answer = await zoo.start()
    assert answer["code"] == "10101"
    assert (await zoo.ended())["killed"] == 1


async def test_sleeps_past_the_start_deadline(zoo: Zoo) -> None:
    graph = own("block", zoo.agentd.folder)
    await zoo.open(graph, WORKER_START_TIMEOUT_SECONDS="0.5")
    answer = await zoo.start()
    assert (answer["code"], answer["data"]) == ("10101", None)
    event = await zoo.ended()
    assert (event["cause"], event["killed"], event["status"]) == ("start_timeout", 1, -9)


async def test_waits_past_the_start_deadline(zoo: Zoo) -> None:
    graph = {"name": "beast", "graph": {"nodes": [{"type": "extension", "name": "s", "addon": "zoo_sleeper"}]}}
    await zoo.open(graph, WORKER_START_TIMEOUT_SECONDS="0.5")
    assert (await zoo.start())["code"] == "10101"
    assert (await zoo.ended())["cause"] == "start_timeout"


async def test_blocks_the_interpreter(zoo: Zoo) -> None:
    await zoo.open(own("block", zoo.agentd.folder, cue=True))
    await zoo.loose()
    zoo.witness.cue()
    await zoo.witness.hears("blocking")
    assert (await zoo.agentd.post("/ping", channel_name="beast"))["code"] == "0"
    event = await zoo.stop()
    assert (event["cause"], event["killed"], event["status"]) == ("stopped", 1, -9)


async def test_a_kill_gives_no_grace(zoo: Zoo) -> None:
    await zoo.open(own("block", zoo.agentd.folder, cue=True), WORKER_STOP_GRACE_SECONDS="25")
    await zoo.loose()
    zoo.witness.cue()
    await zoo.witness.hears("blocking")
    answer = await zoo.agentd.request("DELETE", "/channels/beast?kill=1")
    assert answer["receipt"]["killed"] == 1
    assert (await zoo.ended())["cause"] == "killed"
