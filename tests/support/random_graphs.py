# SPDX-License-Identifier: MIT
"""Graphs drawn at random, and beside each step what the operators of ``fastattn`` give for it, called one by one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

import fastattn as fa
from fastattn import ops
from fastattn._core import Blocks
from fastattn.attention.disentangled import attend_disentangled
from fastattn.attention.positions import attend_positions
from fastattn.attention.relative import bias_by_distance
from fastattn.graph.banks import span_of
from fastattn.graph.graph import Node, Value
from fastattn.graph.program import compile_trace
from fastattn.graph.rotary import Rotary
from support.graphs import bare_graph

Floats = np.ndarray[Any, np.dtype[np.float32]]

WIDTHS = (1, 3, 8, 12, 16, 17, 24, 31, 40)
ACTIVATIONS = (None, "relu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid")
POOLS = ("mean", "cls", "max", "last", "mean_sqrt_len", "weighted_mean")
KINDS = ("tokens", "sequences", "outputs")
IDS = 9  # rows of every table that ids look into
ANGLES = 50


class Drawn:
    """A graph of a seed with a batch for it: ``made`` has every value that can still be read, with what it holds."""

    def __init__(self, seed: int, steps: int | None = None) -> None:
        self.draw = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        draw = self.draw
        lengths = [draw.choice((0, 1, 2, 3, 7, 16, 33)) for _ in range(draw.choice((0, 1, 2, 4)))]
        self.ends = np.cumsum([0, *lengths])
        self.rows = {"tokens": int(self.ends[-1]), "sequences": len(lengths), "outputs": draw.choice((0, 1, 5))}
        gaps = draw.random() < 0.5
        walks = [np.cumsum(self.numbers.integers(1, 4 if gaps else 2, n)) - 1 for n in lengths]
        self.columns = np.concatenate([np.zeros(0, np.int64), *walks])
        self.arrays: dict[str, Any] = {
            "ends": self.ends,
            "places": self.columns,
            "skip": np.array([draw.choice((0, 1, 3))]),
        }
        if gaps or draw.random() < 0.5:
            self.arrays["columns"] = self.columns
        self.graph = bare_graph()
        self.made: list[tuple[Value, Floats]] = []
        self.rotaries: list[tuple[Rotary, int]] = []
        self.embed()
        kinds = [
            self.embed, self.linear, self.linear, self.experts, self.layer_norm, self.rms_norm, self.columns_of,
            self.attention,
            self.attention, self.disentangled, self.rope, self.rope, self.gated, self.add, self.add, self.scale,
            self.activate, self.gather, self.first, self.neighbours, self.pool, self.normalize,
        ]  # fmt: skip
        for _ in range(draw.randint(5, 40) if steps is None else steps):
            draw.choice(kinds)()
        self.name_outputs()

    # ---- what there is ----

    def floats(self, *shape: int) -> Floats:
        return self.numbers.standard_normal(shape, dtype=np.float32)

    def pick(self, rows: str | None = None, width: int | None = None) -> tuple[Value, Floats]:
        """A value, rather a late one; of tokens there always is one."""
        fit = [each for each in self.made if rows in (None, each[0].rows) and width in (None, each[0].width)]
        return self.draw.choice(fit[-self.draw.choice((1, 3, 100)) :])

    def keep(self, value: Value, holds: Floats) -> None:
        assert holds.dtype == np.float32 and holds.shape == (self.rows[value.rows], value.width)
        self.made = [each for each in self.made if not each[0].stale]
        self.made.append((value, holds))

    def name_outputs(self) -> None:
        for i, (value, _) in enumerate(self.made):
            self.graph.output(str(i), value)

    # ---- steps ----

    def embed(self) -> None:
        rows = self.draw.choice(("tokens", "tokens", "tokens", "sequences")) if self.made else "tokens"
        width = self.draw.choice(WIDTHS)
        names = [f"{rows}.ids{i}" for i in range(self.draw.randint(1, 4))]
        tables = [self.floats(IDS, width) for _ in names]
        for name in names:
            self.arrays.setdefault(name, self.numbers.integers(0, IDS, self.rows[rows]))
        value = self.graph.embed(dict(zip(names, tables, strict=True)), width, rows)
        self.keep(value, ops.embedding(tables, [self.arrays[name] for name in names]))

    def linear(self) -> None:
        x, holds = self.pick()
        dtype: Any = self.draw.choice(("float32", "float32", "float16", "bfloat16", "int8"))
        outputs = self.draw.choice((*WIDTHS, 72))
        weight = self.floats(outputs, x.width) / np.float32(np.sqrt(x.width))
        packed = fa.pack_linear(weight, self.floats(outputs) if self.draw.random() < 0.5 else None, dtype)
        act: Any = self.draw.choice(ACTIVATIONS)
        self.keep(self.graph.product(x, packed, act), ops.linear(holds, packed, activation=act))

    def experts(self) -> None:
        """Routes and experts: each row's by the products of its own experts, one by one."""
        x, holds = self.pick()
        count, inner = self.draw.choice((1, 2, 5, 9)), self.draw.choice((1, 7, 16, 40))
        act: Any = self.draw.choice(ACTIVATIONS)
        top, quarter = self.draw.randint(1, count), np.float32(0.25)
        up, down = self.floats(count, 2 * inner, x.width) * quarter, self.floats(count, x.width, inner) * quarter
        dtype: Any = self.draw.choice(("float32", "float16", "bfloat16", "int8"))
        packed = []
        for weights in (up, down):
            wide = np.zeros((count, span_of(weights.shape[1]), weights.shape[2]), np.float32)
            wide[:, : weights.shape[1]] = weights
            packed.append(fa.pack_linear(wide.reshape(-1, weights.shape[2]), dtype=dtype))
        router = fa.pack_linear(self.floats(count, x.width))
        routes = self.graph.route(self.graph.product(x, router), top)
        options = {"up": packed[0], "down": packed[1], "count": count, "inner": inner, "top": top, "activation": act}
        value = self.graph.record("experts", x.rows, x.width, x, routes, experts=options)
        logits = ops.linear(holds, router)
        chances = ops.softmax(logits)
        found = np.zeros((len(holds), x.width), np.float32)
        for i, row in enumerate(holds):
            order = np.lexsort((-logits[i], ~np.isnan(logits[i])))[:top]
            for rank, e in enumerate(order):
                layers = [fa.pack_linear(weights[e], dtype=dtype) for weights in (up, down)]
                both = ops.linear(row[None], layers[0])
                gated = ops.gated(both[:, :inner].copy(), both[:, inner:].copy(), act)
                part = ops.linear(gated, layers[1])
                part = ops.gated(part, np.full_like(part, chances[i, e]))
                found[i] = part[0] if rank == 0 else ops.add(found[i : i + 1].copy(), part)[0]
        self.keep(value, found)

    def beside(self, x: Value) -> tuple[Value, Floats] | None:
        """Perhaps a value of the same shape."""
        return self.pick(x.rows, x.width) if self.draw.random() < 0.5 else None

    def layer_norm(self) -> None:
        x, holds = self.pick()
        residual = self.beside(x)
        weight, bias = self.floats(x.width), self.floats(x.width) if self.draw.random() < 0.5 else None
        y, other = residual if residual is not None else (None, None)
        value = self.graph.norm(x, weight, bias, 1e-5, y)
        self.keep(value, ops.layer_norm(holds, weight, bias, 1e-5, residual=other))

    def rms_norm(self) -> None:
        x, holds = self.pick()
        groups = self.draw.choice([n for n in (1, 2, 3, 4, 8) if x.width % n == 0])
        residual = self.beside(x) if groups == 1 else None
        y, other = residual if residual is not None else (None, None)
        weight = self.floats(x.width // groups)
        value = self.graph.record("rms_norm", x.rows, x.width, x, y, weight=weight, eps=1e-6, heads=groups, reuse=True)
        shape = (len(holds), groups, x.width // groups)
        result = ops.rms_norm(holds.reshape(shape) if groups > 1 else holds, weight, 1e-6, residual=other)
        self.keep(value, result.reshape(holds.shape))

    def columns_of(self) -> None:
        x, holds = self.pick()
        width = self.draw.randint(1, x.width)
        first = self.draw.randint(0, x.width - width)
        self.keep(x.columns(first, width), np.ascontiguousarray(holds[:, first : first + width]))

    def parts(self, *widths: int) -> list[tuple[Value, Floats]]:
        """Columns of one product."""
        x, holds = self.pick("tokens")
        packed = fa.pack_linear(self.floats(sum(widths), x.width) / np.float32(np.sqrt(x.width)))
        wide, result = self.graph.product(x, packed), ops.linear(holds, packed)
        starts = np.cumsum([0, *widths])
        found = []
        for value, first, width in zip(self.graph.split(wide, *widths), starts, widths, strict=False):
            found.append((value, np.ascontiguousarray(result[:, first : first + width])))
            self.keep(*found[-1])
        return found

    def attention(self) -> None:
        draw = self.draw
        kv_heads = draw.choice((1, 2, 3))
        heads, size, v_size = kv_heads * draw.choice((1, 2, 3)), draw.choice((1, 4, 8)), draw.choice((2, 8, 11))
        (q, qa), (k, ka), (v, va) = self.parts(heads * size, kv_heads * size, kv_heads * v_size)
        if draw.random() < 0.3:
            q, qa = self.turn(q, qa, heads)
        options: dict[str, Any] = {"causal": draw.random() < 0.3, "scale": draw.choice((None, 0.3, -0.5))}
        if draw.random() < 0.4:
            options["window"] = (draw.choice((None, 0, 3)), draw.choice((None, 1, 5)))
        table, bias = None, None
        if draw.random() < 0.3:
            table = self.floats(heads, 8)
            bias = bias_by_distance(table, True, 20, 24)
        value = self.graph.attention(q, k, v, heads, kv_heads, distance_bias=bias, **options)
        full = [a.reshape(len(a), n, a.shape[1] // n) for a, n in ((qa, heads), (ka, kv_heads), (va, kv_heads))]
        if table is not None:
            options["relative_bias"] = (table, True, 20)
        if "columns" in self.arrays:
            result = attend_positions(*full, self.ends, self.columns, **options)
        else:
            result = fa.attention_varlen(*full, self.ends, self.ends, **options)
        self.keep(value, result.reshape(len(qa), heads * v_size))

    def disentangled(self) -> None:
        draw = self.draw
        heads, size, span = draw.choice((1, 3)), draw.choice((4, 8)), draw.choice((3, 8, 20))
        most = draw.choice((None, 40))
        lanes = -(-2 * span // 16) * 16
        panels = {}
        for kind in draw.choice((("c2p",), ("p2c",), ("c2p", "p2c"))):
            weight = np.zeros((heads, lanes, size), np.float32)
            weight[:, : 2 * span] = self.floats(heads, 2 * span, size)
            panels[kind] = fa.pack_linear(weight.reshape(-1, size)).arrays()["panels"]
        (q, qa), (k, ka), (v, va) = self.parts(*[heads * size] * 3)
        value = self.graph.disentangled(q, k, v, heads, panels, scale=0.2, span=span, max_distance=most or 0)
        full = [a.reshape(len(a), heads, size) for a in (qa, ka, va)]
        result = np.empty_like(full[0])
        attend_disentangled(
            *full, self.ends, self.columns, panels, span=span, max_distance=most, scale=0.2, out=result
        )  # fmt: skip
        self.keep(value, result.reshape(qa.shape))

    def turn(self, x: Value, holds: Floats, heads: int) -> tuple[Value, Floats]:
        size = x.width // heads
        fit = [each for each in self.rotaries if 2 * each[1] <= size]
        if fit and self.draw.random() < 0.7:
            rotary, half = self.draw.choice(fit)
        elif size < 2:
            return x, holds
        else:
            half = self.draw.randint(1, size // 2)
            rotary = Rotary(2 * half, base=100.0, positions=ANGLES, interleaved=self.draw.random() < 0.5)
            self.rotaries.append((rotary, half))
            number = len(self.graph.trace.rotaries)
            self.arrays[f"rope{number}.cos"], self.arrays[f"rope{number}.sin"] = self.floats(2, ANGLES, half)
            self.arrays[f"rope{number}.rows"] = self.numbers.integers(0, ANGLES, self.rows["tokens"])
        value = self.graph.rope(x, heads, rotary)
        number = self.graph.trace.rotaries.index(rotary)
        cos, sin, at = (self.arrays[f"rope{number}.{part}"] for part in ("cos", "sin", "rows"))
        by_head = holds.reshape(len(holds), heads, size).swapaxes(0, 1)
        result = fa.rope(by_head, cos, sin, position_ids=at, interleaved=rotary.interleaved)
        holds = np.ascontiguousarray(result.swapaxes(0, 1)).reshape(holds.shape)
        self.keep(value, holds)
        return value, holds

    def rope(self) -> None:
        x, holds = self.pick("tokens")
        self.turn(x, holds, self.draw.choice([n for n in (1, 2, 3) if x.width % n == 0]))

    def pair(self) -> tuple[tuple[Value, Floats], tuple[Value, Floats]]:
        first = self.pick()
        return first, self.pick(first[0].rows, first[0].width)

    def gated(self) -> None:
        (x, a), (y, b) = self.pair()
        act: Any = self.draw.choice(ACTIVATIONS)
        self.keep(self.graph.gated(x, y, act), ops.gated(a, b, act))

    def add(self) -> None:
        (x, a), (y, b) = self.pair()
        self.keep(x + y, ops.add(a, b))

    def scale(self) -> None:
        x, holds = self.pick()
        factor = self.draw.choice((0.5, -1.75, 0.1))
        self.keep(self.graph.scale(x, factor), ops.gated(holds, np.full_like(holds, factor)))

    def activate(self) -> None:
        x, holds = self.pick()
        act: Any = self.draw.choice(ACTIVATIONS[1:])
        value = self.graph.record("activate", x.rows, x.width, x, activation=act, reuse=True)
        self.keep(value, ops.gated(holds, np.ones_like(holds), act))

    def normalize(self) -> None:
        x, holds = self.pick()
        self.keep(self.graph.normalize(x, 1e-6), ops.l2_normalize(holds, 1e-6))

    def gather(self) -> None:
        x, holds = self.pick()
        rows, times, name = (
            self.draw.choice(KINDS),
            self.draw.choice((1, 2)) if x.width < 100 else 1,
            f"pick{len(self.arrays)}",
        )
        index = self.numbers.integers(-1, len(holds), (self.rows[rows], times))
        self.arrays[name] = index
        self.keep(self.graph.gather(x, name, rows, times), side_by_side(holds, index))

    def made_index(self, name: str) -> np.ndarray[Any, Any]:
        self.arrays[name] = self.graph.trace.made[name](self.columns, self.ends)
        return self.arrays[name]

    def first(self) -> None:
        x, holds = self.pick("tokens")
        if (np.diff(self.ends) > 0).all():
            self.keep(self.graph.first(x), side_by_side(holds, self.made_index("first")))

    def neighbours(self) -> None:
        x, holds = self.pick("tokens")
        if len(holds) and x.width < 20:
            self.keep(self.graph.neighbours(x, 3), side_by_side(holds, self.made_index("neighbours3")))

    def pool(self) -> None:
        x, holds = self.pick("tokens")
        modes: list[Any] = self.draw.sample(POOLS, self.draw.choice((1, 1, 2)))
        skip = self.draw.random() < 0.3
        found = [ops.pool(holds, self.ends, mode, skip=int(self.arrays["skip"][0]) if skip else 0) for mode in modes]
        self.keep(self.graph.pool(x, modes, skip=skip), np.concatenate(found, axis=1))

    # ---- runs ----

    def run(self, names: Sequence[str], blocks: Blocks, *, reuse: bool = True, threads: int = 1) -> dict[str, Floats]:
        """Some outputs, by a program, into arrays with or without space between their rows."""
        compiled = compile_trace(self.graph.trace, names, reuse=reuse)
        found = {}
        for name, (kind, width) in compiled.outputs.items():
            space = self.draw.choice((0, 0, 5, -width % 512))
            found[name] = np.full((self.rows[kind], width + space), np.nan, np.float32)[:, :width]
        outputs = {f"out.{name}": array for name, array in found.items()}
        assert compiled.run(self.rows, {**self.arrays, **outputs}, blocks, num_threads=threads)
        return found

    def shuffle(self) -> None:
        """Independent steps in another order."""
        left = list(self.graph.trace.nodes)
        order: list[Node] = []
        while left:
            ready = [i for i, node in enumerate(left) if not any(depends(node, before) for before in left[:i])]
            order.append(left.pop(self.draw.choice(ready)))
        self.graph.trace.nodes[:] = order


def depends(node: Node, before: Node) -> bool:
    """Whether the order of both matters: one writes a table that the other reads or writes."""
    reads = [{value.table for value in each.inputs if value is not None} for each in (node, before)]
    return before.out.table in reads[0] | {node.out.table} or node.out.table in reads[1]


def side_by_side(x: Floats, index: np.ndarray[Any, Any]) -> Floats:
    """Rows of ``x``, zeros for -1."""
    padded = np.concatenate([x, np.zeros((1, x.shape[1]), np.float32)])
    return np.ascontiguousarray(padded[index].reshape(len(index), index.shape[1] * x.shape[1]))
