# SPDX-License-Identifier: MIT
"""A program does what its operators do one by one, bit for bit, and refuses what does not fit before it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.graphs import bare_graph, rows_in, run

import fastattn as fa
from fastattn import ops
from fastattn._core import Blocks, Program
from fastattn.graph.graph import Graph, Value
from fastattn.graph.program import Compiled, compile_trace
from fastattn.graph.rotary import Rotary

Array = np.ndarray[Any, np.dtype[np.float32]]

H, HEADS, T = 40, 5, 23
SIZE = H // HEADS
CU = np.array([0, 7, 7, 20, 23])
RNG = np.random.default_rng(5)


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape, dtype=np.float32)


X = floats(T, H)
QKV = fa.pack_linear(floats(3 * H, H), floats(3 * H))
DOWN = fa.pack_linear(floats(H, H))
WEIGHT, SHIFT, BIAS = floats(H), floats(H), floats(HEADS, 9)


def layer(g: Graph, x: Value, **options: Any) -> Value:
    """One of attention and norms, as encoders have it."""
    q, k, v = g.split(g.product(x, QKV), H, H, H)
    y = g.product(g.attention(q, k, v, HEADS, scale=0.5, **options), DOWN, "gelu")
    z = g.norm(y, WEIGHT, SHIFT, 1e-5, residual=x)
    return g.record("rms_norm", z.rows, H, z, None, weight=WEIGHT, eps=1e-6, reuse=True)


def program(*, reuse: bool = True, **options: Any) -> Compiled:
    g = bare_graph()
    g.output("y", layer(g, rows_in(g, X), **options))
    return compile_trace(g.trace, ["y"], reuse=reuse)


@pytest.mark.parametrize("options", [{}, {"window": (3, 1)}, {"window": (0, None)}, {"distance_bias": BIAS}])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("reuse", [True, False])
def test_it_does_what_the_operators_do(options: dict[str, Any], threads: int, reuse: bool) -> None:
    compiled = program(reuse=reuse, **options)
    assert len(compiled) == 6
    found = run(compiled, T, 4, ends=CU, num_threads=threads)

    q, k, v = ops.linear(X, QKV).reshape(T, 3, HEADS, SIZE).swapaxes(0, 1)
    context = np.empty((T, HEADS, SIZE), np.float32)
    for start, stop in zip(CU[:-1], CU[1:], strict=True):
        mask = None
        if "distance_bias" in options:
            place = np.arange(stop - start)
            mask = BIAS[:, np.clip(place - place[:, None], -4, 4) + 4]
        one = [a[start:stop].swapaxes(0, 1) for a in (q, k, v)]
        context[start:stop] = fa.attention(*one, mask=mask, window=options.get("window"), scale=0.5).swapaxes(0, 1)
    y = ops.linear(context.reshape(T, H), DOWN, activation="gelu")
    expected = ops.rms_norm(ops.layer_norm(y, WEIGHT, SHIFT, 1e-5, residual=X), WEIGHT, 1e-6)
    assert found["y"].tobytes() == expected.tobytes()


def test_outputs_do_not_depend_on_what_else_is_asked_for() -> None:
    """What lies in an array of the batch for one program lies in a table for another, or is copied."""
    g = bare_graph()
    x = rows_in(g, X)
    g.output("x", x)
    wide = g.product(x, QKV)
    g.output("k", wide.columns(H, H))
    g.output("y", layer(g, x))
    whole = run(compile_trace(g.trace, ["x", "k", "y"]), T)
    assert whole["x"].tobytes() == X.tobytes()
    for some in (["x"], ["k"], ["y"], ["y", "x"], ["k", "y"]):
        found = run(compile_trace(g.trace, some), T)
        assert list(found) == some and all(found[name].tobytes() == whole[name].tobytes() for name in some)
    assert len(compile_trace(g.trace, ["x"])) == 1  # what nobody asks for is not computed


def test_no_rows() -> None:
    for ends in (np.array([0, 0]), np.array([0])):
        found = run(program(), 0, len(ends) - 1, ends=ends)
        assert found["y"].shape == (0, H)


def turned(positions: Any, rows: int = 64) -> dict[str, Any]:
    cos, sin = fa.rope_table(rows, SIZE, base=10.0)
    return {"rope0.cos": cos, "rope0.sin": sin, "rope0.rows": np.asarray(positions)}


def test_gated_sum_scale_and_rotary_steps() -> None:
    """The steps of pre-norm and rotary layers."""
    g = bare_graph()
    x = rows_in(g, X)
    wide = g.product(x, QKV)
    qk = g.rope(wide.columns(0, 2 * H), 2 * HEADS, Rotary(SIZE, base=10.0, positions=64, interleaved=True))
    made = g.gated(qk.columns(H, H), wide.columns(2 * H, H), "silu")
    g.output("y", x + g.scale(made, 0.25))
    compiled = compile_trace(g.trace, ["y"])
    at = np.arange(T)[::-1].copy()
    found = run(compiled, T, num_threads=2, **turned(at))

    wide_ = ops.linear(X, QKV)
    cos, sin = fa.rope_table(64, SIZE, base=10.0)
    heads = wide_[:, : 2 * H].reshape(T, 2 * HEADS, SIZE).swapaxes(0, 1)
    k = fa.rope(heads, cos, sin, position_ids=at, interleaved=True)[HEADS:].swapaxes(0, 1).reshape(T, H)
    both = ops.gated(np.ascontiguousarray(k), np.ascontiguousarray(wide_[:, 2 * H :]), "silu")
    assert found["y"].tobytes() == ops.add(X, both * np.float32(0.25)).tobytes()

    for wrong in (
        {"rope0.rows": np.arange(T - 1)}, {"rope0.rows": np.arange(T) * 0.5}, {"rope0.rows": np.full(T, 64)},
        {"rope0.rows": np.full(T, -1)}, {"rope0.cos": cos.astype(np.float64)}, {"rope0.sin": sin[:, :-1]},
        {"rope0.sin": sin[:-1]},
    ):  # fmt: skip
        with pytest.raises((ValueError, TypeError)):
            run(compiled, T, **{**turned(at), **wrong})
    assert run(compiled, T, **turned(at))["y"].tobytes() == found["y"].tobytes()


def test_rows_change() -> None:
    """First rows, pools and neighbours: what a gather and a pool give."""
    g = bare_graph()
    x = rows_in(g, X)
    g.output("first", g.first(x))
    g.output("pool", g.normalize(g.pool(x, ["mean", "max"])))
    g.output("beside", g.neighbours(x, 3))
    compiled = compile_trace(g.trace, ["first", "pool", "beside"])
    ends, columns = np.array([0, 7, 20, 23]), np.concatenate([np.arange(7), np.arange(13), np.arange(3)])
    made = {name: make(columns, ends) for name, make in g.trace.made.items()}
    found = run(compiled, T, 3, ends=ends, **made)
    assert found["first"].tobytes() == X[ends[:-1]].tobytes()
    pools = [ops.pool(X, ends, mode) for mode in ("mean", "max")]
    assert found["pool"].tobytes() == ops.l2_normalize(np.concatenate(pools, axis=1)).tobytes()
    zeros = np.zeros(H, np.float32)
    before = [zeros if at in ends else X[at - 1] for at in range(T)]
    after = [zeros if at + 1 in ends else X[at + 1] for at in range(T)]
    assert found["beside"].tobytes() == np.concatenate([before, X, after], axis=1).tobytes()
    for index in (np.array([[0], [1], [T]]), np.array([[0], [1], [-2]])):
        with pytest.raises(ValueError):
            run(compiled, T, 3, ends=ends, **{**made, "first": index})


# ---- batches that do not fit ----


@pytest.mark.parametrize(
    "wrong",
    [
        {"ids": np.arange(T - 1)}, {"ids": np.arange(T, dtype=np.int32)}, {"ids": np.zeros(T)}, {"ids": None},
        {"ids": np.full(T, T)}, {"ids": np.full(T, -1)}, {"ids": np.zeros((T, 1), np.int64)}, {"ids": list(range(T))},
        {"out.y": np.zeros((T - 1, H), np.float32)}, {"out.y": np.zeros((T, H + 1), np.float32)},
        {"out.y": np.zeros((T, H))}, {"out.y": np.zeros((T, 2 * H), np.float32)[:, ::2]},
        {"out.y": np.asfortranarray(np.zeros((T, H), np.float32))}, {"out.y": None},
        {"out.y": np.zeros(T * H, np.float32)},
        {"columns": np.arange(T - 1)}, {"columns": np.zeros(T, np.float32)},
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit(wrong: dict[str, Any]) -> None:
    compiled, blocks = program(window=(3, 1)), Blocks()
    good = {"ids": np.arange(T), "ends": np.array([0, T]), "out.y": np.zeros((T, H), np.float32)}
    rows = {"tokens": T, "sequences": 1}
    assert compiled.run(rows, good, blocks)
    expected = good["out.y"].tobytes()
    with pytest.raises((ValueError, TypeError)):
        compiled.run(rows, {**good, **wrong}, blocks)
    assert compiled.run(rows, good, blocks) and good["out.y"].tobytes() == expected


def test_an_output_that_must_not_be_written() -> None:
    found = np.zeros((T, H), np.float32)
    found.flags.writeable = False
    arrays = {"ids": np.arange(T), "ends": np.array([0, T]), "out.y": found}
    with pytest.raises((ValueError, TypeError)):
        program().run({"tokens": T, "sequences": 1}, arrays, Blocks())
    assert not found.any()


@pytest.mark.parametrize(
    "cu", [[0, 9, 8, 23], [0.0, 23.0], [[0, 23]], [], [0, 24], [-1, 23], [0, 22], [1, 23], [0, 9, 22]]
)
def test_bounds_that_do_not_fit(cu: Any) -> None:
    ends = np.array(cu)
    with pytest.raises((ValueError, TypeError)):
        run(program(), T, max(ends.size - 1, 0), ends=ends)


@pytest.mark.parametrize("rows", [[-1, 1, 0], [T, -1, 0]])
def test_counts_of_rows_that_do_not_fit(rows: list[int]) -> None:
    raw = Program(
        [16, 0, 0], [("ids", "int64", 1, 0, 0, False, -1, False), ("out", "float32", 2, 0, 0, False, 16, True)]
    )
    raw.add("embed", (0, 1, 0, 16, 0, 16), index=(0,), tables=(floats(T, 16),))
    raw.seal()
    with pytest.raises(ValueError):
        raw.run(rows, [np.arange(T), np.zeros((T, 16), np.float32)], Blocks())


# ---- programs that do not fit ----

A, B, C = (0, -1, 0, H, 0, H), (0, -1, 48, 3 * H, 0, 3 * H), (0, -1, 48 + 128, H, 0, H)
"""Tables of the program's own: (rows, array, at, stride, first, width)"""
ENDS = ("ends", "int64", 1, 1, 1, False, -1, False)


