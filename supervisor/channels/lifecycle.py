"""The life of a channel as one table: every event in every state, and nothing else decides a state. Pure.

::

              claim       READY, ADOPTED            STOP / LAPSE / EXIT / BROKEN
     (none) ─────────▶ STARTING ──────▶ RUNNING ───────────────────────────────▶ STOPPING ──GONE──▶ GONE
                          │  EXIT, TIMEOUT, STOP, KILL, BROKEN                       ▲
                          └──────────────────────────────────────────────────────────┘

A channel is claimed before anything is awaited; from then on its name and its slot are taken until GONE. What a row
means for the outside world is its actions; the channel carries them out in their order (`channel.py`). An event that
cannot happen in a state, or comes too late to matter, is a row with no action: it is ignored, not an error, since
processes end whenever they like.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto, unique
from types import MappingProxyType
from typing import Final

from supervisor.causes import Cause


@unique
class State(Enum):
    """Where a channel is in its life."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    GONE = "gone"


@unique
class Event(Enum):
    """What can happen to a channel."""

    PING = auto()  # a client keeps the lease
    START = auto()  # somebody wants to start a channel of this name
    ADOPTED = auto()  # the worker was ready for an earlier supervisor, and lives
    READY = auto()  # the worker says so itself; a foreign one has lived through the settling time
    EXIT = auto()  # the worker process has ended, by itself or as it was told
    SPAWN_FAILED = auto()  # there never was a process
    TIMEOUT = auto()  # not ready in time
    STOP = auto()  # somebody wants it stopped, with grace
    KILL = auto()  # somebody wants it gone, without grace
    LAPSE = auto()  # the lease's deadline passed without a ping
    BROKEN = auto()  # the worker writes what is no protocol
    UNKILLABLE = auto()  # members of the tree outlive SIGKILL
    GONE = auto()  # proof that nothing is left of the tree
    LOST = auto()  # the spawner died, and with it every worker


@unique
class Action(Enum):
    """What the channel does for an event, besides changing its state."""

    REFRESH = auto()  # move the lease's deadline
    BEGIN_LEASE = auto()
    ANSWER_START = auto()  # the start succeeded
    NOTE_EXIT = auto()  # take what the worker said last, and its status
    BEGIN_STOP = auto()  # stop frame, SIGTERM, then the kill of the tree, each with its grace
    KILL_TREE = auto()
    FAIL_STOPS = auto()  # whoever waits for the end is told that it does not come
    FINISH = auto()  # answer whoever waits, free name and slot, remove the folder


@dataclass(frozen=True, slots=True)
class Row:
    """One row: the state afterwards, the actions in order, the cause it puts on record if there is none yet.

    `refusal` answers whoever brought the event: it changes nothing.
    """

    state: State
    actions: tuple[Action, ...] = ()
    cause: Cause | None = None
    refusal: Cause | None = None


_STOP: Final = (Action.BEGIN_STOP,)
_KILL: Final = (Action.KILL_TREE,)
_DONE: Final = (Action.FINISH,)

