# SPDX-License-Identifier: MIT
"""How a token is chosen: the options of a request, checked once; the drawing itself is C (draw.h, fa_sample)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from .._core import MOST_LOGITS
from .bans import Bans, bans_of
from .drawkinds import Dry, Mirostat, dry_of, mirostat_of, xtc_of
from .optionvalues import INFINITY, number, whole

__all__ = ["Sampling", "check_drawn", "draws", "sampling_of"]

_FLOAT_MAX, _FLOAT_MIN = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)
_SMALL, _BELOW_1 = float(np.finfo(np.float64).tiny), 0.9999999999999999
_MOST = 1 << 62  # a larger top_k or min_new_tokens is no other


@dataclass(frozen=True, slots=True, repr=False)
class Sampling:
    """How the tokens of one sequence are chosen; ``sampling_of`` makes one. It never changes and may be shared.

    Attributes
    ----------
    seed
        0 to 2**64 - 1. With the numbers of the answer and of the token it is all that random bits depend on.
    temperature
        0 for the highest logit, of equals the lowest id; else what logits are divided by.
    top_k, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff, xtc
        What may be drawn, applied in this order; 0, 1.0, 0.0, 1.0, 0.0, 0.0 and None leave out nothing. ``xtc``:
        (probability, threshold).
    mirostat
        What takes the place of all of these, or None.
    repetition_penalty, presence_penalty, frequency_penalty
        The first over prompt and answer, the others over the answer alone; 1.0, 0.0 and 0.0 for none.
    logit_bias
        (token id, number added to its logit), by ascending id; -inf for tokens that never come.
    min_new_tokens
        How long an answer is at least: before, whoever draws bans the ids that end it.
    logprobs
        How many of the best tokens to tell with the log probability of each one chosen; None for none at all.
    dry
        What repetitions cost, behind the other penalties; None for nothing.
    bans
        What may not come and what must, by the tokens before or by place; None for none of these.
    shaped
        Whether any of ``typical_p`` and those named behind it, or ``mirostat``, has an effect.
    penalises
        Whether penalties look at the tokens so far.
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
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    xtc: tuple[float, float] | None = None
    mirostat: Mirostat | None = None
    dry: Dry | None = None
    bans: Bans | None = None
    shaped: bool = field(init=False, compare=False, repr=False)
    penalises: bool = field(init=False, compare=False, repr=False)
    bias_ids: np.ndarray[Any, np.dtype[np.int64]] | None = field(init=False, compare=False, repr=False)
    bias: np.ndarray[Any, np.dtype[np.float32]] | None = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        penalties = (
            self.repetition_penalty != 1, self.presence_penalty != 0, self.frequency_penalty != 0, self.dry is not None,
        )  # fmt: skip
        shapes = (
            self.typical_p < 1, self.epsilon_cutoff > 0, self.eta_cutoff > 0, self.xtc is not None,
            self.mirostat is not None,
        )  # fmt: skip
        ids = values = None
        if self.logit_bias:
            ids = np.array([token for token, _ in self.logit_bias], np.int64)
            values = np.array([value for _, value in self.logit_bias], np.float32)
            ids.setflags(write=False)
            values.setflags(write=False)
        found = {"penalises": any(penalties), "shaped": any(shapes), "bias_ids": ids, "bias": values}
        for name, value in found.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        """What differs from a plain one, by name."""
        shown = [
            f"{one.name}={getattr(self, one.name)!r}"
            for one in fields(self)
            if one.init and getattr(self, one.name) != one.default
        ]
        return f"Sampling({', '.join(shown)})"

    @property
    def greedy(self) -> bool:
        """Whether the highest logit is taken: nothing is random then, and ``seed`` has no meaning."""
        return self.temperature == 0


