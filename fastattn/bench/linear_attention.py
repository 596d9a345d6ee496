# SPDX-License-Identifier: MIT
"""``fastattn bench linear-attention``: prompts and single tokens by rule, beside what a user would pick instead."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from fastattn import linear_attention
from fastattn.ops import l2_normalize

from .compare import compare
from .determinism import check_call
from .operator_cases import Arrays, LinearAttentionCase
from .peaks import Limits, cold_bytes
from .peers import Peer, one_line
from .timing import Clock, Plan, fastest, timed

__all__ = [
    "LINEAR_ATTENTION",
    "Arrays",
    "LinearAttentionCase",
    "arrays_of",
    "check_linear_attention",
    "run",
    "run_case",
]


LINEAR_ATTENTION = (
    LinearAttentionCase("linear-t512-d64", "linear", 1, 512, 8, 8, 64, 64),
    LinearAttentionCase("linear-t2048-d128", "linear", 1, 2048, 4, 4, 128, 128),
    LinearAttentionCase("gated-t512-d128", "gated", 1, 512, 8, 8, 128, 128),
    LinearAttentionCase("gated-rows-t1024-d128x256", "gated", 1, 1024, 4, 4, 128, 256, by_row=True),
    LinearAttentionCase("delta-t512-d128", "delta", 1, 512, 8, 8, 128, 128),
    LinearAttentionCase("gated-delta-t64-d128", "gated_delta", 1, 64, 32, 32, 128, 128),
    LinearAttentionCase("gated-delta-t512-d64", "gated_delta", 1, 512, 16, 16, 64, 64),
    LinearAttentionCase("gated-delta-t512-d128", "gated_delta", 1, 512, 8, 8, 128, 128),
    LinearAttentionCase("gated-delta-gqa-t512-d128", "gated_delta", 1, 512, 16, 8, 128, 128),
    LinearAttentionCase("gated-delta-t2048-d128", "gated_delta", 1, 2048, 4, 4, 128, 128),
    LinearAttentionCase("gated-delta-t2048-d256", "gated_delta", 1, 2048, 1, 1, 256, 256),
    LinearAttentionCase("gated-delta-rows-t512-d128", "gated_delta", 1, 512, 8, 8, 128, 128, by_row=True),
    LinearAttentionCase("gated-step-d128", "gated", 1, 1, 32, 32, 128, 128),
    LinearAttentionCase("gated-delta-step-d128", "gated_delta", 1, 1, 32, 32, 128, 128),
    LinearAttentionCase("gated-delta-step-d128-batch", "gated_delta", 8, 1, 32, 32, 128, 128),
)
"""The grid of ``fastattn bench linear-attention``."""


def arrays_of(case: LinearAttentionCase) -> Arrays:
    """Keys of length 1, as the delta rules want them."""
    random = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape, np.float32)

    over_time = (case.batch, case.tokens)
    gate = (*over_time, case.kv_heads, case.dk) if case.by_row else (*over_time, case.kv_heads)
    count = max(2, -(-cold_bytes() // case.state_bytes)) if case.cold else 1
    return Arrays(
        normal(*over_time, case.heads, case.dk),
        l2_normalize(normal(*over_time, case.kv_heads, case.dk)),
        normal(*over_time, case.kv_heads, case.dv),
        -np.abs(normal(*gate)) * np.float32(0.1) if "gated" in case.rule else None,
        random.random((*over_time, case.kv_heads), np.float32) if "delta" in case.rule else None,
        [normal(case.batch, case.kv_heads, case.dk, case.dv) for _ in range(count)],
        np.zeros((*over_time, case.heads, case.dv), np.float32),
    )


def run_case(case: LinearAttentionCase, peers: Sequence[Peer], limits: Limits, plan: Plan) -> dict[str, Any]:
    """Figures of one case; see compare(). States are updated in place, each call the next one."""
    arrays = arrays_of(case)
    states = itertools.cycle(arrays.states)

    def ours() -> None:
        state = next(states)
        linear_attention(
            arrays.q, arrays.k, arrays.v, rule=case.rule, state=state, state_out=state, out=arrays.out,
            num_threads=limits.num_threads, **arrays.gates,
        )  # fmt: skip

    figures = compare(
        timed(ours, plan.clock),
        {peer.name: _peer_call(peer, case, arrays, plan.clock) for peer in peers},
        limits,
        plan,
        flops=case.flops,
        cold=2 * case.state_bytes if case.cold else 0,
    )
    return {"name": case.name, "shape": case.shape_text, **figures}


def _peer_call(peer: Peer, case: LinearAttentionCase, arrays: Arrays, clock: Clock) -> Callable[[int], float] | str:
    """The peer's fastest way to do the same, once its result has been compared with ours; or why it has none."""
    try:
        expected = linear_attention(
            arrays.q, arrays.k, arrays.v, rule=case.rule, state=arrays.states[0], **arrays.gates
        ).out
        variants = peer.linear_attention(case, arrays)
        for variant in variants:
            error = float(np.abs(np.asarray(variant(0)) - expected).max() / np.abs(expected).max())
            if not error <= 1e-3:
                return f"its result differs by {error:.1e}"
        positions = itertools.cycle(range(len(arrays.states))).__next__
        return timed(fastest([lambda f=variant: f(positions()) for variant in variants]), clock)  # type: ignore[misc]
    except Exception as error:  # other people's code, in any state: the comparison goes on without it
        return one_line(error)


def run(
    cases: Sequence[LinearAttentionCase], peers: Sequence[Peer], num_threads: int, plan: Plan
) -> Iterator[dict[str, Any]]:
    """Figures of each case, as they come."""
    limits = Limits(num_threads, read=any(case.cold for case in cases), clock=plan.clock)
    for case in cases:
        yield run_case(case, peers, limits, plan)


def check_linear_attention(cases: Sequence[LinearAttentionCase]) -> Iterator[dict[str, Any]]:
    """check_call() of each case, and of the same tokens in two calls."""
    for case in cases:
        a = arrays_of(case)
        state, cut = a.states[0], case.tokens // 3

        def call(
            num_threads: int, case: LinearAttentionCase = case, a: Arrays = a, state: np.ndarray = state, cut: int = cut
        ) -> list[np.ndarray]:
            outs = []
            for part in (slice(0, cut), slice(cut, None)) if num_threads % 2 == 0 else (slice(None),):
                gates = {name: gate if gate is None else gate[:, part] for name, gate in a.gates.items()}
                out, state = linear_attention(
                    a.q[:, part], a.k[:, part], a.v[:, part], rule=case.rule, state=state, num_threads=num_threads,
                    **gates,
                )  # fmt: skip
                outs.append(out)
            return [np.concatenate(outs, axis=1), state]

        yield check_call(case.name, call, case.flops, kernels=False)
