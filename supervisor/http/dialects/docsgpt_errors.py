"""Refusals and failures as clients of DocsGPT's API read them (wire/docsgpt.md sections 3, 8 and 10). Pure.

What is wrong with the shape of a request is JSON everywhere. All else that the widget can run into is one frame of a
stream at `STREAM`, with its real status: the widget never looks at the status, and a JSON body leaves it locked.
"""

import re
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii
from typing import Any, Final, NamedTuple

from supervisor.causes import EXPLANATIONS, Cause, Refusal
from supervisor.http.envelope import shorten

STREAM: Final = "/stream"
MOST_SAID: Final = 1000  # characters of an error's text; as JSON in ASCII that is far below a frame's bound
UNAVAILABLE: Final = 503
RETRY_SECONDS: Final = 5  # after a 503 whose cause has no time of its own

Body = dict[str, Any]
Error = tuple[int, Body]


class Row(NamedTuple):
    """A status, the key of its text (``message`` goes with ``success``), and the published text if there is one."""

    status: int
    key: str = "error"
    text: str = ""

    def body(self, text: str) -> Body:
        """The JSON body."""
        said = self.text or text
        return {"success": False, "message": said} if self.key == "success" else {self.key: said}


class FieldRefusal(Refusal):
    """A field that is missing, or not as it must be; without `success` its text stands under ``error``."""

    def __init__(self, detail: str, key: str = "success") -> None:
        super().__init__(Cause.BODY_INVALID, detail)
        self.row = Row(400, key)


NO_WORKER: Final = Row(UNAVAILABLE)
FAILED: Final = Row(500)
BUSY: Final = Row(409)

# By cause; of others the server failed.
ROWS: Final[Mapping[Cause, Row]] = {
    Cause.MEDIA_TYPE_REFUSED: Row(415, "message"),
    Cause.BODY_INVALID: Row(400, "message"),
    Cause.BODY_TOO_LARGE: Row(413, "success"),
    Cause.KEY_UNKNOWN: Row(401, "success", "Invalid API key"),
    Cause.UNAUTHORIZED: Row(401, "error", "Unauthorized"),
    Cause.SCOPE_MISSING: Row(403),
    Cause.HOST_REFUSED: Row(403),
    Cause.ORIGIN_REFUSED: Row(403),
    Cause.NOT_FOUND: Row(404),
    Cause.METHOD_NOT_ALLOWED: Row(405),
    Cause.CONVERSATION_UNKNOWN: Row(400, "error", "Conversation not found"),
    Cause.KEY_LIMIT: Row(429, "success", "Exceeding usage limit, please try again later."),
    Cause.SESSION_BUSY: BUSY,
    Cause.SESSION_QUEUE_FULL: BUSY,
    Cause.WORKERS_LIMIT: NO_WORKER._replace(text="No agent is free at the moment, please try again later."),
    Cause.GRAPH_LIMIT: NO_WORKER._replace(text="No agent is free at the moment, please try again later."),
    Cause.CHANNEL_UNKNOWN: NO_WORKER._replace(text="The agent has just ended, please try again."),
    Cause.SPAWN_FAILED: NO_WORKER,
    Cause.EXITED_BEFORE_READY: NO_WORKER,
    Cause.START_TIMEOUT: NO_WORKER,
    Cause.STORE_UNAVAILABLE: NO_WORKER._replace(text="The server cannot take questions at the moment."),
    Cause.SHUTTING_DOWN: NO_WORKER,
    Cause.DRAINING: NO_WORKER,
    Cause.SERVER_STOPPED: NO_WORKER,
    Cause.DRAINED: NO_WORKER,
}
TOKENS: Final[Mapping[Cause, Body]] = {
    Cause.TOKEN_INVALID: {"message": "Authentication error: invalid token", "error": "invalid_token"},
    Cause.TOKEN_EXPIRED: {"message": "Authentication error: token expired", "error": "token_expired"},
}
# JSON at `STREAM` too: about the request's shape, or what no widget asks.
SHAPE: Final = frozenset(
    {
        Cause.MEDIA_TYPE_REFUSED,
        Cause.BODY_INVALID,
        Cause.BODY_TOO_LARGE,
        Cause.NOT_FOUND,
        Cause.METHOD_NOT_ALLOWED,
        *TOKENS,
    }
)
# The agent's own account of what went wrong; of all other endings the server tells.
AGENTS: Final = frozenset({Cause.AGENT_ERROR, Cause.BODY_INVALID})
# Details of these may be told: they name what was sent, or how a process ended, and no file of the server's.
TOLD: Final = frozenset(
    {
        *SHAPE,
        *AGENTS,
        Cause.CRASHED,
        Cause.EXITED,
        Cause.INTERNAL,
        Cause.ORIGIN_REFUSED,
        Cause.OUT_OF_MEMORY,
        Cause.RESPONSE_INVALID,
        Cause.SCOPE_MISSING,
        Cause.SESSION_BUSY,
        Cause.SESSION_QUEUE_FULL,
        Cause.TURN_SILENT,
        Cause.TURN_TIMEOUT,
    }
)

