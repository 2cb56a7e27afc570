"""agentd as `make install-systemd` leaves it on a machine: its units under a real systemd, until they are removed."""

import asyncio
import os
import signal
import time
from pathlib import Path

import aiohttp
import pytest

from tests.harness.server import PATIENCE
from tests.vm.house import DATA, INSTALLED, SLICE, UNITS, WORKERS, House, alive, journal, processes, replaced, run, send
from tests.vm.unit import cgroup_of, systemctl

pytestmark = pytest.mark.timeout(600)  # the first one installs

# Least exposure is 0.0, the worst 10.0; systemd counts tenths.
EXPOSURES = [("agentd.service", 15), (WORKERS, 30)]


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
    details = await house.details()
    assert details["spawner_pid"] == await house.main_pid(WORKERS)
    assert details["containment"] in {"full", "tracking"}
    worker = await house.begin("c")
    channel = await house.request("GET", "/channels/c")
    assert cgroup_of(worker).name == channel["id"]
    assert cgroup_of(worker).is_relative_to(SLICE / WORKERS)
    assert {await house.main_pid(), details["pid"], worker, details["spawner_pid"]} <= set(processes())
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
    await house.until("ActiveState", "inactive", WORKERS)
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
    assert [(await house.request("GET", f"/channels/c{n}"))["pid"] for n in range(3)] == workers
    assert all(cgroup_of(pid).is_relative_to(SLICE / WORKERS) for pid in workers)


async def test_a_server_that_hangs_is_replaced_and_its_workers_live(house: House) -> None:
    await house.drop_in("agentd.service", "[Service]", "WatchdogSec=2s")
    await systemctl("start", "agentd")
    worker = await house.begin("c")
    spawner = await house.main_pid(WORKERS)
    standby, before = await house.main_pid(), (await house.details())["pid"]
    send(before, signal.SIGSTOP)  # its loop feeds nobody any more
    assert await replaced(house, standby) != standby
    assert int(await house.property("NRestarts")) == 1
    assert (await house.request("POST", "/ping", channel_name="c"))["code"] == "0"
    assert (await house.request("GET", "/channels/c"))["pid"] == worker
    assert alive(worker)
    assert await house.main_pid(WORKERS) == spawner
    said = [entry["MESSAGE"] for entry in journal(f"_PID={before}")]
    assert "Fatal Python error: Aborted" in said  # and where it was, behind that


async def test_a_server_that_is_killed_is_followed_below_the_same_standby(house: House) -> None:
    await systemctl("start", "agentd")
    worker = await house.begin("c")
    standby, before = await house.main_pid(), (await house.details())["pid"]
    caller = Caller(house)
    calling = asyncio.create_task(caller.call())
    send(before, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE):
        while (after := (await house.details())["pid"]) == before:
            await asyncio.sleep(0.01)
    calling.cancel()
    await asyncio.wait({calling}, timeout=PATIENCE)
    print(f"{caller.answered} answered, {caller.cut} cut, slowest {caller.slowest:.3f} s")
    assert caller.refused == []
    assert (await house.main_pid(), await house.property("NRestarts")) == (standby, "0")
    assert (await house.request("GET", "/channels/c"))["pid"] == worker
    [entry] = journal(f"_PID={after}", "MESSAGE=server.killed")
    assert (entry["SIGNAL"], entry["PRIORITY"]) == ("SIGKILL", "3")
    await systemctl("restart", "agentd")  # systemd has heard this one too
    assert await replaced(house, standby) != standby
    assert (await house.request("GET", "/channels/c"))["pid"] == worker


# Killed with all it has; or told to end by systemd, and then its workers end in order.
@pytest.mark.parametrize(
    ("how", "status"),
    [(("kill", "--kill-who=main", "--signal=KILL"), "null"), (("restart",), "0")],
    ids=["killed", "restarted"],
)
async def test_sessions_end_with_their_spawner_and_the_server_lives(
    house: House, how: tuple[str, ...], status: str
) -> None:
    await systemctl("start", "agentd")
    name = f"until-{how[0]}"
    worker = await house.begin(name)
    server, before = await house.main_pid(), await house.main_pid(WORKERS)
    await systemctl(*how, "agentd-workers")
    entry = await house.gone(name)
    assert (entry["CAUSE"], entry["STATUS"]) == ("spawner_lost", status)
    assert not alive(worker)
    async with asyncio.timeout(PATIENCE):
        while (details := await house.details())["spawner_pid"] == before or details["spawner"] != "attached":
            await asyncio.sleep(0.05)
    assert await house.main_pid() == server
    await house.begin(name)


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
    worker = await house.begin("c")
    before = await house.main_pid(), await house.main_pid(WORKERS)
    await systemctl("reload", "agentd")
    await house.until("ActiveState", "active")
    assert (await house.main_pid(), await house.main_pid(WORKERS)) == before
    assert int(await house.property("NRestarts")) == 0
    assert (await house.request("GET", "/channels/c"))["pid"] == worker
    assert (await house.request("POST", "/ping", channel_name="c"))["code"] == "0"


# ---------------------------------------------------------------------- the journal


async def test_the_journal_has_fields(house: House) -> None:
    await systemctl("start", "agentd")
    await house.begin("of-the-journal")
    assert (await house.request("POST", "/stop", channel_name="of-the-journal"))["code"] == "0"
    [entry] = journal("-u", "agentd", "MESSAGE=channel.gone", "CHANNEL=of-the-journal")
    assert (entry["PRIORITY"], entry["CAUSE"], entry["GRAPH"]) == ("6", "stopped", "echo")
    assert (entry["SYSLOG_IDENTIFIER"], entry["_TRANSPORT"]) == ("agentd", "journal")
