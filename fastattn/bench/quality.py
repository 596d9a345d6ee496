# SPDX-License-Identifier: MIT
"""``fastattn bench model --quality``: what coarser weights do to vectors, and to a ranking made with them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from .child import Child, ChildError, convert
from .corpus import docstring_pairs, real_sentences
from .model import make_batch
from .shapes import MODEL, ModelCase

__all__ = ["quality", "ranking"]

_BATCH = 32
_LONGEST = 256
_PAIRS = 1000
_MIXED = next(case for case in MODEL if len(set(case.lengths)) > 1)

_Batch = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Places of the texts, their ids and their mask (B, S)."""


def ranking(questions: np.ndarray, answers: np.ndarray) -> dict[str, float]:
    """How well ``answers[i]`` is found for ``questions[i]`` (n, H) by the dot product: ndcg_10, mrr_10, recall_1.

    One answer is right for each, so nDCG is 1 / log2(1 + rank). Answers that score the same come before the right one.

    >>> ranking(np.eye(3), np.eye(3)[[0, 2, 1]])["recall_1"] == 1 / 3
    True
    """
    scores = questions.astype(np.float64) @ answers.astype(np.float64).T
    rank = (scores >= np.diagonal(scores)[:, None]).sum(axis=1)
    seen = rank <= 10
    return {
        "ndcg_10": float(np.where(seen, 1 / np.log2(1 + rank), 0).mean()),
        "mrr_10": float(np.where(seen, 1 / rank, 0).mean()),
        "recall_1": float((rank == 1).mean()),
    }


def quality(
    folder: Path, dtype: str, peers: Sequence[str], num_threads: int, sentences: int = 1000, pairs: int = _PAIRS
) -> Iterator[dict[str, Any]]:
    """A row for ours with float32, ours with ``dtype`` and each peer with ``dtype``, as they come.

    Sentence vectors are means of token vectors, of length 1, computed here from the hidden states of each library.

    Returns:
        name, dtype; sentence_mean and sentence_worst, cosines with float32 over ``sentences`` real sentences;
        token_lowest and token_mean over their tokens; random_token_lowest over tokens of random ids; ndcg_10, mrr_10
        and recall_1 of a task of ``pairs`` questions and as many answers. The first row, float32, has the last three
        alone. A peer that cannot has error instead.

    Raises:
        ChildError: ours fails. ValueError: the folder has no tokenizer; this Python has not so much text.
    """
    tokenizer, longest = _tokenizer(folder)
    given = docstring_pairs(pairs)
    parts = [real_sentences(sentences), [question for question, _ in given], [answer for _, answer in given]]
    batches = [_batches(tokenizer, part) for part in parts]
    case = ModelCase("random", tuple(min(length, longest) for length in _MIXED.lengths))
    ids, mask = make_batch(case, tokenizer.get_vocab_size())
    random: list[_Batch] = [(np.arange(len(ids)), ids, mask)]

    expected: list[list[np.ndarray]] = []
    vectors = np.zeros((0, 0))
    for name, kind in (("fastattn", "float32"), ("fastattn", dtype), *((peer, dtype) for peer in peers)):
        row: dict[str, Any] = {"name": name, "dtype": kind}
        try:
            with ExitStack() as stack:
                converted = convert(name, folder, kind)
                source = folder if converted is None else Path(stack.enter_context(converted))
                child = stack.enter_context(Child(name, source, num_threads, kind))
                tokens = [_token_vectors(child, part) for part in (batches[0], random)]
                means = _sentence_vectors(tokens[0], batches[0])
                questions, answers = (_sentence_vectors(_token_vectors(child, part), part) for part in batches[1:])
        except ChildError as error:
            if name == "fastattn":
                raise
            yield {**row, "error": str(error)}
            continue
        if not expected:
            expected, vectors = tokens, means
        else:
            row |= _cosines(means, vectors, tokens, expected)
        yield {**row, **ranking(questions, answers)}


def _tokenizer(folder: Path) -> tuple[Any, int]:
    """The folder's tokenizer and its longest text, in tokens."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"{folder}: no tokenizer.json; quality is measured on text")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    longest = json.loads((folder / "config.json").read_text("utf-8")).get("max_position_embeddings", _LONGEST)
    longest = min(_LONGEST, longest)
    tokenizer.enable_truncation(longest)
    return tokenizer, longest


def _batches(tokenizer: Any, texts: Sequence[str]) -> list[_Batch]:
    """Texts of similar length together, padded at the right."""
    encoded = [np.array(encoding.ids, np.int64) for encoding in tokenizer.encode_batch(list(texts))]
    order = np.array(sorted(range(len(encoded)), key=lambda index: encoded[index].size))
    result = []
    for start in range(0, len(order), _BATCH):
        places = order[start : start + _BATCH]
        lengths = np.array([encoded[place].size for place in places])
        mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
        ids = np.zeros_like(mask)
        ids[mask == 1] = np.concatenate([encoded[place] for place in places])
        result.append((places, ids, mask))
    return result


def _token_vectors(child: Child, batches: Sequence[_Batch]) -> list[np.ndarray]:
    """Of each batch, the hidden states of the tokens that are there (tokens, H)."""
    return [child.prepare(ids, mask)[mask == 1] for _, ids, mask in batches]


def _sentence_vectors(tokens: Sequence[np.ndarray], batches: Sequence[_Batch]) -> np.ndarray:
    """Means of length 1, in the order of the texts (n, H)."""
    result = np.zeros((sum(len(places) for places, _, _ in batches), tokens[0].shape[1]))
    for (places, _, mask), hidden in zip(batches, tokens, strict=True):
        starts = np.concatenate([[0], np.cumsum(mask.sum(axis=1))[:-1]])
        means = np.add.reduceat(hidden.astype(np.float64), starts) / mask.sum(axis=1)[:, None]
        result[places] = means / np.sqrt((means * means).sum(axis=1, keepdims=True))
    return result


def _cosines(
    means: np.ndarray, vectors: np.ndarray, tokens: list[list[np.ndarray]], expected: list[list[np.ndarray]]
) -> dict[str, float]:
    sentence = (means * vectors).sum(axis=1)
    real, random = (
        np.concatenate([_cosine(a, b) for a, b in zip(ours, right, strict=True)])
        for ours, right in zip(tokens, expected, strict=True)
    )
    return {
        "sentence_mean": float(sentence.mean()),
        "sentence_worst": float(sentence.min()),
        "token_lowest": float(real.min()),
        "token_mean": float(real.mean()),
        "random_token_lowest": float(random.min()),
    }


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.asarray((a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1)))
