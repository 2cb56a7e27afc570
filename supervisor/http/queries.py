"""Query strings as pydantic models: what each parameter may be, in one place for the check and the description."""

from typing import Annotated, Any, Final, TypeVar

from aiohttp import web
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from supervisor.causes import Cause, Refusal
from supervisor.http.faults import checked

SWITCHES: Final = {"1": True, "true": True, "0": False, "false": False}
SHOWN: Final = 64

Model = TypeVar("Model", bound=BaseModel)


class Query(BaseModel):
    """A query string; a parameter it does not know is refused, not ignored."""

    model_config = ConfigDict(extra="forbid")


def _switch(value: Any) -> Any:
    if isinstance(value, str):
        if value not in SWITCHES:
            raise ValueError(f"allowed are {', '.join(SWITCHES)}")
        return SWITCHES[value]
    return value


def _integer(value: Any) -> Any:
    if isinstance(value, str) and not (value.isascii() and value.removeprefix("-").isdigit()):
        raise ValueError("it must be an integer")
    return value


def _listed(value: Any) -> Any:
    return [item for item in value.split(",") if item] if isinstance(value, str) else value


Switch = Annotated[bool, BeforeValidator(_switch), WithJsonSchema({"type": "string", "enum": list(SWITCHES)})]
Seconds = Annotated[float, Field(allow_inf_nan=False)]
Integer = BeforeValidator(_integer)  # behind the bounds of an int: digits only
Listed = BeforeValidator(_listed)  # of an array whose items are separated by commas


def read_query(model: type[Model], request: web.Request) -> Model:
    """The query of a request. Raises Refusal(BODY_INVALID) that names the parameter, its value and what is allowed."""
    given: dict[str, str] = {}
    for name, value in request.query.items():
        if name in given:
            raise Refusal(Cause.BODY_INVALID, f"{name[:SHOWN]} is given more than once")
        given[name] = value
    return checked(model, given)
