# SPDX-License-Identifier: MIT
"""``fastattn bench model``: an encoder from token ids to hidden states, each library in a process of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from fastattn.text import load
from fastattn.typing import WeightType

from .child import Child, ChildError, convert
from .compare import compare_processes
from .determinism import check_call
from .peaks import Limits
from .shapes import ModelCase
from .timing import Plan

__all__ = ["SAMPLE_SECONDS", "Field", "check_determinism", "lowest_cosine", "make_batch", "model_flops", "shape_text"]

_TOLERANCE = 2e-3  # hidden states are of size 1 and have been through all layers; wrong positions are off by far more
_SPECIAL = 5
SAMPLE_SECONDS = 2e-2
"""Of a sample of short calls: a service calls its model again and again, and after a single call of each of several
libraries every one would find the caches full of another's weights."""
_LEAST_COSINE = 0.25  # coarse weights turn hidden states a little, wrong ones at random


def shape_text(case: ModelCase) -> str:
    """As a row of the table shows it.

    >>> shape_text(ModelCase("two", (3, 5)))
    'B2 S5, 8 tokens'
    """
    return f"B{len(case.lengths)} S{max(case.lengths)}, {sum(case.lengths)} tokens"


def make_batch(case: ModelCase, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and attention mask (B, S), int64; any ids will do, no kernel's time depends on them.

    Ids are above the first few, where families have the padding token: some count their positions without it.
    """
    lengths = np.array(case.lengths)
    mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
    ids = np.random.default_rng(0).integers(min(_SPECIAL, vocab_size - 1), vocab_size, mask.shape)
    return ids * mask, mask


_GATED = ("modernbert", "nomic_bert", "gte", "new")
_SIZES = (
    ("num_hidden_layers", "n_layers", "n_layer"),
    ("hidden_size", "dim", "n_embd"),
    ("intermediate_size", "hidden_dim", "n_inner"),
)


def model_flops(folder: Path, case: ModelCase) -> int:
    """Multiply-adds, as two operations each, of the linear layers and of attention's two products, for the tokens that
    are there. What a family adds to attention (DeBERTa's products with positions) is not counted, and windows lessen
    nothing.

    Raises:
        ValueError: config.json lacks one of the sizes.
    """
    config = json.loads((folder / "config.json").read_text("utf-8"))
    sizes = []
    for names in _SIZES:
        found = next((config[name] for name in names if name in config), None)
        if found is None:
            raise ValueError(f"{folder / 'config.json'}: no {names[0]!r}")
        sizes.append(int(found))
    layers, h, wide = sizes
    matrices = 3 if config.get("model_type") in _GATED else 2
    return layers * sum(2 * s * (4 * h * h + matrices * h * wide) + 4 * s * s * h for s in case.lengths)


def lowest_cosine(hidden: np.ndarray, expected: np.ndarray, mask: np.ndarray) -> float:
    """The least similar pair of token vectors (B, S, H) among those the mask (B, S) leaves.

    >>> lowest_cosine(np.ones((1, 2, 3)), np.array([[[2.0, 2, 2], [1, -1, 0]]]), np.array([[1, 1]]))
    0.0
    """
    a, b = (x[mask == 1].astype(np.float64) for x in (hidden, expected))
    sizes = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return float(((a * b).sum(axis=1) / np.maximum(sizes, np.finfo(np.float64).tiny)).min())


class Field:
    """Ours and the peers, each loaded in its process. A peer that fails is in ``failed``, with why, and left out.

    With another ``dtype`` than float32, one more process of ours with float32 weights says what is right.

    Raises:
        ChildError: ours fails.
    """

    def __init__(
        self, folder: Path, peers: Sequence[str], num_threads: int, dtype: str = "float32", cpu_time: bool = False
    ) -> None:
        self.folder = folder
        self.num_threads = num_threads
        self.failed: dict[str, str] = {}
        self._dtype = dtype
        self._clock = time.process_time if cpu_time else time.perf_counter
        self.peers = list(peers)
        self.children: dict[str, Child] = {}
        with ExitStack() as stack:
            if dtype != "float32":
                self._judge = stack.enter_context(Child("fastattn", folder, num_threads))
            for name in ("fastattn", *peers):
                try:
                    converted = convert(name, folder, dtype)
                    source = folder if converted is None else Path(stack.enter_context(converted))
                    child = Child(name, source, num_threads, dtype, cpu_time)
                    self.children[name] = stack.enter_context(child)
                except ChildError as error:
                    self._note(error)
            self._stack = stack.pop_all()

    def __enter__(self) -> Field:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def vocab_size(self) -> int:
        """Ids are below it."""
        return int(json.loads((self.folder / "config.json").read_text("utf-8"))["vocab_size"])

    def versions(self) -> dict[str, str]:
        """Of the libraries that were loaded."""
        return {name: child.version for name, child in self.children.items()}

    def run(self, cases: Sequence[ModelCase], plan: Plan) -> Iterator[dict[str, Any]]:
        """Figures of each case, as they come."""
        arithmetic: Literal["fma", "int8"] = "int8" if self._dtype == "int8" else "fma"
        processes = {name: child.pid for name, child in self.children.items()}
        limits = Limits(self.num_threads, False, self._clock, arithmetic, processes)
        for case in cases:
            ids, mask = make_batch(case, self.vocab_size)
            hidden = self.children["fastattn"].prepare(ids, mask)
            expected = hidden if self._dtype == "float32" else self._judge.prepare(ids, mask)
            cosines = {"fastattn": lowest_cosine(hidden, expected, mask)}
            peers = {name: self._prepared(name, ids, mask, expected, cosines) for name in self.peers}
            row = {"name": case.name, "shape": shape_text(case), **self._figures(case, peers, limits, plan)}
            yield row if self._dtype == "float32" else {**row, "lowest_cosine": cosines}

    def _figures(
        self, case: ModelCase, peers: dict[str, Callable[[int], float] | str], limits: Limits, plan: Plan
    ) -> dict[str, Any]:
        flops = model_flops(self.folder, case)
        return compare_processes(self.children["fastattn"].run, peers, limits, plan, self._note, flops=flops)

    def _note(self, error: ChildError) -> str:
        """Leaves the peer out from now on; ours cannot be."""
        if error.name == "fastattn":
            raise error
        self.failed[error.name] = str(error)
        return self.failed[error.name]

    def _prepared(
        self, name: str, ids: np.ndarray, mask: np.ndarray, expected: np.ndarray, cosines: dict[str, float]
    ) -> Callable[[int], float] | str:
        if name in self.failed:
            return self.failed[name]
        try:
            hidden = self.children[name].prepare(ids, mask)
        except ChildError as error:
            return self._note(error)
        if self._dtype == "float32":
            off = float(np.abs((hidden - expected)[mask == 1]).max())
            return self.children[name].run if off <= _TOLERANCE else f"its hidden states differ by {off:.1e}"
        cosines[name] = lowest_cosine(hidden, expected, mask)
        if cosines[name] >= _LEAST_COSINE:
            return self.children[name].run
        return f"the cosine of a token's vector with that of float32 is {cosines[name]:.2f}"

    def processes(self) -> dict[str, dict[str, float]]:
        """By name: seconds from the start of the process to a loaded model, and bytes of memory at the most."""
        return {
            name: {"load_s": child.load_seconds, "peak_rss_bytes": child.peak_memory()}
            for name, child in self.children.items()
            if name not in self.failed
        }


def check_determinism(folder: Path, cases: Sequence[ModelCase], dtype: str = "float32") -> Iterator[dict[str, Any]]:
    """Whether hidden states have the same bits over threads, instruction sets, and repeated; see check_call()."""
    model = load(folder, cast(WeightType, dtype))
    for case in cases:
        ids, mask = make_batch(case, model.vocab_size)

        def call(num_threads: int, ids: np.ndarray = ids, mask: np.ndarray = mask) -> list[np.ndarray]:
            return [model(ids, mask, num_threads=num_threads).last_hidden_state]

        yield check_call(case.name, call, model_flops(folder, case), kernels=False)
