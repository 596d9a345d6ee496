# SPDX-License-Identifier: MIT
"""ModernBERT: norms in front of each part, rotary positions, GeGLU, attention that is local in most layers.

    y = x + attention(norm(x));  x = y + down(gelu(a) b), [a | b] = up(norm(y));  at the end norm(x)

Warner et al., 2024, https://arxiv.org/abs/2412.13663; names of tensors and keys as in transformers' ModernBertModel.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property

from .. import ops
from ..program import Program
from ..weights import PackedLinear
from .builder import Builder, Floats, Norm
from .config import ConfigReader
from .encoder import Encoder
from .heads import Dense, HeadSpec, NormStep, classifier
from .inputs import NO_LIMIT, Integers
from .postnorm import ACTIVATIONS, MAX_LAYERS, check_head_size
from .rotary import Rotary, build_rotary, theta_of
from .spans import Spans
from .workspace import Workspace

__all__ = ["ModernBertModel"]

_TABLES = ("full_attention", "sliding_attention")
_KINDS = {"full_attention": 160000.0, "sliding_attention": 10000.0}  # and rope_theta where the keys are missing


@dataclass(frozen=True, slots=True)
class _Layer:
    """Weights of a layer of width H, inner width I."""

    kind: str
    attention_norm: Norm | None  # the first layer stands behind the norm of the embeddings
    qkv: PackedLinear  # H -> 3H
    attention_out: PackedLinear  # H -> H
    norm: Norm
    up: PackedLinear  # H -> 2I, what goes through the activation first
    down: PackedLinear  # I -> H


class ModernBertModel(Encoder):
    """A ModernBERT encoder; see ``Encoder`` for how to call it."""

    architectures = {
        "ModernBertModel": None,
        "ModernBertForMultipleChoice": None,
        "ModernBertForMaskedLM": "masked_lm",
        "ModernBertForSequenceClassification": "sequence_classification",
        "ModernBertForTokenClassification": "token_classification",
        "ModernBertForQuestionAnswering": "question_answering",
    }
    ignorable = re.compile(r".*rotary_emb\..*|(head|decoder|classifier)\..*")
    pooled_output = False

    def __init__(self, builder: Builder) -> None:
        super().__init__(builder)
        c = builder.config
        c.refuse("quantization_config", "quantised checkpoints are not supported")
        self.vocab_size = c.size("vocab_size")
        self.hidden_size = hidden = c.size("hidden_size")
        self.max_positions, self.trained_positions = NO_LIMIT, c.size("max_position_embeddings", 8192)
        self._inner = inner = c.size("intermediate_size")
        self._heads = heads = c.size("num_attention_heads")
        self._activation = c.choice("hidden_activation", ACTIVATIONS, "gelu")
        self._eps = c.positive("norm_eps", 1e-5)
        norm_bias = c.flag("norm_bias", False)
        half = c.size("local_attention", 128) // 2
        self._windows = {"full_attention": None, "sliding_attention": (half, half)}
        tie = c.flag("tie_word_embeddings", True)
        check_head_size(c, hidden, heads)
        kinds = _layer_kinds(c)
        self._rotary = {kind: _rotary(c, kind, hidden // heads, self.trained_positions) for kind in _TABLES}
        self._describe = f"{len(kinds)} layers, {hidden} wide, {heads} heads"

        words = "embeddings.tok_embeddings.weight"
        prefix = builder.prefix("model.", words)
        words = prefix + words
        self._table = builder.table(words, (self.vocab_size, hidden), tied="decoder.weight" if tie else None)
        self._first_norm = builder.norm(f"{prefix}embeddings.norm", hidden, bias=norm_bias)
        attention_bias, inner_bias = c.flag("attention_bias", False), c.flag("mlp_bias", False)
        self._layers = []
        for i, kind in enumerate(kinds):
            name = f"{prefix}layers.{i}."
            self._layers.append(_Layer(
                kind=kind,
                attention_norm=builder.norm(f"{name}attn_norm", hidden, bias=norm_bias) if i else None,
                qkv=builder.linear(f"{name}attn.Wqkv", 3 * hidden, hidden, bias=attention_bias),
                attention_out=builder.linear(f"{name}attn.Wo", hidden, hidden, bias=attention_bias),
                norm=builder.norm(f"{name}mlp_norm", hidden, bias=norm_bias),
                up=builder.linear(f"{name}mlp.Wi", 2 * inner, hidden, bias=inner_bias),
                down=builder.linear(f"{name}mlp.Wo", hidden, inner, bias=inner_bias),
            ))  # fmt: skip
        self._final_norm = builder.norm(f"{prefix}final_norm", hidden, bias=norm_bias)

        before = (
            Dense("head.dense", hidden, hidden, c.choice("classifier_activation", ACTIVATIONS, "gelu"),
                  bias=c.flag("classifier_bias", False)),
            NormStep("head.norm", hidden, self._eps, bias=norm_bias),
        )  # fmt: skip
        rows = c.choice("classifier_pooling", {"cls": "first", "mean": "mean"}, "cls")
        self.add_heads(
            builder,
            masked_lm=lambda: HeadSpec("masked_lm", "all", (
                *before,
                Dense("decoder", self.vocab_size, hidden, large=True, tied=words if tie else None,
                      bias=c.flag("decoder_bias", True)),
            )),
            sequence_classification=lambda: classifier("sequence_classification", rows, before, "classifier", hidden),
            token_classification=lambda: classifier("token_classification", "all", before, "classifier", hidden),
            question_answering=lambda: HeadSpec("question_answering", "all", (*before, Dense("classifier", 2, hidden))),
        )  # fmt: skip

    def _scratch_shapes(self, tokens: int) -> tuple[tuple[int, ...], ...]:
        hidden = self.hidden_size
        return (*[(tokens, hidden)] * 3, (tokens * max(3 * hidden, 3 * self._inner),))

    @cached_property
    def _program(self) -> tuple[Program, list[int]]:
        """Slots x, y, z, q k v, both halves of a gate, what goes into the last layer, result; and which of the steps
        are attention.
        """
        h, inner, heads, eps = self.hidden_size, self._inner, self._heads, self._eps
        size = h // heads
        program = Program([h, h, h, 3 * h, 2 * inner, inner, h])
        attentions = []
        for layer in self._layers:
            source = 0
            if layer.attention_norm is not None:
                source = 1
                program.norm(0, layer.attention_norm.weight, layer.attention_norm.bias, eps, 1)
            program.linear(source, layer.qkv, 3)
            number = _TABLES.index(layer.kind)
            self._rotary[layer.kind].note(program, 3, 2 * heads, size, number)
            attentions.append(len(program))
            window = self._windows[layer.kind]
            program.attention(
                3, (0, h, 2 * h), heads, size, 2, scale=1 / math.sqrt(size), window=window or (-1, -1)
            )
            program.linear(2, layer.attention_out, 1)
            program.plus(0, 1, 0)
            program.norm(0, layer.norm.weight, layer.norm.bias, eps, 1)
            program.linear(1, layer.up, 4)
            program.gated(4, (0, inner), 5, self._activation)
            program.linear(5, layer.down, 2)
            program.plus(0, 2, 0)
        program.norm(0, self._final_norm.weight, self._final_norm.bias, eps, 6)
        return program, attentions

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
        t, hidden, inner = ids.size, self.hidden_size, self._inner
        x, y, z, wide = workspace.carve(*self._scratch_shapes(t))
        qkv = wide[: t * 3 * hidden].reshape(t, 3 * hidden)  # done with when the feed-forward layers need the place
        halves = wide[: t * 2 * inner].reshape(t, 2 * inner)
        gated = wide[t * 2 * inner : t * 3 * inner].reshape(t, inner)
        ops.embedding((self._table,), (ids,), out=y, num_threads=num_threads)
        norm = self._first_norm
        ops.layer_norm(y, norm.weight, norm.bias, self._eps, out=x, num_threads=num_threads)

        result = y if out is None else out
        arrays = [x, y, z, qkv, halves, gated, result]
        tables = [self._rotary[kind].rows(positions, spans.cu_seqlens) for kind in _TABLES]
        program, attentions = self._program
        if not spans.has_holes:
            program.run(arrays, spans.cu_seqlens, num_threads, tables=tables)
            return result
        q, k, v = qkv.reshape(t, 3, self._heads, hidden // self._heads).swapaxes(0, 1)  # (T, heads, D), no copies
        context = z.reshape(t, self._heads, hidden // self._heads)
        done = 0
        for layer, step in zip(self._layers, attentions, strict=True):
            window = self._windows[layer.kind]
            if window is None:
                continue
            program.run(arrays, spans.cu_seqlens, num_threads, done, step, tables)
            spans.attend(q, k, v, out=context, window=window, num_threads=num_threads)
            done = step + 1
        program.run(arrays, spans.cu_seqlens, num_threads, done, tables=tables)
        return result


def _layer_kinds(c: ConfigReader) -> tuple[str, ...]:
    """``layer_types``; in older files one layer in ``global_attn_every_n_layers``, from the first, sees everything."""
    layers = c.size("num_hidden_layers", maximum=MAX_LAYERS)
    kinds = c.words("layer_types", tuple(_KINDS))
    if kinds is None:
        every = c.size("global_attn_every_n_layers", 3)
        return tuple("sliding_attention" if i % every else "full_attention" for i in range(layers))
    if len(kinds) != layers:
        raise ValueError(f"{c.path}: layer_types has {len(kinds)} entries, expected {layers}, num_hidden_layers")
    return kinds


def _rotary(c: ConfigReader, kind: str, width: int, positions: int) -> Rotary:
    """Of the layers of a kind. ``rope_parameters`` has an entry for each kind; what it does not say is in the keys of
    files of before transformers 5. There null in place of local_rope_theta is the base of the other layers, and not,
    as where the key is missing, a default of its own.
    """
    base = c.positive("global_rope_theta", _KINDS["full_attention"])
    if kind == "sliding_attention" and not c.null("local_rope_theta"):
        base = c.positive("local_rope_theta", _KINDS[kind])
    parameters = c.mapping("rope_parameters") or {}
    own = parameters.get(kind)
    if own is not None and not isinstance(own, dict):
        raise ValueError(f"{c.path}: rope_parameters has {str(own)[:100]!r} for {kind}, expected an object")
    own = {**(own or {}), **(c.mapping("rope_scaling") or {})}
    base, scaling = theta_of(c, f"rope_parameters of {kind}", own, base)
    return build_rotary(c, width, base=base, scaling=scaling, positions=positions)
