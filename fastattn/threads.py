# SPDX-License-Identifier: MIT
"""How many threads a call uses, and why.

In order of precedence:

1. ``num_threads=`` of the call itself,
2. :func:`set_num_threads`,
3. the environment variable ``FASTATTN_NUM_THREADS``, read once at import,
4. the default: the smallest of

   - what OpenMP would use in the calling thread, asked at every call (``OMP_NUM_THREADS``, ``threadpoolctl``); in a
     build without OpenMP what ``OMP_NUM_THREADS`` says,
   - the CPUs this process may run on (``taskset``, ``docker --cpuset-cpus``),
   - the CPU quota of its control group (``docker --cpus``, a pod's CPU limit), rounded **down**: one thread more than
     the quota and the kernel suspends the whole team, for most of each period, until the next one begins.

The number is a ceiling for the process too: calls that run at the same time share it, and a call that finds nothing
left runs in its own thread alone. No call ever waits for another, and results do not depend on any of this.

The threads are the library's own: one crew for the process, as many as the largest count needs, however many threads
call. A call is as fast as its own thread alone where they are late, and asks for fewer where other processes want the
CPUs. ``FASTATTN_THREADS=openmp`` takes OpenMP's threads instead, of which each calling thread gets its own.

Affinity and quota are found once, at import. ``fastattn info`` and :func:`thread_policy` tell what was found.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple, SupportsIndex, TypedDict

from fastattn import _core
from fastattn.startup import from_environment

__all__ = [
    "CpuQuota", "ThreadPolicy", "cpu_quota", "get_num_threads", "granted", "resolve", "set_num_threads",
    "thread_policy",
]  # fmt: skip

ENVIRONMENT_VARIABLE = "FASTATTN_NUM_THREADS"

TEAM_VARIABLE = "FASTATTN_THREADS"
_TEAMS = ("crew", "openmp")

_READ_LIMIT = 1 << 20


# ---- what the machine gives ------------------------------------------------------------------------------------------


class CpuQuota(NamedTuple):
    """The CPU quota of this process's control groups.

    ``cpus`` is quota / period, not rounded, the smallest among all ancestors; None where there is none. ``source`` is
    the file it came from. ``notes`` names every file that was there but made no sense, and was left out.
    """

    cpus: float | None
    source: str | None
    notes: tuple[str, ...]


def cpu_quota(root: str | os.PathLike[str] = "/") -> CpuQuota:
    """The CPU quota of the control groups this process is in, version 1 and 2.

    Every ancestor of a control group limits it too, so all of them are read, up to the point where the hierarchy is
    mounted. Sources: the kernel's ``cgroup-v2.rst`` (``cpu.max``) and ``scheduler/sched-bwc.rst``
    (``cpu.cfs_quota_us``, ``cpu.cfs_period_us``); ``proc_pid_mountinfo(5)``.

    Args:
        root: where ``proc`` and ``sys`` are found; tests pass a folder.

    Returns:
        A :class:`CpuQuota`. Whatever the files hold, this does not raise.

    >>> quota = cpu_quota()
    >>> quota.cpus is None or quota.cpus > 0
    True
    """
    top = os.fspath(root).rstrip("/")
    notes: list[str] = []
    cpus: float | None = None
    source: str | None = None
    for folder, unified in _control_groups(top, notes):
        found = _quota_v2(top, folder, notes) if unified else _quota_v1(top, folder, notes)
        if found is not None and (cpus is None or found[0] < cpus):
            cpus, source = found
    return CpuQuota(cpus, source, tuple(notes))


def _read(top: str, path: str, notes: list[str]) -> str | None:
    """Text of an absolute path below `top`; None if it is not there or cannot be read (then noted)."""
    try:
        with open(top + path, "rb") as file:
            return file.read(_READ_LIMIT).decode("utf-8", "replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name of a mount point
        notes.append(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})")
        return None


def _control_groups(top: str, notes: list[str]) -> Iterator[tuple[str, bool]]:
    """Folders that may limit this process, each control group before its ancestors; True for version 2."""
    memberships: list[tuple[bool, list[str]]] = []
    for line in (_read(top, "/proc/self/cgroup", notes) or "").splitlines():
        parts = line.split(":", 2)  # id:controllers:path; version 2 is "0::path"
        if len(parts) != 3 or not parts[2].startswith("/"):
            notes.append(f"/proc/self/cgroup: line {line[:80]!r} is not 'id:controllers:path'")
        elif parts[0] == "0" and parts[1] == "":
            memberships.append((True, _names(parts[2])))
        elif "cpu" in parts[1].split(","):
            memberships.append((False, _names(parts[2])))
    if not memberships:
        return
    mounts = list(_mounts(top, notes))
    for unified, group in memberships:
        for mount_unified, mount_root, mount_point in mounts:
            if mount_unified != unified:
                continue
            # Inside a container the mount may show the container's group as its root, and the group's own name may lie
            # outside of what is visible ("/../.."): then the mount point itself is the nearest known ancestor.
            inside = ".." not in group and group[: len(mount_root)] == mount_root
            below = group[len(mount_root) :] if inside else []
            for depth in range(len(below), -1, -1):
                yield "/".join([mount_point, *below[:depth]]), unified


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name]


def _mounts(top: str, notes: list[str]) -> Iterator[tuple[bool, list[str], str]]:
    """(version 2?, root of the mount within its hierarchy, mount point) of the hierarchies with CPU limits."""
    text = _read(top, "/proc/self/mountinfo", notes)
    if text is None:  # no mountinfo: the places every distribution uses
        yield True, [], "/sys/fs/cgroup"
        yield False, [], "/sys/fs/cgroup/cpu"
        return
    for line in text.splitlines():
        # id parent major:minor root mount_point options [optional...] - type source super_options
        before, separator, after = line.partition(" - ")
        left, right = before.split(" "), after.split(" ")
        if not separator or len(left) < 6 or len(right) < 3:
            continue
        unified = right[0] == "cgroup2"
        if unified or (right[0] == "cgroup" and "cpu" in right[2].split(",")):
            mount_root, mount_point = _unescape(left[3]), _unescape(left[4])
            if mount_point.startswith("/") and ".." not in mount_point.split("/"):
                yield unified, _names(mount_root), mount_point.rstrip("/")


def _unescape(text: str) -> str:
    """mountinfo writes space, tab, newline and backslash as octal."""
    for code in ("\\040", "\\011", "\\012", "\\134"):  # the backslash last: what it makes is not looked at again
        text = text.replace(code, chr(int(code[1:], 8)))
    return text


def _quota_v2(top: str, folder: str, notes: list[str]) -> tuple[float, str] | None:
    path = f"{folder}/cpu.max"
    text = _read(top, path, notes)
    if text is None:
        return None
    words = text.split()
    if len(words) == 2 and words[0] == "max":
        return None
    quota, period = (_positive(words[0]), _positive(words[1])) if len(words) == 2 else (None, None)
    if quota is None or period is None:
        notes.append(f"{path}: {text[:80].strip()!r} is not 'quota period' in microseconds")
        return None
    return quota / period, path


def _quota_v1(top: str, folder: str, notes: list[str]) -> tuple[float, str] | None:
    path = f"{folder}/cpu.cfs_quota_us"
    text = _read(top, path, notes)
    if text is None or text.strip() == "-1":  # no limit
        return None
    period_text = _read(top, f"{folder}/cpu.cfs_period_us", notes) or ""
    quota, period = _positive(text.strip()), _positive(period_text.strip())
    if quota is None or period is None:
        shown = f"{text[:80].strip()!r} of {period_text[:80].strip()!r}"
        notes.append(f"{path}: {shown} is not a quota and a period in microseconds")
        return None
    return quota / period, path


def _positive(text: str) -> int | None:
    """A positive integer in plain digits, else None."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 and int(text) > 0 else None


