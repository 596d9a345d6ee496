# SPDX-License-Identifier: MIT
"""The transformer layer of BERT and its kin: the norm stands behind each residual.

    y = norm(x + attention(x));  x = norm(y + down(activation(up(y))))

Vaswani et al., 2017, https://arxiv.org/abs/1706.03762; Devlin et al., 2018, https://arxiv.org/abs/1810.04805.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..attention.relative import bias_by_distance
from ..program import Program
from ..weights import PackedLinear
from .builder import Builder, Floats, Norm
from .config import ConfigReader
from .inputs import Integers
from .rotary import Rotary
from .spans import Spans

__all__ = ["ACTIVATIONS", "Attend", "MAX_LAYERS", "PostNormLayer", "PostNormNames", "PostNormStack", "check_head_size"]

# config.json's name -> ops.linear's; gelu_new, gelu_fast and gelu_pytorch_tanh are spellings of one formula.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}
"""Activations by the names config.json has for them."""

MAX_HEAD_SIZE = 512  # of attention_varlen
MAX_LAYERS = 1000  # far above any model; a file that says more would have its tensors' names take all memory


@dataclass(frozen=True, slots=True)
class PostNormLayer:
    """Weights of one layer of width H, inner width I."""

    qkv: PackedLinear
    """H -> 3H: query, key and value in one product."""
    attention_out: PackedLinear
    """H -> H"""
    attention_norm: Norm
    up: PackedLinear
    """H -> I; in a gated layer H -> 2I, what is multiplied first and what goes through the activation second"""
    down: PackedLinear
    """I -> H"""
    norm: Norm

    @classmethod
    def build(cls, builder: Builder, names: PostNormNames, hidden: int, inner: int) -> PostNormLayer:
        """Ask for the layer whose parts have these full names."""
        return cls(
            qkv=builder.linear(names.qkv, hidden, hidden),
            attention_out=builder.linear(names.attention_out, hidden, hidden),
            attention_norm=builder.norm(names.attention_norm, hidden),
            up=builder.linear(names.up, inner, hidden),
            down=builder.linear(names.down, hidden, inner),
            norm=builder.norm(names.norm, hidden),
        )


@dataclass(frozen=True, slots=True)
class PostNormNames:
    """Full names of a layer's parts."""

    qkv: tuple[str, str, str]
    attention_out: str
    attention_norm: str
    up: str
    down: str
    norm: str

    @classmethod
    def bert(cls, prefix: str) -> PostNormNames:
        """As BERT, RoBERTa and ELECTRA have them, behind ``prefix`` ("bert.encoder.layer.3.")."""
        return cls(
            qkv=(
                f"{prefix}attention.self.query", f"{prefix}attention.self.key", f"{prefix}attention.self.value"
            ),
            attention_out=f"{prefix}attention.output.dense",
            attention_norm=f"{prefix}attention.output.LayerNorm",
            up=f"{prefix}intermediate.dense",
            down=f"{prefix}output.dense",
            norm=f"{prefix}output.LayerNorm",
        )  # fmt: skip


Attend = Callable[[int, Floats, Floats, Floats, Floats], object]
"""Number of the layer, q, k, v and out, (T, heads, D) each."""


