"""The sweep where there are no cgroups: its word that nothing is left."""

import fcntl
import sys
from pathlib import Path

import pytest

from tests.harness.boss import Boss

# Its descendants hold the lock, each for no longer than a fork takes.
RUN_AWAY = """
import fcntl, os, signal, sys
if os.fork():
    signal.pause()
os.setsid()
fcntl.flock(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT, 0o600), fcntl.LOCK_EX)
for generation in range(20_000):
    if os.fork():
        os._exit(0)
    if generation == 5:
        print("away", flush=True)
"""
RUNS = 15


def held(path: Path) -> bool:
    with path.open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.mark.parametrize("marked", [True, False])
def test_no_receipt_while_one_that_runs_away_runs(boss: Boss, tmp_path: Path, marked: bool) -> None:
    boss.launch("--containment", "sweep").connect()
    lock = tmp_path / "lock"
    for number in map(str, range(RUNS)):
        mark = {"AGENTD_CHANNEL_ID": number if marked else ""}
        boss.spawn(number, [sys.executable, "-I", "-S", "-c", RUN_AWAY, str(lock)], environment=mark)
        boss.output(number)
        assert held(lock)
        assert boss.kill(number)["left"] == 0
        assert not held(lock), "it runs on behind the receipt"
    assert boss.end() == (0, "")
