"""The command line against a server that speaks the wire format, over real sockets and in real processes."""

import asyncio
import contextlib
import json
import os
import pty
import signal
import socket
import stat
import subprocess
import sys
import threading
import tty
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
from aiohttp import web

from supervisor import settings
from supervisor.causes import Cause, Refusal
from supervisor.cli import checks, client
from supervisor.cli.app import parse_overrides
from supervisor.cli.errors import CommandError, printable
from supervisor.cli.output import duration, size
from supervisor.http.envelope import failure, native_failure, success
from tests.harness import leaks

DOCS = Path(__file__).parents[1] / "docs" / "cli.md"
TOKEN = "t0ken"
WAIT: Final = 60.0  # seconds after which a test gives up
T = TypeVar("T")

LOBBY = {
    "name": "lobby", "id": "c1", "graph": "echo", "state": "running", "health": "ok", "pid": 4711,
    "created_at": 1767225600.0, "age_seconds": 3725.4, "last_ping_seconds": 4.23, "lease_seconds": 60,
    "time_left_seconds": 55.77, "rss_bytes": 3355443, "cpu_percent": 0.44, "processes": 2,
}  # fmt: skip
ODD = {
    "name": "日本 [bold]x\x1b[31m\n", "id": "c2", "graph": "echo", "state": "starting", "health": "stuck", "pid": None,
    "created_at": 1767225600.0, "age_seconds": 0.04, "last_ping_seconds": None, "lease_seconds": None,
    "time_left_seconds": None, "rss_bytes": None, "cpu_percent": None, "processes": None,
}  # fmt: skip
HOSTILE = "one\ntwo\n?th\tr\x1b[31mee\r\u202e日".encode().replace(b"?", b"\xff")  # what a worker may write
RECEIPT = {"processes": 3, "killed": 3, "left": 0, "seconds": 0.014, "by": "cgroup", "status": -9, "oom": False}


