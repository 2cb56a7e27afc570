"""The spawner's client: ask it, hear of spawns and endings, replace it when it dies."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import structlog

from supervisor.processes.inherited import INHERITED_EVENTS, Inherited, ended_with_their_spawner
from supervisor.processes.launch import (
    LAUNCH_SECONDS,
    SpawnerOptions,
    SpawnerUnavailableError,
    connect,
    environment_of,
    launch,
    no_unit,
    readable,
)
from supervisor.processes.process_listener import Listener, Proof
from worker.spawn import MAX_MESSAGE, VERSION, Receipt, SpawnRequest, pack, unpack

log = structlog.get_logger("supervisor.spawner")

PREDECESSOR_SECONDS: Final = 15.0
SHUTDOWN_SECONDS: Final = 1.5
RETRY_SECONDS: Final = 1.0
FIND_SECONDS: Final = 0.1
DISCARD_SECONDS: Final = 8.0
FULL_SECONDS: Final = 0.05


class SpawnerClient:
    """One control server's connection to its spawner. `start` before use, `close` at the end."""

    def __init__(self, state_dir: Path, options: SpawnerOptions, environ: Mapping[str, str]) -> None:
        """`environ` is what the spawner's own environment is chosen from."""
        self.hello: dict[str, Any] = {}
        self._state_dir = state_dir
        self._options = options
        self._environment = environment_of(environ, state_dir)
        self._loop = asyncio.get_running_loop()
        self._peer: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1  # of a spawner that we did not start
        self._listeners: dict[str, Listener] = {}
        self._lost_listeners: list[Listener] = []
        self._unsent: list[tuple[dict[str, Any], int]] = []  # message and descriptor, while the socket is full or gone
        self._retry: asyncio.TimerHandle | None = None
        self.inherited: dict[str, Inherited] = {}
        self._greeted = asyncio.Event()
        self._listed = asyncio.Event()  # all that an earlier control server left was told
        self._ended = asyncio.Event()
        self._revival: asyncio.Task[None] | None = None
        self._closing = False
        self._events: dict[str, Callable[[dict[str, Any]], None]] = {
            "hello": self._on_hello,
            "spawned": lambda m: self._listeners[m["id"]].on_spawned(m["pid"], m["start_time"]),
            "spawn_failed": lambda m: self._listeners.pop(m["id"]).on_spawn_failed(m["error"]),
            "exit": lambda m: self._listeners[m["id"]].on_exit(m["status"], oom=m["oom"]),
            "gone": self._on_gone,
            "ending": lambda m: self._listeners[m["id"]].on_spawner_ending(),
            "unkillable": lambda m: self._listeners[m["id"]].on_unkillable(m["pids"]),
            "zygote": self._on_zygote,
            "refused": lambda m: log.error("spawner.refused", error=m["error"]),
            "bye": lambda _: self._ended.set(),
            "busy": lambda _: log.error("spawner.busy"),
        }

    @property
    def attached(self) -> bool:
        """Whether a spawner answers now."""
        return self._peer is not None and self._greeted.is_set()

    async def start(self) -> None:
        """Find the spawner of an earlier control server, with all it has, or start ours.

        Raises SpawnerUnavailableError. What there was is in `inherited`: each of it is to be adopted or discarded.
        """
        until = self._loop.time() + PREDECESSOR_SECONDS
        while not await self._find():
            try:
                if self._options.unit:
                    raise no_unit(self._state_dir)
                await self._attach()
                break
            except SpawnerUnavailableError:  # perhaps the earlier one still holds the folder, while it ends
                if self._loop.time() >= until:
                    raise
                await asyncio.sleep(FIND_SECONDS)
        self.inherited = {**await asyncio.to_thread(ended_with_their_spawner, self._state_dir), **self.inherited}

    def adopt(self, channel_id: str, listener: Listener) -> None:
        """From now on `listener` hears of a channel that an earlier control server had; what happened before, soon."""
        if channel_id not in self.inherited:  # its spawner died as well
            self._loop.call_soon(listener.on_spawner_lost)
            return
        for message in self.inherited.pop(channel_id).told:
            self._loop.call_soon(self._events[message["ev"]], message)
        self._listeners[channel_id] = listener

    async def discard(self) -> int:
        """End everything inherited that was not adopted, and wait until nothing of it is left; how many there were.

        Bounded by DISCARD_SECONDS: what outlives SIGKILL does not hold up the start.
        """
        left, self.inherited = self.inherited, {}
        proofs = {}
        for channel_id, tree in left.items():
            if tree.receipt is None:
                proofs[channel_id] = self._listeners[channel_id] = Proof(self._loop)
                self.kill(channel_id)
            else:
                self.forget(channel_id)
        if proofs:
            _, late = await asyncio.wait([proof.gone for proof in proofs.values()], timeout=DISCARD_SECONDS)
            if late:
                log.error("spawner.discard_late", channels=len(late), after_seconds=DISCARD_SECONDS)
        for channel_id in proofs:
            self.forget(channel_id)
        return len(left)

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
        """Kill the whole tree now. May be asked again: for one that is not there the answer is on_gone."""
        self._send({"op": "kill", "id": channel_id})

    def forget(self, channel_id: str) -> None:
        """The ending of this channel is on record: the spawner need not keep it any longer."""
        self._send({"op": "forget", "id": channel_id})

    async def close(self) -> None:
        """End the spawner with everything that is left, and wait until it has ended: SHUTDOWN_SECONDS at most.

        That of a unit goes on with all it has, for the control server that comes next.
        """
        self._closing = True
        if self._revival is not None:
            self._revival.cancel()
            await asyncio.wait({self._revival})
        if self._options.unit:
            self._detach()
        if self._peer is not None:
            self._send({"op": "shutdown"})
            if not await self._wait(self._ended, SHUTDOWN_SECONDS):
                log.warning("spawner.shutdown_late", seconds=SHUTDOWN_SECONDS)
            self._detach()
        await self._reap()
        self._drop_unsent()

    async def leave(self) -> None:
        """Let go of the spawner, which lives on with all it has; what it was asked for has FULL_SECONDS to be sent."""
        self._closing = True
        if self._revival is not None:
            self._revival.cancel()
            await asyncio.wait({self._revival})
        if self._unsent and self.attached:
            await asyncio.sleep(FULL_SECONDS)
        self._detach()
        self._process = None
        self._drop_unsent()

    # ------------------------------------------------------------------ the connection

    async def _find(self) -> bool:
        """Connect to a spawner that is there; False when there is none, or it ends just now."""
        try:
            self._open()
        except OSError:
            return False
        self._closing = True  # it may be about to end: that is no loss of ours
        try:
            if await self._wait(self._greeted, LAUNCH_SECONDS) and self._peer is not None:
                if (its := self.hello["version"]) != VERSION:
                    raise SpawnerUnavailableError(f"the spawner in {self._state_dir} has version {its}; we {VERSION}")
                if await self._wait(self._listed, LAUNCH_SECONDS) and self._peer is not None:
                    self._pidfd = os.pidfd_open(self.hello["pid"])  # it lives, for it is connected
                    return True
            self._detach()
            return False
        finally:
            self._closing = False
            self._ended.clear()

    async def _attach(self) -> None:
        try:
            if not self._options.unit:
                self._process = await launch(self._state_dir, self._options, self._environment)
            self._open()
        except OSError as error:
            raise SpawnerUnavailableError(f"the spawner in {self._state_dir} does not answer: {error}") from error
        greeted = await self._wait(self._greeted, LAUNCH_SECONDS)
        if not greeted or self._peer is None:
            self._detach()
            raise SpawnerUnavailableError(f"the spawner in {self._state_dir} does not greet")
        self._flush()

    def _open(self) -> None:
        peer = connect(self._state_dir)
        try:
            hello = {"version": VERSION, "orphan_grace": self._options.orphan_grace, "python": sys.executable}
            peer.send(pack({"op": "hello", **hello}))
        except OSError:
            peer.close()
            raise
        self._greeted.clear()
        self._listed.clear()
        self.inherited.clear()
        self._peer = peer
        self._loop.add_reader(peer, self._read)

    async def _wait(self, event: asyncio.Event, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
        return event.is_set()

    async def _reap(self) -> None:
        """Take the status of the spawner we started; one that does not end within SHUTDOWN_SECONDS is killed."""
        process, self._process = self._process, None
        if process is None:
            await self._see_end()
            return
        try:
            await asyncio.to_thread(process.wait, SHUTDOWN_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("spawner.killed", pid=process.pid)
            process.kill()
            await asyncio.to_thread(process.wait)

    async def _see_end(self) -> None:
        """Wait for the end of a spawner that another server started; SHUTDOWN_SECONDS at most."""
        pidfd, self._pidfd = self._pidfd, -1
        if pidfd < 0:
            return
        try:
            if not await readable(pidfd, SHUTDOWN_SECONDS):
                log.warning("spawner.end_late", pid=self.hello["pid"], seconds=SHUTDOWN_SECONDS)
        finally:
            os.close(pidfd)

    def _detach(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._peer is not None:
            self._loop.remove_reader(self._peer)
            self._loop.remove_writer(self._peer)
            self._peer.close()
            self._peer = None

    def _drop_unsent(self) -> None:
        for _, fd in self._unsent:
            if fd >= 0:
                os.close(fd)
        self._unsent.clear()

    def _lost(self) -> None:
        """The connection has ended. If we did not ask for it, the spawner died, and its workers with it."""
        self._detach()
        self._greeted.set()  # nobody need wait for a greeting that does not come
        self._ended.set()
        if self._closing:
            return
        self._drop_unsent()
        self._lost_listeners += self._listeners.values()
        self._listeners.clear()
        log.error("spawner.lost", channels=len(self._lost_listeners))
        if self._revival is None or self._revival.done():
            self._revival = self._loop.create_task(self._revive(), name="spawner revival")

    async def _revive(self) -> None:
        """Start another spawner, as often as it takes; it clears up what its predecessor left before it answers."""
        while not self.attached:
            await self._reap()
            try:
                await self._attach()
            except (SpawnerUnavailableError, OSError) as error:
                log.warning("spawner.unavailable", error=str(error))
                self._tell_lost()  # their workers died with their parent, whether or not it has a successor
                await asyncio.sleep(RETRY_SECONDS)
        self._ended.clear()
        log.info("spawner.replaced", pid=self.hello["pid"], swept=self.hello["swept"])
        self._tell_lost()

    def _tell_lost(self) -> None:
        lost, self._lost_listeners = self._lost_listeners, []
        for listener in lost:
            listener.on_spawner_lost()

    # ------------------------------------------------------------------ messages

    def _send(self, message: dict[str, Any], fd: int = -1) -> None:
        self._unsent.append((message, fd))
        if len(self._unsent) == 1:
            self._flush()

    def _flush(self) -> None:
        self._retry = None
        if not self.attached or self._peer is None:
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
            except OSError as error:  # no buffers, too many descriptors in flight: it passes
                log.warning("spawner.send_retried", error=str(error))
                self._retry = self._loop.call_later(FULL_SECONDS, self._flush)
                return
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
            except OSError:
                data = b""
            if not data:
                self._lost()
                return
            message = unpack(data)
            if (channel_id := message.get("id")) is None or channel_id in self._listeners:
                self._events[message["ev"]](message)
            elif message["ev"] in INHERITED_EVENTS:
                self._on_inherited(message)
            # else it is of a channel that was told its final word already

    def _on_hello(self, message: dict[str, Any]) -> None:
        self.hello = message
        self._greeted.set()
        if not message["trees"]:
            self._listed.set()

    def _on_inherited(self, message: dict[str, Any]) -> None:
        """What an earlier control server left, as the greeting lists it, and what happens to it until it is adopted."""
        channel_id = message["id"]
        if message["ev"] in ("live", "gone") and not self._listed.is_set():
            self.inherited[channel_id] = Inherited(message)
            if len(self.inherited) == self.hello["trees"]:
                self._listed.set()
        elif channel_id in self.inherited:
            self.inherited[channel_id].hear(message)
        elif message["ev"] == "gone":
            self.forget(channel_id)

    def _on_zygote(self, message: dict[str, Any]) -> None:
        facts = {key: message[key] for key in ("preload", "pid", "status") if key in message}
        tell = log.warning if message["state"] == "died" else log.info
        tell("zygote." + message["state"], **facts)

    def _on_gone(self, message: dict[str, Any]) -> None:
        listener = self._listeners.pop(message["id"], None)
        if listener is not None:
            listener.on_gone(Receipt.from_dict(message["receipt"]))
