# SPDX-License-Identifier: MIT
"""Every test vector ONNX has for Attention and RotaryEmbedding, through the adapters of tests/support/onnx_ops.py.

A vector is what ONNX's own NumPy code gives in the type of the inputs. The measure is the accuracy rule with the vector
as the naive side: our distance from the same code in float64 is at most twice the vector's, plus one rounding of the
type. Run with ``pytest -m parity`` where onnx is installed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import onnx_ops

onnx = pytest.importorskip("onnx")
reference = pytest.importorskip("onnx.reference.ops.op_attention")
rotary = pytest.importorskip("onnx.reference.ops.op_rotary_embedding")
pytestmark = pytest.mark.parity

ATTENTION = onnx_ops.vectors("attention", "Attention")
ROTARY = onnx_ops.vectors("rotaryembedding", "RotaryEmbedding")
UNIT = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


def wide(x: Any) -> Any:
    """Floating point in float64; bool and integers as they are."""
    return x if x is None or x.dtype.kind in "biu" else x.astype(np.float64)


def assert_as_good(got: np.ndarray, vector: np.ndarray, exact: np.ndarray, what: str) -> None:
    assert got.dtype == vector.dtype and got.shape == vector.shape, f"{what}: {got.dtype}{got.shape}"
    g, naive, e = (np.asarray(x).astype(np.float64) for x in (got, vector, exact))
    np.testing.assert_array_equal(np.isneginf(g), np.isneginf(e), err_msg=f"{what}: -inf")
    assert not np.isnan(g).any() and not np.isposinf(g).any(), what
    g, naive, e = (np.where(np.isneginf(x), 0, x) for x in (g, naive, e))
    unit = UNIT[str(vector.dtype)]
    bound = 2 * np.abs(naive - e).max(initial=0) + unit * np.abs(e).max(initial=0)
    assert np.abs(g - e).max(initial=0) <= bound, f"{what}: {np.abs(g - e).max()} > {bound}"


def test_there_are_vectors() -> None:
    assert len(ATTENTION) >= 60 and len(ROTARY) >= 5
    assert {v.attributes.get("qk_matmul_output_mode", 0) for v in ATTENTION} == {0, 1, 2, 3}
    assert any(v.inputs[0] is not None and v.inputs[0].dtype == np.float16 for v in ATTENTION)


@pytest.mark.parametrize("vector", ATTENTION, ids=[v.name for v in ATTENTION])
def test_attention_vector(vector: onnx_ops.Vector) -> None:
    got = onnx_ops.attention(*vector.inputs, **vector.attributes)  # type: ignore[arg-type]
    attributes = {name: value for name, value in vector.attributes.items() if name != "softmax_precision"}
    exact = reference._compute_attention(
        *(wide(x) for x in vector.inputs), _validate_attention25=vector.opset == 25, **attributes
    )
    for i, expected in enumerate(vector.outputs):
        if expected is not None:
            assert_as_good(got[i], expected, exact[i], f"output {i}")


@pytest.mark.parametrize("vector", ROTARY, ids=[v.name for v in ROTARY])
def test_rotary_embedding_vector(vector: onnx_ops.Vector) -> None:
    got = onnx_ops.rotary_embedding(*vector.inputs, **vector.attributes)  # type: ignore[arg-type]
    exact = rotary.rotary_embedding(*(wide(x) for x in vector.inputs), **vector.attributes)
    assert vector.outputs[0] is not None
    assert_as_good(got, vector.outputs[0], exact, "output")
