"""Text files, decoded leniently, but never what is no text."""

import codecs
from typing import IO, Final

BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark is the beginning of this one
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
MOST_CONTROLS: Final = 0.02  # of all characters; logs have some, for colours
ALLOWED: Final = frozenset(map(ord, "\t\n\r\f\v\b\x1b\x85"))
CONTROLS: Final = dict.fromkeys([code for code in (*range(32), 127) if code not in ALLOWED])


def read_text(file: IO[bytes], most: int) -> str | None:
    """At most `most` characters of a text file, None when it is none."""
    data, whole = beginning(file, 4 * most + 4)
    return None if is_binary(data) else decoded(data, whole=whole)[:most]


def read_unknown(file: IO[bytes], most: int) -> str | None:
    """The same of a file whose name does not say that it is text: only if it is UTF-8 without doubt."""
    data, whole = beginning(file, 4 * most + 4)
    if is_binary(data):
        return None
    try:
        return _decode(data, "utf-8", "strict", whole=whole).removeprefix("\ufeff")[:most]
    except UnicodeDecodeError:
        return None


def encoding_of(data: bytes) -> tuple[str, int]:
    """The encoding that a file's first bytes tell, "" if they tell none, and how many bytes do so."""
    return next(((name, len(mark)) for mark, name in BOMS if data.startswith(mark)), ("", 0))


def beginning(file: IO[bytes], most: int) -> tuple[bytes, bool]:
    """The first bytes of a file, at most so many, and whether that is all of it."""
    data = file.read(most)
    return data, len(data) < most


def decoded(data: bytes, declared: str = "", *, whole: bool) -> str:
    """The text: by its mark, as UTF-8, as `declared`, and where nothing fits with replacement characters.

    Unless it is the `whole` of it, it may end within a character.
    """
    encoding, skipped = encoding_of(data)
    if encoding:
        return _decode(data[skipped:], encoding, "replace", whole=whole)
    try:
        return _decode(data, "utf-8", "strict", whole=whole)
    except UnicodeDecodeError:
        return _decode(data, declared or "utf-8", "replace", whole=whole)


def is_binary(data: bytes) -> bool:
    """Whether these are not the first bytes of a text."""
    encoding, _ = encoding_of(data)
    if encoding not in ("", "utf-8"):
        return False
    if b"\0" in data:
        return True
    return len(data) - len(data.translate(None, bytes(CONTROLS))) > MOST_CONTROLS * len(data)


def _decode(data: bytes, encoding: str, errors: str, *, whole: bool) -> str:
    return codecs.getincrementaldecoder(encoding)(errors).decode(data, whole)
