"""`openai_chatgpt`, also `openai_chatgpt_python`: the settings of a chat model behind OpenAI's HTTP API."""

from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, SecretStr, field_validator

from worker.agent import Context, Node, Properties


class ChatProperties(Properties):
    """Which model to ask, where, and how."""

    base_url: str = "https://api.openai.com/v1"
    api_key: SecretStr | None = None
    model: str = "gpt-4o"
    prompt: str = ""
    greeting: str = ""
    max_tokens: int = Field(512, ge=1)
    temperature: float = Field(0.7, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_memory_length: int = Field(10, ge=0)  # messages of the conversation that the model is shown

    @field_validator("base_url")
    @classmethod
    def _must_be_http(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("must be an http or https URL with a host")
        return value

    def public(self) -> dict[str, Any]:
        """The declared values but the key; the URL without a user, a password or a query, which may be secrets."""
        parts = urlsplit(self.base_url)
        where = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
        return super().public() | {"base_url": where}


class OpenAIChatGPT(Node):
    """Checks its properties and takes messages; it starts without key or network, and asks no model by itself."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.properties = ChatProperties.parse(context.properties)

    def describe(self) -> dict[str, Any]:
        """Its effective properties, without the key."""
        return self.properties.public()
