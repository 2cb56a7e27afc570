"""`agentd serve`: from settings to a running server, and its orderly end."""

import asyncio
import ctypes
import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Final

import structlog
import uvloop

from supervisor.app import Server, StateFolderHeldError
from supervisor.auth import KeysError
from supervisor.listener import listen
from supervisor.processes.launch import SpawnerUnavailableError
from supervisor.settings import Settings
from supervisor.store.errors import StoreError
from supervisor.telemetry import configure

log = structlog.get_logger("supervisor.serve")

FAILED: Final = 1
ENDING_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PR_SET_DUMPABLE: Final = 4
SWITCH_SECONDS: Final = 0.001  # that a thread may keep the loop waiting for the interpreter


def serve(settings: Settings) -> int:
    """Serve until SIGTERM, SIGINT or SIGHUP; the exit status: 0 after an orderly end, 1 when it could not start."""
    configure(settings.log_level, settings.log_format)
    _hide_memory()
    _raise_descriptor_limit()
    with ExitStack() as sockets:
        listeners = []
        for address in settings.addresses:
            try:
                listeners.append(sockets.enter_context(listen(address)))
            except OSError as error:
                sys.stderr.write(f"agentd: cannot listen on {address}: {error.strerror or error}\n")
                return FAILED
        return uvloop.run(_serve(settings, dict(os.environ), listeners))


async def _serve(settings: Settings, environ: Mapping[str, str], listeners: Sequence[socket.socket]) -> int:
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in ENDING_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup: a terminal that closes is not meant for us
            loop.add_signal_handler(number, ending.set)
    server = Server(settings, environ)
    try:
        await server.start(listeners)
    except (StateFolderHeldError, SpawnerUnavailableError, StoreError, KeysError, OSError) as error:
        sys.stderr.write(f"agentd: cannot start: {error}\n")
        await server.close()
        return FAILED
    _settle()
    await ending.wait()
    log.info("server.stopping", channels=len(server.table.all()))
    await server.stop()
    return 0


def _settle() -> None:
    """Nothing holds up the loop for long: neither a look through all that was made at the start, nor a busy thread."""
    gc.collect()
    gc.freeze()
    gc.enable()
    sys.setswitchinterval(SWITCH_SECONDS)


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
