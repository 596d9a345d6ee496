# SPDX-License-Identifier: MIT
"""A source hands out one object for what is asked for twice, and refuses what is asked for as two things."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fastattn as fa
from fastattn.graph.checkpoint import Checkpoint, Plan
from fastattn.graph.config import ConfigReader
from fastattn.graph.graph import Graph
from fastattn.graph.names import Names
from fastattn.graph.packed import Packed
from fastattn.graph.source import Layout, Source

H = 24
TENSORS = {
    "ffn.weight": (8, H), "ffn.bias": (8,), "up.weight": (8, H), "norm.weight": (H,), "norm.bias": (H,),
    "words.weight": (9, H),
}  # fmt: skip


class Weights(dict[str, Any]):
    """Tensors in memory, as a file of weights has them."""

    path = Path("model.safetensors")
    format = ""

    def as_float32(self, name: str) -> Any:
        return self[name]

    def forget(self, name: str) -> None:
        pass

    def row_reader(self, name: str) -> Any:
        return lambda start, stop: self[name][start:stop]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self[name].shape)


class PackedParts(SimpleNamespace):
    """What a checkpoint has made, as a packed file has it."""

    path = Path("model.fastattn")
    metadata = {"dtype": "float32", "head": "none", "used": "[]", "ignored": "[]"}

    def parts(self, key: str) -> dict[str, Any]:
        return dict(self.made.get(key, {}))

    def keys_of_objects(self) -> Sequence[str]:
        return list(self.made)


def make_source(kind: str) -> Source:
    config = ConfigReader("config.json", {})
    weights: Any = Weights((name, np.full(shape, 0.5, np.float32)) for name, shape in TENSORS.items())
    if kind == "plan":
        return Plan(config, weights)
    checkpoint = Checkpoint(config, weights, "float32", 1)
    if kind == "checkpoint":
        return checkpoint
    made: dict[str, dict[str, Any]] = {
        "ffn": dict(ASK["layer"](checkpoint).arrays()),
        "ffn+up": dict(ASK["layers"](checkpoint).arrays()),
        "norm": ASK["norm"](checkpoint)._asdict(),
        "words.weight": {"table": ASK["table"](checkpoint)},
        "key": {"a": np.ones((2, 3), np.float32)},
    }
    parts: Any = PackedParts(made=made)
    return Packed(config, parts, 1)


def double(*tensors: Any) -> dict[str, Any]:
    return {"a": tensors[0][:2, :3]}


ASK: dict[str, Callable[[Source], Any]] = {
    "layer": lambda s: s.linear("ffn", 8, H),
    "layers": lambda s: s.linear(["ffn", "up"], 8, H, bias=False),
    "norm": lambda s: s.norm("norm", H),
    "table": lambda s: s.table("words.weight", (9, H)),
    "derived": lambda s: s.derive("key", {"words.weight": (9, H)}, double, shapes={"a": (2, 3)}),
}


@pytest.mark.parametrize("what", ASK)
@pytest.mark.parametrize("kind", ["checkpoint", "packed"])
def test_what_is_asked_for_twice_is_one_object(what: str, kind: str) -> None:
    source = make_source(kind)
    first = ASK[what](source)
    assert first is not None and ASK[what](source) is first
    assert len(source.tables) == (what == "table")
    for other in ASK:  # beside all others
        if kind != "packed" or other != what:
            ASK[other](source)
    assert ASK[what](source) is first
    if isinstance(source, Packed):
        source.check_all_served()


@pytest.mark.parametrize("what", ASK)
def test_a_plan_takes_twice_for_once(what: str) -> None:
    source = make_source("plan")
    assert isinstance(source, Plan)
    ASK[what](source)
    once = dict(source.requests)
    ASK[what](source)
    assert source.requests == once


@pytest.mark.parametrize(
    ("first", "second", "tensor"),
    [
        (ASK["layer"], lambda s: s.linear("ffn", 9, H), r"'ffn.weight' is asked for as \[8, 24\] and as \[9, 24\]"),
        (ASK["layer"], lambda s: s.linear("ffn", 8, H + 1), r"'ffn.weight' is asked for as \[8, 24\] and as \[8, 25\]"),
        (ASK["layer"], lambda s: s.linear(["up", "ffn"], [8, 9], H), "'ffn.weight'"),
        (ASK["layer"], lambda s: s.linear("other", 9, H, tied="ffn.weight"), "'ffn.weight'"),
        (ASK["layer"], lambda s: s.linear("other", 9, H, bias=("o.bias", "ffn.bias")), "'ffn.bias'"),
        (ASK["norm"], lambda s: s.norm("norm", H + 1), r"'norm"),
        (ASK["norm"], lambda s: s.linear("norm", H, H), "'norm.weight'"),
        (ASK["table"], lambda s: s.table("words.weight", (H, 9)), r"'words.weight' is asked for as \[9, 24\] and as"),
        (ASK["table"], lambda s: s.table("other", (10, H), tied="words.weight"), "'words.weight'"),
        (ASK["table"], lambda s: s.norm("words", H, bias=False), "'words.weight'"),
        (ASK["derived"], lambda s: s.derive("key2", {"words.weight": (8, H)}, double), "'words.weight'"),
        # the same tensors, but not the same thing
        (ASK["layer"], lambda s: s.linear("ffn", 8, H, bias=False), "'ffn' is asked for as .*'bias'.*'no bias'"),
        (ASK["layer"], lambda s: s.linear("ffn", 8, H, dtype="int8"), "'ffn' is asked for as .*'int8'"),
        (ASK["norm"], lambda s: s.norm("norm", H, bias=False), "'norm' is asked for as"),
        (ASK["derived"], lambda s: s.derive("key", {"up.weight": (8, H)}, double), "'key' is asked for as"),
    ],
)
def test_what_is_asked_for_as_two_things(first: Any, second: Any, tensor: str) -> None:
    for one, other in ((first, second), (second, first)):
        source = make_source("plan")
        one(source)
        with pytest.raises(ValueError, match=rf"^config.json: .*{tensor if one is first else ''}"):
            other(source)


@pytest.mark.parametrize("kind", ["checkpoint", "packed"])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (ASK["layer"], lambda s: s.linear("ffn", 9, H)),
        (ASK["layer"], lambda s: s.linear("ffn", 8, H, bias=False)),
        (ASK["norm"], lambda s: s.norm("norm", H + 1)),
        (ASK["norm"], lambda s: s.linear("norm", H, H)),
        (ASK["table"], lambda s: s.table("words.weight", (H, 9))),
    ],
)
def test_sources_without_a_plan_refuse_it_too(kind: str, first: Any, second: Any) -> None:
    source = make_source(kind)
    first(source)
    with pytest.raises(ValueError, match="^config.json: .* is asked for as"):
        second(source)


def test_a_page_that_asks_twice_is_refused_when_it_is_traced() -> None:
    family: Any = SimpleNamespace(architectures={})
    g = Graph(make_source("plan"), family)
    g.names = Names("", "layer.{i}.", {"ffn": "ffn"}, words="words", ffn="ffn")
    x = g.embed({"ids": g.table("words", (9, H))}, H)
    y = g.linear(x, "ffn", 8)
    assert g.linear(x, "ffn", 8).width == y.width == 8
    with pytest.raises(
        ValueError, match=r"config.json: tensor 'ffn.weight' is asked for as \[8, 24\] and as \[4, 24\]"
    ):
        g.linear(x, "ffn", 4)
    with pytest.raises(ValueError, match=r"'ffn.weight' is asked for as \[8, 24\] and as \[8, 8\]"):
        g.linear(y, "ffn", 8)


@pytest.mark.parametrize("format", ["", "gguf"])
def test_a_layer_in_another_layout_is_read_in_order(format: str) -> None:
    """Files of Hugging Face have it as the layout says, a converted file has it in order: one packed layer."""
    rows = np.arange(35, dtype=np.float32).reshape(7, 5)
    order = np.array([3, 0, 6, 1, 2, 5, 4])
    layout = Layout("turned", transposed=True, order=order)
    stored = np.empty((7, 5), np.float32)
    bias = np.arange(7, dtype=np.float32)
    stored[order] = rows
    weights = Weights({"x.weight": stored.T.copy(), "x.bias": np.argsort(order).astype(np.float32)})
    if format:
        weights = Weights({"x.weight": rows, "x.bias": bias})
    weights.format = format
    config: Any = SimpleNamespace(path=Path("config.json"))
    packed = Checkpoint(config, weights, "float32", 1).linear("x", 7, 5, layout=layout)  # type: ignore[arg-type]
    assert np.array_equal(fa.linear(np.eye(5, dtype=np.float32), packed), rows.T + bias)
    with pytest.raises(ValueError, match="is asked for as"):
        source = Checkpoint(config, weights, "float32", 1)  # type: ignore[arg-type]
        source.linear("x", 7, 5, layout=layout)
        source.linear("x", 7, 5)
    plan = Plan(config, weights)  # type: ignore[arg-type]
    plan.linear("x", 7, 5, layout=layout)
    assert plan.requests["x.weight",] == ((7, 5) if format else (5, 7))


@pytest.mark.parametrize("format", ["", "gguf"])
def test_a_gain_of_one_more_is_added_once(format: str) -> None:
    weights = Weights({"n.weight": np.array([0.5, -1, 2], np.float32)})
    weights.format = format
    config: Any = SimpleNamespace(path=Path("config.json"))
    norm = Checkpoint(config, weights, "float32", 1).norm("n", 3, bias=False, plus_one=True)  # type: ignore[arg-type]
    assert norm.weight.tolist() == ([0.5, -1, 2] if format else [1.5, 0, 3])
