"""The model's client in the zygotes: nowhere but in that of its preload, which stays fit to fork."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.harness.boss import Boss
from worker.addons import BUILT_IN

PRELOAD = "worker.addons.openai_chatgpt:preload"
MODEL = {
    "name": "g",
    "graph": {"nodes": [{"type": "extension", "name": "m", "addon": "openai_chatgpt", "property": {}}]},
}
LOOKING = """
import asyncio, json, os, sys, threading
from worker import main
threads = []
threading.Thread.start = lambda thread: threads.append(thread.name)
main.preload()
if {preload}:
    from worker.zygote import preload
    preload(["{reference}"])
try:
    loop = bool(asyncio.get_event_loop_policy()._local._loop)
except AttributeError:
    loop = False
files = [name for name in os.listdir("/proc/self/fd") if int(name) > 2 and os.path.exists(f"/proc/self/fd/{{name}}")]
print(json.dumps(["openai" in sys.modules, threads, loop, files]))
"""


@pytest.fixture
def boss(state_dir: Path) -> Iterator[Boss]:
    boss = Boss(state_dir)
    yield boss
    boss.close()


@pytest.mark.parametrize("preload", [False, True])
def test_only_the_preload_imports_the_client_and_leaves_no_thread_and_no_loop(preload: bool) -> None:
    code = LOOKING.format(preload=preload, reference=PRELOAD)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [preload, [], False, []]
    assert done.stderr == ""


def test_every_name_of_the_addon_has_its_preload() -> None:
    preloads = {point.name: point.value for point in entry_points(group="agentd.preloads")}
    named = [name for name, value in BUILT_IN.items() if value.startswith("worker.addons.openai_chatgpt:")]
    assert {name: preloads.get(name) for name in named} == dict.fromkeys(named, PRELOAD)


def test_a_worker_starts_from_the_zygote_of_the_preload(boss: Boss) -> None:
    boss.launch().connect()
    boss.spawn("1", preload=(PRELOAD,), graph=MODEL)
    pid = boss.ready("1")
    zygote = boss.event("zygote", state="ready", preload=[PRELOAD])["pid"]
    assert len(os.listdir(f"/proc/{zygote}/task")) == 1
    assert "/aiohttp/" in Path(f"/proc/{pid}/maps").read_text()  # which nothing in a worker imports but the client
    boss.spawn("2")
    assert "/aiohttp/" not in Path(f"/proc/{boss.ready('2')}/maps").read_text()
    for channel in "12":
        assert boss.kill(channel)["left"] == 0
    assert boss.end() == (0, "")
