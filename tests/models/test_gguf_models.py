# SPDX-License-Identifier: MIT
"""Models out of GGUF files: the bits of the folder that they were made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_decoders
from support import gguf_dense_a, gguf_dense_b, gguf_models, gguf_moe
from support.decoder_checks import assert_one_model, logits_of
from support.gguf_files import F32, I32, U32, Tensor, gguf_bytes

import fastattn as fa
from fastattn.models.gguf import ARCHITECTURES

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, tied, biases": ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "llama, wide heads": ("llama", {"head_dim": 16, "num_key_value_heads": 3}),
    "mistral, which is a llama there": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen2, tied": ("qwen2", {"tie_word_embeddings": True, "num_key_value_heads": 2}),
    "qwen3": ("qwen3", {}),
    "qwen3, tied": ("qwen3", {"tie_word_embeddings": True, "rms_norm_eps": 1e-3}),
    "phi3": ("phi3", {}),
    "phi3, a window, half of a head": ("phi3", {"sliding_window": 6, "partial_rotary_factor": 0.5}),
    "smollm3": ("smollm3", {}),
    "granite": ("granite", {}),
    "granite, biases": ("granite", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 3}),
    "olmo2": ("olmo2", {}),
    "gpt_neox": ("gpt_neox", {}),
    "gpt_neox, one after the other, no biases": ("gpt_neox", {"use_parallel_residual": False, "rotary_pct": 0.5,
                                                              "attention_bias": False}),
    "phi": ("phi", {}),
    "phi, norms of heads": ("phi", {"qk_layernorm": True, "num_key_value_heads": 2, "partial_rotary_factor": 0.75}),
    "starcoder2": ("starcoder2", {}),
    "starcoder2, no biases": ("starcoder2", {"use_bias": False, "tie_word_embeddings": False}),
    "stablelm": ("stablelm", {}),
    "stablelm, the largest": ("stablelm", {"qk_layernorm": True, "use_parallel_residual": True, "use_qkv_bias": True}),
    "falcon": ("falcon", {}),
    "falcon, two norms": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon, one norm": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 3, "num_ln_in_parallel_attn": 1,
                                    "tie_word_embeddings": False}),
    "bloom": ("bloom", {}),
    "bloom, three heads": ("bloom", {"n_head": 3, "tie_word_embeddings": False}),
    "mpt": ("mpt", {}),
    "mpt, held within bounds": ("mpt", {"n_heads": 6, "attn_config": {"clip_qkv": 1.5}}),
    "gpt2": ("gpt2", {}),
    "gpt2, not tied": ("gpt2", {"tie_word_embeddings": False, "n_inner": 77, "layer_norm_epsilon": 1e-3}),
    **gguf_dense_b.VARIANTS,
}  # fmt: skip
DTYPES = ("float16", "bfloat16", "float32")


def test_every_architecture_is_here() -> None:
    names = {"mistral": "llama", **gguf_dense_a.ARCHITECTURES, **gguf_dense_b.ARCHITECTURES}
    dense = {names.get(family, family) for family, _ in VARIANTS.values()}
    elsewhere = {"deepseek2", "lfm2", "mamba2", "qwen3next"}  # in test_latent and test_gguf_stateful
    assert dense | set(gguf_moe.ARCHITECTURES.values()) | elsewhere == set(ARCHITECTURES)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", VARIANTS)
def test_the_bits_of_the_folder(tmp_path: Path, name: str, dtype: str) -> None:
    """Also packed, and with the layers stored as asked."""
    family, overrides = VARIANTS[name]
    folder = tiny_decoders.make(tmp_path / "folder", family, dtype=dtype, **overrides)
    file = gguf_models.make(tmp_path / "m.gguf", family, dtype=dtype, **overrides)
    assert_one_model(file, folder, tmp_path / "m.fastattn")


def test_layers_of_several_types(tmp_path: Path) -> None:
    """Each product keeps the halves that all of its tensors are; of anything else it is float32."""
    c = tiny_decoders.config("llama")
    arrays = tiny_decoders.tensors(c)
    tensors = gguf_models.tensors_of(c, arrays, "float16")
    wide = gguf_models.tensors_of(c, arrays, "bfloat16")
    for name in ("blk.0.ffn_down.weight", "blk.1.attn_k.weight", "output.weight"):
        tensors[name] = wide[name]
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes(gguf_models.fields_of(c), tensors))
    model = fa.load(path)
    packed = fa.pack(path, tmp_path / "m.fastattn")
    assert logits_of(fa.load(packed)) == logits_of(model)
    metadata = fa.open_weights(packed).metadata
    assert metadata["dtype"] == "stored"
    assert '"model.layers.0.mlp.down_proj":"bfloat16"' in metadata["dtypes"]
    assert '"model.layers.1.self_attn.q_proj+model.layers.1.self_attn.k_proj+' in metadata["dtypes"]
    assert metadata["gguf_types"] == "BF16 F16 F32" and metadata["dequantized"] == ""
    with pytest.raises(ValueError, match="dtype: got 'float16', but .* was packed as 'stored'"):
        fa.load(packed, "float16")


def test_blocks_as_float32(tmp_path: Path) -> None:
    """Asked for, they are the file's own values, and the packed file says what it is of; else they stay blocks."""
    rng = np.random.default_rng(3)
    c = tiny_decoders.config(
        "llama", hidden_size=64, num_attention_heads=4, num_key_value_heads=2, intermediate_size=96
    )
    tensors = gguf_models.tensors_of(c, tiny_decoders.tensors(c), "float16")
    for name, array in tensors.items():
        if name.endswith("weight") and array.ndim == 2:
            blocks = rng.integers(0, 256, (array.size // 32, 18), np.uint8)
            blocks[:, :2] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
            tensors[name] = Tensor("Q4_0", array.shape, blocks.tobytes())
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes(gguf_models.fields_of(c), tensors))
    plain = tmp_path / "plain.gguf"
    values = fa.open_weights(path)
    plain.write_bytes(gguf_bytes(gguf_models.fields_of(c), {name: values.as_float32(name) for name in values}))
    assert logits_of(fa.load(path)) != logits_of(fa.load(plain)) == logits_of(fa.load(path, "float32"))
    packed = fa.pack(path, tmp_path / "m.fastattn", "float32")
    assert logits_of(fa.load(packed)) == logits_of(fa.load(plain))
    metadata = fa.open_weights(packed).metadata
    assert (metadata["dtype"], metadata["gguf_types"], metadata["dequantized"]) == ("float32", "F32 Q4_0", "Q4_0")


@pytest.mark.parametrize("family", ["llama", "qwen2", "granite"])
def test_queries_keys_and_values_in_one_tensor(tmp_path: Path, family: str) -> None:
    """As newer converters may lay them: the bits of separate ones."""
    overrides: dict[str, Any] = {} if family == "qwen2" else {"attention_bias": True}
    c = tiny_decoders.config(family, **overrides)
    tensors = gguf_models.tensors_of(c, tiny_decoders.tensors(c), "float16")
    joined = {name: array for name, array in tensors.items() if ".attn_q." not in name}
    for name in tensors:
        if ".attn_q." in name:
            parts = [name.replace("attn_q", role) for role in ("attn_q", "attn_k", "attn_v")]
            joined[name.replace("attn_q", "attn_qkv")] = np.concatenate([tensors[part] for part in parts])
            for part in parts[1:]:
                del joined[part]
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes(gguf_models.fields_of(c), joined))
    expected = logits_of(fa.load(gguf_models.make(tmp_path / "s.gguf", family, **overrides)))
    assert logits_of(fa.load(path)) == expected
    assert logits_of(fa.load(fa.pack(path, tmp_path / "m.fastattn"))) == expected
    joined["blk.1.attn_qkv.weight"] = joined["blk.1.attn_qkv.weight"][:-1]
    path.write_bytes(gguf_bytes(gguf_models.fields_of(c), joined))
    with pytest.raises(
        ValueError, match=r"tensor 'blk\.1\.attn_qkv\.weight' has shape .* rows of queries, keys and values"
    ):
        fa.load(path)


