# SPDX-License-Identifier: MIT
"""Builds the two extensions: one object per ISA stub, everything else compiled for the baseline of the architecture.

The compiler is asked what it can do; the machine that builds is not. Environment:
    CC, CFLAGS, LDFLAGS          as usual
    FASTATTN_NO_OPENMP=1         without OpenMP: threads are the crew alone
    FASTATTN_DEBUG=1             -O1 -g instead of -O3 -g0
    FASTATTN_ISAS=avx512         these stubs and scalar alone, for work on a kernel: each takes seconds to compile
"""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
SRC = Path("src_c")
DEBUG = os.environ.get("FASTATTN_DEBUG") == "1"
COMMON = [
    "-std=c11",
    "-D_GNU_SOURCE",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
]
COMMON += ["-O1", "-g"] if DEBUG else ["-O3", "-g0"]
GENERATED = ["-Wno-unused-parameter", "-Wno-sign-compare"]  # for what Cython writes, not for what we write

# stub -> flags the compiler must take
STUBS = {
    "x86_64": {
        "scalar": ["-O2"],
        "avx2": ["-mavx2", "-mfma", "-mbmi", "-mbmi2", "-mf16c", "-mlzcnt", "-mmovbe"],
        "avx512": ["-mavx2", "-mfma", "-mbmi", "-mbmi2", "-mf16c", "-mlzcnt", "-mmovbe", "-mavx512f", "-mavx512bw",
                   "-mavx512cd", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"],
        "avx512_vnni": ["-mavx2", "-mfma", "-mbmi", "-mbmi2", "-mf16c", "-mlzcnt", "-mmovbe", "-mavx512f", "-mavx512bw",
                        "-mavx512cd", "-mavx512dq", "-mavx512vl", "-mavx512vnni", "-mprefer-vector-width=512"],
    },
    "aarch64": {"scalar": ["-O2"], "neon": []},
}  # fmt: skip


def machine() -> str:
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def files(*patterns: str) -> list[str]:
    return sorted(str(p) for pattern in patterns for p in SRC.glob(pattern))


class BuildExt(build_ext):
    """build_ext that compiles the ISA stubs with their own flags and finds out what the compiler can do."""

    def build_extensions(self) -> None:
        self.openmp = [] if os.environ.get("FASTATTN_NO_OPENMP") == "1" else self._probe_openmp()
        if not self.openmp:
            self.announce("fastattn: no OpenMP, building with the crew alone", level=3)
        super().build_extensions()

    def build_extension(self, ext: Extension) -> None:
        ext.extra_compile_args = [*COMMON, *GENERATED, *self.openmp]
        ext.extra_link_args = [*self.openmp, "-pthread"] if DEBUG else [*self.openmp, "-pthread", "-Wl,-s"]
        if ext.name == "fastattn._core":
            stubs = self._stub_objects(ext)
            flags = " ".join([*COMMON[2:], *self.openmp])
            macros = [(f"FA_WITH_{name.upper()}", "1") for name in stubs]
            ext.define_macros = [*macros, ("FA_BUILD_FLAGS", f'"{flags}"')]
            ext.extra_objects = [*stubs.values(), *self._plain_objects(ext)]
            ext.depends = [*ext.depends, *ext.extra_objects]
        super().build_extension(ext)

    def _probe(self, flags: list[str], source: str, link: bool = False) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "probe.c")
            path.write_text(source)
            command = list(self.compiler.compiler_so if not link else self.compiler.compiler)
            command += [*flags, str(path), "-o", str(Path(folder, "probe"))] + ([] if link else ["-c"])
            return subprocess.run(command, capture_output=True).returncode == 0

    def _probe_openmp(self) -> list[str]:
        source = "#include <omp.h>\nint main(void) { int n = 0;\n#pragma omp parallel\n"
        source += "n = omp_get_num_threads(); return n < 0; }\n"
        return ["-fopenmp"] if self._probe(["-fopenmp"], source, link=True) else []

    def _compile(self, sources: list[str], folder: str, flags: list[str], macros: list[tuple[str, str]]) -> list[str]:
        """Objects of `sources`, compiled anew only where a source, a header or the command has changed."""
        where = Path(self.build_temp, folder)
        stamp = where / "command"
        command = repr((self.compiler.compiler_so, flags, macros))
        headers = max(Path(p).stat().st_mtime for p in files("*.h", "*/*.h", "*/*.inc"))
        fresh = stamp.exists() and stamp.read_text() == command
        objects = []
        for source in sources:
            name = self.compiler.object_filenames([source], output_dir=str(where))[0]
            newest = max(Path(source).stat().st_mtime, headers)
            if not (fresh and Path(name).exists() and Path(name).stat().st_mtime > newest):
                start = time.time()
                self.compiler.compile([source], output_dir=str(where), macros=macros, extra_postargs=flags)
                os.utime(name, (start, start))  # a header that changes meanwhile is newer
            objects.append(name)
        where.mkdir(parents=True, exist_ok=True)
        stamp.write_text(command)
        return objects

    def _stub_objects(self, ext: Extension) -> dict[str, str]:
        wanted = {}
        only = os.environ.get("FASTATTN_ISAS", "").replace(",", " ").split()
        for name, flags in STUBS.get(machine(), {"scalar": ["-O2"]}).items():
            if only and name not in ("scalar", *only):
                continue
            if self._probe(flags, "int main(void) { return 0; }\n"):
                wanted[name] = flags
            else:
                self.announce(f"fastattn: the compiler cannot build {name}, leaving it out", level=3)

        def build(name: str) -> str:
            return self._compile([str(SRC / "isa" / f"{name}.c")], f"isa_{name}", [*COMMON, *wanted[name]], [])[0]

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # a stub takes many seconds, and there are three
            return dict(zip(wanted, pool.map(build, wanted), strict=True))

    def _plain_objects(self, ext: Extension) -> list[str]:
        flags = [*COMMON, *self.openmp]
        return self._compile(
            files("*.c", "ops/*.c"), "plain", flags, [m for m in ext.define_macros if m[0] != "FA_BUILD_FLAGS"]
        )


headers = files("*.h", "*/*.h", "*/*.inc", "*.c", "*/*.c")
pyx = ["fastattn/_capi.pxd", *(str(p) for p in Path("fastattn").glob("*.pxi"))]


def extensions() -> list[Extension]:
    from Cython.Build import cythonize

    libraries = [] if os.name == "nt" else ["m"]
    return cythonize(
        [
            Extension(
                "fastattn._core",
                ["fastattn/_core.pyx"],
                include_dirs=["src_c"],
                depends=headers + pyx,
                libraries=libraries,
            ),
            Extension("fastattn._testing", ["fastattn/_testing.pyx"], include_dirs=["src_c"], depends=headers + pyx),
        ],
        language_level=3,
        build_dir="build/cython",
        compiler_directives={"boundscheck": False, "wraparound": False, "cdivision": True, "initializedcheck": False},
    )


os.chdir(ROOT)
setup(ext_modules=extensions(), cmdclass={"build_ext": BuildExt})
