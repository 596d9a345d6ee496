# SPDX-License-Identifier: MIT
"""CPU quotas of control groups, both versions, read from a tree made up for the test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastattn import threads

V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNT = "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
V1_OTHER = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
V1_CPUSET = "36 31 0:33 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
ROOT_MOUNT = "23 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw,discard\n"


class Tree:
    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, text: str) -> Tree:
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return self

    def proc(self, cgroup: str, mounts: str | None) -> Tree:
        self.write("/proc/self/cgroup", cgroup)
        return self if mounts is None else self.write("/proc/self/mountinfo", mounts)

    def quota(self) -> threads.CpuQuota:
        return threads.cpu_quota(self.root)

    def v1(self, group: str, quota: str, period: str = "100000") -> Tree:
        folder = f"/sys/fs/cgroup/cpu,cpuacct{group}"
        return self.write(f"{folder}/cpu.cfs_quota_us", quota).write(f"{folder}/cpu.cfs_period_us", period)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_nothing_there(tree: Tree) -> None:
    assert tree.quota() == (None, None, ())


def test_real_machine_does_not_raise() -> None:
    quota = threads.cpu_quota()
    assert quota.cpus is None or quota.cpus > 0


# ---- version 2 ----


def test_v2_inside_a_container(tree: Tree) -> None:
    """With a namespace of its own a container sees its group as the root."""
    tree.proc("0::/\n", ROOT_MOUNT + V2_MOUNT).write("/sys/fs/cgroup/cpu.max", "250000 100000\n")
    assert tree.quota() == (2.5, "/sys/fs/cgroup/cpu.max", ())


def test_v2_smallest_of_all_ancestors(tree: Tree) -> None:
    tree.proc("0::/kubepods/pod1/box\n", V2_MOUNT)
    tree.write("/sys/fs/cgroup/kubepods/pod1/box/cpu.max", "400000 100000\n")
    tree.write("/sys/fs/cgroup/kubepods/pod1/cpu.max", "30000 10000\n")
    tree.write("/sys/fs/cgroup/kubepods/cpu.max", "max 100000\n")
    assert tree.quota() == (3.0, "/sys/fs/cgroup/kubepods/pod1/cpu.max", ())


def test_v2_own_group_smaller_than_its_ancestors(tree: Tree) -> None:
    tree.proc("0::/a/b\n", V2_MOUNT).write("/sys/fs/cgroup/a/b/cpu.max", "150000 100000")
    tree.write("/sys/fs/cgroup/a/cpu.max", "800000 100000")
    assert tree.quota().cpus == 1.5


def test_v2_no_limit(tree: Tree) -> None:
    tree.proc("0::/a\n", V2_MOUNT).write("/sys/fs/cgroup/a/cpu.max", "max 100000\n")
    assert tree.quota() == (None, None, ())


def test_v2_controller_not_enabled_for_the_own_group(tree: Tree) -> None:
    """systemd hands the CPU controller to slices, not to every leaf: an ancestor's limit still holds."""
    tree.proc("0::/user.slice/session\n", V2_MOUNT)
    tree.write("/sys/fs/cgroup/user.slice/cpu.max", "100000 100000\n")
    (tree.root / "sys/fs/cgroup/user.slice/session").mkdir()
    assert tree.quota().cpus == 1.0


def test_v2_mounted_elsewhere_with_a_space(tree: Tree) -> None:
    tree.proc("0::/a\n", V2_MOUNT.replace("/sys/fs/cgroup ", "/mnt/my\\040groups "))
    tree.write("/mnt/my groups/a/cpu.max", "200000 100000\n")
    assert tree.quota() == (2.0, "/mnt/my groups/a/cpu.max", ())


def test_v2_mount_shows_a_part_of_the_hierarchy(tree: Tree) -> None:
    tree.proc("0::/docker/box/app\n", V2_MOUNT.replace(" / /sys", " /docker/box /sys"))
    tree.write("/sys/fs/cgroup/app/cpu.max", "400000 100000\n").write("/sys/fs/cgroup/cpu.max", "200000 100000\n")
    assert tree.quota().cpus == 2.0


def test_v2_group_outside_of_the_namespace(tree: Tree) -> None:
    """A process moved in from outside is shown as "/../x"; nothing above the mount point is read."""
    tree.proc("0::/../../elsewhere\n", V2_MOUNT).write("/sys/fs/cgroup/cpu.max", "200000 100000\n")
    tree.write("/elsewhere/cpu.max", "1000 100000\n").write("/sys/elsewhere/cpu.max", "1000 100000\n")
    assert tree.quota() == (2.0, "/sys/fs/cgroup/cpu.max", ())


def test_v2_without_mountinfo(tree: Tree) -> None:
    tree.proc("0::/a\n", None).write("/sys/fs/cgroup/a/cpu.max", "200000 100000\n")
    assert tree.quota().cpus == 2.0


# ---- version 1 ----


def test_v1(tree: Tree) -> None:
    tree.proc("5:memory:/x\n4:cpu,cpuacct:/docker/box\n", V1_OTHER + V1_MOUNT).v1("/docker/box", "350000\n")
    assert tree.quota() == (3.5, "/sys/fs/cgroup/cpu,cpuacct/docker/box/cpu.cfs_quota_us", ())


def test_v1_smallest_of_all_ancestors(tree: Tree) -> None:
    tree.proc("4:cpuacct,cpu:/a/b/c\n", V1_MOUNT)
    tree.v1("/a/b/c", "-1\n").v1("/a/b", "60000\n", "20000\n").v1("/a", "200000\n").v1("", "-1\n")
    assert tree.quota() == (2.0, "/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", ())


