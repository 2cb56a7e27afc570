"""Receives one file of a multipart form: streamed, in bounded memory, removed again unless it was kept."""

import os
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import BodyPartReader, web

from supervisor.causes import Cause, Refusal
from supervisor.http.allowance import Allowance
from supervisor.http.forms import Bounds, Form, Spool, discard

__all__ = ["FOLDER", "Receiver", "Upload", "discard", "move_into"]

FOLDER: Final = "uploads"
MAX_TEXT: Final = 64 * 1024
MAX_PARTS: Final = 100
MAX_FILE_NAME: Final = 255
IDLE_SECONDS: Final = 60.0
FORM_SECONDS: Final = 600.0

Admit = Callable[[web.Request, dict[str, str]], None]

_EXTENSION: Final = re.compile(r"\.[A-Za-z0-9]{1,10}\Z")


@dataclass(slots=True)
class Upload:
    """A file that arrives: where it lies, what the client calls it, its bytes so far, and the form's text fields."""

    path: Path
    file_name: str
    size: int
    fields: dict[str, str]


def file_name_of(given: str) -> str:
    """What a client calls its file: the last path component, as text that can be written; never used as a path."""
    last = given.replace("\\", "/").rpartition("/")[2]
    return last.encode("utf-8", "replace").decode()[:MAX_FILE_NAME]


def stored_name(file_name: str) -> str:
    """A random name that keeps a safe extension."""
    extension = _EXTENSION.search(file_name)
    return secrets.token_hex(16) + (extension[0].lower() if extension else "")


class Receiver:
    """Reads one form into files below `folder`.

    `limit` bounds the file and, with some room for the rest, the whole form, in bytes; `total` bounds the files of all
    forms until `release`. `admit` is called with the request and the fields that came before the file, and may refuse
    it before it is stored.
    """

    def __init__(self, folder: Path, limit: int, total: Allowance, admit: Admit) -> None:
        self._folder = folder
        self._limit = limit
        self._total = total
        self._admit = admit

    async def receive(self, request: web.Request) -> Upload:
        """The upload of one request; the file is the caller's to keep or to remove, then to `release`.

        Raises Refusal(BODY_INVALID | BODY_TOO_LARGE | UPLOAD_FAILED) and what `admit` raises; then no file is left.
        """
        if request.content_type != "multipart/form-data":
            raise Refusal(Cause.BODY_INVALID, "the body is no multipart form; a form with the part 'file' is needed")
        form = Form(request, Bounds(self._limit + MAX_TEXT * 4, MAX_PARTS, MAX_TEXT, IDLE_SECONDS, FORM_SECONDS))
        upload = Upload(Path(), "", 0, {})
        try:
            await self._read_form(request, form, upload)
        except BaseException:
            self._forget(upload)
            raise
        return upload

    def release(self, upload: Upload) -> None:
        """Count a received file no more among those that wait."""
        self._total.give(upload.size)
        upload.size = 0

    def _forget(self, upload: Upload) -> None:
        discard(upload.path)
        self.release(upload)

    async def _read_form(self, request: web.Request, form: Form, upload: Upload) -> None:
        stored = False
        async with form.reading() as parts:
            async for part in parts:
                if part.name == "file" and part.filename is not None and not stored:
                    self._admit(request, upload.fields)
                    upload.file_name = file_name_of(part.filename)
                    upload.path = self._folder / stored_name(upload.file_name)
                    await self._store(form, part, upload)
                    stored = True
                elif part.name in ("channel_name", "request_id"):
                    upload.fields[part.name] = await form.text(part)
                else:
                    await form.skip(part)
        if not stored:
            raise Refusal(Cause.BODY_INVALID, "the form has no file in a part named 'file'")

    async def _store(self, form: Form, part: BodyPartReader, upload: Upload) -> None:
        spool = Spool(upload.path)
        spool.create()
        while chunk := await form.chunk(part):
            self._total.take(len(chunk))
            upload.size += len(chunk)
            if upload.size > self._limit:
                raise Refusal(Cause.BODY_TOO_LARGE, f"the file has over {self._limit} bytes; no more are allowed")
            await spool.write(chunk)
        await spool.flush()


def move_into(path: Path, channel_folder: Path) -> Path:
    """Move a received file into a channel's folder; raises FileNotFoundError when that is gone, and other OSErrors.

    The worker can write in its folder: a link it put in the place of ours is not followed.
    """
    target = channel_folder / FOLDER
    with suppress(FileExistsError):
        target.mkdir(mode=0o700)
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.rename(path, path.name, dst_dir_fd=fd)
    finally:
        os.close(fd)
    return target / path.name
