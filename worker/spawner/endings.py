"""The endings that nobody has taken note of when the spawner ends: files that the next control server reads."""

import contextlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from worker.spawn import ENDING_VERSION, ENDINGS, Receipt


def keep(state_dir: Path, endings: Iterable[tuple[str, Receipt]], cause: str) -> None:
    """Write each of them, whole or not at all. `cause` is why the spawner ended them. Never raises OSError.

    A full disk loses them: then the next control server only knows that the channels are gone.
    """
    for channel, receipt in endings:
        path = state_dir / ENDINGS.format(channel)
        new = path.with_name(f"{path.name}.new")
        data = json.dumps({"version": ENDING_VERSION, "cause": cause, "receipt": asdict(receipt)}).encode()
        with contextlib.suppress(OSError):
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                whole = os.write(fd, data) == len(data)
            finally:
                os.close(fd)
            if whole:
                new.replace(path)
