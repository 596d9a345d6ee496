# SPDX-License-Identifier: MIT
"""What this machine can run, what this build was made of, and which of it is used.

Every kernel exists once per instruction set (ISA). The best one that is compiled in and that CPU and operating system
support is used, unless the environment variable ``FASTATTN_ISA`` names another. Results do not depend on it: all give
the same bits, so forcing one is for measuring, for tests and for ruling things out.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from typing import TypedDict

from fastattn import _core, threads
from fastattn.startup import from_environment

__all__ = [
    "BuildInfo", "CpuInfo", "build_info", "cpu_info", "isa_from_environment", "numerics_changes", "numerics_version",
]  # fmt: skip

ENVIRONMENT_VARIABLE = "FASTATTN_ISA"

# Every name that means something on some machine, in order of preference within its architecture, best last.
KNOWN_ISAS = ("scalar", "avx2", "avx512", "avx512_vnni", "neon", "neon_dot")


class CpuInfo(TypedDict):
    """What :func:`cpu_info` returns."""

    vendor: str
    brand: str
    machine: str
    isa: str
    isa_source: str
    isas_compiled: list[str]
    isas_supported: list[str]
    features: dict[str, bool]
    caches: dict[str, int]
    logical_cpus: int
    affinity: list[int] | None
    cpu_quota: float | None
    cpu_quota_source: str | None


class BuildInfo(TypedDict):
    """What :func:`build_info` returns."""

    version: str
    compiler: str
    openmp: str
    isas: list[str]
    flags: str
    environment: dict[str, str]
    left_out: list[str]
    numerics_version: int
    constants: dict[str, object]


def isa_from_environment(environment: Mapping[str, str]) -> str | None:
    """The ISA that ``FASTATTN_ISA`` asks for, checked; None when it is unset or empty.

    Raises:
        ValueError: no ISA has that name.
        RuntimeError: it exists, but not in this build, or this CPU or operating system does not support it.

    >>> isa_from_environment({"FASTATTN_ISA": "scalar"})
    'scalar'
    >>> isa_from_environment({}) is None
    True
    """
    name = environment.get(ENVIRONMENT_VARIABLE, "").strip()
    if not name:
        return None
    compiled = _core.isa_names()
    if name not in KNOWN_ISAS and name not in compiled:
        known = ", ".join(KNOWN_ISAS)
        raise ValueError(f"{ENVIRONMENT_VARIABLE}: unknown instruction set {name[:80]!r}, expected one of {known}")
    if name not in compiled:
        raise RuntimeError(
            f"{ENVIRONMENT_VARIABLE}: {name!r} is not in this build for {platform.machine() or 'this machine'}, "
            f"which has {', '.join(compiled)}"
        )
    if not _core.isa_supported(name):
        usable = ", ".join(isa for isa in compiled if _core.isa_supported(isa))
        raise RuntimeError(
            f"{ENVIRONMENT_VARIABLE}: this CPU or operating system does not support {name!r}; it can run {usable}"
        )
    return name


_FORCED = from_environment(isa_from_environment)
if _FORCED is not None:
    _core.select_isa(_FORCED)


def cpu_info() -> CpuInfo:
    """This machine as the library sees it.

    Returns:
        A dict: ``vendor`` and ``brand`` of the CPU; ``isa`` in use and ``isa_source``, why ("best supported" or
        "FASTATTN_ISA"); ``isas_compiled`` and ``isas_supported``, best last; ``features``, the instruction bundles CPU
        and operating system offer; ``caches``, bytes of one instance of each level that is known; ``logical_cpus``;
        ``affinity``, the CPUs this process may use; ``cpu_quota`` of its control groups in CPUs, None without one.

    >>> import fastattn as fa
    >>> info = fa.cpu_info()
    >>> info["isa"] in info["isas_supported"]
    True
    """
    found = _core.cpu_features()
    policy = threads.thread_policy()
    compiled = list(_core.isa_names())
    return {
        "vendor": str(found["vendor"]),
        "brand": str(found["brand"]),
        "machine": platform.machine(),
        "isa": _core.current_isa(),
        "isa_source": "best supported" if _FORCED is None else ENVIRONMENT_VARIABLE,
        "isas_compiled": compiled,
        "isas_supported": [name for name in compiled if _core.isa_supported(name)],
        "features": {name: bool(found[name]) for name in _FEATURES},
        "caches": _caches(found),
        "logical_cpus": policy["logical_cpus"],
        "affinity": policy["affinity"],
        "cpu_quota": policy["cpu_quota"],
        "cpu_quota_source": policy["cpu_quota_source"],
    }


_FEATURES = ("avx2", "avx512", "avx512_vnni", "amx_int8", "neon", "neon_dot", "hypervisor")


def _caches(found: Mapping[str, object]) -> dict[str, int]:
    """Bytes by level, those the CPU tells; aarch64 cannot tell a user process, there sysfs does."""
    sizes = {name: found[f"{name}_bytes"] for name in ("l1d", "l2", "l3")}
    known = {name: size for name, size in sizes.items() if isinstance(size, int) and size > 0}
    return known or _caches_of_sysfs("/sys/devices/system/cpu/cpu0/cache")


def _caches_of_sysfs(folder: str) -> dict[str, int]:
    """The kernel's view: index*/level, type and size ("32K"). Empty where it has none, or nothing that makes sense."""
    caches: dict[str, int] = {}
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    for index in range(8):
        values = []
        for name in ("level", "type", "size"):
            try:
                with open(os.path.join(folder, f"index{index}", name), encoding="ascii", errors="replace") as file:
                    values.append(file.read(64).strip())
            except OSError:  # fewer caches, or none shown to this container: the size stays unknown
                break
        if len(values) != 3 or values[1] == "Instruction":
            continue
        level, kind, size = values
        name = f"l{level}d" if kind == "Data" and level == "1" else f"l{level}"
        if size[:-1].isascii() and size[:-1].isdigit() and size[-1:] in units:
            caches[name] = int(size[:-1]) * units[size[-1]]
    return caches


