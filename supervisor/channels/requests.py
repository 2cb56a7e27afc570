"""What a caller asks of the channel table, whichever API it came by. Pure."""

from dataclasses import dataclass, field
from typing import Any, Final

from supervisor.causes import Cause, Refusal
from worker.spawn import Limits

MAX_NAME_BYTES: Final = 100
SEPARATOR: Final = "/"  # between an owner's space and a name, neither of which has one


def qualified(space: str, name: str) -> str:
    """The name in the whole server of a channel among a user's ('': nobody's); two users may each have a `name`."""
    return f"{space}{SEPARATOR}{name}" if space else name


@dataclass(frozen=True, slots=True)
class Owner:
    """Who has a channel started: the user among whose channels it is ('': nobody's), and the key, with its bound."""

    space: str = ""
    key: str = ""
    channels: int | None = None

    def qualified(self, name: str) -> str:
        """A channel's name in the whole server."""
        return qualified(self.space, name)

    def shown(self, name: str) -> str:
        """A channel's name as its owner calls it; another's is shown whole."""
        return name.removeprefix(self.qualified("")) if self.space else name


NOBODY: Final = Owner()


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRequest:
    """One channel to start.

    `timeout` in seconds: positive that many, -1 never, None, 0 or any other negative the server's default.
    `properties` are the overrides ``{node: {property: value}}``; a node's value may be None. `user` and `session` are
    whose conversation the channel carries, None: one of the channel's own; `source` is the API it came by;
    `on_demand` if a session started it, which then is the one to end it; with `shared` that session is not of this
    graph alone; `owner` is who has it started.
    """

    channel_name: str
    graph_name: str = ""
    user_uid: int = 0
    bot_uid: int = 0
    timeout: int | None = None
    properties: dict[str, Any] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    request_id: str = ""
    user: str = ""
    session: str | None = None
    source: str = "ten"
    on_demand: bool = False
    shared: bool = False
    owner: Owner = NOBODY

    @property
    def name(self) -> str:
        """The channel's name in the whole server."""
        return self.owner.qualified(self.channel_name)


def check_channel_name(name: str) -> None:
    """Raise Refusal(CHANNEL_NAME_REFUSED) for a name that no channel may have (wire/ten.md section 3)."""
    size = len(name.encode("utf-8", "surrogatepass"))
    if size > MAX_NAME_BYTES:
        fault = f"has {size} bytes in UTF-8; at most {MAX_NAME_BYTES} are allowed"
    elif name.startswith("."):
        fault = f"{name!r} begins with '.'"
    elif found := next((text for text in ("/", "\\", "..", "\0") if text in name), None):
        fault = f"{name!r} contains {found!r}"
    else:
        return
    raise Refusal(Cause.CHANNEL_NAME_REFUSED, f"channel_name {fault}")
