# SPDX-License-Identifier: MIT
"""What stands on top of an encoder: a pooler or the head of a task, described as data and recorded as steps.

A family says which rows a head starts from and which steps follow; everything else is the same for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from ..weights import PackedLinear
from .labels import MAX_LABELS, read_labels
from .source import FOR_LOGITS, Norm, Source

__all__ = ["Dense", "Head", "HeadSpec", "NormStep", "ScaleStep", "SoftcapStep", "classifier", "with_labels"]


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


class ScaleStep(NamedTuple):
    """A step of a head: x * factor."""

    factor: float


class SoftcapStep(NamedTuple):
    """A step of a head: cap * tanh(x / cap)."""

    cap: float


class HeadSpec(NamedTuple):
    """A head as a family describes it."""

    kind: str
    """"pooler", "sequence_classification", "token_classification", "question_answering", "masked_lm" or "causal_lm"."""
    rows: str
    """What goes in: the "first" or the "last" token of each sequence, the "mean" over its tokens, or "all" tokens."""
    steps: tuple[Dense | NormStep | ScaleStep | SoftcapStep, ...]
    labels: tuple[str, ...] = ()
    """Names of the last step's outputs, where they have names."""
    problem_type: str | None = None
    """Of a sequence classification: ``ConfigReader.problem_type``."""
    labelled: bool = False
    """Whether config.json has a label for each output."""
    padding: int | None = None
    """The id that a "last" token is not of, where there is another."""


def classifier(kind: str, rows: str, before: Sequence[Dense | NormStep], name: str, inputs: int) -> HeadSpec:
    """A head whose last layer, ``name``, has an output for each label: how many that are, ``with_labels`` says."""
    return HeadSpec(kind, rows, (*before, Dense(name, 0, inputs)), labelled=True)


def with_labels(spec: HeadSpec, source: Source, *, silent: bool) -> HeadSpec:
    """``spec`` with the labels of config.json and the outputs that the stored tensors have.

    ``silent``: where config.json names no labels, there are as many as the tensors have outputs; else two.
    """
    last = spec.steps[-1]
    if not spec.labelled or not isinstance(last, Dense):
        return spec
    config = source.config
    rows = source.outputs(last.name, last.inputs)
    known = rows if rows is not None and 0 < rows <= MAX_LABELS else None
    labels = read_labels(config, known, last.name, last.inputs, silent=silent)
    problem_type = config.problem_type() if spec.kind == "sequence_classification" else None
    steps = (*spec.steps[:-1], last._replace(outputs=len(labels)))
    return spec._replace(steps=steps, labels=labels, problem_type=problem_type)


class Recorder(Protocol):
    """What a head needs of a graph, which knows heads."""

    def first(self, x: Any, /) -> Any: ...
    def last(self, x: Any, padding: int | None, /) -> Any: ...
    def pool(self, x: Any, modes: Sequence[str], /) -> Any: ...
    def norm(self, x: Any, weight: Any, bias: Any, eps: float, /) -> Any: ...
    def product(self, x: Any, packed: Any, activation: Any, width: int, /) -> Any: ...
    def scale(self, x: Any, factor: float, /) -> Any: ...
    def softcap(self, x: Any, cap: float, /) -> Any: ...


class _DenseStep(NamedTuple):
    layer: PackedLinear
    outputs: int
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
    _steps: tuple[_DenseStep | _NormStep | ScaleStep | SoftcapStep, ...]
    _padding: int | None = None

    @classmethod
    def build(cls, spec: HeadSpec, source: Source) -> Head:
        """Ask for the weights of ``spec``."""
        steps: list[_DenseStep | _NormStep | ScaleStep | SoftcapStep] = []
        outputs = 0
        for step in spec.steps:
            if isinstance(step, Dense):
                outputs = step.outputs
                layer = source.linear(
                    step.name, step.outputs, step.inputs, bias=step.bias, tied=step.tied,
                    dtype=None if step.large else "float32", activations=FOR_LOGITS,
                )  # fmt: skip
                steps.append(_DenseStep(layer, step.outputs, step.activation))
            elif isinstance(step, (ScaleStep, SoftcapStep)):
                steps.append(step)
            else:
                steps.append(_NormStep(source.norm(step.name, step.size, bias=step.bias), step.eps))
        if spec.labels and len(spec.labels) != outputs:
            raise ValueError(f"{source.config.path}: {len(spec.labels)} labels for {outputs} outputs of the head")
        return cls(spec.kind, spec.labels, spec.problem_type, outputs, spec.rows, tuple(steps), spec.padding)

    @property
    def per_token(self) -> bool:
        """Whether every token gets outputs of its own."""
        return self._rows == "all"

    @property
    def from_first(self) -> bool:
        """Whether the outputs of a sequence are made from its first token alone."""
        return self._rows == "first"

    def record(self, graph: Recorder, hidden: Any) -> Any:
        """The head's outputs: (sequences, L), or (tokens, L) where ``per_token``."""
        x = hidden
        if self.from_first:
            x = graph.first(hidden)
        elif self._rows == "last":
            x = graph.last(hidden, self._padding)
        elif not self.per_token:
            x = graph.pool(hidden, [self._rows])
        return self.record_on(graph, x)

    def record_on(self, graph: Recorder, x: Any) -> Any:
        """The head's outputs of rows that were chosen already."""
        for step in self._steps:
            if isinstance(step, _NormStep):
                weight, bias = (None, None) if step.norm is None else step.norm
                x = graph.norm(x, weight, bias, step.eps)
            elif isinstance(step, ScaleStep):
                x = graph.scale(x, step.factor)
            elif isinstance(step, SoftcapStep):
                x = graph.softcap(x, step.cap)
            else:
                x = graph.product(x, step.layer, step.activation, step.outputs)
        return x
