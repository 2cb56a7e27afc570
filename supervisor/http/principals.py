"""What a key is bound to, put into the turns its holder asks for."""

from dataclasses import replace
from typing import Final

from aiohttp import web

from supervisor.causes import Cause, Refusal
from supervisor.graph_file import listed, shown
from supervisor.http.request_keys import PRINCIPAL
from supervisor.turns.requests import TurnRequest

SEPARATOR: Final = "/"  # no user of a key has one in it


def bound(request: web.Request, wanted: TurnRequest) -> TurnRequest:
    """The turn as the principal of a request may have it: of its user, with its graph.

    Raises Refusal(GRAPH_UNKNOWN) for another graph, and Refusal(CHANNEL_UNKNOWN) for a channel, which may be anybody's.
    """
    principal = request[PRINCIPAL]
    if not principal.user and principal.graph is None:
        return wanted
    if wanted.channel is not None:
        raise Refusal(Cause.CHANNEL_UNKNOWN, f"no channel {wanted.channel!r} is running")
    if principal.graph is not None and wanted.graph != principal.graph:
        raise Refusal(Cause.GRAPH_UNKNOWN, f"no graph {shown(wanted.graph)}; allowed: {listed([principal.graph])}")
    if not principal.user:
        return wanted
    user = f"{principal.user}{SEPARATOR}{wanted.user}" if wanted.user else principal.user
    return replace(wanted, user=user)


def may_ask(request: web.Request, graph: str) -> bool:
    """Whether the principal of a request may ask a graph at all; if not, it is to it as if it were not there."""
    return request[PRINCIPAL].graph in (None, graph)


def as_named(request: web.Request, user: str) -> str:
    """A turn's user as the client named it, `bound` undone; that of another principal as it is."""
    own = request[PRINCIPAL].user
    if not own:
        return user
    return "" if user == own else user.removeprefix(f"{own}{SEPARATOR}")
