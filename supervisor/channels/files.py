"""What a channel has on the disk: its folder, its log and, for a foreign worker, its property file."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from supervisor.attachments.handout import Handout
from supervisor.processes.bundle import Bundle, remove
from supervisor.processes.logs import LogSink
from supervisor.processes.targets import FileTarget, StdoutTarget
from worker.spawn import ERR_FIFO, OUT_FIFO

if TYPE_CHECKING:
    from supervisor.channels.surroundings import Surroundings


LOG_SECONDS: Final = 2.0  # for a worker's last lines to be written, on a disk that is slow


class ChannelFiles:
    """Made with the channel and removed with it, but for its log."""

    def __init__(
        self, state_dir: Path, channel_id: str, log_file: Path, property_file: Path, handout: Handout | None = None
    ) -> None:
        """`handout` is for a worker that may not read attachments where they lie."""
        self.log_file = log_file
        self._handout = handout
        self.property_file = property_file
        self._bundle = Bundle(state_dir, channel_id)
        self._sink: LogSink | None = None

    @property
    def folder(self) -> Path:
        """The channel's own folder, with its FIFOs."""
        return self._bundle.folder

    def create(self, properties: bytes | None) -> None:
        """Make the folder and, with `properties`, the property file, which may hold secrets. Raises OSError."""
        self._bundle.create()
        if self._handout is not None:
            self._handout.create()
        if properties is not None:
            fd = os.open(self.property_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(properties)

    def collect(self, around: "Surroundings", channel: str) -> None:
        """From now on the worker's output goes where the settings say, at their rate. Raises OSError."""
        settings = around.settings
        to_file = FileTarget(self.log_file, settings.log_file_bytes)
        target = StdoutTarget(channel) if settings.log_stdout else to_file
        self._sink = LogSink(self.folder, (OUT_FIFO, ERR_FIFO), target, around.writer, settings.log_rate_bytes)

    @property
    def handed_out(self) -> Path | None:
        """The folder in which the worker finds the files it is given; None: they are where they are."""
        return None if self._handout is None else self._handout.folder

    async def hand_out(self, request: dict[str, Any]) -> dict[str, Any]:
        """The request of a turn with its attachments where the worker may read them."""
        attachments = request.get("attachments")
        if self._handout is None or not attachments:
            return request
        return {**request, "attachments": await asyncio.to_thread(self._handout.give, attachments)}

    def write_record(self, record: bytes) -> None:
        """What a later supervisor has to know of the channel. Raises OSError."""
        self._bundle.write_record(record)

    def write_turn_record(self, record: bytes | None) -> None:
        """The same of the turn it is at, None: it is at none. Raises OSError."""
        if record is None:
            self._bundle.forget_turn()
        else:
            self._bundle.write_turn(record)

    def forget(self) -> None:
        """Remove the records. Raises OSError."""
        self._bundle.forget()

    def write_turn(self, name: str, data: bytes) -> None:
        """Put what a turn asks into the channel's folder, for the worker to take. Raises OSError. Blocks."""
        fd = os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)

    def remove_turn(self, name: str) -> None:
        """Remove what no worker will take. What cannot be removed goes with the folder."""
        with contextlib.suppress(OSError):
            (self.folder / name).unlink()

    def close(self) -> None:
        """The worker has ended: take what is left of its output, then let go."""
        if self._sink is not None:
            self._sink.close()

    def leave(self) -> None:
        """What the worker says from now on is for a successor."""
        if self._sink is not None:
            self._sink.leave()

    async def remove(self) -> None:
        """Remove all but the log and the records, once the worker's last lines are in the log. Raises OSError.

        Should we die before that, the next server finds them where they are.
        """
        if self._sink is not None:
            await self._sink.over(LOG_SECONDS)
        if not self._remove_own():
            await _in_daemon(self.remove_all)  # the worker left files of its own, perhaps many

    def _remove_own(self) -> bool:
        try:
            self.property_file.unlink(missing_ok=True)
            if self._handout is not None:
                self._handout.remove()
        except OSError:  # `remove_all` can tell what is in the way
            return False
        return self._bundle.remove_own()

    def remove_all(self) -> None:
        """The same, whatever it takes. Raises OSError. Blocks."""
        try:
            remove(self.property_file)
            if self._handout is not None:
                self._handout.remove()
        finally:
            self._bundle.remove()


async def _in_daemon(function: Callable[[], None]) -> None:
    """Run a function in a thread that does not hold up the end of the server, as one of a pool would."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[OSError | None] = loop.create_future()

    def answer(error: OSError | None) -> None:
        if not done.done():
            done.set_result(error)

    def run() -> None:
        error: OSError | None = None
        try:
            function()
        except OSError as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile: nobody waits
            loop.call_soon_threadsafe(answer, error)

    threading.Thread(target=run, name="channel files", daemon=True).start()
    if (error := await done) is not None:
        raise error
