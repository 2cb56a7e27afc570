"""The orderly end of a server: everything in parallel, exit status 0, nothing left (wire/ten.md section 7)."""

import asyncio
import os
import signal
import time

import pytest

from tests.harness import Agentd
from tests.harness.graphs import ECHO, own
from tests.harness.leaks import processes_of
from tests.harness.witness import Witness
from worker.spawn import instance_of

pytestmark = pytest.mark.own_interpreter

GRACE = 1.0
PROMISED_SECONDS = GRACE + 1.0
SLACK_SECONDS = 2.0  # for a machine that is busy with something else
KEPT = {
    "store.db",
    "store.db.lock",
    "agentd-state",
    "marks",
    "records",
    "ch",
    "logs",
    "serve.lock",
    "spawner.lock",
    "spawner.log",
    "attachments",
    "attachments/.incoming",  # and the server's instance; empty
    "attachments/.given",  # the same
}


async def ended_by(agentd: Agentd, number: int) -> tuple[int, float]:
    """The exit status of a server that got this signal, and how long it took."""
    assert agentd.process is not None
    began = time.monotonic()
    agentd.process.send_signal(number)
    status = await agentd.process.wait()
    seconds = time.monotonic() - began
    await agentd.stop()
    return status, seconds


def assert_clean(agentd: Agentd) -> None:
    """No process, no channel folder, no socket, no property file."""
    assert processes_of(agentd.folder) == {}
    names = {str(path.relative_to(agentd.state_dir)) for path in agentd.state_dir.rglob("*")}
    names = {name.removesuffix(f"-{instance_of(agentd.state_dir)}") for name in names}
    assert {name for name in names if not name.startswith("logs/app-")} == KEPT
    assert (agentd.state_dir / "spawner.log").read_text() == ""
    assert [event for event in agentd.events if event["event"] == "zygote.died"] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_many_channels(agentd: Agentd, number: int) -> None:
    await agentd.start(graphs=[ECHO], WORKER_STOP_GRACE_SECONDS=str(GRACE))
    await asyncio.gather(*(agentd.begin(f"c{i}") for i in range(20)))
    status, seconds = await ended_by(agentd, number)
    assert status == 0
    assert seconds < PROMISED_SECONDS + SLACK_SECONDS
    gone = [event for event in agentd.events if event["event"] == "channel.gone"]
    assert len(gone) == 20
    assert {(event["cause"], event["killed"]) for event in gone} == {("server_stopped", 0)}
    assert_clean(agentd)


@pytest.mark.parametrize("containment", ["auto", "sweep"])
async def test_channels_that_ignore_it_and_starts_in_flight(agentd: Agentd, witness: Witness, containment: str) -> None:
    deaf = own("ignore_sigterm", agentd.folder, name="deaf", deaf=True)
    sleeper = {"name": "slow", "graph": {"nodes": [{"type": "extension", "name": "s", "addon": "zoo_sleeper"}]}}
    blocked = own("block", agentd.folder, name="blocked")
    await agentd.start(
        graphs=[ECHO, deaf, sleeper, blocked],
        WORKER_STOP_GRACE_SECONDS=str(GRACE),
        WORKER_START_TIMEOUT_SECONDS="30",
        AGENTD_CONTAINMENT=containment,
    )
    for i in range(8):
        await agentd.begin(f"deaf{i}", "deaf")
        await agentd.begin(f"echo{i}", "echo")
    starts = [
        asyncio.create_task(agentd.post("/start", channel_name=f"{graph}{i}", graph_name=graph))
        for graph in ("slow", "blocked")
        for i in range(4)
    ]
    while len((await agentd.get("/channels"))["channels"]) < 24:
        await asyncio.sleep(0)
    await witness.hears("blocking")
    assert agentd.process is not None
    began = time.monotonic()
    agentd.process.send_signal(signal.SIGTERM)
    await agentd.event("server.stopping")
    refused = asyncio.create_task(agentd.post("/start", channel_name="late", graph_name="echo"))
    assert {answer["code"] for answer in await asyncio.gather(*starts)} == {"10101"}
    late = await refused
    assert (late["code"], late["data"]) == ("10101", None)
    assert await agentd.process.wait() == 0
    assert time.monotonic() - began < PROMISED_SECONDS + SLACK_SECONDS
    await agentd.stop()
    gone = [event for event in agentd.events if event["event"] == "channel.gone"]
    assert len(gone) == 24
    assert {event["cause"] for event in gone} == {"server_stopped"}
    assert sum(event["killed"] for event in gone) == 12
    assert_clean(agentd)


async def test_a_second_signal_changes_nothing(agentd: Agentd, witness: Witness) -> None:
    await agentd.start(graphs=[own("ignore_sigterm", agentd.folder, deaf=True)], WORKER_STOP_GRACE_SECONDS=str(GRACE))
    await agentd.begin("beast", "beast")
    assert agentd.process is not None
    agentd.process.send_signal(signal.SIGTERM)
    await agentd.event("server.stopping")
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(agentd.process.pid, number)
    assert await agentd.process.wait() == 0
    await agentd.stop()


async def test_a_second_server_on_the_state_folder_is_refused(agentd: Agentd, successor: Agentd) -> None:
    await agentd.start()
    await agentd.begin("c")
    with pytest.raises(AssertionError, match="another server works with"):
        await successor.start()
    assert await successor.stop() == 1
    assert (await agentd.post("/ping", channel_name="c"))["code"] == "0"


async def test_a_port_that_is_taken_is_told(agentd: Agentd, successor: Agentd) -> None:
    await agentd.start()
    address = agentd.address.removeprefix("http://")
    with pytest.raises(AssertionError, match=f"cannot listen on {address}: Address already in use"):
        await successor.start(AGENTD_LISTEN=address, AGENTD_STATE_DIR=str(successor.folder / "other"))
    assert await successor.stop() == 1
    assert not (successor.folder / "other").exists()
