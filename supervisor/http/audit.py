"""What is told of every control action: who did what, from where, and with which outcome (docs/keys.md)."""

from typing import Final

import structlog
from aiohttp import web

from supervisor.causes import Cause
from supervisor.http.replies import CAUSE_HEADER
from supervisor.http.request_keys import NOTES, PRINCIPAL, REQUEST_ID

log = structlog.get_logger("supervisor.audit")

# By method and path as they are routed: all that changes something but turns, and pings, which are too many.
ACTIONS: Final = {
    ("POST", "/start"): "start",
    ("POST", "/stop"): "stop",
    ("POST", "/token/generate"): "token",
    ("POST", "/vector/document/update"): "document",
    ("POST", "/vector/document/upload"): "document",
    ("POST", "/channels"): "start",
    ("DELETE", "/channels/{name}"): "stop",
    ("POST", "/drain"): "drain",
    ("DELETE", "/drain"): "undrain",
    ("PATCH", "/channels/{name}/properties"): "update",
    ("DELETE", "/channels/{name}/turns/{turn}"): "cancel",
    ("POST", "/v1/responses/{response}/cancel"): "cancel",
    ("DELETE", "/v1/responses/{response}"): "delete",
    ("POST", "/compatible-mode/v1/responses/{response}/cancel"): "cancel",
    ("DELETE", "/compatible-mode/v1/responses/{response}"): "delete",
}
NOBODY: Final = "nobody"
CLIENT_ERROR: Final = 400


def tell(request: web.Request, response: web.StreamResponse) -> None:
    """Log an action that was done or refused; nothing for other requests."""
    resource = request.match_info.route.resource
    action = None if resource is None else ACTIONS.get((request.method, resource.canonical))
    if action is None:
        return
    principal = request.get(PRINCIPAL)
    notes = request.get(NOTES, {})
    log.info(
        "audit",
        action=action,
        who=NOBODY if principal is None else principal.name,
        user="" if principal is None else principal.user,
        address=request.remote or "",
        channel=notes.get("channel", ""),
        turn=notes.get("turn", ""),
        cause=_cause_of(response, action, notes),
        request_id=request[REQUEST_ID],
    )


def _cause_of(response: web.StreamResponse, action: str, notes: dict[str, str]) -> str:
    refused = response.headers.get(CAUSE_HEADER)
    if refused is not None:
        return refused
    return notes.get("cause") or (Cause.STOPPED if action == "stop" else Cause.COMPLETED).value
