"""A talk with an agent at a terminal: the prompt, its commands, and what Ctrl-C does there."""

import os
from collections.abc import Callable
from typing import Final

from supervisor.cli.chat import Conversation, new_session, part
from supervisor.cli.errors import CommandError, report
from supervisor.cli.prompt import History, LineDropped, Prompt, history_file
from supervisor.cli.views import TerminalView, View

HELP: Final = """\
/new      begin a new session
/session  show the session
/quit     leave, as Ctrl-D does
/help     show this
Ctrl-C cancels the answer that comes, a second one ends the program.
A line that begins with a space goes to the agent as it is."""


class Talk:
    """Question and answer in turn until the person leaves; what fails is told, and the prompt comes back."""

    def __init__(
        self,
        conversation: Conversation,
        ask: Callable[[str, View], bool],
        view: TerminalView,
        *,
        keep_history: bool,
    ) -> None:
        self._conversation = conversation
        self._ask = ask
        self._view = view
        self._history = History(history_file(os.environ) if keep_history else None)
        self._prompt = Prompt("> ", self._history, bold=not view.plain)
        self._commands: dict[str, Callable[[], None]] = {
            "/new": self._new,
            "/session": self._show_session,
            "/help": self._help,
            "/quit": self._leave,
        }

    def run(self) -> None:
        """Until Ctrl-D or /quit."""
        self._view.say(f"{self._conversation.graph}, session {self._conversation.session}; /help lists the commands")
        try:
            while True:
                self._tell_problem()
                try:
                    line = self._prompt.ask()
                except LineDropped as dropped:
                    self._view.say("" if dropped.typed else "\nleave with Ctrl-D or /quit")
                else:
                    self._act(line)
        except EOFError:
            print()
        finally:
            part(self._conversation, self._view)

    def _act(self, line: str) -> None:
        word = line.strip()
        if not word:
            return
        if line.startswith("/"):
            unknown = f"no command {word}; /help lists them. A line that begins with a space goes to the agent"
            self._commands.get(word, lambda: self._view.say(unknown))()
            return
        try:
            if not self._ask(line, self._view):
                self._view.say("cancelled")
        except CommandError as error:
            report(error, as_json=False)
        except KeyboardInterrupt:
            self._view.say("cancelled")  # it came when the turn was about to begin, or just over
        self._view.say("")

    def _new(self) -> None:
        part(self._conversation, self._view)
        self._conversation.session, self._conversation.asked = new_session(), False
        self._show_session()

    def _show_session(self) -> None:
        self._view.say(f"session {self._conversation.session}")

    def _help(self) -> None:
        self._view.say(HELP)

    def _leave(self) -> None:
        raise EOFError

    def _tell_problem(self) -> None:
        problem, self._history.problem = self._history.problem, ""
        if problem:
            self._view.note(problem)
