"""A zygote: an interpreter that has imported and preloaded everything once and forks workers on demand.

One thread, no event loop. The spawner asks over a SOCK_SEQPACKET socket; the children are the spawner's, not ours, so a
zygote may die without harm to them (`worker.spawner.zygotes` is the other side).
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from worker import main as worker_main
from worker.spawn import CHANNEL_VARIABLE, MAX_MESSAGE, Isolation, Limits, pack, unpack
from worker.spawner.identity import read_stat
from worker.spawner.isolation import Ground
from worker.spawner.landlock import Ruleset
from worker.spawner.linux import CloneUnavailableError, clone
from worker.spawner.places import places
from worker.spawner.setup import become_worker

SETUP_FAILED: Final = 126
MARK_WIDTH: Final = 64
_libc: Final = ctypes.CDLL(None)
BREED_AFTER_MS: Final = 3  # of quiet: the worker that was just forked needs the processor more


def preload(references: Sequence[str]) -> None:
    """Call each ``module:function`` once; raises what it raises, with the reference in the message."""
    for reference in references:
        module, _, function = reference.partition(":")
        try:
            getattr(importlib.import_module(module), function)()
        except Exception as error:
            raise RuntimeError(f"preload {reference}: {error!r}") from error


class Mark:
    """The channel id in a forked worker's /proc/PID/environ, which otherwise would show the zygote's.

    The kernel shows the memory the program was started with; the spawner starts us with a wide enough blank there.
    It lets the spawner tell whose orphan a process is (`worker.spawner.sweep`), and a person whose process.
    """

    def __init__(self) -> None:
        self._address = 0
        environ = ctypes.POINTER(ctypes.c_void_p).in_dll(ctypes.CDLL(None), "environ")
        prefix = CHANNEL_VARIABLE.encode() + b"="
        for index in range(1_000_000):
            address = environ[index]
            if address is None:
                return
            if ctypes.string_at(address, len(prefix)) == prefix:
                self._address = address + len(prefix)
                return

    def write(self, channel: str) -> None:
        """Put the id over the blank; too long a one is cut."""
        if self._address:
            text = channel.encode()[:MARK_WIDTH].ljust(MARK_WIDTH)
            ctypes.memmove(self._address, text, MARK_WIDTH)


@dataclass(frozen=True, slots=True)
class Spare:
    """A child forked ahead of time: it has rehearsed, and waits on the other end of `channel` for its request."""

    pid: int
    start_time: int
    channel: socket.socket


class Zygote:
    """The loop of one zygote.

    While nothing is asked it keeps one spare, so that the next worker need not wait for its fork and for the pages
    that the kernel copies when a forked interpreter runs. Requests that come faster are forked directly.
    """

    def __init__(self, channel: socket.socket, lifeline: int) -> None:
        self._channel = channel
        self._lifeline = lifeline
        self._spawner = os.getppid()
        self._mark = Mark()
        self._ground = Ground(places())
        self._spare: Spare | None = None
        self._poll = select.poll()
        self._poll.register(channel, select.POLLIN)

    def serve(self) -> None:
        """Fork a worker for each request, until the spawner is gone."""
        self._channel.send(pack({"ready": True}))
        while True:
            if self._spare is None and not self._poll.poll(BREED_AFTER_MS):
                self._breed()
            data, fds, _, _ = socket.recv_fds(self._channel, MAX_MESSAGE, 2)
            if not data:
                return
            message = unpack(data)
            try:
                self._channel.send(pack(self._hatch(data, fds) or self._fork(message, fds)))
                self._ground.expect(Isolation.from_dict(message.get("isolation") or {}))
            finally:
                for fd in fds:
                    os.close(fd)

    def _breed(self) -> None:
        """Fork a spare and tell the spawner, whose child it is. Without one all goes on as well."""
        if _threads() != 1:
            return  # the next request is refused for it
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            pid = self._clone(-1)
        except OSError:
            ours.close()
            theirs.close()
            return
        if pid == 0:
            ours.close()
            self._wait(theirs)
        theirs.close()
        self._spare = Spare(pid, _start_time(pid), ours)
        self._channel.send(pack({"spare": pid, "start_time": self._spare.start_time}))

    def _wait(self, channel: socket.socket) -> NoReturn:
        """In the spare: rehearse, then become what is asked for; end when the zygote ends first."""
        try:
            self._channel.close()
            worker_main.rehearse()
            prepared = self._ground.prepare()
            gc.collect()  # what the rehearsal left; else it would be looked at while somebody waits
            gc.freeze()
            with contextlib.suppress(AttributeError):  # a C library without it keeps the few pages it would give back
                _libc.malloc_trim(0)
            data, fds, _, _ = socket.recv_fds(channel, MAX_MESSAGE, 2)
            if data:
                self._become(unpack(data), fds[0], prepared)
        except BaseException:  # noqa: BLE001 - nothing may unwind into the zygote's loop in a forked child
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(0)

    def _hatch(self, data: bytes, fds: list[int]) -> dict[str, Any] | None:
        """Give a request to the spare; None when there is none, or it has died."""
        spare, self._spare = self._spare, None
        if spare is None:
            return None
        with spare.channel:
            try:
                socket.send_fds(spare.channel, [data], fds)
            except OSError:
                return None
        return {"id": unpack(data)["id"], "pid": spare.pid, "start_time": spare.start_time}

    def _fork(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        if (threads := _threads()) != 1:
            return {
                "id": message["id"],
                "error": f"a preload left {threads - 1} threads running in the zygote; it must start none",
            }
        cgroup = fds[1] if message["cgroup"] else -1
        try:
            pid = self._clone(cgroup)
        except OSError as error:
            return {"id": message["id"], "error": f"fork: {error.strerror or error}"}
        if pid == 0:
            self._become(message, fds[0])
        return {"id": message["id"], "pid": pid, "start_time": _start_time(pid)}

    def _clone(self, cgroup: int) -> int:
        try:
            return clone(cgroup, as_sibling=True)
        except CloneUnavailableError:
            return self._fork_twice()

    def _fork_twice(self) -> int:
        """Without clone3: a child whose parent ends at once is handed to the spawner, our subreaper."""
        reader, writer = os.pipe()
        middle = os.fork()
        if middle == 0:
            pid = os.fork()
            if pid == 0:
                os.close(writer)
                os.close(reader)
                while os.getppid() != self._spawner:  # until the one in the middle has ended, which it does at once
                    os.sched_yield()
                return 0
            os.write(writer, pid.to_bytes(4, "little"))
            os._exit(0)
        os.close(writer)
        try:
            number = os.read(reader, 4)
        finally:
            os.close(reader)
            os.waitpid(middle, 0)
        if len(number) != 4:
            raise OSError(11, "the second fork failed")
        return int.from_bytes(number, "little")

    def _become(self, message: dict[str, Any], config: int, prepared: Ruleset | None = None) -> NoReturn:
        """In the child: never returns."""
        status = SETUP_FAILED
        try:
            self._mark.write(message["id"])
            with os.fdopen(config, "rb") as file:
                file.seek(0)
                document = json.load(file)
            isolation = Isolation.from_dict(message.get("isolation") or {})
            become_worker(
                message["folder"],
                Limits.from_dict(message["limits"]),
                parent=self._spawner,
                cgroups=message["procs_files"],
                limit_memory=message["limit_memory"],
                keep=(self._lifeline, *(() if prepared is None else (prepared.fd,))),
                confine=lambda: self._ground.confine(isolation, message["folder"], prepared),
            )
            # What the interpreter itself would have set up had this process been started anew.
            signal.signal(signal.SIGPIPE, signal.SIG_IGN)
            os.environ.clear()
            os.environ.update(message["environment"])
            tempfile.tempdir = None  # the zygote's is not the worker's
            gc.enable()
            document["lifeline"] = self._lifeline
            status = worker_main.run(document)
            sys.stdout.flush()
        except BaseException:  # noqa: BLE001 - nothing may unwind into the zygote's loop in a forked child
            sys.excepthook(*sys.exc_info())
            status = status or 1
        finally:
            sys.stderr.flush()
            os._exit(status)


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def _start_time(pid: int) -> int:
    stat = read_stat(pid)
    return 0 if stat is None else stat.start_time


def main(arguments: Sequence[str]) -> int:
    """``python -m worker.zygote SOCKET_FD LIFELINE_FD [PRELOAD...]``, started by the spawner only."""
    gc.disable()  # from the first line: a collection would only leave holes in pages that are to be shared
    channel = socket.socket(fileno=int(arguments[0]))
    lifeline = int(arguments[1])
    os.set_inheritable(channel.fileno(), False)
    os.set_inheritable(lifeline, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        worker_main.preload()
        preload(arguments[2:])
    except RuntimeError as error:
        channel.send(pack({"broken": str(error)}))
        return 1
    # Frozen objects are never looked at by the collector again, so that their pages stay shared with all workers.
    gc.freeze()
    Zygote(channel, lifeline).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
