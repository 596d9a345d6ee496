#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Builds the C test program in several variants, runs each, and compares what they print line by line.

    python tests/c/make.py                 gcc alone
    python tests/c/make.py gcc clang serial asan tsan neon
    python tests/c/make.py --list          which variants there are and what each is for

Every variant that was run must print the same hashes: other compilers, optimisation levels, instruction sets and
machines give the same bits. Flags are those of setup.py, read from it. Exit status 0 only if all of it holds.
"""

from __future__ import annotations

import argparse
import ast
import os
import platform
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SRC = ROOT / "src_c"
TIME_LIMIT = 600  # seconds, of one run


@dataclass(frozen=True)
class Variant:
    """One way to build and run the program."""

    about: str
    compiler: str
    flags: tuple[str, ...] = ()
    openmp: bool = True
    machine: str = platform.machine()
    isas: tuple[str, ...] = ()  # stubs to compile beside scalar; () = all of the machine
    run: tuple[str, ...] = ()  # what runs the program
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    static: bool = False

    def missing(self) -> list[str]:
        return [tool for tool in (*self.cc[:1], *self.run[:1]) if shutil.which(tool) is None]

    @property
    def cc(self) -> list[str]:
        return shlex.split(self.compiler)


_SANITIZE = ("-O1", "-g", "-fno-omit-frame-pointer")
VARIANTS = {
    "gcc": Variant("as shipped, warnings are errors", "gcc", ("-Werror",)),
    "quick": Variant(
        # one stub beside scalar: compiling AVX-512 takes as long as all the rest; gcc and neon have every stub
        "compiles fast: for the Python test suite", os.environ.get("CC", "gcc"), ("-Og",), isas=("avx2", "neon"),
        arguments=("--quick",),
    ),
    "clang": Variant("the other compiler, warnings are errors", "clang", ("-Werror",), isas=("avx2",)),
    "serial": Variant(
        "without OpenMP, threads of the crew alone", "gcc", ("-O1", "-Werror"), isas=("avx2",), openmp=False,
        arguments=("--quick",),
    ),
    "asan": Variant(
        # --no-fork: the child of a process with threads may find a lock of gcc 12's allocator runtime held for good.
        "AddressSanitizer and UndefinedBehaviorSanitizer", "gcc",
        (*_SANITIZE, "-fsanitize=address,undefined", "-fno-sanitize-recover=all"), isas=("avx2",),
        arguments=("--quick", "--no-fork"),
        environment={"UBSAN_OPTIONS": "print_stacktrace=1"},
    ),
    "tsan": Variant(
        # Neither libgomp nor libomp is instrumented, so regions of theirs would only give false alarms.
        "ThreadSanitizer, threads of the crew", "gcc", (*_SANITIZE, "-fsanitize=thread"), isas=("avx2",), openmp=False,
        arguments=("--quick", "--no-fork"),
        environment={"TSAN_OPTIONS": "halt_on_error=1"},
    ),
    "neon": Variant(
        # qemu's user mode cannot start threads in the child of a process that had some (an assertion of its own fails).
        "aarch64 under qemu", "aarch64-linux-gnu-gcc", ("-Werror",), machine="aarch64", run=("qemu-aarch64",),
        arguments=("--no-fork",), static=True,
    ),
}  # fmt: skip


def shipped_flags(machine: str) -> tuple[list[str], dict[str, list[str]]]:
    """(flags of every file, flags by ISA stub) as setup.py has them: its own assignments, carried out."""
    names = {"COMMON", "STUBS"}

    def is_flags(node: ast.stmt) -> bool:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        while isinstance(target, ast.Subscript):
            target = target.value
        return isinstance(target, ast.Name) and target.id in names

    body = [node for node in ast.parse((ROOT / "setup.py").read_text()).body if is_flags(node)]
    space: dict[str, object] = {"DEBUG": False}
    exec(compile(ast.Module(body, []), "setup.py", "exec"), space)
    stubs = space["STUBS"]
    assert isinstance(stubs, dict) and isinstance(space["COMMON"], list)
    return space["COMMON"], stubs.get({"AMD64": "x86_64", "arm64": "aarch64"}.get(machine, machine), {"scalar": []})


def sources() -> Iterator[Path]:
    yield from sorted(HERE.glob("*.c"))
    yield from sorted(p for pattern in ("*.c", "ops/*.c") for p in SRC.glob(pattern))


def build(variant: Variant, folder: Path) -> Path:
    """The program's path; what is there already and newer than its source and every header is kept."""
    common, stubs = shipped_flags(variant.machine)
    if variant.isas:
        stubs = {isa: flags for isa, flags in stubs.items() if isa in ("scalar", *variant.isas)}
    openmp = ["-fopenmp"] if variant.openmp else []
    macros = [f"-DFA_WITH_{isa.upper()}=1" for isa in stubs]
    jobs = [(SRC / "isa" / f"{isa}.c", [*common, *flags, *variant.flags]) for isa, flags in stubs.items()]
    jobs += [(path, [*common, *openmp, *macros, *variant.flags]) for path in sources()]
    folder.mkdir(parents=True, exist_ok=True)
    headers = [path for top in (SRC, HERE) for end in ("h", "inc") for path in top.rglob(f"*.{end}")]
    newest = max(path.stat().st_mtime for path in (ROOT / "setup.py", Path(__file__), *headers))

    def compile_one(job: tuple[Path, list[str]]) -> str:
        path, flags = job
        target = folder / f"{path.parent.name}_{path.stem}.o"
        if target.exists() and target.stat().st_mtime > max(newest, path.stat().st_mtime):
            return str(target)
        subprocess.run([*variant.cc, *flags, "-c", str(path), "-o", str(target)], check=True)
        return str(target)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, jobs))
    program = folder / "fastattn-test"
    link = [*openmp, *variant.flags, *(["-static"] if variant.static else []), "-lm", "-pthread"]
    subprocess.run([*variant.cc, *objects, "-o", str(program), *link], check=True)
    return program


