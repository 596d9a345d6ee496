# SPDX-License-Identifier: MIT
"""Parts that several pages have in common: sizes, embeddings, the layer of BERT's kin, their heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ..graph.config import ConfigReader
from ..graph.facts import Facts, Integers
from ..graph.graph import Graph, Value
from ..graph.heads import Dense, Head, HeadSpec, NormStep, classifier
from ..graph.names import Names
from ..graph.tasks import add_heads

__all__ = [
    "ACTIVATIONS", "EMBEDDINGS", "MAX_LAYERS", "PROBES", "Sizes", "add_heads", "architectures", "bert_names", "check_head_size",
    "embeddings", "gated_post_norm", "label_heads", "masked_lm", "pool_by", "positions_beside_padding", "post_norm",
    "project", "refuse_other_models",
]  # fmt: skip

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

PROBES = ("embeddings.position_embeddings.weight", "embeddings.LayerNorm.weight")
"""Tensors of every file of BERT's kin, to see whether names have a prefix."""


class Sizes(NamedTuple):
    """What all families have."""

    vocab: int
    hidden: int
    layers: int
    heads: int
    inner: int
    activation: str
    eps: float
    positions: int
    types: int = 1

    @classmethod
    def read(
        cls, c: ConfigReader, *, activation: str | None = "gelu", eps: float = 1e-12, types: int | None = 2,
        fewest_types: int = 1, positions: int | None = None,
    ) -> Sizes:  # fmt: skip
        """As most files spell them; the arguments are defaults, None where the key has to be there."""
        sizes = cls(
            vocab=c.size("vocab_size"),
            hidden=c.size("hidden_size"),
            layers=c.size("num_hidden_layers", maximum=MAX_LAYERS),
            heads=c.size("num_attention_heads"),
            inner=c.size("intermediate_size"),
            activation=c.choice("hidden_act", ACTIVATIONS, activation),
            eps=c.positive("layer_norm_eps", eps),
            positions=c.size("max_position_embeddings", positions),
            types=c.size("type_vocab_size", types, minimum=fewest_types) if types != 0 or fewest_types == 0 else 1,
        )
        check_head_size(c, sizes.hidden, sizes.heads)
        return sizes

    def facts(self, **changes: object) -> Facts:
        """Of a model with a table of positions."""
        facts = Facts(self.vocab, self.hidden, self.layers, self.heads, self.positions, self.types)
        return facts._replace(**changes)


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


def bert_names(prefix: str, **names: str) -> Names:
    """As BERT, RoBERTa and ELECTRA call their layers; ``names`` are further roles."""
    return Names(
        prefix,
        "encoder.layer.{i}.",
        {
            "attn_q": "attention.self.query", "attn_k": "attention.self.key", "attn_v": "attention.self.value",
            "attn_output": "attention.output.dense", "attn_output_norm": "attention.output.LayerNorm",
            "ffn_up": "intermediate.dense", "ffn_down": "output.dense", "layer_output_norm": "output.LayerNorm",
        },
        **EMBEDDINGS, **names,
    )  # fmt: skip


EMBEDDINGS = {
    "token_embd": "embeddings.word_embeddings", "token_types": "embeddings.token_type_embeddings",
    "position_embd": "embeddings.position_embeddings", "token_embd_norm": "embeddings.LayerNorm",
    "pooler": "pooler.dense",
}  # fmt: skip
"""Roles outside layers, as BERT's kin call them."""


def embeddings(g: Graph, s: Sizes, width: int, *, tied: str | None, types: int, positions: int) -> Value:
    """norm(word + token type + position), each of ``width``; tables of no rows are not there.

    ``tied``: a decoder that holds the same values as the table of words, and may be the one that was stored.
    """
    tables = {"ids": g.table("token_embd", (s.vocab, width), tied=tied)}
    if types:
        tables["types"] = g.table("token_types", (types, width))
    if positions:
        tables["positions"] = g.table("position_embd", (positions, width))
    return g.layer_norm(g.embed(tables, width), "token_embd_norm", s.eps)


def project(g: Graph, x: Value, width: int, *, bias: bool = True) -> list[Value]:
    """q, k, v of ``width`` each, from three layers."""
    return g.split(g.linear(x, ("attn_q", "attn_k", "attn_v"), width, bias=bias), width, width, width)


def post_norm(g: Graph, x: Value, attended: Value, s: Sizes) -> Value:
    """y = norm(x + output(attended));  norm(y + down(act(up(y))))   Vaswani et al., 2017; Devlin et al., 2018"""
    y = g.layer_norm(g.linear(attended, "attn_output", s.hidden), "attn_output_norm", s.eps, residual=x)
    inner = g.linear(y, "ffn_up", s.inner, activation=s.activation)
    return g.layer_norm(g.linear(inner, "ffn_down", s.hidden), "layer_output_norm", s.eps, residual=y)


def gated_post_norm(
    g: Graph, x: Value, attended: Value, s: Sizes, up: str | Sequence[str], *, biases: tuple[bool, bool, bool]
) -> Value:
    """y = norm(x + output(attended));  norm(y + down(act(b) a)), [a | b] = up(y)

    ``up``: one layer of both, or two; ``biases`` of output, up and down.
    """
    y = g.layer_norm(
        g.linear(attended, "attn_output", s.hidden, bias=biases[0]), "attn_output_norm", s.eps, residual=x
    )  # fmt: skip
    both = g.linear(y, up, 2 * s.inner if isinstance(up, str) else s.inner, bias=biases[1])
    inner = g.gated(both.columns(s.inner, s.inner), both.columns(0, s.inner), s.activation)
    return g.layer_norm(g.linear(inner, "ffn_down", s.hidden, bias=biases[2]), "layer_output_norm", s.eps, residual=y)


# ---- heads ----


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


def masked_lm(
    dense: Dense, norm: str, decoder: str, s: Sizes, *, bias: str, tied: str | None
) -> Callable[[], HeadSpec]:  # fmt: skip
    """A language model's head: ``dense``, a norm, the layer ``decoder`` to the vocabulary.

    Where the decoder is ``tied`` to the table of words (its full name), its bias is the tensor ``bias``; a decoder of
    its own has a bias of its own, which old files may keep under the other name alone.
    """
    own = f"{decoder}.bias"
    decode = Dense(
        decoder, s.vocab, dense.outputs, bias=(own, bias) if tied is None else (bias, own), tied=tied, large=True
    )
    steps = (dense, NormStep(norm, dense.outputs, s.eps), decode)
    return lambda: HeadSpec("masked_lm", "all", steps)


def positions_beside_padding(padding: int) -> Callable[[Integers, Integers, Integers], Integers]:
    """Positions (T,) of whole rows of token ids as fairseq counts them: from ``padding + 1`` over the tokens of a row
    that are not padding; padding itself, wherever it stands, has ``padding``.

    >>> count = positions_beside_padding(1)
    >>> count(np.array([0, 5, 1, 6, 1, 0, 2]), np.arange(7), np.array([5, 2])).tolist()
    [2, 3, 1, 4, 1, 2, 3]
    """

    def positions(ids: Integers, columns: Integers, lengths: Integers) -> Integers:
        real = ids != padding
        count = np.zeros(ids.size + 1, np.int64)
        np.cumsum(real, out=count[1:])
        before = np.repeat(count[np.cumsum(lengths) - lengths], lengths)
        return np.where(real, count[1:] - before, 0) + padding

    return positions
