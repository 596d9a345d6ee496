# SPDX-License-Identifier: MIT
"""Decoders with experts out of GGUF files: the bits of the folder that they were made of; keys obeyed or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_moe
from support import gguf_moe
from support.decoder_checks import assert_one_model, logits_of
from support.gguf_files import gguf_bytes

import fastattn as fa

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral, which is a llama there": ("mixtral", {}),
    "mixtral, one of two, tied": ("mixtral", {"num_local_experts": 2, "num_experts_per_tok": 1,
                                              "tie_word_embeddings": True}),
    "qwen2_moe": ("qwen2_moe", {"mlp_only_layers": []}),
    "qwen2_moe, no biases": ("qwen2_moe", {"mlp_only_layers": [], "qkv_bias": False}),
    "qwen3_moe": ("qwen3_moe", {}),
    "qwen3_moe, biases": ("qwen3_moe", {"attention_bias": True}),
    "olmoe": ("olmoe", {}),
    "olmoe, no bound": ("olmoe", {"clip_qkv": None}),
    "granitemoe": ("granitemoe", {}),
    "gpt_oss": ("gpt_oss", {}),
    "llama4_text": ("llama4_text", {"attention_chunk_size": 8192, "floor_scale": 8192, "attn_scale": 0.1}),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("name", VARIANTS)
def test_the_bits_of_the_folder(tmp_path: Path, name: str, dtype: str) -> None:
    """Also packed, and with the layers stored as asked."""
    family, overrides = VARIANTS[name]
    if family == "gpt_oss":  # whose bounds have no keys
        overrides = {**overrides, "swiglu_limit": 7.0}
    folder = tiny_moe.make(tmp_path / "folder", family, dtype=dtype, **overrides)
    file = gguf_moe.make(tmp_path / "m.gguf", family, dtype=dtype, **overrides)
    assert_one_model(file, folder, tmp_path / "m.fastattn")


@pytest.mark.parametrize("family", tiny_moe.BASE)
def test_other_shapes_of_files(tmp_path: Path, family: str) -> None:
    """Gates and what they gate in one tensor; the gate of the shared expert as a vector."""
    overrides = {"mlp_only_layers": []} if family == "qwen2_moe" else {}
    expected = logits_of(fa.load(gguf_moe.make(tmp_path / "a.gguf", family, **overrides)))
    whole = family != "llama4_text"  # whose tensors of both no converter writes
    joined = gguf_moe.make(tmp_path / "b.gguf", family, joined=whole, flat=True, **overrides)
    assert logits_of(fa.load(joined)) == expected
    assert logits_of(fa.load(fa.pack(joined, tmp_path / "b.fastattn"))) == expected


def test_weights_divided_by_their_sum(tmp_path: Path) -> None:
    """As the key says, where there is one; as the architecture has it where not."""
    for family, own in (("qwen3_moe", True), ("qwen2_moe", False), ("olmoe", False)):
        overrides: dict[str, Any] = {"mlp_only_layers": []} if family == "qwen2_moe" else {}
        for said in (None, True, False):
            more = {} if said is None else {f"{gguf_moe.ARCHITECTURES[family]}.expert_weights_norm": said}
            file = gguf_moe.make(tmp_path / "m.gguf", family, more=more, **overrides)
            folder = tiny_moe.make(tmp_path / "f", family, norm_topk_prob=own if said is None else said, **overrides)
            assert logits_of(fa.load(file, "float32")) == logits_of(fa.load(folder, "float32"))


def test_widths_that_are_not_said(tmp_path: Path) -> None:
    """Of an expert: the layer's by the number of those that a token takes; of the shared one, all of it."""
    sizes = {"intermediate_size": 60, "moe_intermediate_size": 20, "shared_expert_intermediate_size": 60}
    left = {f"qwen2moe.expert_{name}feed_forward_length": ... for name in ("", "shared_")}
    expected = logits_of(fa.load(gguf_moe.make(tmp_path / "a.gguf", "qwen2_moe", mlp_only_layers=[], **sizes)))
    file = gguf_moe.make(tmp_path / "b.gguf", "qwen2_moe", more=left, mlp_only_layers=[], **sizes)
    assert logits_of(fa.load(file)) == expected


