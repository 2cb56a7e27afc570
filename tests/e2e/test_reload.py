"""SIGHUP: the settings are read again; what can change does, what cannot is named, what is wrong changes nothing."""

import asyncio
import json
import os
import pty
import signal
import sys
from typing import Any

import pytest

from supervisor.auth import Scope
from supervisor.keys import KeyFile, new_key
from tests.harness import Agentd
from tests.harness.graphs import ECHO
from tests.harness.server import PATIENCE


async def reloaded(agentd: Agentd, outcome: str = "reload.done") -> dict[str, Any]:
    """The log event of a reload's outcome."""
    assert agentd.process is not None
    seen = len(agentd.events)
    agentd.process.send_signal(signal.SIGHUP)
    return await agentd.event(outcome, after=seen)


def configure(agentd: Agentd, text: str) -> None:
    (agentd.folder / "agentd.toml").write_text(text)


async def test_limits_change_without_a_restart(agentd: Agentd) -> None:
    configure(agentd, "workers_max = 1")
    await agentd.start(graphs=[ECHO])
    await agentd.begin("a")
    assert (await agentd.post("/channels", graph="echo", name="b"))["error"]["cause"] == "workers_limit"
    configure(agentd, 'workers_max = 3\ngraph_limits = {echo = 2}\nworker_open_files = 77\noverridable = ["x.*"]')
    told = await reloaded(agentd)
    assert set(told["changed"]) == {"workers_max", "graph_limits", "worker_open_files", "overridable"}
    second = await agentd.post("/channels", graph="echo", name="b")
    assert (second["status"], second["limits"]["open_files"]) == (201, 77)
    assert (await agentd.channel("a"))["limits"]["open_files"] == 4096  # what it has begun with it keeps
    assert (await agentd.post("/channels", graph="echo", name="c"))["error"]["cause"] == "graph_limit"
    refused = await agentd.request("PATCH", "/channels/a/properties", json={"echo": {"y": 1}})
    assert refused["error"]["cause"] == "override_refused"
    assert (await agentd.get("/health?details=1"))["data"]["workers_max"] == 3
    assert (await agentd.post("/ping", channel_name="a"))["code"] == "0"


async def test_what_needs_a_restart_is_named_and_not_taken(agentd: Agentd) -> None:
    configure(agentd, 'strict_status = false\ntoken = "secret-one"')
    await agentd.start(graphs=[ECHO])
    configure(agentd, 'strict_status = true\ntoken = "secret-two"\nworkers_max = 2')
    assert (await reloaded(agentd, "reload.needs_restart"))["settings"] == ["token", "strict_status"]
    assert (await agentd.event("reload.done"))["changed"] == ["workers_max"]
    for token, status in (("secret-one", 200), ("secret-two", 401)):
        headers = {"Authorization": f"Bearer {token}"}
        assert (await agentd.request("GET", "/list", headers=headers))["status"] == status
    assert "secret" not in json.dumps(agentd.events)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("workers_max = 0", "workers_max=0 (agentd.toml): allowed: a whole number from 1 to 2147483647"),
        ("workers_max = 2\nturn_seconds = -1", "turn_seconds=-1 (agentd.toml): allowed: seconds over 0"),
        ("workers_max = 2\nworkers_min = 1", "workers_min (agentd.toml): is not a setting"),
        ("workers_max = ", "the file (agentd.toml): is not TOML"),
        ('workers_max = 2\ntoken = "a b secret"', "token=******** (agentd.toml): allowed"),
    ],
)
async def test_what_is_wrong_changes_nothing(agentd: Agentd, text: str, problem: str) -> None:
    configure(agentd, "workers_max = 1")
    await agentd.start(graphs=[ECHO])
    await agentd.begin("a")
    configure(agentd, text)
    [told] = (await reloaded(agentd, "reload.refused"))["problems"]
    assert told.startswith(problem)
    assert (await agentd.post("/channels", graph="echo", name="b"))["error"]["cause"] == "workers_limit"
    assert "secret" not in json.dumps(agentd.events)
    configure(agentd, "workers_max = 2")
    assert (await reloaded(agentd))["changed"] == ["workers_max"]
    await agentd.begin("b")


async def test_the_dotenv_is_read_again_too(agentd: Agentd) -> None:
    """Its settings, and the variables that graphs name; what it does not name any more is gone."""
    node = {"type": "extension", "name": "echo", "addon": "echo", "property": {"prefix": "${env:GREETING}"}}
    dotenv = agentd.folder / ".env"
    dotenv.write_text("WORKERS_MAX=1\n")
    await agentd.start(graphs=[{"name": "echo", "graph": {"nodes": [node]}}])
    assert (await agentd.post("/channels", graph="echo"))["error"]["cause"] == "placeholder_unresolved"
    dotenv.write_text("GREETING=Hello\n")
    assert (await reloaded(agentd))["changed"] == ["workers_max"]
    for name in ("a", "b"):
        await agentd.begin(name)
    dotenv.unlink()
    await reloaded(agentd)
    assert (await agentd.post("/channels", graph="echo"))["error"]["cause"] == "placeholder_unresolved"


