# SPDX-License-Identifier: MIT
"""MPNet: BERT's layers with a bias by the distance of two tokens, no token types, positions counted as RoBERTa does.

Song et al., 2020, https://arxiv.org/abs/2004.09297; names of tensors and keys as in transformers' MPNetModel. The
buckets of distances are those of T5 (Raffel et al., 2020, https://arxiv.org/abs/1910.10683).
"""

from __future__ import annotations

import re

import numpy as np

from ..attention.relative import bias_by_distance
from ..graph.family import Facts, Family
from ..graph.graph import Graph
from ..graph.heads import Dense
from ..graph.names import Names
from ..graph.source import Floats
from .blocks import (
    EMBEDDINGS,
    PROBES,
    Sizes,
    add_heads,
    architectures,
    embeddings,
    label_heads,
    masked_lm,
    pool_by,
    positions_beside_padding,
    post_norm,
    project,
    refuse_other_models,
)  # fmt: skip

__all__ = ["FAMILY"]

_PADDING = 1  # of the architecture, whatever pad_token_id says
_BUCKETS, _MAX_DISTANCE = 32, 128  # of the architecture too: a larger table has rows that nothing reads

_LAYER = {
    "attn_q": "attention.attn.q", "attn_k": "attention.attn.k", "attn_v": "attention.attn.v",
    "attn_output": "attention.attn.o", "attn_output_norm": "attention.LayerNorm",
    "ffn_up": "intermediate.dense", "ffn_down": "output.dense", "layer_output_norm": "output.LayerNorm",
}  # fmt: skip


def build(g: Graph) -> Facts:
    c = g.config
    refuse_other_models(c, "MPNet")
    s = Sizes.read(c, types=0)
    rows = c.size("max_position_embeddings", minimum=_PADDING + 2)
    buckets = c.size("relative_attention_num_buckets", _BUCKETS, minimum=_BUCKETS)
    g.names = Names(g.source.prefix("mpnet.", *PROBES), "encoder.layer.{i}.", _LAYER, **EMBEDDINGS)
    words, decoder = f"{g.name('token_embd')}.weight", "lm_head.decoder"
    tie = c.flag("tie_word_embeddings", True)
    x = embeddings(g, s, s.hidden, tied=f"{decoder}.weight" if tie else None, types=0, positions=rows)
    name = words.replace("embeddings.word_embeddings.weight", "encoder.relative_attention_bias")
    table = g.source.derive(
        name, {f"{name}.weight": (buckets, s.heads)}, _by_head, shapes={"table": (s.heads, _BUCKETS)}
    )["table"]  # fmt: skip
    bias = None if table is None else bias_by_distance(table, True, _MAX_DISTANCE, _MAX_DISTANCE)
    for _, layer in g.layers(s.layers):
        g.hidden_state(x)
        attended = layer.attention(*project(layer, x, s.hidden), s.heads, distance_bias=bias)
        x = post_norm(layer, x, attended, s)
    g.hidden_state(x)
    g.output("hidden", x)

    pool_by(g, x, Dense(g.name("pooler"), s.hidden, s.hidden, "tanh"))
    add_heads(
        g, x,
        masked_lm=masked_lm(
            Dense("lm_head.dense", s.hidden, s.hidden, "gelu"), "lm_head.layer_norm", decoder, s,
            bias="lm_head.bias", tied=words if tie else None,
        ),
        **label_heads(s.hidden, Dense("classifier.dense", s.hidden, s.hidden, "tanh"), last="classifier.out_proj"),
    )  # fmt: skip
    return s.facts(max_positions=rows - 1 - _PADDING, positions=positions_beside_padding(_PADDING))


def _by_head(weight: Floats) -> dict[str, Floats]:
    """The table as attention takes it: (heads, buckets)."""
    return {"table": np.ascontiguousarray(weight[:_BUCKETS].T)}


FAMILY = Family(
    name="MPNetModel",
    build=build,
    architectures=architectures("MPNet"),
    # An index buffer that old versions of transformers saved, a pooler below a head, the heads of other classes.
    ignorable=re.compile(r"(mpnet\.)?embeddings\.position_ids|mpnet\.pooler\..*|(lm_head|classifier|qa_outputs)\..*"),
)
