"""The HTTP application: routes, and the one middleware every request passes.

The middleware gives the request its id, answers OPTIONS, checks the token or key and its scope (as long as the server
is open the Host header), turns every refusal and every unexpected error into the error body of the API the path belongs
to, and logs. The headers that must be on every response, also on streams, are set by a signal that aiohttp sends for
each of them.
"""

import asyncio
import itertools
import resource
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import structlog
from aiohttp import hdrs, web
from multidict import CIMultiDict

from supervisor.auth import ANYBODY, MASTER
from supervisor.causes import EXPLANATIONS, Cause, Refusal
from supervisor.http.agentscope import ProcessApi
from supervisor.http.channel_logs import LogsApi
from supervisor.http.channels import ChannelsApi, Sampler
from supervisor.http.completions import CompletionsApi
from supervisor.http.connections import CONNECTIONS, Connections, most_connections
from supervisor.http.control import ControlApi
from supervisor.http.dialects.base import TurnHandler
from supervisor.http.events import EventsApi
from supervisor.http.hosts import Hosts
from supervisor.http.huawei import HuaweiApi
from supervisor.http.huawei_paths import AUTH_HEADER, is_agent_call
from supervisor.http.kept import Kept, Shelf
from supervisor.http.ledger import LedgerApi, Records
from supervisor.http.openapi import DescriptionApi
from supervisor.http.owned import OwnedTasks
from supervisor.http.probes import PROBES, Details, ProbesApi
from supervisor.http.reminix import ReminixApi
from supervisor.http.replies import refused
from supervisor.http.request_keys import NOTES, PRINCIPAL, REQUEST_ID
from supervisor.http.responses import ResponsesApi
from supervisor.http.scopes import scope_of
from supervisor.http.streams import Streams
from supervisor.http.turns import TurnsApi
from supervisor.http.vectors import VectorsApi
from supervisor.setting_types import is_loopback

if TYPE_CHECKING:
    from supervisor.catalog import GraphCatalog
    from supervisor.channels.feed import Feed
    from supervisor.channels.table import ChannelTable
    from supervisor.keys import Keyring
    from supervisor.settings import Settings
    from supervisor.turns.sessions import Sessions

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

QUIET: Final = frozenset({"/ping", *PROBES})  # logged at debug level only
OPEN: Final = PROBES  # neither token nor key nor a name of ours needed
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
DRAIN_MARGIN_SECONDS: Final = 5.0

_CAUSE_OF_STATUS: Final = {
    404: Cause.NOT_FOUND,
    405: Cause.METHOD_NOT_ALLOWED,
    413: Cause.BODY_TOO_LARGE,
}


def build_app(
    settings: "Settings",
    table: "ChannelTable",
    catalog: "GraphCatalog",
    *,
    sample: Sampler,
    details: Details,
    sessions: "Sessions",
    lives: "Feed",
    records: Records,
    shelf: Shelf,
    keyring: "Keyring",
) -> web.Application:
    """The application for `table`.

    `sample` measures channels (bounded by a timeout here), `details` gives the data of ``/health?details=1``; `lives`
    tells what happens to channels, `records` what has become of them; `shelf` keeps answers; `keyring` knows who may
    call. On shutdown streams end by themselves; on clean-up the application waits for starts and stops that requests
    began, so the table must still live then, or have refused them. Run it with `make_runner` and `Site` of
    connections.py.
    """
    owned = OwnedTasks()
    streams = Streams()
    handler = TurnHandler(sessions, streams)
    kept = Kept(sessions, shelf)
    process = ProcessApi(settings, catalog, sessions, handler, kept)
    apis = (
        ProbesApi(details, sessions),
        ControlApi(settings, table, catalog, owned, process.interrupt),
        ChannelsApi(settings, table, sample, owned, sessions, records),
        LogsApi(settings, table, streams),
        EventsApi(table, lives, sessions, streams),
        TurnsApi(settings, sessions, handler),
        LedgerApi(records),
        process,
        ResponsesApi(settings, catalog, handler, kept, streams),
        CompletionsApi(settings, catalog, handler),
        ReminixApi(settings, catalog, handler),
        HuaweiApi(settings, catalog, handler),
        DescriptionApi(settings),
    )
    vectors = VectorsApi(settings, table, owned)
    open_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    connections = Connections(most_connections(settings, open_files), settings.head_seconds)
    door = _Door(settings, connections, keyring)
    app = web.Application(middlewares=[door.handle], client_max_size=settings.body_limit_bytes)
    for api in (*apis, vectors):
        app.add_routes(api.routes())
    app.on_response_prepare.append(door.finish_headers)
    app[CONNECTIONS] = connections

    async def start_up(_: web.Application) -> None:
        _tell(settings, connections.most, open_files, unprotected=keyring.open)
        await vectors.clear_leftovers()

    async def shut_down(_: web.Application) -> None:
        streams.close()
        connections.close()

    async def clean_up(_: web.Application) -> None:
        longest = max(settings.worker_start_timeout_seconds, settings.worker_stop_grace_seconds)
        await owned.drain(longest + DRAIN_MARGIN_SECONDS)
        await kept.drain(DRAIN_MARGIN_SECONDS)

    app.on_startup.append(start_up)
    app.on_shutdown.append(shut_down)
    app.on_cleanup.append(clean_up)
    return app


