# SPDX-License-Identifier: MIT
"""Arrays and options for the cases of attention, which every contestant reads in place."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from .attention_shapes import BLOCK, AttentionCase, least_sets
from .peaks import available_memory, cold_bytes

__all__ = ["Inputs", "Walk", "additive", "boolean", "make_inputs", "narrowed", "options", "positions", "widened"]

_INT8_SCALE = 2.0**-5  # one for all keys: a peer that has a single scale per tensor can take part
_MEMORY_SHARE = 2  # at most half of what is free


def narrowed(array: np.ndarray, dtype: str) -> np.ndarray:
    """float32 values in a storage type; bfloat16 as the uint16 of its bits, rounded to nearest even. No NaN.

    >>> [hex(bits) for bits in narrowed(np.array([1.0, 1.00390625, 1.01171875], np.float32), "bfloat16")]
    ['0x3f80', '0x3f80', '0x3f82']
    """
    if dtype != "bfloat16":
        return array.astype(dtype, copy=False)
    bits = array.view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)


def widened(array: np.ndarray) -> np.ndarray:
    """The float32 values of an array in a storage type; uint16 is bfloat16.

    >>> widened(np.array([0x3F80, 0xC000], np.uint16))
    array([ 1., -2.], dtype=float32)
    """
    if array.dtype != np.uint16:
        return array.astype(np.float32, copy=False)
    return (array.astype(np.uint32) << 16).view(np.float32)


@dataclass(frozen=True)
class Inputs:
    """One set of arrays."""

    case: AttentionCase
    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    mask: np.ndarray | None
    out: np.ndarray
    k_scale: np.ndarray | None = None
    v_scale: np.ndarray | None = None
    slopes: np.ndarray | None = None
    sinks: np.ndarray | None = None
    blocks: np.ndarray | None = None

    @cached_property
    def float_kv(self) -> tuple[np.ndarray, np.ndarray]:
        """K and V, as float32 where they are int8: what a library that has no scales is given."""
        if self.k_scale is None or self.v_scale is None:
            return self.k, self.v
        return self.k * self.k_scale[..., None], self.v * self.v_scale[..., None]

    @cached_property
    def dense_v(self) -> np.ndarray:
        """The values without gaps: what a library that knows no strides is given."""
        return np.ascontiguousarray(self.float_kv[1])


class Walk:
    """Hands out the sets in turn, to all contestants of a case together: nobody finds in a cache what another read."""

    def __init__(self, sets: Sequence[Inputs]) -> None:
        self.sets = sets
        self.next: Callable[[], int] = itertools.cycle(range(len(sets))).__next__
        """The index of the next set."""


def make_inputs(case: AttentionCase, sets: int | None = None, seed: int = 0) -> list[Inputs]:
    """Normally distributed inputs: one set, or for a cold case so many (of the same values) as least_sets() says.

    Raises:
        MemoryError: they would take more than half of the memory that is free.
    """
    if sets is None:
        sets = least_sets(case, cold_bytes())
    if sets * case.kv_bytes > available_memory() // _MEMORY_SHARE:
        raise MemoryError(f"{case.name}: {sets} caches of {case.kv_bytes >> 20} MiB are more than half of what is free")
    random = np.random.default_rng(seed)
    q = random.standard_normal((case.batch, case.heads, case.sq, case.d), np.float32)
    mask = _mask(case, random)
    k = _stored_kv(random, case, case.d)
    v = k[..., : case.dv] if case.latent else _stored_kv(random, case, case.dv)
    scale = np.full(k.shape[:-1], _INT8_SCALE, np.float32) if case.int8 else None
    first = Inputs(
        case, narrowed(q, case.dtype), k, v, mask,
        narrowed(np.zeros((*q.shape[:-1], case.dv), np.float32), case.dtype), scale, scale,
        np.exp2(-8 * np.arange(1, case.heads + 1, dtype=np.float32) / case.heads) if case.alibi else None,
        random.standard_normal(case.heads, np.float32) if case.sinks else None,
        _blocks(case) if case.mask == "block" else None,
    )  # fmt: skip
    return [first, *(_another(first) for _ in range(sets - 1))]


def _stored_kv(random: np.random.Generator, case: AttentionCase, features: int) -> np.ndarray:
    values = random.standard_normal((case.batch, case.kv_heads, case.sk, features), np.float32)
    if case.int8:
        return np.clip(np.rint(values / _INT8_SCALE), -127, 127).astype(np.int8)
    return narrowed(values, case.dtype)


def _another(first: Inputs) -> Inputs:
    k = first.k.copy()
    v = k[..., : first.case.dv] if first.case.latent else first.v.copy()
    scales = [None if scale is None else scale.copy() for scale in (first.k_scale, first.v_scale)]
    return replace(first, k=k, v=v, k_scale=scales[0], v_scale=scales[1])


def _mask(case: AttentionCase, random: np.random.Generator) -> np.ndarray | None:
    if case.mask == "bool":
        mask = random.random((case.sq, case.sk)) < 0.5
        mask[:, 0] = True
        return mask
    if case.mask == "float":
        return random.standard_normal((case.heads, case.sq, case.sk), np.float32)
    if case.mask == "padding":
        lengths = case.sk - (case.sk * np.arange(case.batch)) // (2 * case.batch)
        mask = np.arange(case.sk) < lengths[:, None]
        return mask[:, None, None, :]
    return None


def _blocks(case: AttentionCase) -> np.ndarray:
    rows, columns = range(-(-case.sq // BLOCK)), range(-(-case.sk // BLOCK))
    return np.array([[case.keeps_block(i, j) for j in columns] for i in rows])


def options(s: Inputs) -> dict[str, Any]:
    """The keyword arguments of fastattn.attention() for a set; those that say nothing are left out."""
    case = s.case
    found: dict[str, Any] = {
        "mask": s.mask, "window": case.window, "softcap": case.softcap, "alibi_slopes": s.slopes, "sinks": s.sinks,
        "block_mask": None if s.blocks is None else (s.blocks, (BLOCK, BLOCK)), "k_scale": s.k_scale,
        "v_scale": s.v_scale,
    }  # fmt: skip
    if case.causal:
        found["causal"] = True if case.sq == case.sk else "bottom_right"
    elif case.sq != case.sk and (case.alibi or case.window):
        found["q_offset"] = case.sk - case.sq
    return {name: value for name, value in found.items() if value is not None}


def positions(case: AttentionCase) -> tuple[np.ndarray, np.ndarray]:
    """(sq, 1) positions of the queries among the keys, (1, sk) those of the keys."""
    return np.arange(case.sk - case.sq, case.sk)[:, None], np.arange(case.sk)[None, :]


def _structures(s: Inputs) -> Iterator[np.ndarray]:
    case = s.case
    p, j = positions(case)
    if case.causal and case.sq > 1:
        yield j <= p
    if case.window is not None:
        left, right = case.window
        if left is not None:
            yield j >= p - left
        if right is not None and not case.causal:
            yield j <= p + right
    if s.blocks is not None:
        yield np.repeat(np.repeat(s.blocks, BLOCK, 0), BLOCK, 1)[: case.sq, : case.sk]
    if s.mask is not None and s.mask.dtype == bool:
        yield s.mask


def boolean(s: Inputs) -> np.ndarray | None:
    """All that excludes keys, as one boolean mask of four dimensions that broadcasts; None where nothing does."""
    seen: np.ndarray | None = None
    for part in _structures(s):
        seen = part if seen is None else seen & part
    return None if seen is None else seen[(None,) * (4 - seen.ndim)]


def additive(s: Inputs) -> np.ndarray | None:
    """All that excludes keys or is added to scores, as one float32 mask of four dimensions that broadcasts."""
    seen, added = boolean(s), None
    if s.mask is not None and s.mask.dtype != bool:
        added = s.mask[None]
    if s.slopes is not None:
        p, j = positions(s.case)
        bias = -s.slopes[None, :, None, None] * np.abs(p - j).astype(np.float32)
        added = bias if added is None else added + bias
    if seen is None:
        return added
    return np.where(seen, np.float32(0) if added is None else added, np.float32(-np.inf))
