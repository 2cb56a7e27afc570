"""Conversations that are their user's, whichever graph answers: the worker changes, what was said stays."""

import asyncio
import re
from typing import Any

import aiohttp

from supervisor.auth import Bounds, Scope
from tests.e2e.test_keys import Keys
from tests.harness import Agentd
from tests.harness.server import PATIENCE


def graph(name: str) -> dict[str, Any]:
    """A graph whose agent says that it is called so."""
    node = {"type": "extension", "name": "agent", "addon": "friday", "property": {"name": name.title()}}
    return {"name": name, "graph": {"nodes": [node]}}


GRAPHS = [graph("friday"), graph("freya")]


async def ask(agentd: Agentd, key: str, question: str, conversation: str | None = None, **more: Any) -> dict[str, Any]:
    body = {"question": question, "api_key": key, "conversation_id": conversation, **more}
    return await agentd.request("POST", "/api/answer", json=body)


async def test_two_agents_of_one_user_go_on_with_a_conversation(agentd: Agentd) -> None:
    keys = Keys(agentd)
    for name, user in (("friday", "ada"), ("freya", "ada"), ("freya", "eve")):
        keys.add(user=user, graph=name)
    friday, freya, eve = keys.made
    await agentd.start(graphs=GRAPHS)
    told = await ask(agentd, friday, "My name is Ada.")
    conversation = told["conversation_id"]
    told = await ask(agentd, freya, "Who are you, and what is my name?", conversation)
    assert told["conversation_id"] == conversation
    assert "Freya" in told["answer"]
    assert "Ada" in told["answer"]
    moved = await agentd.event("channel.stopping", lambda event: event["cause"] == "session_moved")
    assert moved["channel"].startswith("ada/session-")
    told = await ask(agentd, friday, "Who are you, and what is my name?", conversation)
    assert "Friday" in told["answer"]
    assert "Ada" in told["answer"]
    refused = await ask(agentd, eve, "What is my name?", conversation)
    assert (refused["status"], refused["error"]) == (400, "Conversation not found")
    workers = [event for event in agentd.events if event["event"] == "channel.ready"]
    assert [event["graph"] for event in workers] == ["friday", "freya", "friday"], (
        "nobody has a worker started for naught"
    )


async def test_turns_for_two_graphs_at_once_take_turns(agentd: Agentd) -> None:
    keys = Keys(agentd)
    for name in ("friday", "freya"):
        keys.add(user="ada", graph=name)
    await agentd.start(graphs=GRAPHS)
    conversation = (await ask(agentd, keys.made[0], "My name is Ada."))["conversation_id"]
    asked = [
        ask(agentd, keys.made[number % 2], "Who are you, and what is my name?", conversation) for number in range(8)
    ]
    answers = await asyncio.gather(*asked)
    for number, told in enumerate(answers):
        assert ("Friday", "Freya")[number % 2] in told["answer"], answers
        assert "Ada" in told["answer"]


async def test_an_agent_forgets_what_was_taken_back(agentd: Agentd) -> None:
    keys = Keys(agentd)
    keys.add(user="ada", graph="friday")
    [key] = keys.made
    await agentd.start(graphs=GRAPHS)
    conversation = (await ask(agentd, key, "My name is Ada."))["conversation_id"]
    assert "Ada" in (await ask(agentd, key, "What is my name?", conversation))["answer"]
    body = {"question": "What is my name?", "api_key": key, "conversation_id": conversation, "index": 0}
    async with aiohttp.request("POST", f"{agentd.address}/stream", json=body) as response:
        told = await response.text()
    assert "I do not know your name" in "".join(re.findall(r'"answer": "([^"]*)"', told))
    assert "Ada" not in (await ask(agentd, key, "What is my name?", conversation))["answer"]
    workers = [event for event in agentd.events if event["event"] == "channel.ready"]
    assert len(workers) == 1, "it is the worker that knew"


SHORT = {"AGENTD_HISTORY_MESSAGES": "1"}  # so that a name is known by the state alone


async def test_a_turn_that_could_not_be_changes_no_state(agentd: Agentd) -> None:
    keys = Keys(agentd)
    keys.add(user="ada", graph="friday")
    headers = keys.add(Scope.TURNS, Scope.CONTROL, user="ada", graph="freya", bounds=Bounds(channels=1))
    friday, freya = keys.made
    await agentd.start(graphs=GRAPHS, **SHORT)
    conversation = (await ask(agentd, friday, "My name is Ada."))["conversation_id"]
    await agentd.request("POST", "/channels", json={"name": "x", "graph": "freya"}, headers=headers)
    assert (await ask(agentd, freya, "What is my name?", conversation))["status"] == 429
    assert "Ada" in (await ask(agentd, friday, "What is my name?", conversation))["answer"], "it lost its state"
    assert (await ask(agentd, freya, "What is my name?", conversation))["status"] == 429
    await agentd.request("DELETE", "/channels/x", headers=headers)
    told = await ask(agentd, freya, "What is my name?", conversation)
    assert told["answer"] == "I do not know your name: you have not told me.", "it has another agent's state"


async def test_an_edit_that_fails_changes_no_state(agentd: Agentd) -> None:
    keys = Keys(agentd)
    keys.add(user="ada", graph="friday")
    [key] = keys.made
    await agentd.start(graphs=GRAPHS, **SHORT)
    conversation = (await ask(agentd, key, "My name is Ada."))["conversation_id"]
    body = {"question": "My name is Eve.", "api_key": key, "conversation_id": conversation, "index": 0}
    async with aiohttp.request(
        "POST", f"{agentd.address}/stream", json=body | {"passthrough": {"pace_ms": -1}}
    ) as told:
        assert '"type": "error"' in await told.text()
    assert "Your name is Ada." in (await ask(agentd, key, "What is my name?", conversation))["answer"]


async def test_keys_without_a_user_have_each_their_own(agentd: Agentd) -> None:
    keys = Keys(agentd)
    for _ in range(2):
        keys.add(graph="friday")
    one, other = keys.made
    await agentd.start(graphs=GRAPHS)
    conversation = (await ask(agentd, one, "My name is Ada."))["conversation_id"]
    assert "Ada" in (await ask(agentd, one, "What is my name?", conversation))["answer"]
    assert (await ask(agentd, other, "What is my name?", conversation))["status"] == 400
    form = aiohttp.FormData({"api_key": one})
    form.add_field("file", b"Rooms are free.", filename="rooms.txt")
    stored = await agentd.request("POST", "/api/store_attachment", data=form)
    async with asyncio.timeout(PATIENCE):
        while (await agentd.get(f"/api/task_status?task_id={stored['task_id']}"))["status"] != "SUCCESS":
            await asyncio.sleep(0.02)
    files = [stored["attachment_id"]]
    assert "rooms.txt" in (await ask(agentd, one, "What does the file say?", attachments=files))["answer"]
    assert "rooms.txt" not in (await ask(agentd, other, "What does the file say?", attachments=files))["answer"]