class PostNormStack:
    """Layers one behind the other. A layer may stand in the sequence several times (ALBERT)."""

    def __init__(
        self,
        layers: Sequence[PostNormLayer],
        *,
        hidden: int,
        inner: int,
        heads: int,
        activation: str,
        eps: float,
        relative_bias: tuple[Any, bool, int] | None = None,
        gated: bool = False,
        rotary: Rotary | None = None,
    ) -> None:
        """``relative_bias``: of ``attention``, the same in all layers; ``gated``: the feed-forward layers are;
        ``rotary``: turns queries and keys.
        """
        self._layers = tuple(layers)
        self._relative_bias = relative_bias
        self._gated, self._rotary = gated, rotary
        self._hidden, self._inner, self._heads = hidden, inner, heads
        self._activation, self._eps = activation, eps

    @property
    def depth(self) -> int:
        """The number of layers."""
        return len(self._layers)

    def scratch_shapes(self, tokens: int) -> tuple[tuple[int, ...], ...]:
        """Shapes of the four arrays ``run`` works in: the first takes its input."""
        inner = (3 if self._gated else 1) * self._inner
        return (*[(tokens, self._hidden)] * 3, (tokens * max(3 * self._hidden, inner),))

    @cached_property
    def _program(self) -> tuple[Program, list[int]]:
        """Slots x, y, z, q k v, what goes into the last layer, result, both halves of a gate; and which of the steps
        are attention.
        """
        h, head_size, inner = self._hidden, self._hidden // self._heads, self._inner
        program = Program([h, h, h, 3 * h, inner, h, *([2 * inner] if self._gated else [])])
        bias, attentions = None, []
        if self._relative_bias is not None:
            table, both, furthest = self._relative_bias
            bias = bias_by_distance(table, both, furthest, furthest)
        for number, layer in enumerate(self._layers):
            program.linear(0, layer.qkv, 3)
            if self._rotary is not None:
                self._rotary.note(program, 3, 2 * self._heads, head_size)
            attentions.append(len(program))
            program.attention(
                3, (0, h, 2 * h), self._heads, head_size, 1, scale=1 / math.sqrt(head_size), distance_bias=bias
            )
            program.linear(1, layer.attention_out, 2)
            program.norm(2, layer.attention_norm.weight, layer.attention_norm.bias, self._eps, 1, residual=0)
            if self._gated:
                program.linear(1, layer.up, 6)
                program.gated(6, (inner, 0), 4, self._activation)
            else:
                program.linear(1, layer.up, 4, self._activation)
            program.linear(4, layer.down, 2)
            target = 5 if number == len(self._layers) - 1 else 0
            program.norm(2, layer.norm.weight, layer.norm.bias, self._eps, target, residual=1)
        return program, attentions

    def run(
        self,
        scratch: Sequence[Floats],
        spans: Spans,
        *,
        out: Floats | None,
        positions: Integers | None = None,
        attend: Attend | None = None,
        num_threads: int | None,
    ) -> Floats:
        """Hidden states (T, H) of the input in ``scratch[0]``: in ``out``, else in an array of ``scratch``.

        ``positions`` (T,): what a ``rotary`` goes by. ``attend`` takes the place of every layer's attention: it is
        called with the number of the layer, q, k, v and out.
        """
        x, y, z, wide = scratch
        t, h = x.shape
        qkv = wide[: t * 3 * h].reshape(t, 3 * h)
        inner = wide[: t * self._inner].reshape(t, self._inner)  # qkv is done with by then
        result = x if out is None else out
        program, attentions = self._program
        arrays = [x, y, z, qkv, inner, result]
        if self._gated:
            arrays.append(wide[t * self._inner : t * self._inner * 3].reshape(t, 2 * self._inner))
        tables: list[tuple[Floats, Floats, Integers]] = []
        if self._rotary is not None and positions is not None:
            tables.append(self._rotary.rows(positions, spans.cu_seqlens))
        by_distance = self._relative_bias is not None and spans.has_holes
        if attend is None and not by_distance:
            program.run(arrays, spans.cu_seqlens, num_threads, tables=tables)
            return result
        q, k, v = qkv.reshape(t, 3, self._heads, h // self._heads).swapaxes(0, 1)  # (T, heads, D) each, no copies
        context = y.reshape(t, self._heads, h // self._heads)
        done = 0
        for number, step in enumerate(attentions):
            program.run(arrays, spans.cu_seqlens, num_threads, done, step, tables)
            if attend is not None:
                attend(number, q, k, v, context)
            else:
                spans.attend(q, k, v, out=context, relative_bias=self._relative_bias, num_threads=num_threads)
            done = step + 1
        program.run(arrays, spans.cu_seqlens, num_threads, done, tables=tables)
        return result


def check_head_size(
    config: ConfigReader, hidden: int, heads: int, names: tuple[str, str] = ("hidden_size", "num_attention_heads")
) -> None:
    """``ValueError`` where ``hidden`` is no multiple of ``heads``, or a head is larger than attention takes.

    ``names``: what config.json calls the two.
    """
    if hidden % heads:
        raise ValueError(f"{config.path}: {names[0]} {hidden} is not a multiple of {names[1]} {heads}")
    if hidden // heads > MAX_HEAD_SIZE:
        raise ValueError(
            f"{config.path}: {names[0]} {hidden} and {names[1]} {heads} make heads of {hidden // heads}, "
            f"expected at most {MAX_HEAD_SIZE}"
        )
