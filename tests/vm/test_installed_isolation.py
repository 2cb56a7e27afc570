"""What workers may reach under the installed units, whose own filters must not be in the way of a level's."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.server import PATIENCE
from tests.vm.house import DATA, WORKERS, House, replaced
from tests.vm.unit import systemctl
from worker.spawner import landlock

ABI = landlock.abi()
BWRAP = shutil.which("bwrap") is not None
NEEDS_BWRAP = pytest.mark.skipif(not BWRAP, reason="bubblewrap is not installed")
LEVELS = pytest.mark.parametrize("level", ["confined", pytest.param("namespaced", marks=NEEDS_BWRAP)])
PROPERTY = DATA[0] / "property.json"
PRISONER = DATA[0] / "prisoner.py"
NEEDS_SCOPES = {"signal bystander", "signal spawner", "abstract socket"}

pytestmark = [
    pytest.mark.timeout(600),  # the first one may install
    pytest.mark.skipif(ABI == 0, reason="this kernel has no Landlock"),
]


@pytest.fixture
def folder(installed: str) -> Iterator[Path]:
    """That of the settings, with a prisoner in it; its property file is put back afterwards."""
    before = PROPERTY.read_bytes()
    shutil.copy(Path(__file__).parents[1] / "zoo" / PRISONER.name, PRISONER)
    PRISONER.chmod(0o644)
    yield DATA[0]
    PROPERTY.write_bytes(before)
    PRISONER.unlink()


def serve(*graphs: dict[str, Any]) -> None:
    """What the property file has from now on."""
    PROPERTY.write_text(json.dumps({"ten": {"predefined_graphs": graphs}}))


def echo(level: str = "") -> dict[str, Any]:
    options = {"isolation": level} if level else {}
    nodes = [{"type": "extension", "name": "echo", "addon": "echo"}]
    return {"name": level or "echo", "graph": {"nodes": nodes}, "agentd": options}


def prisoner(level: str, targets: dict[str, Any]) -> dict[str, Any]:
    command = ["/opt/agentd/current/bin/python", str(PRISONER), json.dumps(targets)]
    return {"name": "prisoner", "graph": {"nodes": []}, "agentd": {"command": command, "isolation": level}}


async def isolation(house: House, name: str) -> dict[str, Any]:
    view: dict[str, Any] = (await house.request("GET", f"/channels/{name}"))["isolation"]
    return view


async def targets(house: House) -> dict[str, Any]:
    """What of an installed agentd a worker may not have; a channel `bystander` is there."""
    other = await house.request("GET", "/channels/bystander")
    folder = Path("/run/agentd/ch") / other["id"]
    return {
        "read": {
            "settings": str(DATA[0] / "agentd.env"),
            "store": str(DATA[1] / "store.db"),
            "marks": "/run/agentd/marks",
            "record": f"/run/agentd/records/{other['id']}.json",
            "other lock": str(folder / "lock"),
        },
        "list": {"state folder": "/run/agentd", "logs": str(DATA[2]), "other channel": str(folder)},
        "write": {
            "property file": str(PROPERTY),
            "other channel": str(folder / "x"),
            "state folder": "/run/agentd/x",
            "software": "/opt/agentd/x",
            "logs": str(DATA[2] / "x"),
        },
        "processes": {"bystander": other["pid"], "spawner": await house.main_pid(WORKERS)},
        "socket": "/run/agentd/spawn.sock",
        "node": False,
        "x32": False,  # SystemCallArchitectures= of the unit kills
    }


async def outcomes(house: House, name: str) -> dict[str, str]:
    """What a prisoner has found."""
    path = Path("/run/agentd/ch") / (await house.request("GET", f"/channels/{name}"))["id"] / "found.json"
    async with asyncio.timeout(PATIENCE):
        while not path.exists():
            await asyncio.sleep(0.05)
    found: dict[str, str] = json.loads(path.read_text())
    return found


async def test_workers_are_confined_unless_their_graph_says_more(house: House) -> None:
    await systemctl("start", "agentd")
    levels = (await house.details())["isolation"]["levels"]
    assert levels["confined"]["got"] == "confined"
    assert (levels["confined"]["missing"] == []) == (ABI >= 6)
    assert levels["namespaced"]["refused"] == ("" if BWRAP else "bwrap is not installed")
    worker = await house.begin("c")
    view = await isolation(house, "c")
    assert (view["asked"], view["got"]) == ("confined", "confined")
    # Its own besides those of the unit.
    spawner = await house.main_pid(WORKERS)
    assert filters(worker) == filters(spawner) + 1

    before = await house.main_pid()
    await systemctl("restart", "agentd")
    await replaced(house, before)
    assert await isolation(house, "c") == view


def filters(pid: int) -> int:
    """How many filters of system calls bind a process."""
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["Seccomp_filters"])


@LEVELS
async def test_a_worker_cannot_get_out_and_can_work(house: House, folder: Path, level: str) -> None:
    serve(echo())
    await systemctl("start", "agentd")
    await house.begin("bystander")
    serve(echo(), prisoner(level, await targets(house)))
    await house.begin("prisoner", "prisoner")
    found = await outcomes(house, "prisoner")
    escaped = {name for name, outcome in found.items() if outcome == "done" and not name.startswith("can ")}
    # A namespaced one's own folder is mounted below that of the state, and nothing else.
    assert escaped <= ({"list state folder"} if level == "namespaced" else set() if ABI >= 6 else NEEDS_SCOPES)
    assert {name: outcome for name, outcome in found.items() if outcome != "done" and name.startswith("can ")} == {}
    assert {found[name] for name in found if name.startswith("call ")} == {"EPERM"}
    assert (await isolation(house, "prisoner"))["got"] == level
    assert (await house.request("POST", "/stop", channel_name="prisoner"))["code"] == "0"


@LEVELS
async def test_a_worker_of_ours_answers_at_each_level(house: House, folder: Path, level: str) -> None:
    serve(echo(level))
    await systemctl("start", "agentd")
    await house.begin("c", level)
    assert (await isolation(house, "c"))["got"] == level
    answer = await house.request("POST", "/channels/c/turns", message="hello")
    assert answer["text"] == "hello", answer
    assert (await house.request("POST", "/stop", channel_name="c"))["code"] == "0"


async def test_what_the_unit_does_not_allow_is_refused_with_its_reason(house: House, folder: Path) -> None:
    await house.drop_in(WORKERS, "[Service]", "RestrictNamespaces=yes")
    serve(echo(), echo("namespaced"))
    await systemctl("start", "agentd")
    refused = await house.request("POST", "/start", channel_name="c", graph_name="namespaced", timeout=-1)
    assert refused["code"] == "10101"
    assert "isolation 'namespaced': " in refused["detail"]
    assert "bwrap" in refused["detail"]
    await house.begin("c")
    assert (await isolation(house, "c"))["got"] == "confined"


async def test_a_file_is_read_by_a_confined_process(house: House) -> None:
    await systemctl("start", "agentd")
    task = (await house.upload("/api/store_attachment", b"what is in it"))["task_id"]
    async with asyncio.timeout(PATIENCE):
        while (told := await house.request("GET", f"/api/task_status?task_id={task}"))["status"] not in {
            "SUCCESS",
            "FAILURE",
        }:
            await asyncio.sleep(0.05)
    assert told["status"] == "SUCCESS", told
