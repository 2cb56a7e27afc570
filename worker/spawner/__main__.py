"""``python -m worker.spawner``: started by `agentd serve` when no spawner answers, or by a service manager."""

import argparse
import asyncio
import fcntl
import os
import shutil
import sys
from pathlib import Path

from worker.spawn import CHANNEL_VARIABLE, SOCKET_NAME, instance_of
from worker.spawner.linux import PR_SET_CHILD_SUBREAPER, prctl
from worker.spawner.server import Spawner, listen

MARK_WIDTH = 64
TEMPORARY_NAME = "tmp"


async def _run(arguments: argparse.Namespace, state_dir: Path) -> None:
    listener = listen(state_dir, SOCKET_NAME)
    # A zygote that is killed cannot remove its temporary files: they lie where we, or our successor, can.
    temporary = state_dir / TEMPORARY_NAME
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(mode=0o700)
    environment = {**os.environ, CHANNEL_VARIABLE: " " * MARK_WIDTH, "TMPDIR": str(temporary.resolve())}

    def ready() -> None:
        if arguments.ready_fd >= 0:
            os.write(arguments.ready_fd, b"ready\n")
            os.close(arguments.ready_fd)

    try:
        await Spawner(
            listener,
            instance=instance_of(state_dir),
            containment=arguments.containment,
            orphan_grace=arguments.orphan_grace,
            environment=environment,
        ).run(ready)
    finally:
        (state_dir / SOCKET_NAME).unlink(missing_ok=True)
        listener.close()
        shutil.rmtree(temporary, ignore_errors=True)


def main() -> int:
    """Serve; exit status 0 after a shutdown, 75 when another spawner holds this state folder."""
    parser = argparse.ArgumentParser(prog="python -m worker.spawner", description=__doc__)
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--containment", choices=("auto", "cgroup", "sweep"), default="auto")
    parser.add_argument("--orphan-grace", type=float, default=120.0, help="seconds without a control server")
    parser.add_argument("--ready-fd", type=int, default=-1, help="where to write 'ready' once the socket listens")
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
