"""Which cause an ending gets, from what was asked, what the worker said and how its process ended."""

from typing import Any

import pytest

from supervisor.causes import EXPLANATIONS, Cause
from supervisor.channels.ending import MAX_DETAIL, Findings
from worker.spawn import Receipt

RECEIPT = Receipt(processes=3, killed=1, left=0, seconds=0.5, by="cgroup")


def found(*steps: Any, status: int | None = None, oom: bool = False) -> tuple[Cause, str]:
    """The ending after these causes (put) and words (said), and the exit at the end."""
    findings = Findings()
    for step in steps:
        if isinstance(step, dict):
            findings.said(step.get("cause"), step.get("detail", ""))
        else:
            findings.put(*step)
    if status is not None:
        findings.status, findings.oom = status, oom
        findings.judge()
    ending = findings.ending()
    return ending.cause, ending.detail


MISSING = {"cause": "addons_missing", "detail": "no add-on x"}
EARLY = (Cause.EXITED_BEFORE_READY, "")
STOPPED = (Cause.STOPPED, "")


@pytest.mark.parametrize(
    ("steps", "exit_", "expected"),
    [
        # a running worker: its status tells
        ((), (0, False), (Cause.EXITED, "worker exited with code 0")),
        ((), (7, False), (Cause.CRASHED, "worker exited with code 7")),
        ((), (-11, False), (Cause.CRASHED, "worker was killed by signal 11")),
        ((), (-9, True), (Cause.OUT_OF_MEMORY, "the kernel killed the worker at its memory limit")),
        # a start: what the worker says is more precise than that it ended
        ((EARLY,), (3, False), (Cause.EXITED_BEFORE_READY, "worker exited with code 3")),
        ((EARLY, MISSING), (3, False), (Cause.ADDONS_MISSING, "no add-on x")),
        ((MISSING, EARLY), (3, False), (Cause.ADDONS_MISSING, "no add-on x")),
        ((EARLY,), (-9, True), (Cause.OUT_OF_MEMORY, "the kernel killed the worker at its memory limit")),
        ((EARLY, {"cause": "graph_invalid", "detail": "node n"}), (3, False), (Cause.GRAPH_INVALID, "node n")),
        # the first cause counts
        ((STOPPED,), (0, False), (Cause.STOPPED, EXPLANATIONS[Cause.STOPPED].message)),
        ((STOPPED,), (-9, True), (Cause.STOPPED, EXPLANATIONS[Cause.STOPPED].message)),
        ((STOPPED, MISSING), (3, False), (Cause.STOPPED, EXPLANATIONS[Cause.STOPPED].message)),
        (((Cause.LAPSED, ""), STOPPED), (0, False), (Cause.LAPSED, EXPLANATIONS[Cause.LAPSED].message)),
        (((None, ""), (Cause.START_TIMEOUT, "late")), (-9, False), (Cause.START_TIMEOUT, "late")),
        # there was no process
        (((Cause.SPAWN_FAILED, "command 'x': no such file"),), None, (Cause.SPAWN_FAILED, "command 'x': no such file")),
    ],
)
def test_the_cause(steps: Any, exit_: tuple[int, bool] | None, expected: tuple[Cause, str]) -> None:
    assert found(*steps, **({} if exit_ is None else {"status": exit_[0], "oom": exit_[1]})) == expected


@pytest.mark.parametrize("cause", [None, 5, [], {}, "stopped", "killed", "internal", "no cause at all"])
def test_a_worker_can_only_say_what_is_its_to_say(cause: Any) -> None:
    assert found({"cause": cause, "detail": "x"}, status=3)[0] is Cause.CRASHED


def test_what_a_worker_says_is_bounded_and_text() -> None:
    assert found({"cause": "graph_invalid", "detail": "x" * 10_000}) == (Cause.GRAPH_INVALID, "x" * MAX_DETAIL)
    assert found({"cause": "graph_invalid", "detail": {"a": 1}})[1] == "{'a': 1}"


def test_the_fields_of_the_event() -> None:
    findings = Findings()
    findings.put(Cause.STOPPED, "by hand")
    assert findings.ending().as_fields() == {
        "cause": "stopped",
        "detail": "by hand",
        "status": None,
        "processes": None,
        "killed": None,
        "seconds": None,
    }
    findings.status, findings.receipt = 0, RECEIPT
    fields = findings.ending().as_fields()
    assert (fields["status"], fields["processes"], fields["killed"], fields["seconds"]) == (0, 3, 1, 0.5)
