"""Request bodies of TEN's API: bytes to checked fields (wire/ten.md section 3). Pure.

Strict where Python is lenient: no NaN or infinity, no lone surrogate, no byte-order mark, ``true`` and ``1.0`` are no
integers, integers keep all their digits, and nesting is bounded so that nothing that walks the values later can
overflow the stack.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from supervisor import strict_json
from supervisor.causes import Cause, Refusal
from supervisor.graph_file import kind_of
from supervisor.http.envelope import encode
from supervisor.options import LIMIT_RANGES
from supervisor.property import check_overrides
from worker.spawn import Limits

MAX_PROPERTIES: Final = 1024 * 1024  # every start walks them, merges them and sends them on, all on the loop

_LONG_DIGITS: Final = re.compile(rb"(?<!\d)\d{19}")  # tried once for each number, however long


def parse_object(data: bytes) -> dict[str, Any]:
    """The JSON object of a body; a literal ``null`` counts as ``{}``. Raises Refusal(BODY_INVALID)."""
    try:
        value = orjson.loads(data)
        # orjson is strict and fast, but rounds an integer outside 64 bits and allows 1,024 levels. A body that can hold
        # either, by a cheap look at its bytes, is read again by the slow parser that keeps digits and bounds levels.
        if data.count(b"[") + data.count(b"{") > strict_json.MAX_DEPTH or _LONG_DIGITS.search(data):
            value = strict_json.parse(data)
    except (orjson.JSONDecodeError, strict_json.JsonError) as error:
        raise Refusal(Cause.BODY_INVALID, f"the body is not JSON: {error}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Refusal(Cause.BODY_INVALID, f"the body is {kind_of(value)}; it must be an object")
    return value


def parse_start(data: bytes) -> dict[str, Any]:
    """The JSON object of a start; raises Refusal(BODY_INVALID), also for properties of over MAX_PROPERTIES bytes."""
    body = parse_object(data)
    if len(data) > MAX_PROPERTIES and (size := len(encode(body.get("properties")))) > MAX_PROPERTIES:
        raise Refusal(Cause.BODY_INVALID, f"properties has {size} bytes of JSON; at most {MAX_PROPERTIES} are allowed")
    return body


@dataclass(frozen=True, slots=True)
class Kind:
    """A type a field may have: the check, and what is allowed in words."""

    accepts: Callable[[Any], bool]
    allowed: str


@dataclass(frozen=True, slots=True)
class Field:
    """One known key of a body; absent and null give `default`. The value of a `secret` one is never repeated."""

    name: str
    kind: Kind
    default: Any = None
    secret: bool = False


def _integer(low: int, high: int) -> Kind:
    return Kind(lambda value: type(value) is int and low <= value <= high, f"an integer from {low} to {high}")


ANY: Final = Kind(lambda _: True, "anything")
STRING: Final = Kind(lambda value: type(value) is str, "a string")
OBJECT: Final = Kind(lambda value: type(value) is dict, "an object")
UID: Final = _integer(0, 2**32 - 1)
INTEGER_32: Final = _integer(-(2**31), 2**31 - 1)
INTEGER_64: Final = _integer(-(2**63), 2**63 - 1)

CHANNEL: Final = (Field("request_id", STRING, ""), Field("channel_name", STRING, ""))
START: Final = (
    *CHANNEL,
    Field("graph_name", STRING, ""),
    Field("user_uid", UID, 0),
    Field("bot_uid", UID, 0),
    Field("timeout", INTEGER_64),
    Field("properties", ANY),  # `check_overrides` has the say
    Field("limits", OBJECT),
    # checked, then ignored
    Field("token", STRING, secret=True),
    Field("worker_http_server_port", INTEGER_32),
    Field("tenapp_dir", STRING),
)
TOKEN: Final = (*CHANNEL, Field("uid", UID, 0))
UPDATE: Final = (*CHANNEL, Field("collection", STRING, ""), Field("file_name", STRING, ""))
LIMITS: Final = tuple(Field(name, _integer(low, high)) for name, (low, high) in LIMIT_RANGES.items())


def read_fields(body: Mapping[str, Any], schema: tuple[Field, ...], prefix: str = "") -> dict[str, Any]:
    """The fields of `schema`, checked; other keys are left out. Raises Refusal(BODY_INVALID)."""
    values = {}
    for field in schema:
        value = body.get(field.name)
        if value is None:
            value = field.default
        elif not field.kind.accepts(value):
            shown = kind_of(value) if field.secret else _shown(value)
            raise Refusal(Cause.BODY_INVALID, f"{prefix}{field.name} is {shown}; it must be {field.kind.allowed}")
        values[field.name] = value
    return values


def _shown(value: Any) -> str:
    """Numbers and booleans as they came (an integer may be thousands of digits long), of all else only the type."""
    return json.dumps(value) if type(value) in (bool, int, float) and abs(value) < 2**64 else kind_of(value)


def require_channel(values: Mapping[str, Any]) -> str:
    """The channel's name; raises Refusal(CHANNEL_EMPTY) when it is missing, empty or only white space."""
    name: str = values["channel_name"]
    if not name or name.isspace():
        raise Refusal(Cause.CHANNEL_EMPTY)
    return name


def read_overrides(values: Mapping[str, Any]) -> dict[str, Any]:
    """The `properties` of a start by node; raises Refusal(BODY_INVALID)."""
    return check_overrides(values["properties"])


def read_limits(values: Mapping[str, Any]) -> Limits:
    """The `limits` of a start; raises Refusal(BODY_INVALID), also for an unknown one: no limit is silently ignored."""
    given = values["limits"] or {}
    known = [field.name for field in LIMITS]
    for name in given:
        if name not in known:
            raise Refusal(Cause.BODY_INVALID, f"limits has {name[:64]!r}; allowed are {', '.join(known)}")
    return Limits(**read_fields(given, LIMITS, "limits."))
