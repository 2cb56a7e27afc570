"""The control server is killed and another one comes: sessions, streams, leases and turns go on."""

import asyncio
import json
import os
import select
import signal
from typing import Any

import pytest

from tests.harness import Agentd
from tests.harness.graphs import ECHO, FRIDAY, foreign
from tests.harness.server import PATIENCE
from tests.harness.survivors import claimed, ending, follow, pids, rows
from tests.harness.talk import TALKER, Stream, in_channel, post, stream
from tests.harness.witness import Witness
from worker.outbox import TURN_PAST_FRAMES

LEVELS = pytest.mark.parametrize("containment", ["auto", "sweep"])
PIECES = 400
WALL = {"began_at", "created_at", "ready_at"}


# ---------------------------------------------------------------------- sessions


@LEVELS
async def test_sessions_outlive_their_supervisor(
    agentd: Agentd, successor: Agentd, witness: Witness, containment: str
) -> None:
    graphs = [ECHO, TALKER, foreign("daemon_stubborn", agentd.folder)]
    await agentd.start(graphs=graphs, AGENTD_CONTAINMENT=containment)
    await agentd.begin("e", properties={"echo": {"key": "planted-secret"}})
    await agentd.begin("t", "talker", timeout=300)
    await agentd.begin("f", "beast", timeout=-1)
    await witness.hears("daemon")
    before = await pids(agentd)
    details = (await agentd.get("/health?details=1"))["data"]
    await agentd.kill()

    await successor.start(AGENTD_CONTAINMENT=containment)
    ready = await successor.event("server.ready")
    assert (ready["adopted_channels"], ready["ended_channels"], ready["cleared_folders"]) == (3, 0, 0)
    assert ready["spawner_pid"] == details["spawner_pid"]
    assert await pids(successor) == before
    leases = {one["name"]: one["lease_seconds"] for one in (await successor.get("/channels"))["channels"]}
    assert leases == {"e": 60, "t": 300, "f": None}
    for name in ("e", "t", "f"):
        assert (await successor.post("/ping", channel_name=name))["code"] == "0"
        assert (await successor.post("/start", channel_name=name, graph_name="echo"))["code"] == "10003"
    answer = await successor.post("/channels/t/turns", in_channel(["say", "still here"]))
    assert answer["text"] == "still here"
    for name in ("e", "t", "f"):
        assert (await successor.end(name))["code"] == "0"
        event = await successor.gone(name)
        assert event["cause"] == "stopped"
        assert (await ending(successor, name))["cause"] == "stopped"
    assert witness.alive() == []
    assert list((successor.state_dir / "ch").iterdir()) == []


async def test_a_start_that_fails_ends_no_session_of_an_earlier_server(agentd: Agentd, successor: Agentd) -> None:
    await agentd.start(graphs=[ECHO])
    await agentd.begin("e")
    before = await pids(agentd)
    await agentd.kill()
    agentd.events.clear()
    broken = agentd.folder / "broken.db"
    broken.write_bytes(b"no database" * 1000)
    with pytest.raises(AssertionError, match="cannot start"):
        await successor.start(AGENTD_STORE=str(broken))
    assert await successor.stop() == 1
    await agentd.start()
    assert await pids(agentd) == before


async def test_a_supervisor_may_be_killed_over_and_over(agentd: Agentd, successor: Agentd) -> None:
    await agentd.start(graphs=[ECHO, TALKER])
    await agentd.begin("t", "talker")
    before = await pids(agentd)
    for number, server in enumerate([successor, agentd] * 3):
        (agentd if server is successor else successor).events.clear()
        await (agentd if server is successor else successor).kill()
        await server.start()
        assert await pids(server) == before
        answer = await server.post("/channels/t/turns", in_channel(["say", str(number)]))
        assert answer["text"] == str(number)
    await successor.stop()


# ---------------------------------------------------------------------- streams and turns


async def read(stream: Stream, count: int) -> list[dict[str, Any]]:
    return [await stream.next() for _ in range(count)]


async def test_a_reader_that_resumes_gets_every_event_once(agentd: Agentd, successor: Agentd) -> None:
    await agentd.start(graphs=[TALKER])
    await agentd.begin("t", "talker")
    async with stream(agentd, in_channel(["paced", [PIECES, 0.005]]), "/channels/t/turns") as answer:
        seen = await read(answer, 50)
        turn = seen[0]["turn"]
        await agentd.kill()

    await successor.start()
    assert (await successor.channel("t"))["turn"]["id"] == turn
    seen += await follow(successor, "t", seen[-1]["place"], turn=turn)
    assert [event["text"] for event in seen if event["event"] == "text"] == [f"{n} " for n in range(PIECES)]
    assert (seen[-1]["event"], seen[-1]["cause"]) == ("final", "completed")
    assert "lost" not in seen[-1]
    places = [event["place"] for event in seen if event["place"]]
    assert len(places) == len(set(places))


