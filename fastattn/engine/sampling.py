# SPDX-License-Identifier: MIT
"""How a token is chosen: the options of a request, checked once; the drawing itself is C (fastattn.h, fa_sample)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from operator import index
from pathlib import Path
from typing import Any

import numpy as np

from .._core import MOST_LOGITS

__all__ = ["Sampling", "check_drawn", "draws", "sampling_of"]

_FLOAT_MAX, _FLOAT_MIN = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)
_INFINITY = float("inf")
_MOST = 1 << 62  # a larger top_k or min_new_tokens is no other


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the tokens of one sequence are chosen; ``sampling_of`` makes one. It never changes and may be shared.

    Attributes
    ----------
    seed
        0 to 2**64 - 1. With the numbers of the answer and of the token it is all that random bits depend on.
    temperature
        0 for the highest logit, of equals the lowest id; else what logits are divided by.
    top_k, top_p, min_p
        What may be drawn, applied in this order; 0, 1.0 and 0.0 leave out nothing.
    repetition_penalty, presence_penalty, frequency_penalty
        The first over prompt and answer, the others over the answer alone; 1.0, 0.0 and 0.0 for none.
    logit_bias
        (token id, number added to its logit), by ascending id; -inf for tokens that never come.
    min_new_tokens
        How long an answer is at least: before, whoever draws bans the ids that end it.
    logprobs
        How many of the best tokens to tell with the log probability of each one chosen; None for none at all.
    penalises
        Whether the tokens so far are looked at.
    bias_ids, bias
        ``logit_bias`` as arrays (n,) int64 and float32, or None.
    """

    seed: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_new_tokens: int = 0
    logprobs: int | None = None
    penalises: bool = field(init=False, compare=False, repr=False)
    bias_ids: np.ndarray[Any, np.dtype[np.int64]] | None = field(init=False, compare=False, repr=False)
    bias: np.ndarray[Any, np.dtype[np.float32]] | None = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        penalties = (self.repetition_penalty != 1, self.presence_penalty != 0, self.frequency_penalty != 0)
        ids = values = None
        if self.logit_bias:
            ids = np.array([token for token, _ in self.logit_bias], np.int64)
            values = np.array([value for _, value in self.logit_bias], np.float32)
            ids.setflags(write=False)
            values.setflags(write=False)
        for name, value in (("penalises", any(penalties)), ("bias_ids", ids), ("bias", values)):
            object.__setattr__(self, name, value)

    @property
    def greedy(self) -> bool:
        """Whether the highest logit is taken: nothing is random then, and ``seed`` has no meaning."""
        return self.temperature == 0


def sampling_of(
    *, seed: Any = None, temperature: Any = None, top_k: Any = None, top_p: Any = None, min_p: Any = None,
    repetition_penalty: Any = None, presence_penalty: Any = None, frequency_penalty: Any = None,
    logit_bias: Any = None, min_new_tokens: Any = None, logprobs: Any = None, vocab_size: int | None = None,
) -> Sampling:  # fmt: skip
    """A ``Sampling`` of options as users give them. None is an option's default: greedy, and no change of any logit.

    ``vocab_size``: how many tokens there are, where it is known; ids of ``logit_bias`` and ``logprobs`` lie within it.

    Raises
    ------
    TypeError, ValueError
        An option is of another kind, or out of its range; it is named.

    Example
    -------
    >>> sampling_of(temperature=0.8, top_p=0.95, seed=7)
    Sampling(seed=7, temperature=0.8, top_k=0, top_p=0.95, min_p=0.0, repetition_penalty=1.0, presence_penalty=0.0, \
frequency_penalty=0.0, logit_bias=(), min_new_tokens=0, logprobs=None)
    >>> sampling_of(temperature=-1)
    Traceback (most recent call last):
    ValueError: temperature: got -1, expected a finite number from 0 (greedy) on
    """
    most = MOST_LOGITS if vocab_size is None else vocab_size
    return Sampling(
        seed=_whole("seed", seed, 0, 0, (1 << 64) - 1),
        temperature=_temperature(temperature, 0.0),
        top_k=_top_k(top_k, 0),
        top_p=_top_p(top_p, 1.0),
        min_p=_number("min_p", min_p, 0.0, 0.0, 1.0, "0 to 1"),
        repetition_penalty=_number(
            "repetition_penalty", repetition_penalty, 1.0, _FLOAT_MIN, _FLOAT_MAX, "a finite number above 0"
        ),
        presence_penalty=_number("presence_penalty", presence_penalty, 0.0, -_FLOAT_MAX, _FLOAT_MAX, "a finite number"),
        frequency_penalty=_number(
            "frequency_penalty", frequency_penalty, 0.0, -_FLOAT_MAX, _FLOAT_MAX, "a finite number"
        ),
        logit_bias=_biases(logit_bias, most),
        min_new_tokens=min(_whole("min_new_tokens", min_new_tokens, 0, 0, None), _MOST),
        logprobs=None if logprobs is None else _whole("logprobs", logprobs, 0, 0, most),
    )


