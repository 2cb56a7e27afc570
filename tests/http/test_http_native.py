"""The native API of channels: starts, what is shown of them, new properties, and what is told of those that ended."""

import asyncio
import io
import json
import re
from typing import Any

import pytest

from supervisor.causes import Cause, Refusal
from supervisor.channels.requests import check_channel_name
from supervisor.http.channel_views import MASK, masked
from supervisor.http.channels import NAME_PATTERN, made_up
from supervisor.store.errors import StoreError
from worker.spawn import Limits

ROW = {
    "number": 7,
    "id": "c9",
    "name": "lobby",
    "graph": "greeter",
    "user": "u",
    "session": None,
    "claimed_at": 1.0,
    "ended_at": 2.0,
    "cause": "crashed",
    "detail": "worker was killed by signal 9",
    "status": -9,
    "processes": 2,
    "killed": 1,
    "seconds": 0.1,
}


# ---------------------------------------------------------------------- starts


async def test_a_start_with_everything(house: Any) -> None:
    answer = await house.post(
        "/channels",
        {
            "graph": "greeter",
            "name": "a b",
            "user": "ada",
            "session": "s1",
            "timeout": 45,
            "properties": {"llm": {"model": "m"}, "none": None},
            "limits": {"processes": 8, "memory_bytes": None},
        },
        headers={"X-Request-ID": "r-7"},
    )
    assert answer.status == 201, answer.content
    assert answer.headers["Location"] == "/channels/a%20b"
    shown = answer.body
    assert (shown["name"], shown["graph"], shown["user"], shown["session"]) == ("a b", "greeter", "ada", "s1")
    assert (shown["source"], shown["state"], shown["lease_seconds"]) == ("native", "running", 45)
    assert shown["limits"]["processes"] == 8
    [request] = house.table.started
    assert request.properties == {"llm": {"model": "m"}}
    assert request.limits == Limits(processes=8)
    assert request.request_id == "r-7"
    assert (await house.get(answer.headers["Location"])).body.keys() == shown.keys()


async def test_a_start_with_as_little_as_can_be(house: Any) -> None:
    first, second = [(await house.post("/channels", {"graph": "greeter"})).body for _ in range(2)]
    assert first["name"] != second["name"]
    assert first["name"].startswith("greeter-")
    assert (first["user"], first["session"], first["lease_seconds"]) == ("", None, 60)


@pytest.mark.parametrize(("graph", "start"), [("va.openai/v2", "va-openai-v2-"), ("日本", "channel-"), ("x" * 99, "x")])
def test_names_that_are_made_up(graph: str, start: str) -> None:
    name = made_up(graph)
    assert name.startswith(start)
    assert len(name) <= 60
    assert made_up(graph) != name


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "graph is missing"),
        ({"graph": ""}, "graph"),
        ({"graph": 5}, "graph"),
        ({"graph": "greeter", "name": ""}, "channel name"),
        ({"graph": "greeter", "name": " "}, "channel name"),
        ({"graph": "greeter", "name": "a/b"}, "'/'"),
        ({"graph": "greeter", "name": ".a"}, "'.'"),
        ({"graph": "greeter", "name": "x" * 101}, "101 bytes"),
        ({"graph": "greeter", "timeout": -2}, "timeout"),
        ({"graph": "greeter", "timeout": True}, "timeout"),
        ({"graph": "greeter", "timeout": 1.5}, "timeout"),
        ({"graph": "greeter", "session": ""}, "session"),
        ({"graph": "greeter", "user": "u" * 1025}, "user"),
        ({"graph": "greeter", "properties": {"llm": 1}}, "properties.llm"),
        ({"graph": "greeter", "properties": []}, "properties"),
        ({"graph": "greeter", "limits": {"memory": 1}}, "'memory'"),
        ({"graph": "greeter", "limits": {"processes": 0}}, "limits.processes"),
        ({"graph": "greeter", "channel_name": "x"}, "known are graph, name"),
    ],
)
async def test_bodies_that_are_refused(house: Any, body: Any, named: str) -> None:
    answer = await house.post("/channels", body)
    assert answer.status == 400, answer.content
    assert named in answer.body["error"]["detail"]
    assert house.table.started == []


