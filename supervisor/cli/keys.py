"""``agentd keys``: the keys that clients may call with (docs/keys.md). Works on their file; no server is needed."""

import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from supervisor.auth import (
    MAX_CHANNELS,
    MAX_TURNS,
    SCOPES,
    Bounds,
    KeyRow,
    KeysError,
    Scope,
    count_of,
    graph_of,
    masked,
    origins_of,
    scopes_of,
    user_of,
)
from supervisor.cli import output
from supervisor.cli.errors import REFUSED, USAGE, CommandError, report

if TYPE_CHECKING:
    from collections.abc import Iterator

    from supervisor.keys import KeyFile
    from supervisor.settings import Settings

app = typer.Typer(
    help="The keys that clients may call the server with.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Config = Annotated[Path | None, typer.Option(help="Read this file instead of agentd.toml.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON; errors too, on stderr.")]

HEADINGS: Final = ("ID", "USER", "GRAPH", "SCOPES", "TURNS/MIN", "CHANNELS", "ORIGINS", "CREATED")


@app.command()
def add(
    user: Annotated[str, typer.Option(help="Whose turns they are (default: whom the client names).")] = "",
    graph: Annotated[str | None, typer.Option(help="The only graph it may ask (default: all).")] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(metavar="SCOPE", help=f"What it may do: {SCOPES}; may be repeated (default: {Scope.TURNS})."),
    ] = None,
    turns_per_minute: Annotated[
        int | None, typer.Option(help="Turns it may ask in any minute (default: any number).")
    ] = None,
    channels: Annotated[int | None, typer.Option(help="Channels it may have at once (default: any number).")] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="Web pages it may be used from, such as https://example.com; may be repeated (default: all).",
        ),
    ] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it. It is shown this once."""
    from supervisor.keys import new_key  # noqa: PLC0415 - as in _opened

    try:
        text, row = new_key(
            user=user_of(user, "--user"),
            graph=graph_of(graph, "--graph"),
            scopes=scopes_of(scope or [Scope.TURNS], "--scope"),
            bounds=Bounds(
                turns_per_minute=count_of(turns_per_minute, "--turns-per-minute", MAX_TURNS),
                channels=count_of(channels, "--channels", MAX_CHANNELS),
                origins=origins_of([one.lower() for one in origin or ()], "--origin"),
            ),
        )
    except KeysError as error:
        raise CommandError(USAGE, cause="usage", message=str(error), next_step="see docs/keys.md") from None
    with _opened(config, to_write=True) as file:
        file.add(row)
    if as_json:
        shown = row.shown
        output.write_json({"key": text, **{name: shown[name] for name in shown if name != "created_at"}})
        return
    print(text, flush=True)
    print(f"agentd: key {row.id} is in {file.path}; it is shown this once", file=sys.stderr)


@app.command("ls")
def list_keys(config: Config = None, as_json: Json = False) -> None:
    """List the keys, by their ids."""
    with _opened(config) as file:
        rows = file.rows()
    if as_json:
        output.write_json({"keys": [row.shown for row in rows]})
    else:
        output.write_table(HEADINGS, map(_cells, rows))


@app.command()
def revoke(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of the keys.")],
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Remove keys: from now on no request is accepted with them."""
    refused = False
    with _opened(config) as file:
        for key_id in ids:
            if file.revoke(key_id):
                if as_json:
                    output.write_json({"id": key_id, "revoked": True})
                else:
                    output.write_line(f"revoked {key_id}")
                continue
            refused = True
            unknown = CommandError(
                REFUSED,
                cause="key_unknown",
                message=f"there is no key {masked(key_id)}",
                detail=f"the file is {file.path}",
                next_step="look at `agentd keys ls`",
            )
            report(unknown, as_json=as_json)
    if refused:
        raise typer.Exit(REFUSED)


@contextmanager
def _opened(config: Path | None, *, to_write: bool = False) -> "Iterator[KeyFile]":
    """The file of keys of the settings in force. Raises SettingsError, and CommandError for a file that will not do."""
    from supervisor.cli.serve import read, warn  # noqa: PLC0415 - needs the settings; other commands do not
    from supervisor.keys import KeyFile  # noqa: PLC0415

    # Whoever makes the first key of a server that others reach has nothing that protects it yet.
    loaded = read({"--allow-unprotected": "true"}, [], config)
    warn(loaded)
    path = loaded.settings.keys_file
    try:
        if to_write:
            _prepare(loaded.settings)
        yield KeyFile(path)
    except (KeysError, OSError) as error:
        raise CommandError(
            REFUSED,
            cause="keys_unusable",
            message=f"the file of keys {path} cannot be used",
            detail=(error.strerror if isinstance(error, OSError) else None) or str(error),
            next_step="mend it, or set AGENTD_KEYS_FILE; keys are made by the user that the server runs as",
        ) from error


def _prepare(settings: "Settings") -> None:
    """Make the folder of the file, as the server would if it is the state folder."""
    from supervisor.processes.bundle import prepare_state  # noqa: PLC0415

    folder = settings.keys_file.parent
    if folder == settings.state_dir:
        prepare_state(folder)
    else:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def _cells(row: KeyRow) -> list[str]:
    created = datetime.fromtimestamp(row.created_at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    scopes = ",".join(row.shown["scopes"])
    turns, channels = (
        "-" if most is None else str(most) for most in (row.bounds.turns_per_minute, row.bounds.channels)
    )
    origins = ",".join(row.bounds.origins) or "-"
    return [row.id, row.user or "-", output.text(row.graph), scopes, turns, channels, origins, created]
