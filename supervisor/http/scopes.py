"""Which scope a path needs. Pure.

The paths are those that requests are routed by, with a slash inside a name still encoded.
"""

from typing import Final

from supervisor.auth import Scope

# A star stands for any text, slashes too; of the rows that fit a path the first counts.
SCOPES: Final = (
    ("/start", Scope.CONTROL),
    ("/ping", Scope.CONTROL),
    ("/stop", Scope.CONTROL),
    ("/list", Scope.CONTROL),
    ("/graphs", Scope.CONTROL),
    ("/token/*", Scope.CONTROL),
    ("/dev-tmp/*", Scope.CONTROL),
    ("/vector/*", Scope.CONTROL),
    ("/channels/*/logs", Scope.OPS),
    ("/channels", Scope.CONTROL),
    ("/channels/*", Scope.CONTROL),
    ("/turns", Scope.TURNS),
    ("/process", Scope.TURNS),
    ("/process/*", Scope.TURNS),
    ("/v1/*", Scope.TURNS),
    ("/compatible-mode/*", Scope.TURNS),
    ("/agent/*", Scope.TURNS),
    ("/agents/*", Scope.TURNS),
    ("/manifest", Scope.TURNS),
    ("/events", Scope.OPS),
    ("/ledger", Scope.OPS),
    ("/openapi.json", Scope.OPS),
    # The probes are open to everybody, unless details are asked for.
    ("/", Scope.OPS),
    ("/health", Scope.OPS),
    ("/liveness", Scope.OPS),
    ("/readiness", Scope.OPS),
)

_EXACT: Final = {pattern: scope for pattern, scope in SCOPES if "*" not in pattern}
_WIDE: Final = tuple(
    (start, end, len(start) + len(end), scope)
    for pattern, scope in SCOPES
    for start, star, end in (pattern.partition("*"),)
    if star
)


def scope_of(path: str) -> Scope | None:
    """The scope that is needed at a path; None: nothing is there, or something that everybody may have."""
    scope = _EXACT.get(path)
    if scope is not None:
        return scope
    size = len(path)
    for start, end, least, scope in _WIDE:
        if path.startswith(start) and path.endswith(end) and size >= least:
            return scope
    return None
