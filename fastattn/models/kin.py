# SPDX-License-Identifier: MIT
"""What BERT and its relatives share: a sum of embedding tables under a norm, a projection, post-norm layers, heads.

A family's constructor reads its keys, names its tensors and describes its heads; the pass through the model is here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from .. import ops
from ..weights import PackedLinear
from .builder import Builder, Floats, Norm
from .config import ConfigReader
from .encoder import Encoder
from .heads import Dense, HeadSpec, NormStep, classifier
from .inputs import Integers
from .postnorm import PostNormStack
from .spans import Spans
from .workspace import Workspace

__all__ = [
    "PROBES", "Kin", "architectures", "label_heads", "masked_lm", "positions_beside_padding", "refuse_other_models",
]  # fmt: skip

PROBES = ("embeddings.position_embeddings.weight", "embeddings.LayerNorm.weight")
"""Tensors of every file, to see whether names have a prefix."""


class Kin(Encoder):
    """An encoder of post-norm layers; the constructor of a family sets the fields below."""

    position_table: ClassVar[bool] = True
    """Whether positions have a table; else they are rotary."""

    _tables: tuple[Floats, ...]
    """Embedding tables (rows, E) of token ids and, where a family has them, token types and positions."""
    _norm: Norm
    """Of the sum of their rows, (E,)."""
    _projection: PackedLinear | None
    """E -> H; None where the sum goes into the layers as it is."""
    _embedding_size: int
    """E"""
    _stack: PostNormStack
    _eps: float

    def add_tables(
        self, builder: Builder, prefix: str, size: int, *, tied: str | None, token_types: bool = True
    ) -> None:
        """For constructors: the tables of ``size`` columns and their norm, all behind ``prefix``.

        ``tied``: a decoder that holds the same values as the table of words, and may be the one that was stored.
        """
        rows = {"word": self.vocab_size, "token_type": self.type_vocab_size if token_types else 0}
        rows["position"] = builder.config.size("max_position_embeddings")
        self._tables = tuple(
            builder.table(f"{prefix}{name}_embeddings.weight", (count, size), tied=tied if name == "word" else None)
            for name, count in rows.items()
            if count
        )
        self._norm = builder.norm(f"{prefix}LayerNorm", size)
        self._embedding_size = size
        self._projection = None

    def pool_by(self, builder: Builder, layer: Dense) -> None:
        """For constructors: ``layer`` makes the pooler's output, in files that have one."""
        if builder.has(f"{layer.name}.weight") or builder.has(f"{layer.name}.bias"):
            self.add_pooler(HeadSpec("pooler", "first", (layer,)), builder)

    def _scratch_shapes(self, tokens: int) -> tuple[tuple[int, ...], ...]:
        *states, (wide,) = self._stack.scratch_shapes(tokens)
        return (*states, (max(wide, 2 * tokens * self._embedding_size),))

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
        scratch = workspace.carve(*self._scratch_shapes(ids.size))
        x, wide = scratch[0], scratch[-1]
        summed, normed = wide[: 2 * ids.size * self._embedding_size].reshape(2, ids.size, self._embedding_size)
        places = (positions,) if self.position_table else ()
        rows = (ids, type_ids, *places) if len(self._tables) > 1 + len(places) else (ids, *places)
        ops.embedding(self._tables, rows, out=summed, num_threads=num_threads)
        target = x if self._projection is None else normed
        norm = self._norm
        ops.layer_norm(summed, norm.weight, norm.bias, self._eps, out=target, num_threads=num_threads)
        if self._projection is not None:
            ops.linear(normed, self._projection, out=x, num_threads=num_threads)
        return self._stack.run(scratch, spans, out=out, positions=positions, num_threads=num_threads)


def architectures(*families: str, **others: str | None) -> dict[str, str | None]:
    """The classes of transformers that every one of the ``families`` has -> their heads; and ``others``."""
    heads = {
        "Model": None,
        "ForMultipleChoice": None,
        "ForMaskedLM": "masked_lm",
        "ForSequenceClassification": "sequence_classification",
        "ForTokenClassification": "token_classification",
        "ForQuestionAnswering": "question_answering",
    }
    return {f"{family}{suffix}": head for family in families for suffix, head in heads.items()} | others


def refuse_other_models(c: ConfigReader, family: str) -> None:
    """``ValueError`` for keys of config.json that ask for another model than the plain encoder of ``family``."""
    if c.null("position_embedding_type") and family not in ("DistilBERT", "MPNet"):  # which have no such key
        raise ValueError(
            f"{c.path}: position_embedding_type is null, which leaves positions out in transformers before 5 and not "
            "since; write 'absolute' if the model has them"
        )
    c.choice("position_embedding_type", {"absolute": None}, "absolute")
    c.refuse("is_decoder", f"{family} as a decoder is not supported")
    c.refuse("add_cross_attention", "cross-attention is not supported")
    c.refuse("pruned_heads", "pruned heads are not supported")
    c.refuse("quantization_config", "quantised checkpoints are not supported")


def label_heads(hidden: int, *before: Dense, last: str = "classifier") -> dict[str, Callable[[], HeadSpec]]:
    """The heads that give labels. A sequence classification has the layers ``before``, then ``last``; those of single
    tokens are called alike in all families.
    """
    return {
        "sequence_classification": lambda: classifier("sequence_classification", "first", before, last, hidden),
        "token_classification": lambda: classifier("token_classification", "all", (), "classifier", hidden),
        "question_answering": lambda: HeadSpec("question_answering", "all", (Dense("qa_outputs", 2, hidden),)),
    }


def masked_lm(
    dense: Dense, norm: str, decoder: str, *, vocabulary: int, eps: float, bias: str, tied: str | None
) -> Callable[[], HeadSpec]:
    """A language model's head: ``dense``, a norm, the layer ``decoder`` to the vocabulary.

    Where the decoder is ``tied`` to the table of words (its full name), its bias is the tensor ``bias``; a decoder of
    its own has a bias of its own, which old files may keep under the other name alone.
    """
    own = f"{decoder}.bias"
    decode = Dense(
        decoder, vocabulary, dense.outputs, bias=(own, bias) if tied is None else (bias, own), tied=tied, large=True
    )
    steps = (dense, NormStep(norm, dense.outputs, eps), decode)
    return lambda: HeadSpec("masked_lm", "all", steps)


def positions_beside_padding(ids: Integers, lengths: Integers, padding: int) -> Integers:
    """Positions (T,) of whole rows of token ids as fairseq counts them: from ``padding + 1`` over the tokens of a row
    that are not padding; padding itself, wherever it stands, has ``padding``.

    >>> positions_beside_padding(np.array([0, 5, 1, 6, 1, 0, 2]), np.array([5, 2]), 1).tolist()
    [2, 3, 1, 4, 1, 2, 3]
    """
    real = ids != padding
    count = np.zeros(ids.size + 1, np.int64)
    np.cumsum(real, out=count[1:])
    before = np.repeat(count[np.cumsum(lengths) - lengths], lengths)
    return np.where(real, count[1:] - before, 0) + padding
