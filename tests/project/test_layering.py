# SPDX-License-Identifier: MIT
"""The layers of the project, read from imports, includes and object files; and that the reader sees what is wrong."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import layering

ROOT = Path(__file__).resolve().parents[2]
PACKAGE, SOURCES = ROOT / "fastattn", ROOT / "src_c"
needs_sources = pytest.mark.skipif(
    not SOURCES.is_dir() or not PACKAGE.is_dir(), reason="no source tree beside the tests"
)


@needs_sources
def test_python_layers() -> None:
    assert layering.check_python(PACKAGE) == []


@needs_sources
def test_no_circle_of_imports() -> None:
    """Nor of those for types alone; inside functions there are a few, which are listed, and each of which is one."""
    imports = layering.module_imports(PACKAGE)
    assert layering.circles(imports) == []
    assert layering.circles(imports, layering.LATE) == []
    assert layering.late_imports(imports) >= layering.LATE
    for one in layering.LATE:
        assert layering.circles(imports, layering.LATE - {one}) != [], f"{one} closes no circle"


@needs_sources
def test_cython_layers() -> None:
    assert layering.check_cython(PACKAGE) == []


@needs_sources
def test_c_layers() -> None:
    assert layering.check_c(SOURCES) == []


@needs_sources
def test_one_file_includes_omp() -> None:
    users = [
        p.relative_to(SOURCES).as_posix()
        for p in SOURCES.rglob("*.[ch]")
        if re.search(r"#\s*include\s*<omp\.h>", p.read_text())
    ]
    assert users == ["ops/parallel.h"]


@needs_sources
def test_no_forbidden_flags() -> None:
    building = [ROOT / "setup.py", ROOT / "pyproject.toml", ROOT / ".ci" / "run"]
    assert layering.check_flags([p for p in building if p.exists()]) == []
    stamps = [p for p in (ROOT / "build").rglob("command") if p.is_file()]
    assert layering.check_flags(stamps) == []


@needs_sources
def test_every_file_is_licensed_and_can_be_read_in_one_sitting() -> None:
    c = [p for p in SOURCES.rglob("*") if p.suffix in (".c", ".h", ".inc")]
    python = [
        p
        for folder in (PACKAGE, ROOT / "tests")
        for p in folder.rglob("*")
        if p.suffix in (".py", ".pyx", ".pxd", ".pxi", ".pyi")
    ]
    bad = []
    for path in c + python:
        text = path.read_text("utf-8")
        expected = "/* SPDX-License-Identifier: MIT */" if path in c else "# SPDX-License-Identifier: MIT"
        lines = text.splitlines()
        if lines[:1] != [expected] and not (lines[:1] and lines[0].startswith("#!") and lines[1:2] == [expected]):
            bad.append(f"{path.relative_to(ROOT)}: first line is not {expected}")
        if text.count("\n") >= 600:
            bad.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines")
    assert bad == []


def isa_objects() -> list[tuple[Path, str]]:
    """The newest object of each ISA stub, if a build tree is there."""
    found: dict[str, Path] = {}
    for stub in (SOURCES / "isa").glob("*.c") if SOURCES.is_dir() else ():
        for path in (ROOT / "build").rglob(f"{stub.stem}.o") if (ROOT / "build").is_dir() else ():
            if "isa" in path.parts and (
                stub.stem not in found or path.stat().st_mtime > found[stub.stem].stat().st_mtime
            ):
                found[stub.stem] = path
    return [(path, name) for name, path in sorted(found.items())]


@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm")
def test_each_isa_object_exports_its_table_and_nothing_else() -> None:
    objects = isa_objects()
    if not objects:
        pytest.skip("no build tree")
    assert [line for path, isa in objects for line in layering.check_object(path, isa)] == []


@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm")
def test_the_extension_exports_its_init_function_and_nothing_else() -> None:
    from fastattn import _core

    listing = subprocess.run(
        ["nm", "-D", "--defined-only", str(_core.__file__)], capture_output=True, text=True, check=True
    ).stdout
    names = {line.split()[-1] for line in listing.splitlines()} - {"_init", "_fini", "__bss_start", "_edata", "_end"}
    assert names == {"PyInit__core"}


def test_import_brings_in_numpy_and_nothing_heavy() -> None:
    code = (
        "import sys, fastattn; "
        "print([m for m in ('fastattn.reference', 'fastattn._testing', 'fastattn.cli', 'fastattn.models', "
        "'fastattn.loaders', 'fastattn.kvcache', 'tokenizers', "
        "'torch', 'asyncio', 'unittest') if m in sys.modules and m not in before])"
    )
    code = "import sys, numpy; before = set(sys.modules); " + code
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == "[]"


# ---- the checker itself --------------------------------------------------------------------------------------------


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


# fmt: off
GOOD_PYTHON = {
    "__init__.py": "from fastattn.ops import linear\n", "_core.pyx": "", "_testing.pyx": "",
    "reference.py": "import numpy as np\nnp.exp(1)\n",
    "ops.py": "import math\nimport numpy as np\nfrom fastattn import _core\n"
    "S = 1 / math.sqrt(4)\nN = np.arange(2 ** 3).sum()\n",
    "graph/__init__.py": "from .. import ops\nfrom ..loaders import x\nfrom .._core import Program\n",
    "models/__init__.py": "", "models/blocks.py": "from ..graph.graph import Graph\nimport numpy as np\n",
    "models/bert.py": "import re\nfrom ..graph.graph import Graph\nfrom .blocks import Sizes\nfrom . import blocks\n",
    "models/registry.py": "from ..loaders import x\nfrom ..graph.graph import Graph\nfrom ..cpu import version\n",
    "models/packing.py": "from .registry import build\nfrom ..weights import pack\n", "cpu.py": "", "weights.py": "",
    "engine/__init__.py": "from ..graph import Graph\nfrom ..kvcache import pages\n", "kvcache/__init__.py": "",
    "loaders/__init__.py": "x = 1\n",
    "text/__init__.py": "import tokenizers\nfrom ..models.registry import build\nfrom ..engine import Encoder\n",
}
# fmt: on
# fmt: off
BAD_PYTHON = {
    "models/bad.py": [
        ("from .registry import build", "imports models.registry"), ("from . import packing", "imports models.packing"),
        ("from ..loaders import x", "imports loaders"), ("from ..weights import pack", "imports weights"),
        ("from .. import ops", "imports ops"), ("from ..engine import Encoder", "imports engine"),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..engine import Encoder", "imports engine"),
        ("from fastattn import _core", "imports _core"), ("from fastattn._core import attend", "imports _core"),
        ("from .._core import attend", "imports _core"),
        ("import fastattn._core", "imports _core"), ("def f():\n    from .. import _core", "imports _core"),
        ("from ..text import x", "imports text"),
        ("from fastattn.reference import linear", "imports reference"), ("import torch", "imports torch"),
        ("import tokenizers", "imports tokenizers"),
        ("from importlib import import_module\nimport_module('fastattn._core')", "imports _core"),
        ("import numpy as np\nnp.exp(x)", "np.exp"), ("import numpy\nnumpy.cos(x)", "np.cos"), ("a @ b", "@"),
        ("a @= b", "@"),
        ("import numpy as np\nnp.linalg.norm(x)", "np.linalg"),
        ("import numpy as np\nnp.einsum('ij->i', x)", "np.einsum"),
        ("x.mean(axis=0)", ".mean()"), ("x.dot(y)", ".dot()"), ("from numpy import matmul", "import matmul"),
        ("from numpy.linalg import norm", "import norm"),
        ("import numpy as np\nf = np.sqrt", "np.sqrt"), ("import math\nmath.exp(1.0)", "math.exp"),
        ("from math import tanh", "import tanh"),
        ("d ** -0.5", "**"), ("d ** 0.5", "**"), ("d ** n", "**"),
    ],
    "models/registry.py": [("from ..engine import Encoder", "imports engine"), ("from ..text import x", "imports text"),
     ("import typing_extensions", "imports typing_extensions")],
    "engine/bad.py": [("from ..models.registry import build", "imports models"), ("from .. import text", "text"),
     ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..models import bert", "imports models"),
     ("import numpy as np\nnp.mean(x)", "np.mean")],
    "graph/bad.py": [("from ..models import bert", "imports models"), ("from ..engine import x", "imports engine"),
     ("from ..kvcache import pages", "imports kvcache"), ("a @ b", "@")],
    "loaders/bad.py": [("from ..models import x", "imports models"), ("from fastattn.ops import x", "imports ops"),
     ("import safetensors", "imports safetensors")],
    "text/bad.py": [("from .. import _core", "imports _core"), ("from ..models import bert", "imports models.bert"),
     ("from ..models.packing import pack", "imports models.packing"), ("from .. import models", "imports models"),
     ("def f():\n    from ..models.bert import FAMILY", "imports models.bert"),
     ("from ..cli import main", "imports cli"),
     ("import numpy as np\nnp.mean(x)", "np.mean")],
    "ops.py": [("from .models import bert", "imports models"), ("from . import reference", "imports reference"),
     ("from fastattn import _testing", "imports _testing")],
    "reference.py": [("from . import ops", "imports ops"), ("import scipy", "imports scipy")],
    "weird.py": [("x = 1", "has no place")],
}
# fmt: on


def test_the_checker_accepts_good_python(tmp_path: Path) -> None:
    assert layering.check_python(write(tmp_path / "fastattn", GOOD_PYTHON)) == []


@pytest.mark.parametrize(
    ("name", "code", "message"), [(name, *case) for name, cases in BAD_PYTHON.items() for case in cases]
)
def test_the_checker_sees_bad_python(tmp_path: Path, name: str, code: str, message: str) -> None:
    ast.parse(code)
    found = layering.check_python(
        write(tmp_path / "fastattn", {"cli/__init__.py": "", **GOOD_PYTHON, name: code + "\n"})
    )
    assert len(found) >= 1 and all(name in line for line in found)
    assert any(message in line for line in found), found


@pytest.mark.parametrize(
    ("first", "second", "late"),
    [
        ("from . import b", "from . import a", False),
        ("from .b import x", "import fastattn.a", False),
        (
            "from fastattn.b import x",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .a import y",
            False,
        ),
        ("from . import b", "def f():\n    from . import a", True),
        ("class A:\n    def f(self):\n        import fastattn.b", "async def f():\n    from .a import x", True),
        ("from .c import x", "from .a import x", False),
    ],
)
def test_the_checker_sees_circles(tmp_path: Path, first: str, second: str, late: bool) -> None:
    good = {
        "__init__.py": "from . import a\n",
        "a.py": "",
        "b.py": "from . import a\n",
        "c/__init__.py": "from .. import b\n",
    }
    imports = layering.module_imports(write(tmp_path / "good", good))
    assert layering.circles(imports) == layering.circles(imports, set()) == []
    bad = layering.module_imports(write(tmp_path / "fastattn", {**good, "a.py": first + "\n", "b.py": second + "\n"}))
    assert (layering.circles(bad) == []) == late
    found = layering.circles(bad, set())
    assert found and all({"a", "b"} <= set(circle) and circle[0] == circle[-1] for circle in found)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("cimport numpy as cnp", "NumPy"),
        ("from numpy cimport ndarray", "NumPy"),
        ('cdef extern from "view.h":\n    pass', "outside _capi.pxd"),
        ("from fastattn import models", "imports models"),
        ("from fastattn.reference import linear", "imports reference"),
    ],
)
def test_the_checker_sees_bad_cython(tmp_path: Path, code: str, message: str) -> None:
    good = {
        "_core.pyx": "from fastattn._capi cimport *\nfrom fastattn import threads\n",
        "_capi.pxd": 'cdef extern from "fastattn.h":\n    pass\n',
    }
    assert layering.check_cython(write(tmp_path / "good", good)) == []
    found = layering.check_cython(write(tmp_path / "bad", {**good, "_core.pyx": code}))
    assert any(message in line for line in found), found


# fmt: off
GOOD_C = {
    "fastattn.h": "#include <stddef.h>\n", "view.h": '#include "fastattn.h"\n', "arena.h": "",
    "dispatch.h": '#include "kernels/kernels.h"\n',
    "dispatch.c": '#include "dispatch.h"\n', "kernels/kernels.h": '#include "../fastattn.h"\n',
    "kernels/a.inc": '#include "../vec/vec.h"\n'
    '/* malloc(1); exp(x) and\n printf("#pragma omp") */ // free(p)\nconst char *s = "abort()";\n',
    "vec/vec.h": '#include <stdint.h>\n#include "scalar.h"\n',
    "vec/scalar.h": "#include <math.h>\nfloat f(float a) { return fmaf(a, a, a); }\n",
    "isa/scalar.c": '#include "table.inc"\n',
    "isa/table.inc": '#include "../kernels/a.inc"\n#include "../kernels/kernels.h"\n',
    "ops/parallel.h": "#ifdef _OPENMP\n#include <omp.h>\n#endif\n",
    "ops/parallel.c": '#include "parallel.h"\n#pragma omp parallel\n',
    "ops/a.c": '#include "parallel.h"\n#include "../arena.h"\n#include "../view.h"\n'
    '#include "../kernels/kernels.h"\n#include "../dispatch.h"\n',
}
# fmt: on
# fmt: off
BAD_C = [
    ("ops/bad.c", "#include <omp.h>", "omp.h"), ("kernels/bad.inc", "  # include <omp.h>", "omp.h"),
    ("fastattn.h", "#include <omp.h>", "omp.h"),
    ("ops/bad.c", "#pragma omp parallel for", "OpenMP"), ("kernels/bad.inc", "#pragma omp simd", "OpenMP"),
    ("ops/bad.c", "n = omp_get_num_threads();", "OpenMP"),
    ("kernels/bad.inc", "#include <stdlib.h>", "stdlib.h"), ("kernels/bad.inc", "#include <stdio.h>", "stdio.h"),
    ("vec/bad.h", "#include <math.h>", "math.h"),
    ("isa/bad.c", "#include <math.h>", "math.h"), ("ops/bad.c", "#include <stdio.h>", "stdio.h"),
    ("kernels/bad.inc", "p = malloc(4);", "malloc"),
    ("vec/bad.h", "free (p);", "free"), ("ops/bad.c", "p = calloc(1, 2);", "calloc"),
    ("kernels/bad.inc", "printf(\"x\");", "printf"),
    ("ops/bad.c", "if (x) abort();", "abort"), ("kernels/bad.inc", "y = expf(x);", "expf"),
    ("vec/bad.h", "y = tanh(x);", "tanh"),
    ("kernels/bad.inc", "y = fmaf(a, b, c);", "fmaf"), ("vec/scalar.h", "y = exp2f(x);", "exp2f"),
    ("kernels/bad.inc", '#include "../view.h"', "view.h"),
    ("kernels/bad.inc", '#include "../ops/parallel.h"', "ops/parallel.h"),
    ("vec/bad.h", '#include "../kernels/kernels.h"', "kernels/kernels.h"),
    ("isa/bad.c", '#include "../arena.h"', "arena.h"), ("ops/bad.c", '#include "../kernels/a.inc"', "kernels/a.inc"),
    ("ops/bad.c", '#include "../vec/vec.h"', "vec/vec.h"),
    ("fastattn.h", '#include "ops/parallel.h"', "ops/parallel.h"),
    ("ops/bad.c", '#include "../../other.h"', "outside"), ("ops/bad.c", '#include "gone.h"', "not there"),
    ("kernels/bad.inc", "#pragma STDC FP_CONTRACT ON", "floating point"),
    ("kernels/bad.inc", '__attribute__((optimize("fast-math"))) int f;', "floating point"),
]
# fmt: on


def test_the_checker_accepts_good_c(tmp_path: Path) -> None:
    assert layering.check_c(write(tmp_path / "src_c", GOOD_C)) == []


@pytest.mark.parametrize(("name", "code", "message"), BAD_C)
def test_the_checker_sees_bad_c(tmp_path: Path, name: str, code: str, message: str) -> None:
    root = write(tmp_path / "src_c", {**GOOD_C, name: f"int x;\n{code}\n"})
    (tmp_path / "other.h").write_text("")
    found = layering.check_c(root)
    assert any(line.startswith(f"{name}:2:") and message in line for line in found), found


def test_the_checker_sees_bad_flags(tmp_path: Path) -> None:
    good = write(tmp_path, {"setup.py": "FLAGS = ['-O3']  # never -ffast-math\n"}) / "setup.py"
    assert layering.check_flags([good]) == []
    for flag in layering.FORBIDDEN_FLAGS:
        bad = write(tmp_path, {"setup.py": f"FLAGS = ['-O3', '{flag}']\n"}) / "setup.py"
        assert layering.check_flags([bad]) != []


@pytest.mark.skipif(shutil.which("nm") is None or shutil.which("cc") is None, reason="no nm or no compiler")
@pytest.mark.parametrize(
    ("code", "fine"),
    [
        ("extern const int fa_kernels_x[2]; const int fa_kernels_x[2] = {1, 2};", True),
        ("extern const int fa_kernels_x[2]; const int fa_kernels_x[2] = {1, 2}; int helper(void) { return 1; }", False),
        ("int fa_kernels_x(void) { return 1; }", False),
        ("extern const int fa_kernels_y; const int fa_kernels_y = 1;", False),
        (
            "#include <stdlib.h>\nstatic void *f(void) { return malloc(4); }\nvoid *(*const fa_kernels_x)(void) = f;",
            False,
        ),
        (
            "#include <math.h>\nstatic double f(double x) { return exp(x); }\n"
            "double (*const fa_kernels_x)(double) = f;",
            False,
        ),
    ],
)
def test_the_checker_sees_bad_objects(tmp_path: Path, code: str, fine: bool) -> None:
    source, made = tmp_path / "x.c", tmp_path / "x.o"
    source.write_text(code + "\n")
    subprocess.run(["cc", "-O2", "-fPIC", "-c", str(source), "-o", str(made)], check=True)
    assert (layering.check_object(made, "x") == []) == fine
