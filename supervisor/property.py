"""A property file and one start -> the channel's effective document (wire/ten-property.md). Pure.

`select` keeps the graph of one name, `Selection.prepare` merges the request's overrides and injects the start's
parameters, `Effective` is rendered into the document a worker gets. Documents are never changed: every step shares what
it does not touch with the one before, and the rendering at the end is the one deep copy.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from supervisor.causes import Cause, Refusal
from supervisor.graph_file import (
    GRAPHS,
    Document,
    GraphListing,
    dump_document,
    entries_of,
    import_uri_of,
    imported_paths,
    kind_of,
    list_graphs,
    listed,
    nodes_of,
    parse_document,
    placed,
    section_of,
    shown,
)
from supervisor.options import KEY as OPTIONS_KEY
from supervisor.options import GraphOptions, parse_options
from supervisor.placeholders import Missing, Properties, expanded, kept, verbatim
from supervisor.strict_json import MAX_DEPTH, is_deeper

__all__ = [
    "INJECTIONS",
    "Document",
    "Effective",
    "GraphListing",
    "GraphOptions",
    "Injection",
    "Missing",
    "Selection",
    "StartParameters",
    "check_overridable",
    "check_overrides",
    "dump_document",
    "imported_paths",
    "injection_table",
    "list_graphs",
    "merged",
    "options_of",
    "parse_document",
    "select",
]

Overrides = dict[str, dict[str, Any]]

CHANNEL_KEY: Final = "channel"  # set in every node that has it
SELECTOR: Final = "selector"


@dataclass(frozen=True, slots=True)
class StartParameters:
    """What a start injects into its graph (wire/ten-property.md, 2.4)."""

    channel_name: str
    user_uid: int = 0
    bot_uid: int = 0
    token: str = field(default="", repr=False)
    port: int = 0


class Injection(NamedTuple):
    """In every node called `node`, `key` becomes the start parameter `field`, as a string if `as_string`."""

    node: str
    key: str
    field: str
    as_string: bool = False


INJECTIONS: Final = (
    Injection("agora_rtc", "channel", "channel_name"),
    Injection("agora_rtc", "remote_stream_id", "user_uid"),
    Injection("agora_rtc", "stream_id", "bot_uid"),
    Injection("agora_rtc", "token", "token"),
    Injection("agora_rtm", "channel", "channel_name"),
    Injection("agora_rtm", "user_id", "bot_uid", as_string=True),
    Injection("agora_rtm", "token", "token"),
    Injection("http_server", "listen_port", "port"),
)
INJECTABLE: Final = tuple(parameter.name for parameter in fields(StartParameters))

InjectionTable = Mapping[str, tuple[Injection, ...]]  # by node name


def injection_table(extra: Iterable[tuple[str, str, str, bool]] = ()) -> InjectionTable:
    """The built-in injections and an operator's `extra` rows; of two rows for one key of a node the later one counts.

    Raises ValueError for a row whose field is no start parameter.
    """
    rows = {(row.node, row.key): row for row in (*INJECTIONS, *(Injection(*row) for row in extra))}
    for row in rows.values():
        if row.field not in INJECTABLE:
            raise ValueError(f"injection {row.node}.{row.key}={row.field}: allowed is one of {', '.join(INJECTABLE)}")
    nodes = dict.fromkeys(node for node, _ in rows)
    return MappingProxyType({node: tuple(row for row in rows.values() if row.node == node) for node in nodes})


BUILT_IN: Final = injection_table()


def select(
    document: Document,
    graph_name: str,
    *,
    imports: Mapping[str, Document] = MappingProxyType({}),
    injections: InjectionTable = BUILT_IN,
) -> "Selection":
    """The graph of this name; `imports` holds the content of each of its `imported_paths`.

    Raises Refusal(GRAPH_UNKNOWN), and Refusal(PROPERTY_INVALID) when the graph or its options are malformed.
    """
    entries = entries_of(document)
    chosen = [entry for entry in entries if entry["name"] == graph_name] if graph_name else []
    if not chosen:
        asked = f"no graph {shown(graph_name)}" if graph_name else "no graph_name was given"
        raise Refusal(Cause.GRAPH_UNKNOWN, f"{asked}; allowed: {listed(entry['name'] for entry in entries)}")
    graphs = [placed(entry, imports) for entry in chosen]
    names = frozenset(node["name"] for entry in graphs for node in nodes_of(entry) if node.get("type") != SELECTOR)
    fields_used = {row.field for name in names for row in injections.get(name, ())}
    return Selection(
        graph_name=graph_name,
        options=_options(graph_name, graphs),
        node_names=names,
        needs_token="token" in fields_used,
        needs_port="port" in fields_used,
        warnings=tuple(
            f"graph {graph_name} is imported from {uri}: overrides and start parameters do not reach it"
            for uri in map(import_uri_of, graphs)
            if uri is not None
        ),
        document=document,
        entries=tuple(graphs),
        injections=injections,
    )


def options_of(document: Document, graph_name: str) -> GraphOptions | None:
    """What agentd itself reads of a graph; None when there is none of this name. Raises Refusal(PROPERTY_INVALID)."""
    entries = [entry for entry in entries_of(document) if entry["name"] == graph_name]
    return _options(graph_name, entries) if graph_name and entries else None


def _options(graph_name: str, entries: Iterable[Document]) -> GraphOptions:
    return parse_options(graph_name, next((entry[OPTIONS_KEY] for entry in entries if OPTIONS_KEY in entry), None))


@dataclass(frozen=True, slots=True)
class Selection:
    """The graph of one name (all entries that have it), before a start's values are in it.

    `needs_token` and `needs_port` tell whether a start has to bring that parameter.
    """

    graph_name: str
    options: GraphOptions
    node_names: frozenset[str]
    needs_token: bool
    needs_port: bool
    warnings: tuple[str, ...]
    document: Document = field(repr=False)
    entries: tuple[Document, ...] = field(repr=False)
    injections: InjectionTable = field(repr=False)

    def prepare(
        self, parameters: StartParameters, overrides: object = None, *, overridable: Sequence[str] | None = None
    ) -> "Effective":
        """The channel's document: overrides merged, then parameters injected.

        `overrides` are a request's ``properties``; `overridable` has patterns of ``node.property`` (None: all may).
        Raises Refusal(BODY_INVALID) for overrides that are no object of objects, Refusal(OVERRIDE_REFUSED) with all
        properties no pattern allows.
        """
        given = check_overrides(overrides)
        changes = {node: values for node, values in given.items() if node in self.node_names}
        if overridable is not None:
            check_overridable(changes, overridable)
        unknown = [node for node in given if node not in self.node_names]
        warnings = (f"overrides for nodes graph {self.graph_name} lacks: {listed(unknown)}",) if unknown else ()
        start = _Start(self.injections, parameters, {node: verbatim(values) for node, values in changes.items()})
        root, section = section_of(self.document)
        graphs = [start.entry(entry) for entry in self.entries]
        return Effective(
            options=self.options,
            warnings=self.warnings + warnings,
            marked={**self.document, root: {**section, GRAPHS: graphs}},
        )


@dataclass(frozen=True, slots=True)
class Effective:
    """One channel's document; placeholders of the file still marked in `marked`, which is not for use."""

    options: GraphOptions
    warnings: tuple[str, ...]
    marked: Document = field(repr=False)

    def for_worker(self, environment: Mapping[str, str], missing: Missing) -> Document:
        """A fresh document with its placeholders expanded: it holds secrets.

        Raises Refusal(PLACEHOLDER_UNRESOLVED | PROPERTY_INVALID), see `placeholders.expanded`.
        """
        return expanded(self.marked, environment, missing)

    def for_command(self, environment: Mapping[str, str], missing: Missing) -> tuple[Document, dict[str, str]]:
        """A fresh document for a foreign runtime, placeholders as text, and the variables it needs to expand them.

        Raises Refusal(PLACEHOLDER_UNRESOLVED | PROPERTY_INVALID | BODY_INVALID), see `placeholders.kept`.
        """
        return kept(self.marked, environment, missing)


