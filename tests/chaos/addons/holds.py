"""One lock for each channel, which the kernel takes from the dead; a second worker of a channel is put on record.

``python holds.py FOLDER NAME``: a foreign worker with a daemon for a child, writing numbered lines to its output.
"""

import fcntl
import os
import signal
import sys
import time
from typing import NoReturn

DOUBLES = "doubles"
WITNESS = "witness"
LINE_SECONDS = 0.01


def hold(folder: str, name: str) -> int:
    """Take the lock of a channel, for this process and what it forks from now on."""
    fd = os.open(f"{folder}/hold-{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        note(folder, DOUBLES, name)
    note(folder, WITNESS, name)
    return fd


def note(folder: str, file: str, name: str) -> None:
    """Put on record that this process is of this channel, and since when."""
    with open("/proc/self/stat", "rb") as stat:
        start_time = int(stat.read().rpartition(b")")[2].split()[19])
    fd = os.open(f"{folder}/{file}", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.write(fd, f"{name} {os.getpid()} {start_time}\n".encode())
    os.close(fd)


def _daemon(folder: str, name: str) -> None:
    """A process that only containment finds: of another session and parent, deaf to SIGTERM."""
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(folder, WITNESS, name)
    while True:
        signal.pause()


def main(folder: str, name: str) -> NoReturn:
    hold(folder, name)
    _daemon(folder, name)
    number = 0
    while True:
        os.write(1, f"line {number}\n".encode())
        number += 1
        time.sleep(LINE_SECONDS)


if __name__ == "__main__":
    main(*sys.argv[1:])
