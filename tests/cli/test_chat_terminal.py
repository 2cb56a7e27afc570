"""`agentd chat` in a real terminal: the prompt, the spinner, Ctrl-C, Ctrl-D, the history, and what it does not show."""

import asyncio
import json
import os
import re
import stat
from pathlib import Path

import pytest

from supervisor.causes import Cause
from tests.harness.impostor import Exchange, Impostor, refuses, says
from tests.harness.terminal import CTRL_C, CTRL_D, ENTER, SECONDS, UP, Terminal

PROMPT = "> "
DIM, RESET = "\x1b[2m", "\x1b[0m"


async def until_cancelled(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.say("half of")
    await exchange.cancelled.wait()
    await exchange.fail("turn_cancelled")


def plain(shown: str) -> str:
    """What was shown without what steers the terminal."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown).replace("\r\n", "\n")


async def leave(terminal: Terminal) -> str:
    """Ctrl-D at the prompt; what is shown after it."""
    before = len(terminal.shown)
    terminal.type(CTRL_D)
    assert await terminal.end() == 0
    return plain(terminal.shown[before:])


async def test_question_and_answer(impostor: Impostor) -> None:
    impostor.replies.extend([says("Hello ", "日本 👨\u200d👩\u200d👧"), says("two\n")])
    async with impostor.terminal("friday", "--user", "ada") as terminal:
        head = await terminal.until(PROMPT)
        session = re.search(r"session (chat-[0-9a-f]+); /help", head)
        assert session is not None
        terminal.type("My name is Ada" + ENTER)
        await terminal.until("Hello 日本 👨\u200d👩\u200d👧\r\n")
        await terminal.until(PROMPT)
        terminal.type("and ü?" + ENTER)
        await terminal.until("two\r\n\r\n")
        await terminal.until(PROMPT)
        end = await leave(terminal)
    assert f"session {session[1]}, continue with: agentd chat friday --session {session[1]} --user ada\n" in end
    asked = [(exchange.body["message"], exchange.body["session"]) for exchange in impostor.exchanges]
    assert asked == [("My name is Ada", session[1]), ("and ü?", session[1])]


async def test_something_turns_while_there_is_nothing_to_see(impostor: Impostor) -> None:
    accepted, answered, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slowly(exchange: Exchange) -> None:
        await accepted.wait()
        await exchange.begin()
        await answered.wait()
        await exchange.event("tool_call", id="1", name="look", arguments={"room": 4})
        await done.wait()
        await exchange.event("tool_result", id="1", name="look", output="free", failed=False, ms=2.0)
        await exchange.say("It is free.")
        await exchange.final()

    impostor.replies.append(slowly)
    async with impostor.terminal("g") as terminal:
        await terminal.until(PROMPT)
        terminal.type("hi" + ENTER)
        frames = re.findall("[⠀-⣿]", await terminal.until("starting") + await terminal.until("⠼"))
        assert len(set(frames)) > 2
        accepted.set()
        await terminal.until("thinking")
        answered.set()
        await terminal.until(f"{DIM}-> look(room=4){RESET}")
        await terminal.until("running look")
        done.set()
        await terminal.until(f'{DIM}<- look: "free"{RESET}')
        await terminal.until("It is free.\r\n")
        await terminal.until(PROMPT)
        await leave(terminal)
    assert terminal.shown.count("\x1b[?25l") == terminal.shown.count("\x1b[?25h")  # the cursor hidden, and shown


async def everything(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.event("thought", text="hm, ")
    await exchange.event("thought", text="well")
    await exchange.event("tool_result", id="1", name="look", output="no", failed=True, ms=2000.0)
    await exchange.say("Free.")
    await exchange.event("structured", value={"free": True}, schema=None)
    await exchange.event("source", title="Plan", text="...", source="plan.md")
    await exchange.event("usage", input_tokens=9, output_tokens=4, total_tokens=13, model="m")
    await exchange.final(lost=2)


async def test_all_that_an_agent_tells(impostor: Impostor) -> None:
    impostor.replies.extend([everything, everything])
    expected = [
        "hm, well",
        '<- look: failed: "no" (2.0 s)',
        "Free.",
        "{",
        '  "free": true',
        "}",
        "2 events of this turn were lost; the server's log says why",
        "[1] Plan - plan.md",
        "m, 9 tokens in, 4 tokens out, 13 in all, 1.23 s",
        "session s, continue with: agentd chat g --session s",
    ]
    async with impostor.terminal("g", "-m", "x", "--session", "s", "--verbose", TERM="dumb") as terminal:
        assert await terminal.end() == 0
        await terminal.until("continue with: agentd chat g --session s\r\n")
        assert "\x1b" not in terminal.shown
    assert terminal.shown.splitlines() == expected
    async with impostor.terminal("g", "-m", "x", "--session", "s") as terminal:
        assert await terminal.end() == 0
        await terminal.until("continue with: agentd chat g --session s")
    shown = terminal.shown.replace("\r\n", "\n")
    assert f"{DIM}hm, {RESET}{DIM}well{RESET}\n\x1b[31m<- look" in shown
    assert "13 in all" not in shown


async def test_no_colour(impostor: Impostor) -> None:
    impostor.replies.append(everything)
    async with impostor.terminal("g", NO_COLOR="1") as terminal:
        await terminal.until(PROMPT)
        terminal.type("x" + ENTER)
        await terminal.until("plan.md")
        await terminal.until(PROMPT)
        await leave(terminal)
    assert "\x1b[?25l" in terminal.shown  # there is a spinner all the same
    assert set(re.findall(r"\x1b\[[0-9;]*m", terminal.shown)) <= {"\x1b[0m"}


@pytest.mark.parametrize("piped", [False, True])
async def test_nothing_an_agent_says_steers_the_terminal(impostor: Impostor, piped: bool) -> None:
    hostile = "\x1b[2J\x1b]0;owned\x07\x9b31m\r\x08\x7f\u202eexe\u2066\ud83d"

    async def attacks(exchange: Exchange) -> None:
        await exchange.begin()
        for kind in ("thought", "text"):
            await exchange.event(kind, text=hostile)
        await exchange.event("tool_call", id=hostile, name=hostile, arguments={hostile: hostile})
        await exchange.event("tool_result", id=hostile, name=hostile, output=hostile, failed=False, ms=hostile)
        await exchange.event("structured", value={hostile: hostile}, schema=None)
        await exchange.event("source", title=hostile, text=hostile, source=hostile, filename=hostile)
        await exchange.event("usage", model=hostile, input_tokens=hostile)
        await exchange.event(hostile.replace("\r", "").replace("\ud83d", ""), text=hostile)
        await exchange.event("error", cause=hostile, kind=hostile, message=hostile, next_step="!" + hostile, ms=0)

    impostor.replies.append(attacks)
    message = () if piped else ("-m", "x")
    async with impostor.terminal("g", "--verbose", *message, stdin=b"x\n" if piped else None, TERM="dumb") as terminal:
        assert await terminal.end() == 1
        await terminal.until("next step")
        await terminal.until("\r\n")
    text = terminal.shown.replace("\r\n", "")
    assert not re.search("[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", text)
    assert text.count("\\u202eexe\\u2066\\ud83d") >= 11


async def test_into_a_terminal_from_a_pipe(impostor: Impostor) -> None:
    impostor.replies.append(says("\x1b[2Jhello"))
    async with impostor.terminal("g", stdin=b"hi\n") as terminal:
        assert await terminal.end() == 0
        await terminal.until("hello\r\n")
    assert terminal.shown == "\\x1b[2Jhello\r\n"


async def test_ctrl_c_cancels_the_turn_and_the_prompt_comes_back(impostor: Impostor) -> None:
    impostor.replies.extend([until_cancelled, says("well")])
    async with impostor.terminal("g") as terminal:
        await terminal.until(PROMPT)
        terminal.type("count" + ENTER)
        await terminal.until("half of")
        terminal.type(CTRL_C)
        await terminal.until("cancelled")
        await terminal.until(PROMPT)
        terminal.type("again" + ENTER)
        await terminal.until("well\r\n")
        await terminal.until(PROMPT)
        await leave(terminal)
    assert impostor.deleted == ["/channels/the/channel/turns/turn-1"]
    assert "Traceback" not in terminal.shown
    assert "agentd:" not in terminal.shown


async def test_ctrl_c_before_there_is_a_turn(impostor: Impostor) -> None:
    async def never_begins(_: Exchange) -> None:
        await asyncio.Event().wait()

    impostor.replies.append(never_begins)
    async with impostor.terminal("g") as terminal:
        await terminal.until(PROMPT)
        terminal.type("count" + ENTER)
        await terminal.until("starting")
        await impostor.asked.wait()
        terminal.type(CTRL_C)
        await terminal.until("cancelled")
        await terminal.until(PROMPT)
        await leave(terminal)
    async with asyncio.timeout(SECONDS):
        await impostor.exchanges[0].gone.wait()
    assert impostor.deleted == []


async def goes_on(exchange: Exchange) -> None:
    await exchange.begin()
    while True:
        await exchange.say("more ")
        await asyncio.sleep(0)


@pytest.mark.parametrize("deletes", [True, False])
async def test_ctrl_c_although_the_server_does_not_end_the_turn(impostor: Impostor, deletes: bool) -> None:
    impostor.replies.append(goes_on)
    impostor.deletes = deletes
    patch = "asking.REST_SECONDS = asking.CANCEL_SECONDS = 0.2"
    async with impostor.terminal("g", patch=patch) as terminal:
        await terminal.until(PROMPT)
        terminal.type("count" + ENTER)
        await terminal.until("more more ")
        terminal.type(CTRL_C)
        await terminal.until("cancelled")
        await terminal.until(PROMPT)
        await leave(terminal)
    async with asyncio.timeout(SECONDS):
        await impostor.exchanges[0].gone.wait()
    assert len(impostor.deleted) == 1


async def test_a_second_ctrl_c_ends_the_program(impostor: Impostor) -> None:
    async def goes_on_quietly(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.say("half of")
        await asyncio.Event().wait()

    impostor.replies.append(goes_on_quietly)
    impostor.deletes = False
    async with impostor.terminal("g", "--session", "s") as terminal:
        await terminal.until(PROMPT)
        terminal.type("count" + ENTER)
        await terminal.until("half of")
        terminal.type(CTRL_C)
        await impostor.deleting.wait()
        await terminal.repeat_until(terminal.interrupt, "continue with: agentd chat g --session s")
        assert await terminal.end() == 130
    assert "Traceback" not in terminal.shown


async def test_ctrl_c_at_the_prompt(impostor: Impostor) -> None:
    impostor.replies.append(says("well"))
    async with impostor.terminal("g") as terminal:
        await terminal.until(PROMPT)
        await terminal.repeat_until(terminal.interrupt, "leave with Ctrl-D or /quit")
        await terminal.until(PROMPT)
        terminal.type("half a quest")
        await terminal.until("half a quest")
        assert "leave" not in await terminal.repeat_until(terminal.interrupt, PROMPT)
        terminal.type("whole" + ENTER)
        await terminal.until("well\r\n")
        await terminal.until(PROMPT)
        await leave(terminal)
    assert [exchange.body["message"] for exchange in impostor.exchanges] == ["whole"]


async def test_what_was_typed_before_the_program_was_stopped(impostor: Impostor) -> None:
    impostor.replies.append(says("well"))
    async with impostor.terminal("g") as terminal:
        await terminal.until(PROMPT)
        terminal.type("half ü")
        await terminal.until("half ü")
        await terminal.repeat_until(terminal.resume, PROMPT)
        await terminal.until("half ü")
        terminal.type(" whole" + ENTER)
        await terminal.until("well\r\n")
        await terminal.until(PROMPT)
        await leave(terminal)
    assert [exchange.body["message"] for exchange in impostor.exchanges] == ["half ü whole"]


async def test_commands(impostor: Impostor) -> None:
    impostor.replies.extend([says("one"), says("two")])
    async with impostor.terminal("g", "--session", "first") as terminal:
        await terminal.until(PROMPT)
        for typed, shown in (
            ("/help", "/new      begin a new session"),
            ("/frob\x16\x1b", "no command /frob\\x1b; /help lists them"),
            ("  ", ""),
            ("/session", "session first\x1b"),
            (" /etc/hosts is what?", "one\r\n"),
            ("/new", "session first, continue with: agentd chat g --session first"),
            ("more", "two\r\n"),
        ):
            terminal.type(typed + ENTER)
            await terminal.until(shown)
            await terminal.until(PROMPT)
        terminal.type("/quit" + ENTER)
        assert await terminal.end() == 0
    [first, second] = [exchange.body for exchange in impostor.exchanges]
    assert (first["message"], first["session"]) == (" /etc/hosts is what?", "first")
    assert (second["message"], second["session"][:5]) == ("more", "chat-")


async def test_what_fails_is_told_and_the_prompt_comes_back(impostor: Impostor) -> None:
    async def dies(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.say("half of")
        await exchange.fail("crashed", "killed by signal 9")

    async def cut(exchange: Exchange) -> None:
        await exchange.begin()
        exchange.cut()

    impostor.replies.extend([dies, refuses(Cause.GRAPH_UNKNOWN, "no graph 'g'"), cut, says("well")])
    async with impostor.terminal("g") as terminal:
        await terminal.until(PROMPT)
        for told in (
            "[crashed]\r\n  detail: killed by signal 9\r\n  next step: do this",
            "[graph_unknown]\r\n  detail: no graph 'g'",
            "[connection_lost]",
        ):
            terminal.type("hi" + ENTER)
            await terminal.until(told)
            await terminal.until(PROMPT)
        port = int(impostor.url.rpartition(":")[2])
        await impostor.stop_listening()
        terminal.type("hi" + ENTER)
        await terminal.until("[unreachable]")
        await terminal.until(PROMPT)
        await impostor.listen(port)
        terminal.type("hi" + ENTER)
        await terminal.until("well\r\n")
        await terminal.until(PROMPT)
        await leave(terminal)
    assert "half of\r\nagentd: the worker ended by a signal" in terminal.shown


@pytest.fixture
def history(impostor: Impostor) -> Path:
    return impostor.folder / ".local" / "state" / "agentd" / "chat_history"


async def test_history(impostor: Impostor, history: Path) -> None:
    impostor.replies.extend([says("one"), says("two"), says("three")])
    for typed, answer in (("first ü", "one"), (UP, "two")):  # the second time it is of the chat before
        async with impostor.terminal("g") as terminal:
            await terminal.until(PROMPT)
            terminal.type(typed + ENTER)
            await terminal.until(f"{answer}\r\n")
            await terminal.until(PROMPT)
            await leave(terminal)
    assert [exchange.body["message"] for exchange in impostor.exchanges] == ["first ü", "first ü"]
    assert [json.loads(line) for line in history.read_text().splitlines()] == ["first ü", "first ü"]
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert stat.S_IMODE(history.parent.stat().st_mode) == 0o700
    async with impostor.terminal("g", "--no-history") as terminal:
        await terminal.until(PROMPT)
        terminal.type(UP + "x" + ENTER)
        await terminal.until("three\r\n")
        await terminal.until(PROMPT)
        await leave(terminal)
    assert impostor.exchanges[-1].body["message"] == "x"
    assert len(history.read_text().splitlines()) == 2


async def test_a_history_out_of_bounds_is_cut(impostor: Impostor, history: Path) -> None:
    impostor.replies.append(says("one"))
    other = impostor.folder / "xdg" / "agentd" / "chat_history"
    other.parent.mkdir(parents=True)
    lines = [json.dumps(f"question {number}") for number in range(5000)]
    other.write_text("\n".join(["garbage \x1b", "[" * 5000, '"\\ud800"', *lines, "5", ""]))
    other.chmod(0o644)
    async with impostor.terminal("g", XDG_STATE_HOME=str(impostor.folder / "xdg")) as terminal:
        await terminal.until(PROMPT)
        terminal.type(UP + ENTER)
        await terminal.until("one\r\n")
        await terminal.until(PROMPT)
        await leave(terminal)
    assert impostor.exchanges[0].body["message"] == "question 4999"
    assert len(other.read_text().splitlines()) == 1001
    assert stat.S_IMODE(other.stat().st_mode) == 0o600
    assert not history.exists()


@pytest.mark.parametrize("kind", ["folder", "fifo", "under a file"])
async def test_a_history_that_cannot_be(impostor: Impostor, history: Path, kind: str) -> None:
    impostor.replies.append(says("one"))
    if kind == "under a file":
        (impostor.folder / ".local").write_text("")
    else:
        history.parent.mkdir(parents=True)
        history.mkdir() if kind == "folder" else os.mkfifo(history)
    async with impostor.terminal("g", columns=200) as terminal:
        assert "no history is kept: " in await terminal.until(PROMPT)
        terminal.type("hi" + ENTER)
        await terminal.until("one\r\n")
        assert "no history" not in await terminal.until(PROMPT)
        await leave(terminal)


async def test_long_answers_and_long_lines(impostor: Impostor) -> None:
    async def long(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.event("tool_call", id="1", name="look", arguments={"text": "日" * 500_000})
        for _ in range(3000):
            await exchange.say("wörter " * 100)
        await exchange.say("END")
        await exchange.final()

    impostor.replies.append(long)
    async with impostor.terminal("g", columns=60) as terminal:
        await terminal.until(PROMPT)
        terminal.type("hi" + ENTER)
        call = await terminal.until("…")
        await terminal.until("END\r\n")
        await terminal.until(PROMPT)
        await leave(terminal)
    assert 20 < call.count("日") < 30
    assert terminal.shown.count("wörter") == 300_000


async def test_lines_that_are_pasted(impostor: Impostor) -> None:
    impostor.replies.append(says("one"))
    async with impostor.terminal("g") as terminal:
        await terminal.until(PROMPT)
        terminal.type("\x1b[200~one\ntwo\x1b[201~" + ENTER)
        await terminal.until("one\r\n\r\n")
        await terminal.until(PROMPT)
        await leave(terminal)
    assert impostor.exchanges[0].body["message"] in ("one\ntwo", "one\rtwo")
