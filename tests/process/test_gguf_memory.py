# SPDX-License-Identifier: MIT
"""Loading a GGUF file takes the memory of the tensors as they are kept, and little besides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from golden import tiny_decoders
from support import gguf_models
from support.gguf_files import Tensor, gguf_bytes
from support.processes import output_of_function

import fastattn as fa

WORDS, WIDTH = 32768, 1024
BESIDE = 60 << 20


def status(key: str) -> int:
    """A number of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key))


def load_and_tell(path: str, size: str) -> None:
    kept = int(size)
    fa.pack_linear(np.ones((16, 16), np.float32))  # threads, and what is brought in late
    before = status("VmRSS")
    model = fa.load(path)
    grown = status("VmHWM") - before
    assert model.vocab_size == WORDS
    assert grown + (1 << 22) > kept and grown < kept + BESIDE, (grown - kept) / (1 << 20)


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "F32"])
def test_the_most_memory_while_loading(tmp_path: Path, kind: str) -> None:
    c = tiny_decoders.config(
        "llama", vocab_size=WORDS, hidden_size=WIDTH, num_attention_heads=16, num_key_value_heads=4,
        num_hidden_layers=1, intermediate_size=64, tie_word_embeddings=True,
    )  # fmt: skip
    size = {"Q4_0": 18, "Q8_0": 34, "F32": 128}[kind]
    tensors = gguf_models.tensors_of(c, tiny_decoders.tensors({**c, "vocab_size": 8}), "float16")
    tensors["token_embd.weight"] = Tensor(kind, (WORDS, WIDTH), bytes(range(1, size + 1)) * (WORDS * WIDTH // 32))
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes(gguf_models.fields_of(c), tensors))
    times = 2 if kind == "F32" else 1  # blocks are the table of words and the layer in front of the logits at once
    output_of_function(load_and_tell, str(path), str(times * WORDS * WIDTH // 32 * size))
