# SPDX-License-Identifier: MIT
"""Who may know whom: reads imports and includes (and calls) and says what breaks the layers."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

# What a part of the package may import from the package: the layers below it, never one above. A dotted name is one
# module of a part.
_LEAVES = {"_core", "threads", "arrays", "cpu", "typing"}
_OPERATORS = {
    "ops", "attention", "linear_attention", "kvcache", "merge", "rope", "rope_scaling", "weights", "threads", "cpu",
    "arrays", "similarity", "calllog", "typing",
}  # fmt: skip
_MODEL = {"graph", "engine", "models.registry", "models.adapting", "loaders"}
# fmt: off
MAY_IMPORT: dict[str, set[str]] = {
    "reference": {"reference_attention"},
    "reference_attention": set(),
    "loaders": {"_core"},
    "startup": set(),
    "threads": {"_core", "startup"},
    "cpu": {"_core", "threads", "startup", "__init__"},
    "arrays": {"_core"},
    "typing": set(),
    "calllog": {"threads"},
    "ops": _LEAVES | {"weights", "rowwise"},
    "rowwise": _LEAVES,
    "attention": _LEAVES,
    "linear_attention": _LEAVES,
    "merge": _LEAVES,
    "rope": _LEAVES | {"rope_scaling"},
    "rope_scaling": set(),
    "kvcache": _LEAVES | {"attention"},
    "quants": _LEAVES,
    "weights": _LEAVES | {"quants"},
    "similarity": _LEAVES,
    "graph": {"loaders", "weights", "quants", "rope", "attention", "ops", "typing", "_core"},
    "models": {"graph", "loaders", "weights", "quants", "cpu", "typing", "vocab"},
    "engine": {"graph", "kvcache", "calllog", "typing", "_core"},
    "vocab": {"loaders"},
    "text": _OPERATORS | _MODEL | {"vocab"},
    "cli": _OPERATORS | _MODEL | {"text", "models.packing", "models.families", "bench", "startup", "__init__"},
    "bench": _OPERATORS | _MODEL | {"text", "_core", "__init__"},
    "__init__": _OPERATORS | {"text", "engine", "models.packing", "loaders", "startup"},
    "__main__": {"cli"},
    "_core": {"_capi", "threads"},
    "_testing": {"_core", "_capi"},
}
# fmt: on
# A page, and the parts that pages have in common, know the graph and each other: no files, no arrays, no operators.
_BESIDE_PAGES = {
    "__init__",
    "registry",
    "packing",
    "configkeys",
    "gguf",
    "adapting",
    "ggufpooling",
    "ggufkeys",
    "families",
}
PAGES_MAY_IMPORT = {"graph", "models"}

# Imports inside functions that close a circle: what they bring in is needed when something is wrong or asked for.
LATE = {
    ("cli.bench_model", "cli.bench_model_modes"),
    ("cpu", "__init__"),
    ("bench.peers.with_onnxruntime", "bench.peers.onnx_attention"),
    ("loaders.files", "loaders.safetensors"),
    ("loaders.jsonfile", "loaders.hints"),
    ("loaders.weightfile", "loaders"),
}

# Libraries beyond the standard one. Everything else needs numpy alone.
MAY_USE: dict[str, set[str]] = {
    "text": {"numpy", "tokenizers", "jinja2"},
    "vocab": {"numpy", "tokenizers"},
    "cli": {"numpy", "pyarrow"},
    "bench": {
        "numpy",
        "torch",
        "transformers",
        "onnxruntime",
        "onnx",
        "openvino",
        "ctranslate2",
        "threadpoolctl",
        "tokenizers",
        "llama_cpp",
        "gguf",
    },
}
# No NumPy computing on floating point here: it follows the CPU and the build, and would reach the output.
EXACT = {
    "ops", "attention", "linear_attention", "kvcache", "merge", "rope", "rope_scaling", "weights", "graph", "models",
    "engine", "text", "similarity", "rowwise",
}  # fmt: skip
# fmt: off
_NUMPY_FLOAT = {
    "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "logaddexp", "logaddexp2", "sin", "cos", "tan", "sinh",
    "cosh", "tanh",
    "arcsin", "arccos", "arctan", "arctan2", "arcsinh", "arccosh", "arctanh", "hypot", "sqrt", "cbrt", "square",
    "power", "float_power",
    "reciprocal", "divide", "true_divide", "multiply", "dot", "vdot", "inner", "outer", "matmul", "tensordot",
    "einsum", "einsum_path",
    "kron", "convolve", "correlate", "mean", "nanmean", "average", "median", "std", "var", "nansum", "cumprod", "prod",
    "linalg", "fft",
    "polyval", "polyfit", "interp", "trapezoid", "sinc", "i0", "vectorize",
}
# fmt: on
_FLOAT_METHODS = {"dot", "mean", "std", "var"}
# But for fsum, which rounds once and right.
_MATH_FLOAT = {
    "exp",
    "exp2",
    "expm1",
    "log",
    "log2",
    "log10",
    "log1p",
    "sin",
    "cos",
    "tan",
    "sinh",
    "cosh",
    "tanh",
    "erf",
    "erfc",
    "gamma",
    "lgamma",
    "pow",
    "cbrt",
    "hypot",
    "sumprod",
}


def _room(parts: tuple[str, ...]) -> str:
    """The part of the package a module belongs to: fastattn/models/bert.py -> models."""
    return parts[0].split(".")[0] if parts else "__init__"


def _imports(tree: ast.AST, package: list[str]) -> Iterator[tuple[ast.AST, str]]:
    """(statement, dotted absolute name) of every import, wherever it stands; those for type checkers count too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = [*base, *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                yield node, ".".join([*stem, alias.name])
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute | ast.Name)
            and getattr(node.func, "attr", getattr(node.func, "id", "")) in ("import_module", "__import__")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            name = str(node.args[0].value)
            dots = len(name) - len(name.lstrip("."))
            yield node, ".".join([*(package[: len(package) - dots + 1] if dots else []), name.lstrip(".")])


