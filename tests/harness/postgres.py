"""A PostgreSQL server of the tests' own, from Debian's binaries: a socket in a folder, no TCP, nothing survives it."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import asyncpg

VERSIONS = Path("/usr/lib/postgresql")
START_SECONDS = 30.0
USER = "agentd"
# What is killed takes its server along: no fixture ends it then.
_MORTAL = ("setpriv", "--pdeathsig", "INT") if shutil.which("setpriv") else ()


class PostgresMissingError(Exception):
    """This machine has no PostgreSQL."""


def binaries() -> Path:
    """The folder of the newest PostgreSQL's programs; raises PostgresMissingError."""
    found = sorted(VERSIONS.glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("postgres")
    if on_path:
        return Path(on_path).resolve().parent
    raise PostgresMissingError(f"no postgres below {VERSIONS} or on PATH; on Debian: apt-get install postgresql")


class Postgres:
    """One server. `start` makes a cluster in a folder of its own and serves it, `stop` removes both."""

    def __init__(self) -> None:
        self._programs = binaries()
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        # Not below a test's folder: only this user may enter that, and the server runs as another one.
        self.folder = Path(tempfile.mkdtemp(prefix="agentd-pg-", dir="/tmp"))
        self._as_user: dict[str, object] = {}
        if os.geteuid() == 0:  # PostgreSQL refuses to be root
            names = {entry.pw_name for entry in pwd.getpwall()}
            user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}

    def start(self) -> None:
        """Make the cluster and serve it; returns when it answers."""
        kind = ("--username", USER, "--auth=trust", "--encoding=UTF8", "--locale=C")
        self._run("initdb", "--pgdata", "data", "--no-sync", *kind)
        self.resume()

    def resume(self) -> None:
        """Serve the cluster there is."""
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "fsync": "off",
            "max_connections": "60",
            "shared_buffers": "16MB",
            "autovacuum": "off",
        }
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*_MORTAL, self._programs / "postgres", "-D", "data", *settings],
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,  # an interrupt is for pytest, which then stops it
                **self._as_user,
            )
        self._wait_ready()

    def signal(self, number: int) -> None:
        """Send a signal to every process of the server."""
        assert self._process is not None
        os.killpg(self._process.pid, number)
        for child in Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), number)

    def halt(self) -> None:
        """End the server as a crash would: nobody is told, nothing is written."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(START_SECONDS)
            self._process = None

    def stop(self) -> None:
        """End the server, remove the cluster."""
        self.halt()
        shutil.rmtree(self.folder)

    def url(self, database: str = "postgres") -> str:
        """What AGENTD_STORE would be."""
        return f"postgresql://{USER}@/{database}?host={self.folder}"

    async def connect(self, database: str = "postgres") -> asyncpg.Connection:
        """A connection beside agentd's own."""
        return await asyncpg.connect(host=str(self.folder), user=USER, database=database)

    async def new_database(self) -> str:
        """The name of an empty database."""
        self._databases += 1
        name = f"test{self._databases}"
        await self.execute(f"CREATE DATABASE {name}")
        return name

    async def drop(self, database: str) -> None:
        """Remove a database, whoever is connected to it."""
        await self.execute(f"DROP DATABASE {database} WITH (FORCE)")

    async def execute(self, statement: str) -> None:
        connection = await self.connect()
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments],
            cwd=self.folder,
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
            **self._as_user,
        )
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"

    def _environment(self) -> dict[str, str]:
        """No mark of a test: the server outlives each of them."""
        return {"PATH": os.environ["PATH"], "LC_ALL": "C"}

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        pid_file = self.folder / "data" / "postmaster.pid"
        while time.monotonic() < deadline:
            assert self._process is not None
            lines = pid_file.read_text().splitlines() if pid_file.exists() else []
            if len(lines) >= 8 and lines[7].strip() == "ready" and int(lines[0]) == self._process.pid:
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"PostgreSQL did not start: {(self.folder / 'log').read_text()}")
