# SPDX-License-Identifier: MIT
"""OPT and Galactica: learned positions of the tokens that the mask leaves, norms in front of each part or behind it.

    y = x + attention(norm(x));  x = y + down(act(up(norm'(y))))
    y = norm(x + attention(x));  x = norm'(y + down(act(up(y))))                            do_layer_norm_before false

Zhang et al., 2022, https://arxiv.org/abs/2205.01068; Taylor et al., 2022, https://arxiv.org/abs/2211.09085; names of
tensors and keys as in transformers' OPTModel.
"""

from __future__ import annotations

import numpy as np

from ..graph.facts import Facts, tokens_as_positions
from ..graph.graph import Graph, Value
from ..graph.names import Names
from .blocks import ACTIVATIONS
from .causal import causal_heads
from .plain import plain_family, sizes_of

__all__ = ["FAMILY"]

NAMES = Names("", "layers.{i}.", {
    "attn_norm": "self_attn_layer_norm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.out_proj", "ffn_norm": "final_layer_norm", "ffn_up": "fc1",
    "ffn_down": "fc2",
}, token_embd="embed_tokens", position_embd="embed_positions", output_norm="final_layer_norm",
    project_in="project_in", project_out="project_out")  # fmt: skip

_PROBES = ("decoder.embed_tokens.weight", "decoder.embed_positions.weight", "decoder.layers.0.fc1.weight")
_OFFSET = 2  # rows of the table of positions that are none of a token's
_EPS = 1e-5


def build(g: Graph) -> Facts:
    c = g.config
    c.refuse("_remove_final_layer_norm", "models without the last norm are not supported")
    c.refuse("scale_embeddings", "embeddings times the root of their width are not supported")
    s = sizes_of(
        c, inner=c.size("ffn_dim"), activation=c.choice("activation_function", ACTIVATIONS, "relu"), eps=_EPS,
        positions=c.size("max_position_embeddings", 2048),
    )  # fmt: skip
    width = c.size("word_embed_proj_dim", s.hidden)
    first, bias = c.flag("do_layer_norm_before", True), c.flag("enable_bias", True)
    learned, tied = c.flag("layer_norm_elementwise_affine", True), c.flag("tie_word_embeddings", True)
    g.names = NAMES.replace(f"{g.source.prefix('model.', *_PROBES)}decoder.")
    words = {"ids": g.words("token_embd", (s.vocab, width), tied="lm_head.weight" if tied else None)}
    table = g.table("position_embd", (s.positions + _OFFSET, s.hidden))
    places = {"positions": table if table is None else table[_OFFSET:]}
    if width == s.hidden:
        x = g.embed({**words, **places}, s.hidden)
    else:
        x = g.linear(g.embed(words, width), "project_in", s.hidden, bias=False) + g.embed(places, s.hidden)
    for _, layer in g.layers(s.layers):
        g.hidden_state(x)
        y = _norm(layer, x, "attn_norm", learned) if first else x
        q, k, v = layer.split(layer.linear(y, ("attn_q", "attn_k", "attn_v"), s.hidden, bias=bias), *(s.hidden,) * 3)
        attended = layer.attention(q, k, v, s.heads, causal=True, cached=True)
        x = x + layer.linear(attended, "attn_output", s.hidden, bias=bias)
        x = x if first else _norm(layer, x, "attn_norm", learned)
        y = _norm(layer, x, "ffn_norm", learned) if first else x
        inner = layer.linear(y, "ffn_up", s.inner, bias=bias, activation=s.activation)
        x = x + layer.linear(inner, "ffn_down", s.hidden, bias=bias)
        x = x if first else _norm(layer, x, "ffn_norm", learned)
    x = _norm(g, x, "output_norm", learned) if first else x
    x = x if width == s.hidden else g.linear(x, "project_out", width, bias=False)
    g.hidden_state(x)
    causal_heads(g, x, s, tied=tied)
    return s.facts._replace(positions=tokens_as_positions, attended=True)


def _norm(g: Graph, x: Value, role: str, learned: bool) -> Value:
    """A norm, of weights of its own or of none."""
    return g.layer_norm(x, role, _EPS) if learned else g.norm(x, np.ones(x.width, np.float32), None, _EPS)


FAMILY = plain_family("OPTModel", build, "OPT")
