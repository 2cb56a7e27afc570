"""`agentd serve`: from settings to a running server, and its orderly end."""

import asyncio
import ctypes
import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final

import structlog
import uvloop

from supervisor.app import Server, StateFolderHeldError
from supervisor.auth import KeysError
from supervisor.listener import inherited, listen
from supervisor.processes.launch import SpawnerUnavailableError
from supervisor.reload import Reload
from supervisor.settings import Loaded, Settings
from supervisor.signals import Signals
from supervisor.store.errors import StoreError
from supervisor.telemetry import configure

log = structlog.get_logger("supervisor.serve")

FAILED: Final = 1
PR_SET_DUMPABLE: Final = 4
SWITCH_SECONDS: Final = 0.001  # that a thread may keep the loop waiting for the interpreter


def serve(settings: Settings, read: Callable[[], Loaded]) -> int:
    """Serve until SIGTERM or SIGINT; the exit status: 0 after an orderly end, 1 when it could not start.

    SIGHUP has the settings read again by `read`, which raises SettingsError.
    """
    configure(settings.log_level, settings.log_format)
    _hide_memory()
    _raise_descriptor_limit()
    with ExitStack() as sockets:
        listeners = [sockets.enter_context(one) for one in inherited(os.environ)]
        for address in () if listeners else settings.addresses:
            try:
                listeners.append(sockets.enter_context(listen(address)))
            except OSError as error:
                sys.stderr.write(f"agentd: cannot listen on {address}: {error.strerror or error}\n")
                return FAILED
        return uvloop.run(_serve(settings, read, listeners))


async def _serve(settings: Settings, read: Callable[[], Loaded], listeners: Sequence[socket.socket]) -> int:
    signals = Signals()
    signals.listen()
    environ = dict(os.environ)
    server = Server(settings, environ)
    try:
        await server.start(listeners)
    except (StateFolderHeldError, SpawnerUnavailableError, StoreError, KeysError, OSError) as error:
        sys.stderr.write(f"agentd: cannot start: {error}\n")
        await server.close()
        return FAILED
    _settle()
    reloading = asyncio.create_task(_reload_when_told(signals, Reload(settings, environ, read, server.renew)))
    await signals.end.wait()
    reloading.cancel()
    await asyncio.wait({reloading})
    keep = settings.keep_workers and signals.first is signal.SIGTERM
    log.info("server.leaving" if keep else "server.stopping", channels=len(server.table.all()))
    await (server.leave(signals.hurry) if keep else server.stop())
    return 0


async def _reload_when_told(signals: Signals, reload: Reload) -> None:
    while True:
        await signals.reload.wait()
        signals.reload.clear()
        try:
            await reload()
        except Exception:  # a fault of ours in it is no reason to end a server that serves
            log.exception("reload.failed")


def _settle() -> None:
    """Nothing holds up the loop for long: neither a look through all that was made at the start, nor a busy thread."""
    gc.collect()
    gc.freeze()
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
