# SPDX-License-Identifier: MIT
"""Steps over memory: however a sequence is cut, whatever runs beside it, its rows have the bits of one pass."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from golden import tiny_decoders
from hypothesis import given, settings
from hypothesis import strategies as st

import fastattn as fa
from fastattn._core import Blocks
from fastattn.engine.decode import Steps
from fastattn.engine.memory import PAGE, PagedMemory
from fastattn.engine.stop import DeadlineExceeded
from fastattn.kvcache.checks import CacheFull

Array = np.ndarray[Any, Any]

STORED = ("float32", "float16", "bfloat16", "int8")
FAMILIES = sorted(tiny_decoders.BASE)
LONGEST = 260  # more than two pages
ODD = ["mistral, a window of the token itself", "qwen2, layers by name", "phi3, longrope, long",
       "smollm3, layers by name", "qwen3, the last layer slides"]  # fmt: skip


@lru_cache(maxsize=16)
def model_of(name: str, dtype: str) -> Any:
    family, changes = tiny_decoders.VARIANTS[name]
    with TemporaryDirectory() as folder:
        path = tiny_decoders.make(Path(folder) / "m", family, **{**changes, tiny_decoders.positions_key(family): 512})
        return fa.load(path, dtype=dtype)


def tokens_of(model: Any, count: int, seed: int) -> Array:
    return np.random.default_rng(seed).integers(0, model.vocab_size, count)


def steps_of(model: Any, kv_dtype: str, pages: int = 40) -> tuple[Steps, PagedMemory]:
    groups = model.graph.trace.groups
    memory = PagedMemory(model.graph.trace, [pages] * len(groups), kv_dtype)
    return Steps(model.graph, model.program(["logits"]), Blocks(), memory), memory


def logits_of(model: Any, kv_dtype: str, ids: Array) -> Array:
    """After each of the last three tokens, of one pass for each."""
    found = []
    for end in range(len(ids) - 2, len(ids) + 1):
        steps, memory = steps_of(model, kv_dtype)
        found.append(steps.run([memory.add()], [ids[:end]], [True], lengths=[len(ids)]))
    return np.concatenate(found)


@pytest.mark.parametrize("kv_dtype", STORED)
@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("name", FAMILIES)
def test_any_cut_and_any_company_gives_the_bits_of_one_pass(name: str, dtype: str, kv_dtype: str) -> None:
    check_cuts(name, dtype, kv_dtype, seed=hash_of(name, dtype, kv_dtype))


@pytest.mark.parametrize("name", ODD)
def test_cuts_of_windows_and_odd_layers(name: str) -> None:
    check_cuts(name, "float32", "float32", seed=7)
    check_cuts(name, "float32", "int8", seed=8)


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(FAMILIES + ODD), st.sampled_from(STORED), st.sampled_from(STORED), st.integers(0, 2**31))
def test_random_cuts(name: str, dtype: str, kv_dtype: str, seed: int) -> None:
    check_cuts(name, dtype, kv_dtype, seed)


def hash_of(*names: str) -> int:
    return sum(ord(letter) * (i + 1) for i, letter in enumerate("".join(names)))


def check_cuts(name: str, dtype: str, kv_dtype: str, seed: int) -> None:
    model, random = model_of(name, dtype), np.random.default_rng(seed)
    counts = [int(random.integers(3, LONGEST)), int(random.integers(3, 120)), 3]
    texts = [tokens_of(model, count, seed + i) for i, count in enumerate(counts)]
    expected = [logits_of(model, kv_dtype, text) for text in texts]
    steps, memory = steps_of(model, kv_dtype)
    kept = [memory.add() for _ in texts]
    done = [0] * len(texts)
    while any(at < count for at, count in zip(done, counts, strict=True)):
        some = [i for i in range(len(texts)) if done[i] < counts[i] and random.random() < 0.7]
        random.shuffle(some)
        if not some:
            continue
        ends = [min(counts[i], done[i] + (1 if random.random() < 0.3 else int(random.integers(1, 150)))) for i in some]
        # the last three tokens come one by one: their logits are compared
        ends = [counts[i] - 2 if done[i] < counts[i] - 2 < end else end for i, end in zip(some, ends, strict=True)]
        ends = [done[i] + 1 if done[i] >= counts[i] - 2 else end for i, end in zip(some, ends, strict=True)]
        wanted = [end >= counts[i] - 2 for i, end in zip(some, ends, strict=True)]
        logits = iter(
            steps.run(
                [kept[i] for i in some], [texts[i][done[i] : end] for i, end in zip(some, ends, strict=True)], wanted,
                lengths=[counts[i] for i in some], num_threads=int(random.integers(1, 3)),
            )
        )  # fmt: skip
        for i, end, want in zip(some, ends, wanted, strict=True):
            done[i] = end
            if want:
                row = expected[i][end - counts[i] + 2]
                assert next(logits).tobytes() == row.tobytes(), (name, dtype, kv_dtype, seed, i, end)


@pytest.mark.parametrize("name", FAMILIES)
def test_float32_memory_gives_the_bits_of_a_call_without_it(name: str) -> None:
    model = model_of(name, "float32")
    ids = tokens_of(model, 131, 1)
    steps, memory = steps_of(model, "float32")
    found = steps.run([memory.add()], [ids], [True])
    assert found[0].tobytes() == model(ids[None]).logits[0, -1].tobytes()


def test_windows_give_pages_back() -> None:
    model = model_of("mistral, a window of two, wide heads", "float32")
    (group,) = model.graph.trace.groups
    assert group.window == 2
    steps, memory = steps_of(model, "float32", pages=2)
    kept = memory.add()
    ids = tokens_of(model, 5 * PAGE, 3)
    expected = model(ids[None]).logits[0]
    for start in range(0, len(ids), 16):
        found = steps.run([kept], [ids[start : start + 16]], [True])
        assert found[0].tobytes() == expected[start + 15].tobytes()
    memory.free(kept)
    assert all(pool.used == 0 for pool in memory._pools)


def test_full_memory_and_a_deadline_change_nothing() -> None:
    model = model_of("llama", "float32")
    steps, memory = steps_of(model, "float32", pages=1)
    kept, other = memory.add(), memory.add()
    ids = tokens_of(model, 40, 5)
    steps.run([kept], [ids[:20]], [False])
    with pytest.raises(CacheFull):
        steps.run([other], [ids], [True])
    with pytest.raises(CacheFull):
        steps.run([kept, other], [ids[20:21], ids[:1]], [True, True])
    with pytest.raises(DeadlineExceeded):
        steps.run([kept], [ids[20:]], [True], deadline=1)
    assert kept.length == 20
    found = steps.run([kept], [ids[20:]], [True])
    assert found[0].tobytes() == model(ids[None]).logits[0, -1].tobytes()
