# SPDX-License-Identifier: MIT
"""Decoders with states against transformers, and the NumPy oracle that other tests go by against it in double.

transformers takes the states of Qwen3-Next through float32 in every precision, and in chunks: there the oracle, which
walks token by token, is held against it as float32. Run with ``pytest -m parity`` where torch and transformers are
installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import numpy_states, tiny_states

import fastattn as fa

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
exact_torch = pytest.importorskip("support.exact_torch")
one_thread = exact_torch.one_thread
pytestmark = pytest.mark.parity

Array = np.ndarray[Any, Any]

TAKEN = [name for name in tiny_states.VARIANTS if "nothing rounds" not in name]
"""Those whose configuration this version takes."""


def rows_of(theirs: Any, ids: Array) -> Array:
    with torch.no_grad():
        found: Array = theirs(torch.tensor(ids), use_cache=False).logits.double().numpy()
    return found


def exactly(folder: Path, family: str, ids: Array) -> Array:
    """Logits in double precision as far as transformers goes."""
    config = transformers.AutoConfig.from_pretrained(folder)
    with exact_torch.double_throughout(family):
        model = getattr(transformers, tiny_states.CLASSES[family] + "ForCausalLM")
        theirs = model.from_pretrained(folder, config=config, dtype=torch.float64, experts_implementation="eager")
        theirs.double().eval()
        return rows_of(theirs, ids)


@pytest.mark.parametrize("name", TAKEN)
def test_logits(tmp_path: Path, name: str) -> None:
    """Ours no further from double precision than twice their own float32, and 1e-5 of the largest logit."""
    family = tiny_states.VARIANTS[name][0]
    c, weights = numpy_states.load(tiny_states.variant(tmp_path, name))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ours = fa.load(tmp_path, "float32")
    for columns in (23, 3, 1):
        ids = tiny_states.batch(c, columns)[0]
        exact = numpy_states.logits(c, weights, ids)
        largest = np.abs(exact).max()
        single = np.abs(rows_of(theirs, ids) - exact).max()
        assert single <= 1e-4 * largest
        assert np.abs(exactly(tmp_path, family, ids) - exact).max() <= (1e-9 if family == "lfm2" else 2e-6) * largest
        assert np.abs(ours(ids).logits - exact).max() <= max(1e-5 * largest, 2 * single)


@pytest.mark.parametrize("name", TAKEN)
def test_greedy_tokens(tmp_path: Path, name: str) -> None:
    """From prompts shorter than a convolution on, with its caches."""
    c, weights = numpy_states.load(tiny_states.variant(tmp_path, name))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    theirs.generation_config.eos_token_id = None
    ours = fa.load(tmp_path, "float32")
    # limits of time steps are forgotten in steps of one token; a model without attention does not know its length
    cached = c.get("time_step_limit", [0, 0])[0] == 0 and ("full_attention" in c.get("layer_types", ["full_attention"]))
    for length in (1, 2, 9):
        prompt = tiny_states.batch(c)[0][0, :length]
        ids = torch.tensor(prompt[None])
        with torch.no_grad():
            found = theirs.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False, use_cache=cached
            )
        got = list(ours.generate([prompt.tolist()], max_new_tokens=10, ignore_eos=True)[0].token_ids)
        if found[0, length:].tolist() != got:
            logits = numpy_states.greedy(c, weights, prompt.tolist(), 10)[1]
            at = next(i for i, token in enumerate(found[0, length:].tolist()) if token != got[i])
            gap = abs(logits[at][got[at]] - logits[at][found[0, length + at]])
            print(f"step {at}: a gap of {gap:.2e}")
            assert gap <= 1e-4 * np.abs(logits[at]).max()


@pytest.mark.parametrize("family", tiny_states.BASE)
def test_padding_on_the_right_and_on_the_left(tmp_path: Path, family: str) -> None:
    """Rows that begin late begin with zeros there, too. Holes in the middle alone differ: there a state of transformers
    goes through zeros, and ours is packed."""
    c, _ = numpy_states.load(tiny_states.make(tmp_path, family))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ids, mask = (array[:3] for array in tiny_states.batch(c))
    with torch.no_grad():
        expected = theirs(torch.tensor(ids), attention_mask=torch.tensor(mask), use_cache=False).logits.numpy()
    got = fa.load(tmp_path, "float32")(ids, mask).logits
    seen = mask == 1
    assert np.abs(got - expected)[seen].max() <= 1e-4 * np.abs(expected[seen]).max()


@pytest.mark.parametrize("family", tiny_states.BASE)
def test_the_folders_are_those_that_transformers_reads_and_writes(tmp_path: Path, family: str) -> None:
    """And what it writes, in its own spelling of the configuration, is the same model."""
    folder = tiny_states.make(tmp_path / "ours", family)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    theirs.save_pretrained(tmp_path / "theirs")
    ids, mask = tiny_states.batch(tiny_states.config(family))
    written = fa.load(tmp_path / "theirs", "float32")
    assert written(ids, mask).logits.tobytes() == fa.load(folder, "float32")(ids, mask).logits.tobytes()
    assert written.notes == []