# What a version of the numerics computes otherwise than the one before. The first has nothing before it.
_CHANGES = {
    2: "last digits of GELU with erf",
    3: "attention of int8 encoders and int8 caches, by integers",
}


def numerics_version() -> int:
    """``build_info()["numerics_version"]``."""
    return int(str(_core.build_constants()["numerics_version"]))


def numerics_changes(since: int) -> list[str]:
    """What has other bits since numerics version ``since``, a phrase for each version after it.

    >>> numerics_changes(1)
    ['2: last digits of GELU with erf', '3: attention of int8 encoders and int8 caches, by integers']
    >>> numerics_changes(numerics_version())
    []
    """
    return [f"{version}: {what}" for version, what in _CHANGES.items() if version > since]


def build_info() -> BuildInfo:
    """How this copy of the library was built.

    Returns:
        A dict: ``version``; ``compiler``; ``openmp``, its version as a date, or "not built in"; ``isas`` compiled in,
        best last; ``flags`` every C file was compiled with; ``environment``, the variables with flags of the user's
        (CC, CFLAGS, CPPFLAGS, LDFLAGS, LDSHARED) as they were set; ``left_out``, what of them, or of the flags Python
        itself was built with, was not handed to the compiler, because it changes results or follows the machine that
        builds; ``numerics_version``, which changes whenever a change to the library may change the bits of a result;
        ``constants``, the numbers it stands for.

    >>> import fastattn as fa
    >>> fa.build_info()["numerics_version"] >= 1
    True
    """
    import json

    from fastattn import __version__  # the package is still being imported while this module is

    constants = dict(_core.build_constants())
    said = json.loads(str(constants.pop("said")))
    openmp = _core.openmp_version()
    return {
        "version": __version__,
        "compiler": str(constants.pop("compiler")),
        "openmp": f"{openmp // 100}-{openmp % 100:02d}" if openmp else "not built in",
        "isas": list(_core.isa_names()),
        "flags": str(constants.pop("flags")),
        "environment": said.get("environment", {}),
        "left_out": said.get("left_out", []),
        "numerics_version": int(str(constants.pop("numerics_version"))),
        "constants": constants,
    }
