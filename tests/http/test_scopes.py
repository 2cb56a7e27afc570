"""Which scope a path needs, and which paths are Huawei's agent calls, by tables and against the routes there are."""

import re
from pathlib import Path
from typing import Any

import pytest

from supervisor.auth import Scope
from supervisor.http.huawei_paths import is_agent_call
from supervisor.http.probes import PROBES
from supervisor.http.scopes import SCOPES, scopes_of

DOCS = Path(__file__).parents[2] / "docs" / "keys.md"
TURNS, CONTROL, OPS = Scope.TURNS, Scope.CONTROL, Scope.OPS


@pytest.mark.parametrize(
    ("path", "scopes"),
    [
        ("/turns", TURNS),
        ("/process", TURNS),
        ("/process/task", TURNS),
        ("/process/task/x", TURNS),
        ("/v1/responses", TURNS),
        ("/v1/p/agents/a/conversations/c", TURNS),
        ("/compatible-mode/v1/models", TURNS),
        ("/agent/friday/chat", TURNS),
        ("/agents/friday/invoke", TURNS),
        ("/manifest", TURNS),
        ("/api/answer", TURNS),
        ("/api/feedback", TURNS),
        ("/api/store_attachment", TURNS),
        ("/stream", TURNS),
        ("/api/task_status", ()),  # whoever knows a task's id may ask for it
        ("/api/health", ()),
        ("/api/other", None),
        ("/streams", None),
        ("/start", CONTROL),
        ("/ping", CONTROL),
        ("/stop", (CONTROL, TURNS)),  # AgentScope's interrupt is there too
        ("/list", CONTROL),
        ("/graphs", CONTROL),
        ("/token/generate", CONTROL),
        ("/dev-tmp/addons/default-properties", CONTROL),
        ("/vector/document/upload", CONTROL),
        ("/channels", CONTROL),
        ("/channels/x", CONTROL),
        ("/channels/logs", CONTROL),
        ("/channels/x/events", CONTROL),
        ("/channels/x/properties", CONTROL),
        ("/channels/x/turns", CONTROL),
        ("/channels/x/turns/t", CONTROL),
        ("/channels/x/logs", OPS),
        ("/channels/a%2Fb/logs", OPS),
        ("/channels/logs/logs", OPS),
        ("/events", OPS),
        ("/ledger", OPS),
        ("/drain", OPS),
        ("/openapi.json", OPS),
        ("/health", OPS),
        ("/", OPS),
        ("", None),
        ("/nowhere", None),
        ("/ping/", None),
        ("/turns/x", None),
        ("/processes", None),
        ("/v10", None),
        ("/agentsx/y", None),
        ("ping", None),
        ("*", None),
    ],
)
def test_scopes_of_paths(path: str, scopes: Scope | tuple[Scope, ...] | None) -> None:
    assert scopes_of(path) == ((scopes,) if isinstance(scopes, Scope) else scopes)


async def test_every_route_needs_a_scope(house: Any) -> None:
    for route in house.runner.app.router.routes():
        path = re.sub(r"\{[^}]*\}", "x", route.resource.canonical)
        assert scopes_of(path) is not None, path


def test_the_documentation_has_every_path() -> None:
    rows = dict(re.findall(r"^\| `(turns|control|ops)` \| [^|]* \| ([^|]*) \|$", DOCS.read_text(), re.MULTILINE))
    assert rows.keys() == set(Scope)
    for pattern, scope in ((pattern, scope) for pattern, scopes in SCOPES for scope in scopes):
        shown = pattern.replace("/channels/*/logs", "/channels/{name}/logs").removeprefix("/process/*")
        if pattern not in PROBES and pattern != "/channels/*":
            assert f"`{shown}" in rows[scope]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/p/agents/a/conversations/c", True),
        ("/v1/p/agent-run/agents/a/conversations/c", True),
        ("/v1/0123/agents/a b/conversations/%2F", True),
        ("/v1/agents/agents/agents/conversations/conversations", True),
        ("/v1//agents/a/conversations/c", False),
        ("/v1/p/agents//conversations/c", False),
        ("/v1/p/agents/a/conversations/", False),
        ("/v1/p/agents/a/conversations", False),
        ("/v1/p/agents/a/conversations/c/", False),
        ("/v1/p/agents/a/conversations/c/d", False),
        ("/v1/p/agent-run/agents/a/conversations/", False),
        ("/v1/p/agent-run/agent/a/conversations/c", False),
        ("/v1/p/Agents/a/conversations/c", False),
        ("/v2/p/agents/a/conversations/c", False),
        ("v1/p/agents/a/conversations/c", False),
        ("/v1/models", False),
        ("/v1/", False),
        ("/ping", False),
        ("", False),
    ],
)
def test_agent_calls(path: str, expected: bool) -> None:
    assert is_agent_call(path) is expected
