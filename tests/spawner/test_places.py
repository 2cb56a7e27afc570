"""What a folder is granted as when it holds what a worker may not see, or not change."""

from pathlib import Path

import pytest

from worker.spawn import CONFINED, Isolation
from worker.spawner.landlock import LIST, READ, WRITE
from worker.spawner.places import Grant, Places, base_of, granted, is_whole, places

NOTHING = Places((), (), (), ())


@pytest.fixture
def app(tmp_path: Path) -> Path:
    for name in ("app/data", "app/deep/state/ch", "app/lib", "own"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("app/property.json", "app/.env", "app/main.py"):
        (tmp_path / name).write_text("")
    (tmp_path / "app" / "link").symlink_to("/etc")
    return tmp_path / "app"


def of(app: Path, base: Places = NOTHING, **fields: tuple[str, ...]) -> dict[str, int]:
    found = list(granted(Isolation(level=CONFINED, **fields), str(app.parent / "own"), base))  # type: ignore[arg-type]
    assert found.pop(0) == Grant(str(app.parent / "own"), WRITE)
    return {str(Path(path).relative_to(app)): access for path, access in found}


def test_a_folder_without_secrets_is_granted_whole(app: Path) -> None:
    assert of(app, read=(str(app),), hidden=(str(app.parent / "own"),)) == {".": READ}


def test_what_is_hidden_is_left_out(app: Path) -> None:
    hidden = (str(app / "deep/state"), str(app / ".env"), str(app / "not there"))
    assert of(app, read=(str(app),), hidden=hidden) == {
        ".": LIST,
        "data": READ,
        "deep": LIST,
        "lib": READ,
        "main.py": READ,
        "property.json": READ,
    }


def test_what_is_hidden_can_be_named(app: Path) -> None:
    hidden = (str(app / "deep/state"),)
    assert of(app, read=(str(app / "deep/state/ch"),), hidden=hidden) == {"deep/state/ch": READ}
    assert of(app, read=(str(app / "deep/state"),), hidden=hidden) == {"deep/state": READ}


def test_what_a_worker_made_a_link_of_is_not_granted(app: Path) -> None:
    hidden = (str(app / "deep/state"),)
    (app / "data" / "out").symlink_to(app / "deep" / "state")
    assert of(app, write=(str(app / "data"), str(app / "data/out")), hidden=hidden) == {"data": WRITE}
    assert of(app, read=(str(app / "data/out"),), hidden=hidden) == {}, "another graph's folder, perhaps"
    (app / "data" / "elsewhere").symlink_to("/etc")
    assert of(app, write=(str(app / "data"),), read=(str(app / "data/elsewhere"),)) == {"data": WRITE}


def test_what_is_fixed_cannot_be_written_to_unless_it_is_named(app: Path) -> None:
    base = Places((), (str(app / "lib"),), (), ())
    found = of(app, base, write=(str(app),), fixed=(str(app / "property.json"),), hidden=(str(app / "deep"),))
    assert found == {
        ".": LIST,
        ".env": WRITE,
        "data": WRITE,
        "lib": READ,
        "main.py": WRITE,
        "property.json": READ,
    }
    assert of(app, base, write=(str(app / "lib"),)) == {"lib": WRITE}


def test_names_are_those_of_the_real_place(app: Path) -> None:
    (app.parent / "alias").symlink_to(app)
    assert of(app, read=(str(app.parent / "alias" / "data"),)) == {"data": READ}


def test_the_base_has_no_secrets_either(app: Path) -> None:
    base = Places((Grant(str(app), READ),), (), (f"{app}/",), ())
    secret = Isolation(level=CONFINED, hidden=(str(app / ".env"),))
    assert not is_whole(secret, base)
    assert is_whole(Isolation(level=CONFINED, hidden=(str(app.parent / "own"),)), base)
    assert str(app / ".env") not in dict(base_of(secret, base))
    assert list(base_of(Isolation(level=CONFINED), base)) == list(base.grants)


def test_the_base_of_this_machine() -> None:
    found = dict(places().grants)
    assert found["/usr"] == READ
    assert not {path for path, access in found.items() if access == WRITE} - {"/dev/shm"}
    for secret in ("/", "/root", "/home", "/etc", "/etc/shadow", "/run", "/tmp", "/var", "/dev"):
        assert secret not in found