def part(place: tuple[int, ...], first: int, width: int) -> tuple[int, ...]:
    return (*place[:4], first, width)


def attention(out: Any, size: int = SIZE, heads: int = HEADS, **more: Any) -> Callable[[Any], None]:
    q, k, v = (part(B, at * H, H) for at in range(3))
    return lambda p: p.add(
        "attention", out, q, k, v, index=(0,), heads=heads, kv_heads=heads, head_size=size, v_head_size=size, **more
    )


@pytest.mark.parametrize(
    "step",
    [
        lambda p: p.add("linear", B, A, packed=DOWN),
        lambda p: p.add("linear", A, A, packed=DOWN),  # in place, which a product cannot
        lambda p: p.add("linear", C, part(B, 1, H), packed=QKV),
        lambda p: p.add("linear", C, A),
        lambda p: p.add("linear", (1, *C[1:]), A, packed=DOWN),
        lambda p: p.add("layer_norm", C, A, weight=WEIGHT[:-1], eps=1e-5),
        lambda p: p.add("layer_norm", B, A, weight=WEIGHT, eps=1e-5),
        lambda p: p.add("layer_norm", C, A, weight=WEIGHT.astype(np.float64), eps=1e-5),
        lambda p: p.add("layer_norm", C, A, weight=floats(2 * H)[::2], eps=1e-5),
        lambda p: p.add("layer_norm", C, A, eps=1e-5),
        lambda p: p.add("rms_norm", C, A, part(B, 0, H), weight=WEIGHT[:8], eps=1e-5, heads=HEADS),
        attention(part(B, 0, H)),
        attention(C, SIZE + 1),
        attention(C, heads=0),
        attention(C, layer=0, group=0),
        lambda p: p.add("gated", C, part(B, 0, H), part(B, 2 * H, H - 1)),
        lambda p: p.add("gated", C, part(B, 2 * H + 1, H), A),
        lambda p: p.add("gated", C, part(B, -1, H), A),
        lambda p: p.add("add", C, A),
        lambda p: p.add("add", C, A, B),
        lambda p: p.add("add", (0, -1, 9, H, 0, H), A, A),
        lambda p: p.add("add", (0, -1, 48 + 128 + 16, H, 0, H), A, A),  # beyond the columns that there are
        lambda p: p.add("add", (3, *C[1:]), A, A),
        lambda p: p.add("add", (0, 1, 0, H, 0, H), A, A),  # an array that there is not
        lambda p: p.add("embed", C, index=(0,), tables=(X,)),  # ends are no ids of tokens
        lambda p: p.add("embed", C, index=(0,), tables=()),
        lambda p: p.add("gather", C, A, index=(0,)),
        lambda p: p.add("pool", C, A, index=(0,), pooling="mean"),  # one row a sequence
    ],
)
def test_steps_that_do_not_fit(step: Callable[[Any], None]) -> None:
    raw = Program([48 + 128 + 48], [ENDS])
    with pytest.raises((ValueError, TypeError)):
        step(raw)
        raw.seal()
    with pytest.raises(ValueError):  # and it does not run
        raw.run([0, 0, 0], [np.zeros(1, np.int64)], Blocks())


