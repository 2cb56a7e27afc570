"""What the server does for whom: every operation with its parameters, its answers and its refusals. Data."""

from collections.abc import Mapping
from typing import Final

from supervisor.causes import Cause
from supervisor.http import bodies
from supervisor.http.channel_logs import LogsQuery
from supervisor.http.channels import ChannelBody, StopQuery
from supervisor.http.dialects.native import SessionTurnBody, TurnBody
from supervisor.http.drain import DrainQuery, WaitQuery
from supervisor.http.events import LAST_EVENT_ID, ChannelEventsQuery, LifeEventsQuery
from supervisor.http.ledger import LedgerQuery
from supervisor.http.operation import JSON, Answer, Operation
from supervisor.http.schemas import FLAG, TEXT, Schema, maybe, record, ref

EVENTS: Final = "text/event-stream"
PLAIN: Final = "text/plain"
FORM: Final = "multipart/form-data"


EVERYWHERE: Final = (
    Cause.UNAUTHORIZED,
    Cause.TOKEN_INVALID,
    Cause.TOKEN_EXPIRED,
    Cause.SCOPE_MISSING,
    Cause.ORIGIN_REFUSED,
    Cause.HOST_REFUSED,
    Cause.INTERNAL,
)
BODY: Final = (Cause.BODY_INVALID, Cause.BODY_TOO_LARGE)
NO_CHANNEL: Final = (Cause.CHANNEL_UNKNOWN,)
ENDINGS: Final = (
    Cause.STOPPED,
    Cause.KILLED,
    Cause.LAPSED,
    Cause.EXITED,
    Cause.CRASHED,
    Cause.OUT_OF_MEMORY,
    Cause.PROTOCOL_VIOLATED,
    Cause.SERVER_STOPPED,
    Cause.DRAINED,
    Cause.SERVER_LOST,
    Cause.SPAWNER_LOST,
    Cause.ADOPTION_FAILED,
    Cause.STOP_FAILED,
    Cause.SESSION_IDLE,
    Cause.SESSION_EVICTED,
    Cause.SESSION_MOVED,
    Cause.TURN_ENDED,
    Cause.CANCEL_IGNORED,
)
START: Final = (
    Cause.CHANNEL_NAME_REFUSED,
    Cause.CHANNEL_EXISTS,
    Cause.WORKERS_LIMIT,
    Cause.GRAPH_LIMIT,
    Cause.KEY_LIMIT,
    Cause.GRAPH_UNKNOWN,
    Cause.PROPERTY_UNREADABLE,
    Cause.PROPERTY_INVALID,
    Cause.PLACEHOLDER_UNRESOLVED,
    Cause.OVERRIDE_REFUSED,
    Cause.TOKEN_FAILED,
    Cause.SHUTTING_DOWN,
    Cause.DRAINING,
    Cause.SPAWN_FAILED,
    Cause.ADDONS_MISSING,
    Cause.GRAPH_INVALID,
    Cause.EXITED_BEFORE_READY,
    Cause.START_TIMEOUT,
    *ENDINGS,
)
TURN: Final = (
    Cause.CHANNEL_UNKNOWN,
    Cause.SESSION_BUSY,
    Cause.SESSION_QUEUE_FULL,
    Cause.KEY_LIMIT,
    Cause.STORE_UNAVAILABLE,
    Cause.SHUTTING_DOWN,
    Cause.COMMAND_UNDELIVERED,
    Cause.NOT_IMPLEMENTED,
    Cause.AGENT_ERROR,
    Cause.RESPONSE_INVALID,
    Cause.TURN_CANCELLED,
    Cause.TURN_TIMEOUT,
    Cause.TURN_SILENT,
)


def _json(description: str, schema: str, *headers: str, status: int = 200) -> Mapping[int, Answer]:
    return {status: Answer(description, {JSON: ref(schema)}, headers)}


ANSWERED: Final = {
    200: Answer("the answer, whole or by events", {JSON: ref("Answer"), EVENTS: ref("Event")}),
}
FOLLOWED: Final = {200: Answer("events, each as its lines say", {EVENTS: ref("Event")})}

