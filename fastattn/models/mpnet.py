# SPDX-License-Identifier: MIT
"""MPNet: BERT's layers with a bias by the distance of two tokens, no token types, positions counted as RoBERTa does.

Song et al., 2020, https://arxiv.org/abs/2004.09297; names of tensors and keys as in transformers' MPNetModel. The
buckets of distances are those of T5 (Raffel et al., 2020, https://arxiv.org/abs/1910.10683).
"""

from __future__ import annotations

from ..graph.derived import distance_bias
from ..graph.facts import Facts, positions_beside_padding
from ..graph.family import Family
from ..graph.graph import Graph
from .blocks import BERT_LAYER, Sizes, attend, bert_names, embeddings, post_norm, refuse_relative_positions, stack
from .tops import Decoder, architectures, ignorable, roberta_heads

__all__ = ["FAMILY"]

_PADDING = 1  # of the architecture, whatever pad_token_id says
_BUCKETS, _MAX_DISTANCE = 32, 128  # of the architecture too: a larger table has rows that nothing reads

_LAYER = {
    **BERT_LAYER, "attn_q": "attention.attn.q", "attn_k": "attention.attn.k", "attn_v": "attention.attn.v",
    "attn_output": "attention.attn.o", "attn_output_norm": "attention.LayerNorm",
}  # fmt: skip


def build(g: Graph) -> Facts:
    c = g.config
    refuse_relative_positions(c, key=False)
    s = Sizes.read(c, types=None)
    last = c.size("max_position_embeddings", minimum=_PADDING + 2) - 1
    rows = c.size("relative_attention_num_buckets", _BUCKETS, minimum=_BUCKETS)
    g.names = bert_names(g, "mpnet.", _LAYER, relative="encoder.relative_attention_bias")
    decoder = Decoder.read(g, "lm_head.decoder", "lm_head.bias")
    x = embeddings(g, s, s.hidden, tied=decoder.stored)
    bias = distance_bias(
        g.source, g.name("relative"), s.heads, rows=rows, buckets=_BUCKETS, max_distance=_MAX_DISTANCE
    )  # fmt: skip
    x = stack(g, x, s.layers, lambda i, layer, x: post_norm(layer, x, attend(layer, x, s, distance_bias=bias), s))
    roberta_heads(g, x, s, decoder)
    return s.facts(max_positions=last - _PADDING, positions=positions_beside_padding(_PADDING))


FAMILY = Family(
    name="MPNetModel",
    build=build,
    architectures=architectures("MPNet"),
    ignorable=ignorable(r"mpnet\.", "lm_head", r"mpnet\.pooler\..*"),
)