def _tell(settings: "Settings", most: int, open_files: int, *, unprotected: bool) -> None:
    """Log what an operator should know about how open the server is."""
    if unprotected:
        hosts = [address.host for address in settings.addresses]
        local = all(map(is_loopback, hosts))
        write = log.info if local else log.warning
        write("server.unprotected", hosts=hosts, loopback=local, allowed_hosts=list(settings.allowed_hosts))
    if most < settings.connections_max:
        log.warning(
            "http.connections_bounded", most=most, connections_max=settings.connections_max, open_files=open_files
        )


class _Door:
    """What every request passes."""

    def __init__(self, settings: "Settings", connections: Connections, keyring: "Keyring") -> None:
        self._served = connections.served
        self._hosts = Hosts([address.host for address in settings.addresses], settings.allowed_hosts)
        self._strict = settings.strict_status
        self._keyring = keyring
        self._log_quiet = settings.log_level == "debug"
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
            self._keyring.look()
            response = web.Response(status=204)
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
        elif self._log_quiet:
            self._log(log.debug, request, response, began)
        return response

    async def finish_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Set the headers that are on every response."""
        response.headers.update(self._open_headers if self._keyring.open else self._headers)
        if request_id := request.get(REQUEST_ID):
            response.headers[X_REQUEST_ID] = request_id

    def _request_id(self, request: web.Request) -> str:
        given = request.headers.get(X_REQUEST_ID)
        if given and len(given) <= MAX_REQUEST_ID and given.isascii() and given.isprintable():
            return given
        return f"{self._prefix}-{next(self._numbers):x}"

    def _admit(self, request: web.Request) -> None:
        """Find out who asks, and note it with the request. Raises Refusal."""
        path = request.rel_url.path_safe  # by which it was routed
        if is_agent_call(path):
            secret = _secret(request.headers.get(AUTH_HEADER, ""))
            principal = None if secret is None else self._keyring.principal(secret)
            where = f"send it in the header {AUTH_HEADER}"
        else:
            principal = self._keyring.principal(_bearer(request.headers.get(hdrs.AUTHORIZATION, "")))
            where = EXPLANATIONS[Cause.UNAUTHORIZED].next_step
        if principal is None:
            message = EXPLANATIONS[Cause.UNAUTHORIZED].message
            raise Refusal(Cause.UNAUTHORIZED, f"{Cause.UNAUTHORIZED}: {message}; {where}")
        request[PRINCIPAL] = principal
        if principal is ANYBODY:
            if (host := request.headers.get(hdrs.HOST)) not in self._hosts.known:
                self._hosts.admit(host or "")
        elif principal is not MASTER:
            request[NOTES] = {"key": principal.name}
            scope = scope_of(path)
            if scope is not None and not principal.allows(scope):
                scopes = ", ".join(sorted(principal.scopes))
                raise Refusal(
                    Cause.SCOPE_MISSING, f"key {principal.name} has the scopes {scopes}; {request.path} needs {scope}"
                )

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


def _bearer(header: str) -> bytes | None:
    """The token or key of a header Authorization."""
    scheme, _, given = header.partition(" ")
    return _secret(given) if scheme.lower() == "bearer" else None


def _secret(given: str) -> bytes | None:
    return given.strip().encode("utf-8", "surrogateescape") or None