async def test_flags_and_the_environment_keep_their_precedence(agentd: Agentd) -> None:
    configure(agentd, "workers_max = 5\nsession_queue = 5")
    await agentd.start("--workers-max", "1", AGENTD_SESSION_QUEUE="3")
    configure(agentd, "workers_max = 6\nsession_queue = 6\nturn_seconds = 6")
    assert (await reloaded(agentd))["changed"] == ["turn_seconds"]


async def test_the_level_of_the_log(agentd: Agentd) -> None:
    configure(agentd, "")
    await agentd.start()

    def pings() -> int:
        return sum(event.get("path") == "/ping" for event in agentd.events)

    await agentd.post("/ping", channel_name="x")
    configure(agentd, 'log_level = "debug"')
    await reloaded(agentd)
    assert pings() == 0
    await agentd.post("/ping", channel_name="x")
    await agentd.event("http.request", lambda event: event["path"] == "/ping")
    configure(agentd, 'log_level = "warning"\nstrict_status = true')
    await reloaded(agentd, "reload.needs_restart")
    after = len(agentd.events)
    await agentd.get("/list")
    configure(agentd, 'log_level = "info"')
    await reloaded(agentd)
    assert [event for event in agentd.events[after:] if event.get("path") == "/list"] == []


async def test_keys_and_graphs(agentd: Agentd) -> None:
    await agentd.start(graphs=[ECHO])
    property_file = agentd.folder / "property.json"
    good = property_file.read_text()
    property_file.write_text(good.replace('"echo", "graph"', '"second", "graph"', 1))
    text, row = new_key(scopes=[Scope.CONTROL])
    KeyFile(agentd.state_dir / "keys.json").add(row)
    await reloaded(agentd)
    read = [event["event"] for event in agentd.events]
    assert {"property.read", "keys.read"} <= set(read)  # before anybody asked
    headers = {"Authorization": f"Bearer {text}"}
    assert (await agentd.get("/list"))["status"] == 401
    told = await agentd.request("GET", "/graphs", headers=headers)
    assert [graph["name"] for graph in told["data"]] == ["second"]
    property_file.write_text("{")
    assert (await reloaded(agentd, "reload.graph_refused"))["cause"] == "property_invalid"
    property_file.write_text(good)
    await reloaded(agentd)
    told = await agentd.request("GET", "/graphs", headers=headers)
    assert [graph["name"] for graph in told["data"]] == ["echo"]


async def test_many_at_once_under_requests(agentd: Agentd) -> None:
    configure(agentd, "workers_max = 1")
    await agentd.start()
    assert agentd.process is not None
    for number in range(50):
        configure(agentd, f"workers_max = {number + 2}" if number % 3 else "workers_max = 0")
        agentd.process.send_signal(signal.SIGHUP)
        assert (await agentd.get("/list"))["status"] == 200
    configure(agentd, "workers_max = 77")
    await reloaded(agentd)
    async with asyncio.timeout(PATIENCE):
        while (await agentd.get("/health?details=1"))["data"]["workers_max"] != 77:
            await asyncio.sleep(0)
    assert not [event for event in agentd.events if event["event"] == "reload.failed"]


@pytest.mark.parametrize("ignored", [False, True])
async def test_at_a_terminal_it_ends_unless_it_is_ignored(agentd: Agentd, ignored: bool) -> None:
    """Who closes the window does not want a server that goes on; who says nohup does."""
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "supervisor", "serve"]
    if ignored:
        command = ["/usr/bin/env", "nohup", *command]
    environment = {
        **os.environ,
        "AGENTD_STATE_DIR": str(agentd.state_dir),
        "AGENTD_LISTEN": "127.0.0.1:0",
        "AGENTD_LOG_FORMAT": "json",
    }
    process = await asyncio.create_subprocess_exec(
        *command, cwd=agentd.folder, env=environment, stdin=terminal, stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    try:
        assert process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            while b'"server.ready"' not in await process.stderr.readline():
                pass
            process.send_signal(signal.SIGHUP)
            if ignored:
                process.send_signal(signal.SIGINT)
            rest = await process.stderr.read()
            assert await process.wait() == 0
        assert b'"server.stopped"' in rest
        assert b'"reload.' not in rest
    finally:
        os.close(controller)
