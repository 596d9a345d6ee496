# SPDX-License-Identifier: MIT
"""What stands on top of an encoder: a pooler or the head of a task, described as data.

A family says which rows a head starts from and which steps follow; everything else is the same for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .. import ops
from ..weights import PackedLinear
from .builder import Builder, Floats, Norm
from .labels import MAX_LABELS, read_labels

__all__ = [
    "BaseModelOutput", "BaseModelOutputWithPooling", "Dense", "Head", "HeadSpec", "MaskedLMOutput", "NormStep",
    "QuestionAnsweringModelOutput", "SequenceClassifierOutput", "TokenClassifierOutput", "classifier",
    "with_labels",
]  # fmt: skip


class BaseModelOutput(NamedTuple):
    """Hidden states alone."""

    last_hidden_state: Floats
    """(B, S, H); zeros where the attention mask is 0."""


class BaseModelOutputWithPooling(NamedTuple):
    """Hidden states, and what the pooler makes of the first token."""

    last_hidden_state: Floats
    """(B, S, H); zeros where the attention mask is 0."""
    pooler_output: Floats | None
    """(B, H); None where the checkpoint has no pooler."""


class SequenceClassifierOutput(NamedTuple):
    """Of an architecture ...ForSequenceClassification."""

    logits: Floats
    """(B, labels); zeros for a row whose first token the attention mask excludes."""


class TokenClassifierOutput(NamedTuple):
    """Of an architecture ...ForTokenClassification."""

    logits: Floats
    """(B, S, labels); zeros where the attention mask is 0."""


class QuestionAnsweringModelOutput(NamedTuple):
    """Of an architecture ...ForQuestionAnswering."""

    start_logits: Floats
    """(B, S); zeros where the attention mask is 0."""
    end_logits: Floats
    """(B, S)"""


class MaskedLMOutput(NamedTuple):
    """Of an architecture ...ForMaskedLM."""

    logits: Floats
    """(B, S, vocabulary); zeros where the attention mask is 0."""


class Dense(NamedTuple):
    """A step of a head: activation(x W^T + b)."""

    name: str
    """Full name of the layer in the file."""
    outputs: int
    inputs: int
    activation: str | None = None
    """As ``ops.linear`` names it."""
    bias: bool | Sequence[str] = True
    """Whether there is one; or the full names under which it may lie."""
    tied: str | None = None
    """Full name of a tensor with the same weights, where the layer's own are not stored."""
    large: bool = False
    """Stored in the model's type; the others, which are small, stay float32."""


class NormStep(NamedTuple):
    """A step of a head: a layer norm."""

    name: str
    size: int
    eps: float
    bias: bool = True


class HeadSpec(NamedTuple):
    """A head as a family describes it."""

    kind: str
    """"pooler", "sequence_classification", "token_classification", "question_answering" or "masked_lm"."""
    rows: str
    """What goes in: the "first" token of each sequence, the "mean" over its tokens, or "all" tokens."""
    steps: tuple[Dense | NormStep, ...]
    labels: tuple[str, ...] = ()
    """Names of the last step's outputs, where they have names."""
    problem_type: str | None = None
    """Of a sequence classification: ``ConfigReader.problem_type``."""
    labelled: bool = False
    """Whether config.json has a label for each output."""


def classifier(kind: str, rows: str, before: Sequence[Dense | NormStep], name: str, inputs: int) -> HeadSpec:
    """A head whose last layer, ``name``, has an output for each label: how many that are, ``with_labels`` says."""
    return HeadSpec(kind, rows, (*before, Dense(name, 0, inputs)), labelled=True)


def with_labels(spec: HeadSpec, builder: Builder, *, silent: bool) -> HeadSpec:
    """``spec`` with the labels of config.json and the outputs that the stored tensors have.

    ``silent``: where config.json names no labels, there are as many as the tensors have outputs; else two.
    """
    last = spec.steps[-1]
    if not spec.labelled or not isinstance(last, Dense):
        return spec
    config = builder.config
    rows = builder.outputs(last.name, last.inputs)
    known = rows if rows is not None and 0 < rows <= MAX_LABELS else None
    labels = read_labels(config, known, last.name, last.inputs, silent=silent)
    problem_type = config.problem_type() if spec.kind == "sequence_classification" else None
    steps = (*spec.steps[:-1], last._replace(outputs=len(labels)))
    return spec._replace(steps=steps, labels=labels, problem_type=problem_type)


