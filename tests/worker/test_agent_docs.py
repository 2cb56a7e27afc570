"""The page for authors of agents: its examples run as they are printed."""

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.harness.living import Worker

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "agents.md").read_text()
MOST_LINES = 30


def snippets(language: str) -> Any:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def start(tmp_path: Any) -> Any:
    """A worker of the page's graph, with its package installed beside it."""
    started = []

    def start(code: str, point: str, document: Any) -> Any:
        name, target = re.findall(r'^(\w+) = "(.*)"', point, re.MULTILINE)[0]
        module = tmp_path / "site" / Path(*target.partition(":")[0].split(".")).with_suffix(".py")
        module.parent.mkdir(parents=True)
        module.write_text(code)
        info = tmp_path / "site" / "example-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: example\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[agentd.addons]\n{name} = {target}\n")
        folder = tmp_path / "channel"
        folder.mkdir()
        whole = {"ten": {"predefined_graphs": [document]}}
        started.append(Worker(folder, whole, addons={}, path=tmp_path / "site", graph_name=document["name"]))
        return started[-1]

    yield start
    for worker in started:
        worker.close()


def one_node(name: str) -> Any:
    return {"name": name, "graph": {"nodes": [{"type": "extension", "name": name, "addon": name}]}}


def test_the_whole_agent_runs_as_pasted(start: Any) -> None:
    [code, *_], [points], [document, *_] = snippets("python"), snippets("toml"), snippets("json")
    assert (code + points + document).count("\n") < MOST_LINES
    events = start(code, points, json.loads(document)).answer("Is room 2 free?")
    assert [event["type"] for event in events] == ["text", "tool_call", "tool_result", "text", "source", "final"]
    assert [event["text"] for event in (events[0], events[3])] == ["Let me see. ", "Room 2 is taken until noon."]
    assert events[-1]["state"] == {"asked": 1}


def test_the_invoke_example(start: Any) -> None:
    worker = start(snippets("python")[1], 'example = "example.agent:Adder"', one_node("example"))
    assert worker.answer(kind="invoke", input=[1, 2]) == [
        {"type": "structured", "value": {"terms": [1, 2]}, "schema": None},
        {"type": "final", "value": {"sum": 3}},
    ]


@pytest.mark.parametrize(
    ("number", "name", "request_", "answer"),
    [
        (2, "Reader", {"history": [{"role": "user", "content": "y"}]}, "No files, and 1 messages before."),
        (3, "Desk", {"question": "4"}, "Done: room 4, today"),
        (3, "Desk", {"question": "0"}, "That did not work: tool 'book': parameter 'room': Input should be greater"),
        (4, "Patient", {}, "done"),
    ],
)
def test_the_other_examples(start: Any, number: Any, name: Any, request_: Any, answer: Any) -> None:
    worker = start(snippets("python")[number], f'example = "example.agent:{name}"', one_node("example"))
    events = worker.answer(**request_)
    assert events[-2]["text"].startswith(answer)
    assert events[-1] == {"type": "final"}


@pytest.mark.parametrize("code", snippets("python"))
def test_the_examples_are_valid(code: str) -> None:
    imported = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    ours = {node.module for node in imported if (node.module or "").partition(".")[0] not in sys.stdlib_module_names}
    assert ours <= {"worker.agent", "pydantic"}
