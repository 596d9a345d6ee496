# SPDX-License-Identifier: MIT
"""Pieces of a context that answer a question, as transformers' pipeline decodes them."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import ops
from .batches import Integers, as_count, check_text, run_sorted
from .classifier import find_head, output_of
from .results import Answer

if TYPE_CHECKING:
    from ..calllog import CallLog
    from ..engine.encoder import Encoder, Floats
    from .tokenizer import TextTokenizer

__all__ = ["answer"]

_TOGETHER = 64  # windows of a long context whose tokens are in memory together


def answer(
    model: Encoder,
    tokenizer: TextTokenizer,
    question: str,
    context: str,
    *,
    head: str | None,
    max_answer_tokens: int,
    max_length: int | None,
    num_threads: int | None,
    log: CallLog | None = None,
    deadline: int = 0,
) -> Answer:
    """See ``TextEncoder.answer``."""
    chosen = find_head(model, "question_answering", head)
    assert chosen is not None
    longest = as_count(max_answer_tokens, "max_answer_tokens")
    if longest is None:
        raise TypeError("max_answer_tokens: expected an int, got NoneType")
    check_text(question, "question", deadline)
    check_text(context, "context", deadline)
    output = output_of(model, chosen)
    best = Answer("", 0, 0, 0.0)
    windows = tokenizer.encode_windows(question, context, max_length, deadline)
    if log is not None:
        log.texts_came(1)
    while some := list(islice(windows, _TOGETHER)):
        found: list[Answer] = [best] * len(some)
        every = [tokens for tokens, _ in some]
        steps = run_sorted(model, [output], every, None, num_threads, log, deadline=deadline)
        for rows, cu_seqlens, outputs in steps:
            logits = outputs[output]
            for i, row in enumerate(rows):
                span = slice(int(cu_seqlens[i]), int(cu_seqlens[i + 1]))
                found[row] = _best(context, logits[span], some[row][1], longest)
        if any(candidate.score != candidate.score for candidate in found):
            raise ValueError(f"{model.path}: the scores are not numbers: the weights are damaged")
        best = max(best, *found, key=lambda candidate: candidate.score)  # the first of equal ones
    return best


def _best(context: str, logits: Floats, offsets: Integers, longest: int) -> Answer:
    """The likeliest span of one piece. The first token, which means "no answer", shares the probability."""
    inside = offsets[:, 0] >= 0
    competing = inside.copy()
    competing[0] = True
    masked = np.where(competing, logits.T, np.float32(-np.inf))
    probabilities = ops.softmax(np.ascontiguousarray(masked), num_threads=1)
    starts, ends = (np.where(inside, row, np.float32(0)) for row in probabilities)
    tokens = len(inside)
    last = np.minimum(np.arange(tokens)[:, None] + np.arange(longest), tokens - 1)  # of each start, its possible ends
    scores: np.ndarray[Any, np.dtype[np.float32]] = starts[:, None] * ends[last]  # one rounding: the same bits anywhere
    at = int(scores.argmax())
    first, end = at // scores.shape[1], int(last.reshape(-1)[at])
    score = float(scores.reshape(-1)[at])
    if score == 0:
        return Answer("", 0, 0, 0.0)
    a, b = int(offsets[first, 0]), int(offsets[end, 1])
    return Answer(context[a:b], a, b, score)
