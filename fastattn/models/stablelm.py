# SPDX-License-Identifier: MIT
"""StableLM: Llama with layer norms and rotary positions for part of a head; the largest with a norm for each head and
the two parts of a layer beside each other.

    y = x + attention(n), n = norm(x);  x = y + down(act(gate(m)) up(m)), m = norm'(y)
    x = (x + attention(n)) + down(act(gate(n)) up(n))                                       use_parallel_residual

Bellagente et al., 2024, https://arxiv.org/abs/2402.17834; names of tensors and keys as in transformers' StableLmModel.
"""

from __future__ import annotations

from ..graph.facts import Facts
from ..graph.graph import Graph, Value
from ..graph.names import Names
from .blocks import ACTIVATIONS
from .causal import PROBES, Sizes, causal_heads, embedded, feed_forward, rotary_of_part
from .ggufkeys import Architecture, Keys, Values
from .plain import kv_heads_of, plain_family, sizes_of

__all__ = ["FAMILY", "GGUF"]

NAMES = Names("model.", "layers.{i}.", {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_q_norm": "self_attn.q_layernorm.norms",
    "attn_k_norm": "self_attn.k_layernorm.norms", "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}, token_embd="embed_tokens", output_norm="norm")  # fmt: skip

_MAX_HEADS = 1024


def build(g: Graph) -> Facts:
    c = g.config
    s = sizes_of(
        c, kv_heads=kv_heads_of(c, 32), inner=c.size("intermediate_size"),
        activation=c.choice("hidden_act", ACTIVATIONS, "silu"), eps=c.positive("layer_norm_eps", 1e-5),
        positions=c.size("max_position_embeddings", 4096),
    )  # fmt: skip
    rotary = rotary_of_part(c, s, c.positive("partial_rotary_factor", 0.25))
    bias, normed = c.flag("use_qkv_bias", False), c.flag("qk_layernorm", False)
    if normed and s.heads > _MAX_HEADS:
        raise ValueError(f"{c.path}: {s.heads} heads with norms of their own, expected at most {_MAX_HEADS}")
    parallel, tied = c.flag("use_parallel_residual", False), c.flag("tie_word_embeddings", False)
    g.names = NAMES.replace(g.source.prefix("model.", *PROBES))
    x = embedded(g, s, tied)
    for _, layer in g.layers(s.layers):
        g.hidden_state(x)
        y = layer.layer_norm(x, "attn_norm", s.eps)
        widths = s.q_width, s.kv_width, s.kv_width
        q, k, v = layer.split(layer.linear(y, ("attn_q", "attn_k", "attn_v"), widths, bias=bias), *widths)
        if normed:
            q, k = _each(layer, q, "attn_q_norm", s), _each(layer, k, "attn_k_norm", s)
        q, k = layer.rope(q, s.heads, rotary), layer.rope(k, s.kv_heads, rotary)
        attended = layer.attention(q, k, v, s.heads, s.kv_heads, causal=True, cached=True)
        x = x + layer.linear(attended, "attn_output", s.hidden, bias=False)
        x = x + feed_forward(layer, y if parallel else layer.layer_norm(x, "ffn_norm", s.eps), s)
    x = g.layer_norm(x, "output_norm", s.eps)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied)
    return s.facts


def _each(g: Graph, x: Value, role: str, s: Sizes) -> Value:
    """Every head by a norm of its own, which has no bias."""
    names = [f"{g.name(role)}.{head}" for head in range(x.width // s.head_size)]
    return g.norm_each(x, [g.source.norm(name, s.head_size, bias=False) for name in names], s.eps)


FAMILY = plain_family("StableLmModel", build, "StableLm")


def _parallel(keys: Keys, common: Values) -> Values:
    keys.get("use_parallel_residual")  # which converters write by a default of their own: the second norm says it
    return {"use_parallel_residual": "blk.0.ffn_norm.weight" not in keys.file}


GGUF = {
    "stablelm": Architecture(
        "stablelm", "StableLm", names=NAMES, part=True, norms="attention.layer_norm_epsilon", more=_parallel,
        flags={"use_qkv_bias": ("attn_q.bias", "attn_qkv.bias"), "qk_layernorm": ("attn_q_norm.weight",)},
        by_head=("attn_q_norm", "attn_k_norm"), spelling={"rms_norm_eps": "layer_norm_eps"},
    ),
}  # fmt: skip
