"""Preloads: what they load is shared, what they break is told."""

import os
import signal
from pathlib import Path

import pytest

from tests.harness.boss import Boss

MODULE = """
import threading, time
LOADED = []
def good(): LOADED.append("good")
def other(): LOADED.append("other")
def broken(): raise ValueError("no model here")
def threads(): threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
def ends(): raise SystemExit(5)
"""
TELL = """
import zoo_preload
from worker.agent import Node
class Tell(Node):
    async def start(self):
        print(zoo_preload.LOADED, flush=True)
"""
GRAPH = {"name": "g", "graph": {"nodes": [{"type": "extension", "name": "t", "addon": "tell"}]}}


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    folder = tmp_path / "modules"
    info = folder / "told-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: told\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[agentd.addons]\ntell = zoo_tell:Tell\n")
    (folder / "zoo_preload.py").write_text(MODULE)
    (folder / "zoo_tell.py").write_text(TELL)
    return folder


def test_each_set_of_preloads_has_its_zygote_and_shares_it(boss: Boss, modules: Path) -> None:
    boss.launch(path=modules).connect()
    good, both = ("zoo_preload:good",), ("zoo_preload:good", "zoo_preload:other")
    for channel, preload, loaded in (
        ("1", good, b"['good']\n"),
        ("2", good, b"['good']\n"),
        ("3", both, b"['good', 'other']\n"),
        ("4", (), b"[]\n"),
    ):
        boss.spawn(channel, preload=preload, graph=GRAPH)
        assert boss.output(channel) == loaded
    zygotes = {p: boss.event("zygote", state="ready", preload=list(p))["pid"] for p in ((), good, both)}
    assert len(set(zygotes.values())) == 3
    os.kill(zygotes[good], signal.SIGKILL)
    boss.event("zygote", state="died", pid=zygotes[good])
    boss.spawn("5", preload=good, graph=GRAPH)
    assert boss.output("5") == b"['good']\n"
    for channel in "12345":
        assert boss.kill(channel)["left"] == 0
    assert boss.end() == (0, "")


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("zoo_preload:broken", "preload zoo_preload:broken: ValueError('no model here')"),
        ("zoo_preload:absent", "preload zoo_preload:absent: AttributeError"),
        ("no_such_module:f", "preload no_such_module:f: ModuleNotFoundError"),
        ("zoo_preload:threads", "a preload left 1 threads running in the zygote; it must start none"),
        ("zoo_preload:ends", "ended with status 5"),
    ],
)
def test_a_preload_that_breaks_fails_its_starts_and_no_others(
    boss: Boss, modules: Path, reference: str, said: str
) -> None:
    boss.launch(path=modules).connect()
    boss.spawn("1", preload=(reference,))
    assert said in boss.event("spawn_failed", id="1")["error"]
    boss.spawn("2")
    boss.ready("2")
    boss.kill("2")
    assert boss.end()[0] == 0
