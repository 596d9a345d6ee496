# SPDX-License-Identifier: MIT
"""BERT: embeddings, N layers of attention and feed-forward with the norm behind each residual, a pooler.

Devlin et al., 2018, https://arxiv.org/abs/1810.04805; names of tensors and keys as in transformers' BertModel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from .. import ops
from ..attention import attention_varlen
from ..loaders import WeightFile
from ..weights import PackedLinear, pack_linear
from .config import ConfigReader
from .encoder import Encoder, Floats
from .inputs import Integers
from .tensors import TensorSource
from .workspace import Workspace

__all__ = ["BertConfig", "BertModel"]

_ARCHITECTURES = (
    "BertModel",
    "BertForPreTraining",
    "BertForMaskedLM",
    "BertForNextSentencePrediction",
    "BertForSequenceClassification",
    "BertForMultipleChoice",
    "BertForTokenClassification",
    "BertForQuestionAnswering",
)

# config.json's name -> ops.linear's; gelu_new, gelu_fast and gelu_pytorch_tanh are spellings of one formula.
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}

_MAX_HEAD_SIZE = 512  # of attention_varlen
_MAX_LAYERS = 1000  # far above any model; a file that says more would have its tensors' names take all memory

# Index buffers that old versions of transformers saved, and the heads of the BertFor... classes.
_IGNORABLE = re.compile(r"(bert\.)?embeddings\.(position_ids|token_type_ids)|(cls|classifier|qa_outputs)\..*")


@dataclass(frozen=True, slots=True)
class BertConfig:
    """The part of config.json that decides what is computed."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    hidden_act: str
    """As ``ops.linear`` names it."""
    layer_norm_eps: float
    tie_word_embeddings: bool

    @property
    def head_size(self) -> int:
        """Width of one head."""
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def read(cls, config: ConfigReader) -> BertConfig:
        """Check every key that matters; ``ValueError`` names the file and the key."""
        architectures = config.architectures()
        if architectures and not set(architectures) & set(_ARCHITECTURES):
            raise ValueError(
                f"{config.path}: architecture {', '.join(architectures)!r} is not supported; "
                f"supported: {', '.join(_ARCHITECTURES)}"
            )
        config.choice("position_embedding_type", {"absolute": None}, "absolute")
        config.refuse("is_decoder", "BERT as a decoder is not supported")
        config.refuse("add_cross_attention", "cross-attention is not supported")
        config.refuse("pruned_heads", "pruned heads are not supported")
        config.refuse("quantization_config", "quantised checkpoints are not supported")
        result = cls(
            vocab_size=config.size("vocab_size"),
            hidden_size=config.size("hidden_size"),
            num_hidden_layers=config.size("num_hidden_layers", maximum=_MAX_LAYERS),
            num_attention_heads=config.size("num_attention_heads"),
            intermediate_size=config.size("intermediate_size"),
            max_position_embeddings=config.size("max_position_embeddings"),
            type_vocab_size=config.size("type_vocab_size"),
            hidden_act=config.choice("hidden_act", _ACTIVATIONS),
            layer_norm_eps=config.positive("layer_norm_eps", 1e-12),
            tie_word_embeddings=config.flag("tie_word_embeddings", True),
        )
        if result.hidden_size % result.num_attention_heads:
            raise ValueError(
                f"{config.path}: hidden_size {result.hidden_size} is not a multiple of "
                f"num_attention_heads {result.num_attention_heads}"
            )
        if result.head_size > _MAX_HEAD_SIZE:
            raise ValueError(
                f"{config.path}: hidden_size {result.hidden_size} and num_attention_heads {result.num_attention_heads} "
                f"make heads of {result.head_size}, expected at most {_MAX_HEAD_SIZE}"
            )
        return result

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of all tensors but the pooler's."""
        hidden, inner = self.hidden_size, self.intermediate_size
        shapes: dict[str, tuple[int, ...]] = {
            "embeddings.word_embeddings.weight": (self.vocab_size, hidden),
            "embeddings.position_embeddings.weight": (self.max_position_embeddings, hidden),
            "embeddings.token_type_embeddings.weight": (self.type_vocab_size, hidden),
        }
        linears = {
            "attention.self.query": (hidden, hidden),
            "attention.self.key": (hidden, hidden),
            "attention.self.value": (hidden, hidden),
            "attention.output.dense": (hidden, hidden),
            "intermediate.dense": (inner, hidden),
            "output.dense": (hidden, inner),
        }
        norms = ["embeddings.LayerNorm"]
        for i in range(self.num_hidden_layers):
            for name, shape in linears.items():
                shapes[f"encoder.layer.{i}.{name}.weight"] = shape
                shapes[f"encoder.layer.{i}.{name}.bias"] = shape[:1]
            norms += [f"encoder.layer.{i}.attention.output.LayerNorm", f"encoder.layer.{i}.output.LayerNorm"]
        for name in norms:
            shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (hidden,)
        return shapes


@dataclass(frozen=True, slots=True)
class _Norm:
    weight: Floats
    bias: Floats


@dataclass(frozen=True, slots=True)
class _Layer:
    qkv: PackedLinear  # H -> 3H: query, key and value in one product
    attention_out: PackedLinear  # H -> H
    attention_norm: _Norm
    up: PackedLinear  # H -> I
    down: PackedLinear  # I -> H
    norm: _Norm