class Answers:
    """The endpoints the commands use, as the wire format has them; notes what it is asked."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, Any]] = []
        self.waiting = threading.Event()  # a client waits for an answer that never ends
        self.closing = asyncio.Event()
        self.channels = {"lobby"}
        self.cause_header = False

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.door])
        for path in ("/start", "/stop", "/ping"):
            app.router.add_post(path, self.control)
        app.router.add_get("/graphs", self.graphs)
        app.router.add_get("/health", self.health)
        app.router.add_get("/channels", self.list)
        app.router.add_delete("/channels/{name}", self.kill)
        app.router.add_get("/channels/{name}/logs", self.logs)
        return app

    def refuse(self, refusal: Refusal, path: str, status: int = 200) -> web.Response:
        native = path.startswith("/channels")
        headers = {client.CAUSE_HEADER: refusal.cause.value} if self.cause_header else {}
        body = native_failure(refusal) if native else failure(refusal, path)
        return web.Response(body=body, status=status, headers=headers, content_type="application/json")

    @web.middleware
    async def door(self, request: web.Request, handler: Any) -> web.StreamResponse:
        body = await request.read()
        self.seen.append((request.method, request.path_qs, json.loads(body) if body else None))
        if request.path != "/health" and request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.refuse(Refusal(Cause.UNAUTHORIZED), request.path, 401)
        response: web.StreamResponse = await handler(request)
        return response

    async def wait(self) -> None:
        self.waiting.set()
        await self.closing.wait()

    async def control(self, request: web.Request) -> web.Response:
        path, name = request.path, self.seen[-1][2]["channel_name"]
        if path == "/start":
            if name == "broken":
                return self.refuse(Refusal(Cause.ADDONS_MISSING, "add-ons not installed: x"), path)
            if name == "slow":
                await self.wait()
        elif name not in self.channels:
            return self.refuse(Refusal(Cause.CHANNEL_UNKNOWN, f"no channel {name!r} is running"), path)
        return web.json_response(body=success())

    async def graphs(self, _: web.Request) -> web.Response:
        graph = {"name": "echo", "graph_id": "echo", "uuid": "echo", "auto_start": True}
        return web.json_response(body=success([graph, graph | {"name": "friday", "auto_start": False}]))

    async def health(self, _: web.Request) -> web.Response:
        return web.json_response(body=success(msg="ok"))

    async def list(self, _: web.Request) -> web.Response:
        return web.json_response({"channels": [LOBBY, ODD]})

    async def kill(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name == "gone":
            return self.refuse(Refusal(Cause.CHANNEL_UNKNOWN, "no channel 'gone' is running"), request.path, 404)
        return web.json_response({"name": name, "receipt": RECEIPT})

    async def logs(self, request: web.Request) -> web.StreamResponse:
        if request.match_info["name"] == "gone":
            return self.refuse(Refusal(Cause.CHANNEL_UNKNOWN, "no channel 'gone' is running"), request.path, 404)
        response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
        await response.prepare(request)
        for part in (b"one\ntw", b"o\n\xff", HOSTILE[9:-1], HOSTILE[-1:]):
            await response.write(part)
        if request.query.get("follow") == "1":
            await self.wait()
        return response


@dataclass
class Done:
    code: int
    out: str
    err: str


class Commands:
    """A server on a loop in a thread of its own, and commands run in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.answers, self.runner = self.call(self.serve())
        self.port = self.runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}"

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(WAIT)

    async def serve(self) -> tuple[Answers, web.AppRunner]:
        answers = Answers()
        runner = web.AppRunner(answers.app())
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return answers, runner

    async def end(self) -> None:
        self.answers.closing.set()
        await self.runner.cleanup()

    def close(self) -> None:
        self.call(self.end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(WAIT)
        self.loop.close()

    def begin(self, *arguments: str, **variables: str | None) -> subprocess.Popen[bytes]:
        kept = {name: os.environ[name] for name in ("PATH", leaks.MARK)}
        given = {**kept, "AGENTD_SERVER": self.url, "AGENTD_TOKEN": TOKEN, **variables}
        return subprocess.Popen(
            [sys.executable, "-m", "supervisor", *arguments],
            cwd=self.folder,
            env={name: value for name, value in given.items() if value is not None},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *arguments: str, **variables: str | None) -> Done:
        with self.begin(*arguments, **variables) as process:
            out, err = process.communicate(timeout=WAIT)
        return Done(process.returncode, out.decode(), err.decode())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Commands]:
    folder = tmp_path / "folder"
    folder.mkdir()
    commands = Commands(folder)
    yield commands
    commands.close()


def test_start_sends_what_ten_takes(server: Commands) -> None:
    done = server.run(
        "start", "test", "camera_va_openai_azure", "--user-uid", "176573", "--bot-uid", "9", "--timeout", "-1",
        "--set", "openai_chatgpt.model=gpt-4o", "--set", "openai_chatgpt.n=5", "--set", "rtc.a.b={\"k\": [1]}",
    )  # fmt: skip
    assert (done.code, done.out, done.err) == (0, "started test\n", "")
    body = {
        "channel_name": "test", "graph_name": "camera_va_openai_azure", "user_uid": 176573, "bot_uid": 9, "timeout": -1,
        "properties": {"openai_chatgpt": {"model": "gpt-4o", "n": 5}, "rtc": {"a.b": {"k": [1]}}},
    }  # fmt: skip
    assert server.answers.seen == [("POST", "/start", body)]


