"""The text of HTML files, without scripts and styles."""

import codecs
import re
import warnings
from typing import IO, Final

from bs4 import BeautifulSoup

from worker.reader.plain import beginning, decoded, is_binary

MOST_BYTES: Final = 4 * 1024 * 1024  # a tree takes many times the memory of its text
SILENT: Final = ("script", "style", "noscript", "template", "svg")

_CHARSET: Final = re.compile(rb"""<meta[^>]{0,200}charset\s*=\s*["']?\s*([A-Za-z0-9_:.-]{1,40})""", re.IGNORECASE)
_SPACES: Final = re.compile(r"[^\S\n]+")


def read_html(file: IO[bytes], most: int) -> str | None:
    """At most `most` characters, None when it is no text. Raises MemoryError."""
    data, whole = beginning(file, MOST_BYTES)
    if is_binary(data):
        return None
    warnings.simplefilter("ignore")  # of what looks like a file name, or like XML
    try:
        soup = BeautifulSoup(decoded(data, _declared(data), whole=whole), "lxml")
        for tag in soup(SILENT):
            tag.decompose()
        text = soup.get_text("\n")
    except (RecursionError, ValueError, TypeError, AssertionError, LookupError):  # its nesting, its names
        return None
    lines = (_SPACES.sub(" ", line).strip() for line in text.splitlines())
    return "\n".join(filter(None, lines))[:most]


def _declared(data: bytes) -> str:
    found = _CHARSET.search(data[:4096])
    name = found[1].decode() if found else ""
    try:
        return codecs.lookup(name).name if name else ""
    except LookupError:
        return ""
