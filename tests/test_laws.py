"""The laws of the house, read from the source itself: who imports whom, what is pure, what every cause has."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from supervisor.causes import EXPLANATIONS, Cause
from supervisor.http.envelope import CODES, ROWS

ROOT = Path(__file__).parents[1]
MOST_LINES = 400
PACKAGES = ("supervisor", "worker")
STANDARD = frozenset(sys.stdlib_module_names)

# Modules that may import only what is pure itself, of ours and of the standard library.
PURE = (
    "supervisor.attachments.books",
    "supervisor.attachments.media",
    "supervisor.attachments.names",
    "supervisor.attachments.state",
    "supervisor.auth",
    "supervisor.causes",
    "supervisor.channels.ending",
    "supervisor.channels.health",
    "supervisor.channels.lease",
    "supervisor.channels.lifecycle",
    "supervisor.channels.requests",
    "supervisor.graph_file",
    "supervisor.http.bodies",
    "supervisor.http.density",
    "supervisor.http.dialects.data_lines",
    "supervisor.http.dialects.docsgpt_errors",
    "supervisor.http.dialects.docsgpt_frames",
    "supervisor.http.dialects.halves",
    "supervisor.http.dialects.huawei_errors",
    "supervisor.http.envelope",
    "supervisor.http.huawei_paths",
    "supervisor.http.scopes",
    "supervisor.isolation",
    "supervisor.options",
    "supervisor.placeholders",
    "supervisor.processes.environment",
    "supervisor.processes.receiver",
    "supervisor.property",
    "supervisor.strict_json",
    "worker.frames",
)
PURE_STANDARD = frozenset(
    {
        "base64",
        "collections",
        "dataclasses",
        "enum",
        "fnmatch",
        "functools",
        "hashlib",
        "hmac",
        "itertools",
        "json",
        "math",
    }
    | {"re", "shlex", "types", "typing", "unicodedata"}
)
PURE_OTHERS = frozenset({"orjson"})
# The request types of the spawner: data, and the name of a state folder's instance.
DATA_ONLY = frozenset({"worker.spawn"})

# Inside supervisor, who may import whom: each layer only those to its right.
LAYERS = ("http", "turns", "channels", "attachments", "processes")


@cache
def sources() -> dict[str, Path]:
    """Every module of ours by its name."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports(module: str) -> Iterator[str]:
    """The modules a module imports, wherever in it, those for type checking too."""
    path = sources()[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) + 1 - node.level]) if node.level else ""
            origin = ".".join(part for part in (base, node.module) if part)
            for alias in node.names:
                name = f"{origin}.{alias.name}"
                yield name if name in sources() else origin


def of(*packages: str) -> list[str]:
    """Our modules in these packages."""
    return sorted(module for module in sources() if any(module == p or module.startswith(f"{p}.") for p in packages))


def top(module: str) -> str:
    return module.partition(".")[0]


