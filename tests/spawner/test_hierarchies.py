"""Which cgroup trees a process can see itself in, by the kernel's own tables."""

from pathlib import Path

import pytest

from worker.spawner.cgroup import Hierarchy, hierarchies

LINE = "{id} 1 0:{id} {root} {mount} rw,nosuid - {kind} {kind} {options}"


def mount(kind: str, point: str, root: str = "/", options: str = "rw") -> str:
    return LINE.format(id=30, root=root, mount=point, kind=kind, options=options)


V2 = mount("cgroup2", "/sys/fs/cgroup")
HYBRID = "\n".join(
    [
        mount("tmpfs", "/sys/fs/cgroup"),
        mount("cgroup2", "/sys/fs/cgroup/unified"),
        mount("cgroup", "/sys/fs/cgroup/systemd", options="rw,xattr,name=systemd"),
        mount("cgroup", "/sys/fs/cgroup/memory", options="rw,memory"),
        mount("cgroup", "/sys/fs/cgroup/cpu,cpuacct", options="rw,cpu,cpuacct"),
    ]
)


def tree(own: str, *controllers: str) -> Hierarchy:
    return Hierarchy(controllers, Path(own))


@pytest.mark.parametrize(
    ("mounts", "membership", "found"),
    [
        pytest.param(V2, "0::/", [tree("/sys/fs/cgroup")], id="v2, in the root"),
        pytest.param(V2, "0::/a.slice/b.service", [tree("/sys/fs/cgroup/a.slice/b.service")], id="v2, in a service"),
        pytest.param(
            HYBRID,
            "9:name=systemd:/init\n4:memory:/m\n2:cpu,cpuacct:/c\n0::/u",
            [
                tree("/sys/fs/cgroup/unified/u"),
                tree("/sys/fs/cgroup/systemd/init", "name=systemd"),
                tree("/sys/fs/cgroup/memory/m", "memory"),
                tree("/sys/fs/cgroup/cpu,cpuacct/c", "cpu", "cpuacct"),
            ],
            id="hybrid",
        ),
        pytest.param(
            mount("cgroup", "/cg/memory", options="rw,memory"),
            "5:pids:/\n4:memory:/",
            [tree("/cg/memory", "memory")],
            id="v1 only, one tree mounted",
        ),
        pytest.param(
            mount("cgroup2", "/sys/fs/cgroup", root="/docker/abc"),
            "0::/docker/abc/x",
            [tree("/sys/fs/cgroup/x")],
            id="bind mount of a subtree, host namespace",
        ),
        pytest.param(
            mount("cgroup2", "/sys/fs/cgroup", root="/docker/abc"),
            "0::/docker/abc",
            [tree("/sys/fs/cgroup")],
            id="the same, in its root",
        ),
        pytest.param(
            mount("cgroup2", "/sys/fs/cgroup", root="/docker/abc"), "0::/docker/abcd", [], id="a sibling is not inside"
        ),
        pytest.param(mount("cgroup2", "/sys/fs/cgroup", root="/.."), "0::/", [], id="mounted above our namespace"),
        pytest.param(V2, "0::/../../other", [], id="moved out of our namespace"),
        pytest.param(
            mount("cgroup2", r"/mnt/with\040space"), "0::/x", [tree("/mnt/with space/x")], id="escapes in a path"
        ),
        pytest.param(V2, "", [], id="no membership"),
        pytest.param("", "0::/", [], id="nothing mounted"),
        pytest.param(mount("ext4", "/"), "0::/", [], id="no cgroups mounted"),
        pytest.param(V2, "0::/a:b", [tree("/sys/fs/cgroup/a:b")], id="a colon in a name"),
    ],
)
def test_hierarchies(mounts: str, membership: str, found: list[Hierarchy]) -> None:
    assert list(hierarchies(mounts, membership)) == found
