# SPDX-License-Identifier: MIT
"""NumPy with the BLAS it came with: what everybody has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
    threadpool_info,
    threadpool_limits,
)

from fastattn.bench.inputs import additive

from . import Form, NotOffered, Peer

if TYPE_CHECKING:
    from fastattn.bench.attention_shapes import AttentionCase
    from fastattn.bench.inputs import Inputs
    from fastattn.bench.operator_cases import SimilarityCase
    from fastattn.bench.shapes import LinearCase

__all__ = ["NumPyPeer"]


class NumPyPeer(Peer):
    """``x @ w.T`` and the textbook form of attention; BLAS pools limited by threadpoolctl."""

    name = "numpy"

    def __init__(self, num_threads: int) -> None:
        super().__init__(num_threads)
        self._limits = threadpool_limits(num_threads, user_api="blas")
        pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
        names = [f"{pool['internal_api']} {pool.get('architecture', '')}".strip() for pool in pools]
        self.version = f"{np.__version__} ({', '.join(names) or 'no BLAS that threadpoolctl knows'})"

    def close(self) -> None:
        """Lifts the limit."""
        self._limits.restore_original_limits()

    def attention(self, case: AttentionCase, sets: Sequence[Inputs]) -> list[Form]:
        """Scores, mask, softmax, weighted sum, in place where that is possible."""
        if case.dtype != "float32" or case.int8:
            raise NotOffered("its products are of float32")
        if case.sinks:
            raise NotOffered("has no softmax with sinks")
        return [Form("matmul and softmax", lambda: _textbook(case, sets))]

    def linear(self, case: LinearCase, x: Any, weights: Sequence[Any], out: Any) -> list[Callable[[int], Any]]:
        """Weights as files keep them, transposed in the call, and transposed once beforehand."""
        if case.dtype != "float32":
            raise NotOffered(f"{case.dtype} weights")
        rows = [weight.T for weight in weights]
        columns = [np.ascontiguousarray(weight.T) for weight in weights]
        return [lambda i: np.matmul(x, rows[i], out=out), lambda i: np.matmul(x, columns[i], out=out)]

    def similarity(self, case: SimilarityCase, a: np.ndarray, b: np.ndarray) -> list[Callable[[], np.ndarray]]:
        """All scores by one product, rows being of length 1, then a partition and a sort of the best."""
        if case.metric not in ("cosine", "dot"):
            raise NotOffered("distances of all pairs at once would take the memory of m x d for each query")

        def call() -> np.ndarray:
            scores = a @ b.T
            best = np.take_along_axis(scores, np.argpartition(scores, -case.k, axis=1)[:, -case.k :], 1)
            return np.sort(best, axis=1)[:, ::-1]

        return [call]


def _textbook(case: AttentionCase, sets: Sequence[Inputs]) -> Callable[[int], np.ndarray]:
    group = case.heads // case.kv_heads
    scale = np.float32(1 / np.sqrt(case.d))
    scores = np.empty((case.batch, case.kv_heads, group, case.sq, case.sk), np.float32)
    mask = additive(sets[0])
    if mask is not None:
        shape = (case.kv_heads, group) if mask.shape[1] > 1 else (1, 1)
        mask = mask.reshape(mask.shape[0], *shape, *mask.shape[2:])

    def call(index: int) -> np.ndarray:
        s = sets[index]
        q = s.q.reshape(case.batch, case.kv_heads, group, case.sq, case.d)
        np.matmul(q, s.k[:, :, None].swapaxes(-1, -2), out=scores)
        np.multiply(scores, scale, out=scores)
        if case.softcap is not None:
            np.multiply(np.tanh(scores / np.float32(case.softcap)), np.float32(case.softcap), out=scores)
        if mask is not None:
            np.add(scores, mask, out=scores)
        np.subtract(scores, scores.max(axis=-1, keepdims=True), out=scores)
        np.exp(scores, out=scores)
        np.divide(scores, scores.sum(axis=-1, keepdims=True), out=scores)
        np.matmul(scores, s.v[:, :, None], out=s.out.reshape(*q.shape[:-1], case.dv))
        return s.out

    return call
