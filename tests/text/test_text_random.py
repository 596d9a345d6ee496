# SPDX-License-Identifier: MIT
"""Random texts through every task: bits that do not depend on company, offsets that point into the text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.text_folders import save_task_folder, write_json
from test_text_families import save

import fastattn as fa
from fastattn.text import TextEncoder

pytest.importorskip("tokenizers")

PIECES = ["the", "cat", " ", "  ", "\n", "\t", "abcd", "cats", "東", "京", "über", "U\u0308", "İ", "ß", "ﬁ", ".", ",",
          "!", "[SEP]", "[MASK]", "<s>", "</s>", "\u0301", "\u200b", "\u00a0", "\ufeff", "😀", "\U00020000", "x" * 101,
          "\0", "▁", "Ġ", "ΑΣ", "a", "B", "é", "\r\n"]  # fmt: skip
# Control characters, and anything else but halves of surrogate pairs, now and then.
anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
texts = st.lists(st.one_of(st.sampled_from(PIECES), anything), max_size=30).map("".join)
few = settings(max_examples=40, deadline=None)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TextEncoder]:
    folder: Path = tmp_path_factory.mktemp("random")
    lower = save_task_folder(folder / "lower", "token_classification", ["O", "B-A", "I-A"])
    write_json(lower / "sentence_bert_config.json", {"do_lower_case": True})
    return {
        "WordPiece": fa.load(save(folder / "bert", "bert", "ForTokenClassification")),
        "lower-cased": fa.load(lower),
        "byte-level BPE": fa.load(save(folder / "roberta", "roberta", "ForTokenClassification")),
        "Unigram": fa.load(save(folder / "xlm", "xlm-roberta", "ForTokenClassification")),
        "pairs": fa.load(save(folder / "pairs", "bert", "ForSequenceClassification")),
        "answers": fa.load(save(folder / "answers", "roberta", "ForQuestionAnswering")),
    }


@pytest.mark.parametrize("kind", ["WordPiece", "lower-cased", "byte-level BPE", "Unigram"])
@few
@given(batch=st.lists(texts, max_size=4))
def test_tokens(models: dict[str, TextEncoder], kind: str, batch: list[str]) -> None:
    model = models[kind]
    found = model.tokens(batch, vectors=True)
    for text, tokens in zip(batch, found, strict=True):
        assert all(0 <= t.start <= t.end <= len(text) and t.text == text[t.start : t.end] for t in tokens)
        assert [t.start for t in tokens] == sorted(t.start for t in tokens)
        (alone,) = model.tokens([text], vectors=True)
        assert [(t.start, t.end, t.label, t.score) for t in alone] == [
            (t.start, t.end, t.label, t.score) for t in tokens
        ]
        assert all(np.array_equal(a.vector, b.vector) for a, b in zip(alone, tokens, strict=True))  # type: ignore[arg-type]
    for text, entities in zip(batch, model.tokens(batch, aggregate=True), strict=True):
        assert all(e.text == text[e.start : e.end] and e.vector is None and e.label != "O" for e in entities)


@few
@given(batch=st.lists(st.one_of(texts, st.tuples(texts, texts)), max_size=5))
def test_classify(models: dict[str, TextEncoder], batch: list[Any]) -> None:
    found = models["pairs"].classify(batch)
    assert found == [models["pairs"].classify([item])[0] for item in batch]
    assert all(abs(sum(result.scores) - 1) < 1e-5 for result in found)


@few
@given(question=st.sampled_from(["", "the cat", "東京?"]), context=texts)
def test_answer(models: dict[str, TextEncoder], question: str, context: str) -> None:
    got = models["answers"].answer(question, context)
    assert got.text == context[got.start : got.end] and 0 <= got.score <= 1


@pytest.mark.parametrize("kind", ["WordPiece", "byte-level BPE", "Unigram"])
@few
@given(batch=st.lists(texts, min_size=1, max_size=6))
def test_embed(models: dict[str, TextEncoder], kind: str, batch: list[str]) -> None:
    model = models[kind]
    vectors = model.embed(batch, normalize=True)
    assert np.isfinite(vectors).all()
    assert vectors.tobytes() == np.concatenate([model.embed([text], normalize=True) for text in batch]).tobytes()
    assert vectors.tobytes() == model.embed((text for text in batch), 2, normalize=True, num_threads=2).tobytes()
