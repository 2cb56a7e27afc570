"""What `friday` replies to what it hears. Pure: questions in, pieces of text out.

All patterns take time linear in the text: no two repetitions that can match the same characters stand side by side.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from worker.addons.words import words
from worker.turn import text_of

MOST_COUNTED: Final = 1000
MOST_NAME: Final = 100  # characters of a name
MOST_SHOWN: Final = 1000  # characters of a question that a reply repeats
MOST_DIGITS: Final = 20  # of a number that a reply repeats


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A question and what is known when it is answered.

    `agent` is the agent's own name, `name` the user's or empty, `files` a description of each file or image that came
    with the question.
    """

    question: str
    agent: str = "Friday"
    name: str = ""
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Count:
    """A part of a reply: the numbers from 1 to `last`."""

    last: int


Part = str | Count

_START: Final = "(?<![A-Za-z0-9])"
_END: Final = "(?![A-Za-z0-9])"


def _phrase(pattern: str) -> re.Pattern[str]:
    """A phrase anywhere in a text whose white space was collapsed; also between letters of another script."""
    return re.compile(f"{_START}(?:{pattern}){_END}", re.IGNORECASE)


# "what my name is" asks for a name, what follows is none.
_TELLS_NAME: Final = re.compile(
    rf"{_START}(?<!what )my name is(?: ?: ?| )[\"'\u2018\u201c\u00ab*_(]{{0,2}}", re.IGNORECASE
)
_NAME_JOINERS: Final = frozenset("-'\u2019\u00b7\u200c\u200d")
_REPEAT: Final = re.compile(r"(?:please,?\s+)?(?:repeat|say)(?:\s+after\s+me)?(?:\s*:\s*|\s+)", re.IGNORECASE)
_FILE: Final = _phrase(
    "attach(?:ed|ments?)|upload(?:ed)?|(?:this|that|the|my|these|those) (?:file|image|picture|photo|document|pdf)s?"
)
_MEETING_ROOM: Final = re.compile("(?:meeting|conference) ?room|\u4f1a\u8bae\u5ba4", re.IGNORECASE)


def told_name(text: str) -> str:
    """The name somebody gives in a text ("my name is X"), the last one if there are several; empty if there is none."""
    collapsed = " ".join(text.split())
    names = (_word(collapsed, match.end()) for match in _TELLS_NAME.finditer(collapsed))
    return next(reversed([name for name in names if name]), "")


def latest_name(messages: Iterable[Mapping[str, Any]]) -> str:
    """The name given last in the users' messages, which come oldest first; empty if there is none."""
    texts = (
        text_of(message.get("content")) for message in reversed([*messages]) if message.get("role", "user") == "user"
    )
    return next((name for text in texts if (name := told_name(text))), "")


def asks_about_rooms(question: str) -> bool:
    """Whether a question is about a meeting room."""
    return _MEETING_ROOM.search(" ".join(question.split())) is not None


def replies(heard: Heard) -> list[Part]:
    """The replies to all that was recognised in a question, and to the files with it; empty if that is nothing."""
    collapsed = " ".join(heard.question.split())
    parts = [part for pattern, reply in RULES if (match := pattern.search(collapsed)) and (part := reply(heard, match))]
    if not parts and (repeated := _repeated(heard.question.strip())):
        parts = [repeated]
    return [*parts, _name_files(heard)] if heard.files else parts


def fallback(heard: Heard) -> str:
    """The reply when nothing was recognised: the question, and that no more is known about it."""
    question = heard.question.strip()
    if not question:
        return "I heard no question. Ask me who I am, for example."
    shown = question if len(question) <= MOST_SHOWN else f"{question[:MOST_SHOWN]}..."
    if _FILE.search(" ".join(question.split())):
        return f'You said: "{shown}". I was given no file or image with it.'
    return f'You said: "{shown}". I am a small demo agent and do not know more about that.'


def pieces(parts: Iterable[Part]) -> Iterator[tuple[str, bool]]:
    """The pieces of a reply in order, word by word and number by number, and whether to pause before each."""
    said = list(parts)
    for index, part in enumerate(said, 1):
        gap = "" if index == len(said) else " "
        if isinstance(part, str):
            yield from ((word, False) for word in words(part + gap))
        else:
            for number in range(1, part.last + 1):
                yield f"{number}{gap if number == part.last else ' '}", number > 1


def _word(text: str, start: int) -> str:
    """The word of letters of any script that begins here, with inner hyphens, apostrophes and digits; may be empty."""
    end = start
    while end < min(len(text), start + MOST_NAME):
        letter = text[end].isalpha()
        inner = end > start and (
            text[end].isdigit()
            or unicodedata.category(text[end]).startswith("M")
            or (text[end] in _NAME_JOINERS and text[end + 1 : end + 2].isalpha())
        )
        if not letter and not inner:
            break
        end += 1
    return text[start:end]


def _greet(heard: Heard, _: re.Match[str]) -> Part:
    name = told_name(heard.question)
    return f"Nice to meet you, {name}. I will remember your name." if name else ""


def _tell_name(heard: Heard, _: re.Match[str]) -> Part:
    name = told_name(heard.question) or heard.name
    return f"Your name is {name}." if name else "I do not know your name: you have not told me."


def _introduce(heard: Heard, _: re.Match[str]) -> Part:
    return f"I am {heard.agent}, a demo agent that needs no model."


def _count(_: Heard, match: re.Match[str]) -> Part:
    digits = match["number"].replace(",", "")
    shown = digits if len(digits) <= MOST_DIGITS else f"{digits[:MOST_DIGITS]}..."
    last = int(digits[:MOST_DIGITS])  # more digits than that are over the limit in any case
    if match["minus"] or not last:
        return f"I count upwards from 1, so I cannot count to {match['minus']}{shown}."
    if last > MOST_COUNTED:
        return f"I can count to {MOST_COUNTED} at most, so I will not count to {shown}."
    return Count(last)


def _repeated(question: str) -> str:
    """What a question wants to have repeated, its white space too; empty if it wants nothing."""
    asked = _REPEAT.match(question)
    return question[asked.end() :] if asked else ""


def _name_files(heard: Heard) -> str:
    number = "one file" if len(heard.files) == 1 else f"{len(heard.files)} files"
    return f"You gave me {number}: {'; '.join(heard.files)}."


Rule = tuple[re.Pattern[str], Callable[[Heard, re.Match[str]], Part]]

RULES: Final[tuple[Rule, ...]] = (
    (_TELLS_NAME, _greet),
    (_phrase("what(?: is|['\u2019]?s) my name|what my name is|(?:know|remember|tell me) my name"), _tell_name),
    (_phrase("who (?:are you|you are)|what(?: is|['\u2019]?s) your name|what your name is"), _introduce),
    (_phrase("capital of france"), lambda _heard, _match: "The capital of France is Paris."),
    (
        re.compile(
            rf"{_START}count (?:up )?(?:from (?:1|one) )?to (?P<minus>[-\u2212]?)(?P<number>\d+(?:,\d{{3}})*)(?!\d)",
            re.IGNORECASE,
        ),
        _count,
    ),
)