def _for_types(tree: ast.AST) -> set[int]:
    """Ids of the statements that type checkers alone read."""
    return {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }


def _float_computing(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, what) of NumPy or libm computing on floating point, by name: the names a reviewer would look for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.MatMult):
            yield node.lineno, "the @ operator"
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and not isinstance(node.right, ast.Constant):
            yield node.lineno, "** with a computed exponent"
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and not isinstance(node.right.value, int):  # type: ignore[attr-defined]
            yield node.lineno, "** with a fractional exponent"
        elif isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else None
            if owner in ("np", "numpy") and node.attr in _NUMPY_FLOAT:
                yield node.lineno, f"np.{node.attr}"
            elif owner == "math" and node.attr in _MATH_FLOAT:
                yield node.lineno, f"math.{node.attr}"
            elif owner not in ("np", "numpy", "math") and node.attr in _FLOAT_METHODS:
                yield node.lineno, f".{node.attr}()"
        elif isinstance(node, ast.ImportFrom) and node.module in ("numpy", "math", "numpy.linalg", "numpy.fft"):
            bad = _MATH_FLOAT if node.module == "math" else _NUMPY_FLOAT
            for alias in node.names:
                if alias.name in bad or node.module.startswith("numpy."):
                    yield node.lineno, f"from {node.module} import {alias.name}"


