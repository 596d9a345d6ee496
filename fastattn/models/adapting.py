# SPDX-License-Identifier: MIT
"""Adapters put into a model: which tensors they mean, and the model with those changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..graph.adapted import Adapted, Asked, Change, asked_of_checkpoint, asked_of_packed
from ..graph.build import Built, trace_page
from ..graph.gguf import Converted, GgufWeights
from ..loaders.errors import WeightFileError
from ..loaders.lora import Adapter, GgufAdapter, LowRank, Whole, check_pair, finite
from ..loaders.packed import PackedFile
from .gguf import ARCHITECTURES, architecture_of, converted

if TYPE_CHECKING:
    from ..graph.source import TensorReport
    from .registry import Opened

__all__ = ["build_adapted"]

# model_type of config.json -> that of the model whose architecture its GGUF files have.
_SAME_ARCHITECTURE = {"mistral": "llama"}


def build_adapted(
    opened: Opened, adapters: Sequence[Adapter | GgufAdapter], new: int, made: Mapping[str, Any], report: TensorReport
) -> Built:
    """The model of an opened path with adapters in it, one behind the other.

    Parameters
    ----------
    opened
        The model without adapters.
    adapters
        All of them.
    new
        How many of them, at the end, ``made`` has not got yet.
    made
        Objects of the model with the others, by their keys: what no new one changes is shared.
    report
        What became of the tensors of the file.

    Raises
    ------
    WeightFileError
        An adapter names a tensor that the model has not got, or does not fit it; the model's weights are int8 in a
        packed file.
    """
    trace = partial(trace_page, opened.family)
    if isinstance(opened.weights, PackedFile):
        asked = asked_of_packed(opened.config, opened.weights, trace)
    else:
        asked = asked_of_checkpoint(opened.config, opened.weights, opened.head, trace)
    each = [_changes(adapter, asked, opened) for adapter in adapters]
    renewed = {name for changes in each[len(each) - new :] for name in changes}
    together = {name: [change for changes in each for change in changes.get(name, ())] for name in renewed}
    source = Adapted(asked, together, made, opened.dtype, opened.num_threads, opened.activations or "int16")
    graph, facts = trace_page(opened.family, source)
    graph.seal()
    packed = isinstance(opened.weights, PackedFile)
    where = opened.weights.path if packed else opened.path if opened.weights.format else opened.folder
    notes = tuple(note for adapter in adapters[-new:] if isinstance(adapter, Adapter) for note in adapter.notes)
    return Built(opened.family, graph, facts, where, opened.files, report, notes, (), opened.num_threads)


def _changes(adapter: Adapter | GgufAdapter, asked: Asked, opened: Opened) -> dict[str, list[Change]]:
    """What an adapter does to each tensor, by the names the page asks for."""
    if isinstance(adapter, GgufAdapter):
        changes = _gguf_changes(adapter, asked, opened)
    else:
        changes = {}
        find = _finder(asked, opened)
        for name, whole in adapter.whole.items():
            target = find(name, whole.where)
            _put(changes, target, asked.changed(target, whole, converted=False))
        for name, low in adapter.low.items():  # behind a tensor that takes the whole place
            target = find(name, low.where)
            _put(changes, target, asked.changed(target, low, converted=False))
        if adapter.tied:
            for name, others in asked.others.items():
                twin = next((other for other in others if other in changes), None)
                if name not in changes and twin is not None:
                    changes[name] = changes[twin]
                elif name in changes:
                    for other in others:
                        if other in asked.tensors:
                            changes.setdefault(other, changes[name])
    return changes


def _put(changes: dict[str, list[Change]], name: str, change: Change) -> None:
    several = changes.setdefault(name, [])
    if any(type(before) is type(change) for before in several):
        raise WeightFileError(f"{change.where} and {several[0].where}: both change {name!r}")
    several.append(change)


def _finder(asked: Asked, opened: Opened) -> Callable[[str, str], str]:
    """What finds the tensor that an adapter means, whose names may begin a level above the model's, or below.

    A class with a head on top has the model under a name of its own, ``model.`` or ``bert.``.
    """
    short: dict[str, list[str]] = {}
    for name in asked.tensors:
        short.setdefault(name.partition(".")[2], []).append(name)

    def find(name: str, where: str) -> str:
        if name in asked.tensors:
            return name
        found = short.get(name, [])
        inner = name.partition(".")[2]
        if inner in asked.tensors:
            found = [*found, inner]
        if len(found) != 1:
            few = ", ".join(map(repr, found[:5]))
            what = f"which of {few} is meant" if found else f"the model has no tensor {name!r}"
            raise WeightFileError(f"{where}: {what}: {opened.path} (head={asked.source.head!r})")
        return found[0]

    return find


# ---- GGUF -----------------------------------------------------------------------------------------------------------


def _gguf_changes(adapter: GgufAdapter, asked: Asked, opened: Opened) -> dict[str, list[Change]]:
    file, found = adapter.file, adapter.architecture
    if isinstance(opened.weights, GgufWeights):
        expected = str(opened.weights.file.fields["general.architecture"])
        place: Callable[[str], Converted] = opened.weights.place
    else:
        model_type = opened.config.model_type()
        base = _SAME_ARCHITECTURE.get(model_type, model_type)
        known = (name for name in ARCHITECTURES if architecture_of(name).model_type == base)
        expected = next(known, f"none ({base!r})")
        place = partial(_would_be_at, found, opened)
    if found != expected:
        raise WeightFileError(
            f"{file.path}: general.architecture is {found[:100]!r}, but that of the model {opened.path} is {expected}"
        )
    places: dict[str, list[tuple[str, Converted]]] = {}
    for name in asked.tensors:
        where = place(name)
        places.setdefault(where.name, []).append((name, where))
    changes: dict[str, list[Change]] = {}
    for stem in (*adapter.whole, *adapter.low):
        if stem not in places:
            raise WeightFileError(
                f"{file.path}: tensor {stem[:200]!r} is changed, but the model {opened.path} has none of that name"
            )
        for name, where in places[stem]:
            one = _whole(file, stem, where) if stem in adapter.whole else _pair(adapter, stem, where)
            _put(changes, name, asked.changed(name, one, converted=True))
    return changes


def _would_be_at(architecture: str, opened: Opened, name: str) -> Converted:
    return converted(architecture, name, opened.config)


def _whole(file: Any, stem: str, where: Converted) -> Whole:
    view = GgufWeights(file, {stem: where}, str)
    return Whole(f"{file.path}: tensor {stem!r}", finite(view, stem))


def _pair(adapter: GgufAdapter, stem: str, where: Converted) -> LowRank:
    """The halves for a tensor that is ``where``: rows of the second one are turned as its own are."""
    file, names = adapter.file, (f"{stem}.lora_a", f"{stem}.lora_b")
    view = GgufWeights(file, {"a": Converted(names[0]), "b": where._replace(name=names[1])}, str)
    text = f"{file.path}: tensors {names[0][:200]!r} and {names[1][:200]!r}"
    a, b = finite(view, "a"), finite(view, "b")
    if a.ndim == 1:  # files leave out a first dimension of 1
        a = a[None]
    if stem == "token_embd.weight" and a.ndim == b.ndim == 2:  # (words, r) and (columns, r)
        a, b = np.ascontiguousarray(b.T), a
    rank = check_pair(text, a, b)
    return LowRank(text, a, b, adapter.alpha / rank if adapter.alpha else 1.0)
