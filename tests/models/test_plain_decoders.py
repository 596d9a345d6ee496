# SPDX-License-Identifier: MIT
"""Decoders with layer norms, GPT-2 and what came after it: spellings of their keys, old files, what is refused.

That they are right, ``test_decoders`` says, and that their bits are, ``test_families``.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import numpy_decoders, tiny_decoders, tiny_dense_a
from golden.tiny_bert import save_safetensors
from support import gguf_models
from support.gguf_files import gguf_bytes

import fastattn as fa
from fastattn.models.alibi import slopes, slopes_by_column

Array = np.ndarray[Any, Any]
FAMILIES = tuple(tiny_dense_a.BASE)


def save(folder: Path, c: dict[str, Any], arrays: dict[str, Array]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({key: value for key, value in c.items() if value is not ...}))
    save_safetensors(folder / "model.safetensors", arrays)
    return folder


def logits(folder: Path, family: str) -> bytes:
    ids, mask = tiny_decoders.batch(tiny_decoders.config(family))
    return bytes(fa.load(folder, dtype="float32")(ids, mask).logits.tobytes())


# ---- the same model otherwise ---------------------------------------------------------------------------------------

SPELLINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {"n_embd": ..., "n_layer": ..., "n_head": ..., "n_positions": ..., "hidden_size": 48,
                      "num_hidden_layers": 3, "num_attention_heads": 6, "max_position_embeddings": 96}),
    "gpt2, twice": ("gpt2", {"hidden_size": 48, "n_inner": 192}),
    "gpt_neox": ("gpt_neox", {"rotary_pct": ..., "rotary_emb_base": ..., "partial_rotary_factor": 0.25,
                              "rope_theta": 1000.0}),
    "gpt_neox, twice": ("gpt_neox", {"partial_rotary_factor": 0.25, "rope_theta": 1000.0}),
    "bloom": ("bloom", {"hidden_size": ..., "n_embed": 48, "n_head": ..., "num_attention_heads": 6, "n_layer": ...,
                        "num_hidden_layers": 3}),
    "falcon": ("falcon", {"hidden_size": ..., "n_embed": 48, "num_attention_heads": ..., "n_head": 6,
                          "num_hidden_layers": ..., "n_layer": 3, "num_kv_heads": 6}),
    "mpt": ("mpt", {"d_model": ..., "hidden_size": 48, "attn_config": {"alibi_bias_max": 8, "clip_qkv": 0}}),
    "opt": ("opt", {"word_embed_proj_dim": None, "head_dim": 8}),
    "phi": ("phi", {"rope_theta": ..., "partial_rotary_factor": ..., "rope_scaling": ..., "rope_parameters": {
        "rope_type": "default", "rope_theta": 1000.0, "partial_rotary_factor": 0.5}}),
}  # fmt: skip


@pytest.mark.parametrize("name", SPELLINGS)
def test_other_spellings(tmp_path: Path, name: str) -> None:
    family, changes = SPELLINGS[name]
    c = tiny_decoders.config(family)
    arrays = tiny_decoders.tensors(c)
    plain, other = save(tmp_path / "a", c, arrays), save(tmp_path / "b", {**c, **changes}, arrays)
    assert logits(other, family) == logits(plain, family)
    assert fa.load(other).notes == []


@pytest.mark.parametrize("family", FAMILIES)
def test_files_of_the_model_alone(tmp_path: Path, family: str) -> None:
    """Without the prefix, and with the buffers that old versions wrote."""
    c = tiny_decoders.config(family)
    arrays = tiny_decoders.tensors(c)
    prefix = "model." if family == "opt" else tiny_decoders.table_name(family).split(".")[0] + "."
    layer = f"{'decoder.layers' if family == 'opt' else 'h'}.0"
    buffers = {
        f"{layer}.attn.bias": np.ones((1, 1, 9, 9), np.float32), f"{layer}.attn.masked_bias": np.ones(1, np.float32),
        f"{layer}.attention.bias": np.ones((1, 1, 9, 9), np.float32),
        f"{layer}.attention.masked_bias": np.ones(1, np.float32),
        f"{layer}.attn.causal_mask": np.ones((1, 1, 9, 9), np.float32),
        f"{layer}.attention.rotary_emb.inv_freq": np.ones(4, np.float32),
    }  # fmt: skip
    bare = {name.removeprefix(prefix): array for name, array in arrays.items()} | buffers
    folder = save(tmp_path / "bare", c, bare)
    assert logits(folder, family) == logits(save(tmp_path / "whole", c, arrays), family)
    assert fa.load(folder).notes == []
    alone = fa.load(save(tmp_path / "alone", {**c, "architectures": [f"{tiny_decoders.CLASSES[family]}Model"]}, {
        name: array for name, array in bare.items() if not name.startswith(("lm_head", "embed_out"))
    }))  # fmt: skip
    ids, mask = tiny_decoders.batch(c)
    assert alone.head_name == "none"
    w = numpy_decoders.load(tmp_path / "whole")[1]
    exact = numpy_decoders.hidden_states(c, w, ids[0], np.arange(ids.shape[1]))
    got: Any = alone(ids, mask)
    assert np.abs(got.last_hidden_state[0] - exact).max() <= 1e-5 * np.abs(exact).max()


def test_opt_alone_is_as_wide_as_its_words(tmp_path: Path) -> None:
    c = tiny_decoders.config("opt", word_embed_proj_dim=20)
    model: Any = fa.load(save(tmp_path, c, tiny_decoders.tensors(c)), head="none")
    assert model([[3, 4]]).last_hidden_state.shape == (1, 2, 20)


def test_gpt_neox_by_the_names_of_transformers_5(tmp_path: Path) -> None:
    c = tiny_decoders.config("gpt_neox")
    arrays = tiny_decoders.tensors(c)
    newer = {name.replace("embed_out", "lm_head"): array for name, array in arrays.items()}
    folders = save(tmp_path / "a", c, arrays), save(tmp_path / "b", c, newer)
    assert logits(folders[0], "gpt_neox") == logits(folders[1], "gpt_neox")
    packed = fa.pack(folders[1], tmp_path / "m.fastattn", "float32")
    assert logits(packed, "gpt_neox") == logits(folders[0], "gpt_neox")
    del newer["lm_head.weight"]
    with pytest.raises(ValueError, match=r"missing tensor 'embed_out\.weight'"):
        fa.load(save(tmp_path / "c", c, newer))


@pytest.mark.parametrize(("family", "counts"), [("opt", True), ("bloom", True), ("gpt2", False), ("mpt", False)])
def test_what_a_mask_leaves_out(tmp_path: Path, family: str, counts: bool) -> None:
    """Tokens are counted or columns: with holes a row is that of its tokens alone, or is not."""
    c = tiny_decoders.config(family)
    model: Any = fa.load(tiny_decoders.make(tmp_path, family), dtype="float32")
    ids = tiny_decoders.batch(c)[0][:1, :9]
    mask = np.array([[0, 1, 1, 0, 0, 1, 0, 1, 1]])
    alone = model(ids[:, mask[0] == 1]).logits[0]
    got = model(ids, mask).logits[0]
    assert (got[mask[0] == 1].tobytes() == alone.tobytes()) is counts
    beside = model(np.concatenate([ids, ids]), np.concatenate([mask, np.ones_like(mask)])).logits
    assert beside[0].tobytes() == got.tobytes() and beside[1].tobytes() == model(ids).logits.tobytes()


# ---- slopes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", [1, 2, 3, 6, 8, 12, 16, 25, 32, 40, 64, 71, 112, 128])
def test_slopes(heads: int) -> None:
    n = 2 ** math.floor(math.log2(heads))
    exact = [2 ** (-8 * k / n) for k in range(1, n + 1)] + [2 ** (-4 * k / n) for k in range(1, 2 * (heads - n), 2)]
    assert np.array_equal(slopes(heads), np.array(exact, np.float32))
    table = slopes_by_column(heads, 5)
    assert table.shape == (heads, 9) and table.dtype == np.float32
    assert np.array_equal(table[:, 4:], -slopes(heads)[:, None] * np.arange(5, dtype=np.float32))
    assert np.array_equal(table[:, ::-1], table)


# ---- what is refused ------------------------------------------------------------------------------------------------

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("gpt2", {"n_embd": 50}, "n_embd 50 is not a multiple of n_head 6"),
    ("gpt2", {"hidden_size": 96}, "hidden_size is '96', but n_embd, which says the same, '48'"),
    ("gpt2", {"n_embd": ...}, "'n_embd' is missing"),
    ("gpt2", {"n_positions": 97}, r"has shape \[96, 48\], but config.json asks for \[97, 48\]"),
    ("gpt2", {"n_inner": 48}, r"has shape \[48, 192\], but config.json asks for \[48, 48\]"),
    ("gpt2", {"activation_function": "mish"}, "activation_function is 'mish'"),
    ("gpt2", {"scale_attn_weights": 1}, "scale_attn_weights is '1'"),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention is 'True'"),
    ("gpt2", {"n_embd": 1 << 30, "n_head": 1}, "n_embd is '1073741824', expected an integer from 1 to 1048576"),
    ("gptj", {"rotary_dim": 9}, "rotary_dim is '9', expected an integer from 1 to 8"),
    ("gptj", {"rotary_dim": 3}, "3 rotary dims"),
    ("codegen", {"n_embd": 50, "n_head": 5}, "n_embd is 50, expected a multiple of 4"),
    ("gpt_neox", {"rotary_pct": 0.5, "partial_rotary_factor": 0.25}, "partial_rotary_factor is '0.25', but rotary_pct"),
    ("gpt_neox", {"rope_theta": 7}, "rope_theta is '7', but rotary_emb_base"),
    ("gpt_neox", {"rotary_pct": 1.5}, "partial_rotary_factor is '1.5', expected a number above 0, up to 1"),
    ("gpt_neox", {"rotary_pct": 0.1}, "0 rotary dims"),
    ("gpt_neox", {"rope_scaling": {"type": "nonsense"}}, "nonsense"),
    ("gpt_neox", {"attention_bias": False}, r"no use for tensors 'gpt_neox\.layers\.0\.attention\.query_key"),
    ("gpt_neox", {"hidden_act": "silu2"}, "hidden_act is 'silu2'"),
    ("phi", {"num_key_value_heads": 4}, "6 heads are not a multiple of 4 heads of keys and values"),
    ("phi", {"qk_layernorm": True}, r"missing tensors 'model\.layers\.0\.self_attn\.q_layernorm\.weight'"),
    ("phi", {"head_dim": 16}, "head_dim is '16', expected 48 / 6"),
    ("phi", {"rope_parameters": {"partial_rotary_factor": "half"}}, "partial_rotary_factor is 'half'"),
    ("starcoder2", {"mlp_type": "gated"}, "mlp_type is 'gated'"),
    ("starcoder2", {"norm_type": "rms_norm"}, "norm_type is 'rms_norm'"),
    ("starcoder2", {"sliding_window": 0}, "sliding_window is '0'"),
    ("starcoder2", {"use_bias": False}, "no use for tensors"),
    ("stablelm", {"qk_layernorm": True}, r"missing tensors 'model\.layers\.0\.self_attn\.q_layernorm\.norms\."),
    ("stablelm", {"use_qkv_bias": True}, r"missing tensors 'model\.layers\.0\.self_attn\.q_proj\.bias'"),
    ("stablelm", {"use_parallel_residual": True}, "no use for tensors"),
    ("stablelm", {"hidden_size": 8192, "num_attention_heads": 4096, "num_key_value_heads": 1, "qk_layernorm": True,
                  "partial_rotary_factor": 1.0}, "4096 heads with norms of their own, expected at most 1024"),
    ("falcon", {"alibi": True}, "alibi is true: transformers rounds such scores"),
    ("falcon", {"apply_residual_connection_post_layernorm": True}, "post_layernorm is 'True'"),
    ("falcon", {"new_decoder_architecture": True, "parallel_attn": False}, "which go together in no model"),
    ("falcon", {"num_ln_in_parallel_attn": 2}, "which go together in no model"),
    ("falcon", {"num_ln_in_parallel_attn": 3}, "num_ln_in_parallel_attn is '3'"),
    ("falcon", {"multi_query": False, "num_kv_heads": 2}, "num_kv_heads is 2, expected 6"),
    ("falcon", {"bias": True}, r"missing tensors 'transformer\.h\.0\.self_attention\.query_key_value\.bias'"),
    ("bloom", {"n_head": 5}, "hidden_size 48 is not a multiple of n_head 5"),
    ("bloom", {"n_embed": 49}, "n_embed is '49', but hidden_size, which says the same, '48'"),
    ("bloom", {"seq_length": 0}, "seq_length is '0'"),
    ("mpt", {"attn_config": {"alibi": False}}, "attn_config: alibi is false"),
    ("mpt", {"attn_config": {"alibi_bias_max": 4}}, "attn_config: alibi_bias_max is 4, expected 8"),
    ("mpt", {"attn_config": {"attn_type": "multiquery_attention"}}, "attn_config: attn_type is 'multiquery_attention'"),
    ("mpt", {"attn_config": {"prefix_lm": True}}, "attn_config: prefix_lm is 'True'"),
    ("mpt", {"attn_config": {"qk_ln": True}}, "attn_config: qk_ln is 'True'"),
    ("mpt", {"attn_config": {"attn_uses_sequence_id": True}}, "attn_config: attn_uses_sequence_id is 'True'"),
    ("mpt", {"attn_config": {"clip_qkv": -1}}, "attn_config: clip_qkv is '-1'"),
    ("mpt", {"attn_config": {"softmax_scale": 0}}, "attn_config: softmax_scale is '0'"),
    ("mpt", {"attn_config": [1]}, "attn_config is .*, expected an object"),
    ("mpt", {"no_bias": False}, "no_bias is false"),
    ("mpt", {"logit_scale": 0.5}, "logit_scale is '0.5'"),
    ("mpt", {"norm_type": "rmsnorm"}, "norm_type is 'rmsnorm'"),
    ("mpt", {"expansion_ratio": 2}, r"has shape \[192, 48\], but config.json asks for \[96, 48\]"),
    ("mpt", {"max_seq_len": 2**31 - 1}, "max_seq_len 2147483647 with 4 heads"),
    ("opt", {"_remove_final_layer_norm": True}, "_remove_final_layer_norm is 'True'"),
    ("opt", {"scale_embeddings": True}, "scale_embeddings is 'True'"),
    ("opt", {"do_layer_norm_before": False}, r"no use for tensors 'model\.decoder\.final_layer_norm\."),
    ("opt", {"word_embed_proj_dim": 20}, r"missing tensors 'model\.decoder\.project_in\.weight'"),
    ("opt", {"enable_bias": False}, "no use for tensors"),
    ("opt", {"layer_norm_elementwise_affine": False}, "no use for tensors"),
    ("opt", {"max_position_embeddings": 98}, r"has shape \[98, 48\], but config.json asks for \[100, 48\]"),
    ("opt", {"ffn_dim": ...}, "'ffn_dim' is missing"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "changes", "message"), REFUSED)
def test_refused_folders(tmp_path: Path, family: str, changes: dict[str, Any], message: str) -> None:
    c = tiny_decoders.config(family)
    with pytest.raises(ValueError, match=message) as caught:
        fa.load(save(tmp_path, {**c, **changes}, tiny_decoders.tensors(c)))
    assert str(tmp_path) in str(caught.value)


UNREAD = ("pretraining_tp", "offset_alibi", "n_ctx", "emb_pdrop", "resid_pdrop", "verbose", "rope_theta",
          "rotary_emb_base")  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_numbers_without_measure(tmp_path: Path, family: str) -> None:
    """Sizes that nobody has are told at once, before anything is made of them."""
    c = tiny_decoders.config(family)
    arrays = tiny_decoders.tensors(c)
    sizes = [key for key, own in c.items() if type(own) is int and not key.endswith("_id")]
    learned = family in ("gpt2", "opt", "mpt")  # elsewhere any number of positions is one
    for value in (2**31 - 1, 2**40, 10**400, -1, 1.5, "48", [48], {"a": 1}):
        for key in sizes:
            if key in UNREAD or value == 2**31 - 1 and key == tiny_decoders.positions_key(family) and not learned:
                continue
            before = time.monotonic()
            with pytest.raises(ValueError) as caught:
                fa.load(save(tmp_path, {**c, key: value}, arrays))
            assert time.monotonic() - before < 5 and str(tmp_path) in str(caught.value), key


def test_keys_within_attn_config_are_told(tmp_path: Path) -> None:
    c = tiny_decoders.config("mpt", attn_config={"alibi": True, "rope": False, "kv_n_heads": 4, "attn_impl": "flash"})
    model = fa.load(save(tmp_path, c, tiny_decoders.tensors(c)))
    (note,) = model.notes
    assert "attn_config: unknown keys" in note and "'rope', 'kv_n_heads'" in note


# ---- GGUF -----------------------------------------------------------------------------------------------------------

WRONG_FIELDS: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("falcon", {}, {"falcon.tensor_data_layout": "other"}, "tensor_data_layout is 'other', expected jploski"),
    ("falcon", {}, {"falcon.rope.dimension_count": 4}, "rope.dimension_count is 4, expected 8"),
    ("mpt", {}, {"mpt.attention.max_alibi_bias": 0.0}, r"max_alibi_bias is 0\.0, expected 8\.0"),
    ("mpt", {}, {"mpt.attention.max_alibi_bias": 4.0}, r"max_alibi_bias is 4\.0, expected 8\.0"),
    ("mpt", {}, {"mpt.feed_forward_length": 100}, "feed_forward_length is 100, expected a multiple of 48"),
    ("mpt", {}, {"mpt.attention.clamp_kqv": -2.0}, "clip_qkv is '-2.0'"),
    ("bloom", {}, {"bloom.attention.max_alibi_bias": 4.0}, r"max_alibi_bias is 4\.0, expected 8\.0"),
    ("gpt2", {}, {"gpt2.attention.head_count": 5}, "n_embd 48 is not a multiple of n_head 5"),
    ("gpt2", {}, {"gpt2.context_length": 95}, r"tensor 'position_embd\.weight' has shape \[96, 48\]"),
    ("gpt_neox", {}, {"gptneox.use_parallel_residual": 1}, "use_parallel_residual is 1, expected true or false"),
    ("gpt_neox", {}, {"gptneox.rope.dimension_count": 9}, "rope.dimension_count is 9, expected 8"),
    ("stablelm", {"qk_layernorm": True}, {"stablelm.attention.head_count": 12}, "a row for each of 12 heads"),
    ("stablelm", {"qk_layernorm": True}, {"stablelm.attention.head_count": 3}, "a row for each of 3 heads"),
    ("starcoder2", {}, {"starcoder2.attention.head_count_kv": 3}, r"tensor 'blk\.0\.attn_k\.weight' has shape"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "overrides", "more", "message"), WRONG_FIELDS)
def test_fields_that_cannot_be(
    tmp_path: Path, family: str, overrides: dict[str, Any], more: dict[str, Any], message: str
) -> None:
    path = gguf_models.make(tmp_path / "m.gguf", family, more=more, **overrides)
    with pytest.raises(ValueError, match=message) as raised:
        fa.load(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("rows", [1, 5, 7])
def test_norms_of_other_numbers_of_heads(tmp_path: Path, rows: int) -> None:
    c = tiny_decoders.config("stablelm", qk_layernorm=True)
    tensors = gguf_models.tensors_of(c, tiny_decoders.tensors(c), "float16")
    path = tmp_path / "m.gguf"
    for wrong in (np.ones((rows, 8), np.float32), np.ones(8 * rows, np.float32), np.ones((6, 9), np.float32)):
        path.write_bytes(gguf_bytes(gguf_models.fields_of(c), {**tensors, "blk.0.attn_q_norm.weight": wrong}))
        with pytest.raises(ValueError, match=r"blk\.0\.attn_q_norm\.weight"):
            fa.load(path)


def test_parts_of_heads_that_no_fraction_hits(tmp_path: Path) -> None:
    """30 of 44 dims: 44 * (30 / 44) is below 30 in floating point."""
    sizes = {"hidden_size": 88, "num_attention_heads": 2, "partial_rotary_factor": math.nextafter(30 / 44, 1)}
    file = gguf_models.make(tmp_path / "m.gguf", "stablelm", dtype="float32", **sizes)
    folder = tiny_decoders.make(tmp_path / "f", "stablelm", **sizes)
    assert logits(file, "stablelm") == logits(folder, "stablelm")
