"""The way to a model server: the official client, its timeouts and its tries.

The client's library is imported on first use, not with this module: it costs a third of a second and 25 MB, which no
worker but those of a graph with a model should pay, and which their zygote pays for them (`openai_rehearsal`).
"""

import asyncio
import contextlib
import importlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import parse_qsl, urlsplit, urlunsplit
from uuid import uuid4

import structlog

from worker.addons.openai_answer import Answer
from worker.addons.openai_errors import (
    AnswerInvalidError,
    Fault,
    FaultError,
    KeyMissingError,
    ModelError,
    ModelSilentError,
    Scrubber,
    StreamBrokenError,
    error_of,
    pause,
    seconds_of,
    told,
)
from worker.addons.openai_settings import ChatProperties
from worker.addons.openai_tls import tls_context
from worker.agent import Text, Thought

if TYPE_CHECKING:
    from openai import AsyncOpenAI, AsyncStream
    from openai.types.chat import ChatCompletionChunk

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

T = TypeVar("T")
Tell = Callable[[Text | Thought], Awaitable[None]]

RETRY_SECONDS: Final = 30.0  # from the beginning of a request's first try to that of its last one
TAIL_SECONDS: Final = 2.0  # for what comes after the answer: its usage, and the end
CLOSE_SECONDS: Final = 2.0
WRITE_SECONDS: Final = 30.0
PLACEHOLDER: Final = "none"  # the library insists on a key; a server that needs none ignores it
STREAM: Final = "text/event-stream"

# Parameters that some servers or models refuse: by which words they do, and the name that is tried instead, if any.
CONCESSIONS: Final[Mapping[str, tuple[str, str | None]]] = {
    "stream_options": ("stream_options", None),
    "max_tokens": ("max_completion_tokens", "max_completion_tokens"),
    "temperature": ("'temperature' does not support", None),
}
CHANCE: Final = random.SystemRandom()
SILENCES: Final = {
    "first_token_seconds": "no token of an answer",
    "idle_seconds": "nothing more of its answer",
    "request_timeout": "no whole answer",
}


