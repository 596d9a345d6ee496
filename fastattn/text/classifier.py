# SPDX-License-Identifier: MIT
"""Sequence classification on texts and pairs of texts, and reranking by a cross-encoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import ops
from ..graph.tasks import head_output
from .batches import Integers, as_count, check_pair, check_text, run_sorted, windows
from .results import Classification, Ranked, Results
from .stconfig import StConfig

if TYPE_CHECKING:
    from ..calllog import CallLog
    from ..engine.encoder import Encoder, Floats
    from ..graph.heads import Head
    from ..typing import OnLong, TextOrPair
    from .limits import Limit
    from .tokenizer import TextTokenizer

__all__ = ["asked", "best_first", "classify", "find_head", "finish", "output_of", "rerank"]

_TASKS = {
    "sequence_classification": "sequence classification",
    "token_classification": "token classification",
    "question_answering": "question answering",
}


def find_head(model: Encoder, kind: str, name: Any, *, required: bool = True) -> Head | None:
    """The head ``name`` of ``model``, or its only one of this ``kind``; ``ValueError`` where there is none."""
    if name is not None:
        if not isinstance(name, str):
            raise TypeError(f"head: expected a str or None, got {type(name).__name__}")
        if name not in model.heads:
            raise ValueError(f"head: got {name!r}, expected one of {', '.join(map(repr, model.heads)) or 'none'}")
        if model.heads[name].kind != kind:
            raise ValueError(f"head: {name!r} is for {model.heads[name].kind}, expected one for {kind}")
        return model.heads[name]
    if model.head is not None and model.head.kind == kind:
        return model.head
    fitting = [name for name, head in model.heads.items() if head.kind == kind]
    if len(fitting) > 1:
        raise ValueError(f"head: the model has {', '.join(map(repr, fitting))}; expected the name of one")
    if not fitting and required:
        has = ", ".join(sorted({head.kind for head in model.heads.values()})) or "none at all"
        raise ValueError(f"{model.path}: the model has no head for {_TASKS[kind]} (heads: {has})")
    return model.heads[fitting[0]] if fitting else None


def output_of(model: Encoder, head: Head) -> str:
    """The output of ``model`` that is what ``head`` gives."""
    return head_output(next(name for name, other in model.heads.items() if other is head))


def _probabilities(head: Head) -> str:
    """What stands behind the logits, as in transformers' pipeline for text classification."""
    if head.problem_type == "regression":
        return "none"
    return "sigmoid" if head.problem_type == "multi_label_classification" or head.outputs == 1 else "softmax"


def finish(logits: Floats, how: str, num_threads: int | None) -> Floats:
    """Scores of logits, by an activation's name."""
    functions: dict[str, Any] = {"softmax": ops.softmax, "sigmoid": ops.sigmoid, "tanh": ops.tanh, "relu": ops.relu}
    return logits if how == "none" else functions[how](logits, num_threads=num_threads)


def asked(activation: Any, default: str, choices: Sequence[str]) -> str:
    """What is to stand behind the logits: ``activation`` of a call, where it says something."""
    if activation is None:
        return default
    if activation not in choices:
        kind = ValueError if isinstance(activation, str) else TypeError
        raise kind(f"activation: got {activation!r}, expected None or one of {', '.join(choices)}")
    return str(activation)


def _scores(
    model: Encoder,
    tokenizer: TextTokenizer,
    head: Head,
    how: str,
    items: Iterator[list[Any]],
    limit: Limit,
    batch_size: int | None,
    num_threads: int | None,
    log: CallLog | None,
    deadline: int,
) -> Iterator[Floats]:
    """Scores (n, L) of each window of texts or pairs. A text without any token has logits of zero."""
    output = output_of(model, head)
    threads = model.num_threads if num_threads is None else num_threads
    for window in items:
        logits: Floats = np.zeros((len(window), head.outputs), np.float32)
        tokens = tokenizer.encode_many(window, limit)
        steps = run_sorted(model, [output], tokens, batch_size, num_threads, log, deadline=deadline)
        for rows, _, found in steps:
            logits[rows] = found[output]
        yield finish(logits, how, threads)


