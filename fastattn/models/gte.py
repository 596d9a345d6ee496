# SPDX-License-Identifier: MIT
"""GTE: BERT with rotary positions and a gated feed-forward layer (GeGLU).

Zhang et al., "mGTE", 2024, https://arxiv.org/abs/2407.19669. Two spellings of one architecture: ``model_type`` "new",
as Alibaba-NLP publishes its checkpoints (query, key and value in one tensor, "ntk" rope scaling), and "gte", as
transformers has it.
"""

from __future__ import annotations

from ..graph.family import NO_LIMIT, Facts, Family
from ..graph.graph import Graph, Value
from ..graph.names import Names
from ..graph.rotary import build_rotary, read_scaling
from .blocks import EMBEDDINGS, ROTARY_NAMES, Sizes, attend_turned, embeddings, gated_post_norm, stack
from .tops import Decoder, add_heads, architectures, ignorable, label_heads, normed, pooled

__all__ = ["FAMILY"]

_PUBLISHED = Names("", "encoder.layer.{i}.", {
    "attn_qkv": "attention.qkv_proj", "attn_q": "attention.q_proj", "attn_k": "attention.k_proj",
    "attn_v": "attention.v_proj", "attn_output": "attention.o_proj", "attn_output_norm": "attn_ln",
    "ffn_up_gate": "mlp.up_gate_proj", "ffn_down": "mlp.down_proj", "layer_output_norm": "mlp_ln",
}, **EMBEDDINGS)  # fmt: skip


def build(g: Graph) -> Facts:
    c = g.config
    c.choice("position_embedding_type", {"rope": None}, "rope")
    c.choice("layer_norm_type", {"layer_norm": None}, "layer_norm")
    for key in ("logn_attention_scale", "logn_attention_clip1"):
        c.refuse(key, "attention scaled by the logarithm of the length is not supported")
    s = Sizes.read(c, types=(1, 0), positions=8192)
    published = c.model_type() == "new"
    base, scaling = read_scaling(c, 10000.0 if published else 160000.0)
    rotary = build_rotary(c, s.hidden // s.heads, base=base, scaling=scaling, positions=s.positions)

    probes = "embeddings.word_embeddings.weight", "embeddings.LayerNorm.weight"
    prefix = g.source.prefix("gte.", *probes) or g.source.prefix("new.", *probes)
    # Published layers have names of their own: what tells them apart is their first norm.
    named = published or g.source.has(f"{prefix}encoder.layer.0.attn_ln.weight")
    g.names = (_PUBLISHED if named else ROTARY_NAMES).replace(prefix)
    qkv = "attn_qkv" if named and c.flag("pack_qkv", True) else ("attn_q", "attn_k", "attn_v")
    up = "ffn_up_gate" if named else ("ffn_up", "ffn_gate")
    decoder = Decoder.read(g, "lm_head.decoder")

    def layer(i: int, g: Graph, x: Value) -> Value:
        return gated_post_norm(g, x, attend_turned(g, x, s, qkv, rotary), s, up, biases=(True, False, True))

    x = stack(g, embeddings(g, s, s.hidden, tied=decoder.stored, positions=False), s.layers, layer)

    pooler = pooled(g, x, s)
    newer = any(g.source.has(f"lm_head.norm.{part}") for part in ("weight", "bias"))
    norm, activation = "lm_head.norm" if newer else "lm_head.layer_norm", s.activation if published else "gelu"
    before = normed(s, "lm_head.dense", norm, activation=activation)
    add_heads(g, x, masked_lm=decoder.behind(s, before), **label_heads(s.hidden, pooler))
    return s.facts(max_positions=NO_LIMIT, trained_positions=s.positions)


FAMILY = Family(
    name="GteModel",
    build=build,
    architectures=architectures("New", "Gte"),
    ignorable=ignorable(r"(new|gte)\.", "lm_head", r"((new|gte)\.)?((embeddings\.)?rotary_emb|pooler)\..*"),
)
