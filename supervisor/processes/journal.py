"""What is written to the state folder so that a new supervisor can re-adopt: a record for each channel and its turn.

Each is a file that is replaced atomically. What is read back is never trusted: a record that is torn, of another
version or somebody else's is put aside, with a line in the log, and its channel is none that can be adopted.
"""

import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from supervisor.processes.bundle import CHANNEL_ID, RECORDS, remove
from worker.spawn import BASIC

log = structlog.get_logger("supervisor.journal")

VERSION: Final = 2
ASIDE: Final = "aside"
MOST_ASIDE: Final = 64  # files; the oldest go
MOST_BYTES: Final = 4 * 1024 * 1024
MOST_SHOWN: Final = 300

R = TypeVar("R", bound=BaseModel)


class ChannelEnding(BaseModel):
    """Why a channel was told to end."""

    model_config = ConfigDict(strict=True, frozen=True)

    cause: str
    detail: str


class ChannelRecord(BaseModel):
    """One channel whose worker was ready.

    `start_time` is in clock ticks since the boot `boot_id`; `created_at` and `ready_at` are wall clock, which somebody
    may set meanwhile; `claimed` is monotonic, which all processes of this boot share; `timeout` is the lease in
    seconds, None: for ever; `slot` is its place among the marks of pings. `space`, `key` and `most_channels` are those
    of its owner. `nodes` is what its worker told of its graph. `ending`: it was told to end already.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    version: Literal[2] = VERSION
    id: str
    instance: str
    channel: str
    graph: str
    pid: int
    start_time: int
    boot_id: str
    created_at: float
    ready_at: float
    claimed: float | None = None
    timeout: float | None
    slot: int
    foreign: bool
    log_file: str
    property_file: str
    port: int
    limits: dict[str, int | None]
    isolation: str = BASIC
    user: str
    session: str | None
    source: str
    space: str
    key: str
    most_channels: int | None
    on_demand: bool
    shared: bool
    nodes: list[dict[str, Any]] = Field(default_factory=list)
    ending: ChannelEnding | None = None


class TurnRecord(BaseModel):
    """The turn a channel is at, without anything that was said in it.

    It began at `began_at` by the wall clock, which somebody may set meanwhile, and at `begun` by the monotonic one,
    which all processes of this boot share. `after` is the number of the last frame that was heard before it was asked.
    `graph`, `user` and `session` are the key of its session; `single`: that is this turn alone.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    version: Literal[2] = VERSION
    id: str
    kind: Literal["chat", "invoke"]
    began_at: float
    begun: float | None = None
    after: int
    graph: str
    user: str
    session: str
    single: bool
    asked_graph: str
    asked_user: str
    asked_session: str | None
    store: bool
    linger: bool
    shared: bool
    replaces: int | None
    source: str
    space: str
    key: str
    most_channels: int | None


@dataclass(frozen=True, slots=True)
class Entry:
    """What is on record of one channel."""

    channel: ChannelRecord
    turn: TurnRecord | None


def read(state_dir: Path, instance: str) -> Iterator[Entry]:
    """Every channel that is on record, the oldest first. What cannot be one is put aside. Never raises."""
    folder = state_dir / RECORDS
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 - names alone, also those that are no text
    except OSError as error:
        log.warning("state.unreadable", folder=str(folder), error=str(error))
        return
    found: list[Entry] = []
    for name in names:
        match = re.fullmatch(rf"({CHANNEL_ID})\.json", name)
        if match is None:
            continue
        channel = _read(state_dir, folder / name, ChannelRecord)
        if channel is None:
            continue
        wrong = {"id": match[1] != channel.id, "instance": channel.instance != instance}
        if any(wrong.values()):
            named = " and ".join(part for part, is_wrong in wrong.items() if is_wrong)
            put_aside(state_dir, folder / name, f"its {named} is not that of its place")
            continue
        turn_file = folder / f"{channel.id}.turn.json"
        found.append(Entry(channel, _read(state_dir, turn_file, TurnRecord) if turn_file.exists() else None))
    yield from sorted(found, key=lambda entry: entry.channel.created_at)


class Ending(BaseModel):
    """How a channel ended with its spawner: the receipt, and why that was."""

    model_config = ConfigDict(strict=True, frozen=True)

    version: Literal[1]
    cause: str
    receipt: dict[str, Any]


def read_endings(state_dir: Path) -> dict[str, Ending]:
    """The endings that a spawner kept when it ended, by channel. Never raises."""
    found = {}
    for path in (state_dir / RECORDS).glob("*.ending.json"):
        ending = _read(state_dir, path, Ending)
        if ending is not None:
            found[path.name.removesuffix(".ending.json")] = ending
    return found


def _read(state_dir: Path, path: Path, kind: type[R]) -> R | None:
    try:
        data = _bytes_of(path)
    except OSError as error:
        put_aside(state_dir, path, str(error))
        return None
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        put_aside(state_dir, path, f"{place}: {first['msg']}" if place else first["msg"])
        return None


def _bytes_of(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise OSError("it is not a file of ours")
        if status.st_size > MOST_BYTES:
            raise OSError(f"it has {status.st_size} bytes; at most {MOST_BYTES} are allowed")
        return file.read()


def put_aside(state_dir: Path, path: Path, reason: str) -> None:
    """Move what is no record out of the way, for whoever wants to see it; the newest MOST_ASIDE are kept."""
    aside = state_dir / ASIDE
    log.warning("record.put_aside", record=path.name, folder=str(aside), reason=reason[:MOST_SHOWN])
    try:
        aside.mkdir(mode=0o700, exist_ok=True)
        path.replace(aside / f"{time.time_ns():x}-{path.name}")
        for old in sorted(aside.iterdir())[:-MOST_ASIDE]:
            remove(old)
    except OSError as error:
        log.warning("record.left", record=str(path), error=str(error))
