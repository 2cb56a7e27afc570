"""The commands, all but `serve`: what each one asks the server and how it shows the answer (docs/cli.md)."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from supervisor.cli import keys, output
from supervisor.cli.client import Client, find_target
from supervisor.cli.errors import REFUSED, USAGE, CommandError, report

app = typer.Typer(
    name="agentd",
    help="Agent workers as isolated processes, one per channel. Exit codes: 0 done, 1 refused or failed, "
    "2 wrong usage or settings, 3 no server answers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(keys.app, name="keys")

Server = Annotated[
    str | None,
    typer.Option(help="URL of the server (default: AGENTD_SERVER, else where this folder's settings make it listen)."),
]
Token = Annotated[
    str | None, typer.Option(help="Bearer token; better set AGENTD_TOKEN: others can read command lines.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON; errors too, on stderr.")]
Channel = Annotated[str, typer.Argument(help="Name of the channel.")]
Channels = Annotated[list[str], typer.Argument(help="Names of the channels.")]
Config = Annotated[Path | None, typer.Option(help="Read this file instead of agentd.toml.")]
Uid = Annotated[int, typer.Option(min=0, max=2**32 - 1)]


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code, raises CommandError and SettingsError."""
    try:
        app(args=list(arguments), prog_name="agentd")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Say the version, when asked for it before any command."""
    if version:
        from importlib.metadata import version as version_of  # noqa: PLC0415 - slow to import

        print(f"agentd {version_of('agentd')}")
        raise typer.Exit


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []})
def serve(context: typer.Context) -> None:
    """Run the server; `agentd serve --help` lists its flags."""
    from supervisor.cli.serve import run as run_server  # noqa: PLC0415 - only this command needs the settings

    raise typer.Exit(run_server(context.args))


@app.command()
def start(
    channel: Channel,
    graph: Annotated[str, typer.Argument(help="Name of the graph; `agentd graphs` lists them.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NODE.PROPERTY=VALUE", help="Override a property; VALUE is JSON, else text."),
    ] = None,
    timeout: Annotated[
        int | None, typer.Option(help="Seconds without a ping after which the channel ends; -1: never.")
    ] = None,
    user_uid: Uid = 0,
    bot_uid: Uid = 0,
    server: Server = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Start a channel's worker and wait until it is ready."""
    body = {
        "channel_name": channel,
        "graph_name": graph,
        "user_uid": user_uid,
        "bot_uid": bot_uid,
        "timeout": timeout,
        "properties": parse_overrides(overrides or []),
    }
    answer = _client(server, token).ten("POST", "/start", body)
    _show(answer, f"started {channel}", as_json=as_json)


@app.command()
def ping(channel: Channel, server: Server = None, token: Token = None, as_json: Json = False) -> None:
    """Keep a channel: its lease begins anew."""
    answer = _client(server, token).ten("POST", "/ping", {"channel_name": channel})
    _show(answer, f"pinged {channel}", as_json=as_json)


@app.command()
def stop(channels: Channels, server: Server = None, token: Token = None, as_json: Json = False) -> None:
    """Stop channels with grace and wait until nothing of them is left."""
    client = _client(server, token)

    def end(name: str) -> None:
        answer = client.ten("POST", "/stop", {"channel_name": name})
        _show({"channel": name, **answer} if as_json else answer, f"stopped {name}", as_json=as_json)

    _each(channels, end, as_json=as_json)


@app.command()
def kill(channels: Channels, server: Server = None, token: Token = None, as_json: Json = False) -> None:
    """Stop channels without grace: their whole process trees are killed."""
    client = _client(server, token)

    def end(name: str) -> None:
        answer = client.native("DELETE", name, kill=1)
        _show(answer, f"killed {name}{_told(answer.get('receipt'))}", as_json=as_json)

    _each(channels, end, as_json=as_json)


@app.command("ls")
def list_channels(server: Server = None, token: Token = None, as_json: Json = False) -> None:
    """List the channels, starting and stopping ones too."""
    answer = _client(server, token).native("GET")
    if as_json:
        output.write_json(answer)
        return
    rows = ([show(channel.get(key)) for _, key, show in COLUMNS] for channel in answer.get("channels", []))
    output.write_table([heading for heading, _, _ in COLUMNS], rows, right=NUMBERS)


