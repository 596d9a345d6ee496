# SPDX-License-Identifier: MIT
"""Changed weights where files of Hugging Face have layers in another order than pages, and gains less one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from golden import tiny_bert
from test_sources import Weights

import fastattn as fa
from fastattn.graph.adapted import Adapted, Asked, asked_of_checkpoint, asked_of_packed
from fastattn.graph.checkpoint import Checkpoint
from fastattn.graph.source import Layout, Source
from fastattn.loaders.errors import WeightFileError
from fastattn.loaders.lora import LowRank, Whole
from fastattn.loaders.packed import PackedFile
from fastattn.loaders.weightfile import TensorInfo

OUT, IN, R = 19, 7, 3
CONFIG: Any = SimpleNamespace(path=Path("config.json"))
LAYOUTS = {
    "transposed": Layout("transposed", transposed=True),
    "ordered": Layout("ordered", order=np.argsort(tiny_bert.uniform("order", (OUT,)))),
    "both": Layout("both", transposed=True, order=np.argsort(tiny_bert.uniform("order", (OUT,)))),
}


class File(Weights):
    """With what it says of its tensors."""

    def info(self, name: str) -> TensorInfo:
        return TensorInfo("F32", self[name].shape, self.path)


def page(source: Source, layout: Layout) -> None:
    """A layer, and the two gains of it."""
    source.linear("l", OUT, IN, layout=layout)
    source.norm("n", OUT, bias=False, plus_one=True)


def numbers(name: str, *shape: int) -> Any:
    return (tiny_bert.integers(name, shape, 16) - 8).astype(np.float32) / np.float32(8)


def as_wanted(layout: Layout, tensors: dict[str, Any]) -> dict[str, Any]:
    """What a converter makes of a file."""
    bias = tensors["l.bias"] if layout.order is None else tensors["l.bias"][layout.order]
    return {
        "l.weight": layout.rows(tensors["l.weight"]), "l.bias": bias, "n.weight": tensors["n.weight"] + np.float32(1),
    }  # fmt: skip


def objects(source: Source) -> list[bytes]:
    layer: Any = source.made["l"]
    norm: Any = source.made["n"]
    return [array.tobytes() for array in (*layer.arrays().values(), norm.weight)]


def asked_of(kind: str, layout: Layout, tensors: dict[str, Any]) -> Asked:
    weights: Any = File(tensors if kind == "folder" else as_wanted(layout, tensors))
    weights.format = "" if kind == "folder" else "gguf"
    return asked_of_checkpoint(CONFIG, weights, None, lambda source: page(source, layout))


@pytest.mark.parametrize("kind", ["folder", "gguf"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_changes_of_files_of_hugging_face(kind: str, name: str) -> None:
    """Halves are outputs by inputs whatever the layout; whole tensors lie as the file's own do."""
    layout = LAYOUTS[name]
    shape = layout.shape(OUT, IN)
    tensors = {"l.weight": numbers("w", *shape), "l.bias": numbers("b", OUT), "n.weight": numbers("n", OUT)}
    a, b, shift = numbers("A", R, IN), numbers("B", OUT, R), numbers("shift", OUT, 1)
    whole, gain, bias = numbers("W", *shape), numbers("N", OUT), numbers("C", OUT)
    delta = np.float32(0.5) * (b @ a)
    turned = delta.T if layout.transposed else delta
    one = np.ones((1, 1), np.float32)
    low, bias_low = LowRank("low", a, b, 0.5), LowRank("bias", one, shift, 0.5)
    asked = asked_of(kind, layout, tensors)
    cases: list[tuple[str, list[Any], Any]] = [
        ("l.weight", [low], tensors["l.weight"] + turned),
        ("l.weight", [Whole("w", whole)], whole),
        ("l.weight", [Whole("w", whole), low], whole + turned),
        ("l.bias", [bias_low], tensors["l.bias"] + shift[:, 0] / 2),
        ("l.bias", [Whole("b", bias)], bias),
        ("n.weight", [Whole("n", gain)], gain),
    ]  # fmt: skip
    base = Checkpoint(CONFIG, asked.weights, "float32", 1)
    page(base, layout)
    for stored, read, by_hand in cases:
        changes = [asked.changed(stored, change, converted=False) for change in read]
        adapted = Adapted(asked, {stored: changes}, base.made, "float32", 1, "int16")
        page(adapted, layout)
        expected = Checkpoint(CONFIG, asked_of(kind, layout, {**tensors, stored: by_hand}).weights, "float32", 1)
        page(expected, layout)
        assert objects(adapted) == objects(expected) != objects(base)
        kept = [key for key in ("l", "n") if adapted.made[key] is base.made[key]]
        assert kept == (["l"] if stored == "n.weight" else ["n"])


