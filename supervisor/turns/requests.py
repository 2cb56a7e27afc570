"""What a caller asks of an agent, whichever API it came by. Pure."""

from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from supervisor.causes import Cause, Refusal
from supervisor.channels.requests import NOBODY, Owner

Kind = Literal["chat", "invoke"]

MAX_KEY_BYTES: Final = 1024
UNNAMED: Final = "channel:"  # before a channel's id: the session of a channel that was started without one


class Key(NamedTuple):
    """Whose conversation it is: the same session of another user, or with another graph, is another one."""

    graph: str
    user: str
    session: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRequest:
    """One turn.

    `messages` is the whole input of a chat (never empty), `input` that of an invoke. With a `session` the turn is one
    of that session's, without one a worker is started for this turn alone; `channel` names a channel that runs, whose
    session it then is. `history` is what the caller says was said before; it counts only while the session has no
    history of its own, and is what that begins with. With `store` false nothing of the turn is kept. Without `linger`
    the worker is not kept for the session's next turn, though the conversation is. `source` is the API it came by.
    A `shared` session is its user's, whichever graph answers in it. With `continues` the conversation has to be there
    already. With `replaces` the turn takes the place of that turn of the conversation (0 is the first) and all later
    ones: they are not in the history it is given, and go once it is on record with an answer. `owner` is who asks,
    whose the channel will be that is started for it; with `only_graph` the `channel` has to be one of that graph.
    """

    kind: Kind
    graph: str = ""
    user: str = ""
    session: str | None = None
    channel: str | None = None
    messages: list[dict[str, Any]] = field(default_factory=list)
    input: Any = None
    instructions: str | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    attachments: list[dict[str, Any]] = field(default_factory=list)
    context: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)
    store: bool = True
    linger: bool = True
    shared: bool = False
    continues: bool = False
    replaces: int | None = None
    owner: Owner = NOBODY
    only_graph: str | None = None
    source: str = "native"

    def check(self) -> None:
        """Raise Refusal(BODY_INVALID) for what no turn can be."""
        if self.kind == "chat" and not self.messages:
            raise Refusal(Cause.BODY_INVALID, "messages is empty; a chat needs one at least")
        for name in ("graph", "user", "session"):
            size = len((getattr(self, name) or "").encode("utf-8", "surrogatepass"))
            if "\0" in (getattr(self, name) or ""):
                raise Refusal(Cause.BODY_INVALID, f"{name} contains NUL")
            if size > MAX_KEY_BYTES:
                raise Refusal(Cause.BODY_INVALID, f"{name} has {size} bytes; at most {MAX_KEY_BYTES} are allowed")
        if (self.session or "").startswith(UNNAMED):
            raise Refusal(Cause.BODY_INVALID, f"session begins with {UNNAMED!r}, as those do that nobody named")
        if self.session == "":
            raise Refusal(Cause.BODY_INVALID, "session is empty; leave it out, or give it a name")

    def for_worker(self, history: list[dict[str, Any]], state: dict[str, Any] | None) -> dict[str, Any]:
        """The request as the worker gets it (docs/pipes.md)."""
        asked: dict[str, Any] = {"messages": self.messages} if self.kind == "chat" else {"input": self.input}
        asked |= {
            "history": history,
            "instructions": self.instructions,
            "session": self.session,
            "user": self.user,
            "conversation": self.session,
            "attachments": self.attachments,
            "context": self.context,
            "options": self.options,
        }
        return asked if state is None else {**asked, "state": state}
