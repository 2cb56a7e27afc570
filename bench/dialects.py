"""Other people's APIs: the same agents, the same client; what differs is how an event looks."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from uuid import NAMESPACE_OID, uuid5

from bench.figures import Figure, percentile
from bench.server import BenchServer
from bench.streams import STREAM, Reader, connect, post

STREAMS: Final = 50
DELTAS: Final = 2000  # of each stream
MARK: Final = b"data:"
KEPT: Final = 4  # the last reads of a stream, in which its last event is

Ask = Callable[[str, str], dict[str, Any]]


@dataclass(frozen=True)
class Dialect:
    """An API: where and how it is asked, what its last frame has, and what is promised.

    That is how many events a second on one stream and on fifty, and in how many milliseconds the slowest of fifty has
    its first.
    """

    path: str
    body: Ask
    ending: bytes
    promises: tuple[float | None, float | None] = (None, None)
    first: float | None = None
    headers: str = ""
    named: bool = False  # the server names the conversations

    def request(self, session: str, count: int) -> bytes:
        """A turn of so many deltas."""
        path = self.path.replace("{conversation}", str(uuid5(NAMESPACE_OID, session)))
        return post(path, {**self.body(session, str(count)), "stream": True}, self.headers)


# The names that a server has given to conversations, by ours.
NAMES: Final[dict[str, str]] = {}
NAME: Final = re.compile(rb'"type": "id", "id": "([0-9a-f-]{36})"')


def docsgpt(session: str, text: str) -> dict[str, Any]:
    """A question in the conversation that it went by before."""
    return {"question": text, "conversation_id": NAMES.get(session)}


# Three times what the runtime that the first two are from does in one process; as much as Reminix's own does.
DIALECTS: Final = (
    Dialect(
        "/process",
        lambda session, text: {
            "input": [{"role": "user", "content": [{"type": "text", "text": text}]}],
            "session_id": session,
        },
        b"data: [DONE]",
        (40_800, 40_800),
    ),
    Dialect(
        "/compatible-mode/v1/responses",
        lambda session, text: {"model": "stream", "input": text, "session_id": session},
        b"event: response.completed",
        (34_800, 34_800),
    ),
    Dialect(
        "/v1/chat/completions",
        lambda session, text: {
            "model": "stream",
            "messages": [{"role": "user", "content": text}],
            "session_id": session,
        },
        b"data: [DONE]",
    ),
    Dialect(
        "/agent/stream/chat",
        lambda session, text: {
            "messages": [{"role": "user", "content": text}],
            "context": {"conversation_id": session},
        },
        b"data: [DONE]",
        (50_000, 70_000),
        first=100,
    ),
    Dialect(
        "/v1/p/agents/stream/conversations/{conversation}",
        lambda _, text: {"query": text},
        b'data:{"event":"done"',
        headers="X-Auth-Token: any\r\n",
    ),
    Dialect("/stream", docsgpt, b'{"type": "end"}', headers="Content-Type: application/json\r\n", named=True),
)


async def asked(server: BenchServer, dialect: Dialect, sessions: list[str], count: int) -> list[Reader]:
    """A turn in each session at the same time, read to its end. Raises RuntimeError for one that is not whole."""
    requests = [dialect.request(session, count) for session in sessions]
    readers = await asyncio.gather(*(connect(server, ask, mark=MARK, kept=KEPT) for ask in requests))
    await asyncio.gather(*(reader.over for reader in readers))
    for session, reader in zip(sessions, readers, strict=True):
        end = b"".join(reader.end)
        if reader.events < count or dialect.ending not in end:
            raise RuntimeError(f"{dialect.path}: {reader.events} events for {count} deltas, and then {end[-500:]!r}")
        if dialect.named and (name := NAME.search(end)):
            NAMES[session] = name[1].decode()
        reader.transport.close()  # type: ignore[union-attr]
    return readers


async def measured(server: BenchServer, dialect: Dialect, streams: int, rounds: int) -> list[Figure]:
    """Rounds of so many streams at once, in sessions of their own whose workers wait and have said a word before."""
    rates, first, events, used = [], [], 0, 0.0
    for number in range(rounds):
        sessions = [f"{streams}-{number}-{each}" for each in range(streams)]
        await asked(server, dialect, sessions, 1)
        before = server.cpu_seconds()
        readers = await asked(server, dialect, sessions, DELTAS)
        used += server.cpu_seconds() - before
        seconds = max(reader.last for reader in readers) - min(reader.asked for reader in readers)
        count = sum(reader.events for reader in readers)
        events += count
        rates.append(count / seconds)
        first.append(slowest(readers))
    figures = [
        Figure(
            f"{dialect.path}: events/s, {streams} stream{'s' * (streams > 1)}",
            percentile(rates, 0.5),
            "/s",
            at_least=dialect.promises[streams > 1],
        ),
        Figure("  CPU of the server for one", used / events * 1e6, "us"),
    ]
    if streams > 1:
        late = percentile(first, 0.5)
        figures.append(Figure("  first event of the slowest stream", late, "ms", at_most=dialect.first))
    return figures


def slowest(readers: list[Reader]) -> float:
    """How long the last of them waited for its first event, in milliseconds."""
    return max(reader.first - reader.asked for reader in readers) * 1e3


async def short_turns(server: BenchServer, dialect: Dialect, rounds: int) -> list[Figure]:
    """What fifty turns at once cost that have one event: nothing but the turns themselves; and fifty new workers."""
    short, new = [], []
    for number in range(rounds):
        sessions = [f"short-{number}-{each}" for each in range(STREAMS)]
        new.append(slowest(await asked(server, dialect, sessions, 1)))
        short.append(slowest(await asked(server, dialect, sessions, 1)))
    return [
        Figure("  the same, of turns with one event", percentile(short, 0.5), "ms"),
        Figure("  the same, with new workers", percentile(new, 0.5), "ms"),
    ]


async def dialect_rate(quick: bool) -> list[Figure]:
    """2,000 small deltas on one stream, and on fifty, through each API; from the request to the end."""
    figures = []
    for dialect in DIALECTS:
        NAMES.clear()
        async with BenchServer(graphs=[STREAM], WORKERS_MAX="400") as server:
            for count in (1, 100):  # starts the workers, then warms up all the way
                await asked(server, dialect, [f"s{number}" for number in range(STREAMS)], count)
            figures += await measured(server, dialect, 1, 5 if quick else 25)
            figures += await measured(server, dialect, STREAMS, 3 if quick else 9)
            figures += await short_turns(server, dialect, 3 if quick else 9)
            figures.append(Figure("  memory of the server", server.rss_mb(), "MB"))
    return figures


SCENARIOS: Final = {"dialects": dialect_rate}