def test_json_is_the_servers_own_answer(server: Commands) -> None:
    done = server.run("start", "test", "echo", "--json")
    assert (done.code, json.loads(done.out)) == (0, {"code": "0", "msg": "success", "data": None})
    done = server.run("ping", "lobby", "--json")
    assert (done.code, json.loads(done.out)["code"]) == (0, "0")
    done = server.run("stop", "lobby", "nobody", "lobby", "--json")
    assert done.code == 1
    assert [json.loads(line) for line in done.out.splitlines()] == [
        {"channel": "lobby", "code": "0", "msg": "success", "data": None}
    ] * 2
    assert json.loads(done.err)["error"] == {
        "cause": "channel_unknown",
        "message": "no such channel is running (code 10002)",
        "detail": "no channel 'nobody' is running",
        "next_step": "start it, or look at `agentd ls`",
    }


def test_stop_and_ping_for_people(server: Commands) -> None:
    done = server.run("stop", "nobody", "lobby")
    assert (done.code, done.out) == (1, "stopped lobby\n")
    assert done.err.splitlines() == [
        "agentd: no such channel is running (code 10002) [channel_unknown]",
        "  detail: no channel 'nobody' is running",
        "  next step: start it, or look at `agentd ls`",
    ]
    assert server.run("ping", "lobby").out == "pinged lobby\n"
    assert server.run("ping", "nobody").code == 1


@pytest.mark.parametrize(
    ("told", "cause", "next_step"),
    [(True, "addons_missing", "install them"), (False, "start_worker_failed", "look at `agentd logs`")],
)
def test_a_code_with_several_causes(server: Commands, told: str, cause: str, next_step: str) -> None:
    server.answers.cause_header = told
    done = server.run("start", "broken", "echo", "--json")
    assert (done.code, done.out) == (1, "")
    error = json.loads(done.err)["error"]
    assert (error["cause"], error["detail"]) == (cause, "add-ons not installed: x")
    assert "(code 10101)" in error["message"]
    assert error["next_step"].startswith(next_step)


def test_ls(server: Commands) -> None:
    done = server.run("ls")
    head, *rows = [line.split() for line in done.out.splitlines()]
    assert (done.code, done.err) == (0, "")
    assert head == ["NAME", "GRAPH", "STATE", "HEALTH", "PID", "AGE", "LAST", "PING", "TIME", "LEFT", "MEMORY", "CPU"]
    assert rows == [
        ["lobby", "echo", "running", "ok", "4711", "1h02m", "4.2s", "55.8s", "3.2", "MiB", "0.4", "%"],
        ["日本", "[bold]x\\x1b[31m\\n", *["echo", "starting", "stuck", "-", "0.0s", "-", "never", "-", "-"]],
    ]
    done = server.run("ls", "--json")
    assert json.loads(done.out) == {"channels": [LOBBY, ODD]}


def test_kill(server: Commands) -> None:
    done = server.run("kill", "a b/ü", "gone")
    assert (done.code, done.out) == (1, "killed a b/ü: 3 processes in 0.0s\n")
    assert [seen[:2] for seen in server.answers.seen] == [
        ("DELETE", "/channels/a%20b%2F%C3%BC?kill=1"),
        ("DELETE", "/channels/gone?kill=1"),
    ]
    assert "[channel_unknown]" in done.err
    done = server.run("kill", "x", "--json")
    assert json.loads(done.out) == {"name": "x", "receipt": RECEIPT}


def test_graphs(server: Commands) -> None:
    done = server.run("graphs")
    assert [line.split() for line in done.out.splitlines()] == [
        ["GRAPH", "AUTO", "START"], ["echo", "yes"], ["friday", "no"]
    ]  # fmt: skip
    done = server.run("graphs", "--json")
    assert [graph["name"] for graph in json.loads(done.out)["data"]] == ["echo", "friday"]


def test_logs(server: Commands) -> None:
    with server.begin("logs", "lobby", "-n", "7") as process:
        out, _ = process.communicate(timeout=WAIT)
    assert (process.returncode, out) == (0, HOSTILE)
    assert server.answers.seen[-1][1] == "/channels/lobby/logs?tail=7"
    done = server.run("logs", "lobby", "--json")
    assert [json.loads(line)["line"] for line in done.out.splitlines()] == [
        "one",
        "two",
        "\ufffdth\tr\x1b[31mee\r\u202e日",
    ]
    done = server.run("logs", "gone")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("agentd: no such channel is running [channel_unknown]")


