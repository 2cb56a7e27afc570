"""DocsGPT's uploads: files become attachments, and their tasks are polled (wire/docsgpt.md section 7)."""

import secrets
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from aiohttp import BodyPartReader, hdrs, web

from supervisor.attachments.names import name_of
from supervisor.attachments.service import Attachments, BusyRefusal, Received
from supervisor.attachments.state import Status, TaskState
from supervisor.causes import EXPLANATIONS, Cause, Refusal
from supervisor.http.arrivals import Arrival, Arrivals
from supervisor.http.early import answer_early
from supervisor.http.envelope import ROWS, encode
from supervisor.http.forms import Bounds, Form, Pace, Spool, discard
from supervisor.http.replies import error_reply, json_reply
from supervisor.store.errors import StoreError

if TYPE_CHECKING:
    from supervisor.http.credentials import Credentials
    from supervisor.settings import Settings

STORE: Final = "/api/store_attachment"
TASK: Final = "/api/task_status"

MOST_FIELDS: Final = 64  # of a form, besides its files
MOST_KEY: Final = 4096  # bytes
IDLE_SECONDS: Final = 30.0
FORM_SECONDS: Final = 600.0
PACE: Final = 1024  # bytes a second, for as long as it is not known who sends them
PACE_SECONDS: Final = 30.0
RETRY_SECONDS: Final = 5
NO_SPACE: Final = 507
BUSY: Final = 503
TEXTS: Final = {
    Cause.UNAUTHORIZED: "Authentication required",
    Cause.KEY_UNKNOWN: "Invalid API key",
    Cause.STORE_UNAVAILABLE: "Service unavailable",
    Cause.SHUTTING_DOWN: "Service unavailable",
}


@dataclass(slots=True)
class _Batch:
    """The files of one form so far: those that were received, what is wrong with the others, and their bytes."""

    arrival: Arrival
    received: dict[int, Received] = field(default_factory=dict)  # by their place in the form
    errors: list[dict[str, Any]] = field(default_factory=list)
    sent: int = 0

    def clear(self) -> None:
        """Remove what was not accepted, and count nothing any more."""
        for one in self.received.values():
            discard(one.path)
        self.arrival.clear()


class _TooLargeError(Exception):
    """A file is over the limit."""


