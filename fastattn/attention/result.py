# SPDX-License-Identifier: MIT
"""What a call gives, and the memory it is written to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastattn.arrays import check_out
from fastattn.attention.storage import Stored

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["AttentionResult", "Target", "make_target"]


class AttentionResult(NamedTuple):
    """What attention returns where more than the output is asked for; None what was not.

    To a type checker what was asked for is there: "or None" would have every caller check what the call has said. "Or
    Any" stands for that None, and for an ``out`` that is the caller's own tensor.
    """

    out: NDArray[Any] | Any
    lse: NDArray[np.float32] | Any = None
    weights: NDArray[np.float32] | Any = None
    scores: NDArray[np.float32] | Any = None


class Target(NamedTuple):
    """Arrays the call writes, and what the caller gets for them."""

    out: np.ndarray
    lse: np.ndarray | None
    weights: np.ndarray | None
    scores: np.ndarray | None
    returned: Any

    def result(self) -> Any:
        """The output alone, or everything where more was asked for."""
        if self.lse is None and self.weights is None and self.scores is None:
            return self.returned
        return AttentionResult(self.returned, self.lse, self.weights, self.scores)


def make_target(
    out: Any, like: Stored, shape: tuple[int, ...], keys: int, apart: dict[str, np.ndarray],
    return_lse: bool, return_weights: bool, return_scores: int,
) -> Target:  # fmt: skip
    """Fresh arrays, or the caller's `out` once it has been checked: of q's dtype, sharing memory with nothing."""
    if out is None:
        array = np.empty(shape, like.array.dtype)
        returned: Any = array if like.given is None else array.view(like.given)
    else:
        array = check_out(like.same_dtype(out, "out"), shape, apart, dtype=like.array.dtype)
        returned = out
    return Target(
        array,
        np.empty(shape[:-1], np.float32) if return_lse else None,
        np.empty((*shape[:-1], keys), np.float32) if return_weights else None,
        np.empty((*shape[:-1], keys), np.float32) if return_scores else None,
        returned,
    )
