"""agentd as `make install-systemd` leaves it on a machine: its units under a real systemd, until they are removed."""

import asyncio
import contextlib
import json
import os
import pwd
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.harness.server import PATIENCE
from tests.vm.unit import ROOT, cgroup_of, systemctl

pytestmark = pytest.mark.timeout(600)  # the first one installs

REPOSITORY = Path(__file__).parents[2]
UNITS = ("agentd.socket", "agentd.service", "agentd-workers.service")
INSTALLED = Path("/usr/local/lib/systemd/system")
DROP_INS = Path("/run/systemd/system")
DATA = (Path("/etc/agentd"), Path("/var/lib/agentd"), Path("/var/log/agentd"))
SLICE = ROOT / "system.slice"
URL = "http://127.0.0.1:8080"
# Least exposure is 0.0, the worst 10.0; systemd counts tenths.
EXPOSURES = [("agentd.service", 15), ("agentd-workers.service", 30)]


def run(*command: str, **variables: str) -> str:
    environment = {**os.environ, **variables}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def make(target: str, **variables: str) -> str:
    wheels = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(REPOSITORY / ".vm" / "wheels")}
    return run("make", target, *(f"{name}={value}" for name, value in variables.items()), **wheels)


@pytest.fixture(scope="session")
def installed() -> Iterator[str]:
    """What the installation said; the files are in /opt/agentd, /usr/local/lib and /etc/agentd."""
    yield make("install-systemd")


class House:
    """The installed units, as their operator and their clients see them."""

    def __init__(self, client: aiohttp.ClientSession) -> None:
        self._client = client

    async def property(self, name: str, unit: str = "agentd.service") -> str:
        return await systemctl("show", "-P", name, unit)

    async def main_pid(self, unit: str = "agentd.service") -> int:
        return int(await self.property("MainPID", unit))

    async def states(self) -> list[str]:
        return [await self.property("ActiveState", unit) for unit in UNITS]

    async def until(self, name: str, wanted: str, unit: str = "agentd.service") -> None:
        """Wait until systemd says this of a unit: it has no event to wait for on a command line."""
        async with asyncio.timeout(PATIENCE):
            while await self.property(name, unit) != wanted:
                await asyncio.sleep(0.05)

    async def request(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        async with self._client.request(method, URL + path, json=body or None) as response:
            answer: dict[str, Any] = await response.json()
            return answer

    async def begin(self, name: str) -> int:
        """Start a channel; the pid of its worker."""
        answer = await self.request("POST", "/start", channel_name=name, graph_name="echo", timeout=-1)
        assert answer["code"] == "0", answer
        pid: int = (await self.request("GET", f"/channels/{name}"))["pid"]
        return pid

    async def drop_in(self, unit: str, *lines: str) -> None:
        folder = DROP_INS / f"{unit}.d"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "test.conf").write_text("\n".join(lines) + "\n")
        await systemctl("daemon-reload")


@pytest.fixture
async def house(installed: str) -> AsyncIterator[House]:
    """The units, none started yet; stopped afterwards, with nothing left."""
    connector = aiohttp.TCPConnector(force_close=True)  # each request is a connection of its own
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as client:
        house = House(client)
        yield house
        await systemctl("stop", *UNITS)
        await house.until("ActiveState", "inactive", "agentd-workers.service")
        for unit in UNITS:
            with contextlib.suppress(FileNotFoundError):
                (DROP_INS / f"{unit}.d" / "test.conf").unlink()
        await systemctl("daemon-reload")
    nothing_runs()


def nothing_runs() -> None:
    assert processes() == {}
    assert [path.name for path in SLICE.glob("agentd*")] == []


def processes() -> dict[int, str]:
    """What the user agentd has running, by pid."""
    found: dict[int, str] = {}
    try:
        owner = pwd.getpwnam("agentd").pw_uid
    except KeyError:  # removed, which takes that nothing of it runs
        return found
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if f"\nUid:\t{owner}\t" in (entry / "status").read_text():
                found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
    return found


def alive(pid: int) -> bool:
    return pid in processes() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def journal(*arguments: str) -> list[dict[str, Any]]:
    run("journalctl", "--sync")
    return [json.loads(line) for line in run("journalctl", "-o", "json", "-a", *arguments).splitlines()]


# ---------------------------------------------------------------------- the files


def test_the_units_are_in_order(installed: str) -> None:
    assert "systemctl enable --now agentd" in installed
    assert run("systemd-analyze", "verify", *(str(INSTALLED / unit) for unit in UNITS)) == ""
    for unit, most in EXPOSURES:
        run("systemd-analyze", "security", "--offline=yes", f"--threshold={most}", str(INSTALLED / unit))
    settings = (DATA[0] / "agentd.env").stat()
    assert (oct(settings.st_mode)[-4:], settings.st_uid) == ("0640", 0)


# ---------------------------------------------------------------------- start, stop


