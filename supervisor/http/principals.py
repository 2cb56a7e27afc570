"""What a principal is bound to, put into what it asks for; what is another's is to it as if it were not there."""

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web

from supervisor.auth import ANYBODY, MASTER, Principal, Scope
from supervisor.causes import Cause, Refusal
from supervisor.channels.requests import Owner, qualified
from supervisor.graph_file import listed, shown
from supervisor.http.request_keys import NOTES, PRINCIPAL
from supervisor.turns.requests import TurnRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from supervisor.catalog import GraphCatalog
    from supervisor.channels.channel import Channel
    from supervisor.channels.table import ChannelTable
    from supervisor.turns.turn import Turn

MAX_SHOWN: Final = 200


def enter(request: web.Request, principal: Principal) -> None:
    """Note with the request who asks. Raises Refusal(ORIGIN_REFUSED)."""
    request[PRINCIPAL] = principal
    if principal is ANYBODY or principal is MASTER:
        return
    notes = {name: value for name, value in request.get(NOTES, {}).items() if name != "user"}
    about = {"key": principal.name, "user": principal.user} if principal.user else {"key": principal.name}
    request[NOTES] = notes | about
    origins = principal.bounds.origins
    origin = request.headers.get(hdrs.ORIGIN)
    if origins and origin is not None and origin.lower() not in origins:
        text = f"key {principal.name} may not be used from pages of {origin[:MAX_SHOWN]!r}"
        raise Refusal(Cause.ORIGIN_REFUSED, text)


def require(request: web.Request, *scopes: Scope) -> None:
    """Raise Refusal(SCOPE_MISSING) unless who asks has one of these scopes."""
    principal = request[PRINCIPAL]
    if not any(map(principal.allows, scopes)):
        has, needed = ", ".join(sorted(principal.scopes)), " or ".join(scopes)
        raise Refusal(Cause.SCOPE_MISSING, f"key {principal.name} has the scopes {has}; {request.path} needs {needed}")


def owner_of(request: web.Request) -> Owner:
    """Whose the channels are that a request starts."""
    principal = request[PRINCIPAL]
    return Owner(principal.user, principal.account, principal.bounds.channels)


def bound(request: web.Request, wanted: TurnRequest) -> TurnRequest:
    """The turn as the principal of a request may have it: of its user, with its graph, in its channels.

    Raises Refusal(GRAPH_UNKNOWN) for another graph.
    """
    principal = request[PRINCIPAL]
    owner = owner_of(request)
    if wanted.channel is not None:
        return replace(wanted, channel=owner.qualified(wanted.channel), owner=owner, only_graph=principal.graph)
    check_graph(request, wanted.graph)
    return replace(wanted, user=principal.bind(wanted.user), owner=owner)


def check_graph(request: web.Request, graph: str) -> None:
    """Raise Refusal(GRAPH_UNKNOWN) for a graph that the principal of a request may not ask."""
    own = request[PRINCIPAL].graph
    if own is not None and graph != own:
        raise Refusal(Cause.GRAPH_UNKNOWN, f"no graph {shown(graph)}; allowed: {listed([own])}")


def may_ask(request: web.Request, graph: str) -> bool:
    """Whether the principal of a request may ask a graph at all; if not, it is to it as if it were not there."""
    return request[PRINCIPAL].graph in (None, graph)


def graph_for(request: web.Request, catalog: "GraphCatalog", named: str | None, default: str | None) -> str:
    """The graph that answers: the one that is named if it is there for who asks, else its own, else the default one.

    Raises Refusal(PROPERTY_UNREADABLE | PROPERTY_INVALID | GRAPH_UNKNOWN).
    """
    if named and may_ask(request, named) and catalog.has(named):
        return named
    return request[PRINCIPAL].graph or catalog.default(default)


def found(request: web.Request, table: "ChannelTable", name: str) -> "Channel":
    """The channel of this name as who asks calls it. Raises Refusal(CHANNEL_UNKNOWN)."""
    principal = request[PRINCIPAL]
    channel = table.get(qualified(principal.user, name))
    if channel is None or not principal.sees(channel.owner.space, channel.graph_name):
        raise Refusal(Cause.CHANNEL_UNKNOWN, f"no channel {name!r} is running")
    return channel


def visible(request: web.Request, channels: "Iterable[Channel]") -> "list[Channel]":
    """Those channels that exist for who asks."""
    principal = request[PRINCIPAL]
    return [channel for channel in channels if principal.sees(channel.owner.space, channel.graph_name)]


def owns_turn(request: web.Request, turn: "Turn") -> bool:
    """Whether a turn exists for who asks."""
    principal, asked, channel = request[PRINCIPAL], turn.request, turn.channel
    if channel is None:
        return principal.sees(asked.owner.space, asked.graph or asked.only_graph or "")
    return any(principal.sees(space, channel.graph_name) for space in (asked.owner.space, channel.owner.space))


def owns(request: web.Request, user: str, graph: str) -> bool:
    """Whether what was asked for as this user, with this graph, exists for who asks now."""
    principal = request[PRINCIPAL]
    return principal.unbind(user) is not None and principal.graph in (None, graph)


def as_named(request: web.Request, user: str) -> str:
    """A turn's user as the client named it, `bound` undone; that of another principal as it is."""
    named = request[PRINCIPAL].unbind(user)
    return user if named is None else named


def shown_name(request: web.Request, name: str) -> str:
    """A channel's name as who asks calls it: without the user whose it is, if that is who asks."""
    return Owner(request[PRINCIPAL].user).shown(name)