async def test_a_wall_clock_that_was_set_meanwhile_times_nobody_out(agentd: Agentd, successor: Agentd) -> None:
    """Between two servers it goes forward by a day: as if what is on record by that clock was a day older."""
    await agentd.start(graphs=[TALKER])
    await agentd.begin("t", "talker")
    async with stream(agentd, in_channel(["paced", [PIECES, 0.005]]), "/channels/t/turns") as answer:
        seen = await read(answer, 50)
        await agentd.kill()
    for record in (agentd.state_dir / "records").iterdir():
        old = json.loads(record.read_bytes())
        record.write_text(json.dumps({name: value - 86_400 if name in WALL else value for name, value in old.items()}))

    await successor.start()
    seen += await follow(successor, "t", seen[-1]["place"], turn=seen[0]["turn"])
    assert (seen[-1]["event"], seen[-1]["cause"]) == ("final", "completed")
    assert seen[-1]["ms"] < 86_400_000
    assert (await successor.end("t"))["code"] == "0"
    assert (await successor.gone("t"))["age_ms"] < 86_400_000


async def test_a_reader_that_comes_before_its_worker_was_heard_again_waits(agentd: Agentd, successor: Agentd) -> None:
    await agentd.start(graphs=[TALKER])
    await agentd.begin("t", "talker")
    async with stream(agentd, in_channel(["paced", [PIECES, 0.005]]), "/channels/t/turns") as answer:
        seen = await read(answer, 50)
        pid = (await pids(agentd))["t"]
        os.kill(pid, signal.SIGSTOP)
        await agentd.kill()

    try:
        await successor.start()
        rest = asyncio.create_task(follow(successor, "t", seen[-1]["place"], turn=seen[0]["turn"]))
        await asyncio.wait({rest}, timeout=0.5)  # it has asked by then, as a rule; it must be right either way
    finally:
        os.kill(pid, signal.SIGCONT)
    seen += await rest
    assert [event["text"] for event in seen if event["event"] == "text"] == [f"{n} " for n in range(PIECES)]
    assert not any(event["event"] == "gap" for event in seen)


async def test_what_an_update_made_of_a_node_is_known_however_long_ago_it_was(
    agentd: Agentd, successor: Agentd
) -> None:
    await agentd.start(graphs=[FRIDAY], AGENTD_OVERRIDABLE="friday.*")
    await agentd.post("/channels", graph="friday", name="c")
    await agentd.request("PATCH", "/channels/c/properties", json={"friday": {"name": "Sunday", "pace_ms": 0}})
    said = 0
    while said < 2 * TURN_PAST_FRAMES:  # what the worker told of its nodes is not among what it can tell again
        async with stream(agentd, {"message": "Who are you?"}, "/channels/c/turns") as answer:
            said += len(await answer.all())
    nodes = (await agentd.channel("c"))["nodes"]
    assert nodes[0]["properties"]["name"] == "Sunday"
    await agentd.kill()

    await successor.start()
    async with asyncio.timeout(PATIENCE):
        while (await successor.channel("c"))["nodes"] != nodes:
            await asyncio.sleep(0.02)


async def test_the_conversation_has_the_whole_answer(agentd: Agentd, successor: Agentd) -> None:
    await agentd.start(graphs=[TALKER])
    script = [["paced", [PIECES, 0.005]], ["final", {"done": True}]]
    session = {"graph": "talker", "session": "s", "user": "u"}
    async with stream(agentd, {**in_channel(*script), **session}) as answer:
        seen = await read(answer, 20)
        [channel] = await pids(agentd)
        await agentd.kill()

    await successor.start()
    end = (await follow(successor, channel, "now", turn=seen[0]["turn"]))[-1]
    assert (end["event"], end["cause"], end["value"]) == ("final", "completed", {"done": True})
    again = await post(successor, {**in_channel(["history", None]), **session})
    assert again["status"] == 200, again
    assert "".join(f"{n} " for n in range(PIECES)) in again["text"]
    assert await pids(successor) == {channel: (await successor.channel(channel))["pid"]}


