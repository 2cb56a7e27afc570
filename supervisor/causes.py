"""The closed list of why something was refused or ended.

Every refusal raises `Refusal` with one of these causes, every ending of a channel records one. A dialect maps
causes to its own statuses and codes; logs, metrics, CLI and docs use the values below, everywhere the same word.
"""

from dataclasses import dataclass
from enum import StrEnum


class Cause(StrEnum):
    """Why a request was refused or a channel ended."""

    # refusals of a request
    BODY_INVALID = "body_invalid"
    BODY_TOO_LARGE = "body_too_large"
    CHANNEL_EMPTY = "channel_empty"
    CHANNEL_NAME_REFUSED = "channel_name_refused"
    CHANNEL_UNKNOWN = "channel_unknown"
    CHANNEL_EXISTS = "channel_exists"
    WORKERS_LIMIT = "workers_limit"
    GRAPH_LIMIT = "graph_limit"
    GRAPH_UNKNOWN = "graph_unknown"
    PROPERTY_UNREADABLE = "property_unreadable"
    PROPERTY_INVALID = "property_invalid"
    PLACEHOLDER_UNRESOLVED = "placeholder_unresolved"
    OVERRIDE_REFUSED = "override_refused"
    UNAUTHORIZED = "unauthorized"
    SCOPE_MISSING = "scope_missing"
    HOST_REFUSED = "host_refused"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    SHUTTING_DOWN = "shutting_down"
    DRAINING = "draining"
    TOKEN_FAILED = "token_failed"  # noqa: S105 - a cause, not a secret
    UPLOAD_FAILED = "upload_failed"
    ADDONS_UNREADABLE = "addons_unreadable"
    PRESETS_INVALID = "presets_invalid"
    COMMAND_UNDELIVERED = "command_undelivered"
    TURN_UNKNOWN = "turn_unknown"
    RESPONSE_UNKNOWN = "response_unknown"
    RESPONSE_ENDED = "response_ended"
    SESSION_BUSY = "session_busy"
    SESSION_QUEUE_FULL = "session_queue_full"
    STORE_UNAVAILABLE = "store_unavailable"
    UPDATE_REFUSED = "update_refused"
    TOKEN_INVALID = "token_invalid"  # noqa: S105 - a cause, not a secret
    TOKEN_EXPIRED = "token_expired"  # noqa: S105
    KEY_UNKNOWN = "key_unknown"
    KEY_LIMIT = "key_limit"
    ORIGIN_REFUSED = "origin_refused"
    MEDIA_TYPE_REFUSED = "media_type_refused"
    CONVERSATION_UNKNOWN = "conversation_unknown"
    ATTACHMENT_UNREADABLE = "attachment_unreadable"
    ISOLATION_UNAVAILABLE = "isolation_unavailable"
    INTERNAL = "internal"

    # a start that failed
    SPAWN_FAILED = "spawn_failed"
    ADDONS_MISSING = "addons_missing"
    GRAPH_INVALID = "graph_invalid"
    EXITED_BEFORE_READY = "exited_before_ready"
    START_TIMEOUT = "start_timeout"

    # endings of a channel
    STOPPED = "stopped"
    KILLED = "killed"
    LAPSED = "lapsed"
    EXITED = "exited"
    CRASHED = "crashed"
    OUT_OF_MEMORY = "out_of_memory"
    PROTOCOL_VIOLATED = "protocol_violated"
    SERVER_STOPPED = "server_stopped"
    DRAINED = "drained"
    SERVER_LOST = "server_lost"
    SPAWNER_LOST = "spawner_lost"
    ADOPTION_FAILED = "adoption_failed"
    STOP_FAILED = "stop_failed"
    SESSION_IDLE = "session_idle"
    SESSION_EVICTED = "session_evicted"
    SESSION_MOVED = "session_moved"
    TURN_ENDED = "turn_ended"
    CANCEL_IGNORED = "cancel_ignored"

    # endings of a turn, besides those of its channel
    COMPLETED = "completed"
    NOT_IMPLEMENTED = "not_implemented"
    AGENT_ERROR = "agent_error"
    RESPONSE_INVALID = "response_invalid"
    TURN_CANCELLED = "turn_cancelled"
    CLIENT_GONE = "client_gone"
    TURN_TIMEOUT = "turn_timeout"
    TURN_SILENT = "turn_silent"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a cause means and what to do about it, for people."""

    message: str
    next_step: str


EXPLANATIONS: dict[Cause, Explanation] = {
    Cause.BODY_INVALID: Explanation(
        "the request body is not what this endpoint takes", "send the JSON object the endpoint documents"
    ),
    Cause.BODY_TOO_LARGE: Explanation(
        "the request body is over the size limit", "send less, or raise AGENTD_BODY_LIMIT_BYTES"
    ),
    Cause.CHANNEL_EMPTY: Explanation("no channel name was given", "set channel_name"),
    Cause.CHANNEL_NAME_REFUSED: Explanation(
        "the channel name is not allowed",
        "use at most 100 bytes, no '/', '\\', '..' or NUL, and no leading '.'",
    ),
    Cause.CHANNEL_UNKNOWN: Explanation("no such channel is running", "start it, or look at `agentd ls`"),
    Cause.CHANNEL_EXISTS: Explanation(
        "a channel of this name is starting, running or stopping", "stop it first, or choose another name"
    ),
    Cause.WORKERS_LIMIT: Explanation("all worker slots are taken", "stop a channel, or raise WORKERS_MAX"),
    Cause.GRAPH_LIMIT: Explanation(
        "this graph has as many workers as it may have", "stop one of its channels, or raise its limit"
    ),
    Cause.GRAPH_UNKNOWN: Explanation(
        "the property file has no graph of this name", "choose one that `agentd graphs` lists"
    ),
    Cause.PROPERTY_UNREADABLE: Explanation(
        "the property file cannot be read", "check AGENTD_PROPERTY and the file's permissions"
    ),
    Cause.PROPERTY_INVALID: Explanation(
        "the property file is not a valid graph file", "mend the file; `agentd doctor` says where"
    ),
    Cause.PLACEHOLDER_UNRESOLVED: Explanation(
        "the graph names environment variables that are not set",
        "set them, give them a default, or set AGENTD_MISSING_ENV=empty",
    ),
    Cause.OVERRIDE_REFUSED: Explanation(
        "a property may not be overridden by a request", "leave it out, or add it to AGENTD_OVERRIDABLE"
    ),
    Cause.UNAUTHORIZED: Explanation(
        "the request carries no valid token or key", "send 'Authorization: Bearer <AGENTD_TOKEN or a key>'"
    ),
    Cause.SCOPE_MISSING: Explanation(
        "the key may not do this", "use one that may; `agentd keys add --scope SCOPE` makes it"
    ),
    Cause.HOST_REFUSED: Explanation(
        "the server is not to be called by this name without a token or key",
        "call it by its address, set AGENTD_TOKEN, make a key, or add the name to AGENTD_ALLOWED_HOSTS",
    ),
    Cause.NOT_FOUND: Explanation("there is nothing at this path", "see docs/http.md for the endpoints"),
    Cause.METHOD_NOT_ALLOWED: Explanation("this path does not take this method", "see docs/http.md for the endpoints"),
    Cause.SHUTTING_DOWN: Explanation("the server is shutting down", "try again when it is back"),
    Cause.DRAINING: Explanation(
        "the server is draining: it begins no new channels", "ask another server, or undo it with `agentd drain --undo`"
    ),
    Cause.TOKEN_FAILED: Explanation("the token cannot be built", "set AGORA_APP_ID and AGORA_APP_CERTIFICATE"),
    Cause.UPLOAD_FAILED: Explanation("the upload could not be stored", "check the space in the state folder"),
    Cause.ADDONS_UNREADABLE: Explanation(
        "the add-on folder cannot be read", "check AGENTD_ADDONS_DIR and its permissions"
    ),
    Cause.PRESETS_INVALID: Explanation(
        "VECTOR_DOCUMENT_PRESET_LIST is not a JSON list", "set it to a JSON list, or unset it"
    ),
    Cause.COMMAND_UNDELIVERED: Explanation(
        "the command did not reach the channel's worker", "look at `agentd logs` of the channel"
    ),
    Cause.TURN_UNKNOWN: Explanation("no such turn is waiting or running", "it has ended, or its id is another one"),
    Cause.RESPONSE_UNKNOWN: Explanation(
        "no response or task of this id is kept", "it was deleted, is too old, was not stored, or its id is another one"
    ),
    Cause.RESPONSE_ENDED: Explanation("the response is complete, so it cannot be cancelled", "retrieve it"),
    Cause.SESSION_BUSY: Explanation(
        "the session's earlier turns did not end in time", "try again later, or cancel the turn that runs"
    ),
    Cause.SESSION_QUEUE_FULL: Explanation(
        "as many turns of this session wait as may", "try again later, or raise AGENTD_SESSION_QUEUE"
    ),
    Cause.STORE_UNAVAILABLE: Explanation(
        "the store cannot be written, so no new turn is taken", "check AGENTD_STORE and the space on its disk"
    ),
    Cause.UPDATE_REFUSED: Explanation("the worker did not take the new properties", "send what detail allows"),
    Cause.TOKEN_INVALID: Explanation(
        "the bearer token is none that this server accepts", "send one signed by HS256 with AGENTD_JWT_SECRET, with sub"
    ),
    Cause.TOKEN_EXPIRED: Explanation("the bearer token has expired", "get a new one"),
    Cause.KEY_UNKNOWN: Explanation(
        "the api_key is none that this server knows", "send one that `agentd keys add` has made"
    ),
    Cause.KEY_LIMIT: Explanation(
        "the key has as many turns or channels as it may have", "try again later, or give the key a higher limit"
    ),
    Cause.ORIGIN_REFUSED: Explanation(
        "the key may not be used from web pages of this origin", "add the origin to the key: `agentd keys add --origin`"
    ),
    Cause.MEDIA_TYPE_REFUSED: Explanation(
        "the body has another content type than this endpoint takes", "send the content type that detail names"
    ),
    Cause.CONVERSATION_UNKNOWN: Explanation(
        "there is no such conversation", "begin a new one, or use an id that an answer gave"
    ),
    Cause.ATTACHMENT_UNREADABLE: Explanation(
        "the attachment could not be processed", "upload another file; detail says what was wrong with this one"
    ),
    Cause.ISOLATION_UNAVAILABLE: Explanation(
        "this machine cannot isolate the worker as its graph asks",
        "install what detail names, or set another isolation for the graph (docs/isolation.md)",
    ),
    Cause.INTERNAL: Explanation("agentd met an unexpected error", "report it with the request id from the log"),
    Cause.SPAWN_FAILED: Explanation("the worker process could not be started", "look at detail and `agentd doctor`"),
    Cause.ADDONS_MISSING: Explanation(
        "the graph names add-ons that are not installed",
        "install them, or set AGENTD_UNKNOWN_ADDONS=skip to leave them inert",
    ),
    Cause.GRAPH_INVALID: Explanation(
        "the worker could not build the graph", "mend the node's properties that detail names"
    ),
    Cause.EXITED_BEFORE_READY: Explanation(
        "the worker ended before it was ready", "look at `agentd logs` of the channel"
    ),
    Cause.START_TIMEOUT: Explanation(
        "the worker was not ready in time", "look at its log, or raise WORKER_START_TIMEOUT_SECONDS"
    ),
    Cause.STOPPED: Explanation("somebody stopped the channel", "nothing to do"),
    Cause.KILLED: Explanation("somebody killed the channel without grace", "nothing to do"),
    Cause.LAPSED: Explanation(
        "no ping came before the lease's deadline", "ping in time, or start with a longer timeout"
    ),
    Cause.EXITED: Explanation(
        "the worker ended by itself with status 0", "look at `agentd logs` if it should not have"
    ),
    Cause.CRASHED: Explanation("the worker ended by a signal or with a status other than 0", "look at `agentd logs`"),
    Cause.OUT_OF_MEMORY: Explanation(
        "the kernel killed the worker at its memory limit", "raise the limit of the graph, or mend the leak"
    ),
    Cause.PROTOCOL_VIOLATED: Explanation(
        "the worker wrote what are not frames",
        "look at `agentd logs`; only agentd's library may write to the pipe",
    ),
    Cause.SERVER_STOPPED: Explanation("the server was stopped", "start the channel again"),
    Cause.DRAINED: Explanation("the channel was still there at the deadline of a drain", "start it on another server"),
    Cause.SERVER_LOST: Explanation(
        "the control server was lost, and nobody can tell how this ended", "start the channel again"
    ),
    Cause.ADOPTION_FAILED: Explanation(
        "the worker outlived its control server, but the new one could not take it over",
        "see the detail and the server's log; start the channel again",
    ),
    Cause.SPAWNER_LOST: Explanation(
        "the spawner died or was restarted, and its workers with it", "start the channel again"
    ),
    Cause.STOP_FAILED: Explanation(
        "processes of the channel outlived SIGKILL", "look for processes in uninterruptible sleep (state D)"
    ),
    Cause.SESSION_IDLE: Explanation(
        "the session had no turn for AGENTD_SESSION_IDLE_SECONDS", "nothing to do: its next turn starts a worker"
    ),
    Cause.SESSION_EVICTED: Explanation(
        "an idle session made room for another one", "nothing to do, or raise WORKERS_MAX to keep more"
    ),
    Cause.SESSION_MOVED: Explanation(
        "the session went on with another graph, in a worker of that one", "nothing to do"
    ),
    Cause.TURN_ENDED: Explanation("the worker was started for one turn, which has ended", "nothing to do"),
    Cause.CANCEL_IGNORED: Explanation(
        "the agent went on with a turn that was cancelled", "let the agent's code end when it is cancelled"
    ),
    Cause.COMPLETED: Explanation("the agent answered the turn", "nothing to do"),
    Cause.NOT_IMPLEMENTED: Explanation(
        "no node of the graph answers turns of this kind", "choose another graph, or the other kind of turn"
    ),
    Cause.AGENT_ERROR: Explanation("the agent raised an error", "look at detail and at `agentd logs` of the channel"),
    Cause.RESPONSE_INVALID: Explanation(
        "the agent answered with what is no valid answer", "mend the agent's code; detail says what it answered"
    ),
    Cause.TURN_CANCELLED: Explanation("somebody cancelled the turn", "nothing to do"),
    Cause.CLIENT_GONE: Explanation("the client went away before the turn ended", "nothing to do"),
    Cause.TURN_TIMEOUT: Explanation("the turn did not end in time", "ask for less, or raise AGENTD_TURN_SECONDS"),
    Cause.TURN_SILENT: Explanation(
        "the agent said nothing for too long", "look at `agentd logs`, or raise AGENTD_TURN_SILENCE_SECONDS"
    ),
}


class Refusal(Exception):  # noqa: N818 - a refusal is an answer, not an error of ours
    """A request that cannot be done, with its cause.

    `detail` is for the person who reads the answer: it names the thing, the value and what is allowed, and never
    holds a secret.
    """

    def __init__(self, cause: Cause, detail: str = "", *, retry_after: int | None = None) -> None:
        """`retry_after`: after how many seconds another try may succeed, where that is known exactly."""
        super().__init__(detail or EXPLANATIONS[cause].message)
        self.cause = cause
        self.detail = detail or EXPLANATIONS[cause].message
        self.retry_after = retry_after
