"""Environment placeholders of a graph: ``${env:NAME}`` and ``${env:NAME|default}`` (wire/ten-property.md, 2.3). Pure.

Only text of the property file is ever a placeholder. Text that came from a request and looks like one is wrapped in
`Verbatim` before it is put into a document, so that no rendering can mistake it: a request must not be able to read the
host's secrets. A node's properties are wrapped in `Properties`: placeholders are resolved there and nowhere else.

A document with these two marks is rendered, as a whole and always into a fresh copy, in one of two ways: `expanded` for
our own workers, `kept` for foreign runtimes that expand placeholders themselves.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from supervisor.causes import Cause, Refusal

Missing = Literal["error", "empty"]

SCOPE: Final = "env"
RESERVED_PREFIX: Final = "AGENTD_LITERAL_"
MAX_LITERAL: Final = 64 * 1024  # bytes; the kernel takes no environment string over 128 KiB


@dataclass(frozen=True, slots=True)
class Verbatim:
    """Text that looks like a placeholder and is none."""

    text: str


@dataclass(frozen=True, slots=True)
class Properties:
    """The property object of the node called `node`."""

    node: str
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Placeholder:
    """What a placeholder says: the variable, and the text for when it is not set (None: it has to be set)."""

    variable: str
    default: str | None


def looks_like_placeholder(text: str) -> bool:
    """Whether the whole text is written as a placeholder, of whatever scope."""
    return text.startswith("${") and text.endswith("}")


def parse_placeholder(text: str) -> Placeholder:
    """The placeholder of a text that looks like one; raises ValueError, which quotes no value, when it is malformed."""
    scope, colon, rest = text[2:-1].partition(":")
    if not colon:
        raise ValueError(f"a placeholder without a scope; only ${{{SCOPE}:NAME}} is allowed")
    if scope != SCOPE:
        raise ValueError(f"a placeholder of scope {scope[:40]!r}; only {SCOPE!r} is allowed")
    variable, bar, default = rest.partition("|")
    if not variable:
        raise ValueError("a placeholder without the name of a variable")
    if variable.startswith(RESERVED_PREFIX):
        raise ValueError(f"a placeholder for {variable}; names that begin with {RESERVED_PREFIX} are reserved")
    return Placeholder(variable, default if bar else None)


def verbatim(value: Any) -> Any:
    """A copy of a request's value in which no text can be taken for a placeholder."""
    if isinstance(value, str):
        return Verbatim(value) if looks_like_placeholder(value) else value
    if isinstance(value, dict):
        return {key: verbatim(item) for key, item in value.items()}
    if isinstance(value, list):
        return [verbatim(item) for item in value]
    return value


def expanded(marked: dict[str, Any], environment: Mapping[str, str], missing: Missing) -> dict[str, Any]:
    """A copy of the document with every placeholder replaced by the variable's value, always a string.

    Raises Refusal(PLACEHOLDER_UNRESOLVED) with all variables that are not set, have no default and are not to count as
    empty, and Refusal(PROPERTY_INVALID) with all malformed placeholders. No detail holds a value.
    """
    target = _Expanded(_Lookup(environment, missing))
    document: dict[str, Any] = _rendered(marked, None, target)
    target.lookup.check()
    return document


def kept(
    marked: dict[str, Any], environment: Mapping[str, str], missing: Missing
) -> tuple[dict[str, Any], dict[str, str]]:
    """A copy of the document for a runtime that expands placeholders itself, and the variables it needs for that.

    The file's placeholders stay as they are; request text that looks like one becomes a placeholder for a variable that
    holds this text. Raises what `expanded` raises, and Refusal(BODY_INVALID) for a text no variable can hold.
    """
    target = _Kept(_Lookup(environment, missing))
    document: dict[str, Any] = _rendered(marked, None, target)
    target.lookup.check()
    return document, target.variables


class _Lookup:
    """Looks placeholders up and remembers all that cannot be resolved, so that they are reported together."""

    def __init__(self, environment: Mapping[str, str], missing: Missing) -> None:
        self._environment = environment
        self._missing = missing
        self._unset: dict[str, dict[str, None]] = {}  # variable -> nodes, both in the order met
        self._malformed: list[str] = []

    def find(self, text: str, node: str) -> tuple[Placeholder, str | None] | None:
        """The placeholder and the variable's value (None: not set); None when that was noted as a problem."""
        try:
            placeholder = parse_placeholder(text)
        except ValueError as error:
            self._malformed.append(f"node {node!r} has {error}")
            return None
        value = self._environment.get(placeholder.variable)
        if value is None and placeholder.default is None:
            if self._missing == "error":
                self._unset.setdefault(placeholder.variable, {})[node] = None
                return None
            value = ""
        return placeholder, value

    def check(self) -> None:
        """Raise the Refusal for what was noted."""
        if self._malformed:
            raise Refusal(Cause.PROPERTY_INVALID, "; ".join(self._malformed))
        if self._unset:
            named = (f"{variable} (node {', '.join(nodes)})" for variable, nodes in self._unset.items())
            raise Refusal(Cause.PLACEHOLDER_UNRESOLVED, f"environment variables not set: {', '.join(named)}")


class _Target(Protocol):
    def placeholder(self, text: str, node: str) -> str: ...
    def literal(self, text: str) -> str: ...


class _Expanded:
    def __init__(self, lookup: _Lookup) -> None:
        self.lookup = lookup

    def placeholder(self, text: str, node: str) -> str:
        found = self.lookup.find(text, node)
        if found is None:
            return text
        placeholder, value = found
        if value is None:
            return placeholder.default or ""
        if not _is_text(value):
            raise Refusal(
                Cause.PLACEHOLDER_UNRESOLVED,
                f"environment variable {placeholder.variable} (node {node}) does not hold UTF-8 text",
            )
        return value

    def literal(self, text: str) -> str:
        return text


class _Kept:
    def __init__(self, lookup: _Lookup) -> None:
        self.lookup = lookup
        self.variables: dict[str, str] = {}
        self._literals = 0

    def placeholder(self, text: str, node: str) -> str:
        found = self.lookup.find(text, node)
        if found is not None and found[1] is not None:
            self.variables[found[0].variable] = found[1]
        return text

    def literal(self, text: str) -> str:
        if "\0" in text or not _is_text(text) or len(text.encode()) > MAX_LITERAL:
            raise Refusal(
                Cause.BODY_INVALID,
                f"properties hold a text of the form ${{...}} that cannot be handed to a foreign command: "
                f"at most {MAX_LITERAL} bytes of UTF-8 without NUL are allowed",
            )
        self._literals += 1
        name = f"{RESERVED_PREFIX}{self._literals}"
        self.variables[name] = text
        return f"${{{SCOPE}:{name}}}"


def _rendered(value: Any, node: str | None, target: _Target) -> Any:
    if isinstance(value, str):
        return target.placeholder(value, node) if node is not None and looks_like_placeholder(value) else value
    if isinstance(value, dict):
        return {key: _rendered(item, node, target) for key, item in value.items()}
    if isinstance(value, list):
        return [_rendered(item, node, target) for item in value]
    if isinstance(value, Verbatim):
        return target.literal(value.text)
    if isinstance(value, Properties):
        return _rendered(value.values, value.node, target)
    return value


def _is_text(text: str) -> bool:
    """Whether the text can be encoded: a variable with other bytes than UTF-8 arrives with surrogates in it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