async def test_a_turn_whose_worker_dies_meanwhile_ends_with_its_cause(agentd: Agentd, successor: Agentd) -> None:
    await agentd.start(graphs=[TALKER])
    await agentd.begin("t", "talker")
    async with stream(agentd, in_channel(["paced", [PIECES, 0.05]]), "/channels/t/turns") as answer:
        await read(answer, 3)
        pid = (await pids(agentd))["t"]
        await agentd.kill()
    os.kill(pid, signal.SIGKILL)

    await successor.start()
    event = await successor.gone("t")
    assert (event["cause"], event["status"]) == ("crashed", -9)
    row = await ending(successor, "t")
    assert (row["cause"], row["status"], row["pid"]) == ("crashed", -9, pid)
    assert (await successor.get("/list"))["data"] == []
    await successor.begin("t", "talker")


async def test_a_session_that_is_idle_goes_on_and_is_reaped_in_the_end(agentd: Agentd, successor: Agentd) -> None:
    await agentd.start(graphs=[TALKER])
    asked = {**in_channel(["say", "one"]), "graph": "talker", "session": "s"}
    assert (await agentd.post("/turns", asked))["text"] == "one"
    before = await pids(agentd)
    await agentd.kill()

    await successor.start(AGENTD_SESSION_IDLE_SECONDS="1")
    assert await pids(successor) == before
    assert (await successor.post("/turns", {**asked, "context": {"script": [["say", "two"]]}}))["text"] == "two"
    assert await pids(successor) == before
    [name] = before
    assert (await successor.gone(name))["cause"] == "session_idle"


# ---------------------------------------------------------------------- leases


@pytest.mark.parametrize("downtime", ["paused", "running"])
async def test_a_lease_goes_on_as_the_operator_wants(agentd: Agentd, successor: Agentd, downtime: str) -> None:
    await agentd.start(graphs=[ECHO])
    await agentd.begin("short", timeout=2)
    await agentd.begin("long", timeout=600)
    await agentd.post("/ping", channel_name="long")
    await agentd.kill()
    await asyncio.sleep(2.5)  # the lease itself is what is tested
    await successor.start(AGENTD_LEASE_DOWNTIME=downtime)
    if downtime == "paused":
        left = (await successor.channel("short"))["time_left_seconds"]
        assert 0 < left <= 2
    assert (await successor.gone("short"))["cause"] == "lapsed"
    channel = await successor.channel("long")
    assert 550 < channel["time_left_seconds"] < 600
    assert channel["last_ping_seconds"] > 2.5


# ---------------------------------------------------------------------- at any moment


async def test_a_stop_that_was_under_way_is_finished(agentd: Agentd, successor: Agentd, witness: Witness) -> None:
    await agentd.start(graphs=[foreign("daemon_stubborn", agentd.folder)], WORKER_STOP_GRACE_SECONDS="3")
    await agentd.begin("f", "beast")
    await witness.hears("daemon")
    stop = asyncio.create_task(agentd.end("f"))
    await agentd.event("channel.stopping")
    await agentd.kill()
    await asyncio.gather(stop, return_exceptions=True)
    await successor.start()
    event = await successor.gone("f")
    assert event["cause"] == "stopped"
    assert (await ending(successor, "f"))["cause"] == "stopped"
    assert witness.alive() == []


async def test_an_ending_that_was_told_to_nobody_is_told(agentd: Agentd, successor: Agentd) -> None:
    """The worker ended, and its receipt was taken, just before the server was lost."""
    await agentd.start(graphs=[ECHO])
    for number in range(20):
        await agentd.begin(f"c{number}")
    await asyncio.gather(*(agentd.end(f"c{number}") for number in range(20)))
    await agentd.kill()
    await successor.start()
    assert {(await ending(successor, f"c{number}"))["cause"] for number in range(20)} == {"stopped"}


async def test_a_server_and_a_spawner_that_die_together_leave_no_start_without_an_ending(
    agentd: Agentd, successor: Agentd
) -> None:
    await agentd.start(graphs=[ECHO])
    spawner = os.pidfd_open((await agentd.get("/health?details=1"))["data"]["spawner_pid"])
    names = [f"c{number}" for number in range(10)]
    await asyncio.gather(*(agentd.begin(name) for name in names))  # the ledger has not heard of all of them yet
    agentd.process.kill()  # type: ignore[union-attr] - it runs
    signal.pidfd_send_signal(spawner, signal.SIGKILL)
    await agentd.stop()
    await asyncio.to_thread(select.select, [spawner], [], [], PATIENCE)
    os.close(spawner)
    await successor.start()
    assert {(await ending(successor, name))["cause"] for name in names} == {"spawner_lost"}
    assert await pids(successor) == {}
    while list((successor.state_dir / "records").iterdir()):
        await asyncio.sleep(0.02)  # until the ledger has them


