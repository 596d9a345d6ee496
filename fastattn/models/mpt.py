# SPDX-License-Identifier: MIT
"""MPT: scores fall with the distance of columns, no biases anywhere, queries, keys and values held within bounds.

    y = x + attention(norm(x));  x = y + down(gelu(up(norm'(y))))

MosaicML, 2023, https://www.databricks.com/blog/mpt-7b; names of tensors and keys as in transformers' MptModel.
"""

from __future__ import annotations

from ..graph.config import ConfigReader
from ..graph.facts import Facts
from ..graph.graph import Graph
from ..graph.names import Names
from .alibi import slopes_by_column
from .causal import Sizes, causal_heads, embedded
from .ggufkeys import Architecture, Keys, Values
from .plain import plain_family, plain_feed_forward, sizes_of, width_of

__all__ = ["FAMILY", "GGUF"]

NAMES = Names("transformer.", "blocks.{i}.", {
    "attn_norm": "norm_1", "attn_qkv": "attn.Wqkv", "attn_output": "attn.out_proj", "ffn_norm": "norm_2",
    "ffn_up": "ffn.up_proj", "ffn_down": "ffn.down_proj",
}, token_embd="wte", output_norm="norm_f")  # fmt: skip

_MAX_BIASES = 1 << 24  # of all heads and columns: far above any model
_MAX_SLOPE = 8


def build(g: Graph) -> Facts:
    c = g.config
    hidden = ("d_model", "hidden_size")
    s = sizes_of(
        c, hidden=hidden, layers=("n_layers", "num_hidden_layers"), heads=("n_heads", "num_attention_heads"),
        inner=c.size("expansion_ratio", 4, 1 << 10) * width_of(c, *hidden), activation="gelu",
        eps=c.positive("layer_norm_epsilon", 1e-5), positions=c.size("max_seq_len", 2048),
    )  # fmt: skip
    own = _attention(c)
    clip, scale = own.value("clip_qkv"), own.value("softmax_scale")
    clip = own.positive("clip_qkv") if clip else None
    scale = None if scale is None else own.positive("softmax_scale")
    bias = slopes_by_column(s.heads, _columns(c, s))
    tied = c.flag("tie_word_embeddings", True)
    g.names = NAMES.replace(g.source.prefix("transformer.", "wte.weight", "norm_f.weight", "blocks.0.norm_1.weight"))
    x = embedded(g, s, tied)
    for _, layer in g.layers(s.layers):
        g.hidden_state(x)
        qkv = layer.linear(layer.layer_norm(x, "attn_norm", s.eps, bias=False), "attn_qkv", 3 * s.hidden, bias=False)
        q, k, v = layer.split(qkv if clip is None else layer.clamp(qkv, clip), *(s.hidden,) * 3)
        attended = layer.attention(q, k, v, s.heads, causal=True, cached=True, scale=scale, distance_bias=bias)
        x = layer.linear(attended, "attn_output", s.hidden, bias=False) + x
        x = plain_feed_forward(layer, layer.layer_norm(x, "ffn_norm", s.eps, bias=False), s, bias=False) + x
    x = g.layer_norm(x, "output_norm", s.eps, bias=False)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied, tokens="classifier")
    return s.facts


def _attention(c: ConfigReader) -> ConfigReader:
    """``attn_config``; what transformers does not obey, and asks for another model, is refused here and beside it."""
    own = c.part("attn_config")
    if not own.flag("alibi", True):
        raise ValueError(f"{own.path}: alibi is false: learned positions are not supported")
    if own.size("alibi_bias_max", _MAX_SLOPE) != _MAX_SLOPE:  # by which MosaicML's code goes, and transformers does not
        raise ValueError(f"{own.path}: alibi_bias_max is {own.value('alibi_bias_max')}, expected {_MAX_SLOPE}")
    own.choice("attn_type", {"multihead_attention": None}, "multihead_attention")
    for key in ("prefix_lm", "qk_ln", "attn_uses_sequence_id"):
        own.refuse(key, "attention of this kind is not supported")
    if not c.flag("no_bias", True):
        raise ValueError(f"{c.path}: no_bias is false: biases are not supported")
    c.refuse("logit_scale", "scaled logits are not supported")
    norms = ("low_precision_layernorm", "layernorm")
    c.choice("norm_type", dict.fromkeys(norms), norms[0])
    return own


def _columns(c: ConfigReader, s: Sizes) -> int:
    if s.heads * s.positions > _MAX_BIASES:
        raise ValueError(f"{c.path}: max_seq_len {s.positions} with {s.heads} heads, expected less of them")
    return s.positions


FAMILY = plain_family("MptModel", build, "Mpt", MPTModel=None, MPTForCausalLM="causal_lm")


def _of_gguf(keys: Keys, common: Values) -> Values:
    inner, hidden = common["intermediate_size"], common["hidden_size"]
    if inner % hidden:
        raise keys.error("feed_forward_length", inner, f"a multiple of {hidden}, embedding_length")
    most, clip = keys.real("attention.max_alibi_bias", 0.0), keys.real("attention.clamp_kqv", 0.0)
    if most != _MAX_SLOPE:
        raise keys.error("attention.max_alibi_bias", most, f"{_MAX_SLOPE}.0: learned positions are not supported")
    return {"expansion_ratio": inner // hidden, "attn_config": {"clip_qkv": clip or None}}


GGUF = {
    "mpt": Architecture(
        "mpt", "Mpt", names=NAMES, joined=True, norms="attention.layer_norm_epsilon", flags={}, more=_of_gguf,
        spelling={
            "hidden_size": "d_model", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads",
            "rms_norm_eps": "layer_norm_epsilon", "max_position_embeddings": "max_seq_len", "intermediate_size": None,
            "num_key_value_heads": None, "head_dim": None, "rope_theta": None,
        },
    ),
}  # fmt: skip
