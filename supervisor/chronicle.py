"""What happens to channels, told to those who want to know: the feed of ``GET /events``, and the ledger."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from supervisor.channels.feed import Feed
from supervisor.store.records import (
    ChannelClaimed,
    ChannelEnded,
    ChannelPinged,
    ChannelReady,
    LedgerEntry,
    TurnCounted,
)

MOST_EVENTS: Final = 4096


class Chronicle:
    """Every event in the life of any channel, in order."""

    def __init__(self, note: Callable[[LedgerEntry], None]) -> None:
        """`note` puts an entry into the ledger; it does not wait."""
        self.feed = Feed(f"{time.time_ns():x}", MOST_EVENTS)
        self._note = note
        self._numbers = 0

    def tell(self, kind: str, fields: Mapping[str, Any]) -> None:
        """A channel was ``claimed`` or ``adopted``, is ``ready``, ``stopping`` or ``gone``.

        Or a turn has ``turn_begun`` or ``turn_ended``.
        """
        at = time.time()
        self._numbers += 1
        self.feed.publish(kind, {**fields, "at": at}, self._numbers)
        for entry in _ENTRIES.get(kind, ()):
            if (noted := entry(fields, at)) is not None:
                self._note(noted)


def _claimed(fields: Mapping[str, Any], at: float) -> ChannelClaimed:
    return ChannelClaimed(
        channel=fields["id"],
        at=at,
        name=fields["channel"],
        graph=fields["graph"],
        user=fields["user"],
        session=fields["session"],
        source=fields["source"],
    )


def _adopted(fields: Mapping[str, Any], _: float) -> LedgerEntry:
    """Its claim, should the server before have been lost before that was on record."""
    return replace(_claimed(fields, fields["created_at"]), again=True)


def _was_ready(fields: Mapping[str, Any], _: float) -> LedgerEntry:
    return _ready(fields, fields["ready_at"])


def _ready(fields: Mapping[str, Any], at: float) -> LedgerEntry:
    return ChannelReady(channel=fields["id"], at=at, pid=fields["pid"])


def _pinged(fields: Mapping[str, Any], _: float) -> LedgerEntry | None:
    last = fields["last_ping_at"]
    return None if last is None else ChannelPinged(channel=fields["id"], at=last, count=fields["pings"])


def _ended(fields: Mapping[str, Any], at: float) -> LedgerEntry:
    return ChannelEnded(
        channel=fields["id"],
        at=at,
        **{name: fields[name] for name in ("cause", "detail", "status", "processes", "killed", "seconds")},
    )


_ENTRIES: Final[Mapping[str, tuple[Callable[[Mapping[str, Any], float], LedgerEntry | None], ...]]] = {
    "claimed": (_claimed,),
    "adopted": (_adopted, _was_ready),
    "ready": (_ready,),
    "turn_begun": (lambda fields, at: TurnCounted(channel=fields["id"], at=at),),
    "gone": (_pinged, _ended),
}
