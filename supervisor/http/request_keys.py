"""What the HTTP layer keeps with a request while it is answered."""

from typing import Any, Final

import structlog
from aiohttp import web

from supervisor.auth import Principal

REQUEST_ID: Final = web.RequestKey("request_id", str)
PRINCIPAL: Final = web.RequestKey("principal", Principal)  # not set for probes, which everybody may make
NOTES: Final = web.RequestKey("notes", dict[str, Any])
MAX_NOTE: Final = 128


def note(
    request: web.Request, *, channel: str = "", client_request_id: str = "", turn: str = "", cause: str = ""
) -> None:
    """Put what is given into the log lines of this request: `client_request_id` is the id the client gave in its body.

    `cause` is why what the request ends, ends.
    """
    given = {"channel": channel, "client_request_id": client_request_id, "turn": turn, "cause": cause}
    notes = {name: value[:MAX_NOTE] for name, value in given.items() if value}
    request[NOTES] = {**request.get(NOTES, {}), **notes}
    structlog.contextvars.bind_contextvars(**notes)
