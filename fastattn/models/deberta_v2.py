# SPDX-License-Identifier: MIT
"""DeBERTa-v2 and -v3: BERT's layers with disentangled attention, in large models with a convolution beside the first.

He et al., 2021, https://arxiv.org/abs/2006.03654 and https://arxiv.org/abs/2111.09543; names of tensors and keys as in
transformers' DebertaV2Model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import ops
from ..weights import PackedLinear, pack_linear
from .builder import Builder, Floats, Norm
from .config import ConfigReader
from .disentangled import Disentangled, position_panels
from .encoder import Encoder
from .heads import Dense, HeadSpec, NormStep
from .inputs import NO_LIMIT, Integers
from .kin import architectures, label_heads
from .postnorm import ACTIVATIONS, MAX_LAYERS, PostNormLayer, PostNormNames, PostNormStack, check_head_size
from .spans import Spans
from .workspace import Workspace

__all__ = ["DebertaV2Model"]

_KINDS = ("c2p", "p2c")


class DebertaV2Model(Encoder):
    """A DeBERTa-v2 or -v3 encoder; see ``Encoder`` for how to call it."""

    architectures = architectures("DebertaV2")
    pooled_output = False

    # Absolute positions of models that do not add them, index buffers, and heads, of pre-training and of other tasks.
    ignorable = re.compile(
        r"(deberta\.)?embeddings\.(position_ids|position_embeddings\.weight)"
        r"|(cls|lm_predictions|mask_predictions|classifier|qa_outputs|pooler)\..*"
    )

    def __init__(self, builder: Builder) -> None:
        super().__init__(builder)
        c = builder.config
        for key, reason in {
            "is_decoder": "DeBERTa as a decoder is not supported",
            "quantization_config": "quantised checkpoints are not supported",
            "z_steps": "an enhanced mask decoder of several steps is not supported",
        }.items():
            c.refuse(key, reason)
        self.vocab_size = c.size("vocab_size")
        self.hidden_size = hidden = c.size("hidden_size")
        self._rows = c.size("max_position_embeddings", 512)  # of a table, and the furthest relative position
        types = c.size("type_vocab_size", 0, minimum=0)
        self.type_vocab_size = types or 1
        layers = c.size("num_hidden_layers", maximum=MAX_LAYERS)
        heads = c.size("num_attention_heads")
        inner = c.size("intermediate_size")
        activation = c.choice("hidden_act", ACTIVATIONS, "gelu")
        self._eps = c.positive("layer_norm_eps", 1e-7)
        self._width = c.size("embedding_size", hidden)
        tie = c.flag("tie_word_embeddings", True)
        check_head_size(c, hidden, heads)
        if c.size("attention_head_size", hidden // heads) != hidden // heads:
            raise ValueError(f"{c.path}: attention_head_size is not hidden_size divided by num_attention_heads")
        self._describe = f"{layers} layers, {hidden} wide, {heads} heads"

        words = "embeddings.word_embeddings.weight"
        prefix = builder.prefix("deberta.", words, "embeddings.LayerNorm.weight")
        words, decoder = prefix + words, "cls.predictions.decoder"
        # Without a table of positions nothing ends: all distances beyond the furthest share its embedding.
        self._absolute = c.flag("position_biased_input", True)
        self.max_positions = self._rows if self._absolute else NO_LIMIT
        tables = [builder.table(words, (self.vocab_size, self._width), tied=f"{decoder}.weight" if tie else None)]
        if self._absolute:  # in the order in which transformers adds them
            name = f"{prefix}embeddings.position_embeddings.weight"
            tables.append(builder.table(name, (self._rows, self._width)))
        if types:
            tables.append(builder.table(f"{prefix}embeddings.token_type_embeddings.weight", (types, self._width)))
        self._types, self._tables = bool(types), tuple(tables)
        self._projection = None
        if self._width != hidden:
            self._projection = builder.linear(f"{prefix}embeddings.embed_proj", hidden, self._width, bias=False)
        self._norm = builder.norm(f"{prefix}embeddings.LayerNorm", hidden)
        self._read_attention(builder, f"{prefix}encoder.", layers, heads)
        names = [_names(f"{prefix}encoder.layer.{i}.") for i in range(layers)]
        built = [PostNormLayer.build(builder, name, hidden, inner) for name in names]
        # The convolution stands between the first layer and the others.
        self._convolution = _Convolution.read(builder, f"{prefix}encoder.conv", hidden, self._eps)
        first = 1 if self._convolution is not None else 0
        self._first_stack, self._stack = (
            PostNormStack(part, hidden=hidden, inner=inner, heads=heads, activation=activation, eps=self._eps)
            for part in (built[:first], built[first:])
        )

        pooler = Dense("pooler.dense", hidden, hidden, c.choice("pooler_hidden_act", ACTIVATIONS, "gelu"))
        self.add_heads(
            builder, masked_lm=lambda: self._masked_lm(c, words, tie, decoder, activation),
            **label_heads(hidden, pooler),
        )  # fmt: skip

    def _read_attention(self, builder: Builder, prefix: str, layers: int, heads: int) -> None:
        c, hidden = builder.config, self.hidden_size
        kinds = c.words("pos_att_type", _KINDS) or ()
        kinds = tuple(kind for kind in _KINDS if kind in kinds)
        furthest = c.size_or_none("max_relative_positions") or self._rows
        buckets = c.size_or_none("position_buckets")
        relative = c.flag("relative_attention", False)
        span = buckets or furthest
        try:
            self._attention = Disentangled(
                width=hidden // heads, terms=1 + len(kinds), span=span,
                max_distance=furthest if buckets and relative else None,
            )  # fmt: skip
        except ValueError as error:
            raise ValueError(f"{c.path}: position_buckets, max_relative_positions: {error}") from error
        normed = c.words("norm_rel_ebd", ("none", "layer_norm")) or ()
        self._positions: list[Mapping[str, Floats]] = []
        embeddings, norm = f"{prefix}rel_embeddings.weight", f"{prefix}LayerNorm" if "layer_norm" in normed else None
        if relative and kinds:
            self._positions = [
                position_panels(
                    builder, f"{prefix}layer.{i}.attention.self", embeddings, norm, self._eps, rows=2 * span,
                    hidden=hidden, heads=heads, shared=c.flag("share_att_key", False), kinds=kinds,
                )
                for i in range(layers)
            ]  # fmt: skip
            return
        if relative:  # stored without being used
            builder.table(embeddings, (2 * span, hidden))
        if norm is not None:
            builder.norm(norm, hidden)

    def _masked_lm(self, c: ConfigReader, words: str, tie: bool, decoder: str, activation: str) -> HeadSpec:
        hidden, width, tied = self.hidden_size, self._width, words if tie else None
        if c.flag("legacy", True):
            transform = "cls.predictions.transform"
            bias: tuple[str, ...] = ("cls.predictions.bias", f"{decoder}.bias")
            if tied is None:  # a decoder of its own has a bias of its own
                bias = bias[::-1]
        else:  # its decoder is always the table of words
            tied = words
            transform, decoder, width = "lm_predictions.lm_head", "lm_predictions.lm_head.decoder", hidden
            bias = ("lm_predictions.lm_head.bias",)
        return HeadSpec("masked_lm", "all", (
            Dense(f"{transform}.dense", width, hidden, activation),
            NormStep(f"{transform}.LayerNorm", width, self._eps),
            Dense(decoder, self.vocab_size, width, bias=bias, tied=tied, large=True),
        ))  # fmt: skip

    def _scratch_shapes(self, tokens: int) -> tuple[tuple[int, ...], ...]:
        shapes = self._stack.scratch_shapes(tokens)
        extra = () if self._convolution is None else ((tokens, self.hidden_size),)
        *states, (wide,) = shapes
        return (*states, (max(wide, 2 * tokens * self._width, self._windows(tokens)),), *extra)

    def _windows(self, tokens: int) -> int:
        return 0 if self._convolution is None else tokens * self._convolution.size * self.hidden_size

    def _forward(
        self,
        ids: Integers,
        type_ids: Integers,
        positions: Integers,
        spans: Spans,
        *,
        workspace: Workspace,
        out: Floats | None,
        num_threads: int | None,
    ) -> Floats:
        t = ids.size
        x, y, z, wide, *extra = workspace.carve(*self._scratch_shapes(t))
        summed = wide[: t * self._width].reshape(t, self._width)
        rows = [ids, *([positions] if self._absolute else []), *([type_ids] if self._types else [])]
        ops.embedding(self._tables, rows, out=summed, num_threads=num_threads)
        if self._projection is not None:
            summed = ops.linear(summed, self._projection, out=y, num_threads=num_threads)
        norm = self._norm
        ops.layer_norm(summed, norm.weight, norm.bias, self._eps, out=x, num_threads=num_threads)
        scratch = (x, y, z, wide)
        number = 0  # of the first layer of a stack

        def attend(layer: int, q: Floats, k: Floats, v: Floats, context: Floats) -> None:
            if not self._positions:
                spans.attend(q, k, v, out=context, scale=self._attention.scale, num_threads=num_threads)
                return
            panels = self._positions[number + layer]
            self._attention.attend(panels, spans, q, k, v, out=context, num_threads=num_threads)

        if self._convolution is not None:
            beside = extra[0]
            self._convolution.run(x, spans, wide, out=beside, num_threads=num_threads)
            self._first_stack.run(scratch, spans, out=None, attend=attend, num_threads=num_threads)
            last = out if self._stack.depth == 0 and out is not None else x
            self._convolution.join(beside, x, out=last, num_threads=num_threads)
            if self._stack.depth == 0:
                return last
            number = 1
        return self._stack.run(scratch, spans, out=out, attend=attend, num_threads=num_threads)


class _Convolution:
    """A convolution over neighbouring columns of the embeddings, added to the first layer's output under a norm."""

    def __init__(self, size: int, activation: Any, panels: Floats, bias: Floats, norm: Norm, hidden: int, eps: float):
        self.size = size
        self._activation, self._norm, self._hidden, self._eps = activation, norm, hidden, eps
        self._panels, self._bias = panels, bias
        self._layer: PackedLinear | None = None

    @classmethod
    def read(cls, builder: Builder, name: str, hidden: int, eps: float) -> _Convolution | None:
        """For constructors; None where the model has none."""
        c = builder.config
        size = c.size_or_none("conv_kernel_size")
        if size is None:
            return None
        if size % 2 == 0 or size > 63:
            raise ValueError(f"{c.path}: conv_kernel_size is {size}, expected an odd number below 64")
        if c.size("conv_groups", 1) != 1:
            raise ValueError(f"{c.path}: conv_groups is not 1: grouped convolutions are not supported")

        def make(weight: Floats, bias: Floats) -> dict[str, Floats]:
            # (outputs, inputs, size) -> a linear layer over the inputs of `size` tokens side by side
            flat = np.ascontiguousarray(weight.swapaxes(1, 2)).reshape(hidden, size * hidden)
            arrays = pack_linear(flat, bias, num_threads=builder.num_threads).arrays()
            return {"panels": arrays["panels"], "bias": arrays["bias"]}

        tensors = {f"{name}.conv.weight": (hidden, hidden, size), f"{name}.conv.bias": (hidden,)}
        shapes = {"panels": (-(-hidden // 16), size * hidden, 16), "bias": (hidden,)}
        made = builder.derive(f"{name}.windows", tensors, make, shapes=shapes)
        activation = c.choice("conv_act", ACTIVATIONS, "tanh")
        norm = builder.norm(f"{name}.LayerNorm", hidden)
        return cls(size, activation, made["panels"], made["bias"], norm, hidden, eps)

    def run(self, x: Floats, spans: Spans, room: Floats, *, out: Floats, num_threads: int | None) -> None:
        """activation(convolution(x)) -> out, (T, H) each; excluded and missing neighbours count as zeros."""
        if self._layer is None:
            self._layer = PackedLinear.from_arrays(
                {"panels": self._panels, "bias": self._bias}, self.size * self._hidden, self._hidden
            )
        t = len(x)
        windows = room[: t * self.size * self._hidden].reshape(t, -1)
        sequence = np.repeat(np.arange(spans.cu_seqlens.size - 1), np.diff(spans.cu_seqlens))
        # One number for each column of each sequence, ascending: neighbours are one apart.
        place = spans.columns + sequence * (int(spans.columns.max(initial=0)) + self.size + 1)
        wanted = place[:, None] + np.arange(self.size) - self.size // 2
        at = np.minimum(np.searchsorted(place, wanted), t - 1)
        ops.gather(x, np.where(place[at] == wanted, at, -1), out=windows, num_threads=num_threads)
        ops.linear(windows, self._layer, activation=self._activation, out=out, num_threads=num_threads)

    def join(self, beside: Floats, x: Floats, *, out: Floats, num_threads: int | None) -> None:
        """norm(x + beside) -> out"""
        norm = self._norm
        ops.layer_norm(beside, norm.weight, norm.bias, self._eps, residual=x, out=out, num_threads=num_threads)


def _names(prefix: str) -> PostNormNames:
    own = f"{prefix}attention.self."
    return PostNormNames(
        qkv=(f"{own}query_proj", f"{own}key_proj", f"{own}value_proj"),
        attention_out=f"{prefix}attention.output.dense",
        attention_norm=f"{prefix}attention.output.LayerNorm",
        up=f"{prefix}intermediate.dense",
        down=f"{prefix}output.dense",
        norm=f"{prefix}output.LayerNorm",
    )
