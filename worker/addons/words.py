"""Text cut into the pieces that a demo agent streams. Pure."""

import re
from collections.abc import Iterator
from typing import Final

MOST_CHARACTERS: Final = 1024  # of a piece: at most 12 KiB as JSON in ASCII

# A word with the white space around it; Chinese characters and Japanese syllables stand without white space, so each
# is a word of its own.
_ALONE: Final = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD: Final = re.compile(rf"\s*(?:[{_ALONE}]|[^\s{_ALONE}]+)\s*|\s+")


def words(text: str) -> Iterator[str]:
    """The words of a text, each with its white space: joined they are the text exactly. A long one comes in parts."""
    for match in _WORD.finditer(text):
        word = match.group()
        for start in range(0, len(word), MOST_CHARACTERS):
            yield word[start : start + MOST_CHARACTERS]


def first_words(text: str, count: int, characters: int) -> str:
    """The first words of a text on one line, within so many characters; an ellipsis stands for what is left out."""
    start = text[: characters * 4].lstrip()[: characters + 1]  # white space must not hide the words behind it
    found = start.split(maxsplit=count)
    shown = " ".join(found[:count])[:characters].rstrip()
    whole = len(found) <= count and len(start) <= characters and len(text) <= characters * 4
    return shown if whole else f"{shown}..."
