# SPDX-License-Identifier: MIT
"""What the models of ``tiny_states`` compute, in double precision and NumPy alone, token by token."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .numpy_decoders import ACTIVATIONS, Config, Weights, attention, linear, load, rms_norm, turn
from .tiny_bert import Array
from .tiny_states import layer_types, sparse, tied

__all__ = ["greedy", "load", "logits"]


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


_silu = ACTIVATIONS["silu"]


def _convolved(w: Weights, name: str, x: Array) -> Array:
    """Each row of x (S, C) and the few before it, zeros before the first, by weights of each column."""
    taps = w[f"{name}.weight"][:, 0]
    size = taps.shape[1]
    padded = np.concatenate([np.zeros((size - 1, x.shape[1])), x])
    found = np.array([(padded[t : t + size] * taps.T).sum(0) for t in range(len(x))])
    return found + w[f"{name}.bias"] if f"{name}.bias" in w else found


def _attended(
    c: Config, q: Array, k: Array, v: Array, columns: Array, dims: int, base: float
) -> Array:  # fmt: skip
    """Heads (S, N, D) turned by their columns in the first ``dims`` dims."""
    angles = base ** -(np.arange(0, dims, 2) / dims)
    q, k = turn(q, columns, angles, 1.0), turn(k, columns, angles, 1.0)
    return attention(q, k, v, columns, q.shape[-1] ** -0.5, None)


# ---- LFM2 -----------------------------------------------------------------------------------------------------------


def _lfm2(c: Config, w: Weights, ids: Array, columns: Array) -> Array:
    eps = c["norm_eps"]
    x = w["model.embed_tokens.weight"][ids]
    for i, kind in enumerate(layer_types(c)):
        layer = f"model.layers.{i}"
        y = rms_norm(x, w[f"{layer}.operator_norm.weight"], eps)
        if kind == "conv":
            b, gate, h = np.split(linear(w, f"{layer}.conv.in_proj", y), 3, -1)
            mixed = linear(w, f"{layer}.conv.out_proj", gate * _convolved(w, f"{layer}.conv.conv", b * h))
        else:
            name, size = f"{layer}.self_attn", c["hidden_size"] // c["num_attention_heads"]
            q, k, v = (linear(w, f"{name}.{part}_proj", y).reshape(len(y), -1, size) for part in "qkv")
            q, k = rms_norm(q, w[f"{name}.q_layernorm.weight"], eps), rms_norm(k, w[f"{name}.k_layernorm.weight"], eps)
            mixed = linear(w, f"{name}.out_proj", _attended(c, q, k, v, columns, size, c["rope_theta"]))
        x = x + mixed
        y, name = rms_norm(x, w[f"{layer}.ffn_norm.weight"], eps), f"{layer}.feed_forward"
        x = x + linear(w, f"{name}.w2", _silu(linear(w, f"{name}.w1", y)) * linear(w, f"{name}.w3", y))
    return rms_norm(x, w["model.embedding_norm.weight"], eps)


# ---- Mamba-2 --------------------------------------------------------------------------------------------------------


def _mamba2(c: Config, w: Weights, ids: Array, columns: Array) -> Array:
    eps, heads, size = c["layer_norm_epsilon"], c["num_heads"], c["head_dim"]
    groups, rows = c["n_groups"], c["state_size"]
    width, shared = heads * size, groups * rows
    low, high = (1e30 if isinstance(one, dict) else one for one in c.get("time_step_limit", (0, 1e30)))
    x = w["backbone.embeddings.weight"][ids]
    for i in range(c["num_hidden_layers"]):
        name = f"backbone.layers.{i}.mixer"
        y = linear(w, f"{name}.in_proj", rms_norm(x, w[f"backbone.layers.{i}.norm.weight"], eps))
        z, mixed, t = np.split(y, [width, 2 * width + 2 * shared], -1)
        mixed = ACTIVATIONS[c["hidden_act"]](_convolved(w, f"{name}.conv1d", mixed))
        h, b, q = np.split(mixed, [width, width + shared], -1)
        h = h.reshape(-1, heads, size)
        b, q = (np.repeat(part.reshape(-1, groups, rows), heads // groups, 1) for part in (b, q))
        step = np.clip(np.log1p(np.exp(t + w[f"{name}.dt_bias"])), low, high)
        state, read = np.zeros((heads, rows, size)), np.zeros_like(h)
        for at in range(len(ids)):
            decay = np.exp(-np.exp(w[f"{name}.A_log"]) * step[at])
            state = decay[:, None, None] * state + b[at][:, :, None] * (step[at][:, None] * h[at])[:, None, :]
            read[at] = np.einsum("hr,hrd->hd", q[at], state) + w[f"{name}.D"][:, None] * h[at]
        read = (read.reshape(-1, width) * _silu(z)).reshape(len(ids), groups, -1)
        normed = rms_norm(read, 1.0, eps).reshape(-1, width) * w[f"{name}.norm.weight"]
        x = x + linear(w, f"{name}.out_proj", normed)
    return rms_norm(x, w["backbone.norm_f.weight"], eps)


# ---- Qwen3-Next -----------------------------------------------------------------------------------------------------


def _delta(c: Config, w: Weights, name: str, x: Array) -> Array:
    key_heads, heads = c["linear_num_key_heads"], c["linear_num_value_heads"]
    dk, dv, each = c["linear_key_head_dim"], c["linear_value_head_dim"], heads // key_heads
    parts = linear(w, f"{name}.in_proj_qkvz", x).reshape(len(x), key_heads, -1)
    q, k, v, z = np.split(parts, [dk, 2 * dk, 2 * dk + each * dv], -1)
    b, a = np.split(linear(w, f"{name}.in_proj_ba", x).reshape(len(x), key_heads, -1), 2, -1)
    b, a, z = b.reshape(len(x), heads), a.reshape(len(x), heads), z.reshape(len(x), heads, dv)
    mixed = np.concatenate([part.reshape(len(x), -1) for part in (q, k, v)], -1)
    mixed = ACTIVATIONS[c["hidden_act"]](_convolved(w, f"{name}.conv1d", mixed))
    q, k, v = np.split(mixed, [key_heads * dk, 2 * key_heads * dk], -1)
    q, k = (np.repeat(part.reshape(len(x), key_heads, dk), each, 1) for part in (q, k))
    q, k = (part / np.sqrt((part**2).sum(-1, keepdims=True) + 1e-6) for part in (q, k))
    v, rate = v.reshape(len(x), heads, dv), _sigmoid(b)
    decay = np.exp(-np.exp(w[f"{name}.A_log"]) * np.log1p(np.exp(a + w[f"{name}.dt_bias"])))
    state, read = np.zeros((heads, dk, dv)), np.zeros_like(v)
    for at in range(len(x)):
        state = state * decay[at][:, None, None]
        change = rate[at][:, None] * (v[at] - np.einsum("hk,hkv->hv", k[at], state))
        state = state + k[at][:, :, None] * change[:, None, :]
        read[at] = np.einsum("hk,hkv->hv", q[at], state) / math.sqrt(dk)
    normed = rms_norm(read, w[f"{name}.norm.weight"], c["rms_norm_eps"]) * _silu(z)
    return linear(w, f"{name}.out_proj", normed.reshape(len(x), -1))


def _gated_attention(c: Config, w: Weights, name: str, x: Array, columns: Array) -> Array:
    size, eps = c["head_dim"], c["rms_norm_eps"]
    q, gate = np.split(linear(w, f"{name}.q_proj", x).reshape(len(x), -1, 2 * size), 2, -1)
    k, v = (linear(w, f"{name}.{part}_proj", x).reshape(len(x), -1, size) for part in "kv")
    q, k = rms_norm(q, 1 + w[f"{name}.q_norm.weight"], eps), rms_norm(k, 1 + w[f"{name}.k_norm.weight"], eps)
    dims = int(size * c.get("partial_rotary_factor", 0.25))
    mixed = _attended(c, q, k, v, columns, dims, c["rope_theta"])
    return linear(w, f"{name}.o_proj", mixed * _sigmoid(gate.reshape(len(x), -1)))


def _mlp(w: Weights, name: str, x: Array) -> Array:
    return linear(w, f"{name}.down_proj", _silu(linear(w, f"{name}.gate_proj", x)) * linear(w, f"{name}.up_proj", x))


def _experts(c: Config, w: Weights, name: str, x: Array) -> Array:
    scores = linear(w, f"{name}.gate", x)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    scores /= scores.sum(-1, keepdims=True)
    found = _sigmoid(linear(w, f"{name}.shared_expert_gate", x)) * _mlp(w, f"{name}.shared_expert", x)
    for row, of in enumerate(scores):
        best = np.argsort(-of, kind="stable")[: c["num_experts_per_tok"]]
        total = of[best].sum() if c["norm_topk_prob"] else 1.0
        for e in best:
            found[row] += of[e] / total * _mlp(w, f"{name}.experts.{e}", x[row : row + 1])[0]
    return found


def _qwen3_next(c: Config, w: Weights, ids: Array, columns: Array) -> Array:
    eps = c["rms_norm_eps"]
    x = w["model.embed_tokens.weight"][ids]
    for i, kind in enumerate(layer_types(c)):
        layer = f"model.layers.{i}"
        y = rms_norm(x, 1 + w[f"{layer}.input_layernorm.weight"], eps)
        if kind == "linear_attention":
            x = x + _delta(c, w, f"{layer}.linear_attn", y)
        else:
            x = x + _gated_attention(c, w, f"{layer}.self_attn", y, columns)
        y = rms_norm(x, 1 + w[f"{layer}.post_attention_layernorm.weight"], eps)
        x = x + (_experts(c, w, f"{layer}.mlp", y) if sparse(c, i) else _mlp(w, f"{layer}.mlp", y))
    return rms_norm(x, 1 + w["model.norm.weight"], eps)


# ---- the model ------------------------------------------------------------------------------------------------------

_MODELS = {"lfm2": _lfm2, "mamba2": _mamba2, "qwen3_next": _qwen3_next}


def logits(c: Config, w: Weights, ids: Array, mask: Array | None = None) -> Array:
    """(B, S, V): zeros where the mask excludes a token. A state goes from one token that is there to the next one;
    rotary positions are the columns.
    """
    ids = np.asarray(ids)
    mask = np.ones_like(ids) if mask is None else np.asarray(mask)
    words = "backbone.embeddings.weight" if c["model_type"] == "mamba2" else "model.embed_tokens.weight"
    table = w[words if tied(c) else "lm_head.weight"]
    result = np.zeros((*ids.shape, len(table)))
    for row, (tokens, kept) in enumerate(zip(ids, mask, strict=True)):
        columns = np.flatnonzero(kept)
        if columns.size:
            result[row, columns] = _MODELS[c["model_type"]](c, w, tokens[columns], columns) @ table.T
    return result


def greedy(c: Config, w: Weights, prompt: Sequence[int], count: int) -> tuple[list[int], Array]:
    """The ``count`` tokens that follow ``prompt``, and the logits (count, V) that they were chosen by."""
    tokens, chosen = list(prompt), []
    for _ in range(count):
        chosen.append(logits(c, w, np.array([tokens]))[0, -1])
        tokens.append(int(chosen[-1].argmax()))
    return tokens[len(prompt) :], np.array(chosen).reshape(count, -1)
