"""Foreign commands as workers, as operators of TEN apps run them (wire/ten.md sections 4, 6, 10 and 11)."""

import asyncio
import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import FormData

from tests.harness import Agentd
from tests.harness.server import PATIENCE
from tests.harness.witness import Witness
from tests.harness.workers import workers_of

# A TEN app's runtime: reads the property file it is given, tells the test what it sees, ends on SIGTERM.
RUNTIME = """
import json, os, signal, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

act, witness, property_file = sys.argv[1:4]
told = os.open(witness, os.O_WRONLY)

def say(text):
    os.write(told, f"{text} {os.getpid()}\\n".encode())

def end(*_):
    say("terminated")
    os._exit(0)

def nodes():
    with open(property_file) as file:
        [entry] = json.load(file)["ten"]["predefined_graphs"]
    return {node["name"]: node.get("property", {}) for node in entry["graph"]["nodes"]}

class Commands(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kept = os.path.exists(body.get("path", "/none"))
        say("command " + json.dumps({"path": self.path, "kept": kept, **{"body": body}}))
        self.send_response(500 if body["filename"] == "refused" else 200)
        self.end_headers()

    def log_message(self, *_):
        pass

signal.signal(signal.SIGTERM, signal.SIG_IGN if act == "deaf" else end)
if act == "serve":
    server = HTTPServer(("127.0.0.1", nodes()["http_server"]["listen_port"]), Commands)
    say("listening")
    server.serve_forever()
if act == "family":
    for _ in range(2):
        if not os.fork():
            os.fork()
            say("member")
            while True:
                signal.pause()
if act == "write":
    for text in sys.argv[4:]:
        os.write(1, text.encode().decode("unicode_escape").encode())
    os.write(2, b"an error\\n")
    say("written")
    while True:
        signal.pause()
document = open(property_file).read() if os.path.exists(property_file) else None
mode = os.stat(property_file).st_mode & 0o777 if document else None
say("seen " + json.dumps({"argv": sys.argv, "cwd": os.getcwd(), "environ": dict(os.environ), "property": document,
                          "mode": mode, "leader": os.getsid(0) == os.getpid(), "umask": os.umask(0o77)}))
while True:
    signal.pause()
"""
ENV = {"AGENTD_WORKER_SETTLE_SECONDS": "0.05"}


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """The folder of a TEN app."""
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "runtime.py").write_text(RUNTIME)
    return folder


Command = Callable[..., list[str]]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """The app's command line for one act."""

    def line(act: str, *arguments: str, property_file: str = "{property_file}") -> list[str]:
        return [sys.executable, "-SE", "runtime.py", act, str(tmp_path / "witness"), property_file, *arguments]

    return line


def install(folder: Path, *graphs: dict[str, Any]) -> None:
    """Write the app's property file. The witness lies outside of the app, where no worker reaches it by itself."""
    for one in graphs:
        one.setdefault("agentd", {}).setdefault("isolation", {"write": [str(folder.parent / "witness")]})
    (folder / "property.json").write_text(json.dumps({"ten": {"predefined_graphs": list(graphs)}}))


def graph(command: list[str] | str | None = None, name: str = "app", nodes: Any = (), **options: Any) -> dict[str, Any]:
    """One graph; `nodes` are pairs of a name and properties."""
    entry: dict[str, Any] = {
        "name": name,
        "graph": {"nodes": [{"type": "extension", "name": n, "addon": n, "property": p} for n, p in nodes]},
    }
    if command is not None or options:
        entry["agentd"] = {**({} if command is None else {"command": command}), **options}
    return entry


async def seen(witness: Witness, word: str = "seen") -> dict[str, Any]:
    """What the program told first."""
    await witness.hears(word)
    found: dict[str, Any] = json.loads(next(text for text, _ in witness.said if text.startswith(word))[len(word) :])
    return found


