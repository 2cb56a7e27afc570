"""JSON schemas of what is answered, by the names they have in ``/openapi.json``. Data."""

from typing import Any, Final

from supervisor.causes import Cause
from supervisor.options import LIMIT_RANGES
from worker.spawn import LEVELS

Schema = dict[str, Any]

REF: Final = "#/components/schemas/{model}"

ANY: Final[Schema] = {}
TEXT: Final[Schema] = {"type": "string"}
FLAG: Final[Schema] = {"type": "boolean"}
NUMBER: Final[Schema] = {"type": "number"}
INTEGER: Final[Schema] = {"type": "integer"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
SECONDS: Final[Schema] = {"type": "number", "minimum": 0}
JSON_TEXT: Final[Schema] = {"type": "string", "contentMediaType": "application/json"}
TIME: Final[Schema] = {"type": "number", "description": "seconds since 1970"}


def maybe(schema: Schema) -> Schema:
    """The schema, or null."""
    if "type" in schema and "enum" not in schema:
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def several(schema: Schema) -> Schema:
    """An array."""
    return {"type": "array", "items": schema}


def record(required: dict[str, Schema], optional: dict[str, Schema] | None = None, *, more: bool = False) -> Schema:
    """An object with these properties; with `more` others too."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": more,
    }


def ref(name: str) -> Schema:
    """One of `SCHEMAS`, or a body's."""
    return {"$ref": REF.format(model=name)}


CAUSE: Final = ref("Cause")
LEVEL: Final[Schema] = {"enum": list(LEVELS)}
OBJECT: Final[Schema] = {"type": "object"}
SUMMARY: Final = {
    "name": TEXT,
    "id": TEXT,
    "graph": TEXT,
    "user": TEXT,
    "session": maybe(TEXT),
    "source": TEXT,
    "state": {"enum": ["starting", "running", "stopping", "gone"]},
    "health": {"enum": ["ok", "slow", "stuck"]},
    "pid": maybe(INTEGER),
    "created_at": TIME,
    "age_seconds": SECONDS,
    "last_ping_seconds": maybe(NUMBER),
    "lease_seconds": maybe(NUMBER),
    "time_left_seconds": maybe(NUMBER),
    "rss_bytes": maybe(COUNT),
    "cpu_percent": maybe(SECONDS),
    "processes": maybe(COUNT),
    "limits": ref("Limits"),
    "isolation": ref("Isolation"),
    "turn": maybe(ref("TurnUnderWay")),
    "last_event": TEXT,
}
ERROR: Final = {"cause": CAUSE, "message": TEXT, "detail": TEXT, "next_step": TEXT}
KIND: Final = {"kind": TEXT}
VERB: Final[Schema] = {"enum": ["chat", "invoke"]}
ANSWER: Final = {
    "turn": TEXT,
    "channel": maybe(TEXT),
    "graph": TEXT,
    "session": maybe(TEXT),
    "cause": CAUSE,
    "text": TEXT,
    "thoughts": TEXT,
    "tool_calls": several(ref("ToolCall")),
    "sources": several(OBJECT),
    "usage": maybe(OBJECT),
    "ms": SECONDS,
}
EXTRA: Final = {"value": ANY, "structured": OBJECT, "truncated": FLAG, "lost": COUNT}
LIFE: Final = {"id": TEXT, "graph": TEXT, "user": TEXT, "session": maybe(TEXT), "claimed_at": TIME}
ENDING: Final = {"ended_at": maybe(TIME), "cause": maybe(TEXT), "detail": maybe(TEXT)}
PROOF: Final = {"processes": maybe(COUNT), "killed": maybe(COUNT), "seconds": maybe(SECONDS), "status": maybe(INTEGER)}
RECEIPT: Final = {"processes": COUNT, "killed": COUNT, "left": COUNT, "seconds": SECONDS}

SCHEMAS: Final[dict[str, Schema]] = {
    "Cause": {"type": "string", "enum": [cause.value for cause in Cause], "description": "see docs/causes.md"},
    "Error": record({"error": record(ERROR, KIND)}),
    "NoChannel": record({"error": record(ERROR, {"last": maybe(ref("LastLife"))})}),
    "LastLife": record({**LIFE, **ENDING, "receipt": record(PROOF)}),
    "Isolation": record({"asked": LEVEL, "got": LEVEL, "missing": several(TEXT)}),
    "Limits": record({name: maybe(COUNT) for name in LIMIT_RANGES}),
    "TurnUnderWay": record({"id": TEXT, "kind": VERB, "ms": SECONDS}),
    "Node": record({"name": TEXT, "addon": TEXT, "handles": several(VERB), "properties": OBJECT}),
    "Channel": record(SUMMARY),
    "ChannelWhole": record({**SUMMARY, "nodes": several(ref("Node"))}),
    "Channels": record({"channels": several(ref("Channel"))}),
    "Updated": record({"name": TEXT, "nodes": several(ref("Node"))}),
    "Receipt": record({**RECEIPT, "by": TEXT, "status": maybe(INTEGER), "oom": FLAG}),
    "Stopped": record({"name": TEXT, "receipt": maybe(ref("Receipt"))}),
    "ToolCall": record(
        {"id": TEXT, "name": TEXT, "arguments": OBJECT, "output": ANY, "failed": FLAG, "ms": maybe(NUMBER)}, more=True
    ),
    "Answer": record(ANSWER, EXTRA),
    "Event": record({"event": TEXT, "data": JSON_TEXT}, {"id": TEXT}),
    "Failure": record({"error": record(ERROR, KIND)}, {**ANSWER, **EXTRA}),
    "Cancelled": record({"turn": TEXT, "channel": TEXT, "cause": CAUSE, "ms": SECONDS}),
    "Life": record(
        {
            **LIFE,
            "number": INTEGER,
            "name": TEXT,
            "source": TEXT,
            "instance": TEXT,
            "ready_at": maybe(TIME),
            "pid": maybe(INTEGER),
            "pings": COUNT,
            "last_ping_at": maybe(TIME),
            "turns": COUNT,
            **ENDING,
            **PROOF,
        }
    ),
    "Holder": record(
        {
            "name": TEXT,
            "id": TEXT,
            "graph": TEXT,
            "state": {"enum": ["starting", "running", "stopping", "gone"]},
            "age_seconds": SECONDS,
            "last_ping_seconds": maybe(NUMBER),
            "time_left_seconds": maybe(NUMBER),
            "turns": COUNT,
        }
    ),
    "Drain": record(
        {
            "draining": FLAG,
            "since": maybe(TIME),
            "time_left_seconds": maybe(SECONDS),
            "cut": COUNT,
            "channels": several(ref("Holder")),
        }
    ),
    "Lives": record({"lives": several(ref("Life")), "next": maybe(INTEGER)}),
    "Envelope": record(
        {"code": {"type": "string", "pattern": "^(0|1[0-9]{4})$"}, "msg": TEXT, "data": ANY}, {"detail": TEXT}
    ),
}
