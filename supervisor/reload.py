"""Reload: the settings are read again, those that can change take effect; what is wrong leaves all as it was."""

import asyncio
from collections.abc import Callable, MutableMapping

import structlog

from supervisor.settings import Loaded, Settings
from supervisor.sources import SettingsError
from supervisor.telemetry import change_level

log = structlog.get_logger("supervisor.reload")


def _nothing() -> None:
    """Where nobody wants to know."""


class Reload:
    """What SIGHUP does. Await an instance for one reload; one at a time."""

    def __init__(
        self,
        settings: Settings,
        environ: MutableMapping[str, str],
        read: Callable[[], Loaded],
        renew: Callable[[], None],
        *,
        begun: Callable[[], None] = _nothing,
        done: Callable[[], None] = _nothing,
    ) -> None:
        """`settings` and `environ` are those of the server that runs, changed in place; `read` reads them anew.

        `read` raises SettingsError or OSError. `renew` lets the server take note of what it does not look up by itself.
        `begun` and `done` tell whoever watches over us, in pairs, whatever the outcome.
        """
        self._settings = settings
        self._environ = environ
        self._read = read
        self._renew = renew
        self._begun = begun
        self._done = done

    async def __call__(self) -> None:
        """Read, compare, take over, log what came of it. Raises nothing of what may be wrong with what was read."""
        self._begun()
        try:
            await self._carry_out()
        finally:
            self._done()

    async def _carry_out(self) -> None:
        try:
            loaded = await asyncio.to_thread(self._read)
        except (SettingsError, OSError) as error:
            problems = error.problems if isinstance(error, SettingsError) else (error,)
            log.warning("reload.refused", problems=[str(problem) for problem in problems])
            return
        for warning in loaded.warnings:
            log.warning("reload.warning", warning=warning)
        changed, waiting = self._settings.follow(loaded.settings)
        self._environ.clear()
        self._environ.update(loaded.environment)
        change_level(self._settings.log_level)
        self._renew()
        if waiting:
            log.warning("reload.needs_restart", settings=waiting)
        log.info("reload.done", changed=changed)
