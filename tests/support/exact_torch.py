# SPDX-License-Identifier: MIT
"""transformers in double precision throughout.

A model after ``.double()`` still takes its RMS norms, its eager softmax and the angles of its rotary positions through
float32, by that name in its code. Here the name means float64 while a model is made and run.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from golden.tiny_decoders import CLASSES, class_name
from golden.tiny_dense_b import exaone_name

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


OF_OTHERS = {"exaone": "Llama"}
"""Families whose classes are those of another."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """For modules that take it by name. Matrices of 48 columns: threads that wait for each other take ten times as long
    as one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class _Double(ModuleType):
    """torch, but for the names of float32."""

    float32 = float = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@contextmanager
def double_throughout(family: str) -> Iterator[None]:
    """Within it the models of ``family``, a model_type, are made and run without any float32."""
    module = {"gemma3_text": "gemma3", "llama4_text": "llama4", "exaone": "llama"}.get(family, family)
    names = ("transformers.modeling_rope_utils", f"transformers.models.{module}.modeling_{module}")
    double = _Double("torch")
    with pytest.MonkeyPatch.context() as patch:
        for module in map(importlib.import_module, names):
            patch.setattr(module, "torch", double)
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        # but for Gemma's factor of embeddings, which is a float32 in every model that people run
        torch.set_default_dtype(torch.float32 if family.startswith("gemma") else torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


def load_double(folder: Path, family: str, head: str | None = None, **options: Any) -> Any:
    """The model in ``folder`` with weights in float64. What else is computed in float32 when it is made is not, within
    ``double_throughout``."""
    config = transformers.AutoConfig.from_pretrained(folder)
    if family in OF_OTHERS:
        kind = getattr(transformers, OF_OTHERS[family] + (head or "ForCausalLM"))
    else:
        kind = getattr(transformers, class_name(family) if head is None else CLASSES[family] + head)
    usual = "sdpa" if kind._supports_sdpa else "eager"  # which alone caps scores
    config._attn_implementation = options.pop("attn_implementation", usual)
    model = kind(config, **options).double().eval()
    from safetensors.torch import load_file

    stored = load_file(folder / "model.safetensors")
    # the one name that from_pretrained changes, GPT-NeoX's
    weights = {name.replace("embed_out.", "lm_head."): tensor.double() for name, tensor in stored.items()}
    if family == "exaone":  # which is saved under the names of its own code
        weights = {
            name: weights.get(exaone_name(name), weights.get(name)) for name in model.state_dict()
            if {name, exaone_name(name)} & weights.keys()
        }  # fmt: skip
    missing, unexpected = model.load_state_dict(weights, strict=False)
    model.tie_weights()
    assert set(missing) <= {"lm_head.weight"} and not unexpected
    assert not missing or config.tie_word_embeddings
    return model
