"""What a command reports when it cannot do what it was asked: one form for people, one for programs."""

import json
import sys
from typing import Any, Final

from supervisor.sources import SettingsError

REFUSED: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3


class CommandError(Exception):
    """A command that failed for a reason the user can act on."""

    def __init__(self, exit_code: int, *, cause: str, message: str, detail: str = "", next_step: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.cause = cause
        self.message = message
        self.detail = detail
        self.next_step = next_step


Reported = CommandError | SettingsError


def exit_code_of(error: Reported) -> int:
    """The exit code of a reported error."""
    return error.exit_code if isinstance(error, CommandError) else USAGE


def as_dict(error: Reported) -> dict[str, Any]:
    """The error in the form of the server's native API."""
    if isinstance(error, CommandError):
        fields = ("cause", "message", "detail", "next_step")
        return {"error": {name: getattr(error, name) for name in fields}}
    return {
        "error": {
            "cause": "settings_invalid",
            "message": "settings that cannot be used",
            "detail": str(error),
            "next_step": "mend them; `agentd doctor --settings` lists what is allowed",
            "problems": [
                {"name": one.name, "source": one.source, "value": one.value, "reason": one.reason}
                for one in error.problems
            ],
        }
    }


def report(error: Reported, *, as_json: bool) -> None:
    """Write the error to stderr."""
    if as_json:
        text = json.dumps(as_dict(error), ensure_ascii=False)
    elif isinstance(error, SettingsError):
        text = "\n".join(f"agentd: {printable(str(problem))}" for problem in error.problems)
    else:
        body = as_dict(error)["error"]
        lines = [f"agentd: {body['message']} [{body['cause']}]"]
        lines += [
            f"  {name}: {body[key]}" for name, key in _LABELS if body[key] and not body["message"].startswith(body[key])
        ]
        text = "\n".join(printable(line) for line in lines)
    print(text, file=sys.stderr)


_LABELS: Final = (("detail", "detail"), ("next step", "next_step"))


def printable(text: str, keep: str = "") -> str:
    """The text without what would steer a terminal, but `keep`: names and details may hold what any client sent."""
    return "".join(char if char.isprintable() or char in keep else repr(char)[1:-1] for char in text)
