# SPDX-License-Identifier: MIT
"""Nulls of config.json and sequences beyond max_position_embeddings, beside transformers, on folders that both load.

Run with ``pytest -m parity`` where torch and transformers are installed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_limits import save, with_tokenizer

import fastattn as fa

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

Array = np.ndarray[Any, Any]


def compare(folder: Path, ids: Array, mask: Array | None = None, **more: Any) -> None:
    """Hidden states of the folder here and there, in double precision there."""
    model = transformers.AutoModel.from_pretrained(folder).double().eval()
    given = {key: torch.from_numpy(value) for key, value in more.items()}
    with torch.no_grad():
        expected = model(torch.from_numpy(ids), None if mask is None else torch.from_numpy(mask), **given)
    got = fa.load(folder)(ids, mask).last_hidden_state
    seen = np.ones_like(ids) == 1 if mask is None else mask == 1
    exact = expected.last_hidden_state.numpy()
    assert np.abs((got - exact)[seen]).max() <= 3e-5 * max(1.0, float(np.abs(exact).max()))


_FULL = {"pad_token_id": 0}  # ModernBERT's default is beyond a small vocabulary
NULLS: list[tuple[str, dict[str, Any]]] = [
    ("bert", {"pad_token_id": None}), ("bert", {"classifier_dropout": None}), ("bert", {"pad_token_id": -1}),
    ("bert", {"tie_word_embeddings": False}), ("bert", {"chunk_size_feed_forward": 0}),
    ("roberta", {"pad_token_id": 0}), ("roberta", {"pad_token_id": ...}), ("roberta", {"type_vocab_size": 1}),
    ("xlm-roberta", {"pad_token_id": ...}), ("camembert", {"pad_token_id": 3}),
    ("distilbert", {"pad_token_id": None}), ("distilbert", {"sinusoidal_pos_embds": True}),
    ("electra", {"pad_token_id": None}), ("electra", {"layer_norm_eps": ...}),
    ("albert", {"pad_token_id": None}), ("albert", {"num_hidden_groups": ...}), ("albert", {"inner_group_num": ...}),
    ("mpnet", {"pad_token_id": None}), ("mpnet", {"pad_token_id": 0}), ("mpnet", {"pad_token_id": ...}),
    ("mpnet", {"relative_attention_num_buckets": ...}), ("mpnet", {"position_embedding_type": None}),
    ("deberta", {"max_relative_positions": -1}), ("deberta", {"max_relative_positions": 0}),
    ("deberta", {"max_relative_positions": ...}), ("deberta", {"conv_kernel_size": 0}),
    ("deberta", {"conv_kernel_size": -1}), ("deberta", {"pad_token_id": None}), ("deberta", {"type_vocab_size": ...}),
    ("deberta", {"embedding_size": ...}), ("deberta", {"pooler_hidden_size": None}),
    ("deberta_conv", {"position_buckets": ...}), ("deberta_conv", {"position_buckets": 0}),
    ("deberta_conv", {"max_relative_positions": ...}), ("deberta_conv", {"conv_groups": ...}),
    ("deberta_own", {"position_biased_input": False}), ("deberta_own", {"position_biased_input": ...}),
    ("deberta_own", {"norm_rel_ebd": ...}),
    ("modernbert", {"pad_token_id": None}), ("modernbert", {**_FULL, "layer_types": None}),
    ("modernbert", {**_FULL, "rope_parameters": None}), ("modernbert", {**_FULL, "local_rope_theta": ...}),
    ("modernbert", {**_FULL, "global_rope_theta": ...}), ("modernbert", {**_FULL, "rope_scaling": None}),
    ("modernbert", {**_FULL, "global_attn_every_n_layers": ...}), ("modernbert", {**_FULL, "norm_eps": ...}),
    ("modernbert", {**_FULL, "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 9.0}}}),
    ("modernbert", {**_FULL, "rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}}),
    ("modernbert", {**_FULL, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    ("gte", {"rope_parameters": None}), ("gte", {"rope_parameters": {}}), ("gte", {"rope_parameters": {},
                                                                                 "rope_theta": ...}),
    ("gte", {"rope_parameters": {"rope_type": "default"}, "rope_theta": 50.0}), ("gte", {"pad_token_id": None}),
    ("gte", {"rope_parameters": {"rope_theta": 9.0}, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    ("gte", {"classifier_dropout": None}), ("gte", {"position_embedding_type": None}),
]  # fmt: skip


@pytest.mark.parametrize(("case", "changes"), NULLS, ids=lambda value: value if isinstance(value, str) else str(value))
def test_nulls_and_missing_keys(tmp_path: Path, case: str, changes: dict[str, Any]) -> None:
    ids = np.random.default_rng(5).integers(3, 50, (2, 20))
    compare(save(tmp_path / "model", case, **changes), ids)


def test_null_base_of_local_layers(tmp_path: Path) -> None:
    """What transformers before 5 did with it, spelled for the one that is installed."""
    folder = save(tmp_path / "model", "modernbert", **_FULL)
    ids = np.random.default_rng(6).integers(3, 50, (2, 30))
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"local_rope_theta": 10.0', '"local_rope_theta": 200.0'))
    with torch.no_grad():
        model = transformers.AutoModel.from_pretrained(folder).double().eval()
        exact = model(torch.from_numpy(ids)).last_hidden_state.numpy()
    (folder / "config.json").write_text(text.replace('"local_rope_theta": 10.0', '"local_rope_theta": null'))
    assert '"local_rope_theta": null' in (folder / "config.json").read_text()
    assert np.abs(fa.load(folder)(ids).last_hidden_state - exact).max() <= 3e-5


def _modern(**scaling: Any) -> dict[str, Any]:
    kinds = {"full_attention": 200.0, "sliding_attention": 10.0}
    return {**_FULL, "rope_parameters": {kind: {"rope_theta": theta, **scaling} for kind, theta in kinds.items()}}


def _gte(**scaling: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": 40.0, **scaling}}


_LONGROPE = {"rope_type": "longrope", "factor": 2.0, "short_factor": [1.0, 1.5, 2.0, 2.5],
             "long_factor": [2.0, 3.0, 4.0, 5.0], "original_max_position_embeddings": 40}  # fmt: skip
BEYOND: list[tuple[str, dict[str, Any]]] = [
    ("deberta", {}),
    ("deberta_conv", {}),
    ("deberta_own", {"position_biased_input": False}),
    ("modernbert", _modern(rope_type="default")),
    ("modernbert", _modern(rope_type="linear", factor=2.0)),
    ("modernbert", _modern(rope_type="dynamic", factor=2.0)),
    ("gte", _gte(rope_type="default")),
    ("gte", _gte(rope_type="dynamic", factor=3.0)),
    ("gte", _gte(rope_type="yarn", factor=4.0, original_max_position_embeddings=40)),
    ("gte", _gte(rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
                 original_max_position_embeddings=40)),
    ("gte", _gte(**_LONGROPE)),
]  # fmt: skip


@pytest.mark.parametrize("length", [40, 41, 64, 200])
@pytest.mark.parametrize(("case", "changes"), BEYOND, ids=lambda value: value if isinstance(value, str) else str(value))
def test_beyond_max_position_embeddings(tmp_path: Path, case: str, changes: dict[str, Any], length: int) -> None:
    folder = save(tmp_path / "model", case, **changes)
    compare(folder, np.random.default_rng(7).integers(3, 50, (2, length)))


@pytest.mark.parametrize("length", [41, 200])
def test_nomic_beyond_max_position_embeddings(tmp_path: Path, length: int) -> None:
    torch.manual_seed(0)
    config = transformers.NomicBertConfig(
        vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20,
        max_position_embeddings=40, initializer_range=0.3,
    )  # fmt: skip
    transformers.NomicBertModel(config).save_pretrained(tmp_path)
    ids = np.random.default_rng(8).integers(3, 50, (2, length))
    compare(tmp_path, ids, token_type_ids=np.zeros_like(ids))


@pytest.mark.parametrize("case", ["deberta_own", "bert", "roberta", "mpnet", "distilbert", "albert", "electra"])
def test_beyond_a_table_both_refuse(tmp_path: Path, case: str) -> None:
    folder = save(tmp_path / "model", case)
    model, ids = transformers.AutoModel.from_pretrained(folder), np.full((1, 41), 5)
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.from_numpy(ids))
    with pytest.raises(ValueError, match="41 columns"):
        fa.load(folder)(ids)


@pytest.mark.parametrize(("settings", "expected"), [({}, 202), ({"model_max_length": 60}, 60)])
def test_long_texts_of_relative_positions(tmp_path: Path, settings: dict[str, Any], expected: int) -> None:
    """A classification of a text far beyond max_position_embeddings, as transformers' pipeline has it."""
    folder = save(tmp_path / "model", "deberta", "ForSequenceClassification")
    with_tokenizer(folder, tokenizer_class="PreTrainedTokenizerFast", **settings)
    text = "the cat " * 100
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **settings)
    given = tokenizer(text, truncation="model_max_length" in settings, return_tensors="pt")
    assert given["input_ids"].shape[1] == expected
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).double().eval()
    with torch.no_grad():
        exact = torch.softmax(model(given["input_ids"]).logits, -1).numpy()[0]
    found = fa.load(folder).classify([text])[0]
    labels = json.loads((folder / "config.json").read_text())["id2label"]
    by_label = dict(zip(found.labels, found.scores, strict=True))
    assert np.allclose([by_label[labels[str(i)]] for i in range(len(exact))], exact, atol=1e-5, rtol=0)
