"""What `agentd doctor` checks on this machine, one small function each; nothing is changed or left behind."""

import ctypes
import os
import platform
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

from supervisor.addresses import Address
from supervisor.auth import KeysError
from supervisor.catalog import GraphCatalog
from supervisor.causes import EXPLANATIONS, Refusal
from supervisor.cli.client import ANY_ADDRESS, Client, Target
from supervisor.cli.errors import CommandError
from supervisor.keys import KeyFile
from supervisor.listener import listen
from supervisor.property import StartParameters
from supervisor.settings import Loaded, Settings
from worker.spawn import SOCKET_NAME

PYTHON: Final = (3, 11)
LONGEST_SOCKET_PATH: Final = 107  # bytes in sockaddr_un, less the NUL that ends it
PR_GET_CHILD_SUBREAPER: Final = 37
CONTROLLERS: Final = ("memory", "pids", "cpu")
FILES_PER_CHANNEL: Final = 8
FILES_OF_SERVER: Final = 256
PROCESSES_PER_CHANNEL: Final = 4
ADDON_GROUP: Final = "agentd.addons"
PROBE_SECONDS: Final = 2.0


class Status(StrEnum):
    """How a check went."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of one check; `next_step` is empty when there is nothing to do."""

    name: str
    status: Status
    finding: str
    next_step: str = ""


def check_all(loaded: Loaded) -> list[Check]:
    """All checks, in the order they are shown."""
    return [check for each in CHECKS for check in each(loaded)]


def _settings(loaded: Loaded) -> Iterator[Check]:
    for warning in loaded.warnings:
        yield Check("settings", Status.WARN, warning, "mend it; `agentd doctor --settings` lists what is allowed")
    if not loaded.warnings:
        yield Check("settings", Status.OK, f"{len(loaded.given)} given, the others are defaults")


def _python(_: Loaded) -> Iterator[Check]:
    good = sys.version_info >= PYTHON
    wanted = "" if good else "install Python {}.{} or newer".format(*PYTHON)
    yield Check("python", Status.OK if good else Status.FAIL, f"{platform.python_version()} ({sys.executable})", wanted)


def _kernel(_: Loaded) -> Iterator[Check]:
    release = platform.release()
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError) as error:
        yield Check("pidfd", Status.FAIL, f"not usable: {error}", f"agentd needs Linux 5.4 or newer, this is {release}")
    else:
        yield Check("pidfd", Status.OK, f"Linux {release}")
    answer = ctypes.c_int()
    failed = ctypes.CDLL(None, use_errno=True).prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(answer), 0, 0, 0)
    if failed:
        finding = f"prctl: {os.strerror(ctypes.get_errno())}"
        yield Check("subreaper", Status.FAIL, finding, "run agentd where prctl(PR_SET_CHILD_SUBREAPER) is allowed")
    else:
        yield Check("subreaper", Status.OK, "available")


