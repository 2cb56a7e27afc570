"""What can go wrong with a model: errors whose text may be shown to anybody, and which faults are worth another try.

Pure, and without the client's library: its exceptions come in as a `Fault`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import quote

MAX_TEXT: Final = 1000
SHORTEST_SECRET: Final = 4  # a shorter one would be found in any text
HIDDEN: Final = "[hidden]"
LOOKED_AT: Final = 20_000  # characters of a text, which may be a whole page
# How servers show a key: sk-ab***yz. It begins where a word does, so that a long word is looked through once.
MASKED: Final = re.compile(r"(?<![^\s'\"])[^\s'\"]*?\*{3}[^\s'\"]*")


class ModelError(Exception):
    """Base of all of them. The text says what happened and what to do, and holds no secret."""


class KeyMissingError(ModelError):
    """The server takes nobody without a key, and the node has none."""


class ModelRefusedError(ModelError):
    """The server refused the request, and would do so again."""


class ModelUnavailableError(ModelError):
    """The server cannot be reached, is overloaded or failed, also at the last try."""


class ModelSilentError(ModelError):
    """No token came within the time for it."""


class StreamBrokenError(ModelError):
    """The answer broke off after its first token; what was said stands."""


class AnswerInvalidError(ModelError):
    """The server said something that is not the protocol."""


class ContentFilteredError(ModelError):
    """The server's content filter ended the answer."""


class ToolRoundsError(ModelError):
    """The model went on calling tools beyond the bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A request that failed before its first token. `status` is None when no response came."""

    text: str  # what happened, in the words of the server or the library
    status: int | None = None
    code: str = ""
    retry_after: float | None = None  # seconds, when the server named them
    final: bool = False  # the server says that another try is of no use

    @property
    def passing(self) -> bool:
        """Whether another try may go better."""
        if self.final or self.code == "insufficient_quota":
            return False
        return self.status is None or self.status in {408, 409, 429} or self.status >= 500


class FaultError(Exception):
    """A try that failed before its first token."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.text)
        self.fault = fault


def told(body: Any) -> str:
    """What the body of an error response says: servers differ in where."""
    match body:
        case {"error": inner}:
            return told(inner)
        case {"message": str(text)} | {"detail": str(text)}:
            return text
        case str(text):
            return text
        case None:
            return ""
    return str(body)


def seconds_of(headers: Mapping[str, str], now: datetime) -> float | None:
    """The seconds a response asks to wait (RFC 9110, 10.2.3; milliseconds as OpenAI has them); None without."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value):
            return float(value) * unit
    try:
        when = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    return max((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - now.timestamp(), 0.0)


def pause(attempt: int, retry_after: float | None, chance: float) -> float:
    """Seconds before another try: what the server asks for, else 0.5, 1, 2, ... up to 8, less up to a quarter.

    `attempt` counts from 0; `chance` is from 0 to 1, so that many workers do not come back at once.
    """
    return retry_after if retry_after is not None else min(0.5 * 2**attempt, 8.0) * (1 - chance / 4)


class Scrubber:
    """Makes a text fit to be shown: without the secrets, also masked or quoted ones, and bounded."""

    def __init__(self, secrets: Iterable[str]) -> None:
        long = {form for secret in secrets if len(secret) >= SHORTEST_SECRET for form in (secret, quote(secret, ""))}
        self._secrets = sorted(long, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """The text without secrets, at most 1,000 characters."""
        cut = len(text) > LOOKED_AT
        text = text[:LOOKED_AT]
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        if cut and self._secrets:
            text = text[: -len(self._secrets[0])]  # where the beginning of one may stand
        text = MASKED.sub(HIDDEN, text)
        return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..."


def error_of(fault: Fault, place: str, tries: int) -> ModelError:
    """The error a turn ends with; the text of the fault is scrubbed already."""
    again = f" (tried {tries} times)" if tries > 1 else ""
    if fault.status is None:
        return ModelUnavailableError(f"no answer from the model server {place}{again}: {fault.text}")
    code = f" ({fault.code})" if fault.code else ""
    text = f"the model server {place} answered {fault.status}{code}{again}: {fault.text or 'without a word'}"
    if fault.status == 401:
        return ModelRefusedError(f"{text} - check the node's property api_key, or the variable OPENAI_API_KEY")
    if fault.passing or fault.status >= 500 or fault.status == 429:
        asked = f" - it asks to wait {fault.retry_after:.0f} s" if fault.retry_after else ""
        return ModelUnavailableError(text + asked)
    return ModelRefusedError(text)