@pytest.mark.parametrize(("encoding", "last"), [("utf-8", "日".encode()), ("ascii", b"\\u65e5")])
def test_logs_do_not_steer_a_terminal(server: Commands, encoding: str, last: bytes) -> None:
    terminal, its_end = pty.openpty()
    tty.setraw(its_end)  # what arrives is what was written
    environment = {"AGENTD_SERVER": server.url, "AGENTD_TOKEN": TOKEN, "PYTHONIOENCODING": encoding}
    kept = {name: os.environ[name] for name in ("PATH", leaks.MARK)}
    command = [sys.executable, "-m", "supervisor", "logs", "lobby"]
    with subprocess.Popen(command, cwd=server.folder, env={**kept, **environment}, stdout=its_end) as process:
        os.close(its_end)
        shown = b""
        with contextlib.suppress(OSError):  # the end of a terminal
            while part := os.read(terminal, 1000):
                shown += part
        process.wait(WAIT)
    os.close(terminal)
    assert process.returncode == 0
    assert shown == b"one\ntwo\n\\xffth\tr\\x1b[31mee\\r\\u202e" + last


@pytest.mark.parametrize("arguments", [("logs", "-f", "lobby"), ("start", "slow", "echo")])
def test_ctrl_c_ends_quietly(server: Commands, arguments: Any) -> None:
    with server.begin(*arguments) as process:
        assert server.answers.waiting.wait(WAIT)
        if arguments[0] == "logs":
            assert process.stdout is not None
            assert process.stdout.read(len(HOSTILE)) == HOSTILE
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=WAIT)
    assert (process.returncode, out, err) == (130, b"", b"")


@pytest.mark.parametrize("arguments", [("logs", "lobby"), ("ls",), ("graphs", "--json"), ("doctor", "--json")])
def test_a_reader_that_goes_away_is_no_traceback(server: Commands, arguments: Any) -> None:
    with server.begin(*arguments) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read()
        process.wait(WAIT)
    assert (process.returncode, err) == (1, b"")


def test_a_token_is_needed_and_never_shown(server: Commands) -> None:
    done = server.run("ls", AGENTD_TOKEN=None)
    assert done.code == 1
    assert done.err.startswith("agentd: the request carries no valid token or key [unauthorized]")
    assert server.run("graphs", AGENTD_TOKEN=None).code == 1
    assert server.run("ls", "--token", TOKEN, AGENTD_TOKEN="wrong").code == 0


def test_the_server_of_this_folders_settings(server: Commands) -> None:
    (server.folder / ".env").write_text(f"SERVER_PORT={server.port}\nAGENTD_TOKEN={TOKEN}\n")
    assert server.run("graphs", AGENTD_SERVER=None, AGENTD_TOKEN=None).code == 0
    (server.folder / ".env").unlink()
    (server.folder / "agentd.toml").write_text(
        f'listen = "0.0.0.0:{server.port}"\ntoken = "{TOKEN}"\nmistake = "elsewhere"\n'
    )
    assert server.run("graphs", AGENTD_SERVER=None, AGENTD_TOKEN=None).code == 0
    (server.folder / "agentd.toml").write_text(
        f'listen = ["127.0.0.1:{server.port}", "127.0.0.1:1"]\ntoken = "{TOKEN}"\n'
    )
    assert server.run("graphs", AGENTD_SERVER=None, AGENTD_TOKEN=None).code == 0
    (server.folder / "agentd.toml").write_text("port = 0")
    done = server.run("graphs", AGENTD_SERVER=None)
    assert (done.code, done.err.splitlines()[0]) == (2, "agentd: port lets the server take any free port [usage]")
    (server.folder / "agentd.toml").write_text('listen = "here"')
    done = server.run("graphs", "--json", AGENTD_SERVER=None)
    assert (done.code, json.loads(done.err)["error"]["problems"][0]["name"]) == (2, "listen")


