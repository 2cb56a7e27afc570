"""The server as a service manager starts it: with sockets opened already, and with a spawner that is not its own.

With systemd itself: tests/vm/test_installed.py.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.conftest import ZOO
from tests.harness import Agentd
from tests.harness.leaks import MARK
from tests.harness.server import PATIENCE

LOOPBACK = "socket.create_server(('127.0.0.1', 0))"
EVERYWHERE = "socket.create_server(('0.0.0.0', 0))"
DATAGRAMS = "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)"
MANAGER = """
import os, socket, sys
opened = [{sockets}]
for fd, one in enumerate(opened, 3):
    assert one.fileno() == fd
    os.set_inheritable(one.detach(), True)
os.environ |= {{"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(opened)), "LISTEN_FDNAMES": "http"}}
os.execv(sys.executable, [sys.executable, "-m", "supervisor", "serve"])
"""


class Activated(Agentd):
    """A server that is left these `sockets`, each an expression."""

    sockets: tuple[str, ...] = ()

    def command(self, _environment: dict[str, str]) -> list[str]:
        return [sys.executable, "-c", MANAGER.format(sockets=", ".join(self.sockets))]


@pytest.fixture
async def activated(state_dir: Path, tmp_path: Path) -> AsyncIterator[Activated]:
    server = Activated(state_dir, tmp_path, extra_path=ZOO)
    try:
        yield server
    finally:
        await server.stop()


# ---------------------------------------------------------------------- inherited sockets


async def test_inherited_sockets_are_served_and_no_others(activated: Activated) -> None:
    path = activated.folder / "http"
    at_path = f"[one := socket.socket(socket.AF_UNIX), one.bind({str(path)!r}), one.listen()][0]"
    activated.sockets = (LOOPBACK, at_path)
    await activated.start(AGENTD_LISTEN="127.0.0.1:1", AGENTD_WORKER_ENV="*", LISTEN_OTHER="kept")
    inherited = await activated.event("server.sockets_inherited")
    assert inherited["addresses"] == (await activated.event("server.ready"))["addresses"]
    assert inherited["addresses"] == [activated.address, f"unix:{path}"]
    assert activated.address.startswith("http://127.0.0.1:")
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as client,
        client.get("http://localhost/health") as response,
    ):
        assert (await response.json())["code"] == "0"

    await activated.begin("c")
    pid = (await activated.channel("c"))["pid"]
    spawner = (await activated.get("/health?details=1"))["data"]["spawner_pid"]
    for process in (pid, spawner):
        held = {os.readlink(entry) for entry in Path(f"/proc/{process}/fd").iterdir()}
        assert not any(name.startswith("socket:") and name in listening() for name in held)
    assert await activated.stop() == 0
    assert path.is_socket()  # of whoever opened it


def listening() -> set[str]:
    """The sockets of TCP that listen, as links in /proc show them."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {f"socket:[{row[9]}]" for row in rows if row[3] == "0A"}


@pytest.mark.parametrize(
    ("sockets", "told"),
    [
        ((LOOPBACK, EVERYWHERE), "listening beyond loopback, at 0.0.0.0:"),
        ((DATAGRAMS,), "descriptor 3 (http) cannot be served: it does not listen for streams"),
    ],
)
async def test_what_may_not_be_served_ends_the_start(activated: Activated, sockets: tuple[str, ...], told: str) -> None:
    activated.sockets = sockets
    with pytest.raises(AssertionError, match=r"without server\.ready"):
        await activated.start()
    assert await activated.stop() == 2
    assert told in activated.events[-1]["text"]


async def test_beyond_loopback_with_a_token(activated: Activated) -> None:
    activated.sockets = (EVERYWHERE,)
    await activated.start(AGENTD_TOKEN="a-token-of-this-test")
    assert (await activated.get("/channels"))["status"] == 401
    assert (await activated.event("server.ready"))["addresses"] == [activated.address]


# ---------------------------------------------------------------------- a spawner of its own


class SpawnerUnit:
    """The spawner as a service manager has it."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> int:
        (self._state_dir / "agentd-state").touch(0o600)  # as tmpfiles.d does
        environment = {
            **{name: os.environ[name] for name in ("PATH", MARK, "TMPDIR")},
            "PYTHONPATH": str(ZOO),
            "NOTIFY_SOCKET": str(self._state_dir / "nobody"),
            "SECRET": "of the unit",
        }
        command = [sys.executable, "-m", "worker.spawner", "--state-dir", str(self._state_dir)]
        self.process = await asyncio.create_subprocess_exec(*command, env=environment, start_new_session=True)
        return self.process.pid

    async def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        process, self.process = self.process, None
        process.send_signal(number)
        async with asyncio.timeout(PATIENCE):
            return await process.wait()


@pytest.fixture
async def unit(state_dir: Path) -> AsyncIterator[SpawnerUnit]:
    unit = SpawnerUnit(state_dir)
    yield unit
    if unit.process is not None:
        assert await unit.end() == 0


UNIT = {"AGENTD_SPAWNER": "unit"}


async def test_the_spawner_of_a_unit_outlives_the_server_with_its_workers(
    agentd: Agentd, successor: Agentd, unit: SpawnerUnit
) -> None:
    pid = await unit.start()
    await agentd.start(**UNIT)
    assert (await agentd.event("server.ready"))["spawner_pid"] == pid
    await agentd.begin("c")
    worker = (await agentd.channel("c"))["pid"]
    folder = agentd.state_dir / "ch" / (await agentd.channel("c"))["id"]
    assert await agentd.stop() == 0
    assert not [event for event in agentd.events if event["event"] in {"channel.stopping", "channel.gone"}]

    await successor.start(**UNIT)
    assert (await successor.event("server.ready"))["spawner_pid"] == pid
    assert Path(f"/proc/{worker}").exists()
    assert folder.is_dir()
    assert await successor.stop() == 0
    assert await unit.end() == 0
    assert not Path(f"/proc/{worker}").exists()


async def test_a_killed_server_leaves_them_as_well(agentd: Agentd, successor: Agentd, unit: SpawnerUnit) -> None:
    pid = await unit.start()
    await agentd.start(**UNIT)
    await agentd.begin("c")
    worker = (await agentd.channel("c"))["pid"]
    await agentd.kill()
    await successor.start(**UNIT)
    assert (await successor.event("server.ready"))["spawner_pid"] == pid
    assert Path(f"/proc/{worker}").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_the_next_spawner_of_a_unit_is_found(agentd: Agentd, unit: SpawnerUnit, number: int) -> None:
    before = await unit.start()
    await agentd.start(**UNIT)
    await agentd.begin("c")
    await unit.end(number)
    gone = await agentd.gone("c")
    assert gone["cause"] == "spawner_lost"
    # Told to end, it ends its workers first: how is known.
    assert (gone["status"], gone["processes"]) == ((0, 1) if number == signal.SIGTERM else (None, None))
    pid = await unit.start()
    assert (await agentd.event("spawner.replaced"))["pid"] == pid != before
    await agentd.begin("c")
    assert (await agentd.end("c"))["code"] == "0"


async def test_a_server_waits_for_the_spawner_of_its_unit(agentd: Agentd, unit: SpawnerUnit) -> None:
    start = asyncio.create_task(agentd.start(**UNIT))
    lock = agentd.state_dir / "serve.lock"
    async with asyncio.timeout(PATIENCE):
        while not lock.exists():  # it is at work, and finds none
            await asyncio.sleep(0.01)
    pid = await unit.start()
    await start
    assert (await agentd.event("server.ready"))["spawner_pid"] == pid


async def test_a_server_without_the_spawner_of_its_unit_says_so(agentd: Agentd) -> None:
    with pytest.raises(AssertionError, match=r"without server\.ready"):
        await agentd.start(**UNIT)
    assert await agentd.stop() == 1
    assert "AGENTD_SPAWNER=unit" in agentd.events[-1]["text"]


async def test_zygotes_get_nothing_else_of_the_unit_s_environment(agentd: Agentd, unit: SpawnerUnit) -> None:
    pid = await unit.start()
    await agentd.start(**UNIT)
    zygote = (await agentd.event("zygote.ready"))["pid"]
    assert b"SECRET" in Path(f"/proc/{pid}/environ").read_bytes()
    environment = Path(f"/proc/{zygote}/environ").read_bytes()
    assert b"AGENTD_INSTANCE=" in environment
    assert not any(name in environment for name in (b"SECRET", b"NOTIFY_SOCKET"))
