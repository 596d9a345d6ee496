# SPDX-License-Identifier: MIT
"""Builds the two extensions: one object per ISA stub, everything else compiled for the baseline of the architecture.

The compiler is asked what it can do; the machine that builds is not. Environment:
    CC, CFLAGS, CPPFLAGS,        as usual, but for what LEFT_OUT names: every build gives the same bits and starts on
    LDFLAGS                      every machine of its architecture. A compiler that cannot do that is refused
    FASTATTN_NO_OPENMP=1         without OpenMP: threads are the crew alone
    FASTATTN_DEBUG=1             -O1 -g instead of -O3 -g0
    FASTATTN_ISAS=avx512         these stubs and scalar alone, for work on a kernel: each takes seconds to compile
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import FileError, OptionError

ROOT = Path(__file__).resolve().parent
SRC = Path("src_c")
DEBUG = os.environ.get("FASTATTN_DEBUG") == "1"
COMMON = [
    "-std=c11",
    "-D_GNU_SOURCE",
    "-fno-fast-math",  # some compilers have it on by default; before what it would undo
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
    "aarch64": {"scalar": ["-O2"], "neon": [], "neon_dot": ["-march=armv8.2-a+dotprod"]},
}  # fmt: skip

VARIABLES = ("CC", "CFLAGS", "CPPFLAGS", "LDFLAGS", "LDSHARED")

# Flags that are not handed on, wherever they come from, and why. They are those of gcc and clang, and of clang's parts
# behind -Xclang and -mllvm.
_BITS = "it changes results"
_NATIVE = "kernels have the instructions of their ISA, and all else has to start on every CPU"
LEFT_OUT = {
    r"-(Ofast|ffast-math|funsafe-math-optimizations|fassociative-math|freciprocal-math|ffinite-math-only)": _BITS,
    r"-f(no-signed-zeros|no-honor-nans|no-honor-infinities|approx-func|single-precision-constant)": _BITS,
    r"-f(fp-contract|fp-model|fp-eval-method|excess-precision|veclib)=.*|-m(fpmath|veclibabi)=.*|-mrecip(=.*)?": _BITS,
    r"-(menable|enable)-(unsafe-fp-math|no-(nans|infs|signed-zeros)(-fp-math)?)|-fp-contract=.*": _BITS,
    r"-mdaz-ftz|-f?denormal-fp-math(-f32)?=.*": "it flushes denormal numbers",
    r"-flto([=-].*)?|-f(no-)?fat-lto-objects|-fuse-linker-plugin|-fwhole-program": (
        "objects of several instruction sets are not to be compiled again together"
    ),
}
LEFT_OUT_ON = {
    "x86_64": {
        r"-march=.*|-m(avx|sse[34]|ssse3|fma|f16c|bmi|lzcnt|abm|movbe|popcnt|xop|tbm|amx|aes|vaes|pclmul|vpclmul|sha"
        r"|gfni|adx|apx|rdrnd|rdseed)[\w.-]*": _NATIVE,
    },
    "aarch64": {r"-m(arch|cpu)=.*": _NATIVE},
}
REFUSED = {
    r"-m32|-mx32|-m16": "Python has pointers of another size",
    r"-mno-sse2?|-msoft-float|-mgeneral-regs-only": "float32 needs SSE2",
}

# What must hold of compiled code, as x, a denormal, 1, 1e8, NaN, -0 and 41, and y, 1 and 0.1, show; see FAULTS.
ARITHMETIC = """
int fa_arithmetic(const float *x, const double *y);
__attribute__((visibility("default"))) int fa_arithmetic(const float *x, const double *y) {
    float p = x[5] / x[6], q = x[1] / x[6], r = x[2] / x[6];
    return (x[0] * x[1] == 0) | ((x[1] + x[2]) - x[2] != 0) << 1 | (x[3] == x[3]) << 2
        | (x[1] / (x[4] + 0.0f) < 0) << 3 | (p != 1 || q > 1 || r < 1) << 4 | (y[0] * 0.1 != y[1]) << 5;
}
"""
FAULTS = (
    "flushes denormal numbers",
    "changes the order or the precision of sums",
    "takes NaN for a number",
    "loses the sign of zero",
    "divides by multiplying with a reciprocal",
    "rounds constants to float32",
)
RUN_ARITHMETIC = """
import ctypes, sys
floats, doubles = (ctypes.c_float * 7)(1e-40, 1, 1e8, float("nan"), -0.0, 41, 41), (ctypes.c_double * 2)(1, 0.1)
print(ctypes.CDLL(sys.argv[1]).fa_arithmetic(floats, doubles))
"""
PRODUCT = "float fa_product(float a, float b, float c);\nfloat fa_product(float a, float b, float c) {\n"
PRODUCT += "    float product = a * b;\n    return product + c;\n}\n"
FUSED = re.compile(r"\bv?fn?m(add|sub|la|ls)")  # of x86-64 and aarch64
LINK = ["-fno-fast-math", "-pthread"]  # the former: else some compilers add code that flushes denormals in the process


def machine() -> str:
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def files(*patterns: str) -> list[str]:
    return sorted(str(p) for pattern in patterns for p in SRC.glob(pattern))


def left_out(flag: str, machine: str, serial: bool = False) -> str | None:
    """Why ``flag`` is not handed to the compiler; None for one that is."""
    if serial and re.fullmatch(r"-fopenmp(=.*|-.*)?", flag):
        return "FASTATTN_NO_OPENMP is set"
    for known in (LEFT_OUT, LEFT_OUT_ON.get(machine, {})):
        for pattern, why in known.items():
            if re.fullmatch(pattern, flag):
                return why
    return None


def expanded(words: Iterable[str], depth: int = 8) -> Iterator[str]:
    """``words`` with the contents of files in place of ``@file``, as compilers read it."""
    for word in words:
        inside = None
        if word.startswith("@") and depth and os.path.isfile(word[1:]):
            try:
                inside = shlex.split(Path(word[1:]).read_text())
            except (OSError, ValueError):  # the compiler has its own say
                inside = None
        if inside is None:
            yield word
        else:
            yield from expanded(inside, depth - 1)


def sift(words: Sequence[str], machine: str, serial: bool = False) -> tuple[list[str], dict[str, str]]:
    """(the words of a command that stay, those that are left out with the reason).

    Raises:
        OptionError: one of them cannot be left out and cannot stay.
    """
    kept: list[str] = []
    out: dict[str, str] = {}
    before = ""  # clang's way to hand an option to one of its parts: both words belong together
    for word in expanded(words):
        if word in ("-Xclang", "-mllvm", "-Xcompiler"):
            before = word
            continue
        why = left_out(word, machine, serial)
        if why is not None:
            out[word] = why
        else:
            for pattern, fault in REFUSED.items():
                if re.fullmatch(pattern, word):
                    raise OptionError(f"{word} in {origin(word, os.environ)}: {fault}: fastattn does not build with it")
            kept += [before, word] if before else [word]
        before = ""
    return [*kept, before] if before else kept, out


def origin(flag: str, environment: Mapping[str, str]) -> str:
    """The variable that has ``flag``."""
    for name in VARIABLES:
        try:
            words = shlex.split(environment.get(name, ""))
        except ValueError:
            continue
        if flag in words or flag in expanded(words):
            return name
    return "Python's own configuration"


def c_string(text: str) -> str:
    """``text``, of ASCII, as C has it; "?" might begin a trigraph."""
    return '"' + re.sub(r'["\\?]', lambda found: "\\" + found[0], text) + '"'


def shown_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables as they were, but for the paths of the folder that was built in."""
    values = {name: re.sub(r"\s*-f\w+-prefix-map=\S+", "", environment.get(name, "")).strip() for name in VARIABLES}
    return {name: value[:1000] for name, value in values.items() if value}


