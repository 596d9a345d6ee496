# SPDX-License-Identifier: MIT
"""The same bits from every build: flags that would change them are left out or refused, whichever way they come."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.processes import output_of

import fastattn as fa
from fastattn.cli import info

ROOT = Path(__file__).resolve().parents[2]
FAST = ["-Ofast", "-ffast-math", "-funsafe-math-optimizations", "-fassociative-math", "-freciprocal-math",
        "-ffinite-math-only"]  # fmt: skip
OTHER_BITS = [
    "-fno-signed-zeros", "-fno-honor-nans", "-fsingle-precision-constant", "-ffp-contract=fast", "-ffp-contract=on",
    "-ffp-model=fast", "-mfpmath=387", "-mfpmath=sse,387", "-mfpmath=both", "-fexcess-precision=fast", "-mrecip",
    "-mrecip=all", "-mdaz-ftz", "-fdenormal-fp-math=preserve-sign", "-fdenormal-fp-math-f32=positive-zero",
    "-fveclib=SVML", "-mveclibabi=svml",
]  # fmt: skip
LINK_TIME = ["-flto", "-flto=auto", "-flto=thin", "-flto-partition=none", "-ffat-lto-objects", "-fwhole-program"]
NATIVE = [
    "-march=native",
    "-march=x86-64-v3",
    "-mavx512f",
    "-mavx2",
    "-mfma",
    "-msse4.2",
    "-mbmi2",
    "-mf16c",
    "-mpopcnt",
]
HARMLESS = [
    "-O0", "-O2", "-g", "-Werror", "-Wall", "-fwrapv", "-fno-strict-aliasing", "-fno-fast-math", "-fopenmp", "-pthread",
    "-fprofile-generate", "-fprofile-use=/tmp/x", "-fsanitize=address", "-frounding-math", "-fno-plt", "-mtune=native",
    "-fstack-protector-strong", "-fcf-protection", "-DNDEBUG", "-D_FORTIFY_SOURCE=3", "-I/usr/include", "-L/usr/lib",
    "-Wl,-z,now", "-msse2", "-mno-avx512f", "-ffile-prefix-map=/a=/b", "-specs=/usr/lib/rpm/hardened", "-lm",
]  # fmt: skip


@pytest.fixture(scope="module")
def setup() -> ModuleType:
    """setup.py, which builds nothing when it is imported."""
    pytest.importorskip("setuptools")  # which Python 3.12 and later do not bring
    spec = importlib.util.spec_from_file_location("fastattn_setup", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def command(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Makes the build command as setuptools would with an environment."""

    def make(**environment: str) -> Any:
        from setuptools._distutils.ccompiler import new_compiler
        from setuptools._distutils.sysconfig import customize_compiler
        from setuptools.dist import Distribution

        for name in setup.VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        build = setup.BuildExt(Distribution({"ext_modules": [setup.Extension("x", [])]}))
        build.finalize_options()
        build.compiler = new_compiler()
        customize_compiler(build.compiler)
        return build

    return make


# ---- which flags ----


@pytest.mark.parametrize("flag", [*FAST, *OTHER_BITS, *LINK_TIME])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "riscv64"])
def test_what_changes_bits_is_left_out(setup: ModuleType, flag: str, machine: str) -> None:
    assert setup.left_out(flag, machine)
    kept, out = setup.sift(["ccache", "gcc", "-O2", flag, "-g"], machine)
    assert kept == ["ccache", "gcc", "-O2", "-g"] and list(out) == [flag]


@pytest.mark.parametrize("flag", NATIVE)
def test_what_follows_the_machine_that_builds_is_left_out(setup: ModuleType, flag: str) -> None:
    assert setup.sift(["gcc", flag], "x86_64")[0] == ["gcc"]


def test_what_an_architecture_needs_stays(setup: ModuleType) -> None:
    """-march may be the binary interface where there is one kernel alone."""
    assert setup.left_out("-mcpu=native", "aarch64") and setup.left_out("-march=armv8.2-a+sve", "aarch64")
    for flag in ("-march=rv64gc", "-mcpu=power9", "-mabi=lp64d"):
        assert setup.left_out(flag, "riscv64") is None


@pytest.mark.parametrize("flag", HARMLESS)
def test_other_flags_stay(setup: ModuleType, flag: str) -> None:
    assert setup.sift(["gcc", flag], "x86_64") == (["gcc", flag], {})


