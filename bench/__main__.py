"""``python -m bench [--quick] [SCENARIO...]``: run them, print one table; exit status 1 for a missed promise."""

import argparse
import asyncio
import platform
import sys
from typing import TYPE_CHECKING

import psutil
from rich.console import Console
from rich.table import Table

from bench.scenarios import SCENARIOS

if TYPE_CHECKING:
    from bench.figures import Figure


def main() -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller numbers: a look, not a measurement")
    parser.add_argument("scenario", nargs="*", help=f"of {', '.join(SCENARIOS)}; none: all")
    arguments = parser.parse_args()
    if unknown := set(arguments.scenario) - set(SCENARIOS):
        parser.error(f"no scenario {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    console = Console()
    figures: list[Figure] = []
    for name in arguments.scenario or SCENARIOS:
        console.print(f"[dim]{name}: {(SCENARIOS[name].__doc__ or '').splitlines()[0]}[/]")
        figures += asyncio.run(SCENARIOS[name](arguments.quick))
    table = Table(
        title=f"agentd on {psutil.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"
    )
    for column in ("figure", "measured", "unit", "promised", ""):
        table.add_column(column, justify="right" if column == "measured" else "left")
    for figure in figures:
        verdict = "" if not figure.promise else "[green]holds[/]" if figure.holds else "[red]missed[/]"
        table.add_row(figure.name, f"{figure.value:,.2f}", figure.unit, figure.promise, verdict)
    console.print(table)
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
