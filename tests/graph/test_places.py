# SPDX-License-Identifier: MIT
"""Places never overlap while they are needed, and sharing them changes no bit."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from support.graphs import bare_graph, rows_in
from support.random_graphs import Drawn

from fastattn._core import Blocks
from fastattn.graph.graph import Node, Table, Value
from fastattn.graph.plan import Places, plan, used_nodes

X = np.ones((7, 24), np.float32)


def check_places(nodes: Sequence[Node], outside: set[Table], places: Places, reuse: bool) -> None:
    """Plays the steps over a memory in which each column knows whose it is."""
    owner: dict[tuple[str, int], Table] = {}

    def columns(value: Value) -> list[tuple[str, int]]:
        first = places.at[value.table] + value.first
        assert places.at[value.table] % 16 == 0 and 0 <= first <= places.columns[value.rows] - value.width
        return [(value.rows, column) for column in range(first, first + value.width)]

    written: set[Table] = set()
    for node in nodes:
        read: set[tuple[str, int]] = set()
        for value in node.inputs:
            if value is not None and value.table not in outside:
                read.update(columns(value))
                lost = [column for column in columns(value) if owner.get(column) is not value.table]
                assert not lost, f"{node.kind} reads {value!r}, of which {lost} are another's"
        table = node.out.table
        if table in outside:
            continue
        whole = Value(node.out.graph, table, 0, table.width)
        if table not in written:  # the first of the steps that write it takes all its columns
            shared = read.intersection(columns(whole))
            same = [
                v for v in node.inputs if v is not None and v.table not in outside and columns(v) == columns(node.out)
            ]
            assert not shared or (reuse and node.reuse and same), f"{node.kind} writes over what it reads"
            owner.update(dict.fromkeys(columns(whole), table))
            written.add(table)
        assert all(owner[column] is table for column in columns(node.out)), f"{node.kind} writes what is another's"


def outside_of(wanted: Sequence[Value]) -> set[Table]:
    return {value.table for value in wanted if value.whole}


@pytest.mark.parametrize("reuse", [True, False])
def test_places_never_overlap_while_they_are_needed(reuse: bool) -> None:
    """Graphs of random steps, some of them wide and long: outputs of random choice, which lie outside."""
    saved = 0
    for seed in range(60):
        drawn = Drawn(seed, steps=random.Random(seed).choice((3, 20, 60)))
        values = [value for value, _ in drawn.made]
        wanted = drawn.draw.sample(values, drawn.draw.randint(1, len(values)))
        nodes = used_nodes(drawn.graph.trace.nodes, wanted)
        outside = outside_of(wanted)
        places = plan(nodes, outside, reuse=reuse)
        check_places(nodes, outside, places, reuse)
        tables = {node.out.table for node in nodes} - outside
        assert set(places.at) == tables
        saved += sum(-(-table.width // 16) * 16 for table in tables) - sum(places.columns.values())
    assert saved > 5000  # columns: places are shared


def test_the_check_of_places_sees_an_overlap() -> None:
    drawn = Drawn(1, steps=20)
    nodes = drawn.graph.trace.nodes
    places = plan(nodes, ())
    check_places(nodes, set(), places, True)
    broken = 0
    for table in places.at:
        for other in places.at:
            if other.rows == table.rows and other is not table:
                moved = Places({**places.at, table: places.at[other]}, dict.fromkeys(places.columns, 10**6))
                try:
                    check_places(nodes, set(), moved, True)
                except AssertionError:
                    broken += 1
    assert broken > 20


def test_a_place_is_taken_over_only_from_a_value_that_dies_there() -> None:
    g = bare_graph()
    x = rows_in(g, X)
    y = g.scale(x, 2.0)  # x is read again
    z = g.scale(y, 3.0)  # y is not
    w = g.add(z, x)  # of both the first that fits
    places = plan(g.trace.nodes, ())
    assert places.at[y.table] != places.at[x.table]
    assert places.at[z.table] == places.at[y.table] == places.at[w.table]
    apart = plan(g.trace.nodes, (), reuse=False)
    assert apart.at[z.table] != apart.at[y.table] and apart.columns["tokens"] > places.columns["tokens"]


@pytest.mark.parametrize("seed", range(8))
def test_reuse_changes_no_bit(seed: int) -> None:
    drawn, blocks = Drawn(700 + seed, steps=30), Blocks()
    names = [str(i) for i in range(len(drawn.made))]
    with_reuse, without = (drawn.run(names, blocks, reuse=reuse) for reuse in (True, False))
    last = [drawn.run(names[-1:], blocks, reuse=reuse)[names[-1]] for reuse in (True, False)]
    for name in names:
        assert with_reuse[name].tobytes() == without[name].tobytes()
    assert last[0].tobytes() == last[1].tobytes() == with_reuse[names[-1]].tobytes()
