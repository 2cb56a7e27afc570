"""What is wrong with a body that a pydantic model did not take, in words. Pure."""

from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from supervisor.causes import Cause, Refusal

MOST_FAULTS: Final = 5
SHOWN: Final = 64

Model = TypeVar("Model", bound=BaseModel)


def checked(model: type[Model], body: dict[str, Any]) -> Model:
    """The body as `model`. Raises Refusal(BODY_INVALID) that names each field, its value and what is allowed."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False)
        told = [_fault(fault["loc"], fault["msg"], fault["type"], fault["input"]) for fault in faults[:MOST_FAULTS]]
        more = [f"and {len(faults) - MOST_FAULTS} more"] if len(faults) > MOST_FAULTS else []
        known = ", ".join(model.model_fields)
        if any(fault["type"] == "extra_forbidden" for fault in faults):
            more.append(f"known are {known}")
        raise Refusal(Cause.BODY_INVALID, "; ".join(told + more)) from None


def _fault(where: tuple[int | str, ...], message: str, kind: str, value: Any) -> str:
    """One fault; the value is shown when it is short and plain."""
    name = ".".join(str(part) for part in where) or "the body"
    if kind == "extra_forbidden":
        return f"{name[:SHOWN]} is no field of this request"
    if kind == "missing":
        return f"{name} is missing"
    shown = f" (it is {value!r})" if isinstance(value, str | int | float | bool) and len(repr(value)) <= SHOWN else ""
    return f"{name}: {message.removeprefix('Value error, ')}{shown}"
