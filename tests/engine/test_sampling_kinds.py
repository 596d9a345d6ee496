# SPDX-License-Identifier: MIT
"""DRY, XTC, mirostat, typical, epsilon and eta: each beside its oracle, at its edges, and over many tokens."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy_keeping import dry_lengths, mirostat_kept
from numpy_sampling import bits_of, chosen, processed, remaining

from fastattn import _core
from fastattn.engine.drawkinds import Dry
from fastattn.engine.sampling import sampling_of

Array = np.ndarray[Any, Any]


def logits_of(seed: int, *shape: int, scale: float = 3.0) -> Array:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def draw(logits: Array, n: int = 3000, **options: Any) -> Array:
    rows = np.broadcast_to(np.float32(logits), (n, len(logits)))
    tokens: Array = _core.sample(rows, [sampling_of(**{"temperature": 1.0, "seed": 3, **options})] * n, steps=range(n))[
        0
    ]
    return tokens


def seen(logits: Array, **options: Any) -> set[int]:
    return set(draw(logits, **options).tolist())


# ---- DRY -------------------------------------------------------------------------------------------------------------


def ranked(logits: Array, count: int, **call: Any) -> list[int]:
    """The tokens from the highest down, by banning each that has come."""
    found: list[int] = []
    for _ in range(count):
        found.append(int(_core.sample(logits[None], banned=[np.array(found, np.int64)], **call)[0][0]))
    return found


@pytest.mark.parametrize("seed", range(60))
def test_dry_is_what_comparing_everything_finds(seed: int) -> None:
    """Histories of few kinds of tokens, so that repetitions are long, overlap, and cross breakers."""
    rng = np.random.default_rng(seed)
    size, kinds = 9, int(rng.integers(1, 5))
    tokens = rng.integers(0, kinds, int(rng.integers(0, 60)))
    if seed % 3 == 0 and tokens.size > 8:  # one long repetition, and an id beyond the logits in it
        tokens = np.concatenate([tokens, [100], tokens[3:], [100], tokens[: seed % 11]])
    breakers = [rng.integers(0, kinds + 1, int(rng.integers(1, 4))).tolist() for _ in range(seed % 4)]
    dry = {"multiplier": 0.75, "base": 1.3, "allowed_length": int(rng.integers(0, 4)),
           "penalty_last_n": int(rng.integers(-1, 70)), "sequence_breakers": breakers}  # fmt: skip
    sampling, logits = sampling_of(dry=dry), logits_of(seed, size)
    expected = processed(logits, sampling, tokens.tolist())
    order = np.lexsort((np.arange(size), -expected))
    assert ranked(logits, size, samplings=[sampling], tokens=[tokens.astype(np.int64)]) == order.tolist()


def test_dry_by_hand() -> None:
    one = [1, 2, 3, 1, 2, 3, 1, 2]
    assert dry_lengths(one, Dry(1.0)) == {3: 5}
    assert dry_lengths(one, Dry(1.0, allowed_length=6)) == {}
    assert dry_lengths(one, Dry(1.0, penalty_last_n=5)) == {3: 2}
    assert dry_lengths(one, Dry(1.0, sequence_breakers=((3,),))) == {}  # 3 itself breaks
    assert dry_lengths([*one, 3, 1, 9, 1, 2], Dry(1.0, sequence_breakers=((9,),))) == {3: 2}
    assert dry_lengths([*one, 3, 1, 9, 1, 2], Dry(1.0, sequence_breakers=((9, 1),))) == {}
    logits = np.float32([0, 0, 0, 4])
    for multiplier, expected in ((0.5, 3), (3.9, 3), (4.1, 0)):  # 4 against multiplier * 1.0 ** 3
        sampling = sampling_of(dry={"multiplier": multiplier, "base": 1.0})
        assert _core.sample(logits[None], [sampling], tokens=[np.array(one)])[0][0] == expected


def test_a_penalty_beyond_all_numbers_is_the_largest() -> None:
    tokens, logits = np.array([1, 2] * 400), np.float32([-3e38, 5, -1])
    for dry in ({"multiplier": 1, "base": 1e30, "penalty_last_n": -1}, {"multiplier": 3e38, "base": 3e38}):
        assert _core.sample(logits[None], [sampling_of(dry=dry)], tokens=[tokens])[0][0] == 2
        row = np.float32([-np.inf, 5, -np.inf])  # it is no ban
        assert _core.sample(row[None], [sampling_of(dry=dry)], tokens=[tokens])[0][0] == 1


def test_a_long_text_of_one_token_takes_no_longer_than_it_has_to() -> None:
    """Lengths of repetitions are found in one pass; a million tokens squared would take an hour."""
    tokens = np.zeros(1 << 20, np.int64)
    sampling = sampling_of(dry={"multiplier": 1, "base": 1.0, "penalty_last_n": -1}, presence_penalty=0.5)
    assert _core.sample(np.float32([[1.4, 0.0]]), [sampling], tokens=[tokens], prompts=[0])[0][0] == 1


# ---- typical, epsilon, eta -------------------------------------------------------------------------------------------


def test_typical_keeps_what_surprises_as_much_as_the_mean() -> None:
    row = np.log([0.4, 0.2, 0.2, 0.2])
    assert seen(row, typical_p=0.5) == {1, 2, 3}
    assert seen(row, typical_p=0.61) == {0, 1, 2, 3}
    assert seen(row, typical_p=1e-9) == {1, 2, 3}  # all that are as far
    assert seen(np.log([0.97, 0.01, 0.01, 0.01]), typical_p=0.5) == {0}
    assert seen(np.float32([0, 0, -np.inf, 0]), typical_p=0.01) == {0, 1, 3}
    assert seen(np.float32([1, -np.inf, -200]), typical_p=0.999999) == {0}


def test_epsilon_and_eta_are_probabilities_of_what_is_left() -> None:
    row = np.log([0.5, 0.3, 0.15, 0.05])
    assert seen(row, epsilon_cutoff=0.051) == {0, 1, 2} and seen(row, epsilon_cutoff=0.049) == {0, 1, 2, 3}
    assert seen(row, top_k=2, epsilon_cutoff=0.374) == {0, 1} and seen(row, top_k=2, epsilon_cutoff=0.376) == {0}
    assert seen(row, epsilon_cutoff=0.9) == {0}  # the highest stays
    assert seen(np.zeros(5), epsilon_cutoff=0.9) == set(range(5))
    entropy = -sum(p * math.log(p) for p in (0.5, 0.3, 0.15, 0.05))
    for eta in (0.01, 0.1, 0.3, 0.8):
        edge = min(eta, math.sqrt(eta) * math.exp(-entropy))
        assert seen(row, eta_cutoff=eta) == {i for i, p in enumerate((0.5, 0.3, 0.15, 0.05)) if p >= edge}
    assert seen(np.float32([0, 1e-3, -np.inf]), eta_cutoff=0.999) == {1}


def test_the_steps_take_what_the_one_before_left() -> None:
    """typical of all would leave out the first; of the best two it keeps it. The last step is xtc."""
    row = np.log([0.4, 0.2, 0.2, 0.2])
    assert seen(row, top_k=2, typical_p=0.6) == {0}
    assert seen(row, typical_p=0.5, xtc=(1, 0.3)) == {3}
    assert seen(row, typical_p=0.5, xtc=(1, 0.34)) == {1, 2, 3}


@pytest.mark.parametrize("options", [
    {"typical_p": 0.4}, {"epsilon_cutoff": 0.01}, {"eta_cutoff": 0.2}, {"xtc": (1.0, 0.02)},
    {"top_k": 30, "top_p": 0.9, "min_p": 0.01, "typical_p": 0.7, "epsilon_cutoff": 0.01, "eta_cutoff": 0.1},
], ids=str)  # fmt: skip
def test_tokens_of_these_come_as_often_as_they_should(options: dict[str, Any]) -> None:
    n, logits = 20_000, logits_of(5, 12, scale=1.2)
    sampling = sampling_of(temperature=1.1, seed=11, **options)
    p, margin = remaining(logits.astype(np.float64), sampling)
    assert margin > 1e-6
    counts = np.bincount(draw(logits, n, seed=11, **{"temperature": 1.1, **options}), minlength=12)
    assert not counts[p == 0].any()
    expected = n * p[p > 0]
    free = expected.size - 1
    assert free and ((counts[p > 0] - expected) ** 2 / expected).sum() < free + 3.1 * (2 * free) ** 0.5 + 4


@pytest.mark.parametrize("options", [
    {"epsilon_cutoff": 0.5}, {"eta_cutoff": 0.9}, {"epsilon_cutoff": 0.3, "eta_cutoff": 0.3}, {"epsilon_cutoff": 0.04},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("typical_p", [0.1, 0.4, 0.8])
def test_the_likeliest_of_what_typical_has_left_stays(options: dict[str, Any], typical_p: float) -> None:
    """Also where that is not the likeliest of all, and where all are too unlikely."""
    without = 0
    for seed in range(40):
        size = 2 + 7 * seed
        logits = logits_of(seed, size, scale=0.4)
        sampling = sampling_of(temperature=0.9, typical_p=typical_p, **options)
        p, margin = remaining(logits.astype(np.float64), sampling)
        if margin < 1e-6:
            continue
        without += p[logits.argmax()] == 0
        found = set(draw(logits, 300, temperature=0.9, typical_p=typical_p, **options).tolist())
        assert found <= set(np.flatnonzero(p).tolist()) and found >= set(np.flatnonzero(p > 0.04).tolist())
    assert without > 5 or typical_p == 0.8


# ---- XTC -------------------------------------------------------------------------------------------------------------


def test_xtc_leaves_the_least_likely_of_the_likely() -> None:
    row = np.log([0.3, 0.3, 0.2, 0.2])
    for threshold, kept in ((0.1, {3}), (0.19, {3}), (0.21, {1, 2, 3}), (0.31, {0, 1, 2, 3}), (0, {3})):
        assert seen(row, xtc=(1, threshold)) == kept
    assert seen(np.log([0.9, 0.1]), xtc=(1, 0.5)) == {0, 1}  # one alone is not left out


@pytest.mark.parametrize("probability", [0.25, 0.5, 0.9])
def test_chance_and_token_have_random_numbers_of_their_own(probability: float) -> None:
    """Where xtc does not come into play the token is the one it would be without; how often it does is as asked."""
    logits, n = logits_of(3, 50, scale=1.0), 2000
    plain, got = draw(logits, n), draw(logits, n, xtc=(probability, 0.02))
    sampling = sampling_of(temperature=1, seed=3)
    hit = np.array([bits_of(sampling, step, 0, 1) < probability for step in range(n)])
    assert np.array_equal(got[~hit], plain[~hit]) and not np.array_equal(got[hit], plain[hit])
    assert abs(hit.mean() - probability) < 4 * (probability * (1 - probability) / n) ** 0.5
    only = draw(logits, n, xtc=(1.0, 0.02))
    assert np.array_equal(got[hit], only[hit])


# ---- mirostat --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 3, 99, 100, 101, 1500])
def test_mirostat_beside_its_oracle(version: int, size: int) -> None:
    """Token by token, the oracle going on from the kernel's own state; the state is what the oracle's tokens give."""
    option = {"version": version, "tau": 2.5, "eta": 0.2}
    sampling = sampling_of(temperature=0.8, mirostat=option, seed=size)
    assert sampling.mirostat is not None
    state: list[float | None] = [sampling.mirostat.start]
    other = 0
    for step in range(60):
        logits = logits_of(step, size, scale=2.0)
        if step % 9 == 4:
            logits = np.round(logits)
        if step % 9 == 5 and size > 2:
            logits[::2] = -np.inf
        most = state[0]
        assert most is not None
        token = int(_core.sample(logits[None], [sampling], steps=[step], surprises=state)[0][0])
        x = logits.astype(np.float64)
        expected, near = chosen(x, sampling, step, 0, most)
        assert token == expected or token in near
        other += token != expected
        p, margin = mirostat_kept(x, 0.8, sampling.mirostat, most)
        if margin > 1e-5:
            assert p[token] > 0
            assert state[0] == pytest.approx(most - 0.2 * (-math.log2(p[token]) - 2.5), abs=1e-5)
    assert other <= 1


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("tau", [1.0, 3.0, 5.0])
def test_mirostat_keeps_to_the_surprise(version: int, tau: float) -> None:
    logits = np.log(1 / np.arange(1, 5001, dtype=np.float64)).astype(np.float32)  # Zipf's law
    sampling = sampling_of(temperature=1, mirostat={"version": version, "tau": tau}, seed=1)
    p = np.exp(logits.astype(np.float64))
    state: list[float | None] = [2 * tau]
    tokens = [int(_core.sample(logits[None], [sampling], steps=[step], surprises=state)[0][0]) for step in range(600)]
    mean = float(-np.log2(p[tokens[100:]] / p.sum()).mean())
    assert 0.5 * tau < mean < 2 * tau + 2.5  # of all tokens, of which few are left


def test_mirostat_at_its_ends() -> None:
    row, equal = np.float32([1, 3, 3, 0, -np.inf]), np.zeros(300, np.float32)
    for version in (1, 2):
        sampling = sampling_of(temperature=1, mirostat=version, seed=4)
        for most, kept in ((-1e300, {1}), (-5.0, {1}), (64.0, {0, 1, 2, 3})):
            found = {int(_core.sample(row[None], [sampling], steps=[i], surprises=[most])[0][0]) for i in range(400)}
            assert found == kept, (version, most)
        found = {int(_core.sample(equal[None], [sampling], steps=[i], surprises=[9.0])[0][0]) for i in range(3000)}
        assert found == set(range(300))
        for size in (1, 2, 300):
            assert _core.sample(equal[None, :size], [sampling], surprises=[1e300])[0][0] < size
    sampling = sampling_of(temperature=0, mirostat=2)  # greedy, and nothing changes
    state: list[float | None] = [3.0]
    assert _core.sample(row[None], [sampling], surprises=state)[0][0] == 1 and state == [3.0]
    assert _core.sample(row[None], [sampling_of(temperature=1, mirostat=2)], surprises=state, given=[0])[0][0] == 0
    assert state == [3.0]


def test_a_surprise_belongs_to_its_row() -> None:
    logits = logits_of(8, 20, 700)
    samplings = [sampling_of(temperature=1, seed=i, mirostat=None if i % 3 == 0 else i % 3) for i in range(20)]
    first: list[float | None] = [None if i % 3 == 0 else 2 + i / 4 for i in range(20)]
    together = list(first)
    tokens = _core.sample(logits, samplings, surprises=together, num_threads=3)[0]
    for i in range(20):
        alone = [first[i]]
        assert _core.sample(logits[i : i + 1], [samplings[i]], surprises=alone)[0][0] == tokens[i]
        assert alone == [together[i]] and (alone == [first[i]]) == (i % 3 == 0)


# ---- biases, decay ---------------------------------------------------------------------------------------------------


def test_biases_of_one_id_are_added_before_it() -> None:
    """As transformers adds them: sums of biases first. The logit is so large that each bias alone would be lost."""
    biases = (np.array([0, 0, 1], np.int64), np.float32([0.75, 0.75, -np.inf]))
    row = np.float32([[2.0**24, 2.0**25, 2.0**24 + 1.5]])
    assert _core.sample(row, [sampling_of()], biases=[biases])[0][0] == 0  # 2^24 + 1.5 is 2^24 + 2
    assert _core.sample(row, [sampling_of(logit_bias={0: 1e9})], biases=[biases])[0][0] == 0
    assert _core.sample(row, [sampling_of(logit_bias={1: 9.0})])[0][0] == 1
    half = (np.array([1, 1], np.int64), np.float32([-np.inf, 1e30]))
    assert _core.sample(row, [sampling_of()], biases=[half])[0][0] == 2


@pytest.mark.parametrize(("factor", "steps"), [(1.5, 1), (1.01, 40), (0.5, 3), (3.0, 10**9), (1.0, 5), (1e-30, 7)])
def test_decay_makes_ends_likelier(factor: float, steps: int) -> None:
    for seed in range(20):
        logits = logits_of(seed, 12)
        logits[7] = -np.inf
        ids = np.array([2, 7, 9], np.int64)
        x = processed(logits, sampling_of(), decay=([2, 9], factor, min(steps, 500)))
        order = np.lexsort((np.arange(12), -x))[:11].tolist()
        assert ranked(logits, 11, samplings=[sampling_of()], decays=[(ids, factor, steps)]) == order
    assert _core.sample(logits[None], [sampling_of()], decays=[(ids, factor, 0)])[0][0] == logits.argmax()
