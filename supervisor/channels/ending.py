"""Why and how a channel ends, gathered while it does. Pure."""

from dataclasses import dataclass
from typing import Any, Final

from supervisor.causes import EXPLANATIONS, Cause
from supervisor.channels.lifecycle import cause_of_exit
from worker.spawn import Receipt

MAX_DETAIL: Final = 2000
# What a worker may say itself of a start that failed; in all other cases its status tells.
SAID: Final = (Cause.ADDONS_MISSING, Cause.GRAPH_INVALID, Cause.START_TIMEOUT)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a channel ended: why, the worker's status (as `Popen.returncode`), and the proof that nothing is left."""

    cause: Cause
    detail: str
    status: int | None
    receipt: Receipt | None

    def as_fields(self) -> dict[str, Any]:
        """The fields of its log event."""
        proof = self.receipt
        return {
            "cause": self.cause.value,
            "detail": self.detail,
            "status": self.status,
            "processes": proof and proof.processes,
            "killed": proof and proof.killed,
            "seconds": proof and proof.seconds,
        }


class Findings:
    """What is known of an ending so far. The first cause on record counts; the worker can make one more precise."""

    __slots__ = ("cause", "detail", "oom", "receipt", "status")

    def __init__(self) -> None:
        self.cause: Cause | None = None
        self.detail = ""
        self.status: int | None = None
        self.oom = False
        self.receipt: Receipt | None = None

    def put(self, cause: Cause | None, detail: str) -> None:
        """Something ends the channel for this cause; None: it does not say why."""
        if cause is not None and self.cause is None:
            self.cause = cause
            self.detail = detail or self.detail

    def said(self, cause: Any, detail: Any) -> None:
        """The worker says why its start failed."""
        if cause in SAID and self._open():
            self.cause = Cause(cause)
            self.detail = str(detail)[:MAX_DETAIL]

    def judge(self) -> None:
        """The worker has ended, its last words have been read: what they leave open its status tells."""
        if self.status is None or not self._open():
            return
        if self.cause is None or self.oom:
            self.cause = cause_of_exit(self.status, oom=self.oom)
        self.detail = self.detail or describe(self.status, oom=self.oom)

    def ending(self) -> Ending:
        """The ending, once nothing is left."""
        cause = self.cause or Cause.INTERNAL
        return Ending(cause, self.detail or EXPLANATIONS[cause].message, self.status, self.receipt)

    def _open(self) -> bool:
        """Whether all that is known is that the worker ended."""
        return self.cause is None or self.cause is Cause.EXITED_BEFORE_READY


def describe(status: int, *, oom: bool) -> str:
    """A worker's end in words."""
    if oom:
        return "the kernel killed the worker at its memory limit"
    return f"worker was killed by signal {-status}" if status < 0 else f"worker exited with code {status}"
