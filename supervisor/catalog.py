"""The property file and the graph files it imports, on disk: read when they changed, else from memory.

The I/O shell of `supervisor.property`. Reading is synchronous: one `stat` per file and start, a read of
some 100 KB after an edit.
"""

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from supervisor.causes import Cause, Refusal
from supervisor.file_stamp import Stamp, is_settled, stamp_of
from supervisor.property import (
    Document,
    GraphListing,
    GraphOptions,
    Selection,
    imported_paths,
    injection_table,
    list_graphs,
    options_of,
    parse_document,
    select,
)

MAX_FILE: Final = 16 * 1024 * 1024  # bytes
FAVOURITE: Final = "friday"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Cached:
    stamp: Stamp | None  # None: not to be trusted, read again
    document: Document


class GraphCatalog:
    """The graphs of one property file, as it is now.

    An edited file is used from the next call on, without a restart. Documents are shared: nobody may change one.
    `app_dir` is the folder that relative `import_uri`s start from and may not leave (the property file's folder unless
    given); `injections` are rows besides the built-in ones. Raises ValueError for a malformed row.
    """

    def __init__(
        self,
        path: Path,
        *,
        app_dir: Path | None = None,
        injections: Iterable[tuple[str, str, str, bool]] = (),
    ) -> None:
        self._path = path
        self._app_dir = app_dir or path.parent
        self._injections = injection_table(injections)
        self._cache: dict[Path, _Cached] = {}

    def document(self) -> Document:
        """The property file's document; raises Refusal(PROPERTY_UNREADABLE | PROPERTY_INVALID)."""
        return self._load(self._path, self._path.name)

    def graphs(self) -> list[GraphListing]:
        """The predefined graphs; raises Refusal(PROPERTY_UNREADABLE | PROPERTY_INVALID)."""
        return list_graphs(self.document())

    def default(self, wanted: str | None) -> str:
        """The name of the graph that answers where none is named: `wanted`, else friday, else the first of the file.

        Whether there is a graph `wanted` is not looked up. Raises Refusal(PROPERTY_UNREADABLE | PROPERTY_INVALID), and
        Refusal(GRAPH_UNKNOWN) when the file has no graph.
        """
        if wanted:
            return wanted
        names = self._names()
        if not names:
            raise Refusal(Cause.GRAPH_UNKNOWN, f"no graph was named, and {self._path.name} has none to choose from")
        return FAVOURITE if FAVOURITE in names else names[0]

    def options(self, name: str) -> GraphOptions | None:
        """What agentd itself reads of a graph; None when there is none of this name.

        Raises Refusal(PROPERTY_UNREADABLE | PROPERTY_INVALID).
        """
        return options_of(self.document(), name)

    def has(self, name: str) -> bool:
        """Whether there is a graph of this name; raises Refusal(PROPERTY_UNREADABLE | PROPERTY_INVALID)."""
        return name in self._names()

    def _names(self) -> list[str]:
        """Names a graph can be asked for by, in the order of the file."""
        return [graph.name for graph in self.graphs() if graph.name]

    def select(self, graph_name: str) -> Selection:
        """The graph of this name, imports in place.

        Raises Refusal(PROPERTY_UNREADABLE | PROPERTY_INVALID | GRAPH_UNKNOWN).
        """
        document = self.document()
        imports = {uri: self._imported(uri) for uri in imported_paths(document, graph_name)}
        return select(document, graph_name, imports=imports, injections=self._injections)

    def _imported(self, uri: str) -> Document:
        try:
            folder = self._app_dir.resolve()
            path = (folder / uri).resolve()
        except (OSError, RuntimeError, ValueError) as error:  # a loop of links; a NUL in the name
            raise Refusal(Cause.PROPERTY_INVALID, f"import_uri {uri!r}: {error}") from error
        if not path.is_relative_to(folder):
            raise Refusal(Cause.PROPERTY_INVALID, f"import_uri {uri!r}: only paths inside the app folder are allowed")
        return self._load(path, uri)

    def _load(self, path: Path, name: str) -> Document:
        cached = self._cache.get(path)
        try:
            if cached is not None and cached.stamp == stamp_of(path.stat()):
                return cached.document
            stamp, data = _read(path)
        except OSError as error:
            log.warning("property.unreadable", path=str(path), error=error.strerror)
            raise Refusal(Cause.PROPERTY_UNREADABLE, f"{name} cannot be read: {error.strerror}") from error
        document = parse_document(data, name)
        if path == self._path:
            self._cache.clear()  # so that files no longer imported are not kept
        self._cache[path] = _Cached(stamp, document)
        log.info("property.read", path=str(path), size=len(data))
        return document


def _read(path: Path) -> tuple[Stamp | None, bytes]:
    """A regular file's content and its stamp; raises OSError."""
    # Without O_NONBLOCK, opening a FIFO would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, "not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(MAX_FILE + 1)
    finally:
        os.close(descriptor)
    if len(data) > MAX_FILE:
        raise OSError(0, f"more than {MAX_FILE} bytes")
    stamp = stamp_of(status)
    return (stamp if is_settled(stamp) else None), data
