# SPDX-License-Identifier: MIT
"""What a page may not say is refused when it is traced, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.graphs import bare_graph, rows_in, run

import fastattn as fa
from fastattn.graph.graph import Graph, Value
from fastattn.graph.program import compile_trace
from fastattn.graph.rotary import Rotary

H, HEADS, T = 24, 3, 7
RNG = np.random.default_rng(3)
X = RNG.standard_normal((T, H), dtype=np.float32)
QKV = fa.pack_linear(RNG.standard_normal((3 * H, H), dtype=np.float32))
WEIGHT = np.ones(H, np.float32)
ROTARY = Rotary(H // HEADS, base=10.0, positions=64)


def turned() -> tuple[Graph, Value, Value]:
    """A graph, its rows, and q of a product that was turned since."""
    g = bare_graph()
    x = rows_in(g, X)
    wide = g.product(x, QKV)
    q = wide.columns(0, H)
    g.rope(wide.columns(0, 2 * H), 2 * HEADS, ROTARY)
    return g, x, q


READS: list[Callable[[Graph, Value, Value], Any]] = [
    lambda g, x, q: g.add(q, x), lambda g, x, q: g.add(x, q), lambda g, x, q: x + q, lambda g, x, q: g.scale(q, 2.0),
    lambda g, x, q: g.gated(q, x, "relu"), lambda g, x, q: g.gated(x, q, "relu"),
    lambda g, x, q: g.norm(q, WEIGHT, None, 1e-5), lambda g, x, q: g.norm(x, WEIGHT, None, 1e-5, q),
    lambda g, x, q: g.product(q, QKV), lambda g, x, q: g.normalize(q),
    lambda g, x, q: g.attention(q, x, x, HEADS), lambda g, x, q: g.attention(x, q, x, HEADS),
    lambda g, x, q: g.attention(x, x, q, HEADS), lambda g, x, q: g.rope(q, HEADS, ROTARY), lambda g, x, q: g.first(q),
    lambda g, x, q: g.gather(q, "index", "outputs"), lambda g, x, q: g.outputs(q), lambda g, x, q: g.neighbours(q, 3),
    lambda g, x, q: g.pool(q, ["mean"]), lambda g, x, q: g.output("q", q), lambda g, x, q: g.hidden_state(q),
    lambda g, x, q: g.disentangled(x, q, x, HEADS, {}, scale=1.0, span=4, max_distance=0),
    lambda g, x, q: g.scale(q.columns(3, 4), 2.0), lambda g, x, q: g.scale(g.split(q, 8, 16)[1], 2.0),
    lambda g, x, q: g.layer(0).normalize(q),
]  # fmt: skip


@pytest.mark.parametrize("read", READS)
def test_what_was_changed_in_place_is_not_read(read: Callable[[Graph, Value, Value], Any]) -> None:
    g, x, q = turned()
    assert q.stale
    nodes, outputs = len(g.trace.nodes), dict(g.trace.outputs)
    with pytest.raises(
        ValueError, match=r"<24 columns from 0 of table 2 of tokens> is read after|columns.* is read after"
    ):
        read(g, x, q)
    assert (len(g.trace.nodes), g.trace.outputs) == (nodes, outputs)  # nothing was recorded


@pytest.mark.parametrize("read", READS)
def test_values_of_another_graph_are_not_read(read: Callable[[Graph, Value, Value], Any]) -> None:
    g, other = bare_graph(), bare_graph()
    x, q = rows_in(g, X), rows_in(other, X)
    with pytest.raises(ValueError, match="of another graph"):
        read(g, x, q)
    assert len(g.trace.nodes) == 1 and not g.trace.outputs


def test_what_a_change_leaves_alone() -> None:
    g, _, q = turned()
    wide = g.trace.nodes[1].out
    assert wide.stale and q.columns(0, 1).stale and not wide.columns(2 * H, H).stale
    g.output("v", wide.columns(2 * H, H))
    k = g.trace.nodes[2].out.columns(H, H)  # of what the rotation returned
    again = g.rope(k, HEADS, ROTARY)
    assert k.stale and not again.stale and not g.trace.nodes[2].out.columns(0, H).stale
    assert g.normalize(again).width == H


def test_an_output_that_is_changed_later_is_refused_when_it_is_wanted() -> None:
    g = bare_graph()
    q = g.product(rows_in(g, X), QKV).columns(0, H)
    g.output("before", q)
    g.output("behind", g.rope(q, HEADS, ROTARY))
    with pytest.raises(ValueError, match="output 'before': .* is changed in place by a later step"):
        compile_trace(g.trace, ["before"])
    assert len(compile_trace(g.trace, ["behind"])) == 4


def test_a_copy_of_a_graph_goes_its_own_way() -> None:
    g = bare_graph()
    x = rows_in(g, X)
    g.output("x", x)
    other = g.copy()
    other.output("twice", other.trace.outputs["x"] + other.trace.outputs["x"])
    assert len(g.trace.nodes) == 1 and list(g.trace.outputs) == ["x"] and len(other.trace.nodes) == 2
    with pytest.raises(ValueError, match="of another graph"):
        other.normalize(x)
    found = run(compile_trace(other.trace, ["x", "twice"]), T)
    assert found["x"].tobytes() == X.tobytes() and found["twice"].tobytes() == fa.ops.add(X, X).tobytes()
    value = other.trace.outputs["x"]
    del other, g
    with pytest.raises(ValueError, match="its graph is gone"):
        value + value


@pytest.mark.parametrize(("first", "width"), [(-1, 3), (0, 0), (0, -1), (0, H + 1), (H, 1), (H - 2, 3), (5, H)])
def test_columns_that_there_are_not(first: int, width: int) -> None:
    x = rows_in(bare_graph(), X)
    with pytest.raises(ValueError, match=f"columns {first} to .* of a value of width 24"):
        x.columns(first, width)


@pytest.mark.parametrize("widths", [(), (H - 1,), (H + 1,), (8, 8), (8, 8, 9), (H, 0, 1), (H + 8, -8), (H, 0)])
def test_splits_that_are_not_all_of_it(widths: tuple[int, ...]) -> None:
    g = bare_graph()
    with pytest.raises(ValueError, match="split: widths|columns"):
        g.split(rows_in(g, X), *widths)


@pytest.mark.parametrize(
    "again",
    [
        {"dtype": "float32"}, {"ndim": 2}, {"rows": "sequences"}, {"rows": None}, {"more": 1}, {"optional": True},
        {"width": 4},
    ],
)  # fmt: skip
def test_an_array_that_is_two(again: dict[str, Any]) -> None:
    g = bare_graph()
    assert g.array("index") == g.array("index") == g.layer(2).array("index") == "index"
    with pytest.raises(ValueError, match="array 'index' is asked for as Array.* and as Array"):
        g.array("index", **again)
    assert len(g.trace.arrays) == 1


def test_gathers_of_one_index_that_differ() -> None:
    g = bare_graph()
    x = rows_in(g, X)
    g.outputs(x)
    for ask in (
        lambda: g.gather(x, "wanted", "tokens"),
        lambda: g.gather(x, "wanted", "outputs", 2),
        lambda: g.gather(x, "ids", "tokens"),
    ):
        with pytest.raises(ValueError, match="is asked for as"):
            ask()


@pytest.mark.parametrize(
    ("widths", "heads", "kv_heads"),
    [
        ((24, 24, 24), 5, None), ((24, 16, 24), 3, None), ((24, 8, 9), 3, 2), ((24, 8, 7), 3, 2), ((25, 8, 8), 3, 1),
        ((24, 24, 8), 3, 1),
    ],
)  # fmt: skip
def test_attention_of_widths_that_do_not_fit(widths: tuple[int, int, int], heads: int, kv_heads: int | None) -> None:
    g = bare_graph()
    q, k, v = (g.product(rows_in(g, X), None, width=width) for width in widths)
    with pytest.raises(ValueError, match=f"q, k, v are {widths[0]}, {widths[1]}, {widths[2]} wide for {heads} and"):
        g.attention(q, k, v, heads, kv_heads)


@pytest.mark.parametrize(
    "ask",
    [
        lambda g, x: g.add(x, x.columns(0, 8)), lambda g, x: g.gated(x.columns(0, 8), x, "relu"),
        lambda g, x: g.add(x, g.first(x)), lambda g, x: g.norm(x, WEIGHT[1:], None, 1e-5),
        lambda g, x: g.norm(x, WEIGHT, None, 1e-5, x.columns(1, 8)), lambda g, x: g.norm(x, WEIGHT, None, float("nan")),
        lambda g, x: g.product(x.columns(0, 8), QKV), lambda g, x: g.normalize(x, -1.0),
        lambda g, x: g.attention(x, g.first(x), g.first(x), HEADS), lambda g, x: g.rope(x, 5, ROTARY),
        lambda g, x: g.attention(x, x.columns(0, 16), x.columns(0, 16), HEADS, 2),
        lambda g, x: g.attention(x, x, x, HEADS, scale=float("inf")),
    ],
)  # fmt: skip
def test_steps_that_do_not_fit_make_no_program(ask: Callable[[Graph, Value], Value]) -> None:
    g = bare_graph()
    with pytest.raises(ValueError):
        g.output("y", ask(g, rows_in(g, X)))
        compile_trace(g.trace, ["y"])


def test_outputs_that_are_columns_or_twice_the_same() -> None:
    g = bare_graph()
    x = rows_in(g, X)
    wide = g.product(x, QKV)
    expected = fa.linear(X, QKV)
    for name, first, width in (
        ("all", 0, 3 * H),
        ("k", H, H),
        ("one", 5, 1),
        ("again", 0, 3 * H),
        ("last", 3 * H - 1, 1),
    ):
        g.output(name, wide.columns(first, width))
    for wanted in (["all"], ["k"], ["k", "one"], ["again", "all"], ["last", "all", "k", "again"]):
        compiled = compile_trace(g.trace, wanted)
        whole = sum(name in ("all", "again") for name in wanted) > 0
        assert len(compiled) == 2 + len(wanted) - whole  # one lies in its array, the others are copied
        for name, array in run(compiled, T).items():
            first, width = g.trace.outputs[name].first, g.trace.outputs[name].width
            assert array.tobytes() == np.ascontiguousarray(expected[:, first : first + width]).tobytes()
    with pytest.raises(KeyError):
        compile_trace(g.trace, ["q"])
