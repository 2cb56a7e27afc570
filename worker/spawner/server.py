"""The spawner's server: requests in, workers out, endings kept until somebody took note of them. One thread."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from worker.spawn import MAX_MESSAGE, VERSION, SpawnRequest, pack, unpack
from worker.spawner import cgroup, foreign, sweep
from worker.spawner.containment import Containment
from worker.spawner.identity import boot_id, read_stat
from worker.spawner.leaves import Leaf
from worker.spawner.tree import RECHECK_SECONDS, Tree
from worker.spawner.zygotes import Fork, Zygotes

SWEPT_SECONDS: Final = 5.0
END_SECONDS: Final = 8.0


def status_of(result: os.waitid_result) -> int:
    """The end of a process as `Popen.returncode` has it: its exit status, or minus the signal's number."""
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status


class Spawner:
    """Everything the spawner owns. `run` is its life."""

    def __init__(
        self,
        listener: socket.socket,
        *,
        instance: str,
        containment: str,
        orphan_grace: float,
        environment: dict[str, str],
    ) -> None:
        """`listener` is bound and listening; `environment` is what zygotes get; `orphan_grace` in seconds."""
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._trees: dict[str, Tree] = {}
        self._by_pid: dict[int, Tree] = {}
        self._births: dict[str, int] = {}  # foreign workers between fork and exec: the pipe that tells of it
        self._control: socket.socket | None = None
        self._outbox: list[bytes] = []
        self._orphan_grace = orphan_grace
        self._orphan_timer: asyncio.TimerHandle | None = None
        self._ending = asyncio.Event()
        self._changed = asyncio.Event()  # something of ours has ended
        self._lifeline, self._lifeline_held = os.pipe()
        self._containment = Containment(instance, containment, self._leaf_changed)
        self._zygotes = Zygotes(environment, self._lifeline, self._loop, self._tell)
        self._requests: dict[str, Callable[[dict[str, Any], list[int]], None]] = {
            "hello": self._hello,
            "spawn": self._spawn,
            "stop": self._stop,
            "kill": self._kill,
            "forget": self._forget,
            "shutdown": self._shutdown,
        }
        self._swept = 0

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until told to shut down, or until no control server came for the orphan grace."""
        self._loop.add_signal_handler(signal.SIGCHLD, self._reap)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._ending.set)
        self._loop.add_reader(self._containment.watch.fileno(), self._containment.watch.dispatch)
        await self._clear_leftovers()
        self._zygotes.warm(())
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener, self._accept)
        self._orphaned()
        ready()
        await self._ending.wait()
        self._loop.remove_reader(self._listener)
        await self._end()

    async def _clear_leftovers(self) -> None:
        """An earlier spawner that was killed could not clear up: nothing of its channels may live on."""
        self._swept, folders = self._containment.sweep_leftovers()
        watch = self._containment.watch
        tokens = [watch.add(folder, self._changed.set) for folder in folders]
        await self._until(lambda: not any(cgroup.populated(folder) for folder in folders), SWEPT_SECONDS)
        for token, folder in zip(tokens, folders, strict=True):
            watch.discard(token)
            cgroup.remove(folder)

    async def _until(self, done: Callable[[], bool], seconds: float) -> None:
        """Wait for endings until `done`, at most `seconds`: what outlives SIGKILL for longer does not hold us."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not done():
                    self._changed.clear()
                    await self._changed.wait()

    async def _end(self) -> None:
        """Kill every tree and zygote, answer the endings, close."""
        for tree in list(self._trees.values()):
            tree.kill()
        await self._until(lambda: all(tree.receipt is not None for tree in self._trees.values()), END_SECONDS)
        self._zygotes.close()
        await self._until(lambda: not self._zygotes.pids(), END_SECONDS)
        await self._until(lambda: not self._kill_strays(), END_SECONDS)
        await self._until(lambda: not sweep.children(os.getpid()), END_SECONDS)  # spares end with their zygote
        self._tell({"ev": "bye"})
        if self._orphan_timer is not None:
            self._orphan_timer.cancel()
        if self._control is not None:
            self._loop.remove_reader(self._control)
            self._loop.remove_writer(self._control)
            self._control.close()
        self._loop.remove_reader(self._containment.watch.fileno())
        self._containment.close()
        os.close(self._lifeline)
        os.close(self._lifeline_held)

    # ------------------------------------------------------------------ control server

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            peer, _ = self._listener.accept()
            if self._control is not None:
                # One policy at a time: the state folder's lock keeps a second control server out before it gets here.
                peer.send(pack({"ev": "busy"}))
                peer.close()
                return
            peer.setblocking(False)
            self._control = peer
            self._outbox.clear()
            self._loop.add_reader(peer, self._read)

    def _read(self) -> None:
        control = self._control
        if control is None:
            return
        for _ in range(32):  # bounded, so that exits are reaped while a flood of requests comes in
            try:
                data, fds, _, _ = socket.recv_fds(control, MAX_MESSAGE, 4)
            except BlockingIOError:
                return
            except ConnectionError:
                data, fds = b"", []
            if not data:
                self._lost()
                return
            try:
                message = unpack(data)
                self._requests[message["op"]](message, fds)
            except (KeyError, TypeError, ValueError) as error:
                for fd in fds:
                    os.close(fd)
                self._tell({"ev": "refused", "error": f"{type(error).__name__}: {error}"})

    def _lost(self) -> None:
        if self._control is not None:
            self._loop.remove_reader(self._control)
            self._loop.remove_writer(self._control)
            self._control.close()
            self._control = None
            self._outbox.clear()
        self._orphaned()

    def _orphaned(self) -> None:
        if self._orphan_timer is None:
            self._orphan_timer = self._loop.call_later(self._orphan_grace, self._ending.set)

    def _tell(self, message: dict[str, Any]) -> None:
        if self._control is None:
            return  # endings are kept in their trees, all else is only news
        self._outbox.append(pack(message))
        if len(self._outbox) == 1:
            self._flush()

    def _flush(self) -> None:
        control = self._control
        if control is None:
            return
        while self._outbox:
            try:
                control.send(self._outbox[0])
            except BlockingIOError:
                self._loop.add_writer(control, self._flush)
                return
            except ConnectionError:
                self._outbox.clear()
                return  # the reader sees the end and calls _lost
            del self._outbox[0]
        self._loop.remove_writer(control)

    # ------------------------------------------------------------------ requests

    def _hello(self, message: dict[str, Any], _fds: list[int]) -> None:
        self._orphan_grace = float(message.get("orphan_grace", self._orphan_grace))
        if self._orphan_timer is not None:
            self._orphan_timer.cancel()
            self._orphan_timer = None
        self._tell(
            {
                "ev": "hello",
                "version": VERSION,
                "pid": os.getpid(),
                "boot_id": boot_id(),
                "containment": self._containment.level,
                "controllers": self._containment.controllers,
                "notes": self._containment.notes,
                "swept": self._swept,
                "trees": len(self._trees),
            }
        )
        for tree in self._trees.values():
            self._tell({"ev": "live", **tree.facts()} if tree.receipt is None else tree.gone_message())
        self._zygotes.tell_ready()

    def _spawn(self, message: dict[str, Any], fds: list[int]) -> None:
        request = SpawnRequest.from_message(message)
        if request.id in self._trees:
            raise ValueError(f"channel id {request.id} is in use")
        if request.command is None and not fds:
            raise ValueError(f"no configuration came with channel id {request.id}")
        try:
            leaf = self._containment.create(request.id, request.limits)
        except OSError as error:
            for fd in fds:
                os.close(fd)
            self._tell({"ev": "spawn_failed", "id": request.id, "error": f"no container: {error}"})
            return
        tree = self._trees[request.id] = Tree(request.id, leaf, self._tell, self._gone, self._loop)
        if request.command is None:
            self._fork(tree, request, leaf, fds[0])
        else:
            self._exec(tree, request, leaf)

    def _fork(self, tree: Tree, request: SpawnRequest, leaf: Leaf, config: int) -> None:
        self._zygotes.fork(
            Fork(
                request=request,
                config=config,
                cgroup=leaf.fd(),
                procs_files=leaf.procs_files(),
                limit_memory=not self._containment.limits_memory(),
                began=lambda pid, start_time: self._began(tree, pid, start_time),
                failed=lambda error: self._spawn_failed(tree, error),
            )
        )

    def _exec(self, tree: Tree, request: SpawnRequest, leaf: Leaf) -> None:
        try:
            pid, errors = foreign.fork(request, leaf, limit_memory=not self._containment.limits_memory())
        except OSError as error:
            self._spawn_failed(tree, f"fork: {error.strerror}")
            return
        tree.began(pid)
        self._by_pid[pid] = tree
        self._births[tree.id] = errors
        self._loop.add_reader(errors, self._born, tree)

    def _born(self, tree: Tree) -> None:
        """The pipe of a foreign worker's birth: an error, or its end because exec closed it."""
        errors = self._births.pop(tree.id)
        tree.error = os.read(errors, 4096).decode(errors="replace")
        self._loop.remove_reader(errors)
        os.close(errors)
        if not tree.error:
            self._tell({"ev": "spawned", **tree.facts()})

    def _began(self, tree: Tree, pid: int, start_time: int) -> None:
        stat = read_stat(pid)
        if stat is None or stat.start_time != start_time or stat.parent != os.getpid():
            # A spare that ended unseen before it was told: whoever bears its number now is a stranger.
            self._spawn_failed(tree, "the worker ended before it was one")
            return
        tree.began(pid)
        self._by_pid[pid] = tree
        self._tell({"ev": "spawned", **tree.facts()})
        self._reap()  # it may have ended already, its status was left for us

    def _spawn_failed(self, tree: Tree, error: str) -> None:
        """There was no worker, or none we know of: what may be in the leaf goes, and the tree with it."""
        if tree.leaf.members():
            tree.fail(error)  # comes back here once they are gone
            return
        tree.abandon()
        del self._trees[tree.id]
        self._containment.discard(tree.id)
        self._tell({"ev": "spawn_failed", "id": tree.id, "error": error})
        self._loop.call_soon(self._reap)  # what was left alone while this fork was under way

    def _stop(self, message: dict[str, Any], _fds: list[int]) -> None:
        tree = self._trees.get(message["id"])
        if tree is not None:
            tree.stop(float(message["term_after"]), float(message["kill_after"]))

    def _kill(self, message: dict[str, Any], _fds: list[int]) -> None:
        tree = self._trees.get(message["id"])
        if tree is not None:
            tree.kill()

    def _forget(self, message: dict[str, Any], _fds: list[int]) -> None:
        tree = self._trees.get(message["id"])
        if tree is not None and tree.receipt is not None:
            del self._trees[tree.id]

    def _shutdown(self, _message: dict[str, Any], _fds: list[int]) -> None:
        self._ending.set()

    # ------------------------------------------------------------------ endings

    def _leaf_changed(self, channel: str) -> None:
        tree = self._trees.get(channel)
        if tree is not None:
            tree.check()

    def _gone(self, tree: Tree) -> None:
        if self._kill_strays():
            # What bears no mark may be of this tree: that nothing is left is said when they have gone too.
            self._loop.call_later(RECHECK_SECONDS, self._gone, tree)
            return
        self._changed.set()
        if tree.error:
            self._spawn_failed(tree, tree.error)
            return
        self._containment.discard(tree.id)
        self._tell(tree.gone_message())

    def _reap(self) -> None:
        """Take the status of every child that has ended: workers, zygotes, and orphans that came to us."""
        # Zygotes first: while one is forking a stranger's status is left alone, and a dead one forks no more.
        for pid, zygote in list(self._zygotes.pids().items()):
            result = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
            if result is not None:
                self._zygotes.died(zygote, status_of(result))
                self._changed.set()
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            pid = found.si_pid
            tree = self._by_pid.get(pid)
            if pid in self._zygotes.pids() or (tree is None and self._zygotes.forking()):
                return  # perhaps a worker whose zygote has not told us its number yet: its status must not be lost
            result = os.waitid(os.P_PID, pid, os.WEXITED)
            status = 0 if result is None else status_of(result)
            self._changed.set()
            if tree is not None:
                del self._by_pid[pid]
                if tree.id in self._births:
                    self._born(tree)
                tree.exited(status)

    def _kill_strays(self) -> bool:
        """In sweep containment an orphan that bears no mark of a live channel belongs to none, and goes.

        Whether there may be one still.
        """
        if self._containment.level != "sweep":
            return False

        def strays() -> list[int]:
            known = {*self._by_pid, *self._zygotes.pids(), *self._zygotes.spares()}
            unknown = [pid for pid in sweep.children(os.getpid()) if pid not in known and sweep.is_orphan(pid)]
            if unknown:
                live = (tree for tree in self._trees.values() if tree.receipt is None)
                known.update(pid for tree in live for pid in tree.leaf.members())
            return [pid for pid in unknown if pid not in known]

        if not strays():
            return False
        if not self._zygotes.forking():  # else it may be a worker whose number we have not been told yet
            sweep.kill_members(strays)
        return True


def listen(folder: Path, name: str) -> socket.socket:
    """A listening socket in `folder`, bound through the folder's descriptor: a socket's path has at most 107 bytes."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        (folder / name).unlink(missing_ok=True)
        listener.bind(f"/proc/self/fd/{fd}/{name}")
    finally:
        os.close(fd)
    listener.listen(8)
    return listener
