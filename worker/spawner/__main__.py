"""``agentd-spawner``, or ``python -m worker.spawner``: started by `agentd serve`, or by a service manager."""

import argparse
import asyncio
import contextlib
import fcntl
import os
import shutil
import stat
import sys
from pathlib import Path
from typing import Final

from worker.spawn import CHANNEL_VARIABLE, INSTANCE_VARIABLE, SOCKET_NAME, SPAWNER_ENVIRONMENT, instance_of
from worker.spawner.bwrap import trouble
from worker.spawner.isolation import abilities
from worker.spawner.linux import PR_SET_CHILD_SUBREAPER, PR_SET_DUMPABLE, prctl
from worker.spawner.notify import Notifier
from worker.spawner.peer import listen
from worker.spawner.server import Spawner

MARK_WIDTH: Final = 64
TEMPORARY_NAMES: Final = ("zygote-tmp", "zygote-tmp-2")
LOG_CHECK_SECONDS: Final = 5.0
MOST_LOG_BYTES: Final = 1024 * 1024
KEPT_LOG_BYTES: Final = 64 * 1024


def temporary_folder(state_dir: Path) -> Path | None:
    """The folder for the zygotes' temporary files, empty, with another name where its place is taken; None without one.

    Only what lies in a folder of ours is removed when a zygote or a spare was killed: no other may be used while it can
    be helped.
    """
    for name in TEMPORARY_NAMES:
        folder = state_dir / name
        with contextlib.suppress(OSError):
            if stat.S_ISDIR(folder.lstat().st_mode):
                folder.chmod(0o700)
                shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, exist_ok=True)
            if not folder.is_symlink() and os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                return folder
    return None


def shorten(fd: int) -> None:
    """Cut a log file that has grown too long down to its last lines, in place: all who write to it share its offset."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_size <= MOST_LOG_BYTES:
        return
    with open(f"/proc/self/fd/{fd}", "rb") as file:
        file.seek(-KEPT_LOG_BYTES, os.SEEK_END)
        _, _, kept = file.read().partition(b"\n")
    os.ftruncate(fd, 0)
    os.lseek(fd, 0, os.SEEK_SET)
    os.write(fd, kept)


def _watch_log(loop: asyncio.AbstractEventLoop) -> None:
    loop.call_later(LOG_CHECK_SECONDS, _watch_log, loop)
    with contextlib.suppress(OSError):  # there is none, or no descriptor is free to read it with
        shorten(2)


def environment_of_zygotes(state_dir: Path) -> dict[str, str]:
    """All that zygotes get of our environment. A service manager gives us more than `agentd serve` does."""
    chosen = {name: os.environ[name] for name in SPAWNER_ENVIRONMENT if name in os.environ}
    return {**chosen, INSTANCE_VARIABLE: instance_of(state_dir), CHANNEL_VARIABLE: " " * MARK_WIDTH}


async def _run(arguments: argparse.Namespace, state_dir: Path) -> None:
    manager = Notifier(os.environ)
    listener = listen(state_dir, SOCKET_NAME)
    # A zygote that is killed cannot remove its temporary files: they lie where we, or our successor, can.
    temporary = temporary_folder(state_dir)
    environment = environment_of_zygotes(state_dir)
    if temporary is not None:
        environment["TMPDIR"] = str(temporary.resolve())
    _watch_log(asyncio.get_running_loop())

    def ready() -> None:
        if arguments.ready_fd >= 0:
            os.write(arguments.ready_fd, b"ready\n")
            os.close(arguments.ready_fd)
        manager.tell("READY=1")

    try:
        await Spawner(
            listener,
            state_dir=state_dir,
            containment=arguments.containment,
            orphan_grace=arguments.orphan_grace,
            environment=environment,
            abilities=abilities(trouble()),
            standby=arguments.standby,
        ).run(ready)
    finally:
        manager.tell("STOPPING=1")
        (state_dir / SOCKET_NAME).unlink(missing_ok=True)
        listener.close()
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def main() -> int:
    """Serve; exit status 0 after a shutdown, 75 when another spawner holds this state folder."""
    # A worker of the same user must not read our environment or memory. An exec, of a zygote too, resets it.
    prctl(PR_SET_DUMPABLE, 0)
    parser = argparse.ArgumentParser(prog="agentd-spawner", description=__doc__)
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--containment", choices=("auto", "cgroup", "sweep"), default="auto")
    parser.add_argument("--orphan-grace", type=float, default=120.0, help="seconds without a control server")
    parser.add_argument("--ready-fd", type=int, default=-1, help="where to write 'ready' once the socket listens")
    parser.add_argument("--standby", type=int, default=0, help="process that our server is a child of")
    arguments = parser.parse_args()
    state_dir: Path = arguments.state_dir
    lock = os.open(state_dir / "spawner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"another spawner holds {state_dir}", file=sys.stderr)  # noqa: T201
        return 75
    os.umask(0o077)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    asyncio.run(_run(arguments, state_dir))
    return 0


if __name__ == "__main__":
    sys.exit(main())
