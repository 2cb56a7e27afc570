"""The spawner's client: find it or start it, ask it, hear of spawns and endings, replace it when it dies."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from worker.spawn import (
    INSTANCE_VARIABLE,
    MAX_MESSAGE,
    SOCKET_NAME,
    VERSION,
    Receipt,
    SpawnRequest,
    instance_of,
    pack,
    unpack,
)

log = structlog.get_logger("supervisor.spawner")

LAUNCH_SECONDS: Final = 15.0
SHUTDOWN_SECONDS: Final = 10.0
LEFTOVER_SECONDS: Final = 15.0
RETRY_SECONDS: Final = 1.0
# What a spawner and its zygotes get of our environment: enough to find Python, its modules and the locale; no secret.
ENVIRONMENT: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "TMPDIR")


class SpawnerUnavailableError(RuntimeError):
    """No spawner answers and none could be started."""


class Listener(Protocol):
    """Who is told of one channel's process. Called on the loop, never re-entrantly from a request."""

    def on_spawned(self, pid: int, start_time: int) -> None:
        """The process exists."""

    def on_spawn_failed(self, error: str) -> None:
        """There is no process and nothing is left of the attempt. Final."""

    def on_exit(self, status: int, *, oom: bool) -> None:
        """The worker itself has ended (status as `Popen.returncode`); the rest of its tree is being killed."""

    def on_gone(self, receipt: Receipt) -> None:
        """Nothing is left. Final."""

    def on_unkillable(self, pids: list[int]) -> None:
        """These outlived SIGKILL for some seconds; on_gone follows should they end."""

    def on_spawner_lost(self) -> None:
        """The spawner died and took its workers with it; its successor has cleared up what was left. Final."""


@dataclass(frozen=True, slots=True)
class SpawnerOptions:
    """How to start a spawner: its containment wish, and seconds it and its workers outlive a control server."""

    containment: str = "auto"
    orphan_grace: float = 120.0


def connect(state_dir: Path) -> socket.socket:
    """A connection to the spawner of this state folder; raises OSError when none answers.

    The address goes through the folder's descriptor, since a socket's path may only have 107 bytes.
    """
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        fd = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            peer.connect(f"/proc/self/fd/{fd}/{SOCKET_NAME}")
        finally:
            os.close(fd)
    except OSError:
        peer.close()
        raise
    peer.setblocking(False)
    return peer


