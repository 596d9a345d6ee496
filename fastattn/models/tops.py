# SPDX-License-Identifier: MIT
"""What stands on top of several encoders: poolers, and heads by the names that transformers has for them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..graph.graph import Graph, Value
from ..graph.heads import Dense, Head, HeadSpec, NormStep, classifier
from ..graph.tasks import add_heads
from .blocks import Sizes

__all__ = ["Decoder", "add_heads", "architectures", "ignorable", "label_heads", "normed", "pooled", "roberta_heads"]


def architectures(*families: str, **others: str | None) -> dict[str, str | None]:
    """The classes of transformers that every one of the ``families`` has -> their heads; and ``others``."""
    heads = {
        "Model": None, "ForMultipleChoice": None, "ForMaskedLM": "masked_lm",
        "ForSequenceClassification": "sequence_classification", "ForTokenClassification": "token_classification",
        "ForQuestionAnswering": "question_answering",
    }  # fmt: skip
    return {f"{family}{suffix}": head for family in families for suffix, head in heads.items()} | others


def ignorable(prefix: str, heads: str, *others: str) -> re.Pattern[str]:
    """Full names of tensors that a model may leave unused: index buffers that old versions of transformers saved, with
    or without ``prefix``; what other classes have on top, ``heads`` and those of all families; and ``others``.
    """
    buffers, tops = rf"({prefix})?embeddings\.(position_ids|token_type_ids)", rf"({heads}|classifier|qa_outputs)\..*"
    return re.compile("|".join((buffers, tops, *others)))


def pooled(g: Graph, x: Value, s: Sizes) -> Dense:
    """The pooler, which makes an output of the first token in files that have one."""
    layer = Dense(g.name("pooler"), s.hidden, s.hidden, "tanh")
    if g.source.has(f"{layer.name}.weight") or g.source.has(f"{layer.name}.bias"):
        g.tasks.pooler = Head.build(HeadSpec("pooler", "first", (layer,)), g.source)
        g.output("pooler", g.tasks.pooler.record(g, x))
    return layer


def label_heads(hidden: int, *before: Dense, last: str = "classifier") -> dict[str, Callable[[], HeadSpec]]:
    """The heads that give labels. A sequence classification has the layers ``before``, then ``last``; those of single
    tokens are called alike in all families.
    """
    return {
        "sequence_classification": lambda: classifier("sequence_classification", "first", before, last, hidden),
        "token_classification": lambda: classifier("token_classification", "all", (), "classifier", hidden),
        "question_answering": lambda: HeadSpec("question_answering", "all", (Dense("qa_outputs", 2, hidden),)),
    }


def normed(
    s: Sizes, dense: str, norm: str, *, width: int | None = None, activation: str | None = None, bias: bool = True
) -> tuple[Dense, NormStep]:
    """norm(act(dense(x))), of ``width`` or the model's: what stands before a decoder."""
    size = width or s.hidden
    return Dense(dense, size, s.hidden, activation or s.activation, bias), NormStep(norm, size, s.eps)


class Decoder(NamedTuple):
    """The layer from hidden states to the vocabulary, which is the table of words unless the file says otherwise."""

    name: str
    words: str | None
    """Full name of that table; None where the decoder has weights of its own."""
    biases: Sequence[str]
    """Full names under which the bias may lie; none where there is no bias."""

    @classmethod
    def read(cls, g: Graph, name: str, bias: str | None = None) -> Decoder:
        """As ``tie_word_embeddings`` says.

        ``bias``: full name that the bias of the table of words has; a decoder of its own has a bias of its own, which
        old files may keep under the other name alone.
        """
        biases = (f"{name}.bias",) if bias is None else (bias, f"{name}.bias")
        if g.config.flag("tie_word_embeddings", True):
            return cls(name, f"{g.name('token_embd')}.weight", biases)
        return cls(name, None, biases[::-1])

    @property
    def stored(self) -> str | None:
        """The full name under which the table of words may be stored instead."""
        return None if self.words is None else f"{self.name}.weight"

    def behind(self, s: Sizes, before: tuple[Dense, NormStep]) -> Callable[[], HeadSpec]:
        """The head of a masked language model: what stands ``before``, then the decoder."""
        last = Dense(self.name, s.vocab, before[1].size, bias=self.biases, tied=self.words, large=True)
        return lambda: HeadSpec("masked_lm", "all", (*before, last))


def roberta_heads(g: Graph, x: Value, s: Sizes, decoder: Decoder) -> None:
    """The pooler and the heads of RoBERTa and those that took its names."""
    pooled(g, x, s)
    before = normed(s, "lm_head.dense", "lm_head.layer_norm", activation="gelu")
    first = Dense("classifier.dense", s.hidden, s.hidden, "tanh")
    labels = label_heads(s.hidden, first, last="classifier.out_proj")
    add_heads(g, x, masked_lm=decoder.behind(s, before), **labels)