class ModelClient:
    """Asks one server; made when it is first needed and used for all turns, so that its connections are.

    It is closed by `retire`: at once when nobody uses it, else by its last user.
    """

    def __init__(self, properties: ChatProperties, node: str) -> None:
        self.properties = properties
        self._node = node
        self._scrub = Scrubber(properties.secrets)
        self._client: AsyncOpenAI | None = None
        self._conceded: set[str] = set()
        self._users = 0
        self._retired = False

    @contextlib.asynccontextmanager
    async def lease(self) -> AsyncIterator["ModelClient"]:
        """Use the client; it is not closed meanwhile."""
        self._users += 1
        try:
            yield self
        finally:
            self._users -= 1
            if self._retired:
                await self.retire()

    async def retire(self) -> None:
        """Close the connections as soon as nobody uses them; bounded by CLOSE_SECONDS."""
        self._retired = True
        if self._users or self._client is None:
            return
        client, self._client = self._client, None
        await self._close(client.close())

    async def ask(self, request: Mapping[str, Any], tell: Tell) -> Answer:
        """The model's answer, to its end but not checked; `tell` gets its texts and thoughts as they come.

        Until the first token the request is tried again when that may help: `retries` times, within RETRY_SECONDS.
        Raises ModelError, which holds no secret, nor does anything it was caused by.
        """
        properties = self.properties
        if properties.needs_key and properties.api_key is None:
            raise KeyMissingError(
                f"no key for {properties.place}: set the property api_key of the node {self._node!r}, "
                "or the variable OPENAI_API_KEY when the graph takes it from there"
            )
        loop = asyncio.get_running_loop()
        until = loop.time() + RETRY_SECONDS
        tries = 0
        while True:
            answer = Answer(f"call_{uuid4().hex}")
            try:
                await self._try(self._conceding(request), answer, tell)
            except FaultError as failed:
                fault = failed.fault
            except ModelError as error:
                raise type(error)(self._scrub(str(error))) from None
            else:
                return answer
            if self._concede(request, fault):
                continue
            wait = pause(tries, fault.retry_after, CHANCE.random())
            tries += 1
            if tries > properties.retries or not fault.passing or loop.time() + wait > until:
                raise error_of(fault, properties.place, tries)
            log.warning("openai.retry", node=self._node, status=fault.status, error=fault.text, seconds=round(wait, 3))
            await asyncio.sleep(wait)

    async def _try(self, request: dict[str, Any], answer: Answer, tell: Tell) -> None:
        """One request; raises FaultError for what failed before the first token, ModelError for what is final."""
        client = self._connected()
        start = asyncio.get_running_loop().time()
        asked = client.chat.completions.create(**request, stream=True)
        stream: AsyncStream[ChatCompletionChunk] = await self._bounded(asked, answer, start)
        try:
            kind = stream.response.headers.get("content-type", STREAM)
            if not kind.startswith(STREAM):
                raise AnswerInvalidError(
                    f"the model server {self.properties.place} answered with {kind!r:.100}, not {STREAM}; "
                    "check the node's property base_url"
                )
            while (chunk := await self._next(stream, answer, start)) is not None:
                for piece in answer.add(_plain(chunk)):
                    await tell(piece)
        finally:
            await self._close(stream.close())
        if not answer.begun:
            raise FaultError(Fault(text="its stream ended before the answer began"))

    async def _next(self, stream: "AsyncStream[ChatCompletionChunk]", answer: Answer, start: float) -> Any:
        """The next chunk; None at the end, and when a server that has said all neither goes on nor hangs up."""
        try:
            return await self._bounded(anext(stream, None), answer, start)
        except (ModelSilentError, StreamBrokenError) as error:
            if not answer.finish:
                raise
            log.warning("openai.end_missing", node=self._node, error=self._scrub(str(error)))
            return None

    async def _bounded(self, step: Awaitable[T], answer: Answer, start: float) -> T:
        """One step of a request that began at `start`, as long as it may take at this point of the answer."""
        properties = self.properties
        now = asyncio.get_running_loop().time()
        if answer.begun:
            name, until = "idle_seconds", now + properties.idle_seconds
        else:
            name, until = "first_token_seconds", start + properties.first_token_seconds
        if answer.finish:
            until = min(until, now + TAIL_SECONDS)
        if start + properties.request_timeout < until:
            name, until = "request_timeout", start + properties.request_timeout
        openai = importlib.import_module("openai")
        try:
            async with asyncio.timeout_at(until):
                return await step
        except TimeoutError:
            raise ModelSilentError(
                f"the model server {properties.place} sent {SILENCES[name]} within {getattr(properties, name):g} s "
                f"(the node's property {name})"
            ) from None
        except openai.OpenAIError as error:
            fault = self._fault(error)
        except ValueError as error:  # what the library raises for a chunk that is no JSON, or no UTF-8
            raise AnswerInvalidError(f"the model server {properties.place} sent no JSON in a chunk: {error}") from None
        if answer.begun:
            raise StreamBrokenError(f"the answer broke off: {fault.text}; what was said stands")
        raise FaultError(fault)

    def _fault(self, error: Any) -> Fault:
        """What one of the library's exceptions says; its attributes depend on its class."""
        response = getattr(error, "response", None)
        headers = {} if response is None else response.headers
        cause = error.__cause__
        text = told(getattr(error, "body", None)) or (f"{type(cause).__name__}: {cause}" if cause else str(error))
        return Fault(
            status=getattr(error, "status_code", None),
            code=self._scrub(getattr(error, "code", None) or ""),
            text=self._scrub(text),
            retry_after=seconds_of(headers, datetime.now(UTC)),
            final=headers.get("x-should-retry") == "false",
        )

    def _concede(self, request: Mapping[str, Any], fault: Fault) -> bool:
        """Whether the server refused a parameter that can be done without, which it then is from now on."""
        for name, (words, _) in CONCESSIONS.items():
            if name in request and name not in self._conceded and fault.status in {400, 422} and words in fault.text:
                self._conceded.add(name)
                log.warning("openai.conceded", node=self._node, parameter=name, error=fault.text)
                return True
        return False

    def _conceding(self, request: Mapping[str, Any]) -> dict[str, Any]:
        names = {name: CONCESSIONS[name][1] if name in self._conceded else name for name in request}
        return {name: request[asked] for asked, name in names.items() if name is not None}

    def _connected(self) -> "AsyncOpenAI":
        if self._client is None:
            openai = importlib.import_module("openai")
            properties = self.properties
            parts = urlsplit(properties.base_url)
            key = PLACEHOLDER if properties.api_key is None else properties.api_key.get_secret_value()
            self._client = openai.AsyncOpenAI(
                api_key=key,
                base_url=urlunsplit((parts.scheme, parts.netloc, parts.path, "", "")),
                default_query=dict(parse_qsl(parts.query)),
                max_retries=0,  # ours know the first token, the properties and the log
                timeout=openai.Timeout(None, connect=properties.connect_seconds, write=WRITE_SECONDS),
                http_client=openai.DefaultAsyncHttpxClient(
                    verify=tls_context(),
                    trust_env=not properties.is_local,  # a proxy's loopback is another one
                ),
            )
        return self._client

    async def _close(self, closing: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await closing
        except TimeoutError:
            log.warning("openai.close_late", node=self._node, seconds=CLOSE_SECONDS)


def _plain(chunk: Any) -> Any:
    """A chunk as JSON values; the library hands on what is no object as it is."""
    return chunk.to_dict(mode="python", warnings=False) if hasattr(chunk, "to_dict") else chunk
