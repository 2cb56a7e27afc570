"""The door: the one middleware that every request passes.

It gives the request its id, answers OPTIONS, finds out who asks and whether that may be (as long as the server is open
it checks the Host header), turns every refusal and every unexpected error into the error body of the API the path
belongs to, and logs. The headers that must be on every response, also on streams, are set by a signal that aiohttp
sends for each of them.
"""

import asyncio
import itertools
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import structlog
from aiohttp import hdrs, web
from multidict import CIMultiDict

from supervisor.auth import ANYBODY
from supervisor.causes import EXPLANATIONS, Cause, Refusal
from supervisor.http import audit, docsgpt_paths
from supervisor.http.connections import Connections
from supervisor.http.hosts import Hosts
from supervisor.http.huawei_paths import AUTH_HEADER, is_agent_call
from supervisor.http.principals import enter, require
from supervisor.http.probes import PROBES
from supervisor.http.replies import refused
from supervisor.http.request_keys import NOTES, PRINCIPAL, REQUEST_ID
from supervisor.http.scopes import scopes_of

if TYPE_CHECKING:
    from supervisor.http.credentials import Credentials
    from supervisor.settings import Settings

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

OPEN: Final = frozenset({*PROBES, docsgpt_paths.HEALTH})  # neither token nor key nor a name of ours needed
QUIET: Final = frozenset({"/ping", *OPEN})  # logged at debug level only
MAX_REQUEST_ID: Final = 128
CORS: Final = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "*",
    "Access-Control-Allow-Headers": "*",
    "Access-Control-Expose-Headers": "*",
    "Access-Control-Allow-Credentials": "true",
}
X_REQUEST_ID: Final = "X-Request-ID"
CLIENT_GONE: Final = 499  # in the log only: the client did not wait for an answer

_CAUSE_OF_STATUS: Final = {
    404: Cause.NOT_FOUND,
    405: Cause.METHOD_NOT_ALLOWED,
    413: Cause.BODY_TOO_LARGE,
}


_WHY: Final = EXPLANATIONS[Cause.UNAUTHORIZED].message
_HOW: Final = EXPLANATIONS[Cause.UNAUTHORIZED].next_step


