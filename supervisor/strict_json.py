"""JSON as the standard has it, nothing more, with the position of what is wrong. Pure.

The standard library's parser also takes NaN and Infinity, lets a float overflow to infinity, accepts a lone surrogate
that can never be written again, and raises four kinds of errors. Here all of that is one error with line and column.
Integers keep all their digits, keys their order.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any, Final

MAX_DEPTH: Final = 100
MAX_DIGITS: Final = 4300  # the interpreter's own bound for turning text into an integer and back

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]|[^\s"\[\]{},:]+', re.DOTALL)
_SURROGATE_ESCAPE: Final = re.compile(r"\\u[dD][89a-fA-F]")


class JsonError(ValueError):
    """Bytes that are not JSON: `reason`, and where (`line` and `column` count from 1, in characters)."""

    def __init__(self, reason: str, line: int, column: int) -> None:
        super().__init__(f"line {line}, column {column}: {reason}")
        self.reason = reason
        self.line = line
        self.column = column


class _TokenError(ValueError):
    """A number or constant that is refused; the parser's hooks do not know where it stands."""

    def __init__(self, token: str, reason: str) -> None:
        super().__init__(reason)
        self.token = token
        self.reason = reason


def parse(data: bytes) -> Any:
    """The value of one JSON text in UTF-8.

    Raises JsonError for whatever is not JSON: also for NaN and Infinity, a float beyond the range of a double, an
    integer over MAX_DIGITS, nesting over MAX_DEPTH, a lone surrogate, a byte-order mark.
    """
    if data.startswith(_BYTE_ORDER_MARK):
        raise JsonError("a byte-order mark; only UTF-8 without one is allowed", 1, 1)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        valid = data[: error.start].decode()
        raise _error_at(valid, len(valid), f"byte 0x{data[error.start]:02x} is not UTF-8") from error
    try:
        value = json.loads(text, parse_int=_integer, parse_float=_float, parse_constant=_constant)
    except json.JSONDecodeError as error:
        raise JsonError(error.msg, error.lineno, error.colno) from error
    except _TokenError as error:
        raise _error_at(text, _position_of(text, error.token), error.reason) from error
    except RecursionError as error:
        raise _too_deep(text) from error
    if is_deeper(value, MAX_DEPTH):
        raise _too_deep(text)
    for position in _lone_surrogates(text):
        raise _error_at(text, position, "a string with a lone surrogate, which is no Unicode text")
    return value


def is_deeper(value: object, limit: int) -> bool:
    """Whether objects and lists are nested over more than `limit` levels (``[[]]`` has two)."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(limit):
        children = (child for item in level for child in (item.values() if isinstance(item, dict) else item))
        level = [child for child in children if isinstance(child, dict | list)]
        if not level:
            return False
    return bool(level)


def _integer(token: str) -> int:
    digits = len(token.lstrip("-"))
    if digits > MAX_DIGITS:
        raise _TokenError(token, f"an integer of {digits} digits; at most {MAX_DIGITS} are allowed")
    return int(token)


def _float(token: str) -> float:
    value = float(token)
    if math.isinf(value):
        raise _TokenError(token, "a number beyond the range of a double (about 1.8e308)")
    return value


def _constant(token: str) -> object:
    raise _TokenError(token, f"{token} is not JSON")


def _error_at(text: str, position: int, reason: str) -> JsonError:
    line_start = text.rfind("\n", 0, position) + 1
    return JsonError(reason, text.count("\n", 0, position) + 1, position - line_start + 1)


def _position_of(text: str, token: str) -> int:
    return next((found.start() for found in _TOKEN.finditer(text) if found[0] == token), 0)


def _too_deep(text: str) -> JsonError:
    depth, position = 0, 0
    for found in _TOKEN.finditer(text):
        depth += (found[0] in "[{") - (found[0] in "]}")
        if depth > MAX_DEPTH:
            position = found.start()
            break
    return _error_at(text, position, f"nested over more than {MAX_DEPTH} levels")


def _lone_surrogates(text: str) -> Iterator[int]:
    if not _SURROGATE_ESCAPE.search(text):
        return
    for found in _TOKEN.finditer(text):
        if _SURROGATE_ESCAPE.search(found[0]):
            try:
                json.loads(found[0]).encode()
            except UnicodeEncodeError:
                yield found.start()
