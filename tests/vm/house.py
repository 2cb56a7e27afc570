"""agentd as `make install-systemd` leaves it on a machine, as its operator and its clients see it."""

import asyncio
import contextlib
import json
import os
import pwd
import signal
import subprocess
from pathlib import Path
from typing import Any

import aiohttp

from tests.harness.server import PATIENCE
from tests.vm.unit import ROOT, systemctl

REPOSITORY = Path(__file__).parents[2]
UNITS = ("agentd.socket", "agentd.service", "agentd-workers.service")
WORKERS = UNITS[2]
INSTALLED = Path("/usr/local/lib/systemd/system")
DROP_INS = Path("/run/systemd/system")
DATA = (Path("/etc/agentd"), Path("/var/lib/agentd"), Path("/var/log/agentd"))
SLICE = ROOT / "system.slice"
URL = "http://127.0.0.1:8080"


def run(*command: str, **variables: str) -> str:
    environment = {**os.environ, **variables}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def make(target: str, **variables: str) -> str:
    wheels = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(REPOSITORY / ".vm" / "wheels")}
    return run("make", target, *(f"{name}={value}" for name, value in variables.items()), **wheels)


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

    async def begin(self, name: str, graph: str = "echo") -> int:
        """Start a channel; the pid of its worker."""
        answer = await self.request("POST", "/start", channel_name=name, graph_name=graph, timeout=-1)
        assert answer["code"] == "0", answer
        pid: int = (await self.request("GET", f"/channels/{name}"))["pid"]
        return pid

    async def details(self) -> dict[str, Any]:
        """What the server tells of itself and its spawner."""
        data: dict[str, Any] = (await self.request("GET", "/health?details=1"))["data"]
        return data

    async def upload(self, path: str, content: bytes, **fields: str) -> dict[str, Any]:
        """Send a file as web pages do."""
        form = aiohttp.FormData(fields)
        form.add_field("file", content, filename="a.txt")
        async with self._client.post(URL + path, data=form) as response:
            answer: dict[str, Any] = await response.json()
            return answer

    async def gone(self, name: str) -> dict[str, Any]:
        """Wait until there is no such channel; what the journal says of its end."""
        async with asyncio.timeout(PATIENCE):
            while "pid" in await self.request("GET", f"/channels/{name}"):
                await asyncio.sleep(0.05)
        [entry] = await asyncio.to_thread(journal, "-u", "agentd", "MESSAGE=channel.gone", f"CHANNEL={name}")
        return entry

    async def drop_in(self, unit: str, *lines: str) -> None:
        folder = DROP_INS / f"{unit}.d"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "test.conf").write_text("\n".join(lines) + "\n")
        await systemctl("daemon-reload")


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


def send(pid: int, number: signal.Signals) -> None:
    """A signal to a process that is known to live."""
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, number)
    finally:
        os.close(pidfd)


def journal(*arguments: str) -> list[dict[str, Any]]:
    run("journalctl", "--sync")
    return [json.loads(line) for line in run("journalctl", "-o", "json", "-a", *arguments).splitlines()]


async def replaced(house: House, before: int) -> int:
    """The pid of the server that came after this one."""
    async with asyncio.timeout(PATIENCE):
        while (pid := await house.main_pid()) in {before, 0}:
            await asyncio.sleep(0.05)
    await house.until("ActiveState", "active")
    return pid