async def test_what_a_spawner_ended_alone_is_told_by_the_next_server(agentd: Agentd, successor: Agentd) -> None:
    """As a service manager does that stops both."""
    sleeper = {"name": "sleeper", "graph": {"nodes": []}, "agentd": {"command": ["sleep", "1000"]}}
    await agentd.start(graphs=[ECHO, sleeper])
    await agentd.begin("e")
    await agentd.begin("f", "sleeper")
    spawner = (await agentd.get("/health?details=1"))["data"]["spawner_pid"]
    pidfd = os.pidfd_open(spawner)
    await agentd.kill()
    signal.pidfd_send_signal(pidfd, signal.SIGTERM)
    await asyncio.to_thread(select.select, [pidfd], [], [], PATIENCE)
    os.close(pidfd)
    await successor.start()
    ends = [await ending(successor, name) for name in ("e", "f")]
    assert [(one["cause"], one["status"]) for one in ends] == [("server_stopped", 0), ("server_stopped", -15)]
    assert [one["killed"] for one in ends] == [0, 0]
    while list((successor.state_dir / "records").iterdir()):
        await asyncio.sleep(0.02)  # until the ledger has them


BAD_RECORDS = {
    "torn": lambda text: text[: len(text) // 2],
    "empty": lambda _: "",
    "another version": lambda text: text.replace('"version":2', '"version":1'),
    "of another folder": lambda text: json.dumps({**json.loads(text), "instance": "x"}),
    "of another process": lambda text: json.dumps({**json.loads(text), "pid": 1}),
    "of another time": lambda text: json.dumps({**json.loads(text), "start_time": 1}),
    "of another boot": lambda text: json.dumps({**json.loads(text), "boot_id": "x"}),
    "wrong types": lambda text: json.dumps({**json.loads(text), "port": "x"}),
}


@pytest.mark.parametrize("fault", BAD_RECORDS)
async def test_a_record_that_is_none_is_not_trusted(agentd: Agentd, successor: Agentd, fault: str) -> None:
    await agentd.start(graphs=[ECHO])
    await agentd.begin("bad")
    await agentd.begin("good")
    identity = (await agentd.channel("bad"))["id"]
    await claimed(agentd, "bad")
    await agentd.kill()
    record = agentd.state_dir / "records" / f"{identity}.json"
    record.write_text(BAD_RECORDS[fault](record.read_text()))
    await successor.start()
    ready = await successor.event("server.ready")
    assert (ready["adopted_channels"], ready["ended_channels"]) == (1, 1)
    assert list(await pids(successor)) == ["good"]
    assert (await rows(successor, channel="bad"))[0]["cause"] == "server_lost"
    assert not record.exists()
    await successor.begin("bad")


@pytest.mark.parametrize(
    ("names", "cause"), [(["up"], "adoption_failed"), (["lock"], "server_lost"), ([], "server_lost")]
)
async def test_a_folder_that_is_gone_ends_its_channel_and_no_other(
    agentd: Agentd, successor: Agentd, names: list[str], cause: str
) -> None:
    await agentd.start(graphs=[ECHO])
    await agentd.begin("bad")
    await agentd.begin("good")
    folder = agentd.state_dir / "ch" / (await agentd.channel("bad"))["id"]
    await claimed(agentd, "bad")
    await agentd.kill()
    for path in list(folder.iterdir()):
        if path.name in names or not names:
            path.rmdir() if path.is_dir() else path.unlink()
    if not names:
        folder.rmdir()
    await successor.start()
    assert (await ending(successor, "bad"))["cause"] == cause
    assert list(await pids(successor)) == ["good"]
    assert (await successor.post("/ping", channel_name="good"))["code"] == "0"


async def test_a_second_supervisor_is_refused_as_long_as_the_first_lives(agentd: Agentd, successor: Agentd) -> None:
    await agentd.start(graphs=[ECHO])
    await agentd.begin("c")
    with pytest.raises(AssertionError, match="ended without server"):
        await successor.start()
    assert "another server works with" in successor.events[-1]["text"]
    assert (await agentd.post("/ping", channel_name="c"))["code"] == "0"
