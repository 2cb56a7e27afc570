"""Every refusal and failure as DocsGPT's clients read it, and what their people must not read in it."""

import json
from typing import Any

import pytest

from supervisor.causes import EXPLANATIONS, Cause, Refusal
from supervisor.http.dialects.docsgpt_errors import (
    SHAPE,
    error,
    error_frame,
    failure,
    feedback_error,
    frame_of,
    is_framed,
    text_of,
)
from supervisor.http.replies import refused

BUSY = "Exceeding usage limit, please try again later."

# A cause, the status and the body; None: the text is not published.
TABLE: list[tuple[Cause, int, dict[str, Any]]] = [
    (Cause.MEDIA_TYPE_REFUSED, 415, {"message": "why"}),
    (Cause.BODY_INVALID, 400, {"message": "why"}),
    (Cause.BODY_TOO_LARGE, 413, {"success": False, "message": "why"}),
    (Cause.TOKEN_INVALID, 401, {"message": "Authentication error: invalid token", "error": "invalid_token"}),
    (Cause.TOKEN_EXPIRED, 401, {"message": "Authentication error: token expired", "error": "token_expired"}),
    (Cause.KEY_UNKNOWN, 401, {"success": False, "message": "Invalid API key"}),
    (Cause.UNAUTHORIZED, 401, {"error": "Unauthorized"}),
    (Cause.CONVERSATION_UNKNOWN, 400, {"error": "Conversation not found"}),
    (Cause.KEY_LIMIT, 429, {"success": False, "message": BUSY}),
    (Cause.SESSION_BUSY, 409, {"error": "why"}),
    (Cause.SESSION_QUEUE_FULL, 409, {"error": "why"}),
    (Cause.WORKERS_LIMIT, 503, {"error": None}),
    (Cause.GRAPH_LIMIT, 503, {"error": None}),
    (Cause.SPAWN_FAILED, 503, {"error": None}),
    (Cause.START_TIMEOUT, 503, {"error": None}),
    (Cause.EXITED_BEFORE_READY, 503, {"error": None}),
    (Cause.SHUTTING_DOWN, 503, {"error": None}),
    (Cause.STORE_UNAVAILABLE, 503, {"error": None}),
    (Cause.SCOPE_MISSING, 403, {"error": "why"}),
    (Cause.HOST_REFUSED, 403, {"error": None}),
    (Cause.NOT_FOUND, 404, {"error": "why"}),
    (Cause.METHOD_NOT_ALLOWED, 405, {"error": "why"}),
    (Cause.GRAPH_INVALID, 500, {"error": None}),
    (Cause.PROPERTY_UNREADABLE, 500, {"error": None}),
    (Cause.INTERNAL, 500, {"error": "why"}),
]


@pytest.mark.parametrize(("cause", "status", "body"), TABLE)
def test_refusals(cause: Cause, status: int, body: dict[str, Any]) -> None:
    told, said = error(Refusal(cause, "why"))
    assert told == status
    assert said.keys() == body.keys()
    for key, value in body.items():
        assert said[key] == value or (value is None and said[key] and said[key] != "why")


@pytest.mark.parametrize("cause", Cause)
def test_every_refusal_at_every_path(cause: Cause) -> None:
    for path in ("/api/answer", "/stream", "/api/feedback", "/api/health"):
        response = refused(Refusal(cause, "why"), path, strict=False)
        assert response.status >= 400
        assert response.headers["Agentd-Cause"] == cause
        assert ("Retry-After" in response.headers) >= (response.status == 503)
        assert isinstance(response.body, bytes)
        if path == "/stream" and cause not in SHAPE:
            assert response.content_type == "text/event-stream"
            assert response.headers["Cache-Control"] == "no-store"
            line, rest = response.body.split(b"\n", 1)
            assert rest == b"\n"
            frame = json.loads(line.removeprefix(b"data: "))
            assert frame.keys() == {"type", "error"}
            assert frame["type"] == "error"
            assert frame["error"]
        else:
            assert response.content_type == "application/json"
            body = json.loads(response.body)
            assert any(isinstance(body.get(key), str) and body[key] for key in ("message", "error"))


