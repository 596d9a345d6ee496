# SPDX-License-Identifier: MIT
"""Labels or vectors of the tokens of texts, and entities made of neighbours with one label."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from .. import ops
from .batches import Integers, as_count, check_text, run_sorted, windows
from .classifier import find_head, output_of
from .results import Results, Token

if TYPE_CHECKING:
    from ..calllog import CallLog
    from ..engine.encoder import Encoder, Floats
    from ..typing import OnLong
    from .tokenizer import TextTokenizer

__all__ = ["label_tokens"]

_OUTSIDE = "O"  # of entities, in the IOB notation


def label_tokens(
    model: Encoder,
    tokenizer: TextTokenizer,
    texts: Iterable[str],
    *,
    head: str | None,
    aggregate: bool,
    vectors: bool | None,
    max_length: int | None,
    on_long: OnLong,
    batch_size: int | None,
    num_threads: int | None,
    log: CallLog | None = None,
    deadline: int = 0,
) -> Results[list[Token]]:
    """See ``TextEncoder.tokens``."""
    for name, value in (("aggregate", aggregate), ("vectors", vectors)):
        if not isinstance(value, (bool, np.bool_)) and not (value is None and name == "vectors"):
            raise TypeError(f"{name}: expected a bool{' or None' * (name == 'vectors')}, got {type(value).__name__}")
    if aggregate and vectors:
        raise ValueError("vectors: expected False or None with aggregate, as entities have no hidden state")
    chosen = find_head(model, "token_classification", head, required=bool(aggregate))
    most = as_count(batch_size, "batch_size")
    with_vectors = chosen is None if vectors is None else bool(vectors)
    threads = model.num_threads if num_threads is None else num_threads
    labels: tuple[str, ...] = ()
    if chosen is not None:
        labels = chosen.labels or tuple(f"LABEL_{i}" for i in range(chosen.outputs))
    outputs = [] if chosen is None else [output_of(model, chosen)]
    if with_vectors and not aggregate:
        outputs.append("hidden")
    limit = tokenizer.limit(max_length, on_long, deadline=deadline)
    results: list[list[Token]] = []
    for window in windows(texts, check_text, log=log, deadline=deadline):
        encoded = [tokenizer.encode_offsets(text, limit, index) for index, text in enumerate(window)]
        limit.seen += len(window)
        found: list[list[Token]] = [[] for _ in window]
        every = [tokens for tokens, _ in encoded]
        steps = run_sorted(model, outputs, every, most, num_threads, log, deadline=deadline)
        for rows, cu_seqlens, made in steps:
            scores, hidden = None, made.get("hidden")
            if chosen is not None:
                scores = ops.softmax(made[outputs[0]], num_threads=threads)
            for i, row in enumerate(rows):
                span = slice(int(cu_seqlens[i]), int(cu_seqlens[i + 1]))
                found[row] = _tokens_of(
                    window[row],
                    encoded[row][1],
                    labels,
                    None if scores is None else scores[span],
                    None if hidden is None else hidden[span],
                    aggregate,
                )
        results += found
    limit.warn()
    return Results(results, limit.cut)


def _tokens_of(
    text: str,
    offsets: Integers,
    labels: tuple[str, ...],
    scores: Floats | None,
    hidden: Floats | None,
    aggregate: bool,
) -> list[Token]:
    there = np.flatnonzero(offsets[:, 0] >= 0)
    spans = offsets[there].tolist()
    vectors = [None] * len(spans) if hidden is None else list(hidden[there])
    if scores is None:
        return [Token(text[a:b], a, b, None, None, v) for (a, b), v in zip(spans, vectors, strict=True)]
    best = scores[there].argmax(axis=1)
    chosen = np.ascontiguousarray(scores[there, best])
    if aggregate:
        return _entities(text, spans, [labels[i] for i in best], chosen)
    return [
        Token(text[a:b], a, b, labels[i], float(score), vector)
        for (a, b), i, score, vector in zip(spans, best, chosen, vectors, strict=True)
    ]


def _entities(text: str, spans: list[list[int]], labels: list[str], scores: Floats) -> list[Token]:
    """Neighbours whose labels name one entity, as transformers' strategy "simple" joins them, without those outside."""
    starts = [
        i
        for i, label in enumerate(labels)
        if i == 0 or label.startswith("B-") or _entity(label) != _entity(labels[i - 1])
    ]
    if not starts:
        return []
    ends = np.array([*starts, len(labels)], np.int64)
    means = ops.pool(scores[:, None], ends, "mean", num_threads=1)[:, 0]
    result = []
    for first, end, mean in zip(starts, ends[1:].tolist(), means, strict=True):
        name = labels[first].partition("-")[2] or labels[first]
        if name != _OUTSIDE:
            a, b = spans[first][0], spans[end - 1][1]
            result.append(Token(text[a:b], a, b, name, float(mean)))
    return result


def _entity(label: str) -> str:
    return label[2:] if label.startswith(("B-", "I-")) else label
