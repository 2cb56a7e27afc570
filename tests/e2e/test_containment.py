"""What a whole server puts around its workers: environment, files, folders, and that rounds of it leave no trace."""

import asyncio
import contextlib
import os
import re
import stat
from pathlib import Path

import pytest

from tests.harness import Agentd
from tests.harness.graphs import ECHO, reaching
from tests.harness.leaks import processes_of
from tests.harness.witness import Witness

pytestmark = pytest.mark.own_interpreter

SECRET = "planted-secret-4711"
ROUNDS = 200
WARM_UP = 50
MOST_GROWTH = 3 * 1024 * 1024


def environ_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


async def test_a_secret_of_the_server_reaches_no_worker(agentd: Agentd, witness: Witness) -> None:
    properties = {"folder": str(agentd.folder)}
    teller = {"type": "extension", "name": "t", "addon": "zoo_teller", "property": properties}
    foreign = {"command": ["sh", "-c", "env -0 > $AGENTD_CHANNEL_FOLDER/foreign; exec sleep 1000"]}
    graphs = [
        {"name": "own", "graph": {"nodes": [teller]}, "agentd": reaching(agentd.folder)},
        {"name": "foreign", "graph": {}, "agentd": foreign},
    ]
    await agentd.start(graphs=graphs, SECRET_KEY=SECRET, CHOSEN_KEY="chosen", AGENTD_WORKER_ENV="CHOSEN_*")
    await agentd.begin("own", "own")
    await agentd.begin("foreign", "foreign")
    await witness.hears("told")
    found = processes_of(agentd.folder)
    assert agentd.process is not None
    others = {pid for pid in found if pid != agentd.process.pid}
    assert len(others) >= 4  # spawner, zygote, two workers
    assert SECRET.encode() in environ_of(agentd.process.pid)
    for pid in others:
        assert SECRET.encode() not in environ_of(pid), found[pid]
    files = [path for name in ("environment", "foreign") for path in agentd.state_dir.rglob(name)]
    assert len(files) == 2
    for told in [path.read_bytes() for path in files]:
        names = {item.partition(b"=")[0] for item in told.split(b"\0") if item}
        assert b"CHOSEN_KEY" in names
        assert b"SECRET_KEY" not in names
        assert {b"AGENTD_CHANNEL_ID", b"AGENTD_CHANNEL_FOLDER", b"PATH"} <= names
        assert {name for name in names if name.startswith(b"AGENTD_")} <= {
            b"AGENTD_CHANNEL_ID",
            b"AGENTD_CHANNEL_FOLDER",
            b"AGENTD_INSTANCE",
        }


async def test_a_property_file_is_private_holds_no_secret_of_ours_and_goes(agentd: Agentd) -> None:
    node = {"type": "extension", "name": "n", "addon": "a", "property": {"key": "${env:SECRET_KEY}", "x": 1}}
    command = ["sh", "-c", 'cp "$1" copy; stat -c %a "$1" > mode; printenv SECRET_KEY > value; exec sleep 1000', "sh"]
    graph = {
        "name": "foreign",
        "graph": {"nodes": [node]},
        "agentd": {"command": [*command, "{property_file}"], "cwd": "work"},
    }
    work = agentd.folder / "work"
    work.mkdir()
    await agentd.start(graphs=[graph], SECRET_KEY=SECRET)
    await agentd.begin("c", "foreign", properties={"n": {"x": 2, "given": "${env:HOME}"}})
    [path] = (agentd.state_dir / "logs").glob("property-*")
    assert re.fullmatch(r"property-c-\d{8}_\d{6}_[0-9a-f]+-[0-9a-f]+-\d+\.json", path.name)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert SECRET not in text
    assert "${env:SECRET_KEY}" in text
    assert "${env:HOME}" not in text
    assert (work / "copy").read_text() == text
    assert (work / "mode").read_text() == "600\n"
    assert (work / "value").read_text() == SECRET + "\n"
    assert (await agentd.end("c"))["code"] == "0"
    assert not path.exists()
    for other in agentd.state_dir.rglob("*"):
        if other.is_file():
            assert SECRET.encode() not in other.read_bytes(), other


async def test_the_level_is_shown(agentd: Agentd) -> None:
    await agentd.start(AGENTD_CONTAINMENT="sweep")
    details = (await agentd.get("/health?details=1"))["data"]
    assert details["containment"] == "sweep"
    assert (await agentd.event("server.ready"))["containment"] == "sweep"


class Use:
    """What a process uses: descriptors, but for the store's, which has up to four connections, and resident memory."""

    def __init__(self, pid: int) -> None:
        self.fds = 0
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                self.fds += not os.readlink(descriptor).partition("/store.db")[1]
        status = Path(f"/proc/{pid}/status").read_text()
        self.anonymous = int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]


@pytest.mark.parametrize("containment", ["auto", "sweep"])
async def test_two_hundred_rounds_leave_nothing(agentd: Agentd, containment: str) -> None:
    foreign = {"name": "foreign", "graph": {}, "agentd": {"command": ["sleep", "1000"]}}
    await agentd.start(graphs=[ECHO, foreign], AGENTD_CONTAINMENT=containment, AGENTD_WORKER_SETTLE_SECONDS="0")
    assert agentd.process is not None
    server = agentd.process.pid
    spawner = (await agentd.get("/health?details=1"))["data"]["spawner_pid"]
    zygote = (await agentd.event("zygote.ready"))["pid"]

    async def rounds(count: int) -> None:
        for number in range(0, count, 2):
            await asyncio.gather(agentd.begin("own", "echo"), agentd.begin("foreign", "foreign"))
            answers = await asyncio.gather(agentd.end("own"), agentd.end("foreign"))
            assert [answer["code"] for answer in answers] == ["0", "0"], number

    async def files() -> list[str]:
        async with asyncio.timeout(10):
            # A spare that is being made has files for a moment, a channel its record until the ledger has its end.
            while any(any((agentd.state_dir / name).iterdir()) for name in ("zygote-tmp", "records")):
                await asyncio.sleep(0)
        return sorted(str(path) for path in agentd.state_dir.rglob("*"))

    await rounds(WARM_UP)
    listed = await files()
    before = {pid: Use(pid) for pid in (server, spawner, zygote)}
    await rounds(ROUNDS)
    assert await files() == listed
    for pid, name in ((server, "server"), (spawner, "spawner"), (zygote, "zygote")):
        async with asyncio.timeout(10):
            while (after := Use(pid)).fds > before[pid].fds + 1:  # it lets go of the last tree a moment later
                await asyncio.sleep(0.02)
        assert after.anonymous <= before[pid].anonymous + MOST_GROWTH, name
