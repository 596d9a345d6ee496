# SPDX-License-Identifier: MIT
"""Heads of labels of decoders with layer norms beside transformers, which calls their layers otherwise here and there.

Run with ``pytest -m parity`` where torch and transformers are installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_decoders, tiny_dense_a, tiny_models

import fastattn as fa

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

KINDS = {"sequence_classification": "ForSequenceClassification", "token_classification": "ForTokenClassification"}
HEADS = [
    (family, head) for family in tiny_dense_a.BASE for head, name in KINDS.items()
    if hasattr(transformers, tiny_decoders.CLASSES[family] + name)
]  # fmt: skip


@pytest.mark.parametrize(("family", "head"), HEADS)
def test_labels(tmp_path: Path, family: str, head: str) -> None:
    tiny_models.make(family, head).save(tmp_path)
    kind = getattr(transformers, tiny_decoders.CLASSES[family] + KINDS[head])
    theirs, info = kind.from_pretrained(tmp_path, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    ids = np.maximum(tiny_decoders.batch({"vocab_size": 101})[0], 1)
    ids[1, 9:] = 0  # which is the id of padding
    mask = (ids != 0).astype(np.int64)
    with torch.no_grad():
        expected = theirs.eval()(torch.tensor(ids), attention_mask=torch.tensor(mask)).logits.numpy()
    model: Any = fa.load(tmp_path, dtype="float32")
    assert model.head_name == head and model.notes == []
    got = model(ids, mask).logits
    seen = mask == 1 if head == "token_classification" else np.ones(len(ids), bool)
    assert np.abs(got - expected)[seen].max() < 2e-5 * np.abs(expected[seen]).max()