def affinity() -> frozenset[int] | None:
    """CPUs this process may run on; None where the system does not tell.

    Where OpenMP binds threads (``OMP_PROC_BIND``, ``OMP_PLACES``) it has bound the first one already: then also those
    of its places.
    """
    try:
        return frozenset(os.sched_getaffinity(0)).union(_core.omp_places())
    except (AttributeError, OSError):
        return None


# ---- the policy ------------------------------------------------------------------------------------------------------


class ThreadPolicy(TypedDict):
    """What :func:`thread_policy` returns."""

    num_threads: int
    source: str
    explanation: str
    most: int
    team: str
    openmp: int
    omp_max_threads: int
    logical_cpus: int
    affinity: list[int] | None
    cpu_quota: float | None
    cpu_quota_source: str | None
    threads_in_use: int
    notes: list[str]


def _most(cpus: int) -> int:
    """Threads beyond the CPUs never help and each costs a stack; more than this is taken as this."""
    return max(64, 2 * cpus)


def _from_environment(environment: Mapping[str, str]) -> int | None:
    text = environment.get(ENVIRONMENT_VARIABLE, "").strip()
    if not text:
        return None
    digits = text.lstrip("0")
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError(f"{ENVIRONMENT_VARIABLE} must be a positive integer, got {text[:80]!r}")
    return min(int(digits[:9]), _MOST)  # nine digits are beyond any number of threads, whatever follows them


def _team_from_environment(environment: Mapping[str, str]) -> str:
    name = environment.get(TEAM_VARIABLE, "").strip() or "crew"
    if name not in _TEAMS:
        raise ValueError(f"{TEAM_VARIABLE}: {name[:80]!r}, expected one of {', '.join(_TEAMS)}")
    if not _core.select_team(name):
        raise RuntimeError(f"{TEAM_VARIABLE}: {name!r} is not in this build, which has no OpenMP")
    return name


