# SPDX-License-Identifier: MIT
"""Rotary position embedding: rope() turns queries and keys, rope_table() makes its cosines and sines."""

from __future__ import annotations

from array import array as packed_numbers
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np

from fastattn import _core
from fastattn.arrays import as_float32, as_indices, as_stored, describe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastattn.typing import Array, Indices, OutT, StoredT

__all__ = ["RopeTable", "rope", "rope_table"]

_POSITION_LIMIT = 1 << 52


class RopeTable(NamedTuple):
    """float32 cosines and sines, one for each position and pair of dims."""

    cos: NDArray[np.float32]
    sin: NDArray[np.float32]


@overload
def rope(
    x: NDArray[StoredT], cos: Array, sin: Array, *, position_ids: Indices | None = ..., interleaved: bool = ...,
    rotary_dim: int | None = ..., out: None = ..., num_threads: int | None = ...,
) -> NDArray[StoredT]: ...  # fmt: skip
@overload
def rope(
    x: Array, cos: Array, sin: Array, *, position_ids: Indices | None = ..., interleaved: bool = ...,
    rotary_dim: int | None = ..., out: None = ..., num_threads: int | None = ...,
) -> NDArray[Any]: ...  # fmt: skip
@overload
def rope(
    x: Array, cos: Array, sin: Array, *, position_ids: Indices | None = ..., interleaved: bool = ...,
    rotary_dim: int | None = ..., out: OutT, num_threads: int | None = ...,
) -> OutT: ...  # fmt: skip
def rope(
    x: Array, cos: Array, sin: Array, *, position_ids: Indices | None = None, interleaved: bool = False,
    rotary_dim: int | None = None, out: Array | None = None, num_threads: int | None = None,
) -> Any:  # fmt: skip
    """Rotates pairs of dims of x by the angles of their positions.

    The first R = 2 * cos.shape[-1] dims are rotated, the rest is copied. A pair (a, b) with cosine c and sine s becomes
    (a c - b s, b c + a s), in float32: ``fma(a, c, -(b s))`` and ``fma(b, c, a s)``; float16 and bfloat16 are rounded
    once at the end. Pairs are (i, i + R / 2), as in Llama, or with ``interleaved`` (2 i, 2 i + 1), as in GPT-J.

    Args:
        x: (B, H, S, D), (H, S, D) or (S, D) float32, float16 or bfloat16, any strides with a unit last one: a
            (B, S, H, D) array goes in as ``x.swapaxes(1, 2)``
        cos, sin: float32. (P, R / 2) with position_ids; without, (B, S, R / 2), (1, S, R / 2) or (S, R / 2). These are
            halves: transformers repeats them to R columns, of which ``[..., : R // 2]`` goes in here
        position_ids: rows of cos and sin, (B, S) or (S,) integers; or None
        interleaved: which dims make a pair
        rotary_dim: R, if it is to be checked against cos
        out: array of x's shape and dtype; x itself is allowed
        num_threads: threads of this call

    Returns:
        x's shape and dtype, or ``out``.

    Raises:
        TypeError, ValueError: naming the argument, what came and what was expected.

    Sources: Su et al., "RoFormer", 2021; the operator RotaryEmbedding of ONNX (opset 23), whose cos_cache, sin_cache,
    position_ids and interleaved these are, and whose rotary_embedding_dim is twice the last dimension of cos.

    >>> import numpy as np, fastattn as fa
    >>> cos, sin = fa.rope_table(8, 4)
    >>> x = np.ones((1, 2, 3, 4), np.float32)
    >>> fa.rope(x, cos, sin, position_ids=[[0, 1, 7]]).shape
    (1, 2, 3, 4)
    >>> bool((fa.rope(x, cos, sin, position_ids=[0, 0, 0]) == x).all())
    True
    """
    source, kind = as_stored(x, "x")
    if cos is not None and type(cos) is not np.ndarray:
        cos = as_float32(cos, "cos")
    if sin is not None and type(sin) is not np.ndarray:
        sin = as_float32(sin, "sin")
    if position_ids is not None and not (type(position_ids) is np.ndarray and position_ids.dtype == np.int64):
        position_ids = as_indices(position_ids, "position_ids")
    if not isinstance(interleaved, (bool, np.bool_)):
        raise TypeError(f"interleaved: {describe(interleaved)}, expected True or False")
    if rotary_dim is not None and (isinstance(rotary_dim, bool) or not isinstance(rotary_dim, (int, np.integer))):
        raise TypeError(f"rotary_dim: {describe(rotary_dim)}, expected an integer or None")
    if out is None:
        result = _core.rope(source, cos, sin, position_ids, interleaved, rotary_dim, None, num_threads)
        return result if result.dtype == kind else result.view(kind)
    target, out_kind = as_stored(out, "out")
    if target.dtype != source.dtype:
        raise TypeError(f"out: dtype {out_kind}, expected {kind} as x has")
    _core.rope(source, cos, sin, position_ids, interleaved, rotary_dim, target, num_threads)
    return out