def test_divisors_of_frequencies(tmp_path: Path) -> None:
    """rope_freqs.weight: Llama 3's scaling, which has no key."""
    c = tiny_decoders.config("llama")
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    base = 1000.0 ** (np.arange(0, 8, 2) / 8)
    smooth = np.clip((32 / (2 * np.pi * base) - 1) / (4 - 1), 0, 1)
    divisors = (1 / ((1 - smooth) / 8 + smooth)).astype(np.float32)
    tensors = gguf_models.tensors_of(c, tiny_decoders.tensors(c), "float32") | {"rope_freqs.weight": divisors}
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes(gguf_models.fields_of(c), tensors))
    folder = tiny_decoders.make(tmp_path / "f", "llama", rope_scaling={"rope_type": "llama3", **scaling})
    ids, mask = tiny_decoders.batch(c)
    got, expected = (fa.load(one)(ids, mask).logits for one in (path, folder))
    assert np.abs(got - expected).max() < 1e-4 * np.abs(expected).max()
    plain = fa.load(tiny_decoders.make(tmp_path / "g", "llama"))(ids, mask).logits
    assert np.abs(plain - expected).max() > 1e-2 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("kind", "keys", "scaling"),
    [
        ("linear", {"factor": 2.5}, {"rope_type": "linear", "factor": 2.5}),
        ("yarn", {"factor": 4.0, "original_context_length": 24}, {
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24,
        }),
        ("none", {}, None),
    ],
)  # fmt: skip
def test_scaling_by_keys(tmp_path: Path, kind: str, keys: dict[str, Any], scaling: Any) -> None:
    more = {"qwen2.rope.scaling.type": kind, **{f"qwen2.rope.scaling.{key}": value for key, value in keys.items()}}
    file = gguf_models.make(tmp_path / "m.gguf", "qwen2", dtype="float32", more=more)
    folder = tiny_decoders.make(tmp_path / "f", "qwen2", rope_scaling=scaling)
    assert logits_of(fa.load(file)) == logits_of(fa.load(folder))


