"""The envelope of TEN's API and the native error body: causes to codes, texts and statuses. Pure.

TEN's clients read ``code`` from the body and mostly break on any status but 200, so the intended status of a code
is sent only with `strict_status`. A few causes are about HTTP itself and always carry their own status
(wire/ten.md section 2).
"""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import orjson

from supervisor.causes import EXPLANATIONS, Cause, Refusal

CONTENT_TYPE: Final = "application/json; charset=utf-8"
MAX_DETAIL: Final = 1000
NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class Code(NamedTuple):
    """A code's fixed text and the HTTP status it is meant to have."""

    msg: str
    status: int


CODES: Final[dict[str, Code]] = {
    "0": Code("success", 200),
    "10000": Code("params invalid", 400),
    "10001": Code("workers limit", 429),
    "10002": Code("channel not existed", 400),
    "10003": Code("channel existed", 400),
    "10004": Code("channel empty", 400),
    "10005": Code("generate token failed", 400),
    "10006": Code("save file failed", 400),
    "10007": Code("parse json failed", 500),
    "10100": Code("process property json failed", 500),
    "10101": Code("start worker failed", 500),
    "10102": Code("stop worker failed", 500),
    "10104": Code("update worker failed", 400),
    "10105": Code("read directory failed", 500),
    "10106": Code("read file failed", 500),
}


class Row(NamedTuple):
    """How one cause is told: TEN's code, and the status the native API answers with."""

    code: str
    status: int


ROWS: Final[dict[Cause, Row]] = {
    Cause.BODY_INVALID: Row("10000", 400),
    Cause.BODY_TOO_LARGE: Row("10000", 413),
    Cause.CHANNEL_EMPTY: Row("10004", 400),
    Cause.CHANNEL_NAME_REFUSED: Row("10100", 400),
    Cause.CHANNEL_UNKNOWN: Row("10002", 404),
    Cause.CHANNEL_EXISTS: Row("10003", 409),
    Cause.WORKERS_LIMIT: Row("10001", 429),
    Cause.GRAPH_LIMIT: Row("10001", 429),
    Cause.GRAPH_UNKNOWN: Row("10100", 404),
    Cause.PROPERTY_UNREADABLE: Row("10106", 500),
    Cause.PROPERTY_INVALID: Row("10007", 500),
    Cause.PLACEHOLDER_UNRESOLVED: Row("10100", 500),
    Cause.OVERRIDE_REFUSED: Row("10000", 403),
    Cause.UNAUTHORIZED: Row("10000", 401),
    Cause.SCOPE_MISSING: Row("10000", 403),
    Cause.HOST_REFUSED: Row("10000", 403),
    Cause.NOT_FOUND: Row("10000", 404),
    Cause.METHOD_NOT_ALLOWED: Row("10000", 405),
    Cause.SHUTTING_DOWN: Row("10101", 503),
    Cause.DRAINING: Row("10101", 503),
    Cause.TOKEN_FAILED: Row("10005", 400),
    Cause.UPLOAD_FAILED: Row("10006", 500),
    Cause.ADDONS_UNREADABLE: Row("10105", 500),
    Cause.PRESETS_INVALID: Row("10007", 500),
    Cause.COMMAND_UNDELIVERED: Row("10104", 502),
    Cause.TURN_UNKNOWN: Row("10000", 404),
    Cause.RESPONSE_UNKNOWN: Row("10000", 404),
    Cause.RESPONSE_ENDED: Row("10000", 400),
    Cause.SESSION_BUSY: Row("10001", 409),
    Cause.SESSION_QUEUE_FULL: Row("10001", 429),
    Cause.STORE_UNAVAILABLE: Row("10101", 503),
    Cause.UPDATE_REFUSED: Row("10104", 422),
    Cause.TOKEN_INVALID: Row("10000", 401),
    Cause.TOKEN_EXPIRED: Row("10000", 401),
    Cause.KEY_UNKNOWN: Row("10000", 401),
    Cause.KEY_LIMIT: Row("10001", 429),
    Cause.ORIGIN_REFUSED: Row("10000", 403),
    Cause.MEDIA_TYPE_REFUSED: Row("10000", 415),
    Cause.CONVERSATION_UNKNOWN: Row("10000", 404),
    Cause.ATTACHMENT_UNREADABLE: Row("10006", 422),
    Cause.ISOLATION_UNAVAILABLE: Row("10101", 501),
    Cause.INTERNAL: Row("10000", 500),
    Cause.SPAWN_FAILED: Row("10101", 500),
    Cause.ADDONS_MISSING: Row("10101", 500),
    Cause.GRAPH_INVALID: Row("10101", 500),
    Cause.EXITED_BEFORE_READY: Row("10101", 502),
    Cause.START_TIMEOUT: Row("10101", 504),
    # endings: a start that was pending when its channel ended so answers with them
    Cause.STOPPED: Row("10101", 409),
    Cause.KILLED: Row("10101", 409),
    Cause.LAPSED: Row("10101", 504),
    Cause.EXITED: Row("10101", 502),
    Cause.CRASHED: Row("10101", 502),
    Cause.OUT_OF_MEMORY: Row("10101", 502),
    Cause.PROTOCOL_VIOLATED: Row("10101", 502),
    Cause.SERVER_STOPPED: Row("10101", 503),
    Cause.DRAINED: Row("10101", 503),
    Cause.SERVER_LOST: Row("10101", 503),
    Cause.SPAWNER_LOST: Row("10101", 503),
    Cause.ADOPTION_FAILED: Row("10101", 503),
    Cause.STOP_FAILED: Row("10102", 500),
    Cause.SESSION_IDLE: Row("10101", 503),
    Cause.SESSION_EVICTED: Row("10101", 503),
    Cause.SESSION_MOVED: Row("10101", 503),
    Cause.TURN_ENDED: Row("10101", 409),
    Cause.CANCEL_IGNORED: Row("10101", 502),
    # endings of a turn
    Cause.COMPLETED: Row("0", 200),
    Cause.NOT_IMPLEMENTED: Row("10104", 501),
    Cause.AGENT_ERROR: Row("10104", 500),
    Cause.RESPONSE_INVALID: Row("10104", 502),
    Cause.TURN_CANCELLED: Row("10104", 409),
    Cause.CLIENT_GONE: Row("10104", 499),
    Cause.TURN_TIMEOUT: Row("10104", 504),
    Cause.TURN_SILENT: Row("10104", 504),
}

