# SPDX-License-Identifier: MIT
"""ONNX's Attention (opset 23 to 25) and RotaryEmbedding said in this library's words, and ONNX's own test vectors.

The adapters are the mapping that the docstrings of ``attention`` and ``rope`` describe, made to run:

==================================  =================================================================================
ONNX                                here
==================================  =================================================================================
3D input (B, S, H * D)              a view (B, H, S, D), no copy
is_causal, no cache                 ``causal="top_left"``
is_causal, past_key                 ``causal=True, q_offset=length of the past``
is_causal, nonpad_kv_seqlen         ``causal="bottom_right", kv_lengths=nonpad_kv_seqlen``
left_, right_window_size            ``window=(left, right)``, -1 is None, with the same offset
attn_mask                           ``mask``; float ones in float32; missing keys at its end are excluded
softcap 0                           ``softcap=None``
qk_matmul_output_mode 0, 1, 2       ``return_scores="qk" | "softcap" | "bias"``
qk_matmul_output_mode 3             ``return_weights=True``
softmax_precision                   nothing: sums are float32 whatever the inputs are
==================================  =================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import fastattn as fa

Array = np.ndarray


def heads(x: Array, count: int | None) -> Array:
    """(B, S, H * D) as a (B, H, S, D) view; four dimensions stay as they are."""
    return x if x.ndim == 4 else x.reshape(*x.shape[:2], count, -1).swapaxes(1, 2)


def full_mask(mask: Array, sk: int) -> Array:
    """A mask for all Sk keys, bool or float32: ONNX lets it end early, keys beyond it are excluded."""
    if mask.dtype != np.bool_:
        mask = mask.astype(np.float32)
    missing = sk - mask.shape[-1]
    if missing <= 0:
        return mask
    rest: Any = False if mask.dtype == np.bool_ else -np.inf
    return np.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, missing)], constant_values=rest)


def attention(
    q: Array,
    k: Array,
    v: Array,
    attn_mask: Array | None = None,
    past_key: Array | None = None,
    past_value: Array | None = None,
    nonpad_kv_seqlen: Array | None = None,
    *,
    is_causal: int = 0,
    q_num_heads: int | None = None,
    kv_num_heads: int | None = None,
    qk_matmul_output_mode: int = 0,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
    left_window_size: int = -1,
    right_window_size: int = -1,
    attend: Callable[..., Any] | None = None,
) -> tuple[Array, Array, Array, Array]:
    """(Y, present_key, present_value, qk_matmul_output) of one Attention node."""
    flat = q.ndim == 3
    q, k, v = heads(q, q_num_heads), heads(k, kv_num_heads), heads(v, kv_num_heads)
    past = 0
    if past_key is not None and past_value is not None:
        past = past_key.shape[2]
        k, v = np.concatenate([past_key, k], axis=2), np.concatenate([past_value, v], axis=2)
    options: dict[str, Any] = {"scale": scale, "softcap": softcap or None}
    windowed = left_window_size >= 0 or right_window_size >= 0
    if windowed:
        options["window"] = tuple(None if n < 0 else n for n in (left_window_size, right_window_size))
    if nonpad_kv_seqlen is not None:
        options["kv_lengths"] = nonpad_kv_seqlen
        if is_causal:
            options["causal"] = "bottom_right"
        elif windowed:
            options["q_offset"] = nonpad_kv_seqlen - q.shape[2]
    elif past:
        options.update(causal=bool(is_causal), q_offset=past)
    elif is_causal:
        options["causal"] = "top_left"
    if attn_mask is not None:
        options["mask"] = full_mask(attn_mask, k.shape[2])
    if qk_matmul_output_mode == 3:
        options["return_weights"] = True
    else:
        options["return_scores"] = ("qk", "softcap", "bias")[qk_matmul_output_mode]
    b, hq, sq, _ = q.shape
    memory = np.empty((b, sq, hq, v.shape[3]) if flat else (b, hq, sq, v.shape[3]), q.dtype)
    result = (attend or fa.attention)(q, k, v, out=memory.swapaxes(1, 2) if flat else memory, **options)
    scores = result.weights if qk_matmul_output_mode == 3 else result.scores
    return memory.reshape(b, sq, -1) if flat else memory, k, v, scores.astype(q.dtype)


def rotary_embedding(
    x: Array,
    cos: Array,
    sin: Array,
    position_ids: Array | None = None,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Array:
    """Y of one RotaryEmbedding node; its tables in the input's type are widened to float32."""
    result = fa.rope(
        heads(x, num_heads),
        cos.astype(np.float32),
        sin.astype(np.float32),
        position_ids=position_ids,
        interleaved=bool(interleaved),
        rotary_dim=rotary_embedding_dim or None,
    )
    return np.asarray(result.swapaxes(1, 2).reshape(x.shape) if x.ndim == 3 else result)


class Vector(NamedTuple):
    """One of ONNX's test cases: None stands for an input or output that is left out."""

    name: str
    opset: int | None
    inputs: list[Array | None]
    outputs: list[Array | None]
    attributes: dict[str, Any]


def vectors(module_name: str, class_name: str) -> list[Vector]:
    """What onnx/backend/test/case/node/<module>.py exports, each case with the same random numbers every time."""
    import importlib

    import onnx

    module = importlib.import_module(f"onnx.backend.test.case.node.{module_name}")
    found: list[Vector] = []

    def record(node: Any, inputs: Any, outputs: Any, name: str, **rest: Any) -> None:
        """Present values stand at the places of their names; both lists skip what is left out."""
        given, made = iter(inputs), iter(outputs)
        opset = rest.get("opset_imports")
        found.append(
            Vector(
                name,
                opset[0].version if opset else None,
                [next(given) if place else None for place in node.input],
                [next(made) if place else None for place in node.output],
                {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute},
            )
        )

    original, module.expect = module.expect, record  # type: ignore[attr-defined]
    try:
        for name, case in vars(getattr(module, class_name)).items():
            if name.startswith("export"):
                np.random.seed(len(found))
                case.__func__()
    finally:
        module.expect = original  # type: ignore[attr-defined]
    return found
