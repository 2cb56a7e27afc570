"""Refusals in OpenAI's shape: statuses, types, parameters and codes."""

import json

import pytest

from supervisor.causes import Cause, Refusal
from supervisor.http.dialects.openai_errors import ParameterRefusal, error
from supervisor.http.faults import MISSING, BodyRefusal, Fault
from supervisor.http.replies import refused


@pytest.mark.parametrize(
    ("cause", "status", "kind"),
    [
        (Cause.BODY_INVALID, 400, "invalid_request_error"),
        (Cause.BODY_TOO_LARGE, 413, "invalid_request_error"),
        (Cause.UNAUTHORIZED, 401, "authentication_error"),
        (Cause.SCOPE_MISSING, 403, "permission_error"),
        (Cause.HOST_REFUSED, 403, "permission_error"),
        (Cause.NOT_FOUND, 404, "invalid_request_error"),
        (Cause.METHOD_NOT_ALLOWED, 405, "invalid_request_error"),
        (Cause.RESPONSE_UNKNOWN, 404, "invalid_request_error"),
        (Cause.RESPONSE_ENDED, 400, "invalid_request_error"),
        (Cause.GRAPH_UNKNOWN, 500, "server_error"),
        (Cause.NOT_IMPLEMENTED, 400, "invalid_request_error"),
        (Cause.TURN_CANCELLED, 400, "invalid_request_error"),
        (Cause.SESSION_BUSY, 409, "conflict_error"),
        (Cause.SESSION_QUEUE_FULL, 429, "rate_limit_exceeded"),
        (Cause.WORKERS_LIMIT, 429, "rate_limit_exceeded"),
        (Cause.GRAPH_LIMIT, 429, "rate_limit_exceeded"),
        (Cause.CHANNEL_UNKNOWN, 503, "server_error"),
        (Cause.STORE_UNAVAILABLE, 503, "server_error"),
        (Cause.SHUTTING_DOWN, 503, "server_error"),
        (Cause.EXITED_BEFORE_READY, 502, "server_error"),
        (Cause.START_TIMEOUT, 504, "server_error"),
        (Cause.INTERNAL, 500, "server_error"),
    ],
)
def test_statuses(cause: Cause, status: int, kind: str) -> None:
    told, body = error(Refusal(cause, "why"))
    assert told == status
    assert body == {"error": {"message": "why", "type": kind, "param": None, "code": cause.value}}


@pytest.mark.parametrize("cause", Cause)
def test_every_cause_has_an_error_with_all_keys(cause: Cause) -> None:
    status, body = error(Refusal(cause))
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    assert cause is Cause.COMPLETED or 400 <= status < 600


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (MISSING, "missing_required_parameter"),
        ("string_type", "invalid_type"),
        ("literal_error", "invalid_value"),
        ("mutually_exclusive_parameters", "mutually_exclusive_parameters"),
    ],
)
def test_faults(kind: str, code: str) -> None:
    refusal = BodyRefusal(Fault(("input", 2, "content"), kind, "input[2].content: why"), Fault(("a",), "x", "a: too"))
    status, body = error(refusal)
    assert status == 400
    assert body["error"]["param"] == "input[2].content"
    assert body["error"]["code"] == code
    assert body["error"]["message"] == "input[2].content: why; a: too"


def test_a_body_that_is_none_has_no_parameter() -> None:
    assert error(BodyRefusal(Fault((), "value_error", "the body is no JSON")))[1]["error"]["param"] is None
    assert error(BodyRefusal(more="the body is no JSON"))[1]["error"]["code"] == "body_invalid"


def test_a_parameter_with_a_code_of_its_own() -> None:
    refusal = ParameterRefusal("previous_response_id", "previous_response_not_found", "no response 'r' is kept")
    assert (str(refusal), refusal.detail, refusal.faults) == (*["no response 'r' is kept"] * 2, ())
    status, body = error(refusal)
    assert status == 400
    assert body["error"] == {
        "message": "no response 'r' is kept",
        "type": "invalid_request_error",
        "param": "previous_response_id",
        "code": "previous_response_not_found",
    }


def test_long_messages_are_shortened() -> None:
    assert len(error(Refusal(Cause.AGENT_ERROR, "x" * 5000))[1]["error"]["message"]) == 1000


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/v1", {"error"}),
        ("/v1/", {"error"}),
        ("/v1/models", {"error"}),
        ("/compatible-mode", {"error"}),
        ("/compatible-mode/v1/responses", {"error"}),
        ("/process", {"error", "detail"}),
        ("/process/task", {"error", "detail"}),
        ("/v10", {"code", "msg", "data", "detail"}),
        ("/processes", {"code", "msg", "data", "detail"}),
        ("/process-list", {"code", "msg", "data", "detail"}),
        ("/v1x/models", {"code", "msg", "data", "detail"}),
    ],
)
def test_whose_shape_a_refusal_has_goes_by_whole_segments(path: str, shape: set[str]) -> None:
    response = refused(Refusal(Cause.NOT_FOUND, "nothing is there"), path, strict=True)
    assert isinstance(response.body, bytes)
    assert json.loads(response.body).keys() == shape
