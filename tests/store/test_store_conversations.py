"""Conversations and turns, on both databases."""

import asyncio
import math
import time

import pytest

from supervisor.causes import EXPLANATIONS, Cause
from supervisor.store.errors import StoreError
from supervisor.store.records import Conversation, ConversationKey
from supervisor.store.store import Store
from supervisor.store.texts import ANSWER_BYTES, QUESTION_BYTES, TURN_BYTES, size, to_json
from tests.harness.records import KEY, begun, ended, say
from tests.store.conftest import MakeStore

HOSTILE = [
    "'; DROP TABLE turns; --",
    "$1 ? :name %s {x} \\",
    "a\0b",
    "\ud800\udfff",
    "x" * 10_000,
    "🎉" * 10_000,
    "",
    "\r\n\t\x1b[2J",
]


async def test_a_new_conversation_is_empty(store: Store) -> None:
    assert await store.load(KEY) == Conversation([], {}, 0)
    assert await store.conversation(KEY) == []
    assert await store.turn("nobody") is None


async def test_a_turn_from_begin_to_end(store: Store) -> None:
    first = begun(
        text="what is this?", attachments=[{"id": "f1", "name": "a.png", "mime_type": "image/png"}], source="openai"
    )
    await store.begin_turn(first)
    row = await store.turn(first.id)
    assert row is not None
    assert (row.ended_at, row.cause, row.text, row.ms, row.has_value) == (None, None, "", None, False)
    assert (row.messages, row.attachments) == (first.messages, first.attachments)
    assert await store.load(KEY) == Conversation([], {}, 1, "friday")

    call = {"id": "c1", "name": "look", "arguments": {"at": "f1"}, "output": [1, None], "failed": False, "ms": 2.5}
    last = ended(
        first.id,
        "a cat",
        thoughts="hm",
        tool_calls=[call],
        sources=[{"title": "t", "text": "x", "source": "s"}],
        usage={"input_tokens": 3},
        structured={"value": {"cat": True}, "schema": None},
        value=None,
        has_value=True,
        detail="all well",
        state={"name": "Ada"},
    )
    await store.end_turn(last)
    row = await store.turn(first.id)
    assert row is not None
    assert (row.graph, row.user, row.session, row.channel, row.kind) == ("friday", "ada", "s1", "abc-1", "chat")
    assert (row.source, row.instance, row.begun_at, row.ended_at) == ("openai", "i1", first.begun_at, last.ended_at)
    assert (row.cause, row.detail, row.ms, row.text, row.thoughts) == ("completed", "all well", 1.5, "a cat", "hm")
    assert (row.tool_calls, row.sources, row.usage) == ([call], last.sources, {"input_tokens": 3})
    assert (row.structured, row.value, row.has_value) == (last.structured, None, True)
    history = [{"role": "user", "content": "what is this?"}, {"role": "assistant", "content": "a cat"}]
    assert await store.load(KEY) == Conversation(history, {"name": "Ada"}, 1, "friday")


async def test_it_is_there_when_the_store_is_opened_again(make: MakeStore, url: str) -> None:
    first = await make(url)
    await say(first, "I am Ada", "Hello Ada", state={"name": "Ada"})
    await first.close()
    second = await make(url, instance="i2")
    conversation = await second.load(KEY)
    assert [message["content"] for message in conversation.history] == ["I am Ada", "Hello Ada"]
    assert conversation.state == {"name": "Ada"}


async def test_conversations_are_told_apart_by_graph_user_and_session(store: Store) -> None:
    keys = [KEY, ConversationKey("echo", "ada", "s1"), ConversationKey("friday", "bob", "s1")]
    keys += [ConversationKey("friday", "ada", "s2"), ConversationKey("friday", "ad", "as1")]
    for number, key in enumerate(keys):
        await say(store, f"question {number}", f"answer {number}", key, state={"n": number})
    for number, key in enumerate(keys):
        conversation = await store.load(key)
        assert [message["content"] for message in conversation.history] == [f"question {number}", f"answer {number}"]
        assert (conversation.state, conversation.turns) == ({"n": number}, 1)


