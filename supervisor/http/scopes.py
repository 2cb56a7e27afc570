"""Which scopes open a path: one of them is enough. Pure.

The paths are those that requests are routed by, with a slash inside a name still encoded.
"""

from typing import Final

from supervisor.auth import Scope

# A star stands for any text, slashes too; of the rows that fit a path the first counts.
SCOPES: Final[tuple[tuple[str, tuple[Scope, ...]], ...]] = (
    ("/start", (Scope.CONTROL,)),
    ("/ping", (Scope.CONTROL,)),
    ("/stop", (Scope.CONTROL, Scope.TURNS)),
    ("/list", (Scope.CONTROL,)),
    ("/graphs", (Scope.CONTROL,)),
    ("/token/*", (Scope.CONTROL,)),
    ("/dev-tmp/*", (Scope.CONTROL,)),
    ("/vector/*", (Scope.CONTROL,)),
    ("/channels/*/logs", (Scope.OPS,)),
    ("/channels", (Scope.CONTROL,)),
    ("/channels/*", (Scope.CONTROL,)),
    ("/turns", (Scope.TURNS,)),
    ("/process", (Scope.TURNS,)),
    ("/process/*", (Scope.TURNS,)),
    ("/v1/*", (Scope.TURNS,)),
    ("/compatible-mode/*", (Scope.TURNS,)),
    ("/agent/*", (Scope.TURNS,)),
    ("/agents/*", (Scope.TURNS,)),
    ("/manifest", (Scope.TURNS,)),
    ("/api/answer", (Scope.TURNS,)),
    ("/stream", (Scope.TURNS,)),
    ("/api/store_attachment", (Scope.TURNS,)),
    ("/api/task_status", ()),  # the id of a task is the permission to ask for it
    ("/api/feedback", (Scope.TURNS,)),
    ("/api/health", ()),
    ("/events", (Scope.OPS,)),
    ("/ledger", (Scope.OPS,)),
    ("/drain", (Scope.OPS,)),
    ("/openapi.json", (Scope.OPS,)),
    # The probes are open to everybody, unless details are asked for.
    ("/", (Scope.OPS,)),
    ("/health", (Scope.OPS,)),
    ("/liveness", (Scope.OPS,)),
    ("/readiness", (Scope.OPS,)),
)

_EXACT: Final = {pattern: scopes for pattern, scopes in SCOPES if "*" not in pattern}
_WIDE: Final = tuple(
    (start, end, len(start) + len(end), scopes)
    for pattern, scopes in SCOPES
    for start, star, end in (pattern.partition("*"),)
    if star
)


def scopes_of(path: str) -> tuple[Scope, ...] | None:
    """The scopes that open a path; (): everybody may have what is there; None: nothing is there."""
    scopes = _EXACT.get(path)
    if scopes is not None:
        return scopes
    size = len(path)
    for start, end, least, found in _WIDE:
        if path.startswith(start) and path.endswith(end) and size >= least:
            return found
    return None
