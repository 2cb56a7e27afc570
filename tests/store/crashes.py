"""Kills a process that writes to a store, again and again, and looks at what is left. Run by test_store_survival.

Usage: crashes.py DATABASE TIMES. Each time a child is forked (all is imported by then), writes turns, and tells on a
pipe of every turn whose beginning or ending the store has confirmed; after some of them it is killed. Prints, as JSON,
how many were told and what was wrong afterwards.
"""

import asyncio
import json
import os
import random
import signal
import sqlite3
import sys
import time
from itertools import count

from supervisor.store.records import ChannelClaimed, ConversationKey, TurnBegun, TurnEnded
from supervisor.store.store import Store


async def write(database: str, life: int, pipe: int) -> None:
    store = Store(database, instance="i1")
    await store.open()
    numbers = count()

    async def session(name: str) -> None:
        while True:
            turn = f"{life}-{next(numbers)}"
            said = [{"role": "user", "content": "q" * 2000}]
            await store.begin_turn(
                TurnBegun(id=turn, graph="g", user="u", session=name, channel="c", kind="chat", source="native",
                          begun_at=time.time(), messages=said)
            )  # fmt: skip
            os.write(pipe, f"begun {turn}\n".encode())
            store.note(ChannelClaimed(turn, time.time(), "lobby", "g", "u", None, "native"))
            state = {"turn": turn}
            await store.end_turn(
                TurnEnded(id=turn, ended_at=time.time(), cause="completed", text="a" * 3000, state=state)
            )
            os.write(pipe, f"ended {turn}\n".encode())

    await asyncio.gather(*(session(f"s{n}") for n in range(5)))


def told_by(database: str, life: int, events: int) -> list[str]:
    """What a child told before it was killed, `events` lines after its first."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        asyncio.run(write(database, life, writing))
    os.close(writing)
    with os.fdopen(reading) as lines:
        told = [line for line, _ in zip(lines, range(events), strict=False)]
        os.kill(child, signal.SIGKILL)
        told += list(lines)
    os.waitpid(child, 0)
    return [line.strip() for line in told if line.endswith("\n")]


def wrong_with(database: str, told: list[str]) -> list[str]:
    connection = sqlite3.connect(database)
    found = [text for (text,) in connection.execute("PRAGMA integrity_check") if text != "ok"]
    found += [str(row) for row in connection.execute("PRAGMA foreign_key_check")]
    rows = dict(connection.execute("SELECT id, cause FROM turns"))
    connection.close()
    for line in told:
        event, turn = line.split()
        if turn not in rows or (event == "ended" and rows[turn] != "completed"):
            found.append(f"{line}, but it is {rows.get(turn, 'not there')}")
    return found


async def conversation(database: str) -> tuple[int, int]:
    store = Store(database, instance="i1")
    await store.open()
    turns = (await store.load(ConversationKey("g", "u", "s0"))).turns
    left_open = len(await store.ledger(open=True))
    await store.close()
    return turns, left_open


def main(database: str, times: int) -> None:
    told: list[str] = []
    wrong: list[str] = []
    chance = random.Random(7)
    for life in range(times):
        told += told_by(database, life, chance.randrange(1, 30))
        wrong += wrong_with(database, told)
    turns, left_open = asyncio.run(conversation(database))
    print(json.dumps({"told": len(told), "wrong": wrong[:5], "turns": turns, "open": left_open}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
