# SPDX-License-Identifier: MIT
"""Small folders of decoders with experts, made as ``tiny_decoders`` makes its own: a tensor for each expert where files
were published so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from . import tiny_decoders
from .tiny_bert import Array, save_safetensors
from .tiny_decoders import Shapes, heads

_COMMON: dict[str, Any] = {**tiny_decoders.BASE["llama"], "num_experts_per_tok": 2, "output_router_logits": False,
                           "router_aux_loss_coef": 0.01}  # fmt: skip
for _key in ("attention_bias", "mlp_bias", "pretraining_tp"):
    del _COMMON[_key]

BASE: dict[str, dict[str, Any]] = {
    "mixtral": {**_COMMON, "num_local_experts": 5, "sliding_window": None, "head_dim": None, "intermediate_size": 40,
                "router_jitter_noise": 0.0},
    "qwen2_moe": {**_COMMON, "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 20,
                  "shared_expert_intermediate_size": 33, "norm_topk_prob": False, "decoder_sparse_step": 1,
                  "mlp_only_layers": [1], "use_sliding_window": False, "sliding_window": 5, "max_window_layers": 3,
                  "num_key_value_heads": 3},
    "qwen3_moe": {**_COMMON, "num_experts": 7, "moe_intermediate_size": 17, "norm_topk_prob": True, "head_dim": 16,
                  "attention_bias": False, "decoder_sparse_step": 1, "mlp_only_layers": [], "sliding_window": None,
                  "use_sliding_window": False, "max_window_layers": 2},
    "olmoe": {**_COMMON, "num_experts": 6, "num_experts_per_tok": 3, "intermediate_size": 24, "norm_topk_prob": False,
              "clip_qkv": 1.5, "attention_bias": False},
    "granitemoe": {**_COMMON, "num_local_experts": 4, "intermediate_size": 20, "attention_bias": False,
                   "embedding_multiplier": 3.0, "attention_multiplier": 0.21, "residual_multiplier": 0.75,
                   "logits_scaling": 1.7},
    "gpt_oss": {**{key: _COMMON[key] for key in _COMMON if key != "rope_theta"}, "num_local_experts": 4,
                "intermediate_size": 24, "head_dim": 8, "sliding_window": 4,
                "attention_bias": True, "swiglu_alpha": 1.702, "swiglu_limit": 0.5,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0}},
    "llama4_text": {**_COMMON, "num_experts_per_tok": 1, "num_local_experts": 4, "intermediate_size": 22,
                    "intermediate_size_mlp": 50, "num_hidden_layers": 4, "head_dim": 8, "attention_bias": False,
                    "interleave_moe_layer_step": 2, "attention_chunk_size": 6, "use_qk_norm": True, "floor_scale": 4,
                    "attn_scale": 0.3, "attn_temperature_tuning": True, "router_jitter_noise": 0.0},
}  # fmt: skip
"""config.json of each family, in the spelling of transformers 4."""

CLASSES = {"mixtral": "Mixtral", "qwen2_moe": "Qwen2Moe", "qwen3_moe": "Qwen3Moe", "olmoe": "Olmoe",
           "granitemoe": "GraniteMoe", "gpt_oss": "GptOss", "llama4_text": "Llama4"}  # fmt: skip

_FULL, _LOCAL = "full_attention", "sliding_attention"
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "truncate": False}

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("mixtral", {}),
    "mixtral, a window, one of two": ("mixtral", {"sliding_window": 4, "num_local_experts": 2, "dtype": "bfloat16",
                                                  "num_experts_per_tok": 1}),
    "mixtral, all of three, tied": ("mixtral", {"num_local_experts": 3, "num_experts_per_tok": 3,
                                                "tie_word_embeddings": True, "hidden_act": "gelu"}),
    "mixtral, one expert": ("mixtral", {"num_local_experts": 1, "num_experts_per_tok": 1, "intermediate_size": 1}),
    "mixtral, nobody takes most": ("mixtral", {"num_local_experts": 150, "num_hidden_layers": 1,
                                               "intermediate_size": 3}),
    "qwen2_moe": ("qwen2_moe", {}),
    "qwen2_moe, every other layer, divided": ("qwen2_moe", {"decoder_sparse_step": 2, "norm_topk_prob": True,
                                                            "mlp_only_layers": None, "dtype": "float16"}),
    "qwen2_moe, windows by turns, no biases": (
        "qwen2_moe", {"use_sliding_window": True, "qkv_bias": False, "max_window_layers": 2,
                      "shared_expert_intermediate_size": 1},
    ),
    "qwen2_moe, windows by name": ("qwen2_moe", {"use_sliding_window": True, "layer_types": [_FULL, _LOCAL, _LOCAL]}),
    "qwen3_moe": ("qwen3_moe", {}),
    "qwen3_moe, as it comes, biases": ("qwen3_moe", {"norm_topk_prob": False, "attention_bias": True, "head_dim": ...,
                                                     "num_experts": ..., "num_local_experts": 4}),
    "qwen3_moe, a window, some layers dense": ("qwen3_moe", {"use_sliding_window": True, "sliding_window": 5,
                                                             "mlp_only_layers": [0, 2], "num_key_value_heads": 3}),
    "qwen3_moe, yarn": ("qwen3_moe", {"rope_scaling": {**_YARN, "truncate": True}, "dtype": "bfloat16"}),
    "olmoe": ("olmoe", {}),
    "olmoe, no bound, divided, all": ("olmoe", {"clip_qkv": None, "norm_topk_prob": True, "num_experts_per_tok": 6}),
    "olmoe, biases, tied": ("olmoe", {"attention_bias": True, "tie_word_embeddings": True, "num_key_value_heads": 6}),
    "granitemoe": ("granitemoe", {}),
    "granitemoe, one of four, no factors": (
        "granitemoe", {**dict.fromkeys(("embedding_multiplier", "residual_multiplier", "logits_scaling"), ...),
                       "attention_multiplier": 0.25, "num_experts_per_tok": 1, "attention_bias": True},
    ),
    "gpt_oss": ("gpt_oss", {}),
    "gpt_oss, layers by name, all": ("gpt_oss", {"layer_types": [_FULL, _LOCAL, _LOCAL], "num_experts_per_tok": 4}),
    "gpt_oss, yarn": ("gpt_oss", {"rope_parameters": {**_YARN, "rope_theta": 500.0},
                                  "swiglu_limit": 7.0, "num_key_value_heads": 3, "dtype": "bfloat16"}),
    "llama4_text": ("llama4_text", {}),
    "llama4_text, layers by list, two of three": (
        "llama4_text", {"moe_layers": [0, 3], "num_experts_per_tok": 2, "num_local_experts": 3, "dtype": "bfloat16",
                        "no_rope_layers": [0, 1, 1, 0], "use_qk_norm": False, "interleave_moe_layer_step": 1,
                        "attention_chunk_size": 3},
    ),
    "llama4_text, no chunks, tied, biases": (
        "llama4_text", {"attention_chunk_size": None, "tie_word_embeddings": True, "attention_bias": True,
                        "no_rope_layer_interval": 2, "attn_temperature_tuning": False, "num_key_value_heads": 6,
                        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                                         "high_freq_factor": 4.0, "original_max_position_embeddings": 32}},
    ),
    "llama4_text, one layer, chunks by name": (
        "llama4_text", {"num_hidden_layers": 1, "layer_types": ["chunked_attention"], "num_local_experts": 1,
                        "interleave_moe_layer_step": 1, "attention_chunk_size": 5, "vocab_size": 9},
    ),
}  # fmt: skip
"""Name -> (family, what differs from its ``BASE``)."""


def config(family: str, **overrides: Any) -> dict[str, Any]:
    """config.json of a family; ``...`` takes a key away, ``dtype`` is not one of it."""
    overrides.pop("dtype", None)
    values = {**BASE[family], "model_type": family, "architectures": [CLASSES[family] + "ForCausalLM"], **overrides}
    return {key: value for key, value in values.items() if value is not ...}


def is_sparse(c: dict[str, Any], layer: int) -> bool:
    """Whether a layer has experts."""
    if c["model_type"] == "llama4_text":
        named = c.get("moe_layers")
        return layer in named if named is not None else (layer + 1) % c["interleave_moe_layer_step"] == 0
    return (layer + 1) % c.get("decoder_sparse_step", 1) == 0 and layer not in (c.get("mlp_only_layers") or ())


def experts(c: dict[str, Any]) -> int:
    """How many experts a layer has."""
    found: int = c.get("num_experts") or c["num_local_experts"]
    return found


def shapes(c: dict[str, Any]) -> Shapes:
    """Tensors of ``…ForCausalLM`` by the names under which files were published."""
    family, hidden, inner = c["model_type"], c["hidden_size"], c["intermediate_size"]
    queries, keys, size = heads(c)
    found: Shapes = {"model.embed_tokens.weight": (c["vocab_size"], hidden)}

    def linear(name: str, outputs: int, inputs: int, bias: Any = False) -> None:
        found[f"{name}.weight"] = (outputs, inputs)
        if bias:
            found[f"{name}.bias"] = (outputs,)

    def gated(name: str, inner: int) -> None:
        linear(f"{name}.gate_proj", inner, hidden)
        linear(f"{name}.up_proj", inner, hidden)
        linear(f"{name}.down_proj", hidden, inner)

    bias = c.get("attention_bias", family == "gpt_oss")
    turned = c.get("qkv_bias", True) if family == "qwen2_moe" else bias
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            found[f"{layer}.{norm}.weight"] = (hidden,)
        for part, count in (("q", queries), ("k", keys), ("v", keys)):
            linear(f"{layer}.self_attn.{part}_proj", count * size, hidden, turned)
        linear(f"{layer}.self_attn.o_proj", hidden, queries * size, bias)
        if family in ("qwen3_moe", "olmoe"):
            each = family == "qwen3_moe"
            found[f"{layer}.self_attn.q_norm.weight"] = (size if each else queries * size,)
            found[f"{layer}.self_attn.k_norm.weight"] = (size if each else keys * size,)
        if family == "gpt_oss":
            found[f"{layer}.self_attn.sinks"] = (queries,)
        _feed_forward(c, i, f"{layer}.", found, linear, gated, hidden, inner)
    found["model.norm.weight"] = (hidden,)
    if not c.get("tie_word_embeddings", False):
        linear("lm_head", c["vocab_size"], hidden)
    return found


def _feed_forward(
    c: dict[str, Any], i: int, layer: str, found: Shapes, linear: Any, gated: Any, hidden: int, inner: int
) -> None:
    family, count = c["model_type"], experts(c)
    if family == "llama4_text":
        place = f"{layer}feed_forward"
        if not is_sparse(c, i):
            gated(place, c["intermediate_size_mlp"])
            return
        found[f"{place}.experts.gate_up_proj"] = (count, hidden, 2 * inner)
        found[f"{place}.experts.down_proj"] = (count, inner, hidden)
        linear(f"{place}.router", count, hidden)
        gated(f"{place}.shared_expert", inner)
    elif not is_sparse(c, i):
        gated(f"{layer}mlp", inner)
    elif family == "granitemoe":
        found[f"{layer}block_sparse_moe.input_linear.weight"] = (count, 2 * inner, hidden)
        found[f"{layer}block_sparse_moe.output_linear.weight"] = (count, hidden, inner)
        linear(f"{layer}block_sparse_moe.router.layer", count, hidden)
    elif family == "gpt_oss":
        found[f"{layer}mlp.experts.gate_up_proj"] = (count, hidden, 2 * inner)
        found[f"{layer}mlp.experts.gate_up_proj_bias"] = (count, 2 * inner)
        found[f"{layer}mlp.experts.down_proj"] = (count, inner, hidden)
        found[f"{layer}mlp.experts.down_proj_bias"] = (count, hidden)
        linear(f"{layer}mlp.router", count, hidden, True)
    elif family == "mixtral":
        for e in range(count):
            for part, shape in (("w1", (inner, hidden)), ("w2", (hidden, inner)), ("w3", (inner, hidden))):
                linear(f"{layer}block_sparse_moe.experts.{e}.{part}", *shape)
        linear(f"{layer}block_sparse_moe.gate", count, hidden)
    else:
        for e in range(count):
            gated(f"{layer}mlp.experts.{e}", c.get("moe_intermediate_size", inner))
        linear(f"{layer}mlp.gate", count, hidden)
        if family == "qwen2_moe":
            gated(f"{layer}mlp.shared_expert", c["shared_expert_intermediate_size"])
            linear(f"{layer}mlp.shared_expert_gate", 1, hidden)


def _numbers(name: str, shape: tuple[int, ...], seed: int) -> Array:
    if len(shape) == 3 or name.endswith("_bias"):
        return np.stack([_numbers(f"{name}.{e}", shape[1:], seed) for e in range(shape[0])])
    return tiny_decoders.numbers(name, shape, seed)


def tensors(c: dict[str, Any], *, seed: int = 0, dtype: str = "float32") -> dict[str, Array]:
    """Weights of the model that ``c`` describes; those of ``dtype="bfloat16"`` are bits."""
    return tiny_decoders.as_stored({name: _numbers(name, shape, seed) for name, shape in shapes(c).items()}, dtype)


def stacked(arrays: dict[str, Array]) -> dict[str, Array]:
    """The same tensors as transformers 5 keeps them in memory, and may write them: those of all experts in one."""
    found: dict[str, Array] = {}
    for name, array in arrays.items():
        layer, mark, rest = name.partition(".experts.")
        number, _, part = rest.partition(".")
        part = part.removesuffix(".weight")
        if not mark or not number.isdigit():
            found[name.replace("block_sparse_moe", "mlp")] = array
        elif part in ("gate_proj", "w1"):
            other = "up_proj" if part == "gate_proj" else "w3"
            pair = f"{layer}.experts.{{}}.{{}}.weight"
            count = sum(1 for e in range(len(arrays)) if pair.format(e, part) in arrays) if number == "0" else 0
            if count:
                parts = [np.concatenate([arrays[pair.format(e, p)] for p in (part, other)]) for e in range(count)]
                found[f"{layer.replace('block_sparse_moe', 'mlp')}.experts.gate_up_proj"] = np.stack(parts)
        elif part in ("down_proj", "w2") and number == "0":
            key = f"{layer}.experts.{{}}.{part}.weight"
            parts = [arrays[key.format(e)] for e in range(len(arrays)) if key.format(e) in arrays]
            found[f"{layer.replace('block_sparse_moe', 'mlp')}.experts.down_proj"] = np.stack(parts)
    return found


def make(folder: Path, family: str, *, seed: int = 0, dtype: str = "float32", **overrides: Any) -> Path:
    """Write config.json and model.safetensors of a model of ``family``, and return the folder."""
    c = config(family, **overrides)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**c, "torch_dtype": dtype}))
    save_safetensors(folder / "model.safetensors", tensors(c, seed=seed, dtype=dtype))
    return folder


def variant(folder: Path, name: str, *, seed: int = 0) -> Path:
    """Write the folder of a name in ``VARIANTS``, and return it."""
    family, overrides = VARIANTS[name]
    return make(folder, family, seed=seed, **overrides)


batch = tiny_decoders.batch
