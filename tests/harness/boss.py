"""The real spawner as a process, spoken to over its socket."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from supervisor.processes.bundle import Bundle, prepare_state
from supervisor.processes.launch import connect
from tests.harness import leaks
from worker.frames import encode
from worker.spawn import INSTANCE_VARIABLE, MAX_MESSAGE, Limits, SpawnRequest, instance_of, pack, unpack

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 20.0
ENVIRONMENT = {"PATH": os.environ["PATH"], "AGENTD_CHANNEL_ID": "x"}


class Boss:
    """A control server by hand."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.process: subprocess.Popen[bytes] | None = None
        self.events: list[dict[str, Any]] = []
        self.peer: socket.socket | None = None
        self.hello: dict[str, Any] = {}
        self._held: list[int] = []

    def launch(self, *flags: str, path: Path | None = None, **environment: str) -> "Boss":
        prepare_state(self.state_dir)
        reader, writer = os.pipe()
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "worker.spawner",
                "--state-dir",
                str(self.state_dir),
                "--ready-fd",
                str(writer),
                *flags,
            ],
            env={
                "PATH": os.environ["PATH"],
                "TMPDIR": os.environ["TMPDIR"],
                leaks.MARK: os.environ[leaks.MARK],
                "PYTHONPATH": os.pathsep.join([*([str(path)] if path else []), str(ROOT)]),
                INSTANCE_VARIABLE: instance_of(self.state_dir),
                **environment,
            },
            pass_fds=(writer,),
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        os.close(writer)
        assert os.read(reader, 64) == b"ready\n"
        os.close(reader)
        return self

    def connect(self, orphan_grace: float = 60.0, python: str = sys.executable) -> "Boss":
        self.peer = connect(self.state_dir)
        self.peer.settimeout(PATIENCE)
        self.events.clear()
        self.send(op="hello", version=1, orphan_grace=orphan_grace, python=python)
        self.hello = self.event("hello")
        return self

    def send(self, fd: int = -1, **message: Any) -> None:
        assert self.peer is not None
        socket.send_fds(self.peer, [pack(message)], [fd] if fd >= 0 else [])

    def event(self, kind: str, **fields: Any) -> dict[str, Any]:
        """The first event of this kind with these fields, waited for."""
        assert self.peer is not None
        seen = 0
        while True:
            for event in self.events[seen:]:
                if event["ev"] == kind and fields.items() <= event.items():
                    return event
            seen = len(self.events)
            data = self.peer.recv(MAX_MESSAGE)
            assert data, f"the spawner ended without {kind}: {self.events}"
            self.events.append(unpack(data))

    def folder(self, channel: str) -> Path:
        return self.state_dir / "ch" / channel

    def spawn(
        self,
        channel: str,
        command: list[str] | None = None,
        *,
        limits: Limits | None = None,
        preload: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
        graph: dict[str, Any] | None = None,
        cwd: str | None = None,
    ) -> None:
        """Ask for a worker: `command`, or one of ours with an empty graph."""
        bundle = Bundle(self.state_dir, channel)
        bundle.create()
        for name in ("up", "down", "out", "err"):
            self._held.append(os.open(bundle.folder / name, os.O_RDWR | os.O_NONBLOCK))
        os.write(self._held[-3], encode({"t": "resume", "v": 1, "epoch": 1, "last": 0}))
        request = SpawnRequest(
            id=channel,
            folder=str(bundle.folder),
            environment={**ENVIRONMENT, **(environment or {})},
            limits=limits or Limits(),
            command=None if command is None else tuple(command),
            cwd=cwd,
            preload=preload,
        )
        fd = -1
        if command is None:
            document = {"ten": {"predefined_graphs": [graph or {"name": "g", "graph": {"nodes": []}}]}}
            config = {
                "id": channel,
                "channel": channel,
                "folder": str(bundle.folder),
                "graph": document,
                "graph_name": "g",
            }
            fd = os.memfd_create("config")
            os.write(fd, json.dumps(config).encode())
        self.send(fd, **request.to_message())
        if fd >= 0:
            os.close(fd)

    def ready(self, channel: str) -> int:
        """Wait until a worker of ours says READY; its pid."""
        pid: int = self.event("spawned", id=channel)["pid"]
        with (self.folder(channel) / "up").open("rb", buffering=0) as up:
            data = b""
            while b'"t":"ready"' not in data:
                data += up.read(65536)
        return pid

    def output(self, channel: str, end: bytes = b"\n") -> bytes:
        """What a worker writes to its stdout, up to `end`."""
        with (self.folder(channel) / "out").open("rb", buffering=0) as out:
            data = b""
            while end not in data:
                data += out.read(65536)
        return data

    def kill(self, channel: str) -> dict[str, Any]:
        self.send(op="kill", id=channel)
        return self.gone(channel)

    def gone(self, channel: str) -> dict[str, Any]:
        receipt: dict[str, Any] = self.event("gone", id=channel)["receipt"]
        self.send(op="forget", id=channel)
        return receipt

    def settle(self) -> None:
        """Return when it has done all that it was asked for, as to let go of what it was told to forget."""
        self.events = [event for event in self.events if event["ev"] != "refused"]
        self.send(op="nonsense")
        self.event("refused")

    def end(self) -> tuple[int, str]:
        """Shut the spawner down; its exit status and what it complained of."""
        assert self.process is not None
        if self.peer is not None and self.process.poll() is None:
            with contextlib.suppress(OSError):
                self.send(op="shutdown")
                self.event("bye")
        return self.wait()

    def wait(self) -> tuple[int, str]:
        assert self.process is not None
        assert self.process.stderr is not None
        if self.peer is None:
            self.process.terminate()
        with self.process.stderr:
            text = self.process.stderr.read().decode()
        return self.process.wait(PATIENCE), text

    def hang_up(self) -> None:
        if self.peer is not None:
            self.peer.close()
            self.peer = None

    def close(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            self.wait()
        self.hang_up()
        for fd in self._held:
            os.close(fd)