@pytest.mark.parametrize("kind", ["folder", "gguf"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_changes_of_converted_files(kind: str, name: str) -> None:
    """They are as the page wants them."""
    layout = LAYOUTS[name]
    tensors = {
        "l.weight": numbers("w", *layout.shape(OUT, IN)), "l.bias": numbers("b", OUT), "n.weight": numbers("n", OUT),
    }  # fmt: skip
    a, b, gain = numbers("A", R, IN), numbers("B", OUT, R), numbers("N", OUT)
    asked = asked_of(kind, layout, tensors)
    read = {"l.weight": LowRank("low", a, b, 2.0), "n.weight": Whole("n", gain)}
    changes = {key: [asked.changed(key, change, converted=True)] for key, change in read.items()}
    adapted = Adapted(asked, changes, {}, "float32", 1, "int16")
    page(adapted, layout)
    wanted = as_wanted(layout, tensors)
    weights: Any = File({**wanted, "l.weight": wanted["l.weight"] + 2 * (b @ a), "n.weight": gain})
    weights.format = "gguf"
    expected = Checkpoint(CONFIG, weights, "float32", 1)
    page(expected, layout)
    assert objects(adapted) == objects(expected)


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_does_not_fit(name: str) -> None:
    layout = LAYOUTS[name]
    shape = layout.shape(OUT, IN)
    tensors = {"l.weight": numbers("w", *shape), "l.bias": numbers("b", OUT), "n.weight": numbers("n", OUT)}
    asked = asked_of("folder", layout, tensors)
    for wrong in (shape[::-1], (OUT, IN + 1), (OUT,), (OUT, IN, 1)):
        with pytest.raises(WeightFileError, match="w has shape"):
            asked.changed("l.weight", Whole("w", np.ones(wrong, np.float32)), converted=False)
    for rows, columns in ((IN, OUT), (OUT + 1, IN), (OUT, IN - 1), (OUT, 1)):
        low = LowRank("low", np.ones((R, columns), np.float32), np.ones((rows, R), np.float32), 1.0)
        with pytest.raises(WeightFileError, match=rf"low make a change of \[{rows}, {columns}\]"):
            asked.changed("l.weight", low, converted=False)


def test_rows_out_of_panels(tmp_path: Path) -> None:
    """Of every storage type but int8, whatever the layer's place among those of its product."""
    base = tiny_bert.save_folder(tmp_path / "base", "plain")
    wanted = tiny_bert.tensors("plain")
    kinds = {"float32": np.float32, "float16": np.float16}
    for dtype, kind in kinds.items():
        packed = PackedFile(fa.pack(base, tmp_path / f"{dtype}.fastattn", dtype))
        config: Any = SimpleNamespace(path=Path("config.json"))
        names = [f"encoder.layer.1.attention.self.{part}" for part in ("query", "key", "value")]
        size = wanted[f"{names[0]}.weight"].shape[0]

        def trace(source: Source, names: list[str] = names, size: int = size) -> None:
            source.linear(names, size, size)

        asked = asked_of_packed(config, packed, trace)
        for name in names:
            weight = wanted[f"{name}.weight"].astype(np.float32)
            assert np.array_equal(asked.weights.as_float32(f"{name}.weight"), weight.astype(kind).astype(np.float32))
            assert np.array_equal(asked.weights.as_float32(f"{name}.bias"), wanted[f"{name}.bias"])
            read = asked.weights.row_reader(f"{name}.weight")
            for start, stop in ((0, 1), (3, 17), (size - 2, size), (5, 5)):
                assert np.array_equal(read(start, stop), weight[start:stop].astype(kind))
