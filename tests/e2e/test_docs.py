"""Every snippet of the documentation, run as it is printed: only addresses and names of programs are put in place."""

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

from tests.harness import Agentd
from tests.harness.server import PATIENCE

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def snippets(path: Path, language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE)


async def shell(script: str, folder: Path, **variables: str) -> str:
    """Run a snippet; everything it printed."""
    bin_folder = folder / "bin"
    bin_folder.mkdir(exist_ok=True)
    agentd = bin_folder / "agentd"
    agentd.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m supervisor "$@"\n')
    agentd.chmod(0o700)
    environment = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "NO_COLOR": "1", **variables}
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-c",
        script,
        cwd=folder,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(PATIENCE):
        return (await process.communicate())[0].decode()


def answers(output: str) -> list[dict[str, Any]]:
    """The JSON answers in a transcript of curl calls, one behind the other."""
    decoder, found, position = json.JSONDecoder(), [], 0
    while (position := output.find("{", position)) >= 0:
        answer, position = decoder.raw_decode(output, position)
        found.append(answer)
    return found


async def test_the_two_commands_of_the_readme_are_targets() -> None:
    commands = re.findall(r"^make (\w+)", snippets(ROOT / "README.md", "sh")[0], re.MULTILINE)
    assert commands == ["run", "test"]
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{command}:", makefile, re.MULTILINE) for command in commands)


async def test_every_json_example_is_json() -> None:
    blocks = [block for path in (*DOCS.glob("*.md"), ROOT / "README.md") for block in snippets(path, "json")]
    assert [json.loads(block) for block in blocks]


async def curl(agentd: Agentd, word: str) -> str:
    """Run the README's curl calls in which this word is; what they print."""
    [script] = [block for block in snippets(ROOT / "README.md", "sh") if "curl" in block and word in block]
    here = script.replace("http://localhost:8080", agentd.address).replace("curl ", "curl -s ")
    return await shell(here, agentd.folder)


async def test_the_readme_s_curl_examples(agentd: Agentd) -> None:
    await agentd.start()
    assert answers(await curl(agentd, "/ping")) == [{"code": "0", "msg": "success", "data": None}] * 3


async def test_the_readme_s_conversation(agentd: Agentd) -> None:
    await agentd.start()
    output = await curl(agentd, "/turns")
    stream, _, rest = output.partition("event: final\n")
    pieces = re.findall(r"event: text\ndata: (.*)", stream)
    assert "Friday" in "".join(json.loads(piece)["text"] for piece in pieces)
    *_, last = answers(rest)
    assert "Alice" in last["text"]
    assert last["cause"] == "completed"


async def test_the_readme_s_commands(agentd: Agentd) -> None:
    await agentd.start()
    [script] = [block for block in snippets(ROOT / "README.md", "sh") if ".venv/bin/agentd ls" in block]
    script = script.replace(".venv/bin/agentd", "agentd")
    output = await shell(f"set -e\n{script}", agentd.folder, AGENTD_SERVER=agentd.address, COLUMNS="200")
    assert "started lobby" in output
    assert re.search(r"lobby .*echo .*running", output)
    assert "Friday" in output
    assert "stopped lobby" in output


async def test_the_readme_s_published_clients(agentd: Agentd) -> None:
    """The Python examples, as they stand, but for the address."""
    await agentd.start()
    agentscope, openai = snippets(ROOT / "README.md", "python")
    for code, expected in ((agentscope, "Alice"), (openai, "Friday")):
        assert expected in (await python(agentd, code, "http://localhost:8090")).splitlines()[-1]


async def python(agentd: Agentd, code: str, address: str) -> str:
    """Run an example with the server at another address; what it prints."""
    (agentd.folder / "example.py").write_text(code.replace(address, agentd.address))
    return await shell(f"set -e; '{sys.executable}' -X dev -W error example.py", agentd.folder)


async def test_the_examples_of_the_openai_page(agentd: Agentd) -> None:
    await agentd.start()
    responses, chat = snippets(DOCS / "openai.md", "python")
    output = await python(agentd, f"{responses}\nprint(again.output_text)", "http://127.0.0.1:8080")
    assert output.splitlines()[-1].count("Alice") == 1, output
    assert "Friday" in await python(agentd, chat, "http://127.0.0.1:8080")


