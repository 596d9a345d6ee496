# SPDX-License-Identifier: MIT
"""The frequencies of rotary embeddings, default and scaled as a config.json says, in decimal arithmetic.

Powers and logarithms of libm differ from machine to machine; the decimal module's are exact to its precision
everywhere. There are a few dozen frequencies to a model: 40 digits of each cost a few milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from decimal import Context, Decimal, localcontext
from typing import Any, NamedTuple

import numpy as np

__all__ = ["ROPE_TYPES", "RopeFrequencies", "rope_frequencies", "whole_number"]

_TWO_PI = Decimal("6.28318530717958647692528676655900576839433879875021164194988918461563281257241799725607")
_DIGITS = 60
_PIECE_BITS = 26

# Bounds of what a scaling may say, far beyond any model: within them nothing overflows, and nothing takes long.
_LARGEST, _SMALLEST = 1e30, 1e-30
_MOST_DIMS = 1 << 13
_MOST_MIXED = 1000.0


class RopeFrequencies(NamedTuple):
    """One entry for each pair of dims."""

    radians: list[float]  # the angle of position 1, rounded to double
    turns: list[tuple[float, float, float, float]]  # the same in turns, modulo 1, as a sum for fa_rope_table
    attention_factor: float  # multiplies cosines and sines


class _Rules(NamedTuple):
    """What a rope_type computes from."""

    dim: int
    base: Decimal
    scaling: Mapping[str, Any]
    longest: int | None  # max_position_embeddings
    length: int

    def number(
        self, key: str, default: float | None = None, *, above: float | None = 0.0, most: float = _LARGEST
    ) -> Decimal:
        value = self.scaling.get(key)
        if value is None:
            if default is None:
                raise ValueError(f"scaling: no {key!r}, expected it with rope_type {_rope_type(self.scaling)!r}")
            value = default
        return _decimal(value, f"scaling[{key!r}]", above=above, most=most)

    def original(self) -> Decimal:
        key = "original_max_position_embeddings"
        value = self.scaling.get(key)
        if value is None:
            value = self.longest
        if value is None:
            raise ValueError(f"scaling: no {key!r}, expected it there or max_position_embeddings=")
        return Decimal(whole_number(value, f"scaling[{key!r}]", least=1))

    def factor(self) -> Decimal:
        """`factor`, or how much longer the model is than what it was trained for."""
        if self.scaling.get("factor") is None and self.longest is not None:
            return Decimal(self.longest) / self.original()
        return self.number("factor")

    def plain(self, base: Decimal | None = None) -> list[Decimal]:
        """base ** (-2 i / dim)"""
        log = (self.base if base is None else base).ln()
        return [(-log * (2 * i) / self.dim).exp() for i in range(self.dim // 2)]


def rope_frequencies(
    rotary_dim: int, base: Any, scaling: Mapping[str, Any] | None, max_position_embeddings: Any, length: int
) -> RopeFrequencies:
    """Frequencies of `rotary_dim // 2` pairs; the arguments are those of fastattn.rope_table, length its seq_len."""
    scaling = {} if scaling is None else scaling
    if not isinstance(scaling, Mapping):
        raise TypeError(f"scaling: {type(scaling).__name__}, expected a dict as rope_scaling of a config.json, or None")
    kind = _rope_type(scaling)
    if not isinstance(kind, str) or kind not in ROPE_TYPES:
        raise ValueError(f"scaling: rope_type {_short(kind)}, expected one of {', '.join(map(repr, ROPE_TYPES))}")
    if rotary_dim > _MOST_DIMS:
        raise ValueError(f"rotary_dim: {rotary_dim}, expected at most {_MOST_DIMS}")
    compute, keys = ROPE_TYPES[kind]
    for key in scaling:
        if key not in _COMMON_KEYS and key not in keys:
            raise ValueError(
                f"scaling: key {_short(key)}, expected some of {', '.join(map(repr, keys))} with rope_type {kind!r}"
                if keys
                else f"scaling: key {_short(key)}, expected none with rope_type {kind!r}"
            )
    with localcontext(Context(prec=_DIGITS)):
        theta = _decimal(base, "base", above=1.0)
        if scaling.get("rope_theta") is not None:
            own = _decimal(scaling["rope_theta"], "scaling['rope_theta']", above=1.0)
            if theta not in (own, 10000):
                said = _short(scaling["rope_theta"])
                raise ValueError(f"base: {_short(base)}, expected {said} as rope_theta of scaling says")
            theta = own
        longest = None
        if max_position_embeddings is not None:
            longest = whole_number(max_position_embeddings, "max_position_embeddings", least=1)
        try:
            radians, factor = compute(_Rules(rotary_dim, theta, scaling, longest, length))
            return RopeFrequencies([float(f) for f in radians], [_turns(f) for f in radians], float(factor))
        except ArithmeticError as error:
            said = ", ".join(f"{key}={_short(value)}" for key, value in scaling.items())
            raise ValueError(f"scaling: {said} with base {base} give no frequencies ({error})") from None


# ---- the types ------------------------------------------------------------------------------------------------------


def _default(rules: _Rules) -> tuple[list[Decimal], Decimal]:
    return rules.plain(), Decimal(1)


def _linear(rules: _Rules) -> tuple[list[Decimal], Decimal]:
    factor = rules.number("factor")
    return [f / factor for f in rules.plain()], Decimal(1)


def _dynamic(rules: _Rules) -> tuple[list[Decimal], Decimal]:
    factor, original = rules.number("factor"), rules.original()
    if rules.dim < 4:
        raise ValueError(f"rotary_dim: {rules.dim}, expected at least 4 with rope_type 'dynamic'")
    grown = factor * max(Decimal(rules.length), original) / original - (factor - 1)  # at least 1
    base = rules.base * (grown.ln() * rules.dim / (rules.dim - 2)).exp()
    return rules.plain(base), Decimal(1)


def _ntk(rules: _Rules) -> tuple[list[Decimal], Decimal]:
    factor = rules.number("factor")
    if factor <= 1:
        return rules.plain(), Decimal(1)
    pairs = rules.dim // 2
    if rules.scaling.get("mixed_b") is None:
        shrink = (factor.ln() / pairs).exp()
        return [f / shrink for f in rules.plain(rules.base * factor)], Decimal(1)
    power = rules.number("mixed_b", most=_MOST_MIXED)

    def raised(n: int) -> Decimal:
        return (Decimal(n).ln() * power).exp()

    step = factor.ln() / raised(pairs)
    return [f / (step * raised(i + 1)).exp() for i, f in enumerate(rules.plain())], Decimal(1)


def _yarn(rules: _Rules) -> tuple[list[Decimal], Decimal]:
    factor, original = rules.factor(), rules.original()
    truncate = rules.scaling.get("truncate")
    truncate = True if truncate is None else truncate
    if not isinstance(truncate, bool):
        raise TypeError(f"scaling['truncate']: {type(truncate).__name__}, expected True or False")

    def edge(rotations: Decimal) -> Decimal:
        """The pair that turns `rotations` times within the original length."""
        return rules.dim * (original / (rotations * _TWO_PI)).ln() / (2 * rules.base.ln())

    low, high = edge(rules.number("beta_fast", 32)), edge(rules.number("beta_slow", 1))
    if truncate:
        low, high = Decimal(math.floor(low)), Decimal(math.ceil(high))
    low, high = max(low, Decimal(0)), min(high, Decimal(rules.dim - 1))
    if low == high:
        high += Decimal("0.001")
    frequencies = []
    for i, f in enumerate(rules.plain()):
        ramp = min(max((i - low) / (high - low), Decimal(0)), Decimal(1))
        frequencies.append(f / factor * ramp + f * (1 - ramp))
    return frequencies, _yarn_attention(rules, factor)


def _yarn_attention(rules: _Rules, factor: Decimal) -> Decimal:
    def mscale(weight: Decimal) -> Decimal:
        return Decimal(1) if factor <= 1 else Decimal("0.1") * weight * factor.ln() + 1

    if rules.scaling.get("attention_factor") is not None:
        return rules.number("attention_factor")
    over, under = (rules.number(key, 0, above=None) for key in ("mscale", "mscale_all_dim"))
    if over and under:
        return mscale(over) / mscale(under)
    return mscale(Decimal(1))


def _llama3(rules: _Rules) -> tuple[list[Decimal], Decimal]:
    factor, original = rules.number("factor"), rules.original()
    low, high = rules.number("low_freq_factor"), rules.number("high_freq_factor")
    if not low < high:
        raise ValueError(f"scaling['high_freq_factor']: {high:g}, expected more than low_freq_factor, {low:g}")
    frequencies = []
    for f in rules.plain():
        rotations = original * f / _TWO_PI
        smooth = min(max((rotations - low) / (high - low), Decimal(0)), Decimal(1))
        frequencies.append((1 - smooth) * f / factor + smooth * f)
    return frequencies, Decimal(1)


def _longrope(rules: _Rules) -> tuple[list[Decimal], Decimal]:
    original = rules.original()
    lists = {}
    for key in ("short_factor", "long_factor"):
        values = rules.scaling.get(key)
        if not isinstance(values, (list, tuple)):
            raise TypeError(f"scaling[{key!r}]: {type(values).__name__}, expected a list of {rules.dim // 2} numbers")
        if len(values) != rules.dim // 2:
            raise ValueError(f"scaling[{key!r}]: {len(values)} numbers, expected {rules.dim // 2}")
        lists[key] = [_decimal(v, f"scaling[{key!r}][{i}]") for i, v in enumerate(values)]
    divisors = lists["long_factor" if rules.length > original else "short_factor"]
    frequencies = [f / d for f, d in zip(rules.plain(), divisors, strict=True)]
    if rules.scaling.get("attention_factor") is not None:
        return frequencies, rules.number("attention_factor")
    factor = rules.factor()
    if factor <= 1:
        return frequencies, Decimal(1)
    if original < 2:
        raise ValueError(f"scaling['original_max_position_embeddings']: {original}, expected at least 2")
    return frequencies, (1 + factor.ln() / original.ln()).sqrt()


_COMMON_KEYS = ("rope_type", "type", "rope_theta", "partial_rotary_factor")
_ORIGINAL = "original_max_position_embeddings"
ROPE_TYPES: dict[str, tuple[Callable[[_Rules], tuple[list[Decimal], Decimal]], tuple[str, ...]]] = {
    "default": (_default, ()),
    "linear": (_linear, ("factor", _ORIGINAL)),
    "dynamic": (_dynamic, ("factor", _ORIGINAL)),
    "ntk": (_ntk, ("factor", "mixed_b", _ORIGINAL)),
    "yarn": (
        _yarn,
        ("factor", _ORIGINAL, "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    ),
    "llama3": (_llama3, ("factor", _ORIGINAL, "low_freq_factor", "high_freq_factor")),
    "longrope": (_longrope, ("factor", _ORIGINAL, "attention_factor", "short_factor", "long_factor")),
}

# ---- numbers --------------------------------------------------------------------------------------------------------


def _rope_type(scaling: Mapping[str, Any]) -> Any:
    kind = scaling.get("rope_type")
    if kind is None:
        kind = scaling.get("type")
    return "default" if kind is None else kind


def whole_number(value: Any, name: str, *, least: int) -> int:
    """A Python or NumPy integer of at least `least`."""
    if isinstance(value, float) and value.is_integer():  # JSON written by others
        value = int(value)
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}: {type(value).__name__}, expected an integer")
    if value < least:
        raise ValueError(f"{name}: {_short(value)}, expected at least {least}")
    if value > 1 << 53:
        raise ValueError(f"{name}: {_short(value)}, expected at most 2**53")
    return int(value)


def _decimal(value: Any, name: str, *, above: float | None = 0.0, most: float = _LARGEST) -> Decimal:
    """A finite real number above a bound, exactly as it came."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: {type(value).__name__}, expected a number")
    if isinstance(value, (np.integer, np.floating)):
        value = value.item() if isinstance(value, np.integer) else float(value)
    size = abs(value)  # compared as it came: an integer need not fit a double
    if not size <= most or (size != 0 and size < _SMALLEST) or (above is not None and not value > above):
        bound = "" if above is None else f" above {above:g}"
        raise ValueError(
            f"{name}: {_short(value)}, expected a finite number{bound}, at most {most:g} and at least {_SMALLEST:g} "
            "in size"
        )
    return Decimal(float(value))


def _short(value: Any) -> str:
    """`repr(value)`, cut to what a message can carry."""
    if isinstance(value, int) and abs(value) >= 10**40:  # Python does not print the largest
        return f"{'-' if value < 0 else ''}an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _turns(radians: Decimal) -> tuple[float, float, float, float]:
    """A frequency in turns, modulo 1 in [-1/2, 1/2]: three numbers of at most 26 bits, and what is left."""
    rest = radians / _TWO_PI
    rest -= rest.to_integral_value()
    pieces = []
    for _ in range(3):
        mantissa, exponent = math.frexp(float(rest))
        piece = math.ldexp(float(int(mantissa * (1 << _PIECE_BITS))), exponent - _PIECE_BITS)
        pieces.append(piece)
        rest -= Decimal(piece)
    return pieces[0], pieces[1], pieces[2], float(rest)
