"""What is asked of a running worker: turns, new properties; and the pace at which it is read while it answers."""

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson

from supervisor.causes import Cause, Refusal
from supervisor.channels.commands import Commands
from supervisor.channels.files import ChannelFiles
from supervisor.channels.hearing import Hearing, Listener
from supervisor.channels.lifecycle import State
from supervisor.processes.link import Link, LinkFullError
from worker.frames import Down, Frame, FrameError

if TYPE_CHECKING:
    from supervisor.channels.requests import Owner

MOST_INLINE: Final = 64 * 1024  # of a turn's request; more goes by a file
LEAST_INTEGER: Final = -(2**63)  # of those that orjson takes
MOST_INTEGER: Final = 2**64 - 1


class Asked(Protocol):
    """The channel whose worker is asked."""

    name: str
    owner: "Owner"
    graph_name: str
    foreign: bool
    state: State


class Asking:
    """The voice of one channel, as `Hearing` is its ears."""

    def __init__(self, link: Link, hearing: Hearing, commands: Commands, files: ChannelFiles, channel: Asked) -> None:
        self._link = link
        self._hearing = hearing
        self._commands = commands
        self._files = files
        self._channel = channel

    async def begin_turn(self, listener: Listener, kind: str, request: dict[str, Any]) -> None:
        """Ask the worker; from now on `listener` hears what it answers, until `end_turn`.

        Raises Refusal: CHANNEL_UNKNOWN when the worker is not there (any more), NOT_IMPLEMENTED when no node answers
        such turns, BODY_INVALID for what JSON or a worker cannot take, COMMAND_UNDELIVERED.
        """
        data = await _encoded(await self._files.hand_out(request))
        channel = self._channel
        shown = channel.owner.shown(channel.name)
        if channel.state is not State.RUNNING:
            raise Refusal(Cause.CHANNEL_UNKNOWN, f"channel {shown!r} is {channel.state.value}")
        if channel.foreign or not self._hearing.handles(kind):
            raise Refusal(Cause.NOT_IMPLEMENTED, f"graph {channel.graph_name!r} does not implement {kind}")
        if self._hearing.busy:
            raise Refusal(Cause.SESSION_BUSY, f"channel {shown!r} is at another turn")
        frame: Frame = {"t": Down.TURN.value, "turn": listener.id, "kind": kind}
        self._hearing.listen(listener)
        name = f"turn-{listener.id}.json"
        try:
            if len(data) <= MOST_INLINE:
                frame["request"] = orjson.Fragment(data)
            else:
                frame["file"] = name
                await asyncio.to_thread(self._files.write_turn, name, data)
            self._link.start_slowly()
            self._link.send(frame)
        except (FrameError, LinkFullError, OSError) as error:
            self._hearing.listen(None)
            self._files.remove_turn(name)
            raise Refusal(Cause.COMMAND_UNDELIVERED, f"the worker cannot be told: {error}") from error
        except asyncio.CancelledError:
            self._hearing.listen(None)
            raise

    @property
    def heard(self) -> int:
        """The number of the last frame that was heard."""
        return self._link.heard

    def take_up(self, listener: Listener) -> None:
        """The worker was asked by an earlier supervisor; `listener` hears what it answers, until `end_turn`."""
        self._hearing.listen(listener)

    def cancel_turn(self, turn_id: str) -> None:
        """Ask the worker to end a turn; one that does not read any more cannot be asked."""
        with contextlib.suppress(LinkFullError, OSError):
            self._link.send({"t": Down.CANCEL.value, "turn": turn_id})

    def end_turn(self) -> None:
        """The turn has ended, or nobody waits for it any more."""
        self._hearing.listen(None)
        self.hold(None)
        self._link.go_on()

    def hold(self, number: int | None) -> None:
        """Frames from this number on are not taken yet; None: all are."""
        self._link.held = number

    def taken(self, held: int | None) -> None:
        """Some of what was held was taken; what still is held begins at `held`."""
        self._link.held = held
        self._link.taken()

    def pause(self) -> None:
        """Read no more from the worker for now: what it said waits to be taken, and it is enough."""
        self._link.pause()

    def go_on(self) -> None:
        """Read again."""
        self._link.go_on()

    async def update(self, properties: dict[str, Any]) -> None:
        """Give the graph's nodes new properties, ``{node: {property: value}}``.

        Raises Refusal(UPDATE_REFUSED) with what the worker says about them.
        """
        if self._channel.foreign:
            raise Refusal(Cause.UPDATE_REFUSED, "the worker is a foreign command, which takes no frames")
        await self._commands.update(properties)


async def _encoded(request: dict[str, Any]) -> bytes:
    """The request as JSON that a worker can read. Raises Refusal(BODY_INVALID)."""
    try:
        return orjson.dumps(request)
    except TypeError:  # as a rule an integer over 64 bits, in a field that nobody knows
        try:
            return await asyncio.to_thread(lambda: orjson.dumps(_readable(request)))
        except (TypeError, OverflowError) as error:
            raise Refusal(Cause.BODY_INVALID, f"the request cannot be handed on as JSON: {error}") from error


def _readable(value: Any) -> Any:
    """A copy with doubles in place of the integers over 64 bits. Raises OverflowError for one beyond those too."""
    match value:
        case dict():
            return {key: _readable(item) for key, item in value.items()}
        case list():
            return [_readable(item) for item in value]
        case int() if not LEAST_INTEGER <= value <= MOST_INTEGER:
            return float(value)
    return value
