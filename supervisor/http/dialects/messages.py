"""Where a turn begins in what a client says was said: one rule for all APIs. Pure.

Outputs of tools at the end of all are the turn. Otherwise it begins with the user's last message; outputs right before
that one belong to it, since the client answers the agent's calls and goes on in one breath. What is before is history.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

Message = dict[str, Any]  # as agents have it: role, content, and what belongs to calls


class Said(NamedTuple):
    """What was said before, what the turn is about, and what the agent is told besides."""

    history: list[Message]
    messages: list[Message]
    instructions: str | None


def beginning(messages: Sequence[Message]) -> int | None:
    """The index of the turn's first message; None when they ask nothing."""
    place = len(messages)
    if not _is_output(messages, place - 1):
        place = next((n for n in reversed(range(place)) if messages[n]["role"] == "user"), -1)
    if place < 0:
        return None
    while _is_output(messages, place - 1):
        place -= 1
    return place


def _is_output(messages: Sequence[Message], index: int) -> bool:
    return index >= 0 and messages[index]["role"] == "tool"
