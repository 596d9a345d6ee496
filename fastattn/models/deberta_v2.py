# SPDX-License-Identifier: MIT
"""DeBERTa-v2 and -v3: BERT's layers with disentangled attention, in large models with a convolution beside the first.

He et al., 2021, https://arxiv.org/abs/2006.03654 and https://arxiv.org/abs/2111.09543; names of tensors and keys as in
transformers' DebertaV2Model.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..graph.derived import check_distances, neighbour_layer, position_panels
from ..graph.family import NO_LIMIT, Facts, Family
from ..graph.graph import Graph, Value
from ..graph.heads import Dense, HeadSpec
from ..graph.names import Names
from .blocks import ACTIVATIONS, BERT_LAYER, EMBEDDINGS, Sizes, attend, post_norm, project, stack
from .tops import Decoder, add_heads, architectures, ignorable, label_heads, normed

__all__ = ["FAMILY"]

_KINDS = ("c2p", "p2c")
_LAYER = {
    **BERT_LAYER, "attn_q": "attention.self.query_proj", "attn_k": "attention.self.key_proj",
    "attn_v": "attention.self.value_proj", "attn": "attention.self",
}  # fmt: skip
_NAMES = Names(
    "", "encoder.layer.{i}.", _LAYER, **EMBEDDINGS, projection="embeddings.embed_proj", conv="encoder.conv",
    conv_norm="encoder.conv.LayerNorm", relative="encoder.rel_embeddings", relative_norm="encoder.LayerNorm",
)  # fmt: skip


def build(g: Graph) -> Facts:
    c = g.config
    c.refuse("z_steps", "an enhanced mask decoder of several steps is not supported")
    s = Sizes.read(c, eps=1e-7, types=(0, 0), positions=512)
    width = c.size("embedding_size", s.hidden)
    if c.size("attention_head_size", s.hidden // s.heads) != s.hidden // s.heads:
        raise ValueError(f"{c.path}: attention_head_size is not hidden_size divided by num_attention_heads")
    words = "embeddings.word_embeddings.weight"
    g.names = _NAMES.replace(g.source.prefix("deberta.", words, "embeddings.LayerNorm.weight"))
    decoder = Decoder.read(g, "cls.predictions.decoder", "cls.predictions.bias")
    # Without a table of positions nothing ends: all distances beyond the furthest share its embedding.
    absolute = c.flag("position_biased_input", True)
    tables = {"ids": g.table("token_embd", (s.vocab, width), tied=decoder.stored)}
    if absolute:  # in the order in which transformers adds them
        tables["positions"] = g.table("position_embd", (s.positions, width))
    if s.types:
        tables["types"] = g.table("token_types", (s.types, width))
    x = g.embed(tables, width)
    if width != s.hidden:
        x = g.linear(x, "projection", s.hidden, bias=False)
    first, attention = g.layer_norm(x, "token_embd_norm", s.eps), _attention(g, s)

    def layer(i: int, inner: Graph, x: Value) -> Value:
        x = post_norm(inner, x, attention(inner, x), s)
        return x if i else _with_convolution(g, first, x, s)

    x = stack(g, first, s.layers, layer)

    pooler = Dense("pooler.dense", s.hidden, s.hidden, c.choice("pooler_hidden_act", ACTIVATIONS, "gelu"))
    add_heads(g, x, masked_lm=_masked_lm(g, s, width, decoder), **label_heads(s.hidden, pooler))
    return s.facts(max_positions=s.positions if absolute else NO_LIMIT)


def _attention(g: Graph, s: Sizes) -> Callable[[Graph, Value], Value]:
    """score(i, j) = scale (q_i k_j + q_i P(i - j) + k_j R(i - j)), which of the terms there are the file says.

    P (position keys) and R (position queries) are projections of the relative embeddings, which depend on the weights
    alone: they are made once, when the model is loaded, and packed as linear layers, one for each head.
    """
    c = g.config
    kinds = tuple(kind for kind in _KINDS if kind in (c.words("pos_att_type", _KINDS) or ()))
    furthest = c.size_or_none("max_relative_positions") or s.positions
    buckets, relative = c.size_or_none("position_buckets"), c.flag("relative_attention", False)
    span, most = buckets or furthest, furthest if buckets and relative else 0
    try:
        if most:
            check_distances(span, most)
    except ValueError as error:
        raise ValueError(f"{c.path}: position_buckets, max_relative_positions: {error}") from error
    normed = "layer_norm" in (c.words("norm_rel_ebd", ("none", "layer_norm")) or ())
    shared = c.flag("share_att_key", False)
    scale = 1 / math.sqrt(s.hidden // s.heads * (1 + len(kinds)))
    if relative and not kinds:  # stored without being used
        g.table("relative", (2 * span, s.hidden))
    if normed and not (relative and kinds):
        g.source.norm(g.name("relative_norm"), s.hidden)

    if not (relative and kinds):
        return lambda layer, x: attend(layer, x, s, scale=scale)
    own = "{}_proj" if shared else "pos_{}_proj"  # shared: positions go through the projections of the content

    def attention(layer: Graph, x: Value) -> Value:
        q, k, v = project(layer, x, s.hidden)
        name = layer.name("attn")
        layers = {kind: f"{name}.{own.format('key' if kind == 'c2p' else 'query')}" for kind in kinds}
        panels = position_panels(
            g.source, f"{name}.positions", f"{g.name('relative')}.weight", layers, rows=2 * span, hidden=s.hidden,
            heads=s.heads, norm=g.name("relative_norm") if normed else None, eps=s.eps,
        )  # fmt: skip
        return layer.disentangled(q, k, v, s.heads, panels, scale=scale, span=span, max_distance=most)

    return attention


def _with_convolution(g: Graph, first: Value, x: Value, s: Sizes) -> Value:
    """norm(x + act(convolution of neighbouring columns of the embeddings)), in files that have one."""
    c, hidden = g.config, s.hidden
    size = c.size_or_none("conv_kernel_size")
    if size is None:
        return x
    if size % 2 == 0 or size > 63:
        raise ValueError(f"{c.path}: conv_kernel_size is {size}, expected an odd number below 64")
    if c.size("conv_groups", 1) != 1:
        raise ValueError(f"{c.path}: conv_groups is not 1: grouped convolutions are not supported")

    packed = neighbour_layer(g.source, f"{g.name('conv')}.windows", f"{g.name('conv')}.conv", hidden, size)
    activation = c.choice("conv_act", ACTIVATIONS, "tanh")
    beside = g.product(g.neighbours(first, size), packed, activation, hidden)
    return g.layer_norm(beside, "conv_norm", s.eps, residual=x)


def _masked_lm(g: Graph, s: Sizes, width: int, decoder: Decoder) -> Callable[[], HeadSpec]:
    name, norm = "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm"
    if not g.config.flag("legacy", True):  # its decoder is always the table of words
        name, norm, width = "lm_predictions.lm_head.dense", "lm_predictions.lm_head.LayerNorm", s.hidden
        words, bias = f"{g.name('token_embd')}.weight", "lm_predictions.lm_head.bias"
        decoder = Decoder("lm_predictions.lm_head.decoder", words, (bias,))
    return decoder.behind(s, normed(s, name, norm, width=width))


FAMILY = Family(
    name="DebertaV2Model",
    build=build,
    architectures=architectures("DebertaV2"),
    pooled_output=False,
    # Absolute positions of models that do not add them.
    ignorable=ignorable(
        r"deberta\.",
        "cls|lm_predictions|mask_predictions|pooler",
        r"(deberta\.)?embeddings\.position_embeddings\.weight",
    ),
)
