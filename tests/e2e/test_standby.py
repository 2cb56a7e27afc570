"""Below a standby a server that is killed is followed by another one at once, which goes on with its sessions."""

import asyncio
import os
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest

from supervisor.standby import MOST
from tests.harness import Agentd
from tests.harness.graphs import ECHO
from tests.harness.server import PATIENCE, Event
from tests.harness.survivors import pids
from tests.harness.talk import TALKER, in_channel

CREDENTIALS = struct.Struct("iii")
GRAPHS = [ECHO, TALKER]


@pytest.fixture
async def standby(agentd: Agentd) -> AsyncIterator[Agentd]:
    await agentd.start(graphs=GRAPHS, AGENTD_STANDBY="true")
    yield agentd


def server_of(agentd: Agentd) -> int:
    """The process of the server that answers now."""
    return [event["pid"] for event in agentd.events if event["event"] == "server.ready"][-1]


def texts(agentd: Agentd) -> list[Event]:
    """What it wrote besides its log."""
    return [event for event in agentd.events if event["event"] == "text"]


@contextmanager
def held(pid: int) -> Iterator[int]:
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


async def ended(pidfd: int) -> None:
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(pidfd, over.set)
    try:
        async with asyncio.timeout(PATIENCE):
            await over.wait()
    finally:
        loop.remove_reader(pidfd)


async def kill(agentd: Agentd, number: signal.Signals = signal.SIGKILL) -> Event:
    """Kill the server, not its standby; the next one's word that it is ready."""
    known = len(agentd.events)
    with held(server_of(agentd)) as pidfd:
        signal.pidfd_send_signal(pidfd, number)
    return await agentd.event("server.ready", after=known)


async def test_sessions_go_on_below_the_same_standby(standby: Agentd) -> None:
    assert standby.process is not None
    await standby.begin("e")
    await standby.begin("t", "talker", timeout=300)
    before, parent, address = await pids(standby), standby.process.pid, standby.address
    first = server_of(standby)
    assert first != parent

    ready = await kill(standby)
    assert (ready["addresses"], ready["adopted_channels"]) == ([address], 2)
    assert ready["pid"] not in (first, parent)
    told = await standby.event("server.killed")
    assert (told["signal"], told["level"]) == ("SIGKILL", "error")
    assert await pids(standby) == before
    assert (await standby.post("/channels/t/turns", in_channel(["say", "still here"])))["text"] == "still here"
    assert standby.process.returncode is None


async def test_who_connects_meanwhile_waits(standby: Agentd) -> None:
    """No connection is refused: the standby keeps the socket, and the next server takes what waits in it."""
    host, port = standby.address.removeprefix("http://").split(":")
    with held(server_of(standby)) as pidfd:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        await ended(pidfd)
        for _ in range(20):
            with socket.create_connection((host, int(port)), timeout=PATIENCE):
                pass
        async with aiohttp.ClientSession() as session, session.get(f"{standby.address}/health") as response:
            assert (await response.json())["code"] == "0"


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
async def test_a_crash_is_followed_too(standby: Agentd, number: signal.Signals) -> None:
    await standby.begin("e")
    assert (await kill(standby, number))["adopted_channels"] == 1
    assert (await standby.event("server.killed"))["signal"] == number.name


async def test_one_that_is_killed_over_and_over_is_followed_so_many_times_only(
    standby: Agentd, successor: Agentd
) -> None:
    assert standby.process is not None
    await standby.begin("e")
    for _ in range(MOST):
        assert (await kill(standby))["adopted_channels"] == 1
    with held(server_of(standby)) as pidfd:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE):
        assert await standby.process.wait() == -signal.SIGKILL
    await standby.stop()
    await successor.start(AGENTD_STANDBY="true")
    assert (await successor.event("server.ready"))["adopted_channels"] == 1


async def test_an_orderly_end_is_that_of_both(standby: Agentd) -> None:
    await standby.begin("e")
    with held(server_of(standby)) as pidfd:
        assert await standby.stop() == 0
        await ended(pidfd)
    assert [event["event"] for event in standby.events].count("server.ready") == 1