async def test_properties_are_bounded(house: Any) -> None:
    body = json.dumps({"graph": "greeter", "properties": {"n": {"a": "x" * 2_000_000}}})
    answer = await house.post("/channels", io.BytesIO(body.encode()))
    assert (answer.status, "at most 1048576" in answer.body["error"]["detail"]) == (400, True)


@pytest.mark.parametrize(
    ("cause", "status", "retry"),
    [
        (Cause.WORKERS_LIMIT, 429, "2"),
        (Cause.SHUTTING_DOWN, 503, "5"),
        (Cause.OVERRIDE_REFUSED, 403, None),
        (Cause.GRAPH_UNKNOWN, 404, None),
        (Cause.START_TIMEOUT, 504, None),
    ],
)
async def test_starts_that_fail(house: Any, cause: Cause, status: int, retry: str | None) -> None:
    house.table.fault = Refusal(cause, "why")
    answer = await house.post("/channels", {"graph": "greeter"})
    assert (answer.status, answer.headers["Agentd-Cause"], answer.headers.get("Retry-After")) == (status, cause, retry)
    assert answer.body["error"]["detail"] == "why"


async def test_a_session_has_one_channel(house: Any) -> None:
    body = {"graph": "greeter", "session": "s", "user": "u"}
    answers = await asyncio.gather(*(house.post("/channels", body) for _ in range(3)))
    assert sorted(answer.status for answer in answers) == [201, 409, 409]
    refused = next(answer for answer in answers if answer.status == 409)
    assert refused.body["error"]["cause"] == "channel_exists"
    assert "session 's' has channel 'greeter-" in refused.body["error"]["detail"]
    assert (await house.post("/channels", {**body, "user": "v"})).status == 201


async def test_a_start_outlives_its_client(house: Any) -> None:
    house.table.gate.clear()
    start = asyncio.create_task(house.post("/channels", {"graph": "greeter", "name": "lobby"}))
    await house.table.waiting.wait()
    start.cancel()
    await asyncio.wait({start})
    await house.get("/health")
    house.table.gate.set()
    await house.table.finished.wait()
    assert "lobby" in house.table.channels


# ---------------------------------------------------------------------- what is shown


async def test_nodes_turn_and_place(house: Any) -> None:
    channel = await house.start()
    channel.nodes = [
        {
            "name": "llm",
            "addon": "a",
            "handles": ["chat"],
            "properties": {"model": "m", "api_key": "k", "max_tokens": 5},
        }
    ]
    channel.feed.publish("ready", {}, 3)
    shown = (await house.get("/channels/lobby")).body
    assert shown["nodes"] == [
        {
            "name": "llm",
            "addon": "a",
            "handles": ["chat"],
            "properties": {"model": "m", "api_key": MASK, "max_tokens": 5},
        }
    ]
    assert (shown["turn"], shown["last_event"]) == (None, "c0:3")
    [listed] = (await house.get("/channels")).body["channels"]
    assert listed.keys() == shown.keys() - {"nodes"}


SECRETS = {
    "api_key": "k",
    "apiKey": "k",
    "KEY": "k",
    "access-token": "t",
    "client_secret": 1,
    "password": True,
    "db_passwd": [1],
    "credentials": {"a": 1},
    "certificate": "c",
    "keys": ["a"],
}
PLAIN = {"max_tokens": 512, "keyed": True, "api_key": "", "token": None, "model": "m", "list": [1, {"n": None}]}


def test_masks() -> None:
    assert masked(SECRETS) == dict.fromkeys(SECRETS, MASK)
    assert masked([{"deep": SECRETS}]) == [{"deep": dict.fromkeys(SECRETS, MASK)}]
    assert masked(PLAIN) == PLAIN
    assert masked("plain") == "plain"


