"""That every route there is has its rows in the table of what may be another's (tests/harness/isolation.py)."""

from typing import Any

from supervisor.http.audit import ACTIONS
from supervisor.http.scopes import scopes_of
from tests.harness.isolation import NAMELESS, ROWS

ALIASES = ("/compatible-mode",)  # the same handlers at another prefix
QUIET = {"/ping"}
READS = {"GET", "HEAD"}


def routes(house: Any) -> set[tuple[str, str]]:
    found = {(route.method, route.resource.canonical) for route in house.runner.app.router.routes()}
    return {(method, path) for method, path in found if method != "HEAD" and not path.startswith(ALIASES)}


async def test_every_route_is_looked_at(house: Any) -> None:
    assert routes(house) == {(row.method, row.route) for row in ROWS} | NAMELESS


async def test_every_action_is_told(house: Any) -> None:
    changing = {
        (route.method, route.resource.canonical)
        for route in house.runner.app.router.routes()
        if route.method not in READS
        and "control" in (scopes_of(route.resource.canonical) or ())
        and route.resource.canonical not in QUIET
        and not route.resource.canonical.endswith("/turns")
    }
    assert changing <= set(ACTIONS)
    assert set(ACTIONS) <= {(route.method, route.resource.canonical) for route in house.runner.app.router.routes()}
