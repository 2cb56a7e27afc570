"""One turn from the client's side: its events as they come, and its end before its time (docs/http.md)."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any, Final, Self

from supervisor.causes import EXPLANATIONS, Cause
from supervisor.cli.client import Client, Target, broken_off
from supervisor.cli.errors import REFUSED, CommandError
from supervisor.cli.event_stream import EventParser, EventTooLargeError, ServerEvent

SILENCE_SECONDS: Final = 60.0  # four times what the server lets pass between two signs of life
CANCEL_SECONDS: Final = 5.0  # for the server to end a turn, which it does within little more than one
REST_SECONDS: Final = 2.0  # for what is still to come when the last event was read, or the turn was cancelled

Event = dict[str, Any]


class Asking:
    """A turn that is asked. Enter it, and iterate it once; meanwhile `cancel` may be called in another thread."""

    def __init__(self, target: Target, body: Event) -> None:
        self.cancelled = False
        self._client = Client(target)
        self._canceller = Client(target, answer_seconds=CANCEL_SECONDS)
        self._body = body
        self._place: tuple[str, str] | None = None  # the channel and the turn, once the server has told
        self._sock: socket.socket | None = None
        self._over = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def __iter__(self) -> Iterator[Event]:
        """The events; the last is ``final``, else CommandError is raised, after the event ``error`` too."""
        body = {**self._body, "stream": True}
        pieces = self._client.events("/turns", body, silence=SILENCE_SECONDS, connected=self._on_connected)
        with closing(pieces):
            for event in _events(pieces):
                if event["type"] == "turn":
                    self._place = (str(event.get("channel")), str(event.get("turn")))
                yield event
                if event["type"] in ("final", "error"):
                    self._read_to_the_end(pieces)
                if event["type"] == "error":
                    raise failure(event)
                if event["type"] == "final":
                    return
        raise broken_off("the server ended the stream before the turn was over")

    def cancel(self) -> None:
        """Let the turn end soon, and return when it is over, or its connection cut should the server not end it."""
        self.cancelled = True
        if self._place is not None:
            channel, turn = self._place
            # The turn may just have ended, or the server may be gone: the stream shows it, or is cut.
            with suppress(CommandError):
                self._canceller.native("DELETE", channel, "turns", turn)
            if self._over.wait(REST_SECONDS):
                return
        if self._sock is not None:
            # That of the plain socket: TLS has no part in cutting a connection.
            with suppress(OSError):
                socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def _on_connected(self, sock: socket.socket) -> None:
        self._sock = sock
        if self.cancelled:
            raise ConnectionAbortedError("cancelled")

    def _read_to_the_end(self, pieces: Iterator[bytes]) -> None:
        """So that the server does not see a client that goes away; nothing of it counts any more."""
        if self._sock is not None:
            self._sock.settimeout(REST_SECONDS)
        with suppress(CommandError):
            next(pieces, None)


def _events(pieces: Iterator[bytes]) -> Iterator[Event]:
    """The events of a stream, each with its type. Raises CommandError for what agentd does not send."""
    parser = EventParser()
    for piece in pieces:
        try:
            raw = parser.feed(piece)
        except EventTooLargeError as error:
            raise _not_an_event(str(error)) from error
        yield from map(_decoded, raw)


def _decoded(raw: ServerEvent) -> Event:
    try:
        data = json.loads(raw.data)
    except (ValueError, RecursionError) as error:
        raise _not_an_event(f"{raw.type}: {error}") from error
    if not isinstance(data, dict):
        raise _not_an_event(f"{raw.type}: {raw.data[:100]!r} is no object")
    return {**data, "type": raw.type}


def failure(event: Event) -> CommandError:
    """The error an event ``error`` tells of."""
    cause, kind, said = (str(event.get(key) or "") for key in ("cause", "kind", "message"))
    known = EXPLANATIONS.get(Cause(cause)) if cause in set(Cause) else None
    return CommandError(
        REFUSED,
        cause=cause or "turn_failed",
        message=known.message if known else said or "the turn failed",
        detail=": ".join(part for part in (kind, said) if part),
        next_step=str(event.get("next_step") or (known.next_step if known else "look at `agentd logs` of the channel")),
    )


def _not_an_event(detail: str) -> CommandError:
    return CommandError(
        REFUSED,
        cause="stream_invalid",
        message="the server sent what is no event of agentd",
        detail=detail,
        next_step="check the address in --server or AGENTD_SERVER, and what stands between here and there",
    )