def run(variant: Variant, program: Path, extra: list[str]) -> tuple[bool, dict[str, str]]:
    """(success, hash by case name)"""
    command = [*variant.run, str(program), *variant.arguments, *extra]
    environment = {**os.environ, **variant.environment}
    # a session of its own: children that the program forked end with it
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=TIME_LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            print(f"{' '.join(command)}: not done after {TIME_LIMIT} s", flush=True)
    if process.returncode:
        print(f"{' '.join(command)}: exit status {process.returncode}", flush=True)
    lines = re.findall(r"^([0-9a-f]{16}) (.+)$", output, re.MULTILINE)
    return process.returncode == 0, {name: value for value, name in lines}


def cpu_seconds() -> float:
    """What finished children have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", metavar="variant", help=f"{', '.join(VARIANTS)}; default gcc")
    parser.add_argument("--list", action="store_true", help="say what the variants are and stop")
    parser.add_argument("--out", type=Path, help="keep objects and programs here, and reuse what is up to date")
    parser.add_argument("--filter", help="only cases whose name contains this")
    args = parser.parse_args()
    if args.list:
        for name, variant in VARIANTS.items():
            print(f"{name:8} {variant.about} ({variant.compiler})")
        return 0
    chosen = args.variants or ["gcc"]
    if unknown := [name for name in chosen if name not in VARIANTS]:
        parser.error(f"unknown variant {unknown[0]!r}, expected some of {', '.join(VARIANTS)}")

    failed: list[str] = []
    known: dict[str, tuple[str, str]] = {}  # case -> hash, variant that printed it first
    with tempfile.TemporaryDirectory() as temporary:
        for name in chosen:
            variant = VARIANTS[name]
            if missing := variant.missing():
                print(f"{name}: {missing[0]} is not installed", flush=True)
                failed.append(name)
                continue
            start, cpu = time.monotonic(), cpu_seconds()
            try:
                program = build(variant, (args.out or Path(temporary)) / name)
            except subprocess.CalledProcessError as error:
                print(f"{name}: {error.cmd[0]} failed on {error.cmd[error.cmd.index('-o') - 1]}", flush=True)
                failed.append(name)
                continue
            built, cpu_built = time.monotonic(), cpu_seconds()
            good, hashes = run(variant, program, [args.filter] if args.filter else [])
            for case, value in hashes.items():
                first, where = known.setdefault(case, (value, name))
                if first != value:
                    print(f"{name}: {case}: {value}, but {first} in {where}", flush=True)
                    good = False
            verdict = "ok" if good else "FAILED"
            times = f"built in {built - start:.0f} s ({cpu_built - cpu:.0f} of CPU), "
            times += f"run in {time.monotonic() - built:.0f} s ({cpu_seconds() - cpu_built:.0f})"
            print(f"{name}: {verdict}, {len(hashes)} cases, {times}", flush=True)
            failed += [] if good else [name]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
