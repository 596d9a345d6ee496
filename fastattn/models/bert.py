# SPDX-License-Identifier: MIT
"""BERT: embeddings, N layers of attention and feed-forward with the norm behind each residual, a pooler.

Devlin et al., 2018, https://arxiv.org/abs/1810.04805; names of tensors and keys as in transformers' BertModel.
"""

from __future__ import annotations

import re

from .. import ops
from .builder import Builder, Floats
from .encoder import Encoder
from .heads import Dense, HeadSpec, NormStep, classifier
from .inputs import Integers
from .postnorm import ACTIVATIONS, MAX_LAYERS, PostNormLayer, PostNormNames, PostNormStack, check_head_size
from .spans import Spans
from .workspace import Workspace

__all__ = ["BertModel"]


class BertModel(Encoder):
    """A BERT encoder; see ``Encoder`` for how to call it."""

    architectures = {
        "BertModel": None,
        "BertForPreTraining": None,
        "BertForMultipleChoice": None,
        "BertForMaskedLM": "masked_lm",
        "BertForNextSentencePrediction": "next_sentence",
        "BertForSequenceClassification": "sequence_classification",
        "BertForTokenClassification": "token_classification",
        "BertForQuestionAnswering": "question_answering",
    }

    # Index buffers that old versions of transformers saved, and the heads of other BertFor... classes.
    ignorable = re.compile(r"(bert\.)?(embeddings\.(position_ids|token_type_ids))|(cls|classifier|qa_outputs)\..*")

    def __init__(self, builder: Builder) -> None:
        super().__init__(builder)
        c = builder.config
        c.choice("position_embedding_type", {"absolute": None}, "absolute")
        c.refuse("is_decoder", "BERT as a decoder is not supported")
        c.refuse("add_cross_attention", "cross-attention is not supported")
        c.refuse("pruned_heads", "pruned heads are not supported")
        c.refuse("quantization_config", "quantised checkpoints are not supported")
        self.vocab_size = c.size("vocab_size")
        self.hidden_size = hidden = c.size("hidden_size")
        self.max_positions = c.size("max_position_embeddings")
        self.type_vocab_size = c.size("type_vocab_size")
        layers = c.size("num_hidden_layers", maximum=MAX_LAYERS)
        heads = c.size("num_attention_heads")
        inner = c.size("intermediate_size")
        activation = c.choice("hidden_act", ACTIVATIONS)
        self._eps = c.positive("layer_norm_eps", 1e-12)
        tie = c.flag("tie_word_embeddings", True)
        check_head_size(c, hidden, heads)
        self._describe = f"{layers} layers, {hidden} wide, {heads} heads"

        prefix = builder.prefix("bert.", "embeddings.position_embeddings.weight", "embeddings.LayerNorm.weight")
        words = f"{prefix}embeddings.word_embeddings.weight"
        decoder = "cls.predictions.decoder.weight"
        biases = ("cls.predictions.bias", "cls.predictions.decoder.bias")  # one of them is the decoder's
        # In the order in which transformers adds them. A language model's decoder is the table of word embeddings:
        # either may be the one that was stored.
        self._tables = (
            builder.table(words, (self.vocab_size, hidden), tied=decoder if tie else None),
            builder.table(f"{prefix}embeddings.token_type_embeddings.weight", (self.type_vocab_size, hidden)),
            builder.table(f"{prefix}embeddings.position_embeddings.weight", (self.max_positions, hidden)),
        )
        self._norm = builder.norm(f"{prefix}embeddings.LayerNorm", hidden)
        names = [PostNormNames.bert(f"{prefix}encoder.layer.{i}.") for i in range(layers)]
        self._stack = PostNormStack(
            [PostNormLayer.build(builder, name, hidden, inner) for name in names],
            hidden=hidden, inner=inner, heads=heads, activation=activation, eps=self._eps,
        )  # fmt: skip

        pooler = Dense(f"{prefix}pooler.dense", hidden, hidden, "tanh")
        if builder.has(f"{pooler.name}.weight") or builder.has(f"{pooler.name}.bias"):
            self.add_pooler(HeadSpec("pooler", "first", (pooler,)), builder)
        self.add_heads(
            builder,
            masked_lm=lambda: HeadSpec("masked_lm", "all", (
                Dense("cls.predictions.transform.dense", hidden, hidden, activation),
                NormStep("cls.predictions.transform.LayerNorm", hidden, self._eps),
                Dense(decoder.removesuffix(".weight"), self.vocab_size, hidden, large=True,
                      bias=biases if tie else biases[::-1], tied=words if tie else None),
            )),
            next_sentence=lambda: HeadSpec(
                "sequence_classification", "first", (pooler, Dense("cls.seq_relationship", 2, hidden))
            ),
            sequence_classification=lambda: classifier(
                c, "sequence_classification", "first", [pooler], "classifier", hidden
            ),
            token_classification=lambda: classifier(c, "token_classification", "all", [], "classifier", hidden),
            question_answering=lambda: HeadSpec("question_answering", "all", (Dense("qa_outputs", 2, hidden),)),
        )  # fmt: skip

    def _scratch_shapes(self, tokens: int) -> tuple[tuple[int, ...], ...]:
        return self._stack.scratch_shapes(tokens)

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
        ops.embedding(self._tables, (ids, type_ids, positions), out=scratch[1], num_threads=num_threads)
        norm = self._norm
        ops.layer_norm(scratch[1], norm.weight, norm.bias, self._eps, out=scratch[0], num_threads=num_threads)
        return self._stack.run(scratch, spans, out=out, num_threads=num_threads)
