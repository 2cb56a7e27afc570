"""invoke_only, broken and raises: each fails in its own way, and in no other."""

import pytest

from tests.harness.agents import ask, build
from worker.addons.broken import Broken
from worker.addons.invoke_only import InvokeOnly
from worker.addons.raises import Raises
from worker.frames import FrameError, encode


async def test_invoke_only() -> None:
    assert InvokeOnly.handles() == ["invoke"]
    assert (await ask(build(InvokeOnly), kind="invoke", input={"a": 1})).final.value == {"a": 1}


@pytest.mark.parametrize("kind", ["chat", "invoke"])
async def test_broken(kind: str) -> None:
    answer = await ask(build(Broken), "?", kind=kind)
    with pytest.raises(FrameError):
        encode({"t": "event", "value": answer.final.value})


@pytest.mark.parametrize("kind", ["chat", "invoke"])
async def test_raises(kind: str) -> None:
    with pytest.raises(RuntimeError, match="this agent always fails"):
        await ask(build(Raises), "?", kind=kind)
