"""A whole worker in a process of its own, and the supervisor's end of its pipes."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from worker.frames import Bad, Splitter

SECONDS = 30.0  # after which a test that waits in vain fails

CHILD = """
import json, os, sys
from importlib.metadata import EntryPoint
from worker import main
from worker.registry import GROUP, Registry
with open(int(sys.argv[1]), "rb") as file:
    config = json.load(file)
registry = Registry(EntryPoint(name, value, GROUP) for name, value in config.pop("addons").items())
if config.pop("forked"):
    main.preload()
    if pid := os.fork():
        os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
os._exit(main.run(config, registry))
"""


def graph(*nodes: Any, connections: Any = ()) -> Any:
    return {"ten": {"predefined_graphs": [{"name": "g", "graph": {"nodes": nodes, "connections": connections}}]}}


def node(name: Any, addon: Any = "puppet", **properties: Any) -> Any:
    return {"type": "extension", "name": name, "addon": addon, "property": properties}


def bare(frame: Any) -> Any:
    """An event without what every frame has, and without the time it took."""
    return {key: value for key, value in frame.items() if key not in {"t", "n", "turn", "ms"}}


class Worker:
    """A worker process and the supervisor's end of its pipes."""

    def __init__(
        self,
        folder: Path,
        document: Any,
        *,
        addons: dict[str, str],
        forked: Any = False,
        lifeline: Any = None,
        resume: Any = True,
        path: Any = None,
        **config: Any,
    ) -> None:
        self.folder, self.addons, self.path = folder, addons, path or folder
        flags = os.O_RDWR | os.O_NONBLOCK
        for name in ("down", "up"):
            os.mkfifo(folder / name)
        self.down, self.up = os.open(folder / "down", flags), os.open(folder / "up", flags)
        self.epoch, self.last, self.acknowledging = 0, 0, True
        if resume:
            self.attach()
        self.spawn(document, forked=forked, lifeline=lifeline, **config)

    def spawn(self, document: Any, *, forked: Any = False, lifeline: Any = None, **config: Any) -> None:
        config = {
            "id": "w1",
            "channel": "test",
            "folder": str(self.folder),
            "graph": document,
            "graph_name": "g",
            "addons": self.addons,
            "forked": forked,
            "lifeline": lifeline,
            **config,
        }
        memory = os.memfd_create("config")
        os.write(memory, json.dumps(config).encode())
        os.lseek(memory, 0, os.SEEK_SET)
        with open(self.folder / "out", "ab") as out, open(self.folder / "err", "ab") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-c", CHILD, str(memory)],
                pass_fds=[memory] if lifeline is None else [memory, lifeline],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(self.path), "PYTHONDONTWRITEBYTECODE": "1"},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        os.close(memory)

    def tell(self, frame: Any) -> None:
        os.write(self.down, json.dumps(frame).encode() + b"\n")

    def attach(self, last: Any = None) -> None:
        """Be a new supervisor."""
        self.epoch += 1
        self.last = self.last if last is None else last
        self.splitter, self.synchronised, self.frames = Splitter(), False, []
        self.tell({"t": "resume", "v": 1, "epoch": self.epoch, "last": self.last})

    def readable(self, seconds: Any = SECONDS) -> Any:
        poll = select.poll()
        poll.register(self.up, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def read(self, size: Any = 1 << 16) -> None:
        assert self.readable(), f"nothing came; the worker said {(self.folder / 'err').read_text()!r}"
        for frame in self.splitter.feed(os.read(self.up, size)):
            if isinstance(frame, Bad):
                assert not self.synchronised, frame
            elif frame["t"] == "reset":
                if frame["epoch"] == self.epoch:
                    assert frame["last"] == self.last
                    self.synchronised = True
            elif self.synchronised:
                assert frame["n"] == self.last + 1
                self.last += 1
                self.frames.append(frame)
        if self.acknowledging and self.last:
            self.tell({"t": "ack", "n": self.last})

    def until(self, wanted: Any) -> Any:
        """The next frame that is wanted; earlier ones are taken away."""
        deadline = time.monotonic() + SECONDS
        while True:
            while self.frames:
                if wanted(frame := self.frames.pop(0)):
                    return frame
            assert time.monotonic() < deadline, "other frames came"
            self.read()

    def type(self, kind: Any) -> Any:
        return self.until(lambda frame: frame["t"] == kind)

    def command(self, name: Any, number: Any = 1, **payload: Any) -> None:
        self.tell({"t": "command", "id": number, "payload": {"ten": {"name": name, "type": "cmd"}, **payload}})

    def reply(self, number: Any = 1) -> Any:
        frame = self.until(lambda frame: frame["t"] == "reply" and frame["id"] == number)
        return {key: value for key, value in frame.items() if key not in {"t", "n", "id"}}

    def ask(self, question: Any = "", number: Any = "t1", kind: Any = "chat", **request: Any) -> None:
        """Begin a turn with one question of the user."""
        messages = [{"role": "user", "content": question}]
        self.tell({"t": "turn", "turn": number, "kind": kind, "request": {"messages": messages, **request}})

    def event(self, kind: Any, number: Any = "t1") -> Any:
        """The next event of this type in a turn; earlier frames are taken away."""
        return bare(self.until(lambda f: (f["t"], f.get("turn"), f.get("type")) == ("event", number, kind)))

    def events(self, number: Any = "t1") -> Any:
        """All events of a turn up to its ending, bare; other frames are taken away."""
        found = []
        while not found or found[-1]["type"] not in {"final", "error"}:
            found.append(bare(self.until(lambda f: f["t"] == "event" and f["turn"] == number)))
        return found

    def answer(self, question: Any = "", number: Any = "t1", **request: Any) -> Any:
        """Ask, and wait for the end."""
        self.ask(question, number, **request)
        return self.events(number)

    def wait(self) -> Any:
        return self.process.wait(SECONDS)

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self.down)
        os.close(self.up)
