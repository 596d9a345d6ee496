# SPDX-License-Identifier: MIT
"""``fastattn bench model``: an encoder from token ids to hidden states, each library in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from fastattn import models

from .child import Child, ChildError, convert
from .compare import compare
from .determinism import check_call
from .peaks import Limits
from .shapes import ModelCase
from .timing import Plan

__all__ = ["Field", "check_determinism", "make_batch", "model_flops", "shape_text"]

_TOLERANCE = 2e-3  # hidden states are of size 1 and have been through all layers; wrong positions are off by far more


def shape_text(case: ModelCase) -> str:
    """As a row of the table shows it.

    >>> shape_text(ModelCase("two", (3, 5)))
    'B2 S5, 8 tokens'
    """
    return f"B{len(case.lengths)} S{max(case.lengths)}, {sum(case.lengths)} tokens"


def make_batch(case: ModelCase, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and attention mask (B, S), int64; any ids will do, no kernel's time depends on them."""
    lengths = np.array(case.lengths)
    mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
    ids = np.random.default_rng(0).integers(0, vocab_size, mask.shape)
    return ids * mask, mask


def model_flops(folder: Path, case: ModelCase) -> int:
    """Multiply-adds, as two operations each, of the linear layers and of attention, for the tokens that are there.

    Raises:
        ValueError: config.json lacks one of the sizes.
    """
    config = json.loads((folder / "config.json").read_text("utf-8"))
    try:
        layers, h, wide = (int(config[key]) for key in ("num_hidden_layers", "hidden_size", "intermediate_size"))
    except KeyError as error:
        raise ValueError(f"{folder / 'config.json'}: no {error}") from None
    return layers * sum(2 * s * (4 * h * h + 2 * h * wide) + 4 * s * s * h for s in case.lengths)


class Field:
    """Ours and the peers, each loaded in its process. A peer that fails is in ``failed``, with why, and left out.

    Raises:
        ChildError: ours fails.
    """

    def __init__(self, folder: Path, peers: Sequence[str], num_threads: int) -> None:
        self.folder = folder
        self.num_threads = num_threads
        self.failed: dict[str, str] = {}
        self._peers = list(peers)
        self._children: dict[str, Child] = {}
        self._stack = ExitStack()
        for name in ("fastattn", *peers):
            try:
                converted = convert(name, folder)
                source = folder if converted is None else Path(self._stack.enter_context(converted))
                self._children[name] = self._stack.enter_context(Child(name, source, num_threads))
            except ChildError as error:
                self._note(error)

    def __enter__(self) -> Field:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def versions(self) -> dict[str, str]:
        """Of the libraries that were loaded."""
        return {name: child.version for name, child in self._children.items()}

    def run(self, cases: Sequence[ModelCase], plan: Plan) -> Iterator[dict[str, Any]]:
        """Figures of each case, as they come."""
        limits = Limits(self.num_threads, read=False)
        vocab_size = int(json.loads((self.folder / "config.json").read_text("utf-8"))["vocab_size"])
        for case in cases:
            ids, mask = make_batch(case, vocab_size)
            expected = self._children["fastattn"].prepare(ids, mask)
            peers = {name: self._prepared(name, ids, mask, expected) for name in self._peers}
            yield {"name": case.name, "shape": shape_text(case), **self._figures(case, peers, limits, plan)}

    def _figures(
        self, case: ModelCase, peers: dict[str, Callable[[int], float] | str], limits: Limits, plan: Plan
    ) -> dict[str, Any]:
        """compare(); once more without a peer that dies on the way."""
        flops = model_flops(self.folder, case)
        while True:
            try:
                return compare(self._children["fastattn"].run, peers, limits, plan, flops=flops)
            except ChildError as error:
                peers = {**peers, error.name: self._note(error)}

    def _note(self, error: ChildError) -> str:
        """Leaves the peer out from now on; ours cannot be."""
        if error.name == "fastattn":
            raise error
        self.failed[error.name] = str(error)
        return self.failed[error.name]

    def _prepared(
        self, name: str, ids: np.ndarray, mask: np.ndarray, expected: np.ndarray
    ) -> Callable[[int], float] | str:
        if name in self.failed:
            return self.failed[name]
        try:
            hidden = self._children[name].prepare(ids, mask)
        except ChildError as error:
            return self._note(error)
        off = float(np.abs((hidden - expected)[mask == 1]).max())
        return self._children[name].run if off <= _TOLERANCE else f"its hidden states differ by {off:.1e}"

    def processes(self) -> dict[str, dict[str, float]]:
        """By name: seconds from the start of the process to a loaded model, and bytes of memory at the most."""
        return {
            name: {"load_s": child.load_seconds, "peak_rss_bytes": child.peak_memory()}
            for name, child in self._children.items()
            if name not in self.failed
        }


def check_determinism(folder: Path, cases: Sequence[ModelCase]) -> Iterator[dict[str, Any]]:
    """Whether hidden states have the same bits over threads, instruction sets, and repeated; see check_call()."""
    model = models.load(folder)
    for case in cases:
        ids, mask = make_batch(case, model.vocab_size)

        def call(num_threads: int, ids: np.ndarray = ids, mask: np.ndarray = mask) -> list[np.ndarray]:
            return [model(ids, mask, num_threads=num_threads).last_hidden_state]

        yield check_call(case.name, call, model_flops(folder, case), kernels=False)