def rope_table(
    positions: Indices, rotary_dim: int, *, base: float = 10000.0, scaling: Mapping[str, Any] | None = None,
    max_position_embeddings: int | None = None, seq_len: int | None = None, num_threads: int | None = None,
) -> RopeTable:  # fmt: skip
    """Cosines and sines for :func:`rope`: of ``position * base ** (-2 i / rotary_dim)``, or scaled frequencies.

    Computed to float32 rounding for positions of any size up to 2**52, the same bits on every machine: a float32
    angle, as most frameworks multiply it, is off by 0.001 at position 16384 and by more than 0.1 at a million.

    Args:
        positions: the number of positions, for 0, 1, ..., or an array of any integers, of any shape
        rotary_dim: R, even, at most 8192: dims that are rotated (head_dim times partial_rotary_factor of a
            config.json)
        base: rope_theta
        scaling: ``rope_scaling`` or ``rope_parameters`` of a config.json, or None. The key "rope_type" ("type" in older
            files) is one of

            - "default"
            - "linear": factor. Frequencies are divided by it.
            - "dynamic" (NTK): factor. The base grows with seq_len beyond the original length.
            - "ntk" (fixed, as the encoders of GTE have it): factor. The base is multiplied by it, and frequencies are
              divided by factor ** (2 / rotary_dim); or, with mixed_b (b), frequency i is divided by
              exp(ln(factor) * ((i + 1) / (rotary_dim / 2)) ** b), b at most 1000.
            - "yarn": factor, original_max_position_embeddings; beta_fast (32), beta_slow (1), truncate (True),
              attention_factor or mscale and mscale_all_dim. Cosines and sines are multiplied by the attention factor.
            - "llama3": factor, low_freq_factor, high_freq_factor, original_max_position_embeddings
            - "longrope": short_factor, long_factor (R / 2 numbers each), original_max_position_embeddings; factor,
              attention_factor

            "rope_theta" in it takes the place of base; "partial_rotary_factor" is passed over: rotary_dim says it.
            Numbers are from 1e-30 to 1e30 in size.
        max_position_embeddings: of the config.json; stands in for a missing original_max_position_embeddings, and for
            yarn and longrope without a factor gives it: max_position_embeddings / original_max_position_embeddings
        seq_len: the length that "dynamic" and "longrope" go by; the largest position + 1 if None
        num_threads: threads of this call

    Returns:
        RopeTable(cos, sin), float32 (n, R / 2), or positions.shape + (R / 2,)

    Raises:
        TypeError, ValueError: naming the argument or the key of scaling, what came and what was expected.

    Sources: Su et al., "RoFormer", 2021; Su, https://kexue.fm/archives/9706, 2023 (ntk); Peng et al., "YaRN", 2023;
    Ding et al., "LongRoPE", 2024; the formulas of ROPE_INIT_FUNCTIONS of transformers.

    >>> import fastattn as fa
    >>> cos, sin = fa.rope_table(4096, 64, base=500000.0, scaling={"rope_type": "linear", "factor": 2.0})
    >>> cos.shape, float(cos[0, 0]), float(sin[0, 0])
    ((4096, 32), 1.0, 0.0)
    """
    from fastattn.rope_scaling import rope_frequencies, whole_number

    rotary = whole_number(rotary_dim, "rotary_dim", least=2)
    if rotary % 2:
        raise ValueError(f"rotary_dim: {rotary}, expected an even number")
    if isinstance(positions, (int, np.integer)) and not isinstance(positions, bool):
        at = np.arange(whole_number(positions, "positions", least=0), dtype=np.int64)
    else:
        at = as_indices(positions, "positions")
    if at.size and not -_POSITION_LIMIT <= int(at.min()) <= int(at.max()) <= _POSITION_LIMIT:
        raise ValueError(f"positions: from {at.min()} to {at.max()}, expected at most 2**52 either way")
    length = int(at.max()) + 1 if at.size else 0
    if seq_len is not None:
        length = whole_number(seq_len, "seq_len", least=0)
    frequencies = rope_frequencies(rotary, base, scaling, max_position_embeddings, length)
    cos = np.empty((at.size, rotary // 2), np.float32)
    sin = np.empty_like(cos)
    turns = packed_numbers("d", [piece for pieces in frequencies.turns for piece in pieces])
    _core.rope_table(cos, sin, at.reshape(-1), turns, frequencies.attention_factor, num_threads)
    shape = (*at.shape, rotary // 2)
    return RopeTable(cos.reshape(shape), sin.reshape(shape))
