# SPDX-License-Identifier: MIT
"""What a decoder has to do for a token at least: arithmetic, and bytes of weights and keys that are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fastattn import _core
from fastattn.graph.plan import used_nodes

__all__ = ["Costs", "Experts", "Layer", "costs_of", "pairs"]

_KEY_BYTES = {"float32": (4, 0), "float16": (2, 0), "bfloat16": (2, 0), "int8": (1, 4)}
"""Type of keys and values -> bytes of a number, and of a row's scale."""


@dataclass(frozen=True, slots=True)
class Layer:
    """An attention layer's sizes; ``window``: keys that a query sees, itself included, None for all."""

    heads: int
    kv_heads: int
    head_size: int
    v_head_size: int
    window: int | None


@dataclass(frozen=True, slots=True)
class Experts:
    """A layer of ``number`` experts, of which each token takes ``top``; ``nbytes``: of all of them."""

    number: int
    top: int
    nbytes: int

    def read_bytes(self, tokens: int) -> int:
        """Of those that so many tokens take together, where each takes any with the same chance."""
        return round(self.nbytes * (1 - (1 - self.top / self.number) ** tokens))


@dataclass(frozen=True, slots=True)
class Costs:
    """Of a model as it is kept."""

    dtype: str
    """Of most of the weights."""
    kept_bytes: int
    """All tensors."""
    read_bytes: int
    """Of these what every step reads: all but the table of words, of which a token needs one row, and experts."""
    token_flops: int
    """Of the linear layers that every token goes through, and of its states."""
    output_flops: int
    """Of those that only a token with logits does."""
    layers: tuple[Layer, ...]
    experts: tuple[Experts, ...] = ()
    state_bytes: int = 0
    """What a sequence keeps beside keys and values, of one size however long it is."""

    def as_json(self) -> dict[str, Any]:
        """What ``from_json`` takes."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Costs:
        """The same costs again, from another process."""
        layers = tuple(Layer(**layer) for layer in found["layers"])
        return cls(**{**found, "layers": layers, "experts": tuple(Experts(**one) for one in found.get("experts", ()))})

    def prompt_flops(self, tokens: int) -> int:
        """Operations of a prompt with logits after its last token."""
        return tokens * self.token_flops + self.output_flops + self._attention_flops(0, tokens)

    def decode_flops(self, before: int, steps: int, batch: int) -> int:
        """Operations of ``steps`` tokens, one by one, behind ``before`` others, of each of ``batch`` sequences."""
        each = steps * (self.token_flops + self.output_flops) + self._attention_flops(before, steps)
        return batch * each

    def decode_bytes(self, before: int, steps: int, batch: int, kv_dtype: str) -> int:
        """Bytes of weights, read once a step for all sequences, and of keys, values and states, that those steps read.

        Of experts: those that some sequence takes.
        """
        number, scale = _KEY_BYTES[kv_dtype]
        keys = sum(
            pairs(before, steps, layer.window)
            * layer.kv_heads
            * (number * (layer.head_size + layer.v_head_size) + 2 * scale)
            for layer in self.layers
        )
        taken = sum(one.read_bytes(batch) for one in self.experts)
        return steps * (self.read_bytes + taken + batch * self.state_bytes) + batch * keys

    def _attention_flops(self, before: int, tokens: int) -> int:
        return sum(
            2 * layer.heads * (layer.head_size + layer.v_head_size) * pairs(before, tokens, layer.window)
            for layer in self.layers
        )


def pairs(before: int, tokens: int, window: int | None) -> int:
    """Keys that ``tokens`` queries see together, with ``before`` keys before the first of them.

    >>> pairs(0, 3, None), pairs(2, 3, None), pairs(0, 5, 2)
    (6, 12, 9)
    """
    if window is None:
        return tokens * before + tokens * (tokens + 1) // 2
    return sum(min(before + i + 1, window) for i in range(tokens))


def costs_of(model: Any) -> Costs:
    """The costs of a language model that ``fastattn.load`` has returned.

    Raises:
        ValueError: it has no language model's head.
    """
    model.check_logits()
    trace = model.graph.trace
    kept: dict[int, int] = {}
    read: dict[int, int] = {}
    dtypes: Counter[str] = Counter()
    flops = {"tokens": 0, "outputs": 0}
    layers, experts = [], []
    for node in used_nodes(trace.nodes, [trace.outputs["logits"]]):
        for part in _weights(node.options.values()):
            kept[id(part)] = part.nbytes
            if node.kind != "embed":
                read[id(part)] = part.nbytes
            if isinstance(part, _core.PackedLinear):
                flops[node.out.rows] += 2 * part.in_features * part.out_features
                dtypes[str(part.dtype)] += part.nbytes
        if node.kind == "experts":
            options = node.options["experts"]
            both = [options["up"], options["down"]]
            kept.update((id(part), part.nbytes) for part in both)
            experts.append(Experts(options["count"], options["top"], sum(part.nbytes for part in both)))
            inner, hidden = options["inner"], node.out.width
            flops[node.out.rows] += 2 * options["top"] * 3 * inner * hidden
            dtypes[both[0].dtype] += experts[-1].nbytes
        if node.kind in ("short_conv", "linear_attention"):  # a multiplication and an addition for each, read-outs too
            width = trace.states[node.options["state"]]
            flops[node.out.rows] += 2 * (width + node.out.width) if node.kind == "short_conv" else 6 * width
        if node.kind == "attention":
            group = trace.groups[node.options["group"]]
            layers.append(
                Layer(node.options["heads"], group.kv_heads, group.head_size, group.v_head_size, group.window)
            )
    return Costs(
        dtypes.most_common(1)[0][0], sum(kept.values()), sum(read.values()), flops["tokens"], flops["outputs"],
        tuple(layers), tuple(experts), 4 * sum(trace.states),
    )  # fmt: skip


def _weights(options: Any) -> Iterator[Any]:
    for value in options:
        if isinstance(value, (tuple, list)):
            yield from _weights(value)
        elif isinstance(value, (_core.PackedLinear, np.ndarray)):
            yield value
