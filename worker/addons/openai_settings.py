"""The properties of a chat model's node, and what one turn may change of them. Pure."""

import re
from base64 import b64encode
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Annotated, Any, Final, Literal
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from pydantic import AfterValidator, BaseModel, Field, SecretStr, field_validator

from worker.agent import Properties, PropertyError

OPENAI_HOST: Final = "api.openai.com"
MAX_TOOLS: Final = 128  # OpenAI's own limit
TOOL_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class Function(BaseModel, extra="allow"):
    """The inner part of a tool's definition; the model is shown all of it."""

    name: str = Field(pattern=rf"^{TOOL_NAME.pattern}$")


class Definition(BaseModel, extra="allow"):
    """A tool as the chat completions protocol defines it."""

    type: Literal["function"]
    function: Function


def _distinct(tools: tuple[Definition, ...]) -> tuple[Definition, ...]:
    names = [tool.function.name for tool in tools]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"these tools are defined more than once: {', '.join(twice)}")
    return tools


Tools = Annotated[tuple[Definition, ...], Field(max_length=MAX_TOOLS), AfterValidator(_distinct)]
Temperature = Annotated[float, Field(ge=0, le=2)]
Share = Annotated[float, Field(gt=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, le=3600)]


class ChatProperties(Properties):
    """Which model to ask, where, how, and how long to wait for it (docs/addons.md)."""

    base_url: str = f"https://{OPENAI_HOST}/v1"
    api_key: SecretStr | None = None
    model: str = "gpt-4o"
    prompt: str = ""
    greeting: str = ""
    max_tokens: Count = 512
    temperature: Temperature = 0.7
    top_p: Share | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    tools: Tools = ()  # the client's: it is handed their calls
    max_tool_rounds: int = Field(8, ge=0, le=64)
    max_memory_length: int = Field(10, ge=0)  # messages before the turn that the model is shown
    allow_model_override: bool = False
    connect_seconds: Seconds = 10
    first_token_seconds: Seconds = 30
    idle_seconds: Seconds = 60  # between two pieces of an answer
    request_timeout: Seconds = 300  # one request with its whole answer
    retries: int = Field(2, ge=0, le=10)

    @field_validator("base_url")
    @classmethod
    def _must_be_http(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("must be an http or https URL with a host")
        return value

    @field_validator("api_key")
    @classmethod
    def _must_fit_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        """A key read from a file often ends with a newline; anything else odd would be told in a library's error."""
        if value is None:
            return None
        key = value.get_secret_value().strip()
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise ValueError("must consist of printable ASCII characters without spaces")
        return SecretStr(key) if key else None

    @property
    def place(self) -> str:
        """The base URL without a user, a password, a query or a fragment, which may be secrets."""
        parts = urlsplit(self.base_url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    @property
    def needs_key(self) -> bool:
        """OpenAI's own server takes nobody without one; of any other only that server knows."""
        return urlsplit(self.base_url).hostname == OPENAI_HOST

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine's loopback."""
        host = urlsplit(self.base_url).hostname or ""
        try:
            return ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every text of these properties that must not be told."""
        parts = urlsplit(self.base_url)
        key = "" if self.api_key is None else self.api_key.get_secret_value()
        values = (value for _, value in parse_qsl(parts.query))
        basic = b64encode(f"{parts.username or ''}:{parts.password or ''}".encode()).decode()
        texts = (key, parts.password, basic, parts.query, *values, parts.fragment)
        return tuple(text for text in texts if text)

    def public(self) -> dict[str, Any]:
        """The declared values but the key; of the tools the names, of the URL the place."""
        names = [tool.function.name for tool in self.tools]
        return super().public() | {"base_url": self.place, "tools": names}


class Overrides(Properties):
    """What a turn's options may change. Options of other names are for other models, and are left alone."""

    model: str | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    max_tokens: Count | None = None
    max_output_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    seed: int | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    tools: Tools | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None


# Properties that are sent as they are; a turn's option of the same name goes before.
SENT: Final = ("model", "temperature", "top_p", "frequency_penalty", "presence_penalty", "max_tokens")
# Options that are sent as they are.
PASSED: Final = ("stop", "seed", "response_format", "reasoning_effort", "tool_choice", "parallel_tool_calls")
# Those that servers refuse without tools.
OF_TOOLS: Final = ("tool_choice", "parallel_tool_calls")
# Other names of max_tokens, in other dialects of the protocol.
LENGTHS: Final = ("max_tokens", "max_output_tokens", "max_completion_tokens")


class OptionError(ValueError):
    """An option of a turn does not fit; the text names it, its value and what is allowed."""


def parameters(properties: ChatProperties, options: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[Definition, ...]]:
    """A request's parameters without its messages, and the client's tools; raises OptionError."""
    try:
        wish = Overrides.parse(options)
    except PropertyError as error:
        raise OptionError(f"options: {error}") from None
    values = {name: getattr(properties, name) for name in SENT}
    wished = {name: getattr(wish, name) for name in (*SENT, *PASSED)}
    wished["max_tokens"] = next((value for name in LENGTHS if (value := getattr(wish, name)) is not None), None)
    if not properties.allow_model_override:
        wished["model"] = None
    values |= {name: value for name, value in wished.items() if value is not None}
    tools = properties.tools if wish.tools is None else wish.tools
    return {name: value for name, value in values.items() if value is not None}, tools
