"""Workers that try to get out: what each level of isolation denies them, and that they can work in it all the same."""

import asyncio
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Agentd
from tests.harness.graphs import ECHO, Graph
from tests.harness.server import PATIENCE
from worker.spawner import landlock

PRISONER = Path(__file__).parents[1] / "zoo" / "prisoner.py"
ABI = landlock.abi()
BWRAP = shutil.which("bwrap") is not None
ROOT = os.geteuid() == 0
NODE = shutil.which("node") is not None

# What basic isolation allows to a worker: attempts that would be no test if they failed anyway.
OPEN = {
    "read store",
    "read keys",
    "read log",
    "read environment of bystander",
    "signal bystander",
    "limit bystander",
    "list other channel",
    "write outside",
    "write property file",
    "write other channel",
    "socket of the spawner",
    "abstract socket",
    "truncate",
    "trace bystander",
    "call unshare",
}
NEEDS_SCOPES = {"signal bystander", "signal spawner", "abstract socket"}

pytestmark = pytest.mark.skipif(ABI == 0, reason="this kernel has no Landlock")


class Prison:
    """A server with a bystander, and things around it that a worker may not have."""

    def __init__(self, agentd: Agentd, folder: Path) -> None:
        self.agentd = agentd
        self.outside = folder / "outside"
        self.outside.mkdir()
        (self.outside / "long").write_text("long")
        self._server: asyncio.Server | None = None

    async def open(self, *graphs: Graph, **settings: str) -> None:
        await self.agentd.start(graphs=[ECHO, *graphs], **settings)
        await self.agentd.begin("bystander", timeout=-1)
        (self.agentd.state_dir / "keys.json.kept").write_text("{}")  # with keys of its own the server would be closed

    async def targets(self) -> dict[str, Any]:
        """What a prisoner is told to try."""
        state = self.agentd.state_dir
        other = await self.agentd.channel("bystander")
        spawner = (await self.agentd.get("/health?details=1"))["data"]["spawner_pid"]
        folder = state / "ch" / other["id"]
        [record] = (state / "records").iterdir()
        log = state / "logs" / "app-other.log"
        log.write_text("said\n")
        host, port = self.agentd.address.removeprefix("http://").split(":")
        return {
            "read": {
                "store": str(state / "store.db"),
                "keys": str(state / "keys.json.kept"),
                "log": str(log),
                "record": str(record),
                "shadow passwords": "/etc/shadow",
                "other lock": str(folder / "lock"),
            },
            "list": {"other channel": str(folder), "state folder": str(state), "root": "/"},
            "write": {
                "outside": str(self.outside / "x"),
                "property file": str(self.agentd.folder / "property.json"),
                "other channel": str(folder / "x"),
                "our sources": str(Path(landlock.__file__).with_name("x.py")),
                "system": "/usr/x-of-a-prisoner",
            },
            "processes": {"bystander": other["pid"], "spawner": spawner},
            "socket": str(state / "spawn.sock"),
            "abstract": f"agentd-test-{os.getpid()}",
            "truncate": str(self.outside / "long"),
            "connect": {"server": [host, int(port)]},
            "node": NODE,
        }

    async def outcomes(self, channel: str) -> dict[str, str]:
        """What a prisoner has found."""
        folder = self.agentd.state_dir / "ch" / (await self.agentd.channel(channel))["id"]
        async with asyncio.timeout(PATIENCE):
            while not (folder / "found.json").exists():
                await asyncio.sleep(0.02)
        found: dict[str, str] = json.loads((folder / "found.json").read_text())
        return found


@pytest.fixture
def prison(agentd: Agentd, tmp_path: Path) -> Prison:
    """The state folder lies outside of the app, as an operator's does."""
    agentd.folder = tmp_path / "app"
    agentd.folder.mkdir()
    return Prison(agentd, tmp_path)


def own(targets: dict[str, Any], isolation: Any) -> Graph:
    node = {"type": "extension", "name": "p", "addon": "zoo_prisoner", "property": {"targets": targets}}
    return {"name": "prisoner", "graph": {"nodes": [node]}, "agentd": {"isolation": isolation}}


def foreign(targets: dict[str, Any], isolation: Any) -> Graph:
    command = [sys.executable, str(PRISONER), json.dumps(targets)]
    return {"name": "prisoner", "graph": {"nodes": []}, "agentd": {"command": command, "isolation": isolation}}


KINDS = pytest.mark.parametrize("kind", [own, foreign])


async def imprison(prison: Prison, kind: Any, isolation: Any) -> dict[str, str]:
    """Start a prisoner; what it found. An abstract socket listens meanwhile."""
    await prison.open()
    targets = await prison.targets()
    graphs = [ECHO, kind(targets, isolation)]
    document = json.dumps({"ten": {"predefined_graphs": graphs}})
    (prison.agentd.folder / "property.json").write_text(document)
    listener = await asyncio.start_unix_server(lambda _reader, writer: writer.close(), "\0" + targets["abstract"])
    async with listener:
        await prison.agentd.begin("prisoner", "prisoner")
        return await prison.outcomes("prisoner")


