# SPDX-License-Identifier: MIT
"""The NumPy decoders, which other tests go by, are transformers' to the last digits of double precision.

Run with ``pytest -m parity`` where torch and transformers are installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import numpy_decoders, tiny_decoders, tiny_dense_a

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
exact_torch = pytest.importorskip("support.exact_torch")
one_thread = exact_torch.one_thread
pytestmark = pytest.mark.parity

Array = np.ndarray[Any, Any]


def alone(theirs: Any, ids: Array, mask: Array) -> Array:
    """Logits of each row by itself, up to its last token: some rotary positions go by the length of the batch."""
    result = np.zeros((*ids.shape, theirs.config.vocab_size))
    for row, (tokens, kept) in enumerate(zip(ids, mask, strict=True)):
        end = int(np.flatnonzero(kept)[-1]) + 1
        with torch.no_grad():
            out = theirs(torch.tensor(tokens[None, :end]), attention_mask=torch.tensor(kept[None, :end]))
        result[row, :end] = out.logits[0].numpy()
    return result


def assert_the_same(got: Array, theirs: Array, mask: Array) -> None:
    seen = mask == 1
    assert not got[~seen].any()
    assert np.abs(got - theirs)[seen].max() <= 1e-10 * np.abs(theirs[seen]).max()


@pytest.mark.parametrize("name", tiny_decoders.VARIANTS)
def test_logits(tmp_path: Path, name: str) -> None:
    family = tiny_decoders.VARIANTS[name][0]
    c, weights = numpy_decoders.load(tiny_decoders.variant(tmp_path, name))
    with exact_torch.double_throughout(family):
        theirs = exact_torch.load_double(tmp_path, family)
        for columns in (23, 1):
            ids, mask = tiny_decoders.batch(c, columns)
            expected = alone(theirs, ids, mask)
            assert_the_same(numpy_decoders.logits(c, weights, ids, mask), expected, mask)
            if "longrope" not in name:
                with torch.no_grad():
                    together = theirs(torch.tensor(ids), attention_mask=torch.tensor(mask)).logits.numpy()
                assert_the_same(numpy_decoders.logits(c, weights, ids, mask), together, mask)


@pytest.mark.parametrize("name", tiny_decoders.VARIANTS)
def test_greedy_tokens(tmp_path: Path, name: str) -> None:
    family = tiny_decoders.VARIANTS[name][0]
    c, weights = numpy_decoders.load(tiny_decoders.variant(tmp_path, name))
    prompt = tiny_decoders.batch(c)[0][0, :9]
    tokens, _ = numpy_decoders.greedy(c, weights, prompt.tolist(), 12)
    with exact_torch.double_throughout(family), torch.no_grad():
        theirs = exact_torch.load_double(tmp_path, family)
        theirs.generation_config.eos_token_id = None
        ids = torch.tensor(prompt[None])
        # its cache of a window of one token keeps them all
        cached = numpy_decoders.window(c, 0) != 1
        got = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, use_cache=cached
        )
    assert got[0, 9:].tolist() == tokens


FOLDERS = ("llama", "qwen2, tied", "phi3, half of a head turns", "smollm3", "granite, biases", *tiny_dense_a.BASE)


@pytest.mark.parametrize("name", FOLDERS)
def test_the_folders_are_those_that_transformers_writes(tmp_path: Path, name: str) -> None:
    """The same tensors, and a configuration that it takes without another default in its place."""
    c, weights = numpy_decoders.load(tiny_decoders.variant(tmp_path / "ours", name))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32)
    theirs.save_pretrained(tmp_path / "theirs")
    again, others = numpy_decoders.load(tmp_path / "theirs")
    assert {key: array.shape for key, array in others.items()} == {key: array.shape for key, array in weights.items()}
    assert all(np.array_equal(others[key], weights[key]) for key in weights)
    ids, mask = tiny_decoders.batch(c)
    assert np.array_equal(numpy_decoders.logits(again, others, ids, mask), numpy_decoders.logits(c, weights, ids, mask))
