"""Conversations that several graphs share, and turns that take the place of others, on both databases."""

from typing import Any

import pytest

from supervisor.store.records import ConversationKey
from supervisor.store.store import Store
from tests.harness.records import begun, ended

KEY = ConversationKey("", "ada", "s1")


async def say(store: Store, text: str, answer: str, graph: str = "friday", **fields: Any) -> str:
    record = begun(KEY, text, graph=graph, shared=True, earlier=fields.pop("earlier", []))
    await store.begin_turn(record)
    await store.end_turn(ended(record.id, answer, **fields))
    return record.id


async def said(store: Store, before: int | None = None) -> list[str]:
    return [message["content"] for message in (await store.load(KEY, before)).history]


async def test_a_conversation_of_several_graphs_is_one(store: Store) -> None:
    await say(store, "one", "1", "friday", state={"a": 1})
    await say(store, "two", "2", "echo")
    conversation = await store.load(KEY)
    assert [message["content"] for message in conversation.history] == ["one", "1", "two", "2"]
    assert (conversation.turns, conversation.graph, conversation.state) == (2, "friday", {"a": 1})  # whose state it is
    await say(store, "three", "3", "echo", state={"b": 2})
    conversation = await store.load(KEY)
    assert (conversation.turns, conversation.graph, conversation.state) == (3, "echo", {"b": 2})
    await store.begin_turn(begun(KEY, "four", graph="friday", shared=True))  # one that never runs
    assert (await store.load(KEY)).graph == "echo"
    assert [row.graph for row in await store.conversation(KEY)] == ["friday", "echo", "echo", "friday"]
    for graph in ("friday", "echo"):
        assert (await store.load(ConversationKey(graph, "ada", "s1"))).turns == 0


async def test_read_up_to_a_turn(store: Store) -> None:
    earlier = [{"role": "user", "content": "before"}, {"role": "assistant", "content": "it"}]
    await say(store, "one", "1", earlier=earlier, state={"a": 1})
    await say(store, "lost", "")  # without an answer it has no place
    await say(store, "two", "2")
    await say(store, "three", "3")
    assert await said(store) == ["before", "it", "one", "1", "two", "2", "three", "3"]
    assert await said(store, 1) == ["before", "it", "one", "1"]
    assert await said(store, 2) == ["before", "it", "one", "1", "two", "2"]
    first = await store.load(KEY, 0)
    assert (first.history, first.earlier, first.state) == ([], earlier, {})
    for beyond in (3, 4, 10**6, 2**31, 10**30):
        whole = await store.load(KEY, beyond)
        assert (whole.first, whole.state, len(whole.history)) == (None, {"a": 1}, 8), beyond


async def test_a_turn_takes_the_place_of_others(store: Store) -> None:
    for number in range(4):
        await say(store, f"q{number}", f"a{number}")
    first = (await store.load(KEY, 1)).first
    await say(store, "again", "A", first=first, state={})
    assert await said(store) == ["q0", "a0", "again", "A"]
    await say(store, "on", "B")
    assert await said(store) == ["q0", "a0", "again", "A", "on", "B"]
    assert len(await store.conversation(KEY)) == 3


@pytest.mark.parametrize("fields", [{"cause": "crashed"}, {"cause": "completed"}])
async def test_one_without_an_answer_takes_no_place(store: Store, fields: dict[str, Any]) -> None:
    for number in range(2):
        await say(store, f"q{number}", f"a{number}")
    first = (await store.load(KEY, 0)).first
    await say(store, "again", "", first=first, **fields)
    assert await said(store) == ["q0", "a0", "q1", "a1"]


async def test_half_an_answer_takes_the_place(store: Store) -> None:
    await say(store, "q0", "a0")
    first = (await store.load(KEY, 0)).first
    await say(store, "again", "ha", first=first, cause="client_gone")
    assert await said(store) == ["again", "ha"]


async def test_other_conversations_are_left_alone(store: Store) -> None:
    other = ConversationKey("", "bob", "s1")
    record = begun(other, "mine", shared=True)
    await store.begin_turn(record)
    await store.end_turn(ended(record.id, "yes"))
    await say(store, "q0", "a0")
    first = (await store.load(KEY, 0)).first
    await say(store, "again", "A", first=first)
    assert [message["content"] for message in (await store.load(other)).history] == ["mine", "yes"]
