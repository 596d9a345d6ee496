# SPDX-License-Identifier: MIT
"""``fastattn bench similarity``: the best rows for few and for many queries, beside what a user would pick instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from fastattn.ops import l2_normalize
from fastattn.similarity import TopK, similarity

from .compare import compare
from .determinism import check_call
from .operator_cases import SimilarityCase
from .peaks import Limits
from .peers import Peer, one_line
from .timing import Clock, Plan, fastest, timed

__all__ = ["SIMILARITY", "SimilarityCase", "check_similarity", "run", "run_case"]


SIMILARITY = (
    *(SimilarityCase("cosine", n) for n in (1, 4, 16, 64, 256)),
    *(SimilarityCase(metric, n) for metric in ("dot", "euclidean", "manhattan") for n in (1, 64)),
)
"""The grid."""


def _rows(case: SimilarityCase) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    drawn = (random.standard_normal((count, case.d), np.float32) for count in (case.n, case.m))
    a, b = (l2_normalize(rows) for rows in drawn)
    return a, b


def run_case(case: SimilarityCase, peers: Sequence[Peer], limits: Limits, plan: Plan) -> dict[str, Any]:
    """Figures of one metric and number of queries; see compare()."""
    a, b = _rows(case)
    threads = limits.num_threads
    figures = compare(
        timed(lambda: similarity(a, b, case.metric, case.k, num_threads=threads), plan.clock),
        {peer.name: _peer_call(peer, case, a, b, plan.clock) for peer in peers},
        limits,
        plan,
        flops=case.flops,
        cold=case.cold,
    )
    return {"name": case.name, "shape": case.shape_text, **figures}


def _peer_call(
    peer: Peer, case: SimilarityCase, a: np.ndarray, b: np.ndarray, clock: Clock
) -> Callable[[int], float] | str:
    """The peer's fastest way to find the same scores; or why it has none."""
    try:
        variants = peer.similarity(case, a, b)
        expected = similarity(a, b, case.metric, case.k).scores
        for variant in variants:
            error = float(np.abs(np.asarray(variant()) - expected).max())
            if not error <= 1e-4:  # distances by |a|^2 + |b|^2 - 2 a b are less exact
                return f"its scores differ by {error:.1e}"
        return timed(fastest(variants), clock)
    except Exception as error:  # other people's code, in any state: the comparison goes on without it
        return one_line(error)


def run(
    cases: Sequence[SimilarityCase], peers: Sequence[Peer], num_threads: int, plan: Plan
) -> Iterator[dict[str, Any]]:
    """Figures of each case, as they come."""
    limits = Limits(num_threads, True, plan.clock)
    for case in cases:
        yield run_case(case, peers, limits, plan)


def check_similarity(cases: Sequence[SimilarityCase]) -> Iterator[dict[str, Any]]:
    """Whether the bits are the same however a case is run; see check_call()."""
    for case in cases:
        a, b = _rows(case)

        def call(threads: int, a: Any = a, b: Any = b, case: SimilarityCase = case) -> TopK:
            return similarity(a, b, case.metric, case.k, num_threads=threads)

        yield check_call(case.name, call, case.flops, kernels=False)
