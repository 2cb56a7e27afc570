"""Where add-ons come from."""

import importlib
import importlib.metadata
import json
import os
import pkgutil
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import worker.addons
from worker.addons import BUILT_IN
from worker.agent import Node
from worker.plan import StartError
from worker.registry import GROUP, Registry


def entry(name: Any, value: Any) -> Any:
    return EntryPoint(name, value, GROUP)


def test_built_in_addons_are_modules_of_their_names() -> None:
    modules = {module.name for module in pkgutil.iter_modules(worker.addons.__path__)}
    named = {value.partition(":")[0].removeprefix("worker.addons.") for value in BUILT_IN.values()}
    assert named <= modules
    assert named | {"openai_chatgpt_python"} == set(BUILT_IN)


def test_no_addon_of_the_folder_is_forgotten() -> None:
    found = set()
    for module in pkgutil.iter_modules(worker.addons.__path__, "worker.addons."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, type) and issubclass(value, Node) and value.__module__ == module.name:
                found.add(f"{module.name}:{name}")
    assert found == set(BUILT_IN.values())


def test_built_in_addons_load() -> None:
    loaded = Registry().load(BUILT_IN)
    assert loaded.missing == ()
    assert set(loaded.classes) == set(BUILT_IN)
    assert loaded.classes["openai_chatgpt"] is loaded.classes["openai_chatgpt_python"]


def test_all_missing_addons_are_named_together() -> None:
    with pytest.raises(StartError) as caught:
        Registry().load(["zebra", "echo", "ant", "zebra"])
    assert caught.value.cause == "addons_missing"
    assert caught.value.missing == ("ant", "zebra")
    assert caught.value.detail == "not installed: ant, zebra"


def test_missing_addons_may_be_left_out() -> None:
    loaded = Registry().load(["zebra", "echo"], allow_missing=True)
    assert (set(loaded.classes), loaded.missing) == ({"echo"}, ("zebra",))


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("no_such_module:X", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("worker.agent:Nothing", "AttributeError"),
        ("worker.agent:Message", "is no subclass of worker.agent.Node"),
        ("worker.agent:tool", "is no subclass of worker.agent.Node"),
    ],
)
def test_a_broken_addon_breaks_only_graphs_that_name_it(value: Any, told: Any) -> None:
    registry = Registry([entry("broken", value), entry("mine", "worker.agent:Node")])
    assert registry.load(["mine", "echo"]).classes["mine"] is Node
    with pytest.raises(StartError, match=told) as caught:
        registry.load(["mine", "broken"])
    assert caught.value.cause == "graph_invalid"
    assert f"the add-on 'broken' ({value}, agentd)" in caught.value.detail


def test_missing_addons_are_told_before_broken_ones() -> None:
    with pytest.raises(StartError) as caught:
        Registry([entry("broken", "no_such_module:X")]).load(["broken", "zebra"])
    assert caught.value.cause == "addons_missing"


def distribution(folder: Path, name: str, **addons: str) -> None:
    info = folder / f"{name}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    lines = "".join(f"{addon} = {value}\n" for addon, value in addons.items())
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}")


LOOK = """
import json, sys
from worker.plan import StartError
from worker.registry import Registry
def load(name):
    try:
        return Registry().load([name]).classes[name].__name__
    except StartError as error:
        return error.detail
print(json.dumps({name: load(name) for name in sys.argv[1:]}))
"""


def test_installed_packages(tmp_path: Any) -> None:
    (tmp_path / "mine.py").write_text("from worker.agent import Node\nclass Mine(Node): pass\n")
    (tmp_path / "bad.py").write_text("1 / 0\n")
    distribution(tmp_path, "first", mine="mine:Mine", both="mine:Mine", bad="bad:Bad", echo="mine:Mine")
    distribution(tmp_path, "second", both="mine:Mine")
    output = subprocess.run(
        [sys.executable, "-c", LOOK, "mine", "both", "bad", "echo", "none"],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        check=True,
        timeout=60,
    ).stdout
    assert json.loads(output) == {
        "mine": "Mine",
        "both": "the add-on 'both' is claimed more than once: mine:Mine (first), mine:Mine (second)",
        "bad": "the add-on 'bad' (bad:Bad, first) cannot be imported: ZeroDivisionError: division by zero",
        "echo": "Echo",  # a built-in name cannot be taken
        "none": "not installed: none",
    }


def test_agentd_itself_declares_no_addon() -> None:
    assert not [point for point in importlib.metadata.distribution("agentd").entry_points if point.group == GROUP]
