# SPDX-License-Identifier: MIT
"""DeBERTa-v2 and -v3: BERT's layers with disentangled attention, in large models with a convolution beside the first.

He et al., 2021, https://arxiv.org/abs/2006.03654 and https://arxiv.org/abs/2111.09543; names of tensors and keys as in
transformers' DebertaV2Model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from .. import ops
from ..attention.disentangled import check_distances
from ..graph.family import NO_LIMIT, Facts, Family
from ..graph.graph import Graph, Value
from ..graph.heads import Dense, HeadSpec, NormStep
from ..graph.names import Names
from ..graph.source import Floats, Source
from ..weights import PackedLinear, pack_linear
from .blocks import (
    ACTIVATIONS,
    EMBEDDINGS,
    Sizes,
    add_heads,
    architectures,
    check_head_size,
    label_heads,
    post_norm,
    project,
)  # fmt: skip

__all__ = ["FAMILY"]

_KINDS = ("c2p", "p2c")
_LANES = 16  # outputs of a panel
_NAMES = Names("", "encoder.layer.{i}.", {
    "attn_q": "attention.self.query_proj", "attn_k": "attention.self.key_proj", "attn_v": "attention.self.value_proj",
    "attn": "attention.self", "attn_output": "attention.output.dense",
    "attn_output_norm": "attention.output.LayerNorm", "ffn_up": "intermediate.dense", "ffn_down": "output.dense",
    "layer_output_norm": "output.LayerNorm",
}, **EMBEDDINGS, projection="embeddings.embed_proj", conv="encoder.conv", conv_norm="encoder.conv.LayerNorm",
    relative="encoder.rel_embeddings", relative_norm="encoder.LayerNorm")  # fmt: skip


def build(g: Graph) -> Facts:
    c = g.config
    for key, reason in {
        "is_decoder": "DeBERTa as a decoder is not supported",
        "quantization_config": "quantised checkpoints are not supported",
        "z_steps": "an enhanced mask decoder of several steps is not supported",
    }.items():
        c.refuse(key, reason)
    s = Sizes.read(c, eps=1e-7, types=0, fewest_types=0, positions=512)
    width = c.size("embedding_size", s.hidden)
    check_head_size(c, s.hidden, s.heads)
    if c.size("attention_head_size", s.hidden // s.heads) != s.hidden // s.heads:
        raise ValueError(f"{c.path}: attention_head_size is not hidden_size divided by num_attention_heads")
    words, decoder = "embeddings.word_embeddings.weight", "cls.predictions.decoder"
    prefix = g.source.prefix("deberta.", words, "embeddings.LayerNorm.weight")
    g.names, words = _NAMES.replace(prefix), prefix + words
    tie = c.flag("tie_word_embeddings", True)
    # Without a table of positions nothing ends: all distances beyond the furthest share its embedding.
    absolute = c.flag("position_biased_input", True)
    tables = {"ids": g.table("token_embd", (s.vocab, width), tied=f"{decoder}.weight" if tie else None)}
    if absolute:  # in the order in which transformers adds them
        tables["positions"] = g.table("position_embd", (s.positions, width))
    if s.types:
        tables["types"] = g.table("token_types", (s.types, width))
    x = g.embed(tables, width)
    if width != s.hidden:
        x = g.linear(x, "projection", s.hidden, bias=False)
    x = first = g.layer_norm(x, "token_embd_norm", s.eps)
    attend = _attention(g, s)
    for i, layer in g.layers(s.layers):
        g.hidden_state(x)
        x = post_norm(layer, x, attend(layer, x), s)
        if i == 0:
            x = _with_convolution(g, first, x, s)
    g.hidden_state(x)
    g.output("hidden", x)

    pooler = Dense("pooler.dense", s.hidden, s.hidden, c.choice("pooler_hidden_act", ACTIVATIONS, "gelu"))
    add_heads(g, x, masked_lm=lambda: _masked_lm(g, s, width, words, decoder, tie), **label_heads(s.hidden, pooler))
    return s.facts(max_positions=s.positions if absolute else NO_LIMIT, type_vocab_size=s.types or 1)


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

    def attend(layer: Graph, x: Value) -> Value:
        q, k, v = project(layer, x, s.hidden)
        if not (relative and kinds):
            return layer.attention(q, k, v, s.heads, scale=scale)
        norm = g.name("relative_norm") if normed else None
        embeddings = f"{g.name('relative')}.weight"
        panels = _panels(
            g.source, layer.name("attn"), embeddings, norm, s, rows=2 * span, shared=shared, kinds=kinds
        )  # fmt: skip
        return layer.disentangled(q, k, v, s.heads, panels, scale=scale, span=span, max_distance=most)

    return attend


def _panels(
    source: Source, name: str, embeddings: str, norm: str | None, s: Sizes, *, rows: int, shared: bool,
    kinds: Sequence[str],
) -> Mapping[str, Floats]:  # fmt: skip
    """The position keys ("c2p") and queries ("p2c") of the attention ``name``, packed for each head.

    ``shared``: positions go through the projections of the content.
    """
    own = {"c2p": "key_proj" if shared else "pos_key_proj", "p2c": "query_proj" if shared else "pos_query_proj"}
    tensors: dict[str, tuple[int, ...]] = {embeddings: (rows, s.hidden)}
    if norm is not None:
        tensors |= {f"{norm}.weight": (s.hidden,), f"{norm}.bias": (s.hidden,)}
    for kind in kinds:
        tensors |= {f"{name}.{own[kind]}.weight": (s.hidden, s.hidden), f"{name}.{own[kind]}.bias": (s.hidden,)}
    threads, width, panels = source.num_threads, s.hidden // s.heads, -(-rows // _LANES)

    def make(table: Floats, *parts: Floats) -> dict[str, Floats]:
        if norm is not None:
            table, parts = ops.layer_norm(table, parts[0], parts[1], s.eps, num_threads=threads), parts[2:]
        result = {}
        for kind, weight, bias in zip(kinds, parts[::2], parts[1::2], strict=True):
            projected = ops.linear(table, pack_linear(weight, bias, num_threads=threads), num_threads=threads)
            by_head = np.zeros((s.heads, panels * _LANES, width), np.float32)
            by_head[:, :rows] = projected.reshape(rows, s.heads, width).swapaxes(0, 1)
            result[kind] = pack_linear(by_head.reshape(-1, width), num_threads=threads).arrays()["panels"]
        return result

    shapes = dict.fromkeys(kinds, (s.heads * panels, width, _LANES))
    return source.derive(f"{name}.positions", tensors, make, shapes=shapes)


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

    def make(weight: Floats, bias: Floats) -> dict[str, Floats]:
        # (outputs, inputs, size) -> a linear layer over the inputs of `size` tokens side by side
        flat = np.ascontiguousarray(weight.swapaxes(1, 2)).reshape(hidden, size * hidden)
        arrays = pack_linear(flat, bias, num_threads=g.source.num_threads).arrays()
        return {"panels": arrays["panels"], "bias": arrays["bias"]}

    name = g.name("conv")
    tensors = {f"{name}.conv.weight": (hidden, hidden, size), f"{name}.conv.bias": (hidden,)}
    shapes = {"panels": (-(-hidden // _LANES), size * hidden, _LANES), "bias": (hidden,)}
    made = g.source.derive(f"{name}.windows", tensors, make, shapes=shapes)
    packed = None if made["panels"] is None else PackedLinear.from_arrays(dict(made), size * hidden, hidden)
    activation = c.choice("conv_act", ACTIVATIONS, "tanh")
    beside = g.product(g.neighbours(first, size), packed, activation, hidden)
    return g.layer_norm(beside, "conv_norm", s.eps, residual=x)


def _masked_lm(g: Graph, s: Sizes, width: int, words: str, decoder: str, tie: bool) -> HeadSpec:
    tied = words if tie else None
    if g.config.flag("legacy", True):
        transform = "cls.predictions.transform"
        bias: tuple[str, ...] = ("cls.predictions.bias", f"{decoder}.bias")
        if tied is None:  # a decoder of its own has a bias of its own
            bias = bias[::-1]
    else:  # its decoder is always the table of words
        tied, width = words, s.hidden
        transform, decoder = "lm_predictions.lm_head", "lm_predictions.lm_head.decoder"
        bias = ("lm_predictions.lm_head.bias",)
    return HeadSpec("masked_lm", "all", (
        Dense(f"{transform}.dense", width, s.hidden, s.activation),
        NormStep(f"{transform}.LayerNorm", width, s.eps),
        Dense(decoder, s.vocab, width, bias=bias, tied=tied, large=True),
    ))  # fmt: skip


FAMILY = Family(
    name="DebertaV2Model",
    build=build,
    architectures=architectures("DebertaV2"),
    pooled_output=False,
    # Absolute positions of models that do not add them, index buffers, and heads, of pre-training and of other tasks.
    ignorable=re.compile(
        r"(deberta\.)?embeddings\.(position_ids|position_embeddings\.weight)"
        r"|(cls|lm_predictions|mask_predictions|classifier|qa_outputs|pooler)\..*"
    ),
)
