"""The HTTP application: routes, and the one middleware every request passes.

The middleware gives the request its id, answers OPTIONS, checks the bearer token (without one the Host header), turns
every refusal and every unexpected error into the error body of the API the path belongs to, and logs. The headers that
must be on every response, also on streams, are set by a signal that aiohttp sends for each of them.
"""

import asyncio
import hmac
import itertools
import resource
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import structlog
from aiohttp import hdrs, web
from multidict import CIMultiDict

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
from supervisor.http.kept import Kept, Shelf
from supervisor.http.ledger import LedgerApi, Records
from supervisor.http.openapi import DescriptionApi
from supervisor.http.owned import OwnedTasks
from supervisor.http.probes import PROBES, Details, ProbesApi
from supervisor.http.replies import refused
from supervisor.http.request_keys import NOTES, REQUEST_ID
from supervisor.http.responses import ResponsesApi
from supervisor.http.streams import Streams
from supervisor.http.turns import TurnsApi
from supervisor.http.vectors import VectorsApi
from supervisor.setting_types import is_loopback

if TYPE_CHECKING:
    from supervisor.catalog import GraphCatalog
    from supervisor.channels.feed import Feed
    from supervisor.channels.table import ChannelTable
    from supervisor.settings import Settings
    from supervisor.turns.sessions import Sessions

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

QUIET: Final = frozenset({"/ping", *PROBES})  # logged at debug level only
OPEN: Final = PROBES  # neither token nor a name of ours needed
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
) -> web.Application:
    """The application for `table`.

    `sample` measures channels (bounded by a timeout here), `details` gives the data of ``/health?details=1``; `lives`
    tells what happens to channels, `records` what has become of them; `shelf` keeps answers. On shutdown streams end by
    themselves; on clean-up the application waits for starts and stops that requests began, so the table must still live
    then, or have refused them. Run it with `make_runner` and `Site` of connections.py.
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
        DescriptionApi(settings),
    )
    vectors = VectorsApi(settings, table, owned)
    open_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    connections = Connections(most_connections(settings, open_files), settings.head_seconds)
    door = _Door(settings, connections)
    app = web.Application(middlewares=[door.handle], client_max_size=settings.body_limit_bytes)
    for api in (*apis, vectors):
        app.add_routes(api.routes())
    app.on_response_prepare.append(door.finish_headers)
    app[CONNECTIONS] = connections

    async def start_up(_: web.Application) -> None:
        _tell(settings, connections.most, open_files)
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


def _tell(settings: "Settings", most: int, open_files: int) -> None:
    """Log what an operator should know about how open the server is."""
    if settings.token is None:
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

    def __init__(self, settings: "Settings", connections: Connections) -> None:
        self._served = connections.served
        self._hosts = Hosts([address.host for address in settings.addresses], settings.allowed_hosts)
        self._strict = settings.strict_status
        self._token = None if settings.token is None else settings.token.get_secret_value().encode()
        self._log_quiet = settings.log_level == "debug"
        allowed = "*" if self._token is None else "*, Authorization"  # the wildcard does not cover it
        self._headers = CIMultiDict(CORS | {"Access-Control-Allow-Headers": allowed, hdrs.SERVER: "agentd"})
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
            response = web.Response(status=204)
        else:
            try:
                if self._token is not None:
                    self._admit(request, path)
                elif (host := request.headers.get(hdrs.HOST)) not in self._hosts.known:
                    self._admit_host(request, path, host or "")
                response = await handler(request)
            except Refusal as refusal:
                response = refused(refusal, path, strict=self._strict)
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
        response.headers.update(self._headers)
        if request_id := request.get(REQUEST_ID):
            response.headers[X_REQUEST_ID] = request_id

    def _request_id(self, request: web.Request) -> str:
        given = request.headers.get(X_REQUEST_ID)
        if given and len(given) <= MAX_REQUEST_ID and given.isascii() and given.isprintable():
            return given
        return f"{self._prefix}-{next(self._numbers):x}"

    def _admit(self, request: web.Request, path: str) -> None:
        if _is_open(request, path):
            return
        scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        matches = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self._token or b"")
        if scheme.lower() != "bearer" or not matches:
            explanation = EXPLANATIONS[Cause.UNAUTHORIZED]
            raise Refusal(Cause.UNAUTHORIZED, f"{Cause.UNAUTHORIZED}: {explanation.message}; {explanation.next_step}")

    def _admit_host(self, request: web.Request, path: str, host: str) -> None:
        if not _is_open(request, path):
            self._hosts.admit(host)

    def _translated(self, request: web.Request, error: web.HTTPException) -> web.Response:
        """What aiohttp itself refuses (no such path, wrong method), in our form."""
        details = {
            404: f"there is nothing at {request.path}",
            405: f"{request.path} does not take {request.method}; allowed: {error.headers.get(hdrs.ALLOW, 'nothing')}",
        }
        cause = _CAUSE_OF_STATUS.get(error.status, Cause.BODY_INVALID)
        response = refused(Refusal(cause, details.get(error.status, error.reason)), request.path, strict=True)
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
        return refused(Refusal(Cause.INTERNAL, detail), request.path, strict=self._strict)

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


def _is_open(request: web.Request, path: str) -> bool:
    """Whether a request is a probe's, that everybody may make."""
    return path in OPEN and "details" not in request.query