async def test_an_end_that_comes_while_a_successor_starts_is_orderly(standby: Agentd) -> None:
    """It is heard as soon as there is somebody to hear it: no worker is left behind."""
    assert standby.process is not None
    await standby.begin("e")
    with held(server_of(standby)) as pidfd:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    await standby.event("server.killed")
    assert await standby.stop() == 0
    assert (await standby.gone("e"))["cause"] == "server_stopped"


async def test_a_reload_while_a_successor_starts_kills_nobody(standby: Agentd) -> None:
    assert standby.process is not None
    with held(server_of(standby)) as pidfd:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    await standby.event("server.killed")
    standby.process.send_signal(signal.SIGHUP)
    await standby.event("reload.done")
    assert [event["event"] for event in standby.events].count("server.killed") == 1


def begun_by(agentd: Agentd, code: str) -> None:
    """Have it started by this code, which ends with an exec of the command line that it is given."""
    command = agentd.command({})
    agentd.command = lambda _: [sys.executable, "-ISc", f"import os, signal, sys; {code}", *command]  # type: ignore[method-assign]


async def test_whoever_started_it_may_have_ignored_the_end_of_children(agentd: Agentd) -> None:
    begun_by(agentd, "signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])")
    await agentd.start(graphs=GRAPHS, AGENTD_STANDBY="true")
    await agentd.begin("e")
    assert (await kill(agentd))["adopted_channels"] == 1


async def test_python_may_write_where_a_crash_was_by_itself(agentd: Agentd) -> None:
    begun_by(agentd, "os.environ['PYTHONFAULTHANDLER'] = '1'; os.execv(sys.argv[1], sys.argv[1:])")
    await agentd.start(graphs=GRAPHS, AGENTD_STANDBY="true")
    await kill(agentd, signal.SIGABRT)
    assert any(event["text"].startswith("Fatal Python error: Aborted") for event in texts(agentd))


async def test_where_it_listens_is_judged_by_the_name_that_was_given(agentd: Agentd) -> None:
    await agentd.start(graphs=GRAPHS, AGENTD_STANDBY="true", AGENTD_LISTEN="localhost:0")
    first = await agentd.event("server.unprotected")
    known = len(agentd.events)
    await kill(agentd)
    second = await agentd.event("server.unprotected", after=known)
    assert {**second, "timestamp": ""} == {**first, "timestamp": ""}


@pytest.mark.own_interpreter
async def test_a_terminal_ends_both(standby: Agentd) -> None:
    assert standby.process is not None
    await standby.begin("e")
    os.killpg(standby.process.pid, signal.SIGINT)
    async with asyncio.timeout(PATIENCE):
        assert await standby.process.wait() == 0
    assert (await standby.gone("e"))["cause"] == "server_stopped"


async def test_the_server_does_not_outlive_its_standby(standby: Agentd, successor: Agentd) -> None:
    await standby.begin("e")
    before = await pids(standby)
    with held(server_of(standby)) as pidfd:
        await standby.kill()
        await ended(pidfd)
    await successor.start()
    assert await pids(successor) == before


async def test_the_next_one_is_started_at_once_although_the_server_still_ends(
    standby: Agentd, successor: Agentd
) -> None:
    """What starts a killed standby anew need not wait until its server has let go of the state folder."""
    await standby.begin("e")
    await standby.kill()
    await successor.start(AGENTD_STANDBY="true")
    assert (await successor.event("server.ready"))["adopted_channels"] == 1


async def test_a_reload_is_passed_on(standby: Agentd) -> None:
    assert standby.process is not None
    standby.process.send_signal(signal.SIGHUP)
    await standby.event("reload.done")


async def test_the_successor_reads_the_settings_anew(standby: Agentd) -> None:
    (standby.folder / ".env").write_text("WORKERS_MAX=1\n")
    await kill(standby)
    await standby.begin("e")
    refused = await standby.post("/start", channel_name="f", graph_name="echo")
    assert refused["code"] == "10001"


