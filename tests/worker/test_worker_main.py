"""A whole worker in a process of its own, spoken to through real FIFOs."""

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.harness.living import SECONDS, Worker, graph, node
from worker.beat import MOST_WAITING

ADDONS = """
import asyncio, os, signal, time
from worker.agent import Node

class Puppet(Node):
    def __init__(self, context):
        super().__init__(context)
        for name in ("emit", "block", "fail", "surrogate", "talk"):
            context.handle(name, getattr(self, name))

    async def start(self):
        kind = self.context.properties.get("start")
        if kind == "raise":
            raise OSError("no microphone")
        if kind == "hang":
            await self.context.report(starting=True)
            await asyncio.Event().wait()

    async def emit(self, payload):
        for number in range(payload["count"]):
            await self.context.report(x=number, pad="y" * (number * 37 % payload["pad"]))

    async def block(self, payload):
        time.sleep(payload["seconds"])

    async def talk(self, payload):
        print("said with print", payload["word"])
        self.context.log.warning("said with log", word=payload["word"])

    async def fail(self, payload):
        raise RuntimeError("did not work")

    async def surrogate(self, payload):
        return "\\ud800"

    async def stop(self):
        if self.context.properties.get("stop") == "hang":
            await asyncio.Event().wait()
"""


@pytest.fixture
def start(tmp_path: Any) -> Any:
    started = []

    def start(*nodes: Any, connections: Any = (), **options: Any) -> Any:
        folder = tmp_path / f"channel{len(started)}"
        folder.mkdir()
        (folder / "puppets.py").write_text(ADDONS)
        options = {"addons": {"puppet": "puppets:Puppet"}} | options
        started.append(Worker(folder, graph(*nodes, connections=connections), **options))
        return started[-1]

    yield start
    for worker in started:
        worker.close()


@pytest.mark.parametrize("forked", [False, True])
def test_ready_then_descriptions_then_an_orderly_stop(start: Any, forked: Any) -> None:
    worker = start(
        node("openai_chatgpt", "openai_chatgpt", model="gpt-4o", api_key="sk-topsecret"),
        node("message_collector", "message_collector"),
        forked=forked,
    )
    assert worker.type("ready") == {
        "t": "ready",
        "n": 1,
        "nodes": [
            {"name": "openai_chatgpt", "addon": "openai_chatgpt", "handles": ["chat"]},
            {"name": "message_collector", "addon": "message_collector"},
        ],
        "skipped": [],
    }
    state = worker.type("state")
    assert (state["node"], state["properties"]["model"]) == ("openai_chatgpt", "gpt-4o")
    assert "sk-topsecret" not in json.dumps(state)
    worker.tell({"t": "stop", "grace": 5})
    assert worker.type("bye")["cause"] == "stopped"
    assert worker.wait() == 0
    assert (worker.folder / "err").read_text() == (worker.folder / "out").read_text() == ""


def test_the_lock_is_held_and_a_second_worker_does_not_start(start: Any) -> None:
    worker = start(node("p"))
    worker.type("ready")
    with open(worker.folder / "lock", "r+b") as lock, pytest.raises(BlockingIOError):
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    first = worker.process
    worker.spawn(graph(node("p")))
    assert worker.process.wait(SECONDS) not in {0, None}
    worker.process = first
    worker.command("echo")
    assert worker.reply()["ok"] is False  # it lives on


def test_nothing_is_written_before_a_resume(start: Any) -> None:
    worker = start(node("p"), resume=False)
    worker.tell({"t": "stop", "grace": 0.2})  # it ends in time, and its last frames are nobody's
    assert worker.wait() == 0
    with pytest.raises(BlockingIOError):
        os.read(worker.up, 100)


def test_missing_addons_are_all_named(start: Any) -> None:
    worker = start(node("z", "zebra"), node("p"), node("a", "ant"), node("z2", "zebra"))
    bye = worker.type("bye")
    assert (bye["n"], bye["cause"], bye["missing"]) == (1, "addons_missing", ["ant", "zebra"])
    assert worker.wait() == 3


