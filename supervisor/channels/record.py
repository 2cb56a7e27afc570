"""What a later supervisor has to know of a channel. Pure."""

from pathlib import Path
from typing import Any, Protocol

from supervisor.channels.confinement import Isolated
from supervisor.channels.lease import NEVER, Lease


class Recorded(Protocol):
    """The channel as far as it is put on record."""

    id: str
    name: str
    graph_name: str
    pid: int | None
    created_at: float
    lease: Lease
    foreign: bool
    isolation: Isolated
    user: str
    session: str | None
    source: str

    @property
    def log_file(self) -> Path:
        """Where the worker's output goes."""


def record_of(channel: Recorded, start_time: int, boot_id: str) -> dict[str, Any]:
    """The record of a channel whose worker began at `start_time` (clock ticks since the boot `boot_id`)."""
    return {
        "id": channel.id,
        "channel": channel.name,
        "graph": channel.graph_name,
        "pid": channel.pid,
        "start_time": start_time,
        "boot_id": boot_id,
        "created_at": channel.created_at,
        "timeout": None if channel.lease.timeout == NEVER else channel.lease.timeout,
        "foreign": channel.foreign,
        "isolation": channel.isolation.asked,
        "log_file": str(channel.log_file),
        "user": channel.user,
        "session": channel.session,
        "source": channel.source,
    }
