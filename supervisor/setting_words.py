"""Settings in words: what a field takes, what its value is. Secrets are masked. Pure."""

from dataclasses import dataclass
from typing import Any, Final, get_args

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from supervisor import sources
from supervisor.property import Injection
from supervisor.setting_types import Allowed, Default, size_text

MASK: Final = "********"
MOST_SHOWN: Final = 200


@dataclass(frozen=True, slots=True)
class Description:
    """One setting in words; a `switch` is true when its flag stands alone."""

    name: str
    variables: tuple[str, ...]
    flag: str | None
    default: str
    allowed: str
    meaning: str
    secret: bool
    switch: bool


def described(name: str, info: FieldInfo) -> Description:
    """The setting of this name."""
    listen = sources.variables_of(sources.LISTEN) if name in sources.LISTEN_FIELDS else ()
    return Description(
        name=name,
        variables=(*listen, *sources.variables_of(name)),
        flag=None if is_secret(info) else sources.flag_of(name),
        default=_default(name, info),
        allowed=allowed(info),
        meaning=info.description or "",
        secret=is_secret(info),
        switch=info.annotation is bool,
    )


def allowed(info: FieldInfo) -> str:
    """What a field takes, in words."""
    words = [item.text for item in info.metadata if isinstance(item, Allowed)]
    if words:
        return words[-1]
    *most, last = (str(value) for value in get_args(info.annotation))
    return f"{', '.join(most)} or {last}"


def is_secret(info: FieldInfo) -> bool:
    """Whether a field's value is never shown."""
    return "Secret" in str(info.annotation)


def shown(value: Any) -> str:
    """A value for people: secrets masked."""
    match value:
        case None:
            return "none"
        case SecretStr():
            return MASK
        case bool():
            return str(value).lower()
        case Injection():
            return f"{value.node}.{value.key}={value.field}{':str' if value.as_string else ''}"
        case tuple():
            return ", ".join(map(shown, value)) or "none"
        case dict():
            return ", ".join(f"{key}={item}" for key, item in value.items())
    return str(value)


def quoted(value: Any, info: FieldInfo) -> str:
    """A refused value as the user wrote it: masked when secret, at most 200 characters."""
    if is_secret(info):
        return MASK
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 1] + "…"


def in_words(settings: BaseModel, name: str) -> str:
    """The value of the setting `name`, in the form in which it can be given."""
    value, info = getattr(settings, name), type(settings).model_fields[name]
    return _default(name, info) if value is None and info.default is None else _shown(name, value)


def _default(name: str, info: FieldInfo) -> str:
    words = [item.text for item in info.metadata if isinstance(item, Default)]
    return words[0] if words else _shown(name, info.default)


def _shown(name: str, value: Any) -> str:
    return size_text(value) if name.endswith("_bytes") and value is not None else shown(value)