def test_what_is_nested_without_end_is_masked() -> None:
    value: Any = "secret"
    for _ in range(900):
        value = [value]
    shown, levels = masked(value), 0
    while isinstance(shown, list):
        [shown] = shown
        levels += 1
    assert (shown, levels) == (MASK, 32)


async def test_a_channel_that_has_ended(house: Any) -> None:
    house.records.rows = [ROW]
    answer = await house.get("/channels/lobby")
    assert (answer.status, answer.headers["Agentd-Cause"]) == (404, "channel_unknown")
    last = answer.body["error"]["last"]
    assert (last["id"], last["cause"], last["ended_at"]) == ("c9", "crashed", 2.0)
    assert last["receipt"] == {"processes": 2, "killed": 1, "seconds": 0.1, "status": -9}
    assert house.records.asked == [{"channel": "lobby", "graph": None, "open": False, "limit": 1}]
    house.records.rows = []
    assert (await house.get("/channels/lobby")).body["error"]["last"] is None
    house.records.fault = StoreError("the disk is full")
    answer = await house.get("/channels/lobby")
    assert (answer.status, answer.body["error"]["last"]) == (404, None)


# ---------------------------------------------------------------------- new properties


async def patch(house: Any, body: Any, name: str = "lobby") -> Any:
    return await house.ask("PATCH", f"/channels/{name}/properties", body)


async def test_new_properties(house: Any) -> None:
    channel = await house.start()
    channel.nodes = [{"name": "llm", "addon": "a", "handles": [], "properties": {"token": "t"}}]
    answer = await patch(house, {"llm": {"model": "m"}, "none": None})
    assert (answer.status, answer.body["name"]) == (200, "lobby")
    assert answer.body["nodes"] == [{"name": "llm", "addon": "a", "handles": [], "properties": {"token": MASK}}]
    assert channel.asking.updates == [{"llm": {"model": "m"}}]
    assert (await patch(house, {})).status == 200
    assert len(channel.asking.updates) == 1


@pytest.mark.parametrize("body", [[], "x", {"llm": 5}, {"llm": [1]}, b"{", b'{"a":' * 200 + b"1" + b"}" * 200])
async def test_new_properties_that_are_none(house: Any, body: Any) -> None:
    channel = await house.start()
    answer = await patch(house, body)
    assert (answer.status, answer.body["error"]["cause"]) == (400, "body_invalid")
    assert channel.asking.updates == []


async def test_new_properties_that_are_refused(house: Any) -> None:
    channel = await house.start()
    channel.asking.fault = Refusal(Cause.UPDATE_REFUSED, "no node 'x'")
    answer = await patch(house, {"x": {"a": 1}})
    assert (answer.status, answer.body["error"]["detail"]) == (422, "no node 'x'")
    assert (await patch(house, {}, "nobody")).status == 404


async def test_new_properties_of_a_channel_that_starts(house: Any) -> None:
    house.table.gate.clear()
    start = asyncio.create_task(house.start())
    await house.table.waiting.wait()
    answer = await patch(house, {"x": {"a": 1}})
    assert (answer.status, answer.body["error"]["detail"]) == (404, "channel 'lobby' is starting")
    house.table.gate.set()
    await start


async def test_only_what_may_be_overridden(build: Any) -> None:
    house = await build(overridable=("llm.*",))
    channel = await house.start()
    answer = await patch(house, {"llm": {"model": "m"}, "rtc": {"app_id": "x"}})
    assert (answer.status, answer.body["error"]["cause"]) == (403, "override_refused")
    assert "rtc.app_id" in answer.body["error"]["detail"]
    assert (await patch(house, {"llm": {"model": "m"}})).status == 200
    assert channel.asking.updates == [{"llm": {"model": "m"}}]


def test_the_pattern_of_names_is_that_of_the_check() -> None:
    for name in ("a", "a b", ".a", "a.b", "a..b", "a/b", "a\\b", "a\0b", "日本", "\n", "a\n..", " "):
        try:
            check_channel_name(name)
            allowed = not name.isspace()
        except Refusal:
            allowed = False
        assert bool(re.search(NAME_PATTERN, name)) is allowed, name
