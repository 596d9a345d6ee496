# SPDX-License-Identifier: MIT
"""What a family's page gets: a configuration, a source of weights, and a recorder of steps.

A page asks for weights by their roles and says in the same line what is done with them. Run against a plan it is the
list of tensors; against a checkpoint it packs; against a packed file it maps; and each time it leaves a trace, of which
``graph.program`` makes what C runs. A step's result is a ``Value``: columns of a table that has one row for each row of
its kind. There are no shapes beside, no reshapes and no transposes: heads are columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol
from weakref import ref

import numpy as np

from ..weights import PackedLinear
from .arrays import Array, Group
from .facts import Integers, Tasks
from .gathers import first_rows, last_rows, neighbour_rows
from .names import Names
from .source import Norm
from .taps import conv_taps

if TYPE_CHECKING:
    from .banks import Bank
    from .config import ConfigReader
    from .rotary import Rotary
    from .source import Floats, Layout, Source

__all__ = ["Graph", "Node", "Table", "Trace", "Value"]


class Table:
    """Where a step's result goes: rows of a kind, ``width`` columns."""

    __slots__ = ("changes", "number", "rows", "width")

    def __init__(self, number: int, rows: str, width: int) -> None:
        self.number, self.rows, self.width = number, rows, width
        self.changes: list[tuple[int, int]] = []
        """Columns (first, end) of each step that changes them in place."""


class Value:
    """Columns ``first`` to ``first + width`` of a table, as they are after the first ``version`` changes in place."""

    __slots__ = ("_graph", "first", "table", "version", "width")

    def __init__(self, graph: Graph, table: Table, first: int, width: int) -> None:
        self._graph = graph.ref  # no more: a model that nobody has a name for is freed at once
        self.table, self.first, self.width = table, first, width
        self.version = len(table.changes)

    @property
    def graph(self) -> Graph:
        """What recorded it."""
        graph = self._graph()
        if graph is None:
            raise ValueError(f"{self!r}: its graph is gone")
        return graph

    @property
    def stale(self) -> bool:
        """Whether a later step has changed some of its columns."""
        end = self.first + self.width
        return any(first < end and self.first < last for first, last in self.table.changes[self.version :])

    @property
    def rows(self) -> str:
        """The kind of its rows."""
        return self.table.rows

    @property
    def whole(self) -> bool:
        """Whether it is all columns of its table."""
        return self.width == self.table.width

    def of(self, graph: Graph) -> Value:
        """The same value in a copy of its graph."""
        value = Value(graph, self.table, self.first, self.width)
        value.version = self.version
        return value

    def columns(self, first: int, width: int) -> Value:
        """Some of its columns."""
        if not 0 <= first <= self.width - width or width < 1:
            raise ValueError(f"columns {first} to {first + width} of a value of width {self.width}")
        part = Value(self.graph, self.table, self.first + first, width)
        part.version = self.version
        return part

    def __add__(self, other: Value) -> Value:
        return self.graph.add(self, other)

    def __repr__(self) -> str:
        return f"<{self.width} columns from {self.first} of table {self.table.number} of {self.rows}>"


class Node:
    """A step: its operator, what it writes and reads, and what else the operator takes."""

    __slots__ = ("arrays", "inputs", "kind", "options", "out", "reuse")

    def __init__(
        self, kind: str, out: Value, inputs: tuple[Value | None, ...] = (), arrays: tuple[str | None, ...] = (),
        options: Mapping[str, Any] | None = None, reuse: bool = False,
    ) -> None:  # fmt: skip
        self.kind, self.out, self.inputs, self.arrays = kind, out, inputs, arrays
        self.options: Mapping[str, Any] = options or {}
        self.reuse = reuse
        """Whether the result may take the place of an input that nobody reads any more."""

    @property
    def in_place(self) -> bool:
        """Whether it changes its input."""
        return bool(self.inputs) and self.inputs[0] is not None and self.inputs[0].table is self.out.table


