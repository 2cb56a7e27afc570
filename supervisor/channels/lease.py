"""A channel's lease: monotonic deadlines, pure. Only a ping, and becoming ready, move it (wire/ten.md section 7)."""

from typing import Any, Final

NEVER: Final = float("inf")


class Lease:
    """Kept by pings: the channel lapses when `timeout` seconds go by without one. All times are monotonic seconds."""

    __slots__ = ("deadline", "last_ping", "pings", "timeout")

    def __init__(self, timeout: float) -> None:
        """`timeout` in seconds, or NEVER. There is no deadline before the first `refresh`."""
        self.timeout = timeout
        self.deadline = NEVER
        self.last_ping: float | None = None
        self.pings = 0

    def begin(self, now: float) -> None:
        """The worker is ready: the lease runs from now."""
        self.deadline = now + self.timeout

    def ping(self, now: float) -> None:
        """A client pinged."""
        self.last_ping = now
        self.pings += 1
        self.deadline = now + self.timeout

    def resume(self, now: float, last: float, pings: int, died_at: float, *, paused: bool) -> None:
        """Go on with a lease that an earlier supervisor kept, which died at `died_at`.

        It was kept `last` (0: nobody knows, it begins anew) and pinged so often. `paused`: the time without a
        supervisor does not count, since nobody could ping.
        """
        if not last:
            self.begin(now)
            return
        self.pings = pings
        self.last_ping = last if pings else None
        down = max(0.0, now - max(last, died_at)) if paused else 0.0
        self.deadline = last + self.timeout + down

    def told(self, monotonic: float, wall: float) -> dict[str, Any]:
        """What is told of its pings in the end: how many, and when the last one came (in seconds since 1970)."""
        last = self.last_ping
        return {"pings": self.pings, "last_ping_at": last and wall - (monotonic - last)}

    def remaining(self, now: float) -> float | None:
        """Seconds until it lapses, None when it never does (or has not begun)."""
        return None if self.deadline == NEVER else self.deadline - now


def timeout_of(wish: int | None, default: float) -> float:
    """The lease in seconds for a start's ``timeout``: positive as it is, -1 never, else the default (section 4)."""
    if wish == -1:
        return NEVER
    return float(wish) if wish is not None and wish > 0 else default