async def test_a_start_brings_all_up_and_a_stop_leaves_nothing(house: House) -> None:
    await systemctl("start", "agentd")
    assert await house.states() == ["active"] * 3  # at once: it has been waited for
    assert (await house.property("StatusText")).startswith("channels: 0, spawner: attached")
    details = (await house.request("GET", "/health?details=1"))["data"]
    assert details["spawner_pid"] == await house.main_pid("agentd-workers.service")
    assert details["containment"] in {"full", "tracking"}
    worker = await house.begin("c")
    channel = await house.request("GET", "/channels/c")
    assert cgroup_of(worker).name == channel["id"]
    assert cgroup_of(worker).is_relative_to(SLICE / "agentd-workers.service")
    assert {await house.main_pid(), worker, details["spawner_pid"]} <= set(processes())
    for folder in (*DATA[1:], Path("/run/agentd")):
        assert (folder.owner(), oct(folder.stat().st_mode)[-3:]) == ("agentd", "700")

    # What a worker sees of the data: files that are given to agents, and neither the store nor the keys.
    seen = Path(f"/proc/{worker}/root/var/lib/agentd")
    assert [path.name for path in seen.iterdir()] == ["attachments"]
    for place in (seen, seen / "attachments", Path(f"/proc/{worker}/root/etc"), Path(f"/proc/{worker}/root/run")):
        assert os.statvfs(place).f_flag & os.ST_RDONLY, place
    for pid in (worker, details["spawner_pid"]):
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert not any(name in environment for name in (b"AGENTD_STORE", b"AGENTD_KEYS_FILE"))

    await systemctl("stop", "agentd")
    await house.until("ActiveState", "inactive", "agentd-workers.service")
    assert processes() == {}
    assert await house.states() == ["active", "inactive", "inactive"]
    assert not Path("/run/agentd/spawn.sock").exists()
    assert Path("/var/lib/agentd/store.db").exists()


async def test_the_first_connection_starts_it(house: House) -> None:
    await systemctl("start", "agentd.socket")
    assert processes() == {}
    assert (await house.request("GET", "/health"))["code"] == "0"
    assert await house.states() == ["active"] * 3


async def test_the_keys_of_its_operator_close_it(house: House) -> None:
    await house.drop_in("agentd.service", "[Service]", "Environment=AGENTD_TOKEN=of-this-test-only")
    await systemctl("start", "agentd")
    assert (await house.request("GET", "/list"))["code"] != "0"


async def test_beyond_loopback_it_does_not_start_unprotected(house: House) -> None:
    await house.drop_in("agentd.socket", "[Socket]", "ListenStream=", "ListenStream=0.0.0.0:8080")
    await systemctl("start", "agentd.socket")
    await systemctl("start", "agentd")
    assert await house.property("ActiveState") != "active"
    said = [entry["MESSAGE"] for entry in journal("-u", "agentd", "-t", "agentd")]
    assert any("listening beyond loopback, at 0.0.0.0:8080" in line for line in said)


# ---------------------------------------------------------------------- restarts


class Caller:
    """Connects over and over: what came of it."""

    def __init__(self, house: House) -> None:
        self._house = house
        self.answered, self.cut = 0, 0
        self.refused: list[str] = []
        self.slowest = 0.0

    async def call(self) -> None:
        while True:
            began = time.monotonic()
            try:
                await self._house.request("GET", "/health")
            except aiohttp.ClientConnectorError as error:
                self.refused.append(str(error))
            except (aiohttp.ClientError, ConnectionError):
                self.cut += 1  # of the server that was killed while it answered
            else:
                self.answered += 1
            self.slowest = max(self.slowest, time.monotonic() - began)
            await asyncio.sleep(0.005)


async def replaced(house: House, before: int) -> int:
    """The pid of the server that came after this one."""
    async with asyncio.timeout(PATIENCE):
        while (pid := await house.main_pid()) in {before, 0}:
            await asyncio.sleep(0.05)
    await house.until("ActiveState", "active")
    return pid


async def test_no_connection_is_refused_and_no_worker_ends_over_restarts_and_kills(house: House) -> None:
    await systemctl("start", "agentd")
    workers = [await house.begin(f"c{n}") for n in range(3)]
    caller = Caller(house)
    calling = asyncio.create_task(caller.call())
    for how in (("restart", "agentd"), ("kill", "--kill-who=main", "--signal=KILL", "agentd"), ("restart", "agentd")):
        before = await house.main_pid()
        await systemctl(*how)
        await replaced(house, before)
        answered = caller.answered
        async with asyncio.timeout(PATIENCE):
            while caller.answered <= answered:
                await asyncio.sleep(0.01)
    calling.cancel()
    await asyncio.wait({calling}, timeout=PATIENCE)
    print(f"{caller.answered} answered, {caller.cut} cut, slowest {caller.slowest:.3f} s")
    assert caller.refused == []
    assert all(alive(pid) for pid in workers)
    assert all(cgroup_of(pid).is_relative_to(SLICE / "agentd-workers.service") for pid in workers)