@pytest.mark.parametrize("flag", ["-m32", "-mx32", "-m16", "-mno-sse", "-mno-sse2", "-msoft-float"])
@pytest.mark.parametrize("name", ["CC", "CFLAGS", "CPPFLAGS", "LDFLAGS"])
def test_what_cannot_work_is_refused_by_name(
    setup: ModuleType, flag: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in setup.VARIABLES:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, f"gcc -O2 {flag}")
    with pytest.raises(setup.OptionError, match=f"^{flag} in {name}: .*fastattn does not build with it$"):
        setup.sift(["gcc", flag], "x86_64")


def test_a_serial_build_stays_serial(setup: ModuleType) -> None:
    for flag in ("-fopenmp", "-fopenmp=libomp", "-fopenmp-simd"):
        assert setup.left_out(flag, "x86_64") is None and setup.left_out(flag, "x86_64", serial=True)


@pytest.mark.parametrize(("words", "kept"), [
    (["-Xclang", "-menable-unsafe-fp-math", "-O2"], ["-O2"]),
    (["-mllvm", "-fp-contract=fast"], []), (["-mllvm", "-enable-no-nans-fp-math"], []),
    (["-Xclang", "-ffast-math", "-Xclang", "-O1"], ["-Xclang", "-O1"]),
    (["-mllvm", "-inline-threshold=9"], ["-mllvm", "-inline-threshold=9"]), (["-O2", "-Xclang"], ["-O2", "-Xclang"]),
])  # fmt: skip
def test_flags_for_parts_of_clang(setup: ModuleType, words: list[str], kept: list[str]) -> None:
    assert setup.sift(["clang", *words], "x86_64")[0] == ["clang", *kept]


