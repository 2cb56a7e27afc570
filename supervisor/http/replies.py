"""aiohttp responses with the headers every JSON answer has; the CORS headers are the server's (server.py)."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from aiohttp import hdrs, web
from multidict import CIMultiDict

from supervisor.causes import Cause, Refusal
from supervisor.http.dialects import agentscope_errors, docsgpt_errors, huawei_errors, openai_errors, reminix_errors
from supervisor.http.envelope import (
    CONTENT_TYPE,
    NOTHING,
    RETRY_AFTER,
    ROWS,
    encode,
    failure,
    native_failure,
    status_of,
    success,
)
from supervisor.http.huawei_paths import is_agent_call

CAUSE_HEADER: Final = "Agentd-Cause"  # TEN's codes each stand for several causes; this tells which

NATIVE: Final = frozenset({"/channels", "/turns", "/events", "/ledger", "/drain", "/openapi.json"})
CLIENT_ERROR: Final = 400
TELL_HOW: Final = frozenset({Cause.UNAUTHORIZED, Cause.TOKEN_INVALID, Cause.TOKEN_EXPIRED})

Tell = Callable[[Refusal], tuple[int, dict[str, Any]]]  # status and body of a refusal

# Whose errors are told at such a path and below it.
DIALECTS: Final[Mapping[str, Tell]] = {
    "/agent/": reminix_errors.error,
    "/agents/": reminix_errors.error,
    "/manifest/": reminix_errors.error,
    "/process/": agentscope_errors.error,
    "/compatible-mode/": openai_errors.error,
    "/v1/": openai_errors.error,
    "/api/feedback/": docsgpt_errors.feedback_error,
    "/api/": docsgpt_errors.error,
    f"{docsgpt_errors.STREAM}/": docsgpt_errors.error,
}

DOCSGPT: Final = (docsgpt_errors.error, docsgpt_errors.feedback_error)

_HEADERS: Final = CIMultiDict({hdrs.CONTENT_TYPE: CONTENT_TYPE})
_SUCCESS: Final = success()


def json_reply(body: bytes, status: int = 200) -> web.Response:
    """A response with a JSON body that is encoded already."""
    return web.Response(body=body, status=status, headers=_HEADERS)


def ok() -> web.Response:
    """TEN's plain success."""
    return web.Response(body=_SUCCESS, headers=_HEADERS)


def answer(data: Any) -> web.Response:
    """TEN's success with data."""
    return json_reply(success(data))


def error_reply(cause: Cause, status: int, body: bytes) -> web.Response:
    """The answer to a request that was refused, or to a turn that failed, with the headers that tell of it."""
    response = json_reply(body, status)
    response.headers[CAUSE_HEADER] = cause.value
    if status >= CLIENT_ERROR and (seconds := RETRY_AFTER.get(cause)) is not None:
        response.headers[hdrs.RETRY_AFTER] = str(seconds)
    return response


def native(data: Any) -> web.Response:
    """A good answer of the native API."""
    return json_reply(encode(data))


def is_native(path: str) -> bool:
    """Whether a path belongs to the native API, also when nothing is there."""
    return path in NATIVE or path.startswith("/channels/")


def refused(refusal: Refusal, path: str, *, strict: bool, more: Mapping[str, Any] = NOTHING) -> web.Response:
    """The answer to a request that is refused, in the manner of the API its path belongs to.

    `more` is what the native API tells besides.
    """
    cause = refusal.cause
    tell = _dialect_of(path)
    if tell is not None:
        status, body = tell(refusal)
        response = error_reply(cause, status, encode(body))
        if tell in DOCSGPT:
            _as_docsgpt(response, cause, path, body)
        if cause is Cause.INTERNAL:  # the turn may have run, and OpenAI's clients try again by themselves
            response.headers["x-should-retry"] = "false"
    elif is_native(path):
        response = error_reply(cause, ROWS[cause].status, native_failure(refusal, more))
    else:
        response = error_reply(cause, status_of(cause, path, strict=strict), failure(refusal, path))
    if refusal.retry_after is not None:
        response.headers[hdrs.RETRY_AFTER] = str(refusal.retry_after)
    if cause in TELL_HOW and not is_agent_call(path):
        response.headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
    return response


def _dialect_of(path: str) -> Tell | None:
    """How the API that a path belongs to tells refusals; None: it is one of ours or TEN's."""
    if is_agent_call(path):  # among paths of OpenAI's
        return huawei_errors.error
    return next((tell for prefix, tell in DIALECTS.items() if f"{path}/".startswith(prefix)), None)


def _as_docsgpt(response: web.Response, cause: Cause, path: str, body: dict[str, Any]) -> None:
    """Make a refusal what DocsGPT's clients can take it for: always with a time, at its stream's path a frame."""
    if response.status == docsgpt_errors.UNAVAILABLE:
        response.headers.setdefault(hdrs.RETRY_AFTER, str(docsgpt_errors.RETRY_SECONDS))
    if docsgpt_errors.is_framed(cause, path):
        response.body = docsgpt_errors.frame_of(body)
        response.headers[hdrs.CONTENT_TYPE] = "text/event-stream; charset=utf-8"
        response.headers[hdrs.CACHE_CONTROL] = "no-store"
        response.headers["X-Accel-Buffering"] = "no"
