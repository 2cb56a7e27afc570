"""What goes into a store and comes out of it. Pure data; times are UTC epoch seconds."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal


@dataclass(frozen=True)
class ConversationKey:
    """Whose conversation it is: the same session id of another user, or with another graph, is another one."""

    graph: str
    user: str
    session: str

    @cached_property
    def id(self) -> str:
        """The key in one word of 40 characters, however long and of whatever characters it is."""
        digest = hashlib.blake2b(digest_size=20)
        for part in (self.graph, self.user, self.session):
            data = part.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "big") + data)
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Conversation:
    """What was said before: messages ``{role, content}``, oldest first, bounded; the agent's state; turns so far.

    `graph` is the one whose agent's state it is. Read up to one of its turns, it has no state, `first` is that turn's
    number, and `earlier` what the caller said was said before the first turn if it is that one; beyond its end it is
    whole.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)
    turns: int = 0
    graph: str = ""
    first: int | None = None
    earlier: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnBegun:
    """A turn before its worker hears of it.

    Without `session` it belongs to no conversation, with `shared` to one that is not of its graph alone. `messages` is
    what the conversation's history will hold of the question, `earlier` what it holds before that: what its caller says
    was said before its first turn. `attachments` are ``{id, name, mime_type}``; `channel` is a channel's id, `source`
    the API.
    """

    id: str
    graph: str
    user: str
    session: str | None
    channel: str
    kind: Literal["chat", "invoke"]
    source: str
    begun_at: float
    messages: list[dict[str, Any]] = field(default_factory=list)
    earlier: list[dict[str, Any]] = field(default_factory=list)
    input: Any = None
    attachments: list[dict[str, Any]] = field(default_factory=list)
    shared: bool = False

    @property
    def key(self) -> ConversationKey | None:
        """Its conversation."""
        graph = "" if self.shared else self.graph
        return None if self.session is None else ConversationKey(graph, self.user, self.session)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEnded:
    """How a turn ended: the answer as far as it came, and why there is no more of it (`cause`, `detail`).

    `ms` is the turn's time in milliseconds; `state` the agent's new state, None: it did not change. If there is an
    answer, the turns of its conversation from number `first` on, up to this one, are removed.
    """

    id: str
    ended_at: float
    cause: str
    detail: str = ""
    ms: float = 0.0
    text: str = ""
    thoughts: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    sources: list[dict[str, Any]] = field(default_factory=list)
    usage: dict[str, Any] = field(default_factory=dict)
    structured: Any = None
    value: Any = None
    has_value: bool = False
    state: dict[str, Any] | None = None
    first: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRow:
    """A turn as it is stored; `ended_at` and `cause` are None while it runs. `number` is what pages are told by."""

    number: int
    id: str
    graph: str
    user: str
    session: str | None
    instance: str
    channel: str
    kind: str
    source: str
    begun_at: float
    ended_at: float | None
    cause: str | None
    detail: str
    ms: float | None
    messages: list[dict[str, Any]]
    earlier: list[dict[str, Any]]
    input: Any
    attachments: list[dict[str, Any]]
    text: str
    thoughts: str
    tool_calls: list[dict[str, Any]]
    sources: list[dict[str, Any]]
    usage: dict[str, Any]
    structured: Any
    value: Any
    has_value: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseBegun:
    """What an API will answer, before it is complete, so that it can be asked for again.

    `id` is the caller's choice, unlike any other; `turn` is the turn's id, `source` the API. `graph`, `user` and
    `session` are the conversation it belongs to, `status` is the API's own word. `body` is JSON of the API's own object
    as it is now, `input` a JSON list of the items that were put in.
    """

    id: str
    turn: str
    source: str
    graph: str
    user: str
    session: str
    created_at: float
    status: str
    body: bytes
    input: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseEnded:
    """The same when it is complete, or will never be."""

    id: str
    status: str
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseRow:
    """A response as it is stored; `ended_at` is None while it may still change.

    Once `ended_at` is set, `status` and `body` are final: where they are those of a response that is not complete, its
    server was lost. Empty `body` or `input`: it was too large to keep.
    """

    id: str
    turn: str
    source: str
    graph: str
    user: str
    session: str
    created_at: float
    ended_at: float | None
    status: str
    body: bytes
    input: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachmentBegun:
    """A file that was received, before anything was read out of it.

    `id` and `task` are UUIDs, `owner` the digest of the `user` whose it is; `size` in bytes.
    """

    id: str
    task: str
    owner: str
    user: str
    name: str
    mime_type: str
    size: int
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachmentEnded:
    """What has become of it: `detail` says why if it failed; `text_bytes` is None if no text was read out of it."""

    id: str
    ended_at: float
    succeeded: bool
    detail: str = ""
    text_bytes: int | None = None
    tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachmentRow:
    """An attachment as it is stored; `succeeded` is None until it has ended."""

    id: str
    task: str
    owner: str
    name: str
    mime_type: str
    size: int
    created_at: float
    succeeded: bool | None
    detail: str
    text_bytes: int | None
    tokens: int


@dataclass(frozen=True, slots=True)
class ChannelClaimed:
    """A channel begins: its id, its name, and whose it is; `source` is the API it came by.

    `again`: it began with an earlier server, so that this is on record as a rule.
    """

    channel: str
    at: float
    name: str
    graph: str
    user: str
    session: str | None
    source: str
    again: bool = False


@dataclass(frozen=True, slots=True)
class ChannelReady:
    """Its worker is ready."""

    channel: str
    at: float
    pid: int | None


@dataclass(frozen=True, slots=True)
class ChannelPinged:
    """Its lease was renewed, `count` times; only the number of pings and the last one are kept."""

    channel: str
    at: float
    count: int = 1


@dataclass(frozen=True, slots=True)
class TurnCounted:
    """One more turn began in it."""

    channel: str
    at: float


@dataclass(frozen=True, slots=True)
class ChannelEnded:
    """It is gone: why, with which status (as `Popen.returncode`), and what the receipt says.

    That is how many processes there were, how many of them had to be killed, and in how many seconds.
    """

    channel: str
    at: float
    cause: str
    detail: str
    status: int | None
    processes: int | None = None
    killed: int | None = None
    seconds: float | None = None


LedgerEntry = ChannelClaimed | ChannelReady | ChannelPinged | TurnCounted | ChannelEnded
