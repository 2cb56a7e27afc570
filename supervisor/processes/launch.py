"""Starting a spawner, and the connection to the one of a state folder."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from supervisor.settings import Settings
from worker.spawn import INSTANCE_VARIABLE, SOCKET_NAME, SPAWNER_ENVIRONMENT, instance_of

LAUNCH_SECONDS: Final = 15.0
LOG_NAME: Final = "spawner.log"


class SpawnerUnavailableError(RuntimeError):
    """No spawner answers and none could be started."""


@dataclass(frozen=True, slots=True)
class SpawnerOptions:
    """How to start a spawner: its containment wish, and seconds it and its workers outlive a control server.

    With `unit` a service manager starts and ends it, and it may be on its way: it is waited for. `standby` is the
    process that this server is a child of; 0: none.
    """

    containment: str = "auto"
    orphan_grace: float = 120.0
    unit: bool = False
    standby: int = 0


def options_of(settings: Settings) -> SpawnerOptions:
    """The options that the settings ask for."""
    return SpawnerOptions(
        settings.containment,
        settings.orphan_grace_seconds,
        unit=settings.spawner == "unit",
        standby=os.getppid() if settings.standby else 0,
    )


def environment_of(environ: Mapping[str, str], state_dir: Path) -> dict[str, str]:
    """The whole environment of a spawner, chosen from `environ`."""
    chosen = {name: environ[name] for name in SPAWNER_ENVIRONMENT if name in environ}
    return {**chosen, INSTANCE_VARIABLE: instance_of(state_dir)}


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


def no_unit(state_dir: Path) -> SpawnerUnavailableError:
    """What to say when the service manager's spawner does not answer."""
    return SpawnerUnavailableError(
        f"no spawner answers in {state_dir}, and with AGENTD_SPAWNER=unit none is started: look at "
        "`systemctl status agentd-workers`, or set AGENTD_SPAWNER=auto"
    )


async def launch(state_dir: Path, options: SpawnerOptions, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a spawner and wait until it listens. Raises SpawnerUnavailableError.

    It is detached: it outlives us, and a signal to our terminal's group does not reach it.
    """
    try:
        reader, writer = os.pipe()
    except OSError as error:
        raise SpawnerUnavailableError(f"the spawner cannot be started: {error}") from error
    try:
        try:
            process = _popen(state_dir, options, environment, writer)
        except OSError as error:
            raise SpawnerUnavailableError(f"the spawner cannot be started: {error}") from error
        finally:
            os.close(writer)
        ready = await _first_bytes(reader)
    finally:
        os.close(reader)
    if not ready:
        process.kill()
        await asyncio.to_thread(process.wait)
        output = await asyncio.to_thread((state_dir / LOG_NAME).read_text, errors="replace")
        said = output[-500:].strip() or "no output"
        raise SpawnerUnavailableError(f"the spawner ended with status {process.returncode}: {said}")
    return process


def _popen(
    state_dir: Path, options: SpawnerOptions, environment: Mapping[str, str], ready_fd: int
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "worker.spawner", "--state-dir", str(state_dir)]
    command += ["--containment", options.containment, "--orphan-grace", str(options.orphan_grace)]
    command += ["--ready-fd", str(ready_fd), "--standby", str(options.standby)]
    log_file = state_dir / LOG_NAME
    log_file.touch(0o600)
    with log_file.open("wb") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(ready_fd,),
            env=environment,
            start_new_session=True,
        )


async def _first_bytes(fd: int) -> bytes:
    """What comes first on a pipe; b"" when it ends, or nothing comes within LAUNCH_SECONDS."""
    return os.read(fd, 64) if await readable(fd, LAUNCH_SECONDS) else b""


async def readable(fd: int, seconds: float) -> bool:
    """Wait until a descriptor is readable (a pidfd: until its process has ended), at most so many seconds."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(fd, event.set)
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(fd)
    return True
