"""What a worker says, and who hears it: frames in, facts about the channel and events for its readers out."""

import reprlib
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

import orjson

from supervisor.channels.ending import Findings
from supervisor.channels.feed import Feed
from supervisor.channels.health import verdict
from supervisor.processes.logs import Throttled
from worker.frames import Bad, Frame, Up

MOST_BAD_LINES: Final = 100
MOST_NODES: Final = 256
MOST_DESCRIBED: Final = 64 * 1024
MOST_NAME: Final = 256
MOST_ERROR: Final = 500
MAX_NUMBER: Final = 2**53
TERMINAL: Final = frozenset({"final", "error"})

# The fields each type of event must have, and their types; others are handed on as they are.
EVENTS: Final[dict[str, tuple[tuple[str, type], ...]]] = {
    "text": (("text", str),),
    "thought": (("text", str),),
    "tool_call": (("id", str), ("name", str), ("arguments", dict)),
    "tool_result": (("id", str), ("name", str)),
    "source": (("title", str), ("text", str), ("source", str)),
    "structured": (),
    "usage": (),
    "final": (),
    "error": (("cause", str), ("message", str)),
}


class Listener(Protocol):
    """The turn a channel is at: it gets every event of the turn, once and in order, then how it ended."""

    id: str

    def on_event(self, number: int, event: Frame, encoded: bytes) -> None:
        """An event that is not the last. It counts as taken when `Asking.taken` is told so."""

    def on_end(self, event: Frame, state: Any) -> None:
        """The worker ended the turn by a ``final`` or an ``error`` event."""

    def on_gap(self, lost: int) -> None:
        """So many frames of the worker are lost; some may have been of this turn."""

    def on_retold(self, last: int) -> None:
        """The worker tells again what came after this frame."""

    def on_unknown(self) -> None:
        """The worker knows nothing of this turn, which an earlier supervisor began."""


