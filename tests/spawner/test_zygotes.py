"""Zygotes that hang or die at the worst moment: their starts end, and nothing of them comes to life afterwards."""

import contextlib
import os
import select
import sys
from pathlib import Path

import pytest

from tests.harness.boss import PATIENCE, Boss

MODULE = """
import __main__, os, signal, time

def waits():
    os.close(os.open(os.environ["TMPDIR"] + "/../gate", os.O_RDONLY))

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


def zygote_of(boss: Boss) -> int:
    return int(boss.event("zygote", state="ready", preload=[])["pid"])


def test_a_server_that_follows_an_upgrade_has_new_workers_run_the_new_code(boss: Boss, modules: Path) -> None:
    boss.launch(path=modules).connect()
    old = zygote_of(boss)
    boss.spawn("1")
    before = boss.ready("1")
    boss.hang_up()
    boss.connect()
    assert zygote_of(boss) == old
    boss.hang_up()

    (modules / "zoo_zygote-2.dist-info").mkdir()  # as if pip had installed it
    boss.connect()
    boss.spawn("2")  # not kept waiting: the old one serves, or the new one
    boss.ready("2")
    boss.event("zygote", state="replaced", pid=old)
    boss.spawn("3")
    boss.ready("3")
    [new] = {event["pid"] for event in boss.events if event["ev"] == "zygote" and event["state"] == "ready"} - {old}
    assert new != old
    assert not [event for event in boss.events if event.get("state") == "died"]
    os.kill(before, 0)  # it goes on with the code it has
    for channel in ("1", "2", "3"):
        boss.kill(channel)
    assert boss.end() == (0, "")


def test_a_start_that_waits_is_served_by_whichever_zygote_is_ready_first(boss: Boss, modules: Path) -> None:
    boss.launch(path=modules).connect()
    os.mkfifo(boss.state_dir / "gate")
    boss.spawn("1", preload=("zoo_zygote:waits",))
    boss.settle()
    boss.hang_up()
    (modules / "zoo_zygote-2.dist-info").mkdir()
    boss.connect()
    boss.spawn("2", preload=("zoo_zygote:waits",))
    gate = os.open(boss.state_dir / "gate", os.O_RDWR)  # from now on nobody waits for it
    try:
        for channel in ("1", "2"):
            boss.ready(channel)
            boss.kill(channel)
        boss.event("zygote", state="replaced", preload=["zoo_zygote:waits"])
        boss.event("zygote", state="replaced", preload=[])
    finally:
        os.close(gate)
    (boss.state_dir / "gate").unlink()
    assert boss.end() == (0, "")


def test_where_the_new_code_cannot_start_the_old_one_goes_on(boss: Boss) -> None:
    boss.launch().connect()
    old = zygote_of(boss)
    boss.hang_up()
    boss.connect(python="/nowhere/python")
    assert boss.event("zygote", state="died")["pid"] != old
    boss.spawn("1")
    boss.ready("1")
    boss.kill("1")
    boss.hang_up()
    boss.connect(python=sys.executable)  # back again
    boss.event("zygote", state="replaced", pid=old)
    boss.spawn("2")
    boss.ready("2")
    boss.kill("2")
    status, said = boss.end()
    assert status == 0
    assert said.count("/nowhere/python") <= 1


def test_a_successor_that_could_not_start_is_tried_again_by_the_next_server(boss: Boss, tmp_path: Path) -> None:
    boss.launch().connect()
    old = zygote_of(boss)
    boss.hang_up()
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nexit 3\n")
    python.chmod(0o755)
    boss.connect(python=str(python))
    assert boss.event("zygote", state="died")["status"] == 3
    boss.hang_up()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    boss.connect(python=str(python))
    boss.event("zygote", state="replaced", pid=old)
    boss.hang_up()

    boss.connect(python=str(python))
    follower = zygote_of(boss)
    boss.hang_up()
    (tmp_path / "venv/lib/python3.99/site-packages/addon-2.dist-info").mkdir(
        parents=True
    )  # not where the spawner looks
    boss.connect(python=str(python))
    boss.event("zygote", state="replaced", pid=follower)
    boss.spawn("1")
    boss.ready("1")
    boss.kill("1")
    assert boss.end() == (0, "")
