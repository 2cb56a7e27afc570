"""What a channel's effective document asks for: the nodes to build and the routing table between them.

Pure: a document in, a `Plan` out (wire/ten-property.md, section 1). Both layouts are read: root ``ten`` or ``_ten``,
nodes and connections under ``graph`` or directly in the graph's entry.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from worker.node import Kind, Message

EXTENSION: Final = "extension"
SUBGRAPH: Final = "subgraph"
SELECTOR: Final = "selector"
REFERENCES: Final = (EXTENSION, SUBGRAPH, SELECTOR)
HERE: Final = "localhost"

Json = Mapping[str, Any]


class StartError(Exception):
    """A graph that cannot be started: `cause` is a value of the supervisor's list of causes.

    `missing` are the names of the add-ons that are not installed.
    """

    def __init__(self, cause: str, detail: str, missing: tuple[str, ...] = ()) -> None:
        super().__init__(detail)
        self.cause = cause
        self.detail = detail
        self.missing = missing


def invalid(detail: str) -> StartError:
    """The error for a graph that is not what it should be."""
    return StartError("graph_invalid", detail)


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """A node that one of this worker's add-ons shall be."""

    name: str
    addon: str
    properties: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a connection changes in a message: values set at paths, over the original properties or in place of them."""

    rules: tuple[tuple[tuple[str, ...], Any], ...]
    keep_original: bool

    def apply(self, message: Message) -> Message:
        """The message as its receiver gets it. The path ``ten.name`` renames it."""
        properties = dict(message.properties) if self.keep_original else {}
        name = message.name
        for path, value in self.rules:
            if path in {("ten", "name"), ("_ten", "name")}:
                name = str(value)
            else:
                _put(properties, path, value)
        return replace(message, name=name, properties=properties)


@dataclass(frozen=True, slots=True)
class Route:
    """One receiver of a message."""

    node: str
    conversion: Conversion | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A graph, ready to be built.

    `elsewhere` names the nodes that belong to another process (``app``), `subgraphs` those that stand for a graph of
    another file; `warnings` are log events with their fields.
    """

    nodes: tuple[NodeSpec, ...]
    elsewhere: tuple[str, ...]
    subgraphs: tuple[str, ...]
    routes: Mapping[tuple[Kind, str, str], tuple[Route, ...]]
    warnings: tuple[dict[str, Any], ...]


def make_plan(document: Json, graph_name: str) -> Plan:
    """The plan of the first graph of that name; raises StartError that names what is wrong and where."""
    root = document.get("ten", document.get("_ten"))
    if not isinstance(root, dict):
        raise invalid("the document has neither a 'ten' nor a '_ten' object")
    for entry in _objects(root, "predefined_graphs", "the document"):
        if entry.get("name") == graph_name:
            body = entry.get("graph", entry)
            if not isinstance(body, dict):
                raise invalid(f"graph {graph_name!r}: 'graph' must be an object, not {body!r:.100}")
            return _Planner(body, here={HERE, root.get("uri")}).plan()
    raise invalid(f"the document holds no graph {graph_name!r}")


class _Planner:
    """Collects one graph's nodes, routes and warnings."""

    def __init__(self, body: Json, here: set[Any]) -> None:
        self._body = body
        self._here = here
        self._specs: dict[str, NodeSpec] = {}
        self._elsewhere: list[str] = []
        self._subgraphs: list[str] = []
        self._selectors: dict[str, Any] = {}
        self._declared: dict[str, Json] = {}  # what selectors choose from
        self._routes: dict[tuple[Kind, str, str], list[Route]] = {}
        self._warnings: list[dict[str, Any]] = []

    def plan(self) -> Plan:
        for position, node in enumerate(_objects(self._body, "nodes", "the graph")):
            self._add_node(node, position)
        for position, connection in enumerate(_objects(self._body, "connections", "the graph")):
            self._add_connection(connection, f"connection {position}")
        routes = {key: tuple(targets) for key, targets in self._routes.items()}
        return Plan(
            nodes=tuple(self._specs.values()),
            elsewhere=tuple(self._elsewhere),
            subgraphs=tuple(self._subgraphs),
            routes=routes,
            warnings=tuple(self._warnings),
        )

    def _add_node(self, node: Json, position: int) -> None:
        name, kind = node.get("name"), node.get("type", EXTENSION)
        if not isinstance(name, str) or not name:
            raise invalid(f"node {position} has the name {name!r:.100}; a name is a string that is not empty")
        if name in self._declared or name in self._selectors:
            self._warnings.append({"event": "graph.node_repeated", "node": name})
            return
        if kind == SELECTOR:
            self._selectors[name] = node.get("filter")
            return
        self._declared[name] = node
        if node.get("app", HERE) not in self._here:
            self._elsewhere.append(name)
        elif kind == EXTENSION:
            self._specs[name] = _extension(node, name)
        elif kind == SUBGRAPH:
            self._subgraphs.append(name)
        else:
            raise invalid(f"node {name!r} has the type {kind!r:.100}; allowed are {', '.join(REFERENCES)}")

    def _add_connection(self, connection: Json, where: str) -> None:
        mine = self._resolve(connection, where)
        for kind in Kind:
            for flow in _objects(connection, kind, where):
                names = _message_names(flow, where)
                for end in _objects(flow, "dest", where):
                    conversion = _conversion(end, where)
                    self._connect(kind, names, mine, [Route(name, conversion) for name in self._resolve(end, where)])
                for end in _objects(flow, "source", where):
                    conversion = _conversion(end, where)
                    self._connect(kind, names, self._resolve(end, where), [Route(name, conversion) for name in mine])

    def _connect(self, kind: Kind, names: list[str], sources: list[str], targets: list[Route]) -> None:
        for key in ((kind, source, name) for source in sources for name in names):
            routes = self._routes.setdefault(key, [])
            # a connection may be written down at both of its ends
            routes.extend(target for target in targets if target not in routes)

    def _resolve(self, reference: Json, where: str) -> list[str]:
        """The nodes one end of a connection means; none, with a warning, when they are not of this graph."""
        kinds = [kind for kind in REFERENCES if kind in reference]
        if len(kinds) != 1:
            raise invalid(f"{where}: an end names exactly one of {', '.join(REFERENCES)}, not {kinds}")
        name = reference[kinds[0]]
        if kinds[0] == SELECTOR and name in self._selectors:
            chosen = self._selectors[name]
            return [node for node, declared in self._declared.items() if _matches(chosen, declared, name)]
        if name in self._declared and reference.get("app", HERE) in self._here:
            return [name]
        self._warnings.append({"event": "graph.end_unknown", "where": where, "node": name})
        return []