def check_overrides(value: object) -> Overrides:
    """A request's ``properties`` by node, without the nodes whose value is null; None counts as empty.

    Raises Refusal(BODY_INVALID) when it is not an object of objects or nested over MAX_DEPTH.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Refusal(Cause.BODY_INVALID, f"properties is {kind_of(value)}; an object of objects is allowed")
    for node, values in value.items():
        if values is not None and not isinstance(values, dict):
            raise Refusal(
                Cause.BODY_INVALID, f"properties, node {shown(node)} is {kind_of(values)}; an object or null is allowed"
            )
    if is_deeper(value, MAX_DEPTH):
        raise Refusal(Cause.BODY_INVALID, f"properties are nested over more than {MAX_DEPTH} levels")
    return {node: values for node, values in value.items() if values is not None}


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A new object: objects merge at every depth, anything else in `changes` replaces. Neither argument is changed."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


@dataclass(frozen=True, slots=True)
class _Start:
    """What one start does to the entries and nodes of its graph."""

    injections: InjectionTable
    parameters: StartParameters
    changes: Overrides

    def entry(self, entry: Document) -> Document:
        result = {key: value for key, value in entry.items() if key != OPTIONS_KEY} | {"auto_start": True}
        nodes = [self.node(node) for node in nodes_of(entry)]
        if not nodes:
            return result
        if isinstance(entry.get("graph"), dict):
            return result | {"graph": entry["graph"] | {"nodes": nodes}}
        return result | {"nodes": nodes}

    def node(self, node: Document) -> Document:
        if node.get("type") == SELECTOR:
            return node
        name = node["name"]
        values = merged(node.get("property") or {}, self.changes.get(name, {}))
        if CHANNEL_KEY in values:
            values[CHANNEL_KEY] = verbatim(self.parameters.channel_name)
        for row in self.injections.get(name, ()):
            value = getattr(self.parameters, row.field)
            values[row.key] = verbatim(str(value) if row.as_string else value)
        return node | {"property": Properties(name, values)} if values else node


def check_overridable(changes: Overrides, overridable: Sequence[str]) -> None:
    """Raise Refusal(OVERRIDE_REFUSED) with all properties that no pattern of ``node.property`` allows."""
    asked = (f"{node}.{key}" for node, values in changes.items() for key in values)
    refused = [name for name in asked if not any(fnmatchcase(name, pattern) for pattern in overridable)]
    if refused:
        allowed = ", ".join(overridable) or "none"
        raise Refusal(Cause.OVERRIDE_REFUSED, f"overrides of {listed(refused)}; allowed: {allowed}")
