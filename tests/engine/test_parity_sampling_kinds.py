# SPDX-License-Identifier: MIT
"""What may be drawn, and what may not come, beside transformers' own processors: on odd vocabularies, row by row.

Run with ``pytest -m parity`` where torch and transformers are installed.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy_sampling import bits_of

from fastattn import _core
from fastattn.engine.drawing import call_of
from fastattn.engine.sampling import sampling_of

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

SIZES = (2, 3, 5, 7, 31, 97, 101, 257, 1000, 1009, 4099, 32003)
ROWS = 50


@pytest.fixture(scope="module")
def model() -> Any:
    config = transformers.GPT2Config(vocab_size=8, n_positions=64, n_embd=8, n_layer=1, n_head=1)
    return transformers.GPT2LMHeadModel(config)


def processors_of(model: Any, prompt: int, end: int | None = None, **options: Any) -> Any:
    settings = transformers.GenerationConfig(eos_token_id=end, pad_token_id=0, **options)
    model._prepare_special_tokens(settings, device="cpu")
    return model._get_logits_processor(settings, input_ids_seq_length=prompt)


def logits_of(size: int) -> np.ndarray[Any, Any]:
    """Rows of all kinds, without ties: flat, steep, with tokens that the model excludes."""
    rng = np.random.default_rng(size)
    rows = rng.standard_normal((ROWS, size)) * rng.choice([0.3, 1, 3, 8], (ROWS, 1))
    if size > 5:
        rows[::7, :: max(size // 5, 2)] = -np.inf
    return rows.astype(np.float32)


# ---- what may be drawn -----------------------------------------------------------------------------------------------

SETS: list[dict[str, Any]] = [
    {"typical_p": 0.9},
    {"typical_p": 0.2, "temperature": 1.7},
    {"epsilon_cutoff": 3e-4},
    {"epsilon_cutoff": 0.3, "temperature": 0.6},
    {"eta_cutoff": 2e-3},
    {"eta_cutoff": 0.6, "temperature": 1.4},
    {"top_k": 60, "top_p": 0.95, "min_p": 0.001, "typical_p": 0.8, "temperature": 1.2},
    {"top_k": 5, "typical_p": 0.5, "epsilon_cutoff": 0.05, "eta_cutoff": 0.1},
    {"typical_p": 0.3, "epsilon_cutoff": 0.4, "temperature": 1.5},
    {"typical_p": 0.6, "eta_cutoff": 0.75, "temperature": 1.3},
]


@pytest.mark.parametrize("options", SETS, ids=str)
def test_tokens_given_the_same_uniform_numbers(model: Any, options: dict[str, Any]) -> None:
    """The inverse distribution function of what transformers leaves, in float64, at our random numbers."""
    warpers = processors_of(model, 1, do_sample=True, **{"top_k": 0, **options})
    drawn = others = 0
    for size in SIZES:
        logits = logits_of(size)
        scores = warpers(torch.zeros((ROWS, 1), dtype=torch.long), torch.from_numpy(logits).double())
        p = torch.softmax(scores, -1).numpy()
        edges = np.cumsum(p, axis=1)
        sampling = sampling_of(**{"temperature": 1.0, "seed": size, **options})
        for step in range(4):
            got = _core.sample(logits, [sampling] * ROWS, which=range(ROWS), steps=[step] * ROWS)[0]
            for row, token in enumerate(got.tolist()):
                u = bits_of(sampling, step, row)
                expected = int(np.searchsorted(edges[row], u * edges[row, -1], side="right"))
                drawn, others = drawn + 1, others + (token != expected)
                if token != expected:  # then the number fell on an edge
                    assert p[row, token] > 0 and np.abs(edges[row] - u).min() < 1e-6, (size, row, step)
    assert drawn == 4 * ROWS * len(SIZES) and others <= 2


# ---- what may not come -----------------------------------------------------------------------------------------------


def sequences(rng: Any, size: int, history: Any, count: int) -> list[list[int]]:
    """Sequences of ids of which some go on where the history ends."""
    found = []
    for i in range(count):
        length = int(rng.integers(1, 4))
        before = (
            history[len(history) - length + 1 :].tolist() if i % 2 and length > 1 else rng.integers(0, size, length - 1)
        )
        found.append([int(token) for token in before] + [int(rng.integers(0, size))])
    return [list(one) for one in dict.fromkeys(map(tuple, found))]


def case(kind: str, rng: Any, size: int, history: Any, prompt: int) -> dict[str, Any]:
    """Options by transformers' names."""
    if kind == "n-grams":
        return {"no_repeat_ngram_size": int(rng.integers(1, 5))}
    if kind == "words":
        return {"bad_words_ids": [*sequences(rng, size, history, 12), [size - 1]]}
    if kind == "biases":
        pairs = sequences(rng, size, history, 12)
        return {"sequence_bias": [[one, float(np.float32(rng.normal() * 3))] for one in pairs]}
    if kind == "suppressed":
        return {
            "suppress_tokens": rng.integers(0, size + 3, 5).tolist(),
            "begin_suppress_tokens": rng.integers(0, size, 3).tolist(),
        }
    if kind == "lengths":
        return {
            "min_length": int(rng.integers(0, 14)),
            "exponential_decay_length_penalty": (int(rng.integers(0, 5)), float(rng.choice([1.02, 1.5, 0.8]))),
        }
    if kind == "forced":
        return {"forced_bos_token_id": 1, "forced_eos_token_id": 0, "max_length": int(rng.integers(8, 14))}
    return {
        "no_repeat_ngram_size": 3, "repetition_penalty": 1.3, "bad_words_ids": sequences(rng, size, history, 5),
        "suppress_tokens": [size // 2], "sequence_bias": [[[size // 3], 1.5]], "min_length": 9,
    }  # fmt: skip


KINDS = ("n-grams", "words", "biases", "suppressed", "lengths", "forced", "all")


@pytest.mark.parametrize("kind", KINDS)
def test_processed_logits_rank_by_rank(model: Any, kind: str) -> None:
    """The best tokens, one after the other, are transformers'; where it leaves none, there is none here."""
    compared = 0
    for size in SIZES:
        logits = logits_of(size)
        for row in range(ROWS):
            rng = np.random.default_rng([size, row])
            length = int(rng.integers(1, 13))
            prompt = 1 if row % 5 == 0 else int(rng.integers(1, length + 1))
            history = rng.integers(0, min(size, 2 + row % 4), length)
            end = size - 1
            options = case(kind, rng, size, history, prompt)
            processors = processors_of(model, prompt, end, **options)
            scores = processors(torch.from_numpy(history[None]), torch.from_numpy(logits[row : row + 1].copy()))[
                0
            ].numpy()
            total = options.pop("max_length", 1000)
            if "bad_words_ids" in options:
                options["bad_words"] = options.pop("bad_words_ids")
            sampling = sampling_of(vocab_size=size, ends={end}, **options)
            one = SimpleNamespace(
                prompt=history[:prompt], made=history[prompt:].tolist(), total=total, which=0, ends=frozenset({end}),
                sampling=sampling, surprise=0.0, history=lambda history=history: history,
            )  # fmt: skip
            call = call_of([one])
            if "given" in call:
                assert call["given"] == [int(scores.argmax())] and (scores > -np.inf).sum() == 1
                compared += 1
                continue
            order = np.lexsort((np.arange(size), -scores))[: min(8, int((scores > -np.inf).sum()))]
            banned = call.pop("banned", [None])[0]
            banned = np.zeros(0, np.int64) if banned is None else banned
            for rank, token in enumerate(order.tolist()):
                without = [np.concatenate([banned, order[:rank]])]
                got = _core.sample(logits[row : row + 1], [sampling], banned=without, **call)[0][0]
                assert got == token, (size, row, rank, options)
                compared += 1
            if not len(order) or len(order) < 8:
                without = [np.concatenate([banned, order])]
                left = _core.sample(logits[row : row + 1], [sampling], banned=without, strict=False, **call)[0][0]
                assert left == -2
    assert compared > 1500 if kind != "forced" else compared > 500
