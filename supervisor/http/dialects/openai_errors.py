"""Refusals as OpenAI's API tells them (wire/openai-responses.md section 6). Pure."""

from collections.abc import Mapping
from typing import Any, Final

from supervisor.causes import Cause, Refusal
from supervisor.http.envelope import ROWS, shorten
from supervisor.http.faults import MISSING, BodyRefusal

SOURCE: Final = "openai"  # what turns of this API are marked with
INVALID: Final = "invalid_request_error"
EXCLUSIVE: Final = "mutually_exclusive_parameters"

# The type that goes with a status; others of 500 and more are errors of the server.
TYPES: Final[Mapping[int, str]] = {
    401: "authentication_error",
    403: "permission_error",
    409: "conflict_error",
    429: "rate_limit_exceeded",
}
SERVER_ERROR: Final = 500

# Statuses of their own: the SDK repeats 409, 429 and 5xx by itself, so those are for what may pass.
STATUSES: Final[Mapping[Cause, int]] = {
    Cause.GRAPH_UNKNOWN: 500,  # the default graph's: a model that names no graph is no fault
    Cause.NOT_IMPLEMENTED: 400,
    Cause.CHANNEL_UNKNOWN: 503,
    Cause.TURN_CANCELLED: 400,
}

# OpenAI's words for faults that pydantic, or we, call otherwise.
CODES: Final[Mapping[str, str]] = {MISSING: "missing_required_parameter", EXCLUSIVE: EXCLUSIVE}


class ParameterRefusal(BodyRefusal):
    """One parameter that cannot be as it is, with a code of OpenAI's own."""

    def __init__(self, param: str, code: str, text: str, cause: Cause = Cause.BODY_INVALID) -> None:
        super().__init__(more=text)
        self.cause = cause
        self.param = param
        self.code = code


def error(refusal: Refusal) -> tuple[int, dict[str, Any]]:
    """Status and body of a refusal."""
    status = STATUSES.get(refusal.cause, ROWS[refusal.cause].status)
    param, code = _about(refusal)
    kind = TYPES.get(status, "server_error" if status >= SERVER_ERROR else INVALID)
    return status, {"error": {"message": shorten(refusal.detail), "type": kind, "param": param, "code": code}}


def _about(refusal: Refusal) -> tuple[str | None, str | None]:
    if isinstance(refusal, ParameterRefusal):
        return refusal.param, refusal.code
    if isinstance(refusal, BodyRefusal) and refusal.faults:
        fault = refusal.faults[0]
        return fault.name or None, _code(fault.kind)
    return None, refusal.cause.value


def _code(kind: str) -> str:
    """OpenAI's word for a fault, by pydantic's."""
    return CODES.get(kind) or ("invalid_type" if kind.endswith("_type") else "invalid_value")