def test_what_is_framed() -> None:
    assert is_framed(Cause.KEY_UNKNOWN, "/stream")
    assert not is_framed(Cause.KEY_UNKNOWN, "/api/answer")
    for cause in (Cause.BODY_INVALID, Cause.BODY_TOO_LARGE, Cause.MEDIA_TYPE_REFUSED, Cause.TOKEN_INVALID):
        assert not is_framed(cause, "/stream")
    assert frame_of({"success": False, "message": BUSY}) == error_frame(BUSY)
    assert error_frame('é\u2028\ud800"\n🥊') == (
        b'data: {"type": "error", "error": "\\u00e9\\u2028\\ud800\\"\\n\\ud83e\\udd4a"}\n\n'
    )


def test_feedback_on_what_is_not_there() -> None:
    assert feedback_error(Refusal(Cause.CONVERSATION_UNKNOWN)) == (
        404,
        {"success": False, "message": "Conversation not found"},
    )
    assert feedback_error(Refusal(Cause.KEY_UNKNOWN)) == error(Refusal(Cause.KEY_UNKNOWN))


@pytest.mark.parametrize(
    ("cause", "status"),
    [
        (Cause.AGENT_ERROR, 400),
        (Cause.BODY_INVALID, 400),
        (Cause.CRASHED, 500),
        (Cause.EXITED, 500),
        (Cause.OUT_OF_MEMORY, 500),
        (Cause.TURN_SILENT, 500),
        (Cause.TURN_TIMEOUT, 500),
        (Cause.RESPONSE_INVALID, 500),
        (Cause.PROTOCOL_VIOLATED, 500),
        (Cause.NOT_IMPLEMENTED, 500),
        (Cause.TURN_CANCELLED, 500),
        (Cause.SERVER_STOPPED, 503),
    ],
)
def test_failures(cause: Cause, status: int) -> None:
    told, body = failure(cause, "no luck")
    assert (told, body.keys()) == (status, {"error"})
    assert body["error"] in ("no luck", EXPLANATIONS[cause].message)
    assert failure(Cause.AGENT_ERROR, "no luck") == (400, {"error": "no luck"})


@pytest.mark.parametrize(
    ("detail", "said"),
    [
        ("no luck", "no luck"),
        ("[Errno 2] No such file or directory: '/srv/agents/secret/plan.txt'", "plan.txt'"),
        ("cannot open /etc/agentd/keys.json, sorry", "cannot open keys.json, sorry"),
        ("see https://example.com/a/b or 1/2/3", "see https://example.com/a/b or 1/2/3"),
        ("bad key sk-abcdefghijklmnop", "bad key sk-..."),
        ("agentd_1f0c9a2e_" + "x" * 43, "agentd_..."),
        ("Authorization: Bearer abcdefgh.ijkl", "Authorization: Bearer ..."),
        ('it failed\nTraceback (most recent call last):\n  File "/a/b.py"', "it failed"),
        ("Traceback (most recent call last):\n  x", EXPLANATIONS[Cause.AGENT_ERROR].message),
        ("", EXPLANATIONS[Cause.AGENT_ERROR].message),
        ("half \ud83e", "half \ufffd"),
        ("x" * 5000, "x" * 999 + "…"),
    ],
)
def test_what_people_are_told_of_an_agents_error(detail: str, said: str) -> None:
    text = text_of(Cause.AGENT_ERROR, detail)
    assert text.endswith(said)
    assert "/srv" not in text
    assert "/etc" not in text


def test_what_a_server_knows_of_itself_is_not_told() -> None:
    for cause in (Cause.SPAWN_FAILED, Cause.GRAPH_INVALID, Cause.PROPERTY_UNREADABLE, Cause.STORE_UNAVAILABLE):
        assert "secret" not in json.dumps(error(Refusal(cause, "secret")))
        assert "secret" not in json.dumps(failure(cause, "secret"))
