# SPDX-License-Identifier: MIT
"""How files of Hugging Face have layers that are not (outputs, inputs) in the order in which a page wants them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Layout"]

_Floats = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Layout:
    """How files of Hugging Face have a layer, where not as (outputs, inputs) in the order of the page. In GGUF files
    all layers are in that order.
    """

    name: str
    """Layouts of one name are one."""
    transposed: bool = False
    """Whether its tensor is (inputs, outputs)."""
    order: np.ndarray[Any, np.dtype[np.int64]] | None = field(default=None, compare=False)
    """For each output of the page the one of the file; None where they are in order."""
    everywhere: bool = False
    """Whether GGUF files have it so too."""

    def shape(self, outputs: int, inputs: int) -> tuple[int, int]:
        """Of the tensor in the file."""
        return (inputs, outputs) if self.transposed else (outputs, inputs)

    def rows(self, stored: _Floats) -> _Floats:
        """(outputs, inputs) in order, of the tensor in the file."""
        rows = stored.T if self.transposed else stored
        return np.ascontiguousarray(rows if self.order is None else rows[self.order])
