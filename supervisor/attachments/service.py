"""The attachments of one server: received files become attachments, are read, kept, given to turns, and deleted."""

import asyncio
import time
import uuid
from collections import Counter, OrderedDict
from collections.abc import Coroutine, Iterable, Sequence
from contextvars import Context
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import structlog

from supervisor.attachments.books import Books
from supervisor.attachments.files import AttachmentFiles
from supervisor.attachments.names import is_id, kind_of, media_type_of, owner_of, tokens_of
from supervisor.attachments.reading import Finding
from supervisor.attachments.retention import Retention
from supervisor.attachments.state import TaskState
from supervisor.causes import Cause, Refusal
from supervisor.store.attachments import taken_by
from supervisor.store.errors import StoreError
from supervisor.store.records import AttachmentBegun, AttachmentEnded, AttachmentRow

if TYPE_CHECKING:
    from supervisor.attachments.readers import Readers
    from supervisor.store.attachments import AttachmentRows

log = structlog.get_logger("supervisor.attachments")
T = TypeVar("T")

MOST_REMEMBERED: Final = 4096  # tasks that are over and still in memory; the others are asked for from the store
MOST_GIVEN: Final = 64  # different attachments of one turn
MOST_TEXT: Final = 16 * 1024 * 1024  # bytes of their texts; a worker takes requests of 64 MiB, as JSON
SHARES: Final = 4  # of the queue: an owner has one of them at most
CLOSE_SECONDS: Final = 5.0
LOST: Final = "The file was lost"
NO_ROOM: Final = "There is no room for the text of the file"
FAULT: Final = "The file could not be read"


@dataclass(frozen=True, slots=True)
class Received:
    """A file that has arrived in the folder `incoming`; `name` is safe (names.py), `size` is in bytes."""

    path: Path
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """An attachment that is processed."""

    owner: str
    size: int
    state: TaskState

    @property
    def id(self) -> str:
        return self.state.attachment_id


class BusyRefusal(Refusal):
    """UPLOAD_FAILED for a reason that passes within seconds."""