def escaped(found: dict[str, str]) -> set[str]:
    return {name for name, outcome in found.items() if outcome == "done" and not name.startswith("can ")}


def failed(found: dict[str, str]) -> dict[str, str]:
    return {name: outcome for name, outcome in found.items() if outcome != "done" and name.startswith("can ")}


@KINDS
async def test_a_confined_worker_cannot_get_out_and_can_work(prison: Prison, kind: Any) -> None:
    found = await imprison(prison, kind, "confined")
    assert escaped(found) <= (set() if ABI >= 6 else NEEDS_SCOPES)
    assert failed(found) == {}
    assert {found[name] for name in found if name.startswith("call ")} == {"EPERM"}
    assert found["truncate"] in {"EPERM", "EACCES"}
    view = (await prison.agentd.channel("prisoner"))["isolation"]
    assert (view["asked"], view["got"]) == ("confined", "confined")
    assert (view["missing"] == []) == (ABI >= 6)
    assert (await prison.agentd.end("prisoner"))["code"] == "0"
    assert (prison.outside / "long").read_text() == "long"


@KINDS
async def test_at_level_basic_the_same_attempts_succeed(prison: Prison, kind: Any) -> None:
    found = await imprison(prison, kind, "basic")
    assert escaped(found) >= OPEN - (set() if ROOT else {"call unshare"})
    assert failed(found) == {}
    view = (await prison.agentd.channel("prisoner"))["isolation"]
    assert view == {"asked": "basic", "got": "basic", "missing": []}
    assert (await prison.agentd.end("prisoner"))["code"] == "0"
    Path(landlock.__file__).with_name("x.py").unlink(missing_ok=True)
    Path("/usr/x-of-a-prisoner").unlink(missing_ok=True)


@pytest.mark.skipif(not BWRAP, reason="bubblewrap is not installed")
@KINDS
async def test_a_namespaced_worker_sees_nothing_of_it_and_can_work(prison: Prison, kind: Any) -> None:
    found = await imprison(prison, kind, "namespaced")
    assert escaped(found) <= {"list state folder"}, "where its own folder is mounted, and nothing else"
    assert failed(found) == {}
    assert found["read store"] == found["list other channel"] == "ENOENT"
    assert found["signal spawner"] in {"ESRCH", "EPERM"}
    view = await prison.agentd.channel("prisoner")
    assert view["isolation"]["got"] == "namespaced"
    assert (await prison.agentd.end("prisoner"))["code"] == "0"
    gone = await prison.agentd.gone("prisoner")
    # It ends by itself when it is asked to; bubblewrap's own first process may be about to end then.
    assert gone["killed"] <= 1 or kind is foreign


@pytest.mark.skipif(not BWRAP, reason="bubblewrap is not installed")
async def test_a_namespaced_worker_holds_its_lock_ends_by_itself_and_dies_with_its_tree(prison: Prison) -> None:
    ours = {**ECHO, "name": "own", "agentd": {"isolation": "namespaced"}}
    loop = "echo begun; while :; do sleep 0.05; done"
    wishes = {"polite": f"trap 'exit 3' TERM; {loop}", "deaf": f"trap '' TERM; {loop}"}
    polite, deaf = (
        {"name": name, "graph": {}, "agentd": {"isolation": "namespaced", "command": ["sh", "-c", text]}}
        for name, text in wishes.items()
    )
    await prison.open(ours, polite, deaf, WORKER_STOP_GRACE_SECONDS="1")
    for name in ("own", "polite", "deaf"):
        await prison.agentd.begin(name, name)
    answer = await prison.agentd.post("/agents/own/invoke", {"input": {"a": 1}})
    assert answer["status"] == 200, answer
    for name, status in (("own", 0), ("polite", 3)):
        assert (await prison.agentd.end(name))["code"] == "0"
        gone = await prison.agentd.gone(name)
        assert (gone["status"], gone["killed"]) == (status, 0), name
    assert (await prison.agentd.end("deaf"))["code"] == "0"
    assert (await prison.agentd.gone("deaf"))["killed"] > 0


@pytest.mark.skipif(not BWRAP, reason="bubblewrap is not installed")
async def test_a_command_that_cannot_be_run_inside_is_told(prison: Prison) -> None:
    nothing = {"isolation": "namespaced", "command": ["/nowhere/program"]}
    await prison.open({"name": "nothing", "graph": {}, "agentd": nothing})
    answer = await prison.agentd.post("/start", channel_name="c", graph_name="nothing")
    assert "command '/nowhere/program': No such file or directory" in answer["detail"], answer


