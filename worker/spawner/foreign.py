"""Foreign workers: any command line, exec'd with the same containment as our own."""

import os
import signal
from typing import NoReturn

from worker.spawn import SpawnRequest
from worker.spawner.leaves import Leaf
from worker.spawner.linux import CloneUnavailableError, clone
from worker.spawner.setup import become_worker


def fork(request: SpawnRequest, leaf: Leaf, *, limit_memory: bool) -> tuple[int, int]:
    """Start the command; its pid and a pipe that carries an error text, or just ends once exec has succeeded.

    Raises OSError when the fork fails.
    """
    reader, writer = os.pipe()
    parent = os.getpid()
    cgroup = leaf.fd()
    # A SIGTERM that reached the child before it is itself would be taken by our handlers, and wake up our event loop.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        try:
            pid = clone(cgroup)
        except CloneUnavailableError:
            pid = os.fork()
    except OSError:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(reader)
        os.close(writer)
        raise
    finally:
        if cgroup >= 0 and os.getpid() == parent:
            os.close(cgroup)
    if pid == 0:
        _exec(request, leaf, parent, writer, limit_memory=limit_memory)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.close(writer)
    os.set_blocking(reader, False)
    return pid, reader


def _exec(request: SpawnRequest, leaf: Leaf, parent: int, writer: int, *, limit_memory: bool) -> NoReturn:
    """In the child: never returns."""
    command = request.command or ("",)
    step = "the worker's own set-up"
    try:
        # The event loop's wake-up descriptor is the spawner's; a signal in this child must not write to it.
        signal.set_wakeup_fd(-1)
        become_worker(
            request.folder,
            request.limits,
            parent=parent,
            cgroups=leaf.procs_files(),
            limit_memory=limit_memory,
            keep=(writer,),
        )
        if request.cwd is not None:
            step = f"folder {request.cwd!r}"
            os.chdir(request.cwd)
        step = f"command {command[0]!r}"
        os.execvpe(command[0], list(command), request.environment)  # noqa: S606 - no shell, on purpose
    except BaseException as error:  # noqa: BLE001 - the spawner tells it; nothing may unwind into its loop here
        reason = (error.strerror if isinstance(error, OSError) else None) or repr(error)
        os.write(writer, f"{step}: {reason}".encode()[:4096])
    finally:
        os._exit(127)
