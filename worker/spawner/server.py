"""The spawner's server: requests in, workers out, endings kept until somebody took note of them. One thread."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from worker.spawn import NAMESPACED, VERSION, Receipt, SpawnRequest, instance_of
from worker.spawner import cgroup, endings, foreign, sweep
from worker.spawner.containment import Containment
from worker.spawner.identity import boot_id, open_if, read_stat
from worker.spawner.isolation import Abilities, Ground
from worker.spawner.leaves import Leaf
from worker.spawner.peer import FAULTS, Peer
from worker.spawner.places import places
from worker.spawner.tree import Tree
from worker.spawner.zygotes import Fork, Zygotes

SWEPT_SECONDS: Final = 5.0
END_SECONDS: Final = 8.0
GRACE_SECONDS: Final = 2.0  # for workers, when the spawner ends by itself
NEWBORN_SECONDS: Final = 0.2  # what a newborn needs to become a worker, many times over


def status_of(result: os.waitid_result) -> int:
    """The end of a process as `Popen.returncode` has it: its exit status, or minus the signal's number."""
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status


class Spawner:
    """Everything the spawner owns. `run` is its life."""

    def __init__(
        self,
        listener: socket.socket,
        *,
        state_dir: Path,
        containment: str,
        orphan_grace: float,
        environment: dict[str, str],
        abilities: Abilities,
        standby: int = 0,
    ) -> None:
        """`listener` is bound and listening; `environment` is what zygotes get; `orphan_grace` in seconds."""
        self._abilities = abilities
        self._ground = Ground(places())
        self._loop = asyncio.get_running_loop()
        self._trees: dict[str, Tree] = {}
        self._by_pid: dict[int, Tree] = {}
        self._births: dict[str, int] = {}  # foreign workers between fork and exec: the pipe that tells of it
        self._peer = Peer(listener, self._loop, self._request, self._orphaned)
        self._tell = self._peer.tell
        self._orphan_grace = orphan_grace
        self._orphan_timer: asyncio.TimerHandle | None = None
        self._ending = asyncio.Event()
        self._changed = asyncio.Event()  # something of ours has ended
        self._lifeline, self._lifeline_held = os.pipe()
        self._state_dir = state_dir
        self._own_end = ""  # why it ends by itself
        self._containment = Containment(instance_of(state_dir), containment, self._leaf_changed, standby)
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
        self._loop.call_soon(
            self._reap
        )  # what came to us before: bubblewrap, when it is tried, leaves its first process
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._finish, "server_stopped")
        self._loop.add_reader(self._containment.watch.fileno(), self._containment.watch.dispatch)
        await self._clear_leftovers()
        self._zygotes.warm(())
        self._peer.open()
        self._orphaned()
        ready()
        await self._ending.wait()
        self._peer.stop_listening()
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
        """End every tree and zygote, answer the endings, close."""
        if self._own_end:
            for tree in self._trees.values():
                self._tell({"ev": "ending", "id": tree.id})  # first, so that its exit is no crash
                self._stop({"id": tree.id, "term_after": 0.0, "kill_after": GRACE_SECONDS}, [])
            lives = self._trees.values
            await self._until(lambda: all(tree.receipt is not None for tree in lives()), GRACE_SECONDS)
        self._zygotes.close()  # before the kill, so that no start can hang on one
        for tree in list(self._trees.values()):
            self._loop.call_soon(self._kill_tree, tree)
        await self._until(lambda: all(tree.receipt is not None for tree in self._trees.values()), END_SECONDS)
        await self._until(lambda: not self._zygotes.pids(), END_SECONDS)
        await self._until(lambda: self._end_strays() == [], END_SECONDS)
        await self._until(lambda: not sweep.children(os.getpid()), END_SECONDS)  # spares end with their zygote
        if self._own_end:
            ended = ((tree.id, tree.receipt) for tree in self._trees.values() if tree.receipt is not None)
            endings.keep(self._state_dir, ended, self._own_end)
        for tree in self._trees.values():
            tree.let_go()
        self._tell({"ev": "bye"})
        if self._orphan_timer is not None:
            self._orphan_timer.cancel()
        self._peer.close()
        self._loop.remove_reader(self._containment.watch.fileno())
        self._containment.close()
        os.close(self._lifeline)
        os.close(self._lifeline_held)

    def _orphaned(self) -> None:
        if self._orphan_timer is None:
            self._orphan_timer = self._loop.call_later(self._orphan_grace, self._finish, "server_lost")

    def _finish(self, cause: str) -> None:
        """End without having been told to by the control server: workers get a grace, their endings are kept."""
        if not self._ending.is_set():
            self._own_end = cause
            self._ending.set()

    # ------------------------------------------------------------------ requests

    def _request(self, message: dict[str, Any], fds: list[int], lost: bool) -> None:
        if lost:
            message = {**message, "lost": True}
        self._requests[message["op"]](message, fds)

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
                "isolation": {"levels": self._abilities.levels(), "notes": self._abilities.notes()},
                "swept": self._swept,
                "trees": len(self._trees),
            }
        )
        for tree in self._trees.values():
            self._tell({"ev": "live", **tree.facts()} if tree.receipt is None else tree.gone_message())
        self._zygotes.tell_ready()
        self._zygotes.follow(message.get("python", sys.executable))

    def _spawn(self, message: dict[str, Any], fds: list[int]) -> None:
        channel = str(message["id"])
        if channel in self._trees:
            raise ValueError(f"channel id {channel} is in use")
        try:
            if self._ending.is_set():
                raise ValueError("the spawner is ending")
            request = SpawnRequest.from_message({**message, "id": channel})
            if request.command is None and not fds:
                why = "the spawner has no descriptor free" if message.get("lost") else "none came with the request"
                raise ValueError(f"no configuration: {why}")
            self._start(request, fds)
        except FAULTS as error:
            text = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
            tree = self._trees.get(channel)
            if tree is None:
                self._tell({"ev": "spawn_failed", "id": channel, "error": text})
            else:
                self._drop(tree, text)

    def _start(self, request: SpawnRequest, fds: list[int]) -> None:
        level = request.isolation.level
        if refused := self._abilities.refusal(level):
            raise ValueError(refused)
        try:
            leaf = self._containment.create(request.id, request.limits)
        except OSError as error:
            raise ValueError(f"no container: {error}") from error
        tree = Tree(request.id, leaf, self._tell, self._end_strays, self._gone, self._loop)
        tree.hold(request.folder)
        self._trees[request.id] = tree
        if request.command is not None:
            self._exec(tree, request, leaf)
        elif level == NAMESPACED:
            keep = (fds[0], self._lifeline)
            self._exec(tree, foreign.own_command(request, *keep), leaf, keep)
        else:
            self._fork(tree, request, leaf, fds)

    def _fork(self, tree: Tree, request: SpawnRequest, leaf: Leaf, fds: list[int]) -> None:
        cgroup_fd = leaf.fd()
        self._zygotes.fork(
            Fork(
                request=request,
                config=fds.pop(0),
                cgroup=cgroup_fd,
                procs_files=leaf.procs_files(),
                limit_memory=not self._containment.limits_memory(),
                began=lambda pid, start_time: self._began(tree, pid, start_time),
                failed=lambda error: self._drop(tree, error),
                lost=lambda error: self._spawn_failed(tree, error),
            )
        )

    def _exec(self, tree: Tree, request: SpawnRequest, leaf: Leaf, keep: tuple[int, ...] = ()) -> None:
        limit_memory = not self._containment.limits_memory()
        try:
            birth = foreign.fork(request, leaf, self._ground, limit_memory=limit_memory, keep=keep)
        except OSError as error:
            self._drop(tree, f"fork: {error.strerror}")
            return
        tree.began(birth.pid, birth.pidfd, birth.start_time)
        self._by_pid[birth.pid] = tree
        self._births[tree.id] = birth.errors
        self._loop.add_reader(birth.errors, self._born, tree)

    def _born(self, tree: Tree) -> None:
        """The pipe of a foreign worker's birth: an error, or its end because exec closed it."""
        errors = self._births.pop(tree.id)
        with contextlib.suppress(BlockingIOError):  # it has ended, but one forked meanwhile still holds the other end
            tree.error = os.read(errors, 4096).decode(errors="replace")
        self._loop.remove_reader(errors)
        os.close(errors)
        if not tree.error:
            self._tell({"ev": "spawned", **tree.facts()})

    def _began(self, tree: Tree, pid: int, start_time: int) -> None:
        try:
            stat = read_stat(pid)
            ours = stat is not None and stat.parent == os.getpid()
            pidfd = open_if(pid, start_time) if ours else None
        except OSError as error:
            tree.leaf.began(pid)  # it is a child of ours, by its zygote's word: it goes with the leaf
            self._spawn_failed(tree, f"no descriptor for the worker: {error.strerror}")
            return
        if pidfd is None:
            # A spare that ended unseen before it was told: whoever bears its number now is a stranger.
            self._spawn_failed(tree, "the worker ended before it was one")
            return
        tree.began(pid, pidfd, start_time)
        self._by_pid[pid] = tree
        self._tell({"ev": "spawned", **tree.facts()})
        self._reap()  # it may have ended already, its status was left for us

    def _spawn_failed(self, tree: Tree, error: str) -> None:
        """There is a process that we cannot name, or was one: what is in the leaf goes, and the tree with it."""
        try:
            left = bool(tree.leaf.members())
        except OSError:
            left = True  # no descriptor to look with: the kill looks again
        if left:
            tree.fail(error)  # `_gone` is called once they are
        else:
            self._drop(tree, error)

    def _drop(self, tree: Tree, error: str) -> None:
        """There is no process of this tree."""
        self._changed.set()
        tree.abandon()
        tree.let_go()
        del self._trees[tree.id]
        self._containment.discard(tree.id)
        self._tell({"ev": "spawn_failed", "id": tree.id, "error": error})
        self._loop.call_soon(self._reap)  # what was left alone while this fork was under way

    def _stop(self, message: dict[str, Any], _fds: list[int]) -> None:
        term_after, kill_after = float(message["term_after"]), float(message["kill_after"])
        tree = self._trees.get(message["id"])
        if tree is None:
            self._tell_unknown(message["id"])
        elif not self._zygotes.drop(tree.id):
            tree.stop(term_after, kill_after)

    def _kill(self, message: dict[str, Any], _fds: list[int]) -> None:
        tree = self._trees.get(message["id"])
        if tree is None:
            self._tell_unknown(message["id"])
        else:
            self._kill_tree(tree)

    def _kill_tree(self, tree: Tree) -> None:
        if not self._zygotes.drop(tree.id):  # else there is no process yet
            tree.kill()

    def _tell_unknown(self, channel: str) -> None:
        """There is nothing of this id, so its end can be told: whoever asked waits for it."""
        by = "sweep" if self._containment.level == "sweep" else "cgroup"
        receipt = Receipt(processes=0, killed=0, left=0, seconds=0.0, by=by)
        self._tell({"ev": "gone", "id": channel, "receipt": asdict(receipt)})

    def _forget(self, message: dict[str, Any], _fds: list[int]) -> None:
        tree = self._trees.get(message["id"])
        if tree is not None and tree.receipt is not None:
            tree.let_go()
            del self._trees[tree.id]

    def _shutdown(self, _message: dict[str, Any], _fds: list[int]) -> None:
        self._ending.set()

    # ------------------------------------------------------------------ endings

    def _leaf_changed(self, channel: str) -> None:
        tree = self._trees.get(channel)
        if tree is not None:
            tree.check()

    def _gone(self, tree: Tree) -> None:
        if tree.error:
            self._drop(tree, tree.error)
            return
        self._changed.set()
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
                # What it forked and could not tell of belongs to no channel once it is a worker.
                self._loop.call_later(NEWBORN_SECONDS, self._end_strays)
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

    def _strays(self) -> list[int]:
        """What comes from a worker and is in no live channel's container, and all below it.

        In sweep containment these are orphans that bear no mark, with cgroups those that were moved out of theirs.
        """
        orphans = sweep.orphans({*self._by_pid, *self._zygotes.pids(), *self._zygotes.spares()})
        if not orphans:
            return []
        held = {pid for tree in self._trees.values() if tree.receipt is None for pid in tree.leaf.members()}
        return [pid for pid in sweep.below(set(orphans) - held) if pid not in held]

    def _end_strays(self) -> list[int] | None:
        """Kill the strays; who they were, None when one may have been missed.

        None may be left when a channel is said to be gone: they may be of it.
        """
        strays = sweep.whole(self._strays)
        # Without cgroups a fork under way may be a worker whose number we have not been told yet.
        if strays and not (self._containment.level == "sweep" and self._zygotes.forking()):
            sweep.kill_members(self._strays)
        return strays