def sampling_of(
    *, seed: Any = None, temperature: Any = None, top_k: Any = None, top_p: Any = None, min_p: Any = None,
    typical_p: Any = None, epsilon_cutoff: Any = None, eta_cutoff: Any = None, xtc: Any = None, mirostat: Any = None,
    dry: Any = None, repetition_penalty: Any = None, presence_penalty: Any = None, frequency_penalty: Any = None,
    logit_bias: Any = None, min_new_tokens: Any = None, logprobs: Any = None, vocab_size: int | None = None,
    ends: Collection[int] = (), **bans: Any,
) -> Sampling:  # fmt: skip
    """A ``Sampling`` of options as users give them. None is an option's default: greedy, and no change of any logit.

    Parameters
    ----------
    xtc
        (probability, threshold), or a mapping of these.
    mirostat
        A version, or a mapping of version, tau and eta; beside it nothing may be given that leaves out tokens.
    dry
        A mapping: multiplier, base, allowed_length, penalty_last_n, and sequence_breakers as ids.
    vocab_size
        How many tokens there are, where it is known; ids and ``logprobs`` lie within it.
    ends
        Ids that end a text: as bad words of one token they are none.
    bans
        Those of ``bans_of``: no_repeat_ngram_size, bad_words (as ids), allowed_token_ids, suppress_tokens,
        begin_suppress_tokens, sequence_bias, forced_bos_token_id, forced_eos_token_id, min_length,
        exponential_decay_length_penalty.

    Raises
    ------
    TypeError, ValueError
        An option is of another kind, or out of its range, or excludes another; it is named.

    Example
    -------
    >>> sampling_of(temperature=0.8, top_p=0.95, seed=7)
    Sampling(seed=7, temperature=0.8, top_p=0.95)
    >>> sampling_of(temperature=0.8, mirostat=2, dry={"multiplier": 0.8}).dry
    Dry(multiplier=0.8, base=1.75, allowed_length=2, penalty_last_n=64, sequence_breakers=())
    >>> sampling_of(temperature=-1)
    Traceback (most recent call last):
    ValueError: temperature: got -1, expected a finite number from 0 (greedy) on
    """
    most = MOST_LOGITS if vocab_size is None else vocab_size
    made = Sampling(
        seed=whole("seed", seed, 0, 0, (1 << 64) - 1),
        temperature=_temperature(temperature, 0.0),
        top_k=_top_k(top_k, 0),
        top_p=_share("top_p", top_p, 1.0),
        min_p=number("min_p", min_p, 0.0, 0.0, 1.0, "0 to 1"),
        typical_p=_share("typical_p", typical_p, 1.0),
        epsilon_cutoff=_cutoff("epsilon_cutoff", epsilon_cutoff),
        eta_cutoff=_cutoff("eta_cutoff", eta_cutoff),
        xtc=xtc_of(xtc),
        mirostat=mirostat_of(mirostat),
        dry=dry_of(dry, most),
        repetition_penalty=number(
            "repetition_penalty", repetition_penalty, 1.0, _FLOAT_MIN, _FLOAT_MAX, "a finite number above 0"
        ),
        presence_penalty=number("presence_penalty", presence_penalty, 0.0, -_FLOAT_MAX, _FLOAT_MAX, "a finite number"),
        frequency_penalty=number(
            "frequency_penalty", frequency_penalty, 0.0, -_FLOAT_MAX, _FLOAT_MAX, "a finite number"
        ),
        logit_bias=_biases(logit_bias, most),
        min_new_tokens=min(whole("min_new_tokens", min_new_tokens, 0, 0, None), _MOST),
        logprobs=None if logprobs is None else whole("logprobs", logprobs, 0, 0, most),
        bans=bans_of(**bans, vocab_size=vocab_size, ends=ends) if bans else None,
    )
    if made.mirostat is not None:
        for name, neutral in _CUTS.items():
            if getattr(made, name) != neutral:
                raise ValueError(
                    f"mirostat: got version {made.mirostat.version} beside {name}={getattr(made, name)}, but it takes "
                    f"the place of {', '.join(_CUTS)}"
                )
    return made


_CUTS: Mapping[str, Any] = {
    "top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "xtc": None,
}  # fmt: skip
"""What leaves out tokens -> the value with which it does not."""


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
        raise ValueError(
            "logit_bias, no_repeat_ngram_size, bad_words, allowed_token_ids, min_new_tokens: no token is left that may "
            f"come, of all those of {path}"
        )


def draws(
    do_sample: Any = None, temperature: Any = None, top_k: Any = None, top_p: Any = None, min_p: Any = None,
    typical_p: Any = None, xtc: Any = None, mirostat: Any = None,
) -> bool:  # fmt: skip
    """Whether these options ask for tokens to be drawn; None is what was not given.

    They do with ``do_sample``, with a temperature above 0, and with any of the others, whatever its value;
    ``temperature=0`` is greedy whatever those are.

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
    given = {
        "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "typical_p": typical_p, "xtc": xtc,
        "mirostat": mirostat,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None}
    checked = {  # name -> (checked value, the one that leaves out nothing)
        "temperature": (_temperature(temperature, 0.0), 0.0),
        "top_k": (_top_k(top_k, 0), 0),
        "top_p": (_share("top_p", top_p, 1.0), 1.0),
        "min_p": (number("min_p", min_p, 0.0, 0.0, 1.0, "0 to 1"), 0.0),
        "typical_p": (_share("typical_p", typical_p, 1.0), 1.0),
        "xtc": (xtc_of(xtc), None),
        "mirostat": (mirostat_of(mirostat), None),
    }
    if do_sample is not None and not do_sample:
        for name, (value, neutral) in checked.items():
            if value != neutral:
                shown = f"{value:g}" if isinstance(value, int | float) else given[name]
                raise ValueError(f"do_sample=False and {name}={shown}: {name} has a meaning only when tokens are drawn")
        return False
    if temperature is not None:
        return bool(checked["temperature"][0])
    return bool(do_sample) or bool(given)


# ---- one option ------------------------------------------------------------------------------------------------------


def _temperature(value: Any, default: float) -> float:
    largest = float(np.finfo(np.float64).max)
    return number("temperature", value, default, 0.0, largest, "a finite number from 0 (greedy) on") + 0.0  # no -0


def _top_k(value: Any, default: int) -> int:
    return min(whole("top_k", value, default, 0, None, "0 (all tokens) or more"), _MOST)


def _share(name: str, value: Any, default: float) -> float:
    return number(name, value, default, 5e-324, 1.0, "a number above 0, at most 1")


def _cutoff(name: str, value: Any) -> float:
    expected = "a number from 0 (all tokens) on, below 1"
    found = number(name, value, 0.0, 0.0, _BELOW_1, expected)
    return number(name, found, 0.0, _SMALL, 1.0, expected) if found else 0.0


def _biases(value: Any, vocab_size: int) -> tuple[tuple[int, float], ...]:
    if value is None:
        return ()
    if not isinstance(value, Mapping):
        raise TypeError(f"logit_bias: expected a mapping of token ids to numbers, got {type(value).__name__}")
    found: dict[int, float] = {}
    for key, bias in value.items():
        if key is None:
            raise TypeError("logit_bias: expected token ids, got NoneType")
        token = whole("logit_bias: a token", key, 0, 0, vocab_size - 1)
        name = f"logit_bias[{token}]"
        if bias is None:
            raise TypeError(f"{name}: expected a number, got NoneType")
        if not (isinstance(bias, Real) and bias == -INFINITY):
            bias = number(
                name, bias, 0.0, -_FLOAT_MAX, _FLOAT_MAX, "a finite number, or -inf for a token that never comes"
            )
        found[token] = float(bias)
    return tuple(sorted(found.items()))
