"""``agentd chat``: one question, every line of stdin, or a talk at a terminal (docs/cli.md)."""

import io
import secrets
import shlex
import sys
from dataclasses import dataclass, field
from typing import Any, Final, TextIO

from supervisor.cli.asking import Asking
from supervisor.cli.client import Target
from supervisor.cli.errors import REFUSED, USAGE, CommandError, report
from supervisor.cli.interrupts import INTERRUPTED, Interrupts
from supervisor.cli.views import JsonView, TerminalView, TextView, View

MAX_QUESTION: Final = 1024 * 1024  # characters; by default a server takes no more bytes


@dataclass(kw_only=True)
class Conversation:
    """Whom a chat is with, and by which session the agent knows it."""

    graph: str
    session: str
    user: str = ""
    properties: dict[str, dict[str, Any]] = field(default_factory=dict)
    server: str | None = None  # if the command line names one
    asked: bool = False

    def turn(self, question: str) -> dict[str, Any]:
        """The body of a turn that asks this."""
        body = {"graph": self.graph, "user": self.user, "session": self.session, "message": question}
        return {**body, "properties": self.properties} if self.properties else body

    @property
    def command(self) -> str:
        """The command line that goes on with this conversation."""
        words = ["agentd", "chat", self.graph, "--session", self.session]
        words += ["--user", self.user] if self.user else []
        words += ["--server", self.server] if self.server else []
        return shlex.join(words)


def new_session() -> str:
    """The name of a session that nobody has."""
    return f"chat-{secrets.token_hex(6)}"


class Chat:
    """One run of the command."""

    def __init__(self, target: Target, conversation: Conversation, *, verbose: bool, as_json: bool) -> None:
        self._target = target
        self._conversation = conversation
        self._verbose = verbose
        self._as_json = as_json
        self._interrupts = Interrupts()

    def run(self, message: str | None, *, keep_history: bool) -> int:
        """Ask `message`, else what a person types, else every line of stdin; the exit code. Raises CommandError."""
        # Neither what an agent says nor a line of stdin ends the program for an encoding.
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
        for_person = sys.stdout.isatty() and not self._as_json
        with self._interrupts:
            try:
                if message is not None:
                    return self._once(message, TerminalView(verbose=self._verbose) if for_person else self._bare_view())
                if for_person and sys.stdin.isatty():
                    return self._talk(keep_history=keep_history)
                return self._answer_lines(sys.stdin)
            except KeyboardInterrupt:
                return INTERRUPTED

    def ask(self, question: str, view: View) -> bool:
        """One turn; whether it ended, and was not cancelled. Raises CommandError for one that failed."""
        check(question)
        self._conversation.asked = True
        asking = Asking(self._target, self._conversation.turn(question))
        with self._interrupts.going_to(asking.cancel), asking:
            try:
                view.begin()
                for event in asking:
                    view.show(event)
            except CommandError:
                if not asking.cancelled:
                    raise
                return False
            finally:
                view.end()
        return True

    def _once(self, message: str, view: View) -> int:
        try:
            self.ask(message, view)
            return INTERRUPTED if self._interrupts.count else 0
        finally:
            if isinstance(view, TerminalView):
                part(self._conversation, view)

    def _answer_lines(self, lines: TextIO) -> int:
        """Every line is a turn; one that fails does not keep the others from theirs, as long as a server answers."""
        view, code = self._bare_view(), 0
        # Enough to tell a line that is too long from one that is just as long as may be.
        while line := lines.readline(MAX_QUESTION + 2):
            if not line.strip():
                continue
            try:
                self.ask(line.rstrip("\r\n"), view)
            except CommandError as error:
                if error.exit_code != REFUSED:
                    raise
                report(error, as_json=self._as_json)
                code = REFUSED
            if self._interrupts.count:
                return INTERRUPTED
        return code

    def _talk(self, *, keep_history: bool) -> int:
        from supervisor.cli.talk import Talk  # noqa: PLC0415 - only a person needs readline

        view = TerminalView(verbose=self._verbose)
        Talk(self._conversation, self.ask, view, keep_history=keep_history).run()
        return 0

    def _bare_view(self) -> View:
        return JsonView() if self._as_json else TextView(verbose=self._verbose)


def part(conversation: Conversation, view: TerminalView) -> None:
    """Tell a person how to go on with a conversation."""
    if conversation.asked:
        view.say(f"session {conversation.session}, continue with: {conversation.command}")


def check(question: str) -> None:
    """Raise CommandError for what cannot be asked."""
    if not question.strip():
        raise _usage("the question is empty", "write what the agent shall answer")
    if len(question) > MAX_QUESTION:
        raise _usage(f"a question has more than {MAX_QUESTION} characters", "ask less at once")
    try:
        question.encode()
    except UnicodeEncodeError as error:
        raise _usage(f"a question is not text in UTF-8: {question[:100]!r}", "write UTF-8") from error


def _usage(message: str, next_step: str) -> CommandError:
    return CommandError(USAGE, cause="usage", message=message, next_step=next_step)