class Hearing:
    """The ears of one channel."""

    def __init__(
        self,
        feed: Feed,
        found: Findings,
        logger: Throttled,
        *,
        ready: Callable[[], None],
        reply: Callable[[Frame], None],
        broken: Callable[[str], None],
    ) -> None:
        """`ready` is told when the worker says so, `reply` gets what it answers to commands, `broken` is told why it
        cannot be listened to any longer.
        """
        self.feed = feed
        self.nodes: dict[str, dict[str, Any]] = {}
        self.says_ready = False
        self.last_sign = time.monotonic()
        self._listener: Listener | None = None
        self._reply = reply
        self._found = found
        self._log = logger
        self._ready = ready
        self._broken = broken
        self._lag_ms = 0.0
        self._bad_lines = 0
        self._is_adopted = False  # what an earlier supervisor may have heard is told again, up to _known
        self._known = 0
        self._catching_up = False

    def adopt(self, nodes: list[dict[str, Any]], *, ended: bool) -> None:
        """The worker was ready for an earlier supervisor; this is what it said of its graph.

        One that has `ended` says nothing more but what lies in its pipe.
        """
        self.says_ready = self._is_adopted = True
        self.nodes = {node["name"]: node for node in nodes if isinstance(node.get("name"), str)}
        if ended:
            self._known = MAX_NUMBER
        self.feed.behind = not ended

    def health(self, beat_seconds: float) -> str:
        """One of "ok", "slow" and "stuck" (`health.verdict`)."""
        return verdict(time.monotonic() - self.last_sign, beat_seconds, self._lag_ms)

    def handles(self, kind: str) -> bool:
        """Whether a node of the graph answers turns of this kind."""
        return any(kind in node["handles"] for node in self.nodes.values())

    @property
    def busy(self) -> bool:
        """Whether there is a turn it hears."""
        return self._listener is not None

    def listen(self, listener: Listener | None) -> None:
        """From now on this turn is the one whose events are heard; None: there is none."""
        self._listener = listener

    def on_frame(self, frame: Frame) -> None:
        """Take a frame of the worker; what nobody knows is ignored."""
        self.last_sign = time.monotonic()
        if self._catching_up:
            self._hear_again(frame)
        else:
            self._hear(frame)

    def _hear_again(self, frame: Frame) -> None:
        """A frame that an earlier supervisor may have heard."""
        number = frame.get("n", self._known)
        self._hear(frame)
        if number >= self._known:
            self._catching_up = False
            self.feed.catch_up()

    def _hear(self, frame: Frame) -> None:
        handler = self._frames.get(frame["t"])
        if handler is None:
            return
        try:
            handler(self, frame)
        except (TypeError, ValueError, KeyError, RecursionError) as error:
            # Whatever a worker writes, it must not end the reading of what follows; what can be read as JSON cannot
            # always be written, or shown, since it may be nested too deeply.
            self._bad(f"a {_shown(frame.get('type'))} frame that cannot be handed on: {type(error).__name__}", 0)

    def on_bad(self, bad: Bad) -> None:
        """Take note of a line that is no frame; too many break the channel."""
        self._bad(bad.reason, bad.size)

    def _bad(self, reason: str, size: int) -> None:
        self._bad_lines += 1
        if self._bad_lines == 1:
            self._log.warning("channel.bad_frame", size=size, reason=reason)
        if self._bad_lines == MOST_BAD_LINES:
            self._broken(f"{MOST_BAD_LINES} lines that are no frames; the last: {reason}")

    def _on_event(self, frame: Frame) -> None:
        """The hottest path of all: once for every piece of text."""
        kind = frame.get("type")
        fields = EVENTS.get(kind) if isinstance(kind, str) else None
        if fields is None or kind is None:
            self._bad(f"an event of the type {_shown(kind)}; allowed are {', '.join(EVENTS)}", 0)
            return
        for field, wanted in fields:
            if type(frame.get(field)) is not wanted:
                self._bad(f"an event of the type {kind!r} whose {field!r} is {_shown(frame.get(field))}", 0)
                return
        del frame["t"]
        number = frame.pop("n")
        listener = self._listener
        if kind in TERMINAL:
            state = frame.pop("state", None)
            if listener is not None and frame.get("turn") == listener.id:
                listener.on_end(frame, state)  # who tells of the ending once it is known for certain
            elif number <= self._known:  # the end of a turn that is over: its place is where it was told then
                self.feed.publish(kind, frame)
            else:
                self.feed.publish(kind, frame, number)
            return
        encoded = self.feed.publish(kind, frame, number)
        if listener is not None and frame.get("turn") == listener.id:
            listener.on_event(number, frame, encoded)

    def _on_ready(self, frame: Frame) -> None:
        if self.says_ready and not (self._is_adopted and frame["n"] <= self._known):
            self._bad("a second 'ready' frame", 0)
            return
        if skipped := frame.get("skipped"):
            self._log.warning("channel.addons_skipped", nodes=_names(skipped))
        nodes = frame.get("nodes")
        for node in nodes[:MOST_NODES] if isinstance(nodes, list) else ():
            match node:
                case {"name": str(name), "addon": str(addon)} if max(len(name), len(addon)) <= MOST_NAME:
                    handles = node["handles"] if isinstance(node.get("handles"), list) else ()
                    self.nodes[name] = {
                        "name": name,
                        "addon": addon,
                        "handles": [kind for kind in ("chat", "invoke") if kind in handles],
                        "properties": {},
                    }
        was_ready, self.says_ready = self.says_ready, True
        self._say("ready", frame)
        if not was_ready:
            self._ready()

    def _on_reset(self, frame: Frame) -> None:
        """The worker begins to tell again what it can."""
        self.feed.begin_after(frame["last"])
        self._log.info("channel.resumed", version=frame.get("v"), after=frame["last"], upto=frame["upto"])
        self._known = frame["upto"]
        self._catching_up = self._known > frame["last"]
        if self._listener is not None:
            self._listener.on_retold(frame["last"])
        if not self._catching_up:
            self.feed.catch_up()

    def _on_beat(self, frame: Frame) -> None:
        if self._is_adopted and frame["n"] > self._known and self._listener is not None:
            turn = frame.get("turn", self._listener.id)
            if turn != self._listener.id:
                self._listener.on_unknown()
        lag = frame.get("lag_ms")
        self._lag_ms = float(lag) if isinstance(lag, int | float) else 0.0

    def _on_reply(self, frame: Frame) -> None:
        self._reply(frame)

    def _on_bye(self, frame: Frame) -> None:
        """A start that fails says why; in all other cases the status tells it."""
        detail = frame.get("detail")
        self._found.said(frame.get("cause"), detail if isinstance(detail, str) else "")
        self._say("bye", frame)

    def _on_gap(self, frame: Frame) -> None:
        self._log.warning("channel.frames_lost", lost=frame.get("lost"))
        self._say("gap", frame)
        if self._listener is not None:
            self._listener.on_gap(frame["lost"])

    def _on_state(self, frame: Frame) -> None:
        if "error" in frame:
            error = frame["error"] if isinstance(frame["error"], str) else _REPR.repr(frame["error"])
            self._log.warning("channel.node_error", node=_shown(frame.get("node")), error=error[:MOST_ERROR])
        properties = frame.get("properties")
        node = self.nodes.get(frame["node"]) if isinstance(frame.get("node"), str) else None
        if node is not None and isinstance(properties, dict) and len(orjson.dumps(properties)) <= MOST_DESCRIBED:
            node["properties"] = properties
        self._say("state", frame)

    def _on_signal(self, frame: Frame) -> None:
        self._say("signal", frame)

    def _say(self, kind: str, frame: Frame) -> None:
        self.feed.publish(kind, {key: value for key, value in frame.items() if key not in ("t", "n")}, frame["n"])

    _frames: Final = {
        Up.RESET.value: _on_reset,
        Up.EVENT.value: _on_event,
        Up.READY.value: _on_ready,
        Up.BEAT.value: _on_beat,
        Up.REPLY.value: _on_reply,
        Up.BYE.value: _on_bye,
        Up.GAP.value: _on_gap,
        Up.STATE.value: _on_state,
        Up.SIGNAL.value: _on_signal,
    }


_REPR: Final = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 64
_REPR.maxlevel = 3


def _shown(value: Any) -> str:
    """A value of a worker's in few words, however deeply it is nested."""
    return _REPR.repr(value)


def _names(nodes: Any) -> list[dict[str, str]]:
    """Name and add-on of nodes that a worker lists, as far as they are names."""
    listed = nodes[:MOST_NODES] if isinstance(nodes, list) else []
    return [
        {key: value[:MOST_NAME] for key, value in node.items() if key in ("name", "addon") and isinstance(value, str)}
        for node in listed
        if isinstance(node, dict)
    ]
