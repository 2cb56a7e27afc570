"""Conversations that are their user's, whichever graph answers: the worker changes, what was said stays."""

import asyncio
from typing import Any

from tests.e2e.test_keys import Keys
from tests.harness import Agentd


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