# Where a row's cause is None although the channel ends, the event itself carries it (STOP, KILL) or the worker's exit
# status tells it (EXIT while running: exited, crashed, out_of_memory).
TABLE: Final[Mapping[State, Mapping[Event, Row]]] = MappingProxyType(
    {
        State.STARTING: {
            Event.PING: Row(State.STARTING),  # allowed (section 5); the lease begins when the worker is ready
            Event.START: Row(State.STARTING, refusal=Cause.CHANNEL_EXISTS),
            Event.ADOPTED: Row(State.RUNNING),
            Event.READY: Row(State.RUNNING, (Action.BEGIN_LEASE, Action.ANSWER_START)),
            Event.EXIT: Row(State.STOPPING, (Action.NOTE_EXIT,), Cause.EXITED_BEFORE_READY),
            Event.SPAWN_FAILED: Row(State.GONE, _DONE, Cause.SPAWN_FAILED),
            Event.TIMEOUT: Row(State.STOPPING, _KILL, Cause.START_TIMEOUT),
            Event.STOP: Row(State.STOPPING, _STOP),
            Event.KILL: Row(State.STOPPING, _KILL),
            Event.LAPSE: Row(State.STARTING),
            Event.BROKEN: Row(State.STOPPING, _KILL, Cause.PROTOCOL_VIOLATED),
            Event.UNKILLABLE: Row(State.STARTING),
            Event.GONE: Row(State.GONE, _DONE, Cause.EXITED_BEFORE_READY),
            Event.LOST: Row(State.GONE, _DONE, Cause.SPAWNER_LOST),
        },
        State.RUNNING: {
            Event.PING: Row(State.RUNNING, (Action.REFRESH,)),
            Event.START: Row(State.RUNNING, refusal=Cause.CHANNEL_EXISTS),
            Event.ADOPTED: Row(State.RUNNING),
            Event.READY: Row(State.RUNNING),
            Event.EXIT: Row(State.STOPPING, (Action.NOTE_EXIT,)),
            Event.SPAWN_FAILED: Row(State.GONE, _DONE, Cause.SPAWN_FAILED),
            Event.TIMEOUT: Row(State.RUNNING),
            Event.STOP: Row(State.STOPPING, _STOP),
            Event.KILL: Row(State.STOPPING, _KILL),
            Event.LAPSE: Row(State.STOPPING, _STOP, Cause.LAPSED),
            Event.BROKEN: Row(State.STOPPING, _STOP, Cause.PROTOCOL_VIOLATED),
            Event.UNKILLABLE: Row(State.RUNNING),
            Event.GONE: Row(State.GONE, _DONE, Cause.EXITED),
            Event.LOST: Row(State.GONE, _DONE, Cause.SPAWNER_LOST),
        },
        State.STOPPING: {
            Event.PING: Row(State.STOPPING, refusal=Cause.CHANNEL_UNKNOWN),
            Event.START: Row(State.STOPPING, refusal=Cause.CHANNEL_EXISTS),
            Event.ADOPTED: Row(State.STOPPING),
            Event.READY: Row(State.STOPPING),
            Event.EXIT: Row(State.STOPPING, (Action.NOTE_EXIT,)),
            Event.SPAWN_FAILED: Row(State.GONE, _DONE),
            Event.TIMEOUT: Row(State.STOPPING),
            Event.STOP: Row(State.STOPPING),  # joins the stop under way
            Event.KILL: Row(State.STOPPING, _KILL),
            Event.LAPSE: Row(State.STOPPING),
            Event.BROKEN: Row(State.STOPPING),
            Event.UNKILLABLE: Row(State.STOPPING, (Action.FAIL_STOPS,)),
            Event.GONE: Row(State.GONE, _DONE),
            Event.LOST: Row(State.GONE, _DONE),
        },
        State.GONE: {
            Event.PING: Row(State.GONE, refusal=Cause.CHANNEL_UNKNOWN),
            Event.START: Row(State.GONE),  # its name is free
            Event.ADOPTED: Row(State.GONE),
            Event.READY: Row(State.GONE),
            Event.EXIT: Row(State.GONE),
            Event.SPAWN_FAILED: Row(State.GONE),
            Event.TIMEOUT: Row(State.GONE),
            Event.STOP: Row(State.GONE, refusal=Cause.CHANNEL_UNKNOWN),
            Event.KILL: Row(State.GONE, refusal=Cause.CHANNEL_UNKNOWN),
            Event.LAPSE: Row(State.GONE),
            Event.BROKEN: Row(State.GONE),
            Event.UNKILLABLE: Row(State.GONE),
            Event.GONE: Row(State.GONE),
            Event.LOST: Row(State.GONE),
        },
    }
)


def transition(state: State, event: Event) -> Row:
    """The row for an event in a state. Every pair has one."""
    return TABLE[state][event]


def cause_of_exit(status: int, *, oom: bool) -> Cause:
    """Why a worker that was running ended, by its status (as `Popen.returncode`)."""
    if oom:
        return Cause.OUT_OF_MEMORY
    return Cause.EXITED if status == 0 else Cause.CRASHED