class Trace:
    """What a page has recorded."""

    def __init__(self, other: Trace | None = None) -> None:
        """A copy of ``other``, or nothing yet."""
        self.nodes: list[Node] = [] if other is None else list(other.nodes)
        self.outputs: dict[str, Value] = {} if other is None else dict(other.outputs)
        self.arrays: dict[str, Array] = {} if other is None else dict(other.arrays)
        self.rotaries: list[Rotary] = [] if other is None else list(other.rotaries)
        self.groups: list[Group] = [] if other is None else list(other.groups)
        self.layers: list[int] = [] if other is None else list(other.layers)
        """The group of each layer that keeps keys."""
        self.states: list[int] = [] if other is None else list(other.states)
        """How many numbers each step with a state keeps of a sequence."""
        self.made: dict[str, Callable[[Integers, Integers], Integers]] = {} if other is None else dict(other.made)
        """Arrays that follow from the columns of the tokens and the ends of the sequences."""
        self.chosen: dict[str, Callable[[Integers, Integers], Integers]] = {} if other is None else dict(other.chosen)
        """The same, of token ids and the ends of their sequences."""
        self.tables: int = 0 if other is None else other.tables


class Classes(Protocol):
    """What a graph knows of its family."""

    @property
    def architectures(self) -> Mapping[str, str | None]:
        """Class names in config.json -> the head they have, None for the encoder alone."""
        ...