def said(count: int, size: int = 1) -> list[dict[str, object]]:
    """Messages of an earlier conversation, each with a number and so many more bytes."""
    return [
        {"role": "assistant" if n % 2 else "user", "content": f"{n}".ljust(size, "."), "n": n} for n in range(count)
    ]


async def test_messages_are_remembered_as_they_came(store: Store) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "free"},
        {"role": "user", "content": "and now?", "name": "ada"},
    ]
    turn = begun(messages=messages)
    await store.begin_turn(turn)
    await store.end_turn(ended(turn.id, "still free"))
    assert (await store.load(KEY)).history == [*messages, {"role": "assistant", "content": "still free"}]


async def test_what_was_said_before_the_first_turn_comes_first(store: Store) -> None:
    earlier = [*said(2), {"role": "user", "content": "\ud800", "big": 2**70}]
    record = begun(earlier=earlier)
    await store.begin_turn(record)
    assert (await store.load(KEY)).history == []
    await store.end_turn(ended(record.id))
    await say(store, "and?", "so")
    row = await store.turn(record.id)
    assert row is not None
    assert (row.messages, len(row.earlier)) == (record.messages, 3)
    assert [row.earlier for row in await store.conversation(KEY)] == [[], row.earlier]
    history = (await store.load(KEY)).history
    assert history[:2] == earlier[:2]
    assert history[2] == {"role": "user", "content": "\N{REPLACEMENT CHARACTER}", "big": 2**70}
    assert [message["content"] for message in history[3:]] == ["hello", "hi", "and?", "so"]


@pytest.mark.parametrize("failed", [True, False])
async def test_what_was_said_before_a_turn_without_an_answer_is_forgotten(store: Store, failed: bool) -> None:
    record = begun(earlier=said(2))
    await store.begin_turn(record)
    await store.end_turn(ended(record.id, "" if failed else "hi", cause="agent_error"))
    assert bool((await store.load(KEY)).history) is not failed


async def test_of_what_was_said_before_the_newest_is_kept(make: MakeStore, url: str) -> None:
    store = await make(url, history_messages=6, history_bytes=1000)
    record = begun(earlier=said(8, 50))
    await store.begin_turn(record)
    await store.end_turn(ended(record.id))

    async def numbers() -> list[object]:
        return [message.get("n") for message in (await store.load(KEY)).history]

    assert await numbers() == [4, 5, 6, 7, None, None]
    await say(store, "a", "b")
    assert await numbers() == [6, 7, None, None, None, None], "of as many messages as are allowed"
    await say(store, "x" * 400, "y" * 400)
    assert (await numbers())[0] is None, "of as many bytes as are allowed"


