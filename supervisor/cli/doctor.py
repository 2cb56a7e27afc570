"""``agentd doctor``: the settings with their sources, and the checks of `supervisor.cli.checks`."""

import logging
from collections import Counter
from dataclasses import asdict
from typing import Any

import structlog
from pydantic import SecretStr

from supervisor.cli import output
from supervisor.cli.checks import Status, check_all
from supervisor.settings import MASK, Loaded, describe, in_words, shown


def show_settings(loaded: Loaded, *, as_json: bool) -> None:
    """Every setting: name, value, source, what is allowed."""
    rows = []
    for setting in describe():
        given = loaded.given.get(setting.name)
        rows.append(
            {
                "name": setting.name,
                "value": getattr(loaded.settings, setting.name),
                "source": given.source if given else "default",
                "given_as": given.name if given else None,
                "variables": list(setting.variables),
                "flag": setting.flag,
                "default": setting.default,
                "allowed": setting.allowed,
                "meaning": setting.meaning,
            }
        )
    if as_json:
        output.write_json({"settings": [row | {"value": _plain(row["value"])} for row in rows]})
        return
    output.write_table(
        ["SETTING", "VALUE", "SOURCE", "ALLOWED"],
        (
            [str(row["name"]), in_words(loaded.settings, str(row["name"])), _source(row), str(row["allowed"])]
            for row in rows
        ),
    )


def show_checks(loaded: Loaded, *, as_json: bool) -> bool:
    """Run and show all checks; whether none failed."""
    # What the server's parts would log here, the checks themselves tell.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    checks = check_all(loaded)
    counts = Counter(check.status for check in checks)
    passed = not counts[Status.FAIL]
    if as_json:
        output.write_json({"ok": passed, "checks": [asdict(check) for check in checks]})
        return passed
    rows = []
    for check in checks:
        rows.append([check.name, check.status, check.finding])
        if check.next_step:
            rows.append(["", "", f"-> {check.next_step}"])
    output.write_table(["CHECK", "", "FINDING"], rows)
    output.write_line(", ".join(f"{counts[status]} {status}" for status in Status))
    return passed


def _source(row: dict[str, Any]) -> str:
    return row["source"] if row["given_as"] is None else f"{row['source']}: {row['given_as']}"


def _plain(value: Any) -> Any:
    """A setting's value as JSON."""
    match value:
        case SecretStr():
            return MASK
        case tuple():
            return [shown(item) for item in value]
        case None | bool() | int() | float() | str() | dict():
            return value
    return str(value)
