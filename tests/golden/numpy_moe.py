# SPDX-License-Identifier: MIT
"""What the models of ``tiny_moe`` compute, in double precision and NumPy alone, written for reading."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .numpy_decoders import ACTIVATIONS, Config, Weights, frequencies, linear, rms_norm, turn
from .numpy_decoders import load as load
from .tiny_bert import Array
from .tiny_decoders import heads
from .tiny_moe import experts, is_sparse

_EPS = {
    "mixtral": 1e-5,
    "qwen2_moe": 1e-6,
    "qwen3_moe": 1e-6,
    "olmoe": 1e-5,
    "granitemoe": 1e-6,
    "gpt_oss": 1e-5,
    "llama4_text": 1e-5,
}


def _softmax(x: Array) -> Array:
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def window(c: Config, layer: int) -> int | None:
    """How many tokens a query of a layer sees at most, itself and those before it; None for all."""
    family, size = c["model_type"], c.get("sliding_window")
    if family == "mixtral":
        return size
    if family == "gpt_oss":
        kinds = c.get("layer_types") or ["sliding_attention", "full_attention"] * c["num_hidden_layers"]
        return size if kinds[layer] == "sliding_attention" else None
    if not c.get("use_sliding_window"):
        return None
    if family == "qwen3_moe":
        return size
    if c.get("layer_types"):
        return size if c["layer_types"][layer] == "sliding_attention" else None
    return size if layer % 2 == 0 and layer < c["max_window_layers"] else None


def _has_positions(c: Config, layer: int) -> bool:
    named = c.get("no_rope_layers")
    return bool(named[layer]) if named else (layer + 1) % c.get("no_rope_layer_interval", 4) != 0


def is_chunked(c: Config, layer: int) -> bool:
    """Whether tokens of a layer of Llama 4 see their own chunk alone."""
    if c.get("layer_types"):
        return bool(c["layer_types"][layer] == "chunked_attention")
    return c.get("attention_chunk_size", 8192) is not None and _has_positions(c, layer)


def _turned_or_sharper(
    c: Config, q: Array, k: Array, columns: Array, layer: int, turns: tuple[Array, float]
) -> tuple[Array, Array]:
    """Queries and keys of Llama 4: neighbouring pairs turned, then of unit norm; or queries that grow with the text."""
    if not _has_positions(c, layer):
        if c.get("attn_temperature_tuning", True):
            q = q * (1 + c["attn_scale"] * np.log1p((columns + 1) // c["floor_scale"]))[:, None, None]
        return q, k
    found = []
    for x in (q, k):
        halves = turn(np.concatenate([x[..., ::2], x[..., 1::2]], -1), columns, *turns)
        if c.get("use_qk_norm", True):
            halves = rms_norm(halves, np.ones(halves.shape[-1]), c.get("rms_norm_eps", 1e-5))
        found.append(halves)
    return found[0], found[1]


def attention(
    c: Config, w: Weights, name: str, x: Array, columns: Array, layer: int, turns: tuple[Array, float]
) -> Array:
    """(S, H) of the tokens in ``columns``; with sinks, a softmax of one more score, which has no value."""
    family, eps = c["model_type"], c.get("rms_norm_eps", _EPS[c["model_type"]])
    queries, keys, size = heads(c)
    q, k, v = (linear(w, f"{name}.{part}_proj", x) for part in "qkv")
    if family == "olmoe":
        q, k = rms_norm(q, w[f"{name}.q_norm.weight"], eps), rms_norm(k, w[f"{name}.k_norm.weight"], eps)
        if c.get("clip_qkv") is not None:
            q, k, v = (np.clip(part, -c["clip_qkv"], c["clip_qkv"]) for part in (q, k, v))
    q, k, v = q.reshape(-1, queries, size), k.reshape(-1, keys, size), v.reshape(-1, keys, size)
    if family == "qwen3_moe":
        q, k = rms_norm(q, w[f"{name}.q_norm.weight"], eps), rms_norm(k, w[f"{name}.k_norm.weight"], eps)
    if family == "llama4_text":
        q, k = _turned_or_sharper(c, q, k, columns, layer, turns)
    else:
        q, k = turn(q, columns, *turns), turn(k, columns, *turns)
    k, v = (np.repeat(part, queries // keys, axis=1) for part in (k, v))
    scale = c.get("attention_multiplier", 1.0) if family == "granitemoe" else size**-0.5
    scores = np.einsum("qhd,khd->hqk", q, k) * scale
    distance, span = columns[:, None] - columns[None, :], window(c, layer)
    scores = np.where((distance >= 0) & (True if span is None else distance < span), scores, -np.inf)
    if family == "llama4_text" and is_chunked(c, layer):
        chunk = (columns - columns[0]) // c["attention_chunk_size"]
        scores = np.where(chunk[:, None] == chunk[None, :], scores, -np.inf)
    if family == "gpt_oss":
        sinks = np.broadcast_to(w[f"{name}.sinks"][:, None, None], (*scores.shape[:2], 1))
        weights = _softmax(np.concatenate([scores, sinks], -1))[..., :-1]
    else:
        weights = _softmax(scores)
    return linear(w, f"{name}.o_proj", np.einsum("hqk,khd->qhd", weights, v).reshape(len(x), -1))


def expert(c: Config, w: Weights, layer: str, e: int, x: Array) -> Array:
    """What one expert makes of rows."""
    family, act = c["model_type"], ACTIVATIONS[c.get("hidden_act", "silu")]
    if family == "gpt_oss":
        inner = x @ w[f"{layer}.experts.gate_up_proj"][e] + w[f"{layer}.experts.gate_up_proj_bias"][e]
        limit = c["swiglu_limit"]
        gate, up = np.minimum(inner[:, ::2], limit), np.clip(inner[:, 1::2], -limit, limit)
        inner = gate / (1 + np.exp(-c["swiglu_alpha"] * gate)) * (up + 1)
        return inner @ w[f"{layer}.experts.down_proj"][e] + w[f"{layer}.experts.down_proj_bias"][e]
    if family == "llama4_text":
        gate, up = np.split(x @ w[f"{layer}.experts.gate_up_proj"][e], 2, -1)
        return (act(gate) * up) @ w[f"{layer}.experts.down_proj"][e]
    if family == "granitemoe":
        gate, up = np.split(x @ w[f"{layer}.input_linear.weight"][e].T, 2, -1)
        return (act(gate) * up) @ w[f"{layer}.output_linear.weight"][e].T
    names = ("w1", "w3", "w2") if family == "mixtral" else ("gate_proj", "up_proj", "down_proj")
    gate, up = (linear(w, f"{layer}.experts.{e}.{name}", x) for name in names[:2])
    return linear(w, f"{layer}.experts.{e}.{names[2]}", act(gate) * up)


def routes(c: Config, w: Weights, layer: str, x: Array) -> tuple[Array, Array]:
    """(S, top) numbers of experts, the best first, and their weights."""
    family = c["model_type"]
    logits = linear(
        w,
        f"{layer}.{ {'granitemoe': 'router.layer', 'gpt_oss': 'router', 'llama4_text': 'router'}.get(family, 'gate') }",
        x,
    )
    chosen = np.argsort(-logits, axis=-1, kind="stable")[:, : c["num_experts_per_tok"]]
    if family == "llama4_text":
        return chosen, 1 / (1 + np.exp(-np.take_along_axis(logits, chosen, -1)))
    if family in ("granitemoe", "gpt_oss"):
        return chosen, _softmax(np.take_along_axis(logits, chosen, -1))
    weights = np.take_along_axis(_softmax(logits), chosen, -1)
    if family == "mixtral" or c.get("norm_topk_prob"):
        weights = weights / weights.sum(-1, keepdims=True)
    return chosen, weights


def sparse(c: Config, w: Weights, layer: str, x: Array) -> Array:
    """Every expert for the rows that take it."""
    chosen, weights = routes(c, w, layer, x)
    total = np.zeros_like(x)
    for e in range(experts(c)):
        rows, ranks = np.nonzero(chosen == e)
        if rows.size:
            share = weights[rows, ranks][:, None]
            if c["model_type"] == "llama4_text":
                total[rows] += expert(c, w, layer, e, share * x[rows])
            else:
                total[rows] += share * expert(c, w, layer, e, x[rows])
    if c["model_type"] == "llama4_text":
        total = total + dense(c, w, f"{layer}.shared_expert", x)
    if c["model_type"] == "qwen2_moe":
        gate = 1 / (1 + np.exp(-linear(w, f"{layer}.shared_expert_gate", x)))
        total = total + gate * dense(c, w, f"{layer}.shared_expert", x)
    return total


def dense(c: Config, w: Weights, name: str, x: Array) -> Array:
    gate, up = linear(w, f"{name}.gate_proj", x), linear(w, f"{name}.up_proj", x)
    return linear(w, f"{name}.down_proj", ACTIVATIONS[c.get("hidden_act", "silu")](gate) * up)


def hidden_states(c: Config, w: Weights, ids: Array, columns: Array) -> Array:
    """(S, H) of one sequence, whose tokens stand in ascending ``columns`` (S,), which are their positions too."""
    family, eps = c["model_type"], c.get("rms_norm_eps", _EPS[c["model_type"]])
    residual = c.get("residual_multiplier", 1.0)
    turns = frequencies(c, int(columns[-1]) + 1)
    block = {"mixtral": "block_sparse_moe", "granitemoe": "block_sparse_moe", "llama4_text": "feed_forward"}.get(
        family, "mlp"
    )
    x = w["model.embed_tokens.weight"][ids] * c.get("embedding_multiplier", 1.0)
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        normed = rms_norm(x, w[f"{layer}.input_layernorm.weight"], eps)
        x = x + residual * attention(c, w, f"{layer}.self_attn", normed, columns, i, turns)
        normed = rms_norm(x, w[f"{layer}.post_attention_layernorm.weight"], eps)
        inner = (
            sparse(c, w, f"{layer}.{block}", normed)
            if is_sparse(c, i)
            else dense(c, w, f"{layer}.{block if family == 'llama4_text' else 'mlp'}", normed)
        )
        x = x + residual * inner
    return rms_norm(x, w["model.norm.weight"], eps)


def logits(c: Config, w: Weights, ids: Array, mask: Array | None = None) -> Array:
    """(B, S, V): zeros where the mask excludes a token, which nobody sees and which counts as a position still."""
    ids = np.asarray(ids)
    mask = np.ones_like(ids) if mask is None else np.asarray(mask)
    table = w["model.embed_tokens.weight" if c.get("tie_word_embeddings", False) else "lm_head.weight"]
    result, divisor = np.zeros((*ids.shape, len(table))), c.get("logits_scaling", 1.0)
    for row, (tokens, kept) in enumerate(zip(ids, mask, strict=True)):
        columns = np.flatnonzero(kept)
        if columns.size:
            result[row, columns] = hidden_states(c, w, tokens[columns], columns) @ table.T / divisor
    return result


def greedy(c: Config, w: Weights, prompt: Sequence[int], count: int) -> tuple[list[int], Any]:
    """The ``count`` tokens that follow ``prompt``, and the logits (count, V) that they were chosen by."""
    tokens, chosen = list(prompt), []
    for _ in range(count):
        chosen.append(logits(c, w, np.array([tokens]))[0, -1])
        tokens.append(int(chosen[-1].argmax()))
    return tokens[len(prompt) :], np.array(chosen).reshape(count, -1)
