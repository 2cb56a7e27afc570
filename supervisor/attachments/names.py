"""What uploaded files are called, which type they have, how they are read, and where they lie. Pure."""

import hashlib
import re
import unicodedata
from typing import Final

from supervisor.attachments.media import MEDIA_TYPES, READ_AS, TEXTS, UNKNOWN

MOST_NAME_BYTES: Final = 255
MOST_EXTENSION_BYTES: Final = 32  # what is longer is no extension but part of the name
TEXT_FILE: Final = ".text"  # no upload can have this name, for names lose their leading dots

_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# Besides joiners, which Persian, scripts of India and emoji need, all format characters are dropped: they deceive.
_JOINERS: Final = "\u200c\u200d"
_EDGES: Final = (
    ". \t\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000" + _JOINERS
)
# Controls, format characters (bidi overrides among them), lone surrogates, private ones, no characters, ends of lines.
_DROPPED: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_DEVICES: Final = re.compile(r"(?:con|prn|aux|nul|(?:com|lpt)[0-9\u00b9\u00b2\u00b3])", re.IGNORECASE)


def name_of(given: str, fallback: str) -> str:
    """A file name that is safe anywhere, out of what a client calls its file; `fallback` where nothing is left of it.

    That is its last part, without control characters and leading dots, of at most MOST_NAME_BYTES in UTF-8. The
    extension stays.
    """
    last = re.split(r"[/\\]", given)[-1]
    shown = "".join(letter for letter in last if letter in _JOINERS or unicodedata.category(letter) not in _DROPPED)
    stripped = shown.strip(_EDGES)
    if not stripped:
        return fallback
    if shown.lstrip(_EDGES) != shown and f".{stripped.lower()}" in MEDIA_TYPES:
        return f"{fallback}.{stripped}"  # nothing but an extension
    stem, extension = _parted(stripped)
    if _DEVICES.fullmatch(stripped.partition(".")[0].strip(_EDGES)):
        stem = f"_{stem}"  # which some systems take for a device
    room = MOST_NAME_BYTES - len(extension.encode())
    kept = stem.encode()[:room].decode(errors="ignore")
    return kept + extension if extension else kept.rstrip(_EDGES)


def media_type_of(name: str) -> str:
    """The media type that the extension of a file name stands for."""
    return MEDIA_TYPES.get(_parted(name)[1].lower(), UNKNOWN)


def kind_of(media_type: str) -> str | None:
    """How text is read out of a file of this type: a word the reader knows; None: there is none to be had."""
    if media_type in READ_AS:
        return READ_AS[media_type]
    return "text" if media_type.startswith("text/") or media_type in TEXTS else None


def owner_of(user: str) -> str:
    """The name of a user's folder, and whose an attachment is: no user's name can be made into a path."""
    return hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()


def is_id(text: str) -> bool:
    """Whether a text may be the id of an attachment or of a task: a UUID as we write it."""
    return _ID.fullmatch(text) is not None


def tokens_of(text_bytes: int) -> int:
    """How many tokens a text has, estimated: one for four bytes of UTF-8."""
    return -(-text_bytes // 4)


def _parted(name: str) -> tuple[str, str]:
    """A name's stem and its extension with the dot, which may be empty."""
    stem, dot, extension = name.rpartition(".")
    if not stem or len(extension.encode()) > MOST_EXTENSION_BYTES:
        return name, ""
    return stem, dot + extension
