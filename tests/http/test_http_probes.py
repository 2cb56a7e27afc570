"""The probes: health for every kind of client, liveness and readiness."""

import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from supervisor.http.probes import PROBES

HEALTHY = {"code": "0", "msg": "ok", "data": None, "status": "healthy", "runner": "ready"}


@pytest.mark.parametrize("path", ["/", "/health"])
async def test_health(house: Any, path: str) -> None:
    assert (await house.get(path)).body == HEALTHY
    assert (await house.get(path + "?details=1")).body == HEALTHY | {"data": {"workers": 0}}
    head = await house.ask("HEAD", path)
    assert (head.status, head.content) == (200, b"")


async def test_readiness_ends_with_the_shutdown_and_liveness_does_not(house: Any) -> None:
    async def told(path: str) -> tuple[int, Any]:
        answer = await house.get(path)
        assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
        return answer.status, answer.body

    assert await told("/liveness") == (200, {"status": "alive"})
    assert await told("/readiness") == (200, {"status": "ready"})
    assert not house.sessions.closing
    house.sessions.close()
    assert house.sessions.closing
    assert await told("/liveness") == (200, {"status": "alive"})
    assert await told("/readiness") == (503, {"status": "draining", "reason": "shutting_down"})
    assert await told("/health") == (200, HEALTHY)


@pytest.mark.parametrize("given", [{"token": "secret"}, {}])
async def test_probes_are_open_and_quiet(build: Any, given: dict[str, str]) -> None:
    house = await build(**given)
    with capture_logs() as logs:
        for path in sorted(PROBES):
            answer = await house.get(path, headers={"Host": "evil.example"})
            assert (answer.status, "status" in json.loads(answer.content)) == (200, True)
        assert (await house.get("/health?details=1", headers={"Host": "evil.example"})).status in (401, 403)
        assert (await house.post("/readiness")).status == 405
    assert [line for line in logs if line["event"] == "http.request"] == []
