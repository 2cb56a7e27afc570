"""Bounds on connections: how many there are, and how long one may stay without a request, or without reading.

aiohttp has a timer for the time between two requests; for the first one it is the same, and much too long for a limit
on those who connect and send nothing, or half a request. A connection is therefore watched here from its opening until
its first request is handed to the application; then aiohttp's timer takes over.
"""

import asyncio
import resource
import socket
from typing import TYPE_CHECKING, Any, Final, cast

import structlog
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong

from supervisor.listener import BACKLOG, url_of

if TYPE_CHECKING:
    from supervisor.settings import Settings

log = structlog.get_logger()

# Longer than proxies and clients keep a connection they do not use: who closes first must not be the server, because
# a request that crosses its end is lost.
KEEP_ALIVE_SECONDS: Final = 75.0
UNREAD_SECONDS: Final = 60.0
FILES_OF_SERVER: Final = 64
FILES_PER_CHANNEL: Final = 4
FILES_PER_CONNECTION: Final = 3  # its socket, and the two files of a log it reads
LEAST_CONNECTIONS: Final = 16
TELL_SECONDS: Final = 10.0
MOST_FIELD: Final = 32 * 1024  # bytes of one header field: tokens of clouds have several kilobytes

FULL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nServer: agentd\r\nAccess-Control-Allow-Origin: *\r\n"
    b"Retry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)


def most_connections(settings: "Settings", open_files: int) -> int:
    """How many connections leave enough of the `open_files` this process may have to its channels."""
    if open_files == resource.RLIM_INFINITY:
        return settings.connections_max
    spare = open_files - FILES_OF_SERVER - FILES_PER_CHANNEL * settings.workers_max
    return min(settings.connections_max, max(LEAST_CONNECTIONS, spare // FILES_PER_CONNECTION))


class Connections:
    """The connections of one server: at most `most`, each with `head_seconds` for the head of its first request."""

    def __init__(self, most: int, head_seconds: float) -> None:
        self.most = most
        self.leaving = False  # every answer is the last one of its connection
        self._head_seconds = head_seconds
        self._fresh: dict[web.RequestHandler, asyncio.TimerHandle] = {}
        self._refused = 0
        self._told_at = -TELL_SECONDS

    def accept(self, server: web.Server) -> asyncio.Protocol:
        """The protocol of a new connection; a factory for `loop.create_server`."""
        loop = asyncio.get_running_loop()
        if len(server.connections) >= self.most:
            self._tell(loop.time())
            return _Full()
        connection = server()
        connection.__class__ = _Connection  # the server makes its own class only; the two differ in one method
        self._fresh[connection] = loop.call_later(self._head_seconds, self._expire, connection)
        return connection

    def served(self, connection: web.RequestHandler) -> None:
        """A request of this connection has come. On the hottest path: one look-up."""
        timer = self._fresh.pop(connection, None)
        if timer is not None:
            timer.cancel()

    @staticmethod
    def close_idle(server: web.Server) -> None:
        """Close the connections that wait for a request."""
        for connection in server.connections:
            if isinstance(connection, _Connection):
                connection.close_if_idle()

    @staticmethod
    def busy(server: web.Server) -> int:
        """How many connections have a request at work."""
        return sum(isinstance(connection, _Connection) and connection.is_busy for connection in server.connections)

    def close(self) -> None:
        """Watch none any more."""
        while self._fresh:
            self._fresh.popitem()[1].cancel()

    def _expire(self, connection: web.RequestHandler) -> None:
        del self._fresh[connection]
        if connection.connected:
            log.debug("http.head_late", after_seconds=self._head_seconds)
            connection.force_close()

    def _tell(self, now: float) -> None:
        self._refused += 1
        if now - self._told_at >= TELL_SECONDS:
            log.warning("http.connections_full", most=self.most, refused=self._refused)
            self._told_at, self._refused = now, 0


CONNECTIONS: Final = web.AppKey("connections", Connections)


class Site(web.BaseSite):
    """The application of `runner` on a listening socket, within the bounds of its `Connections`."""

    __slots__ = ("_listener",)

    def __init__(self, runner: web.AppRunner, listener: socket.socket) -> None:
        super().__init__(runner)
        self._listener = listener

    @property
    def name(self) -> str:
        """The address, as a URL."""
        return url_of(self._listener)

    async def start(self) -> None:
        """Begin to accept; connections inherit that the kernel ends them when the other side stops reading."""
        await super().start()
        runner = cast("web.AppRunner", self._runner)
        server = runner.server
        connections = runner.app[CONNECTIONS]
        if server is None:
            raise RuntimeError("the runner is not set up")
        loop = asyncio.get_running_loop()
        if self._listener.family == socket.AF_UNIX:
            kept: dict[str, Any] = {"cleanup_socket": False}  # its path belongs to whoever opened it
            self._server = await loop.create_unix_server(
                lambda: connections.accept(server), sock=self._listener, backlog=BACKLOG, **kept
            )
            return
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNREAD_SECONDS * 1000))
        self._server = await loop.create_server(
            lambda: connections.accept(server), sock=self._listener, backlog=BACKLOG
        )


def make_runner(app: web.Application, *, close_seconds: float, **options: Any) -> web.AppRunner:
    """A runner for the application of `build_app`; serve it with `Site`. On clean-up requests get `close_seconds`."""
    return web.AppRunner(
        app,
        access_log=None,  # requests are logged by the application
        handle_signals=False,
        handler_cancellation=True,  # a client that hangs up ends its turn at once; what must not be undone is owned
        shutdown_timeout=close_seconds,
        keepalive_timeout=KEEP_ALIVE_SECONDS,
        max_field_size=MOST_FIELD,
        **options,
    )


class _Connection(web.RequestHandler):
    """Refuses what is no HTTP without repeating any of it: a token may be in it."""

    __slots__ = ()

    @property
    def is_busy(self) -> bool:
        """Whether a request of it is at work."""
        return self.transport is not None and self._waiter is None

    def close_if_idle(self) -> None:
        """Close the connection if it waits for a request; one that is at work is left alone, whatever still arrives."""
        if not self.is_busy:
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer and close the connection."""
        if isinstance(exc, LineTooLong):
            message = f"400: the request line or a header field has more than {exc.args[1]} bytes"
        elif isinstance(exc, BadHttpMessage):
            message = f"400: this is no request that can be read ({type(exc).__name__})"
        return super().handle_error(request, status, exc, message)


class _Full(asyncio.Protocol):
    """Answers that there is no room, and closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say so and go."""
        stream = cast("asyncio.Transport", transport)
        stream.write(FULL)
        stream.close()
