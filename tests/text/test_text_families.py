# SPDX-License-Identifier: MIT
"""Tasks on texts with other families than BERT, and other tokenizers than WordPiece: byte-level BPE and Unigram."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import later_families, tiny_bert, tiny_families

import fastattn as fa
from fastattn.text import TextEncoder

tokenizers = pytest.importorskip("tokenizers")

Array = np.ndarray[Any, Any]
CORPUS = [
    "the cat sat on the mat.",
    "cats, longer cats! über",
    "a naïve  café",
    "東京 is far",
    "0123456789 x = y + z;",
] * 20
TEXTS = [*CORPUS[:5], "", " leading and  double spaces ", "emoji 😀 and e\u0301", "the " * 100]
PAIRS = [("the cat", "sat on the mat."), ("", "a"), ("far " * 40, "东京"), ("a", "cats " * 60)]
WORDPIECE = ("bert", "distilbert", "electra", "albert_groups", "mpnet")
LATER = ("deberta_own", "modernbert", "nomic", "new_mixed", "gte")  # with WordPiece, too
BYTE_LEVEL = ("roberta", "roberta_types")
UNIGRAM = ("xlm-roberta", "camembert")


def byte_level() -> Any:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer


def unigram() -> Any:
    pieces = ["▁", *sorted({letter for text in CORPUS for letter in text}), "▁the", "▁cat", "cats", "▁sat", "▁on"]
    vocab = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), *((piece, -2.0) for piece in pieces)]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram(vocab, 3, False))
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def save(folder: Path, case: str, head: str, **changes: Any) -> Path:
    """A folder of a family with a tokenizer of the kind it usually has."""
    if case in LATER:
        later_families.save_folder(folder, case, head)
    else:
        tiny_families.save_folder(folder, case, head, vocab_size=300, **changes)
    if case in (*WORDPIECE, *LATER):
        (folder / "tokenizer.json").write_text(json.dumps(tiny_bert.tokenizer()))
    else:
        (byte_level() if case in BYTE_LEVEL else unigram()).save(str(folder / "tokenizer.json"))
    return folder


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def run(model: TextEncoder, item: Any) -> Array:
    ids, types = model.pipeline.tokenizer.encode(item)  # type: ignore[attr-defined]
    types = types if model.type_vocab_size > 1 else np.zeros_like(types)
    return np.asarray(model(ids[None], token_type_ids=types[None])[0][0], np.float64)


@pytest.mark.parametrize("case", [*WORDPIECE, *BYTE_LEVEL, *UNIGRAM, *LATER])
def test_classify(tmp_path: Path, case: str) -> None:
    model = fa.load(save(tmp_path / "model", case, "ForSequenceClassification"))
    items: list[Any] = [*TEXTS, *PAIRS]
    for item, got in zip(items, model.classify(items), strict=True):
        expected = softmax(run(model, item))
        assert np.abs(np.sort(expected)[::-1] - got.scores).max() < 2e-6
        assert got.label == f"label {expected.argmax()}"
        assert model.classify([item])[0] == got


@pytest.mark.parametrize("case", [*WORDPIECE, *BYTE_LEVEL, *UNIGRAM])
def test_rerank(tmp_path: Path, case: str) -> None:
    one = {"id2label": {"0": "score"}, "label2id": {"score": 0}}
    cross = fa.load(save(tmp_path / "cross", case, "ForSequenceClassification", **one))
    scores = np.array([1 / (1 + np.exp(-run(cross, ("a cat", text))[0])) for text in TEXTS])
    ranked = cross.rerank("a cat", TEXTS)
    assert np.abs(scores[[r.index for r in ranked]] - [r.score for r in ranked]).max() < 1e-6
    assert [r.score for r in ranked] == sorted((r.score for r in ranked), reverse=True)


@pytest.mark.parametrize("case", [*WORDPIECE, *BYTE_LEVEL, *UNIGRAM, *LATER])
def test_tokens(tmp_path: Path, case: str) -> None:
    model = fa.load(save(tmp_path / "model", case, "ForTokenClassification"))
    for text, got in zip(TEXTS, model.tokens(TEXTS, vectors=True), strict=True):
        expected = softmax(run(model, text))[1:-1]
        assert [token.label for token in got] == [f"label {i}" for i in expected.argmax(axis=1)]
        assert np.allclose([token.score for token in got], expected.max(axis=1, initial=0), atol=2e-6, rtol=0)
        assert all(token.text == text[token.start : token.end] for token in got)
        starts = [token.start for token in got]
        assert starts == sorted(starts)
        covered = {i for token in got for i in range(token.start, token.end)}
        missed = [letter for i, letter in enumerate(text) if i not in covered and not letter.isspace()]
        assert not missed or len(expected) == model.text_positions - 2  # all of it, but for what was cut


@pytest.mark.parametrize("case", ["bert", "roberta", "xlm-roberta", *LATER])
def test_answer(tmp_path: Path, case: str) -> None:
    model = fa.load(save(tmp_path / "model", case, "ForQuestionAnswering"))
    for context in (TEXTS[0], TEXTS[2], " ".join(CORPUS[:20])):
        got = model.answer("the cat?", context, max_answer_tokens=4)
        assert got.text == context[got.start : got.end] and 0 < got.score <= 1 and got.text
        assert model.answer("the cat?", context, max_answer_tokens=4, num_threads=2) == got


@pytest.mark.parametrize("case", ["distilbert", "roberta", "xlm-roberta", *LATER])
def test_vectors(tmp_path: Path, case: str) -> None:
    model = fa.load(save(tmp_path / "model", case, "Model"))
    for text, vector in zip(TEXTS, model.embed(TEXTS), strict=True):
        assert np.abs(run(model, text).mean(axis=0) - vector).max() < 2e-6
    alone = np.concatenate([model.embed([text]) for text in TEXTS])
    assert model.embed(TEXTS, num_threads=2).tobytes() == alone.tobytes()