async def test_the_question_has_room_before_what_was_said_earlier(store: Store) -> None:
    long = "x" * (QUESTION_BYTES // 2)
    record = begun(text=long, earlier=said(100, 10_000))
    await store.begin_turn(record)
    await store.end_turn(ended(record.id))
    row = await store.turn(record.id)
    assert row is not None
    assert row.messages == record.messages
    assert row.earlier == record.earlier[-len(row.earlier) :]
    assert QUESTION_BYTES // 2 - 20_000 < size(to_json(row.earlier)) < QUESTION_BYTES // 2
    record = begun(messages=[{"role": "user", "content": "x" * 1000}] * 2000, earlier=said(1))
    await store.begin_turn(record)
    row = await store.turn(record.id)
    assert row is not None
    assert (row.earlier, row.messages[0]) == ([], record.messages[0])


async def test_a_turn_without_a_session_belongs_to_no_conversation(store: Store) -> None:
    record = begun(None)
    await store.begin_turn(record)
    await store.end_turn(ended(record.id, "yes", state={"lost": True}))
    row = await store.turn(record.id)
    assert row is not None
    assert (row.session, row.graph, row.text) == (None, "friday", "yes")
    assert await store.conversation(ConversationKey("friday", "ada", "")) == []


async def test_an_invoke_is_on_record_but_not_in_the_history(store: Store) -> None:
    record = begun(kind="invoke", messages=[], input={"a": 1})
    await store.begin_turn(record)
    await store.end_turn(ended(record.id, "", value={"sum": 3}, has_value=True))
    row = await store.turn(record.id)
    assert row is not None
    assert (row.kind, row.input, row.value, row.messages) == ("invoke", {"a": 1}, {"sum": 3}, [])
    assert (await store.load(KEY)).history == []


@pytest.mark.parametrize(
    ("ending", "answer"),
    [
        ({"text": "half an ans", "cause": "turn_cancelled"}, "half an ans"),
        ({"text": "", "cause": "agent_error"}, None),
        ({"text": "", "cause": "completed"}, None),
        ({"text": "", "value": "said at once", "has_value": True}, "said at once"),
        ({"text": "", "value": {"a": [1]}, "has_value": True}, '{"a":[1]}'),
        ({"text": "", "value": {"a": [1]}, "has_value": True, "cause": "agent_error"}, None),
    ],
)
async def test_what_a_history_remembers_of_a_turn(store: Store, ending: dict[str, object], answer: str | None) -> None:
    record = begun(messages=[{"role": "system", "content": "be brief"}, {"role": "user", "content": "well?"}])
    await store.begin_turn(record)
    await store.end_turn(ended(record.id, **ending))
    expected = [{"role": "user", "content": "well?"}, {"role": "assistant", "content": answer}] if answer else []
    assert (await store.load(KEY)).history == expected


async def test_a_history_is_bounded_by_messages(make: MakeStore, url: str) -> None:
    store = await make(url, history_messages=5)
    for number in range(4):
        await say(store, f"q{number}", f"a{number}")
    assert [message["content"] for message in (await store.load(KEY)).history] == ["q2", "a2", "q3", "a3"]
    many = begun(messages=[{"role": "user", "content": str(n)} for n in range(9)])
    await store.begin_turn(many)
    await store.end_turn(ended(many.id, "done"))
    assert [message["content"] for message in (await store.load(KEY)).history] == ["5", "6", "7", "8", "done"]


async def test_a_history_is_bounded_by_bytes(make: MakeStore, url: str) -> None:
    store = await make(url, history_bytes=4000)
    for number in range(5):
        await say(store, f"q{number}", "x" * 1500)
    assert [message["content"][:2] for message in (await store.load(KEY)).history] == ["q3", "xx", "q4", "xx"]
    await say(store, "and now", "y" * 100_000)
    history = (await store.load(KEY)).history
    assert [message["content"][:3] for message in history] == ["and", "yyy"]
    assert "[cut: " in history[1]["content"]
    assert size(to_json(history)) <= 4000


async def test_a_page_is_bounded_by_bytes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.store.conversations.PAGE_BYTES", 2500)
    ids = [await say(store, "q", "x" * 1000) for _ in range(5)]
    seen: list[str] = []
    before = None
    while page := await store.conversation(KEY, limit=10, before=before):
        assert len(page) <= 2
        seen += [row.id for row in page]
        before = page[-1].number
    assert seen == ids[::-1]


async def test_pages_of_a_conversation(store: Store) -> None:
    ids = [await say(store, str(n), "a") for n in range(7)]
    await say(store, "another's", "a", ConversationKey("friday", "bob", "s1"))
    first = await store.conversation(KEY, limit=3)
    second = await store.conversation(KEY, limit=3, before=first[-1].number)
    third = await store.conversation(KEY, limit=3, before=second[-1].number)
    assert [row.id for row in (*first, *second, *third)] == ids[::-1]
    assert await store.conversation(KEY, limit=3, before=third[-1].number) == []
    assert len(await store.conversation(KEY, limit=0)) == 1


async def test_forgetting(store: Store) -> None:
    running = begun()
    turn = await say(store, "I am Ada", "Hello", state={"name": "Ada"})
    other = ConversationKey("friday", "bob", "s1")
    await say(store, "mine", "yours", other)
    await store.begin_turn(running)
    assert await store.forget(KEY)
    assert not await store.forget(KEY)
    await store.end_turn(ended(running.id, "too late", state={"name": "back"}))  # it does not come back
    assert (await store.load(KEY), await store.conversation(KEY), await store.turn(turn)) == (Conversation(), [], None)
    assert (await store.load(other)).turns == 1
    assert (store.healthy, store.lost) == (True, 0)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
async def test_hostile_text_everywhere(store: Store, text: str) -> None:
    key = ConversationKey(f"g{text}", f"u{text}", f"s{text}")
    record = begun(
        key,
        text,
        id=f"t{text}-{time.monotonic_ns()}",
        channel=text,
        source=text,
        input={text: text},
        attachments=[{"id": text, "name": text}],
    )
    await store.begin_turn(record)
    await store.end_turn(
        ended(
            record.id,
            text,
            detail=text,
            thoughts=text,
            tool_calls=[{text: text}],
            sources=[{"text": text}],
            usage={text: 1},
            structured=text,
            value=text,
            has_value=True,
            state={text: text},
        )
    )
    row = await store.turn(record.id)
    assert row is not None
    assert row.cause == "completed"
    assert row.text == row.text.encode().decode()
    expected = "".join("\ufffd" if char == "\0" or "\ud800" <= char <= "\udfff" else char for char in text)
    assert (row.text, row.thoughts) == (expected, expected)
    assert len((await store.load(key)).state) == 1
    assert [found.id for found in await store.conversation(key)] == [row.id]
    assert await store.forget(key)


@pytest.mark.parametrize(
    ("value", "stored"),
    [(2**63, 2**63), (-(10**40), -(10**40)), ([math.nan, math.inf], [None, None]), (1e308, 1e308), ("\0", "\0")],
)
async def test_hostile_values(store: Store, value: object, stored: object) -> None:
    turn = await say(store, "q", "a", value=value, has_value=True, structured={"v": value}, state={"v": value})
    row = await store.turn(turn)
    assert row is not None
    assert (row.value, row.structured) == (stored, {"v": stored})
    assert (await store.load(KEY)).state == {"v": stored}


async def test_hostile_numbers(store: Store) -> None:
    record = begun(begun_at=math.inf)
    await store.begin_turn(record)
    await store.end_turn(ended(record.id, ms=math.nan, ended_at=1e308))
    row = await store.turn(record.id)
    assert row is not None
    assert row.text == "hi"


async def test_what_one_turn_may_take_is_bounded(store: Store) -> None:
    large = "x" * (6 * 1024 * 1024)
    record = begun(text=large, input={"a": large})
    await store.begin_turn(record)
    outputs = [{"id": str(n), "name": "t", "output": large} for n in range(3)]
    await store.end_turn(
        ended(record.id, "y" * (2 * 1024 * 1024), thoughts=large, tool_calls=outputs, detail=large, value=large,
              has_value=True)
    )  # fmt: skip
    row = await store.turn(record.id)
    assert row is not None
    assert row.text == "y" * (2 * 1024 * 1024)
    assert "[cut: 6291456 bytes" in row.messages[0]["content"]
    assert "[cut: " in row.thoughts
    parts = (row.messages, row.input, row.value, row.tool_calls)
    stored = sum(size(to_json(part)) for part in parts) + size(row.text) + size(row.thoughts) + size(row.detail)
    assert stored <= TURN_BYTES
    assert QUESTION_BYTES + ANSWER_BYTES == TURN_BYTES


async def test_a_state_that_is_too_large_leaves_the_one_before(store: Store) -> None:
    await say(store, "q", "a", state={"kept": True})
    await say(store, "q", "a", state={"large": "x" * 300_000})
    conversation = await store.load(KEY)
    assert (conversation.state, conversation.turns) == ({"kept": True}, 2)
    await say(store, "q", "a", state={})
    assert (await store.load(KEY)).state == {}


async def test_a_turn_does_not_begin_twice(store: Store) -> None:
    record = begun()
    await store.begin_turn(record)
    with pytest.raises(StoreError, match="does not take it"):
        await store.begin_turn(record)
    assert (store.healthy, (await store.load(KEY)).turns) == (True, 1)


async def test_the_first_ending_counts(store: Store) -> None:
    turn = await say(store, "q", "first")
    await store.end_turn(ended(turn, "second", cause="turn_cancelled"))
    await store.end_turn(ended("nobody's", "x", state={"x": 1}))
    row = await store.turn(turn)
    assert row is not None
    assert (row.text, row.cause, store.lost) == ("first", "completed", 0)


async def test_200_turns_at_once(store: Store) -> None:
    async def one(number: int) -> None:
        key = ConversationKey("friday", f"user {number % 50}", "s1")
        record = begun(key, f"q{number}")
        await store.begin_turn(record)
        await store.end_turn(ended(record.id, f"a{number}", state={"last": number}))

    await asyncio.gather(*(one(number) for number in range(200)))
    for user in range(50):
        conversation = await store.load(ConversationKey("friday", f"user {user}", "s1"))
        said = [message["content"] for message in conversation.history]
        assert (conversation.turns, len(said)) == (4, 8)
        assert sorted(said) == sorted(f"{kind}{n}" for n in range(user, 200, 50) for kind in "aq")
    assert (store.details()["waiting"], store.lost) == (0, 0)


async def test_a_beginning_that_is_cancelled_leaves_no_open_turn(store: Store) -> None:
    records = [begun() for _ in range(20)]
    tasks = [asyncio.create_task(store.begin_turn(record)) for record in records]
    for steps in range(20):  # at every point it can be at
        await asyncio.sleep(0)
        tasks[steps].cancel()
    await asyncio.wait(tasks)
    await store.flush()
    rows = [await store.turn(record.id) for record in records]
    for task, row in zip(tasks, rows, strict=True):
        assert row is None or (row.cause == (Cause.TURN_CANCELLED if task.cancelled() else None))


async def test_what_a_server_left_open_is_closed(make: MakeStore, url: str) -> None:
    first = await make(url)
    done = await say(first, "q", "a")
    record = begun()
    await first.begin_turn(record)
    await first.close()
    second = await make(url)
    row = await second.turn(record.id)
    assert row is not None
    assert (row.cause, row.detail) == ("server_lost", EXPLANATIONS[Cause.SERVER_LOST].message)
    assert row.ended_at is not None
    finished = await second.turn(done)
    assert finished is not None
    assert finished.cause == "completed"
    assert [message["content"] for message in (await second.load(KEY)).history] == ["q", "a"]


async def test_old_turns_and_conversations_go(make: MakeStore, url: str) -> None:
    store = await make(url, store_keep_days=10)
    now = time.time()
    old, unused = now - 11 * 86_400, ConversationKey("friday", "eve", "s1")
    gone = [begun(begun_at=old), begun(unused, begun_at=old)]
    kept = begun(begun_at=now - 9 * 86_400)
    for record in (*gone, kept):
        await store.begin_turn(record)
        await store.end_turn(ended(record.id, state={"a": 1}))
    assert await store.prune() == {"turns": 2, "conversations": 1, "responses": 0, "ledger": 0}
    assert [await store.turn(record.id) for record in gone] == [None, None]
    assert await store.turn(kept.id) is not None
    assert await store.load(unused) == Conversation()
    assert (await store.load(KEY)).state == {"a": 1}  # the conversation goes on
    assert await store.prune() == {"turns": 0, "conversations": 0, "responses": 0, "ledger": 0}


async def test_many_old_turns_go_in_batches(make: MakeStore, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.store.retention.BATCH", 7)
    monkeypatch.setattr("supervisor.store.retention.PAUSE_SECONDS", 0.0)
    store = await make(url, store_keep_days=1)
    await asyncio.gather(*(store.begin_turn(begun(begun_at=1000.0 + n)) for n in range(50)))
    assert await store.prune() == {"turns": 50, "conversations": 1, "responses": 0, "ledger": 0}


async def test_nothing_goes_when_it_is_kept_for_ever(make: MakeStore, url: str) -> None:
    store = await make(url, store_keep_days=0, ledger_keep_days=0)
    record = begun(begun_at=1.0)
    await store.begin_turn(record)
    assert await store.prune() == {"turns": 0, "conversations": 0, "responses": 0, "ledger": 0}
    assert await store.turn(record.id) is not None


async def test_a_store_that_is_not_open_says_so(url: str) -> None:
    store = Store(url, instance="i1")
    for call in (store.begin_turn(begun()), store.load(KEY), store.turn("x"), store.forget(KEY), store.ledger()):
        with pytest.raises(StoreError, match="not open"):
            await call
    await store.end_turn(ended("x"))
    assert store.lost == 1
    await store.close()


async def test_reads_that_are_cancelled_leave_nothing(store: Store) -> None:
    await say(store, "q", "a")
    for steps in range(40):
        task = asyncio.create_task(store.load(KEY))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
    assert (await store.load(KEY)).turns == 1
    assert store.healthy