class _DenseStep(NamedTuple):
    layer: PackedLinear
    activation: Any  # of ``Dense``: None, or what ops.linear takes


class _NormStep(NamedTuple):
    norm: Norm
    eps: float


@dataclass(frozen=True, slots=True)
class Head:
    """A head with its weights. Made by ``Head.build``."""

    kind: str
    """What it is for; see ``HeadSpec.kind``."""
    labels: tuple[str, ...]
    """Names of the outputs, in their order; none where they have no names."""
    problem_type: str | None
    """Of a sequence classification: "regression", "single_label_classification", "multi_label_classification", None."""
    outputs: int
    """Numbers for each sequence or token."""
    _rows: str
    _steps: tuple[_DenseStep | _NormStep, ...]

    @classmethod
    def build(cls, spec: HeadSpec, builder: Builder) -> Head:
        """Ask for the weights of ``spec``."""
        steps: list[_DenseStep | _NormStep] = []
        outputs = 0
        for step in spec.steps:
            if isinstance(step, Dense):
                outputs = step.outputs
                dtype = None if step.large else "float32"
                layer = builder.linear(
                    step.name, step.outputs, step.inputs, bias=step.bias, tied=step.tied, dtype=dtype
                )
                steps.append(_DenseStep(layer, step.activation))
            else:
                steps.append(_NormStep(builder.norm(step.name, step.size, bias=step.bias), step.eps))
        if spec.labels and len(spec.labels) != outputs:
            raise ValueError(f"{builder.config.path}: {len(spec.labels)} labels for {outputs} outputs of the head")
        return cls(spec.kind, spec.labels, spec.problem_type, outputs, spec.rows, tuple(steps))

    @property
    def per_token(self) -> bool:
        """Whether every token gets outputs of its own."""
        return self._rows == "all"

    @property
    def from_first(self) -> bool:
        """Whether the outputs of a sequence are made from its first token alone."""
        return self._rows == "first"

    def apply(self, hidden: Floats, cu_seqlens: Any, num_threads: int | None = None) -> Floats:
        """The head's outputs for packed sequences.

        Parameters
        ----------
        hidden
            (T, H) hidden states.
        cu_seqlens
            (n + 1,) the ends of the n sequences, none of them empty.

        Returns
        -------
        (n, L) float32, or (T, L) where ``per_token``.
        """
        x = hidden
        if self._rows == "first":
            x = np.take(hidden, np.asarray(cu_seqlens)[:-1], axis=0)
        elif self._rows == "mean":
            x = ops.pool(hidden, cu_seqlens, "mean", num_threads=num_threads)
        return self.apply_rows(x, num_threads)

    def apply_rows(self, x: Floats, num_threads: int | None = None) -> Floats:
        """The steps alone: (n, H) -> (n, L)."""
        for step in self._steps:
            if isinstance(step, _NormStep):
                x = ops.layer_norm(x, step.norm.weight, step.norm.bias, step.eps, num_threads=num_threads)
            else:
                x = ops.linear(x, step.layer, activation=step.activation, num_threads=num_threads)
        return x


class _TwoOutputs:
    """start and end of a question answering head, which are the two columns of its outputs."""

    @staticmethod
    def of(logits: Floats) -> QuestionAnsweringModelOutput:
        return QuestionAnsweringModelOutput(logits[..., 0].copy(), logits[..., 1].copy())


OUTPUTS: Mapping[str, Any] = {
    "sequence_classification": SequenceClassifierOutput,
    "token_classification": TokenClassifierOutput,
    "question_answering": _TwoOutputs.of,
    "masked_lm": MaskedLMOutput,
}
"""Kind of a head -> what makes the result of a call from its (B, L) or (B, S, L) outputs."""
