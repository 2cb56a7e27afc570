"""How fields of published APIs are checked: strictly, null counts as absent, what is not known is no error. Pure."""

from typing import Annotated, Any, Final

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from supervisor.turns.requests import MAX_KEY_BYTES, UNNAMED

TOOL_NAME: Final = r"^[a-zA-Z0-9_-]{1,64}$"
MOST_TOOLS: Final = 128
MOST_STOPS: Final = 16
MOST_WORD: Final = 256  # characters of what is repeated in every chunk, or event


def fault(kind: str, text: str, **values: Any) -> PydanticCustomError:
    """A fault in words of ours; a `kind` that ends with ``_type`` is a wrong type."""
    return PydanticCustomError(kind, text, values)


def _name(text: str) -> str:
    """Names come back in frames that have to be small, so what counts is their size there."""
    if (size := len(orjson.dumps(text)) - 2) > MAX_KEY_BYTES:
        raise ValueError(f"has {size} bytes of JSON; at most {MAX_KEY_BYTES} are allowed")
    if "\0" in text:
        raise ValueError("contains NUL")
    return text


def _session_name(text: str) -> str:
    if text.startswith(UNNAMED):
        raise ValueError(f"begins with {UNNAMED!r}, as those do that nobody named")
    return text


Name = Annotated[str, AfterValidator(_name)]
SessionName = Annotated[Name, AfterValidator(_session_name)]
Word = Annotated[str, Field(max_length=MOST_WORD)]


def as_parts(value: Any) -> Any:
    """A message's content as a list of parts; a string is one. Raises a fault for anything else."""
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    if not isinstance(value, list):
        raise fault("content_type", "must be a string or an array of parts")
    return value


class Known(BaseModel):
    """An object whose other fields are left alone."""

    model_config = ConfigDict(strict=True, extra="ignore", defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            raise fault("object_type", "must be an object")
        return {name: part for name, part in value.items() if part is not None}

    def given(self, *names: str) -> dict[str, Any]:
        """The fields that were given, of these names or of any; what is JSON in them is not copied."""
        return {name: _given(value) for name, value in self._told() if not names or name in names}

    def _told(self) -> list[tuple[str, Any]]:
        fields = type(self).model_fields
        known = [(fields[name].alias or name, getattr(self, name)) for name in fields if name in self.model_fields_set]
        return [*known, *(self.model_extra or {}).items()]


def _given(value: Any) -> Any:
    """A field's value as JSON."""
    if isinstance(value, Known):
        return value.given()
    if isinstance(value, list):
        return [_given(one) if isinstance(one, Known) else one for one in value]
    return value


class Open(Known):
    """An object whose other fields are handed on."""

    model_config = ConfigDict(strict=True, extra="allow", defer_build=True)
