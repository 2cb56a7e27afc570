"""`agentd chat` with a real server and real agents, in a pipe and in a terminal."""

import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.harness import Agentd
from tests.harness.caller import Caller
from tests.harness.terminal import CTRL_C, CTRL_D, ENTER

PROMPT = "> "
TOKEN = "t0ken"


def graph(name: str, addon: str, **properties: object) -> dict[str, object]:
    node = {"type": "extension", "name": addon, "addon": addon, "property": properties}
    return {"name": name, "graph": {"nodes": [node]}}


GRAPHS = [
    graph("friday", "friday"),
    graph("slow", "friday", pace_ms=50),
    graph("rooms", "friday", rooms=True),
    graph("keyless", "openai_chatgpt", api_key=""),
]


@pytest.fixture
async def caller(agentd: Agentd, tmp_path: Path) -> AsyncIterator[Caller]:
    await agentd.start(graphs=GRAPHS, AGENTD_TOKEN=TOKEN)
    folder = tmp_path / "folder"
    folder.mkdir()
    caller = Caller(folder, agentd.address, TOKEN)
    yield caller
    await caller.close()


async def pid_of(agentd: Agentd) -> int:
    """The worker of the only channel there is."""
    found = await agentd.request("GET", "/channels", headers={"Authorization": f"Bearer {TOKEN}"})
    [channel] = found["channels"]
    return int(channel["pid"])


async def test_lines_are_one_conversation(caller: Caller) -> None:
    done = await caller.run("friday", lines=b"My name is Ada.\nWhat is my name?\ncount to 3\n")
    assert (done.code, done.err) == (0, "")
    greeting, name, count = done.out.splitlines()
    assert ("Ada" in greeting, name, count) == (True, "Your name is Ada.", "1 2 3")


async def test_a_session_goes_on_with_the_next_server(caller: Caller, agentd: Agentd, successor: Agentd) -> None:
    whose = ("friday", "--session", "s", "--user", "u")
    assert (await caller.run(*whose, "-m", "My name is Ada.")).code == 0
    await agentd.stop()
    await successor.start(graphs=GRAPHS, AGENTD_TOKEN=TOKEN)
    caller.url = successor.address
    assert (await caller.run(*whose, "-m", "What is my name?")).out == "Your name is Ada.\n"
    assert "do not know" in (await caller.run("friday", "--session", "s", "-m", "What is my name?")).out


async def test_json_and_tools(caller: Caller) -> None:
    done = await caller.run("rooms", "-m", "Is meeting room 4 free?", "--json")
    events = [json.loads(line) for line in done.out.splitlines()]
    kinds = [event["type"] for event in events]
    assert (done.code, kinds[:3], kinds[-2:]) == (0, ["turn", "tool_call", "tool_result"], ["source", "final"])
    done = await caller.run("rooms", "-m", "Is meeting room 4 free?", "-v")
    assert done.out == "Meeting room 4 is free until noon.\n"
    assert done.err.splitlines()[0] == "-> meeting_room_plan(room=4)"


async def test_properties(caller: Caller) -> None:
    done = await caller.run("friday", "-m", "Who are you?", "--property", "friday.name=Sunday")
    assert (done.code, "Sunday" in done.out) == (0, True)


async def test_what_fails(caller: Caller) -> None:
    done = await caller.run("frida", "-m", "hi")
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines() == [
        "agentd: the property file has no graph of this name [graph_unknown]",
        "  detail: no graph 'frida'; allowed: 'friday', 'slow', 'rooms', 'keyless'",
        "  next step: choose one that `agentd graphs` lists",
    ]
    done = await caller.run("friday", "-m", "hi", AGENTD_TOKEN="")
    assert (done.code, "[unauthorized]" in done.err) == (1, True)
    done = await caller.run("keyless", "-m", "hi")
    assert (done.code, "[agent_error]" in done.err, "api_key" in done.err) == (1, True, True)


async def test_at_a_terminal(caller: Caller, agentd: Agentd) -> None:
    async with caller.terminal("slow", "--session", "s") as terminal:
        await terminal.until(PROMPT)
        terminal.type("My name is Ada." + ENTER)
        await terminal.until("Ada")
        await terminal.until(PROMPT)
        terminal.type("count to 1000" + ENTER)
        await terminal.until("1 2 3 ")
        terminal.type(CTRL_C)
        await terminal.until("cancelled")
        await terminal.until(PROMPT)
        terminal.type("What is my name?" + ENTER)
        await terminal.until("Your name is Ada.\r\n")
        await terminal.until(PROMPT)
        terminal.type(CTRL_D)
        assert await terminal.end() == 0
        await terminal.until("continue with: agentd chat slow --session s")
    causes = [event["cause"] for event in agentd.events if event["event"] == "channel.gone"]
    assert causes == []  # the worker is the one it was


async def test_a_worker_that_dies_and_a_server_that_goes(caller: Caller, agentd: Agentd) -> None:
    async with caller.terminal("slow", "--session", "s") as terminal:
        await terminal.until(PROMPT)
        terminal.type("count to 1000" + ENTER)
        await terminal.until("1 2 3 ")
        os.kill(await pid_of(agentd), signal.SIGKILL)
        await terminal.until("[crashed]")
        await terminal.until(PROMPT)
        terminal.type("count to 1000" + ENTER)
        await terminal.until("1 2 3 ")
        await agentd.stop()
        await terminal.until("[server_stopped]")
        await terminal.until(PROMPT)
        terminal.type("hello" + ENTER)
        await terminal.until("[unreachable]")
        await terminal.until(PROMPT)
        terminal.type("/quit" + ENTER)
        assert await terminal.end() == 0
    assert "Traceback" not in terminal.shown


async def test_a_server_that_is_killed(caller: Caller, agentd: Agentd, successor: Agentd) -> None:
    async with caller.terminal("slow") as terminal:
        await terminal.until(PROMPT)
        terminal.type("count to 1000" + ENTER)
        await terminal.until("1 2 3 ")
        await agentd.kill()
        await terminal.until("[connection_lost]")
        await terminal.until(PROMPT)
        terminal.type(CTRL_D)
        assert await terminal.end() == 0
    await successor.start(graphs=GRAPHS, AGENTD_TOKEN=TOKEN)  # it takes away what the killed one left


async def test_a_chat_that_is_killed_frees_its_session(caller: Caller) -> None:
    async with caller.terminal("slow", "--session", "s") as terminal:
        await terminal.until(PROMPT)
        terminal.type("count to 1000" + ENTER)
        await terminal.until("1 2 3 ")
        os.kill(terminal.process.pid, signal.SIGKILL)
        await terminal.end()
    assert (await caller.run("slow", "--session", "s", "-m", "count to 2")).out == "1 2\n"
