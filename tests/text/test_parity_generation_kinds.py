# SPDX-License-Identifier: MIT
"""Answers beside transformers' ``generate``: models of odd shapes, each key of generation_config.json it obeys.

Run with ``pytest -m parity`` where torch and transformers are installed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_decoders

import fastattn as fa

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

PROMPTS = 50
NEW = 14
MODELS = [  # family, and what is odd about it
    ("llama", {"vocab_size": 31}),
    ("llama", {"vocab_size": 101, "num_hidden_layers": 1}),
    ("mistral", {"vocab_size": 97}),
    ("qwen2", {"vocab_size": 257}),
    ("qwen3", {"vocab_size": 67, "num_hidden_layers": 1}),
    ("granite", {"vocab_size": 300}),
]
FILES: list[dict[str, Any]] = [
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 3, "repetition_penalty": 1.2},
    {"bad_words_ids": [[3], [5, 6], [2, 4, 4], [7, 1], [2]], "min_length": 12},
    {"suppress_tokens": [1, 5, 9], "begin_suppress_tokens": [4, 6, 8, 10], "forced_eos_token_id": 2},
    {"sequence_bias": [[[3], 1.5], [[3, 4], 2.5], [[11], -3.0]], "exponential_decay_length_penalty": [4, 1.3]},
]


def prompts(vocab: int) -> list[list[int]]:
    """Of one length, so that transformers takes them together without padding; of few kinds of tokens, which repeat."""
    rng = np.random.default_rng(vocab)
    length = int(rng.integers(1, 25))
    return [rng.integers(3, min(vocab, 8 + i), length).tolist() for i in range(PROMPTS)]


@pytest.mark.parametrize(("family", "odd"), MODELS, ids=str)
@pytest.mark.parametrize("stored", FILES, ids=[" ".join(stored) for stored in FILES])
def test_greedy_answers(tmp_path: Path, family: str, odd: dict[str, Any], stored: dict[str, Any]) -> None:
    """The same tokens, but where transformers' two best ones are nearly equal."""
    folder = tiny_decoders.make(tmp_path / "model", family, **odd)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "pad_token_id": 0, **stored}))
    ours = fa.load(folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    texts = prompts(odd["vocab_size"])
    got = ours.generate(texts, max_new_tokens=NEW)
    ids = torch.tensor(texts)
    found = theirs.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False, return_dict_in_generate=True,
        output_scores=True,
    )  # fmt: skip
    near = 0
    for row, one in enumerate(got):
        expected = found.sequences[row, len(texts[row]) :].tolist()
        if 2 in expected:
            expected = expected[: expected.index(2) + 1]
        differs = [i for i, pair in enumerate(zip(one.token_ids, expected, strict=False)) if pair[0] != pair[1]]
        if not differs:
            assert list(one.token_ids) == expected
            continue
        scores = found.scores[differs[0]][row]
        off = scores[expected[differs[0]]] - scores[one.token_ids[differs[0]]]
        assert off < 1e-4 * scores[scores > -torch.inf].abs().max(), (row, differs[0])
        near += 1
    assert near <= 2
