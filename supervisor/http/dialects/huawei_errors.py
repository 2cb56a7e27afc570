"""Refusals and failures as clients of Huawei Cloud's agent call read them (wire/huawei-agent.md section 5). Pure."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from supervisor.causes import Cause, Refusal
from supervisor.http.envelope import shorten


class Row(NamedTuple):
    """A status, and the published code and text that go with it."""

    status: int
    code: str
    msg: str


ILLEGAL: Final = Row(400, "PANGU.0010", "parameter illegal")
MISSING: Final = Row(400, "PANGU.3278", "required api parameter is not present")
FAILED: Final = Row(500, "PANGU.0031", "Inner service exception")
_NO_TOKEN: Final = Row(401, "APIGW.0301", "Incorrect IAM authentication information")
_FORBIDDEN: Final = Row(403, "APIGW.0302", "The IAM user is not allowed to access the API")
_NO_AGENT: Final = Row(404, "PANGU.3254", "The requested agent does not exist")
_TOO_MANY: Final = Row(429, "PANGU.3267", "too many requests")
_UNAVAILABLE: Final = FAILED._replace(status=503)

# By cause; of others the service failed.
ROWS: Final[Mapping[Cause, Row]] = {
    Cause.BODY_INVALID: ILLEGAL._replace(msg="parameter illegal: body"),
    Cause.BODY_TOO_LARGE: ILLEGAL._replace(status=413, msg="parameter illegal: body"),
    Cause.UNAUTHORIZED: _NO_TOKEN,
    Cause.TOKEN_INVALID: _NO_TOKEN,
    Cause.TOKEN_EXPIRED: _NO_TOKEN,
    Cause.HOST_REFUSED: _FORBIDDEN,
    Cause.ORIGIN_REFUSED: _FORBIDDEN,
    Cause.SCOPE_MISSING: _FORBIDDEN,
    Cause.METHOD_NOT_ALLOWED: Row(405, "APIGW.0101", "The API does not exist or has not been published"),
    Cause.GRAPH_UNKNOWN: _NO_AGENT,
    Cause.NOT_IMPLEMENTED: _NO_AGENT,
    Cause.KEY_LIMIT: _TOO_MANY,
    Cause.WORKERS_LIMIT: _TOO_MANY,
    Cause.GRAPH_LIMIT: _TOO_MANY,
    Cause.SESSION_BUSY: _TOO_MANY,
    Cause.SESSION_QUEUE_FULL: _TOO_MANY,
    Cause.CHANNEL_UNKNOWN: _UNAVAILABLE,
    Cause.STORE_UNAVAILABLE: _UNAVAILABLE,
    Cause.SHUTTING_DOWN: _UNAVAILABLE,
    Cause.DRAINING: _UNAVAILABLE,
    Cause.SERVER_STOPPED: _UNAVAILABLE,
    Cause.DRAINED: _UNAVAILABLE,
}
LATE: Final = frozenset({Cause.TURN_TIMEOUT, Cause.TURN_SILENT})
LATE_CODE: Final = 504


class ParameterRefusal(Refusal):
    """One parameter that is missing, or not as it must be, with its published code; `detail` is what is allowed."""

    def __init__(self, parameter: str, detail: str, row: Row = ILLEGAL) -> None:
        super().__init__(Cause.BODY_INVALID, detail)
        self.row = row._replace(msg=f"{row.msg}: {parameter}")


def error(refusal: Refusal) -> tuple[int, dict[str, Any]]:
    """Status and body of a refusal. Who may not call learns nothing else."""
    row = refusal.row if isinstance(refusal, ParameterRefusal) else ROWS.get(refusal.cause, FAILED)
    body = {"error_code": row.code, "error_msg": row.msg}
    return row.status, body if row is _NO_TOKEN else {**body, "detail": shorten(refusal.detail)}


def error_data(cause: Cause, detail: str) -> dict[str, Any]:
    """What the ``error`` unit of a stream tells (section 6)."""
    code = LATE_CODE if cause in LATE else FAILED.status
    return {"code": code, "message": shorten(detail), "error_code": FAILED.code, "error_msg": FAILED.msg}
