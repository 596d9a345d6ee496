# SPDX-License-Identifier: MIT
"""Random attention problems for hypothesis: any valid combination of shapes, layouts, storage types and options."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from fastattn import reference
from support import inputs

Array = np.ndarray
Draw = st.DrawFn
Call = dict[str, Any]

HAS_ML_DTYPES = importlib.util.find_spec("ml_dtypes") is not None
# "bfloat16" is an ml_dtypes array, "bits" the same numbers as uint16; keys and values may have another type than q
FLOATS = ["float32", "float16", "bits"] + (["bfloat16"] if HAS_ML_DTYPES else [])
SIZES = st.one_of(st.integers(0, 20), st.sampled_from([31, 32, 33, 47, 48, 49, 64, 95, 97, 130]))
KEYS = st.one_of(SIZES, st.sampled_from([200, 479, 481, 959, 960, 961, 1009]))
HEADS = st.sampled_from([(1, 1), (2, 1), (2, 2), (3, 3), (4, 2), (6, 3), (5, 1)])
HEAD_SIZE = st.one_of(st.integers(1, 40), st.sampled_from([47, 48, 64, 80, 96, 127, 128]))
LEADS = st.sampled_from(["flat", (), (1,), (1,), (2,), (2,), (3,), (2, 2)])
LAYOUTS = st.sampled_from([np.ascontiguousarray, inputs.bshd, inputs.sliced, inputs.reversed_rows, inputs.unaligned])
STAGES = ("qk", "softcap", "bias")


class Problem(NamedTuple):
    """Arguments of ``attention`` but for what is to be returned."""

    arrays: tuple[Array, Array, Array]
    options: dict[str, Any]
    storage: str  # of q and the output: a name in FLOATS
    keys: str  # of k and v: the same, or "int8"

    @property
    def shapes(self) -> tuple[tuple[int, ...], int, int, int, int]:
        """Leading dimensions, query heads, heads of k and v, queries, keys."""
        q, k, _ = self.arrays
        if q.ndim == 2:
            return (), 1, 1, q.shape[0], k.shape[0]
        return q.shape[:-3], q.shape[-3], k.shape[-3], q.shape[-2], k.shape[-2]

    @property
    def work(self) -> int:
        q, k, v = self.arrays
        lead, hq, _, sq, sk = self.shapes
        return int(np.prod(lead, dtype=np.int64)) * hq * sq * sk * (q.shape[-1] + v.shape[-1])

    def __repr__(self) -> str:
        parts = [f"q {self.arrays[0].shape} {self.storage}, k {self.arrays[1].shape} {self.keys}"]
        parts.append(f"v {self.arrays[2].shape}")
        for name, value in self.options.items():
            parts.append(f"{name}={value.dtype}{value.shape}" if isinstance(value, Array) else f"{name}={value!r}")
        return "Problem(" + ", ".join(parts)[:1500] + ")"


def narrow(x: Array, storage: str) -> Array:
    """float32 numbers in a storage type; bfloat16 rounds to nearest even, by integers (no NaN comes here)."""
    if storage == "float32":
        return x
    if storage == "float16":
        return x.astype(np.float16)
    word = x.view(np.uint32)
    bits = ((word + 0x7FFF + ((word >> 16) & 1)) >> 16).astype(np.uint16)
    if storage == "bits":
        return bits
    import ml_dtypes

    return bits.view(ml_dtypes.bfloat16)


def _values(draw: Draw, rng: np.random.Generator, b: tuple[int, ...], *sizes: int) -> tuple[Array, Array, Array]:
    q, k, v = inputs.qkv(rng, b, *sizes, spread=draw(st.sampled_from([0.1, 1.0, 1.0, 3.0])))
    kind = draw(st.sampled_from(["plain"] * 6 + ["equal", "dominant", "large values", "tiny"]))
    if kind == "equal":
        q[...], k[...] = 1.0, 0.5
    elif kind == "dominant" and k.size:
        k[..., rng.integers(k.shape[-2]), :] *= 30
    elif kind == "large values":
        v *= 1000
    elif kind == "tiny":
        q *= np.float32(1e-6)
    return q, k, v


def _positions(draw: Draw, lead: tuple[int, ...], sq: int, sk: int) -> dict[str, Any]:
    options: dict[str, Any] = {}
    causal = draw(st.sampled_from([False, False, True, "top_left", "bottom_right"]))
    if causal is not False:
        options["causal"] = causal
    if not isinstance(causal, str) and (draw(st.booleans()) or (causal is True and sq != sk)):
        offset = st.integers(-sq - 3, sk + 3)
        count = int(np.prod(lead, dtype=np.int64))
        if draw(st.booleans()):
            options["q_offset"] = np.array([draw(offset) for _ in range(count)], np.int64).reshape(lead or (1,))
        else:
            options["q_offset"] = draw(offset)
    if draw(st.booleans()):
        span = st.one_of(st.none(), st.integers(0, 60))
        options["window"] = (draw(span), draw(span))
        if draw(st.booleans()):
            options["sink_tokens"] = draw(st.integers(0, 20)) if draw(st.booleans()) else sk + 3
    if draw(st.sampled_from([True, False, False])):
        count = int(np.prod(lead, dtype=np.int64))
        options["kv_lengths"] = np.array([draw(st.integers(0, sk)) for _ in range(count)]).reshape(lead or (1,))
    return options


def _mask(draw: Draw, rng: np.random.Generator, shape: tuple[int, ...]) -> Array | None:
    kind = draw(st.sampled_from([None, None, "bool", "float"]))
    if kind is None:
        return None
    some = tuple(n if draw(st.booleans()) else 1 for n in shape)[draw(st.integers(0, len(shape))) :]
    keep = np.asarray(rng.random(some) < draw(st.sampled_from([0.02, 0.5, 0.98])))
    if kind == "bool":
        return keep
    return np.asarray(np.where(keep, rng.standard_normal(some) * 2, -np.inf).astype(np.float32))


def _blocks(draw: Draw, rng: np.random.Generator, lead: tuple[int, ...], flat: bool, hq: int, sq: int, sk: int) -> Any:
    side = st.sampled_from([1, 2, 3, 7, 16, 17, 32, 48, 64, 100, 2000])
    rows, cols = draw(side), draw(side)
    grid = (-(-sq // rows), -(-sk // cols))
    share = draw(st.sampled_from([0.1, 0.5, 0.9]))
    if draw(st.booleans()):
        full = grid if flat else (*lead, hq, *grid)
        some = tuple(n if draw(st.booleans()) else 1 for n in full)
        return np.asarray(rng.random(some) < share), (rows, cols)
    heads = hq if not flat and draw(st.booleans()) else 0
    blocks = rng.random((max(heads, 1), *grid)) < share
    starts = np.concatenate([[0], np.cumsum(blocks.sum(axis=-1).reshape(-1))])
    indices = np.nonzero(blocks)[2]
    kind = draw(st.sampled_from([np.int32, np.int64]))
    indptr = np.array([starts[h * grid[0] : h * grid[0] + grid[0] + 1] for h in range(max(heads, 1))])
    return ((indptr if heads else indptr[0]).astype(kind), indices.astype(kind)), (rows, cols)


def _relative(draw: Draw, rng: np.random.Generator, hq: int) -> tuple[Array, bool, int]:
    bidirectional = draw(st.booleans())
    half = draw(st.sampled_from([2, 3, 4, 8, 16, 17, 32]))
    exact = half // 2
    n = 2 * half if bidirectional else half
    max_distance = draw(st.one_of(st.integers(exact + 1, exact + 40), st.sampled_from([128, 1000])))
    return (rng.standard_normal((hq, n)) * 2).astype(np.float32), bidirectional, max_distance


def _numbers(draw: Draw, rng: np.random.Generator, lead: tuple[int, ...], hq: int) -> dict[str, Any]:
    """Scale and what is added to a score."""
    options: dict[str, Any] = {}
    if draw(st.booleans()):
        options["scale"] = draw(st.sampled_from([1.0, 0.0, -0.7, 0.05]))
    if draw(st.sampled_from([False, False, True])):
        options["softcap"] = draw(st.sampled_from([1.0, 20.0]))
    if draw(st.sampled_from([False, False, True])):
        shape = (*lead, hq) if draw(st.booleans()) else (hq,)
        slopes = rng.standard_normal(shape) * draw(st.sampled_from([0.0, 0.01, 0.5]))
        options["alibi_slopes"] = np.abs(slopes).astype(np.float32)
    if draw(st.sampled_from([False, False, True])):
        options["sinks"] = (rng.standard_normal(hq) * 3).astype(np.float32)
    if draw(st.sampled_from([False, False, True])):
        options["relative_bias"] = _relative(draw, rng, hq)
    return options


def _store(
    draw: Draw, rng: np.random.Generator, arrays: tuple[Array, Array, Array], storage: str, keys: str
) -> tuple[tuple[Array, Array, Array], dict[str, Array]]:
    """The arrays in their storage types and layouts; with int8 keys also the scales that make them what they were."""
    layout: Callable[[Array], Array] = draw(LAYOUTS)
    stored, scales = [narrow(arrays[0], storage)], {}
    for name, x in (("k_scale", arrays[1]), ("v_scale", arrays[2])):
        if keys == "int8":
            scale = np.abs(x).max(axis=-1, initial=1e-6) / 127
            stored.append(np.clip(np.rint(x / scale[..., None]), -127, 127).astype(np.int8))
            scales[name] = scale.astype(np.float32)
        else:
            stored.append(narrow(x, keys))
    if layout is not inputs.bshd or arrays[0].ndim > 2:
        stored = [layout(x) for x in stored]
    return (stored[0], stored[1], stored[2]), scales


@st.composite
def problems(draw: Draw, storages: tuple[str, ...] | None = None) -> Problem:
    """Any valid call of ``attention``; ``storages`` names the storage types to draw from, "int8" among them."""
    names = storages or (*FLOATS, "int8")
    keys = draw(st.sampled_from(names))
    storage = draw(st.sampled_from(FLOATS)) if keys == "int8" or draw(st.integers(0, 5)) == 0 else keys
    lead = draw(LEADS)
    flat = lead == "flat"
    lead = () if flat else lead
    hq, hkv = (1, 1) if flat else draw(HEADS)
    sq, sk, d = draw(SIZES), draw(KEYS), draw(HEAD_SIZE)
    dv = draw(st.one_of(st.just(d), HEAD_SIZE))
    if not flat and draw(st.integers(0, 30)) == 0:  # latent attention of one KV head
        hq, hkv, d, dv = 4, 1, 576, 512
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    q, k, v = _values(draw, rng, lead, hq, hkv, sq, sk, d, dv)
    if flat:
        q, k, v = q[0], k[0], v[0]
    options: dict[str, Any] = {}
    if draw(st.integers(0, 9)) == 0:  # short calls have a way of their own
        options["causal"] = sq == sk and draw(st.booleans())
    else:
        options = _positions(draw, lead, sq, sk) | _numbers(draw, rng, lead, hq)
        mask = _mask(draw, rng, (sq, sk) if flat else (*lead, hq, sq, sk))
        if mask is not None:
            options["mask"] = mask
        if draw(st.sampled_from([False, False, True])):
            options["block_mask"] = _blocks(draw, rng, lead, flat, hq, sq, sk)
    arrays, scales = _store(draw, rng, (q, k, v), storage, keys)
    return Problem(arrays, options | scales, storage, keys)


EXCLUDING = ("causal", "window", "sink_tokens", "kv_lengths", "block_mask", "mask", "q_offset")


def general_form(problem: Problem) -> Problem:
    """The same problem as (B, H, S, D) arrays in which one mask alone says which keys a query sees.

    Whatever excludes keys does nothing else, so attention has the same bits over it. A float mask keeps its numbers.
    """
    lead, hq, hkv, sq, sk = problem.shapes
    b = int(np.prod(lead, dtype=np.int64))
    q, k, v = (x.reshape(b, h, *x.shape[-2:]) for x, h in zip(problem.arrays, (hq, hkv, hkv), strict=True))
    rest = {name: value for name, value in problem.options.items() if name not in EXCLUDING}
    places = {name: value for name, value in problem.options.items() if name in EXCLUDING}
    zeros = (np.zeros((*x.shape[:-1], 1)) for x in problem.arrays)
    added = reference.attention(*zeros, **places, return_scores="bias").scores
    assert added is not None
    mask = added.reshape(b, hq, sq, sk)
    if "mask" in places and places["mask"].dtype != np.bool_:
        rest["mask"] = mask.astype(np.float32)
    else:
        rest["mask"] = ~np.isneginf(mask)
    lengths = np.broadcast_to(np.ravel(places.get("kv_lengths", sk)), b)
    if places.get("causal") == "bottom_right":
        rest["q_offset"] = lengths - sq
    else:
        rest["q_offset"] = np.array(np.broadcast_to(np.ravel(places.get("q_offset", 0)), b))
    if "alibi_slopes" in rest:
        rest["alibi_slopes"] = np.broadcast_to(rest["alibi_slopes"], (*lead, hq)).reshape(b, hq)
    for name in ("k_scale", "v_scale"):
        if name in rest:
            rest[name] = rest[name].reshape(b, hkv, sk)
    return Problem((q, k, v), rest, problem.storage, problem.keys)


def piece(problem: Problem, b: int, rows: slice, keys: int) -> Problem:
    """Of a problem in general form: one batch row, some of its queries, its first keys."""
    q, k, v = problem.arrays
    options = dict(problem.options)
    options["mask"] = options["mask"][b : b + 1, :, rows, :keys]
    options["q_offset"] = int(options["q_offset"][b]) + rows.start
    if "alibi_slopes" in options:
        options["alibi_slopes"] = options["alibi_slopes"][b]
    for name in ("k_scale", "v_scale"):
        if name in options:
            options[name] = options[name][b : b + 1, :, :keys]
    arrays = (q[b : b + 1, :, rows], k[b : b + 1, :, :keys], v[b : b + 1, :, :keys])
    return Problem(arrays, options, problem.storage, problem.keys)


class Packed(NamedTuple):
    """Arguments of ``attention_varlen``, and by sequence those of the same call of ``attention``."""

    arrays: tuple[Array, ...]  # q (Tq, Hq, D), k (Tk, Hkv, D), v (Tk, Hkv, Dv), cu_seqlens_q, cu_seqlens_k
    options: dict[str, Any]
    single: list[tuple[tuple[Array, ...], dict[str, Any]]]

    def __repr__(self) -> str:
        q, k, v, cu_q, cu_k = self.arrays
        shapes = f"q {q.shape} {q.dtype}, k {k.shape} {k.dtype}, v {v.shape}"
        return f"Packed({shapes}, {cu_q}, {cu_k}, {self.options})"[:1500]


def _single(arrays: tuple[Array, ...], options: dict[str, Any], count: int) -> list[Any]:
    """Each sequence alone: (Hq, n, D) views and its share of the options."""
    q, k, v, cu_q, cu_k = arrays
    calls = []
    for b in range(count):
        rows, keys, mine = slice(cu_q[b], cu_q[b + 1]), slice(cu_k[b], cu_k[b + 1]), dict(options)
        if np.ndim(options.get("q_offset", 0)):
            mine["q_offset"] = options["q_offset"][b]
        if np.ndim(options.get("alibi_slopes", 0)) == 2:
            mine["alibi_slopes"] = options["alibi_slopes"][b]
        for name in ("k_scale", "v_scale"):
            if name in options:
                mine[name] = np.ascontiguousarray(options[name][keys].T)
        if "block_mask" in options:
            grid, (height, width) = options["block_mask"]
            grid = np.broadcast_to(grid, (count, q.shape[1], *grid.shape[-2:]))[b]
            n, m = -(-(cu_q[b + 1] - cu_q[b]) // height), -(-(cu_k[b + 1] - cu_k[b]) // width)
            mine["block_mask"] = np.ascontiguousarray(grid[:, :n, :m]), (height, width)
        calls.append((tuple(x[at].swapaxes(0, 1) for x, at in ((q, rows), (k, keys), (v, keys))), mine))
    return calls


@st.composite
def packed_problems(draw: Draw) -> Packed:
    """Any valid call of ``attention_varlen``: sequences of no queries and no keys among them."""
    keys = draw(st.sampled_from([*FLOATS, "int8"]))
    storage = draw(st.sampled_from(FLOATS)) if keys == "int8" else keys
    count, (hq, hkv) = draw(st.integers(0, 5)), draw(HEADS)
    length = st.one_of(st.integers(0, 6), st.sampled_from([17, 31, 33, 48, 70]))
    n_q = np.array([draw(length) for _ in range(count)], np.int64)
    causal = draw(st.sampled_from([False, True, "top_left", "bottom_right"]))
    n_k = n_q if causal is True else np.array([draw(length) for _ in range(count)], np.int64)
    cu_q, cu_k = (np.concatenate([[0], np.cumsum(n)]).astype(np.int64) for n in (n_q, n_k))
    d, dv = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    q, k, v = _values(draw, rng, (), hq, hkv, int(cu_q[-1]), int(cu_k[-1]), d, dv)
    stored, options = _store(draw, rng, (q, k, v), storage, keys)
    q, k, v = (x.swapaxes(0, 1) for x in stored)
    options = {name: np.ascontiguousarray(x.T) for name, x in options.items()}
    options |= _numbers(draw, rng, (count,), hq)
    if causal is not False:
        options["causal"] = causal
    if not isinstance(causal, str) and draw(st.booleans()):
        options["q_offset"] = np.array([draw(st.integers(-10, 80)) for _ in range(count)], np.int64)
    if draw(st.booleans()):
        options["window"] = (draw(st.sampled_from([None, 0, 3, 20])), draw(st.sampled_from([None, 0, 3, 20])))
        options["sink_tokens"] = draw(st.integers(0, 5))
    if draw(st.sampled_from([False, False, True])):
        rows, cols = draw(st.sampled_from([1, 3, 16, 100])), draw(st.sampled_from([1, 3, 16, 100]))
        grid = (-(-int(n_q.max(initial=0)) // rows), -(-int(n_k.max(initial=0)) // cols))
        lead = tuple(n if draw(st.booleans()) else 1 for n in (count, hq))
        options["block_mask"] = (rng.random((*lead, *grid)) < 0.6, (rows, cols))
    arrays = (q, k, v, cu_q, cu_k)
    return Packed(arrays, options, _single(arrays, options, count))
