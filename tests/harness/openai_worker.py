"""A real worker process with one `openai_chatgpt` node, and the supervisor's end of its pipes."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worker.frames import Bad, Splitter

PATIENCE = 30.0
CHILD = """
import json, os, sys
from importlib.metadata import EntryPoint
from worker import main
from worker.registry import GROUP, Registry
with open(int(sys.argv[1]), "rb") as file:
    config = json.load(file)
registry = Registry(EntryPoint(name, value, GROUP) for name, value in config.pop("addons").items())
os._exit(main.run(config, registry))
"""
ENDS = ("final", "error")

Frame = dict[str, Any]


class OpenAIWorker:
    """Started by `start`; `turn` asks and gives the events, `close` stops it and looks how it ended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.frames: list[Frame] = []
        self._changed = asyncio.Condition()
        self._splitter = Splitter()
        self._turns = 0
        self.process: asyncio.subprocess.Process | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        folder.mkdir()
        for name in ("down", "up"):
            os.mkfifo(folder / name)
        self.down, self.up = (os.open(folder / name, os.O_RDWR | os.O_NONBLOCK) for name in ("down", "up"))

    async def start(
        self,
        properties: dict[str, Any],
        *,
        name: str = "model",
        addon: str = "openai_chatgpt",
        addons: dict[str, str] | None = None,
        nodes: Any = (),
        connections: Any = (),
        path: Path | None = None,
    ) -> "OpenAIWorker":
        """Start and wait until it is ready."""
        node = {"type": "extension", "name": name, "addon": addon, "property": properties}
        graph = {"name": "g", "graph": {"nodes": [node, *nodes], "connections": list(connections)}}
        config = {
            "id": "w1",
            "channel": "c",
            "folder": str(self.folder),
            "graph": {"ten": {"predefined_graphs": [graph]}},
            "graph_name": "g",
            "addons": addons or {},
        }
        memory = os.memfd_create("config")
        os.write(memory, json.dumps(config).encode())
        os.lseek(memory, 0, os.SEEK_SET)
        asyncio.get_running_loop().add_reader(self.up, self._readable)
        self.tell({"t": "resume", "v": 1, "epoch": 1, "last": 0})
        with open(self.folder / "err", "ab") as err:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                CHILD,
                str(memory),
                pass_fds=[memory],
                cwd=self.folder,
                env={
                    **{name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")},
                    "PYTHONPATH": os.pathsep.join(map(str, [*([path] if path else []), *sys.path])),
                    "PYTHONDONTWRITEBYTECODE": "1",
                },
                stdin=asyncio.subprocess.DEVNULL,
                stdout=err,
                stderr=err,
                start_new_session=True,
            )
        os.close(memory)
        self._watch = asyncio.create_task(self._await_end(), name="watch worker")
        await self.frame(lambda frame: frame["t"] == "ready")
        return self

    def tell(self, frame: Frame) -> None:
        os.write(self.down, json.dumps(frame).encode() + b"\n")

    def ask(self, question: str = "hi", **request: Any) -> str:
        """Begin a turn; its id."""
        self._turns += 1
        turn = f"t{self._turns}"
        request = {"messages": [{"role": "user", "content": question}], "user": "u", **request}
        self.tell({"t": "turn", "turn": turn, "kind": "chat", "request": request})
        return turn

    def cancel(self, turn: str) -> None:
        self.tell({"t": "cancel", "turn": turn})

    async def turn(self, question: str = "hi", **request: Any) -> list[Frame]:
        """A whole turn's events."""
        return await self.ended(self.ask(question, **request))

    async def ended(self, turn: str) -> list[Frame]:
        """The events of a turn, up to its end."""
        await self.event(turn, lambda event: event["type"] in ENDS)
        return self.events(turn)

    async def event(self, turn: str, wanted: Callable[[Frame], bool]) -> Frame:
        """An event of this turn, waited for."""
        return await self.frame(lambda frame: frame["t"] == "event" and frame["turn"] == turn and wanted(frame))

    def events(self, turn: str) -> list[Frame]:
        return [
            {key: value for key, value in frame.items() if key not in {"t", "n", "turn"}}
            for frame in self.frames
            if frame["t"] == "event" and frame["turn"] == turn
        ]

    async def frame(self, wanted: Callable[[Frame], bool]) -> Frame:
        """The first frame that is wanted, waited for."""

        def found() -> Frame | None:
            return next((frame for frame in self.frames if wanted(frame)), None)

        with contextlib.suppress(TimeoutError):
            async with self._changed, asyncio.timeout(PATIENCE):
                await self._changed.wait_for(lambda: found() is not None or self._watch.done())
        frame = found()
        assert frame is not None, f"no such frame among {self.frames[-5:]}; it said {self.said()}"
        return frame

    def said(self) -> str:
        """All that it logged and printed."""
        return (self.folder / "err").read_text()

    async def stop(self) -> int:
        """Stop it; its exit status."""
        assert self.process is not None
        self.tell({"t": "stop", "grace": 10.0})
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()

    async def close(self) -> None:
        if self.process is not None:
            if self.process.returncode is None:
                os.killpg(self.process.pid, signal.SIGKILL)
            await self._watch
        asyncio.get_running_loop().remove_reader(self.up)
        if self._tasks:
            await asyncio.wait(self._tasks)
        os.close(self.down)
        os.close(self.up)

    async def _await_end(self) -> None:
        assert self.process is not None
        await self.process.wait()
        await self._notify()

    def _readable(self) -> None:
        for frame in self._splitter.feed(os.read(self.up, 1 << 16)):
            if not isinstance(frame, Bad) and frame["t"] != "reset":
                self.frames.append(frame)
        if self.frames:
            self.tell({"t": "ack", "n": self.frames[-1]["n"], "seen": self.frames[-1]["n"]})
        task = asyncio.get_running_loop().create_task(self._notify())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def text(events: list[Frame]) -> str:
    """The text of a turn."""
    return "".join(event["text"] for event in events if event["type"] == "text")
