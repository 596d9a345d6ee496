# SPDX-License-Identifier: MIT
"""The transformer layer of BERT and its kin: the norm stands behind each residual.

    y = norm(x + attention(x));  x = norm(y + down(activation(up(y))))

Vaswani et al., 2017, https://arxiv.org/abs/1706.03762; Devlin et al., 2018, https://arxiv.org/abs/1810.04805.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .. import ops
from ..weights import PackedLinear
from .builder import Builder, Floats, Norm
from .config import ConfigReader
from .spans import Spans

__all__ = ["ACTIVATIONS", "MAX_LAYERS", "PostNormLayer", "PostNormNames", "PostNormStack", "check_head_size"]

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
    """H -> I"""
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


class PostNormStack:
    """Layers one behind the other. A layer may stand in the sequence several times (ALBERT)."""

    def __init__(
        self, layers: Sequence[PostNormLayer], *, hidden: int, inner: int, heads: int, activation: str, eps: float
    ) -> None:
        self._layers = tuple(layers)
        self._hidden, self._inner, self._heads = hidden, inner, heads
        self._activation, self._eps = activation, eps

    def scratch_shapes(self, tokens: int) -> tuple[tuple[int, ...], ...]:
        """Shapes of the four arrays ``run`` works in: the first takes its input."""
        return (*[(tokens, self._hidden)] * 3, (tokens * max(3 * self._hidden, self._inner),))

    def run(
        self,
        scratch: Sequence[Floats],
        spans: Spans,
        *,
        out: Floats | None,
        relative_bias: tuple[Any, bool, int] | None = None,
        num_threads: int | None,
    ) -> Floats:
        """Hidden states (T, H) of the input in ``scratch[0]``: in ``out``, else in an array of ``scratch``."""
        x, y, z, wide = scratch
        t, h = x.shape
        qkv = wide[: t * 3 * h].reshape(t, 3 * h)
        inner = wide[: t * self._inner].reshape(t, self._inner)  # qkv is done with by then
        q, k, v = qkv.reshape(t, 3, self._heads, h // self._heads).swapaxes(0, 1)  # (T, heads, D) each, no copies
        context = y.reshape(t, self._heads, h // self._heads)
        eps, last = self._eps, len(self._layers) - 1
        for number, layer in enumerate(self._layers):
            ops.linear(x, layer.qkv, out=qkv, num_threads=num_threads)
            spans.attend(q, k, v, out=context, relative_bias=relative_bias, num_threads=num_threads)
            ops.linear(y, layer.attention_out, out=z, num_threads=num_threads)
            norm = layer.attention_norm
            ops.layer_norm(z, norm.weight, norm.bias, eps, residual=x, out=y, num_threads=num_threads)
            ops.linear(y, layer.up, activation=self._activation, out=inner, num_threads=num_threads)
            ops.linear(inner, layer.down, out=z, num_threads=num_threads)
            norm = layer.norm
            x = out if number == last and out is not None else x
            ops.layer_norm(z, norm.weight, norm.bias, eps, residual=y, out=x, num_threads=num_threads)
        return x


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
