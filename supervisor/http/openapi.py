"""The server's own description, an OpenAPI document: made of the operations and of the models that check requests."""

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from supervisor.causes import Cause
from supervisor.http.channels import NAME_PATTERN
from supervisor.http.envelope import RETRY_AFTER, ROWS, encode, status_of
from supervisor.http.operation import JSON, Answer, Operation
from supervisor.http.operations import EVERYWHERE, NATIVE, TEN
from supervisor.http.replies import CAUSE_HEADER, json_reply
from supervisor.http.schemas import REF, SCHEMAS, TEXT, Schema, ref

if TYPE_CHECKING:
    from supervisor.settings import Settings

PLACES: Final[Mapping[str, Schema]] = {
    "name": {"type": "string", "pattern": NAME_PATTERN},
    "turn": {"type": "string", "pattern": "^[^/]+$"},
}
HEADERS: Final[Mapping[str, tuple[str, Schema]]] = {
    "Location": ("where it can be looked at", TEXT),
    "Retry-After": ("seconds after which another try may succeed", {"type": "integer"}),
}


class DescriptionApi:
    """The handler of the description."""

    def __init__(self, settings: "Settings") -> None:
        self._strict = settings.strict_status
        self._document: bytes | None = None

    def routes(self) -> list[web.RouteDef]:
        """The routes of this API."""
        return [web.get("/openapi.json", self.show)]

    async def show(self, _: web.Request) -> web.Response:
        """``GET /openapi.json``."""
        if self._document is None:
            self._document = encode(describe(strict=self._strict))
        return json_reply(self._document)


def describe(*, strict: bool) -> dict[str, Any]:
    """The OpenAPI document. With `strict`, TEN's endpoints refuse by statuses, as the setting has it."""
    paths: dict[str, dict[str, Any]] = {}
    for operations, tag in ((NATIVE, "native"), (TEN, "TEN")):
        for operation in operations:
            ways = _ways(operation, strict=strict) if tag == "TEN" else _native_ways(operation)
            paths.setdefault(operation.path, {})[operation.method] = _described(operation, tag, ways)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "agentd",
            "version": version("agentd"),
            "description": "Isolated agent workers behind channels, sessions and turns. See docs/http.md.",
        },
        "tags": [
            {"name": "native", "description": "agentd's own API: real statuses, plain JSON"},
            {"name": "TEN", "description": "the control API of the TEN framework: 200 and a code, good or bad"},
        ],
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": {**SCHEMAS, **_models()},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "AGENTD_TOKEN or a key, if there are any"}
            },
        },
    }


def _models() -> dict[str, Schema]:
    bodies = [operation.body for operation in NATIVE if isinstance(operation.body, type)]
    _, whole = models_json_schema([(model, "validation") for model in bodies], ref_template=REF)
    return dict(whole["$defs"])


def _native_ways(operation: Operation) -> dict[int, list[Cause]]:
    return _grouped(operation, {cause: ROWS[cause].status for cause in (*EVERYWHERE, *operation.refusals)})


def _ways(operation: Operation, *, strict: bool) -> dict[int, list[Cause]]:
    causes = (*EVERYWHERE, *operation.refusals)
    statuses = {cause: status_of(cause, operation.path, strict=strict) for cause in causes}
    return _grouped(operation, {cause: status for cause, status in statuses.items() if status not in operation.answers})


def _grouped(operation: Operation, statuses: Mapping[Cause, int]) -> dict[int, list[Cause]]:
    return {
        status: [cause for cause in statuses if statuses[cause] == status]
        for status in sorted(set(statuses.values()) - set(operation.answers))
    }


def _described(operation: Operation, tag: str, ways: Mapping[int, list[Cause]]) -> dict[str, Any]:
    told: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [tag],
        "responses": {
            **{str(status): _answer(answer) for status, answer in operation.answers.items()},
            **{str(status): _refusal(operation, status, causes) for status, causes in ways.items()},
        },
    }
    if parameters := [*_places(operation.path), *_query(operation.query), *map(_header, operation.headers)]:
        told["parameters"] = parameters
    if operation.body is not None:
        schema = ref(operation.body.__name__) if isinstance(operation.body, type) else operation.body
        told["requestBody"] = {"required": True, "content": {operation.body_type: {"schema": schema}}}
    return told


def _answer(answer: Answer) -> dict[str, Any]:
    told: dict[str, Any] = {
        "description": answer.description,
        "content": {kind: {"schema": schema} for kind, schema in answer.content.items()},
    }
    if answer.headers:
        told["headers"] = {name: _response_header(name) for name in answer.headers}
    return told


def _refusal(operation: Operation, status: int, causes: Iterable[Cause]) -> dict[str, Any]:
    causes = list(causes)
    schema = operation.told_otherwise.get(status, operation.failure)
    headers = {CAUSE_HEADER: {"description": "the cause", "schema": ref("Cause")}}
    if any(cause in RETRY_AFTER for cause in causes):
        headers["Retry-After"] = _response_header("Retry-After")
    return {
        "description": ", ".join(cause.value for cause in causes),
        "headers": headers,
        "content": {JSON: {"schema": ref(schema)}},
    }


def _response_header(name: str) -> dict[str, Any]:
    description, schema = HEADERS[name]
    return {"description": description, "schema": schema}


def _places(path: str) -> list[dict[str, Any]]:
    """The parameters in a path."""
    return [
        {"name": name, "in": "path", "required": True, "schema": schema}
        for name, schema in PLACES.items()
        if f"{{{name}}}" in path
    ]


def _query(model: type[BaseModel] | None) -> list[dict[str, Any]]:
    """The parameters in a query string; null cannot be said there."""
    if model is None:
        return []
    told = []
    for name, schema in model.model_json_schema(ref_template=REF)["properties"].items():
        whole = _without_null(schema)
        parameter = {"name": name, "in": "query", "description": whole.pop("description", ""), "schema": whole}
        if whole.get("type") == "array":
            parameter |= {"style": "form", "explode": False}
        told.append(parameter)
    return told


def _without_null(schema: Schema) -> Schema:
    kept = {key: value for key, value in schema.items() if key not in ("default", "title", "anyOf")}
    if type(default := schema.get("default")) in (int, str):
        kept["default"] = default
    options = [option for option in schema.get("anyOf", ()) if option != {"type": "null"}]
    return {**(options[0] if options else {}), **kept}


def _header(name: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "schema": {"type": "string"}}
