"""A real `agentd serve` as a systemd unit, and its cgroup as it is on the disk."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp

from tests.harness import Agentd
from tests.harness.server import PATIENCE

NAME = "agentd-test"
STATE = Path("/run") / NAME
ROOT = Path("/sys/fs/cgroup")
CGROUP = ROOT / "system.slice" / f"{NAME}.service"
CONTROLLERS = ("memory", "pids", "cpu")


def offered() -> set[str]:
    """The controllers a unit can be delegated here."""
    return set(CONTROLLERS) & set((ROOT / "cgroup.controllers").read_text().split())


LEVEL = "full" if "memory" in offered() else "tracking"


def cgroup_of(pid: int) -> Path:
    """The cgroup a process is in."""
    [path] = Path(f"/proc/{pid}/cgroup").read_text().split("0::")[1:]
    return ROOT / path.strip().lstrip("/")


async def systemctl(*arguments: str) -> str:
    """Its output."""
    process = await asyncio.create_subprocess_exec("systemctl", *arguments, stdout=subprocess.PIPE)
    async with asyncio.timeout(PATIENCE):
        output, _ = await process.communicate()
    return output.decode().strip()


class Unit(Agentd):
    """`properties` are those of the unit, as systemd-run takes them; stopped by ``systemctl stop``."""

    def __init__(self, folder: Path, extra_path: Path) -> None:
        super().__init__(STATE, folder, extra_path)
        self.properties: dict[str, str] = {
            "Delegate": " ".join(CONTROLLERS),
            "KillMode": "mixed",
            "RuntimeDirectory": NAME,
            "RuntimeDirectoryMode": "0700",
            "TimeoutStopSec": "20",
        }

    def command(self, environment: dict[str, str]) -> list[str]:
        """The server is started by systemd, its standard error is ours all the same."""
        properties = {"WorkingDirectory": str(self.folder), **self.properties}
        return [
            *("systemd-run", "--quiet", "--pipe", "--wait", "--collect", f"--unit={NAME}"),
            *(f"--property={name}={value}" for name, value in properties.items()),
            *(f"--setenv={name}={value}" for name, value in environment.items()),
            *("--", sys.executable, "-m", "supervisor", "serve"),
        ]

    async def stop(self) -> int | None:
        """``systemctl stop``; the unit's exit status."""
        if self.process is not None and self.process.returncode is None:
            await systemctl("stop", NAME)
            async with asyncio.timeout(PATIENCE):
                await self.process.wait()
        return await super().stop()

    async def answers(self) -> bool:
        """Whether anybody listens."""
        try:
            return (await self.get("/health"))["code"] == "0"
        except aiohttp.ClientConnectionError:
            return False

    async def details(self) -> dict[str, Any]:
        """What the server tells of its containment."""
        data: dict[str, Any] = (await self.get("/health?details=1"))["data"]
        return data

    @property
    def base(self) -> Path:
        """The server's folder below the unit's cgroup."""
        [base] = CGROUP.glob("agentd-*")
        return base

    def folders(self) -> set[str]:
        """What is in that folder."""
        return {path.name for path in self.base.iterdir() if path.is_dir()}
