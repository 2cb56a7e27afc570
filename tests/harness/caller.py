"""The command `agentd chat` in front of some server, in a pipe or in a terminal."""

import asyncio
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.harness import leaks
from tests.harness.terminal import SECONDS, Terminal


@dataclass
class Done:
    code: int
    out: str
    err: str


class Caller:
    """Runs the command in `folder`; `close` ends what still runs."""

    def __init__(self, folder: Path, url: str = "", token: str = "") -> None:
        self.folder = folder
        self.url = url
        self.token = token
        self.processes: list[asyncio.subprocess.Process] = []

    async def close(self) -> None:
        for process in self.processes:
            if process.returncode is None:
                os.kill(process.pid, signal.SIGKILL)  # Popen's would take the status of one that has ended
                await process.wait()

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", leaks.MARK)}
        return {**kept, "AGENTD_SERVER": self.url, "AGENTD_TOKEN": self.token, "HOME": str(self.folder)}

    def command(self, *arguments: str, patch: str = "") -> list[str]:
        if not patch:
            return [sys.executable, "-m", "supervisor", "chat", *arguments]
        code = f"import sys; from supervisor.cli import asking, main; {patch}; sys.exit(main(sys.argv[1:]))"
        return [sys.executable, "-c", code, "chat", *arguments]

    async def begin(self, *arguments: str, patch: str = "", **variables: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *self.command(*arguments, patch=patch),
            cwd=self.folder,
            env={**self.environment, **variables},
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
        )
        self.processes.append(process)
        return process

    async def run(self, *arguments: str, lines: bytes = b"", patch: str = "", **variables: str) -> Done:
        process = await self.begin(*arguments, patch=patch, **variables)
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate(lines)
        return Done(process.returncode or 0, out.decode(errors="surrogateescape"), err.decode())

    def terminal(
        self, *arguments: str, patch: str = "", stdin: bytes | None = None, columns: int = 100, **variables: str
    ) -> Terminal:
        """The command in a terminal; with `stdin` that is a file with this content."""
        command = self.command(*arguments, patch=patch)
        if stdin is not None:
            (self.folder / "stdin").write_bytes(stdin)
            command = ["/bin/sh", "-c", '"$@" < stdin', "sh", *command]
        return Terminal(command, {**self.environment, **variables}, self.folder, columns)