async def test_the_examples_of_the_agentscope_page(agentd: Agentd) -> None:
    await agentd.start()
    script = "".join(block.replace("curl ", "curl -s ") for block in snippets(DOCS / "agentscope.md", "sh"))
    output = await shell(script, agentd.folder, A=agentd.address)
    first, second, rest = output.split("data: [DONE]\n\n")
    assert '"status":"completed"' in first
    assert "Your name is Alice" in second
    stop, task, unknown = answers(rest)
    assert (stop["status"], task["status"], unknown["error"]["code"]) == ("success", "submitted", "RESPONSE_UNKNOWN")


async def test_the_readme_s_other_clients(agentd: Agentd) -> None:
    await agentd.start()
    reminix, _, huawei = (await curl(agentd, "agent/friday/chat")).partition("data: [DONE]")
    assert "Friday" in reminix
    assert "Idle" in huawei


async def test_the_examples_of_the_reminix_page(agentd: Agentd) -> None:
    await agentd.start()
    first, second = snippets(DOCS / "reminix.md", "sh")
    output = await shell(first.replace("curl ", "curl -s "), agentd.folder, A=agentd.address)
    lines = first.splitlines()
    told = [line.removeprefix("# ") for line in lines if line.startswith("# ")]
    assert len(told) == 2
    assert all(line in output for line in told)
    assert 'data: {"chunk": "Friday, "}' in output
    assert [endpoint["name"] for endpoint in answers(output)[-1]["endpoints"]].count("echo") == 2
    output = await shell(second.replace("curl ", "curl -s "), agentd.folder, A=agentd.address)
    kinds = re.findall(r'data: \{"type":"([a-z_]+)"', output)
    assert list(dict.fromkeys(kinds)) == ["text_delta", "tool_call", "tool_result"]


async def test_the_example_of_the_huawei_page(agentd: Agentd) -> None:
    await agentd.start()
    [script] = snippets(DOCS / "huawei.md", "sh")
    output = await shell(script.replace("curl ", "curl -s "), agentd.folder, A=agentd.address)
    units = [json.loads(line[5:]) for line in output.splitlines() if line]
    assert [unit["event"] for unit in units][-3:] == ["statistic_data", "summary_response", "done"]
    assert "idle" in units[-2]["content"]


async def test_the_readme_s_docsgpt_call(agentd: Agentd) -> None:
    await agentd.start()
    output = await curl(agentd, "8080/stream")
    assert "Friday" in output
    assert output.endswith('data: {"type": "end"}\n\n')


async def test_the_examples_of_the_docsgpt_page(agentd: Agentd) -> None:
    await agentd.start()
    [script] = snippets(DOCS / "docsgpt.md", "sh")
    variables = {"A": agentd.address, "AGENTD_STATE_DIR": str(agentd.state_dir)}
    output = await shell(script.replace("curl ", "curl -s "), agentd.folder, **variables)
    stream, _, rest = output.partition('data: {"type": "end"}\n\n')
    assert '{"type": "answer", "answer": "Alice. "}' in stream
    [told] = answers(rest)
    [shown] = [json.loads(block) for block in snippets(DOCS / "docsgpt.md", "json")]
    assert told.keys() == shown.keys()
    assert told["answer"] == shown["answer"]
    for name in ("sources", "tool_calls"):
        assert [entry.keys() for entry in told[name]] == [entry.keys() for entry in shown[name]]


