"""When the machine gives nothing more: no descriptors, no spawner. Nothing hangs, and all is well again afterwards."""

import os
import resource
import signal
import subprocess
import sys

import pytest

from tests.harness import Agentd

pytestmark = pytest.mark.own_interpreter


async def test_a_spawner_that_cannot_be_replaced_at_once_is_replaced_later(agentd: Agentd) -> None:
    await agentd.start()
    await agentd.begin("c")
    assert agentd.process is not None
    spawner = (await agentd.event("server.ready"))["spawner_pid"]
    limits = resource.prlimit(agentd.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(agentd.process.pid, resource.RLIMIT_NOFILE, (5, limits[1]))
    os.kill(spawner, signal.SIGKILL)
    await agentd.event("spawner.unavailable")
    assert (await agentd.gone("c"))["cause"] == "spawner_lost"
    resource.prlimit(agentd.process.pid, resource.RLIMIT_NOFILE, limits)
    replaced = await agentd.event("spawner.replaced")
    assert replaced["pid"] != spawner
    assert (await agentd.get("/health?details=1"))["data"]["spawner"] == "attached"
    await agentd.begin("c")


async def test_no_descriptors_left_is_an_answer_and_passes(agentd: Agentd) -> None:
    await agentd.start(WORKERS_MAX="50")
    assert agentd.process is not None
    limits = resource.prlimit(agentd.process.pid, resource.RLIMIT_NOFILE)
    used = len(os.listdir(f"/proc/{agentd.process.pid}/fd"))
    resource.prlimit(agentd.process.pid, resource.RLIMIT_NOFILE, (used + 12, limits[1]))
    codes = [(await agentd.post("/start", channel_name=f"c{n}", graph_name="echo"))["code"] for n in range(6)]
    assert codes[0] == "0"
    assert codes[-1] == "10101"
    resource.prlimit(agentd.process.pid, resource.RLIMIT_NOFILE, limits)
    await agentd.begin("again")
    assert (await agentd.end("c0"))["code"] == "0"


async def test_a_folder_that_cannot_be_removed_without_descriptors_is_removed_later(agentd: Agentd) -> None:
    await agentd.start()
    assert agentd.process is not None
    await agentd.begin("before")  # over the connection that is used then; graphs are read
    limits = resource.prlimit(agentd.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(agentd.process.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    assert (await agentd.post("/start", channel_name="c", graph_name="echo"))["code"] == "10101"
    await agentd.event("channel.folder_left")
    resource.prlimit(agentd.process.pid, resource.RLIMIT_NOFILE, limits)
    await agentd.event("leftovers.removed")
    await agentd.end("before")
    assert list((agentd.state_dir / "ch").iterdir()) == []


def test_the_server_s_memory_is_hidden_from_its_user() -> None:
    script = "import ctypes; from supervisor.prctl import hide_memory; hide_memory(); print(ctypes.CDLL(None).prctl(3))"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    assert shown.stdout == "0\n"
