"""What channels use: one look at all processes at a time, whoever asks."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from supervisor.processes import monitor
from supervisor.processes.monitor import Monitor

PATIENCE = 20


class Looks:
    """Counts the looks at all processes, and holds them up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = 0
        self.go_on = threading.Event()
        self._look = monitor._look
        monkeypatch.setattr(monitor, "_look", self.look)

    def look(self) -> Any:
        self.begun += 1
        assert self.go_on.wait(PATIENCE)
        return self._look()


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Looks]:
    looks = Looks(monkeypatch)
    yield looks
    looks.go_on.set()


@pytest.fixture
def child() -> Iterator[int]:
    """A process that uses a CPU."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        yield process.pid
        process.kill()


async def test_a_tree_is_added_up(child: int) -> None:
    watching = Monitor()
    now = time.time()
    samples = await watching.sample([("us", os.getpid(), now - 1000), ("child", child, now), ("ended", 2**22 + 1, now)])
    assert set(samples) == {"us", "child"}
    assert samples["us"].processes >= 2
    assert samples["us"].rss_bytes > samples["child"].rss_bytes > 0
    async with asyncio.timeout(PATIENCE):
        while (await watching.sample([("child", child, now)]))["child"].cpu_percent < 10:
            pass
    await watching.sample([])


async def test_who_asks_meanwhile_shares_the_result(looks: Looks) -> None:
    watching, now = Monitor(), time.time() - 1000
    asks = [asyncio.create_task(watching.sample([("us", os.getpid(), now), (name, 1, now)])) for name in "ab"]
    await asyncio.sleep(0)
    looks.go_on.set()
    first, second = await asyncio.gather(*asks)
    assert looks.begun == 1
    assert first["us"] == second["us"]
    assert (set(first), set(second)) == ({"us", "a"}, {"us", "b"})


async def test_those_who_do_not_wait_for_it_start_no_other(looks: Looks) -> None:
    watching = Monitor()
    for _ in range(20):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await watching.sample([("us", os.getpid(), time.time())])
    assert looks.begun == 1
    looks.go_on.set()
    assert set(await watching.sample([("us", os.getpid(), time.time())])) == {"us"}


async def test_to_ask_for_one_forgets_nothing_of_another(child: int) -> None:
    watching, now = Monitor(), time.time()
    await watching.sample([("us", os.getpid(), now), ("child", child, now)])
    await watching.sample([("us", os.getpid(), now)])
    assert set(watching._known) == {"us", "child"}
    os.kill(child, 9)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    await watching.sample([])
    assert "us" in watching._known
