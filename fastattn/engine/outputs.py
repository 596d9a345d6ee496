# SPDX-License-Identifier: MIT
"""What a call of a model returns: the fields that transformers has for the architecture."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple, TypeVar

import numpy as np

__all__ = [
    "OUTPUTS", "BaseModelOutput", "BaseModelOutputWithPooling", "CausalLMOutput", "MaskedLMOutput",
    "QuestionAnsweringModelOutput", "SequenceClassifierOutput", "TokenClassifierOutput", "with_states",
]  # fmt: skip

Floats = np.ndarray[Any, np.dtype[np.float32]]
OutputT = TypeVar("OutputT", bound=type)

_STATES = ("hidden_states", "attentions")


def _states_on_request(output: OutputT) -> OutputT:
    """``hidden_states`` and ``attentions`` of such an output are None, and no fields, where nobody asked for them."""
    for name in _STATES:
        setattr(output, name, None)
    return output


@_states_on_request
class BaseModelOutput(NamedTuple):
    """Hidden states alone."""

    last_hidden_state: Floats
    """(B, S, H); zeros where the attention mask is 0."""


@_states_on_request
class BaseModelOutputWithPooling(NamedTuple):
    """Hidden states, and what the pooler makes of the first token."""

    last_hidden_state: Floats
    """(B, S, H); zeros where the attention mask is 0."""
    pooler_output: Floats | None
    """(B, H); None where the checkpoint has no pooler."""


@_states_on_request
class SequenceClassifierOutput(NamedTuple):
    """Of an architecture ...ForSequenceClassification."""

    logits: Floats
    """(B, labels), of encoders zeros for a row whose first token the attention mask excludes. Decoders label the last
    token that is attended."""


@_states_on_request
class TokenClassifierOutput(NamedTuple):
    """Of an architecture ...ForTokenClassification."""

    logits: Floats
    """(B, S, labels); zeros where the attention mask is 0."""


@_states_on_request
class QuestionAnsweringModelOutput(NamedTuple):
    """Of an architecture ...ForQuestionAnswering."""

    start_logits: Floats
    """(B, S); zeros where the attention mask is 0."""
    end_logits: Floats
    """(B, S)"""


@_states_on_request
class MaskedLMOutput(NamedTuple):
    """Of an architecture ...ForMaskedLM."""

    logits: Floats
    """(B, S, vocabulary); zeros where the attention mask is 0."""


@_states_on_request
class CausalLMOutput(NamedTuple):
    """Of an architecture ...ForCausalLM."""

    logits: Floats
    """(B, S, vocabulary); zeros where the attention mask is 0."""


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
    "causal_lm": CausalLMOutput,
}
"""Kind of a head -> what makes the result of a call from its (B, L) or (B, S, L) outputs."""


def with_states(output: Any, **states: tuple[Floats, ...]) -> Any:
    """``output`` with the further fields ``hidden_states``, ``attentions`` or both, behind its own.

    As in transformers, a field is there only where it was asked for: results that are unpacked keep their length.
    """
    names = tuple(name for name in _STATES if name in states)
    kind: Any = type(output)
    return _with_fields(kind, names)(*output, *(states[name] for name in names))


@cache
def _with_fields(output: Any, names: tuple[str, ...]) -> Any:
    """The named tuple ``output`` with further fields."""
    make: Any = namedtuple  # of fields that are known here alone
    kind: Any = make(output.__name__, (*output._fields, *names), module=__name__)
    kind.__doc__ = output.__doc__
    kind.__reduce__ = lambda self: (_rebuild, (output, names, tuple(self)))  # by its name pickle would find the other
    for name in _STATES:
        if name not in names:
            setattr(kind, name, None)
    return kind


def _rebuild(output: Any, names: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    return _with_fields(output, names)(*values)
