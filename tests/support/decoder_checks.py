# SPDX-License-Identifier: MIT
"""What tests of decoders on small folders have in common, whoever makes the folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_decoders

import fastattn as fa

Array = np.ndarray[Any, Any]
Folders = Callable[[str], Path]
Load = Callable[[str], Any]

NEAR_TIE = 1e-4  # of the largest logit: the two likeliest tokens may change places below it


def variant_fixtures(maker: Any) -> tuple[Any, Any]:
    """Two fixtures of a module: the folder of a variant of ``maker``, and its model in float32, each made once."""

    @pytest.fixture(scope="module")
    def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
        written: dict[str, Path] = {}

        def folder(name: str) -> Path:
            if name not in written:
                written[name] = maker.variant(tmp_path_factory.mktemp("variant"), name)
            return written[name]

        return folder

    @pytest.fixture(scope="module")
    def load(folders: Folders) -> Load:
        models: dict[str, Any] = {}

        def model(name: str) -> Any:
            if name not in models:
                models[name] = fa.load(folders(name), dtype="float32")
            return models[name]

        return model

    return folders, load


def assert_near(got: Array, exact: Array, bound: float = 1e-5) -> None:
    """Every error at most ``bound`` of the largest number."""
    assert got.shape == exact.shape
    assert np.abs(got - exact).max(initial=0) <= bound * np.abs(exact).max(initial=0)


def assert_greedy(got: Sequence[int], expected: Sequence[int], logits: Array) -> None:
    """The same tokens, up to a step whose two likeliest are nearly tied."""
    for step, (mine, other) in enumerate(zip(got, expected, strict=True)):
        if mine != other:
            gap = logits[step, other] - logits[step, mine]
            print(f"step {step}: {mine} for {other}, which is {gap:.2e} likelier")
            assert 0 <= gap <= NEAR_TIE * np.abs(logits[step]).max()
            return


def logits_of(model: Any, vocab_size: int = 101) -> bytes:
    """Of rows of all kinds of masks."""
    ids, mask = tiny_decoders.batch({"vocab_size": vocab_size})
    return bytes(model(ids, mask).logits.tobytes())


def assert_one_model(file: Path, folder: Path, packed: Path) -> None:
    """A GGUF file gives the bits of the folder it was made of: as stored, packed into ``packed``, converted; so do its
    answers."""
    model, other = fa.load(file), fa.load(folder)
    expected = logits_of(other)
    assert logits_of(model) == expected
    again = fa.load(fa.pack(file, packed))
    assert logits_of(again) == expected
    assert model.notes == again.notes == []
    answers = [one.generate([3, 5, 8], max_new_tokens=8)[0].token_ids for one in (model, again, other)]
    assert answers[0] == answers[1] == answers[2]
    for dtype in ("float32", "int8"):
        assert logits_of(fa.load(file, dtype)) == logits_of(fa.load(folder, dtype))
