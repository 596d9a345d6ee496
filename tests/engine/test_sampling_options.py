# SPDX-License-Identifier: MIT
"""The options of drawing: what is taken, what is refused by name, and when tokens are drawn at all."""

from __future__ import annotations

import dataclasses
import doctest
import inspect
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastattn import _core
from fastattn.engine import bans, sampling
from fastattn.engine.bans import bans_of
from fastattn.engine.sampling import Sampling, draws, sampling_of

INF, NAN = float("inf"), float("nan")


def test_examples() -> None:
    assert doctest.testmod(sampling).failed == 0
    assert doctest.testmod(bans, extraglobs={"np": np}).failed == 0


def test_defaults_are_greedy_and_change_nothing() -> None:
    assert sampling_of() == Sampling()
    assert sampling_of(**dict.fromkeys(
        ("seed", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty",
         "frequency_penalty", "logit_bias", "min_new_tokens", "logprobs"))) == Sampling()  # fmt: skip
    assert Sampling().greedy and not Sampling().penalises and Sampling().bias is None
    assert not sampling_of(temperature=1e-9).greedy


@pytest.mark.parametrize("number", [int, float, np.float32, np.float64, np.int64, np.int8, Fraction])
def test_numbers_of_any_kind(number: Any) -> None:
    made = sampling_of(temperature=number(1), top_p=number(1), min_p=number(1), repetition_penalty=number(2),
                       presence_penalty=number(-1), frequency_penalty=number(3), logit_bias={1: number(2)})  # fmt: skip
    assert made == Sampling(0, 1.0, 0, 1.0, 1.0, 2.0, -1.0, 3.0, ((1, 2.0),))
    assert all(type(value) is float for value in (made.temperature, made.top_p, made.min_p, made.logit_bias[0][1]))


@pytest.mark.parametrize("whole", [int, np.int64, np.uint8, np.int16])
def test_integers_of_any_kind(whole: Any) -> None:
    made = sampling_of(
        seed=whole(7), top_k=whole(9), min_new_tokens=whole(3), logprobs=whole(0), logit_bias={whole(2): 1}
    )
    assert made == Sampling(7, top_k=9, min_new_tokens=3, logprobs=0, logit_bias=((2, 1.0),))
    assert all(type(value) is int for value in (made.seed, made.top_k, made.min_new_tokens, made.logprobs))


def test_ends_of_ranges() -> None:
    largest = float(np.finfo(np.float32).max)
    assert sampling_of(seed=np.uint64(2**64 - 1)).seed == 2**64 - 1
    assert sampling_of(temperature=1e308, top_p=5e-324, min_p=1, repetition_penalty=2.0**-126).temperature == 1e308
    assert sampling_of(presence_penalty=-largest, frequency_penalty=largest).penalises
    assert sampling_of(logprobs=10, vocab_size=10, logit_bias={9: -INF, 0: -largest}).logit_bias == (
        (0, -largest), (9, -INF))  # fmt: skip
    assert str(sampling_of(temperature=-0.0).temperature) == "0.0"
    for far in (2**63, 10**400):  # no other than all of them
        made = sampling_of(temperature=1, top_k=far, min_new_tokens=far)
        assert _core.sample(np.zeros((1, 3), np.float32), [made])[0][0] < 3


REFUSED: list[tuple[str, Any, type[Exception]]] = [
    *(("temperature", bad, ValueError) for bad in (-1, -1e-300, NAN, INF, -INF, 10**400, np.float32("nan"))),
    *(("top_k", bad, ValueError) for bad in (-1, -(10**30), np.int8(-5))),
    *(("top_p", bad, ValueError) for bad in (0, -0.0, 1.0000001, -1, NAN, INF)),
    *(("min_p", bad, ValueError) for bad in (-1e-9, 1.5, NAN, INF)),
    *(("repetition_penalty", bad, ValueError) for bad in (0, -1, NAN, INF, 1e39, 1e-39)),
    *(("presence_penalty", bad, ValueError) for bad in (NAN, INF, -INF, 1e39, -(10**400))),
    *(("frequency_penalty", bad, ValueError) for bad in (NAN, INF, -1e300)),
    *(("seed", bad, ValueError) for bad in (-1, 2**64, 10**5000)),
    *(("min_new_tokens", bad, ValueError) for bad in (-1, np.int64(-7))),
    *(("logprobs", bad, ValueError) for bad in (-1, 101, 2**70)),
    *(("logit_bias", bad, ValueError) for bad in ({-1: 0}, {100: 0}, {2**70: 0}, {3: NAN}, {3: INF}, {3: 1e39})),
    *((name, bad, TypeError) for name in ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty",
                                          "frequency_penalty") for bad in (True, False, "1", b"1", [1.0], 1j, {},
                                                                           np.bool_(True), np.ones(1))),
    *((name, bad, TypeError) for name in ("seed", "top_k", "min_new_tokens", "logprobs")
      for bad in (True, np.bool_(False), 1.0, np.float32(2), "7", [1], Fraction(3, 1), 1j)),
    *(("logit_bias", bad, TypeError) for bad in ([1.0], "a", 3, {"5": 1.0}, {1.5: 1}, {True: 1}, {None: 1}, {1: None},
                                                 {1: "2"}, {1: True}, [(1, 2.0)])),
]  # fmt: skip