class AttachmentsApi:
    """The handlers of uploads and of their tasks."""

    def __init__(self, settings: "Settings", attachments: Attachments, credentials: "Credentials") -> None:
        self._attachments = attachments
        self._credentials = credentials
        self._file_bytes = settings.attachment_file_bytes
        self._request_bytes = settings.attachment_request_bytes
        self._files_max = settings.attachment_files_max
        self._arrivals = Arrivals(settings.upload_total_bytes, settings.attachment_request_bytes)

    def routes(self) -> list[web.RouteDef]:
        """The routes of this API."""
        return [web.post(STORE, self.store), web.get(TASK, self.show)]

    async def store(self, request: web.Request) -> web.Response:
        """``POST /api/store_attachment``."""
        try:
            return await self._store(request)
        except Refusal as refusal:
            return await answer_early(request, self._refused(refusal))

    async def show(self, request: web.Request) -> web.Response:
        """``GET /api/task_status``: knowing a task's id is the permission to ask for it."""
        task_id = request.query.get("task_id", "")
        if not task_id:
            body = {"success": False, "message": "Task ID is required"}
            return error_reply(Cause.BODY_INVALID, ROWS[Cause.BODY_INVALID].status, encode(body))
        try:
            state = await self._attachments.task(task_id)
        except StoreError:
            return self._refused(Refusal(Cause.STORE_UNAVAILABLE))
        return json_reply(encode({"status": state.status, "result": result_of(state)}))

    async def _store(self, request: web.Request) -> web.Response:
        if (request.content_length or 0) > self._request_bytes:
            raise Refusal(Cause.BODY_TOO_LARGE)
        self._credentials.take_key(request, request.query.get("api_key"))
        self._attachments.check_room()
        if request.content_type != "multipart/form-data":
            raise Refusal(Cause.BODY_INVALID)
        batch = _Batch(Arrival(self._arrivals, request.remote or ""))
        if self._is_known(request):
            batch.arrival.know()
        try:
            await self._receive(request, batch)
            if not batch.sent:
                raise Refusal(Cause.BODY_INVALID)
            user = self._credentials.owner(self._credentials.caller(request))
            if not batch.received:
                message = f"File exceeds the {self._file_bytes}-byte upload limit"
                body = {"success": False, "message": message, "errors": batch.errors}
                return error_reply(Cause.BODY_TOO_LARGE, ROWS[Cause.BODY_TOO_LARGE].status, encode(body))
            states = await self._attachments.accept(user, list(batch.received.values()))
        finally:
            batch.clear()
        return json_reply(encode(accepted(batch.sent, dict(zip(batch.received, states, strict=True)), batch.errors)))

    async def _receive(self, request: web.Request, batch: _Batch) -> None:
        form = Form(
            request,
            Bounds(self._request_bytes, self._files_max + MOST_FIELDS, MOST_KEY, IDLE_SECONDS, FORM_SECONDS),
            Pace(0 if batch.arrival.known else PACE, PACE_SECONDS),
        )
        async with form.reading() as parts:
            async for part in parts:
                if part.name == "file" and part.filename:
                    await self._take(form, part, batch)
                elif part.name == "api_key":
                    self._credentials.take_key(request, await _key(form, part))
                    if self._is_known(request):  # else the key was empty
                        batch.arrival.know()
                        form.hurry_no_more()
                else:
                    await form.skip(part)

    async def _take(self, form: Form, part: BodyPartReader, batch: _Batch) -> None:
        """One file of the form: received, or what is wrong with it."""
        index, batch.sent = batch.sent, batch.sent + 1
        name = name_of(part.filename or "", str(uuid.uuid4()))
        try:
            if len(batch.received) < self._files_max:
                await self._spool(form, part, batch, index, name)
                return
            error = f"More than {self._files_max} files; no more are taken at once"
        except _TooLargeError:
            error = f"File exceeds the {self._file_bytes}-byte upload limit"
        batch.errors.append({"upload_index": index, "filename": name, "error": error})
        await form.skip(part)

    async def _spool(self, form: Form, part: BodyPartReader, batch: _Batch, index: int, name: str) -> None:
        spool = Spool(self._attachments.incoming / secrets.token_hex(16))
        size = 0
        try:
            spool.create()
            while chunk := await form.chunk(part):
                batch.arrival.take(len(chunk))
                size += len(chunk)
                if size > self._file_bytes:
                    raise _TooLargeError  # noqa: TRY301 - what is done about it is done in one place
                await spool.write(chunk)
            await spool.flush()
        except BaseException:
            discard(spool.path)
            batch.arrival.give(size)
            raise
        batch.received[index] = Received(spool.path, name, size)

    def _is_known(self, request: web.Request) -> bool:
        """Whether it is known already who asks; a key may still come after the files."""
        try:
            self._credentials.caller(request)
        except Refusal:
            return False
        return True

    def _refused(self, refusal: Refusal) -> web.Response:
        cause = refusal.cause
        status = ROWS[cause].status
        body: dict[str, Any] = {"success": False, "message": TEXTS.get(cause, EXPLANATIONS[cause].message)}
        if cause is Cause.BODY_INVALID:
            body = {"status": "error", "message": "Missing file(s)"}
        elif cause is Cause.BODY_TOO_LARGE:
            body["message"] = f"Request exceeds the {self._request_bytes}-byte upload limit"
        elif cause is Cause.UPLOAD_FAILED:
            status = BUSY if isinstance(refusal, BusyRefusal) else NO_SPACE
            body["message"] = refusal.detail
        response = error_reply(cause, status, encode(body))
        if isinstance(refusal, BusyRefusal):
            response.headers[hdrs.RETRY_AFTER] = str(RETRY_SECONDS)
        elif cause is Cause.UNAUTHORIZED:
            response.headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
        return response


def accepted(sent: int, states: dict[int, TaskState], errors: list[dict[str, Any]]) -> dict[str, Any]:
    """The answer to an upload of so many files, of which those at these places of the form are taken."""
    if sent == 1:
        (state,) = states.values()
        message = "File uploaded successfully. Processing started."
        return {"success": True, "task_id": state.id, "attachment_id": state.attachment_id, "message": message}
    tasks = [
        {"task_id": state.id, "filename": state.name, "attachment_id": state.attachment_id, "upload_index": index}
        for index, state in states.items()
    ]
    message = f"{len(tasks)} file(s) uploaded successfully. Processing started."
    if not errors:
        return {"success": True, "tasks": tasks, "message": message}
    message = f"{message} {len(errors)} file(s) failed."
    return {"success": True, "tasks": tasks, "errors": errors, "message": message}


def result_of(state: TaskState) -> Any:
    """What a task's state is told with."""
    match state.status:
        case Status.PROGRESS:
            return {"current": state.current, "status": "Processing content"}
        case Status.SUCCESS:
            return {
                "attachment_id": state.attachment_id,
                "filename": state.name,
                "mime_type": state.mime_type,
                "token_count": state.tokens,
            }
        case Status.FAILURE:
            return state.detail
    return None


async def _key(form: Form, part: BodyPartReader) -> str:
    """The key in a part of the form. Raises Refusal(KEY_UNKNOWN) for what is too long for one."""
    data = bytearray()
    while chunk := await form.chunk(part):
        data += chunk
        if len(data) > MOST_KEY:
            raise Refusal(Cause.KEY_UNKNOWN)
    return data.decode("utf-8", "surrogateescape")
