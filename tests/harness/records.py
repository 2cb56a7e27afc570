"""Records for a store, filled in but for what a test is about."""

import time
from itertools import count
from typing import Any

from supervisor.store.records import ChannelClaimed, ConversationKey, TurnBegun, TurnEnded
from supervisor.store.store import Store

KEY = ConversationKey("friday", "ada", "s1")

_numbers = count(1)


def begun(key: ConversationKey | None = KEY, text: str = "hello", **fields: Any) -> TurnBegun:
    return TurnBegun(
        **{
            "id": f"turn-{next(_numbers)}",
            "graph": key.graph if key else "friday",
            "user": key.user if key else "ada",
            "session": key.session if key else None,
            "channel": "abc-1",
            "kind": "chat",
            "source": "native",
            "begun_at": time.time(),
            "messages": [{"role": "user", "content": text}],
            **fields,
        }
    )


def ended(turn_id: str, text: str = "hi", **fields: Any) -> TurnEnded:
    return TurnEnded(
        **{"id": turn_id, "ended_at": time.time(), "cause": "completed", "text": text, "ms": 1.5, **fields}
    )


async def say(store: Store, text: str, answer: str, key: ConversationKey = KEY, **fields: Any) -> str:
    """A whole turn; its id."""
    record = begun(key, text)
    await store.begin_turn(record)
    await store.end_turn(ended(record.id, answer, **fields))
    return record.id


def claimed(channel: str, name: str = "lobby", at: float | None = None, **fields: Any) -> ChannelClaimed:
    given = {"graph": "friday", "user": "ada", "session": "s1", "source": "native", **fields}
    return ChannelClaimed(channel, time.time() if at is None else at, name, **given)
