"""The format of a property file (wire/ten-property.md, 1): reading it, finding graphs and nodes in both layouts. Pure.

The section is called `ten`, in older files `_ten`. A graph's nodes stand under `graph`, in older files in the entry of
`predefined_graphs` itself. What is malformed is a Refusal(PROPERTY_INVALID) that names the place; only the structure
that is walked is checked, and only of the graphs that are asked for.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Any, Final

from supervisor.causes import Cause, Refusal
from supervisor.strict_json import JsonError, parse

Document = dict[str, Any]

ROOTS: Final = ("ten", "_ten")  # the current and the older name of the same section
GRAPHS: Final = "predefined_graphs"
NAMED_AT_MOST: Final = 20  # names in one message

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:|\$\{")


@dataclass(frozen=True, slots=True)
class GraphListing:
    """One graph of a property file."""

    name: str
    auto_start: bool


def parse_document(data: bytes, source: str = "property.json") -> Document:
    """The document of a property file, or of a graph file; `source` is its name in messages.

    Raises Refusal(PROPERTY_INVALID) with the position when it is not a JSON object.
    """
    try:
        document = parse(data)
    except JsonError as error:
        raise Refusal(Cause.PROPERTY_INVALID, f"{source}, {error}") from error
    if not isinstance(document, dict):
        raise _misfit(source, kind_of(document), "an object")
    return document


def dump_document(document: Document) -> bytes:
    """The document as JSON in UTF-8: same key order, numbers and text, nothing escaped that need not be.

    Raises Refusal(BODY_INVALID) for a value JSON has no text for; no file has one, so a request brought it.
    """
    try:
        return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except ValueError as error:  # NaN or Infinity; UnicodeEncodeError for a lone surrogate
        raise Refusal(Cause.BODY_INVALID, "properties hold a value that is not JSON") from error


def list_graphs(document: Document) -> list[GraphListing]:
    """The predefined graphs in the order of the file.

    Raises Refusal(PROPERTY_INVALID) when there is no list of them.
    """
    return [GraphListing(entry["name"], entry.get("auto_start") is True) for entry in entries_of(document)]


def imported_paths(document: Document, graph_name: str) -> list[str]:
    """The graph files that `select` needs for this graph: its `import_uri`s that are paths, not URIs."""
    uris = (import_uri_of(entry) for entry in entries_of(document) if entry["name"] == graph_name)
    return [uri for uri in uris if uri is not None and is_path(uri)]


def section_of(document: Document) -> tuple[str, Document]:
    """The name and the content of the section that holds the graphs."""
    root = next((root for root in ROOTS if root in document), None)
    if root is None:
        raise Refusal(Cause.PROPERTY_INVALID, f"the property file has no key {' or '.join(ROOTS)}")
    section = document[root]
    if not isinstance(section, dict):
        raise _misfit(root, kind_of(section), "an object")
    return root, section


def entries_of(document: Document) -> list[Document]:
    """The predefined graphs; each is an object with a name."""
    root, section = section_of(document)
    entries = section.get(GRAPHS)
    if not isinstance(entries, list):
        raise _misfit(f"{root}.{GRAPHS}", kind_of(entries) if GRAPHS in section else "missing", "a list")
    for index, entry in enumerate(entries):
        _check_named(entry, f"{root}.{GRAPHS}[{index}]")
    return entries


def graph_of(entry: Document) -> Document:
    """Where an entry has its nodes: under `graph`, in the older layout in the entry itself."""
    graph = entry.get("graph")
    if graph is not None and not isinstance(graph, dict):
        raise _misfit(f"graph {entry['name']!r}: graph", kind_of(graph), "an object")
    return entry if graph is None else graph


def nodes_of(entry: Document) -> list[Document]:
    """The nodes of an entry; each is an object with a name, and its property, if any, an object."""
    nodes = graph_of(entry).get("nodes")
    if nodes is None:
        return []
    where = f"graph {entry['name']!r}: nodes"
    if not isinstance(nodes, list):
        raise _misfit(where, kind_of(nodes), "a list")
    for index, node in enumerate(nodes):
        _check_named(node, f"{where}[{index}]")
        values = node.get("property")
        if values is not None and not isinstance(values, dict):
            raise _misfit(f"{where}, property of {node['name']!r}", kind_of(values), "an object")
    return nodes


def import_uri_of(entry: Document) -> str | None:
    """Where an entry's graph is to be imported from, if it is."""
    graph = graph_of(entry)
    if graph is entry or "import_uri" not in graph:
        return None
    uri = graph["import_uri"]
    if not isinstance(uri, str) or not uri or len(graph) > 1:
        raise Refusal(
            Cause.PROPERTY_INVALID, f"graph {entry['name']!r}: import_uri has to be a text and the only key of graph"
        )
    return uri


def is_path(uri: str) -> bool:
    """Whether an `import_uri` is a path, not a URI and not relative to ``${app_base_dir}``."""
    return not _SCHEME.match(uri)


def placed(entry: Document, imports: Mapping[str, Document]) -> Document:
    """The entry with the graph it imports by a path in its place; `imports` holds the content of that path."""
    uri = import_uri_of(entry)
    if uri is None or not is_path(uri):
        return entry
    if "import_uri" in imports[uri]:
        raise Refusal(
            Cause.PROPERTY_INVALID, f"graph {entry['name']!r}: {uri} imports again; nodes and connections are allowed"
        )
    return entry | {"graph": imports[uri]}


def _check_named(value: object, where: str) -> None:
    if not isinstance(value, dict):
        raise _misfit(where, kind_of(value), "an object")
    if not isinstance(value.get("name"), str):
        raise _misfit(f"{where}.name", kind_of(value["name"]) if "name" in value else "missing", "a string")


def _misfit(where: str, found: str, allowed: str) -> Refusal:
    return Refusal(Cause.PROPERTY_INVALID, f"{where} is {found}; {allowed} is allowed")


def kind_of(value: object) -> str:
    """What a JSON value is, for messages: never the value itself, which may be a secret."""
    return _KINDS.get(type(value), type(value).__name__)


_KINDS: Final[Mapping[type, str]] = MappingProxyType(
    {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        type(None): "null",
    }
)


def shown(name: str) -> str:
    """A name in a message."""
    return repr(name[:100])


def listed(names: Iterable[str]) -> str:
    """The first names and how many there are besides."""
    distinct = dict.fromkeys(names)
    first = ", ".join(shown(name) for name in islice(distinct, NAMED_AT_MOST))
    rest = len(distinct) - NAMED_AT_MOST
    return (first or "none") + (f" and {rest} more" if rest > 0 else "")