async def test_the_readme_s_ten_app(state_dir: Path, tmp_path: Path) -> None:
    [script] = [block for block in snippets(ROOT / "README.md", "sh") if "tman run start" in block]
    app = tmp_path / "path" / "to" / "tenapp"
    app.mkdir(parents=True)
    (app / "property.json").write_text(
        json.dumps({"ten": {"predefined_graphs": [{"name": "voice", "auto_start": True, "graph": {"nodes": []}}]}})
    )
    (tmp_path / "bin").mkdir()
    # TEN's own launcher cannot be had here; this one shows what it was called with, and lives until it is told to end.
    tman = tmp_path / "bin" / "tman"
    tman.write_text('#!/bin/sh\necho "$PWD $*"\nwhile :; do sleep 1; done\n')
    tman.chmod(0o700)
    run = f"{script.strip()} --listen 127.0.0.1:0 --log-stdout --log-format json 2>&1"
    environment = {**os.environ, "AGENTD_STATE_DIR": str(state_dir), "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    agentd = tmp_path / "bin" / "agentd"
    agentd.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m supervisor "$@"\n')
    agentd.chmod(0o700)
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", run, cwd=tmp_path, env=environment, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None

    async def line_with(text: str) -> str:
        assert process.stdout is not None
        while line := (await process.stdout.readline()).decode():
            if text in line:
                return line
        raise AssertionError(f"the server ended without {text!r}")

    try:
        async with asyncio.timeout(PATIENCE):
            ready = json.loads(await line_with("server.ready"))
            started = asyncio.create_task(
                shell(
                    f'curl -s -d \'{{"channel_name": "c", "graph_name": "voice"}}\' {ready["addresses"][0]}/start',
                    tmp_path,
                )
            )
            called = await line_with("[c] ")
            assert json.loads(await started)["code"] == "0"
            assert re.fullmatch(
                rf"\[c\] {re.escape(str(app))} run start -- --property \S+property-c-\S+\.json\n", called
            )
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            while await process.stdout.readline():
                pass
            await process.wait()


async def test_the_examples_of_the_http_page(agentd: Agentd) -> None:
    await agentd.start()
    (agentd.folder / "x.pdf").write_bytes(b"%PDF-1.4 nothing")
    script = "".join(block.replace("curl ", "curl -s ") for block in snippets(DOCS / "http.md", "sh"))
    # A channel that was stopped in one example is needed by a later one.
    script = script.replace("curl -s $A/list", f"curl -s -d {{}} $A/none >/dev/null\n{START}\ncurl -s $A/list", 1)
    kill = 'curl -s -X DELETE "$A/channels/test?kill=1"'
    script = script.replace(kill, f"{START}\n{kill}")
    script = script.replace("curl -s -N ", "timeout 2 curl -s -N ")
    output = await shell(script, agentd.folder, A=agentd.address)
    refused = [answer for answer in answers(output) if answer.get("code") not in {"0", None} or "error" in answer]
    # Without an Agora id no token, without an app no add-on folder, and the shipped graph handles no documents.
    expected = ["10005", "10105", "10104", "10104"]
    assert [answer.get("code") for answer in refused if "code" in answer] == expected, output
    assert '"receipt"' in output
    assert '"containment"' in output


START = 'curl -s -d \'{"channel_name": "test", "graph_name": "echo"}\' $A/start'


async def test_the_transcript_of_the_command_page(agentd: Agentd) -> None:
    await agentd.start()
    [transcript] = snippets(DOCS / "cli.md", "console")
    commands = "".join(line.removeprefix("$ ") + "\n" for line in transcript.splitlines() if line.startswith("$ "))
    expected = "".join(line + "\n" for line in transcript.splitlines() if not line.startswith("$ "))
    assert await shell(commands, agentd.folder, AGENTD_SERVER=agentd.address, COLUMNS="200") == expected


async def test_the_example_add_on(agentd: Agentd) -> None:
    package = agentd.folder / "addons" / "my_package"
    (package.parent / "upper-1.dist-info").mkdir(parents=True)
    package.mkdir()
    [code] = [block for block in snippets(DOCS / "addons.md", "python") if "class Upper" in block]
    (package / "upper.py").write_text(code)
    (package / "__init__.py").touch()
    [points] = re.findall(r'"(agentd\.addons)"\]\n(.*)', snippets(DOCS / "addons.md", "toml")[0])
    (package.parent / "upper-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: upper\nVersion: 1\n")
    (package.parent / "upper-1.dist-info" / "entry_points.txt").write_text(
        f"[{points[0]}]\n{points[1].replace(chr(34), '')}\n"
    )
    node = {"type": "extension", "name": "upper", "addon": "upper", "property": {"suffix": "?"}}
    await agentd.start(graphs=[{"name": "g", "graph": {"nodes": [node]}}], PYTHONPATH=str(package.parent))
    await agentd.begin("c", "g")
