"""A few trials with seeds that are fixed, as `make chaos` runs a thousand of them; and that the suite can fail."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.clients import Client, Reader
from tests.chaos.faults import DOINGS, Scene
from tests.chaos.house import ADDONS, House
from tests.chaos.invariants import doubles, logs, streams
from tests.chaos.plan import KINDS, Fault, Plan, plan_of
from tests.chaos.strangers import strangers

ROOT = Path(__file__).parents[2]
SEEDS = (12, 5)  # between them: every process is killed, a start too, disks are full, memory is short
SECONDS = 110


def test_a_plan_is_that_of_its_seed() -> None:
    plans = [plan_of(seed) for seed in range(1000)]
    assert plans == [plan_of(seed) for seed in range(1000)]
    assert len(set(plans)) == 1000
    drawn = {fault.kind for plan in plans for fault in plan.faults}
    assert drawn == set(KINDS) == set(DOINGS)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_few_trials(seed: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.chaos", "--seed", str(seed), "--trials", "1"]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


# ---------------------------------------------------------------------- what is no trial: the invariants themselves


def reader(texts: list[str], ending: str = "completed") -> Reader:
    one = Reader(Client("", None), "t", 3, 0.0)  # type: ignore[arg-type] - it asks nobody
    one.texts, one.ending = texts, ending
    return one


@pytest.mark.parametrize(
    ("texts", "ending", "may_end", "holds"),
    [
        (["0 ", "1 ", "2 "], "completed", False, True),
        (["0 ", "1 "], "crashed", True, True),
        (["0 ", "1 "], "crashed", False, False),
        (["0 ", "1 "], "completed", True, False),
        (["0 ", "1 ", "1 "], "crashed", True, False),
        (["0 ", "2 "], "crashed", True, False),
        (["0 ", "1 ", "2 ", "2 "], "completed", False, False),
    ],
)
def test_an_event_that_is_lost_or_comes_twice_is_seen(
    tmp_path: Path, texts: list[str], ending: str, may_end: bool, holds: bool
) -> None:
    scene = Scene(House(tmp_path), {"t": {}}, may_end={"t"} if may_end else set())
    assert (list(streams(scene, [reader(texts, ending)])) == []) == holds


def test_two_workers_of_one_channel_are_seen(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.witness.mkdir()
    code = "import sys, holds; holds.hold(sys.argv[1], 'c'); print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(house.witness)]
    for expected in (0, 1):
        with contextlib.ExitStack() as both:
            for _ in range(expected + 1):
                worker = subprocess.Popen(
                    command, env={"PYTHONPATH": str(ADDONS)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
                )
                both.enter_context(worker)
                assert worker.stdout is not None
                assert worker.stdout.readline() == b"held\n"
        assert len(doubles(house)) == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can choose the number of a process")
async def test_a_signal_to_a_stranger_is_seen() -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    async with strangers() as decoys:
        await decoys.follow([dead.pid])
        if not decoys.taken:
            pytest.skip("the number of a process cannot be chosen here")
        assert await decoys.release() == []
        await decoys.follow([dead.pid])
        if decoys.taken < 2:
            pytest.skip("somebody else has got the number meanwhile")
        for number in (signal.SIGTERM, signal.SIGKILL):
            os.kill(dead.pid, number)
        hits = await decoys.release()
    assert any(str(dead.pid) in hit for hit in hits)


def test_a_gap_in_a_log_is_seen(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.logs.mkdir()
    path = house.logs / "app-f.log"
    path.write_text("line 0\nline 1\nline 2")
    assert list(logs(house, ["f"])) == []
    path.write_text("line 0\nline 2\n")
    assert len(list(logs(house, ["f"]))) == 1


def test_plans_are_data() -> None:
    plan = plan_of(7)
    assert eval(repr(plan), {"Plan": Plan, "Fault": Fault}) == plan
