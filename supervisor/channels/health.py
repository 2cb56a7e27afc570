"""Whether a running worker makes progress, from its beats alone. Pure."""

from typing import Final

SLOW_LAG_MS: Final = 500.0
SLOW_BEATS: Final = 2.0
STUCK_BEATS: Final = 3.0
STUCK_SECONDS: Final = 5.0


def verdict(silent: float, beat_seconds: float, lag_ms: float) -> str:
    """One of "ok", "slow" and "stuck", for a worker whose last sign of life is `silent` seconds old.

    `lag_ms` is how late its event loop ran its last beat: a loop that is held up is slow even though it beats.
    """
    if silent > max(STUCK_SECONDS, STUCK_BEATS * beat_seconds):
        return "stuck"
    if silent > SLOW_BEATS * beat_seconds + SLOW_LAG_MS / 1000 or lag_ms > SLOW_LAG_MS:
        return "slow"
    return "ok"