def layer(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "supervisor" and len(parts) > 1 and parts[1] in LAYERS else None


def test_the_source_was_found() -> None:
    assert {"supervisor.app", "worker.main", "worker.spawner.server", *PURE} <= set(sources())


@pytest.mark.parametrize("module", of("worker"))
def test_a_worker_knows_no_supervisor(module: str) -> None:
    assert [name for name in imports(module) if top(name) == "supervisor"] == []


@pytest.mark.parametrize("module", of("worker.spawner", "worker.spawn"))
def test_the_spawner_needs_the_standard_library_only(module: str) -> None:
    allowed = STANDARD | {"worker"}
    ours = ("worker.spawner", "worker.spawn")
    for name in imports(module):
        assert top(name) in allowed, name
        assert top(name) != "worker" or name in ours or name.startswith("worker.spawner."), name


def test_what_the_spawner_imports_really_is_the_standard_library() -> None:
    """By its own account: a process that has imported all of it, without site-packages."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        + "".join(f"import {module}\n" for module in of("worker.spawner", "worker.spawn") if "__main__" not in module)
        + "names = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(names - sys.stdlib_module_names - {'worker', '__main__'}))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.parametrize("module", of("supervisor"))
def test_the_supervisor_shares_the_protocol_only(module: str) -> None:
    shared = {"worker.frames", "worker.spawn"}
    if module == "supervisor.processes.adopt":
        shared |= {"worker.spawner.identity"}  # who a process is, is found out in one way only
    assert {name for name in imports(module) if top(name) == "worker"} <= shared


@pytest.mark.parametrize("module", of(*(f"supervisor.{name}" for name in LAYERS)))
def test_layers_only_look_down(module: str) -> None:
    own = layer(module)
    assert own is not None
    below = LAYERS[LAYERS.index(own) :]
    above = [name for name in imports(module) if (other := layer(name)) is not None and other not in below]
    assert above == []


@pytest.mark.parametrize("module", of("supervisor"))
def test_only_the_root_composes(module: str) -> None:
    """What builds the whole is imported by nothing but the command that runs it."""
    users = {"supervisor.app": {"supervisor.serve"}, "supervisor.serve": {"supervisor.cli.serve"}}
    for name in imports(module):
        assert module in users.get(name, {module}), f"{module} imports {name}"


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_import_what_is_pure(module: str) -> None:
    for name in imports(module):
        if top(name) in PACKAGES:
            assert name in {*PURE, *DATA_ONLY}, f"{module} imports {name}"
        else:
            assert top(name) in PURE_STANDARD | PURE_OTHERS, f"{module} imports {name}"


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_do_no_input_or_output(module: str) -> None:
    names = {node.id for node in ast.walk(tree(sources()[module])) if isinstance(node, ast.Name)}
    assert names & {"open", "input", "print", "exec", "eval", "globals", "__import__"} == set()


@pytest.mark.parametrize("module", of(*PACKAGES))
def test_modules_are_short(module: str) -> None:
    lines = sources()[module].read_text().count("\n")
    assert lines < MOST_LINES, f"{module} has {lines} lines; fewer than {MOST_LINES} are allowed"


@pytest.mark.parametrize("module", [m for m in of(*PACKAGES) if m not in of("supervisor.cli")])
def test_nothing_prints_to_where_others_read(module: str) -> None:
    """Standard output belongs to the workers' lines; only a program that cannot start says so on stderr."""
    calls = [node for node in ast.walk(tree(sources()[module])) if isinstance(node, ast.Call)]
    prints = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert [p.lineno for p in prints if "file" not in {keyword.arg for keyword in p.keywords}] == []


# ---------------------------------------------------------------------- causes


@pytest.mark.parametrize("cause", Cause)
def test_every_cause_is_explained(cause: Cause) -> None:
    explanation = EXPLANATIONS[cause]
    assert explanation.message
    assert explanation.next_step
    assert not explanation.message.endswith(".")
    assert ROWS[cause].code in CODES


def causes_table() -> str:
    """The table of docs/causes.md."""
    head = ["| cause | meaning | what to do | code | status |", "| --- | --- | --- | --- | --- |"]
    rows = [
        f"| `{cause.value}` | {said(EXPLANATIONS[cause].message)} | {said(EXPLANATIONS[cause].next_step)} "
        f"| {ROWS[cause].code} | {ROWS[cause].status} |"
        for cause in Cause
    ]
    return "\n".join(head + rows)


def said(text: str) -> str:
    return text.replace("|", "\\|")


def test_every_cause_is_documented() -> None:
    text = (ROOT / "docs" / "causes.md").read_text()
    assert causes_table() in text, f"docs/causes.md should have:\n{causes_table()}"


# ---------------------------------------------------------------------- the repository


def tracked() -> list[Path]:
    """Every file git keeps, or would keep; without git, in an unpacked archive, every file that is no build product."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        skipped = {".git", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", "__pycache__"}
        return [p for p in ROOT.rglob("*") if p.is_file() and not skipped & set(p.relative_to(ROOT).parts)]
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


# Folders of the machine the tests run on: it is as likely as any to have got into a file.
MACHINE = re.compile(
    "|".join(re.escape(str(path)) for path in (ROOT, ROOT.parent / "shared", Path(sys.prefix).resolve()))
)
# With a class of one letter in each, so that this file is no finding of its own.
INDEX = re.compile("--(extra-)?index-ur[l]|--find-link[s]|pypi[.]org/simpl[e]")


def findings(pattern: re.Pattern[str], paths: list[Path]) -> list[str]:
    found = []
    for path in paths:
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:
            continue
        name = path.relative_to(ROOT)
        found += [f"{name}:{n}: {line.strip()[:80]}" for n, line in enumerate(lines, 1) if pattern.search(line)]
    return found


def test_no_file_names_a_folder_of_some_machine() -> None:
    assert findings(MACHINE, tracked()) == []


def test_no_file_names_a_package_index() -> None:
    assert findings(INDEX, [path for path in tracked() if path.name != "Makefile"]) == []
    assert findings(re.compile(r"https?://"), [ROOT / "Makefile", ROOT / "requirements.lock"]) == []


def test_every_requirement_is_pinned_and_hashed() -> None:
    text = (ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    requirements = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert len(requirements) > 20
    for line in requirements:
        assert re.match(r"[a-z0-9][a-z0-9._-]*(\[[a-z,]+\])?==\S+", line), line[:80]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", line), line[:80]
