# SPDX-License-Identifier: MIT
"""Drawing tokens: every step beside float64 NumPy, the same token whatever runs it and whatever runs beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy_sampling import chosen, log_softmax, philox, processed, remaining
from support.variants import assert_one_result

from fastattn import _core
from fastattn.engine.sampling import Sampling, sampling_of

Array = np.ndarray[Any, Any]

SIZES = (1, 2, 15, 16, 17, 255, 256, 257, 300, 1000, 5003)  # around lanes and blocks


def logits_of(seed: int, *shape: int, scale: float = 3.0) -> Array:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def draw(logits: Array, sampling: Sampling, n: int = 1, **options: Any) -> Array:
    """n tokens of one row, steps 0 to n - 1."""
    rows = np.broadcast_to(logits, (n, logits.size))
    tokens: Array = _core.sample(rows, [sampling] * n, steps=range(n), **options)[0]
    return tokens


def words_of(allowed: Any) -> Array:
    bits = np.zeros((len(allowed) + 31) // 32 * 32, bool)
    bits[: len(allowed)] = allowed
    return np.packbits(bits, bitorder="little").view(np.uint32)


# ---- random bits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # Random123, kat_vectors
        ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_the_oracle_has_the_random_numbers_of_the_paper(counter: list[int], key: list[int], expected: str) -> None:
    assert " ".join(f"{word:08x}" for word in philox(counter, key)) == expected


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 0x299F31D0A4093822, 2**64 - 1])
def test_seed_and_both_counters_reach_every_bit(seed: int) -> None:
    """Of 2^18 equally likely tokens the number drawn is the upper 18 bits of word 1."""
    size = 1 << 18
    pairs = [(0, 0), (1, 0), (0, 1), (2**32 - 1, 2**32 - 1), (77, 123456)]
    rows = np.broadcast_to(np.zeros(size, np.float32), (len(pairs), size))
    which, steps = [p[0] for p in pairs], [p[1] for p in pairs]
    tokens = _core.sample(rows, [sampling_of(seed=seed, temperature=1)] * len(pairs), which=which, steps=steps)[0]
    key = [seed & 0xFFFFFFFF, seed >> 32]
    assert tokens.tolist() == [philox([w, s, 0, 0], key)[1] >> 14 for w, s in pairs]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0},
        {"temperature": 0.7, "top_k": 5},
        {"temperature": 1.5, "top_p": 0.8},
        {"temperature": 1.0, "min_p": 0.1},
        {"temperature": 2.0, "top_k": 9, "top_p": 0.9, "min_p": 0.05},
    ],
)
def test_tokens_come_as_often_as_they_should(options: dict[str, Any]) -> None:
    """20,000 draws with one seed, so this passes always or never: chi-square below its 99.9 % quantile, about."""
    n, logits = 20_000, logits_of(5, 12, scale=1.5)
    sampling = sampling_of(seed=11, **options)
    p, _ = remaining(logits.astype(np.float64), sampling)
    counts = np.bincount(draw(logits, sampling, n), minlength=12)
    assert not counts[p == 0].any()
    expected = n * p[p > 0]
    assert expected.size > 1 and expected.min() > 5
    free = expected.size - 1
    assert ((counts[p > 0] - expected) ** 2 / expected).sum() < free + 3.1 * (2 * free) ** 0.5 + 4


# ---- the highest -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_greedy_is_the_first_of_the_highest(size: int) -> None:
    rows = np.stack([logits_of(size, size), np.round(logits_of(size + 1, size)), np.zeros(size, np.float32)])
    rows = np.concatenate([rows, -np.abs(rows), np.full((1, size), -np.inf, np.float32)])
    rows[-1, size // 2] = -3e38
    rows[2, ::2] = -0.0
    tokens = _core.sample(rows, [Sampling()] * len(rows))[0]
    assert tokens.tolist() == [int(np.flatnonzero(row == row.max())[0]) for row in rows]


def test_greedy_finds_the_highest_wherever_it_stands() -> None:
    size = 700
    rows = np.full((size, size), -1.0, np.float32)
    np.fill_diagonal(rows, 1)
    assert _core.sample(rows, [Sampling()] * size)[0].tolist() == list(range(size))


@pytest.mark.parametrize("sampling", [Sampling(), sampling_of(temperature=1, seed=3, top_p=0.9)])
def test_rows_of_any_stride(sampling: Sampling) -> None:
    memory = logits_of(2, 9, 400)
    whole = np.array([_core.sample(row[None, :300].copy(), [sampling])[0][0] for row in memory])
    for rows, order in ((memory[:, :300], slice(None)), (memory[::-1, :300], slice(None, None, -1)),
                        (memory[::2, :300], slice(None, None, 2))):  # fmt: skip
        assert np.array_equal(_core.sample(rows, [sampling] * len(rows))[0], whole[order])


# ---- what may be drawn -----------------------------------------------------------------------------------------------


def seen(logits: Array, n: int = 4000, **options: Any) -> set[int]:
    return set(draw(np.float32(logits), sampling_of(seed=1, **options), n).tolist())


def test_top_k_takes_the_lower_ids_of_equals() -> None:
    row = np.float32([1, 3, 2, 3, 2, 2, 0, 3])
    for k, kept in (
        (1, {1}),
        (2, {1, 3}),
        (3, {1, 3, 7}),
        (4, {1, 2, 3, 7}),
        (5, {1, 2, 3, 4, 7}),
        (99, set(range(8))),
    ):
        assert seen(row, top_k=k, temperature=3) == kept
    assert seen(np.float32([-0.0, 0.0, -0.0]), top_k=2, temperature=1) == {0, 1}


def test_top_p_takes_the_fewest_that_have_the_share() -> None:
    row = np.log(np.array([0.1, 0.2, 0.4, 0.2, 0.1])).astype(np.float32)
    for p, kept in ((1e-300, {2}), (0.39, {2}), (0.41, {1, 2}), (0.61, {1, 2, 3}), (0.85, {0, 1, 2, 3}),
                    (0.95, set(range(5))), (1, set(range(5)))):  # fmt: skip
        assert seen(row, top_p=p, temperature=1) == kept
    equal = np.zeros(10, np.float32)  # the share is reached exactly by five of ten
    for p, count in ((0.5, 5), (0.5000001, 6), (0.4999999, 5), (0.05, 1), (0.95, 10)):
        assert seen(equal, top_p=p, temperature=1) == set(range(count))


def test_a_share_that_is_reached_to_the_last_unit() -> None:
    halves = 1.4426950408889634  # the temperature at which each step down halves the weight
    row = np.float32([0, -1, -1, -2, -2, -2, -2])  # 1, 1/2, 1/2, 1/4 four times: all that is above has the same weight
    for p, kept in (
        (1 / 3, 1),
        (1 / 3 + 1e-9, 2),
        (0.5, 2),
        (0.5 + 2**-50, 3),
        (2 / 3, 3),
        (0.75, 4),
        (0.75 + 2**-50, 5),
    ):
        assert seen(row, top_p=p, temperature=halves) == set(range(kept)), p
    assert seen(np.zeros(2, np.float32), top_p=0.5 + 2**-50, temperature=1) == {0, 1}


def test_min_p_is_a_share_of_the_best() -> None:
    row = np.float32([0, -1, -2, -3, 0])
    for p, kept in ((0, set(range(5))), (0.1, {0, 1, 2, 4}), (0.2, {0, 1, 4}), (0.5, {0, 4}), (1, {0, 4})):
        assert seen(row, min_p=p, temperature=1) == kept


def test_the_order_of_top_k_top_p_and_min_p() -> None:
    row = np.log(np.array([0.4, 0.3, 0.2, 0.1])).astype(np.float32)
    # of the best two 0.4 is 0.571: top_p = 0.55 leaves one; of all it would be two
    assert seen(row, top_k=2, top_p=0.55, temperature=1) == {0}
    assert seen(row, top_p=0.55, temperature=1) == {0, 1}
    assert seen(row, top_p=0.95, min_p=0.6, temperature=1) == {0, 1}


@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e-4])
def test_a_temperature_near_nothing_is_greedy(temperature: float) -> None:
    assert seen(np.float32([1, 2, 2.5, -np.inf]), 50, temperature=temperature) == {2}


def test_an_endless_temperature_draws_evenly_but_never_what_is_excluded() -> None:
    assert seen(np.float32([1, 2, -np.inf, 30]), temperature=1e300) == {0, 1, 3}


# ---- biases, penalties, bans -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.5},
        {"repetition_penalty": 0.5},
        {"presence_penalty": 1.0},
        {"frequency_penalty": 0.75},
        {"presence_penalty": -1.5, "frequency_penalty": 0.5, "repetition_penalty": 2.0},
        {"logit_bias": {0: 2.5, 3: -4.0, 7: float("-inf")}, "repetition_penalty": 2.0},
        {"logit_bias": {1: 1e38}, "frequency_penalty": 3e38, "repetition_penalty": 1e38},
    ],
)
def test_logits_change_as_the_oracle_has_it(options: dict[str, Any]) -> None:
    sampling = sampling_of(**options)
    tokens = np.array([2, 2, 5, 99, 1, 4, 4, 4, 0, 1, 6, 10**12], np.int64)
    for seed in range(20):
        logits = logits_of(seed, 9)
        for prompt in (0, 4, 8, len(tokens)):
            x = processed(logits, sampling, tokens.tolist(), prompt)
            expected = np.lexsort((np.arange(9), -x))
            allowed = np.isfinite(x)[expected].sum()
            got = [int(_core.sample(logits[None], [sampling], tokens=[tokens], prompts=[prompt],
                                    banned=[np.sort(expected[:i])])[0][0]) for i in range(allowed)]  # fmt: skip
            assert got == expected[:allowed].tolist()


def test_what_is_banned_or_not_allowed_never_comes() -> None:
    logits = logits_of(3, 100)
    allowed = np.zeros(100, bool)
    allowed[[3, 31, 32, 50, 99]] = True
    rows, hot = np.broadcast_to(logits, (2000, 100)), sampling_of(temperature=50, seed=5)
    words = words_of(allowed)
    banned = np.array([50, 3, 3], np.int64)
    got = _core.sample(rows, [hot] * 2000, steps=range(2000), allowed=[words] * 2000, banned=[banned] * 2000)[0]
    assert set(got.tolist()) == {31, 32, 99}
    assert set(_core.sample(rows, [hot] * 2000, steps=range(2000), allowed=[words.view(np.int32)] * 2000)[0]) == set(
        np.flatnonzero(allowed)
    )


# ---- everything beside the oracle ------------------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.sampled_from([0.0, -0.0, 1e30, -1e30, 1e-40, -1e-45, float("-inf"), 3.4e38, -3.4e38, 5.0]),
    st.floats(-20, 20, width=32),
)
OPTIONS = st.fixed_dictionaries(
    {"seed": st.integers(0, 2**64 - 1), "temperature": st.sampled_from([0, 0.0, 0.3, 1.0, 1.7, 1e-9, 1e20])},
    optional={
        "top_k": st.integers(0, 50),
        "top_p": st.floats(1e-6, 1),
        "min_p": st.floats(0, 1),
        "repetition_penalty": st.sampled_from([0.3, 1.0, 1.3, 1e30]),
        "presence_penalty": st.floats(-2, 2),
        "frequency_penalty": st.floats(-2, 2),
        "typical_p": st.floats(1e-6, 1),
        "epsilon_cutoff": st.floats(1e-6, 0.9),
        "eta_cutoff": st.floats(1e-6, 0.9),
        "xtc": st.tuples(st.sampled_from([0.5, 1.0]), st.floats(0, 0.5)),
        "dry": st.fixed_dictionaries(
            {"multiplier": st.sampled_from([0.5, 3.0, 1e30]), "allowed_length": st.integers(0, 3)},
            optional={
                "base": st.floats(1, 4),
                "penalty_last_n": st.integers(-1, 9),
                "sequence_breakers": st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=2), max_size=2),
            },
        ),
    },
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_options_on_any_logits(data: Any) -> None:
    size = data.draw(st.sampled_from([1, 2, 3, 16, 40, 300]))
    if size <= 40:
        logits = np.array(data.draw(st.lists(NUMBERS, min_size=size, max_size=size)), np.float32)
    else:
        logits = logits_of(data.draw(st.integers(0, 99)), size)
    ids = st.integers(0, size - 1)
    options = data.draw(OPTIONS)
    if "dry" in options and size < 4:
        options["dry"].pop("sequence_breakers", None)
    options["logit_bias"] = data.draw(st.dictionaries(ids, st.sampled_from([0.5, -3, 1e30, float("-inf")]), max_size=3))
    sampling = sampling_of(vocab_size=size, **options)
    tokens = data.draw(st.lists(st.integers(0, size + 2), max_size=12))
    prompt = data.draw(st.integers(0, len(tokens)))
    banned = data.draw(st.lists(ids, max_size=2))
    step, which = data.draw(st.integers(0, 2**32 - 1)), data.draw(st.integers(0, 3))
    call: dict[str, Any] = {"steps": [step], "which": [which], "tokens": [np.array(tokens, np.int64)],
                            "prompts": [prompt], "banned": [np.array(banned, np.int64)]}  # fmt: skip
    x = processed(logits, sampling, tokens, prompt, banned)
    if (logits == -np.inf).all() or (x == -np.inf).all():
        with pytest.raises(ValueError, match=r"logits\[0\]: no token is allowed"):
            _core.sample(logits[None], [sampling], **call)
        return
    got = int(_core.sample(logits[None], [sampling], **call)[0][0])
    assert x[got] > -np.inf
    token, near = chosen(x, sampling, step, which)
    assert got == token or got in near


def test_nearly_every_token_is_the_oracles_own() -> None:
    """Where the property above lets others pass, it is for rounding alone: of 600 draws at most two are others."""
    other = 0
    for seed in range(600):
        logits = logits_of(seed, 500)
        options: list[dict[str, Any]] = [
            {}, {"top_k": 40}, {"top_p": 0.9}, {"min_p": 0.02}, {"top_k": 100, "top_p": 0.7, "min_p": 0.01},
            {"typical_p": 0.5}, {"epsilon_cutoff": 0.01}, {"eta_cutoff": 0.3}, {"xtc": (0.5, 0.01)},
            {"top_p": 0.8, "typical_p": 0.9, "epsilon_cutoff": 0.002, "eta_cutoff": 0.01, "xtc": (0.9, 0.05)},
        ]  # fmt: skip
        sampling = sampling_of(seed=seed, temperature=0.9, **options[seed % len(options)])
        other += int(draw(logits, sampling)[0]) != chosen(logits.astype(np.float64), sampling)[0]
    assert other <= 2


# ---- one result ------------------------------------------------------------------------------------------------------

MANY = [
    Sampling(),
    sampling_of(temperature=1, seed=2**63),
    sampling_of(temperature=0.6, top_k=40, seed=1, logprobs=0),
    sampling_of(temperature=0.6, top_k=900, seed=9),
    sampling_of(temperature=1.2, top_p=0.95, seed=2, logprobs=7),
    sampling_of(temperature=1.2, top_k=3000, top_p=0.5, min_p=0.01, seed=3),
    sampling_of(repetition_penalty=1.2, presence_penalty=0.5, logit_bias={5: 1.0}, logprobs=3),
    sampling_of(temperature=0.9, min_p=0.1, frequency_penalty=0.2, repetition_penalty=1.1, seed=4),
    sampling_of(temperature=0.9, typical_p=0.6, seed=5),
    sampling_of(temperature=1.1, top_p=0.9, epsilon_cutoff=1e-3, eta_cutoff=0.02, seed=6, dry={"multiplier": 2.0}),
    sampling_of(temperature=0.8, xtc=(0.5, 0.05), top_k=20, seed=7, presence_penalty=0.1),
    sampling_of(temperature=1.0, mirostat={"version": 1, "tau": 3.0}, seed=8),
    sampling_of(temperature=0.7, mirostat={"version": 2, "tau": 2.0}, seed=9, logprobs=2),
]


def call_of(rows: Array, order: Any = None) -> Any:
    picked = range(len(rows)) if order is None else order
    history = [np.random.default_rng(i).integers(0, min(rows.shape[1], 1 + i), 30) for i in range(len(rows))]
    allowed = [None if i % 3 else words_of(np.arange(rows.shape[1]) % 5 != i % 5) for i in range(len(rows))]

    def call(num_threads: int | None = None, only: Any = picked, blocks: Any = None) -> tuple[Array, ...]:
        tokens, logprobs, ids, values = _core.sample(
            rows[list(only)], [MANY[i % len(MANY)] for i in only], steps=list(only), which=[i % 3 for i in only],
            tokens=[history[i] for i in only], prompts=[i % 30 for i in only], allowed=[allowed[i] for i in only],
            surprises=[3.0 + i / 8 for i in only], blocks=blocks, num_threads=num_threads)  # fmt: skip
        return tokens, logprobs, ids, values

    return call


@pytest.mark.parametrize("size", [7, 300, 5003])
def test_neither_threads_nor_instruction_set_show(size: int) -> None:
    assert_one_result(call_of(logits_of(size, 24, size)), f"{size} logits", kernels=())


def test_rows_side_by_side_do_not_share_what_they_work_in() -> None:
    call = call_of(logits_of(3, 64, 20011))
    expected = call(num_threads=1)
    for _ in range(8):
        for got, wanted in zip(call(num_threads=4), expected, strict=True):
            assert got.tobytes() == wanted.tobytes()


def test_what_is_drawn_beside_a_row_does_not_show() -> None:
    call = call_of(logits_of(8, 24, 1500))
    tokens, logprobs, ids, values = call()
    blocks = _core.Blocks()
    for i in range(24):
        one = call(only=[i], blocks=blocks)
        assert one[0][0] == tokens[i]
        asked = MANY[i % len(MANY)].logprobs
        if asked is None:
            assert one[1] is None and np.isnan(logprobs[i]) and (ids[i] == -1).all() and (values[i] == -np.inf).all()
        else:
            assert one[1].tobytes() == logprobs[i : i + 1].tobytes()
            assert one[2].tobytes() == ids[i, :asked].tobytes() and one[3].tobytes() == values[i, :asked].tobytes()
            assert (ids[i, asked:] == -1).all() and (values[i, asked:] == -np.inf).all()
    order = np.random.default_rng(1).permutation(24).tolist()
    assert np.array_equal(call(only=order)[0], tokens[order])


# ---- log probabilities -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", [0.01, 1.0, 8.0, 1e4])
def test_log_probabilities_are_those_of_the_raw_logits(size: int, scale: float) -> None:
    logits = logits_of(size, size, scale=scale)
    logits[size // 3] = -np.inf if size > 3 else 1.0
    expected = log_softmax(logits)
    k = min(size, 20)
    sampling = sampling_of(temperature=5, seed=size, logprobs=k, logit_bias={0: 3.0}, top_k=3)
    tokens, logprobs, ids, values = _core.sample(logits[None], [sampling])
    assert logprobs is not None and ids is not None and values is not None
    order = np.lexsort((np.arange(size), -logits))[:k]
    assert ids[0].tolist() == order.tolist()
    with np.errstate(invalid="ignore"):
        for got, wanted in ((values[0], expected[order]), (logprobs, expected[tokens])):
            finite = np.isfinite(wanted)
            assert np.array_equal(got[~finite], wanted[~finite])
            error = np.abs(got[finite] - wanted[finite])
            assert (error <= 2e-7 + 2.0**-24 * np.abs(wanted[finite])).all()
    assert np.isin(logprobs, values[0][ids[0] == tokens[0]]).all() or tokens[0] not in ids[0]


def test_the_log_probability_of_a_given_token() -> None:
    logits = logits_of(4, 5, 77)
    sampling = sampling_of(temperature=2, logprobs=0)
    given_tokens = [0, 76, None, 3, 3]
    tokens, logprobs, ids, _ = _core.sample(logits, [sampling] * 5, given=given_tokens)
    free = _core.sample(logits, [sampling] * 5)[0]
    assert logprobs is not None and ids is not None and ids.shape == (5, 0)
    assert tokens.tolist() == [0, 76, free[2], 3, 3]
    for row, token, got in zip(logits, tokens, logprobs, strict=True):
        assert abs(got - log_softmax(row)[token]) < 1e-6


def test_one_token_is_certain() -> None:
    for value in (0.0, -5.0, 3e38, -3e38, 1e-45):
        tokens, logprobs, _, _ = _core.sample(np.float32([[value]]), [sampling_of(temperature=1, logprobs=1)])
        assert logprobs is not None and tokens.tolist() == [0] and logprobs.tolist() == [0]


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.nan])
@pytest.mark.parametrize("at", [0, 15, 16, 299, 300, 599])
@pytest.mark.parametrize("sampling", [Sampling(), sampling_of(temperature=1, top_k=2, logprobs=1)])
def test_a_row_that_is_no_row_of_numbers(bad: float, at: int, sampling: Sampling) -> None:
    logits = logits_of(1, 4, 600)
    good = _core.sample(logits, [sampling] * 4)[0]
    logits[2, at] = bad
    with pytest.raises(ValueError, match=r"logits\[2\]: NaN or \+inf"):
        _core.sample(logits, [sampling] * 4)
    banned = [None, None, np.array([at], np.int64), None]  # banned or not: the model has given no numbers
    tokens, logprobs, _, _ = _core.sample(logits, [sampling] * 4, banned=banned, strict=False)
    assert tokens.tolist() == [good[0], good[1], -1, good[3]]
    assert logprobs is None or np.isnan(logprobs).tolist() == [False, False, True, False]


def test_rows_without_a_token_that_may_come() -> None:
    logits = logits_of(1, 5, 40)
    logits[1] = -np.inf
    call: dict[str, Any] = {
        "banned": [None, None, np.arange(40), None, None],
        "allowed": [None, None, None, np.zeros(2, np.uint32), None],
    }
    only_nothing = sampling_of(temperature=1, logit_bias=dict.fromkeys(range(40), float("-inf")))
    samplings = [sampling_of(temperature=1)] * 4 + [only_nothing]
    tokens = _core.sample(logits, samplings, strict=False, **call)[0]
    assert tokens[0] >= 0 and tokens[1:].tolist() == [-2] * 4
    with pytest.raises(ValueError, match=r"logits\[1\]: no token is allowed"):
        _core.sample(logits, samplings, **call)


ONE = [Sampling()]
REFUSED: list[tuple[str, type[Exception], str, dict[str, Any]]] = [
    ("float64", TypeError, "logits: dtype float64", {"logits": np.zeros((1, 4))}),
    ("a list", TypeError, "logits: list", {"logits": [[0.0]]}),
    ("rank 1", ValueError, "logits: rank 1", {"logits": np.zeros(4, np.float32)}),
    ("no logits", ValueError, "logits: 0 of a row", {"logits": np.zeros((1, 0), np.float32)}),
    ("columns apart", ValueError, "logits: last stride", {"logits": np.zeros((1, 8), np.float32)[:, ::2]}),
    ("too few samplings", ValueError, "samplings: 0 for 1 rows", {"samplings": []}),
    ("too many steps", ValueError, "steps: 2 for 1 rows", {"steps": [0, 1]}),
    ("a step below 0", ValueError, r"steps\[0\]: -1", {"steps": [-1]}),
    ("a far step", ValueError, r"steps\[0\]: 4294967296", {"steps": [2**32]}),
    ("too many surprises", ValueError, "surprises: 2 for 1 rows", {"surprises": [None, None]}),
    ("too many decays", ValueError, "decays: 2 for 1 rows", {"decays": [None, None]}),
    ("too few biases", ValueError, "biases: 0 for 1 rows", {"biases": []}),
    ("mirostat of nothing", ValueError, r"surprises\[0\]: None, but mirostat",
     {"samplings": [sampling_of(temperature=1, mirostat=2)]}),
    ("mirostat without one", ValueError, r"surprises\[0\]: None, but mirostat",
     {"samplings": [sampling_of(temperature=1, mirostat=1)], "surprises": [None]}),
    ("a surprise of NaN", ValueError, r"sampling\[0\]",
     {"samplings": [sampling_of(temperature=1, mirostat=1)], "surprises": [float("nan")]}),
    ("a decay below 0", ValueError, r"sampling\[0\]", {"decays": [(np.array([1]), -1.0, 2)]}),
    ("a decay of a far id", ValueError, r"sampling\[0\]", {"decays": [(np.array([4]), 2.0, 2)]}),
    ("a decay twice", ValueError, r"sampling\[0\]", {"decays": [(np.array([1, 1]), 2.0, 2)]}),
    ("biases in no order", ValueError, r"sampling\[0\]", {"biases": [(np.array([2, 1]), np.ones(2, np.float32))]}),
    ("biases too far", ValueError, "logit_bias: token 4", {"biases": [(np.array([4]), np.ones(1, np.float32))]}),
    ("biases too few", ValueError, r"logit_bias\[0\]: 2 ids with 1",
     {"biases": [(np.arange(2), np.ones(1, np.float32))]}),
    ("a typical_p of 0", ValueError, r"sampling\[0\]", {"samplings": [Sampling(temperature=1, typical_p=0)]}),
    ("a far which", ValueError, r"which\[0\]: 4294967296", {"which": [2**32]}),
    ("given too far", ValueError, r"given\[0\]: 4", {"given": [4]}),
    ("given below", ValueError, r"given\[0\]: -1", {"given": [-1]}),
    ("banned too far", ValueError, r"sampling\[0\]", {"banned": [np.array([4])]}),
    ("banned below", ValueError, r"sampling\[0\]", {"banned": [np.array([-1])]}),
    ("banned int32", TypeError, r"banned\[0\]: int32, expected int64", {"banned": [np.zeros(1, np.int32)]}),
    ("banned of rank 2", ValueError, r"banned\[0\]: expected a contiguous", {"banned": [np.zeros((1, 1), np.int64)]}),
    ("banned apart", ValueError, r"banned\[0\]: expected a contiguous", {"banned": [np.arange(4)[::2]]}),
    ("allowed of bytes", TypeError, r"allowed\[0\]: uint8, expected uint32", {"allowed": [np.zeros(4, np.uint8)]}),
    ("allowed too short", ValueError, r"allowed\[0\]: 0 words, expected 1", {"allowed": [np.zeros(0, np.uint32)]}),
    ("logprobs too many", ValueError, "logprobs: 5, expected at most the 4", {"samplings": [Sampling(logprobs=5)]}),
    ("a bias too far", ValueError, "logit_bias: token 4", {"samplings": [Sampling(logit_bias=((4, 1.0),))]}),
    ("tokens below 0", ValueError, r"sampling\[0\]",
     {"samplings": [Sampling(presence_penalty=1)], "tokens": [np.array([-1])]}),
    ("a prompt too long", ValueError, r"prompts\[0\]: 2, expected 0 to 1",
     {"samplings": [Sampling(presence_penalty=1)], "tokens": [np.array([1])], "prompts": [2]}),
    ("a top_p of 0", ValueError, r"sampling\[0\]", {"samplings": [Sampling(temperature=1, top_p=0)]}),
    ("NaN", ValueError, r"sampling\[0\]", {"samplings": [Sampling(temperature=float("nan"))]}),
]  # fmt: skip


@pytest.mark.parametrize("case", REFUSED, ids=[case[0] for case in REFUSED])
def test_refused(case: tuple[str, type[Exception], str, dict[str, Any]]) -> None:
    _, error, words, changes = case
    call = {"logits": np.zeros((1, 4), np.float32), "samplings": ONE, **changes}
    with pytest.raises(error, match=words):
        _core.sample(call.pop("logits"), call.pop("samplings"), **call)


def test_no_rows_are_no_tokens() -> None:
    tokens, logprobs, ids, values = _core.sample(np.zeros((0, 9), np.float32), [])
    assert tokens.shape == (0,) and logprobs is ids is values is None
