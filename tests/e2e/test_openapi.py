"""The API is as its description says: schemathesis asks a real server everything it can think of."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.harness import Agentd

SECONDS = 90.0
GRAPHS = {"enum": ["echo", "friday"]}
LOBBY = {"enum": ["lobby", "nobody"]}

# Seeded. A refusal by a status of its own is an answer (501 to 504: docs/causes.md), an unexpected error is not.
# TEN's endpoints refuse by codes with status 200; whether a start, an update or a turn is taken depends on more than
# a schema can say (what the graph allows, that 1.0 is no integer, which of two inputs is given).
CONFIG = """
seed = 7
workers = 1
max-stream-events = 3
request-timeout = 10.0
[generation]
database = "none"
max-examples = 8
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 501, 502, 503, 504]
[[operations]]
include-tag = "TEN"
checks.negative_data_rejection.enabled = false
[[operations]]
include-operation-id = ["startChannel", "updateChannel", "askChannel", "askSession"]
checks.positive_data_acceptance.enabled = false
"""


def narrowed(document: dict[str, Any]) -> dict[str, Any]:
    """The description with names that are there: else nearly everything would be unknown.

    What does not end (events, logs that are followed) has tests of its own, and so has the drain, after which there is
    little that could be asked.
    """
    schemas = document["components"]["schemas"]
    for body in ("ChannelBody", "SessionTurnBody"):
        schemas[body]["properties"]["graph"] = GRAPHS
    paths = {path: methods for path, methods in document["paths"].items() if not path.endswith("/events")}
    del paths["/drain"]
    for path, methods in paths.items():
        for method, operation in methods.items():
            parameters = [one for one in operation.get("parameters", ()) if one["name"] != "follow"]
            operation["parameters"] = parameters
            for parameter in parameters:
                if parameter["name"] == "name" and (method, path) != ("delete", "/channels/{name}"):
                    parameter["schema"] = LOBBY
    return {**document, "paths": paths}


async def test_the_server_is_as_its_description_says(agentd: Agentd, tmp_path: Path) -> None:
    await agentd.start(
        WORKERS_MAX="6",
        WORKER_QUIT_TIMEOUT_SECONDS="1",
        WORKER_START_TIMEOUT_SECONDS="1",
        AGENTD_SESSION_IDLE_SECONDS="0.2",
        AGENTD_TURN_SECONDS="5",
    )
    await agentd.begin("lobby", "friday", timeout=-1)
    document = await agentd.get("/openapi.json")
    assert document.pop("status") == 200
    (tmp_path / "openapi.json").write_text(json.dumps(narrowed(document)))
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from schemathesis.cli import schemathesis; schemathesis()",
        "run",
        "openapi.json",
        f"--url={agentd.address}",
        "--continue-on-failure",
        "--no-color",
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "COLUMNS": "200", "SCHEMATHESIS_HOOKS": ""},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(SECONDS):
            output = (await process.communicate())[0].decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == 0, output
    assert (await agentd.get("/health"))["code"] == "0"
    unexpected = [event for event in agentd.events if event.get("event") in ("http.failed", "http.unheard_failure")]
    assert unexpected == []
