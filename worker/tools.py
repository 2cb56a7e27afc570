"""Tools: functions that an agent, or the model it asks, calls with arguments checked against their annotations."""

import asyncio
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final, get_type_hints, overload

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from worker.texts import said

MOST_SHOWN: Final = 100  # characters of a wrong value
_REFUSED: Final = {
    inspect.Parameter.POSITIONAL_ONLY: "positional-only",
    inspect.Parameter.VAR_POSITIONAL: "a *list",
    inspect.Parameter.VAR_KEYWORD: "a **mapping",
}


class ToolError(Exception):
    """A tool that gave no result: wrong arguments, too slow, or its function raised (which is the ``__cause__``)."""


class Tool:
    """A function with a name, a description, and the JSON schema of its parameters.

    A coroutine function runs in the event loop, any other in a thread. Made by `tool`.
    """

    def __init__(self, function: Callable[..., Any], *, name: str, description: str, timeout: float | None) -> None:
        """Raises TypeError for a function whose parameters cannot all be given by name, or not be resolved."""
        self.function = function
        self.name = name
        self.description = description
        self.timeout = timeout  # seconds; None: as long as it takes
        self._instance: Any = None  # whose method the function is
        parameters = list(inspect.signature(function).parameters.values())
        self.is_method = bool(parameters) and parameters[0].name == "self"
        self._model = _model(function, name, parameters[self.is_method :])
        self._names = {field: str(info.alias) for field, info in self._model.model_fields.items()}

    @functools.cached_property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of the object of arguments."""
        schema = self._model.model_json_schema()
        schema.pop("title", None)
        for member in schema.get("properties", {}).values():
            member.pop("title", None)  # the name again, in capitals
        return schema

    def __get__(self, instance: Any, owner: type | None = None) -> "Tool":
        """As a method of `instance`, when the function is one; so that ``self.look_up`` is a tool as well."""
        if instance is None or not self.is_method:
            return self
        bound = Tool.__new__(Tool)
        vars(bound).update(vars(self), _instance=instance)
        return bound

    async def __call__(self, arguments: Mapping[str, Any]) -> Any:
        """Call the function; its result.

        Raises ToolError when the arguments do not fit, naming parameter, value and what is allowed, when it takes
        longer than its timeout, and for whatever the function raises. A thread cannot be stopped: on a timeout, and
        when the turn is cancelled, it is left to end by itself and its result is dropped.
        """
        checked = self._check(arguments)
        call = functools.partial(self.function, *([self._instance] if self.is_method else []), **checked)
        limit = asyncio.timeout(self.timeout)
        try:
            async with limit:
                if inspect.iscoroutinefunction(self.function):
                    return await call()
                return (await asyncio.to_thread(_Outcome, call)).value()
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            if limit.expired():
                raise ToolError(f"tool {self.name!r} took longer than {self.timeout} s") from error
            if isinstance(error, ToolError):
                raise
            raise ToolError(f"tool {self.name!r}: {type(error).__name__}: {said(error)}") from error

    def _check(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as the annotations have them; those that were not given are left to the function's defaults."""
        if not isinstance(arguments, Mapping):
            raise ToolError(f"tool {self.name!r}: arguments are an object, not {arguments!r:.{MOST_SHOWN}}")
        try:
            model = self._model.model_validate(dict(arguments))
        except ValidationError as error:
            faults = error.errors(include_url=False, include_context=False)
            raise ToolError(f"tool {self.name!r}: {'; '.join(self._fault(fault) for fault in faults)}") from None
        return {self._names[field]: getattr(model, field) for field in model.model_fields_set}

    def _fault(self, fault: Mapping[str, Any]) -> str:
        where = ".".join(str(part) for part in fault["loc"])
        match fault["type"]:
            case "missing":
                return f"parameter {where!r} is missing"
            case "extra_forbidden":
                return f"no parameter {where!r}; there are {', '.join(self._names.values()) or 'none'}"
        return f"parameter {where!r}: {fault['msg']}, not {fault['input']!r:.{MOST_SHOWN}}"


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...
@overload
def tool(
    *, name: str = "", description: str = "", timeout: float | None = None
) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str = "",
    description: str = "",
    timeout: float | None = None,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a function a tool; name and description are the function's own and its docstring unless they are given.

    `timeout` bounds a call, in seconds. Raises TypeError for a function whose parameters cannot all be given by name.
    """

    def make(function: Callable[..., Any]) -> Tool:
        described = description or inspect.getdoc(function) or ""
        return Tool(function, name=name or function.__name__, description=described, timeout=timeout)

    return make if function is None else make(function)


def _model(function: Callable[..., Any], name: str, parameters: list[inspect.Parameter]) -> type[BaseModel]:
    """What checks the arguments. Its fields have names of ours, since parameters may be called anything."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as error:
        raise TypeError(f"tool {name!r}: an annotation cannot be resolved: {error}") from error
    fields: dict[str, Any] = {}
    for number, parameter in enumerate(parameters):
        if parameter.kind in _REFUSED:
            raise TypeError(
                f"tool {name!r}: parameter {parameter.name!r} is {_REFUSED[parameter.kind]}; "
                "a tool's arguments are given by name"
            )
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        fields[f"p{number}"] = (hints.get(parameter.name, Any), Field(default, alias=parameter.name))
    return create_model(name, __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=False), **fields)


class _Outcome:
    """Calls a function in a thread, and keeps what it raises: a future takes not every exception (no StopIteration)."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._value: Any = None
        self._error: BaseException | None = None
        try:
            self._value = call()
        except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
            self._error = error

    def value(self) -> Any:
        """What the call gave; raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._value
