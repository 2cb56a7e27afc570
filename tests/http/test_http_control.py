"""TEN's API: sessions, listings (wire/ten.md sections 2 and 4 to 8)."""

import io
import json
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.causes import Cause, Refusal
from supervisor.channels.lifecycle import State
from worker.spawn import Limits

if TYPE_CHECKING:
    from pathlib import Path


async def test_the_envelope_of_a_start(house: Any) -> None:
    answer = await house.post(
        "/start",
        {
            "request_id": "r-7f",
            "channel_name": "lobby",
            "user_uid": 4711,
            "bot_uid": 9,
            "graph_name": "greeter",
            "properties": {"openai_chatgpt": {"model": "gpt-4o"}, "log": None},
            "timeout": 45,
            "limits": {"memory_bytes": 1 << 30, "open_files": None},
            "language": "en-US",
            "token": "t",
            "worker_http_server_port": 9000,
            "tenapp_dir": "/elsewhere",
        },
    )
    assert answer.status == 200
    assert answer.content == b'{"code":"0","msg":"success","data":null}'
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.headers["Content-Length"] == "40"
    assert "Transfer-Encoding" not in answer.headers
    [request] = house.table.started
    assert (request.channel_name, request.graph_name, request.user_uid, request.bot_uid) == (
        "lobby",
        "greeter",
        4711,
        9,
    )
    assert (request.timeout, request.request_id) == (45, "r-7f")
    assert request.properties == {"openai_chatgpt": {"model": "gpt-4o"}}
    assert request.limits == Limits(memory_bytes=1 << 30)


async def test_defaults_of_a_start(house: Any) -> None:
    await house.start()
    [request] = house.table.started
    assert (request.user_uid, request.bot_uid, request.timeout, request.properties) == (0, 0, None, {})
    assert request.limits == Limits()
    assert request.request_id  # ours


async def test_a_session(house: Any) -> None:
    body = {"channel_name": "lobby"}
    assert (await house.post("/ping", body)).code == "10002"
    await house.start()
    assert (await house.post("/start", body | {"graph_name": "greeter"})).code == "10003"
    assert (await house.post("/ping", body)).code == "0"
    assert (await house.post("/stop", body)).code == "0"
    assert (await house.post("/stop", body)).code == "10002"
    assert house.table.stops == [("lobby", Cause.STOPPED, False)]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"channel_name": "", "user_uid": -1}, "10000"),  # the body comes first
        ({"graph_name": "greeter"}, "10004"),
        ({"channel_name": "", "graph_name": "greeter"}, "10004"),
        ({"channel_name": None}, "10004"),
        ({"channel_name": " \t\u3000"}, "10004"),
        ({"channel_name": ".hidden", "graph_name": "greeter"}, "10001"),  # the limit before the name
        ({"channel_name": "new", "graph_name": "nobody"}, "10001"),
    ],
)
async def test_the_order_of_checks(build: Any, body: Any, code: str) -> None:
    house = await build(workers_max=1)
    await house.start("taken")
    assert (await house.post("/start", body)).code == code


@pytest.mark.parametrize(
    "name", ["a b", "日本語", "🎈", "a:b", "$(id)", " lobby ", "é", "e\u0301", "x" * 100, "'\"%2F"]
)
async def test_names_are_opaque(house: Any, name: str) -> None:
    channel = await house.start(name)
    assert channel.name == name
    assert [item["channelName"] for item in (await house.get("/list")).body["data"]] == [name]


@pytest.mark.parametrize("name", [".x", "a/b", "a\\b", "a..b", "a\0b", "x" * 101, "é" * 51])
async def test_refused_names(house: Any, name: str) -> None:
    answer = await house.post("/start", {"channel_name": name, "graph_name": "greeter"})
    assert answer.code == "10100"
    assert "channel_name" in answer.body["detail"]


async def test_list(house: Any) -> None:
    assert (await house.get("/list")).content == b'{"code":"0","msg":"success","data":[]}'
    channel = await house.start()
    channel.created_at = 1767225600.9
    house.table.channels["other"] = type(channel)(
        "other", "c9", "echo", channel.folder, channel.log_file, channel.lease, State.STARTING
    )
    assert (await house.get("/list")).body["data"] == [
        {"channelName": "lobby", "createTs": 1767225600, "graphName": "greeter", "pid": 4711, "state": "running"}
    ]


