# SPDX-License-Identifier: MIT
"""What stands on top of several encoders: poolers, and heads by the names that transformers has for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..graph.graph import Graph, Value
from ..graph.heads import Dense, Head, HeadSpec, NormStep, classifier
from ..graph.tasks import add_heads
from .blocks import Sizes

__all__ = ["Decoder", "add_heads", "architectures", "label_heads", "pool_by", "roberta_heads"]


def architectures(*families: str, **others: str | None) -> dict[str, str | None]:
    """The classes of transformers that every one of the ``families`` has -> their heads; and ``others``."""
    heads = {
        "Model": None, "ForMultipleChoice": None, "ForMaskedLM": "masked_lm",
        "ForSequenceClassification": "sequence_classification", "ForTokenClassification": "token_classification",
        "ForQuestionAnswering": "question_answering",
    }  # fmt: skip
    return {f"{family}{suffix}": head for family in families for suffix, head in heads.items()} | others


def pool_by(g: Graph, x: Value, layer: Dense) -> None:
    """``layer`` makes the pooler's output of the first token, in files that have one."""
    if g.source.has(f"{layer.name}.weight") or g.source.has(f"{layer.name}.bias"):
        g.tasks.pooler = Head.build(HeadSpec("pooler", "first", (layer,)), g.source)
        g.output("pooler", g.tasks.pooler.record(g, x))


def label_heads(hidden: int, *before: Dense, last: str = "classifier") -> dict[str, Callable[[], HeadSpec]]:
    """The heads that give labels. A sequence classification has the layers ``before``, then ``last``; those of single
    tokens are called alike in all families.
    """
    return {
        "sequence_classification": lambda: classifier("sequence_classification", "first", before, last, hidden),
        "token_classification": lambda: classifier("token_classification", "all", (), "classifier", hidden),
        "question_answering": lambda: HeadSpec("question_answering", "all", (Dense("qa_outputs", 2, hidden),)),
    }


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

    def behind(self, s: Sizes, *steps: Dense | NormStep, width: int | None = None) -> Callable[[], HeadSpec]:
        """The head of a masked language model: ``steps``, which give ``width`` or the model's, then the decoder."""
        last = Dense(self.name, s.vocab, width or s.hidden, bias=self.biases, tied=self.words, large=True)
        return lambda: HeadSpec("masked_lm", "all", (*steps, last))


def roberta_heads(g: Graph, x: Value, s: Sizes, decoder: Decoder) -> None:
    """The pooler and the heads of RoBERTa and those that took its names."""
    pool_by(g, x, Dense(g.name("pooler"), s.hidden, s.hidden, "tanh"))
    before = Dense("lm_head.dense", s.hidden, s.hidden, "gelu"), NormStep("lm_head.layer_norm", s.hidden, s.eps)
    first = Dense("classifier.dense", s.hidden, s.hidden, "tanh")
    labels = label_heads(s.hidden, first, last="classifier.out_proj")
    add_heads(g, x, masked_lm=decoder.behind(s, *before), **labels)
