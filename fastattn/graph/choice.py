# SPDX-License-Identifier: MIT
"""Which head a checkpoint has.

What the caller asks for; else what its tensors are. ``architectures`` in config.json is missing, null, foreign or
wrong in many files, and transformers needs it for nothing: it only decides where the tensors of several heads are
there, or of one that a backbone may have kept from its pre-training.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from .heads import Dense, HeadSpec, NormStep, ScaleStep, SoftcapStep
from .labels import are_tags
from .source import Source, listed

__all__ = ["HEADS", "Choice", "choose_head", "head_name"]

_SEQUENCE, _TOKEN, _ANSWER = "sequence_classification", "token_classification", "question_answering"
_OF_TASKS = (_SEQUENCE, _TOKEN, _ANSWER)  # the others are of pre-training, and may be remains of it

HEADS = (*_OF_TASKS, "masked_lm", "next_sentence", "causal_lm", "none")
"""What ``head=`` may be; "none" is the encoder alone."""

_SUFFIXES = {
    "ForSequenceClassification": _SEQUENCE,
    "ForTokenClassification": _TOKEN,
    "ForQuestionAnswering": _ANSWER,
    "ForMaskedLM": "masked_lm",
    "ForNextSentencePrediction": "next_sentence",
    "ForPreTraining": "none",
    "ForCausalLM": "causal_lm",
}
_TASKS = {"text_classification": _SEQUENCE, "fill_mask": "masked_lm"}  # of transformers' pipelines, where they differ
_LONGEST = 200  # letters of a name that is looked at
_CLASS = re.compile(r"\w*?(For[A-Z]\w*)")


def head_name(value: Any) -> str | None:
    """The argument ``head``: one of ``HEADS``, or None. A class of transformers stands for its head.

    Raises
    ------
    TypeError, ValueError
        It is no str, or no head.

    >>> head_name("BertForTokenClassification"), head_name("AutoModel"), head_name("token-classification")
    ('token_classification', 'none', 'token_classification')
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"head: expected a str or None, got {type(value).__name__}")
    kind = _of_class(value) or value.replace("-", "_")
    kind = _TASKS.get(kind, kind)
    if kind not in HEADS:
        raise ValueError(f"head: got {value[:100]!r}, expected one of {', '.join(HEADS)}")
    return kind


def _of_class(name: str) -> str | None:
    """The head of a class of transformers, whatever family it is of; "none" of an encoder, None of any other name."""
    if len(name) > _LONGEST:
        return None
    match = _CLASS.fullmatch(name)
    if match is not None:
        return _SUFFIXES.get(match[1])
    return "none" if name.endswith("Model") and not name.endswith("LMHeadModel") else None


class Choice(NamedTuple):
    """What was decided."""

    kind: str | None
    """Name of the head, None for the encoder alone."""
    named: bool
    """Whether ``architectures`` names it: then config.json has to say how many labels it has."""
    notes: tuple[str, ...]
    """What was not as the file says, or could have been something else."""


def choose_head(
    source: Source, classes: Mapping[str, str | None], specs: Mapping[str, Callable[[], HeadSpec]]
) -> Choice:
    """Decide for one of ``specs``, the heads that the family has by name.

    In this order: ``source.head``; the first head that ``architectures`` names and of which there is a tensor; the one
    head for a task of which all tensors are there; where ``architectures`` names neither the encoder nor pre-training,
    the one head of pre-training. Sequence and token classification may have the same tensors: labels like B-PER are of
    tokens; else it is the former, as it is most often.

    Parameters
    ----------
    classes
        Class names of the family -> name of the head, None for the encoder.

    Raises
    ------
    ValueError
        The head that is asked for is none of the family's, or lacks tensors; or the tensors of several are there and
        nothing says which one is meant.
    """
    every = {kind: spec() for kind, spec in specs.items()}
    if source.head is not None:
        return _asked(source, every)
    names = source.config.architectures()
    named = [classes[name] or "none" if name in classes else _of_class(name) for name in names]
    complete = [kind for kind in every if not _missing(every[kind], source)]
    for kind in named:
        if kind in every and _touched(every[kind], source, bool(complete)):
            return Choice(kind, True, ())
    notes = []
    encoder = "none" in named
    shown = ", ".join(name[:_LONGEST] for name in names[:5])
    said = f"{source.config.path}: architectures is {shown[:_LONGEST]!r}" if names else ""
    tasks = [kind for kind in complete if kind in _OF_TASKS]
    if any(name.endswith("ForMultipleChoice") for name in names):
        return Choice(None, False, (f"{said}: the head of multiple choice is left out",) if tasks else ())
    told = _tell_apart(source, every, tasks)
    if len(told) < len(tasks) and told:
        others = " or ".join(kind for kind in tasks if kind not in told)
        notes.append(f"the tensors of {told[0]} would be those of {others} too: head= says which one is meant")
    if not told and not encoder:
        told = [kind for kind in complete if kind not in _OF_TASKS]
        if len(told) > 1:  # of pre-training in several tasks
            told = []
    if len(told) > 1:
        if not encoder:
            raise ValueError(
                f"{source.config.path}: architectures does not say which head is meant, and there are tensors of "
                f"{', '.join(told)}: give head="
            )
        notes.append(f"{said}: of the heads {', '.join(told)}, head= gives one")
        told = []
    if told and said:
        notes.append(f"{said}: the head {told[0]} was found by its tensors")
    return Choice(told[0] if told else None, False, tuple(notes))


