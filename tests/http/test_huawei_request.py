"""Huawei Cloud's agent call: which paths, headers and bodies are taken, and the published codes of the others."""

from typing import Any

import pytest

from supervisor.causes import Cause, Refusal
from supervisor.http.dialects.huawei_errors import error
from supervisor.http.dialects.huawei_request import check_stream, place_of, turn_request

ID = "8a6e0804-2bd0-4672-b79d-d97027f9071a"
PROJECT = "0123456789abcdef0123456789abcdef"
PLACE = place_of(PROJECT, "meeting-room", ID)


@pytest.mark.parametrize(
    ("project", "agent", "conversation", "session"),
    [
        (PROJECT, "meeting-room", ID, f"{PROJECT}/{ID}"),
        ("p", "a_B-9", ID.upper(), f"p/{ID}"),
        (
            "x" * 64,
            "y" * 64,
            "00000000-0000-0000-0000-000000000000",
            f"{'x' * 64}/00000000-0000-0000-0000-000000000000",
        ),
    ],
)
def test_what_a_path_names(project: str, agent: str, conversation: str, session: str) -> None:
    place = place_of(project, agent, conversation)
    assert (place.agent, place.session) == (agent, session)


@pytest.mark.parametrize(
    ("parts", "parameter"),
    [
        (("", "a", ID), "project_id"),
        (("x" * 65, "a", ID), "project_id"),
        (("a b", "a", ID), "project_id"),
        (("p\n", "a", ID), "project_id"),
        (("p", "a.b", ID), "agent_id"),
        (("p", "ä", ID), "agent_id"),
        (("p", "a", ""), "conversation_id"),
        (("p", "a", "not-a-uuid"), "conversation_id"),
        (("p", "a", ID.replace("-", "")), "conversation_id"),
        (("p", "a", f"{{{ID}}}"), "conversation_id"),
        (("p", "a", f"urn:uuid:{ID}"), "conversation_id"),
        (("p", "a", f"{ID}\n"), "conversation_id"),
        (("p", "a", f"{ID}0"), "conversation_id"),
        (("p", "a", ID.replace("8a", "8\u0661")), "conversation_id"),
        (("p", "a", ID.replace("8a", "8g")), "conversation_id"),
    ],
)
def test_paths_that_name_nothing(parts: tuple[str, str, str], parameter: str) -> None:
    with pytest.raises(Refusal) as refused:
        place_of(*parts)
    status, body = error(refused.value)
    assert (status, body["error_code"], body["error_msg"]) == (400, "PANGU.0010", f"parameter illegal: {parameter}")
    assert parameter in body["detail"]


@pytest.mark.parametrize("header", [None, "true", "TRUE", "True", " true "])
def test_a_stream_is_the_default(header: str | None) -> None:
    check_stream(header)


@pytest.mark.parametrize("header", ["false", "False", "", "1", "yes", "true,true"])
def test_nothing_but_a_stream(header: str) -> None:
    with pytest.raises(Refusal) as refused:
        check_stream(header)
    status, body = error(refused.value)
    assert (status, body["error_code"], body["error_msg"]) == (400, "PANGU.0010", "parameter illegal: stream")


def test_a_question() -> None:
    wanted = turn_request(PLACE, {"query": " Is A12 free? ", "inputs": {"x": 1}, "stream": False})
    assert wanted.messages == [{"role": "user", "content": " Is A12 free? "}]
    assert (wanted.graph, wanted.session, wanted.user, wanted.kind) == ("meeting-room", PLACE.session, "", "chat")
    assert wanted.context == {"inputs": {"x": 1}, "stream": False}


@pytest.mark.parametrize(
    ("body", "code", "msg"),
    [
        ({}, "PANGU.3278", "required api parameter is not present: query"),
        ({"query": None}, "PANGU.3278", "required api parameter is not present: query"),
        ({"query": ""}, "PANGU.3278", "required api parameter is not present: query"),
        ({"query": " \n\u3000"}, "PANGU.3278", "required api parameter is not present: query"),
        ({"query": 7}, "PANGU.0010", "parameter illegal: query"),
        ({"query": ["x"]}, "PANGU.0010", "parameter illegal: query"),
        ({"query": {"text": "x"}}, "PANGU.0010", "parameter illegal: query"),
    ],
)
def test_no_question(body: Any, code: str, msg: str) -> None:
    with pytest.raises(Refusal) as refused:
        turn_request(PLACE, body)
    status, told = error(refused.value)
    assert (status, told["error_code"], told["error_msg"]) == (400, code, msg)


@pytest.mark.parametrize(
    ("cause", "status", "code", "msg"),
    [
        (Cause.UNAUTHORIZED, 401, "APIGW.0301", "Incorrect IAM authentication information"),
        (Cause.HOST_REFUSED, 403, "APIGW.0302", "The IAM user is not allowed to access the API"),
        (Cause.BODY_INVALID, 400, "PANGU.0010", "parameter illegal: body"),
        (Cause.BODY_TOO_LARGE, 413, "PANGU.0010", "parameter illegal: body"),
        (Cause.GRAPH_UNKNOWN, 404, "PANGU.3254", "The requested agent does not exist"),
        (Cause.METHOD_NOT_ALLOWED, 405, "APIGW.0101", "The API does not exist or has not been published"),
        (Cause.WORKERS_LIMIT, 429, "PANGU.3267", "too many requests"),
        (Cause.SESSION_QUEUE_FULL, 429, "PANGU.3267", "too many requests"),
        (Cause.SPAWN_FAILED, 500, "PANGU.0031", "Inner service exception"),
        (Cause.SHUTTING_DOWN, 503, "PANGU.0031", "Inner service exception"),
    ],
)
def test_refusals(cause: Cause, status: int, code: str, msg: str) -> None:
    body = {"error_code": code, "error_msg": msg, "detail": "why"}
    if cause is Cause.UNAUTHORIZED:
        del body["detail"]  # who may not call learns nothing else
    assert error(Refusal(cause, "why")) == (status, body)
