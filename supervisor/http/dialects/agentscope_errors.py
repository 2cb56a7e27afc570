"""Refusals and failures as AgentScope's clients read them (wire/agentscope.md sections 8 and 9). Pure."""

from collections.abc import Mapping
from typing import Any, Final

from supervisor.causes import Cause, Refusal
from supervisor.http.envelope import ROWS, shorten
from supervisor.http.faults import MISSING, BodyRefusal

UNPROCESSABLE: Final = 422
REQUIRED: Final = "Field required"

STATUSES: Final[Mapping[Cause, int]] = {
    Cause.WORKERS_LIMIT: 503,
    Cause.GRAPH_LIMIT: 503,
    Cause.GRAPH_UNKNOWN: 500,
    Cause.CHANNEL_UNKNOWN: 503,
}

# Why a turn did not end well, in few words; of others the cause is the word.
CODES: Final[Mapping[Cause, str]] = {
    Cause.SERVER_STOPPED: "SHUTTING_DOWN",
    Cause.DRAINED: "SHUTTING_DOWN",
    Cause.TURN_TIMEOUT: "TIMEOUT",
    Cause.TURN_SILENT: "TIMEOUT",
    Cause.EXITED: "WORKER_DIED",
    Cause.CRASHED: "WORKER_DIED",
    Cause.KILLED: "WORKER_DIED",
    Cause.STOPPED: "WORKER_DIED",
    Cause.OUT_OF_MEMORY: "WORKER_DIED",
    Cause.PROTOCOL_VIOLATED: "WORKER_DIED",
    Cause.SPAWNER_LOST: "WORKER_DIED",
    Cause.ADOPTION_FAILED: "WORKER_DIED",
    Cause.LAPSED: "WORKER_DIED",
    Cause.BODY_INVALID: "INVALID_PARAMETER",
}


def code_of(cause: Cause) -> str:
    """The short upper-case word for a cause."""
    return CODES.get(cause) or cause.value.upper()


def error(refusal: Refusal) -> tuple[int, dict[str, Any]]:
    """Status and body of a refusal: both of the shapes that clients look for."""
    faults = refusal.faults if isinstance(refusal, BodyRefusal) else ()
    if not faults:
        status = STATUSES.get(refusal.cause, ROWS[refusal.cause].status)
        text = shorten(refusal.detail)
        return status, {"error": {"code": code_of(refusal.cause), "message": text}, "detail": text}
    first = faults[0]
    missing = first.kind == MISSING
    code = "MISSING_PARAMETER" if missing else code_of(refusal.cause)
    message = f"{REQUIRED}: {first.name}" if missing else shorten(refusal.detail)
    detail = [
        {
            "type": fault.kind,
            "loc": ["body", *fault.place],
            "msg": REQUIRED if fault.kind == MISSING else shorten(fault.text),
        }
        for fault in faults
    ]
    return UNPROCESSABLE, {"error": {"code": code, "message": message}, "detail": detail}