def test_files_of_flags_are_read(setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner, outer, broken, circle = (tmp_path / name for name in ("inner", "outer", "broken", "circle"))
    inner.write_text("-ffast-math '-DA=b c'\n-O2")
    outer.write_text(f"-g @{inner}")
    broken.write_text("-O2 'not closed")
    circle.write_text(f"-g @{circle}")
    assert setup.sift(["gcc", f"@{outer}"], "x86_64") == (
        ["gcc", "-g", "-DA=b c", "-O2"], {"-ffast-math": "it changes results"}
    )  # fmt: skip
    for missing in (f"@{broken}", f"@{tmp_path}", "@nowhere", "@"):  # the compiler says what is wrong with them
        assert setup.sift(["gcc", missing], "x86_64") == (["gcc", missing], {})
    assert setup.sift(["gcc", f"@{circle}"], "x86_64")[0][-1] == f"@{circle}"
    monkeypatch.setenv("CPPFLAGS", f"@{outer}")
    assert setup.origin("-ffast-math", os.environ) == "CPPFLAGS"
    assert setup.origin("-ffast-math", {}) == "Python's own configuration"
    assert setup.origin("-O2", {"CFLAGS": "'", "LDFLAGS": "-O2"}) == "LDFLAGS"


# ---- what compilers make of them ----

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")


@needs_gcc
@pytest.mark.parametrize("name", ["CFLAGS", "CPPFLAGS", "LDFLAGS", "CC"])
@pytest.mark.parametrize("flag", ["-ffast-math", "-Ofast", "-funsafe-math-optimizations -mfpmath=387"])
def test_arithmetic_is_right_whatever_the_environment(command: Any, name: str, flag: str) -> None:
    build = command(**{name: f"gcc {flag}" if name == "CC" else flag})
    build._sift_commands(False)
    assert build.left_out == flag.split()
    build._check_arithmetic()
    linked = [*build.compiler.linker_so, "-###", "x.o", "-o", "x.so", "-fno-fast-math"]
    assert "crtfastmath" not in subprocess.run(linked, capture_output=True, text=True).stderr


@needs_gcc
@pytest.mark.parametrize(("flag", "fault"), [
    ("-ffast-math", "flushes denormal numbers and changes the order"), ("-ffinite-math-only", "takes NaN for a number"),
    ("-fno-signed-zeros", "loses the sign of zero"), ("-fsingle-precision-constant", "rounds constants to float32"),
])  # fmt: skip
def test_a_compiler_that_has_it_built_in_is_refused(command: Any, tmp_path: Path, flag: str, fault: str) -> None:
    wrapper = tmp_path / "cc"
    wrapper.write_text(f'#!/bin/sh\nexec gcc "$@" {flag}\n')
    wrapper.chmod(0o755)
    build = command(CC=str(wrapper))
    build._sift_commands(False)
    with pytest.raises(Exception, match=rf"^the compiler \({wrapper} .* {fault}.*which would change results") as caught:
        build._check_arithmetic()
    assert "\n" not in str(caught.value) and build.left_out == []


@needs_gcc
@pytest.mark.skipif(
    not fa.cpu_info()["machine"].startswith(("x86", "aarch", "arm")), reason="known by its instructions"
)
def test_fused_products_are_seen(command: Any, tmp_path: Path) -> None:
    wrapper = tmp_path / "cc"
    wrapper.write_text('#!/bin/sh\nexec gcc "$@" -ffp-contract=fast\n')
    wrapper.chmod(0o755)
    build = command(CC=str(wrapper))
    with pytest.raises(Exception, match="fuses products and sums"):
        build._check_arithmetic()


@needs_gcc
@pytest.mark.parametrize("flag", [
    "-ffast-math", "-ffinite-math-only", "-fno-signed-zeros", "-freciprocal-math", "-ffp-contract=fast",
    "-fsingle-precision-constant", None,
])  # fmt: skip
def test_the_header_refuses_what_gcc_tells(setup: ModuleType, flag: str | None) -> None:
    """Which guards builds that do not go through setup.py."""
    command = ["gcc", *setup.COMMON, *([flag] if flag else []), "-fsyntax-only", "-x", "c", "-"]
    code = f'#include "{ROOT}/src_c/fastattn.h"\n'
    done = subprocess.run(command, input=code, capture_output=True, text=True)
    assert (done.returncode == 0, "change results" in done.stderr) == (flag is None, flag is not None), done.stderr


def test_denormal_numbers_survive_the_import() -> None:
    """Linked in a fast way, a library flushes them in the whole process when it is loaded."""
    code = """
    import sys, fastattn, fastattn._testing
    import numpy as np
    x, y = np.full(9, 1e-40, np.float32), np.full(9, 1e-310)
    assert 1e-310 * float("1") > 0 and (x * np.float32(1) > 0).all() and (y * 1.0 > 0).all()
    print("alive")
    """
    assert output_of(code) == "alive"


# ---- what a build tells ----


def test_a_build_tells_its_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    build = fa.build_info()
    assert build["flags"].startswith("-fno-fast-math -ffp-contract=off")
    assert all(isinstance(value, str) for value in build["environment"].values())
    assert all(flag.startswith("-") for flag in build["left_out"])
    constants = fa._core.build_constants()
    said = '{"environment": {"CFLAGS": "-Werror -Ofast"}, "left_out": ["-Ofast"]}'
    monkeypatch.setattr(fa._core, "build_constants", lambda: {**constants, "said": said})
    build = fa.build_info()
    assert (build["environment"], build["left_out"]) == ({"CFLAGS": "-Werror -Ofast"}, ["-Ofast"])
    peaks = {"gflops": 1.0, "gbytes_per_second": 1.0, "num_threads": 1}
    found = {"cpu": fa.cpu_info(), "threads": {"explanation": "", "notes": []}, "build": build, "peaks": peaks}
    lines = info._text(found).splitlines()
    assert "CFLAGS           -Werror -Ofast" in lines and "left out         -Ofast" in lines


def test_what_is_told_is_what_was_set(setup: ModuleType) -> None:
    assert setup.shown_environment({"CFLAGS": " -O2 -ffile-prefix-map=/build/x=. -g", "LDFLAGS": "", "HOME": "/"}) == {
        "CFLAGS": "-O2 -g"
    }
    assert setup.shown_environment({"CC": "c" * 5000})["CC"] == "c" * 1000
    assert setup.c_string('a "b" \\ ??/') == '"a \\"b\\" \\\\ \\?\\?/"'


# ---- where it writes ----


@pytest.mark.parametrize("error", ["Read-only file system", "Permission denied"])
def test_a_source_folder_that_cannot_be_written(
    setup: ModuleType, error: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(dir: Path) -> None:
        raise OSError(30, error, str(dir))

    setup.check_writable([tmp_path, tmp_path / "not there"])
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(setup.tempfile, "TemporaryFile", refuse)
    setup.check_writable([tmp_path / "not there"])
    with pytest.raises(setup.FileError, match=f"^{tmp_path}: {error}: building .* writes into its source folder: copy"):
        setup.check_writable([tmp_path])
    monkeypatch.setattr(setup, "extensions", lambda: pytest.fail("it compiles"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"^error: {ROOT}: {error}: building") as caught:
        setup.main()
    assert "\n" not in str(caught.value)