def test_v1_container_without_a_namespace(tree: Tree) -> None:
    """The group has its name on the host, the mount shows the group itself."""
    tree.proc("4:cpu,cpuacct:/docker/0123\n", V1_MOUNT.replace(" / /sys", " /docker/0123 /sys"))
    tree.v1("", "150000\n")
    assert tree.quota().cpus == 1.5


def test_v1_unlimited(tree: Tree) -> None:
    tree.proc("4:cpu,cpuacct:/\n", V1_MOUNT).v1("", "-1\n")
    assert tree.quota() == (None, None, ())


def test_v1_cpuset_is_not_cpu(tree: Tree) -> None:
    tree.proc("3:cpuset:/a\n", V1_CPUSET).write("/sys/fs/cgroup/cpuset/a/cpu.cfs_quota_us", "1000\n")
    assert tree.quota() == (None, None, ())


def test_v1_without_mountinfo(tree: Tree) -> None:
    tree.proc("4:cpu,cpuacct:/a\n", None).write("/sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "200000\n")
    tree.write("/sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000\n")
    assert tree.quota().cpus == 2.0


def test_both_versions_at_once(tree: Tree) -> None:
    """Hybrid systems have the CPU controller in one of the two; the smaller limit holds in any case."""
    hybrid = V2_MOUNT.replace("/sys/fs/cgroup ", "/sys/fs/cgroup/unified ")
    tree.proc("4:cpu,cpuacct:/a\n1:name=systemd:/a\n0::/a\n", hybrid + V1_MOUNT).v1("/a", "300000\n")
    assert tree.quota().cpus == 3.0
    tree.write("/sys/fs/cgroup/unified/a/cpu.max", "200000 100000\n")
    assert tree.quota().cpus == 2.0


# ---- files that make no sense ----


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "max",
        "100000",
        "0 100000",
        "100000 0",
        "-5 100000",
        "1e5 100000",
        "a b",
        "1 2 3",
        "9" * 400 + " 100000",
        "\x00\x00",
        "٣ ٤",
    ],
)
def test_v2_malformed_files_are_left_out_and_named(tree: Tree, text: str) -> None:
    tree.proc("0::/a/b\n", V2_MOUNT).write("/sys/fs/cgroup/a/b/cpu.max", text)
    tree.write("/sys/fs/cgroup/a/cpu.max", "200000 100000\n")
    quota = tree.quota()
    assert (quota.cpus, quota.source) == (2.0, "/sys/fs/cgroup/a/cpu.max")
    assert len(quota.notes) == 1 and quota.notes[0].startswith("/sys/fs/cgroup/a/b/cpu.max: ")


@pytest.mark.parametrize(
    ("quota", "period"),
    [("", "100000"), ("100000", ""), ("100000", "0"), ("0", "100000"), ("-2", "100000"), ("x", "y"), ("1.5", "100000")],
)
def test_v1_malformed_files_are_left_out_and_named(tree: Tree, quota: str, period: str) -> None:
    found = tree.proc("4:cpu,cpuacct:/\n", V1_MOUNT).v1("", quota, period).quota()
    assert (found.cpus, found.source) == (None, None)
    assert len(found.notes) == 1 and "cpu.cfs_quota_us" in found.notes[0]


def test_v1_period_missing(tree: Tree) -> None:
    tree.proc("4:cpu,cpuacct:/\n", V1_MOUNT).write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "100000\n")
    assert tree.quota().cpus is None
    assert len(tree.quota().notes) == 1


def test_malformed_membership_is_named(tree: Tree) -> None:
    tree.proc("nonsense\n0:\n0::relative\n0::/\n", V2_MOUNT).write("/sys/fs/cgroup/cpu.max", "100000 100000")
    quota = tree.quota()
    assert quota.cpus == 1.0
    assert len(quota.notes) == 3


def test_unreadable_file_is_named(tree: Tree) -> None:
    """A folder in the file's place: the same OSError path as a denied one, and it also fails for root."""
    tree.proc("0::/\n", V2_MOUNT)
    (tree.root / "sys/fs/cgroup/cpu.max").mkdir(parents=True)
    quota = tree.quota()
    assert quota.cpus is None
    assert len(quota.notes) == 1 and "cannot be read" in quota.notes[0]


@given(cgroup=st.text(max_size=200), mounts=st.text(max_size=200), limit=st.binary(max_size=60))
def test_any_text_gives_an_answer(
    tmp_path_factory: pytest.TempPathFactory, cgroup: str, mounts: str, limit: bytes
) -> None:
    root = tmp_path_factory.mktemp("fuzz")
    (root / "proc/self").mkdir(parents=True)
    (root / "sys/fs/cgroup").mkdir(parents=True)
    (root / "proc/self/cgroup").write_bytes(b"0::/\n" + os.fsencode(cgroup.encode("utf-8", "replace")))
    (root / "proc/self/mountinfo").write_bytes(V2_MOUNT.encode() + mounts.encode("utf-8", "replace"))
    (root / "sys/fs/cgroup/cpu.max").write_bytes(limit)
    quota = threads.cpu_quota(root)
    assert quota.cpus is None or quota.cpus > 0


# ---- what becomes of it ----


@pytest.mark.parametrize(
    ("cpus", "quota", "expected"),
    [(8, None, 8), (8, 2.0, 2), (8, 2.9, 2), (8, 0.5, 1), (2, 8.0, 2), (1, 0.01, 1), (4, 1.999, 1)],
)
def test_quota_is_rounded_down_and_at_least_one(cpus: int, quota: float | None, expected: int) -> None:
    assert threads._default_cap(cpus, quota) == expected