def check_python(package: Path) -> list[str]:
    """Violations in the .py files of a package laid out as fastattn/ is."""
    found = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).parts
        room = _room(parts)
        where = "/".join(parts)
        tree = ast.parse(path.read_text("utf-8"), filename=str(path))
        if room not in MAY_IMPORT:
            found.append(f"{where}: {room} has no place in the layers")
            continue
        libraries = MAY_USE.get(room, {"numpy"})
        types = _for_types(tree)
        page = room == "models" and path.stem not in _BESIDE_PAGES
        allowed = PAGES_MAY_IMPORT if page else MAY_IMPORT[room] | {room}
        for node, name in _imports(tree, [package.name, *parts[:-1]]):
            line = getattr(node, "lineno", 0)
            top, *rest = name.split(".")
            if top == package.name:
                target = (
                    rest[0]
                    if rest and ((package / rest[0]).is_dir() or list(package.glob(f"{rest[0]}.*")))
                    else "__init__"
                )
                if target not in allowed and ".".join(rest[:2]) not in allowed:
                    what = ".".join(rest[:2]) if any(name.startswith(f"{target}.") for name in allowed) else target
                    found.append(f"{where}:{line}: {room} imports {what}")
                elif page and target == room and len(rest) > 1 and rest[1] in _BESIDE_PAGES - {"ggufkeys"}:
                    found.append(f"{where}:{line}: a page imports {room}.{rest[1]}")
            elif top == "typing_extensions" and id(node) in types:
                pass
            elif top not in sys.stdlib_module_names and top not in libraries:
                found.append(f"{where}:{line}: {room} imports {top}")
        if room in EXACT:
            found += [
                f"{where}:{line}: {what} computes floating point outside the kernels"
                for line, what in _float_computing(tree)
            ]
    return found


# ---- circles -------------------------------------------------------------------------------------------------------


Imports = dict[str, dict[str, bool]]


def module_imports(package: Path) -> Imports:
    """Module -> the modules of the package it imports, and whether only inside functions. Names are those behind the
    package's; its own is __init__."""
    modules: dict[str, Path] = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "__init__"] = path
    graph: Imports = {}
    for module, path in modules.items():
        tree = ast.parse(path.read_text("utf-8"))
        inside = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            for inner in ast.walk(node)
        }
        found = graph[module] = {}
        for node, name in _imports(tree, [package.name, *path.relative_to(package).parts[:-1]]):
            top, *rest = name.split(".")
            if top != package.name:
                continue
            if rest and list(package.glob(f"{rest[0]}.pyx")):
                continue  # compiled, and below all others
            while rest and ".".join(rest) not in modules:
                rest.pop()
            target = ".".join(rest) or "__init__"
            if target != module:
                found[target] = found.get(target, True) and id(node) in inside
    return graph


def circles(all_imports: Imports, late: Collection[tuple[str, str]] | None = None) -> list[list[str]]:
    """Circles of imports, TYPE_CHECKING ones too: of those outside of functions; with ``late``, of all but these."""
    graph = {
        module: [
            target
            for target, inner in imports.items()
            if (not inner if late is None else not (inner and (module, target) in late))
        ]
        for module, imports in all_imports.items()
    }
    found, done = [], set()

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            found.append([*path[path.index(module) :], module])
        elif module not in done:
            for target in graph.get(module, ()):
                visit(target, [*path, module])
            done.add(module)

    for module in graph:
        visit(module, [])
    return found


def late_imports(all_imports: Imports) -> set[tuple[str, str]]:
    """(module, what it imports inside functions alone)"""
    return {(module, name) for module, names in all_imports.items() for name, inner in names.items() if inner}


def check_cython(package: Path) -> list[str]:
    """Violations in .pyx, .pxd and .pxi: only _capi.pxd declares the C contract, and nothing uses NumPy's C API."""
    found = []
    for path in sorted(package.rglob("*.p[yx][xid]")):
        if path.suffix == ".pyi":
            continue
        for number, text in enumerate(path.read_text("utf-8").splitlines(), 1):
            line = text.split("#")[0]
            if re.search(r"cimport\s+numpy|from\s+numpy\s+cimport|import_array", line):
                found.append(f"{path.name}:{number}: uses NumPy's C API")
            declared = re.search(r'cdef extern from "([^"]+)"', line)
            if declared and path.stem not in ("_capi", "_testing"):
                found.append(f"{path.name}:{number}: declares {declared[1]} outside _capi.pxd")
            imported = re.match(r"\s*(?:from|import|cimport)\s+fastattn(?:\s+import\s+|\.)([\w, ]+)", line)
            for target in re.findall(r"\w+", imported[1].split("cimport")[0].split(" import")[0]) if imported else ():
                room = "_testing" if path.stem == "_testing" else "_core"
                if target not in MAY_IMPORT[room]:
                    found.append(f"{path.name}:{number}: {room} imports {target}")
    return found


