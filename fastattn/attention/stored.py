# SPDX-License-Identifier: MIT
"""Attention to keys that lie in a ring or in pages: what caches call."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastattn import _core
from fastattn.attention import options as check
from fastattn.attention.dense import check_sizes
from fastattn.attention.packed import as_packed, check_cu, heads_first
from fastattn.attention.result import Target, make_target
from fastattn.attention.storage import Stored, as_stored

__all__ = ["attend_stored"]


def attend_stored(
    q: Any, k: np.ndarray, v: np.ndarray, kv_lengths: np.ndarray, *,
    q_offset: np.ndarray, page_table: np.ndarray | None = None, ring: tuple[int, int] | None = None,
    cu_seqlens_q: Any = None, k_scale: np.ndarray | None = None, v_scale: np.ndarray | None = None,
    mask: Any = None, causal: bool = True, window: Any = None, scale: float | None = None,
    softcap: float | None = None, alibi_slopes: Any = None, sinks: Any = None, relative_bias: Any = None,
    block_mask: Any = None, sink_tokens: int = 0, return_lse: bool = False, return_weights: bool = False,
    return_scores: str | None = None, out: Any = None, num_threads: int | None = None,
) -> Any:  # fmt: skip
    """Attention to stored keys; key j of a row is the j-th of its stream, wherever it lies.

    Args:
        q: (B, Hq, Sq, D), or with cu_seqlens_q packed (Tq, Hq, D)
        k: (B, Hkv, slots, D), float32, float16, bfloat16 as uint16, or int8 as kv_store has rounded it for attention by
            integers; with page_table (pages, Hkv, page size, D)
        v: (B, Hkv, slots, Dv) or (pages, Hkv, page size, Dv) of k's dtype
        kv_lengths: (B,) int64 lengths of the streams, at most the slots unless there are pages or a ring
        q_offset: (B,) int64 positions of the first queries
        page_table: (B, n) int64: key j lies in row j % page size of page page_table[b, j // page size]; the page size
            is a multiple of 16
        ring: (first, size), multiples of 16: key j lies in slot j < first ? j : first + (j - first) % size. What has
            been overwritten must be hidden by window and sink_tokens
        k_scale, v_scale: (B, Hkv, slots) or (pages, Hkv, page size) float32 with int8
        mask: as in attention(), Sk being the longest of kv_lengths; not with cu_seqlens_q
        window, scale, softcap, alibi_slopes, sinks, relative_bias, block_mask, sink_tokens, return_lse,
            return_weights, return_scores, out, num_threads: as in attention() or attention_varlen()
        causal: whether keys behind the query's position are hidden

    Returns:
        as attention() or attention_varlen(); the bits are those of the same keys in plain arrays, but with int8.
    """
    packed = cu_seqlens_q is not None
    given = as_stored(as_packed(q, "q"), "q") if packed else as_stored(q, "q")
    keys = as_stored(k, "k", int8=True)
    qa = given.array if packed else _rank4(given)
    check_sizes(qa, k, v)
    batch = len(kv_lengths)
    cu_q = check_cu(cu_seqlens_q, "cu_seqlens_q", qa.shape[1]) if packed else None
    if cu_q is not None and len(cu_q) - 1 != batch:
        raise ValueError(f"cu_seqlens_q: {len(cu_q) - 1} sequences, expected {batch}")
    if cu_q is None and qa.shape[0] != batch:
        raise ValueError(f"q: batch {qa.shape[0]}, expected {batch}")
    heads, lead, sk = qa.shape[-3], (batch,), int(kv_lengths.max(initial=0))
    sq = qa.shape[-2] if cu_q is None else int(np.diff(cu_q).max(initial=0))
    if page_table is None and ring is None:
        k, v = keys.array[:, :, :sk], v[:, :, :sk]
        k_scale, v_scale = (None if s is None else s[:, :, :sk] for s in (k_scale, v_scale))
    else:
        k = keys.array
    furthest = int(np.abs(q_offset).max(initial=0))
    first, size = ring or (0, 0)
    options: dict[str, Any] = {
        **check.check_scalars(scale, softcap, qa.shape[-1]),
        **check.check_window(window, sink_tokens),
        **check.check_heads(sinks, relative_bias, heads, sq + sk + furthest),
        "score_stage": check.check_scores(return_scores),
        "alibi": check.check_slopes(alibi_slopes, lead, heads),
        "k_scale": k_scale, "v_scale": v_scale, "page_table": page_table, "ring_first": first, "ring_size": size,
        "causal": causal, "num_threads": num_threads, "integers": k_scale is not None,
    }  # fmt: skip
    options["block_mask"], blocks = check.check_block_mask(block_mask, lead, heads, sq, sk)
    options.update(blocks)
    if packed:
        if mask is not None:
            raise ValueError("mask: given with packed queries, expected None")
        shape: tuple[int, ...] = (qa.shape[1], heads, v.shape[-1])
    else:
        options["mask"] = check.check_mask(mask, (*qa.shape[:-1], sk), (*qa.shape[:-1], sk))
        shape = (*qa.shape[:-1], v.shape[-1])
    target = make_target(
        out, given, shape, sk, {"q": qa, "k": k, "v": v}, return_lse, return_weights, options["score_stage"]
    )
    arrays = heads_first(target) if packed else _plain(target)
    scores = target.scores if target.scores is None or not packed else target.scores.transpose(1, 0, 2)
    _core.attend(*arrays, qa, k, v, scores=scores, q_offset=q_offset, kv_lengths=kv_lengths, cu_q=cu_q,
                 **options)  # fmt: skip
    return target.result()


def _rank4(given: Stored) -> np.ndarray:
    if given.array.ndim != 4:
        raise ValueError(f"q: rank {given.array.ndim}, expected 4: (batch, heads, queries, head size)")
    return given.array


def _plain(target: Target) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    return target.out, target.lse, target.weights
