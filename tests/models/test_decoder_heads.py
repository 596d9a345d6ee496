# SPDX-License-Identifier: MIT
"""Decoders that label: the last token of a sequence, or each of its tokens, beside NumPy in double precision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import numpy_decoders, tiny_decoders
from golden.tiny_bert import save_safetensors, uniform

import fastattn as fa

Array = np.ndarray[Any, Any]
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "phi3", "granite", "olmo2")


def save(
    folder: Path, family: str, labels: int, *, bias: bool = False, kind: str = "Sequence", prefix: str = "model.",
    left_out: tuple[str, ...] = (), dtype: str = "float32", **overrides: Any,
) -> Path:  # fmt: skip
    """A folder with a layer ``score`` in the place of ``lm_head``."""
    c = tiny_decoders.config(family, **overrides)
    c["architectures"] = [f"{tiny_decoders.CLASSES[family]}For{kind}Classification"]
    c["id2label"] = {str(i): f"label {i}" for i in range(labels)}
    arrays = {name: a for name, a in tiny_decoders.tensors(c).items() if not name.startswith("lm_head")}
    arrays["score.weight"] = uniform("score", (labels, c["hidden_size"])).astype(np.float32)
    if bias:
        arrays["score.bias"] = uniform("score.bias", (labels,)).astype(np.float32)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in c.items() if k not in left_out}))
    renamed = {
        name.replace("model.", prefix, 1) if name.startswith("model.") else name: a for name, a in arrays.items()
    }
    save_safetensors(folder / "model.safetensors", renamed)
    return folder


def exact(folder: Path, ids: Array, mask: Array) -> list[Array]:
    """Logits of every attended token of each row, in double precision."""
    c, w = numpy_decoders.load(folder)
    found = []
    for row, seen in zip(ids, mask, strict=True):
        columns = np.flatnonzero(seen)
        x = numpy_decoders.hidden_states(c, w, row[columns], columns)
        found.append(x @ w["score.weight"].T + w.get("score.bias", 0.0))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_token_has_the_labels(tmp_path: Path, family: str) -> None:
    folder = save(tmp_path / "m", family, 3)
    model = fa.load(folder)
    assert model.head is not None and model.head.kind == "sequence_classification" and model.notes == []
    assert model.head.labels == ("label 0", "label 1", "label 2")
    ids, mask = tiny_decoders.batch(json.loads((folder / "config.json").read_text()))
    got = model(ids, mask).logits
    real = [np.flatnonzero(ids[i][mask[i] == 1] != 0) for i in range(len(ids))]  # 0 is the id of padding
    expected = np.stack([rows[at[-1]] for rows, at in zip(exact(folder, ids, mask), real, strict=True)])
    assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()
    alone = [model(ids[i : i + 1], mask[i : i + 1], num_threads=1 + i % 2).logits for i in range(len(ids))]
    assert np.concatenate(alone).tobytes() == got.tobytes()
    packed = fa.load(fa.pack(folder, tmp_path / "m.fastattn", dtype="float32"))
    assert packed(ids, mask).logits.tobytes() == got.tobytes()


@pytest.mark.parametrize("padding", [7, 0, -1, None])
def test_the_last_token_that_is_no_padding(tmp_path: Path, padding: int | None) -> None:
    """As in transformers, whatever the mask says: a text may end with that id, or be nothing else."""
    folder = save(tmp_path / "m", "qwen2", 2, pad_token_id=padding)
    model = fa.load(folder)
    rows = [[3, 7, 5, 7, 7], [7, 7, 7, 7, 7], [7, 7, 1, 2, 4], [9, 0, 0, 7, 0]]
    places = {7: [2, 0, 4, 4], 0: [4, 4, 4, 3], -1: [4] * 4, None: [4] * 4}[padding]
    got = model(rows).logits
    for row, place, logits in zip(rows, places, got, strict=True):
        assert model([row[: place + 1]]).logits[0].tobytes() == logits.tobytes()
        expected = exact(folder, np.array([row]), np.ones((1, 5), int))[0][place]
        assert np.abs(logits - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("biased", [True, False])
def test_every_token_has_labels(tmp_path: Path, biased: bool) -> None:
    folder = save(tmp_path / "m", "qwen3", 5, bias=biased, kind="Token", token_classification_bias=biased)
    model = fa.load(folder)
    assert model.head is not None and model.head.kind == "token_classification" and model.notes == []
    ids, mask = tiny_decoders.batch(json.loads((folder / "config.json").read_text()))
    got = model(ids, mask).logits
    for row, seen, rows in zip(got, mask, exact(folder, ids, mask), strict=True):
        assert np.abs(row[seen == 1] - rows).max() < 1e-5 * np.abs(rows).max()
        assert not row[seen == 0].any()


@pytest.mark.parametrize("changes", [{"left_out": ("architectures",)}, {"prefix": ""}, {"tie_word_embeddings": True}])
def test_where_the_files_say_it_otherwise(tmp_path: Path, changes: dict[str, Any]) -> None:
    """The head is told by its tensors; names may lack the prefix; a table of words that is tied makes no other head."""
    model = fa.load(save(tmp_path / "m", "qwen3", 1, **changes))
    assert model.head is not None and model.head.kind == "sequence_classification" and model.head.outputs == 1


def test_what_such_a_model_is_not(tmp_path: Path) -> None:
    model = fa.load(save(tmp_path / "m", "llama", 2))
    with pytest.raises(ValueError, match="no language model's head"):
        model.generate([1, 2])
    with pytest.raises(ValueError, match="no language model's head"):
        model.score([[1, 2]])
    bare = fa.load(tmp_path / "m", head="none")
    assert bare.head is None and bare([[1, 2]]).last_hidden_state.shape == (1, 2, 48)
    with pytest.raises(ValueError, match="lacks tensor 'score.bias'"):
        fa.load(tmp_path / "m", head="token_classification")
    with pytest.raises(ValueError, match="lacks tensor 'lm_head.weight'"):
        fa.load(tmp_path / "m", head="causal_lm")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"is_causal": False}, "is_causal is false: decoders whose tokens see those behind them are not supported"),
        ({"is_causal": 1}, "is_causal is 1: decoders"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention is true: decoders"),
        ({"architectures": ["MistralBiModel"]}, "architectures has 'MistralBiModel': decoders whose tokens see"),
        ({"architectures": ["LlamaBidirectionalForSequenceClassification"]}, "'LlamaBidirectionalForSequenceClass"),
        ({"use_bidirectional_attention": "all"}, "use_bidirectional_attention is all: decoders"),
    ],
)
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "mistral"])
def test_decoders_that_look_ahead_are_refused(tmp_path: Path, family: str, change: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        fa.load(tiny_decoders.make(tmp_path / "m", family, **change))
    usual = {"is_causal": True, "use_bidirectional_attention": False}
    assert fa.load(tiny_decoders.make(tmp_path / "usual", family, **usual)).notes == []
