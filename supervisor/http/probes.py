"""Whether the server is there: for load balancers, container platforms and the clients of all APIs.

One answer at ``/health`` has what TEN's clients and AgentScope's look for (wire/ten.md section 9, wire/agentscope.md
section 1).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from supervisor.causes import Cause
from supervisor.http.envelope import encode
from supervisor.http.replies import json_reply

if TYPE_CHECKING:
    from supervisor.turns.drain import Drain
    from supervisor.turns.sessions import Sessions

Details = Callable[[], dict[str, Any]]

PROBES: Final = frozenset({"/", "/health", "/liveness", "/readiness"})
DRAINING_STATUS: Final = 503

_ALIVE: Final = encode({"status": "alive"})
_READY: Final = encode({"status": "ready"})
_SHUTTING_DOWN: Final = encode({"status": "draining", "reason": Cause.SHUTTING_DOWN.value})
_DRAINING: Final = encode({"status": "draining", "reason": Cause.DRAINING.value})


class ProbesApi:
    """The handlers of the probes."""

    def __init__(self, details: Details, sessions: "Sessions", drain: "Drain") -> None:
        """`details` is what ``/health?details=1`` shows; the server shuts down when `sessions` begins no more turns."""
        self._details = details
        self._sessions = sessions
        self._drain = drain

    def routes(self) -> list[web.RouteDef]:
        """The routes of this API."""
        return [
            web.get("/", self.health),
            web.get("/health", self.health),
            web.get("/liveness", self.liveness),
            web.get("/readiness", self.readiness),
        ]

    async def health(self, request: web.Request) -> web.Response:
        """``GET /`` and ``GET /health``; ``?details=1`` adds what the process is made of."""
        if "details" not in request.query and not self._drain.is_on:
            return json_reply(_HEALTHY)
        return json_reply(_health(self._details() if "details" in request.query else None, draining=self._drain.is_on))

    async def liveness(self, _: web.Request) -> web.Response:
        """``GET /liveness``: 200 as long as the server answers."""
        return json_reply(_ALIVE)

    async def readiness(self, _: web.Request) -> web.Response:
        """``GET /readiness``: 503 while the server drains or shuts down, when it takes no more work."""
        if self._sessions.closing:
            return json_reply(_SHUTTING_DOWN, DRAINING_STATUS)
        return json_reply(_DRAINING, DRAINING_STATUS) if self._drain.is_on else json_reply(_READY)


def _health(data: dict[str, Any] | None, *, draining: bool = False) -> bytes:
    told = {"code": "0", "msg": "ok", "data": data, "status": "healthy", "runner": "ready"}
    return encode({**told, "draining": True} if draining else told)


_HEALTHY: Final = _health(None)
