"""The description of the API: of every route, of nothing else, and of what is really checked."""

from typing import Any

import pytest

from supervisor.causes import Cause
from supervisor.http.bodies import LIMITS
from supervisor.http.envelope import ROWS, status_of
from supervisor.http.openapi import PLACES, describe
from supervisor.http.operation import Operation
from supervisor.http.operations import NATIVE, TEN
from supervisor.http.replies import is_native
from supervisor.http.schemas import REF, SCHEMAS

DOCUMENT = describe(strict=False)
# APIs of others, which are described elsewhere.
PUBLISHED = ("/process", "/v1/", "/compatible-mode/", "/agent/", "/agents/", "/manifest", "/api/", "/stream")


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if "$ref" in value else set()
        return own.union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


async def test_every_route_is_described_and_everything_described_is_routed(house: Any) -> None:
    routed = {
        (route.method.lower(), route.resource.canonical)
        for route in house.runner.app.router.routes()
        if route.method != "HEAD" and not route.resource.canonical.startswith(PUBLISHED)
    }
    described = {(method, path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert described == routed


async def test_it_is_served(build: Any) -> None:
    house = await build()
    answer = await house.get("/openapi.json")
    assert (answer.status, answer.body) == (200, DOCUMENT)
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"


async def test_strict_statuses(build: Any) -> None:
    house = await build(strict_status=True)
    paths = (await house.get("/openapi.json")).body["paths"]
    assert {"200", "400", "429", "500"} <= paths["/start"]["post"]["responses"].keys()
    assert DOCUMENT["paths"]["/start"]["post"]["responses"].keys() == {"200", "401", "403", "413", "429", "500"}


def test_references_lead_somewhere() -> None:
    known = {REF.format(model=name) for name in DOCUMENT["components"]["schemas"]}
    assert references(DOCUMENT) <= known
    models = {operation.body.__name__ for operation in NATIVE if isinstance(operation.body, type)}
    assert not models & SCHEMAS.keys()


def test_operations_have_names_of_their_own() -> None:
    names = [operation.name for operation in (*NATIVE, *TEN)]
    assert len(set(names)) == len(names)


def test_the_native_paths_are_those_that_are_answered_natively() -> None:
    assert all(is_native(operation.path) for operation in NATIVE)
    assert not any(is_native(operation.path) for operation in TEN)


@pytest.mark.parametrize("operation", [*NATIVE, *TEN], ids=lambda operation: operation.name)
def test_every_refusal_is_listed(operation: Operation) -> None:
    responses = DOCUMENT["paths"][operation.path][operation.method]["responses"]
    for cause in operation.refusals:
        status = ROWS[cause].status if operation in NATIVE else status_of(cause, operation.path)
        told = responses[str(status)]
        assert status in operation.answers or cause.value in told["description"].split(", ")
    if operation.body is not None or operation.query is not None:
        assert Cause.BODY_INVALID in operation.refusals


def test_the_parameters_of_paths() -> None:
    for path, methods in DOCUMENT["paths"].items():
        wanted = {name for name in PLACES if f"{{{name}}}" in path}
        for told in methods.values():
            assert {p["name"] for p in told.get("parameters", ()) if p["in"] == "path"} == wanted


def test_limits_are_those_that_are_read() -> None:
    told = DOCUMENT["components"]["schemas"]["ChannelBody"]["properties"]["limits"]["properties"]
    assert list(told) == [field.name for field in LIMITS]
    for field in LIMITS:
        low, high = told[field.name]["minimum"], told[field.name]["maximum"]
        assert field.kind.accepts(low)
        assert field.kind.accepts(high)
        assert not field.kind.accepts(low - 1)
        assert not field.kind.accepts(high + 1)


def test_parameters_of_queries() -> None:
    told = {p["name"]: p for p in DOCUMENT["paths"]["/ledger"]["get"]["parameters"]}
    assert told["limit"]["schema"] == {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}
    assert told["since"]["schema"] == {"type": "number"}
    assert told["cause"]["schema"] == {"$ref": REF.format(model="Cause")}
    assert told["open"]["schema"]["enum"] == ["1", "true", "0", "false"]
    [types] = [p for p in DOCUMENT["paths"]["/events"]["get"]["parameters"] if p["name"] == "types"]
    assert (types["style"], types["explode"], types["schema"]["type"]) == ("form", False, "array")
