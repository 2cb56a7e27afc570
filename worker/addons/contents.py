"""What a user's message holds, for the demo agents. Pure."""

import json
from collections.abc import Iterable, Mapping
from typing import Any


def asked(messages: Iterable[Mapping[str, Any]]) -> Any:
    """The content of the user's last message, as it came; None when there is none."""
    found = (message.get("content") for message in reversed([*messages]) if message.get("role", "user") == "user")
    return next(found, None)


def exact_text(content: Any) -> str:
    """A message's content as text that leaves nothing out if it can be helped.

    A string is itself. Of a list with text parts these are joined without separators; images and the like have no place
    in a text. Anything else is its JSON text, nothing at all the empty text.
    """
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = [part["text"] for part in content if isinstance(part, Mapping) and isinstance(part.get("text"), str)]
        if texts or not content:
            return "".join(texts)
    return "" if content is None else json.dumps(content, ensure_ascii=False, separators=(",", ":"))
