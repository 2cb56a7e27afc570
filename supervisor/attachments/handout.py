"""The files of attachments where one channel's worker may read them: links in a folder of its own, nobody else's files.

The folder lies beside the attachments, below the same root, so that a link needs no copy. A worker that is confined
reads it and cannot write to it.
"""

import os
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import structlog

from supervisor.attachments.names import is_id
from supervisor.processes.bundle import remove

log = structlog.get_logger("supervisor.attachments")

PREFIX: Final = ".given-"
_CHANNEL_ID: Final = re.compile(r"[0-9a-f]+-[0-9]+")


class Handouts:
    """All channels' folders of one server (`instance`) below a root."""

    def __init__(self, root: Path, instance: str) -> None:
        self._root = root
        self._folder = root / f"{PREFIX}{instance}"

    def of(self, channel_id: str) -> "Handout":
        """The folder of one channel, which is not made yet."""
        return Handout(self._root, self._folder / channel_id)

    def clear(self, live: Collection[str] = ()) -> None:
        """Remove what is left of channels that are not there any more. Never raises."""
        try:
            found = [path for path in self._folder.iterdir() if _CHANNEL_ID.fullmatch(path.name)]
        except OSError:
            return  # none was ever made
        for path in found:
            if path.name not in live:
                try:
                    remove(path)
                except OSError as error:
                    log.warning("attachment.handout_left", folder=path.name, error=error.strerror)


class Handout:
    """What was handed out to one channel. Every method blocks."""

    def __init__(self, root: Path, folder: Path) -> None:
        self._root = root
        self.folder = folder

    def create(self) -> None:
        """Make the folder, private to this user. Raises OSError."""
        try:
            self.folder.mkdir(mode=0o700)
        except FileNotFoundError:
            self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700)

    def give(self, attachments: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The attachments of a turn with paths that the worker may read. What has gone meanwhile keeps its own."""
        given = []
        for attachment in attachments:
            path = Path(str(attachment.get("path", "")))
            if path.is_relative_to(self._root) and is_id(str(attachment.get("id"))):
                try:
                    path = self._link(path, str(attachment["id"]))
                except OSError as error:
                    log.warning("attachment.not_handed_out", attachment=attachment["id"], error=error.strerror)
            given.append({**attachment, "path": str(path)})
        return given

    def remove(self) -> None:
        """Remove the folder; the attachments stay. Raises OSError."""
        try:
            self.folder.rmdir()
        except OSError:  # it is not empty, or gone
            remove(self.folder)

    def _link(self, path: Path, attachment_id: str) -> Path:
        place = self.folder / attachment_id
        place.mkdir(mode=0o700, exist_ok=True)
        link = place / path.name
        try:
            os.link(path, link, follow_symlinks=False)
        except FileExistsError:  # an earlier turn had it, too
            pass
        except PermissionError:  # a file system without links
            shutil.copyfile(path, link, follow_symlinks=False)
        return link
