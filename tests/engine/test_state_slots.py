# SPDX-License-Identifier: MIT
"""States in memory: a slot for each sequence, taken, replaced where it is, shared by forks, and given back."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from golden import tiny_states
from hypothesis import given, settings
from hypothesis import strategies as st

import fastattn as fa
from fastattn import _core
from fastattn._core import Blocks
from fastattn.bench.costs import costs_of
from fastattn.engine.decode import Steps
from fastattn.engine.memory import PagedMemory
from fastattn.engine.stop import DeadlineExceeded

Array = np.ndarray[Any, Any]

FAMILIES = sorted(tiny_states.BASE)


@lru_cache(maxsize=8)
def model_of(family: str) -> Any:
    with TemporaryDirectory() as folder:
        return fa.load(tiny_states.make(Path(folder) / "m", family), dtype="float32")


def steps_of(model: Any) -> tuple[Steps, PagedMemory]:
    trace = model.graph.trace
    memory = PagedMemory(trace, [40] * len(trace.groups))
    return Steps(model.graph, model.program(["logits"]), Blocks(), memory), memory


def ids_of(count: int, seed: int) -> Array:
    return np.random.default_rng(seed).integers(0, 101, count)


def after(model: Any, *pieces: Array) -> bytes:
    """The logits behind these tokens, in one call."""
    return bytes(model(np.concatenate(pieces)[None]).logits[0, -1:].tobytes())


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_kept_is_said(family: str) -> None:
    model = model_of(family)
    memory = steps_of(model)[1]
    assert not memory.rewinds and model.graph.trace.states
    assert memory.nbytes == PagedMemory(model.graph.trace, [40] * len(model.graph.trace.groups)).nbytes


@pytest.mark.parametrize("family", FAMILIES)
def test_forks_go_their_own_ways(family: str) -> None:
    """Each with the bits of a sequence that was computed by itself, whichever goes on first; forks of forks too."""
    model = model_of(family)
    steps, memory = steps_of(model)
    prompt, ends = ids_of(9, 1), [ids_of(4, 10 + i) for i in range(4)]
    one = memory.add()
    steps.run([one], [prompt], [True])
    two, three = memory.fork(one), memory.fork(one)
    assert steps.run([two], [ends[1]], [True]).tobytes() == after(model, prompt, ends[1])
    four = memory.fork(two)
    found = steps.run([three, one, four], [ends[2], ends[0], ends[3]], [True] * 3)
    paths = [(ends[2],), (ends[0],), (ends[1], ends[3])]
    assert [row.tobytes() for row in found] == [after(model, prompt, *path) for path in paths]
    for _ in range(3):
        found = steps.run([two, four], [ends[0][:1], ends[0][:1]], [True, True])
    assert found[0].tobytes() == after(model, prompt, ends[1], *[ends[0][:1]] * 3)
    for kept in (one, two, three, four):
        memory.free(kept)
    assert memory._slots.used == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sequence_that_begins_again_begins_with_zeros(family: str) -> None:
    """In a slot that another has left, and after it was given back in the middle."""
    model = model_of(family)
    steps, memory = steps_of(model)
    first, second = ids_of(7, 2), ids_of(5, 3)
    kept = memory.add()
    for _ in range(3):
        steps.run([kept], [first], [True])
        memory.free(kept)
        assert steps.run([kept], [second[:3]], [True]).tobytes() == after(model, second[:3])
        assert steps.run([kept], [second[3:]], [True]).tobytes() == after(model, second)
        memory.free(kept)
    assert memory._slots.used == 0 and memory._slots.count <= 2


@pytest.mark.parametrize("family", FAMILIES)
def test_slots_grow_with_sequences_and_are_used_again(family: str) -> None:
    model = model_of(family)
    steps, memory = steps_of(model)
    empty, prompt = memory.nbytes, ids_of(4, 4)
    kept = [memory.add() for _ in range(9)]
    for count in (1, 2, 9):
        rows = [prompt[:1]] * count if count < 9 else [prompt[len(rows) :] for rows in ([1, 2], [1], *[[]] * 7)]
        steps.run(kept[:count], rows, [True] * count)
    states = 4 * sum(model.graph.trace.states)
    assert memory._slots.used == 9 <= memory._slots.count <= 13
    assert memory.nbytes == empty + memory._slots.count * states
    grown = memory.nbytes
    for one in kept:
        memory.free(one)
    steps.run(kept, [prompt] * 9, [True] * 9)
    assert memory.nbytes == grown


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(FAMILIES), st.integers(0, 2**31))
def test_any_tree_of_forks(family: str, seed: int) -> None:
    """Random steps over random sequences, some forked, some given back."""
    model, rng = model_of(family), np.random.default_rng(seed)
    steps, memory = steps_of(model)
    alive: list[tuple[Any, Array]] = [(memory.add(), np.zeros(0, np.int64)) for _ in range(2)]
    for _ in range(8):
        chosen = rng.permutation(len(alive))[: rng.integers(1, 4)]
        pieces = [rng.integers(0, 101, rng.integers(1, 5)) for _ in chosen]
        found = steps.run([alive[i][0] for i in chosen], pieces, [True] * len(chosen))
        for i, piece, row in zip(chosen, pieces, found, strict=True):
            alive[i] = alive[i][0], np.concatenate([alive[i][1], piece])
            assert row.tobytes() == after(model, alive[i][1])
        kept, tokens = alive[int(rng.integers(len(alive)))]
        if rng.random() < 0.6:
            alive.append((memory.fork(kept), tokens))
        elif len(alive) > 1:
            memory.free(kept)
            alive = [one for one in alive if one[0] is not kept]
    for kept, _ in alive:
        memory.free(kept)
    assert memory._slots.used == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stopped_step_leaves_what_cannot_go_on(family: str) -> None:
    """But a step that is the first of its sequence, or of a fork, can be taken again."""
    model = model_of(family)
    steps, memory = steps_of(model)
    prompt, more = ids_of(6, 5), ids_of(3, 6)
    kept, fork, fresh = memory.add(), None, memory.add()
    steps.run([kept], [prompt], [True])
    fork = memory.fork(kept)
    for _ in range(2):
        with pytest.raises(DeadlineExceeded):
            steps.run([fork, fresh], [more, more], [True, True], deadline=1)
    found = steps.run([fork, fresh], [more, more], [True, True])
    assert [row.tobytes() for row in found] == [after(model, prompt, more), after(model, more)]
    with pytest.raises(DeadlineExceeded):
        steps.run([kept, fork], [more, more], [True, True], deadline=1)
    for call in (lambda: steps.run([kept], [more], [True]), lambda: memory.fork(kept)):
        with pytest.raises(ValueError, match="did not come to its end: free it, and begin it again"):
            call()
    memory.free(kept)
    assert steps.run([kept], [more], [True]).tobytes() == after(model, more)
    for one in (kept, fork, fresh):
        memory.free(one)
    assert memory._slots.used == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_no_token_is_taken_back(family: str) -> None:
    model = model_of(family)
    memory = steps_of(model)[1]
    kept = memory.add()
    memory.place([kept], [3])
    for count in (0, 2, 4):
        with pytest.raises(
            ValueError, match=f"{count} tokens of a step of 3 stay, expected all: states do not go back"
        ):
            memory.advance([kept], [count])
    memory.advance([kept], [3])
    with pytest.raises(ValueError, match="3 tokens of a step of 3 stay"):
        memory.advance([kept], [3])


def test_costs_know_states() -> None:
    """A state is read once a step of a sequence; whatever is behind it, a token has as much to do."""
    costs = costs_of(model_of("mamba2"))
    widths = [3 * (48 + 2 * 20), 6 * 10 * 8] * 3
    assert costs.state_bytes == 4 * sum(widths) and costs.layers == ()
    assert costs.decode_bytes(100, 5, 3, "float32") == 5 * (costs.read_bytes + 3 * costs.state_bytes)
    products = 2 * 3 * (24 * (2 * 48 + 40 + 6) + 48 * 24)
    assert costs.token_flops == products + 3 * (2 * 4 * 88 + 6 * 480)
    assert costs.decode_flops(100, 5, 3) == 3 * costs.decode_flops(0, 5, 1)
    assert type(costs).from_json(costs.as_json()) == costs


def test_slots_that_do_not_fit_are_refused() -> None:
    memory = _core.Memory([], 0)
    with pytest.raises(ValueError, match="begin: expected contiguous int64"):
        memory.place_states(np.zeros(2, np.int32), np.zeros(2, np.int64))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="end: expected contiguous int64"):
        memory.place_states(np.zeros(2, np.int64), np.zeros(4, np.int64)[::2])
    with pytest.raises(ValueError, match="end: 3 slots, expected 2"):
        memory.place_states(np.zeros(2, np.int64), np.zeros(3, np.int64))
    model = model_of("mamba2")
    program = model.program(["logits"])
    rows = {"tokens": 1, "sequences": 1, "outputs": 1}
    arrays = {
        "ids": np.zeros(1, np.int64), "ends": np.array([0, 1]), "wanted": np.zeros((1, 1), np.int64),
        "out.logits": np.zeros((1, 101), np.float32),
    }  # fmt: skip
    with pytest.raises(ValueError, match="memory: of 0 states, expected 6"):
        program.run(rows, arrays, Blocks(), memory=memory)
    memory.keep_states([np.zeros((2, width), np.float32) for width in model.graph.trace.states])
    with pytest.raises(ValueError, match="with slots"):
        program.run(rows, arrays, Blocks(), memory=memory)
    memory.place_states(np.array([-1]), np.array([1]))
    memory.keep_states([np.zeros((2, width + 1), np.float32) for width in model.graph.trace.states])
    with pytest.raises(ValueError, match="program"):
        program.run(rows, arrays, Blocks(), memory=memory)
    memory.keep_states([np.zeros((2, width), np.float32) for width in model.graph.trace.states])
    for begin, end in (([-2], [0]), ([2], [0]), ([0], [2]), ([0], [-1])):
        memory.place_states(np.array(begin), np.array(end))
        with pytest.raises(ValueError, match="program"):
            program.run(rows, arrays, Blocks(), memory=memory)
    memory.place_states(np.array([-1]), np.array([1]))
    assert program.run(rows, arrays, Blocks(), memory=memory)
    assert arrays["out.logits"].tobytes() == after(model, np.zeros(1, np.int64))