# ---------------------------------------------------------------------------------------------------------------------

_KERNEL_SYSTEM = {"stdint.h", "stddef.h", "string.h", "float.h", "limits.h", "immintrin.h", "arm_neon.h"}
# fmt: off
_FORBIDDEN_CALLS = ("malloc", "calloc", "realloc", "free", "aligned_alloc", "posix_memalign", "alloca", "mmap",
 "printf", "fprintf",
                    "sprintf", "snprintf", "puts", "fputs", "fopen", "perror", "abort", "exit", "_exit", "assert",
                    "getenv")
_LIBM = ("acos", "asin", "atan", "atan2", "cbrt", "ceil", "cos", "cosh", "erf", "erfc", "exp", "exp2", "expm1", "fabs",
 "fdim", "floor",
         "fma", "fmax", "fmin", "fmod", "frexp", "hypot", "ldexp", "log", "log10", "log1p", "log2", "lrint", "lround",
         "modf", "nearbyint",
         "pow", "remainder", "rint", "round", "scalbn", "sin", "sinh", "sqrt", "tan", "tanh", "trunc")
# fmt: on
_ALL_LIBM = "|".join(name + suffix for name in _LIBM for suffix in ("f", "l", ""))
FORBIDDEN_FLAGS = (
    "-ffast-math",
    "-Ofast",
    "-march=native",
    "-mtune=native",
    "-mcpu=native",
    "-funsafe-math-optimizations",
    "-fassociative-math",
    "-freciprocal-math",
    "-ffinite-math-only",
    "-fno-signed-zeros",
    "-ffp-contract=fast",
    "-ffp-contract=on",
)


def _without_comments(text: str) -> str:
    """C text without comments and string contents; the lines stay where they were."""

    def blank(match: re.Match[str]) -> str:
        piece = match.group(0)
        return '""' if piece.startswith('"') else re.sub(r"[^\n]", " ", piece)

    includes = {m.start(): m for m in re.finditer(r"^[ \t]*#[ \t]*include[^\n]*", text, re.M)}
    kept, last = [], 0
    for start, match in includes.items():
        kept += [re.sub(r'"(?:\\.|[^"\\\n])*"|/\*.*?\*/|//[^\n]*', blank, text[last:start], flags=re.S), match.group(0)]
        last = match.end()
    kept.append(re.sub(r'"(?:\\.|[^"\\\n])*"|/\*.*?\*/|//[^\n]*', blank, text[last:], flags=re.S))
    return "".join(kept)


def _may_include(path: Path, target: Path, root: Path) -> bool:
    """May src_c's `path` include src_c's `target`?"""
    room = path.relative_to(root).parts[0] if path.parent != root else ""
    goal = target.relative_to(root)
    if goal == Path("fastattn.h"):
        return True
    if room == "vec":
        return goal.parts[0] == "vec"
    if room == "kernels":
        return goal.parts[0] in ("kernels", "vec")
    if room == "isa":
        return goal.parts[0] in ("isa", "kernels", "vec")
    if room == "ops":
        return goal.parts[0] == "ops" or goal in (
            Path("kernels/kernels.h"),
            Path("dispatch.h"),
            Path("view.h"),
            Path("arena.h"),
        )
    return goal.suffix == ".h" and (len(goal.parts) == 1 or goal == Path("kernels/kernels.h"))


