# SPDX-License-Identifier: MIT
"""Drawing beside transformers' own processors, in the order generate() puts them, and torch's log_softmax.

Run with ``pytest -m parity`` where torch and transformers are installed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy_sampling import processed, remaining

from fastattn import _core
from fastattn.engine.sampling import sampling_of

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

SIZE = 400


@pytest.fixture(scope="module")
def model() -> Any:
    config = transformers.GPT2Config(vocab_size=SIZE, n_positions=64, n_embd=8, n_layer=1, n_head=1)
    return transformers.GPT2LMHeadModel(config)


def scores_of(
    model: Any, logits: np.ndarray[Any, Any], tokens: list[int], prompt: int, end: int | None = None, **options: Any
) -> Any:
    """Logits (V,), of whatever float type, behind the processors of these options."""
    settings = transformers.GenerationConfig(eos_token_id=end, pad_token_id=0, **options)
    model._prepare_special_tokens(settings, device="cpu")
    processors = model._get_logits_processor(settings, input_ids_seq_length=prompt)
    return processors(torch.tensor([tokens]), torch.from_numpy(logits[None].copy()))[0].numpy()


def cases(count: int = 40) -> Any:
    for seed in range(count):
        rng = np.random.default_rng(seed)
        logits = (rng.permutation(SIZE) / 40 - 5 + rng.random(SIZE) * 0.02).astype(np.float32)  # no ties
        yield seed, logits, rng.integers(0, SIZE, 30).tolist()


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.3},
        {"repetition_penalty": 0.7},
        {"logit_bias": {3: 4.0, 399: 6.5, 12: -7.25}},
        {"logit_bias": {3: 4.0, 399: 6.5, 12: -7.25}, "repetition_penalty": 1.7},
    ],
)
def test_greedy_tokens_and_processed_logits_are_bit_for_bit_those_of_transformers(model: Any, options: Any) -> None:
    theirs = {k: v for k, v in options.items() if k != "logit_bias"}
    if "logit_bias" in options:
        theirs["sequence_bias"] = {(token,): bias for token, bias in options["logit_bias"].items()}
    for _, logits, tokens in cases():
        scores = scores_of(model, logits, tokens, 10, **theirs)
        assert scores.dtype == np.float32
        sampling = sampling_of(**options)
        assert np.array_equal(processed(logits, sampling, tokens, 10), scores.astype(np.float64))
        call: dict[str, Any] = {"tokens": [np.array(tokens)], "prompts": [10]}
        order = np.lexsort((np.arange(SIZE), -scores))
        for rank in range(20):
            got = _core.sample(logits[None], [sampling], banned=[np.sort(order[:rank])], **call)[0][0]
            assert got == order[rank]


def test_tokens_that_end_do_not_come_too_early(model: Any) -> None:
    for _, logits, tokens in cases(10):
        end = int(logits.argmax())
        for prompt in (27, 28, 29):  # three, two, one token so far
            scores = scores_of(model, logits, tokens, prompt, end=end, min_new_tokens=2)
            banned = [np.array([end])] if len(tokens) - prompt < 2 else [None]
            assert _core.sample(logits[None], [sampling_of()], banned=banned)[0][0] == scores.argmax()


SETS = [
    {"temperature": 0.7},
    {"top_k": 1},
    {"top_k": 50, "temperature": 1.3},
    {"top_k": 399},
    {"top_p": 0.9},
    {"top_p": 0.05, "temperature": 2.0},
    {"min_p": 0.05},
    {"min_p": 0.9, "temperature": 5.0},
    {"top_k": 100, "top_p": 0.8, "min_p": 0.02, "temperature": 1.5},
    {"top_k": 5, "top_p": 0.99, "repetition_penalty": 1.2, "temperature": 0.9},
]


@pytest.mark.parametrize("options", SETS, ids=lambda value: " ".join(f"{k} {v}" for k, v in value.items()))
def test_what_stays_and_with_which_probability(model: Any, options: dict[str, Any]) -> None:
    """The oracle keeps the tokens that transformers keeps, as likely as there; ours draws from these and no other."""
    for seed, logits, tokens in cases(12):
        full = {"temperature": 1.0, **options}
        scores = scores_of(model, logits.astype(np.float64), tokens, 10, do_sample=True, **{"top_k": 0, **full})
        expected = torch.softmax(torch.from_numpy(scores), -1).numpy()
        sampling = sampling_of(seed=seed, **full)
        p, margin = remaining(processed(logits, sampling, tokens, 10), sampling)
        assert margin > 1e-8
        assert np.array_equal(p > 0, expected > 0)
        assert np.abs(p - expected).max() < 1e-6
        count = 300
        got = _core.sample(np.broadcast_to(logits, (count, SIZE)), [sampling] * count, steps=range(count),
                           tokens=[np.array(tokens)] * count, prompts=[10] * count)[0]  # fmt: skip
        assert (expected[got] > 0).all()
        if (expected > 0).sum() <= 8:
            assert set(got.tolist()) >= set(np.flatnonzero(expected > 0.03).tolist())


@pytest.mark.parametrize("scale", [0.1, 1, 10, 1000])
def test_log_probabilities(scale: float) -> None:
    rng = np.random.default_rng(3)
    for size in (1, 7, 1000, 50257):
        logits = (rng.standard_normal((3, size)) * scale).astype(np.float32)
        k = min(size, 20)
        tokens, logprobs, ids, values = _core.sample(logits, [sampling_of(logprobs=k)] * 3)
        assert logprobs is not None and ids is not None and values is not None
        exact = torch.log_softmax(torch.from_numpy(logits).double(), -1)
        best, places = exact.topk(k)
        assert np.array_equal(ids, places.numpy()) and np.array_equal(tokens, exact.argmax(-1).numpy())
        for got, wanted in ((values, best.numpy()), (logprobs, best[:, 0].numpy())):
            assert (np.abs(got - wanted) <= np.maximum(1e-6, 2.0**-24 * np.abs(wanted))).all()
