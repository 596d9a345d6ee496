# SPDX-License-Identifier: MIT
"""GPT-NeoX and Pythia: attention and feed-forward layer beside each other, rotary positions for part of a head.

    x = x + down(act(up(norm'(x)))) + attention(norm(x))

or one after the other, as GPT-2 has them. Black et al., 2022, https://arxiv.org/abs/2204.06745; names of tensors and
keys as in transformers' GPTNeoXModel.
"""

from __future__ import annotations

from ..graph.facts import Facts
from ..graph.graph import Graph
from ..graph.names import Names
from .blocks import ACTIVATIONS
from .causal import causal_heads, mixed, rotary_of_part
from .ggufkeys import BIASES, Architecture, Keys, Values
from .plain import by_head, named, plain_family, plain_feed_forward, sizes_of

__all__ = ["FAMILY", "GGUF"]

NAMES = Names("gpt_neox.", "layers.{i}.", {
    "attn_norm": "input_layernorm", "attn_qkv": "attention.query_key_value", "attn_output": "attention.dense",
    "ffn_norm": "post_attention_layernorm", "ffn_up": "mlp.dense_h_to_4h", "ffn_down": "mlp.dense_4h_to_h",
}, token_embd="embed_in", output_norm="final_layer_norm")  # fmt: skip

_PROBES = ("embed_in.weight", "final_layer_norm.weight", "layers.0.input_layernorm.weight")


def build(g: Graph) -> Facts:
    c = g.config
    s = sizes_of(
        c, inner=c.size("intermediate_size"), activation=c.choice("hidden_act", ACTIVATIONS, "gelu"),
        eps=c.positive("layer_norm_eps", 1e-5), positions=c.size("max_position_embeddings", 2048),
    )  # fmt: skip
    part = c.positive(named(c, "rotary_pct", "partial_rotary_factor"), 0.25)
    rotary = rotary_of_part(c, s, part, base=c.positive(named(c, "rotary_emb_base", "rope_theta"), 10000.0), odd=True)
    bias, parallel = c.flag("attention_bias", True), c.flag("use_parallel_residual", True)
    layout = by_head(s.heads, s.heads, s.head_size)
    g.names = NAMES.replace(g.source.prefix("gpt_neox.", *_PROBES))
    head = "lm_head" if g.source.offers("lm_head.weight") else "embed_out"  # models of transformers 5 have the former
    tied = c.flag("tie_word_embeddings", False)
    words = g.words("token_embd", (s.vocab, s.hidden), tied=f"{head}.weight" if tied else None)
    x = g.embed({"ids": words}, s.hidden)
    for _, layer in g.layers(s.layers):
        g.hidden_state(x)
        y = layer.layer_norm(x, "attn_norm", s.eps)
        qkv = layer.linear(y, "attn_qkv", 3 * s.hidden, bias=bias, layout=layout)
        attended = layer.linear(mixed(layer, qkv, s, rotary, None), "attn_output", s.hidden, bias=bias)
        if parallel:
            x = plain_feed_forward(layer, layer.layer_norm(x, "ffn_norm", s.eps), s) + attended + x
        else:
            x = attended + x
            x = plain_feed_forward(layer, layer.layer_norm(x, "ffn_norm", s.eps), s) + x
    x = g.layer_norm(x, "output_norm", s.eps)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied, name=head, tokens="classifier")
    return s.facts


FAMILY = plain_family("GPTNeoXModel", build, "GPTNeoX")


def _parallel(keys: Keys, common: Values) -> Values:
    return {"use_parallel_residual": keys.flag("use_parallel_residual", True)}


GGUF = {
    "gptneox": Architecture(
        "gpt_neox", "GPTNeoX", names=NAMES, joined=True, part=True, norms="attention.layer_norm_epsilon", flags=BIASES,
        head="embed_out", more=_parallel,
        spelling={"rms_norm_eps": "layer_norm_eps", "num_key_value_heads": None},
    ),
}  # fmt: skip
