"""Reads multipart forms: in pieces, in bounded memory, and within bounds of size, of number and of time."""

import asyncio
import os
import warnings
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import structlog
from aiohttp import (
    BadContentDispositionHeader,
    BadContentDispositionParam,
    BodyPartReader,
    MultipartReader,
    StreamReader,
    web,
)
from aiohttp.http_exceptions import HttpProcessingError

from supervisor.causes import Cause, Refusal

log = structlog.get_logger()

CHUNK: Final = 64 * 1024
WRITE_BATCH: Final = 256 * 1024
MOST_LINES_PER_PART: Final = 256  # of headers and boundaries; aiohttp takes half as many headers

# Python remembers each warning that was given, and these tell what a client has sent: they would fill the memory.
for _category in (BadContentDispositionHeader, BadContentDispositionParam):
    warnings.filterwarnings("ignore", category=_category)

# All that aiohttp's reader is known to raise for a malformed form; it has no class of its own for it.
_MALFORMED: Final = (
    ValueError,
    AssertionError,
    RuntimeError,
    HttpProcessingError,
    web.RequestPayloadError,
)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a form may have: bytes in all, parts, bytes of a text, seconds without a byte and in all."""

    size: int
    parts: int
    text: int
    idle_seconds: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a form has to arrive: so many bytes a second, in every `seconds` of it; 0: as it likes."""

    rate: int
    seconds: float


ANY_PACE: Final = Pace(0, 0.0)


class Form:
    """One form while it arrives. Use it within `reading`."""

    def __init__(self, request: web.Request, bounds: Bounds, pace: Pace = ANY_PACE) -> None:
        self._request = request
        self._bounds = bounds
        self._pace = pace
        self._mark = (asyncio.get_running_loop().time(), 0)  # when its pace was measured last, and what was there then

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncIterator[BodyPartReader]]:
        """The parts, one after the other.

        Raises Refusal(BODY_INVALID) for a form that is malformed, has too many parts or does not arrive in time or at
        its pace, and Refusal(BODY_TOO_LARGE).
        """
        bounds = self._bounds
        self.check_size(self._request.content_length or 0)
        whole = asyncio.timeout(bounds.seconds)
        try:
            async with whole, aclosing(self._parts()) as parts:
                yield parts
        except TimeoutError as error:
            late = f"the form did not arrive within {bounds.seconds:g} s"
            idle = f"nothing of the form arrived for {bounds.idle_seconds:g} s"
            raise Refusal(Cause.BODY_INVALID, late if whole.expired() else idle) from error
        except _MALFORMED as error:
            raise Refusal(Cause.BODY_INVALID, f"the form is malformed: {error}") from error

    async def _parts(self) -> AsyncGenerator[BodyPartReader, None]:
        most = self._bounds.parts
        request = self._request
        content = _Lines(request.content, most * MOST_LINES_PER_PART)
        reader = MultipartReader(request.headers, cast("StreamReader", content))
        for _ in range(most):
            async with asyncio.timeout(self._bounds.idle_seconds):
                part = await reader.next()
            self._check()
            if part is None:
                return
            if not isinstance(part, BodyPartReader):
                raise Refusal(Cause.BODY_INVALID, "the form has a multipart part; files and texts are allowed")
            yield part
        raise Refusal(Cause.BODY_INVALID, f"the form has more than {most} parts")

    async def chunk(self, part: BodyPartReader) -> bytes:
        """The next bytes of a part; b"" at its end only."""
        async with asyncio.timeout(self._bounds.idle_seconds):
            while not part.at_eof():
                if chunk := await part.read_chunk(CHUNK):
                    self._check()
                    return chunk
        return b""

    async def text(self, part: BodyPartReader) -> str:
        """The text of a part. Raises Refusal(BODY_TOO_LARGE | BODY_INVALID)."""
        data = bytearray()
        most = self._bounds.text
        while chunk := await self.chunk(part):
            data += chunk
            if len(data) > most:
                raise Refusal(Cause.BODY_TOO_LARGE, f"{part.name} has over {most} bytes; no more are allowed")
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise Refusal(Cause.BODY_INVALID, f"{part.name} is not UTF-8") from error

    async def skip(self, part: BodyPartReader) -> None:
        """Read a part to its end and forget it."""
        while await self.chunk(part):
            pass

    def hurry_no_more(self) -> None:
        """Let the rest arrive as it likes."""
        self._pace = ANY_PACE

    def _check(self) -> None:
        size, now = self._request.content.total_bytes, asyncio.get_running_loop().time()
        self.check_size(size)
        began, before = self._mark
        if self._pace.rate and now - began >= self._pace.seconds:
            # Since the last time, not on the whole: else one may send much at once and then next to nothing.
            if size - before < self._pace.rate * (now - began):
                raise Refusal(Cause.BODY_INVALID, f"the form arrives at less than {self._pace.rate} bytes a second")
            self._mark = (now, size)

    def check_size(self, size: int) -> None:
        """Raises Refusal(BODY_TOO_LARGE) when the form has more bytes than it may."""
        most = self._bounds.size
        if size > most:
            raise Refusal(Cause.BODY_TOO_LARGE, f"the form has {size} bytes or more; at most {most} are allowed")


class _Lines:
    """A body whose lines are counted: what comes before the first part has no other bound than the body's size."""

    def __init__(self, content: StreamReader, most: int) -> None:
        self._left = most
        self._content = content
        self.read = content.read
        self.at_eof = content.at_eof
        self.unread_data = content.unread_data

    async def readline(self, *, max_line_length: int | None = None) -> bytes:
        """The next line. Raises ValueError for one too many."""
        self._left -= 1
        if self._left < 0:
            raise ValueError("it has too many lines")
        if max_line_length is None:
            return await self._content.readline()
        return await self._content.readline(max_line_length=max_line_length)


class Spool:
    """A file that is made of chunks, new and private. Methods raise Refusal(UPLOAD_FAILED)."""

    def __init__(self, path: Path) -> None:
        """The folder is made too, when it is not there."""
        self.path = path
        self._batch = bytearray()

    def create(self) -> None:
        """Make the file, which must not be there."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(self.path, flags, 0o600))
        except OSError as error:
            raise _failed(error) from error

    async def write(self, chunk: bytes) -> None:
        """Add to it; a batch is kept in memory until it is worth a write."""
        self._batch += chunk
        if len(self._batch) >= WRITE_BATCH:
            await self.flush()

    async def flush(self) -> None:
        """Write what is still in memory."""
        data = bytes(self._batch)
        self._batch.clear()
        try:
            await asyncio.to_thread(_append_all, self.path, data)
        except OSError as error:
            raise _failed(error) from error


def _append_all(path: Path, data: bytes) -> None:
    """Append all of `data` to a file that is there.

    The descriptor belongs to this call alone: the thread goes on when its caller is cancelled, and would write into
    whatever file got the number of a shared one meanwhile.
    """
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)


def discard(path: Path) -> None:
    """Remove a file that may be gone, or may never have come to be."""
    if path.name:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("upload.not_removed", file=path.name, error=error.strerror)


def _failed(error: OSError) -> Refusal:
    return Refusal(Cause.UPLOAD_FAILED, f"the file could not be stored: {error.strerror}")
