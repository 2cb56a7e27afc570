"""Add-ons that misbehave. Found by their entry points when this folder is on PYTHONPATH."""

import asyncio
import os

import beasts
import prisoner

from worker.agent import Node


class Sleeper(Node):
    """Never gets ready."""

    async def start(self) -> None:
        await asyncio.Event().wait()


class Beast(Node):
    """Does what the property ``beast`` names, in its start or, with ``cue``, when the word is given.

    With ``deaf`` it does not read what the supervisor tells it.
    """

    async def start(self) -> None:
        properties = self.context.properties
        self._folder = properties["folder"]
        self._beast = getattr(beasts, properties["beast"])
        if properties.get("deaf"):
            self._close_ears()
        if properties.get("cue"):
            self._cue = os.open(f"{self._folder}/cue", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            asyncio.get_running_loop().add_reader(self._cue, self._act)
        else:
            self._beast(beasts.Say(self._folder))

    def _act(self) -> None:
        asyncio.get_running_loop().remove_reader(self._cue)
        os.read(self._cue, 1)
        os.close(self._cue)
        self._beast(beasts.Say(self._folder))

    def _close_ears(self) -> None:
        down = os.path.realpath(beasts.channel_file("down"))
        for number in os.listdir("/proc/self/fd"):
            if os.path.exists(f"/proc/self/fd/{number}") and os.path.realpath(f"/proc/self/fd/{number}") == down:
                asyncio.get_running_loop().remove_reader(int(number))


class Teller(Node):
    """Tells what it finds itself in, as its state."""

    async def start(self) -> None:
        with open(beasts.channel_file("environment"), "w") as file:
            file.write("\0".join(f"{name}={value}" for name, value in os.environ.items()))
        beasts.Say(self.context.properties["folder"])("told")


class Prisoner(Node):
    """Tries to get out, in its start; ``targets`` as in `prisoner`."""

    async def start(self) -> None:
        await asyncio.to_thread(prisoner.tell, self.context.properties["targets"])
