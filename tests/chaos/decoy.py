"""Strangers that take over the numbers of processes that have ended, and tell of every signal that reaches them.

``python decoy.py``: commands on stdin (``take PID``, ``release``), one line of answer to each, and a line ``hit PID
SIGNAL`` for every signal. Each stranger is a child of this process and has nothing to do with agentd. Numbers are
chosen by /proc/sys/kernel/ns_last_pid, which only root of a pid namespace may write: else ``missed PID``.
"""

import ctypes
import os
import select
import signal
import sys
from typing import Final, NoReturn

PR_SET_PDEATHSIG: Final = 1
LEAVE: Final = signal.SIGUSR1
TRIES: Final = 3
LAST: Final = "/proc/sys/kernel/ns_last_pid"
CLD: Final = {os.CLD_KILLED, os.CLD_DUMPED, os.CLD_STOPPED}

strangers: dict[int, bool] = {}


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


def stranger(parent: int) -> NoReturn:
    """All signals are blocked already, so that none is too early to be seen."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    while True:
        hit = signal.sigwaitinfo(signal.valid_signals())
        if hit.si_signo == LEAVE and hit.si_pid == parent:
            os._exit(0)
        say(f"hit {os.getpid()} {hit.si_signo}")


def take(wanted: int) -> None:
    for _ in range(TRIES):
        try:
            with open(LAST, "w") as file:
                file.write(str(wanted - 1))
        except OSError:
            break
        parent = os.getpid()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        pid = os.fork()
        if pid == 0:
            stranger(parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if pid == wanted:
            strangers[pid] = True
            say(f"took {pid}")
            return
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    say(f"missed {wanted}")


def look() -> None:
    """What cannot be caught shows in how a stranger ended, or that it stands still."""
    for pid in list(strangers):
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WSTOPPED | os.WNOHANG)
        if found is not None:
            tell(found)


def tell(found: os.waitid_result) -> None:
    if found.si_code in CLD:
        say(f"hit {found.si_pid} {found.si_status}")
    if found.si_code == os.CLD_STOPPED:
        os.kill(found.si_pid, signal.SIGCONT)
    else:
        del strangers[found.si_pid]


def release() -> None:
    while strangers:
        for pid in strangers:
            os.kill(pid, LEAVE)
        # Each ends by itself, unless it was killed or stopped, perhaps only just now.
        found = os.waitid(os.P_PID, next(iter(strangers)), os.WEXITED | os.WSTOPPED)
        tell(found)
    say("released")


def main() -> None:
    rest = b""
    while True:
        if select.select([0], [], [], 0.1)[0]:
            data = os.read(0, 4096)
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                word, *numbers = line.split()
                if word == b"take":
                    take(int(numbers[0]))
                else:
                    release()
        look()
    release()


if __name__ == "__main__":
    main()
    sys.exit(0)
