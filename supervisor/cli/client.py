"""The client's side of the server's HTTP API. Standard library only: a command must start fast.

Whatever goes wrong is a `CommandError`: 1 the server refused, 2 no usable address, 3 no server answers.
"""

import http.client
import json
import os
import socket
from collections import ChainMap
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from supervisor import sources
from supervisor.causes import EXPLANATIONS, Cause
from supervisor.cli.errors import REFUSED, UNREACHABLE, USAGE, CommandError

CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 300.0  # a start may take as long as the operator lets workers take
CAUSE_HEADER: Final = "Agentd-Cause"
WANTED: Final = ("host", "port", "token")
READ_BYTES: Final = 64 * 1024
_DEFAULTS: Final = (("host", "127.0.0.1"), ("port", "8080"))  # those of supervisor.settings; a test compares them
# An address to listen on that means every address, and the one to reach it by.
ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not listened on

# What to do about a code of TEN's API that has several causes.
NEXT_STEPS: Final = {
    "10000": "look at detail",
    "10001": "stop a channel, or raise WORKERS_MAX or the limit of the graph",
    "10007": "mend the file that detail names; `agentd doctor` checks the property file",
    "10100": "choose a graph that `agentd graphs` lists; `agentd doctor` checks the property file",
    "10101": "look at `agentd logs` of the channel and at `agentd doctor`",
}


@dataclass(frozen=True, slots=True)
class Target:
    """Where the server is, in whose words, and the token it wants."""

    url: str
    named_by: str
    token: str | None = field(default=None, repr=False)


def find_target(server: str | None, token: str | None) -> Target:
    """The server to talk to: `server`, else AGENTD_SERVER, else where the settings of this folder make it listen.

    The token likewise. Settings are looked up, not checked: a mistake elsewhere in them does not stop a client.
    Raises CommandError for an address that is none, SettingsError for a file of settings that cannot be read.
    """
    document, config = sources.read_config(None)
    places = (
        sources.from_variables(os.environ, WANTED, sources.ENVIRONMENT),
        sources.from_variables(sources.read_dotenv(Path(sources.DOTENV)), WANTED, sources.DOTENV),
        sources.from_config(
            {key: document[key] for key in (*WANTED, sources.LISTEN) if key in document}, WANTED, config
        ),
    )
    given = ChainMap(*places)
    token = token or (str(given["token"].value) if "token" in given else None) or None
    if server:
        return Target(server, "--server", token)
    if server := os.environ.get("AGENTD_SERVER"):
        return Target(server, "AGENTD_SERVER", token)
    host, port = (str(given[name].value) if name in given else default for name, default in _DEFAULTS)
    host = ANY_ADDRESS.get(host, host)
    named_by = given["port"].name if "port" in given else "the default"
    if port == "0":
        raise _usage(
            f"{named_by} lets the server take any free port", "give its address with --server or AGENTD_SERVER"
        )
    return Target(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}", named_by, token)


