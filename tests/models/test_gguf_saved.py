# SPDX-License-Identifier: MIT
"""GGUF files beside those that a converter makes of a plain folder: saved by llama.cpp itself, which writes all keys
that any architecture has; with layers that guess further tokens; with tensors as older converters left them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_decoders, tiny_latent, tiny_states
from support import gguf_latent, gguf_models, gguf_moe, gguf_states
from support.gguf_files import gguf_bytes

import fastattn as fa

# what llama.cpp has under keys that the architecture does not read
UNSET: dict[str, Any] = {
    "swin_norm": False, "pooling_type": (1 << 32) - 1, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
    "router_logit_softcapping": 30.0, "logit_scale": 0.0, "embedding_scale": 0.0, "residual_scale": 0.0,
    "attention.scale": 0.0, "attention.clamp_kqv": 0.0, "attention.max_alibi_bias": 0.0, "attention.sliding_window": 0,
    "attention.causal": True, "expert_count": 0, "expert_used_count": 0, "expert_shared_count": 0,
    "expert_group_count": 0, "expert_group_used_count": 0, "expert_gating_func": 0, "expert_weights_norm": False,
    "expert_weights_scale": 0.0, "expert_feed_forward_length": 0, "nextn_predict_layers": 0,
    "leading_dense_block_count": 0, "rope.scaling.type": "linear", "rope.scaling.factor": 0.0,
    "rope.scaling.attn_factor": 1.0, "rope.scaling.yarn_ext_factor": -1.0, "rope.scaling.yarn_log_multiplier": 0.0,
    "rope.dimension_sections": np.zeros(4, np.int32), "ssm.inner_size": 0, "wkv.head_size": 0, "hash_layer_count": 0,
}  # fmt: skip

DENSE = ("llama", "qwen2", "qwen3", "phi3", "smollm3", "granite", "olmo", "olmo2", "gpt2", "phi", "starcoder2", "bloom",
         "gemma", "cohere", "exaone", "glm4", "nemotron", "arcee", "seed_oss", "ernie4_5", "falcon")  # fmt: skip


def logits(path: Path) -> bytes:
    ids, mask = tiny_decoders.batch({"vocab_size": 101})
    return bytes(fa.load(path)(ids, mask).logits.tobytes())


def rewritten(path: Path, change: Any) -> Path:
    """The file with what ``change`` makes of its fields and tensors, by their names."""
    file = fa.open_weights(path)
    fields, tensors = {**file.fields}, {name: np.array(file[name]) for name in file}
    change(fields, tensors)
    path = path.with_name(f"changed_{path.name}")
    path.write_bytes(gguf_bytes(fields, tensors))
    return path


def with_all_keys(fields: dict[str, Any], _: Any) -> None:
    architecture = fields["general.architecture"]
    for key, value in UNSET.items():
        fields.setdefault(f"{architecture}.{key}", value)


@pytest.mark.parametrize("family", DENSE)
def test_keys_that_llama_cpp_saves_for_every_model(tmp_path: Path, family: str) -> None:
    plain = gguf_models.make(tmp_path / "m.gguf", family)
    saved = rewritten(plain, with_all_keys)
    assert logits(saved) == logits(plain)
    assert fa.load(saved).notes == fa.load(plain).notes


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe", "gpt_oss"])
def test_keys_saved_of_experts(tmp_path: Path, family: str) -> None:
    overrides = {"mlp_only_layers": []} if family == "qwen2_moe" else {}
    plain = gguf_moe.make(tmp_path / "m.gguf", family, **overrides)
    assert logits(rewritten(plain, with_all_keys)) == logits(plain)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention.sliding_window", 64), ("attention.causal", False), ("attention.clamp_kqv", 8.0),
        ("final_logit_softcapping", 20.0), ("attention.max_alibi_bias", 8.0), ("use_parallel_residual", True),
        ("expert_count", 4), ("pooling_type", 9),
    ],
)  # fmt: skip
def test_a_saved_key_that_the_architecture_reads_is_no_less_refused(tmp_path: Path, key: str, value: Any) -> None:
    def change(fields: dict[str, Any], tensors: Any) -> None:
        with_all_keys(fields, tensors)
        fields[f"qwen2.{key}"] = value

    path = rewritten(gguf_models.make(tmp_path / "m.gguf", "qwen2"), change)
    with pytest.raises(ValueError, match=rf"qwen2\.{key} is {value}"):
        fa.load(path)


def test_the_slopes_that_bloom_always_has(tmp_path: Path) -> None:
    plain = gguf_models.make(tmp_path / "m.gguf", "bloom")
    saved = {slope: {"bloom.attention.max_alibi_bias": slope} for slope in (8.0, 4.0)}
    assert logits(gguf_models.make(tmp_path / "n.gguf", "bloom", more=saved[8.0])) == logits(plain)
    with pytest.raises(ValueError, match=r"max_alibi_bias is 4\.0, expected 8\.0"):
        fa.load(gguf_models.make(tmp_path / "n.gguf", "bloom", more=saved[4.0]))


def test_a_cap_is_refused_where_no_other_key_is_saved(tmp_path: Path) -> None:
    path = gguf_models.make(tmp_path / "m.gguf", "qwen2", more={"qwen2.final_logit_softcapping": 30.0})
    with pytest.raises(ValueError, match=r"final_logit_softcapping is 30\.0"):
        fa.load(path)


def test_windows_that_no_layer_has(tmp_path: Path) -> None:
    """llama.cpp saves the size of windows with every EXAONE 4, and which layers have them where some do."""
    plain = gguf_models.make(
        tmp_path / "m.gguf", "exaone4", sliding_window=None, layer_types=["full_attention"] * 3
    )  # fmt: skip

    def change(fields: dict[str, Any], tensors: Any) -> None:
        fields["exaone4.attention.sliding_window"] = 4
        with_all_keys(fields, tensors)

    assert logits(rewritten(plain, change)) == logits(plain)


@pytest.mark.parametrize(("family", "key"), [("nemotron", "layer_norm_rms"), ("exaone", "layer_norm")])
def test_the_epsilon_of_other_norms_says_nothing(tmp_path: Path, family: str, key: str) -> None:
    """Converters of both write two."""
    plain = gguf_models.make(tmp_path / "m.gguf", family)
    path = gguf_models.make(tmp_path / "n.gguf", family, more={f"{family}.attention.{key}_epsilon": 0.5})
    assert logits(path) == logits(plain) and fa.load(path).notes == []


def test_scores_of_granite_without_a_factor(tmp_path: Path) -> None:
    """1 / sqrt(head size), which is what llama.cpp does; converters write what config.json or its defaults say."""
    more = {"granite.attention.scale": 1 / 8**0.5}
    plain = gguf_models.make(tmp_path / "m.gguf", "granite", more=more)
    assert logits(rewritten(plain, lambda fields, _: fields.pop("granite.attention.scale"))) == logits(plain)


def test_a_bias_of_the_head_that_nobody_uses_is_refused(tmp_path: Path) -> None:
    """Folders may have one in vain; who puts it into a file means it."""
    plain = gguf_models.make(tmp_path / "m.gguf", "qwen2")
    path = rewritten(plain, lambda _, tensors: tensors.update({"output.bias": np.ones(101, np.float32)}))
    with pytest.raises(ValueError, match=r"no use for tensor 'output\.bias'"):
        fa.load(path)
    assert any("output.bias" in note for note in fa.load(path, strict=False).notes)


def test_positions_of_images_are_refused(tmp_path: Path) -> None:
    for sections in ([8, 12, 12, 0], "zeros"):
        path = gguf_models.make(tmp_path / "m.gguf", "glm4", more={"glm4.rope.dimension_sections": sections})
        with pytest.raises(ValueError, match=r"glm4\.rope\.dimension_sections is .*expected zeros"):
            fa.load(path)


# ---- layers that guess further tokens --------------------------------------------------------------------------------


def with_further(count: int) -> Any:
    def change(fields: dict[str, Any], tensors: dict[str, Any]) -> None:
        architecture = fields["general.architecture"]
        layers = fields[f"{architecture}.block_count"]
        fields[f"{architecture}.block_count"] = layers + count
        fields[f"{architecture}.nextn_predict_layers"] = count
        flags = fields.get(f"{architecture}.attention.recurrent_layers")
        if flags is not None:
            fields[f"{architecture}.attention.recurrent_layers"] = [*flags.tolist(), *[False] * count]
        for i in range(count):
            own = {name: array for name, array in tensors.items() if name.startswith("blk.1.")}
            tensors |= {name.replace("blk.1.", f"blk.{layers + i}."): array for name, array in own.items()}
            tensors[f"blk.{layers + i}.nextn.eh_proj.weight"] = np.ones((48, 96), np.float16)

    return change


@pytest.mark.parametrize("count", [1, 2])
def test_layers_that_guess_further_tokens_are_left_out(tmp_path: Path, count: int) -> None:
    for make, family in ((gguf_states.make, "qwen3_next"), (gguf_models.make, "exaone4")):
        plain = make(tmp_path / f"{family}.gguf", family)
        path = rewritten(plain, with_further(count))
        assert logits(path) == logits(plain)
        assert fa.load(path).notes == [f"{path}: not used: layers that guess further tokens, the last {count} of them"]


def test_more_layers_that_guess_than_layers(tmp_path: Path) -> None:
    for count in (3, 1 << 30):
        path = gguf_models.make(tmp_path / "m.gguf", "llama", more={"llama.nextn_predict_layers": count})
        with pytest.raises(ValueError, match=rf"nextn_predict_layers is {count}, expected fewer than 3, block_count"):
            fa.load(path)


# ---- tensors as other converters have them ---------------------------------------------------------------------------


def test_the_layer_of_states_as_the_first_converters_left_it(tmp_path: Path) -> None:
    """One tensor in the order of the folder, for which there are two now."""
    plain = gguf_states.make(tmp_path / "m.gguf", "qwen3_next")
    c = tiny_states.config("qwen3_next")
    folder = tiny_states.tensors(c)

    def change(_: Any, tensors: dict[str, Any]) -> None:
        for i in range(c["num_hidden_layers"]):
            name = f"model.layers.{i}.linear_attn.in_proj_qkvz.weight"
            if name in folder:
                del tensors[f"blk.{i}.attn_qkv.weight"], tensors[f"blk.{i}.attn_gate.weight"]
                tensors[f"blk.{i}.ssm_in.weight"] = folder[name].astype(np.float16)

    path = rewritten(plain, change)
    assert logits(path) == logits(plain)
    assert logits(fa.pack(path, tmp_path / "m.fastattn")) == logits(plain)


def test_gates_and_what_they_gate_in_one_tensor(tmp_path: Path) -> None:
    plain = gguf_states.make(tmp_path / "m.gguf", "qwen3_next")

    def change(_: Any, tensors: dict[str, Any]) -> None:
        for name in [name for name in tensors if "ffn_gate_exps" in name]:
            parts = [tensors.pop(name), tensors.pop(name.replace("gate", "up"))]
            tensors[name.replace("gate", "gate_up")] = np.concatenate(parts, 1)

    assert logits(rewritten(plain, change)) == logits(plain)


def test_latents_of_a_single_head_have_two_dimensions(tmp_path: Path) -> None:
    """As every tensor whose last dimension in llama.cpp's order is 1."""
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1}
    plain = gguf_latent.make(tmp_path / "m.gguf", "deepseek_v2", **heads)

    def change(_: Any, tensors: dict[str, Any]) -> None:
        for name in tensors:
            if "attn_k_b" in name or "attn_v_b" in name:
                tensors[name] = tensors[name][0]

    ids = tiny_latent.batch(tiny_latent.config("deepseek_v2", **heads))[0]
    found = [fa.load(path)(ids).logits for path in (plain, rewritten(plain, change))]
    assert np.array_equal(*found)