async def test_without_bubblewrap_namespaces_are_refused_and_the_rest_is_told(
    prison: Prison, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = prison.outside / "bin"
    programs.mkdir()
    for name in ("sh", "sleep"):
        (programs / name).symlink_to(shutil.which(name) or "")
    monkeypatch.setenv("PATH", str(programs))
    await prison.open({**ECHO, "name": "own", "agentd": {"isolation": "namespaced"}})
    answer = await prison.agentd.post("/channels", name="c", graph="own")
    assert answer["status"] == 501
    assert answer["error"]["cause"] == "isolation_unavailable"
    assert "bwrap is not installed" in answer["error"]["detail"]
    details = (await prison.agentd.get("/health?details=1"))["data"]["isolation"]
    assert details["default"] == "confined"
    assert details["levels"]["namespaced"]["refused"] == "bwrap is not installed"
    await prison.agentd.event("isolation.note", lambda e: "bwrap is not installed" in e["note"])
    await prison.agentd.begin("d", "echo")


@pytest.mark.skipif(ABI < 4, reason="this kernel's Landlock knows no ports")
async def test_ports_and_networks_can_be_taken_away(prison: Prison) -> None:
    code = """if True:
        import errno, json, os, socket, sys
        found = []
        for port in map(int, sys.argv[1:]):
            try:
                socket.create_connection(("127.0.0.1", port), 5).close()
                found.append("done")
            except OSError as error:
                found.append(errno.errorcode[error.errno])
        try:
            socket.create_server(("127.0.0.1", 0)).close()
            found.append("done")
        except OSError as error:
            found.append(errno.errorcode[error.errno])
        folder = os.environ["AGENTD_CHANNEL_FOLDER"]
        open(folder + "/new", "w").write(json.dumps(found))
        os.rename(folder + "/new", folder + "/found.json")
        import signal; signal.pause()
    """
    levels = ["confined", *(["namespaced"] if BWRAP else [])]
    other = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    async with other:
        second = other.sockets[0].getsockname()[1]
        await prison.open()
        first = int(prison.agentd.address.rpartition(":")[2])
        wishes = {
            "some": ({"connect_ports": [first], "bind_ports": []}, ["done", "EACCES", "EACCES"]),
            "binding": ({"connect_ports": [], "bind_ports": [0]}, ["EACCES", "EACCES", "done"]),
            "none": ({"network": False}, ["EPERM", "EPERM", "EPERM"]),
            "any": ({}, ["done", "done", "done"]),
        }
        graphs = [
            {
                "name": f"{name}-{level}",
                "graph": {},
                "agentd": {
                    "command": [sys.executable, "-c", code, str(first), str(second)],
                    "isolation": {"level": level, **wish},
                },
            }
            for name, (wish, _) in wishes.items()
            for level in levels
        ]
        (prison.agentd.folder / "property.json").write_text(json.dumps({"ten": {"predefined_graphs": [ECHO, *graphs]}}))
        for graph in graphs:
            await prison.agentd.begin(graph["name"], graph["name"])
            found: Any = await prison.outcomes(graph["name"])
            assert found == wishes[graph["name"].partition("-")[0]][1], graph["name"]


async def test_what_a_graph_names_is_granted_and_its_folder_is_not_written_to(prison: Prison) -> None:
    app, data = prison.agentd.folder, prison.outside
    (data / "model").write_text("weights")
    (app / "work").mkdir()
    (app / ".env").write_text("SECRET=1\n")
    attempts = f"cat {data}/model; cat .env; echo x > in-app; echo x > {app}/work/y; exec sleep 1000"
    command = ["sh", "-c", f"({attempts}) > $AGENTD_CHANNEL_FOLDER/said 2>&1"]
    kinds: dict[str, dict[str, Any]] = {
        "plain": {},
        "reads": {"isolation": {"read": [str(data)]}},
        "writes": {"isolation": {"write": ["work"]}},
        "works": {"cwd": "work", "isolation": "confined"},
    }
    await prison.open(
        *({"name": name, "graph": {}, "agentd": {"command": command, **options}} for name, options in kinds.items()),
        AGENTD_WORKER_SETTLE_SECONDS="1",
    )
    told = {}
    for name in kinds:
        await prison.agentd.begin(name, name)
        folder = prison.agentd.state_dir / "ch" / (await prison.agentd.channel(name))["id"]
        text = (folder / "said").read_text()
        told[name] = ("weights" in text, "SECRET" in text, (app / "work" / "y").exists(), (app / "in-app").exists())
        (app / "work" / "y").unlink(missing_ok=True)
        assert (await prison.agentd.end(name))["code"] == "0"
    assert told == {
        "plain": (False, False, False, False),
        "reads": (True, False, False, False),
        "writes": (False, False, True, False),
        "works": (False, False, True, False),
    }


async def test_a_worker_that_is_confined_is_watched_and_ended_as_any(prison: Prison) -> None:
    """The lock, the signals and the samples are the supervisor's, who is not confined."""
    graph = {"name": "c", "graph": {}, "agentd": {"command": ["sh", "-c", "sleep 1000 & wait"]}}
    await prison.open(graph)
    await prison.agentd.begin("c", "c")
    view = await prison.agentd.channel("c")
    assert Path(f"/proc/{view['pid']}/environ").read_bytes(), "we can look into it"
    os.kill(view["pid"], signal.SIGSTOP)
    os.kill(view["pid"], signal.SIGCONT)
    assert (await prison.agentd.end("c"))["code"] == "0"