def best_first(scores: Floats) -> Integers:
    """Order of each row (or of one), the highest first; of equal ones the first, and NaN last."""
    return np.argsort(-scores, axis=-1, kind="stable")


def classify(
    model: Encoder,
    tokenizer: TextTokenizer,
    texts: Iterable[TextOrPair],
    *,
    head: str | None,
    top_k: int | None,
    activation: str | None,
    prompt: str | None,
    prompt_name: str | None,
    max_length: int | None,
    on_long: OnLong,
    batch_size: int | None,
    num_threads: int | None,
    log: CallLog | None = None,
    deadline: int = 0,
) -> Results[Classification]:
    """See ``TextEncoder.classify``."""
    chosen = find_head(model, "sequence_classification", head)
    assert chosen is not None
    kept, most = as_count(top_k, "top_k"), as_count(batch_size, "batch_size")
    labels = chosen.labels or tuple(f"LABEL_{i}" for i in range(chosen.outputs))
    how = asked(activation, _probabilities(chosen), ("softmax", "sigmoid", "none"))
    config = StConfig.read(model.files).for_pairs(model.files)
    before = check_text(config.prompt(prompt, prompt_name), "prompt")
    limit = tokenizer.limit(max_length, on_long, deadline=deadline)
    items = windows(texts, check_pair, log=log, deadline=deadline)
    if before:
        items = ([_behind(before, item) for item in window] for window in items)
    results: list[Classification] = []
    for scores in _scores(model, tokenizer, chosen, how, items, limit, most, num_threads, log, deadline):
        order = best_first(scores)[:, :kept]
        for row, values in zip(order.tolist(), np.take_along_axis(scores, order, axis=1).tolist(), strict=True):
            names = tuple([labels[i] for i in row])
            results.append(Classification(names[0], values[0], names, tuple(values)))
    limit.warn()
    return Results(results, limit.cut)


def _behind(prompt: str, item: str | tuple[str, str]) -> str | tuple[str, str]:
    return prompt + item if isinstance(item, str) else (prompt + item[0], item[1])


def rerank(
    model: Encoder,
    tokenizer: TextTokenizer,
    query: str,
    docs: Iterable[str],
    *,
    head: str | None,
    top_k: int | None,
    activation: str | None,
    prompt: str | None,
    prompt_name: str | None,
    max_length: int | None,
    on_long: OnLong,
    batch_size: int | None,
    num_threads: int | None,
    log: CallLog | None = None,
    deadline: int = 0,
) -> Results[Ranked]:
    """See ``TextEncoder.rerank``."""
    chosen = find_head(model, "sequence_classification", head)
    assert chosen is not None
    if chosen.outputs != 1:
        raise ValueError(
            f"{model.path}: the head has {chosen.outputs} labels, expected 1: a cross-encoder gives one score to a "
            "query and a document (classify takes pairs for any head)"
        )
    kept, most = as_count(top_k, "top_k"), as_count(batch_size, "batch_size")
    config = StConfig.read(model.files).for_pairs(model.files)
    how = asked(activation, config.activation or "sigmoid", ("sigmoid", "none"))
    question = check_text(config.prompt(prompt, prompt_name), "prompt") + check_text(query, "query")
    if isinstance(docs, (str, bytes)):
        raise TypeError(f"docs: got one {type(docs).__name__}; pass a list of str, as in rerank(query, [text])")
    limit = tokenizer.limit(max_length, on_long, "docs", deadline)
    tokenizer.check_cost(question, "query", deadline)
    pairs = ([(question, text) for text in window] for window in windows(docs, check_text, "docs", log, deadline))
    parts = list(_scores(model, tokenizer, chosen, how, pairs, limit, most, num_threads, log, deadline))
    limit.warn()
    if not parts:
        return Results()
    scores = np.concatenate(parts)[:, 0]
    return Results([Ranked(int(i), float(scores[i])) for i in best_first(scores)[:kept]], limit.cut)