class Door:
    """What every request passes."""

    def __init__(self, settings: "Settings", connections: Connections, credentials: "Credentials") -> None:
        self._connections = connections
        self._served = connections.served
        self._hosts = Hosts([address.host for address in settings.addresses], settings.allowed_hosts)
        self._strict = settings.strict_status
        self._credentials = credentials
        self._settings = settings
        self._open_headers = CIMultiDict(CORS | {hdrs.SERVER: "agentd"})
        self._headers = self._open_headers.copy()
        self._headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = "*, Authorization"  # the wildcard does not cover it
        self._prefix = secrets.token_hex(4)
        self._numbers = itertools.count(1)

    @web.middleware
    async def handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer one request, never with an exception."""
        began = time.perf_counter()
        self._served(request.protocol)
        path = request.path
        request_id = request[REQUEST_ID] = self._request_id(request)
        quiet = path in QUIET
        if not quiet:
            structlog.contextvars.bind_contextvars(request_id=request_id)
        response: web.StreamResponse
        if request.method == hdrs.METH_OPTIONS:
            self._credentials.look()
            response = web.Response(status=200 if path in docsgpt_paths.PATHS else 204)
        else:
            try:
                if path not in OPEN or "details" in request.query:
                    self._admit(request)
                response = await handler(request)
            except Refusal as refusal:
                response = refused(refusal, request.rel_url.path_safe, strict=self._strict)
            except web.HTTPException as error:
                response = self._translated(request, error)
            except asyncio.CancelledError:  # the client has gone
                self._log(log.info, request, web.Response(status=CLIENT_GONE), began)
                raise
            except Exception as error:  # noqa: BLE001 - the last resort: the caller gets an answer, the log the rest
                response = self._failed(request, request_id, error)
        if not quiet:
            self._log(log.info, request, response, began)
            audit.tell(request, response)
        elif self._settings.log_level == "debug":
            self._log(log.debug, request, response, began)
        return response

    async def finish_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Set the headers that are on every response."""
        response.headers.update(self._open_headers if self._credentials.open else self._headers)
        if self._connections.leaving:  # the next request goes to our successor
            response.force_close()
            response.headers[hdrs.CONNECTION] = "close"
        if request_id := request.get(REQUEST_ID):
            response.headers[X_REQUEST_ID] = request_id
        if request.path in docsgpt_paths.PATHS:
            response.headers.update(docsgpt_paths.CORS)
        principal = request.get(PRINCIPAL)
        if principal is not None and principal.bounds.origins:
            self._tell_origin(request, response, principal.bounds.origins)

    @staticmethod
    def _tell_origin(request: web.Request, response: web.StreamResponse, origins: tuple[str, ...]) -> None:
        """Let pages of the key's own origins read the answer, and no others."""
        origin = request.headers.get(hdrs.ORIGIN, "")
        known = origin.lower() in origins
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin if known else origins[0]
        response.headers[hdrs.VARY] = hdrs.ORIGIN

    def _request_id(self, request: web.Request) -> str:
        given = request.headers.get(X_REQUEST_ID)
        if given and len(given) <= MAX_REQUEST_ID and given.isascii() and given.isprintable():
            return given
        return f"{self._prefix}-{next(self._numbers):x}"

    def _admit(self, request: web.Request) -> None:
        """Find out who asks, and note it with the request. Raises Refusal."""
        path = request.rel_url.path_safe  # by which it was routed
        header = request.headers.get(hdrs.AUTHORIZATION, "")
        if path in docsgpt_paths.PATHS:  # the body may have a key that counts more; its handler looks
            principal = self._credentials.bearer(_bearer(header, needs_scheme=False))
            if principal is None:
                if self._credentials.open:
                    self._check_host(request)
                return
        elif is_agent_call(path):  # the header is needed also while the server is open
            secret = _secret(request.headers.get(AUTH_HEADER, ""))
            principal = None if secret is None else self._credentials.principal(secret)
        else:
            principal = self._credentials.principal(_bearer(header))
        if principal is None:
            where = f"send it in the header {AUTH_HEADER}" if is_agent_call(path) else _HOW
            raise Refusal(Cause.UNAUTHORIZED, f"{Cause.UNAUTHORIZED}: {_WHY}; {where}")
        enter(request, principal)
        if principal is ANYBODY:
            self._check_host(request)
        elif scopes := scopes_of(path):
            require(request, *scopes)

    def _check_host(self, request: web.Request) -> None:
        if (host := request.headers.get(hdrs.HOST)) not in self._hosts.known:
            self._hosts.admit(host or "")

    def _translated(self, request: web.Request, error: web.HTTPException) -> web.Response:
        """What aiohttp itself refuses (no such path, wrong method), in our form."""
        details = {
            404: f"there is nothing at {request.path}",
            405: f"{request.path} does not take {request.method}; allowed: {error.headers.get(hdrs.ALLOW, 'nothing')}",
        }
        cause = _CAUSE_OF_STATUS.get(error.status, Cause.BODY_INVALID)
        response = refused(
            Refusal(cause, details.get(error.status, error.reason)), request.rel_url.path_safe, strict=True
        )
        if allow := error.headers.get(hdrs.ALLOW):
            response.headers[hdrs.ALLOW] = allow
        return response

    def _failed(self, request: web.Request, request_id: str, error: Exception) -> web.Response:
        """The answer to an unexpected error, which only the log tells."""
        fields = {"method": request.method, "path": request.path, "request_id": request_id}
        begun = request.writer.output_size > 0
        if isinstance(error, ConnectionError) and (begun or request.transport is None):
            log.info("http.disconnected", error=str(error), **fields)
            status = CLIENT_GONE
        else:
            log.error("http.failed", exc_info=error, **fields)
            status = 500
        if begun:  # of a stream the status is sent already; that it breaks off is what tells the reader
            request.protocol.force_close()
        if begun or status == CLIENT_GONE:
            return web.Response(status=status)  # for the log; nobody gets it
        detail = f"unexpected error; the log has it under request id {request_id}"
        return refused(Refusal(Cause.INTERNAL, detail), request.rel_url.path_safe, strict=self._strict)

    @staticmethod
    def _log(write: Callable[..., object], request: web.Request, response: web.StreamResponse, began: float) -> None:
        write(
            "http.request",
            method=request.method,
            path=request.path,
            status=response.status,
            ms=round((time.perf_counter() - began) * 1000, 3),
            request_id=request[REQUEST_ID],
            **request.get(NOTES, {}),
        )


def _bearer(header: str, *, needs_scheme: bool = True) -> bytes | None:
    """The token or key of a header Authorization."""
    scheme, _, given = header.strip().partition(" ")
    if scheme.lower() == "bearer":
        return _secret(given)
    return None if needs_scheme else _secret(header)


def _secret(given: str) -> bytes | None:
    return given.strip().encode("utf-8", "surrogateescape") or None
