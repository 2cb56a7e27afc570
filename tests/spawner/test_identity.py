"""Who a process is."""

import fcntl
import os
import signal
import subprocess
import threading
from pathlib import Path

from worker.spawner.identity import boot_id, lock_holder, open_if, open_pidfd, read_stat, signal_pidfd


def test_a_process_is_its_number_and_its_start_time() -> None:
    with subprocess.Popen(["sleep", "1000"]) as process:
        stat = read_stat(process.pid)
        assert stat is not None
        assert (stat.parent, stat.session) == (os.getpid(), os.getsid(0))
        pidfd = open_if(process.pid, stat.start_time)
        assert pidfd is not None
        assert open_if(process.pid, stat.start_time - 1) is None  # somebody else who bears its number now
        assert signal_pidfd(pidfd, signal.SIGKILL)
        assert process.wait() == -9
        assert not signal_pidfd(pidfd, signal.SIGKILL)
        assert open_if(process.pid, stat.start_time) is None
        assert read_stat(process.pid) is None
        os.close(pidfd)


def test_a_name_with_brackets_and_spaces_does_not_confuse(tmp_path: Path) -> None:
    program = tmp_path / ") R 1 (x"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([str(program), "1000"]) as process:
        stat = read_stat(process.pid)
        assert stat is not None
        assert stat.parent == os.getpid()
        process.kill()


def test_a_zombie_is_told_by_its_state() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    stat = read_stat(process.pid)
    assert stat is not None
    assert stat.state == "Z"
    process.wait()


def test_a_lock_names_who_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert lock_holder(path) is None
    path.touch()
    assert lock_holder(path) is None
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        held = os.open(path, os.O_RDWR)
        fcntl.lockf(held, fcntl.LOCK_EX)
        os.write(writer, b".")
        signal.pause()
    os.read(reader, 1)
    assert lock_holder(path) == pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert lock_holder(path) is None
    os.close(reader)
    os.close(writer)


def test_a_boot_has_a_name() -> None:
    assert len(boot_id()) == 36
    assert boot_id() == boot_id()


def test_a_number_that_a_thread_bears_is_no_process() -> None:
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        stat = read_stat(thread.native_id)
        assert stat is not None
        assert open_pidfd(thread.native_id) is None
        assert open_if(thread.native_id, stat.start_time) is None
    finally:
        over.set()
        thread.join()
