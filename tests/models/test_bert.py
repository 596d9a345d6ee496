# SPDX-License-Identifier: MIT
"""BERT on small folders: golden values, what may be passed in, equal bits however tokens are batched."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_bert

import fastattn as fa
from fastattn.engine.encoder import Encoder, _groups

GOLDEN = json.loads((Path(tiny_bert.__file__).parent / "tiny_bert.json").read_text())


@pytest.fixture(scope="module")
def get(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Encoder]:
    """The tiny model of a name, built once."""
    models: dict[str, Encoder] = {}

    def model(name: str) -> Encoder:
        if name not in models:
            models[name] = fa.load(tiny_bert.save_folder(tmp_path_factory.mktemp(name), name))
        return models[name]

    return model


@pytest.fixture
def plain(get: Callable[[str], Encoder]) -> Encoder:
    return get("plain")


@pytest.mark.parametrize("name", tiny_bert.CONFIGS)
def test_golden(get: Callable[[str], Encoder], name: str) -> None:
    """Double precision transformers, elements chosen over whole, padded and holed rows."""
    expected = GOLDEN[name]
    ids, mask, types = tiny_bert.batch(name)
    out = get(name)(ids, mask, types)
    assert out.last_hidden_state.dtype == out.pooler_output.dtype == np.float32
    assert out.last_hidden_state.shape == (*ids.shape, tiny_bert.config(name)["hidden_size"])
    hidden = out.last_hidden_state.ravel()[expected["hidden_index"]]
    assert np.abs(hidden - np.array(expected["hidden"])).max() <= 2e-5
    pooled = out.pooler_output[expected["pooled_rows"], :6].ravel()
    assert np.abs(pooled - np.array(expected["pooled"])).max() <= 2e-5
    assert not out.last_hidden_state[mask == 0].any()
    assert not out.pooler_output[[2, 4]].any()


@pytest.mark.parametrize("name", ["plain", "heads_of_5", "heads_of_24", "wide"])
def test_a_row_has_the_same_bits_alone_and_in_any_batch(get: Callable[[str], Encoder], name: str) -> None:
    model = get(name)
    ids, mask, types = tiny_bert.batch(name)
    together = model(ids, mask, types)
    for row in range(len(ids)):
        one = model(ids[row : row + 1], mask[row : row + 1], types[row : row + 1])
        assert one.last_hidden_state.tobytes() == together.last_hidden_state[row].tobytes()
        assert one.pooler_output.tobytes() == together.pooler_output[row].tobytes()
    for row, length in ((0, 19), (1, 11)):  # the same without any padding and mask
        bare = model(ids[row : row + 1, :length], None, types[row : row + 1, :length])
        assert bare.last_hidden_state.tobytes() == together.last_hidden_state[row, :length].tobytes()
        assert bare.pooler_output.tobytes() == together.pooler_output[row].tobytes()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_thread_count_changes_no_bit(get: Callable[[str], Encoder], threads: int) -> None:
    model = get("wide")
    ids, mask, types = (np.tile(a, (9, 1)) for a in tiny_bert.batch("wide"))
    one = model(ids, mask, types, num_threads=1)
    some = model(ids, mask, types, num_threads=threads)
    assert some.last_hidden_state.tobytes() == one.last_hidden_state.tobytes()
    assert some.pooler_output.tobytes() == one.pooler_output.tobytes()


@pytest.mark.parametrize("budget", [1, 7, 19, 20, 40, 10**6])
def test_group_size_changes_no_bit(get: Callable[[str], Encoder], monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    model = get("heads_of_5")
    ids, mask, types = tiny_bert.batch("heads_of_5")
    masked, dense = model(ids, mask, types), model(ids, None, types)
    monkeypatch.setattr(Encoder, "GROUP_TOKENS", budget)
    assert model(ids, mask, types).last_hidden_state.tobytes() == masked.last_hidden_state.tobytes()
    assert model(ids, None, types).last_hidden_state.tobytes() == dense.last_hidden_state.tobytes()


def test_groups() -> None:
    def groups(lengths: list[int], tokens: int, most: int | None = None) -> list[tuple[int, int]]:
        return list(_groups(np.concatenate([[0], np.cumsum(np.array(lengths, np.int64))]), tokens, most))

    assert groups([], 10) == []
    assert groups([3, 3, 4, 1], 10) == [(0, 3), (3, 4)]
    assert groups([30, 3, 40, 1], 10) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert groups([1, 1, 1, 1, 1], 10, 2) == [(0, 2), (2, 4), (4, 5)]
    assert groups([5, 5, 5, 5], 10, 3) == [(0, 2), (2, 4)]


def test_what_stands_in_excluded_places_does_not_matter(plain: Encoder) -> None:
    ids, mask, types = tiny_bert.batch("plain")
    expected = plain(ids, mask, types)
    ids[mask == 0] = -(2**40)
    types[mask == 0] = 99
    got = plain(ids, mask, types)
    assert got.last_hidden_state.tobytes() == expected.last_hidden_state.tobytes()
    assert got.pooler_output.tobytes() == expected.pooler_output.tobytes()


def test_input_types(plain: Encoder) -> None:
    ids, mask, types = tiny_bert.batch("plain")
    expected = plain(ids, mask, types).last_hidden_state.tobytes()
    for kind in (np.int8, np.uint8, np.int32, np.uint64, ">i4"):
        assert plain(ids.astype(kind), mask.astype(kind), types.astype(kind)).last_hidden_state.tobytes() == expected
    assert plain(ids.tolist(), mask.astype(bool).tolist(), types.tolist()).last_hidden_state.tobytes() == expected
    assert plain(np.asfortranarray(ids), mask.astype(bool), types).last_hidden_state.tobytes() == expected
    padded = np.zeros((5, 38), np.int64)
    padded[:, ::2] = ids
    assert plain(padded[:, ::2], mask, types).last_hidden_state.tobytes() == expected


def test_defaults(plain: Encoder) -> None:
    ids, mask, types = tiny_bert.batch("plain")
    full = plain(ids, np.ones_like(ids), np.zeros_like(ids))
    bare = plain(ids)
    assert bare.last_hidden_state.tobytes() == full.last_hidden_state.tobytes()
    assert bare.pooler_output.tobytes() == full.pooler_output.tobytes()
    assert bare.last_hidden_state.tobytes() != plain(ids, None, types).last_hidden_state.tobytes()
    hidden, pooled = bare
    assert hidden is bare.last_hidden_state and pooled is bare.pooler_output


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (3, 0)])
def test_empty_batches(plain: Encoder, shape: tuple[int, int]) -> None:
    for mask in (None, np.zeros(shape, bool)):
        out = plain(np.zeros(shape, np.int64), mask)
        assert out.last_hidden_state.shape == (*shape, 32)
        assert out.pooler_output.shape == (shape[0], 32) and not out.pooler_output.any()
    assert plain([[]]).last_hidden_state.shape == (1, 0, 32)


def test_rows_without_any_token(plain: Encoder) -> None:
    ids, mask, types = tiny_bert.batch("plain")
    expected = plain(ids, mask, types)
    mask = np.insert(mask, [0, 2, 2, 5], 0, axis=0)
    out = plain(np.insert(ids, [0, 2, 2, 5], 0, axis=0), mask, np.insert(types, [0, 2, 2, 5], 0, axis=0))
    there = mask.any(axis=1)
    assert there.sum() == 5
    assert out.last_hidden_state[there].tobytes() == expected.last_hidden_state.tobytes()
    assert out.pooler_output[there].tobytes() == expected.pooler_output.tobytes()
    assert not out.last_hidden_state[~there].any() and not out.pooler_output[~there].any()
    nothing = plain(ids, np.zeros_like(ids))
    assert not nothing.last_hidden_state.any() and not nothing.pooler_output.any()


def test_every_position_can_be_used(plain: Encoder) -> None:
    ids = tiny_bert.integers("all positions", (1, 40), 50)
    assert np.isfinite(plain(ids).last_hidden_state).all()
    with pytest.raises(ValueError, match="input_ids: 41 columns, but the model has 40 positions"):
        plain(np.zeros((1, 41), np.int64))


BAD = [
    (lambda m: m([1, 2]), ValueError, r"input_ids: got shape \(2,\), expected \(batch, sequence\)"),
    (lambda m: m(3), ValueError, r"input_ids: got shape \(\)"),
    (lambda m: m(np.zeros((1, 2, 3), np.int64)), ValueError, "input_ids: got shape"),
    (lambda m: m([[1.0, 2.0]]), TypeError, "input_ids: got dtype float64, expected integers"),
    (lambda m: m([[True, False]]), TypeError, "input_ids: got dtype bool"),
    (lambda m: m([["a"]]), TypeError, "input_ids: got dtype"),
    (lambda m: m([[None]]), TypeError, "input_ids: got dtype object"),
    (lambda m: m(None), TypeError, "input_ids: got dtype object"),
    (lambda m: m([[1, 2], [3]]), ValueError, "input_ids: rows of different lengths"),
    (lambda m: m([[1, 50]]), ValueError, "input_ids: got 50, expected 0 to 49"),
    (lambda m: m([[1, -1]]), ValueError, "input_ids: got -1, expected 0 to 49"),
    (lambda m: m(np.array([[2**63]], np.uint64)), ValueError, "input_ids: got 9223372036854775808"),
    (lambda m: m([[2**70]]), TypeError, "input_ids: got dtype object"),
    (lambda m: m([[1, 2]], [1, 1]), ValueError, r"attention_mask: got shape \(2,\), expected that of input_ids"),
    (lambda m: m([[1, 2]], [[1]]), ValueError, "attention_mask: got shape"),
    (lambda m: m([[1, 2]], [[[[0, 0]]]]), ValueError, "attention_mask: got shape"),
    (lambda m: m([[1, 2]], [[1.0, 0.0]]), TypeError, "attention_mask: got dtype float64"),
    (lambda m: m([[1, 2]], [[0, 2]]), ValueError, "attention_mask: holds 0 to 2"),
    (lambda m: m([[1, 2]], [[0, -1]]), ValueError, "attention_mask: holds -1 to 0"),
    (lambda m: m([[1, 2]], [[1], [1, 0]]), ValueError, "attention_mask: rows of different lengths"),
    (lambda m: m([[1, 2]], None, [[0]]), ValueError, "token_type_ids: got shape"),
    (lambda m: m([[1, 2]], None, [[0, 2]]), ValueError, "token_type_ids: got 2, expected 0 to 1"),
    (lambda m: m([[1, 2]], None, [[0, 0.5]]), TypeError, "token_type_ids: got dtype float64"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input(plain: Encoder, call: Callable[[Encoder], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(plain)
    assert np.isfinite(plain([[1, 2]]).last_hidden_state).all()  # and the model is none the worse for it


def test_many_threads_at_once(get: Callable[[str], Encoder]) -> None:
    model = get("heads_of_24")
    ids, mask, types = tiny_bert.batch("heads_of_24")
    batches = [(ids[: n + 1], mask[: n + 1], types[: n + 1]) for n in range(5)]
    expected = [model(*batch).last_hidden_state.tobytes() for batch in batches]
    wrong: list[int] = []

    def work(seed: int) -> None:
        order = np.random.default_rng(seed).integers(0, 5, 40)
        wrong.extend(n for n in order if model(*batches[n]).last_hidden_state.tobytes() != expected[n])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(model._blocks) <= 2


def test_repr(plain: Encoder) -> None:
    assert "2 layers, 32 wide, 4 heads" in repr(plain)