def test_no_server(server: Commands) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        done = server.run("ls", "--json", "--server", f"http://127.0.0.1:{free.getsockname()[1]}")
    assert (done.code, done.out) == (3, "")
    error = json.loads(done.err)["error"]
    assert (error["cause"], error["detail"]) == ("unreachable", "[Errno 111] Connection refused")
    assert "(from --server)" in error["message"]
    assert "agentd serve" in error["next_step"]


@pytest.mark.parametrize("answer", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n12"])
def test_a_server_that_speaks_something_else(server: Commands, answer: bytes) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def close() -> None:
        other.close()
        await other.wait_closed()

    other = server.call(asyncio.start_server(speak, "127.0.0.1", 0))
    done = server.run("ls", "--server", f"http://127.0.0.1:{other.sockets[0].getsockname()[1]}")
    server.call(close())
    assert (done.code, done.out) == (3, "")
    assert done.err.startswith("agentd: no agentd answers at")


def test_another_web_server(server: Commands) -> None:
    done = server.run("ls", "--server", server.url + "/elsewhere")
    assert done.code == 1
    assert done.err.splitlines()[1] == "  detail: HTTP 404, 14 bytes of text/plain"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("frobnicate",),
        ("start", "lobby"),
        ("start", "a", "b", "--timeout", "soon"),
        ("start", "a", "b", "--user-uid", "-1"),
        ("start", "a", "b", "--set", "x"),
        ("start", "a", "b", "--set", ".x=1"),
        ("ls", "--server", "127.0.0.1:80"),
        ("ls", "--server", "http://x:y"),
        ("ls", "--server", "http://[::1"),
        ("logs", "a", "-n", "-1"),
        ("serve", "--frob"),
        ("serve", "--token", "x"),
        ("doctor", "--set", "x"),
        ("doctor", "--config", "none.toml"),
        ("keys",),
        ("keys", "frobnicate"),
        ("keys", "revoke"),
        ("keys", "add", "--user", "a/b"),
        ("keys", "add", "--scope", "all"),
        ("keys", "ls", "--config", "none.toml"),
    ],
)
def test_wrong_usage(server: Commands, arguments: Any) -> None:
    done = server.run(*arguments)
    assert done.code == 2
    assert "Traceback" not in done.err
    assert server.answers.seen == []


def test_help_and_version(server: Commands) -> None:
    for arguments in (("--help",), ("serve", "--help"), ("start", "-h"), ("doctor", "--help"), ("keys", "add", "-h")):
        done = server.run(*arguments)
        assert (done.code, done.err) == (0, "")
        assert "sage" in done.out
    assert server.run("--version").out.startswith("agentd ")


