"""The command ``agentd`` (docs/cli.md).

Exit codes: 0 done, 1 the server refused or a check failed, 2 wrong usage or settings, 3 no server answers, 130 Ctrl-C.
"""

import gc
import signal
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (that of the process unless given) and return its exit code."""
    signal.signal(signal.SIGINT, _interrupted)
    arguments = list(sys.argv[1:] if argv is None else argv)
    # The server keeps what it imports in memory for its whole life: it does without the client's typer and rich.
    if arguments[:1] == ["serve"]:
        gc.disable()  # what is imported stays, and to look through it costs a tenth of a start; enabled by `serve`
        from supervisor.cli.serve import run  # noqa: PLC0415

        del arguments[0]
    else:
        from supervisor.cli.app import run  # noqa: PLC0415
    from supervisor.cli.errors import CommandError, exit_code_of, report  # noqa: PLC0415
    from supervisor.sources import SettingsError  # noqa: PLC0415

    try:
        return run(arguments)
    except (CommandError, SettingsError) as error:
        report(error, as_json="--json" in arguments)
        return exit_code_of(error)


def _interrupted(*_: object) -> None:
    raise SystemExit(128 + signal.SIGINT)