async def test_a_server_that_hangs_is_replaced_and_its_workers_live(house: House) -> None:
    await house.drop_in("agentd.service", "[Service]", "WatchdogSec=2s")
    await systemctl("start", "agentd")
    worker = await house.begin("c")
    spawner = await house.main_pid("agentd-workers.service")
    before = await house.main_pid()
    await systemctl("kill", "--kill-who=main", "--signal=STOP", "agentd")  # its loop feeds nobody any more
    assert await replaced(house, before) != before
    assert int(await house.property("NRestarts")) == 1
    assert (await house.request("GET", "/health"))["code"] == "0"
    assert alive(worker)
    assert await house.main_pid("agentd-workers.service") == spawner
    said = [entry["MESSAGE"] for entry in journal(f"_PID={before}")]
    assert "Fatal Python error: Aborted" in said  # and where it was, behind that


async def test_a_spawner_that_is_killed_is_replaced_and_the_server_lives(house: House) -> None:
    await systemctl("start", "agentd")
    worker = await house.begin("c")
    server, before = await house.main_pid(), await house.main_pid("agentd-workers.service")
    await systemctl("kill", "--kill-who=main", "--signal=KILL", "agentd-workers")
    async with asyncio.timeout(PATIENCE):
        while (await house.request("GET", "/health?details=1"))["data"]["spawner_pid"] == before:
            await asyncio.sleep(0.05)
    assert not alive(worker)
    assert await house.main_pid() == server
    await house.begin("c")


async def test_sessions_go_on_over_a_restart(house: House) -> None:
    await systemctl("start", "agentd")
    worker = await house.begin("c")
    before = await house.main_pid()
    await systemctl("restart", "agentd")
    assert await replaced(house, before) != before
    assert (await house.request("GET", "/channels/c"))["pid"] == worker
    assert (await house.request("POST", "/ping", channel_name="c"))["code"] == "0"
    assert (await house.request("POST", "/stop", channel_name="c"))["code"] == "0"
    assert not alive(worker)


async def test_a_reload_replaces_no_process(house: House) -> None:
    await systemctl("start", "agentd")
    before = await house.main_pid()
    await systemctl("reload", "agentd")
    await house.until("ActiveState", "active")
    assert await house.main_pid() == before
    assert int(await house.property("NRestarts")) == 0


# ---------------------------------------------------------------------- the journal


async def test_the_journal_has_fields(house: House) -> None:
    await systemctl("start", "agentd")
    await house.begin("of-the-journal")
    assert (await house.request("POST", "/stop", channel_name="of-the-journal"))["code"] == "0"
    [entry] = journal("-u", "agentd", "MESSAGE=channel.gone", "CHANNEL=of-the-journal")
    assert (entry["PRIORITY"], entry["CAUSE"], entry["GRAPH"]) == ("6", "stopped", "echo")
    assert (entry["SYSLOG_IDENTIFIER"], entry["_TRANSPORT"]) == ("agentd", "journal")


# ---------------------------------------------------------------------- upgrade, removal; the last ones


async def test_an_upgrade_keeps_settings_and_takes_a_restart(house: House) -> None:
    await systemctl("start", "agentd")
    worker = await house.begin("c")
    (DATA[0] / "agentd.env").write_text("WORKERS_MAX=7\n")
    before = os.readlink("/opt/agentd/current")
    assert "systemctl restart agentd" in await asyncio.to_thread(make, "install-systemd")
    assert os.readlink("/opt/agentd/current") != before
    assert Path("/opt/agentd", before).is_dir()  # the spawner still runs from it
    await systemctl("restart", "agentd")
    assert (await house.request("GET", "/health?details=1"))["data"]["workers_max"] == 7
    assert alive(worker)


async def test_the_removal_leaves_the_data_unless_it_is_asked_for(house: House) -> None:
    await systemctl("enable", "--now", "agentd")
    await house.begin("c")
    said = await asyncio.to_thread(make, "uninstall-systemd")
    nothing_runs()
    assert all(str(path) in said for path in DATA)
    assert all(path.is_dir() for path in DATA)
    assert "agentd" in {entry.pw_name for entry in pwd.getpwall()}
    left = [*INSTALLED.glob("agentd*"), *Path("/usr/local/lib").glob("*.d/agentd*"), *Path("/opt").glob("agentd*")]
    assert left == []
    assert list(Path("/etc/systemd/system").rglob("agentd*")) == []

    await asyncio.to_thread(make, "uninstall-systemd", PURGE="1")
    assert not any(path.exists() for path in (*DATA, Path("/run/agentd")))
    assert "agentd" not in {entry.pw_name for entry in pwd.getpwall()}