def test_doctor(server: Commands) -> None:
    node = {"type": "extension", "name": "n", "addon": "no_such_addon", "property": {"key": "${env:SOME_KEY}"}}
    rest = node | {"property": {}}
    graphs = [
        {"name": "lacks_env", "graph": {"nodes": [node]}},
        {"name": "lacks_addon", "nodes": [rest]},
        {"name": "foreign", "graph": {"nodes": [rest]}, "agentd": {"command": ["tman"]}},
        {"name": "good", "graph": {"nodes": []}},
        {"name": "wrong", "graph": {"nodes": 5}},
    ]
    (server.folder / "property.json").write_text(json.dumps({"ten": {"predefined_graphs": graphs}}))
    state = server.folder / "state"
    places = {"AGENTD_STATE_DIR": str(state), "SERVER_PORT": str(server.port)}
    done = server.run("doctor", "--json", **places)
    report = json.loads(done.out)
    found = {check["name"]: check for check in report["checks"]}
    assert (done.code, report["ok"], done.err) == (0, True, "")
    assert found["port"]["finding"] == f"agentd answers at 127.0.0.1:{server.port}"
    assert {name: check["status"] for name, check in found.items() if name.startswith("graph ")} == {
        "graph lacks_env": "warn",
        "graph lacks_addon": "warn",
        "graph foreign": "ok",
        "graph good": "ok",
        "graph wrong": "warn",
    }
    assert "SOME_KEY" in found["graph lacks_env"]["finding"]
    assert "no_such_addon" in found["graph lacks_addon"]["finding"]
    assert {found[name]["status"] for name in ("python", "pidfd", "subreaper", "state folder", "socket path")} == {"ok"}
    assert all(bool(check["next_step"]) == (check["status"] != "ok") for check in report["checks"])
    assert not state.exists()

    done = server.run("doctor", **places, SOME_KEY="x", AGENTD_UNKNOWN_ADDONS="skip")
    assert [line.split()[2] for line in done.out.splitlines() if line.startswith("graph ")] == ["ok"] * 4 + ["warn"]
    assert done.out.splitlines()[-1].endswith(" 0 fail")


def test_doctor_finds_what_fails(server: Commands) -> None:
    (server.folder / "property.json").write_text("{")
    (server.folder / "file").write_text("")
    with socket.socket() as taken, socket.socket() as free:
        for one in (taken, free):
            one.bind(("127.0.0.1", 0))
        taken.listen()
        ports = (server.port, taken.getsockname()[1], free.getsockname()[1])
        free.close()
        places = [*(f"127.0.0.1:{port}" for port in ports), "[::1]:0"]
        done = server.run(
            "doctor",
            "--json",
            AGENTD_LISTEN=",".join(places),
            AGENTD_STATE_DIR=str(server.folder / "file" / ("x" * 99)),
        )
    report = json.loads(done.out)
    failed = {check["name"] for check in report["checks"] if check["status"] == "fail"}
    assert (done.code, report["ok"]) == (1, False)
    assert failed == {"port", "property file", "state folder", "log folder", "socket path"}
    assert [(check["status"], check["finding"]) for check in report["checks"] if check["name"] == "port"] == [
        ("ok", f"agentd answers at {places[0]}"),
        ("fail", f"cannot listen at {places[1]}: Address already in use"),
        ("ok", f"{places[2]} is free"),
        ("ok", "[::1]:0: any free one is taken"),
    ]


def test_doctor_finds_addresses_that_exclude_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "PROBE_SECONDS", 0.1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = settings.Settings(port=port, also_listen=f"0.0.0.0:{port}", allow_unprotected=True)
    found = list(checks._ports(settings.Loaded(given, {}, (), {})))
    assert [check.status for check in found] == ["ok", "fail"]
    assert found[1].finding == f"cannot listen at 0.0.0.0:{port}: Address already in use"


def test_limits_that_are_too_low() -> None:
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 300));"
        "from supervisor.cli import main; sys.exit(main(['doctor', '--json', '--set', 'port=0']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    [check] = [check for check in json.loads(done.stdout)["checks"] if check["name"] == "open files"]
    assert (check["status"], check["finding"]) == ("warn", "limit of 300; 100 workers may need 1056")
    assert "ulimit -Hn 1056" in check["next_step"]