@app.command()
def logs(
    channel: Channel,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the channel ends.")] = False,
    lines: Annotated[
        int | None, typer.Option("--lines", "-n", min=0, max=1_000_000, help="Only the last so many lines.")
    ] = None,
    server: Server = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Print what a channel's worker wrote."""
    chunks = _client(server, token).stream(channel, "logs", tail=lines, follow=1 if follow else None)
    if not as_json:
        output.write_output(chunks)
        return
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            output.write_json({"line": line.decode(errors="replace")})
    if rest:
        output.write_json({"line": rest.decode(errors="replace")})


@app.command()
def chat(
    graph: Annotated[str, typer.Argument(help="Name of the graph; `agentd graphs` lists them.")],
    session: Annotated[
        str | None, typer.Option(help="Go on with this session, or begin it (default: one of its own).")
    ] = None,
    user: Annotated[str, typer.Option(help="Whose session it is.")] = "",
    message: Annotated[
        str | None, typer.Option("--message", "-m", help="Ask this and leave, instead of what is typed or piped in.")
    ] = None,
    properties: Annotated[
        list[str] | None,
        typer.Option(
            "--property", metavar="NODE.PROPERTY=VALUE", help="As `start --set`, for a worker that is started."
        ),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Tell the tokens and the time, too.")] = False,
    no_history: Annotated[bool, typer.Option("--no-history", help="Neither read nor keep what was asked.")] = False,
    server: Server = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Talk to an agent: at a terminal, or with a line of stdin for each question."""
    from supervisor.cli.chat import Chat, Conversation, new_session  # noqa: PLC0415 - the other commands do without

    conversation = Conversation(
        graph=graph,
        session=new_session() if session is None else session,
        user=user,
        properties=parse_overrides(properties or [], "--property"),
        server=server,
    )
    talk = Chat(find_target(server, token), conversation, verbose=verbose, as_json=as_json)
    raise typer.Exit(talk.run(message, keep_history=not no_history))


@app.command()
def drain(
    deadline: Annotated[
        float | None, typer.Option(min=0, help="Seconds after which what is still there is stopped (default: never).")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Follow until nothing is left; exit code 1: cut.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Only show how far it is.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Begin channels again.")] = False,
    server: Server = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Begin no more channels; list who is still there."""
    from supervisor.cli.drain import Draining  # noqa: PLC0415 - the other commands do without

    draining = Draining(_client(server, token), as_json=as_json)
    if undo:
        draining.undo()
        return
    if status:
        draining.look()
    else:
        draining.begin(deadline)
    if wait:
        raise typer.Exit(draining.follow())


@app.command()
def graphs(server: Server = None, token: Token = None, as_json: Json = False) -> None:
    """List the graphs a channel can be started with."""
    answer = _client(server, token).ten("GET", "/graphs")
    if as_json:
        output.write_json(answer)
        return
    rows = ([output.text(graph["name"]), "yes" if graph["auto_start"] else "no"] for graph in answer["data"])
    output.write_table(["GRAPH", "AUTO START"], rows)


@app.command()
def doctor(
    settings: Annotated[
        bool, typer.Option("--settings", help="Print every setting, its value and where it came from.")
    ] = False,
    named: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="As with `agentd serve`; may be repeated.")
    ] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Check this machine, the settings and the graphs; exit code 1 when something fails."""
    from supervisor.cli import doctor as checks  # noqa: PLC0415 - needs the settings; the other commands do not
    from supervisor.cli.serve import read, warn  # noqa: PLC0415

    loaded = read({}, named or [], config)
    if settings:
        warn(loaded)
        checks.show_settings(loaded, as_json=as_json)
        return
    if not checks.show_checks(loaded, as_json=as_json):
        raise typer.Exit(REFUSED)


# Heading, key of the channel's JSON, and how it is shown.
COLUMNS: Final = (
    ("NAME", "name", output.text),
    ("GRAPH", "graph", output.text),
    ("STATE", "state", output.text),
    ("HEALTH", "health", output.text),
    ("PID", "pid", output.text),
    ("AGE", "age_seconds", output.duration),
    ("LAST PING", "last_ping_seconds", output.duration),
    ("TIME LEFT", "time_left_seconds", lambda seconds: "never" if seconds is None else output.duration(seconds)),
    ("MEMORY", "rss_bytes", output.size),
    ("CPU", "cpu_percent", lambda percent: "-" if percent is None else f"{percent:.1f} %"),
)
NUMBERS: Final = ("PID", "AGE", "LAST PING", "TIME LEFT", "MEMORY", "CPU")


def parse_overrides(items: Sequence[str], option: str = "--set") -> dict[str, dict[str, Any]]:
    """Properties by node of ``node.property=value`` items; the property's name goes to the first ``=``, dots and all.

    Raises CommandError for an item of another form.
    """
    properties: dict[str, dict[str, Any]] = {}
    for item in items:
        target, equals, value = item.partition("=")
        node, dot, key = target.partition(".")
        if not (equals and dot and node and key):
            raise CommandError(
                USAGE,
                cause="usage",
                message=f"{item!r} (from {option}) is not an override",
                next_step="write NODE.PROPERTY=VALUE",
            )
        properties.setdefault(node, {})[key] = parse_value(value)
    return properties


def parse_value(text: str) -> Any:
    """The JSON value `text` is, else `text` itself."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _client(server: str | None, token: str | None) -> Client:
    return Client(find_target(server, token))


def _show(answer: dict[str, Any], done: str, *, as_json: bool) -> None:
    if as_json:
        output.write_json(answer)
    else:
        output.write_line(done)


def _told(receipt: Any) -> str:
    if not isinstance(receipt, dict):
        return ""
    return f": {receipt.get('processes')} processes in {output.duration(receipt.get('seconds'))}"


def _each(channels: Sequence[str], end: Any, *, as_json: bool) -> None:
    """`end` for each channel; one that the server refuses does not keep the others from their end."""
    refused = False
    for name in channels:
        try:
            end(name)
        except CommandError as error:
            if error.exit_code != REFUSED:
                raise
            report(error, as_json=as_json)
            refused = True
    if refused:
        raise typer.Exit(REFUSED)
