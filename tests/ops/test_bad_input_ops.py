# SPDX-License-Identifier: MIT
"""Linear layers and row-wise operators refuse what they cannot do: the argument, what came and what was expected."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastattn as fa
from fastattn import ops

NAN, INF = float("nan"), float("inf")
TYPE_OR_VALUE = (TypeError, ValueError)


def z(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


def frozen(*shape: int) -> np.ndarray:
    x = z(*shape)
    x.setflags(write=False)
    return x


X, W, B = np.ones((3, 8), np.float32), np.ones(8, np.float32), np.zeros(8, np.float32)
WEIGHTS, BIAS = np.ones((5, 8), np.float32), np.ones(5, np.float32)
PACKED = fa.pack_linear(WEIGHTS, BIAS)
TABLES, IDS = [np.ones((4, 8), np.float32), np.ones((2, 8), np.float32)], [np.array([0, 3]), np.array([1, 0])]
CU = np.array([0, 1, 3])

# fmt: off
GOOD: dict[str, Callable[..., Any]] = {
    "linear": lambda x=X, packed=PACKED, **o: fa.linear(x, packed, **o),
    "layer_norm": lambda x=X, weight=W, bias=B, **o: fa.layer_norm(x, weight, bias, **o),
    "rms_norm": lambda x=X, weight=W, **o: fa.rms_norm(x, weight, **o),
    "softmax": lambda x=X, **o: fa.softmax(x, **o),
    "gelu": lambda x=X, **o: fa.gelu(x, **o),
    "silu": lambda x=X, **o: fa.silu(x, **o),
    "relu": lambda x=X, **o: ops.relu(x, **o),
    "tanh": lambda x=X, **o: ops.tanh(x, **o),
    "sigmoid": lambda x=X, **o: ops.sigmoid(x, **o),
    "l2_normalize": lambda x=X, **o: ops.l2_normalize(x, **o),
    "gated": lambda x=X, gate=X, activation="silu", **o: ops.gated(x, gate, activation, **o),
    "add": lambda x=X, y=X, **o: ops.add(x, y, **o),
    "pool": lambda x=X, cu_seqlens=CU, **o: ops.pool(x, cu_seqlens, **o),
    "embedding": lambda tables=TABLES, ids=IDS, **o: ops.embedding(tables, ids, **o),
    "pack_linear": lambda weight=WEIGHTS, bias=BIAS, **o: fa.pack_linear(weight, bias, **o),
}
TAKES_X = [name for name in GOOD if name not in ("embedding", "pack_linear")]
ROWWISE = [name for name in TAKES_X if name not in ("linear", "pool")]
SHAPE = {**dict.fromkeys(ROWWISE, (3, 8)), "linear": (3, 5), "pool": (2, 8), "embedding": (2, 8)}

CASES: list[tuple[str, dict[str, Any], Any, list[str]]] = [
    *[(op, {"x": X.astype(kind)}, TypeError, ["x", kind, "float32"]) for op in TAKES_X
     for kind in ("float64", "int32", "float16")],
    *[(op, {"x": thing}, TypeError, ["x", type(thing).__name__]) for op in TAKES_X
     for thing in (None, [[1.0]], "rows", 1.0)],
    *[(op, {"x": np.ones((3, 16), np.float32)[:, ::2]}, ValueError, ["x", "stride", "8", "4"]) for op in TAKES_X],
    *[(op, {"x": z()}, ValueError, ["x"]) for op in TAKES_X],
    *[(op, {"out": z(*(n + 1 for n in shape))}, ValueError, ["out", str(tuple(n + 1 for n in shape)), str(shape)])
     for op, shape in SHAPE.items()],
    *[(op, {"out": z(1, *shape)}, ValueError, ["out", str((1, *shape)), str(shape)]) for op, shape in SHAPE.items()],
    *[(op, {"out": z(*shape, dtype=np.float64)}, TypeError, ["out", "float64", "float32"]) for op,
     shape in SHAPE.items()],
    *[(op, {"out": frozen(*shape)}, ValueError, ["out", "read-only"]) for op, shape in SHAPE.items()],
    *[(op, {"out": z(shape[0], 2 * shape[1])[:, ::2]}, ValueError, ["out", "stride"]) for op, shape in SHAPE.items()],
    *[(op, {"out": np.lib.stride_tricks.as_strided(z(99), shape, (0, 4))}, ValueError, ["out"]) for op,
     shape in SHAPE.items()],
    *[(op, {"out": np.lib.stride_tricks.as_strided(z(99), shape, (4 * shape[1] - 4, 4))}, ValueError, ["out"]) for op,
     shape in SHAPE.items()],
    *[(op, {"num_threads": n}, ValueError, ["num_threads", str(n)]) for op in GOOD for n in (0, -3)],
    *[(op, {"num_threads": n}, TypeError, ["num_threads"]) for op in GOOD for n in (1.5, "2")],
    # --- rows
    *[(op, {"weight": z(9)}, ValueError, ["weight", "(9,)", "(8,)"]) for op in ("layer_norm", "rms_norm")],
    *[(op, {"weight": z(1)}, ValueError, ["weight", "(1,)", "(8,)"]) for op in ("layer_norm", "rms_norm")],
    *[(op, {"weight": z(3, 8)}, ValueError, ["weight", "(3, 8)", "(8,)"]) for op in ("layer_norm", "rms_norm")],
    *[(op, {"weight": W.astype(float)}, TypeError, ["weight", "float64"]) for op in ("layer_norm", "rms_norm")],
    *[(op, {"weight": np.ones(16, np.float32)[::2]}, ValueError, ["weight", "stride"])
     for op in ("layer_norm", "rms_norm")],
    *[(op, {"residual": z(2, 8)}, ValueError, ["residual", "(2, 8)", "(3, 8)"]) for op in ("layer_norm", "rms_norm")],
    *[(op, {"residual": z(8)}, ValueError, ["residual", "(8,)", "(3, 8)"]) for op in ("layer_norm", "rms_norm")],
    *[(op, {"residual": X.astype(int)}, TypeError, ["residual", "int64"]) for op in ("layer_norm", "rms_norm")],
    *[(op, {"eps": eps}, ValueError, ["eps", str(eps)]) for op in ("layer_norm", "rms_norm", "l2_normalize")
     for eps in (-1e-5, NAN, INF, 1e39)],
    *[(op, {"eps": eps}, TypeError, ["eps"]) for op in ("layer_norm", "rms_norm", "l2_normalize")
     for eps in ("1e-5", None, True, 1j)],
    ("layer_norm", {"bias": z(7)}, ValueError, ["bias", "(7,)", "(8,)"]),
    ("layer_norm", {"bias": B.astype(np.float16)}, TypeError, ["bias", "float16"]),
    ("gelu", {"approximate": "erf"}, ValueError, ["approximate", "erf", "tanh"]),
    ("gelu", {"approximate": None}, TYPE_OR_VALUE, ["approximate"]),
    # --- gated, add
    *[(op, {name: thing}, error, [name, *words]) for op, name in (("gated", "gate"), ("add", "y"))
      for thing, error, words in ((None, TypeError, ["NoneType"]), (z(2, 8), ValueError, ["(2, 8)", "(3, 8)"]),
                                  (z(8), ValueError, ["(8,)", "(3, 8)"]), (X.astype(int), TypeError, ["int64"]),
                                  (np.ones((3, 16), np.float32)[:, ::2], ValueError, ["stride"]))],
    *[("gated", {"activation": name}, TYPE_OR_VALUE, ["activation"]) for name in ("swish", "GELU", "", 1, ["gelu"])],
    # --- linear
    ("linear", {"x": z(3, 9)}, ValueError, ["x", "(3, 9)", "8"]),
    ("linear", {"x": z(3, 0)}, ValueError, ["x", "(3, 0)", "8"]),
    ("linear", {"packed": np.ones((5, 8), np.float32)}, TypeError, ["packed", "PackedLinear"]),
    ("linear", {"packed": None}, TypeError, ["packed", "PackedLinear"]),
    *[("linear", {"activation": name}, TYPE_OR_VALUE, ["activation"]) for name in ("swish", "GELU", "", 1, ["gelu"])],
    ("pack_linear", {"weight": z(5)}, ValueError, ["weight", "(5,)"]),
    ("pack_linear", {"weight": z(1, 5, 8)}, ValueError, ["weight", "(1, 5, 8)"]),
    ("pack_linear", {"weight": z(5, 8, dtype=np.float64)}, TypeError, ["weight", "float64", "float32"]),
    ("pack_linear", {"weight": z(8, 5).T}, ValueError, ["weight", "stride"]),
    ("pack_linear", {"weight": None}, TypeError, ["weight"]),
    ("pack_linear", {"bias": z(8)}, ValueError, ["bias", "(8,)", "(5,)"]),
    ("pack_linear", {"bias": z(1)}, ValueError, ["bias", "(1,)", "(5,)"]),
    ("pack_linear", {"bias": z(5, dtype=np.int64)}, TypeError, ["bias", "int64"]),
    *[("pack_linear", {"dtype": name}, TYPE_OR_VALUE, ["dtype"]) for name in ("int7", "float64", None, "")],
    # --- pool
    ("pool", {"x": z(1, 3, 8)}, ValueError, ["x", "(1, 3, 8)"]),
    ("pool", {"x": z(8)}, ValueError, ["x", "(8,)"]),
    ("pool", {"mode": "average"}, ValueError, ["mode", "average", "mean"]),
    ("pool", {"mode": None}, TYPE_OR_VALUE, ["mode"]),
    ("pool", {"skip": -1}, ValueError, ["skip", "-1"]),
    ("pool", {"skip": 1.0}, TypeError, ["skip", "float"]),
    ("pool", {"skip": True}, TypeError, ["skip", "bool"]),
    ("pool", {"skip": None}, TypeError, ["skip"]),
    ("pool", {"cu_seqlens": [0, 2]}, ValueError, ["cu_seqlens", "2", "3"]),
    ("pool", {"cu_seqlens": [1, 3]}, ValueError, ["cu_seqlens", "1", "0"]),
    ("pool", {"cu_seqlens": [0, 4]}, ValueError, ["cu_seqlens", "4", "3"]),
    ("pool", {"cu_seqlens": [0, 2, 1, 3]}, ValueError, ["cu_seqlens", "2", "1"]),
    ("pool", {"cu_seqlens": [0, -1, 3]}, ValueError, ["cu_seqlens", "-1"]),
    ("pool", {"cu_seqlens": [0, 2 ** 63 - 1, -5, 3]}, ValueError, ["cu_seqlens"]),
    ("pool", {"cu_seqlens": []}, ValueError, ["cu_seqlens", "(0,)"]),
    ("pool", {"cu_seqlens": [0.0, 3.0]}, TypeError, ["cu_seqlens", "float64"]),
    ("pool", {"cu_seqlens": None}, TypeError, ["cu_seqlens"]),
    # --- embedding
    ("embedding", {"ids": [np.array([0, 4]), IDS[1]]}, ValueError, ["ids[0]", "4", "3"]),
    ("embedding", {"ids": [IDS[0], np.array([1, -1])]}, ValueError, ["ids[1]", "-1"]),
    ("embedding", {"ids": [IDS[0], np.array([1, 2 ** 40])]}, ValueError, ["ids[1]", str(2 ** 40)]),
    ("embedding", {"ids": [IDS[0], np.array([2 ** 64 - 1, 0], np.uint64)]}, ValueError, ["ids[1]"]),
    ("embedding", {"ids": [IDS[0], np.array([1])]}, ValueError, ["ids[1]", "(1,)", "(2,)"]),
    ("embedding", {"ids": [IDS[0][None], IDS[1][None]]}, ValueError, ["ids[0]", "(1, 2)"]),
    ("embedding", {"ids": [IDS[0].astype(float), IDS[1]]}, TypeError, ["ids[0]", "float64"]),
    ("embedding", {"ids": IDS[:1]}, ValueError, ["ids", "1", "2"]),
    ("embedding", {"ids": IDS[0]}, TypeError, ["ids"]),
    ("embedding", {"tables": TABLES[0]}, TypeError, ["tables"]),
    ("embedding", {"tables": [], "ids": []}, ValueError, ["tables"]),
    ("embedding", {"tables": [TABLES[0], z(2, 9)]}, ValueError, ["tables[1]", "(2, 9)", "8"]),
    ("embedding", {"tables": [TABLES[0], z(8)]}, ValueError, ["tables[1]", "(8,)"]),
    ("embedding", {"tables": [TABLES[0], z(2, 8, dtype=np.float64)]}, TypeError, ["tables[1]", "float64"]),
    ("embedding", {"tables": [TABLES[0], z(0, 8)]}, ValueError, ["ids[1]"]),
]
# fmt: on


@pytest.mark.parametrize(
    ("op", "spoil", "error", "words"), CASES, ids=[f"{c[0]}-{'-'.join(c[1])}-{i}" for i, c in enumerate(CASES)]
)
def test_operators_refuse(op: str, spoil: dict[str, Any], error: Any, words: list[str]) -> None:
    GOOD[op]()
    with pytest.raises(error) as caught:
        GOOD[op](**spoil)
    message = str(caught.value)
    assert re.search(rf"(?<!\w){re.escape(words[0])}(?!\w)", message), f"{message!r} does not name {words[0]}"
    for word in words[1:]:
        assert word in message, f"{message!r} lacks {word!r}"


@pytest.mark.parametrize("op", TAKES_X)
def test_out_overlaps(op: str) -> None:
    """Exactly in place is allowed where a row only needs itself; half on top of the input never is."""
    memory = np.arange(64, dtype=np.float32)
    x = memory[:24].reshape(3, 8)
    rows, width = SHAPE[op]
    shifted = memory[4 : 4 + rows * width].reshape(rows, width)
    with pytest.raises(ValueError, match=r"\bout\b.*\bx\b"):
        GOOD[op](x=x, out=shifted)
    if op not in ROWWISE:
        return
    assert GOOD[op](x=x, out=x) is x
    with pytest.raises(ValueError, match=r"\bout\b.*\bx\b"):
        GOOD[op](x=x, out=x[::-1])


@pytest.mark.parametrize("call", ["layer_norm(x, None)", "layer_norm(x, None, x[0])", "rms_norm(x, None)"])
def test_a_missing_weight_is_refused(call: str) -> None:
    """In a process of its own: this once read through a null pointer."""
    code = f"import numpy as np, fastattn as fa; x = np.ones((3, 8), np.float32); fa.{call}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 1, f"exit status {run.returncode}"
    assert re.search(r"TypeError: .*\bweight\b.*None", run.stderr), run.stderr


def test_out_overlaps_the_others() -> None:
    memory = np.ones(64, np.float32)
    rows = memory[:24].reshape(3, 8)
    for op in ("layer_norm", "rms_norm"):
        with pytest.raises(ValueError, match=r"\bout\b.*\bweight\b"):
            GOOD[op](weight=rows[1], out=rows)
        with pytest.raises(ValueError, match=r"\bout\b.*\bresidual\b"):
            GOOD[op](residual=memory[8:32].reshape(3, 8), out=rows)
        assert GOOD[op](residual=rows, out=rows) is rows
    with pytest.raises(ValueError, match=r"\bout\b.*\bbias\b"):
        GOOD["layer_norm"](bias=rows[2], out=rows)
    with pytest.raises(ValueError, match=r"\bout\b.*\btables\b"):
        ops.embedding([memory[:32].reshape(4, 8)], [[0, 1]], out=memory[16:32].reshape(2, 8))