def check_drawn(tokens: np.ndarray[Any, np.dtype[np.int64]], path: Path) -> None:
    """Refuse what ``_core.sample`` could not draw, of the model at ``path``.

    Raises
    ------
    ValueError
        A row of logits holds NaN or infinity, or no token is left that may come.
    """
    if (tokens == -1).any():
        raise ValueError(f"{path}: the logits are not numbers: the weights are damaged")
    if (tokens < 0).any():
        raise ValueError(f"logit_bias, min_new_tokens: no token is left that may come, of all those of {path}")


def draws(
    do_sample: Any = None, temperature: Any = None, top_k: Any = None, top_p: Any = None, min_p: Any = None
) -> bool:
    """Whether these options ask for tokens to be drawn; None is what was not given.

    They do with ``do_sample``, with a temperature above 0, and with any of ``top_k``, ``top_p`` and ``min_p``, whatever
    its value; ``temperature=0`` is greedy whatever those are.

    Raises
    ------
    TypeError, ValueError
        An option is of another kind or out of range. ``do_sample`` says no, and another option has a meaning only when
        tokens are drawn.

    Example
    -------
    >>> draws(), draws(top_p=0.9), draws(top_p=0.9, temperature=0)
    (False, True, False)
    """
    if do_sample is not None and not isinstance(do_sample, bool | np.bool_):
        raise TypeError(f"do_sample: expected True, False or None, got {type(do_sample).__name__}")
    options = {  # name -> (checked value or None, the one that leaves out nothing)
        "temperature": (None if temperature is None else _temperature(temperature, 0.0), 0.0),
        "top_k": (None if top_k is None else _top_k(top_k, 0), 0),
        "top_p": (None if top_p is None else _top_p(top_p, 1.0), 1.0),
        "min_p": (None if min_p is None else _number("min_p", min_p, 0.0, 0.0, 1.0, "0 to 1"), 0.0),
    }
    warmth = options["temperature"][0]
    if do_sample is not None and not do_sample:
        for name, (value, neutral) in options.items():
            if value is not None and value != neutral:
                raise ValueError(
                    f"do_sample=False and {name}={value:g}: {name} has a meaning only when tokens are drawn"
                )
        return False
    if warmth is not None:
        return warmth > 0
    return bool(do_sample) or any(value is not None for value, _ in options.values())


# ---- one option ------------------------------------------------------------------------------------------------------


def _number(name: str, value: Any, default: float, least: float, most: float, expected: str) -> float:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        number = _INFINITY
    if not least <= number <= most:
        raise ValueError(f"{name}: got {number:g}, expected {expected}")
    return number


def _temperature(value: Any, default: float) -> float:
    largest = float(np.finfo(np.float64).max)
    return _number("temperature", value, default, 0.0, largest, "a finite number from 0 (greedy) on") + 0.0  # no -0


def _top_k(value: Any, default: int) -> int:
    return min(_whole("top_k", value, default, 0, None, "0 (all tokens) or more"), _MOST)


def _top_p(value: Any, default: float) -> float:
    return _number("top_p", value, default, 5e-324, 1.0, "a number above 0, at most 1")


def _whole(name: str, value: Any, default: int, least: int, most: int | None, expected: str | None = None) -> int:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}")
    number = index(value)
    if number < least or (most is not None and number > most):
        if expected is None:
            expected = f"{least} or more" if most is None else f"{least} to {most}"
        shown = str(number) if abs(number) < 10**24 else "an integer of many digits"
        raise ValueError(f"{name}: got {shown}, expected {expected}")
    return number


def _biases(value: Any, vocab_size: int) -> tuple[tuple[int, float], ...]:
    if value is None:
        return ()
    if not isinstance(value, Mapping):
        raise TypeError(f"logit_bias: expected a mapping of token ids to numbers, got {type(value).__name__}")
    found: dict[int, float] = {}
    for key, bias in value.items():
        if key is None:
            raise TypeError("logit_bias: expected token ids, got NoneType")
        token = _whole("logit_bias: a token", key, 0, 0, vocab_size - 1)
        name = f"logit_bias[{token}]"
        if bias is None:
            raise TypeError(f"{name}: expected a number, got NoneType")
        if not (isinstance(bias, Real) and bias == -_INFINITY):
            bias = _number(
                name, bias, 0.0, -_FLOAT_MAX, _FLOAT_MAX, "a finite number, or -inf for a token that never comes"
            )
        found[token] = float(bias)
    return tuple(sorted(found.items()))
