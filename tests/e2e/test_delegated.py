"""A server that was started in a cgroup of its own: it lives below it, and leaves it as it was."""

import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.conftest import ZOO
from tests.harness import Agentd
from tests.harness.graphs import ECHO, foreign
from tests.harness.witness import Witness
from worker.spawner import cgroup
from worker.spawner.leaves import kill_folder


class Delegated(Agentd):
    """A server that begins its life in this cgroup."""

    cgroup = Path()

    def command(self, environment: dict[str, str]) -> list[str]:
        return ["sh", "-c", 'echo $$ >"$0/cgroup.procs"; exec "$@"', str(self.cgroup), *super().command(environment)]

    @property
    def base(self) -> Path:
        [base] = self.cgroup.glob("agentd-*")
        return base

    def folders(self) -> set[str]:
        return {path.name for path in self.base.iterdir() if path.is_dir()}


@pytest.fixture
def own_cgroup() -> Iterator[Path]:
    """A new cgroup of version 2; it must be as empty again in the end."""
    tree = next((tree.own for tree in cgroup.find_hierarchies() if not tree.controllers), None)
    if tree is None:
        pytest.skip("there is no cgroup version 2 tree")
    # Beside the one this test is in: one with processes in it has no controllers for what is below it.
    folder = (tree if tree.is_mount() else tree.parent) / f"test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"cgroup version 2 is not writable: {error}")
    yield folder
    left = [
        *cgroup.members(folder),
        *cgroup.subfolders(folder),
        *(folder / "cgroup.subtree_control").read_text().split(),
    ]
    kill_folder(folder)
    cgroup.remove(folder)
    assert left == []


@pytest.fixture
async def delegated(state_dir: Path, tmp_path: Path, own_cgroup: Path) -> AsyncIterator[Delegated]:
    server = Delegated(state_dir, tmp_path, extra_path=ZOO)
    server.cgroup = own_cgroup
    try:
        yield server
    finally:
        await server.stop()


def offered(folder: Path) -> set[str]:
    """The controllers the server can have for its leaves."""
    return set(cgroup.CONTROLLERS) & set((folder / "cgroup.controllers").read_text().split())


async def test_it_lives_below_its_cgroup_and_leaves_it_empty(delegated: Delegated, witness: Witness) -> None:
    own = delegated.cgroup
    await delegated.start(graphs=[ECHO, foreign("daemon_stubborn", delegated.folder)])
    details = (await delegated.get("/health?details=1"))["data"]
    assert details["containment"] == ("full" if "memory" in offered(own) else "tracking")
    assert offered(own) <= set(details["controllers"])
    at_home = {"spawner", "server"} if offered(own) else {"spawner"}

    assert details["spawner_pid"] in cgroup.inhabitants(delegated.base / "spawner")
    assert delegated.process is not None
    assert cgroup.inhabitants(delegated.base / "server" if offered(own) else own) == [delegated.process.pid]
    for name in ("echo", "beast"):
        await delegated.begin(name, name)
    await witness.hears("daemon")
    leaves = {name: delegated.base / (await delegated.channel(name))["id"] for name in ("echo", "beast")}
    assert {name: len(cgroup.members(leaf)) for name, leaf in leaves.items()} == {"echo": 1, "beast": 2}
    assert (await delegated.end("echo"))["code"] == "0"
    assert (await delegated.request("DELETE", "/channels/beast?kill=1"))["receipt"]["killed"] == 2
    assert delegated.folders() == at_home
    await delegated.begin("last")
    assert await delegated.stop() == 0


async def test_a_new_spawner_takes_it_over(delegated: Delegated) -> None:
    await delegated.start(graphs=[ECHO])
    await delegated.begin("c")
    before = (await delegated.get("/health?details=1"))["data"]
    home = delegated.folders()
    os.kill(before["spawner_pid"], signal.SIGKILL)
    assert (await delegated.gone("c"))["cause"] == "spawner_lost"
    await delegated.event("spawner.replaced")
    after = (await delegated.get("/health?details=1"))["data"]
    assert [after[name] for name in ("containment", "controllers")] == [
        before[name] for name in ("containment", "controllers")
    ]
    assert after["spawner_pid"] in cgroup.inhabitants(delegated.base / "spawner")
    await delegated.begin("c")
    assert len(delegated.folders()) == len(home)
    assert await delegated.stop() == 0


async def test_it_moves_nobody_else(delegated: Delegated) -> None:
    own = delegated.cgroup
    with subprocess.Popen(["sleep", "1000"]) as stranger:
        try:
            (own / "cgroup.procs").write_text(str(stranger.pid))
            await delegated.start(graphs=[ECHO])
            assert delegated.process is not None
            assert set(cgroup.inhabitants(own)) == {stranger.pid, delegated.process.pid}
            assert (await delegated.get("/health?details=1"))["data"]["containment"] == "tracking"
            if offered(own):
                note = await delegated.event("containment.note")
                assert note["note"].startswith(f"{own} has processes that are not ours")
            await delegated.begin("c")
            assert (await delegated.end("c"))["code"] == "0"
            assert await delegated.stop() == 0
        finally:
            stranger.kill()