def test_missing_addons_may_be_skipped(start: Any) -> None:
    worker = start(node("z", "zebra"), node("p"), unknown_addons="skip")
    ready = worker.type("ready")
    assert ready["nodes"] == [{"name": "p", "addon": "puppet"}]
    assert ready["skipped"] == [{"name": "z", "addon": "zebra"}]


@pytest.mark.parametrize(
    ("nodes", "addons", "told"),
    [
        ([node("p"), node("q", start="raise")], {}, "node 'q' (add-on 'puppet'): OSError: no microphone"),
        ([node("c", "openai_chatgpt", max_tokens="x")], {}, "node 'c' (add-on 'openai_chatgpt'): PropertyError: max_"),
        ([node("b", "bad")], {"bad": "no_such_module:X"}, "the add-on 'bad' (no_such_module:X, agentd) cannot be"),
        ([node("b", "")], {}, "node 'b' names the add-on ''"),
    ],
)
def test_what_cannot_start_is_named(start: Any, nodes: Any, addons: Any, told: Any) -> None:
    worker = start(*nodes, addons={"puppet": "puppets:Puppet", **addons})
    bye = worker.type("bye")
    assert bye["cause"] == "graph_invalid"
    assert told in bye["detail"]
    assert worker.wait() == 3


def test_a_start_that_hangs_ends_in_time(start: Any) -> None:
    worker = start(node("p", start="hang"), start_seconds=0.1)
    bye = worker.type("bye")
    assert (bye["cause"], bye["detail"]) == ("start_timeout", "these nodes did not start within 0.1 s: p")
    assert worker.wait() == 3


@pytest.mark.parametrize("way", ["frame", "signal"])
def test_a_stop_during_the_start(start: Any, way: Any) -> None:
    worker = start(node("p", start="hang"))
    assert worker.type("state")["starting"] is True
    if way == "frame":
        worker.tell({"t": "stop", "grace": 5})
    else:
        worker.process.terminate()
    assert worker.type("bye")["cause"] == "stopped"
    assert worker.wait() == 0


def test_sigterm_is_an_orderly_stop_and_sigint_is_ignored(start: Any) -> None:
    worker = start(node("e", "echo"))
    worker.type("ready")
    worker.process.send_signal(signal.SIGINT)
    worker.command("echo", x="y")
    assert worker.reply()["result"]["x"] == "y"
    worker.process.terminate()
    assert worker.type("bye")["cause"] == "stopped"
    assert worker.wait() == 0


def test_a_node_that_does_not_stop_is_left_behind_within_the_grace(start: Any) -> None:
    worker = start(node("p", stop="hang"))
    worker.type("ready")
    worker.tell({"t": "stop", "grace": 0.2})
    assert worker.type("bye")["cause"] == "stopped"
    assert worker.wait() == 0
    assert "graph.stop_late" in (worker.folder / "err").read_text()


def test_the_end_of_the_lifeline_ends_the_worker_at_once(start: Any) -> None:
    theirs, ours = os.pipe()
    worker = start(node("p"), lifeline=theirs)
    os.close(theirs)
    worker.type("ready")
    os.close(ours)
    assert worker.wait() == 1
    assert not [frame for frame in worker.frames if frame["t"] == "bye"]


