"""Which variables a worker gets."""

import pytest

from supervisor.processes.environment import choose

ENVIRON = {
    "PATH": "/bin",
    "HOME": "/root",
    "LC_TIME": "C",
    "LC": "no",
    "path": "no",
    "OPENAI_API_KEY": "secret",
    "OPENAI_BASE_URL": "url",
    "AWS_SECRET": "secret",
    "AGENTD_TOKEN": "secret",
    "AGENTD_LITERAL_1": "secret",
    "LD_PRELOAD": "no",
    "PYTHONSTARTUP": "no",
}
BASE = {"PATH", "HOME", "LC_TIME"}


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ((), BASE),
        (("OPENAI_*",), BASE | {"OPENAI_API_KEY", "OPENAI_BASE_URL"}),
        (("openai_*",), BASE),
        (("AWS_SECRET", "LC"), BASE | {"AWS_SECRET", "LC"}),
        (("AGENTD_*", "AGENTD_TOKEN"), BASE),
        (("*",), set(ENVIRON) - {"AGENTD_TOKEN", "AGENTD_LITERAL_1"}),
        (("[!A-Z]*",), BASE | {"path"}),
    ],
)
def test_only_what_was_chosen(patterns: tuple[str, ...], names: set[str]) -> None:
    assert choose(ENVIRON, patterns) == {name: ENVIRON[name] for name in names}
