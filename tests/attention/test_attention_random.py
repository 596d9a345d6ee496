# SPDX-License-Identifier: MIT
"""attention() under random combinations of everything: the oracle, and the same bits from every kernel and ISA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support.compare import AsTheyCome, assert_accurate, assert_same_bits
from support.problems import STAGES, Array, Packed, Problem, general_form, packed_problems, piece, problems

import fastattn as fa
from fastattn import _testing, reference

THREADS = (1, 2, 3)
NAMES = ("out", "lse", "weights", "scores", "out with lse alone", "lse without weights", "out alone")
SCALAR_WORK = 2_000_000  # multiply-adds: the scalar kernels are some fifty times slower


def examples(count: int) -> int:
    """How many the README's test run draws; a profile of another name (.ci/run has one) says how many for each 100."""
    if settings.get_current_profile_name() == "fastattn":
        return count
    return count * settings.default.max_examples // 100


def every_output(problem: Problem, stage: str | None = None, **options: Any) -> tuple[Any, ...]:
    """(out, lse, weights, scores), then with lse alone, then out alone: they may come from other kernels."""
    given_options = problem.options | options
    full = fa.attention(*problem.arrays, **given_options, return_lse=True, return_weights=True, return_scores=stage)
    pair = fa.attention(*problem.arrays, **given_options, return_lse=True)
    return (*full, pair.out, pair.lse, fa.attention(*problem.arrays, **given_options))


def oracle(problem: Problem, stage: str | None = None, **options: Any) -> reference.AttentionReference:
    return reference.attention(*problem.arrays, **problem.options, return_scores=stage, **options)


def nearby(problem: Problem, rng: Any) -> Problem:
    """Queries and sinks a little larger. In a problem of a few numbers, all equal perhaps, naive fp32 may be lucky in
    every order of its sums; with other last digits it is not."""
    if isinstance(rng, AsTheyCome):
        return problem
    q, k, v = problem.arrays
    options = dict(problem.options)
    if "sinks" in options:
        options["sinks"] = options["sinks"] * np.float32(1 + 0.01 * rng.random())
    return problem._replace(arrays=(reference.widen(q) * np.float32(1 + 0.01 * rng.random()), k, v), options=options)


@given(problems(), st.sampled_from([None, *STAGES]))
@settings(max_examples=examples(100))
def test_any_options_against_the_oracle(problem: Problem, stage: str | None) -> None:
    got = every_output(problem, stage)
    exact, naive = oracle(problem, stage), oracle(problem, stage, dtype=np.float32)

    def again(field: str) -> Callable[[Any], Array]:
        def with_its_error(rng: Any) -> Array:
            other = nearby(problem, rng)
            naive_again, exact_again = oracle(other, stage, dtype=np.float32, order=rng), oracle(other, stage)
            with np.errstate(invalid="ignore"):  # -inf
                return getattr(exact, field) + (getattr(naive_again, field) - getattr(exact_again, field))

        return with_its_error

    for name, value in zip(("out", "lse", "weights", "scores"), got[:4], strict=True):
        if name == "scores" and stage is None:
            assert value is None
            continue
        storage = problem.storage if name == "out" else "float32"
        assert_accurate(value, getattr(exact, name), getattr(naive, name), name, again(name), storage)
    assert_same_bits(got[4], got[0], "out with lse alone")
    assert_same_bits(got[5], got[1], "lse without weights")
    assert_same_bits(got[6], got[0], "out alone")


@given(problems(), st.sampled_from([None, *STAGES]))
@settings(max_examples=examples(60))
def test_any_options_same_bits_from_every_kernel_isa_and_team(problem: Problem, stage: str | None) -> None:
    expected = every_output(problem, stage)
    for number, isa in enumerate(_testing.isas()):
        if isa == "scalar" and problem.work > SCALAR_WORK:
            continue
        threads = THREADS[number % len(THREADS)]
        with _testing.use_isa(isa):
            assert_same_bits(every_output(problem, stage, num_threads=threads), expected, f"{isa} {threads} threads")
            for kernel in ("tile", "decode"):
                with _testing.force_kernel(kernel):
                    got = every_output(problem, stage, num_threads=threads)
                assert_same_bits(got, expected, f"{isa} {kernel} {threads} threads")