def _asked(source: Source, every: Mapping[str, HeadSpec]) -> Choice:
    kind = source.head
    if kind is None or kind == "none":
        return Choice(None, False, ())
    if kind not in every:
        raise ValueError(f"head: got {kind!r}, but this family has {', '.join((*every, 'none'))}")
    missing = _missing(every[kind], source)
    if missing:
        complete = [name for name in every if not _missing(every[name], source)]
        raise ValueError(
            f"head: got {kind!r}, but {source.config.path} is of a model that lacks {listed(missing)}; it has "
            f"{', '.join((*complete, 'none'))}"
        )
    return Choice(kind, False, ())


def _own(spec: HeadSpec) -> list[Dense]:
    """The layers of a head but for the pooler, which is the encoder's."""
    return [
        step for step in spec.steps if isinstance(step, Dense) and not step.name.endswith(("pooler.dense", "pooler"))
    ]


def _touched(spec: HeadSpec, source: Source, last: bool) -> bool:
    """Whether any tensor of the head, or of its ``last`` layer, is there: without any, a checkpoint kept the name of
    what it was trained with. (Layers before the last one may be those of another head.)
    """
    steps = _own(spec)[-1:] if last else _own(spec)
    names = (name for step in steps for name in (f"{step.name}.weight", f"{step.name}.bias", *_biases(step)))
    if spec.kind == "causal_lm":  # what such a file is for: nobody is to find out late that it has no head
        return True
    return any(source.offers(name) for name in names)


def _missing(spec: HeadSpec, source: Source) -> list[str]:
    """Names of tensors that the head lacks; also of those that have another number of outputs."""
    missing = []
    for step in spec.steps:
        if isinstance(step, Dense):
            if not source.offers(f"{step.name}.weight") and not (step.tied and source.offers(step.tied)):
                missing.append(f"{step.name}.weight")
            names: Sequence[str] = _biases(step)
            if names and not any(source.offers(name) for name in names):
                missing.append(names[0])
        elif isinstance(step, NormStep):
            names = (f"{step.name}.weight", f"{step.name}.bias")[: 1 + step.bias]
            missing += [name for name in names if not source.offers(name)]
    last = spec.steps[-1]
    if not missing and isinstance(last, Dense) and not last.large and not spec.labelled:
        rows = source.outputs(last.name, last.inputs)
        if rows is not None and rows != last.outputs:
            missing.append(f"{last.name}.weight")
    return missing


def _biases(step: Dense) -> tuple[str, ...]:
    """Full names of the tensors of which one is the bias of the layer."""
    return (f"{step.name}.bias",) if step.bias is True else tuple(step.bias or ())


def _tell_apart(source: Source, every: Mapping[str, HeadSpec], kinds: Sequence[str]) -> list[str]:
    """Of ``kinds``, whose tensors are there, those that are no reading of another one's tensors."""
    told = list(kinds)
    if _SEQUENCE in told and _TOKEN in told and _last(every[_SEQUENCE]) == _last(every[_TOKEN]):
        more = {step.name for step in _own(every[_SEQUENCE])} - {step.name for step in _own(every[_TOKEN])}
        tags = not more and source.config.problem_type() is None and are_tags(source.config)
        told.remove(_SEQUENCE if tags else _TOKEN)
    for kind in (_SEQUENCE, _TOKEN):
        if kind in told and _ANSWER in told and _last(every[kind]) == _last(every[_ANSWER]):
            told.remove(_ANSWER)
    return told


def _last(spec: HeadSpec) -> str:
    named = (step.name for step in reversed(spec.steps) if not isinstance(step, (ScaleStep, SoftcapStep)))
    return next(named, "")