class Graph:
    """A recorder of steps over the weights of a source."""

    def __init__(self, source: Source, family: Classes) -> None:
        self.ref = ref(self)
        self.source = source
        self.config: ConfigReader = source.config
        self.trace = Trace()
        self.tables: tuple[np.ndarray[Any, Any], ...] = ()
        """Tables of the model, of which a batch reads a few rows."""
        self.made: Mapping[str, Any] = {}
        """What the source has handed out, by its key: a model with other weights in some layers shares the rest."""
        self.tasks = Tasks()
        self.family = family
        self.names = Names("", "", {})
        self._layer: int | None = None

    def seal(self) -> None:
        """For loaders: the page has run. What is recorded from now on asks for no weights."""
        self.tables, self.made = tuple(self.source.tables), self.source.made
        del self.source

    def copy(self) -> Graph:
        """A graph that may get further steps of its own."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.ref = ref(other)
        other.trace = Trace(self.trace)
        for name, value in other.trace.outputs.items():
            other.trace.outputs[name] = value.of(other)
        return other

    # ---- names ----

    def layers(self, count: int) -> Iterator[tuple[int, Graph]]:
        """(i, the graph whose roles are those of layer i)."""
        for i in range(count):
            yield i, self.layer(i)

    def layer(self, number: int) -> Graph:
        """The graph whose roles are those of a layer."""
        inner = object.__new__(type(self))
        inner.__dict__.update(self.__dict__)
        inner._layer = number
        return inner

    def name(self, role: str) -> str:
        """The full name of ``role`` in the file; what begins with a slash is one."""
        return role[1:] if role.startswith("/") else self.names.of(role, self._layer)

    # ---- recording ----

    def _table(self, rows: str, width: int) -> Value:
        self.trace.tables += 1
        return Value(self, Table(self.trace.tables, rows, width), 0, width)

    def array(self, name: str, dtype: str = "int64", ndim: int = 1, rows: str | None = "tokens", **more: Any) -> str:
        """Declare an array of the batch; its name."""
        array = Array(name, dtype, ndim, rows, **more)
        if self.trace.arrays.setdefault(name, array) != array:
            raise ValueError(f"array {name!r} is asked for as {array} and as {self.trace.arrays[name]}")
        return name

    def _read(self, *values: Value | None) -> None:
        for value in values:
            if value is None:
                continue
            if value.graph.trace is not self.trace:
                raise ValueError(f"{value!r} is of another graph")
            if value.stale:
                raise ValueError(f"{value!r} is read after it was changed in place: use what that step returned")

    def record(
        self, kind: str, rows: str, width: int, *inputs: Value | None, arrays: Sequence[str | None] = (),
        reuse: bool = False, **options: Any,
    ) -> Value:  # fmt: skip
        """A step with a table of its own."""
        self._read(*inputs)
        out = self._table(rows, width)
        self.trace.nodes.append(Node(kind, out, inputs, tuple(arrays), options, reuse))
        return out

    def output(self, name: str, x: Value) -> None:
        """``x`` is what a batch may ask for by that name."""
        self._read(x)
        self.trace.outputs[name] = x

    def hidden_state(self, x: Value) -> None:
        """``x`` is the next of the hidden states that a call may ask for."""
        count = sum(name.startswith("hidden_states.") for name in self.trace.outputs)
        self.output(f"hidden_states.{count}", x)

    # ---- rows come in ----

    def embed(self, tables: Mapping[str, Floats | PackedLinear], width: int, rows: str = "tokens") -> Value:
        """The sum of a row of each table: array of the batch that says which -> table, added in this order.

        Only the first one may be a layer, of which rows are the weights of an output each.
        """
        names = list(tables)
        words = tables[names[0]]
        if not isinstance(words, PackedLinear):
            arrays = [self.array(name, rows=rows) for name in names]
            return self.record("embed", rows, width, arrays=arrays, tables=tuple(tables.values()))
        x = self.record("embed", rows, width, arrays=[self.array(names[0], rows=rows)], packed=words)
        for name in names[1:]:
            x = x + self.embed({name: tables[name]}, width, rows)
        return x

    def by_position(
        self, name: str, table: Floats, make: Callable[[Integers, Integers], Integers], rows: str = "tokens"
    ) -> Value:
        """A row of ``table`` for each token; ``make`` says which, of the columns of the tokens and the ends of the
        sequences, as the array ``name``.
        """
        self.trace.made[self.array(name, rows=rows)] = make
        return self.record("embed", rows, table.shape[1], arrays=[name], tables=(table,))

    def table(self, role: str, shape: tuple[int, ...], *, tied: str | None = None) -> Floats:
        """The tensor ``role``.weight as it is; ``tied``: full name of a tensor of the same values."""
        return self.source.table(f"{self.name(role)}.weight", shape, tied=tied)

    def words(self, role: str, shape: tuple[int, ...], *, tied: str | None = None) -> Floats | PackedLinear:
        """The same of a table that only ``embed`` looks into: blocks stay blocks."""
        return self.source.words(f"{self.name(role)}.weight", shape, tied=tied)

    def tensor(self, role: str, shape: tuple[int, ...]) -> Floats:
        """The tensor whose full name is that of ``role``, as it is."""
        return self.source.table(self.name(role), shape)

    # ---- weights ----

    def linear(
        self, x: Value, roles: str | Sequence[str], outputs: int | Sequence[int], *, bias: bool | Sequence[str] = True,
        activation: str | None = None, tied: str | None = None, dtype: str | None = None, layout: Layout | None = None,
    ) -> Value:  # fmt: skip
        """activation(x W^T + b); several roles are one product, their outputs side by side. ``tied`` is a full name.

        ``layout``: how files of Hugging Face have the layer, where not in the page's order.
        """
        names = self.name(roles) if isinstance(roles, str) else [self.name(role) for role in roles]
        packed = self.source.linear(names, outputs, x.width, bias=bias, tied=tied, dtype=dtype, layout=layout)
        count = 1 if isinstance(roles, str) else len(roles)
        width = outputs * count if isinstance(outputs, int) else sum(outputs)
        return self.product(x, packed, activation, width)

    def product(
        self, x: Value, packed: PackedLinear | None, activation: str | None = None, width: int | None = None
    ) -> Value:  # fmt: skip
        """activation(x W^T + b) of packed weights; ``width`` is that of the result, where there are none yet."""
        if width is None:
            assert packed is not None
            width = packed.out_features
        return self.record("linear", x.rows, width, x, packed=packed, activation=activation)

    def norm(
        self, x: Value, weight: Floats | None, bias: Floats | None, eps: float, residual: Value | None = None
    ) -> Value:
        """The layer norm of x + residual by these weights."""
        return self.record(
            "layer_norm", x.rows, x.width, x, residual, weight=weight, bias=bias, eps=eps, reuse=True
        )  # fmt: skip

    def layer_norm(
        self, x: Value, role: str, eps: float, *, residual: Value | None = None, bias: bool = True,
        plus_one: bool = False,
    ) -> Value:  # fmt: skip
        """The norm of each row of x + residual; ``plus_one``: the gain is 1 + w."""
        norm = self.source.norm(self.name(role), x.width, bias=bias, plus_one=plus_one)
        weight, shift = (None, None) if norm is None else norm
        return self.norm(x, weight, shift, eps, residual)

    def rms_norm(
        self, x: Value, role: str, eps: float, *, residual: Value | None = None, groups: int = 1,
        plus_one: bool = False,
    ) -> Value:  # fmt: skip
        """x / sqrt(mean(x^2) + eps) * weight; in each of ``groups`` groups of columns (heads) with one weight.

        ``plus_one``: the gain is 1 + w.
        """
        norm = self.source.norm(self.name(role), x.width // groups, bias=False, plus_one=plus_one)
        weight = None if norm is None else norm.weight
        if groups > 1 and residual is not None:
            raise ValueError("rms_norm: a residual together with groups")
        return self.record(
            "rms_norm", x.rows, x.width, x, residual, weight=weight, eps=eps, heads=groups, reuse=True
        )  # fmt: skip

    def norm_each(self, x: Value, norms: Sequence[Norm | None], eps: float) -> Value:
        """The layer norm of each of so many groups of columns (heads), which have norms of their own."""
        self._read(x)
        out, size = self._table(x.rows, x.width), x.width // len(norms)
        for i, norm in enumerate(norms):
            weight, bias = (None, None) if norm is None else norm
            inputs, part = (x.columns(i * size, size), None), out.columns(i * size, size)
            self.trace.nodes.append(Node("layer_norm", part, inputs, (), {"weight": weight, "bias": bias, "eps": eps}))
        return out

    def split(self, x: Value, *widths: int) -> list[Value]:
        """``x`` cut into columns of these widths, which are all of it."""
        if sum(widths) != x.width:
            raise ValueError(f"split: widths {widths} of a value of width {x.width}")
        starts = [sum(widths[:i]) for i in range(len(widths))]
        return [x.columns(first, width) for first, width in zip(starts, widths, strict=True)]

    # ---- mixing ----

    def attention(
        self, q: Value, k: Value, v: Value, heads: int, kv_heads: int | None = None, *, scale: float | None = None,
        causal: bool = False, window: tuple[int | None, int | None] | None = None, cached: bool = False,
        distance_bias: Floats | None = None, alibi: Floats | None = None, sinks: Floats | None = None,
        softcap: float = 0.0, chunk: int | None = None,
    ) -> Value:  # fmt: skip
        """Attention of every sequence to itself; ``cached``: batches may continue sequences, whose keys are kept.

        ``alibi``: slopes (heads,) by which a key's score falls with its distance, counted over the tokens that are
        there; ``sinks``: (heads,) logits that take part in the softmax and carry no value; ``softcap``: scores are
        softcap * tanh(score / softcap), 0 for as they are; ``chunk``: tokens see those of their own chunk alone, of so
        many from the first of the sequence on.

        An encoder's, that is one that is not cached, goes by products of integers if its weights are int8; what is
        cached goes by how memory stores it.
        """
        kv_heads = heads if kv_heads is None else kv_heads
        size, v_size = q.width // heads, v.width // kv_heads
        if (q.width, k.width, v.width) != (heads * size, kv_heads * size, kv_heads * v_size):
            raise ValueError(
                f"attention: q, k, v are {q.width}, {k.width}, {v.width} wide for {heads} and {kv_heads} heads"
            )
        left, right = (None, None) if window is None else window
        layer = group = -1
        if cached:
            keep = Group(kv_heads, size, v_size, chunk if left is None else left + 1)
            if keep not in self.trace.groups:
                self.trace.groups.append(keep)
            layer, group = len(self.trace.layers), self.trace.groups.index(keep)
            self.trace.layers.append(group)
        ends = self.array("ends", rows="sequences", more=1)
        if alibi is not None and (window is not None or chunk is not None):
            raise ValueError("attention: alibi and a window, which go by different distances where masks have holes")
        # what goes by distance goes by the columns of a batch whose mask has holes
        by_distance = window is not None or chunk is not None or distance_bias is not None
        columns = self.array("columns", rows=q.rows, optional=True) if by_distance else None
        return self.record(
            "attention", q.rows, heads * v_size, q, k, v, arrays=(ends, columns), heads=heads, kv_heads=kv_heads,
            head_size=size, v_head_size=v_size, scale=1 / math.sqrt(size) if scale is None else scale, causal=causal,
            window=(-1 if left is None else left, -1 if right is None else right), bias=distance_bias, alibi=alibi,
            sinks=sinks, softcap=softcap, chunk=chunk or 0, layer=layer, group=group,
            integers=self.source.dtype == "int8" and not cached,
        )  # fmt: skip

    def disentangled(
        self, q: Value, k: Value, v: Value, heads: int, panels: Mapping[str, Floats], *, scale: float, span: int,
        max_distance: int,
    ) -> Value:  # fmt: skip
        """Attention by content and distance: ``attention.disentangled``."""
        arrays = (self.array("ends", rows="sequences", more=1), self.array("places", rows=q.rows))
        size = q.width // heads
        return self.record(
            "disentangled", q.rows, q.width, q, k, v, arrays=arrays, heads=heads, kv_heads=heads, head_size=size,
            v_head_size=size, scale=scale, span=span, max_distance=max_distance, c2p=panels.get("c2p"),
            p2c=panels.get("p2c"),
        )  # fmt: skip

    def short_conv(self, x: Value, role: str, size: int, *, bias: bool = True, activation: str | None = None) -> Value:
        """activation(sum of the last ``size`` rows of a sequence, each column with weights of its own, + b).

        Rows before the first are zeros; the last ones are kept, as a state.
        """
        name = self.name(role)
        taps = conv_taps(self.source, name, x.width, size, bias=bias)
        return self.record(
            "short_conv", x.rows, x.width, x, arrays=(self._ends(),), tables=(taps.get("taps"),),
            bias=taps.get("bias"), activation=activation, state=self._state((size - 1) * x.width),
        )  # fmt: skip

    def linear_attention(
        self, q: Value, k: Value, v: Value, heads: int, *, shared: int | None = None, decay: Value | None = None,
        beta: Value | None = None, scale: float | None = None,
    ) -> Value:  # fmt: skip
        """``linear_attention`` of every sequence, from zeros or the state it has: of the gated rules with a ``decay``,
        of the delta rules with ``beta``.

        ``heads``: of v, each with a state; ``shared``: of q and k, each for neighbouring ones. Both gates have a
        column for each head, or the decay one for each row of its state.
        """
        shared = heads if shared is None else shared
        size, v_size = k.width // shared, v.width // heads
        if (q.width, k.width, v.width) != (shared * size, shared * size, heads * v_size) or heads % shared:
            raise ValueError(
                f"linear_attention: q, k, v are {q.width}, {k.width}, {v.width} wide for {shared} and {heads} heads"
            )
        return self.record(
            "linear_attention", q.rows, v.width, q, k, v, decay, beta, arrays=(self._ends(),), heads=heads,
            kv_heads=shared, head_size=size, v_head_size=v_size, scale=1 / math.sqrt(size) if scale is None else scale,
            state=self._state(heads * size * v_size),
        )  # fmt: skip

    def _ends(self) -> str:
        return self.array("ends", rows="sequences", more=1)

    def _state(self, width: int) -> int:
        self.trace.states.append(width)
        return len(self.trace.states) - 1

    def join(self, x: Value, y: Value, heads: int, sizes: tuple[int, int]) -> Value:
        """Heads of columns of x and of y side by side, ``sizes`` of each; x or y may be one for all heads."""
        for value, size in zip((x, y), sizes, strict=True):
            if value.width not in (size, heads * size):
                raise ValueError(f"join: {value!r} for {heads} heads of {size}")
        return self.record(
            "join", x.rows, heads * sum(sizes), x, y, heads=heads, head_size=sizes[0], v_head_size=sizes[1]
        )  # fmt: skip

    def rope(self, x: Value, heads: int, rotary: Rotary, first: int = 0) -> Value:
        """``x`` turned by the positions of its rows, head by head, in its place; older values are void.

        ``first``: columns of each head that stay in front of those that turn.
        """
        self._read(x)
        if rotary not in self.trace.rotaries:
            self.trace.rotaries.append(rotary)
        number = self.trace.rotaries.index(rotary)
        tables = [self.array(f"rope{number}.{part}", "float32", 2, None) for part in ("cos", "sin")]
        rows = self.array(f"rope{number}.rows", rows=x.rows)
        x.table.changes.append((x.first, x.first + x.width))
        turned = Value(self, x.table, x.first, x.width)
        options = {"heads": heads, "head_size": x.width // heads, "v_head_size": first, "act": int(rotary.interleaved)}
        self.trace.nodes.append(Node("rope", turned, (turned,), (*tables, rows), options))
        return turned

    # ---- pointwise ----

    def add(self, x: Value, y: Value) -> Value:
        """x + y"""
        return self.record("add", x.rows, x.width, x, y, reuse=True)

    def gated(self, x: Value, gate: Value, activation: str | None) -> Value:
        """activation(x) * gate; None: x * gate"""
        return self.record("gated", x.rows, x.width, x, gate, activation=activation, reuse=True)

    def times(self, x: Value, y: Value) -> Value:
        """x * y"""
        return self.record("gated", x.rows, x.width, x, y, reuse=True)

    def activate(self, x: Value, activation: str) -> Value:
        """activation(x)"""
        return self.record("activate", x.rows, x.width, x, activation=activation, reuse=True)

    def softcap(self, x: Value, cap: float) -> Value:
        """cap * tanh(x / cap)"""
        return self.scale(self.activate(self.scale(x, 1 / cap), "tanh"), cap)

    def clamp(self, x: Value, most: float) -> Value:
        """x, no further from 0 than ``most``."""
        return self.record("clamp", x.rows, x.width, x, scale=most, reuse=True)

    def scale(self, x: Value, factor: float) -> Value:
        """x * factor; ``x`` itself where that is 1."""
        return x if factor == 1 else self.record("scale", x.rows, x.width, x, scale=factor, reuse=True)

    # ---- experts ----

    def route(self, logits: Value, top: int, *, bias: Floats | None = None, **options: Any) -> Value:
        """Which ``top`` experts each row takes, and by what weights: numbers, then weights, the best first.

        ``score``: "softmax" over all experts, "chosen" over those that were chosen, or "sigmoid"; ``normalize``:
        weights are divided by their sum + ``floor``; ``scale`` multiplies them; ``bias`` (experts,) is added where
        experts are chosen; ``groups``: only those of the best ``top_groups`` of so many are, a group counting as its
        best or, with ``group_sum``, as its two best.
        """
        return self.record("route", logits.rows, 2 * top, logits, bias=bias, route={"top": top, **options})

    def experts(
        self, x: Value, routes: Value, up: Bank, down: Bank, *, activation: str = "silu",
        clamped: tuple[float, float] | None = None, before: bool = False,
    ) -> Value:  # fmt: skip
        """The sum over a row's experts, in their order, of weight * down(activation(g) u) with [g | u] = up(x).

        ``clamped``: (alpha, limit) of g' sigmoid(alpha g') (u' + 1), g' = min(g, limit), u' within +-limit. ``before``:
        weights multiply what goes in.
        """
        options = {
            "up": self.source.experts(up), "down": self.source.experts(down), "count": up.number, "inner": down.inputs,
            "top": routes.width // 2, "activation": activation, "clamped": clamped, "before": before,
        }  # fmt: skip
        return self.record("experts", x.rows, down.outputs, x, routes, experts=options)

    # ---- rows change ----

    def gather(
        self, x: Value, index: str, rows: str, times: int = 1, *,
        make: Callable[[Integers, Integers], Integers] | None = None,
    ) -> Value:  # fmt: skip
        """Row i is the rows index[i, :] of ``x`` side by side, -1 for zeros; ``index``: an array (rows, times).

        ``make`` gives that array from the columns of the tokens and the ends of the sequences.
        """
        name = self.array(index, ndim=2, rows=rows, width=times)
        if make is not None:
            self.trace.made[name] = make
        return self.record("gather", rows, times * x.width, x, arrays=(name,))

    def first(self, x: Value) -> Value:
        """The first token of each sequence."""
        return self.gather(x, "first", "sequences", make=first_rows)

    def last(self, x: Value, padding: int | None) -> Value:
        """The last token of each sequence; with ``padding``, the last of another id."""
        if padding is None:
            return self.pool(x, ["last"])
        name = f"last{padding}"
        self.trace.chosen[name] = partial(last_rows, padding)
        return self.gather(x, name, "sequences")

    def neighbours(self, x: Value, size: int) -> Value:
        """Each token's ``size`` neighbouring columns side by side, itself in the middle; zeros where nothing is."""
        return self.gather(x, f"neighbours{size}", x.rows, size, make=partial(neighbour_rows, size))

    def pool(self, x: Value, modes: Sequence[str], *, skip: bool = False) -> Value:
        """One row for each sequence, side by side for several modes, which are those of ``ops.pool``.

        ``skip``: as many tokens of each as the batch says are left out.
        """
        self._read(x)
        arrays = [self.array("ends", rows="sequences", more=1)]
        if skip:
            arrays.append(self.array("skip", rows=None))
        out = self._table("sequences", len(modes) * x.width)
        for i, mode in enumerate(modes):
            part = out.columns(i * x.width, x.width)
            self.trace.nodes.append(Node("pool", part, (x,), tuple(arrays), {"pooling": mode}))
        return out

    def outputs(self, x: Value) -> Value:
        """The rows that a batch wants to know of."""
        return self.gather(x, "wanted", "outputs")

    def normalize(self, x: Value, eps: float = 1e-12) -> Value:
        """x / max(|x|, eps)"""
        return self.record("normalize", x.rows, x.width, x, eps=eps, reuse=True)
