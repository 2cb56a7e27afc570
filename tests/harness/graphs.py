"""Graphs of the zoo: a beast as a worker of ours, or as a foreign command."""

import sys
from pathlib import Path
from typing import Any

BEASTS = Path(__file__).parent.parent / "zoo" / "beasts.py"
ECHO = {"name": "echo", "graph": {"nodes": [{"type": "extension", "name": "echo", "addon": "echo"}]}}
FRIDAY = {"name": "friday", "graph": {"nodes": [{"type": "extension", "name": "friday", "addon": "friday"}]}}

Graph = dict[str, Any]


def reaching(folder: Path) -> dict[str, Any]:
    """The isolation of a beast: as any worker's, but for the witness and the cue."""
    return {"isolation": {"write": [str(folder / name) for name in ("witness", "cue")]}}


def own(
    beast: str, folder: Path, *, name: str = "beast", cue: bool = False, deaf: bool = False, limits: Any = None
) -> Graph:
    """A graph whose one node is this beast."""
    properties = {"beast": beast, "folder": str(folder), "cue": cue, "deaf": deaf}
    node = {"type": "extension", "name": "beast", "addon": "zoo_beast", "property": properties}
    return {"name": name, "graph": {"nodes": [node]}, "agentd": {"limits": limits or {}, **reaching(folder)}}


def foreign(beast: str, folder: Path, *, name: str = "beast", cue: bool = False, limits: Any = None, **_: Any) -> Graph:
    """A graph whose worker is this beast as a command; it never reads what it is told."""
    command = [sys.executable, str(BEASTS), beast, str(folder), *(["--cue"] if cue else [])]
    options = {"command": command, "limits": limits or {}, **reaching(folder)}
    return {"name": name, "graph": {"nodes": []}, "agentd": options}
