# SPDX-License-Identifier: MIT
"""attention() under random combinations of its options: the oracle, and the same bits from every kernel and ISA."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, note, settings
from hypothesis import strategies as st
from support import inputs
from support.compare import assert_same_bits, attend_both, check_attention

from fastattn import _testing

SIZES = st.one_of(st.integers(1, 20), st.sampled_from([31, 32, 33, 47, 48, 49, 64, 95, 97, 130]))
KEYS = st.one_of(SIZES, st.sampled_from([200, 959, 960, 961, 1009]))
HEADS = st.sampled_from([(1, 1), (2, 1), (2, 2), (4, 2), (6, 3), (5, 1)])
HEAD_SIZE = st.one_of(st.integers(1, 40), st.sampled_from([47, 48, 64, 80, 96, 127, 128]))


@st.composite
def problems(draw: st.DrawFn) -> tuple[tuple[np.ndarray, ...], dict[str, Any]]:
    b, (hq, hkv), sq, sk, d = draw(st.integers(1, 3)), draw(HEADS), draw(SIZES), draw(KEYS), draw(HEAD_SIZE)
    dv = draw(st.one_of(st.just(d), HEAD_SIZE))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    arrays = inputs.qkv(rng, b, hq, hkv, sq, sk, d, dv, spread=draw(st.sampled_from([0.1, 1.0, 3.0])))
    layout = draw(st.sampled_from([None, inputs.bshd, inputs.sliced, inputs.reversed_rows, inputs.unaligned]))
    if layout is not None:
        arrays = tuple(layout(x) for x in arrays)
    options: dict[str, Any] = {}
    causal = draw(st.sampled_from([False, False, True, "top_left", "bottom_right"]))
    if causal is not False:
        options["causal"] = causal
    if not isinstance(causal, str) and (draw(st.booleans()) or (causal is True and sq != sk)):
        offset = st.integers(-sq - 3, sk + 3)
        options["q_offset"] = draw(st.one_of(offset, st.lists(offset, min_size=b, max_size=b)))
    if draw(st.booleans()):
        span = st.one_of(st.none(), st.integers(0, 60))
        options["window"] = (draw(span), draw(span))
    if draw(st.booleans()):
        options["kv_lengths"] = draw(st.lists(st.integers(0, sk), min_size=b, max_size=b))
    kind = draw(st.sampled_from([None, None, "bool", "float"]))
    if kind is not None:
        shape = tuple(n if draw(st.booleans()) else 1 for n in (b, hq, sq, sk))
        keep = rng.random(shape) < draw(st.sampled_from([0.02, 0.5, 0.98]))
        options["mask"] = (
            keep if kind == "bool" else np.where(keep, rng.standard_normal(shape) * 2, -np.inf).astype(np.float32)
        )
    if draw(st.booleans()):
        options["scale"] = draw(st.sampled_from([1.0, 0.0, -0.7, 0.05]))
    if draw(st.sampled_from([False, False, True])):
        options["softcap"] = draw(st.sampled_from([1.0, 20.0]))
    note(f"{[x.shape for x in arrays]} {options.keys()}")
    return arrays, options


@given(problems())
@settings(max_examples=150)
def test_any_options_against_the_oracle(problem: tuple[tuple[np.ndarray, ...], dict[str, Any]]) -> None:
    arrays, options = problem
    check_attention(*arrays, **options)


@given(problems())
@settings(max_examples=100)
def test_any_options_same_bits_from_every_kernel_and_isa(
    problem: tuple[tuple[np.ndarray, ...], dict[str, Any]],
) -> None:
    arrays, options = problem
    b, hq, sq, _ = arrays[0].shape
    expected = attend_both(*arrays, **options)
    work = b * hq * sq * arrays[1].shape[2] * (arrays[0].shape[3] + arrays[2].shape[3])
    for isa in _testing.isas():
        if isa == "scalar" and work > 2_000_000:
            continue
        for kernel in ("tile", "decode"):
            with _testing.use_isa(isa), _testing.force_kernel(kernel):
                got = attend_both(*arrays, num_threads=3, **options)
            assert_same_bits(got, expected, f"{isa} {kernel}")