def _cgroup(loaded: Loaded) -> Iterator[Check]:
    needed = loaded.settings.containment == "cgroup"
    bad = Status.FAIL if needed else Status.WARN
    fallback = "set AGENTD_CONTAINMENT=auto" if needed else "nothing need be done: process trees are swept instead"
    next_step = f"run agentd in a delegated cgroup (systemd: Delegate=cpu memory pids); {fallback}"
    if loaded.settings.containment == "sweep":
        yield Check("cgroup", Status.OK, "not used: containment is sweep")
        return
    folder = own_cgroup(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
    if folder is None:
        yield Check("cgroup", bad, "no cgroup2 file system is mounted", next_step)
        return
    leaf = folder / f"agentd-doctor-{os.getpid()}"
    try:
        leaf.mkdir()
    except OSError as error:
        yield Check("cgroup", bad, f"{folder} is not writable: {error.strerror}", next_step)
        return
    try:
        killable = (leaf / "cgroup.kill").exists()
        controllers = (folder / "cgroup.controllers").read_text().split()
    finally:
        leaf.rmdir()
    if not killable:
        yield Check("cgroup", bad, f"{folder} has no cgroup.kill", f"agentd needs Linux 5.14 or newer; {fallback}")
        return
    yield Check("cgroup", Status.OK, f"{folder} is writable, with cgroup.kill")
    if missing := [name for name in CONTROLLERS if name not in controllers]:
        finding = f"no controller for {', '.join(missing)}: limits on them are not, or only per process, enforced"
        yield Check(
            "cgroup limits", Status.WARN, finding, "delegate the controllers (systemd: Delegate=cpu memory pids)"
        )
    else:
        yield Check("cgroup limits", Status.OK, f"controllers {', '.join(CONTROLLERS)}")


def own_cgroup(mountinfo: str, membership: str) -> Path | None:
    """The folder of this process's cgroup in version 2, from the text of two files in /proc/self; None without one."""
    own = next((line[3:] for line in membership.splitlines() if line.startswith("0::")), None)
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 ") and own is not None:
            _, _, _, root, mount, *_ = before.split(" ")
            inside = own if root == "/" else own.removeprefix(root)
            return Path(mount.replace("\\040", " ")) / inside.lstrip("/")
    return None


def _state_folder(loaded: Loaded) -> Iterator[Check]:
    settings = loaded.settings
    for name, setting, folder in (
        ("state folder", "AGENTD_STATE_DIR", settings.state_dir),
        ("log folder", "LOG_PATH", settings.log_path),
    ):
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
            finding = f"{folder} cannot be written to: {existing} is not writable"
            yield Check(
                name, Status.FAIL, finding, f"set {setting} to a folder you may write to, or mend its permissions"
            )
        else:
            yield Check(name, Status.OK, f"{folder}" + ("" if existing == folder else " (made when the server starts)"))
    length = len(os.fsencode(settings.state_dir / SOCKET_NAME))
    if length > LONGEST_SOCKET_PATH:
        finding = f"{settings.state_dir / SOCKET_NAME} has {length} bytes, at most {LONGEST_SOCKET_PATH} are allowed"
        yield Check("socket path", Status.FAIL, finding, "set AGENTD_STATE_DIR to a folder with a shorter path")
    else:
        yield Check("socket path", Status.OK, f"{length} of {LONGEST_SOCKET_PATH} bytes")


def _keys(loaded: Loaded) -> Iterator[Check]:
    path = loaded.settings.keys_file
    try:
        count = len(KeyFile(path).rows())
    except (KeysError, OSError) as error:
        yield Check("keys", Status.FAIL, f"{path} cannot be used: {error}", "mend the file, or set AGENTD_KEYS_FILE")
    else:
        yield Check("keys", Status.OK, f"{count} in {path}" if path.exists() else f"none, there is no {path}")


def _ports(loaded: Loaded) -> Iterator[Check]:
    with ExitStack() as probes:  # all at the same time, as the server listens: two may exclude each other
        for address in loaded.settings.addresses:
            if address.port == 0:
                yield Check("port", Status.OK, f"{address}: any free one is taken")
            else:
                yield _port(address, loaded.settings, probes)


def _port(address: Address, settings: Settings, probes: ExitStack) -> Check:
    try:
        probes.enter_context(listen(address))
    except OSError as error:
        if _answers(settings, address):
            return Check("port", Status.OK, f"agentd answers at {address}")
        next_step = "end what uses it, or set AGENTD_LISTEN to another address"
        return Check("port", Status.FAIL, f"cannot listen at {address}: {error.strerror}", next_step)
    return Check("port", Status.OK, f"{address} is free")


def _answers(settings: Settings, address: Address) -> bool:
    reachable = Address(ANY_ADDRESS.get(address.host, address.host), address.port)
    token = None if settings.token is None else settings.token.get_secret_value()
    try:
        Client(Target(f"http://{reachable}", "settings", token), answer_seconds=PROBE_SECONDS).ten("GET", "/health")
    except CommandError:
        return False
    return True


def _graphs(loaded: Loaded) -> Iterator[Check]:
    settings = loaded.settings
    catalog = GraphCatalog(settings.property_file, app_dir=settings.import_dir, injections=settings.injections)
    try:
        names = [graph.name for graph in catalog.graphs()]
    except Refusal as refusal:
        yield _refused("property file", refusal)
        return
    finding = f"{settings.property_file}, {len(names)} graphs"
    yield Check(
        "property file", Status.OK if names else Status.WARN, finding, "" if names else "add a graph to the file"
    )
    for name in dict.fromkeys(names):
        yield _graph(name, catalog, loaded)


def _graph(name: str, catalog: GraphCatalog, loaded: Loaded) -> Check:
    check = f"graph {name}"
    settings = loaded.settings
    try:
        effective = catalog.select(name).prepare(StartParameters("doctor"))
        document = effective.for_worker(loaded.environment, settings.missing_env)
    except Refusal as refusal:
        return _refused(check, refusal, Status.WARN)
    if effective.options.command or settings.worker_command:
        return Check(check, Status.OK, "run by a foreign command")
    if missing := sorted(addons_of(document) - installed_addons()):
        next_step = "install them, or set AGENTD_UNKNOWN_ADDONS=skip to leave them inert"
        if settings.unknown_addons == "skip":
            return Check(check, Status.OK, f"add-ons that are left inert: {', '.join(missing)}")
        return Check(check, Status.WARN, f"add-ons not installed: {', '.join(missing)}", next_step)
    return Check(check, Status.OK, "can be started")


def _refused(check: str, refusal: Refusal, status: Status = Status.FAIL) -> Check:
    return Check(check, status, refusal.detail, EXPLANATIONS[refusal.cause].next_step)


def addons_of(document: Any) -> set[str]:
    """The add-ons the extension nodes of a channel's document name, in either layout of the file."""
    if isinstance(document, list):
        return set().union(*map(addons_of, document))
    if not isinstance(document, dict):
        return set()
    if document.get("type") == "extension" and isinstance(document.get("addon"), str):
        return {document["addon"]}
    return set().union(*(addons_of(value) for key, value in document.items() if key != "property"))


def installed_addons() -> set[str]:
    """The add-ons our workers can load: those of installed packages, and those in the folder of built-in ones."""
    built_in = Path(__file__).parents[2] / "worker" / "addons"
    names = {path.stem for path in built_in.glob("*.py") if not path.stem.startswith("_")}
    return names | {entry.name for entry in entry_points(group=ADDON_GROUP)}


def _limits(loaded: Loaded) -> Iterator[Check]:
    workers = loaded.settings.workers_max
    open_files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # the server raises its soft limit to the hard one
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    for name, limit, needed, command in (
        ("open files", open_files, FILES_OF_SERVER + FILES_PER_CHANNEL * workers, "ulimit -Hn"),
        ("processes", processes, PROCESSES_PER_CHANNEL * workers, "ulimit -u"),
    ):
        if limit != resource.RLIM_INFINITY and limit < needed:
            finding = f"limit of {limit}; {workers} workers may need {needed}"
            yield Check(name, Status.WARN, finding, f"raise it (`{command} {needed}`, as root), or lower WORKERS_MAX")
        else:
            told = "no limit" if limit == resource.RLIM_INFINITY else f"limit of {limit}"
            yield Check(name, Status.OK, f"{told}, {needed} needed for {workers} workers")


CHECKS: Final[tuple[Callable[[Loaded], Iterator[Check]], ...]] = (
    _settings,
    _python,
    _kernel,
    _cgroup,
    _state_folder,
    _keys,
    _ports,
    _graphs,
    _limits,
)
