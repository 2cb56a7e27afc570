"""What is wrong with a body that a pydantic model did not take, in words. Pure."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from supervisor.causes import Cause, Refusal
from supervisor.http.envelope import NOTHING

MOST_FAULTS: Final = 5
SHOWN: Final = 64
MISSING: Final = "missing"

# In one request. Each takes a microsecond or more to check, and each that is wrong takes more, with the GIL held.
MOST_FIELDS: Final = 1024
MOST_MESSAGES: Final = 4096
MOST_PARTS: Final = 16_384  # of all messages together

Model = TypeVar("Model", bound=BaseModel)
Place = tuple[int | str, ...]


class Fault(NamedTuple):
    """One thing that is wrong: where in the body, what kind of fault (pydantic's word), and a text that names it."""

    place: Place
    kind: str
    text: str

    @property
    def name(self) -> str:
        """The place as people write it: ``input[2].content``."""
        return place_name(self.place)


class BodyRefusal(Refusal):
    """BODY_INVALID with the faults one by one, for APIs whose errors have them so."""

    def __init__(self, *faults: Fault, more: str = "") -> None:
        super().__init__(Cause.BODY_INVALID, "; ".join([*(fault.text for fault in faults), *([more] if more else [])]))
        self.faults = faults


def checked(
    model: type[Model],
    body: dict[str, Any],
    *,
    messages: tuple[str, ...] = (),
    entries: Mapping[str, int] = NOTHING,
) -> Model:
    """The body as `model`. Raises BodyRefusal that names each field, its value and what is allowed.

    `messages` are the fields that are lists of messages, which may not be too long; `entries` tells of others how many
    entries they may have.
    """
    if len(body) > MOST_FIELDS:
        raise BodyRefusal(Fault((), "too_long", f"the body has {len(body)} fields; at most {MOST_FIELDS} are allowed"))
    for name in messages:
        check_length(name, body.get(name))
    for name, most in entries.items():
        value = body.get(name)
        if isinstance(value, dict | list) and len(value) > most:
            raise _too_many(name, f"has {len(value)} entries; at most {most} are allowed")
    try:
        return model.model_validate(body)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False)
        told = [_fault(fault["loc"], fault["msg"], fault["type"], fault["input"]) for fault in faults[:MOST_FAULTS]]
        more = [f"and {len(faults) - MOST_FAULTS} more"] if len(faults) > MOST_FAULTS else []
        known = ", ".join(model.model_fields)
        if any(fault["type"] == "extra_forbidden" for fault in faults):
            more.append(f"known are {known}")
        raise BodyRefusal(*told, more="; ".join(more)) from None


def check_length(name: str, messages: Any) -> None:
    """Raise BodyRefusal when the list of messages `name` is too long, or has too many parts; others are left alone."""
    if not isinstance(messages, list):
        return
    if len(messages) > MOST_MESSAGES:
        raise _too_many(name, f"has {len(messages)} messages; at most {MOST_MESSAGES} are allowed")
    lists = [part for message in messages if isinstance(message, dict) for part in message.values()]
    if (count := sum(len(part) for part in lists if isinstance(part, list))) > MOST_PARTS:
        raise _too_many(name, f"has messages with {count} parts; at most {MOST_PARTS} are allowed")


def _too_many(name: str, text: str) -> BodyRefusal:
    return BodyRefusal(Fault((name,), "too_long", f"{name} {text}"))


def place_name(place: Place) -> str:
    """``("input", 2, "content")`` as ``input[2].content``; the body itself is nameless."""
    name = ""
    for part in place:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else part
    return name


def _fault(where: Place, message: str, kind: str, value: Any) -> Fault:
    """One fault; the value is shown when it is short and plain."""
    where = tuple(part[:SHOWN] if isinstance(part, str) else part for part in where)  # keys may be a client's own
    name = place_name(where) or "the body"
    if kind == "extra_forbidden":
        return Fault(where, kind, f"{name} is no field of this request")
    if kind == MISSING:
        return Fault(where, kind, f"{name} is missing")
    shown = f" (it is {value!r})" if isinstance(value, str | int | float | bool) and len(repr(value)) <= SHOWN else ""
    return Fault(where, kind, f"{name}: {message.removeprefix('Value error, ')}{shown}")