def _extension(node: Json, name: str) -> NodeSpec:
    addon, properties = node.get("addon"), node.get("property")
    if not isinstance(addon, str) or not addon:
        raise invalid(f"node {name!r} names the add-on {addon!r:.100}; an add-on is a string that is not empty")
    if properties is not None and not isinstance(properties, dict):
        raise invalid(f"node {name!r}: 'property' must be an object, not {properties!r:.100}")
    return NodeSpec(name, addon, properties or {})


def _objects(holder: Json, key: str, where: str) -> Iterator[Json]:
    """The objects of an optional list."""
    values = holder.get(key)
    if values is None:
        return
    if not isinstance(values, list):
        raise invalid(f"{where}: '{key}' must be a list, not {values!r:.100}")
    for value in values:
        if not isinstance(value, dict):
            raise invalid(f"{where}: '{key}' holds {value!r:.100}; only objects are allowed")
        yield value


def _message_names(flow: Json, where: str) -> list[str]:
    single, several = flow.get("name"), flow.get("names")
    names = [single] if several is None else several
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise invalid(f"{where}: a flow has a 'name' or a list of 'names', not {names!r:.100}")
    return names


def _conversion(end: Json, where: str) -> Conversion | None:
    declared = end.get("msg_conversion")
    if declared is None:
        return None
    if not isinstance(declared, dict) or declared.get("type") != "per_property":
        raise invalid(f"{where}: a msg_conversion is an object of the type 'per_property', not {declared!r:.100}")
    rules = []
    for rule in _objects(declared, "rules", where):
        path, mode = rule.get("path"), rule.get("conversion_mode")
        if mode != "fixed_value" or "value" not in rule:
            raise invalid(f"{where}: conversion_mode is 'fixed_value' with a 'value', not {mode!r:.100}")
        if not isinstance(path, str) or not all(path.split(".")) or "[" in path:
            raise invalid(f"{where}: the path of a conversion is names joined by dots, not {path!r:.100}")
        rules.append((tuple(path.split(".")), rule["value"]))
    return Conversion(tuple(rules), keep_original=declared.get("keep_original") is True)


def _matches(chosen: Any, node: Json, selector: str) -> bool:
    """Whether a selector's filter chooses this node."""
    match chosen:
        case {"and": [*parts]}:
            return all(_matches(part, node, selector) for part in parts)
        case {"or": [*parts]}:
            return any(_matches(part, node, selector) for part in parts)
        case {"field": str(key), "operator": "exact", "value": value}:
            return bool(node.get(key) == value)
        case {"field": str(key), "operator": "regex", "value": str(pattern)}:
            try:
                return re.search(pattern, str(node.get(key, ""))) is not None
            except re.error as error:
                raise invalid(f"selector {selector!r}: {pattern!r:.100} is no regular expression: {error}") from None
    raise invalid(
        f"selector {selector!r}: a filter is 'and' or 'or' of filters, or field, operator (exact, regex) and value; "
        f"not {chosen!r:.100}"
    )


def _put(properties: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    """Set the value at a path; objects on the way are copied, since the original message is shared."""
    *parents, last = path
    here = properties
    for key in parents:
        inner = here.get(key)
        here[key] = dict(inner) if isinstance(inner, Mapping) else {}
        here = here[key]
    here[last] = value
