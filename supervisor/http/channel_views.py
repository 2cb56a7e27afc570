"""Channels as the native API shows them. Pure."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from supervisor.settings import MASK

if TYPE_CHECKING:
    from supervisor.channels.channel import Channel
    from supervisor.processes.monitor import Sample
    from supervisor.turns.turn import Turn

# In the name of a property: what it holds is a secret; or it may be, when it is neither a number nor a switch.
SECRET: Final = ("secret", "password", "passwd", "passphrase", "credential", "certificate")
DOUBTFUL: Final = ("key", "token")
MOST_LEVELS: Final = 32


def channel_json(
    channel: "Channel", sample: "Sample | None", turn: "Turn | None", monotonic: float, wall: float
) -> dict[str, Any]:
    """One channel; times in seconds, None: never, or not known."""
    lease, feed = channel.lease, channel.feed
    return {
        "name": channel.name,
        "id": channel.id,
        "graph": channel.graph_name,
        "user": channel.user,
        "session": channel.session,
        "source": channel.source,
        "state": channel.state.value,
        "health": channel.health,
        "pid": channel.pid,
        "created_at": channel.created_at,
        "age_seconds": max(0.0, wall - channel.created_at),
        "last_ping_seconds": None if lease.last_ping is None else monotonic - lease.last_ping,
        "lease_seconds": None if math.isinf(lease.timeout) else lease.timeout,
        "time_left_seconds": lease.remaining(monotonic),
        "rss_bytes": None if sample is None else sample.rss_bytes,
        "cpu_percent": None if sample is None else sample.cpu_percent,
        "processes": None if sample is None else sample.processes,
        "limits": asdict(channel.limits),
        "isolation": {
            "asked": channel.isolation.asked,
            "got": channel.isolation.got,
            "missing": list(channel.isolation.missing),
        },
        "turn": None if turn is None else {"id": turn.id, "kind": turn.request.kind, "ms": turn.ms},
        "last_event": feed.show(feed.last),
    }


def nodes_json(channel: "Channel") -> list[dict[str, Any]]:
    """The nodes of its graph with what they tell of their properties, secrets masked."""
    return [{**node, "properties": masked(node["properties"])} for node in channel.nodes]


def masked(value: Any, levels: int = MOST_LEVELS) -> Any:
    """A copy of a JSON value in which the values of properties named like secrets are masked."""
    match value:
        case dict() | list() if levels == 0:
            return MASK
        case dict():
            return {name: MASK if _is_secret(name, item) else masked(item, levels - 1) for name, item in value.items()}
        case list():
            return [masked(item, levels - 1) for item in value]
    return value


def _is_secret(name: str, value: Any) -> bool:
    if value is None or value == "":
        return False
    plain = name.lower().replace("_", "").replace("-", "")
    return any(word in plain for word in SECRET) or (
        not isinstance(value, bool | int | float) and any(word in plain for word in DOUBTFUL)
    )


def last_life(row: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of a channel's last life when there is no channel of its name."""
    names = ("id", "graph", "user", "session", "claimed_at", "ended_at", "cause", "detail")
    proof = ("processes", "killed", "seconds", "status")
    return {**{name: row[name] for name in names}, "receipt": {name: row[name] for name in proof}}
