"""The talker for APIs that carry no context: the question itself is the script."""

from pathlib import Path
from typing import Any

from tests.harness.server import Agentd

SOURCE = """
import json

from talkers import Talker


class Scripted(Talker):
    async def chat(self, turn):
        if turn.question.startswith("["):
            turn.context["script"] = json.loads(turn.question)
        async for event in super().chat(turn):
            yield event
"""


def install(agentd: Agentd, folder: Path) -> None:
    """Let the server find the add-on `scripted`, which is put into a new folder below this one."""
    place = folder / "scripted"
    about = place / "scripted-1.dist-info"
    about.mkdir(parents=True)
    (place / "scripted.py").write_text(SOURCE)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: scripted\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[agentd.addons]\nscripted = scripted:Scripted\n")
    agentd.add_path(place)


def graph(name: str, addon: str, /, **properties: Any) -> dict[str, Any]:
    """A graph with one node."""
    return {
        "name": name,
        "graph": {"nodes": [{"type": "extension", "name": name, "addon": addon, "property": properties}]},
    }
