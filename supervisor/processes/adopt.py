"""Start-up: which channels of an earlier supervisor go on. Finds them in the state folder and verifies each worker."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from supervisor.processes import journal
from supervisor.processes.bundle import CHANNELS
from supervisor.processes.inherited import Inherited
from supervisor.processes.journal import ChannelRecord, TurnRecord
from worker.spawn import LOCK_FILE, NAMESPACED
from worker.spawner.identity import lock_holder, open_if

log = structlog.get_logger("supervisor.adopt")


@dataclass(frozen=True, slots=True)
class Survivor:
    """A channel that an earlier supervisor had, and that is to be gone on with, if only to tell its end.

    `ended`: its worker lives no more; `cause` is why its spawner ended it, "": it did not. `died_at` is when that
    supervisor was alive last, in monotonic seconds.
    """

    record: ChannelRecord
    turn: TurnRecord | None
    ended: bool
    cause: str
    died_at: float


def survivors(
    state_dir: Path, instance: str, boot_id: str, inherited: Mapping[str, Inherited], died_at: float
) -> Iterator[Survivor]:
    """The channels that are on record, those that live first.

    One that the spawner does not know ended with the spawner before it; nobody knows how, but that is told. What is
    wrong with any other one is logged; nothing of it is trusted. Blocks for as long as it takes to read them.
    """
    found = []
    for entry in journal.read(state_dir, instance):
        tree = inherited.get(entry.channel.id)
        if tree is None:
            found.append(Survivor(entry.channel, entry.turn, True, "", died_at))
        elif _is_the_same(state_dir, boot_id, entry.channel, tree):
            ended = tree.status is not None or tree.over
            found.append(Survivor(entry.channel, entry.turn, ended, tree.cause, died_at))
    yield from sorted(found, key=lambda survivor: survivor.ended)


def _is_the_same(state_dir: Path, boot_id: str, record: ChannelRecord, tree: Inherited) -> bool:
    """Whether what the spawner has under a record's id is what was put on record."""
    reason = None if tree.over else _fault(state_dir, boot_id, record, tree)
    if reason is not None:
        log.error("channel.not_adopted", channel=record.channel, id=record.id, pid=record.pid, reason=reason)
        return False
    return True


def _fault(state_dir: Path, boot_id: str, record: ChannelRecord, tree: Inherited) -> str | None:
    """What speaks against a worker: the spawner's word, the start time behind a pidfd, the boot, the lock."""
    if (record.pid, record.start_time) != (tree.pid, tree.start_time):
        return f"the spawner has process {tree.pid}, begun at {tree.start_time}"
    if record.boot_id != boot_id:
        return "it is of another boot"
    if tree.status is not None:
        return None
    try:
        pidfd = open_if(record.pid, record.start_time)
        if pidfd is None:
            return None  # it has just ended: the spawner is about to tell
        os.close(pidfd)
        holder = None if record.foreign else lock_holder(state_dir / CHANNELS / record.id / LOCK_FILE)
    except OSError as error:
        return f"it cannot be looked at: {error}"
    # Inside namespaces of its own the worker is a descendant of the process that the spawner knows.
    is_its = holder is not None if record.isolation == NAMESPACED else holder == record.pid
    if not record.foreign and not is_its:
        return f"its lock is held by {'nobody' if holder is None else f'process {holder}'}"
    return None
