"""The HTTP application: its routes, the door every request passes (door.py), its start and its end."""

import resource
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import structlog
from aiohttp import web

from supervisor.http import agentscope, responses
from supervisor.http.agentscope import ProcessApi
from supervisor.http.channel_logs import LogsApi
from supervisor.http.channels import ChannelsApi, Sampler
from supervisor.http.completions import CompletionsApi
from supervisor.http.connections import CONNECTIONS, Connections, most_connections
from supervisor.http.control import ControlApi
from supervisor.http.dialects import agentscope_objects, openai_errors
from supervisor.http.dialects.base import TurnHandler
from supervisor.http.docsgpt import Conversations, DocsGptApi
from supervisor.http.docsgpt_attachments import AttachmentsApi
from supervisor.http.door import Door
from supervisor.http.drain import DrainApi
from supervisor.http.events import EventsApi
from supervisor.http.huawei import HuaweiApi
from supervisor.http.kept import Kept, Restore, Shelf
from supervisor.http.ledger import LedgerApi, Records
from supervisor.http.openapi import DescriptionApi
from supervisor.http.owned import OwnedTasks
from supervisor.http.probes import Details, ProbesApi
from supervisor.http.reminix import ReminixApi
from supervisor.http.responses import ResponsesApi
from supervisor.http.streams import STREAMS, Streams
from supervisor.http.turns import TurnsApi
from supervisor.http.vectors import VectorsApi
from supervisor.setting_types import is_loopback

if TYPE_CHECKING:
    from supervisor.attachments.service import Attachments
    from supervisor.catalog import GraphCatalog
    from supervisor.channels.feed import Feed
    from supervisor.channels.table import ChannelTable
    from supervisor.http.credentials import Credentials
    from supervisor.settings import Settings
    from supervisor.store.records import ResponseRow
    from supervisor.turns.drain import Drain
    from supervisor.turns.sessions import Sessions
    from supervisor.turns.turn import Turn

log = structlog.get_logger()

DRAIN_MARGIN_SECONDS: Final = 5.0
RESTORE: Final[Mapping[str, Restore]] = MappingProxyType(
    {openai_errors.SOURCE: responses.restored, agentscope_objects.SOURCE: agentscope.restored}
)


def build_app(
    settings: "Settings",
    table: "ChannelTable",
    catalog: "GraphCatalog",
    *,
    sample: Sampler,
    details: Details,
    sessions: "Sessions",
    lives: "Feed",
    records: Records,
    shelf: Shelf,
    conversations: Conversations,
    credentials: "Credentials",
    attachments: "Attachments",
    drain: "Drain",
    unfinished: "Iterable[tuple[ResponseRow, Turn | None]]" = (),
) -> web.Application:
    """The application for `table`.

    `sample` measures channels (bounded by a timeout here), `details` gives the data of ``/health?details=1``; `lives`
    tells what happens to channels, `records` what has become of them; `shelf` keeps answers, `conversations` what was
    said, `attachments` the files of users; `credentials` knows who may call; `drain` is the server's; `unfinished`
    are answers that an earlier server began, with their turns. On shutdown
    streams end by themselves; on clean-up the application waits for starts and stops that requests began, so the
    table must still live then, or have refused them. Run it with `make_runner` and `Site` of connections.py.
    """
    owned = OwnedTasks()
    streams = Streams()
    handler = TurnHandler(sessions, streams)
    kept = Kept(sessions, shelf)
    process = ProcessApi(settings, catalog, sessions, handler, kept)
    apis = (
        ProbesApi(details, sessions, drain),
        ControlApi(settings, table, catalog, owned, process.interrupt),
        ChannelsApi(settings, table, sample, owned, sessions, records),
        LogsApi(settings, table, streams),
        EventsApi(table, lives, sessions, streams),
        TurnsApi(settings, sessions, handler),
        LedgerApi(records),
        DrainApi(drain, sessions, streams),
        process,
        ResponsesApi(settings, catalog, handler, kept, streams),
        CompletionsApi(settings, catalog, handler),
        ReminixApi(settings, catalog, handler),
        HuaweiApi(settings, catalog, handler),
        DocsGptApi(settings, catalog, handler, credentials, attachments, conversations),
        AttachmentsApi(settings, attachments, credentials),
        DescriptionApi(settings),
    )
    vectors = VectorsApi(settings, table, owned)
    open_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    connections = Connections(most_connections(settings, open_files), settings.head_seconds)
    door = Door(settings, connections, credentials)
    app = web.Application(middlewares=[door.handle], client_max_size=settings.body_limit_bytes)
    for api in (*apis, vectors):
        app.add_routes(api.routes())
    app.on_response_prepare.append(door.finish_headers)
    app[CONNECTIONS], app[STREAMS] = connections, streams

    async def start_up(_: web.Application) -> None:
        _tell(settings, connections.most, open_files, unprotected=credentials.open)
        for row, turn in unfinished:
            kept.adopt(row, turn, RESTORE)
        await vectors.clear_leftovers()

    async def shut_down(_: web.Application) -> None:
        streams.close()
        connections.close()

    async def clean_up(_: web.Application) -> None:
        longest = max(settings.worker_start_timeout_seconds, settings.worker_stop_grace_seconds)
        await owned.drain(longest + DRAIN_MARGIN_SECONDS)
        await kept.drain(DRAIN_MARGIN_SECONDS)

    app.on_startup.append(start_up)
    app.on_shutdown.append(shut_down)
    app.on_cleanup.append(clean_up)
    return app


def _tell(settings: "Settings", most: int, open_files: int, *, unprotected: bool) -> None:
    """Log what an operator should know about how open the server is."""
    if unprotected:
        hosts = [address.host for address in settings.addresses]
        local = all(map(is_loopback, hosts))
        write = log.info if local else log.warning
        write("server.unprotected", hosts=hosts, loopback=local, allowed_hosts=list(settings.allowed_hosts))
    if most < settings.connections_max:
        log.warning(
            "http.connections_bounded", most=most, connections_max=settings.connections_max, open_files=open_files
        )
