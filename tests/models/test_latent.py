# SPDX-License-Identifier: MIT
"""DeepSeek-V2 and -V3 on small folders: logits and greedy tokens of an independent NumPy model in double precision, and
configurations that cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import numpy_latent, tiny_latent
from golden.tiny_bert import save_safetensors
from golden.tiny_latent import VARIANTS
from support import gguf_latent
from support.decoder_checks import assert_greedy

import fastattn as fa


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_and_greedy_tokens(tmp_path: Path, name: str) -> None:
    folder = tiny_latent.variant(tmp_path, name)
    c, weights = numpy_latent.load(folder)
    model = fa.load(folder, dtype="float32")
    assert model.notes == []
    for columns in (23, 1):
        ids, mask = tiny_latent.batch(c, columns)
        exact, got = numpy_latent.logits(c, weights, ids, mask), model(ids, mask).logits
        assert got.shape == exact.shape and not got[mask == 0].any()
        assert np.abs(got - exact).max() <= 1e-5 * np.abs(exact).max()
    prompt = ids[0].tolist() * 5
    answer = model.generate(prompt, max_new_tokens=6, ignore_eos=True)[0]
    assert_greedy(answer.token_ids, *numpy_latent.greedy(c, weights, prompt, 6))


@pytest.mark.parametrize("name", ["deepseek_v2", "deepseek_v3"])
def test_experts_in_one_tensor(tmp_path: Path, name: str) -> None:
    """As transformers keeps them in memory, and a file with the layer behind the last, which guesses at more tokens."""
    c = tiny_latent.config(name)
    tensors = tiny_latent.tensors(c)
    one = tiny_latent.make(tmp_path / "each", name)
    all_of = tiny_latent.make(tmp_path / "all", name)
    more = {"model.layers.61.eh_proj.weight": np.zeros((3, 5), np.float32)}
    save_safetensors(all_of / "model.safetensors", {**tiny_latent.stacked(tensors), **more})
    batch = tiny_latent.batch(c)
    assert fa.load(one)(*batch).logits.tobytes() == fa.load(all_of)(*batch).logits.tobytes()


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("deepseek_v2", {"norm_topk_prob": True}, "norm_topk_prob is true"),
        ("deepseek_v2", {"topk_method": "noaux_tc"}, "topk_method is 'noaux_tc', expected one of greedy, group"),
        ("deepseek_v2", {"scoring_func": "sigmoid"}, "scoring_func is 'sigmoid', expected one of softmax"),
        ("deepseek_v2", {"num_key_value_heads": 2}, "num_key_value_heads is 2, expected 6"),
        ("deepseek_v2", {"moe_layer_freq": 2}, "moe_layer_freq is 2, expected 1"),
        ("deepseek_v2", {"qk_rope_head_dim": 5}, "5 rotary dims, expected an even number"),
        ("deepseek_v2", {"qk_nope_head_dim": 508}, "make heads of 514, expected at most 512"),
        ("deepseek_v2", {"kv_lora_rank": 0}, "kv_lora_rank is '0', expected an integer from 1"),
        ("deepseek_v2", {"n_routed_experts": 9}, "n_routed_experts is 9"),
        ("deepseek_v3", {"n_group": 3}, "n_group is 3 and topk_group 2, expected groups of equal numbers of the 8"),
        ("deepseek_v3", {"topk_group": 5}, "n_group is 4 and topk_group 5"),
        ("deepseek_v3", {"n_group": 8}, "n_group is 8 and topk_group 2, expected groups .* two at least"),
        ("deepseek_v3", {"num_experts_per_tok": 9}, "num_experts_per_tok is '9', expected an integer from 1 to 8"),
        ("deepseek_v3", {"v_head_dim": 8}, "kv_b_proj.weight' has shape .*, but config.json asks for"),
        ("deepseek_v3", {"rope_scaling": {"type": "spiral"}}, "rotary positions: .*'spiral'"),
    ],
)  # fmt: skip
def test_configurations_that_cannot_be(tmp_path: Path, family: str, changes: dict[str, Any], words: str) -> None:
    c = tiny_latent.config(family)
    folder = tiny_latent.make(tmp_path, family)
    (folder / "config.json").write_text(json.dumps({**c, **changes}))
    with pytest.raises(ValueError, match=words):
        fa.load(folder)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("latents", [True, False])
@pytest.mark.parametrize("name", VARIANTS)
def test_gguf_files_have_the_bits_of_the_folder(tmp_path: Path, name: str, latents: bool, dtype: str) -> None:
    """Whether keys and values are made by two layers, or by one."""
    family, overrides = VARIANTS[name]
    overrides = {**overrides, "rope_interleave": True}
    overrides.pop("dtype", None)
    file = gguf_latent.make(tmp_path / "m.gguf", family, dtype=dtype, latents=latents, **overrides)
    folder = tiny_latent.make(tmp_path / "f", family, dtype=dtype, **overrides)
    model, batch = fa.load(file), tiny_latent.batch(tiny_latent.config(family, **overrides))
    expected = fa.load(folder)(*batch).logits.tobytes()
    assert model(*batch).logits.tobytes() == expected and model.notes == []
    assert fa.load(fa.pack(file, tmp_path / "m.fastattn"))(*batch).logits.tobytes() == expected


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"deepseek2.expert_gating_func": 3}, "expert_gating_func is 3, expected 1 .* or 2"),
        ({"deepseek2.attention.kv_lora_rank": ...}, "attention.kv_lora_rank is missing"),
        ({"deepseek2.attention.key_length_mla": 6}, "qk_nope_head_dim is '0'"),
        ({"deepseek2.attention.value_length_mla": 8}, "blk.0.attn_v_b.weight' has shape"),
        ({"deepseek2.expert_count": 7}, "shape .*, but config.json asks for .*: n_routed_experts is 7|groups of equal"),
        ({"deepseek2.expert_weights_norm": 1}, "expert_weights_norm is 1, expected true or false"),
    ],
)
def test_gguf_files_that_cannot_be(tmp_path: Path, more: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fa.load(gguf_latent.make(tmp_path / "m.gguf", "deepseek_v3", more=more))
