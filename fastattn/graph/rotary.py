# SPDX-License-Identifier: MIT
"""Rotary positions of packed tokens: tables made once, grown on demand, and queries and keys turned where they lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from ..rope import RopeTable, rope_table
from .config import ConfigReader
from .facts import Integers
from .source import Floats

__all__ = ["Rotary", "build_rotary", "read_scaling", "theta_of"]

_FIRST_ROWS = 512
_MAX_THETA = 1e30
_BY_LENGTH = ("dynamic", "longrope")  # types whose frequencies depend on the length of the sequence


class Rotary:
    """Turns queries and keys by the angles of their positions. Safe to use from many threads.

    Parameters
    ----------
    rotary_dim
        Dims of a head that are turned, from the first; even.
    base
        rope_theta.
    scaling
        As ``fastattn.rope_table`` takes it.
    positions
        The model's ``max_position_embeddings``, which some types of ``scaling`` go by. It is no limit.
    interleaved
        Pairs are neighbours, as in GPT-J.
    trained
        Length the model was trained for, where ``scaling`` does not say it; None for ``positions``.

    Raises
    ------
    ValueError
        ``scaling`` is none that rope_table takes. It says why.
    """

    def __init__(
        self, rotary_dim: int, *, base: float, scaling: Mapping[str, Any] | None = None, positions: int,
        interleaved: bool = False, trained: int | None = None,
    ) -> None:  # fmt: skip
        self._options: dict[str, Any] = {
            "rotary_dim": rotary_dim,
            "base": base,
            "scaling": scaling,
            "max_position_embeddings": trained or positions,
        }
        self.interleaved = interleaved
        self._make = partial(_make_table, self._options)  # no method: what holds itself is not freed at once
        self._table = lru_cache(maxsize=16)(self._make)
        self._make(1, 1)  # what cannot be made is said now
        scaling = {} if scaling is None else scaling
        self._kind = scaling.get("rope_type") or scaling.get("type")
        self._trained: int | None = None
        if self._kind in _BY_LENGTH:
            self._trained = int(scaling.get("original_max_position_embeddings") or trained or positions)

    def _rows(self, last: int) -> int:
        """Rows of a table that has position ``last``: few sizes, so that few tables are made."""
        return max(_FIRST_ROWS, 1 << last.bit_length())

    def kind_of(self, length: int) -> int:
        """Sequences of equal kinds have equal frequencies; where one grows into another kind, its keys are void."""
        if self._trained is None or length <= self._trained:
            return 0
        return 1 if self._kind == "longrope" else length

    def rows(
        self, positions: Integers, cu_seqlens: Integers, totals: Sequence[int] | None = None
    ) -> tuple[Floats, Floats, Integers]:
        """Cosines and sines, (P, R / 2) each, and the row (T,) that each token has in them.

        ``positions`` (T,), ascending within each of the sequences that ``cu_seqlens`` bounds. Frequencies that depend
        on the length go by ``totals``, what each sequence will have in all; None for what it has up to its last row.
        """
        last = int(positions.max(initial=0))
        if self._trained is None or max((last + 1, *(totals or ()))) <= self._trained:
            return (*self._table(self._rows(last), self._trained or 1), positions)
        # A table for each length beyond that of the training, one behind the other.
        lengths = np.full(cu_seqlens.size - 1, self._trained)
        full = cu_seqlens[1:] > cu_seqlens[:-1]
        if totals is not None:
            lengths = np.maximum(lengths, np.array(totals, np.int64))
        else:
            lengths[full] = np.maximum(positions[cu_seqlens[1:][full] - 1] + 1, self._trained)
        if self._kind == "longrope":  # which knows two lengths
            lengths = np.minimum(lengths, self._trained + 1)
        kinds, which = np.unique(lengths, return_inverse=True)
        rows = self._rows(last)
        tables = [self._table(rows, int(length)) for length in kinds]
        starts = np.repeat(which * rows, np.diff(cu_seqlens))
        return (
            np.concatenate([table.cos for table in tables]),
            np.concatenate([table.sin for table in tables]),
            positions + starts,
        )


def _make_table(options: Mapping[str, Any], rows: int, length: int) -> RopeTable:
    return rope_table(rows, **options, seq_len=length)


def build_rotary(
    config: ConfigReader, rotary_dim: int, *, base: float, scaling: Mapping[str, Any] | None, positions: int,
    interleaved: bool = False, trained: int | None = None,
) -> Rotary:  # fmt: skip
    """The Rotary of a model; ``ValueError`` names ``config`` where its values do not fit."""
    if rotary_dim < 2 or rotary_dim % 2:
        raise ValueError(f"{config.path}: {rotary_dim} rotary dims, expected an even number: of the width of a head")
    if scaling is not None and scaling.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise ValueError(f"{config.path}: partial_rotary_factor is {scaling['partial_rotary_factor']}, expected 1")
    try:
        return Rotary(
            rotary_dim, base=base, scaling=scaling, positions=positions, interleaved=interleaved, trained=trained
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{config.path}: rotary positions: {error}") from error


def read_scaling(config: ConfigReader, base: float) -> tuple[float, Mapping[str, Any] | None]:
    """(base, scaling) as ``rope_scaling``, else ``rope_parameters``, of a config.json says; where that has no
    "rope_theta", the base is under a key of its own, and ``base`` where all are silent.
    """
    base = config.positive("rope_theta", base)
    for key in ("rope_scaling", "rope_parameters"):
        parameters = config.mapping(key)
        if parameters:
            return theta_of(config, key, parameters, base)
    return base, None


def theta_of(
    config: ConfigReader, key: str, parameters: Mapping[str, Any], base: float
) -> tuple[float, Mapping[str, Any]]:
    """(rope_theta, the rest) of ``parameters``, which lie under ``key``."""
    rest = dict(parameters)
    theta = rest.pop("rope_theta", None)
    if theta is None:
        return base, rest
    if type(theta) not in (int, float) or not 1 < theta <= _MAX_THETA:
        raise ValueError(
            f"{config.path}: {key} has rope_theta {str(theta)[:100]!r}, expected a finite number above 1, at most "
            f"{_MAX_THETA:g}"
        )
    return float(theta), rest
