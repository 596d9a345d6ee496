# SPDX-License-Identifier: MIT
"""Heads found by their tensors, and labels, beside transformers, which needs no ``architectures`` to find them.

Run with ``pytest -m parity`` where torch and transformers are installed.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.text_folders import save_task_folder

import fastattn as fa

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

SIZES = {"vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 20,
         "max_position_embeddings": 24, "pad_token_id": 1}  # fmt: skip
DISTIL = {"vocab_size": 50, "dim": 24, "n_layers": 1, "n_heads": 3, "hidden_dim": 20, "max_position_embeddings": 24}
FAMILIES = {
    "Bert": SIZES, "Roberta": SIZES, "XLMRoberta": SIZES, "Camembert": SIZES, "MPNet": SIZES, "DistilBert": DISTIL,
    "Electra": {**SIZES, "embedding_size": 12}, "Albert": {**SIZES, "embedding_size": 12},
    "DebertaV2": {**SIZES, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 4},
    "ModernBert": {**SIZES, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
}  # fmt: skip
TASKS = {
    "ForSequenceClassification": "sequence_classification", "ForTokenClassification": "token_classification",
    "ForQuestionAnswering": "question_answering", "ForMaskedLM": "masked_lm",
}  # fmt: skip
IDS = [[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]]
LISTS: list[Any] = [..., None, [], [None], [3], "x", ["MyReranker"], ["AutoModel{suffix}"],
                    ["{family}Model", "{family}{suffix}"]]  # fmt: skip


def save(folder: Path, family: str, suffix: str, labels: int = 3) -> Any:
    """A random model of transformers with large weights, written by itself."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**FAMILIES[family], num_labels=labels)
    model = getattr(transformers, f"{family}{suffix}")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    model.save_pretrained(folder)
    return model


def change(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


@pytest.mark.parametrize("suffix", TASKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_heads_by_their_tensors(tmp_path: Path, family: str, suffix: str) -> None:
    labels = 2 if suffix == "ForQuestionAnswering" else 3
    theirs = save(tmp_path, family, suffix, labels)
    with torch.no_grad():
        out = theirs(torch.tensor(IDS))
    expected = [out[name].numpy() for name in ("start_logits", "end_logits", "logits") if name in out]
    ambiguous = family == "ModernBert" and suffix in ("ForTokenClassification", "ForQuestionAnswering")
    for value in LISTS:
        names = value
        if isinstance(value, list):
            names = [x.format(family=family, suffix=suffix) if isinstance(x, str) else x for x in value]
        change(tmp_path, architectures=names)
        loaded = getattr(transformers, f"AutoModel{suffix}").from_pretrained(tmp_path)
        assert type(loaded) is type(theirs)
        model = fa.load(tmp_path, head=TASKS[suffix] if ambiguous else None)
        assert model.head_name == TASKS[suffix]
        got = [field for field in model(IDS) if field is not None]
        assert len(got) == len(expected)
        for ours, exact in zip(got, expected, strict=True):
            assert np.abs(ours - exact).max() < 1e-4 * max(1, np.abs(exact).max())


@pytest.mark.parametrize(
    "named",
    [{"0": 1, "1": 2, "2": 3}, {"0": True, "1": None, "2": 0.5}, {"1": "a", "2": "b", "3": "c"},
     {"0": "a", "2": "b", "7": "c"}, {"2": "c", "0": "a", "1": "b"}],
)  # fmt: skip
def test_labels(tmp_path: Path, named: dict[str, Any]) -> None:
    save(tmp_path, "Bert", "ForSequenceClassification")
    change(tmp_path, id2label=named, label2id=...)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        expected = theirs(torch.tensor(IDS)).logits.numpy()
    model = fa.load(tmp_path)
    assert model.head is not None
    assert model.head.labels == tuple(str(theirs.config.id2label.get(i, f"LABEL_{i}")) for i in range(3))
    assert np.abs(model(IDS).logits - expected).max() < 1e-4


def test_a_number_of_labels_that_fits_where_their_names_do_not(tmp_path: Path) -> None:
    save(tmp_path, "Bert", "ForSequenceClassification")
    change(tmp_path, id2label={"0": "a", "1": "b"}, label2id=..., num_labels=3)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)  # of version 5
    head = fa.load(tmp_path).head
    assert head is not None and head.labels == tuple(theirs.config.id2label[i] for i in range(3))


@pytest.mark.parametrize("changes", [{"id2label": {str(i): "a" for i in range(4)}}, {"id2label": {"0": "a"}},
                                     {"id2label": ["a", "b", "c"]}, {"id2label": {"a": "a", "b": "b", "c": "c"}},
                                     {"id2label": ..., "num_labels": 5}, {"id2label": ...}])  # fmt: skip
def test_labels_that_both_refuse(tmp_path: Path, changes: dict[str, Any]) -> None:
    save(tmp_path, "Bert", "ForSequenceClassification")
    change(tmp_path, **{"label2id": ..., **changes})
    with pytest.raises(Exception, match=".") as theirs:
        transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert theirs.type in (ValueError, RuntimeError, AttributeError)
    with pytest.raises(ValueError, match=r"id2label|num_labels|'classifier\.weight' has shape \[3, 24\]"):
        fa.load(tmp_path)


@pytest.mark.parametrize("problem", ["guess", "single", None])
@pytest.mark.parametrize("labels", [[1, 2, 3], [0.5]])
def test_the_pipeline(tmp_path: Path, problem: str | None, labels: list[Any]) -> None:
    """Labels that are numbers come as numbers there, and as their text here; the scores are the same."""
    folder = save_task_folder(tmp_path / "model", "sequence_classification", labels, problem_type=problem)
    config = {"tokenizer_class": "BertTokenizerFast", "model_max_length": 40, "do_lower_case": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    pipeline = transformers.pipeline("text-classification", model=str(folder), device="cpu")
    model = copy.deepcopy(fa.load(folder))
    for text, got in zip(["the cat", "a mat"], model.classify(["the cat", "a mat"]), strict=True):
        expected = pipeline(text, top_k=None)
        assert [str(entry["label"]) for entry in expected] == list(got.labels)
        assert np.allclose([entry["score"] for entry in expected], got.scores, atol=1e-5, rtol=0)


def test_names_in_the_cache_as_the_hub_library_finds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    commit = "c" * 40
    snapshot = tmp_path / "hub" / "models--org--tiny" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text(commit)
    save(snapshot, "Bert", "ForSequenceClassification")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    theirs = hub.snapshot_download("org/tiny", cache_dir=tmp_path / "hub", local_files_only=True)
    assert str(fa.load("org/tiny").path) == theirs
