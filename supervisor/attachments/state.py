"""What is known of one upload while it is processed: a task whose states only ever go forward. Pure."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Status(StrEnum):
    """The states of a task, as clients are told."""

    PENDING = "PENDING"
    STARTED = "STARTED"
    PROGRESS = "PROGRESS"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"


OVER: Final = frozenset({Status.SUCCESS, Status.FAILURE})
MOST_CURRENT: Final = 99  # percent; all of it is told by SUCCESS


@dataclass(slots=True, kw_only=True)
class TaskState:
    """One task. `current` is how much of the file was read, in percent; `detail` says why it failed."""

    id: str
    attachment_id: str
    name: str
    mime_type: str
    status: Status = Status.PENDING
    current: int = 0
    tokens: int = 0
    detail: str = ""

    @property
    def over(self) -> bool:
        """Whether it can change no more."""
        return self.status in OVER

    def begin(self) -> None:
        """A process reads the file."""
        if self.status is Status.PENDING:
            self.status = Status.STARTED

    def resume(self) -> None:
        """Another server may have told how much was read, so no state before that is told."""
        if not self.over:
            self.status = Status.PROGRESS

    def advance(self, current: int) -> None:
        """So much was read; what was read before stays read."""
        if not self.over and current > self.current:
            self.status = Status.PROGRESS
            self.current = min(current, MOST_CURRENT)

    def succeed(self, tokens: int) -> None:
        """The file can be used; the first ending counts."""
        if not self.over:
            self.status, self.tokens = Status.SUCCESS, tokens

    def fail(self, detail: str) -> None:
        """The file cannot be used, and why; the first ending counts."""
        if not self.over:
            self.status, self.detail = Status.FAILURE, detail
