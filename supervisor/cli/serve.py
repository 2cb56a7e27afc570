"""``agentd serve``: settings from all places, then the server. Every setting that is not secret is a flag."""

import argparse
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

from supervisor import sources
from supervisor.addresses import LISTEN_ALLOWED
from supervisor.cli.lean import lean
from supervisor.listener import inherit, listen, settings_of
from supervisor.notify import Notifier
from supervisor.settings import MASK, Loaded, describe, load
from supervisor.sources import COMMAND_LINE, LISTEN_FIELDS, Given, Layer, Problem, SettingsError
from supervisor.standby import Predecessor, stand_by

FAILED: Final = 1
STANDBY: Final = ("AGENTD_LISTEN", "the standby, until a restart")  # under which name a setting was given, and where
TEN_FLAGS: Final = ("--tenapp-dir", "-tenapp_dir")


def run(arguments: Sequence[str]) -> int:
    """Serve until told to stop, with the flags that follow the word ``serve``. Raises SettingsError."""
    options = vars(_parser().parse_args(arguments))
    config, named = options.pop("--config", None), options.pop("--set", [])
    if "--listen" in options:
        options["--listen"] = ",".join(options["--listen"])
    manager = Notifier(os.environ)
    inherited = inherit(os.environ)
    environ = dict(os.environ)  # what .env adds to it is read again by a reload
    fixed = settings_of(inherited)
    first = read(options, named, config, fixed)
    warn(first)
    with lean():
        from supervisor.serve import serve  # noqa: PLC0415 - not before the settings are known to be good

    with ExitStack() as sockets:
        listeners = [sockets.enter_context(listener) for listener in inherited]
        for address in () if inherited else first.settings.addresses:
            try:
                listeners.append(sockets.enter_context(listen(address)))
            except OSError as error:
                sys.stderr.write(f"agentd: cannot listen on {address}: {error.strerror or error}\n")
                return FAILED

        def begin(before: Predecessor | None) -> int:
            # The sockets stay those of the first server: whoever follows it is judged by where they listen.
            where = fixed or {name: Given(getattr(first.settings, name), *STANDBY) for name in LISTEN_FIELDS}
            again = partial(read, options, named, config, where if before else fixed, environ)
            loaded = again() if before else first
            if before:
                warn(loaded)
            os.environ.update(loaded.environment)  # graphs name variables of .env too
            return serve(loaded.settings, again, listeners, manager, inherited=bool(inherited), before=before)

        return stand_by(begin, sockets.close, manager) if first.settings.standby else begin(None)


def read(
    flags: Mapping[str, str],
    named: Iterable[str],
    config: str | Path | None,
    fixed: Layer | None = None,
    environ: Mapping[str, str] | None = None,
) -> Loaded:
    """The settings with `flags` (flag as written -> value) and `named` (NAME=VALUE each) before all other places.

    Only what is `fixed`, since it has been done already, comes before these. `environ` is the environment, that of the
    process unless given. Raises SettingsError.
    """
    given = dict(flags)
    for item in named:
        name, equals, value = item.partition("=")
        if not equals:
            raise SettingsError(Problem("--set", COMMAND_LINE, "allowed: NAME=VALUE", repr(item)))
        given[f"--set {name}"] = value
    return load({**_without_secrets(given), **(fixed or {})}, None if config is None else Path(config), environ)


def warn(loaded: Loaded) -> None:
    """Tell on stderr what is doubtful about the settings."""
    for warning in loaded.warnings:
        print(f"agentd: warning: {warning}", file=sys.stderr)


def _without_secrets(flags: dict[str, str]) -> Layer:
    settings = {setting.name: setting for setting in describe()}
    layer = sources.from_flags(flags, settings)
    problems = [
        Problem(
            given.name,
            COMMAND_LINE,
            f"a command line can be read by every user of this machine; set {settings[name].variables[0]} instead",
            MASK,
        )
        for name, given in layer.items()
        if settings[name].secret
    ]
    if problems:
        raise SettingsError(*problems)
    return layer


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="agentd serve",
        usage="agentd serve [FLAG ...]",
        description="Serve until SIGTERM or Ctrl-C. Settings come from these flags, else the environment, else .env, "
        "else agentd.toml (docs/settings.md).",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--config", dest="--config", metavar="FILE", help="read FILE instead of agentd.toml")
    parser.add_argument(
        "--set", dest="--set", metavar="NAME=VALUE", action="append", help="any setting by its name; may be repeated"
    )
    parser.add_argument(
        "--listen", dest="--listen", metavar="HOST:PORT", action="append", help=f"{LISTEN_ALLOWED}; may be repeated"
    )
    for flag in TEN_FLAGS:
        parser.add_argument(flag, dest=flag, metavar="FOLDER", help="the same as --app-dir")
    for setting in describe():
        flag = sources.flag_of(setting.name)
        text = f"{setting.meaning}; {setting.allowed} (default: {setting.default})".replace("%", "%%")
        parser.add_argument(
            flag,
            dest=flag,
            metavar="VALUE",
            nargs="?" if setting.switch else None,
            const="true" if setting.switch else None,
            help=argparse.SUPPRESS if setting.secret else text,
        )
    return parser
