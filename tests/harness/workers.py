"""The live workers of a state folder, seen from outside: by the channel id that stands in their environment."""

from pathlib import Path

from tests.harness.leaks import processes_of
from worker.spawn import CHANNEL_VARIABLE


def workers_of(folder: Path) -> dict[int, str]:
    """The channel ids of all processes below `folder` that are a channel's, by pid; zygotes and spares are nobody's."""
    prefix = f"{CHANNEL_VARIABLE}=".encode()
    found = {}
    for pid in processes_of(folder):
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        channel = next((item[len(prefix) :].strip() for item in environment if item.startswith(prefix)), b"")
        if channel:
            found[pid] = channel.decode()
    return found
