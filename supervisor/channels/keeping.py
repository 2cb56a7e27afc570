"""One channel on record: what a later supervisor finds of it, for as long as that may matter."""

from collections.abc import Callable
from typing import Any

from supervisor.channels.files import ChannelFiles
from supervisor.channels.record import Recorded, record_of
from supervisor.channels.surroundings import Surroundings


class Keeping:
    """Writes a channel's records. A disk that is full is no end of a session: then it cannot be adopted, no more."""

    def __init__(
        self, channel: Recorded, files: ChannelFiles, around: Surroundings, slot: Callable[[], int], logger: Any
    ) -> None:
        """`slot` tells the channel's place among the marks of pings; `logger` is a structlog logger."""
        self._channel = channel
        self._files = files
        self._around = around
        self._slot = slot
        self._log = logger
        self._start_time = 0
        self._is_known = False

    def born(self, start_time: int) -> None:
        """Its worker exists since `start_time`, in clock ticks since the boot."""
        self._start_time = start_time

    def adopted(self, slot: int) -> None:
        """It is on record, with this place among the marks; it may have got another one meanwhile."""
        self._is_known = True
        if self._slot() != slot:
            self.put()

    def put(self) -> None:
        """Have it known as it is now: its worker is ready, so that its start may be answered."""
        files = (self._files.log_file, self._files.property_file)
        try:
            record = record_of(
                self._channel,
                files,
                self._slot(),
                start_time=self._start_time,
                boot_id=self._around.spawner.hello["boot_id"],
                instance=self._around.instance,
            )
            self._files.write_record(record.model_dump_json().encode())
            self._is_known = True
        except (OSError, ValueError) as error:
            self._log.error("channel.record_unwritten", error=str(error))

    def put_ending(self) -> None:
        """Have it known that it was told to end. One that was never ready is not known, and will not be."""
        if self._is_known:
            self.put()

    def note_turn(self, record: bytes | None) -> None:
        """Have the turn known that it is at; None: it is at none."""
        try:
            self._files.write_turn_record(record)
        except OSError as error:
            self._log.error("channel.record_unwritten", error=str(error))

    def forget_when_recorded(self) -> None:
        """Its end was announced. Once that is in the ledger, nobody needs its records or its receipt any more."""
        self._around.recorded(self.forget)

    def forget(self) -> None:
        """Remove the records, and have the spawner drop the receipt."""
        try:
            self._files.forget()
        except OSError as error:
            self._log.warning("channel.record_left", error=str(error))
        self._around.spawner.forget(self._channel.id)
