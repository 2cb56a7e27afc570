"""Receives one file of a multipart form: streamed, in bounded memory, removed again unless it was kept."""

import asyncio
import os
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from supervisor.causes import Cause, Refusal
from supervisor.http.allowance import Allowance

log = structlog.get_logger()

FOLDER: Final = "uploads"
CHUNK: Final = 64 * 1024
WRITE_BATCH: Final = 256 * 1024
MAX_TEXT: Final = 64 * 1024
MAX_PARTS: Final = 100
MAX_FILE_NAME: Final = 255
IDLE_SECONDS: Final = 60.0
FORM_SECONDS: Final = 600.0

_EXTENSION: Final = re.compile(r"\.[A-Za-z0-9]{1,10}\Z")
# All that aiohttp's reader is known to raise for a malformed form; it has no class of its own for it.
_MALFORMED: Final = (ValueError, AssertionError, RuntimeError, HttpProcessingError, web.RequestPayloadError)


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
    forms until `release`. `admit` is called with the fields that came before the file and may refuse it before it is
    stored.
    """

    def __init__(self, folder: Path, limit: int, total: Allowance, admit: Callable[[dict[str, str]], None]) -> None:
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
        self._check_size(request, request.content_length or 0)
        upload = Upload(Path(), "", 0, {})
        whole = asyncio.timeout(FORM_SECONDS)
        try:
            async with whole:
                await self._read_form(request, upload)
        except TimeoutError as error:
            late = f"the form did not arrive within {FORM_SECONDS:g} s"
            idle = f"nothing of the form arrived for {IDLE_SECONDS:g} s"
            self._forget(upload)
            raise Refusal(Cause.BODY_INVALID, late if whole.expired() else idle) from error
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

    async def _read_form(self, request: web.Request, upload: Upload) -> None:
        stored = False
        try:
            reader = await request.multipart()
            for _ in range(MAX_PARTS):
                async with asyncio.timeout(IDLE_SECONDS):
                    part = await reader.next()
                self._check_size(request, request.content.total_bytes)
                if part is None:
                    break
                if not isinstance(part, BodyPartReader):
                    raise Refusal(Cause.BODY_INVALID, "the form has a multipart part; files and texts are allowed")
                if part.name == "file" and part.filename is not None and not stored:
                    self._admit(upload.fields)
                    upload.file_name = file_name_of(part.filename)
                    upload.path = self._folder / stored_name(upload.file_name)
                    await self._store(part, upload)
                    stored = True
                elif part.name in ("channel_name", "request_id"):
                    upload.fields[part.name] = await self._text(part)
                else:
                    await self._skip(request, part)
            else:
                raise Refusal(Cause.BODY_INVALID, f"the form has more than {MAX_PARTS} parts")
        except _MALFORMED as error:
            raise Refusal(Cause.BODY_INVALID, f"the form is malformed: {error}") from error
        if not stored:
            raise Refusal(Cause.BODY_INVALID, "the form has no file in a part named 'file'")

    async def _store(self, part: BodyPartReader, upload: Upload) -> None:
        path = upload.path
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise _failed(error) from error
        batch = bytearray()
        while chunk := await self._chunk(part):
            self._total.take(len(chunk))
            upload.size += len(chunk)
            if upload.size > self._limit:
                raise Refusal(Cause.BODY_TOO_LARGE, f"the file has over {self._limit} bytes; no more are allowed")
            batch += chunk
            if len(batch) >= WRITE_BATCH:
                await _append(path, bytes(batch))
                batch.clear()
        await _append(path, bytes(batch))

    async def _text(self, part: BodyPartReader) -> str:
        data = bytearray()
        while chunk := await self._chunk(part):
            data += chunk
            if len(data) > MAX_TEXT:
                raise Refusal(Cause.BODY_TOO_LARGE, f"{part.name} has over {MAX_TEXT} bytes; no more are allowed")
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise Refusal(Cause.BODY_INVALID, f"{part.name} is not UTF-8") from error

    async def _skip(self, request: web.Request, part: BodyPartReader) -> None:
        while await self._chunk(part):
            self._check_size(request, request.content.total_bytes)

    @staticmethod
    async def _chunk(part: BodyPartReader) -> bytes:
        """The next bytes of a part; b"" at its end only."""
        async with asyncio.timeout(IDLE_SECONDS):
            while not part.at_eof():
                if chunk := await part.read_chunk(CHUNK):
                    return chunk
        return b""

    def _check_size(self, request: web.Request, size: int) -> None:
        most = self._limit + MAX_TEXT * 4
        if size > most:
            raise Refusal(Cause.BODY_TOO_LARGE, f"the form has {size} bytes or more; at most {most} are allowed")


async def _append(path: Path, data: bytes) -> None:
    try:
        await asyncio.to_thread(_append_all, path, data)
    except OSError as error:
        raise _failed(error) from error


def _append_all(path: Path, data: bytes) -> None:
    """Append all of `data` to a file that is there.

    The descriptor belongs to this call alone: the thread goes on when its caller is cancelled, and would write into
    whatever file got the number of a shared one meanwhile.
    """
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)


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


def discard(path: Path) -> None:
    """Remove a file that may be gone, or may never have come to be."""
    if path.name:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("upload.not_removed", file=path.name, error=error.strerror)


def _failed(error: OSError) -> Refusal:
    return Refusal(Cause.UPLOAD_FAILED, f"the file could not be stored: {error.strerror}")
