"""A bound on the bytes that several uploads take together."""

from collections.abc import Iterator
from contextlib import contextmanager

from supervisor.causes import Cause, Refusal


class Allowance:
    """At most `limit` bytes, taken and given back; `what` they are for is said in a refusal."""

    def __init__(self, limit: int, what: str) -> None:
        self._limit = limit
        self._what = what
        self._taken = 0

    def check(self, amount: int) -> None:
        """Raises Refusal(UPLOAD_FAILED) when `amount` more do not fit."""
        if self._taken + amount > self._limit:
            raise Refusal(
                Cause.UPLOAD_FAILED,
                f"{self._what} have {self._taken} bytes; {amount} more are over the {self._limit} that are allowed",
            )

    def take(self, amount: int) -> None:
        """Take; raises Refusal(UPLOAD_FAILED)."""
        self.check(amount)
        self._taken += amount

    def give(self, amount: int) -> None:
        """Give back what was taken."""
        self._taken -= amount

    @contextmanager
    def held(self, amount: int) -> Iterator[None]:
        """Take, and give back if the body fails. Raises Refusal(UPLOAD_FAILED)."""
        self.take(amount)
        try:
            yield
        except BaseException:
            self.give(amount)
            raise
