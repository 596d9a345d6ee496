# SPDX-License-Identifier: MIT
"""CPU detection, what the build says of itself, and FASTATTN_ISA."""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path

import pytest
from support.processes import output_of, run_python

import fastattn as fa
from fastattn import _core, cpu

BUNDLES = {  # names as /proc/cpuinfo has them
    "avx2": {"avx", "avx2", "fma", "bmi1", "bmi2", "f16c", "abm", "movbe"},
    "avx512": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    "avx512_vnni": {"avx512_vnni"},
    "neon": {"asimd"},
    "neon_dot": {"asimddp"},
}
BUNDLES["avx512"] |= BUNDLES["avx2"]
BUNDLES["avx512_vnni"] |= BUNDLES["avx512"]
BUNDLES["neon_dot"] |= BUNDLES["neon"]


def kernel_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    match = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    return set(match[1].split()) if match else set()


def test_features_agree_with_the_kernel() -> None:
    flags = kernel_flags()
    if not flags:
        pytest.skip("no /proc/cpuinfo to compare with")
    features = fa.cpu_info()["features"]
    assert {name: features[name] for name in BUNDLES} == {name: needed <= flags for name, needed in BUNDLES.items()}


def test_cpu_info_is_consistent() -> None:
    info = fa.cpu_info()
    assert info["isas_compiled"][0] == "scalar"
    assert set(info["isas_supported"]) <= set(info["isas_compiled"])
    assert info["isa"] in info["isas_supported"]
    assert info["isas_supported"] == [isa for isa in info["isas_compiled"] if isa == "scalar" or info["features"][isa]]
    assert info["machine"] == platform.machine()
    assert info["logical_cpus"] >= 1
    assert all(size >= 1024 for size in info["caches"].values())
    json.dumps(info)


def test_best_supported_isa_is_the_default() -> None:
    code = "import json, fastattn as fa; print(json.dumps(fa.cpu_info()))"
    info = json.loads(output_of(code))
    assert info["isa"] == info["isas_supported"][-1]
    assert info["isa_source"] == "best supported"


def test_caches_agree_with_sysfs() -> None:
    seen = cpu._caches_of_sysfs("/sys/devices/system/cpu/cpu0/cache")
    caches = fa.cpu_info()["caches"]
    if not seen or not caches:
        pytest.skip("the system does not tell")
    assert {name: caches[name] for name in ("l1d", "l2") if name in seen} == {
        name: seen[name] for name in ("l1d", "l2") if name in seen
    }


def test_caches_of_sysfs_reads_what_makes_sense(tmp_path: Path) -> None:
    rows = [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "2M"), ("3", "Unified", "junk")]
    for index, row in enumerate(rows):
        for name, text in zip(("level", "type", "size"), row, strict=True):
            file = tmp_path / f"index{index}" / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(text + "\n")
    assert cpu._caches_of_sysfs(str(tmp_path)) == {"l1d": 48 << 10, "l2": 2 << 20}
    assert cpu._caches_of_sysfs(str(tmp_path / "nothing")) == {}


def test_build_info() -> None:
    build = fa.build_info()
    assert build["version"] == fa.__version__
    assert build["numerics_version"] == 3 == 1 + len(cpu.numerics_changes(1)) and cpu.numerics_changes(3) == []
    assert build["isas"] == fa.cpu_info()["isas_compiled"]
    assert build["compiler"]
    openmp = _core.openmp_version()
    assert build["openmp"] == (f"{openmp // 100}-{openmp % 100:02d}" if openmp else "not built in")
    assert "-ffast-math" not in build["flags"] and "-march=native" not in build["flags"]
    json.dumps(build)


# ---- FASTATTN_ISA ----


@pytest.mark.parametrize("isa", fa.cpu_info()["isas_supported"])
def test_isa_can_be_forced(isa: str) -> None:
    code = "import fastattn as fa; info = fa.cpu_info(); print(info['isa'], info['isa_source'])"
    assert output_of(code, env={"FASTATTN_ISA": isa}) == f"{isa} FASTATTN_ISA"


def test_empty_isa_counts_as_unset() -> None:
    code = "import fastattn as fa; print(fa.cpu_info()['isa_source'])"
    assert output_of(code, env={"FASTATTN_ISA": ""}) == "best supported"


@pytest.mark.parametrize("text", ["sse9", "AVX2", "avx2,avx512", "avx-512", "a" * 10_000])
def test_unknown_isa_is_refused_at_import(text: str) -> None:
    done = run_python("import fastattn", env={"FASTATTN_ISA": text})
    assert done.returncode != 0
    assert "ValueError: FASTATTN_ISA: unknown instruction set" in done.stderr
    assert "expected one of scalar, avx2" in done.stderr


def test_isa_that_is_not_in_the_build_is_refused_at_import() -> None:
    missing = [isa for isa in cpu.KNOWN_ISAS if isa not in _core.isa_names()]
    if not missing:
        pytest.skip("this build has them all")
    done = run_python("import fastattn", env={"FASTATTN_ISA": missing[0]})
    assert done.returncode != 0
    assert f"RuntimeError: FASTATTN_ISA: '{missing[0]}' is not in this build" in done.stderr


def test_isa_the_cpu_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    best = _core.isa_names()[-1]
    monkeypatch.setattr(cpu, "_core", _Pretender(best))
    with pytest.raises(RuntimeError, match=f"does not support '{best}'; it can run scalar"):
        cpu.isa_from_environment({"FASTATTN_ISA": best})


class _Pretender:
    """_core of a machine without one ISA."""

    def __init__(self, lacking: str) -> None:
        self.lacking = lacking

    def isa_names(self) -> list[str]:
        return _core.isa_names()

    def isa_supported(self, name: str) -> bool:
        return name != self.lacking
