# SPDX-License-Identifier: MIT
"""Tasks on texts beside the pipelines of transformers, on folders that both load.

Run with ``pytest -m parity`` where torch and transformers are installed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_bert
from support.text_folders import save_task_folder, write_json
from test_text_families import CORPUS
from test_text_families import save as save_family

import fastattn as fa

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

TEXTS = ["the cat sat on the mat.", "a", "b c d", "cats, longer cats!", "abcd " * 5, "東京 über", "the mat the cat a b"]
PAIRS = [("the cat", "sat on the mat."), ("a b c", "d"), ("cats " * 15, "the mat"), ("a b", "sat " * 30)]
LABELS = ["red", "green", "blue"]
ENTITIES = ["O", "B-CAT", "I-CAT", "B-MAT", "I-MAT", "PLAIN"]


def save(folder: Path, task: str, labels: list[str] | None = None, **config: Any) -> Path:
    save_task_folder(folder, task, labels, **config)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizerFast", "model_max_length": 40,
                                                  "do_lower_case": False})  # fmt: skip
    return folder


@pytest.mark.parametrize("problem", [None, "multi_label_classification", "regression"])
@pytest.mark.parametrize("labels", [LABELS, ["score"]])
def test_text_classification(tmp_path: Path, problem: str | None, labels: list[str]) -> None:
    folder = save(tmp_path / "model", "sequence_classification", labels, problem_type=problem)
    pipeline = transformers.pipeline("text-classification", model=str(folder), device="cpu")
    model = fa.load(folder)
    items: list[Any] = [*TEXTS, *PAIRS]
    for item, got in zip(items, model.classify(items), strict=True):
        asked = item if isinstance(item, str) else {"text": item[0], "text_pair": item[1]}
        expected = pipeline(asked, top_k=None, truncation=True)
        assert [entry["label"] for entry in expected] == list(got.labels)
        assert np.allclose([entry["score"] for entry in expected], got.scores, atol=1e-5, rtol=0)


def test_token_classification(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", "token_classification", ENTITIES)
    model = fa.load(folder)
    plain = transformers.pipeline("token-classification", model=str(folder), device="cpu", ignore_labels=[])
    for text, got in zip(TEXTS, model.tokens(TEXTS), strict=True):
        expected = plain(text)
        assert [(e["entity"], e["start"], e["end"]) for e in expected] == [(t.label, t.start, t.end) for t in got]
        assert np.allclose([e["score"] for e in expected], [t.score for t in got], atol=1e-5, rtol=0)
    simple = transformers.pipeline(
        "token-classification", model=str(folder), device="cpu", aggregation_strategy="simple"
    )
    for text, got in zip(TEXTS, model.tokens(TEXTS, aggregate=True), strict=True):
        expected = simple(text)
        assert [(e["entity_group"], e["start"], e["end"]) for e in expected] == [(t.label, t.start, t.end) for t in got]
        assert np.allclose([e["score"] for e in expected], [t.score for t in got], atol=1e-5, rtol=0)


def test_pairs_are_truncated_alike(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", "sequence_classification", LABELS)
    theirs = transformers.AutoTokenizer.from_pretrained(str(folder))
    ours = fa.load(folder).pipeline.tokenizer  # type: ignore[attr-defined]
    for first in (0, 1, 18, 19, 30, 60):
        for second in (0, 1, 18, 19, 30, 60):
            a, b = "a " * first, "b " * second
            # as lists, since it takes the pair ("a", "") alone for the single text "a"
            expected = theirs([a], [b], truncation=True, max_length=40)
            ids, types = ours.encode((a, b))
            assert ids.tolist() == expected["input_ids"][0] and types.tolist() == expected["token_type_ids"][0]


def test_question_answering_logits_and_spans(tmp_path: Path) -> None:
    """The decoding, from the logits of transformers' own model; its pipeline for this task has come and gone."""
    folder = save(tmp_path / "model", "question_answering")
    model = fa.load(folder)
    theirs = transformers.AutoModelForQuestionAnswering.from_pretrained(str(folder)).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    for context in ("the cat sat on the mat.", "a b c d cats, mat!", "on the mat the cat a b c d a b c d"):
        for question in ("the cat", "a b"):
            encoded = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
            offsets = encoded.pop("offset_mapping")[0].numpy()
            with torch.no_grad():
                out = theirs(**encoded)
            inside = np.array([s == 1 for s in encoded.sequence_ids(0)])
            allowed = inside.copy()
            allowed[0] = True
            starts, ends = (
                np.where(inside, torch.softmax(x[0].double().masked_fill(~torch.tensor(allowed), -1e9), 0).numpy(), 0)
                for x in (out.start_logits, out.end_logits)
            )
            scores = np.tril(np.triu(starts[:, None] * ends[None, :]), 14)
            i, j = np.unravel_index(scores.argmax(), scores.shape)
            got = model.answer(question, context)
            assert (got.start, got.end) == (offsets[i][0], offsets[j][1])
            assert abs(got.score - scores[i, j]) < 1e-5


def test_vectors_of_tokens(tmp_path: Path) -> None:
    folder = tiny_bert.save_text_folder(tmp_path / "model")
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizerFast", "do_lower_case": False})
    theirs = transformers.AutoModel.from_pretrained(str(folder)).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    for text, got in zip(TEXTS, fa.load(folder).tokens(TEXTS), strict=True):
        with torch.no_grad():
            expected = theirs(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, 1:-1].numpy()
        assert np.abs(np.stack([t.vector for t in got if t.vector is not None]) - expected).max() < 2e-5


@pytest.mark.parametrize("case", ["roberta", "xlm-roberta"])
def test_entities_of_other_tokenizers(tmp_path: Path, case: str) -> None:
    """Byte-level BPE and Unigram, whose tokens begin with spaces."""
    folder = save_family(tmp_path / "model", case, "ForTokenClassification")
    labels = {"0": "O", "1": "B-A", "2": "I-A"}
    config = json.loads((folder / "config.json").read_text())
    write_json(
        folder / "config.json", {**config, "id2label": labels, "label2id": {v: int(k) for k, v in labels.items()}}
    )
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 36,
                                                  "unk_token": "<unk>"})  # fmt: skip
    model = fa.load(folder)
    texts = [*CORPUS[:5], " leading and  double spaces ", "emoji 😀 and e\u0301"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    theirs = transformers.AutoModelForTokenClassification.from_pretrained(str(folder))
    for strategy, options in (("none", {}), ("simple", {"aggregate": True})):
        pipeline = transformers.pipeline(
            "token-classification", model=theirs, tokenizer=tokenizer, device="cpu", aggregation_strategy=strategy,
            ignore_labels=[] if strategy == "none" else None,
        )  # fmt: skip
        for text, got in zip(texts, model.tokens(texts, **options), strict=True):
            expected = pipeline(text)
            names = [entry.get("entity_group", entry.get("entity")) for entry in expected]
            assert [(token.label, token.start, token.end) for token in got] == [
                (name, entry["start"], entry["end"]) for name, entry in zip(names, expected, strict=True)
            ]
            assert np.allclose([token.score for token in got], [e["score"] for e in expected], atol=1e-5, rtol=0)
