# SPDX-License-Identifier: MIT
"""What the models of ``tiny_latent`` compute, in double precision and NumPy alone, written for reading."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .numpy_decoders import Config, Weights, frequencies, linear, rms_norm, turn
from .numpy_decoders import load as load
from .numpy_moe import dense
from .tiny_bert import Array

_LATENT_EPS = 1e-6


def _softmax(x: Array) -> Array:
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def _turned(c: Config, x: Array, columns: Array) -> Array:
    """Heads (S, N, R) turned: pairs side by side, or dim i with dim i + R / 2."""
    size = x.shape[-1]
    angles, factor = frequencies({**c, "head_dim": size}, int(columns[-1]) + 1)
    if not c.get("rope_interleave", True):
        return turn(x, columns, angles, factor)
    pairs = turn(np.concatenate([x[..., ::2], x[..., 1::2]], -1), columns, angles, factor)
    return np.stack([pairs[..., : size // 2], pairs[..., size // 2 :]], -1).reshape(x.shape)


def attention(c: Config, w: Weights, name: str, x: Array, columns: Array) -> Array:
    """(S, H) of the tokens in ``columns``."""
    heads, still, turned = c["num_attention_heads"], c["qk_nope_head_dim"], c["qk_rope_head_dim"]
    if c["q_lora_rank"] is None:
        q = linear(w, f"{name}.q_proj", x)
    else:
        latent = rms_norm(linear(w, f"{name}.q_a_proj", x), w[f"{name}.q_a_layernorm.weight"], _LATENT_EPS)
        q = linear(w, f"{name}.q_b_proj", latent)
    q = q.reshape(len(x), heads, still + turned)
    latent, shared = np.split(linear(w, f"{name}.kv_a_proj_with_mqa", x), [c["kv_lora_rank"]], -1)
    kv = linear(w, f"{name}.kv_b_proj", rms_norm(latent, w[f"{name}.kv_a_layernorm.weight"], _LATENT_EPS))
    k, v = np.split(kv.reshape(len(x), heads, -1), [still], -1)
    shared = np.repeat(_turned(c, shared[:, None], columns), heads, axis=1)
    k = np.concatenate([k, shared], -1)
    q = np.concatenate([q[..., :still], _turned(c, q[..., still:], columns)], -1)
    scores = np.einsum("qhd,khd->hqk", q, k) / math.sqrt(still + turned)
    rope = c.get("rope_scaling") or {}
    if rope.get("mscale_all_dim"):
        scores *= (0.1 * rope["mscale_all_dim"] * math.log(rope["factor"]) + 1) ** 2
    weights = _softmax(np.where(columns[:, None] >= columns[None, :], scores, -np.inf))
    return linear(w, f"{name}.o_proj", np.einsum("hqk,khd->qhd", weights, v).reshape(len(x), -1))


def routes(c: Config, w: Weights, name: str, x: Array) -> tuple[Array, Array]:
    """(S, top) numbers of experts, the best first, and their weights."""
    logits, count, top = linear(w, f"{name}.gate", x), c["n_routed_experts"], c["num_experts_per_tok"]
    grouped = c["model_type"] == "deepseek_v3" or c["topk_method"] == "group_limited_greedy"
    if c["model_type"] == "deepseek_v3":
        scores = 1 / (1 + np.exp(-logits))
        choice = scores + w[f"{name}.gate.e_score_correction_bias"]
        worst = -np.inf
    else:
        scores = choice = _softmax(logits)
        worst = 0.0
    if grouped:
        groups = choice.reshape(len(x), c["n_group"], -1)
        best = np.sort(groups, -1)[..., -2:].sum(-1) if c["model_type"] == "deepseek_v3" else groups.max(-1)
        kept = np.argsort(-best, axis=-1, kind="stable")[:, : c["topk_group"]]
        mask = np.zeros(best.shape, bool)
        np.put_along_axis(mask, kept, True, -1)
        choice = np.where(np.repeat(mask, count // c["n_group"], axis=-1), choice, worst)
    chosen = np.argsort(-choice, axis=-1, kind="stable")[:, :top]
    weights = np.take_along_axis(scores if c["model_type"] == "deepseek_v3" else choice, chosen, -1)
    if c["model_type"] == "deepseek_v3" and c["norm_topk_prob"]:
        weights = weights / (weights.sum(-1, keepdims=True) + 1e-20)
    return chosen, weights * c["routed_scaling_factor"]


def sparse(c: Config, w: Weights, name: str, x: Array) -> Array:
    """Every expert for the rows that take it, and the one of all."""
    chosen, weights = routes(c, w, name, x)
    total = dense(c, w, f"{name}.shared_experts", x)
    for e in range(c["n_routed_experts"]):
        rows, ranks = np.nonzero(chosen == e)
        if rows.size:
            total[rows] += weights[rows, ranks][:, None] * dense(c, w, f"{name}.experts.{e}", x[rows])
    return total


def logits(c: Config, w: Weights, ids: Array, mask: Array | None = None) -> Array:
    """(B, S, V): zeros where the mask excludes a token, which nobody sees and which counts as a position still."""
    ids = np.asarray(ids)
    mask = np.ones_like(ids) if mask is None else np.asarray(mask)
    table = w["model.embed_tokens.weight" if c.get("tie_word_embeddings", False) else "lm_head.weight"]
    result, eps = np.zeros((*ids.shape, len(table))), c["rms_norm_eps"]
    for row, (tokens, kept) in enumerate(zip(ids, mask, strict=True)):
        columns = np.flatnonzero(kept)
        if not columns.size:
            continue
        x = w["model.embed_tokens.weight"][tokens[columns]]
        for i in range(c["num_hidden_layers"]):
            layer = f"model.layers.{i}"
            x = x + attention(
                c, w, f"{layer}.self_attn", rms_norm(x, w[f"{layer}.input_layernorm.weight"], eps), columns
            )
            inner = dense if i < c["first_k_dense_replace"] else sparse
            x = x + inner(c, w, f"{layer}.mlp", rms_norm(x, w[f"{layer}.post_attention_layernorm.weight"], eps))
        result[row, columns] = rms_norm(x, w["model.norm.weight"], eps) @ table.T
    return result


def greedy(c: Config, w: Weights, prompt: Sequence[int], count: int) -> tuple[list[int], Any]:
    """The ``count`` tokens that follow ``prompt``, and the logits (count, V) that they were chosen by."""
    tokens, chosen = list(prompt), []
    for _ in range(count):
        chosen.append(logits(c, w, np.array([tokens]))[0, -1])
        tokens.append(int(chosen[-1].argmax()))
    return tokens[len(prompt) :], np.array(chosen).reshape(count, -1)
