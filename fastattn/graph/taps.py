# SPDX-License-Identifier: MIT
"""Weights of short convolutions as their steps take them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .source import Floats, Source

__all__ = ["conv_taps"]


def conv_taps(source: Source, name: str, width: int, size: int, *, bias: bool) -> Mapping[str, Floats]:
    """``taps`` (size, width), the oldest row's first, and with ``bias`` ``bias`` (width,), of a layer ``name``.

    Files of Hugging Face have ``name.weight`` as (width, 1, size), converted ones as (width, size).
    """

    def make(weight: Floats, *rest: Floats) -> dict[str, Floats]:
        taps = np.ascontiguousarray(weight.reshape(width, size).T)
        return {"taps": taps, "bias": rest[0]} if bias else {"taps": taps}

    stored = (width, size) if source.converted else (width, 1, size)
    tensors: dict[str, tuple[int, ...]] = {f"{name}.weight": stored}
    shapes: dict[str, tuple[int, ...]] = {"taps": (size, width)}
    if bias:
        tensors[f"{name}.bias"] = shapes["bias"] = (width,)
    return source.derive(name, tensors, make, shapes=shapes)
