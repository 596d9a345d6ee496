# SPDX-License-Identifier: MIT
"""From a trace to what C runs: the steps that some outputs need, with planned places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .._core import Blocks, Program
from .arrays import Array
from .graph import Node, Table, Trace, Value
from .plan import plan, used_nodes

if TYPE_CHECKING:
    from .._core import Memory, Stop

__all__ = ["Compiled", "compile_trace"]

ATTENTION = ("attention", "disentangled")
"""Kinds of steps that have probabilities."""

KINDS = ("tokens", "sequences", "outputs")
"""Kinds of rows, in the order in which a batch counts them."""


class Compiled:
    """A program for some of a trace's outputs; a run fills the arrays ``out.NAME``."""

    def __init__(self, program: Program, outputs: Mapping[str, Value], columns: Mapping[str, int]) -> None:
        self._program = program
        self.arrays = program.arrays
        """Names of the arrays that a batch has."""
        self.outputs = {name: (value.rows, value.width) for name, value in outputs.items()}
        """Name of an output -> the kind of its rows, and its width."""
        self.columns = dict(columns)
        """Columns of scratch memory for each row, by kind."""
        self.attentions: dict[str, int] = {}
        """Name of an array of probabilities, (1, heads, T, at least the most keys of a sequence) -> heads."""

    def __len__(self) -> int:
        return len(self._program)

    def run(
        self, rows: Mapping[str, int], arrays: Mapping[str, Any], blocks: Blocks, *, num_threads: int | None = None,
        memory: Memory | None = None, deadline: int = 0, reserve: bool = False, stopped: Stop | None = None,
    ) -> bool:  # fmt: skip
        """Run a batch; False where the deadline (of ``time.monotonic_ns``) has passed, and outputs are undefined.

        ``reserve``: take the scratch memory of such a run, and run nothing. ``stopped``: by which another thread may
        end it, False too.
        """
        counts = [rows.get(kind, 0) for kind in KINDS]
        given = [arrays.get(name) for name in self.arrays]
        return self._program.run(counts, given, blocks, num_threads, memory, deadline, reserve, stopped)


def compile_trace(
    trace: Trace, wanted: Sequence[str], *, reuse: bool = True, attentions: bool = False
) -> Compiled:  # fmt: skip
    """The program that makes ``wanted``, names of outputs of ``trace``.

    ``reuse=False``: no step writes over its input, which changes no result. ``attentions``: the probabilities of every
    attention too, in arrays that each batch brings; ``Compiled.attentions`` names them in the order of the steps.
    """
    values = {name: trace.outputs[name] for name in wanted}
    nodes = used_nodes(trace.nodes, values.values())
    outside: dict[Table, str] = {}
    copies = []
    arrays: dict[str, Array] = {}
    for name, value in values.items():
        if value.stale:
            raise ValueError(f"output {name!r}: {value!r} is changed in place by a later step")
        array = Array(f"out.{name}", "float32", 2, value.rows, width=value.width)
        arrays[array.name] = array
        if value.whole and value.table not in outside:
            outside[value.table] = array.name
        else:
            copies.append((value, array.name))
    for node in nodes:
        arrays.update((name, trace.arrays[name]) for name in node.arrays if name is not None)
    probabilities: dict[int, str] = {}  # number of a step -> its array; all programs else have the steps they had
    heads: dict[str, int] = {}
    for i, node in enumerate(nodes):
        if attentions and node.kind in ATTENTION:
            array = Array(f"out.attentions.{len(heads)}", "float32", 4, None)
            arrays[array.name], probabilities[i], heads[array.name] = array, array.name, node.options["heads"]
    places = plan(nodes + [Node("copy", value, (value,)) for value, _ in copies], outside, reuse=reuse)
    order = {name: i for i, name in enumerate(arrays)}
    specs = [
        (
            array.name, array.dtype, array.ndim, -1 if array.rows is None else KINDS.index(array.rows), array.more,
            array.optional, array.width, array.name.startswith("out."),
        )
        for array in arrays.values()
    ]  # fmt: skip
    program = Program(
        [places.columns.get(kind, 0) for kind in KINDS], specs, len(trace.layers), len(trace.groups),
        len(trace.states),
    )  # fmt: skip

    def place(value: Value | None) -> tuple[int, int, int, int, int, int] | None:
        if value is None:
            return None
        kind, array = KINDS.index(value.rows), outside.get(value.table)
        at = (-1, places.at[value.table]) if array is None else (order[array], 0)
        return kind, *at, value.table.width, value.first, value.width

    for i, node in enumerate(nodes):
        inputs = [place(value) for value in node.inputs]
        index = [-1 if name is None else order[name] for name in node.arrays]
        if i in probabilities:
            index.append(order[probabilities[i]])
        program.add(node.kind, place(node.out), *inputs, index=index, **node.options)
    for value, name in copies:
        program.add("copy", (KINDS.index(value.rows), order[name], 0, value.width, 0, value.width), place(value))
    program.seal()
    compiled = Compiled(program, values, places.columns)
    compiled.attentions = heads
    return compiled