def test_a_bias_that_does_not_fit() -> None:
    with pytest.raises(ValueError):
        run(program(distance_bias=BIAS[1:]), T)


def test_kinds_and_columns_that_do_not_fit() -> None:
    for columns in ([0] * 9, [-16], [8], [1 << 50]):
        with pytest.raises(ValueError):
            Program(columns, []).seal()
    with pytest.raises((ValueError, KeyError)):
        Program([16], []).add("convolution", A)


def test_values_that_were_changed_in_place_are_not_read() -> None:
    g = bare_graph()
    wide = g.product(rows_in(g, X), QKV)
    old = wide.columns(0, H)
    g.rope(wide.columns(0, 2 * H), 2 * HEADS, Rotary(SIZE, base=10.0, positions=64))
    for read in (lambda: g.scale(old, 2.0), lambda: g.output("old", old), lambda: old + old):
        with pytest.raises(ValueError, match="changed in place"):
            read()
    g.output("v", wide.columns(2 * H, H))  # which it has left alone
    other = bare_graph()
    with pytest.raises(ValueError, match="of another graph"):
        g.add(wide.columns(2 * H, H), rows_in(other, X))


# ---- memory ----


def test_a_block_is_kept_and_two_at_most() -> None:
    compiled, blocks = program(), Blocks()
    assert len(blocks) == 0 and blocks.nbytes == 0
    found = run(compiled, T, blocks=blocks)
    size = blocks.nbytes
    assert len(blocks) == 1 and size >= 4 * T * sum(compiled.columns.values())
    for tokens in (3, T, 1):
        again = run(compiled, tokens, blocks=blocks)
        assert again["y"][:1].tobytes() == run(compiled, tokens)["y"][:1].tobytes()
        assert len(blocks) == 1 and blocks.nbytes == size
    gate, wrong = threading.Barrier(8), []

    def work() -> None:
        gate.wait()
        for _ in range(50):
            if run(compiled, T, blocks=blocks)["y"].tobytes() != found["y"].tobytes():
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and 1 <= len(blocks) <= 2


