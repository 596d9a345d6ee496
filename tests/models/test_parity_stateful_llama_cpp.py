# SPDX-License-Identifier: MIT
"""GGUF files of decoders with states as llama.cpp reads them: its logits, with caches in F32.

Run with ``pytest -m parity`` where llama_cpp is installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_states
from support import gguf_models, gguf_states

import fastattn as fa

llama_cpp = pytest.importorskip("llama_cpp")
pytestmark = pytest.mark.parity

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "lfm2": ("lfm2", {}),
    "lfm2, attention in the first layer": ("lfm2", {"layer_types": ["full_attention", "conv", "conv"]}),
    "mamba2": ("mamba2", {"hidden_size": 64, "num_heads": 8, "head_dim": 16, "state_size": 16}),
    "mamba2, one group, tied": (
        "mamba2", {"hidden_size": 32, "num_heads": 4, "head_dim": 16, "state_size": 32, "n_groups": 1,
                   "tie_word_embeddings": True},
    ),
    "qwen3_next": (
        "qwen3_next", {"hidden_size": 64, "linear_key_head_dim": 32, "linear_value_head_dim": 32, "head_dim": 32},
    ),
    "qwen3_next, as many heads of keys": (
        "qwen3_next", {"hidden_size": 64, "linear_key_head_dim": 16, "linear_value_head_dim": 16, "head_dim": 32,
                       "linear_num_key_heads": 4, "partial_rotary_factor": 0.5},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_logits(tmp_path: Path, name: str) -> None:
    family, sizes = VARIANTS[name]
    fields = gguf_models.plain_tokenizer(112)
    fields["tokenizer.ggml.tokens"][:3] = "t", "0", "t0"
    path = gguf_states.make(tmp_path / "m.gguf", family, dtype="float32", more=fields, **{"vocab_size": 112, **sizes})
    ids = tiny_states.batch({"vocab_size": 112})[0][0]
    theirs = llama_cpp.Llama(str(path), n_ctx=64, n_threads=1, logits_all=True, verbose=False, type_k=0, type_v=0)
    theirs.eval(ids.tolist())
    expected = np.array(theirs.scores[: len(ids)], np.float32)
    got = fa.load(path, "float32")(ids[None]).logits[0]
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()