def check_writable(folders: Iterable[Path]) -> None:
    """``FileError``, in one sentence, where building could not write to one of ``folders`` that is there."""
    for folder in folders:
        if not folder.is_dir():
            continue
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            copy = f"cp -r --no-preserve=mode {shlex.quote(str(ROOT))} ~/fastattn-source"
            raise FileError(
                f"{folder}: {error.strerror}: building fastattn writes into its source folder: copy it to where you "
                f"may write, as with `{copy}`, and build the copy"
            ) from None


class BuildExt(build_ext):
    """build_ext that compiles the ISA stubs with their own flags and finds out what the compiler can do."""

    def run(self) -> None:
        if self.inplace:
            check_writable([ROOT / "fastattn"])
        super().run()

    def build_extensions(self) -> None:
        serial = os.environ.get("FASTATTN_NO_OPENMP") == "1"
        self._sift_commands(serial)
        self._check_arithmetic()
        self.openmp = [] if serial else self._probe_openmp()
        if not self.openmp:
            self.warn("fastattn: no OpenMP, building with the crew alone")
        super().build_extensions()

    def build_extension(self, ext: Extension) -> None:
        ext.extra_compile_args = [*COMMON, *GENERATED, *self.openmp]
        ext.extra_link_args = [*LINK, *self.openmp, *([] if DEBUG else ["-Wl,-s"])]
        if ext.name == "fastattn._core":
            stubs = self._stub_objects(ext)
            said = json.dumps({"environment": shown_environment(os.environ), "left_out": self.left_out})
            macros = [(f"FA_WITH_{name.upper()}", "1") for name in stubs]
            told = [
                ("FA_BUILD_FLAGS", c_string(" ".join([*COMMON[2:], *self.openmp]))),
                ("FA_BUILD_SAID", c_string(said)),
            ]
            ext.define_macros = [*macros, *told]
            ext.extra_objects = [*stubs.values(), *self._plain_objects(macros)]
            ext.depends = [*ext.depends, *ext.extra_objects]
        ext.depends = [*ext.depends, self._stamp(ext)]
        super().build_extension(ext)

    def _sift_commands(self, serial: bool) -> None:
        """Take out of the compiler's commands what is left out, and say so."""
        found: dict[str, str] = {}
        for name in ("compiler", "compiler_so", "linker_so", "linker_exe"):
            kept, out = sift(getattr(self.compiler, name), machine(), serial)
            setattr(self.compiler, name, kept)
            found |= out
        self.left_out = list(found)
        for flag, why in found.items():
            self.warn(f"fastattn: {flag} in {origin(flag, os.environ)} is left out: {why}")

    def _stamp(self, ext: Extension) -> str:
        """A file that is newer than the extension where the commands that make it are others."""
        path = Path(self.build_temp, f"{ext.name}.command")
        commands = (self.compiler.compiler_so, self.compiler.linker_so, ext.extra_compile_args, ext.extra_link_args)
        text = repr((commands, ext.define_macros))
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return str(path)

    def _check_arithmetic(self) -> None:
        """Refuse a compiler that changes bits for reasons that no flag shows: a wrapper, a configuration file.

        It compiles, links and runs a few lines; where they do not run (another architecture), nothing is known.
        """
        with tempfile.TemporaryDirectory() as folder:
            source, product, library = (str(Path(folder, name)) for name in ("a.c", "product.c", "a.so"))
            Path(source).write_text(ARITHMETIC)
            Path(product).write_text(PRODUCT)
            strongest = [*STUBS.get(machine(), {}).values()][-1:]
            commands = [
                [*self.compiler.compiler_so, "-c", source, "-o", f"{folder}/a.o", *COMMON],
                [*self.compiler.linker_so, f"{folder}/a.o", "-o", library, *LINK],
                [sys.executable, "-I", "-c", RUN_ARITHMETIC, library],
            ]
            results = [subprocess.run(command, capture_output=True) for command in commands]
            answer = results[-1].stdout.strip()
            wrong = int(answer) if answer.isdigit() else 0  # not a number: it did not run
            faults = [fault for bit, fault in enumerate(FAULTS) if wrong >> bit & 1]
            for flags in strongest:
                made = [*self.compiler.compiler_so, "-S", product, "-o", f"{folder}/product.s", *COMMON, *flags]
                if subprocess.run(made, capture_output=True).returncode == 0:
                    fused = FUSED.search(Path(folder, "product.s").read_text(errors="replace"))
                    faults += ["fuses products and sums"] if fused else []
        if faults:
            used = " ".join(f"{name}={value!r}" for name, value in shown_environment(os.environ).items())
            raise OptionError(
                f"the compiler ({shlex.join(self.compiler.compiler_so)[:500]}; {used or 'no variables set'}) "
                f"{' and '.join(faults)}, which would change results: fastattn gives the same bits in every build and "
                "needs a compiler without that"
            )

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
                self.warn(f"fastattn: the compiler cannot build {name}, leaving it out")

        def build(name: str) -> str:
            return self._compile([str(SRC / "isa" / f"{name}.c")], f"isa_{name}", [*COMMON, *wanted[name]], [])[0]

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # a stub takes many seconds, and there are three
            return dict(zip(wanted, pool.map(build, wanted), strict=True))

    def _plain_objects(self, macros: list[tuple[str, str]]) -> list[str]:
        return self._compile(files("*.c", "ops/*.c"), "plain", [*COMMON, *self.openmp], macros)


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


def main() -> None:
    os.chdir(ROOT)
    try:
        check_writable([ROOT, *ROOT.glob("*.egg-info"), ROOT / "build", *(ROOT / "build").rglob("*")])
    except FileError as error:  # before any command runs, which would catch it
        raise SystemExit(f"error: {error}") from None
    setup(ext_modules=extensions(), cmdclass={"build_ext": BuildExt})


if __name__ == "__main__":  # tests look at the functions above
    main()
