# SPDX-License-Identifier: MIT
"""Decoders with states out of GGUF files: the bits of the folder that they were made of.

Converters store -exp(A) in place of A. Where their exponential is this library's, all bits are equal; where it has
another last bit, as torch's has, logits differ by as little.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_states
from support import gguf_states
from support.decoder_checks import assert_one_model

import fastattn as fa
from fastattn.graph.gates import negative_exp
from fastattn.models.gguf import ARCHITECTURES

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "lfm2": ("lfm2", {}),
    "lfm2, biases, no attention": ("lfm2", {"conv_bias": True, "layer_types": ["conv"] * 3, "conv_L_cache": 1}),
    "lfm2, attention alone, not tied": ("lfm2", {"layer_types": ["full_attention"] * 3, "tie_word_embeddings": False}),
    "mamba2": ("mamba2", {}),
    "mamba2, one group, biases, tied": ("mamba2", {"n_groups": 1, "use_bias": True, "tie_word_embeddings": True}),
    "mamba2, no bias of the convolution": ("mamba2", {"use_conv_bias": False, "num_heads": 2, "head_dim": 24}),
    "qwen3_next": ("qwen3_next", {}),
    "qwen3_next, one key for all, biases": (
        "qwen3_next", {"linear_num_key_heads": 1, "attention_bias": True, "partial_rotary_factor": 0.5},
    ),
}  # fmt: skip


def test_every_architecture_with_states_is_here() -> None:
    assert {gguf_states.ARCHITECTURES[family] for family, _ in VARIANTS.values()} <= set(ARCHITECTURES)
    assert {family for family, _ in VARIANTS.values()} == set(tiny_states.BASE)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("name", VARIANTS)
def test_the_bits_of_the_folder(tmp_path: Path, name: str, dtype: str) -> None:
    """Also packed, and with the layers stored as asked."""
    family, overrides = VARIANTS[name]
    folder = tiny_states.make(tmp_path / "folder", family, dtype=dtype, **overrides)
    file = gguf_states.make(tmp_path / "m.gguf", family, dtype=dtype, **overrides)
    assert_one_model(file, folder, tmp_path / "m.fastattn")


@pytest.mark.parametrize("family", ["mamba2", "qwen3_next"])
def test_another_exponential_is_another_last_bit(tmp_path: Path, family: str) -> None:
    c = tiny_states.config(family)
    arrays = tiny_states.tensors(c)
    rates = [array for name, array in arrays.items() if name.endswith("A_log")]
    exact = [-np.exp(array.astype(np.float64)) for array in rates]
    for array, right in zip(rates, exact, strict=True):
        assert np.abs(negative_exp(array) / right - 1).max() < 2.0**-23
    folder = tiny_states.make(tmp_path / "folder", family)
    nudged = {
        name: np.nextafter(array, np.float32(9)) if name.endswith("A_log") else array for name, array in arrays.items()
    }
    file = gguf_states.make(tmp_path / "m.gguf", family, dtype="float32", arrays=nudged)
    ids = tiny_states.batch(c)[0]
    expected, got = fa.load(folder)(ids).logits, fa.load(file)(ids).logits
    assert got.tobytes() != expected.tobytes()
    assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("lfm2", {"lfm2.shortconv.l_cache": ...}, "lfm2.shortconv.l_cache is missing"),
    ("lfm2", {"lfm2.shortconv.l_cache": 0}, "lfm2.shortconv.l_cache is 0"),
    ("lfm2", {"lfm2.attention.head_count_kv": [0, 2]}, "head_count_kv is .*expected one for each of 3 layers"),
    ("lfm2", {"lfm2.attention.head_count_kv": [0, 2, 3]}, "head_count_kv is .*expected 0 and one other number"),
    ("lfm2", {"lfm2.attention.head_count_kv": [0, -2, 0]}, "head_count_kv is .*expected 0 and one other number"),
    ("lfm2", {"lfm2.attention.head_count_kv": [0.0, 2.0, 0.0]}, "head_count_kv is "),
    ("lfm2", {"lfm2.attention.head_count_kv": "two"}, "head_count_kv is "),
    ("lfm2", {"lfm2.attention.head_count_kv": [2, 0, 2]}, "missing tensors? .*blk.0.attn_q_norm.weight"),
    ("lfm2", {"lfm2.attention.causal": False}, "lfm2.attention.causal is False"),
    ("mamba2", {"mamba2.ssm.inner_size": 47}, "mamba2.ssm.inner_size is 47, expected a multiple of 6 heads"),
    ("mamba2", {"mamba2.ssm.inner_size": 36}, "mamba2.ssm.inner_size is 36"),
    ("mamba2", {"mamba2.ssm.time_step_rank": ...}, "mamba2.ssm.time_step_rank is missing"),
    ("mamba2", {"mamba2.ssm.group_count": 4}, "num_heads 6 is not a multiple of n_groups 4"),
    ("mamba2", {"mamba2.ssm.group_count": 3}, r"'blk.0.ssm_in.weight' has shape \[142, 24\]"),
    ("mamba2", {"mamba2.attention.head_count": 4}, "mamba2.attention.head_count is 4, expected 0"),
    ("mamba2", {"mamba2.ssm.dt_b_c_rms": True}, "mamba2.ssm.dt_b_c_rms is True"),
    ("qwen3_next", {"qwen3next.ssm.inner_size": 50}, "qwen3next.ssm.inner_size is 50, expected a multiple of 4 heads"),
    ("qwen3_next", {"qwen3next.attention.recurrent_layers": [True]}, "expected one for each of 3 layers"),
    ("qwen3_next", {"qwen3next.attention.recurrent_layers": [1, 0, 2]}, "expected true or false for each of 3"),
    ("qwen3_next", {"qwen3next.nextn_predict_layers": 3}, "qwen3next.nextn_predict_layers is 3, expected fewer than 3"),
    ("qwen3_next", {"qwen3next.expert_gating_func": 2}, "qwen3next.expert_gating_func is 2"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "fields", "message"), BAD)
def test_files_that_are_refused(tmp_path: Path, family: str, fields: dict[str, Any], message: str) -> None:
    path = gguf_states.make(tmp_path / "m.gguf", family, more=fields)
    with pytest.raises(ValueError, match=message) as caught:
        fa.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("family", tiny_states.BASE)
def test_missing_tensors_are_called_as_the_file_would(tmp_path: Path, family: str) -> None:
    arrays = tiny_states.tensors(tiny_states.config(family))
    for name in ("A_log", "dt_bias", ".D", "conv1d.weight", "conv.conv.weight", "in_proj_ba.weight"):
        rest = {full: array for full, array in arrays.items() if not full.endswith(name)}
        if len(rest) == len(arrays):
            continue
        called = {"A_log": "ssm_a", "dt_bias": "ssm_dt.bias", ".D": "ssm_d", "conv1d.weight": "ssm_conv1d.weight",
                  "conv.conv.weight": "shortconv.conv.weight", "in_proj_ba.weight": "ssm_ba.weight"}[name]  # fmt: skip
        with pytest.raises(ValueError, match=rf"missing tensors? .*'blk\.0\.{called}'"):
            fa.load(gguf_states.make(tmp_path / "m.gguf", family, arrays=rest))