class Client:
    """Requests to one server, each on a connection of its own; an answer may take `answer_seconds` to begin."""

    def __init__(self, target: Target, *, answer_seconds: float = ANSWER_SECONDS) -> None:
        self._target = target
        self._answer_seconds = answer_seconds
        try:
            parts = urlsplit(target.url)
            self._host, self._port, self._path = parts.hostname or "", parts.port, parts.path.rstrip("/")
        except ValueError as error:
            raise self._no_address(str(error)) from error
        if parts.scheme not in ("http", "https") or not self._host or parts.query or parts.fragment:
            raise self._no_address("http://HOST:PORT or https://HOST:PORT is allowed")
        self._connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection

    def ten(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The envelope of a success of TEN's API."""
        with self._exchange(method, path, body) as response:
            return self._read(response, path)

    def native(self, method: str, *path: str, **query: object) -> dict[str, Any]:
        """The answer of the native API at ``/channels/...``."""
        with self._exchange(method, _native_path(path, query)) as response:
            return self._read(response, "")

    def drain(self, method: str, **query: object) -> dict[str, Any]:
        """The answer of the native API at ``/drain``."""
        with self._exchange(method, "/drain" + _query(query)) as response:
            return self._read(response, "")

    def stream(self, *path: str, **query: object) -> Iterator[bytes]:
        """What the native API streams, as it comes, until the server ends it."""
        with self._exchange("GET", _native_path(path, query), endless=True) as response:
            if response.status != HTTPStatus.OK:
                self._read(response, "")
            while chunk := response.read1():
                yield chunk

    def events(
        self, path: str, body: dict[str, Any], *, silence: float, connected: Callable[[socket.socket], None]
    ) -> Generator[bytes]:
        """The server-sent events a request is answered by, in pieces as they come, until the server ends them.

        `connected` gets the connection before the request is sent, so that somebody else can shut it down; an OSError
        it raises ends the matter. A server that says nothing for `silence` seconds is given up.
        """
        with self._exchange("POST", path, body, endless=True, silence=silence, connected=connected) as response:
            if response.status != HTTPStatus.OK or response.headers.get_content_type() != "text/event-stream":
                self._read(response, "")
                raise self._not_agentd(response, "no events")
            try:
                while chunk := response.read1(READ_BYTES):
                    yield chunk
            except TimeoutError as error:
                raise broken_off(f"agentd at {self._target.url} has said nothing for {silence:g} s") from error
            except (OSError, http.client.HTTPException) as error:
                raise broken_off(str(error) or type(error).__name__) from error

    @contextmanager
    def _exchange(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        endless: bool = False,
        silence: float | None = None,
        connected: Callable[[socket.socket], None] | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        connection = self._connect(self._host, self._port, timeout=CONNECT_SECONDS)
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if self._target.token:
            headers["Authorization"] = f"Bearer {self._target.token}"
        try:
            connection.connect()
            sock = connection.sock
            sock.settimeout(self._answer_seconds)
            if connected is not None:
                connected(sock)
            connection.request(method, self._path + path, None if body is None else _encode(body), headers)
            response = connection.getresponse()
            if endless:
                sock.settimeout(silence)
            yield response
        except (OSError, http.client.HTTPException) as error:
            raise CommandError(
                UNREACHABLE,
                cause="unreachable",
                message=f"no agentd answers at {self._target.url} (from {self._target.named_by})",
                detail=str(error) or type(error).__name__,
                next_step="start it with `agentd serve`, or give its address with --server or AGENTD_SERVER",
            ) from error
        finally:
            connection.close()

    def _read(self, response: http.client.HTTPResponse, path: str) -> dict[str, Any]:
        """The JSON object of a good answer; raises CommandError for a refusal and for what is not agentd's."""
        data = response.read()
        try:
            answer = json.loads(data)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise self._not_agentd(response, f"{len(data)} bytes")
        if isinstance(answer.get("error"), dict):
            told = {name: str(answer["error"].get(name, "")) for name in ("cause", "message", "detail", "next_step")}
            raise CommandError(REFUSED, **told)
        if answer.get("code", "0") != "0":
            raise _refusal_of_ten(answer, _known(response.headers.get(CAUSE_HEADER)), path)
        return answer

    def _not_agentd(self, response: http.client.HTTPResponse, amount: str) -> CommandError:
        return CommandError(
            REFUSED,
            cause="not_agentd",
            message=f"what answers at {self._target.url} (from {self._target.named_by}) is not agentd",
            detail=f"HTTP {response.status}, {amount} of {response.headers.get_content_type()}",
            next_step="give the address of agentd with --server or AGENTD_SERVER",
        )

    def _no_address(self, reason: str) -> CommandError:
        return _usage(f"{self._target.url!r} (from {self._target.named_by}) is not an address", reason)


def _native_path(path: tuple[str, ...], query: dict[str, object]) -> str:
    return "/".join(["/channels", *(quote(part, safe="") for part in path)]) + _query(query)


def _query(query: dict[str, object]) -> str:
    given = {name: value for name, value in query.items() if value is not None}
    return "?" + urlencode(given) if given else ""


def _encode(body: dict[str, Any]) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        raise _usage("an argument is not text in UTF-8", "UTF-8") from error


def _known(cause: str | None) -> Cause | None:
    return Cause(cause) if cause in set(Cause) else None


def _refusal_of_ten(answer: dict[str, Any], cause: Cause | None, path: str) -> CommandError:
    """The refusal; without the server's own word for the cause, the one that has this code, if it is just one."""
    from supervisor.http.envelope import ROWS, code_of  # noqa: PLC0415 - needed only for a refusal

    code, msg, detail = (str(answer.get(name) or "") for name in ("code", "msg", "detail"))
    causes = [cause] if cause else [one for one in ROWS if code_of(one, path) == code]
    if len(causes) == 1:
        explanation = EXPLANATIONS[causes[0]]
        return CommandError(
            REFUSED,
            cause=causes[0].value,
            message=f"{explanation.message} (code {code})",
            detail=detail,
            next_step=explanation.next_step,
        )
    return CommandError(
        REFUSED,
        cause=msg.replace(" ", "_") or "refused",
        message=f"{msg} (code {code})",
        detail=detail,
        next_step=NEXT_STEPS.get(code, "look at detail"),
    )


def broken_off(detail: str) -> CommandError:
    """The error of an answer whose end did not come."""
    return CommandError(
        REFUSED,
        cause="connection_lost",
        message="the answer broke off",
        detail=detail,
        next_step="look whether the server runs with `agentd ls`, then ask again",
    )


def _usage(message: str, next_step: str) -> CommandError:
    return CommandError(USAGE, cause="usage", message=message, next_step=next_step)