NATIVE: Final = (
    Operation(
        method="get",
        path="/channels",
        name="listChannels",
        summary="Every channel there is, starting and stopping ones too",
        answers=_json("all channels", "Channels"),
    ),
    Operation(
        method="post",
        path="/channels",
        name="startChannel",
        summary="Start a channel; answers when its worker is ready",
        body=ChannelBody,
        answers=_json("the channel", "ChannelWhole", "Location", status=201),
        refusals=(*BODY, Cause.CHANNEL_EMPTY, *START),
    ),
    Operation(
        method="get",
        path="/channels/{name}",
        name="showChannel",
        summary="One channel; of one that has ended, its ending",
        answers=_json("the channel", "ChannelWhole"),
        refusals=NO_CHANNEL,
        told_otherwise={404: "NoChannel"},
    ),
    Operation(
        method="delete",
        path="/channels/{name}",
        name="stopChannel",
        summary="Stop a channel; answers when nothing of its process tree is left",
        query=StopQuery,
        answers=_json("the receipt", "Stopped"),
        refusals=(Cause.BODY_INVALID, Cause.CHANNEL_UNKNOWN, Cause.STOP_FAILED),
    ),
    Operation(
        method="patch",
        path="/channels/{name}/properties",
        name="updateChannel",
        summary="Give nodes of a live worker new properties; all are taken, or none",
        body={
            "type": ["object", "null"],
            "description": "{node: {property: value}}",
            "additionalProperties": {"type": ["object", "null"]},
        },
        answers=_json("the nodes as they are now", "Updated"),
        refusals=(*BODY, *NO_CHANNEL, Cause.OVERRIDE_REFUSED, Cause.UPDATE_REFUSED, Cause.COMMAND_UNDELIVERED),
    ),
    Operation(
        method="get",
        path="/channels/{name}/logs",
        name="readLog",
        summary="What the worker wrote to its output",
        query=LogsQuery,
        answers={200: Answer("lines", {PLAIN: TEXT})},
        refusals=(Cause.BODY_INVALID, *NO_CHANNEL, Cause.NOT_FOUND),
    ),
    Operation(
        method="get",
        path="/channels/{name}/events",
        name="followChannel",
        summary="Everything the worker says, as it says it, until the channel has ended",
        query=ChannelEventsQuery,
        headers=(LAST_EVENT_ID,),
        answers=FOLLOWED,
        refusals=(Cause.BODY_INVALID, *NO_CHANNEL, Cause.TURN_UNKNOWN),
    ),
    Operation(
        method="post",
        path="/channels/{name}/turns",
        name="askChannel",
        summary="Ask the agent of a channel that runs",
        body=TurnBody,
        answers=ANSWERED,
        refusals=(*BODY, *TURN, *ENDINGS),
        failure="Failure",
    ),
    Operation(
        method="delete",
        path="/channels/{name}/turns/{turn}",
        name="cancelTurn",
        summary="Cancel a turn that waits or runs; answers when it has ended",
        answers=_json("how it ended", "Cancelled"),
        refusals=(Cause.TURN_UNKNOWN,),
    ),
    Operation(
        method="post",
        path="/turns",
        name="askSession",
        summary="Ask the agent of a session, whose worker is started on demand; without one, in a worker of its own",
        body=SessionTurnBody,
        answers=ANSWERED,
        refusals=(*BODY, *START, *TURN),
        failure="Failure",
    ),
    Operation(
        method="get",
        path="/events",
        name="followLives",
        summary="What happens to channels, as it happens",
        query=LifeEventsQuery,
        headers=(LAST_EVENT_ID,),
        answers=FOLLOWED,
        refusals=(Cause.BODY_INVALID,),
    ),
    Operation(
        method="get",
        path="/ledger",
        name="readLedger",
        summary="What has become of channels, newest first",
        query=LedgerQuery,
        answers=_json("lives of channels", "Lives"),
        refusals=(Cause.BODY_INVALID, Cause.STORE_UNAVAILABLE),
    ),
    Operation(
        method="post",
        path="/drain",
        name="drain",
        summary="Begin no more channels; with a deadline stop what is then still there",
        query=DrainQuery,
        answers=_json("who holds it up", "Drain"),
        refusals=(Cause.BODY_INVALID,),
    ),
    Operation(
        method="get",
        path="/drain",
        name="showDrain",
        summary="How far a drain is, and who holds it up",
        query=WaitQuery,
        answers=_json("who holds it up", "Drain"),
        refusals=(Cause.BODY_INVALID,),
    ),
    Operation(
        method="delete",
        path="/drain",
        name="undoDrain",
        summary="Begin channels again",
        answers=_json("who is there", "Drain"),
    ),
    Operation(
        method="get",
        path="/openapi.json",
        name="describe",
        summary="This description",
        answers={200: Answer("an OpenAPI document", {JSON: {"type": "object"}})},
    ),
)

_KINDS: Final[Mapping[bodies.Kind, Schema]] = {
    bodies.ANY: {},
    bodies.STRING: {"type": ["string", "null"]},
    bodies.OBJECT: {"type": ["object", "null"]},
    bodies.UID: {"type": ["integer", "null"], "minimum": 0, "maximum": 2**32 - 1},
    bodies.INTEGER_32: {"type": ["integer", "null"], "minimum": -(2**31), "maximum": 2**31 - 1},
    bodies.INTEGER_64: {"type": ["integer", "null"], "minimum": -(2**63), "maximum": 2**63 - 1},
}