# Refusals that another try may get round, and after how many seconds.
RETRY_AFTER: Final[dict[Cause, int]] = {
    Cause.WORKERS_LIMIT: 2,
    Cause.GRAPH_LIMIT: 2,
    Cause.KEY_LIMIT: 2,
    Cause.SESSION_BUSY: 5,
    Cause.SESSION_QUEUE_FULL: 5,
    Cause.STORE_UNAVAILABLE: 5,
    Cause.SHUTTING_DOWN: 5,
    Cause.DRAINING: 5,
    Cause.SERVER_STOPPED: 5,
    Cause.DRAINED: 5,
}

PER_PATH: Final[dict[tuple[str, Cause], str]] = {
    # to a start an unusable file is one more reason why its graph cannot be made; to /graphs it is the very matter
    ("/start", Cause.PROPERTY_UNREADABLE): "10100",
    ("/start", Cause.PROPERTY_INVALID): "10100",
}

ALWAYS: Final = frozenset(
    {
        Cause.NOT_FOUND,
        Cause.METHOD_NOT_ALLOWED,
        Cause.BODY_TOO_LARGE,
        Cause.UNAUTHORIZED,
        Cause.SCOPE_MISSING,
        Cause.HOST_REFUSED,
        Cause.TOKEN_INVALID,
        Cause.TOKEN_EXPIRED,
        Cause.KEY_LIMIT,
        Cause.ORIGIN_REFUSED,
        Cause.INTERNAL,
    }
)


def code_of(cause: Cause, path: str = "") -> str:
    """TEN's code for a cause at a path."""
    return PER_PATH.get((path, cause)) or ROWS[cause].code


def status_of(cause: Cause, path: str = "", *, strict: bool = False) -> int:
    """The HTTP status TEN's API sends for a cause: 200, unless `strict` or the cause is about HTTP itself."""
    if cause in ALWAYS:
        return ROWS[cause].status
    return CODES[code_of(cause, path)].status if strict else 200


def encode(value: Any) -> bytes:
    """JSON in UTF-8; text that UTF-8 cannot hold, and integers over 64 bits, survive (escaped, exact)."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, separators=(",", ":")).encode()


def success(data: Any = None, msg: str = "success") -> bytes:
    """The body of a good answer."""
    return encode({"code": "0", "msg": msg, "data": data})


def failure(refusal: Refusal, path: str = "") -> bytes:
    """The body of a refusal in TEN's API."""
    code = code_of(refusal.cause, path)
    return encode({"code": code, "msg": CODES[code].msg, "data": None, "detail": shorten(refusal.detail)})


def native_failure(refusal: Refusal, more: Mapping[str, Any] = NOTHING) -> bytes:
    """The body of a refusal in the native API; `more` is told besides."""
    explanation = EXPLANATIONS[refusal.cause]
    return encode(
        {
            "error": {
                "cause": refusal.cause.value,
                "message": explanation.message,
                "detail": shorten(refusal.detail),
                "next_step": explanation.next_step,
                **more,
            }
        }
    )


def shorten(text: str, limit: int = MAX_DETAIL) -> str:
    """At most `limit` characters of a text that may repeat what a client sent."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
