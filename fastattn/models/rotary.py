# SPDX-License-Identifier: MIT
"""Rotary positions of packed tokens: tables made once, grown on demand, and queries and keys turned where they lie."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from ..rope import RopeTable, rope, rope_table
from .builder import Floats
from .config import ConfigReader
from .inputs import Integers
from .postnorm import Attend
from .spans import Spans

__all__ = ["Rotary", "build_rotary", "read_scaling", "theta_of"]

_FIRST_ROWS = 512
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
        Positions are 0 to ``positions - 1``.
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
        self._positions = positions
        self._interleaved = interleaved
        self._table = lru_cache(maxsize=16)(self._make)
        self._make(1, 1)  # what cannot be made is said now
        scaling = {} if scaling is None else scaling
        self._kind = scaling.get("rope_type") or scaling.get("type")
        self._trained: int | None = None
        if self._kind in _BY_LENGTH:
            self._trained = int(scaling.get("original_max_position_embeddings") or trained or positions)

    def _make(self, rows: int, length: int) -> RopeTable:
        return rope_table(rows, **self._options, seq_len=length)

    def _rows(self, last: int) -> int:
        """Rows of a table that has position ``last``: few sizes, so that few tables are made."""
        return min(max(_FIRST_ROWS, 1 << last.bit_length()), max(self._positions, last + 1))

    def turn(self, x: Floats, positions: Integers, cu_seqlens: Integers, num_threads: int | None) -> None:
        """Turn x (T, heads, D), any outer strides, in place; ``positions`` (T,), ``cu_seqlens`` the sequences."""
        if not positions.size:
            return
        last = int(positions.max())
        if self._trained is None or last < self._trained:
            self._apply(x, self._table(self._rows(last), self._trained or 1), positions, num_threads)
            return
        for start, stop in zip(cu_seqlens[:-1].tolist(), cu_seqlens[1:].tolist(), strict=True):
            if start == stop:
                continue
            last = int(positions[stop - 1])
            length = max(last + 1, self._trained)
            if self._kind == "longrope":  # which knows two lengths
                length = min(length, self._trained + 1)
            table = self._table(self._rows(last), length)
            self._apply(x[start:stop], table, positions[start:stop], num_threads)

    def attention(self, spans: Spans, positions: Integers, num_threads: int | None) -> Attend:
        """Attention of ``spans`` after queries and keys were turned."""

        def attend(_layer: int, q: Floats, k: Floats, v: Floats, out: Floats) -> None:
            self.turn(q, positions, spans.cu_seqlens, num_threads)
            self.turn(k, positions, spans.cu_seqlens, num_threads)
            spans.attend(q, k, v, out=out, num_threads=num_threads)

        return attend

    def _apply(self, x: Floats, table: RopeTable, positions: Integers, num_threads: int | None) -> None:
        turned = x.swapaxes(0, 1)[None]  # (1, heads, T, D), a view
        rope(
            turned, table.cos, table.sin, position_ids=positions[None], interleaved=self._interleaved, out=turned,
            num_threads=num_threads,
        )  # fmt: skip


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
    """(base, scaling) as ``rope_parameters``, or ``rope_theta`` and ``rope_scaling``, of a config.json say; ``base``
    where they are silent.
    """
    parameters = config.mapping("rope_parameters")
    if parameters is None:
        return config.positive("rope_theta", base), config.mapping("rope_scaling")
    return theta_of(config, "rope_parameters", parameters, base)


def theta_of(
    config: ConfigReader, key: str, parameters: Mapping[str, Any], base: float
) -> tuple[float, Mapping[str, Any]]:
    """(rope_theta, the rest) of ``parameters``, which lie under ``key``."""
    rest = dict(parameters)
    theta = rest.pop("rope_theta", None)
    if theta is None:
        return base, rest
    if type(theta) not in (int, float) or not 1 < theta < np.inf:
        raise ValueError(f"{config.path}: {key} has rope_theta {str(theta)[:100]!r}, expected a finite number above 1")
    return float(theta), rest
