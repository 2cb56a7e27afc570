"""DocsGPT's published widget, as it is on people's pages: whole conversations with a real server, seen from the page.

It is npm's package, of the version and content that widget/package-lock.json names, in a page without a browser
(jsdom). It has no dependencies there: its bundle for pages has all in it, and what its package lists is for building.
"""

import asyncio
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_keys import Keys, keys
from tests.harness import Agentd
from tests.harness.scripted import graph, install
from tests.harness.talk import faults

__all__ = ["keys"]

HERE = Path(__file__).parent / "widget"
SECONDS = 100


@pytest.fixture(scope="session")
def widget(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the widget and the page, installed once for each lock file."""
    missing = [tool for tool in ("node", "npm") if shutil.which(tool) is None]
    if missing:
        text = f"{' and '.join(missing)} are needed to run the published widget"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)
    cache = getattr(request.config, "cache", None)
    home = cache.mkdir("widget") if cache is not None else tmp_path_factory.mktemp("widget")
    lock = HERE / "package-lock.json"
    ready: Path = home / hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    if not ready.exists():
        making = Path(tempfile.mkdtemp(dir=home))
        for file in (lock, HERE / "package.json"):
            shutil.copy(file, making)
        quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
        done = subprocess.run(
            ["npm", "ci", *quiet], cwd=making, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        try:
            making.rename(ready)
        except OSError:  # another test run was quicker
            shutil.rmtree(making)
    return ready


async def converse(widget: Path, server: Agentd, *steps: dict[str, Any], key: str = "") -> list[dict[str, Any]]:
    """What is seen after each step; nothing went wrong in the page."""
    asked = json.dumps({"host": server.address, "key": key, "steps": steps})
    process = await asyncio.create_subprocess_exec(
        "node",
        str(HERE / "converse.mjs"),
        str(widget),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate(asked.encode())
    finally:
        if process.returncode is None:
            os.kill(process.pid, signal.SIGKILL)  # Popen's would take the status of one that has ended
            await process.wait()
    assert (process.returncode, err.decode()) == (0, "")
    seen = json.loads(out)
    assert seen["faults"] == []
    told: list[dict[str, Any]] = seen["told"]
    assert len(told) == len(steps)
    assert all(step["locked"] for step in told if "locked" in step), "while an answer comes the input waits"
    return told


def ask(question: str) -> dict[str, str]:
    return {"ask": question}


def script(*steps: list[Any]) -> dict[str, str]:
    return ask(json.dumps(steps))


async def test_a_conversation_with_the_demo(agentd: Agentd, keys: Keys, widget: Path) -> None:
    key = keys.add(user="shop", graph="demo")["Authorization"][7:]
    server = await agentd.start()
    told = await converse(
        widget,
        server,
        ask("My name is Ada."),
        ask("What is my name?"),
        ask("Is meeting room 4 free?"),
        {"like": 0},
        {"dislike": 2},
        ask("What is my name?"),
        key=key,
    )
    first, second, third, like, dislike, last = told
    assert "Nice to meet you, Ada." in first["text"]
    assert "Your name is Ada." in second["text"]
    assert "Meeting room plan" in third["text"], "the source is shown"
    assert third["text"].strip().endswith("Meeting room 4 is free until noon.")
    assert last["text"].count("Your name is Ada.") == 2
    [asked] = first["sent"]
    assert (asked["path"], asked["body"]["conversation_id"]) == ("/stream", None)
    conversations = {step["sent"][0]["body"]["conversation_id"] for step in (second, third, like, dislike, last)}
    assert len(conversations) == 1
    for step, opinion, number in ((like, "LIKE", 0), (dislike, "DISLIKE", 2)):
        assert step["sent"][0]["body"]["feedback"] == opinion
        said = await server.event("docsgpt.feedback", lambda event, told=opinion: event["feedback"] == told)  # type: ignore[misc]
        assert (said["question"], {said["conversation"]}, said["user"]) == (number, conversations, "shop")
    assert faults(server) == []


async def test_errors_are_shown_and_the_input_is_free_again(agentd: Agentd, tmp_path: Path, widget: Path) -> None:
    install(agentd, tmp_path)
    server = await agentd.start(
        graphs=[graph("talker", "scripted")], AGENTD_DEFAULT_GRAPH="talker", AGENTD_TURN_SILENCE_SECONDS="0.5"
    )
    told = await converse(
        widget,
        server,
        script(["raise", "no luck"]),
        script(["say", "first"]),
        script(["die", "exit"]),
        script(["wait", None]),
        script(["say", "half "], ["wait", None]),
        script(["think", "hm"], ["say", "last"]),
    )
    texts = [step["text"] for step in told]
    assert "Network Errorno luck" in texts[0]
    assert texts[1].strip().endswith("first")
    assert texts[2].endswith("Network Errorworker exited with code 7")
    assert texts[3].endswith("Network Errornothing said for 0.5 s")
    assert texts[4].strip().endswith("half")
    assert texts[5].strip().endswith("last")
    ids = [step["sent"][0]["body"]["conversation_id"] for step in told]
    assert ids[:2] == [None, None], "what failed had no id"
    assert len({*ids[2:]}) == 1
    assert ids[2] is not None
    assert faults(server) == []


async def test_refusals_are_shown_and_the_input_is_free_again(agentd: Agentd, keys: Keys, widget: Path) -> None:
    keys.add(user="shop")
    server = await agentd.start()
    [unknown] = await converse(widget, server, ask("Hi"), key="no-such-key")
    assert unknown["text"].endswith("Invalid API key")
    [nobody] = await converse(widget, server, ask("Hi"))
    assert nobody["text"].endswith("Unauthorized")
    assert faults(server) == []


async def test_long_answers_arrive_whole(agentd: Agentd, tmp_path: Path, widget: Path) -> None:
    """The page has no buffer between two reads: a frame that is cut in two would be the end of the answer."""
    install(agentd, tmp_path)
    server = await agentd.start(graphs=[graph("talker", "scripted")], AGENTD_DEFAULT_GRAPH="talker")
    long = "x" * 100_000
    many = [f"{number} " for number in range(3000)]
    told = await converse(
        widget,
        server,
        script(["final", long]),
        script(["pieces", many]),
        script(["say", "last"]),
    )
    assert told[0]["text"].count(long) == 2, "in the question, and in the answer"
    assert "".join(many).strip() in told[1]["text"]
    assert told[2]["sent"][0]["body"]["conversation_id"] == told[1]["sent"][0]["body"]["conversation_id"] is not None
    assert faults(server) == []
