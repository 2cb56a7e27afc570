"""A channel's folder: its FIFOs, its lock and its record. The folder is the truth a later supervisor reads."""

import contextlib
import errno
import os
import shutil
from pathlib import Path
from typing import Any, Final

import orjson

from worker.spawn import FIFOS, LOCK_FILE

RECORD: Final = "record.json"
CHANNELS: Final = "ch"
RECORD_VERSION: Final = 1


class Bundle:
    """The folder of one channel below the state folder, mode 0700."""

    def __init__(self, state_dir: Path, channel_id: str) -> None:
        self.folder = state_dir / CHANNELS / channel_id

    def create(self) -> None:
        """Make the folder with its FIFOs; the worker makes its lock file. Raises OSError."""
        self.folder.mkdir(mode=0o700)
        for name in FIFOS:
            os.mkfifo(f"{self.folder}/{name}", 0o600)

    def write_record(self, record: dict[str, Any]) -> None:
        """Replace the record atomically: a reader sees the old one or the new one, whole. Raises OSError."""
        new = self.folder / f"{RECORD}.new"
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, orjson.dumps({"version": RECORD_VERSION, **record}))
        finally:
            os.close(fd)
        new.replace(self.folder / RECORD)

    def remove_own(self) -> bool:
        """Remove what agentd put into the folder and the folder; False when something else is in it. Raises OSError."""
        try:
            for name in (*FIFOS, LOCK_FILE, RECORD):
                (self.folder / name).unlink(missing_ok=True)
            self.folder.rmdir()
        except IsADirectoryError:  # the worker put a folder in the place of one of ours
            return False
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            return False
        return True

    def remove(self) -> None:
        """Remove the folder and all in it; nothing when it is gone already. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.folder)


def prepare_state(state_dir: Path) -> None:
    """Make the state folder and its parts, private to this user. Raises OSError, also when it is somebody else's."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = state_dir.stat()
    if status.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, f"the state folder belongs to user {status.st_uid}", str(state_dir))
    if status.st_mode & 0o077:
        state_dir.chmod(0o700)
    (state_dir / CHANNELS).mkdir(mode=0o700, exist_ok=True)


def clear_bundles(state_dir: Path, log_path: Path) -> int:
    """Remove what is left of channels that ended with an earlier control server; how many there were.

    That is their folders and, in `log_path`, the property files of foreign workers, which hold tokens.
    """
    count = 0
    for folder in (state_dir / CHANNELS).iterdir():
        for path in log_path.glob(f"property-*_{folder.name}.json"):
            path.unlink(missing_ok=True)
        shutil.rmtree(folder)
        count += 1
    return count