def test_commands(start: Any) -> None:
    worker = start(node("m", "message_collector"), node("p"), node("e", "echo"))
    worker.command("file_chunk", 1, path="x")
    assert worker.reply(1) == {"ok": False, "error": "no node handles the command 'file_chunk'"}
    worker.command("echo", 2, x=[1, "ü"])
    assert worker.reply(2) == {"ok": True, "result": {"ten": {"name": "echo", "type": "cmd"}, "x": [1, "ü"]}}
    worker.command("fail", 3)
    told = {frame["t"]: frame for frame in (worker.until(lambda frame: "error" in frame) for _ in range(2))}
    assert (told["reply"]["id"], told["reply"]["ok"]) == (3, False)
    assert told["reply"]["error"] == told["state"]["error"] == "RuntimeError: did not work"
    worker.command("surrogate", 4)
    refused = worker.reply(4)
    assert refused["ok"] is False
    assert "cannot be written as JSON" in refused["error"]
    worker.tell({"t": "command", "id": 5})
    assert worker.reply(5)["ok"] is False
    worker.tell({"t": "turn", "id": 6})  # nobody takes it; the worker lives on
    worker.command("echo", 7)
    assert worker.reply(7)["ok"] is True


def test_what_a_node_prints_and_logs_is_out_at_once(start: Any) -> None:
    worker = start(node("p"))
    worker.type("ready")
    worker.command("talk", word="ü")
    assert worker.reply()["ok"] is True
    assert (worker.folder / "out").read_text() == "said with print ü\n"
    (line,) = (worker.folder / "err").read_text().splitlines()
    event = json.loads(line)
    assert (event["event"], event["channel"], event["node"], event["word"]) == ("said with log", "test", "p", "ü")


def test_beats_tell_how_late_the_loop_is(start: Any) -> None:
    worker = start(node("p"), beat_seconds=0.02)
    assert worker.type("beat")["lag_ms"] >= 0
    worker.command("block", seconds=0.4)
    assert worker.until(lambda frame: frame["t"] == "beat" and frame["lag_ms"] >= 200)


def test_a_few_beats_at_most_are_unacknowledged_and_the_next_tells_the_worst_lag(start: Any) -> None:
    worker = start(node("p"), beat_seconds=0.02)
    worker.type("ready")
    worker.acknowledging = False
    for _ in range(MOST_WAITING):
        worker.type("beat")
    for number in range(3):  # many beats would be due
        worker.command("block", number, seconds=0.2)
        while not any(frame["t"] == "reply" and frame["id"] == number for frame in worker.frames):
            worker.read()
    assert [frame["t"] for frame in worker.frames] == ["reply"] * 3
    worker.frames.clear()
    worker.acknowledging = True
    worker.tell({"t": "ack", "n": worker.last})
    assert worker.type("beat")["lag_ms"] >= 100


@pytest.mark.parametrize("seed", range(4))
def test_no_frame_is_lost_or_doubled_when_readers_are_torn_off(start: Any, seed: Any) -> None:
    """Readers die after any number of bytes, with any number of acknowledgements sent, and half a line written."""
    chance = random.Random(seed)
    worker = start(node("p"), beat_seconds=60)
    worker.type("ready")
    count = 3000
    worker.command("emit", count=count, pad=chance.choice([10, 400, 5000]))
    worker.acknowledging = False
    durable, got = worker.last, []
    while len(got) < count:
        if chance.random() < 0.1:
            os.write(worker.down, b'{"t":"ack","n":')  # died in the middle of a line
            os.write(worker.down, b"\n")
            worker.attach(durable)
        if not worker.readable(0) or chance.random() < 0.5:  # else what was read is lost with the reader
            got += [frame["x"] for frame in worker.frames if "x" in frame]
            worker.frames.clear()
            durable = worker.last
            if not worker.readable(0) or chance.random() < 0.5:  # else the acknowledgement is lost
                worker.tell({"t": "ack", "n": durable})
        if len(got) < count:
            worker.read(chance.choice([1, 100, 4000, 65536]))
    assert got == list(range(count))


def test_preload_leaves_nothing_but_memory(tmp_path: Any) -> None:
    script = """
import asyncio, os, signal, threading
from worker import main
def look():
    return sorted(os.listdir("/proc/self/fd")), threading.active_count(), signal.getsignal(signal.SIGTERM)
look()
before = look()
main.preload()
assert look() == before, (before, look())
assert not asyncio.all_tasks(asyncio.new_event_loop())
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(tmp_path.glob("agentd-preload-*"))
