# SPDX-License-Identifier: MIT
"""The tensors of a model, checked against what its architecture needs before any is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..loaders import WeightFile

__all__ = ["TensorSource"]

_FLOATS = ("F32", "F16", "BF16")

# How the norms of checkpoints converted from the first TensorFlow release are named.
_OLD_NAMES = (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))


class TensorSource:
    """Access to the tensors of one model by the names its architecture uses.

    Parameters
    ----------
    weights
        The opened file.
    expected
        Every tensor that is needed: name -> shape.
    prefix
        What stands before these names in the file (``"bert."`` in a checkpoint with a head on top).
    tied
        Name -> full name of a tensor in the file that holds the same values, used where the first is not stored.
    ignorable
        Full names that may be there without being needed.

    Raises
    ------
    ValueError
        Tensors are missing, unknown, of another shape, or not F32, F16 or BF16. They are named.
    """

    def __init__(
        self,
        weights: WeightFile,
        expected: Mapping[str, tuple[int, ...]],
        *,
        prefix: str = "",
        tied: Mapping[str, str] | None = None,
        ignorable: re.Pattern[str],
    ) -> None:
        self._weights = weights
        self._names: dict[str, str] = {}
        missing = []
        for name in expected:
            stored = self._stored_name(prefix + name) or (tied or {}).get(name)
            if stored is None or stored not in weights:
                missing.append(prefix + name)
            else:
                self._names[name] = stored
        if missing:
            raise ValueError(f"{weights.path}: missing {_listed(missing)}")
        for name, shape in expected.items():
            info = weights.info(self._names[name])
            if info.shape != shape:
                raise ValueError(
                    f"{info.file}: tensor {self._names[name]!r} has shape {list(info.shape)}, but config.json asks for "
                    f"{list(shape)}"
                )
            if info.dtype not in _FLOATS:
                raise ValueError(
                    f"{info.file}: tensor {self._names[name]!r} has dtype {info.dtype}, expected {', '.join(_FLOATS)}"
                )
        used = set(self._names.values())
        unknown = [name for name in weights if name not in used and not ignorable.fullmatch(name)]
        if unknown:
            raise ValueError(f"{weights.path}: this architecture has no use for {_listed(unknown)}")

    def _stored_name(self, name: str) -> str | None:
        if name in self._weights:
            return name
        for new, old in _OLD_NAMES:
            if name.endswith(new) and name.removesuffix(new) + old in self._weights:
                return name.removesuffix(new) + old
        return None

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The tensor as float32: of the mapped file itself where it is stored so."""
        return self._weights.as_float32(self._names[name])


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"tensor{'s' if len(names) > 1 else ''} {', '.join(repr(name) for name in names[:5])}{more}"
