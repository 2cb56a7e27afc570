"""`agentd serve`: from settings to a running server, and its orderly end."""

import asyncio
import ctypes
import os
import resource
import signal
import socket
import sys
from collections.abc import Mapping
from typing import Final

import structlog
import uvloop

from supervisor.app import Server, StateFolderHeldError
from supervisor.processes.launch import SpawnerUnavailableError
from supervisor.settings import Settings
from supervisor.store.errors import StoreError
from supervisor.telemetry import configure

log = structlog.get_logger("supervisor.serve")

BACKLOG: Final = 1024
FAILED: Final = 1
ENDING_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PR_SET_DUMPABLE: Final = 4


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket; raises OSError when the address is taken or not ours."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def serve(settings: Settings) -> int:
    """Serve until SIGTERM, SIGINT or SIGHUP; the exit status: 0 after an orderly end, 1 when it could not start."""
    configure(settings.log_level, settings.log_format)
    _hide_memory()
    _raise_descriptor_limit()
    try:
        listener = listen(settings.host, settings.port)
    except OSError as error:
        sys.stderr.write(f"agentd: cannot listen on {settings.host}:{settings.port}: {error.strerror or error}\n")
        return FAILED
    try:
        return uvloop.run(_serve(settings, dict(os.environ), listener))
    finally:
        listener.close()


async def _serve(settings: Settings, environ: Mapping[str, str], listener: socket.socket) -> int:
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in ENDING_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup: a terminal that closes is not meant for us
            loop.add_signal_handler(number, ending.set)
    server = Server(settings, environ)
    try:
        await server.start([listener])
    except (StateFolderHeldError, SpawnerUnavailableError, StoreError, OSError) as error:
        sys.stderr.write(f"agentd: cannot start: {error}\n")
        await server.close()
        return FAILED
    await ending.wait()
    log.info("server.stopping", channels=len(server.table.all()))
    await server.stop()
    return 0


def _hide_memory() -> None:
    """Our environment and memory hold keys; a worker has the same user and could read them in /proc otherwise.

    It does not help against root, who may read everything.
    """
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def _raise_descriptor_limit() -> None:
    """Each channel takes four descriptors; the soft limit many hosts begin with is for programs of another kind."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