def test_a_run_that_fails_gives_its_block_back() -> None:
    compiled, blocks = program(), Blocks()
    run(compiled, T, blocks=blocks)
    size = blocks.nbytes
    for _ in range(3):
        with pytest.raises(ValueError):
            run(compiled, T, blocks=blocks, ids=np.full(T, T))
    assert len(blocks) == 1 and blocks.nbytes == size


def test_memory_is_taken_beforehand() -> None:
    compiled, blocks = program(), Blocks()
    found = run(compiled, T, blocks=blocks, reserve=True)
    size = blocks.nbytes
    assert len(blocks) == 1 and size and np.isnan(found["y"]).all()
    run(compiled, T, blocks=blocks)
    assert len(blocks) == 1 and blocks.nbytes == size
    run(compiled, T + 0, blocks=blocks, reserve=True, ids=np.full(T, T))  # nothing is read
    with pytest.raises(ValueError):
        run(compiled, T, blocks=blocks, reserve=True, ids=np.arange(T - 1))


def test_places_are_shared_by_what_is_not_needed_at_once() -> None:
    def columns(layers: int) -> int:
        g = bare_graph()
        x = rows_in(g, X)
        for _ in range(layers):
            x = layer(g, x)
        g.output("y", x)
        return compile_trace(g.trace, ["y"]).columns["tokens"]

    assert columns(2) == columns(9) <= 2 * 48 + 128 + 48