# What an agent's text may repeat and nobody else is to read: an absolute path but for its last name, a key.
_PATH: Final = re.compile(r"(?<![\w:/.])(?:/[^\s/'\"`:;,()\[\]{}<>]+)+/(?=[^\s/'\"`:;,()\[\]{}<>])")
_KEY: Final = re.compile(r"\b(agentd_|sk-|Bearer\s+)[\w.-]{8,}")
_TRACEBACK: Final = "Traceback (most recent call last)"


def error(refusal: Refusal) -> Error:
    """Status and body of a refusal."""
    if isinstance(refusal, FieldRefusal):
        return refusal.row.status, refusal.row.body(_safe(refusal.detail))
    if (body := TOKENS.get(refusal.cause)) is not None:
        return 401, body
    row = ROWS.get(refusal.cause, FAILED)
    return row.status, row.body(text_of(refusal.cause, refusal.detail))


def feedback_error(refusal: Refusal) -> Error:
    """The same at ``/api/feedback``, where a conversation that is not there is a 404 (section 10)."""
    if refusal.cause is Cause.CONVERSATION_UNKNOWN:
        return 404, Row(404, "success", ROWS[refusal.cause].text).body("")
    return error(refusal)


def failure(cause: Cause, detail: str) -> Error:
    """Status and body of a turn that did not end well: what the agent itself reported is a 400, as published."""
    if cause in AGENTS:
        return 400, {"error": text_of(cause, detail)}
    row = ROWS.get(cause, FAILED)
    return row.status, {"error": row.text or text_of(cause, detail)}


def text_of(cause: Cause, detail: str) -> str:
    """What people are told of a cause: the detail where that cannot give the server away, else what it means."""
    return _safe(detail if cause in TOLD and detail else EXPLANATIONS[cause].message)


def is_framed(cause: Cause, path: str) -> bool:
    """Whether a refusal at this path is told as a frame of a stream."""
    return path == STREAM and cause not in SHAPE


def frame_of(body: Body) -> bytes:
    """The only frame of a stream that is refused with this body."""
    return error_frame(body.get("error") or body.get("message") or "")


def error_frame(text: str) -> bytes:
    """The frame that ends a stream that failed."""
    return b'data: {"type": "error", "error": %b}\n\n' % encode_basestring_ascii(text).encode()


def _safe(text: str) -> str:
    """A text without a traceback, the folders of a path, or keys; bounded."""
    told = _KEY.sub(r"\1...", _PATH.sub("", text[: 4 * MOST_SAID].partition(_TRACEBACK)[0]))
    mended = told.strip().encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return shorten(mended, MOST_SAID) or EXPLANATIONS[Cause.AGENT_ERROR].message