@pytest.mark.parametrize(("name", "bad", "error"), REFUSED, ids=[f"{case[0]} {i}" for i, case in enumerate(REFUSED)])
def test_refused_by_name(name: str, bad: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=rf"^{name}\b"):
        sampling_of(vocab_size=100, **{name: bad})
    if name in ("temperature", "top_k", "top_p", "min_p"):
        with pytest.raises(error, match=rf"^{name}\b"):
            draws(**{name: bad})


ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.binary(max_size=3),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.integers(-2, 9), st.floats(), max_size=3),
)  # fmt: skip


NAMES = sorted(
    {*inspect.signature(sampling_of).parameters, *inspect.signature(bans_of).parameters}
    - {"vocab_size", "ends", "bans"}
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), ANYTHING))
def test_anything_is_an_option_or_a_typed_error(options: dict[str, Any]) -> None:
    try:
        made = sampling_of(vocab_size=8, **options)
    except (TypeError, ValueError) as error:
        assert str(error).split(":")[0].split("[")[0] in options
        return
    assert hash(made) == hash(dataclasses.replace(made))
    got = _core.sample(
        np.arange(8, dtype=np.float32)[None], [made], tokens=[np.array([1, 2, 2])], prompts=[1], surprises=[3.0],
        strict=False,
    )  # fmt: skip
    assert -2 <= got[0][0] < 8 and got[0][0] != -1


def test_it_never_changes() -> None:
    made = sampling_of(logit_bias={5: 1, 2: -1.5})
    assert made.logit_bias == ((2, -1.5), (5, 1.0)) and made.bias_ids is not None and made.bias is not None
    assert made.bias_ids.tolist() == [2, 5] and made.bias.tolist() == [-1.5, 1.0]
    for change in (lambda: setattr(made, "seed", 1), lambda: setattr(made, "other", 1)):
        with pytest.raises((AttributeError, TypeError)):
            change()
    for array in (made.bias_ids, made.bias):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, False),
        ({"do_sample": True}, True),
        ({"do_sample": np.bool_(True)}, True),
        ({"do_sample": False}, False),
        ({"temperature": 0}, False),
        ({"temperature": 0, "do_sample": True}, False),
        ({"temperature": 0.7}, True),
        ({"top_k": 5}, True),
        ({"top_k": 0}, True),
        ({"top_p": 1.0}, True),
        ({"min_p": 0.1}, True),
        ({"top_p": 0.9, "temperature": 0}, False),
        ({"top_k": 40, "top_p": 0.9, "min_p": 0.1, "temperature": -0.0}, False),
        ({"do_sample": True, "temperature": 1e-9}, True),
        ({"do_sample": False, "temperature": 0, "top_k": 0, "top_p": 1, "min_p": 0}, False),
        ({"typical_p": 1.0}, True),
        ({"xtc": (0.0, 0.1)}, True),
        ({"mirostat": 0}, True),
        ({"mirostat": {"tau": 3}, "temperature": 0}, False),
        ({"do_sample": False, "typical_p": 1, "xtc": (0, 0.1), "mirostat": 0}, False),
    ],
)
def test_when_tokens_are_drawn(options: dict[str, Any], expected: bool) -> None:
    assert draws(**options) is expected


@pytest.mark.parametrize("option", [{"temperature": 0.5}, {"top_k": 10**400}, {"top_p": 0.9}, {"min_p": 0.1},
                                    {"typical_p": 0.9}, {"xtc": (0.5, 0.1)}, {"mirostat": 2}])  # fmt: skip
def test_do_sample_that_says_no_and_options_that_say_yes(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"do_sample=False and {next(iter(option))}="):
        draws(do_sample=False, **option)