@pytest.mark.parametrize(
    ("family", "more", "message"),
    [
        ("mixtral", {"llama.expert_gating_func": 2}, r"llama\.expert_gating_func is 2, expected 1"),
        ("mixtral", {"llama.expert_weights_norm": False}, r"llama\.expert_weights_norm is False, expected true"),
        ("mixtral", {"llama.expert_weights_scale": 2.5}, r"llama\.expert_weights_scale is 2\.5, expected 0\.0 or 1\.0"),
        ("mixtral", {"llama.expert_used_count": 0}, r"llama\.expert_used_count is 0, expected a number from 1"),
        ("mixtral", {"llama.expert_used_count": 6}, r"num_experts_per_tok is '6', expected an integer from 1 to 5"),
        (
            "mixtral",
            {"llama.expert_count": 6},
            r"tensor 'blk\.0\.ffn_gate_exps\.weight' has shape \[5, 40, 48\], .*experts is 6",
        ),
        ("mixtral", {"llama.expert_count": 0}, r"llama\.expert_used_count is 2, expected 0"),
        ("mixtral", {"llama.expert_shared_count": 1}, r"expert_shared_count is 1, expected 0"),
        ("qwen3_moe", {"qwen3moe.expert_count": ...}, r"qwen3moe\.expert_count is missing"),
        ("qwen3_moe", {"qwen3moe.expert_weights_norm": 1}, r"expert_weights_norm is 1, expected true or false"),
        ("qwen3_moe", {"qwen3moe.expert_group_count": 4}, r"expert_group_count is 4, expected 0 or 1"),
        ("qwen3_moe", {"qwen3moe.expert_count": "7"}, r"expert_count is '7', expected a number from 1"),
        ("qwen3_moe", {"qwen3moe.expert_feed_forward_length": 18}, r"ffn_gate_exps\.weight' has shape \[7, 17, 48\]"),
        ("olmoe", {"olmoe.expert_count": 1 << 20}, r"num_experts is '1048576', expected an integer from 1 to 65536"),
        ("gpt_oss", {"gpt-oss.attention.sliding_window": ...}, r"attention\.sliding_window is missing"),
    ],
)
def test_keys_that_cannot_be(tmp_path: Path, family: str, more: dict[str, Any], message: str) -> None:
    path = gguf_moe.make(tmp_path / "m.gguf", family, more=more)
    with pytest.raises(ValueError, match=message) as raised:
        fa.load(path)
    assert str(path) in str(raised.value)


def test_tensors_that_cannot_be(tmp_path: Path) -> None:
    c = tiny_moe.config("qwen3_moe")
    fields, tensors = gguf_moe.fields_of(c), gguf_moe.tensors_of(c, tiny_moe.tensors(c), "float16")
    path = tmp_path / "m.gguf"
    for name in ("blk.1.ffn_gate_exps.weight", "blk.1.ffn_down_exps.weight", "blk.0.ffn_gate_inp.weight"):
        path.write_bytes(gguf_bytes(fields, {key: value for key, value in tensors.items() if key != name}))
        with pytest.raises(ValueError, match=f"missing tensor '{name}'"):
            fa.load(path)
    for shape in ((7, 17), (7, 17, 48, 1), (17, 7, 48), (7, 48, 17)):
        path.write_bytes(gguf_bytes(fields, {**tensors, "blk.1.ffn_up_exps.weight": np.zeros(shape, np.float16)}))
        with pytest.raises(ValueError, match=r"tensor 'blk\.1\.ffn_up_exps\.weight' has shape"):
            fa.load(path)
