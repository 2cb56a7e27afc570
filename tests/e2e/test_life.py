"""The life of channels as a client sees it: real server, real workers (wire/ten.md sections 4 to 8)."""

import asyncio
import json

import pytest

from tests.harness import Agentd
from tests.harness.leaks import processes_of
from worker.spawner.sweep import channel_of

pytestmark = pytest.mark.own_interpreter


async def test_the_published_example(agentd: Agentd) -> None:
    await agentd.start()
    body = {
        "request_id": "test",
        "channel_name": "test",
        "user_uid": 176573,
        "graph_name": "camera_va_openai_azure",
        "properties": {"openai_chatgpt": {"model": "gpt-4o"}},
    }
    assert (await agentd.post("/ping", body))["code"] == "10002"
    assert await agentd.post("/start", body) == {"status": 200, "code": "0", "msg": "success", "data": None}
    assert (await agentd.post("/start", body))["code"] == "10003"
    assert (await agentd.post("/ping", body))["code"] == "0"
    listed = (await agentd.get("/list"))["data"]
    assert [item["channelName"] for item in listed] == ["test"]
    assert isinstance(listed[0]["createTs"], int)
    assert (await agentd.post("/stop", body))["code"] == "0"
    assert (await agentd.get("/list"))["data"] == []
    assert (await agentd.post("/ping", body))["code"] == "10002"
    assert (await agentd.post("/stop", body))["code"] == "10002"
    assert (await agentd.post("/start", body))["code"] == "0"


async def test_twenty_starts_of_one_channel_make_one_worker(agentd: Agentd) -> None:
    await agentd.start()
    answers = await asyncio.gather(*(agentd.post("/start", channel_name="one", graph_name="echo") for _ in range(20)))
    assert sorted(answer["code"] for answer in answers) == ["0"] + ["10003"] * 19
    marks = [channel_of(pid) for pid in processes_of(agentd.folder)]
    assert len([mark for mark in marks if mark]) == 1  # zygote and spare bear a blank


async def test_the_limit_holds_against_simultaneous_starts(agentd: Agentd) -> None:
    await agentd.start(WORKERS_MAX="5")
    answers = await asyncio.gather(*(agentd.post("/start", channel_name=f"c{i}", graph_name="echo") for i in range(30)))
    assert sorted(answer["code"] for answer in answers) == ["0"] * 5 + ["10001"] * 25


async def test_a_stop_cancels_a_start_in_progress(agentd: Agentd) -> None:
    await agentd.start(graphs=[sleeper()], WORKER_START_TIMEOUT_SECONDS="30")
    start = asyncio.create_task(agentd.post("/start", channel_name="slow", graph_name="sleeper"))
    while (await agentd.get("/channels"))["channels"] == []:
        await asyncio.sleep(0)
    assert (await agentd.end("slow"))["code"] == "0"
    assert (await start)["code"] == "10101"
    assert (await agentd.get("/channels"))["channels"] == []


async def test_stops_at_once_are_all_answered(agentd: Agentd) -> None:
    await agentd.start()
    await agentd.begin("c")
    answers = await asyncio.gather(*(agentd.end("c") for _ in range(10)))
    assert {answer["code"] for answer in answers} <= {"0", "10002"}
    assert answers[0]["code"] == "0"


async def test_a_lapse_takes_the_channel_and_a_ping_keeps_it(agentd: Agentd) -> None:
    await agentd.start()
    await agentd.begin("kept", timeout=1)
    await agentd.begin("lapsed", timeout=1)
    await agentd.begin("endless", timeout=-1)
    gone = asyncio.create_task(agentd.gone("lapsed"))
    while not gone.done():
        assert (await agentd.post("/ping", channel_name="kept"))["code"] == "0"
        await asyncio.wait([gone], timeout=0.2)
    event = await gone
    assert event["cause"] == "lapsed"
    assert 1000 <= event["age_ms"] < 2000
    assert (await agentd.channel("kept"))["state"] == "running"
    assert (await agentd.channel("endless"))["time_left_seconds"] is None


async def test_an_override_reaches_the_worker_and_no_file(agentd: Agentd) -> None:
    await agentd.start()
    await agentd.begin(
        "c", "camera_va_openai_azure", properties={"openai_chatgpt": {"model": "gpt-4o", "api_key": "planted-secret"}}
    )
    for path in agentd.state_dir.rglob("*"):
        if path.is_file():
            assert b"planted-secret" not in path.read_bytes(), path
    assert "planted-secret" not in json.dumps(agentd.events)


def sleeper() -> dict[str, object]:
    return {"name": "sleeper", "graph": {"nodes": [{"type": "extension", "name": "s", "addon": "zoo_sleeper"}]}}
