"""What a later supervisor has to know of a channel, and what it makes of that. Pure."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from supervisor.causes import Cause
from supervisor.channels.lease import NEVER
from supervisor.channels.preparation import Plan
from supervisor.channels.requests import SEPARATOR, Owner, StartRequest
from supervisor.processes.adopt import Survivor
from supervisor.processes.journal import ChannelEnding, ChannelRecord
from worker.spawn import Isolation, Limits

if TYPE_CHECKING:
    from supervisor.channels.confinement import Isolated
    from supervisor.channels.lease import Lease


class Recorded(Protocol):
    """The channel as far as it is put on record."""

    id: str
    name: str
    owner: Owner
    graph_name: str
    pid: int | None
    created_at: float
    ready_at: float
    claimed_at: float
    lease: "Lease"
    foreign: bool
    limits: Limits
    port: int
    isolation: "Isolated"
    user: str
    session: str | None
    source: str
    on_demand: bool
    shared: bool

    @property
    def nodes(self) -> list[dict[str, Any]]:
        """What its worker told of its graph."""

    @property
    def reason(self) -> tuple[Cause, str] | None:
        """Why it ends, as far as that is known; None: it does not."""


def record_of(
    channel: Recorded, files: tuple[Path, Path], slot: int, *, start_time: int, boot_id: str, instance: str
) -> ChannelRecord:
    """The record of a channel whose worker began at `start_time` (clock ticks since the boot `boot_id`).

    `files` are the paths of its log and of its property file, `slot` is its place among the marks of pings.
    """
    ending = channel.reason
    return ChannelRecord(
        id=channel.id,
        instance=instance,
        channel=channel.name,
        graph=channel.graph_name,
        pid=channel.pid or 0,
        start_time=start_time,
        boot_id=boot_id,
        created_at=channel.created_at,
        ready_at=channel.ready_at,
        claimed=channel.claimed_at,
        timeout=None if channel.lease.timeout == NEVER else channel.lease.timeout,
        slot=slot,
        foreign=channel.foreign,
        log_file=str(files[0]),
        property_file=str(files[1]),
        port=channel.port,
        limits=asdict(channel.limits),
        isolation=channel.isolation.asked,
        user=channel.user,
        session=channel.session,
        source=channel.source,
        space=channel.owner.space,
        key=channel.owner.key,
        most_channels=channel.owner.channels,
        on_demand=channel.on_demand,
        shared=channel.shared,
        nodes=channel.nodes,
        ending=None if ending is None else ChannelEnding(cause=ending[0].value, detail=ending[1]),
    )


def request_of(record: ChannelRecord) -> StartRequest:
    """The request that such a channel was started by, as far as it still matters."""
    return StartRequest(
        channel_name=record.channel.rpartition(SEPARATOR)[2],
        graph_name=record.graph,
        user=record.user,
        session=record.session,
        source=record.source,
        on_demand=record.on_demand,
        shared=record.shared,
        owner=Owner(record.space, record.key, record.most_channels),
    )


def plan_of(record: ChannelRecord) -> Plan:
    """The plan of such a channel, without what its worker has got already."""
    limits = Limits.from_dict(record.limits)
    isolation = Isolation(level=record.isolation)
    return Plan(
        foreign=record.foreign, environment={}, limits=limits, warnings=(), port=record.port, isolation=isolation
    )


def ending_of(survivor: Survivor) -> tuple[Cause, str] | None:
    """Why it was told to end; a cause that this version does not know is an end all the same. None: it was not."""
    ending = survivor.record.ending
    cause = survivor.cause if ending is None else ending.cause
    if not cause:
        return None
    return Cause(cause) if cause in set(Cause) else Cause.SERVER_LOST, "" if ending is None else ending.detail