def _default_cap(cpus: int, quota: float | None) -> int:
    """The part of the default that does not change: the CPUs there are, and the whole ones among those paid for."""
    return max(1, cpus if quota is None else min(cpus, int(quota)))


def _checked(num_threads: SupportsIndex, name: str) -> int:
    if isinstance(num_threads, bool) or not hasattr(num_threads, "__index__"):
        raise TypeError(f"{name} must be an integer, got {type(num_threads).__name__} {num_threads!r}")
    count = operator.index(num_threads)
    if count < 1:
        raise ValueError(f"{name} must be at least 1, got {count}")
    return min(count, _MOST)


_LOGICAL = os.cpu_count() or 1
_AFFINITY = affinity()
_CPUS = _LOGICAL if _AFFINITY is None else max(1, len(_AFFINITY))
_QUOTA = cpu_quota()
_MOST = _most(_LOGICAL)
_DEFAULT_CAP = _default_cap(_CPUS, _QUOTA.cpus)
_ENVIRONMENT = from_environment(_from_environment)
_TEAM = from_environment(_team_from_environment)
_chosen: int | None = None  # by set_num_threads


def _publish() -> None:
    """The C side keeps the numbers, so that a call resolves its thread count without coming back to Python."""
    _core.set_thread_default(_DEFAULT_CAP, _chosen or _ENVIRONMENT or 0)


_publish()


def set_num_threads(num_threads: SupportsIndex | None) -> None:
    """Sets how many threads a call may use when it is not told, in this process.

    Args:
        num_threads: at least 1; numbers far beyond the CPUs there are are taken as the largest sensible one. None goes
            back to ``FASTATTN_NUM_THREADS`` or the default.

    Raises:
        TypeError: not an integer (bool included).
        ValueError: less than 1.

    >>> import fastattn as fa
    >>> fa.set_num_threads(1)
    >>> fa.get_num_threads()
    1
    >>> fa.set_num_threads(None)
    """
    global _chosen
    _chosen = None if num_threads is None else _checked(num_threads, "num_threads")
    _publish()


def get_num_threads() -> int:
    """How many threads a call from this thread may use when it is not told.

    Without :func:`set_num_threads` and ``FASTATTN_NUM_THREADS`` this follows OpenMP's setting for the calling thread.

    >>> import fastattn as fa
    >>> fa.get_num_threads() >= 1
    True
    """
    return resolve(None)


def resolve(num_threads: SupportsIndex | None) -> int:
    """The thread count of one call: its own argument, or what holds without one.

    Args:
        num_threads: at least 1, or None.

    Raises:
        TypeError: not an integer (bool included).
        ValueError: less than 1.

    >>> resolve(1)
    1
    """
    if num_threads is not None:
        if type(num_threads) is int and 0 < num_threads <= _MOST:  # the usual case, for the sake of tiny calls
            return num_threads
        return _checked(num_threads, "num_threads")
    return _chosen or _ENVIRONMENT or max(1, min(_DEFAULT_CAP, _core.omp_max_threads()))


def granted(forget: bool = False) -> int:
    """The most threads that one call of the calling thread was given since it last forgot; 0 without any call.

    >>> granted() >= 0
    True
    """
    return _core.threads_granted(forget)


def thread_policy() -> ThreadPolicy:
    """The thread count a call from this thread would get, and everything that decided it.

    >>> policy = thread_policy()
    >>> policy["num_threads"] == get_num_threads()
    True
    """
    openmp = _core.openmp_version()
    omp_max = _core.omp_max_threads()
    count = resolve(None)
    if _chosen is not None:
        source, why = "set_num_threads", "set by set_num_threads()"
    elif _ENVIRONMENT is not None:
        source, why = ENVIRONMENT_VARIABLE, f"set by the environment variable {ENVIRONMENT_VARIABLE}"
    else:
        limits = [(_CPUS, f"CPUs this process may run on: {_CPUS}")]
        if _QUOTA.cpus is not None:
            limits.append((int(_QUOTA.cpus), f"CPU quota {_QUOTA.cpus:.4g} rounded down ({_QUOTA.source})"))
        if openmp or omp_max < _MOST:
            limits.append((omp_max, f"OpenMP allows {omp_max}" if openmp else f"OMP_NUM_THREADS is {omp_max}"))
        source = "default"
        why = "the smallest of: " + "; ".join(text for _, text in limits)
        if min(number for number, _ in limits) < 1:
            why += "; at least 1"
    return {
        "num_threads": count,
        "source": source,
        "explanation": f"{count}: {why}",
        "most": _MOST,
        "team": _TEAM,
        "openmp": openmp,
        "omp_max_threads": omp_max,
        "logical_cpus": _LOGICAL,
        "affinity": None if _AFFINITY is None else sorted(_AFFINITY),
        "cpu_quota": _QUOTA.cpus,
        "cpu_quota_source": _QUOTA.source,
        "threads_in_use": _core.threads_in_use(),
        "notes": list(_QUOTA.notes),
    }
