"""What the supervisor asks of the spawner and hears from it: the messages on ``spawn.sock``. Standard library only.

One message is one datagram of a SOCK_SEQPACKET unix socket, JSON in UTF-8, at most `MAX_MESSAGE` bytes; the file
descriptors a message carries (SCM_RIGHTS) belong to that datagram.

Requests (control server to spawner), each with ``"op"``:

=========  ============================================================================================
hello      first message: who asks, how long workers outlive it and which interpreter runs it, which zygotes
           are to follow: ``{"version", "orphan_grace", "python"}``
spawn      a `SpawnRequest`; one descriptor: the worker's configuration (a memfd), own workers only
stop       ``{"id", "term_after", "kill_after"}`` seconds from now: SIGTERM to all members, then the kill of the tree
kill       ``{"id"}``: the kill of the tree, now
forget     ``{"id"}``: the ending of this channel was taken note of, drop it
shutdown   kill every tree, answer the endings, then end
=========  ============================================================================================

A spawn ends in ``spawned`` or ``spawn_failed``, whatever goes wrong. A stop or kill of a start that still waits for its
zygote answers ``spawn_failed`` at once; of an id that the spawner does not know, ``gone`` with a receipt of no process.

Answers and events (spawner to control server), each with ``"ev"``:

==============  =======================================================================================
hello           ``{"version", "pid", "boot_id", "containment", "controllers", "notes", "isolation", "swept", "trees"}``
live            one for each worker that lives when a control server connects: ``{"id", "pid", ...}``
spawned         ``{"id", "pid", "start_time"}``: the process exists; READY comes over the pipe
spawn_failed    ``{"id", "error"}``: there is no worker, and nothing is left of the attempt
exit            ``{"id", "pid", "status", "oom"}``: the worker itself ended; its tree is being killed
gone            ``{"id", "receipt"}``: nothing of the channel is left; kept and repeated until forgotten
unkillable      ``{"id", "pids"}``: these outlived SIGKILL so far; a `gone` follows should they end
zygote          ``{"preload", "pid", "state"}``: a zygote is ready, died, or was replaced
refused         ``{"error"}``: a message that was no request, or asked for an id in use
busy            another control server is connected; this connection is closed
bye             the spawner ends now
==============  =======================================================================================

``status`` is a `Popen.returncode`: the exit status, or minus the signal's number.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

VERSION: Final = 1
MAX_MESSAGE: Final = 128 * 1024
SOCKET_NAME: Final = "spawn.sock"

DOWN_FIFO: Final = "down"
UP_FIFO: Final = "up"
OUT_FIFO: Final = "out"
ERR_FIFO: Final = "err"
LOCK_FILE: Final = "lock"
OUTPUTS: Final = (UP_FIFO, OUT_FIFO, ERR_FIFO)
FIFOS: Final = (DOWN_FIFO, UP_FIFO, OUT_FIFO, ERR_FIFO)
ENDINGS: Final = "records/{}.ending.json"  # in the state folder: how a channel ended, by a spawner that ends as well
ENDING_VERSION: Final = 1
TEMPORARY: Final = "tmp"  # in a channel's folder: TMPDIR of a worker that is confined
BASIC: Final = "basic"
CONFINED: Final = "confined"
NAMESPACED: Final = "namespaced"
LEVELS: Final = (BASIC, CONFINED, NAMESPACED)  # of isolation, each with what the ones before it have
CHANNEL_VARIABLE: Final = "AGENTD_CHANNEL_ID"  # in the environment of every worker
INSTANCE_VARIABLE: Final = "AGENTD_INSTANCE"  # in the environment of spawner, zygotes and workers
# What a spawner and its zygotes get of an environment: enough to find Python, its modules and the locale; no secret.
SPAWNER_ENVIRONMENT: Final = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TZ"),
    *("PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "TMPDIR"),
)


def instance_of(state_dir: Path) -> str:
    """The name of a state folder in cgroups and in the environment of all that was started from it."""
    return hashlib.sha256(os.fsencode(state_dir.resolve())).hexdigest()[:12]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one channel's process tree may use; None: no limit of ours.

    `memory_bytes` and `processes` hold for the whole tree where a cgroup controller is there; without one
    `memory_bytes` bounds the address space of each process (RLIMIT_AS) and `processes` is not enforced.
    """

    memory_bytes: int | None = None
    processes: int | None = None
    cpu_weight: int | None = None  # 1..10000, 100 is the kernel's default
    open_files: int | None = None  # RLIMIT_NOFILE, per process
    file_bytes: int | None = None  # RLIMIT_FSIZE, per process
    cpu_seconds: int | None = None  # RLIMIT_CPU, per process

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Limits":
        """The limits of a message; unknown keys are ignored (a newer peer)."""
        known = {f.name for f in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation:
    """What a worker may reach (docs/isolation.md). All paths are absolute.

    `read` and `write` are granted besides what every worker needs. What is `hidden` (real names, as `fixed`) is not
    granted with a folder around it, what is `fixed`, and every import path, not for writing; either is if it is named.
    `connect_ports` and `bind_ports` are those of TCP (None: any). Without `network` there is no socket but to its own
    processes, without `unix_sockets` none that has a name in the file system.
    """

    level: str = BASIC
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    connect_ports: tuple[int, ...] | None = None
    bind_ports: tuple[int, ...] | None = None
    network: bool = True
    unix_sockets: bool = False

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Isolation":
        """The isolation of a message; without any it is basic, unknown keys are ignored (another version's peer)."""
        known = {f.name for f in fields(cls)}
        taken: dict[str, Any] = {}
        for name in known & values.keys():
            taken[name] = tuple(values[name]) if isinstance(values[name], list) else values[name]
        return cls(**taken)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnRequest:
    """One worker to start.

    `id` is unique for the life of the state folder and safe as a file name. `folder` is the channel's folder with its
    FIFOs, made by the supervisor. Without `command` the worker is forked from the zygote that has loaded `preload`
    (object references ``module:function``, called once in the zygote); with `command` that program is exec'd in `cwd`.
    `environment` is the whole environment of the worker; nothing is inherited.
    """

    id: str
    folder: str
    environment: dict[str, str]
    limits: Limits = field(default_factory=Limits)
    command: tuple[str, ...] | None = None
    cwd: str | None = None
    preload: tuple[str, ...] = ()
    isolation: Isolation = field(default_factory=Isolation)

    def to_message(self) -> dict[str, Any]:
        """The request as the body of a ``spawn`` message."""
        return {"op": "spawn", **asdict(self)}

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> "SpawnRequest":
        """The inverse of `to_message`; raises KeyError or TypeError when fields are missing or of the wrong kind."""
        command = message.get("command")
        return cls(
            id=message["id"],
            folder=message["folder"],
            environment=dict(message["environment"]),
            limits=Limits.from_dict(message.get("limits") or {}),
            command=None if command is None else tuple(command),
            cwd=message.get("cwd"),
            preload=tuple(message.get("preload") or ()),
            isolation=Isolation.from_dict(message.get("isolation") or {}),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Proof of an ending: what ended, how, in what time, and that nothing is left.

    `processes` counts the members seen in the tree from the beginning of the stop, `killed` those that needed
    SIGKILL, `left` what lives on (0 unless unkillable), `by` the containment that vouches for it ("cgroup" or "sweep").
    `seconds` runs from the stop request, or the worker's own exit, to the empty tree.
    """

    processes: int
    killed: int
    left: int
    seconds: float
    by: str
    status: int | None = None
    oom: bool = False

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Receipt":
        """The receipt of a ``gone`` message; unknown keys are ignored."""
        known = {f.name for f in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


def pack(message: dict[str, Any]) -> bytes:
    """One datagram; raises ValueError when it is over MAX_MESSAGE."""
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) > MAX_MESSAGE:
        raise ValueError(f"a message of {len(data)} bytes to or from the spawner; at most {MAX_MESSAGE} are allowed")
    return data


def unpack(data: bytes) -> dict[str, Any]:
    """The message of one datagram; raises ValueError when it is no JSON object."""
    message = json.loads(data)
    if not isinstance(message, dict):
        raise ValueError("a message must be a JSON object")  # noqa: TRY004 - one error for all malformed messages
    return message
