"""Refusals as AgentScope's clients read them."""

from typing import Any

import pytest

from supervisor.causes import Cause, Refusal
from supervisor.http.dialects.agentscope_errors import code_of, error
from supervisor.http.dialects.agentscope_request import ProcessBody
from supervisor.http.faults import BodyRefusal, checked


def test_a_missing_field_as_printed_in_the_specification() -> None:
    with pytest.raises(BodyRefusal) as raised:
        checked(ProcessBody, {})
    assert error(raised.value) == (
        422,
        {
            "error": {"code": "MISSING_PARAMETER", "message": "Field required: input"},
            "detail": [{"type": "missing", "loc": ["body", "input"], "msg": "Field required"}],
        },
    )


def test_several_faults_are_all_told() -> None:
    with pytest.raises(BodyRefusal) as raised:
        checked(ProcessBody, {"input": [{"role": "boss"}], "session_id": 7})
    status, body = error(raised.value)
    assert (status, body["error"]["code"]) == (422, "INVALID_PARAMETER")
    assert "input[0].role" in body["error"]["message"]
    assert "session_id" in body["error"]["message"]
    assert [fault["loc"] for fault in body["detail"]] == [["body", "input", 0, "role"], ["body", "session_id"]]


STATUSES: dict[Cause, tuple[int, str]] = {
    Cause.BODY_INVALID: (400, "INVALID_PARAMETER"),
    Cause.BODY_TOO_LARGE: (413, "BODY_TOO_LARGE"),
    Cause.NOT_FOUND: (404, "NOT_FOUND"),
    Cause.METHOD_NOT_ALLOWED: (405, "METHOD_NOT_ALLOWED"),
    Cause.RESPONSE_UNKNOWN: (404, "RESPONSE_UNKNOWN"),
    Cause.SESSION_BUSY: (409, "SESSION_BUSY"),
    Cause.SESSION_QUEUE_FULL: (429, "SESSION_QUEUE_FULL"),
    Cause.WORKERS_LIMIT: (503, "WORKERS_LIMIT"),
    Cause.GRAPH_LIMIT: (503, "GRAPH_LIMIT"),
    Cause.SHUTTING_DOWN: (503, "SHUTTING_DOWN"),
    Cause.SERVER_STOPPED: (503, "SHUTTING_DOWN"),
    Cause.STORE_UNAVAILABLE: (503, "STORE_UNAVAILABLE"),
    Cause.GRAPH_UNKNOWN: (500, "GRAPH_UNKNOWN"),
    Cause.ADDONS_MISSING: (500, "ADDONS_MISSING"),
    Cause.GRAPH_INVALID: (500, "GRAPH_INVALID"),
    Cause.EXITED_BEFORE_READY: (502, "EXITED_BEFORE_READY"),
    Cause.CRASHED: (502, "WORKER_DIED"),
    Cause.UNAUTHORIZED: (401, "UNAUTHORIZED"),
    Cause.SCOPE_MISSING: (403, "SCOPE_MISSING"),
    Cause.INTERNAL: (500, "INTERNAL"),
}


@pytest.mark.parametrize("cause", STATUSES)
def test_statuses(cause: Cause) -> None:
    status, code = STATUSES[cause]
    assert error(Refusal(cause, "why")) == (status, {"error": {"code": code, "message": "why"}, "detail": "why"})


@pytest.mark.parametrize("cause", Cause)
def test_every_cause_has_a_short_upper_case_word(cause: Cause) -> None:
    word = code_of(cause)
    assert word.replace("_", "").isalpha()
    assert word.isupper()


@pytest.mark.parametrize("refusal", [Refusal(Cause.INTERNAL, "x" * 5000), BodyRefusal()])
def test_any_refusal_has_both_shapes(refusal: Refusal) -> None:
    _, body = error(refusal)
    told: Any = body["error"]
    assert isinstance(told["code"], str)
    assert len(told["message"]) <= 1000
    assert body["detail"] == told["message"]