async def until(witness: Witness, condition: Callable[[], bool]) -> None:
    """Wait until what was heard fulfils the condition."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            witness._heard.clear()
            await witness._heard.wait()


def count(witness: Witness, word: str) -> int:
    return sum(text == word for text, _ in witness.said)


def logs(agentd: Agentd) -> list[Path]:
    return sorted((agentd.state_dir / "logs").glob("app-*"))


# ---------------------------------------------------------------------- what the program gets


async def test_a_command_gets_its_property_file_in_the_apps_folder(
    agentd: Agentd, app: Path, witness: Witness, command: Command
) -> None:
    key = "${env:APP_KEY}"
    nodes = [
        ("llm", {"key": key, "other": "${env:APP_UNSET|text}", "greeting": "hi", "params": {"deep": [key]}}),
        ("agora_rtc", {"channel": "x"}),
        ("http_server", {}),
    ]
    install(app, graph(command("tell", "{channel_id}"), nodes=nodes), graph(name="other"))
    await agentd.start(AGENTD_APP_DIR=str(app), APP_KEY="planted-secret", UNRELATED_KEY="leaked-secret", **ENV)
    overrides = {"llm": {"greeting": "${env:UNRELATED_KEY}", "model": "gpt-4o"}}
    await agentd.begin("a:b", "app", user_uid=7, bot_uid=9, properties=overrides)
    found = await seen(witness)
    document = json.loads(found["property"])
    [entry] = document["ten"]["predefined_graphs"]
    llm, rtc, http = (node["property"] for node in entry["graph"]["nodes"])

    assert (entry["name"], entry["auto_start"]) == ("app", True)
    assert "agentd" not in entry
    assert llm == {
        "key": key,  # the app's own runtime expands them
        "other": "${env:APP_UNSET|text}",
        "greeting": "${env:AGENTD_LITERAL_1}",  # and yields the request's text, not the secret
        "params": {"deep": [key]},
        "model": "gpt-4o",
    }
    assert rtc == {"channel": "a:b", "remote_stream_id": 7, "stream_id": 9, "token": ""}
    assert 10001 <= http["listen_port"] <= 30000
    environ = found["environ"]
    assert environ["APP_KEY"] == "planted-secret"
    assert environ["AGENTD_LITERAL_1"] == "${env:UNRELATED_KEY}"
    assert "UNRELATED_KEY" not in environ
    assert found["cwd"] == str(app)
    assert (found["mode"], found["leader"], found["umask"]) == (0o600, True, 0o077)

    channel = await agentd.channel("a:b")
    assert found["argv"][4] == channel["id"] == environ["AGENTD_CHANNEL_ID"]
    property_file = Path(found["argv"][3])
    assert property_file.name.startswith("property-a%3Ab-")
    assert property_file.is_file()
    await agentd.end("a:b")
    assert not property_file.exists()
    assert "planted-secret" not in json.dumps(agentd.events)


async def test_workers_inherit_what_the_operator_names(
    agentd: Agentd, app: Path, witness: Witness, command: Command
) -> None:
    install(app, graph(command("tell")))
    await agentd.start(
        AGENTD_APP_DIR=str(app), AGENTD_WORKER_ENV="TMAN_*,CUDA_HOME", TMAN_HOME="/t", CUDA_HOME="/c", OTHER="x", **ENV
    )
    await agentd.begin("c", "app")
    environ = (await seen(witness))["environ"]
    assert (environ["TMAN_HOME"], environ["CUDA_HOME"]) == ("/t", "/c")
    assert "OTHER" not in environ
    assert "PATH" in environ


async def test_a_graphs_folder_is_below_the_apps(agentd: Agentd, app: Path, witness: Witness, command: Command) -> None:
    (app / "tenapp").mkdir()
    (app / "runtime.py").rename(app / "tenapp" / "runtime.py")
    install(app, graph(command("tell"), cwd="tenapp"))
    await agentd.start(AGENTD_APP_DIR=str(app), **ENV)
    await agentd.begin("c", "app")
    assert (await seen(witness))["cwd"] == str(app / "tenapp")


@pytest.mark.parametrize("flag", ["-tenapp_dir={}", "--tenapp-dir={}"])
async def test_the_app_folder_by_the_flag_of_tens_server(
    agentd: Agentd, app: Path, witness: Witness, command: Command, flag: str
) -> None:
    install(app, graph(command("tell")))
    await agentd.start(flag.format(app), **ENV)
    assert [item["name"] for item in (await agentd.get("/graphs"))["data"]] == ["app"]
    await agentd.begin("c", "app")
    assert (await seen(witness))["cwd"] == str(app)


async def test_one_command_for_all_graphs(agentd: Agentd, app: Path, witness: Witness, command: Command) -> None:
    install(app, graph(nodes=[("no_addon_of_ours", {"a": 1})]), graph(command("write"), name="own"))
    line = " ".join(part if part.startswith("{") else shlex.quote(part) for part in command("tell", "two words"))
    await agentd.start(AGENTD_APP_DIR=str(app), AGENTD_WORKER_COMMAND=line, AGENTD_WORKER_SETTLE_SECONDS="0")
    await agentd.begin("c", "app")
    found = await seen(witness)
    assert found["argv"][4] == "two words"
    assert "no_addon_of_ours" in found["property"]
    await agentd.begin("d", "own")  # a graph's own command comes first
    await witness.hears("written")


async def test_workers_of_one_graph_listen_on_different_ports(
    agentd: Agentd, app: Path, witness: Witness, command: Command
) -> None:
    install(app, graph(command("serve"), nodes=[("http_server", {"listen_port": 8080})]))
    await agentd.start(AGENTD_APP_DIR=str(app), **ENV)
    await asyncio.gather(*(agentd.begin(f"c{number}", "app") for number in range(3)))
    await until(witness, lambda: count(witness, "listening") == 3)
    assert len((await agentd.get("/list"))["data"]) == 3


# ---------------------------------------------------------------------- starting


async def test_it_is_up_when_it_has_lived_through_the_settling_time(
    agentd: Agentd, app: Path, witness: Witness, command: Command
) -> None:
    install(app, graph(command("tell")))
    await agentd.start(AGENTD_APP_DIR=str(app), AGENTD_WORKER_SETTLE_SECONDS="0.5")
    await agentd.begin("c", "app")
    ready = await agentd.event("channel.ready")
    assert 500 <= ready["ms"] < 5000
    channel = await agentd.channel("c")
    assert (channel["state"], channel["health"], channel["pid"]) == ("running", "ok", await witness.hears("seen"))


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        ("exit 7", "code 7"),
        ("exit 0", "code 0"),
        ("kill -9 $$", "signal 9"),
        ("echo a last word >&2; exit 3", "code 3"),
    ],
)
async def test_one_that_ends_at_once_did_not_start(agentd: Agentd, app: Path, line: str, detail: str) -> None:
    install(app, graph(["sh", "-c", line]))
    await agentd.start(AGENTD_APP_DIR=str(app), AGENTD_WORKER_SETTLE_SECONDS="20", WORKERS_MAX="1")
    for _ in range(2):  # its slot and its name are free again
        answer = await agentd.post("/start", channel_name="c", graph_name="app")
        assert (answer["status"], answer["code"], answer["msg"]) == (200, "10101", "start worker failed")
        assert detail in answer["detail"]
    assert (await agentd.get("/channels"))["channels"] == []
    assert (await agentd.gone("c"))["cause"] == "exited_before_ready"
    await agentd.stop()
    assert [path.name for path in agentd.state_dir.glob("logs/property-*")] == []
    assert bool(logs(agentd)) == ("echo" in line)


@pytest.mark.parametrize(
    ("line", "options", "named"),
    [
        ("no-such-program --property {property_file}", {}, "command 'no-such-program': No such file or directory"),
        ("./runtime.py", {}, "command './runtime.py': Permission denied"),
        (["/dev/null"], {}, "command '/dev/null': Permission denied"),
        ("true", {"cwd": "no-such-folder"}, "no-such-folder': No such file or directory"),
        ("true", {"cwd": "property.json"}, "property.json': Not a directory"),
    ],
)
async def test_a_command_that_cannot_be_run_is_named(
    agentd: Agentd, app: Path, line: Any, options: dict[str, Any], named: str
) -> None:
    install(app, graph(line, **options))
    await agentd.start(AGENTD_APP_DIR=str(app), AGENTD_WORKER_SETTLE_SECONDS="20")
    answer = await agentd.post("/start", channel_name="c", graph_name="app")
    assert answer["code"] == "10101"
    assert named in answer["detail"]
    assert (await agentd.gone("c"))["cause"] == "spawn_failed"
    assert list((agentd.state_dir / "ch").iterdir()) == []


async def test_an_environment_too_large_for_the_spawner_fails_only_its_own_start(
    agentd: Agentd, app: Path, witness: Witness, command: Command
) -> None:
    install(app, graph(command("tell"), nodes=[("n", {})]))
    await agentd.start(AGENTD_APP_DIR=str(app), **ENV)
    for size in (40_000, 63_000, 65_000):
        # Texts that look like placeholders travel as variables, within a bound for each and one for all.
        texts = {key: "${" + key * size + "}" for key in "ab"}
        answer = await agentd.post("/start", channel_name=f"c{size}", graph_name="app", properties={"n": texts})
        assert answer["code"] in {"0", "10101"}, answer
    assert answer["code"] == "10101"
    await agentd.begin("after", "app")
    assert (await agentd.end("after"))["code"] == "0"


async def test_a_stop_before_it_has_settled_cancels_the_start(
    agentd: Agentd, app: Path, witness: Witness, command: Command
) -> None:
    install(app, graph(command("tell")))
    await agentd.start(AGENTD_APP_DIR=str(app), AGENTD_WORKER_SETTLE_SECONDS="30", WORKER_START_TIMEOUT_SECONDS="60")
    start = asyncio.create_task(agentd.post("/start", channel_name="c", graph_name="app"))
    await witness.hears("seen")
    assert (await agentd.get("/list"))["data"] == []
    assert (await agentd.post("/ping", channel_name="c"))["code"] == "0"
    assert (await agentd.end("c"))["code"] == "0"
    assert (await start)["code"] == "10101"
    await witness.hears("terminated")


# ---------------------------------------------------------------------- ending


async def test_a_stop_is_a_sigterm_to_the_whole_group(
    agentd: Agentd, app: Path, witness: Witness, command: Command
) -> None:
    install(app, graph(command("family")))
    await agentd.start(AGENTD_APP_DIR=str(app), WORKER_STOP_GRACE_SECONDS="20", **ENV)
    await agentd.begin("c", "app")
    await witness.hears("seen")
    await until(witness, lambda: count(witness, "member") == 4)
    assert (await agentd.end("c"))["code"] == "0"
    gone = await agentd.gone("c")
    assert (gone["cause"], gone["status"], gone["killed"], gone["processes"]) == ("stopped", 0, 0, 5)
    assert witness.alive() == []
    await until(witness, lambda: count(witness, "terminated") == 5)


async def test_one_that_ignores_sigterm_is_killed_after_the_grace(
    agentd: Agentd, app: Path, witness: Witness, command: Command
) -> None:
    install(app, graph(command("deaf")))
    await agentd.start(AGENTD_APP_DIR=str(app), WORKER_STOP_GRACE_SECONDS="0.3", **ENV)
    await agentd.begin("c", "app")
    await witness.hears("seen")
    assert (await agentd.end("c"))["code"] == "0"
    gone = await agentd.gone("c")
    assert (gone["status"], gone["killed"]) == (-9, 1)
    assert gone["seconds"] >= 0.3
    assert witness.alive() == []


async def test_one_that_ends_by_itself_leaves_nothing(agentd: Agentd, app: Path) -> None:
    os.mkfifo(app / "cue")
    install(app, graph(["sh", "-c", "read cue < cue; exit 5"]))
    await agentd.start(AGENTD_APP_DIR=str(app), WORKERS_MAX="1", **ENV)
    await agentd.begin("c", "app")
    cue = os.open(app / "cue", os.O_RDWR)
    os.write(cue, b"go\n")
    gone = await agentd.gone("c")
    os.close(cue)
    assert (gone["cause"], gone["status"]) == ("crashed", 5)
    assert (await agentd.get("/list"))["data"] == []
    assert (await agentd.post("/ping", channel_name="c"))["code"] == "10002"
    await agentd.begin("c", "app")  # name and slot are free


async def test_the_end_of_the_server_takes_it(agentd: Agentd, app: Path, witness: Witness, command: Command) -> None:
    install(app, graph(command("family")))
    await agentd.start(AGENTD_APP_DIR=str(app), **ENV)
    await agentd.begin("c", "app")
    await until(witness, lambda: count(witness, "member") == 4)
    found = workers_of(agentd.state_dir)
    assert len(found) == 5
    assert set(found.values()) == {(await agentd.channel("c"))["id"]}
    assert await agentd.stop() == 0
    assert workers_of(agentd.state_dir) == {}
    assert witness.alive() == []


# ---------------------------------------------------------------------- commands over HTTP


async def test_documents_reach_it_on_the_injected_port(
    agentd: Agentd, app: Path, witness: Witness, command: Command
) -> None:
    install(app, graph(command("serve"), nodes=[("http_server", {})]))
    await agentd.start(AGENTD_APP_DIR=str(app), **ENV)
    await agentd.begin("c", "app")
    await witness.hears("listening")

    update = {"request_id": "r1", "channel_name": "c", "collection": "a1_2", "file_name": "x.pdf"}
    answer = await agentd.post("/vector/document/update", update)
    assert (answer["code"], answer["data"]) == ("0", {"channel_name": "c"})
    assert await seen(witness, "command") == {
        "path": "/cmd",
        "kept": False,
        "body": {
            "request_id": "r1",
            "channel_name": "c",
            "collection": "a1_2",
            "filename": "x.pdf",
            "ten": {"name": "update_querying_collection", "type": "cmd"},
        },
    }
    witness.said.clear()
    answer = await upload(agentd, "c", "../日本 .txt", b"content")
    assert answer["code"] == "0"
    heard = await seen(witness, "command")
    assert heard["kept"]
    assert Path(heard["body"]["path"]).is_relative_to(agentd.state_dir / "ch")
    assert heard["body"]["filename"] == "日本 .txt"
    assert heard["body"]["ten"] == {"name": "file_chunk", "type": "cmd"}
    assert heard["body"]["collection"] == answer["data"]["collection"]

    update["file_name"] = "refused"
    answer = await agentd.post("/vector/document/update", update)
    assert (answer["status"], answer["code"]) == (200, "10104")
    assert "status 500" in answer["detail"]
    await agentd.end("c")
    assert not Path(heard["body"]["path"]).exists()
    assert (await agentd.post("/vector/document/update", update))["code"] == "10002"


@pytest.mark.parametrize(
    ("nodes", "detail"), [([("http_server", {})], "cannot be reached"), ([], "no node with an injected port")]
)
async def test_a_command_that_reaches_nobody(
    agentd: Agentd, app: Path, witness: Witness, command: Command, nodes: Any, detail: str
) -> None:
    install(app, graph(command("tell"), nodes=nodes))
    await agentd.start(AGENTD_APP_DIR=str(app), **ENV)
    await agentd.begin("c", "app")
    answer = await agentd.post("/vector/document/update", channel_name="c", collection="a", file_name="x")
    assert answer["code"] == "10104"
    assert detail in answer["detail"]
    assert (await upload(agentd, "c", "x.txt", b"x"))["code"] == "10104"
    folder = Path((await seen(witness))["environ"]["AGENTD_CHANNEL_FOLDER"])
    assert list(folder.rglob("*.txt")) == []


async def upload(agentd: Agentd, channel: str, name: str, data: bytes) -> dict[str, Any]:
    form = FormData(quote_fields=False)  # as browsers send a name
    form.add_field("channel_name", channel)
    form.add_field("file", data, filename=name)
    return await agentd.request("POST", "/vector/document/upload", data=form)


# ---------------------------------------------------------------------- output

PIECES = (r"half a", r" line\n", r"progress 1\rprogress 2\rdone\n", r"\n", r"the last without an end")
LINES = ["half a line", "progress 1\rprogress 2\rdone", "", "the last without an end"]


async def test_its_output_is_logged_by_complete_lines(
    agentd: Agentd, app: Path, witness: Witness, command: Command
) -> None:
    install(app, graph(command("write", *PIECES)))
    await agentd.start(AGENTD_APP_DIR=str(app), AGENTD_WORKER_SETTLE_SECONDS="0")
    await agentd.begin("c", "app")
    await witness.hears("written")
    await agentd.end("c")
    await agentd.stop()
    [log] = logs(agentd)
    assert log.stat().st_mode & 0o777 == 0o600
    lines = log.read_bytes().decode().split("\n")
    assert lines.pop() == ""  # the file ends with a newline
    assert sorted(lines) == sorted([*LINES, "an error"])
    assert [line for line in lines if line != "an error"] == LINES


@pytest.mark.own_interpreter
async def test_its_output_on_ours_with_the_channels_name(
    agentd: Agentd, app: Path, command: Command, witness: Witness, capfd: pytest.CaptureFixture[str]
) -> None:
    install(app, graph(command("write", *PIECES)))
    await agentd.start(AGENTD_APP_DIR=str(app), AGENTD_WORKER_SETTLE_SECONDS="0", LOG_STDOUT="1")
    await agentd.begin("the [room]\n", "app")
    await witness.hears("written")
    await agentd.end("the [room]\n")
    await agentd.stop()
    out = capfd.readouterr().out
    for line in (*LINES, "an error"):
        assert f"[the [room]\\n] {line}\n" in out
    assert out.count("[the [room]") == len(LINES) + 1
    assert logs(agentd) == []
