"""The paths of Huawei Cloud's agent call, whose credential is a header of its own (docs/keys.md). Pure."""

from typing import Final

AUTH_HEADER: Final = "X-Auth-Token"

# What the parts between the slashes have to be; None: anything but nothing.
_SHAPES: Final = {
    len(shape): shape
    for shape in (
        ("", "v1", None, "agents", None, "conversations", None),
        ("", "v1", None, "agent-run", "agents", None, "conversations", None),
    )
}


def is_agent_call(path: str) -> bool:
    """Whether a path is that of an agent call."""
    if not path.startswith("/v1/"):
        return False
    parts = path.split("/")
    shape = _SHAPES.get(len(parts), ())
    return bool(shape) and all(
        bool(part) if wanted is None else part == wanted for part, wanted in zip(parts, shape, strict=True)
    )
