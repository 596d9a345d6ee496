# SPDX-License-Identifier: MIT
"""The small models of all makers by one name, for tests that hold for every family of the registry.

A family has one configuration at least: in ``tiny_families`` or ``later_families`` for an encoder, in
``BASE`` of another maker for a decoder. Whatever is put there is in ``CASES``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import later_families, tiny_decoders, tiny_dense_a, tiny_families, tiny_latent, tiny_moe, tiny_states
from .digest_models import HEADS
from .tiny_bert import Array, save_safetensors, uniform

CASES: dict[str, str] = {
    **{case: values["model_type"] for case, values in {**tiny_families.CASES, **later_families.CASES}.items()},
    **{family: family for family in (*tiny_decoders.BASE, *tiny_moe.BASE, *tiny_latent.BASE, *tiny_states.BASE)},
}
"""Name of a small model -> its ``model_type``."""

_DECODERS: dict[str, Any] = {
    family: maker for maker in (tiny_decoders, tiny_moe, tiny_latent, tiny_states) for family in maker.BASE
}
"""Family -> who makes its small models."""

DECODER_HEADS = ("causal_lm", "sequence_classification", "token_classification")
ENCODER_HEADS = ("none", "masked_lm", "sequence_classification", "token_classification", "question_answering")


class Tiny(NamedTuple):
    """A small model as its file has it."""

    config: dict[str, Any]
    """config.json."""
    tensors: dict[str, Array]
    """Full name -> values."""

    def save(self, folder: Path, *, without: str | None = None, tensors: dict[str, Array] | None = None,
             **changes: Any) -> Path:  # fmt: skip
        """Write the folder, and return it: without a tensor, with ``tensors``, with other keys of config.json."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps({**self.config, **changes}))
        arrays = {name: array for name, array in self.tensors.items() if name != without}
        save_safetensors(folder / "model.safetensors", {**arrays, **(tensors or {})})
        return folder


def heads(case: str) -> tuple[str, ...]:
    """The heads that a small model can be made with, the plainest first."""
    return DECODER_HEADS if case in _DECODERS else ENCODER_HEADS


def make(case: str, head: str) -> Tiny:
    """A small model under a head."""
    if case in _DECODERS:
        c = _DECODERS[case].config(case)
        arrays = _DECODERS[case].tensors(c)
        return Tiny(c, arrays) if head == "causal_lm" else _labelled(c, arrays, head)
    if case in tiny_families.CASES:
        return Tiny(tiny_families.config(case, HEADS[head]), tiny_families.tensors(case, HEADS[head]))
    token = np.array([[3]])
    arrays = later_families.run(case, HEADS[head], token, token // token, 0 * token)[1]
    return Tiny(later_families.config(case, HEADS[head]), arrays)


def _labelled(c: dict[str, Any], arrays: dict[str, Array], head: str) -> Tiny:
    """A decoder with a layer of three labels in the place of its language model's head."""
    suffix = "ForSequenceClassification" if head == "sequence_classification" else "ForTokenClassification"
    c = {**c, "id2label": {"0": "a", "1": "b", "2": "c"},
         "architectures": [re.sub("ForCausalLM|LMHeadModel", suffix, name) for name in c["architectures"]]}  # fmt: skip
    kept = {name: array for name, array in arrays.items() if not name.startswith(("lm_head", "embed_out"))}
    tokens = head == "token_classification"
    layer = tiny_dense_a.LABELS.get(c["model_type"], "score") if tokens else "score"
    kept[f"{layer}.weight"] = uniform("score", (3, tiny_decoders.width(c))).astype(np.float32)
    if tokens:
        kept[f"{layer}.bias"] = uniform("score.bias", (3,)).astype(np.float32)
    return Tiny(c, kept)


def batch(case: str) -> tuple[Array, ...]:
    """Token ids, attention mask and, where a family has them, token types; rows of all kinds of masks."""
    if case in _DECODERS:
        return tiny_decoders.batch(_DECODERS[case].config(case))
    if case in later_families.CASES:
        return later_families.batch(case)
    ids, mask, types = tiny_families.batch(case)
    return (ids, mask, types) if CASES[case] not in ("distilbert", "mpnet") else (ids, mask)