async def test_a_successor_with_wrong_settings_ends_both(standby: Agentd, successor: Agentd) -> None:
    assert standby.process is not None
    await standby.begin("e")
    (standby.folder / ".env").write_text("WORKERS_MAX=none\n")
    with held(server_of(standby)) as pidfd:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE):
        assert await standby.process.wait() == 2
    assert any("WORKERS_MAX" in event["text"] and "none" in event["text"] for event in texts(standby))
    (standby.folder / ".env").unlink()
    await standby.stop()
    await successor.start()
    assert (await successor.event("server.ready"))["adopted_channels"] == 1


@pytest.mark.parametrize("listen", ["", "127.0.0.1:0"])
async def test_a_server_that_cannot_start_has_the_last_word(standby: Agentd, successor: Agentd, listen: str) -> None:
    """Whether its port is taken, which the standby finds, or its state folder is, which the server finds."""
    with pytest.raises(AssertionError, match=r"cannot (listen|start)"):
        await successor.start(AGENTD_STANDBY="true", AGENTD_LISTEN=listen or standby.address.removeprefix("http://"))
    assert await successor.stop() == 1


async def test_a_successor_is_judged_by_where_its_standby_listens(agentd: Agentd, successor: Agentd) -> None:
    """The sockets stay, whatever the settings say by then: beyond loopback nobody serves without a token."""
    settings = agentd.folder / ".env"
    settings.write_text("AGENTD_LISTEN=0.0.0.0:0\nAGENTD_TOKEN=planted-token-of-this-test\n")
    await agentd.start(graphs=GRAPHS, AGENTD_STANDBY="true", AGENTD_LISTEN=None)
    assert agentd.process is not None
    settings.write_text("AGENTD_LISTEN=127.0.0.1:0\n")
    with held(server_of(agentd)) as pidfd:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE):
        assert await agentd.process.wait() == 2
    assert any("0.0.0.0" in event["text"] for event in texts(agentd))
    await agentd.stop()
    await successor.start()


async def test_a_manager_that_knows_only_the_standby_hears_each_server(agentd: Agentd) -> None:
    """As with NotifyAccess=main: a message of any process but the main one is ignored."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        manager.bind(str(agentd.folder / "notify"))
        manager.settimeout(PATIENCE)

        def told(assignment: str) -> int:
            """The process that told this; what comes before it is left out."""
            while True:
                data, [(_, _, credentials)], _, _ = manager.recvmsg(65536, socket.CMSG_SPACE(CREDENTIALS.size))
                if assignment in data.decode().split("\n"):
                    return int(CREDENTIALS.unpack(credentials)[0])

        await agentd.start(
            graphs=GRAPHS,
            AGENTD_STANDBY="true",
            AGENTD_WORKER_ENV="*",
            NOTIFY_SOCKET=str(agentd.folder / "notify"),
            WATCHDOG_USEC="30000000",
        )
        assert agentd.process is not None
        standby = agentd.process.pid
        assert await asyncio.to_thread(told, "READY=1") == standby
        assert await asyncio.to_thread(told, "WATCHDOG=1") == standby
        spawner = (await agentd.event("server.ready"))["spawner_pid"]
        with held(spawner) as spawner_fd, held(server_of(agentd)) as pidfd:
            signal.pidfd_send_signal(spawner_fd, signal.SIGSTOP)
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            await agentd.event("server.killed")
            # The next one waits for the spawner: for a manager it would hang.
            assert await asyncio.to_thread(told, "WATCHDOG=1") == standby
            signal.pidfd_send_signal(spawner_fd, signal.SIGCONT)
        assert await asyncio.to_thread(told, "READY=1") == standby
        await agentd.begin("e")
        environment = Path(f"/proc/{(await pids(agentd))['e']}/environ").read_bytes()
        assert not any(name in environment for name in (b"NOTIFY_SOCKET", b"WATCHDOG_USEC"))
        await agentd.stop()
        assert await asyncio.to_thread(told, "STOPPING=1") == standby