def test_two_lists_of_factors(tmp_path: Path) -> None:
    """Phi-3's, by tensors."""
    short, long = [1.0, 1.25, 1.5, 2.5], [1.5, 3.0, 7.0, 11.0]
    for trained in (12, 40):
        c = tiny_decoders.config("phi3", original_max_position_embeddings=trained)
        factors = {"rope_factors_short.weight": np.float32(short), "rope_factors_long.weight": np.float32(long)}
        tensors = gguf_models.tensors_of(c, tiny_decoders.tensors(c), "float32") | factors
        path = tmp_path / f"{trained}.gguf"
        path.write_bytes(gguf_bytes(gguf_models.fields_of(c) | {"phi3.rope.scaling.attn_factor": 1.25}, tensors))
        folder = tiny_decoders.make(
            tmp_path / str(trained), "phi3", original_max_position_embeddings=trained,
            rope_scaling={"type": "longrope", "short_factor": short, "long_factor": long, "attention_factor": 1.25},
        )  # fmt: skip
        assert logits_of(fa.load(path)) == logits_of(fa.load(folder))


WRONG_FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "an architecture without a page": (
        {"general.architecture": "mamba"}, "general.architecture is 'mamba', which is not supported; supported: "
    ),
    "no architecture": ({"general.architecture": ...}, "general.architecture is 'None'"),
    "a number as architecture": ({"general.architecture": 3}, "general.architecture is '3'"),
    "an adapter": ({"general.type": "adapter"}, "general.type is 'adapter', expected 'model'"),
    "no heads": ({"llama.attention.head_count": 0}, r"llama\.attention\.head_count is 0, expected a number from 1"),
    "heads that are not a multiple": ({"llama.attention.head_count_kv": 4}, "num_attention_heads 6 is not a multiple"),
    "no layers said": ({"llama.block_count": ...}, r"llama\.block_count is missing"),
    "heads by layer": (
        {"llama.attention.head_count": [6, 6, 5]}, r"head_count is .*expected the same number for all layers",
    ),
    "text for a size": ({"llama.embedding_length": "48"}, r"llama\.embedding_length is '48'"),
    "an epsilon that is no number": ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "a finite number"),
    "values of another length": ({"llama.attention.value_length": 16}, r"value_length is 16, expected 8"),
    "part of a head turns": ({"llama.rope.dimension_count": 4}, r"rope\.dimension_count is 4, expected 8"),
    "experts": ({"llama.expert_count": 8}, r"llama\.expert_used_count is missing, expected a number from 1"),
    "a window": ({"llama.attention.sliding_window": 64}, r"llama\.attention\.sliding_window is 64, expected 0"),
    "a cap on logits": ({"llama.final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
    "another kind of scaling": ({"llama.rope.scaling.type": "su"}, r"rope\.scaling\.type is 'su'"),
    "more layers than tensors": ({"llama.block_count": 4}, r"missing tensors 'blk\.3\.attn_norm\.weight'"),
    "fewer layers than tensors": ({"llama.block_count": 2}, r"no use for tensors 'blk\.2\.\w+\.weight'"),
    "other sizes than the tensors'": (
        {"llama.feed_forward_length": 81}, r"tensor 'blk\.0\.ffn_gate\.weight' has shape \[80, 48\]",
    ),
    "an end outside the vocabulary": ({"tokenizer.ggml.eos_token_id": 101}, "eos_token_id is 101, expected an id"),
    "an end below zero": ({"tokenizer.ggml.eos_token_id": I32(-1)}, "eos_token_id is -1, expected an id below 101"),
    "an end that is no integer": ({"tokenizer.ggml.eos_token_id": F32(2.0)}, "eos_token_id is 2.0"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_FIELDS)
def test_fields_that_cannot_be(tmp_path: Path, name: str) -> None:
    changes, message = WRONG_FIELDS[name]
    c = tiny_decoders.config("llama")
    fields = {**gguf_models.fields_of(c), **changes}
    fields = {key: value for key, value in fields.items() if value is not ...}
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes(fields, gguf_models.tensors_of(c, tiny_decoders.tensors(c), "float16")))
    with pytest.raises(ValueError, match=message) as raised:
        fa.load(path)
    assert str(path) in str(raised.value)


def test_tensors_that_cannot_be(tmp_path: Path) -> None:
    c = tiny_decoders.config("llama")
    fields, tensors = gguf_models.fields_of(c), gguf_models.tensors_of(c, tiny_decoders.tensors(c), "float16")
    path = tmp_path / "m.gguf"
    for name, message in (
        ("token_embd.weight", "no table token_embd.weight"),
        ("output_norm.weight", "missing tensor 'output_norm.weight'"),
        ("blk.1.ffn_norm.weight", "missing tensor 'blk.1.ffn_norm.weight'"),
        ("blk.2.attn_q.weight", "missing tensor 'blk.2.attn_q.weight'"),
    ):
        path.write_bytes(gguf_bytes(fields, {key: value for key, value in tensors.items() if key != name}))
        with pytest.raises(ValueError, match=message):
            fa.load(path)
    more = {**tensors, "blk.0.attn_sinks.weight": np.zeros(6, np.float32)}
    path.write_bytes(gguf_bytes(fields, more))
    with pytest.raises(ValueError, match=r"no use for tensor 'blk\.0\.attn_sinks\.weight'"):
        fa.load(path)
    assert "blk.0.attn_sinks.weight" in " ".join(fa.load(path, strict=False).notes)
    odd = {**tensors, "blk.0.attn_q.weight": np.zeros((47, 48), np.float16)}
    path.write_bytes(gguf_bytes(fields, odd))
    with pytest.raises(ValueError, match=r"tensor 'blk\.0\.attn_q\.weight' has shape \[47, 48\]"):
        fa.load(path)
    for other in (np.zeros(4, np.int32), np.zeros((2, 2), np.float32), np.float32([1, 0, 1, 1])):
        path.write_bytes(gguf_bytes(fields, {**tensors, "rope_freqs.weight": other}))
        with pytest.raises(ValueError, match=r"tensor 'rope_freqs\.weight'"):
            fa.load(path)


def test_keys_that_nobody_obeys_are_told(tmp_path: Path) -> None:
    more = {"llama.new_feature": 1, "general.quantized_by": "somebody", "other.key": U32(7)}
    model = fa.load(gguf_models.make(tmp_path / "m.gguf", "llama", more=more))
    assert model.notes == [f"{tmp_path / 'm.gguf'}: unknown key 'llama.new_feature'"]


def test_a_model_travels(tmp_path: Path) -> None:
    import pickle

    model = fa.load(gguf_models.make(tmp_path / "m.gguf", "qwen3"))
    again = pickle.loads(pickle.dumps(model))
    assert logits_of(again) == logits_of(model)
    gguf_models.make(tmp_path / "m.gguf", "qwen3", rms_norm_eps=1e-4)
    with pytest.raises(ValueError, match="not the weights"):
        pickle.loads(pickle.dumps(model))
