# SPDX-License-Identifier: MIT
"""What a call of a model returns: the fields that transformers has for the architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "OUTPUTS", "BaseModelOutput", "BaseModelOutputWithPooling", "CausalLMOutput", "MaskedLMOutput", "QuestionAnsweringModelOutput",
    "SequenceClassifierOutput", "TokenClassifierOutput",
]  # fmt: skip

Floats = np.ndarray[Any, np.dtype[np.float32]]


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
