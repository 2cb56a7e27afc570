"""TEN's vector documents: commands forwarded to a channel's worker (wire/ten.md section 10)."""

import asyncio
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import structlog
from aiohttp import web

from supervisor.causes import Cause, Refusal
from supervisor.channels.requests import SEPARATOR, check_channel_name
from supervisor.http import bodies
from supervisor.http.allowance import Allowance
from supervisor.http.intake import read_object
from supervisor.http.owned import OwnedTasks
from supervisor.http.principals import found
from supervisor.http.replies import answer
from supervisor.http.request_keys import REQUEST_ID, note
from supervisor.http.uploads import FOLDER, Receiver, Upload, discard, move_into

if TYPE_CHECKING:
    from supervisor.channels.channel import Channel
    from supervisor.channels.table import ChannelTable
    from supervisor.settings import Settings

log = structlog.get_logger()

UPDATE_COMMAND: Final = "update_querying_collection"
UPLOAD_COMMAND: Final = "file_chunk"
LEAST_FILE: Final = 4096  # what even an empty file takes on the disk


class VectorsApi:
    """The handlers below ``/vector/document``."""

    def __init__(self, settings: "Settings", table: "ChannelTable", owned: OwnedTasks) -> None:
        self._table = table
        self._owned = owned
        self._body_limit = settings.body_limit_bytes
        self._incoming = settings.state_dir / FOLDER
        self._total = settings.upload_total_bytes
        self._kept: WeakKeyDictionary[Channel, Allowance] = WeakKeyDictionary()
        arriving = Allowance(self._total, "the uploads that arrive now")
        self._receiver = Receiver(self._incoming, settings.upload_limit_bytes, arriving, self._admit)

    def routes(self) -> list[web.RouteDef]:
        """The routes of this API."""
        return [
            web.post("/vector/document/update", self.update),
            web.post("/vector/document/upload", self.upload),
        ]

    async def clear_leftovers(self) -> None:
        """Remove what a server that was killed had half received."""
        await asyncio.to_thread(_clear, self._incoming)

    async def update(self, request: web.Request) -> web.Response:
        """``POST /vector/document/update``: the worker shall query another collection."""
        values = bodies.read_fields(await read_object(request, self._body_limit), bodies.UPDATE)
        name = bodies.require_channel(values)
        note(request, channel=name, client_request_id=values["request_id"])
        payload = _command(UPDATE_COMMAND, request, values, values["collection"], values["file_name"])
        channel = found(request, self._table, name)
        await self._owned.finish(self._table.command(channel.name, payload))
        return answer({"channel_name": name})

    async def upload(self, request: web.Request) -> web.Response:
        """``POST /vector/document/upload``: a file for the worker, kept until its channel ends."""
        upload = await self._receiver.receive(request)
        try:
            return await self._accept(request, upload)
        finally:
            self._receiver.release(upload)

    async def _accept(self, request: web.Request, upload: Upload) -> web.Response:
        try:
            self._admit(request, upload.fields, complete=True)
            name = upload.fields["channel_name"]
            channel = found(request, self._table, name)
        except Refusal:
            discard(upload.path)
            raise
        note(request, channel=name, client_request_id=upload.fields.get("request_id", ""))
        collection = f"a{secrets.token_hex(16)}_{time.time_ns()}"
        payload = _command(UPLOAD_COMMAND, request, upload.fields, collection, upload.file_name)
        await self._owned.finish(self._deliver(upload.path, upload.size, channel, payload))
        return answer({"channel_name": name, "collection": collection, "file_name": upload.file_name})

    async def _deliver(self, path: Path, size: int, channel: "Channel", payload: dict[str, Any]) -> None:
        """Move the file into the channel's folder and tell the worker; on failure no file is left."""
        try:
            with self._allowance(channel).held(max(size, LEAST_FILE)):
                path = await self._keep(path, channel)
                await self._table.command(channel.name, payload | {"path": str(path)})
        except BaseException:
            discard(path)
            raise

    async def _keep(self, path: Path, channel: "Channel") -> Path:
        try:
            kept = await asyncio.to_thread(move_into, path, channel.folder)
        except OSError as error:
            self._check_running(channel)  # a folder that went with its channel is no failure of the disk
            raise Refusal(Cause.UPLOAD_FAILED, f"the file could not be stored: {error.strerror}") from error
        try:
            self._check_running(channel)  # it may go while the file comes: its folder may be half removed
        except Refusal:
            discard(kept)
            raise
        return kept

    def _admit(self, request: web.Request, fields: Mapping[str, str], *, complete: bool = False) -> None:
        """Refuse an upload by its channel, as soon as that is known; parts come in any order."""
        if "channel_name" not in fields and not complete:
            return
        name = bodies.require_channel({"channel_name": "", **fields})
        try:
            check_channel_name(name)
        except Refusal as refusal:
            raise Refusal(Cause.BODY_INVALID, refusal.detail) from refusal
        self._allowance(found(request, self._table, name)).check(LEAST_FILE)

    def _allowance(self, channel: "Channel") -> Allowance:
        """What is left to the uploads of a channel while it lives, whatever its worker removes of them."""
        return self._kept.setdefault(channel, Allowance(self._total, f"the uploads of channel {channel.name!r}"))

    def _check_running(self, channel: "Channel") -> None:
        if self._table.get(channel.name) is not channel:
            raise Refusal(Cause.CHANNEL_UNKNOWN, f"no channel {channel.name.rpartition(SEPARATOR)[2]!r} is running")


def _command(
    command: str, request: web.Request, values: Mapping[str, Any], collection: str, file_name: str
) -> dict[str, Any]:
    """The command as TEN's workers know it: `filename` without underscore."""
    return {
        "request_id": values.get("request_id") or request[REQUEST_ID],
        "channel_name": values["channel_name"],
        "collection": collection,
        "filename": file_name,
        "ten": {"name": command, "type": "cmd"},
    }


def _clear(folder: Path) -> None:
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        log.info("upload.leftover_removed", file=path.name)
        path.unlink(missing_ok=True)
