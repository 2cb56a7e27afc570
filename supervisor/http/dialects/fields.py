"""How fields of published APIs are checked: strictly, null counts as absent, what is not known is no error. Pure."""

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

TOOL_NAME: Final = r"^[a-zA-Z0-9_-]{1,64}$"
MOST_TOOLS: Final = 128


def fault(kind: str, text: str, **values: Any) -> PydanticCustomError:
    """A fault in words of ours; a `kind` that ends with ``_type`` is a wrong type."""
    return PydanticCustomError(kind, text, values)


class Known(BaseModel):
    """An object whose other fields are left alone."""

    model_config = ConfigDict(strict=True, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            raise fault("object_type", "must be an object")
        return {name: part for name, part in value.items() if part is not None}


class Open(Known):
    """An object whose other fields are handed on."""

    model_config = ConfigDict(strict=True, extra="allow")
