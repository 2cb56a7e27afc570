"""A forked child that confines itself, as this user and as one without privileges; and what is said of a machine."""

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.spawner.test_seccomp import in_child
from worker.spawn import Isolation, Limits, SpawnRequest
from worker.spawner import landlock
from worker.spawner.isolation import Abilities, Ground
from worker.spawner.linux import PR_SET_NO_NEW_PRIVS, prctl
from worker.spawner.places import places

sys.path.append(str(Path(__file__).parents[1] / "zoo"))
import prisoner

ABI = landlock.abi()
NOBODY = 65534
USERS = pytest.mark.parametrize(
    "user", [os.geteuid(), *([NOBODY] if os.geteuid() == 0 else [])], ids=lambda user: f"uid {user}"
)


def test_what_is_missing_is_said_for_each_level() -> None:
    rows = Abilities(landlock=2, seccomp=True, bwrap="bwrap is not installed").levels()
    assert rows["basic"] == {"got": "basic", "missing": [], "refused": ""}
    assert rows["confined"]["got"] == "confined"
    assert any("signalled" in text for text in rows["confined"]["missing"])
    assert rows["namespaced"]["refused"] == "bwrap is not installed"
    assert Abilities(2, True, "none").refusal("namespaced") == "isolation 'namespaced': none"
    assert Abilities(6, True, "").refusal("namespaced") == ""
    assert Abilities(6, True, "").notes() == []
    assert "there are only basic" in Abilities(6, True, "").refusal("vm")


@pytest.mark.parametrize(("abi", "filters"), [(0, True), (6, False), (0, False)])
def test_half_a_confinement_is_not_called_one(abi: int, filters: bool) -> None:
    row = Abilities(abi, filters, "").levels()["confined"]
    assert row["got"] == "basic"
    assert row["missing"]
    assert row["refused"] == ""


def test_a_request_of_another_version_is_understood() -> None:
    request = SpawnRequest(id="1", folder="/x", environment={}, limits=Limits())
    message = json.loads(json.dumps(request.to_message()))
    del message["isolation"]
    assert SpawnRequest.from_message(message).isolation == Isolation(level="basic")
    message["isolation"] = {"level": "confined", "read": ["/srv"], "moon": 1, "connect_ports": [1]}
    assert SpawnRequest.from_message(message).isolation == Isolation(
        level="confined", read=("/srv",), connect_ports=(1,)
    )


@pytest.fixture
def bystander() -> Iterator[dict[str, int]]:
    """A process of each user, outside."""
    reader, writer = os.pipe()
    pids = {}
    for user in {os.geteuid(), NOBODY} if os.geteuid() == 0 else {os.geteuid()}:
        pid = os.fork()
        if pid == 0:
            if user != os.geteuid():
                os.setresgid(user, user, user)
                os.setresuid(user, user, user)
            prctl(4, 1)  # dumpable again, as a process that was started anew
            os.write(writer, b".")
            while True:
                signal.pause()
        pids[str(user)] = pid
        os.read(reader, 1)
    os.close(reader)
    os.close(writer)
    yield pids
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that other users can go through, as they cannot through pytest's."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(ABI == 0, reason="this kernel has no Landlock")
@USERS
@pytest.mark.parametrize("level", ["basic", "confined"])
@pytest.mark.parametrize("prepared", [True, False])
def test_a_child_is_bound(public: Path, user: int, level: str, prepared: bool, bystander: dict[str, int]) -> None:
    own, other = public / "own", public / "other"
    for folder in (own, other):
        folder.mkdir()
        os.chown(folder, user, -1)
    (other / "secret").write_text("s")
    os.chown(other / "secret", user, -1)
    targets: dict[str, Any] = {
        "read": {"secret": str(other / "secret")},
        "list": {"other": str(other)},
        "write": {"other": str(other / "new")},
        "processes": {"bystander": bystander[str(user)]},
        "truncate": str(other / "secret"),
    }
    ground = Ground(places())

    def bound() -> str:
        if user != os.geteuid():
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        prctl(4, 1)
        before = len(os.listdir("/proc/self/fd"))
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        # Capabilities were looked up when there were more of them, or as in a spawner of this user.
        mine = ground if user == os.geteuid() and os.geteuid() == 0 else Ground(ground.base)
        mine.confine(Isolation(level=level), str(own), mine.prepare() if prepared else None)
        outcomes = {name: prisoner.tried(act) for name, act in prisoner.escapes(targets).items()}
        outcomes["own"] = prisoner.tried(lambda: prisoner.write(str(own / "x")))
        outcomes["kept open"] = str(len(os.listdir("/proc/self/fd")) - before)
        return json.dumps(outcomes)

    found = json.loads(in_child(bound))
    assert found.pop("kept open") == "0", "no ruleset"
    assert found["own"] == "done"
    done = {name for name, outcome in found.items() if outcome == "done"} - {"own"}
    if level == "confined":
        assert done <= (set() if ABI >= 6 else {"signal bystander"})
        assert {found[name] for name in found if name.startswith("call ")} == {"EPERM"}
    else:
        assert done >= {"read secret", "list other", "write other", "signal bystander", "limit bystander", "truncate"}
        assert done >= {"read environment of bystander"}


@pytest.mark.skipif(ABI == 0, reason="this kernel has no Landlock")
def test_an_unknown_level_starts_nobody() -> None:
    ground = Ground(places())
    with pytest.raises(ValueError, match="isolation 'vm'; allowed: basic, confined, namespaced"):
        ground.confine(Isolation(level="vm"), "/nowhere")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to lose")
def test_root_keeps_few_capabilities(tmp_path: Path) -> None:
    ground = Ground(places())

    def bound() -> str:
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        ground.confine(Isolation(level="confined"), str(tmp_path))
        lines = Path("/proc/self/status").read_text().splitlines()
        return " ".join(line.split()[1] for line in lines if line.startswith(("CapEff", "CapPrm", "CapInh")))

    assert in_child(bound).decode().split() == ["0000000000000000", "00000000000004fb", "00000000000004fb"]
