# SPDX-License-Identifier: MIT
"""Parts of pages of decoders with layer norms and feed-forward layers without gates: GPT-2 and what came after it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..graph.config import ConfigReader, short
from ..graph.facts import Facts
from ..graph.family import Family
from ..graph.graph import Graph, Value
from ..graph.layout import Layout
from .blocks import MAX_LAYERS, check_head_size
from .causal import Sizes, causal_family

__all__ = [
    "by_head", "either", "kv_heads_of", "named", "plain_family", "plain_feed_forward", "sizes_of",
    "width_of",
]  # fmt: skip

_TENSORS = r"(.*\.)?(attn|attention|self_attention)\.((masked_)?bias|causal_mask)|embed_out\..*"
"""Buffers of old files, and logits of GPT-NeoX."""

_MAX_WIDTH = 1 << 20  # far above any model: what is made for each column or head must not take all memory


def named(c: ConfigReader, *keys: str) -> str:
    """Which of ``keys``, spellings of one size, is in the file: the first, where none is. ``ValueError`` where two of
    them disagree.
    """
    there = [key for key in keys if c.has(key)]
    for key in there[1:]:
        if c.value(key) != c.value(there[0]):
            values = short(c.value(key)), short(c.value(there[0]))
            raise ValueError(f"{c.path}: {key} is {values[0]}, but {there[0]}, which says the same, {values[1]}")
    return there[0] if there else keys[0]


def kv_heads_of(c: ConfigReader, default: int | None = None) -> int | None:
    """``num_key_value_heads``; None, for as many as there are heads, where it is null."""
    if c.null("num_key_value_heads") or (default is None and not c.has("num_key_value_heads")):
        return None
    return c.size("num_key_value_heads", default)


def either(c: ConfigReader, *keys: str, default: int | None = None, maximum: int | None = None) -> int:
    """The size under one of ``keys``."""
    key = named(c, *keys)
    return c.size(key, default) if maximum is None else c.size(key, default, maximum)


def width_of(c: ConfigReader, *keys: str) -> int:
    """Columns of the hidden states."""
    return either(c, *keys, maximum=_MAX_WIDTH)


def sizes_of(
    c: ConfigReader, *, inner: int, activation: str, eps: float, positions: int, kv_heads: int | None = None,
    hidden: tuple[str, ...] = ("hidden_size",), layers: tuple[str, ...] = ("num_hidden_layers",),
    heads: tuple[str, ...] = ("num_attention_heads",),
) -> Sizes:  # fmt: skip
    """Sizes of a model whose heads are its width; names are spellings of their keys, ``kv_heads`` as many as there are
    heads where that is None.
    """
    width, count = width_of(c, *hidden), either(c, *heads)
    check_head_size(c, width, count, (named(c, *hidden), named(c, *heads)))
    if c.has("head_dim") and c.size("head_dim") != width // count:
        raise ValueError(f"{c.path}: head_dim is {short(c.value('head_dim'))}, expected {width} / {count}")
    shared = count if kv_heads is None else kv_heads
    if count % shared:
        raise ValueError(f"{c.path}: {count} heads are not a multiple of {shared} heads of keys and values")
    return Sizes(
        vocab=c.size("vocab_size"), hidden=width, layers=either(c, *layers, maximum=MAX_LAYERS), heads=count,
        kv_heads=shared, head_size=width // count, inner=inner, activation=activation, eps=eps, positions=positions,
    )  # fmt: skip


def by_head(heads: int, kv_heads: int, size: int) -> Layout:
    """Files have, for each head of keys, its queries, its key and its value; the page takes all queries, then all keys,
    then all values.
    """
    rows = np.arange((heads + 2 * kv_heads) * size).reshape(kv_heads, heads // kv_heads + 2, size)
    order = np.concatenate([rows[:, :-2].reshape(-1), rows[:, -2].reshape(-1), rows[:, -1].reshape(-1)])
    return Layout("queries, key and value of each head of keys", order=order)


def plain_feed_forward(g: Graph, x: Value, s: Sizes, *, bias: bool = True, layout: Layout | None = None) -> Value:
    """down(act(up(x)))"""
    inner = g.linear(x, "ffn_up", s.inner, bias=bias, activation=s.activation, layout=layout)
    return g.linear(inner, "ffn_down", s.hidden, bias=bias, layout=layout)


def plain_family(
    name: str, build: Callable[[Graph], Facts], *families: str, top: str = "ForCausalLM", **others: str | None
) -> Family:
    """A family of decoders; ``top``: what classes with logits are called, ``others``: further classes -> a head. Its
    files may have the buffers of old versions.
    """
    family = causal_family(name, build, *families, ignorable=_TENSORS)
    named = {f"{prefix}{top}": "causal_lm" for prefix in families}
    return family._replace(architectures={**family.architectures, **named, **others})
