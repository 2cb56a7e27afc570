"""`agentd serve`: from settings to a running server, and its orderly end."""

import asyncio
import faulthandler
import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Final

import structlog
import uvloop

from supervisor.app import Server, StateFolderHeldError
from supervisor.auth import KeysError
from supervisor.listener import url_of
from supervisor.notify import Notifier
from supervisor.prctl import hide_memory
from supervisor.processes.launch import SpawnerUnavailableError
from supervisor.reload import Reload
from supervisor.settings import Loaded, Settings
from supervisor.signals import Signals
from supervisor.standby import PASSED_ON, Predecessor
from supervisor.store.errors import StoreError
from supervisor.telemetry import configure

log = structlog.get_logger("supervisor.serve")

FAILED: Final = 1
STOP_SLACK_SECONDS: Final = 10.0  # over the stop grace, what a stop may take at most
SWITCH_SECONDS: Final = 0.001  # that a thread may keep the loop waiting for the interpreter


def serve(
    settings: Settings,
    read: Callable[[], Loaded],
    listeners: Sequence[socket.socket],
    manager: Notifier,
    *,
    inherited: bool,
    before: Predecessor | None,
) -> int:
    """Serve until SIGTERM or SIGINT; the exit status: 0 after an orderly end, 1 when it could not start.

    SIGHUP has the settings read again by `read`, which raises SettingsError. The `listeners` are the caller's to close;
    `inherited` says that a service manager opened them. `before` is the server this one follows below the same standby.
    """
    configure(settings.log_level, settings.log_format)
    if sys.stderr is not None:
        faulthandler.enable()  # the SIGABRT of a watchdog shows what held up the loop
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGABRT})
    hide_memory()
    _raise_descriptor_limit()
    if inherited:
        log.info("server.sockets_inherited", addresses=[url_of(one) for one in listeners], settings="not opened")
    if before is not None:
        log.error("server.killed", signal=before.name, seconds=round(before.seconds, 3))
    return uvloop.run(_serve(settings, read, listeners, manager))


async def _serve(
    settings: Settings, read: Callable[[], Loaded], listeners: Sequence[socket.socket], manager: Notifier
) -> int:
    loop = asyncio.get_running_loop()
    signals = Signals()
    signals.listen()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)  # a standby has us hear what came before
    environ = dict(os.environ)
    server = Server(settings, environ)
    try:
        await server.start(listeners)
    except (StateFolderHeldError, SpawnerUnavailableError, StoreError, KeysError, OSError) as error:
        sys.stderr.write(f"agentd: cannot start: {error}\n")
        await server.close()
        return FAILED
    _settle()
    manager.ready()
    report = loop.create_task(manager.report(server.status), name="report to the service manager")
    reload = Reload(settings, environ, read, server.renew, begun=manager.reloading, done=manager.ready)
    reloading = loop.create_task(_reload_when_told(signals, reload), name="reload")
    await signals.end.wait()
    reloading.cancel()
    await asyncio.wait({reloading})
    # The workers of a unit are not ours to end: they go with it.
    keep = (settings.keep_workers or settings.spawner == "unit") and signals.first is signal.SIGTERM
    log.info("server.leaving" if keep else "server.stopping", channels=len(server.table.all()))
    manager.stopping(settings.worker_stop_grace_seconds + STOP_SLACK_SECONDS)
    await (server.leave(signals.hurry) if keep else server.stop())
    report.cancel()  # it has fed the watchdog to the end
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
    gc.enable()
    sys.setswitchinterval(SWITCH_SECONDS)


def _raise_descriptor_limit() -> None:
    """Each channel takes four descriptors; the soft limit many hosts begin with is for programs of another kind."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
