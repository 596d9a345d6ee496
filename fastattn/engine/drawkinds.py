# SPDX-License-Identifier: MIT
"""Options of drawing that have several parts: XTC, DRY and mirostat. Their meaning is that of llama.cpp."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .optionvalues import keys_of, number, token_ids, whole

__all__ = ["Dry", "Mirostat", "dry_of", "mirostat_of", "xtc_of"]

_FLOAT_MAX = float(np.finfo(np.float32).max)
_MOST = 1 << 62

Integers = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Dry:
    """What a token costs that would make a repetition longer ("don't repeat yourself").

    A repetition of as many tokens as ``allowed_length`` or more, before the token, takes
    ``multiplier * base ** (length - allowed_length)`` from its logit.

    Attributes
    ----------
    penalty_last_n
        How many tokens to look back; -1 for all, 0 for none.
    sequence_breakers
        Sequences of ids that no repetition reaches across.
    heads, ends, tails
        The breakers by their first token, as ``fa_dry`` has them.
    """

    multiplier: float
    base: float = 1.75
    allowed_length: int = 2
    penalty_last_n: int = 64
    sequence_breakers: tuple[tuple[int, ...], ...] = ()
    heads: Integers = field(init=False, compare=False, repr=False)
    ends: Integers = field(init=False, compare=False, repr=False)
    tails: Integers = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        breakers = sorted(set(self.sequence_breakers))
        sizes = np.array([len(one) - 1 for one in breakers], np.int64)
        heads = np.array([one[0] for one in breakers], np.int64)
        tails = np.array([token for one in breakers for token in one[1:]], np.int64)
        for name, array in (("heads", heads), ("ends", np.cumsum(sizes, dtype=np.int64)), ("tails", tails)):
            array.setflags(write=False)
            object.__setattr__(self, name, array)


@dataclass(frozen=True, slots=True)
class Mirostat:
    """How much the tokens of a text should surprise.

    Attributes
    ----------
    version
        1 estimates how many tokens to draw from, 2 leaves out those that surprise too much.
    tau
        The surprise to keep to, in bits.
    eta
        How fast what may be drawn follows.
    """

    version: int
    tau: float = 5.0
    eta: float = 0.1

    @property
    def start(self) -> float:
        """What a token may surprise at most, at first; it changes with each token drawn."""
        return 2 * self.tau


def xtc_of(value: Any) -> tuple[float, float] | None:
    """(probability, threshold) of a mapping or a pair; None for nothing that is ever left out."""
    if value is None:
        return None
    names = ("probability", "threshold")
    if isinstance(value, Mapping):
        keys_of("xtc", value, names)
        found = [value.get(name) for name in names]
    elif isinstance(value, list | tuple) and len(value) == 2:
        found = list(value)
    else:
        raise TypeError(f"xtc: expected (probability, threshold) or a mapping of these, got {_kind(value)}")
    if found[0] is None:
        raise TypeError("xtc['probability']: expected a number, got nothing")
    probability = number("xtc['probability']", found[0], 0.0, 0.0, 1.0, "0 to 1")
    threshold = number("xtc['threshold']", found[1], 0.1, 0.0, 1.0, "0 to 1")
    return (probability, threshold) if probability > 0 and threshold <= 0.5 else None


def mirostat_of(value: Any) -> Mirostat | None:
    """Of a version, or of a mapping of version, tau and eta; None for version 0."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        value = {"version": value}
    keys_of("mirostat", value, ("version", "tau", "eta"))
    version = whole("mirostat" if len(value) == 1 else "mirostat['version']", value.get("version"), 2, 0, 2,
                    "a version, 1 or 2, or 0 for none")  # fmt: skip
    tau = number("mirostat['tau']", value.get("tau"), 5.0, 0.0, 64.0, "0 to 64 (bits)")
    eta = number("mirostat['eta']", value.get("eta"), 0.1, 0.0, 1.0, "0 to 1")
    return Mirostat(version, tau, eta) if version else None


def dry_of(value: Any, vocab_size: int) -> Dry | None:
    """Of a mapping; None where it takes nothing from any logit. ``sequence_breakers`` are ids, or sequences of ids."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise TypeError(f"dry: expected a mapping, got {type(value).__name__}")
    keys_of("dry", value, ("multiplier", "base", "allowed_length", "penalty_last_n", "sequence_breakers"))
    if value.get("multiplier") is None:
        raise TypeError("dry['multiplier']: expected a number, got nothing")
    last_n = whole("dry['penalty_last_n']", value.get("penalty_last_n"), 64, -1, None, "-1 (all) or more")
    dry = Dry(
        number("dry['multiplier']", value["multiplier"], 0.0, 0.0, _FLOAT_MAX, "a finite number from 0 on"),
        number("dry['base']", value.get("base"), 1.75, 1.0, _FLOAT_MAX, "a finite number from 1 on"),
        min(whole("dry['allowed_length']", value.get("allowed_length"), 2, 0, None), _MOST),
        min(last_n, _MOST),
        _breakers(value.get("sequence_breakers"), vocab_size),
    )
    return dry if dry.multiplier > 0 and dry.penalty_last_n != 0 else None


def _breakers(value: Any, vocab_size: int) -> tuple[tuple[int, ...], ...]:
    name = "dry['sequence_breakers']"
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise TypeError(f"{name}: expected a list of token ids or of several each, got {type(value).__name__}")
    found = []
    for one in value:
        ids = token_ids(name, one if isinstance(one, list | tuple | np.ndarray) else (one,), vocab_size)
        if not ids:
            raise ValueError(f"{name}: got a sequence without ids, expected at least one")
        found.append(ids)
    return tuple(found)


def _kind(value: Any) -> str:
    return f"{len(value)} of them" if isinstance(value, list | tuple) else type(value).__name__
