"""Text on its way into frames: mended, cut, bounded. Pure."""

from collections.abc import Iterator
from typing import Final

import orjson

MOST_ESCAPED: Final = 6  # bytes of JSON for one character: a control character, as \\u0000
BRIEF_CHARACTERS: Final = 2000


def mend(text: str) -> str:
    """The text without lone surrogates, which UTF-8 cannot hold: each becomes U+FFFD, a pair its character."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def split(text: str, most: int) -> Iterator[str]:
    """The text, which holds no lone surrogate, in pieces of at most `most` bytes of JSON, cut between characters.

    `most` is at least 8, so that every character fits with its quotes.
    """
    if len(text) * MOST_ESCAPED + 2 <= most or len(orjson.dumps(text)) <= most:
        yield text
    else:
        half = len(text) // 2
        yield from split(text[:half], most)
        yield from split(text[half:], most)


def brief(text: str) -> str:
    """Text that fits a frame: bounded, and with "?" for the lone surrogates that a file name may hold."""
    return text[:BRIEF_CHARACTERS].encode(errors="replace").decode()


def said(error: BaseException) -> str:
    """What an exception says, bounded; its class when it says nothing or cannot."""
    try:
        return brief(str(error)) or type(error).__name__
    except Exception:  # noqa: BLE001 - its own __str__ raises whatever it likes
        return type(error).__name__
