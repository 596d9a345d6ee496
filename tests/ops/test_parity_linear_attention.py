# SPDX-License-Identifier: MIT
"""Every test vector ONNX has for LinearAttention, mapped as linear_attention()'s docstring says.

A vector is what ONNX's own NumPy code gives in float32, rounded to the type of the inputs. The measure is the accuracy
rule with the vector as the naive side. Run with ``pytest -m parity`` where onnx is installed.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import numpy as np
import pytest

import fastattn as fa
from fastattn import reference

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnx.reference.ops.op_linear_attention", reason="this onnx does not know LinearAttention yet")
pytestmark = pytest.mark.parity

UNIT = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
NAMES = ("query", "key", "value", "past_state", "decay", "beta")


class Vector(NamedTuple):
    name: str
    inputs: dict[str, np.ndarray]
    outputs: list[np.ndarray]
    attributes: dict[str, Any]


def vectors() -> list[Vector]:
    """What the backend's test cases export, each with the same random numbers every time."""
    module = importlib.import_module("onnx.backend.test.case.node.linear_attention")
    found: list[Vector] = []

    def record(node: Any, inputs: Any, outputs: Any, name: str, **_rest: Any) -> None:
        given = iter(inputs)  # what is left out has no name, and no value
        values = {NAMES[i]: next(given) for i, place in enumerate(node.input) if place}
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        found.append(Vector(name, values, list(outputs), attributes))

    original, module.expect = module.expect, record  # type: ignore[attr-defined]
    try:
        for name, case in vars(module.LinearAttention).items():
            if name.startswith("export"):
                np.random.seed(len(found))
                case.__func__()
    finally:
        module.expect = original  # type: ignore[attr-defined]
    return found


VECTORS = vectors()


def unpacked(vector: Vector) -> tuple[tuple[np.ndarray, ...], dict[str, Any]]:
    """(q, k, v) and the options of linear_attention()."""
    x, attributes = vector.inputs, vector.attributes
    over_time = x["query"].shape[:2]
    kv_heads = attributes["kv_num_heads"]
    q = x["query"].reshape(*over_time, attributes["q_num_heads"], -1)
    k, v = (x[name].reshape(*over_time, kv_heads, -1) for name in ("key", "value"))
    options: dict[str, Any] = {"rule": attributes.get("update_rule", b"gated_delta").decode()}
    if "decay" in x:
        by_row = x["decay"].shape[2] != kv_heads
        options["decay"] = x["decay"].reshape(*over_time, kv_heads, -1) if by_row else x["decay"]
    for name, option in (("beta", "beta"), ("past_state", "state")):
        if name in x:
            options[option] = x[name]
    if attributes.get("scale"):
        options["scale"] = attributes["scale"]
    return (q, k, v), options


def test_there_are_vectors() -> None:
    rules = {unpacked(vector)[1]["rule"] for vector in VECTORS}
    assert rules == {"linear", "gated", "delta", "gated_delta"}
    assert len(VECTORS) >= 10
    assert any("past_state" in vector.inputs for vector in VECTORS)


@pytest.mark.parametrize("vector", VECTORS, ids=[vector.name for vector in VECTORS])
def test_vector(vector: Vector) -> None:
    arrays, options = unpacked(vector)
    got = fa.linear_attention(*arrays, **options)
    exact = reference.linear_attention(*arrays, **{name: x for name, x in options.items() if name != "rule"})
    packed = (got.out.reshape(*got.out.shape[:2], -1), got.state.astype(vector.outputs[1].dtype))
    for mine, expected, ref in zip(packed, vector.outputs, exact, strict=True):
        assert mine.dtype == expected.dtype and mine.shape == expected.shape
        wide, naive = (np.asarray(x).astype(np.float64).reshape(ref.shape) for x in (mine, expected))
        unit = UNIT[expected.dtype.name]
        bound = 2 * np.abs(naive - ref).max(initial=0) + unit * np.abs(ref).max(initial=0)
        assert np.abs(wide - ref).max(initial=0) <= bound
