"""What a service manager is told: by both sides' few lines, over a real socket."""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from supervisor.notify import Notifier
from worker.spawner.notify import Notifier as SpawnersNotifier

PATIENCE = 20


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """The address as in NOTIFY_SOCKET, and the manager's end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        name = f"agentd-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
        end.bind(f"\0{name}" if request.param == "abstract" else name)
        end.settimeout(PATIENCE)
        yield (f"@{name}" if request.param == "abstract" else name), end


def heard(end: socket.socket) -> dict[str, str]:
    return dict(line.split("=", 1) for line in end.recv(4096).decode().split("\n"))


def test_what_is_told(manager: tuple[str, socket.socket]) -> None:
    address, end = manager
    environ = {"NOTIFY_SOCKET": address, "PATH": "/bin"}
    notifier = Notifier(environ)
    assert environ == {"PATH": "/bin"}
    notifier.ready()
    assert heard(end) == {"READY": "1"}
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    message = heard(end)
    assert message["RELOADING"] == "1"
    assert before <= int(message["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.stopping(2.5)
    assert heard(end) == {"STOPPING": "1", "EXTEND_TIMEOUT_USEC": "2500000"}


def test_what_the_spawner_tells(manager: tuple[str, socket.socket]) -> None:
    address, end = manager
    environ = {"NOTIFY_SOCKET": address}
    notifier = SpawnersNotifier(environ)
    assert environ == {}
    notifier.tell("READY=1", "STATUS=x")
    assert heard(end) == {"READY": "1", "STATUS": "x"}


async def test_the_watchdog_is_fed_for_as_long_as_the_loop_turns(manager: tuple[str, socket.socket]) -> None:
    address, end = manager
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000", "WATCHDOG_PID": str(os.getpid())})
    assert notifier.watchdog == 0.03
    numbers = iter(range(1000))
    report = asyncio.create_task(notifier.report(lambda: f"n{next(numbers)}"))
    told = [await asyncio.to_thread(heard, end) for _ in range(3)]
    assert told == [{"WATCHDOG": "1", "STATUS": f"n{n}"} for n in range(3)]
    # Whoever holds the loop up lets the watchdog starve: at most one that was on its way still comes.
    time.sleep(0.1)  # the fault itself: a loop that is held up
    end.setblocking(False)
    waiting = 0
    with pytest.raises(BlockingIOError):
        while heard(end):
            waiting += 1
    assert waiting <= 1
    report.cancel()
    await asyncio.wait({report}, timeout=PATIENCE)


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "2000000"}, 2.0),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_time_of_the_watchdog(environ: dict[str, str], seconds: float | None) -> None:
    assert Notifier(environ).watchdog == seconds
    assert environ == {}


def gone(folder: Path) -> str:
    return str(folder / "nobody")


def full(folder: Path) -> str:
    return str(folder / "full")


@pytest.mark.parametrize("address", [gone, full, lambda _: "", lambda _: "x" * 200])
async def test_a_manager_that_hears_nothing_is_not_waited_for(address: Callable[[Path], str], tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(full(tmp_path))
        for kind in (Notifier, SpawnersNotifier):
            notifier = kind({"NOTIFY_SOCKET": address(tmp_path)})
            tell = notifier.ready if isinstance(notifier, Notifier) else lambda: notifier.tell("READY=1")  # noqa: B023
            for _ in range(1000):
                tell()  # returns at once: else the test would hang here


async def test_nobody_is_reported_to_without_a_manager() -> None:
    async with asyncio.timeout(PATIENCE):
        await Notifier({}).report(lambda: "never asked for")
