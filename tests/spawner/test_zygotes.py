"""Zygotes that hang or die at the worst moment: their starts end, and nothing of them comes to life afterwards."""

import contextlib
import os
import select
from pathlib import Path

import pytest

from tests.harness.boss import PATIENCE, Boss

MODULE = """
import __main__, os, signal, time

def hangs():
    time.sleep(1000)

def dies_behind_its_spare():
    '''Give the request to the spare, which is slow to become a worker, and die before that is told.'''
    hatch = __main__.Zygote._hatch
    def dying_hatch(self, data, fds):
        if self._spare is None:
            self._breed()
        with open(os.environ["TMPDIR"] + "/../spare", "w") as file:
            file.write(str(self._spare.pid))
        hatch(self, data, fds)
        os.kill(os.getpid(), signal.SIGKILL)
    def slow_become(self, message, config):
        while True:
            signal.pause()
    __main__.Zygote._hatch, __main__.Zygote._become = dying_hatch, slow_become
"""
LIMIT = """
import worker.spawner.zygotes as zygotes
zygotes.READY_SECONDS = 1.5
"""
# The first fork that is asked for finds its zygote dead, as when it is killed and nobody has noticed yet.
DEAD = """
import os, select, signal
import worker.spawner.zygotes as zygotes
ask = zygotes.Zygotes._ask
killed = []
def asking(self, zygote, fork):
    if len(killed) < MOST:
        killed.append(zygote.pid)
        zygote.kill()
        select.select([zygote.pidfd], [], [])
    ask(self, zygote, fork)
zygotes.Zygotes._ask = asking
"""


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "zoo_zygote.py").write_text(MODULE)
    return folder


@pytest.mark.parametrize("request_", [{"op": "kill"}, {"op": "stop", "term_after": 9, "kill_after": 9}])
def test_a_start_whose_preload_hangs_can_be_stopped(boss: Boss, modules: Path, request_: dict[str, object]) -> None:
    boss.launch(path=modules).connect()
    boss.spawn("1", preload=("zoo_zygote:hangs",))
    boss.spawn("2", preload=("zoo_zygote:hangs",))
    boss.send(**request_, id="1")
    assert boss.event("spawn_failed", id="1")["error"] == "stopped before a zygote was ready"
    assert not [event for event in boss.events if event.get("id") == "2"]
    boss.spawn("3")
    boss.ready("3")
    boss.kill("3")
    assert boss.end() == (0, "")
    assert [event["id"] for event in boss.events if event["ev"] == "spawn_failed"] == ["1", "2"]


def test_a_preload_that_hangs_is_given_up(boss: Boss, modules: Path) -> None:
    (modules / "sitecustomize.py").write_text(LIMIT)
    boss.launch(path=modules).connect()
    boss.spawn("1", preload=("zoo_zygote:hangs",))
    error = boss.event("spawn_failed", id="1")["error"]
    assert error == "preload zoo_zygote:hangs: not done after 1.5 seconds"
    assert boss.event("zygote", state="died", preload=["zoo_zygote:hangs"])["status"] == -9
    boss.spawn("2")
    boss.ready("2")
    boss.kill("2")
    assert boss.end() == (0, "")


@pytest.mark.parametrize("level", ["auto", "sweep"])
def test_a_spare_does_not_outlive_the_zygote_that_gave_it_a_request(boss: Boss, modules: Path, level: str) -> None:
    boss.launch("--containment", level, path=modules).connect()
    boss.spawn("1", preload=("zoo_zygote:dies_behind_its_spare",))
    assert boss.event("spawn_failed", id="1")["error"] == "the zygote ended with status -9"
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(int((boss.state_dir / "spare").read_text()))
        ended = select.select([pidfd], [], [], PATIENCE)[0]
        os.close(pidfd)
        assert ended
    assert boss.end() == (0, "")


@pytest.mark.parametrize(("most", "event"), [(1, "spawned"), (2, "spawn_failed")])
def test_a_fork_that_finds_its_zygote_dead_goes_to_the_next_once(
    boss: Boss, modules: Path, most: int, event: str
) -> None:
    (modules / "sitecustomize.py").write_text(DEAD.replace("MOST", str(most)))
    boss.launch(path=modules).connect()
    boss.event("zygote", state="ready")
    boss.spawn("1")
    boss.event(event, id="1")
    boss.spawn("2")
    boss.ready("2")
    assert boss.end() == (0, "")
