# SPDX-License-Identifier: MIT
"""Sentence vectors and reranking beside sentence-transformers itself, from the folders it writes.

Run with ``pytest -m parity`` where it is installed (versions 4 and 6 were); else the formulas of test_text_vectors.py
stand in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_bert
from support.text_folders import save_task_folder, write_json

import fastattn as fa

sentence_transformers = pytest.importorskip("sentence_transformers")
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

TEXTS = ["the cat sat on the mat.", "", "a", "b c d", "cats, longer cats!", "abcd " * 5, "東京 über", "the mat " * 60]
MODES = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
FLAGS = ["cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"]


def modules() -> Any:
    try:
        from sentence_transformers.sentence_transformer import modules as found
    except ImportError:
        from sentence_transformers import models as found
    return found


def transformer(folder: Path, **config: Any) -> Any:
    tiny_bert.save_text_folder(folder)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizerFast", "model_max_length": 40,
                                                  "do_lower_case": False})  # fmt: skip
    return modules().Transformer(str(folder), **config)


def pooling(*modes: str, **options: Any) -> Any:
    flags = {f"pooling_mode_{flag}": mode in modes for flag, mode in zip(FLAGS, MODES, strict=True)}
    return modules().Pooling(32, **flags, **options)


def save(path: Path, *parts: Any, **options: Any) -> Any:
    torch.manual_seed(5)
    model = sentence_transformers.SentenceTransformer(modules=list(parts), device="cpu", **options)
    model.save(str(path))
    return model


def compare(theirs: Any, ours: Any, **options: Any) -> None:
    expected = theirs.encode(TEXTS, **options)
    got = ours.embed(TEXTS, **options)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() < 1e-5 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("mode", [*MODES, "all"])
def test_pooling(tmp_path: Path, mode: str) -> None:
    modes = MODES if mode == "all" else [mode]
    theirs = save(tmp_path / "saved", transformer(tmp_path / "base"), pooling(*modes))
    ours = fa.load(tmp_path / "saved")
    compare(theirs, ours)
    expected = theirs.encode(TEXTS, normalize_embeddings=True)
    assert np.abs(ours.embed(TEXTS, normalize=True) - expected).max() < 1e-6


@pytest.mark.parametrize("mode", ["max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
def test_a_prompt_that_takes_no_part(tmp_path: Path, mode: str) -> None:
    """Not cls: there, version 4 takes the first token nevertheless, and version 6 the first after the prompt."""
    theirs = save(
        tmp_path / "saved",
        transformer(tmp_path / "base"),
        pooling(mode, include_prompt=False),
        prompts={"query": "query : ", "other": "the long "},
        default_prompt_name="query",
    )
    ours = fa.load(tmp_path / "saved")
    compare(theirs, ours)
    compare(theirs, ours, prompt_name="other")
    compare(theirs, ours, prompt="a b c ")


def test_modules_and_truncated_vectors(tmp_path: Path) -> None:
    kinds = modules()
    theirs = save(
        tmp_path / "saved",
        transformer(tmp_path / "base", max_seq_length=20),
        pooling("mean", "cls"),
        kinds.Dense(64, 24),
        kinds.LayerNorm(24),
        kinds.Dense(24, 16, bias=False, activation_function=torch.nn.GELU()),
        kinds.Normalize(),
    )
    ours = fa.load(tmp_path / "saved")
    assert ours.embedding_size() == 16
    compare(theirs, ours)
    theirs.truncate_dim = 5
    expected = theirs.encode(TEXTS, normalize_embeddings=True)
    assert np.abs(ours.embed(TEXTS, truncate_dim=5) - expected).max() < 1e-5


def test_cross_encoder(tmp_path: Path) -> None:
    folder = save_task_folder(tmp_path / "model", "sequence_classification", ["score"])
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizerFast", "model_max_length": 40,
                                                  "do_lower_case": False})  # fmt: skip
    theirs = sentence_transformers.CrossEncoder(str(folder), device="cpu")
    for place in (folder, tmp_path / "saved"):
        ours = fa.load(place) if place == folder else None
        if ours is None:
            theirs.save_pretrained(str(place))
            ours = fa.load(place)
        expected = theirs.rank("a cat", TEXTS)
        got = ours.rerank("a cat", TEXTS)
        assert [entry["corpus_id"] for entry in expected] == [index for index, _ in got]
        assert np.abs(np.array([entry["score"] for entry in expected]) - [score for _, score in got]).max() < 1e-5
