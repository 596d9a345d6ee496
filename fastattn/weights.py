# SPDX-License-Identifier: MIT
"""Weights packed once, in the order in which the kernels read them."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastattn import _core
from fastattn._core import PackedLinear
from fastattn.arrays import as_float32

__all__ = ["PackedLinear", "pack_linear"]


def pack_linear(
    weight: Any, bias: Any = None, dtype: str = "float32", *, num_threads: int | None = None
) -> PackedLinear:
    """Packs the weights of a linear layer y = x W^T + b for :func:`fastattn.linear`.

    Args:
        weight: (N, K) float32, out features by in features, as torch and safetensors files keep it; any row stride
        bias: (N,) float32 or None
        dtype: how the weights are stored: "float32"
        num_threads: threads of this call

    Returns:
        A PackedLinear: panels of 16 outputs, (ceil(N / 16), K, 16), zero beyond N, the same bytes on every machine.
        Weight and bias are copied; the originals are no longer needed.

    Raises:
        TypeError: weight or bias is not float32
        ValueError: shapes that do not fit, a last stride other than one element, another dtype

    >>> import numpy as np, fastattn as fa
    >>> layer = fa.pack_linear(np.eye(3, 4, dtype=np.float32), np.ones(3, np.float32))
    >>> layer
    PackedLinear(in_features=4, out_features=3, bias=True, dtype='float32')
    >>> fa.linear(np.float32([[1, 2, 3, 4]]), layer)
    array([[2., 3., 4.]], dtype=float32)
    """
    if dtype != "float32":
        raise ValueError(f"dtype: {dtype!r}, expected 'float32'")
    w = as_float32(weight, "weight")
    if w.ndim != 2:
        raise ValueError(f"weight: shape {w.shape}, expected (N, K)")
    n, k = w.shape
    b = None
    if bias is not None:
        b = as_float32(bias, "bias")
        if b.shape != (n,):
            raise ValueError(f"bias: shape {b.shape}, expected {(n,)} for weight {w.shape}")
        b = np.array(b)
    panels = _core.aligned_panels(n, k)
    _core.pack_panels(panels, w, num_threads)
    return _core.packed_linear(panels, b, n)
