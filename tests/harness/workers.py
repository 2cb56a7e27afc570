"""The live workers of a state folder, seen from outside: by the marks that stand in their environment."""

import os
from pathlib import Path

from worker.spawn import CHANNEL_VARIABLE, INSTANCE_VARIABLE, instance_of


def workers_of(state_dir: Path) -> dict[int, str]:
    """The channel ids of all live processes of this state folder's channels, by pid.

    Zygotes and the spares they keep are nobody's; of a zombie the kernel shows no environment.
    """
    instance = f"{INSTANCE_VARIABLE}={instance_of(state_dir)}".encode()
    prefix = f"{CHANNEL_VARIABLE}=".encode()
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if instance in environment:
            channel = next((item[len(prefix) :].strip() for item in environment if item.startswith(prefix)), b"")
            if channel:
                found[int(pid)] = channel.decode()
    return found
