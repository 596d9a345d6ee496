# SPDX-License-Identifier: MIT
"""Options of beam search: what the caller gives, else what generation_config.json says, else what transformers does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from ..engine.beams import BeamRules
from ..engine.optionvalues import number, whole

__all__ = ["BEAM_KEYS", "check_answers", "read_beams"]

BEAM_KEYS = ("num_beams", "length_penalty", "early_stopping")
"""Keys of generation_config.json, and options, that are read here."""

_MOST_BEAMS = 1 << 10
_LARGEST = float(np.finfo(np.float64).max)
_DRAWING = ("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p", "xtc", "mirostat")


def read_beams(stored: Mapping[str, Any], where: str, given: Mapping[str, Any], drawn: bool) -> BeamRules:
    """Decide how beams are searched; ``drawn`` is whether the options that are ``given`` ask for tokens to be drawn.

    Raises
    ------
    TypeError, ValueError
        An option is of another kind or out of range, or has no meaning with the others; it is named, with the file at
        ``where`` if it is of ``stored``.
    """
    values: dict[str, Any] = {}
    for name, read in zip(BEAM_KEYS, (_width, _penalty, _early), strict=True):
        value = given.get(name)
        if value is not None:
            values[name] = read(value, name)
        elif stored.get(name) is not None:
            try:
                values[name] = read(stored[name], f"{where}: {name}")
            except TypeError as error:
                raise ValueError(str(error)) from None
    width = values.get("num_beams", 1)
    if width == 1:
        for name, neutral in (("length_penalty", 1.0), ("early_stopping", False)):
            if given.get(name) is not None and values[name] != neutral:
                raise ValueError(f"{name}: got {given[name]!r}, but it has a meaning only with num_beams above 1")
    elif drawn:
        name = next(name for name in _DRAWING if given.get(name) is not None and given[name] is not False)
        raise ValueError(
            f"num_beams: {width} beams and {name}={str(given[name])[:40]}: beams are searched, tokens are not drawn"
        )
    return BeamRules(width, values.get("length_penalty", 1.0), values.get("early_stopping", False))


def check_answers(n: int, name: str, beams: BeamRules, drawn: bool) -> None:
    """``ValueError`` where there are not ``n`` different answers to a prompt; ``name`` says who wants them."""
    if beams.width > 1:
        if n > beams.width:
            raise ValueError(f"{name}: got {n}, more than num_beams, {beams.width}")
    elif n > 1 and not drawn:
        raise ValueError(
            f"{name}: got {n}, but without sampling all answers are one: give a temperature above 0, or num_beams"
        )


def _width(value: Any, name: str) -> int:
    return whole(name, value, 1, 1, _MOST_BEAMS, f"1 (no beams) to {_MOST_BEAMS}")


def _penalty(value: Any, name: str) -> float:
    return number(name, value, 1.0, -_LARGEST, _LARGEST, "a finite number")


def _early(value: Any, name: str) -> bool | Literal["never"]:
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if not isinstance(value, str):
        raise TypeError(f'{name}: expected True, False or "never", got {type(value).__name__}')
    if value != "never":
        raise ValueError(f'{name}: got {value[:100]!r}, expected True, False or "never"')
    return "never"
