"""``agentd drain``: begin no more channels, see who is still there, wait until nobody is."""

from typing import Any, Final

from supervisor.cli import output
from supervisor.cli.client import Client
from supervisor.cli.errors import REFUSED, CommandError

WAIT_SECONDS: Final = 30.0  # that the server may take to answer one look
SHOWN: Final = 20  # rows of those who are waited for; the first ones

# Heading, key of the channel's JSON, and how it is shown.
COLUMNS: Final = (
    ("NAME", "name", output.text),
    ("GRAPH", "graph", output.text),
    ("STATE", "state", output.text),
    ("AGE", "age_seconds", output.duration),
    ("LAST PING", "last_ping_seconds", output.duration),
    ("TIME LEFT", "time_left_seconds", lambda seconds: "never" if seconds is None else output.duration(seconds)),
    ("TURNS", "turns", output.text),
)
NUMBERS: Final = ("AGE", "LAST PING", "TIME LEFT", "TURNS")

Answer = dict[str, Any]


class Draining:
    """A drain as one command sees it. All methods raise CommandError."""

    def __init__(self, client: Client, *, as_json: bool) -> None:
        self._client = client
        self._as_json = as_json

    def begin(self, deadline: float | None) -> None:
        """Begin it, or give it another deadline; show who is there."""
        self._show(self._client.drain("POST", deadline=deadline))

    def look(self) -> None:
        """Show how far it is."""
        self._show(self._client.drain("GET"))

    def undo(self) -> None:
        """Let channels begin again."""
        answer = self._client.drain("DELETE")
        if self._as_json:
            output.write_json(answer)
        else:
            output.write_line("channels begin again")

    def follow(self) -> int:
        """Wait until nothing is left; the exit code: 1 when some had to be stopped at the deadline."""
        left = -1
        while True:
            answer = self._client.drain("GET", wait=WAIT_SECONDS)
            count = len(answer["channels"])
            if not answer["draining"]:
                raise CommandError(
                    REFUSED,
                    cause="drain_undone",
                    message="the server does not drain",
                    next_step="begin it with `agentd drain`",
                )
            if not count:
                break
            if count != left:
                left = count
                self._show(answer)
        if self._as_json:
            output.write_json(answer)
        else:
            cut = answer["cut"]
            output.write_line(f"empty; {cut} stopped at the deadline" if cut else "empty")
        return REFUSED if answer["cut"] else 0

    def _show(self, answer: Answer) -> None:
        if self._as_json:
            output.write_json(answer)
            return
        channels = answer["channels"]
        output.write_line(_told(answer, len(channels)))
        if channels:
            rows = ([show(channel.get(key)) for _, key, show in COLUMNS] for channel in channels[:SHOWN])
            output.write_table([heading for heading, _, _ in COLUMNS], rows, right=NUMBERS)
        if len(channels) > SHOWN:
            output.write_line(f"and {len(channels) - SHOWN} more")


def _told(answer: Answer, count: int) -> str:
    if not answer["draining"]:
        return f"not draining; {count} channels"
    left = answer["time_left_seconds"]
    return f"draining, {count} channels left" + ("" if left is None else f", {output.duration(left)} to the deadline")