def _fields(schema: tuple[bodies.Field, ...], *required: str) -> Schema:
    properties = {one.name: _KINDS[one.kind] for one in schema}
    return {"type": "object", "properties": properties, "required": list(required)}


def _ten(
    method: str,
    path: str,
    name: str,
    summary: str,
    *refusals: Cause,
    body: Schema | None = None,
    body_type: str = JSON,
) -> Operation:
    return Operation(
        method=method,
        path=path,
        name=name,
        summary=summary,
        answers=_json("the envelope; `code` tells whether it went well", "Envelope"),
        refusals=(*(() if body is None else BODY), *refusals),
        body=body,
        body_type=body_type,
        failure="Envelope",
    )


def _probe(path: str, name: str, summary: str, answers: Mapping[int, Answer]) -> Operation:
    return Operation(method="get", path=path, name=name, summary=summary, answers=answers, failure="Envelope")


def _status(description: str, status: str, *reasons: Cause) -> Answer:
    why: dict[str, Schema] = {"reason": {"enum": [cause.value for cause in reasons]}} if reasons else {}
    return Answer(description, {JSON: record({"status": {"const": status}, **why})})


_HEALTH: Final = {
    200: Answer(
        "it does",
        {
            JSON: record(
                {
                    "code": {"const": "0"},
                    "msg": {"const": "ok"},
                    "data": maybe({"type": "object"}),
                    "status": {"const": "healthy"},
                    "runner": {"const": "ready"},
                },
                {"draining": FLAG},
            )
        },
    )
}
_UPLOAD: Final[Schema] = {
    "type": "object",
    "properties": {
        "channel_name": {"type": "string"},
        "request_id": {"type": "string"},
        "file": {"type": "string", "format": "binary"},
    },
    "required": ["channel_name", "file"],
}
_BY_NAME: Final = (Cause.CHANNEL_EMPTY, Cause.CHANNEL_UNKNOWN)

TEN: Final = (
    _probe("/", "root", "Whether the server answers", _HEALTH),
    _probe("/health", "health", "Whether the server answers; with ?details=1 what it is made of", _HEALTH),
    _probe("/liveness", "liveness", "Whether the server answers", {200: _status("it does", "alive")}),
    _probe(
        "/readiness",
        "readiness",
        "Whether the server takes work",
        {
            200: _status("it does", "ready"),
            503: _status("not any more", "draining", Cause.SHUTTING_DOWN, Cause.DRAINING),
        },
    ),
    _ten(
        "post",
        "/start",
        "start",
        "Start a channel; answers when its worker is ready",
        Cause.CHANNEL_EMPTY,
        *START,
        body=_fields(bodies.START, "channel_name", "graph_name"),
    ),
    _ten("post", "/ping", "ping", "Keep a channel", *_BY_NAME, body=_fields(bodies.CHANNEL, "channel_name")),
    _ten(
        "post",
        "/stop",
        "stop",
        "Stop a channel; answers when nothing of it is left",
        *_BY_NAME,
        Cause.STOP_FAILED,
        body=_fields(bodies.CHANNEL, "channel_name"),
    ),
    _ten("get", "/list", "list", "The channels that run"),
    _ten("get", "/graphs", "graphs", "The graphs there are", Cause.PROPERTY_UNREADABLE, Cause.PROPERTY_INVALID),
    _ten(
        "post",
        "/token/generate",
        "generateToken",
        "A token for Agora",
        Cause.CHANNEL_EMPTY,
        Cause.TOKEN_FAILED,
        body=_fields(bodies.TOKEN, "channel_name"),
    ),
    _ten(
        "get",
        "/dev-tmp/addons/default-properties",
        "addonDefaults",
        "The default properties of a TEN app's add-ons",
        Cause.ADDONS_UNREADABLE,
    ),
    _ten("get", "/vector/document/preset/list", "presets", "The documents the UI offers", Cause.PRESETS_INVALID),
    _ten(
        "post",
        "/vector/document/update",
        "updateDocument",
        "Have a channel's worker query another collection",
        *_BY_NAME,
        Cause.COMMAND_UNDELIVERED,
        body=_fields(bodies.UPDATE, "channel_name"),
    ),
    _ten(
        "post",
        "/vector/document/upload",
        "uploadDocument",
        "A file for a channel's worker",
        *_BY_NAME,
        Cause.COMMAND_UNDELIVERED,
        Cause.UPLOAD_FAILED,
        body=_UPLOAD,
        body_type=FORM,
    ),
)