class BertModel(Encoder):
    """A BERT encoder; see ``Encoder`` for how to call it. ``config`` holds what config.json says."""

    def __init__(self, config: BertConfig, source: TensorSource, path: Path, num_threads: int | None) -> None:
        super().__init__(path, num_threads)
        self.config = config
        self.hidden_size = config.hidden_size
        self.vocab_size = config.vocab_size
        self.type_vocab_size = config.type_vocab_size
        self.max_positions = config.max_position_embeddings
        # In the order in which transformers adds them.
        self._tables = (
            source["embeddings.word_embeddings.weight"],
            source["embeddings.token_type_embeddings.weight"],
            source["embeddings.position_embeddings.weight"],
        )
        self._embedding_norm = _norm(source, "embeddings.LayerNorm")
        self._layers = [_layer(source, f"encoder.layer.{i}.", num_threads) for i in range(config.num_hidden_layers)]
        self._pooler = _linear(source, num_threads, "pooler.dense") if "pooler.dense.weight" in source else None

    @classmethod
    def build(cls, config: ConfigReader, weights: WeightFile, path: Path, num_threads: int | None) -> Self:
        bert = BertConfig.read(config)
        table = "embeddings.position_embeddings.weight"
        prefix = "bert." if f"bert.{table}" in weights and table not in weights else ""
        expected = bert.tensors()
        if any(name.startswith(f"{prefix}pooler.") for name in weights):
            expected["pooler.dense.weight"] = (bert.hidden_size, bert.hidden_size)
            expected["pooler.dense.bias"] = (bert.hidden_size,)
        # A language model's decoder is the table of word embeddings: either may be the one that was stored.
        tied = {"embeddings.word_embeddings.weight": "cls.predictions.decoder.weight"}
        source = TensorSource(
            weights, expected, prefix=prefix, tied=tied if bert.tie_word_embeddings else None, ignorable=_IGNORABLE
        )
        return cls(bert, source, path, num_threads)

    def __repr__(self) -> str:
        c = self.config
        return (
            f"<BertModel {str(self.path)!r}: {c.num_hidden_layers} layers, {c.hidden_size} wide, "
            f"{c.num_attention_heads} heads>"
        )

    def _scratch_shapes(self, tokens: int) -> tuple[tuple[int, ...], ...]:
        c = self.config
        return (*[(tokens, c.hidden_size)] * 3, (tokens * max(3 * c.hidden_size, c.intermediate_size),))

    def _forward(
        self,
        ids: Integers,
        type_ids: Integers,
        positions: Integers,
        cu_seqlens: Integers,
        *,
        workspace: Workspace,
        out: Floats | None,
        num_threads: int | None,
    ) -> Floats:
        c, t = self.config, ids.size
        x, y, z, wide = workspace.carve(*self._scratch_shapes(t))  # (T, H), (T, H), (T, H), room for 3H or I per token
        qkv = wide[: t * 3 * c.hidden_size].reshape(t, 3 * c.hidden_size)
        inner = wide[: t * c.intermediate_size].reshape(t, c.intermediate_size)  # qkv is done with by then
        q, k, v = qkv.reshape(t, 3, c.num_attention_heads, c.head_size).swapaxes(0, 1)  # (T, heads, D) each, no copies
        context = y.reshape(t, c.num_attention_heads, c.head_size)
        eps = c.layer_norm_eps

        ops.embedding(self._tables, (ids, type_ids, positions), out=z, num_threads=num_threads)
        first, last = self._embedding_norm, self._layers[-1]
        ops.layer_norm(z, first.weight, first.bias, eps, out=x, num_threads=num_threads)
        for layer in self._layers:
            ops.linear(x, layer.qkv, out=qkv, num_threads=num_threads)
            attention_varlen(q, k, v, cu_seqlens, cu_seqlens, out=context, num_threads=num_threads)
            ops.linear(y, layer.attention_out, out=z, num_threads=num_threads)
            norm = layer.attention_norm
            ops.layer_norm(z, norm.weight, norm.bias, eps, residual=x, out=y, num_threads=num_threads)
            ops.linear(y, layer.up, activation=c.hidden_act, out=inner, num_threads=num_threads)
            ops.linear(inner, layer.down, out=z, num_threads=num_threads)
            norm = layer.norm
            target = out if layer is last and out is not None else x
            ops.layer_norm(z, norm.weight, norm.bias, eps, residual=y, out=target, num_threads=num_threads)
        return target

    def _pool_first(self, first: Floats, num_threads: int | None) -> Floats | None:
        if self._pooler is None:
            return None
        return ops.linear(first, self._pooler, activation="tanh", num_threads=num_threads)


def _norm(source: TensorSource, name: str) -> _Norm:
    return _Norm(source[f"{name}.weight"], source[f"{name}.bias"])


def _linear(source: TensorSource, num_threads: int | None, *names: str) -> PackedLinear:
    """One packed product of the linear layers ``names``, their outputs side by side."""
    weights, biases = ([source[f"{name}.{kind}"] for name in names] for kind in ("weight", "bias"))
    if len(names) == 1:
        return pack_linear(weights[0], biases[0], num_threads=num_threads)
    return pack_linear(np.concatenate(weights), np.concatenate(biases), num_threads=num_threads)


def _layer(source: TensorSource, prefix: str, num_threads: int | None) -> _Layer:
    heads = [f"{prefix}attention.self.{name}" for name in ("query", "key", "value")]
    return _Layer(
        qkv=_linear(source, num_threads, *heads),
        attention_out=_linear(source, num_threads, f"{prefix}attention.output.dense"),
        attention_norm=_norm(source, f"{prefix}attention.output.LayerNorm"),
        up=_linear(source, num_threads, f"{prefix}intermediate.dense"),
        down=_linear(source, num_threads, f"{prefix}output.dense"),
        norm=_norm(source, f"{prefix}output.LayerNorm"),
    )
