"""These tests need a machine of their own: `make test-sandbox` or `make test-vm`."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.conftest import ZOO
from tests.harness.server import PATIENCE
from tests.harness.witness import Witness, witness_in

INSTALLABLE = (Path(__file__).parents[2] / ".vm" / "wheels" / ".ready").exists()  # not so in a virtual machine

collect_ignore = []
if os.environ.get("AGENTD_TEST_UNITS"):
    from tests.vm.house import DROP_INS, UNITS, WORKERS, House, make, nothing_runs
    from tests.vm.unit import Unit, systemctl
else:
    collect_ignore.append("test_units.py")
if not (os.environ.get("AGENTD_TEST_UNITS") and INSTALLABLE):
    collect_ignore_glob = ["test_installed*.py"]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder every user may look into."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
async def witness(open_folder: Path) -> AsyncIterator[Witness]:
    """Hears what beasts of any user say."""
    with witness_in(open_folder) as witness:
        for name in ("witness", "cue"):
            (open_folder / name).chmod(0o666)
        yield witness


@pytest.fixture
async def unit(open_folder: Path) -> "AsyncIterator[Unit]":
    """The server as a unit, not started yet."""
    unit = Unit(open_folder, ZOO)
    try:
        yield unit
    finally:
        await unit.stop()


@pytest.fixture(scope="session")
def installed() -> str:
    """What the installation said; the files are in /opt/agentd, /usr/local/lib and /etc/agentd."""
    return make("install-systemd")


@pytest.fixture
async def house(installed: str) -> "AsyncIterator[House]":
    """The units, none started yet; stopped afterwards, with nothing left."""
    connector = aiohttp.TCPConnector(force_close=True)  # each request is a connection of its own
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as client:
        house = House(client)
        yield house
        await systemctl("stop", *UNITS)
        await house.until("ActiveState", "inactive", WORKERS)
        for unit in UNITS:
            with contextlib.suppress(FileNotFoundError):
                (DROP_INS / f"{unit}.d" / "test.conf").unlink()
        await systemctl("daemon-reload")
    nothing_runs()