@pytest.mark.parametrize(
    ("mountinfo", "membership", "expected"),
    [
        ("30 1 0:26 / /sys/fs/cgroup rw shared:9 - cgroup2 c rw\n", "0::/a.slice/b\n", "/sys/fs/cgroup/a.slice/b"),
        ("30 1 0:26 / /sys/fs/cgroup/unified rw - cgroup2 c rw\n", "5:cpu:/\n0::/\n", "/sys/fs/cgroup/unified"),
        ("30 1 0:26 /docker/1 /sys/fs/cgroup rw - cgroup2 c rw\n", "0::/docker/1\n", "/sys/fs/cgroup"),
        ("30 1 0:26 /docker/1 /sys/fs/cgroup rw - cgroup2 c rw\n", "0::/docker/1/x\n", "/sys/fs/cgroup/x"),
        ("30 1 0:26 / /sys/fs/cgroup rw - tmpfs t rw\n", "0::/\n", None),
        ("30 1 0:26 / /sys/fs/cgroup rw - cgroup2 c rw\n", "1:cpu:/\n", None),
    ],
)  # fmt: skip
def test_own_cgroup(mountinfo: str, membership: str, expected: Any) -> None:
    assert checks.own_cgroup(mountinfo, membership) == (expected and Path(expected))


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([], {}),
        (["a.b=1", "a.c=true", "a.d=null", 'a.e="5"'], {"a": {"b": 1, "c": True, "d": None, "e": "5"}}),
        (["a.b=", "a.c=x=y", "a.d=NaN", "a.e=[1"], {"a": {"b": "", "c": "x=y", "d": "NaN", "e": "[1"}}),
        (["a.b=" + "[" * 100_000], {"a": {"b": "[" * 100_000}}),
        (["a.b.c=1"], {"a": {"b.c": 1}}),
    ],
)
def test_overrides(items: list[str], expected: Any) -> None:
    assert parse_overrides(items) == expected


@pytest.mark.parametrize("item", ["a", "a.b", "a=b", "=", ".a=1", "a.=1", "a=1.2"])
def test_overrides_that_are_none(item: str) -> None:
    with pytest.raises(CommandError, match="is not an override"):
        parse_overrides([item])


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(None, "-"), (0, "0.0s"), (59.94, "59.9s"), (60, "1m00s"), (3599, "59m59s"), (3600, "1h00m"), (90_000, "1d01h")],
)
def test_duration(seconds: float | None, expected: Any) -> None:
    assert duration(seconds) == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (None, "-"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (3.2 * 1024**2, "3.2 MiB"),
        (2**60, "1048576.0 TiB"),
    ],
)
def test_size(count: float, expected: Any) -> None:
    assert size(count) == expected


def test_printable() -> None:
    assert printable("a\x1b[0m\u202e\tü日") == "a\\x1b[0m\\u202e\\tü日"


def test_the_clients_defaults_are_those_of_the_settings() -> None:
    defaults = {name: str(settings.Settings.model_fields[name].default) for name in ("host", "port")}
    assert dict(client._DEFAULTS) == defaults


def test_the_server_does_without_the_clients_imports() -> None:
    script = "import supervisor.cli.serve, sys; print(*sorted({'typer', 'supervisor.cli.app'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ""


def test_the_server_does_without_what_it_does_not_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients wait for its imports when it is restarted."""
    code = """
import os, sys
from supervisor.cli.lean import lean
before = dict(os.environ)
with lean():
    import supervisor.serve
assert os.environ == before
unwanted = {"rich", "alembic", "sqlalchemy.dialects.postgresql", "asyncpg", "pypdf", "lxml", "docx", "openai", "typer"}
assert not unwanted & set(sys.modules), unwanted & set(sys.modules)
import rich.console
"""
    monkeypatch.setenv("SSL_CERT_FILE", "/some/where")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=WAIT)


def test_the_documentation_has_every_command() -> None:
    from supervisor.cli.app import app

    text = DOCS.read_text()
    names = [command.name or command.callback.__name__ for command in app.registered_commands]
    names += [f"{group.name} {command.name or command.callback.__name__}" for group in app.registered_groups
              for command in group.typer_instance.registered_commands]  # fmt: skip
    assert len(names) == 14
    assert all(f"| `agentd {name}" in text for name in names)


def test_the_command_is_installed() -> None:
    command = Path(sys.executable).with_name("agentd")
    assert command.stat().st_mode & stat.S_IXUSR
    done = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("agentd ")
