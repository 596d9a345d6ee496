# SPDX-License-Identifier: MIT
"""Weights of an OpenVINO model as int8 per output; its CPU plugin quantises activations on the way."""

from __future__ import annotations

from typing import Any

import numpy as np
from openvino import opset13  # type: ignore[import-not-found,unused-ignore]

__all__ = ["compress"]


def compress(model: Any) -> int:
    """Makes the constant matrices of the MatMuls of ``model`` int8 with a scale per output; how many there were."""
    count = 0
    for operator in model.get_ordered_ops():
        if operator.get_type_name() != "MatMul":
            continue
        source = operator.input(1).get_source_output().get_node()
        if source.get_type_name() != "Constant":
            continue
        weight = np.asarray(source.data, np.float32)
        inputs = 1 if operator.get_attributes()["transpose_b"] else 0
        scale = np.abs(weight).max(axis=inputs, keepdims=True) / np.float32(127)
        scale[scale == 0] = 1
        stored = opset13.constant(np.rint(weight / scale).astype(np.int8))
        product = opset13.multiply(opset13.convert(stored, "f32"), opset13.constant(scale))
        operator.input(1).replace_source_output(product.output(0))
        count += 1
    return count
