"""What is stored as text: made storable in any database, and bounded, with a mark where something is missing. Pure.

Agents say what they like: NUL, which PostgreSQL refuses, lone surrogates, numbers beyond 64 bits or without value, and
any amount of it. None of this may cost a turn its record.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeVar

import orjson

TURN_BYTES: Final = 4 * 1024 * 1024  # of one turn, question and answer together
QUESTION_BYTES: Final = 1024 * 1024
ANSWER_BYTES: Final = TURN_BYTES - QUESTION_BYTES
STATE_BYTES: Final = 256 * 1024
RESPONSE_BYTES: Final = 8 * 1024 * 1024  # of a response's body, and as much of its input
NAME_BYTES: Final = 400  # far below what an index of PostgreSQL takes
DETAIL_BYTES: Final = 4096

LEAST_BYTES: Final = 1024  # what is left for each part even when others took all there was
MOST_DEPTH: Final = 200
MOST_BITS: Final = 8192
MOST_VALUES: Final = 20_000  # that are looked at one by one, which holds up everybody
REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"

_SURROGATES: Final = dict.fromkeys(range(0xD800, 0xE000), REPLACEMENT)
_UNSTORABLE: Final = re.compile(r"[\\\0\ud800-\udfff]")
_ESCAPED: Final = re.compile(r"\\([0-9a-f]{4})")
_MARK_BYTES: Final = 64  # no mark is longer
_TOO_MANY: Final = f"[cut: more than {MOST_VALUES} values]"

Item = TypeVar("Item")


def clean(text: str) -> str:
    """The text without NUL and lone surrogates, each replaced by U+FFFD."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            text = text.translate(_SURROGATES)
    return text.replace("\0", REPLACEMENT) if "\0" in text else text


def size(text: str) -> int:
    """Bytes of a clean text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def cut(text: str, limit: int) -> str:
    """The clean text in at most `limit` bytes, with a mark when that is less than all of it."""
    whole = size(text)
    if whole <= limit:
        return text
    kept = text.encode()[: max(limit - _MARK_BYTES, 0)].decode(errors="ignore")
    return f"{kept}… [cut: {whole} bytes, {size(kept)} kept]"


def name_of(text: str) -> str:
    """A name as it is stored and looked for: clean, and with a digest of the whole in place of what is too much."""
    if len(text) <= NAME_BYTES // 4 and text.isprintable():
        return text
    name = clean(text)
    if name == text and size(name) <= NAME_BYTES:
        return text
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
    return f"{name.encode()[: NAME_BYTES - 32].decode(errors='ignore')}…{digest}"


def escape(text: str) -> str:
    """The text with a backslash and four digits in place of what cannot be stored; `unescape` gives it back exactly."""
    return _UNSTORABLE.sub(lambda found: f"\\{ord(found[0]):04x}", text)


def unescape(text: str) -> str:
    """What `escape` was given."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)


def to_json(value: Any) -> str:
    """The value as JSON: numbers that are none are null, and what JSON cannot hold is replaced by a mark."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # orjson's word for everything it does not take
        return json.dumps(_Plain().of(value, MOST_DEPTH), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def from_json(text: str | None) -> Any:
    """What `to_json` was given; integers of any size are exact."""
    return None if text is None else json.loads(text)


class _Plain:
    """A copy of a value that any JSON library takes; of what has very many values in it, the first ones."""

    def __init__(self) -> None:
        self._left = MOST_VALUES

    def of(self, value: Any, depth: int) -> Any:
        self._left -= 1
        match value:
            case None | bool():
                return value
            case str():
                return clean(value)
            case float():
                return value if math.isfinite(value) else None
            case int():
                return value if value.bit_length() <= MOST_BITS else f"[cut: a number of {value.bit_length()} bits]"
            case _ if not depth:
                return f"[cut: more than {MOST_DEPTH} levels]"
            case dict():
                rows = ((clean(str(key)), self.of(item, depth - 1)) for key, item in value.items())
                return dict(self._first(rows, ("cut", _TOO_MANY)))
            case list() | tuple():
                return list(self._first((self.of(item, depth - 1) for item in value), _TOO_MANY))
        return f"[not JSON: {type(value).__name__}]"

    def _first(self, items: Iterator[Item], mark: Item) -> Iterator[Item]:
        for item in items:
            yield item
            if self._left < 0:
                yield mark
                return


def cut_json(value: Any, limit: int) -> str:
    """The value as JSON of at most `limit` bytes: of what is too large long texts are cut, then items dropped."""
    text = to_json(value)
    whole = size(text)
    if whole <= limit:
        return text
    shorter = value
    if text.count(",") + text.count(":") < MOST_VALUES:  # few values, some of them long
        for share in (2, 8, 32):
            shorter = _shortened(value, max(limit // share, _MARK_BYTES))
            text = to_json(shorter)
            if size(text) <= limit:
                return text
    mark = {"cut": f"{whole} bytes"}
    return to_json([*_fitting(shorter, limit), mark] if isinstance(shorter, list | tuple) else mark)


def newest(items: Sequence[Item], most: int, limit: int) -> list[Item]:
    """The last items, whole: as many as are at most so many, and at most `limit` bytes of JSON altogether."""
    keep, left = 0, limit
    for item in reversed(items):
        left -= size(to_json(item)) + 1
        if keep == most or left < 0:
            break
        keep += 1
    return list(items[len(items) - keep :])


def _shortened(value: Any, limit: int, depth: int = MOST_DEPTH) -> Any:
    if isinstance(value, str):
        return cut(clean(value), limit)
    if not depth:
        return value
    match value:
        case list() | tuple():
            return [_shortened(item, limit, depth - 1) for item in value]
        case {"content": [*parts]}:
            return {**value, "content": [_shortened_part(part, limit, depth - 2) for part in parts]}
        case dict():
            return {cut(clean(str(key)), limit): _shortened(item, limit, depth - 1) for key, item in value.items()}
    return value


def _shortened_part(part: Any, limit: int, depth: int) -> Any:
    """A part of a message's content: half an image is none, so a text takes its place."""
    match part:
        case {"type": str(kind)} if kind != "text" and (whole := size(to_json(part))) > limit:
            return {"type": "text", "text": f"[cut: {cut(clean(kind), _MARK_BYTES)}, {whole} bytes]"}
    return _shortened(part, limit, max(depth, 0))


def _fitting(items: Sequence[Any], limit: int) -> Sequence[Any]:
    """The first items that fit together with a mark."""
    left = limit - _MARK_BYTES
    for index, item in enumerate(items[:MOST_VALUES]):  # to look at more of them takes too long
        left -= size(to_json(item)) + 1
        if left < 0:
            return items[:index]
    return items[:MOST_VALUES]


class Budget:
    """The bytes one record may have; what is asked for first gets them first. `used` is what was taken."""

    __slots__ = ("_left", "used")

    def __init__(self, limit: int) -> None:
        self._left = limit
        self.used = 0

    def text(self, text: str) -> str:
        """The text, cut to what is left."""
        return self._take(cut(clean(text), max(self._left, LEAST_BYTES)))

    def json(self, value: Any) -> str:
        """The value as JSON, cut to what is left."""
        return self._take(cut_json(value, max(self._left, LEAST_BYTES)))

    def _take(self, text: str) -> str:
        taken = size(text)
        self._left -= taken
        self.used += taken
        return text
