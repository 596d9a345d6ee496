# SPDX-License-Identifier: MIT
"""Whole answers beside transformers' ``generate`` in double precision: greedy, beams, and drawn by the same numbers.

Twelve models of odd shapes, of families that are least like each other, with fifty prompts each. Both sides have their
options from one generation_config.json. Run with ``pytest -m parity`` where torch and transformers are installed.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from golden import tiny_decoders, tiny_latent, tiny_moe, tiny_states
from numpy_sampling import bits_of

import fastattn as fa
from fastattn.engine.sampling import sampling_of

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
exact_torch = pytest.importorskip("support.exact_torch")
one_thread = exact_torch.one_thread
pytestmark = pytest.mark.parity

Array = np.ndarray[Any, Any]

MAKERS = {
    "gpt2, not tied, heads of 10": tiny_decoders,
    "gpt_neox, heads of 10, no biases": tiny_decoders,  # a vocabulary of 7
    "bloom": tiny_decoders,
    "falcon, one after the other, heads of 10": tiny_decoders,
    "gemma2, a window of the token itself, untied": tiny_decoders,
    "gemma3_text, caps, untied": tiny_decoders,
    "cohere2, no layer has positions": tiny_decoders,
    "mixtral, a window, one of two": tiny_moe,
    "qwen3_moe, as it comes, biases": tiny_moe,
    "deepseek_v3": tiny_latent,
    "lfm2, layers by number, keys of old": tiny_states,
    "qwen3_next": tiny_states,
}
PROMPTS = 50
NEW = 11
NEAR = 1e-4  # of the largest logit: what NUMERICS.md calls a near-tie
MOST_NEAR = 0.005
EDGE = 1e-4  # as much of a distribution function: logits that far off move it by no more

GREEDY: list[dict[str, Any]] = [
    {"no_repeat_ngram_size": 3, "repetition_penalty": 1.3, "min_new_tokens": 4},
    {"bad_words_ids": [[3], [5, 6], [2, 4, 4], [4, 1]], "repetition_penalty": 0.8, "forced_eos_token_id": 1},
    {
        "sequence_bias": [[[3], 0.5], [[4, 3], 2.5], [[1, 2, 0], 3.5], [[2], -1.0]], "no_repeat_ngram_size": 4,
        "exponential_decay_length_penalty": [3, 1.2], "begin_suppress_tokens": [0, 4],
    },
    {"forced_bos_token_id": 2, "begin_suppress_tokens": [0, 4], "no_repeat_ngram_size": 3, "min_length": 5},
]  # fmt: skip
BEAMS: list[dict[str, Any]] = [
    {"num_beams": 2, "no_repeat_ngram_size": 3, "num_return_sequences": 2, "length_penalty": 0.4},
    {
        "num_beams": 4, "repetition_penalty": 1.3, "bad_words_ids": [[3], [5, 6], [2, 4, 4], [4, 1]],
        "num_return_sequences": 3, "length_penalty": 2.0, "early_stopping": True,
    },
    {
        "num_beams": 4, "forced_eos_token_id": 1, "num_return_sequences": 4, "length_penalty": -0.5,
        "early_stopping": "never", "no_repeat_ngram_size": 4, "min_new_tokens": 3,
    },
    {
        "num_beams": 2, "sequence_bias": [[[3], 0.5], [[4, 3], 2.5], [[1, 2, 0], 3.5]], "early_stopping": "never",
        "exponential_decay_length_penalty": [3, 1.2], "suppress_tokens": [2], "length_penalty": 1.5,
    },
    {
        "num_beams": 3, "forced_bos_token_id": 2, "begin_suppress_tokens": [0, 4], "num_return_sequences": 3,
        "length_penalty": 0.0, "min_length": 5, "repetition_penalty": 0.8,
    },
]  # fmt: skip
DRAWN: list[dict[str, Any]] = [
    {"temperature": 0.7, "top_k": 5, "repetition_penalty": 1.2},
    {"temperature": 1.6, "top_k": 0, "top_p": 0.8, "min_p": 0.02, "num_return_sequences": 2},
    {"temperature": 1.1, "top_k": 0, "typical_p": 0.6, "no_repeat_ngram_size": 3, "min_new_tokens": 4},
    {"temperature": 0.9, "top_k": 0, "min_p": 0.1, "bad_words_ids": [[3], [5, 6], [2, 4, 4]], "epsilon_cutoff": 0.01},
    {"temperature": 1.5, "top_k": 50, "typical_p": 0.5, "epsilon_cutoff": 0.1, "eta_cutoff": 0.2},
]


class Pair(NamedTuple):
    """One model on both sides."""

    folder: Path
    family: str
    theirs: Any
    ends: list[int]
    """Tokens that come often enough to end many texts."""
    vocab_size: int
    cached: bool
    """Whether transformers may keep keys: it has one place too few for a window of the token itself."""


@pytest.fixture(scope="module", params=MAKERS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    name, maker = request.param, MAKERS[request.param]
    family = maker.VARIANTS[name][0]
    folder = maker.variant(tmp_path_factory.mktemp("model"), name)
    with exact_torch.double_throughout(family):
        if maker is tiny_decoders:
            theirs = exact_torch.load_double(folder, family)
        else:
            eager = {"attn_implementation": "eager", "experts_implementation": "eager"}
            theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, **eager)
            theirs.double().eval()
    # processors are for float32: only the model itself takes numbers of no type for float64
    theirs.register_forward_pre_hook(lambda *_: torch.set_default_dtype(torch.float64))
    theirs.register_forward_hook(lambda *_: torch.set_default_dtype(torch.float32))
    model = fa.load(folder, dtype="float32")
    made = model.generate(prompts_of(model.vocab_size, 3), max_new_tokens=NEW, ignore_eos=True)
    ids, counts = np.unique([token for one in made for token in one.token_ids[2:]], return_counts=True)
    ends = [int(one) for one in ids[np.argsort(-counts, kind="stable")][1:3]]
    return Pair(folder, family, theirs, ends, model.vocab_size, "token itself" not in name)


def prompts_of(vocab_size: int, seed: int, stored: dict[str, Any] | None = None) -> Array:
    """(PROMPTS, t) ids, of few kinds, which repeat; of one token where that forces the next."""
    random = np.random.default_rng([vocab_size, seed])
    if stored and "forced_bos_token_id" in stored:
        return random.integers(0, vocab_size, (PROMPTS, 1))
    return random.integers(0, min(vocab_size, 8), (PROMPTS, int(random.integers(2, 19))))


def settings_of(pair: Pair, stored: dict[str, Any]) -> dict[str, Any]:
    """Of generation_config.json; a token that is forced is one of the ends."""
    found = {"eos_token_id": pair.ends, "pad_token_id": pair.ends[0], "max_new_tokens": NEW, **stored}
    if "forced_eos_token_id" in stored:
        found["forced_eos_token_id"] = pair.ends[0]
    return found


def ours_of(pair: Pair, prompts: Array, settings: dict[str, Any], seed: int = 0) -> list[Any]:
    (pair.folder / "generation_config.json").write_text(json.dumps(settings))
    return fa.load(pair.folder, dtype="float32").generate(prompts, seed=seed)


def theirs_of(pair: Pair, prompts: Array, settings: dict[str, Any]) -> Any:
    ids = torch.tensor(prompts)
    with exact_torch.double_throughout(pair.family), torch.no_grad():
        torch.set_default_dtype(torch.float32)
        return pair.theirs.generate(
            ids, attention_mask=torch.ones_like(ids), generation_config=transformers.GenerationConfig(**settings),
            use_cache=pair.cached, return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip


def answer_of(row: Any, length: int, ends: list[int]) -> list[int]:
    """Tokens behind the prompt, to the one that ends them."""
    tokens: list[int] = row[length:].tolist()
    return tokens[: next((i + 1 for i, token in enumerate(tokens) if token in ends), len(tokens))]


def test_greedy(pair: Pair) -> None:
    near = 0
    for seed, stored in enumerate(GREEDY):
        prompts, settings = prompts_of(pair.vocab_size, seed, stored), settings_of(pair, stored)
        got = ours_of(pair, prompts, settings)
        found = theirs_of(pair, prompts, settings)
        for row, one in enumerate(got):
            expected = answer_of(found.sequences[row], prompts.shape[1], pair.ends)
            if list(one.token_ids) == expected:
                continue
            at = next(i for i, two in enumerate(zip(one.token_ids, expected, strict=False)) if two[0] != two[1])
            scores = found.scores[at][row]
            gap = float(scores[expected[at]] - scores[one.token_ids[at]])
            print(f"{stored}, prompt {row}, token {at}: a gap of {gap:.1e}")
            assert gap <= NEAR * scores[scores > -torch.inf].abs().max()
            near += 1
    assert near <= MOST_NEAR * PROMPTS * len(GREEDY)


def score_of(pair: Pair, prompt: Array, tokens: list[int], settings: dict[str, Any]) -> tuple[float, float]:
    """What beam search thinks of an answer, in double precision, and the largest logit there."""
    options = transformers.GenerationConfig(**settings)
    options.max_length = len(prompt) + NEW
    ids = torch.tensor(np.concatenate([prompt, tokens])[None])
    with exact_torch.double_throughout(pair.family), torch.no_grad():
        pair.theirs._prepare_special_tokens(options, device="cpu")
        processors = pair.theirs._get_logits_processor(options, input_ids_seq_length=len(prompt))
        logits = pair.theirs(ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0]
    total = 0.0
    for place, token in enumerate(tokens, len(prompt)):
        row = torch.log_softmax(logits[place - 1 : place], -1)
        total += float(processors(ids[:, :place], row)[0, token])
    return total / len(tokens) ** settings["length_penalty"], float(logits[len(prompt) - 1 :].abs().max())


def test_beams(pair: Pair) -> None:
    near = cases = 0
    for seed, stored in enumerate(BEAMS):
        prompts, settings = prompts_of(pair.vocab_size, 10 + seed, stored), settings_of(pair, stored)
        got = ours_of(pair, prompts, settings)
        found = theirs_of(pair, prompts, settings)
        n = stored.get("num_return_sequences", 1)
        assert len(got) == n * PROMPTS == len(found.sequences)
        cases += len(got)
        for row, one in enumerate(got):
            expected = answer_of(found.sequences[row], prompts.shape[1], pair.ends)
            if list(one.token_ids) == expected:
                score = float(found.sequences_scores[row])
                assert abs(one.score - score) <= 2e-5 * max(1, abs(score)), (stored, row)
                continue
            mine, largest = score_of(pair, prompts[row // n], list(one.token_ids), settings)
            other, _ = score_of(pair, prompts[row // n], expected, settings)
            print(f"{stored}, answer {row}: {one.token_ids}, {expected}: {mine}, {other}")
            assert abs(mine - other) <= NEAR * largest
            near += 1
    assert near <= MOST_NEAR * cases


def test_drawn(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The inverse distribution function over ascending ids, of what transformers leaves, at our random numbers."""
    near = cases = 0
    for seed, stored in enumerate(DRAWN, 1 << 40):
        prompts, settings = prompts_of(pair.vocab_size, seed), settings_of(pair, {"do_sample": True, **stored})
        n = stored.get("num_return_sequences", 1)
        steps: list[tuple[Array, Array]] = []  # (distribution functions, random numbers) of each

        def inverse(p: Any, num_samples: int, seed: int = seed, n: int = n, steps: Any = steps) -> Any:
            assert num_samples == 1
            edges = np.cumsum(p.double().numpy(), axis=1)
            u = np.tile([uniform(seed, len(steps), which) for which in range(n)], PROMPTS) * edges[:, -1]
            steps.append((edges, u))
            return torch.tensor([[np.searchsorted(row, at, side="right")] for row, at in zip(edges, u, strict=True)])

        got = ours_of(pair, prompts, settings, seed)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "multinomial", inverse)
            found = theirs_of(pair, prompts, settings)
        assert len(got) == n * PROMPTS == len(found.sequences)
        cases += len(got)
        for row, one in enumerate(got):
            expected = answer_of(found.sequences[row], prompts.shape[1], pair.ends)
            if list(one.token_ids) == expected:
                continue
            at = next(i for i, two in enumerate(zip(one.token_ids, expected, strict=False)) if two[0] != two[1])
            edges, u = steps[at]
            off = float(np.abs(edges[row] - u[row]).min())
            print(f"{stored}, answer {row}, token {at}: {one.token_ids}, {expected}: {off:.1e} from an edge")
            assert off <= EDGE
            near += 1
    assert near <= MOST_NEAR * cases


@lru_cache(maxsize=1024)
def uniform(seed: int, step: int, which: int) -> float:
    """The random number of a token."""
    return bits_of(sampling_of(seed=seed), step, which)
