"""A real `agentd serve` as a child process, its log as events to wait for, its API as calls."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp

from tests.harness import leaks, secrets
from tests.harness.nursery import Forked, Nursery

PATIENCE = 30.0  # a bound on every wait, not a wait

Event = dict[str, Any]

if sys.version_info < (3, 12):  # where it is not what asyncio chooses by itself: a thread for each child lingers
    asyncio.set_child_watcher(asyncio.PidfdChildWatcher())


class Agentd:
    """One server under test. `start` with settings as environment variables, `stop` in the end."""

    def __init__(self, state_dir: Path, folder: Path, extra_path: Path, nursery: Nursery | None = None) -> None:
        """Without a `nursery` the server gets an interpreter of its own."""
        self.state_dir = state_dir
        self.folder = folder
        self.events: list[Event] = []
        self.address = ""
        self.needs_zygote = True  # a start waits for it; one that died often is begun only when it is asked for
        self.process: asyncio.subprocess.Process | Forked | None = None
        self.inherited: tuple[int, ...] = ()  # descriptors the server gets from us
        self._nursery = nursery
        self._extra_path = [extra_path]
        self._changed = asyncio.Condition()
        self._at_end = False  # the server has closed its log
        self._reader: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None
        self._planted: set[bytes] = set()

    def plant(self, secret: str) -> None:
        """Let this turn up nowhere."""
        self._planted.add(secret.encode())

    def add_path(self, folder: Path) -> None:
        """Let the server and all that it starts import from this folder before all others."""
        self._extra_path.insert(0, folder)

    def command(self, _environment: dict[str, str]) -> list[str]:
        """The command line of the server; it gets this environment if it is started by us."""
        return [sys.executable, "-m", "supervisor", "serve"]

    async def start(self, *flags: str, graphs: list[dict[str, Any]] | None = None, **settings: str | None) -> "Agentd":
        """Start and wait until it answers. `graphs` become the property file's predefined graphs.

        A setting that is None is not in the environment.
        """
        self._at_end = False
        property_file = self.folder / "property.json"
        if graphs is not None:
            property_file.write_text(json.dumps({"ten": {"predefined_graphs": graphs}}))
        named = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "TMPDIR": os.environ["TMPDIR"],
            leaks.MARK: os.environ[leaks.MARK],
            "PYTHONPATH": os.pathsep.join(map(str, self._extra_path)),
            "AGENTD_STATE_DIR": str(self.state_dir),
            "AGENTD_LISTEN": "127.0.0.1:0",
            "AGENTD_LOG_FORMAT": "json",
            **({"AGENTD_PROPERTY": str(property_file)} if property_file.exists() else {}),
            **settings,
        }
        environment = {name: value for name, value in named.items() if value is not None}
        self._planted |= secrets.planted_in(environment)
        if self._nursery is None or self.inherited or "command" in vars(self):
            self.process = await asyncio.create_subprocess_exec(
                *self.command(environment),
                *flags,
                cwd=self.folder,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
                pass_fds=self.inherited,
            )
        else:
            self.process = await self._nursery.serve(flags, environment, self.folder)
        self._reader = asyncio.create_task(self._read(self.process), name="agentd log reader")
        ready = await self.event("server.ready")
        self.address = ready["addresses"][0]
        if self.needs_zygote:
            await self.event("zygote.ready")
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE))
        return self

    async def stop(self) -> int | None:
        """SIGTERM, and its exit status; None when it was not running."""
        if self._session is not None:
            await self._session.close()
            self._session = None
        if self.process is None:
            return None
        process, self.process = self.process, None
        found = secrets.in_arguments(self.folder, self._planted)
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)  # Popen's would take the status of one that has ended
        async with asyncio.timeout(PATIENCE):
            await process.wait()
            if self._reader is not None:
                await self._reader
        found += secrets.in_files(self.state_dir, self._planted)
        if secrets.leaked(json.dumps(self.events).encode(), self._planted):
            found.append("the server's log")
        assert not found, f"a secret is in {', '.join(found)}"
        return process.returncode

    async def kill(self) -> None:
        """SIGKILL: what it had started is on its own now."""
        assert self.process is not None
        self.process.kill()
        await self.stop()

    async def event(self, name: str, where: Callable[[Event], bool] = lambda _: True, after: int = 0) -> Event:
        """The first log event of this name (at or behind index `after`) that fits, waited for."""

        def found() -> Event | None:
            return next((e for e in self.events[after:] if e.get("event") == name and where(e)), None)

        async with self._changed, asyncio.timeout(PATIENCE):
            await self._changed.wait_for(lambda: found() or self._ended())
        event = found()
        assert event is not None, f"the server ended without {name}: {self.events[-5:]}"
        return event

    async def post(self, path: str, body: Any = None, **fields: Any) -> dict[str, Any]:
        """POST a JSON body; the answer's JSON with its ``status`` added."""
        return await self.request("POST", path, json=fields if body is None else body)

    async def get(self, path: str) -> dict[str, Any]:
        """GET; the answer's JSON with its ``status`` added."""
        return await self.request("GET", path)

    async def request(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Any request whose answer is a JSON object."""
        assert self._session is not None
        async with self._session.request(method, self.address + path, **options) as response:
            answer = await response.json()
            assert not secrets.leaked(await response.read(), self._planted), path
            return {"status": response.status, **answer}

    async def begin(self, channel: str, graph: str = "echo", **fields: Any) -> dict[str, Any]:
        """POST /start, which must succeed."""
        answer = await self.post("/start", channel_name=channel, graph_name=graph, **fields)
        assert answer["code"] == "0", answer
        return answer

    async def end(self, channel: str) -> dict[str, Any]:
        """POST /stop."""
        return await self.post("/stop", channel_name=channel)

    async def channel(self, name: str) -> dict[str, Any]:
        """The native API's view of one channel."""
        return await self.get(f"/channels/{name}")

    async def gone(self, channel: str) -> Event:
        """The event of a channel's end."""
        return await self.event("channel.gone", lambda e: e["channel"] == channel)

    def _ended(self) -> bool:
        return self._reader is None or self._at_end

    async def _read(self, process: asyncio.subprocess.Process | Forked) -> None:
        assert process.stderr is not None
        while line := await process.stderr.readline():
            try:
                event = json.loads(line)
            except ValueError:
                event = {"event": "text", "text": line.decode(errors="replace")}
            async with self._changed:
                self.events.append(event)
                self._changed.notify_all()
        async with self._changed:
            self._at_end = True
            self._changed.notify_all()