class Attachments:
    """All attachments. `open` before use, `close` at the end."""

    def __init__(
        self,
        rows: "AttachmentRows",
        readers: "Readers",
        folder: Path,
        *,
        instance: str,
        keep_days: int,
        user_bytes: int,
        total_bytes: int,
        queue: int,
    ) -> None:
        """`folder` is where they lie, `instance` names the server among those that may share it.

        `queue` is how many may be read and wait for it; 0 `keep_days`: for ever.
        """
        self._rows = rows
        self._readers = readers
        self._files = AttachmentFiles(folder, instance)
        self._books = Books(user_bytes, total_bytes)
        self._queue = queue
        self._retention = Retention(rows, self._files, self._books, keep_days)
        self._states: OrderedDict[str, TaskState] = OrderedDict()  # by task, what was over first comes first
        self._open = 0  # how many are not over
        self._open_of: Counter[str] = Counter()  # the same, by their owners
        self._accepting: set[asyncio.Task[Any]] = set()
        self._processing: set[asyncio.Task[None]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def incoming(self) -> Path:
        """The folder where files arrive."""
        return self._files.incoming

    async def open(self) -> None:
        """Make the folder, go on with what an earlier server has left, begin to delete what is too old.

        Raises OSError and StoreError.
        """
        await asyncio.to_thread(self._files.prepare)
        self._books.open(await self._rows.totals())
        left = await self._rows.unfinished()
        for row in left:
            self._begin(_Entry(row.owner, row.size, _state_of(row)))
        self._keeper = asyncio.create_task(self._retention.run(), name="attachments kept")
        log.info("attachments.opened", bytes=self._books.total, unfinished=len(left))

    async def close(self) -> None:
        """Take no more, end all readers; what is not over is gone on with by the next server. Takes CLOSE_SECONDS."""
        self._closing = True
        if self._accepting:
            await asyncio.wait(self._accepting, timeout=CLOSE_SECONDS / 2)
        working = {*self._accepting, *self._processing, *([self._keeper] if self._keeper else [])}
        for task in working:
            task.cancel()
        if working:
            _, late = await asyncio.wait(working, timeout=CLOSE_SECONDS / 2)
            if late:
                log.warning("attachments.close_late", tasks=len(late))
        self._keeper = None

    def check_room(self, files: int = 1, owner: str = "") -> None:
        """Raises Refusal(SHUTTING_DOWN) or BusyRefusal when so many (of an owner) cannot be taken now."""
        if self._closing:
            raise Refusal(Cause.SHUTTING_DOWN)
        own = self._open_of[owner]
        too_many = own > 0 and own + files > self._queue // SHARES  # nobody fills the queue bit by bit
        if self._open + files > self._queue or too_many:
            raise BusyRefusal(Cause.UPLOAD_FAILED, "too many files wait to be read; try again later")

    async def accept(self, user: str, received: Sequence[Received]) -> list[TaskState]:
        """Make received files attachments of a user and begin to read them; all of them, or none.

        Goes on when its caller is cancelled. What is not accepted is still the caller's to remove. Raises
        Refusal(SHUTTING_DOWN | UPLOAD_FAILED | STORE_UNAVAILABLE), BusyRefusal among them.
        """
        return await self._owned(self._accept(user, owner_of(user), received))

    async def task(self, task_id: str) -> TaskState:
        """What has become of an upload; PENDING for one that nobody knows. Raises StoreError."""
        state = self._states.get(task_id)
        if state is not None:
            return state
        row = await self._rows.of_task(task_id) if is_id(task_id) else None
        return TaskState(id=task_id, attachment_id="", name="", mime_type="") if row is None else _state_of(row)

    async def given(self, user: str, ids: Sequence[str]) -> list[dict[str, Any] | None]:
        """The attachments with these ids as a worker is given them, in this order: ``{id, name, mime_type, path}``.

        And ``text`` where there is one, as long as all of them have MOST_TEXT bytes at most. None for what is not
        there, is another user's, could not be read or was not so far, and for all beyond MOST_GIVEN different ones.
        Raises StoreError.
        """
        wanted = list(dict.fromkeys(name for name in ids if is_id(name)))[:MOST_GIVEN]
        rows = await self._rows.find(wanted) if wanted else {}
        owner = owner_of(user)
        usable = [row for row in rows.values() if row.owner == owner and row.succeeded]
        found = await asyncio.to_thread(self._found, usable) if usable else {}
        return [found.get(name) for name in ids]

    # ------------------------------------------------------------------ receiving

    async def _accept(self, user: str, owner: str, received: Sequence[Received]) -> list[TaskState]:
        self.check_room(len(received), owner)
        now = time.time()
        states = [
            TaskState(id=str(uuid.uuid4()), attachment_id=str(uuid.uuid4()), name=one.name, mime_type=media)
            for one in received
            for media in (media_type_of(one.name),)
        ]
        entries = [_Entry(owner, one.size, state) for one, state in zip(received, states, strict=True)]
        amount = sum(taken_by(one.size, None) for one in received)
        self._books.take(owner, amount)
        self._count(owner, len(entries))
        try:
            # On record first: a file without a row is nobody's, and is removed sooner or later.
            await self._rows.begin([_begun(entry, user, now) for entry in entries])
            try:
                await asyncio.to_thread(self._keep, received, entries)
            except BaseException:
                await self._undo(entries)
                raise
        except BaseException as error:
            self._count(owner, -len(entries))
            self._books.give(owner, amount)
            if isinstance(error, StoreError):
                raise Refusal(Cause.STORE_UNAVAILABLE, str(error)) from error
            if isinstance(error, OSError):
                text = f"the file could not be stored: {error.strerror or type(error).__name__}"
                raise Refusal(Cause.UPLOAD_FAILED, text) from error
            raise
        self._count(owner, -len(entries))
        for entry in entries:
            self._begin(entry)
        return states

    def _keep(self, received: Sequence[Received], entries: Sequence[_Entry]) -> None:
        """Move all files to their places. Raises OSError. Blocks."""
        for one, entry in zip(received, entries, strict=True):
            self._files.keep(one.path, entry.owner, entry.id, one.name)

    async def _undo(self, entries: Sequence[_Entry]) -> None:
        for entry in entries:
            try:
                await asyncio.to_thread(self._files.remove, entry.owner, entry.id)
                await self._rows.delete(entry.id)
            except (OSError, StoreError) as error:  # the next server ends the row and removes the file
                log.warning("attachment.not_undone", attachment=entry.id, error=type(error).__name__)

    async def _owned(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.create_task(work, name="attachments accepted")
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_heard)
            raise

    def _count(self, owner: str, more: int) -> None:
        self._open += more
        self._open_of[owner] += more
        if not self._open_of[owner]:
            del self._open_of[owner]

    # ------------------------------------------------------------------ processing

    def _begin(self, entry: _Entry) -> None:
        self._states[entry.state.id] = entry.state
        self._count(entry.owner, 1)
        # In a context of its own: what it logs is not the request's.
        task = asyncio.create_task(self._process(entry), name=f"attachment {entry.id}", context=Context())
        self._processing.add(task)
        task.add_done_callback(self._processing.discard)
        task.add_done_callback(_heard)

    async def _process(self, entry: _Entry) -> None:
        """From its file to its end, on record, whatever happens on the way."""
        began = time.monotonic()
        try:
            try:
                finding = await self._keep_text(entry, await self._read(entry))
            except Exception:
                log.exception("attachment.fault", attachment=entry.id)
                finding = Finding(failure=FAULT)
            await self._end(entry, finding.failure, None if finding.text is None else len(finding.text))
        finally:
            self._count(entry.owner, -1)
        log.info(
            "attachment.ended",
            attachment=entry.id,
            mime_type=entry.state.mime_type,
            bytes=entry.size,
            tokens=entry.state.tokens,
            cause=Cause.ATTACHMENT_UNREADABLE if entry.state.detail else Cause.COMPLETED,
            detail=entry.state.detail,
            ms=round((time.monotonic() - began) * 1000, 1),
        )

    async def _read(self, entry: _Entry) -> Finding:
        state = entry.state
        if not await asyncio.to_thread(self._files.is_there, entry.owner, entry.id, state.name, entry.size):
            return Finding(failure=LOST)
        kind = kind_of(state.mime_type)
        if kind is None:
            return Finding()

        def told(current: int) -> None:
            state.begin()
            state.advance(current)

        path = self._files.path(entry.owner, entry.id, state.name)
        return await self._readers.read(entry.owner, path, kind, told)

    async def _keep_text(self, entry: _Entry, finding: Finding) -> Finding:
        """What was found, its text beside the file."""
        if finding.text is not None:
            try:
                await asyncio.to_thread(self._files.write_text, entry.owner, entry.id, finding.text)
            except OSError as error:
                log.warning("attachment.text_not_kept", attachment=entry.id, error=error.strerror)
                return Finding(failure=NO_ROOM)
        return finding

    async def _end(self, entry: _Entry, failure: str, text_bytes: int | None) -> None:
        tokens = tokens_of(text_bytes or 0)
        if failure:
            await self._drop(entry)
        else:
            self._books.add(entry.owner, text_bytes or 0)
        await self._rows.end(
            AttachmentEnded(
                id=entry.id,
                ended_at=time.time(),
                succeeded=not failure,
                detail=failure,
                text_bytes=text_bytes,
                tokens=tokens,
            )
        )
        if failure:
            entry.state.fail(failure)
        else:
            entry.state.succeed(tokens)
        self._remember(entry.state)

    async def _drop(self, entry: _Entry) -> None:
        """Remove the file of an attachment that cannot be used; its row tells of it until it is too old."""
        self._books.give(entry.owner, taken_by(entry.size, None))
        try:
            await asyncio.to_thread(self._files.remove, entry.owner, entry.id)
        except OSError as error:
            log.warning("attachment.not_removed", attachment=entry.id, error=error.strerror)

    def _remember(self, state: TaskState) -> None:
        """Keep an ended task in memory for a while: it is asked for again and again just now."""
        self._states.move_to_end(state.id)
        while len(self._states) - len(self._processing) > MOST_REMEMBERED:
            oldest = next(iter(self._states.values()))
            if not oldest.over:
                self._states.move_to_end(oldest.id)
                continue
            del self._states[oldest.id]

    # ------------------------------------------------------------------ giving

    def _found(self, rows: Iterable[AttachmentRow]) -> dict[str, dict[str, Any]]:
        """What these are as a worker is given them, by their ids. Blocks."""
        found: dict[str, dict[str, Any]] = {}
        left = MOST_TEXT
        for row in rows:
            if not self._files.is_there(row.owner, row.id, row.name, row.size):
                log.warning("attachment.lost", attachment=row.id)
                continue
            path = self._files.path(row.owner, row.id, row.name)
            given = {"id": row.id, "name": row.name, "mime_type": row.mime_type, "path": str(path)}
            if row.text_bytes is not None and row.text_bytes > left:
                log.warning("attachment.text_left_out", attachment=row.id, bytes=row.text_bytes)
            elif row.text_bytes is not None:
                left -= row.text_bytes
                text = self._files.read_text(row.owner, row.id, row.text_bytes)
                if text is None:
                    log.warning("attachment.text_lost", attachment=row.id)
                else:
                    given["text"] = text
            found[row.id] = given
        return found


def _begun(entry: _Entry, user: str, now: float) -> AttachmentBegun:
    state = entry.state
    return AttachmentBegun(
        id=entry.id,
        task=state.id,
        owner=entry.owner,
        user=user,
        name=state.name,
        mime_type=state.mime_type,
        size=entry.size,
        created_at=now,
    )


def _state_of(row: AttachmentRow) -> TaskState:
    state = TaskState(id=row.task, attachment_id=row.id, name=row.name, mime_type=row.mime_type)
    if row.succeeded is True:
        state.succeed(row.tokens)
    elif row.succeeded is False:
        state.fail(row.detail)
    else:
        state.resume()
    return state


def _heard(task: asyncio.Task[Any]) -> None:
    """How work ended that nobody waits for."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("attachment.unheard_failure", error=str(error), kind=type(error).__name__)
