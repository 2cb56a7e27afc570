"""Refusals and failures as Reminix's clients read them (wire/reminix.md section 7). Pure."""

from collections.abc import Mapping
from typing import Any, Final

from supervisor.causes import Cause, Refusal
from supervisor.http.envelope import shorten
from supervisor.turns.turn import TurnEnding

Error = tuple[int, dict[str, Any]]

# Status and type by cause; of others the server failed. Clients branch on the status, the type is for people.
ROWS: Final[Mapping[Cause, tuple[int, str]]] = {
    Cause.BODY_INVALID: (400, "ValidationError"),
    Cause.UNAUTHORIZED: (401, "UnauthorizedError"),
    Cause.TOKEN_INVALID: (401, "UnauthorizedError"),
    Cause.TOKEN_EXPIRED: (401, "UnauthorizedError"),
    Cause.HOST_REFUSED: (403, "ForbiddenError"),
    Cause.ORIGIN_REFUSED: (403, "ForbiddenError"),
    Cause.SCOPE_MISSING: (403, "ForbiddenError"),
    Cause.NOT_FOUND: (404, "NotFoundError"),
    Cause.GRAPH_UNKNOWN: (404, "NotFoundError"),
    Cause.METHOD_NOT_ALLOWED: (405, "MethodNotAllowedError"),
    Cause.BODY_TOO_LARGE: (413, "ValidationError"),
    Cause.KEY_LIMIT: (429, "TooManyRequestsError"),
    Cause.NOT_IMPLEMENTED: (501, "NotImplementedError"),
    Cause.RESPONSE_INVALID: (502, "InvalidResponseError"),
    Cause.PROTOCOL_VIOLATED: (502, "InvalidResponseError"),
    Cause.WORKERS_LIMIT: (503, "UnavailableError"),
    Cause.GRAPH_LIMIT: (503, "UnavailableError"),
    Cause.SESSION_BUSY: (503, "UnavailableError"),
    Cause.SESSION_QUEUE_FULL: (503, "UnavailableError"),
    Cause.CHANNEL_UNKNOWN: (503, "UnavailableError"),
    Cause.STORE_UNAVAILABLE: (503, "UnavailableError"),
    Cause.SHUTTING_DOWN: (503, "UnavailableError"),
    Cause.DRAINING: (503, "UnavailableError"),
    Cause.SERVER_STOPPED: (503, "UnavailableError"),
    Cause.DRAINED: (503, "UnavailableError"),
    Cause.TURN_TIMEOUT: (504, "TimeoutError"),
    Cause.TURN_SILENT: (504, "TimeoutError"),
}
FAILED: Final = (500, "ExecutionError")
NO_WORKER: Final = "no worker available"
MESSAGES: Final[Mapping[Cause, str]] = {Cause.WORKERS_LIMIT: NO_WORKER, Cause.GRAPH_LIMIT: NO_WORKER}


def error(refusal: Refusal) -> Error:
    """Status and body of a refusal."""
    status, kind = ROWS.get(refusal.cause, FAILED)
    return status, {"error": {"type": kind, "message": MESSAGES.get(refusal.cause) or shorten(refusal.detail)}}


def failure(ending: TurnEnding, agent: str, kind: str) -> Error:
    """Status and body of a turn that did not end well: of an agent's own error its class and its text."""
    if ending.cause is Cause.AGENT_ERROR:
        message = shorten(ending.detail) or f"Agent {agent!r} raised {ending.kind or 'an error'}"
        return FAILED[0], {"error": {"type": ending.kind or FAILED[1], "message": message}}
    return error(Refusal(ending.cause, _said_of(ending, agent, kind)))


def _said_of(ending: TurnEnding, agent: str, kind: str) -> str:
    """What went wrong in words; of an invalid response the log tells more."""
    if ending.cause is Cause.NOT_IMPLEMENTED:
        return not_implemented(agent, kind)
    if ROWS.get(ending.cause) == ROWS[Cause.RESPONSE_INVALID]:
        return f"Agent {agent!r} returned an invalid response"
    return ending.detail


def not_implemented(agent: str, kind: str) -> str:
    """That an agent has no handler for turns of this kind."""
    return f"Agent {agent!r} does not implement {kind}"
