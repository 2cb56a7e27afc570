"""The table of codes (wire/ten.md section 2) and the native error body."""

import json

import pytest

from supervisor.causes import Cause, Refusal
from supervisor.http import envelope

SPECIFIED = {
    "0": ("success", 200),
    "10000": ("params invalid", 400),
    "10001": ("workers limit", 429),
    "10002": ("channel not existed", 400),
    "10003": ("channel existed", 400),
    "10004": ("channel empty", 400),
    "10005": ("generate token failed", 400),
    "10006": ("save file failed", 400),
    "10007": ("parse json failed", 500),
    "10100": ("process property json failed", 500),
    "10101": ("start worker failed", 500),
    "10102": ("stop worker failed", 500),
    "10104": ("update worker failed", 400),
    "10105": ("read directory failed", 500),
    "10106": ("read file failed", 500),
}


def test_the_codes_are_those_of_the_specification() -> None:
    assert {code: tuple(row) for code, row in envelope.CODES.items()} == SPECIFIED


def test_every_cause_has_a_row_and_every_row_a_code() -> None:
    assert envelope.ROWS.keys() == set(Cause)
    assert {row.code for row in envelope.ROWS.values()} == SPECIFIED.keys()
    assert [cause for cause, row in envelope.ROWS.items() if row.code == "0"] == [Cause.COMPLETED]


@pytest.mark.parametrize(
    ("cause", "path", "code"),
    [
        (Cause.BODY_INVALID, "/start", "10000"),
        (Cause.CHANNEL_EMPTY, "/ping", "10004"),
        (Cause.WORKERS_LIMIT, "/start", "10001"),
        (Cause.GRAPH_LIMIT, "/start", "10001"),
        (Cause.CHANNEL_UNKNOWN, "/stop", "10002"),
        (Cause.CHANNEL_EXISTS, "/start", "10003"),
        (Cause.CHANNEL_NAME_REFUSED, "/start", "10100"),
        (Cause.GRAPH_UNKNOWN, "/start", "10100"),
        (Cause.PLACEHOLDER_UNRESOLVED, "/start", "10100"),
        (Cause.PROPERTY_INVALID, "/start", "10100"),
        (Cause.PROPERTY_INVALID, "/graphs", "10007"),
        (Cause.PROPERTY_UNREADABLE, "/start", "10100"),
        (Cause.PROPERTY_UNREADABLE, "/graphs", "10106"),
        (Cause.PRESETS_INVALID, "/vector/document/preset/list", "10007"),
        (Cause.ADDONS_UNREADABLE, "/dev-tmp/addons/default-properties", "10105"),
        (Cause.TOKEN_FAILED, "/token/generate", "10005"),
        (Cause.UPLOAD_FAILED, "/vector/document/upload", "10006"),
        (Cause.COMMAND_UNDELIVERED, "/vector/document/update", "10104"),
        (Cause.ADDONS_MISSING, "/start", "10101"),
        (Cause.EXITED_BEFORE_READY, "/start", "10101"),
        (Cause.START_TIMEOUT, "/start", "10101"),
        (Cause.STOPPED, "/start", "10101"),
        (Cause.STOP_FAILED, "/stop", "10102"),
    ],
)
def test_codes_by_path(cause: Cause, path: str, code: str) -> None:
    assert envelope.code_of(cause, path) == code
    assert envelope.status_of(cause, path) == 200
    assert envelope.status_of(cause, path, strict=True) == SPECIFIED[code][1]


@pytest.mark.parametrize(
    ("cause", "status"),
    [
        (Cause.NOT_FOUND, 404),
        (Cause.METHOD_NOT_ALLOWED, 405),
        (Cause.BODY_TOO_LARGE, 413),
        (Cause.UNAUTHORIZED, 401),
        (Cause.SCOPE_MISSING, 403),
        (Cause.INTERNAL, 500),
    ],
)
def test_causes_of_http_itself_keep_their_status(cause: Cause, status: int) -> None:
    assert envelope.code_of(cause) == "10000"
    assert envelope.status_of(cause) == envelope.status_of(cause, strict=True) == status


def test_bodies() -> None:
    assert envelope.success() == b'{"code":"0","msg":"success","data":null}'
    assert envelope.success([], "ok") == b'{"code":"0","msg":"ok","data":[]}'
    assert json.loads(envelope.failure(Refusal(Cause.GRAPH_UNKNOWN, "no graph 'x'"), "/start")) == {
        "code": "10100",
        "msg": "process property json failed",
        "data": None,
        "detail": "no graph 'x'",
    }
    error = json.loads(envelope.native_failure(Refusal(Cause.CHANNEL_UNKNOWN, "no 'x'")))["error"]
    assert error.keys() == {"cause", "message", "detail", "next_step"}
    assert (error["cause"], error["detail"]) == ("channel_unknown", "no 'x'")


@pytest.mark.parametrize("value", ["\ud800", 2**70, {"a": ["\udfff", 1.0, True, None]}, "é", float(2**60)])
def test_whatever_python_holds_can_be_written(value: object) -> None:
    assert json.loads(envelope.encode(value)) == value


def test_a_detail_is_bounded() -> None:
    detail = json.loads(envelope.failure(Refusal(Cause.BODY_INVALID, "x" * 100_000)))["detail"]
    assert len(detail) == envelope.MAX_DETAIL
