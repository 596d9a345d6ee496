# SPDX-License-Identifier: MIT
"""The bits of every family, head and storage type are those of ``golden/digests.json``, on every instruction set."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from golden import digest_models, digests

import fastattn as fa
from fastattn import _testing
from fastattn.graph.choice import HEADS
from fastattn.models.registry import FAMILIES
from fastattn.typing import WeightType

OTHERS = [isa for isa in _testing.isas() if isa != fa.cpu_info()["isa"]]


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return digests.read_record()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Of models that are small one by one, and not together: none is left behind."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.mark.parametrize("name", digest_models.VARIANTS)
def test_no_bit_moves(folder: Path, record: dict[str, Any], name: str) -> None:
    """Results of the checkpoint and of its packed file, and the tensors that are packed."""
    weights, found = digests.measure_variant(folder, name)
    assert not digests.disagreements(found)
    lines = digests.moved(record, found, weights)
    assert not lines, digests.explain(record, lines, fa.cpu_info()["isa"])


@pytest.mark.parametrize("isa", OTHERS)
def test_no_bit_moves_on_other_instruction_sets(folder: Path, record: dict[str, Any], isa: str) -> None:
    """Encoders alone; ``python -m tests.golden.digests --all`` runs everything."""
    lines = digests.moved(record, dict(digests.measure_few(folder, isa)))
    assert not lines, digests.explain(record, lines, isa)


def test_the_record_is_whole(record: dict[str, Any]) -> None:
    assert record["numerics_version"] == fa.build_info()["numerics_version"], "record the digests of this version"
    assert set(digests.DTYPES) == set(get_args(WeightType))
    keys = {f"{name}/{head}" for name, head in digest_models.MODELS}
    assert record["weights"].keys() == keys
    assert record["digests"].keys() == {f"{key}/{dtype}" for key in keys for dtype in digests.DTYPES}
    for found in record["digests"].values():
        assert found.keys() == {*digest_models.SHAPES, digests.PACKED}
        assert all(len(digest) == 16 and int(digest, 16) >= 0 for digest in found.values())


def test_every_family_and_head_is_there() -> None:
    families: dict[str, set[str]] = {}
    for name, head in digest_models.MODELS:
        families.setdefault(digest_models.config(name, head)["model_type"], set()).add(head)
    assert families.keys() == FAMILIES.keys()
    for family in {family for maker in digest_models.DECODERS.values() for family in maker.BASE}:
        assert families.pop(family) == {"causal_lm"}
    assert families.pop("bert") == {*HEADS} - {"causal_lm"}
    assert all(heads == {*HEADS} - {"next_sentence", "causal_lm"} for heads in families.values())


def test_inputs_are_what_their_names_say() -> None:
    """A hole is a token that the mask excludes between two that it does not."""
    for name in digest_models.VARIANTS:
        for case in digest_models.SHAPES:
            ids, mask, _ = digest_models.inputs(name, case)
            assert ids is not None and ids.shape == digest_models.SHAPES[case]
            if mask is None:
                continue
            jumps = [np.diff(np.flatnonzero(row)) for row in mask]
            assert any((jump > 1).any() for jump in jumps) is ("holes" in case)
            assert (mask == 0).any() and mask[:, 0].any()
            assert case not in ("left", "holes", "long_holes") or not mask[:, 0].all()


def test_what_moves_is_named(tmp_path: Path, record: dict[str, Any]) -> None:
    """One weight that differs by a little, a record of other results, of another version, of fewer models."""
    name, head, key = "modernbert", "none", "modernbert/none/float32"
    arrays = digest_models.save_folder(tmp_path / "model", name, head)
    found = {key: digests.measure(tmp_path / "model", name, head, "float32")}
    assert digests.moved(record, found) == []

    arrays["layers.1.attn.Wo.weight"].view(np.uint32)[3, 5] ^= 1 << 12
    digest_models.save_safetensors(tmp_path / "model" / "model.safetensors", arrays)
    other = {key: digests.measure(tmp_path / "model", name, head, "float32")}
    assert digests.moved(record, other) == [f"{key}: {', '.join((*digest_models.SHAPES, digests.PACKED))}"]

    changed = copy.deepcopy(record)
    changed["digests"][key]["long_holes"] = "0" * 16
    changed["numerics_version"] = 0
    lines = digests.moved(changed, found)
    assert lines == [f"{key}: long_holes"]
    assert "recorded of version 0, now " in digests.explain(changed, lines, "avx2")
    assert digests.moved(changed, {}, {"bert/none": "?"}) == ["bert/none: the weights"]
    assert digests.moved(record, {"bert/none/int4": {"one": "?"}}) == ["bert/none/int4: one"]


def test_names_shapes_and_types_are_digested() -> None:
    zeros = np.zeros((2, 3), np.float32)
    variants = [
        ("a", zeros), ("b", zeros), ("a", zeros.T), ("a", zeros.view(np.int32)), ("a", None), ("a", zeros[:0]),
        ("a", -zeros),
    ]  # fmt: skip
    assert len({digests.digest_arrays([variant]) for variant in variants}) == len(variants)
    assert digests.digest_arrays([("a", zeros.T)]) == digests.digest_arrays([("a", np.zeros((3, 2), np.float32))])
