# SPDX-License-Identifier: MIT
"""Greedy and beam search find the tokens and scores that transformers' ``generate`` finds, in double precision.

Run with ``pytest -m parity`` where torch and transformers are installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import numpy_decoders, tiny_decoders

import fastattn as fa

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
exact_torch = pytest.importorskip("support.exact_torch")
one_thread = exact_torch.one_thread
pytestmark = pytest.mark.parity

Array = np.ndarray[Any, Any]

MODELS = [
    "llama, heads of 10", "llama, biases, one key head", "llama, yarn", "mistral",
    "mistral, a window of two, wide heads", "qwen2, the last layers slide", "qwen2, tied",
    "qwen3, heads of 8, biases", "phi3, a window", "smollm3, layers by name", "granite", "olmo2",
]  # fmt: skip
LENGTHS = (1, 4, 9, 14, 22)  # ten prompts of each
EACH = 10
NEW = 13
OPTIONS: list[dict[str, Any]] = [
    {},
    {"length_penalty": 0.0, "early_stopping": "never"},
    {"length_penalty": 2.5, "early_stopping": True, "repetition_penalty": 1.4},
    {"length_penalty": -1.0, "min_new_tokens": 4, "early_stopping": False},
    {"length_penalty": 1.3, "early_stopping": "never", "min_new_tokens": 2},
]
NEAR = 1e-4  # of the largest logit: what NUMERICS.md calls a near-tie
MOST_NEAR = 0.005


def ends_of(model: Any, prompts: Array) -> list[int]:
    """Tokens that come often enough to end many texts."""
    made = model.generate(prompts, max_new_tokens=NEW, ignore_eos=True)
    ids, counts = np.unique([token for one in made for token in one.token_ids[2:]], return_counts=True)
    return [int(one) for one in ids[np.argsort(-counts, kind="stable")][1:3]]


def total_of(c: dict[str, Any], weights: Any, prompt: Array, tokens: tuple[int, ...]) -> tuple[float, float]:
    """The log-probability of tokens behind a prompt in double precision, and the largest logit there."""
    ids = np.concatenate([prompt, tokens])[None]
    logits = numpy_decoders.logits(c, weights, ids, np.ones_like(ids))[0, prompt.size - 1 : -1]
    top = logits.max(1)
    logprobs = logits[np.arange(len(tokens)), tokens] - top - np.log(np.exp(logits - top[:, None]).sum(1))
    return float(logprobs.sum()), float(np.abs(logits).max())


@pytest.mark.parametrize("name", MODELS)
def test_tokens_and_scores(tmp_path: Path, name: str) -> None:
    family = tiny_decoders.VARIANTS[name][0]
    folder = tiny_decoders.variant(tmp_path, name)
    c, weights = numpy_decoders.load(folder)
    model = fa.load(folder, dtype="float32")
    random = np.random.default_rng(len(name))
    near = cases = 0
    with exact_torch.double_throughout(family), torch.no_grad():
        theirs = exact_torch.load_double(folder, family)
        cached = numpy_decoders.window(c, 0) != 1
        for length, more in zip(LENGTHS, OPTIONS, strict=True):
            prompts = random.integers(0, c["vocab_size"], (EACH, length))
            ends = ends_of(model, prompts)
            for beams in (1, 2, 4):
                n = 1 if beams == 1 else beams - 1
                options = {"repetition_penalty": more.get("repetition_penalty")} if beams == 1 else more
                ours = model.generate(
                    prompts, max_new_tokens=NEW, num_beams=beams, n=n, stop_token_ids=ends, ignore_eos=True, **options
                )
                ids = torch.tensor(prompts)
                got = theirs.generate(
                    ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, num_beams=beams, do_sample=False,
                    num_return_sequences=n, eos_token_id=ends, pad_token_id=ends[0], use_cache=cached,
                    return_dict_in_generate=True, output_scores=True, **options,
                )  # fmt: skip
                assert len(ours) == EACH * n
                for i, one in enumerate(ours):
                    cases += 1
                    expected = got.sequences[i, length:].numpy()
                    count = len(one.token_ids)
                    same = tuple(expected[:count]) == one.token_ids and set(expected[count:]) <= {ends[0]}
                    if beams > 1 and same:
                        score = float(got.sequences_scores[i])
                        assert abs(one.score - score) <= 2e-5 * max(1, abs(score)), (name, beams, i)
                    if same:
                        continue
                    last = next((j + 1 for j, token in enumerate(expected) if token in ends), len(expected))
                    mine, largest = total_of(c, weights, prompts[i // n], one.token_ids)
                    other, _ = total_of(c, weights, prompts[i // n], tuple(expected[:last]))
                    print(name, beams, options, i, one.token_ids, expected, mine, other, largest)
                    assert abs(mine - other) <= NEAR * largest
                    near += 1
    assert near <= MOST_NEAR * cases