class SpawnerClient:
    """One control server's connection to its spawner. `start` before use, `close` at the end."""

    def __init__(self, state_dir: Path, options: SpawnerOptions, environ: Mapping[str, str]) -> None:
        """`environ` is what the spawner's own environment is chosen from."""
        self.hello: dict[str, Any] = {}
        self._state_dir = state_dir
        self._options = options
        self._environment = {name: environ[name] for name in ENVIRONMENT if name in environ}
        self._environment[INSTANCE_VARIABLE] = instance_of(state_dir)
        self._loop = asyncio.get_running_loop()
        self._peer: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._listeners: dict[str, Listener] = {}
        self._unsent: list[tuple[dict[str, Any], int]] = []  # message and descriptor, while the socket is full or gone
        self._greeted = asyncio.Event()
        self._bye = asyncio.Event()
        self._leftovers: set[str] = set()
        self._expected = 0
        self._settled = asyncio.Event()
        self._revival: asyncio.Task[None] | None = None
        self._closing = False
        self._events: dict[str, Callable[[dict[str, Any]], None]] = {
            "hello": self._on_hello,
            "live": self._on_live,
            "spawned": lambda m: self._listeners[m["id"]].on_spawned(m["pid"], m["start_time"]),
            "spawn_failed": self._on_spawn_failed,
            "exit": lambda m: self._listeners[m["id"]].on_exit(m["status"], oom=m["oom"]),
            "gone": self._on_gone,
            "unkillable": lambda m: self._listeners[m["id"]].on_unkillable(m["pids"]),
            "zygote": self._on_zygote,
            "refused": lambda m: log.error("spawner.refused", error=m["error"]),
            "bye": lambda m: self._bye.set(),
            "busy": lambda m: log.error("spawner.busy"),
        }

    async def start(self) -> int:
        """Find a spawner or start one, and end what an earlier control server left; how many channels that were.

        Raises SpawnerUnavailableError.
        """
        await self._attach()
        left = len(self._leftovers)
        for channel_id in list(self._leftovers):
            self.kill(channel_id)
        self._check_settled()
        try:
            async with asyncio.timeout(LEFTOVER_SECONDS):
                await self._settled.wait()
        except TimeoutError as error:
            raise SpawnerUnavailableError(
                f"channels of an earlier server do not end: {sorted(self._leftovers)}"
            ) from error
        return left

    def spawn(self, request: SpawnRequest, config: bytes | None, listener: Listener) -> None:
        """Start a worker; the outcome comes to `listener`. `config` is handed to an own worker, never to the disk.

        Raises ValueError when the request is too large for a message, OSError when no descriptor is to be had.
        """
        message = request.to_message()
        pack(message)
        fd = -1
        if config is not None:
            fd = os.memfd_create("agentd-config", os.MFD_CLOEXEC)
            try:
                view = memoryview(config)
                while view:
                    view = view[os.write(fd, view) :]
            except OSError:
                os.close(fd)
                raise
        self._listeners[request.id] = listener
        self._send(message, fd)

    def stop(self, channel_id: str, *, term_after: float, kill_after: float) -> None:
        """SIGTERM to the whole tree in `term_after` seconds, its kill in `kill_after`."""
        self._send({"op": "stop", "id": channel_id, "term_after": term_after, "kill_after": kill_after})

    def kill(self, channel_id: str) -> None:
        """Kill the whole tree now."""
        self._send({"op": "kill", "id": channel_id})

    async def close(self) -> None:
        """End the spawner with everything that is left, and wait until it has ended."""
        self._closing = True
        if self._revival is not None:
            self._revival.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._revival
        if self._peer is not None:
            self._send({"op": "shutdown"})
            try:
                async with asyncio.timeout(SHUTDOWN_SECONDS):
                    await self._bye.wait()
            except TimeoutError:
                log.warning("spawner.shutdown_late", seconds=SHUTDOWN_SECONDS)
            self._detach()
        await self._reap()
        for _, fd in self._unsent:
            if fd >= 0:
                os.close(fd)

    # ------------------------------------------------------------------ finding and starting

    async def _attach(self) -> None:
        try:
            peer = connect(self._state_dir)
        except OSError:
            await self._launch()
            try:
                peer = connect(self._state_dir)
            except OSError as error:
                raise SpawnerUnavailableError(f"the spawner in {self._state_dir} does not answer: {error}") from error
        self._peer = peer
        self._greeted.clear()
        self._settled.clear()
        self._loop.add_reader(peer, self._read)
        peer.send(pack({"op": "hello", "version": VERSION, "orphan_grace": self._options.orphan_grace}))
        try:
            async with asyncio.timeout(LAUNCH_SECONDS):
                await self._greeted.wait()
        except TimeoutError as error:
            self._detach()
            raise SpawnerUnavailableError(f"the spawner in {self._state_dir} does not greet") from error

    async def _launch(self) -> None:
        """Start a spawner, detached: it outlives us, a signal to our terminal's group does not reach it."""
        reader, writer = os.pipe()
        log_file = self._state_dir / "spawner.log"
        try:
            self._process = self._popen(log_file, writer)
        except OSError as error:
            os.close(reader)
            raise SpawnerUnavailableError(f"the spawner cannot be started: {error}") from error
        finally:
            os.close(writer)
        try:
            async with asyncio.timeout(LAUNCH_SECONDS):
                ready = await self._read_once(reader)
        except TimeoutError:
            ready = b""
        finally:
            os.close(reader)
        if not ready:
            process, self._process = self._process, None
            process.kill()
            await asyncio.to_thread(process.wait)
            text = (await asyncio.to_thread(log_file.read_text, errors="replace"))[-500:].strip()
            raise SpawnerUnavailableError(f"the spawner ended with status {process.returncode}: {text or 'no output'}")

    def _popen(self, log_file: Path, ready_fd: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "worker.spawner", "--state-dir", str(self._state_dir)]
        command += ["--containment", self._options.containment, "--orphan-grace", str(self._options.orphan_grace)]
        command += ["--ready-fd", str(ready_fd)]
        log_file.touch(0o600)
        with log_file.open("wb") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(ready_fd,),
                env=self._environment,
                start_new_session=True,
            )

    async def _read_once(self, fd: int) -> bytes:
        readable = asyncio.Event()
        self._loop.add_reader(fd, readable.set)
        try:
            await readable.wait()
        finally:
            self._loop.remove_reader(fd)
        return os.read(fd, 64)

    async def _reap(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            await asyncio.to_thread(process.wait, SHUTDOWN_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("spawner.killed", pid=process.pid)
            process.kill()
            await asyncio.to_thread(process.wait)

    def _detach(self) -> None:
        if self._peer is not None:
            self._loop.remove_reader(self._peer)
            self._loop.remove_writer(self._peer)
            self._peer.close()
            self._peer = None

    def _lost(self) -> None:
        """The spawner is gone without our asking: its workers died with it; start another and tell who must know."""
        self._detach()
        self._bye.set()
        if self._closing:
            return
        lost, self._listeners = self._listeners, {}
        for _, fd in self._unsent:
            if fd >= 0:
                os.close(fd)
        self._unsent.clear()
        log.error("spawner.lost", channels=len(lost))
        self._revival = self._loop.create_task(self._revive(list(lost.values())), name="spawner revival")

    async def _revive(self, lost: list[Listener]) -> None:
        await self._reap()
        while True:
            try:
                await self._attach()
            except SpawnerUnavailableError as error:
                log.warning("spawner.unavailable", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)
            else:
                break
        self._bye.clear()
        log.info("spawner.replaced", pid=self.hello["pid"], swept=self.hello["swept"])
        for listener in lost:
            listener.on_spawner_lost()
        self._flush()

    # ------------------------------------------------------------------ messages

    def _send(self, message: dict[str, Any], fd: int = -1) -> None:
        self._unsent.append((message, fd))
        if len(self._unsent) == 1:
            self._flush()

    def _flush(self) -> None:
        if self._peer is None or not self._greeted.is_set():
            return  # they wait for the next spawner
        while self._unsent:
            message, fd = self._unsent[0]
            try:
                if fd >= 0:
                    socket.send_fds(self._peer, [pack(message)], [fd])
                else:
                    self._peer.send(pack(message))
            except BlockingIOError:
                self._loop.add_writer(self._peer, self._flush)
                return
            except ConnectionError:
                return  # the reader sees the end
            del self._unsent[0]
            if fd >= 0:
                os.close(fd)
        self._loop.remove_writer(self._peer)

    def _read(self) -> None:
        for _ in range(64):  # bounded: a burst of endings shares the loop with requests
            if self._peer is None:
                return
            try:
                data = self._peer.recv(MAX_MESSAGE)
            except BlockingIOError:
                return
            except ConnectionError:
                data = b""
            if not data:
                self._lost()
                return
            message = unpack(data)
            if (
                message.get("id", "") in self._listeners
                or "id" not in message
                or message["ev"] in {"live", "gone", "spawn_failed"}
            ):
                self._events[message["ev"]](message)

    def _on_hello(self, message: dict[str, Any]) -> None:
        self.hello = message
        self._expected = message["trees"]
        if not self._expected:
            self._greeted.set()

    def _on_zygote(self, message: dict[str, Any]) -> None:
        facts = {key: message[key] for key in ("preload", "pid", "status") if key in message}
        (log.info if message["state"] == "ready" else log.warning)(f"zygote.{message['state']}", **facts)

    def _on_live(self, message: dict[str, Any]) -> None:
        self._leftovers.add(message["id"])
        self._count_leftover()

    def _count_leftover(self) -> None:
        if not self._greeted.is_set():
            self._expected -= 1
            if not self._expected:
                self._greeted.set()

    def _check_settled(self) -> None:
        if self._greeted.is_set() and not self._leftovers:
            self._settled.set()

    def _on_spawn_failed(self, message: dict[str, Any]) -> None:
        listener = self._listeners.pop(message["id"], None)
        if listener is not None:
            listener.on_spawn_failed(message["error"])
        else:
            self._leftovers.discard(message["id"])
            self._check_settled()

    def _on_gone(self, message: dict[str, Any]) -> None:
        channel_id = message["id"]
        self._send({"op": "forget", "id": channel_id})
        listener = self._listeners.pop(channel_id, None)
        if listener is not None:
            listener.on_gone(Receipt.from_dict(message["receipt"]))
            return
        self._leftovers.discard(channel_id)
        self._count_leftover()
        self._check_settled()
