"""Reads a meeting room and two times out of a question, in English or Chinese. Pure.

All patterns take time linear in the text, and of a long question only the first 64 Ki characters are read.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

MOST_READ: Final = 65536
HOUR: Final = 60
HALF_DAY: Final = 12 * HOUR
DAY: Final = 24 * HOUR


@dataclass(frozen=True, slots=True)
class Room:
    """A meeting room as it was named: "A12" has the letter A and the number 12; the letter may be missing."""

    letter: str
    number: int

    def __str__(self) -> str:
        return f"{self.letter}{self.number}"


@dataclass(frozen=True, slots=True)
class Clock:
    """A time as it was written, and the minutes of the day it may mean: two when "am" or "pm" is left open."""

    written: str
    minutes: tuple[int, ...]
    said: bool  # with "am", "pm" or the like
    explicit: bool  # not a bare number


@dataclass(frozen=True, slots=True)
class Question:
    """What a question names: its room, and its two times in minutes of the day, the second up to 1440.

    `impossible` holds times that no day has, as they were written.
    """

    room: Room | None = None
    times: tuple[int, int] | None = None
    impossible: tuple[str, ...] = ()


def read(text: str) -> Question:
    """What a question names; parts that are not there stay None."""
    plain = " ".join(text[:MOST_READ].translate(_PLAIN).split())
    room, span = _room(plain)
    rest = f"{plain[: span[0]]}{' ' * (span[1] - span[0])}{plain[span[1] :]}"
    clocks = _times(_DATE.sub(lambda date: " " * len(date.group()), rest))
    if impossible := tuple(clock.written for clock in clocks if not clock.minutes):
        return Question(room, impossible=impossible)
    return Question(room, _meant(*clocks) if clocks else None)


def clock_text(minutes: int) -> str:
    """Minutes of the day as a time without a leading zero: 9:00, 14:30."""
    return f"{minutes // HOUR}:{minutes % HOUR:02}"


# Digits, letters and signs of full width, dashes, traditional characters: what means the same to the patterns.
_PLAIN: Final = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | str.maketrans(
    "\u2013\u2014\u2212\u301c\u2019會議號點時", "---~'会议号点时"
)

_NUMBER: Final = r"(?P<number>\d{1,6})"
_LETTER: Final = r"(?P<letter>[A-Za-z])"
_ALONE: Final = r"(?<![A-Za-z0-9:])"
_ROOM_WORD: Final = r"(?:(?<![a-z])(?:meeting|conference)?rooms?|会议室)"
_NO_TIME: Final = r"(?![A-Za-z0-9])(?!:\d)(?! ?[ap]\.?m\b)(?! ?[点时])"

# The ways to name a room, the surest first.
_ROOMS: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"{_ALONE}{_LETTER}-?{_NUMBER} ?号? ?(?:(?:meeting|conference) ?)?(?:room|会议室)",
        rf"{_ROOM_WORD} ?(?:(?:number|no\.?|nr\.?) ?)?[#:]? ?(?:{_LETTER}[ -]?)?{_NUMBER}{_NO_TIME}",
        rf"{_ALONE}{_NUMBER} ?号? ?会议室",
        rf"{_ALONE}{_LETTER}-?{_NUMBER}{_NO_TIME}",
    )
)

_DATE: Final = re.compile(
    r"(?<!\d)(?:\d{4}[-/]\d{1,2}[-/]\d{1,2}|\d{1,2}[./]\d{1,2}[./]\d{2,4}|\d{1,2}/\d{1,2})(?![\d:])"
)

_HALVES: Final = {
    **dict.fromkeys(("am", "morning", "上午", "早上", "凌晨"), 0),
    **dict.fromkeys(("pm", "afternoon", "evening", "中午", "下午", "晚上"), HALF_DAY),
}
_SPECIAL: Final = {("中午", 11): (11 * HOUR,), ("晚上", 12): (0, DAY)}
_WORDS: Final = {
    **dict.fromkeys(("noon", "midday", "正午"), (HALF_DAY,)),
    **dict.fromkeys(("midnight", "午夜"), (0, DAY)),
}
_CLOCK: Final = re.compile(
    r"(?<![A-Za-z0-9.:/])(?:"
    r"(?:(?P<before>[上中下]午|[早晚]上|凌晨) ?)?"
    r"(?P<hour>\d{1,2})"
    r"(?::(?P<minute>\d{1,2})(?::\d{2})?|\.(?P<dotted>\d{2})|(?P<chinese>[点时])(?:(?P<counted>\d{1,2})分?|(?P<half>半))?)?"
    r"(?: ?(?:(?P<after>[ap])\.? ?m\b\.?|in the (?P<part>morning|afternoon|evening)|(?P<sharp>o'? ?clock)))?"
    r"|(?P<word>noon|midday|midnight|正午|午夜))"
    r"(?![A-Za-z0-9:/%])(?!\.\d)",
    re.IGNORECASE,
)
_BETWEEN: Final = frozenset({"-", "--", "~", "to", "till", "til", "until", "and", "through", "到", "至"})
_COUNTED: Final = re.compile(r" ?(?:people|persons?|guests?|seats?|chairs?|hours?|days?|weeks?|人|天)", re.IGNORECASE)


def _room(text: str) -> tuple[Room | None, tuple[int, int]]:
    """The room and where it stands in the text."""
    for pattern in _ROOMS:
        if match := pattern.search(text):
            letter = match.groupdict().get("letter") or ""
            return Room(letter.upper(), int(match["number"])), match.span()
    return None, (0, 0)


def _times(text: str) -> tuple[Clock, Clock] | tuple[()]:
    """The two times of a text: the first span with a time that is no bare number, else the first two such times, else
    the first span of bare hours, if there is no other time.
    """
    found = [(_clock(match), match) for match in _CLOCK.finditer(text)]
    explicit = [clock for clock, _ in found if clock.explicit]
    spans = list(_spans(text, found))
    for first, second in spans:
        if first.explicit or second.explicit:
            return first, second
    if explicit:
        return (explicit[0], explicit[1]) if len(explicit) > 1 else ()
    return spans[0] if spans else ()


def _spans(text: str, found: list[tuple[Clock, re.Match[str]]]) -> Iterator[tuple[Clock, Clock]]:
    """Neighbouring times with "to" or the like between them."""
    for (first, before), (second, after) in pairwise(found):
        gap = text[before.end() : after.start()].strip().casefold()
        if gap not in _BETWEEN:
            continue
        if not first.explicit and not second.explicit:
            if _COUNTED.match(text, after.end()):  # "3 to 5 people"
                continue
            if gap == "and" and "between" not in text[max(0, before.start() - 10) : before.start()].casefold():
                continue
        yield first, second


def _clock(match: re.Match[str]) -> Clock:
    if word := match["word"]:
        return Clock(word, _WORDS[word.casefold()], said=True, explicit=True)
    hour = int(match["hour"])
    minute = int(match["minute"] or match["dotted"] or match["counted"] or (30 if match["half"] else 0))
    half = match["before"] or match["part"] or (f"{match['after']}m" if match["after"] else "")
    explicit = any(match[name] for name in ("minute", "dotted", "chinese", "sharp")) or bool(half)
    return Clock(match.group().strip(), _minutes(hour, minute, half.casefold()), said=bool(half), explicit=explicit)


def _minutes(hour: int, minute: int, half: str) -> tuple[int, ...]:
    """What a time may mean: as written first, then half a day later unless it says its half of the day.

    Nothing for a time that no day has, such as 25:00 or 13 pm.
    """
    if minute >= HOUR or hour * HOUR + minute > DAY or (half in {"am", "pm"} and not 1 <= hour <= 12):
        return ()
    if not half:
        meant = (hour, hour + 12) if 1 <= hour < 12 or (hour, minute) == (12, 0) else (hour,)
        return tuple(h * HOUR + minute for h in meant)
    if special := _SPECIAL.get((half, hour)):
        return tuple(minutes + minute for minutes in special if minutes + minute <= DAY)
    return (hour * HOUR + minute if hour > 12 else hour % 12 * HOUR + minute + _HALVES[half],)


def _meant(first: Clock, second: Clock) -> tuple[int, int]:
    """The two times that are meant, in the order in which they were written.

    Where only one of them says its half of the day, the other lies as close to it as the order allows; where neither
    does, both are times of a day of 24 hours.
    """
    starts = first.minutes if second.said else first.minutes[:1]
    ends = second.minutes if first.said or second.said else second.minutes[:1]
    fitting = [(end - start, start, end) for start in starts for end in ends if start < end]
    return min(fitting)[1:] if fitting else (first.minutes[0], second.minutes[0])
