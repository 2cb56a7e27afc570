"""An upgrade of what is installed, and its removal. After this file nothing is installed any more."""

import asyncio
import pwd
from pathlib import Path

import pytest

from tests.vm.house import DATA, INSTALLED, House, alive, make, nothing_runs
from tests.vm.unit import systemctl

pytestmark = pytest.mark.timeout(600)  # they install


async def test_upgrades_keep_settings_and_take_a_restart(house: House) -> None:
    """The version that the spawner runs from stays, over more upgrades than the number that is kept."""
    await systemctl("start", "agentd")
    worker = await house.begin("c")
    (DATA[0] / "agentd.env").write_text("WORKERS_MAX=7\n")
    of_spawner = current = Path("/opt/agentd/current").resolve()
    for number in range(3):
        before = current
        assert "systemctl restart agentd" in await asyncio.to_thread(make, "install-systemd")
        current = Path("/opt/agentd/current").resolve()
        assert current != before
        assert set(current.parent.iterdir()) == {of_spawner, before, current}
        await systemctl("restart", "agentd")
        assert (await house.details())["workers_max"] == 7
        await house.begin(f"after-{number}")
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