async def test_graphs(house: Any) -> None:
    assert (await house.get("/graphs")).body["data"] == [
        {"name": "greeter", "graph_id": "greeter", "uuid": "greeter", "auto_start": True},
        {"name": "echo", "graph_id": "echo", "uuid": "echo", "auto_start": False},
    ]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (None, "10106"),
        ("{", "10007"),
        ("{}", "10007"),
        ('{"ten":{}}', "10007"),
        ('{"ten":{"predefined_graphs":[]}}', "0"),
    ],
)
async def test_graphs_of_other_files(house: Any, text: str | None, code: str) -> None:
    path: Path = house.settings.property_file
    path.unlink()
    if text is not None:
        path.write_text(text)
    answer = await house.get("/graphs")
    assert answer.code == code
    assert answer.body["data"] == ([] if code == "0" else None)
    start = await house.post("/start", {"channel_name": "x", "graph_name": "greeter"})
    assert start.code == "10100"


async def test_addon_defaults(house: Any) -> None:
    assert (await house.get("/dev-tmp/addons/default-properties")).code == "10105"
    folder: Path = house.settings.addons_dir
    for name, text in {"tts": '{"speed": 1.0}', "asr": "{}", "broken": "{", "empty": None}.items():
        (folder / name).mkdir(parents=True)
        if text is not None:
            (folder / name / "property.json").write_text(text)
    (folder / "file").write_text("no folder")
    answer = await house.get("/dev-tmp/addons/default-properties")
    assert answer.content == (
        b'{"code":"0","msg":"success","data":[{"addon":"asr","property":{}},{"addon":"tts","property":{"speed":1.0}}]}'
    )


@pytest.mark.parametrize(
    ("setting", "code", "data"),
    [
        ("", "0", []),
        ("[]", "0", []),
        ('[{"collection": "a", "file_name": "f"}]', "0", [{"collection": "a", "file_name": "f"}]),
        ("{}", "10007", None),
        ("[", "10007", None),
    ],
)
async def test_presets(build: Any, setting: str, code: str, data: Any) -> None:
    house = await build(vector_document_preset_list=setting)
    answer = await house.get("/vector/document/preset/list")
    assert (answer.code, answer.body["data"]) == (code, data)


@pytest.mark.parametrize("cause", [c for c in Cause if c not in (Cause.STOP_FAILED, Cause.COMPLETED)])
async def test_every_cause_of_a_start_has_an_answer(build: Any, cause: Cause) -> None:
    house = await build()
    house.table.fault = Refusal(cause, "the detail")
    answer = await house.post("/start", {"channel_name": "lobby"})
    assert answer.code != "0"
    assert answer.body["data"] is None
    assert answer.body["detail"] == "the detail"
    assert answer.headers["Agentd-Cause"] == cause.value


async def test_large_properties_are_refused(house: Any) -> None:
    body = {"channel_name": "lobby", "graph_name": "greeter", "properties": {"n": {"a": "x" * 2_000_000}}}
    answer = await house.post("/start", io.BytesIO(json.dumps(body).encode()))
    assert (answer.status, answer.code) == (200, "10000")
    assert "2000014 bytes" in answer.body["detail"]
    assert "1048576" in answer.body["detail"]
    assert house.table.started == []


async def test_strict_status(build: Any) -> None:
    house = await build(strict_status=True)
    assert (await house.post("/ping", {"channel_name": "nobody"})).status == 400
    assert (await house.post("/start", {"channel_name": "x"})).status == 500
    house.table.fault = Refusal(Cause.WORKERS_LIMIT)
    assert (await house.post("/start", {"channel_name": "x"})).status == 429
    assert (await house.get("/health")).status == 200


async def test_curl_without_a_content_type(house: Any) -> None:
    body = json.dumps({"channel_name": "test", "graph_name": "greeter", "user_uid": 176573})
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert (await house.post("/start", body, headers=headers)).code == "0"