@given(problems(), st.integers(0, 2**32 - 1))
@settings(max_examples=examples(60))
def test_what_no_query_sees_has_no_effect(problem: Problem, seed: int) -> None:
    """NaN and Inf in keys and values that no query sees, and nothing else than the same bits."""
    lead, hq, hkv, sq, sk = problem.shapes
    scores = oracle(problem, "bias").scores
    assert scores is not None
    seen = np.any(~np.isneginf(scores.reshape(*lead, hkv, hq // hkv * sq, sk)), axis=-2)
    if problem.arrays[0].ndim == 2:
        seen = seen[0]
    rng = np.random.default_rng(seed)
    q, k, v = problem.arrays
    bad = ~seen & (rng.random(seen.shape) < 0.7)
    options = dict(problem.options)
    if problem.keys == "int8":
        for name in ("k_scale", "v_scale"):
            options[name] = np.where(bad, rng.choice(np.array([np.nan, np.inf], np.float32)), options[name])
    else:
        k, v = k.copy(), v.copy()
        k[bad] = 0x7FC0 if problem.keys == "bits" else np.nan
        v[bad] = 0xFF80 if problem.keys == "bits" else -np.inf
    poisoned = Problem((q, k, v), options, problem.storage, problem.keys)
    assert_same_bits(every_output(poisoned, "bias"), every_output(problem, "bias"))


@given(problems(), st.integers(0, 2**32 - 1))
@settings(max_examples=examples(60))
def test_into_memory_of_the_callers(problem: Problem, seed: int) -> None:
    """out= of any strides gets the bits of a new array, and nothing beside it is written."""
    expected = fa.attention(*problem.arrays, **problem.options)
    rng = np.random.default_rng(seed)
    pads = [int(rng.integers(0, 3)) for _ in expected.shape]
    big = np.zeros([n + 2 * p for n, p in zip(expected.shape, pads, strict=True)], expected.dtype)
    inside = tuple(slice(p, p + n) for n, p in zip(expected.shape, pads, strict=True))
    assert fa.attention(*problem.arrays, **problem.options, out=big[inside]) is not None
    assert_same_bits(big[inside], expected, "out=")
    big[inside] = 0
    assert not big.view(np.uint8).any(), "memory beside out was written"


@given(problems(), st.data())
@settings(max_examples=examples(80))
def test_exclusions_only_exclude_and_cuts_change_nothing(problem: Problem, data: st.DataObject) -> None:
    """The same bits from one mask in place of all that excludes keys, from parts of the queries (as chunked prefill has
    them), from single batch rows, and without the keys behind the last one seen."""
    whole = every_output(problem, "bias")
    general = general_form(problem)
    q, k, _ = general.arrays
    b, hq, sq, sk = *q.shape[:3], k.shape[2]
    shaped = [x.reshape(b, hq, sq, *x.shape[whole[1].ndim :]) for x in whole]
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, sq), max_size=2), label="cuts")), sq]
    trim = data.draw(st.booleans(), label="trim")
    mask = general.options["mask"]
    seen = mask if mask.dtype == np.bool_ else ~np.isneginf(mask)
    for i in range(b):
        for rows in (slice(*ends) for ends in zip(cuts, cuts[1:], strict=False)):
            used = np.flatnonzero(seen[i, :, rows].any(axis=(0, 1)))
            n = (int(used[-1]) + 1 if used.size else 0) if trim else sk
            part = every_output(piece(general, i, rows, n), "bias")
            for name, got, expected in zip(NAMES, part, shaped, strict=True):
                alone = expected[i : i + 1, :, rows]
                keys = (slice(None), slice(None), slice(None), slice(0, n)) if name in ("weights", "scores") else ()
                assert_same_bits(got, alone[keys] if keys else alone, f"{name} of row {i}, queries {rows}, {n} keys")


@given(packed_problems(), st.sampled_from([None, *STAGES]))
@settings(max_examples=examples(100))
def test_packed_sequences_have_the_bits_of_single_ones(problem: Packed, stage: str | None) -> None:
    returns: dict[str, Any] = {"return_lse": True, "return_weights": True, "return_scores": stage}
    got = fa.attention_varlen(*problem.arrays, **problem.options, **returns)
    cu_q, cu_k = problem.arrays[3:]
    for b, (arrays, options) in enumerate(problem.single):
        rows, n_k = slice(cu_q[b], cu_q[b + 1]), cu_k[b + 1] - cu_k[b]
        one = fa.attention(*arrays, **options, **returns)
        assert_same_bits(got.out[rows].swapaxes(0, 1), one.out, f"out of sequence {b}")
        assert_same_bits(got.lse[rows].T, one.lse, f"lse of sequence {b}")
        for name, beyond in (("weights", 0.0), ("scores", -np.inf)):
            packed, alone = getattr(got, name), getattr(one, name)
            if alone is not None:
                assert_same_bits(packed[rows, :, :n_k].swapaxes(0, 1), alone, f"{name} of sequence {b}")
                assert (packed[rows, :, n_k:] == beyond).all(), f"{name} beyond sequence {b}"