def check_c(root: Path) -> list[str]:
    """Violations in a tree laid out as src_c/ is."""
    found = []
    for path in sorted(p for p in root.rglob("*") if p.suffix in (".c", ".h", ".inc")):
        name = path.relative_to(root).as_posix()
        room = path.relative_to(root).parts[0] if path.parent != root else ""
        inner = room in ("kernels", "vec", "isa")
        seam = name in ("ops/parallel.h", "ops/parallel.c")
        for number, line in enumerate(_without_comments(path.read_text("utf-8")).splitlines(), 1):
            where = f"{name}:{number}"
            system = re.match(r"\s*#\s*include\s*<([^>]+)>", line)
            local = re.match(r'\s*#\s*include\s*"([^"]+)"', line)
            if system:
                header = system[1]
                if header == "omp.h" and name != "ops/parallel.h":
                    found.append(f"{where}: includes <omp.h>, which ops/parallel.h alone may")
                elif inner and header not in _KERNEL_SYSTEM and not (header == "math.h" and name == "vec/scalar.h"):
                    found.append(f"{where}: {room} includes <{header}>")
                elif header == "stdio.h" and name != "cpu.c":
                    found.append(f"{where}: includes <stdio.h>")
            elif local:
                target = (path.parent / local[1]).resolve()
                if root.resolve() not in target.parents:
                    found.append(f"{where}: includes {local[1]} from outside src_c")
                elif not target.exists():
                    found.append(f"{where}: includes {local[1]}, which is not there")
                elif not _may_include(path.resolve(), target, root.resolve()):
                    found.append(
                        f"{where}: {room or 'the top'} includes {target.relative_to(root.resolve()).as_posix()}"
                    )
            if re.search(r"#\s*pragma\s+omp\b|\b_Pragma\s*\(\s*\"\"?\s*omp|\bomp_\w+\s*\(", line) and not seam:
                found.append(f"{where}: OpenMP outside ops/parallel")
            if re.search(r"FP_CONTRACT\s+ON|optimize\s*\(|float_control|\bfast[-_]math\b", line):
                found.append(f"{where}: changes how floating point is compiled")
            calls = re.findall(r"(?<![\w.>])(\w+)\s*\(", line)
            for call in calls:
                if call in _FORBIDDEN_CALLS and (inner or room == "ops" and not seam):
                    found.append(f"{where}: calls {call}")
                if inner and re.fullmatch(_ALL_LIBM, call) and not (call == "fmaf" and name == "vec/scalar.h"):
                    found.append(f"{where}: calls {call} of libm")
    return found


def check_flags(files: list[Path]) -> list[str]:
    """Compiler flags that change results or follow the build host, in anything that builds; comments may name them."""
    found = []
    for path in files:
        for number, text in enumerate(path.read_text("utf-8").splitlines(), 1):
            line = text.split("#")[0] if path.suffix in (".py", ".toml", ".sh", "") else text
            found += [f"{path.name}:{number}: {flag}" for flag in FORBIDDEN_FLAGS if flag in line]
    return found


def check_object(path: Path, isa: str) -> list[str]:
    """An ISA object exports one data symbol, fa_kernels_<isa>, and needs nothing but memory copies and fmaf."""
    exported, wanted = [], []
    for line in subprocess.run(["nm", "-g", str(path)], capture_output=True, text=True, check=True).stdout.splitlines():
        kind, name = line.split()[-2:]
        (wanted if kind == "U" else exported).append((kind, name))
    found = []
    if [name for _, name in exported] != [f"fa_kernels_{isa}"] or exported[0][0] not in "DR":
        found.append(f"{path.name}: exports {exported}, expected one data symbol fa_kernels_{isa}")
    allowed = {
        "memcpy",
        "memmove",
        "memset",
        "_GLOBAL_OFFSET_TABLE_",
        "__stack_chk_fail",
        *(["fmaf"] if isa == "scalar" else []),
    }
    strange = [
        name for _, name in wanted if name not in allowed and not name.startswith(("__asan", "__ubsan", "__gcov"))
    ]
    if strange:
        found.append(f"{path.name}: needs {strange}")
    return found
