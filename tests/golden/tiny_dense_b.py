# SPDX-License-Identifier: MIT
"""Small folders of Gemma and of other decoders whose layers are put together in other ways than Llama's: configurations
and shapes, which ``tiny_decoders`` makes folders of."""

from __future__ import annotations

from typing import Any

Shapes = dict[str, tuple[int, ...]]
Config = dict[str, Any]

_COMMON: Config = {
    "vocab_size": 101, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2,
    "intermediate_size": 80, "max_position_embeddings": 96, "initializer_range": 0.02, "use_cache": True,
    "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "attention_bias": False,
    "rope_theta": 1000.0,
}  # fmt: skip
_PLAIN = {key: value for key, value in _COMMON.items() if key != "attention_bias"}
_FULL, _LOCAL = "full_attention", "sliding_attention"

BASE: dict[str, Config] = {
    "gemma": {**_COMMON, "head_dim": 16, "hidden_act": "gelu", "hidden_activation": None, "rms_norm_eps": 1e-5},
    "gemma2": {**_COMMON, "head_dim": 16, "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh",
               "rms_norm_eps": 1e-5, "query_pre_attn_scalar": 10, "sliding_window": 5, "attn_logit_softcapping": 6.0,
               "final_logit_softcapping": 25.0, "cache_implementation": "hybrid"},
    "gemma3_text": {**_COMMON, "head_dim": 16, "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-5,
                    "query_pre_attn_scalar": 10, "sliding_window": 5, "sliding_window_pattern": 2,
                    "attn_logit_softcapping": None, "final_logit_softcapping": None, "rope_local_base_freq": 50.0,
                    "rope_scaling": None, "cache_implementation": "hybrid"},
    "cohere": {**_COMMON, "hidden_act": "silu", "layer_norm_eps": 1e-5, "logit_scale": 0.3, "use_qk_norm": False,
               "model_max_length": 200, "pretraining_tp": 1},
    "cohere2": {**_COMMON, "hidden_act": "silu", "layer_norm_eps": 1e-5, "logit_scale": 0.3, "sliding_window": 5,
                "sliding_window_pattern": 2, "position_embedding_type": "rope_gptj", "rotary_pct": 1.0,
                "use_gated_activation": True, "use_parallel_block": True, "use_parallel_embedding": True,
                "use_embedding_sharing": True, "layer_switch": 2, "order_of_interleaved_layers": "local_attn_first",
                "cache_implementation": "hybrid"},
    "arcee": {**_COMMON, "hidden_act": "relu2", "rms_norm_eps": 1e-5, "mlp_bias": False},
    "seed_oss": {**_COMMON, "head_dim": 16, "hidden_act": "silu", "rms_norm_eps": 1e-5, "mlp_bias": False,
                 "attention_bias": True, "attention_out_bias": False, "residual_dropout": 0.1, "pretraining_tp": 1},
    "ernie4_5": {**_PLAIN, "head_dim": 16, "hidden_act": "silu", "rms_norm_eps": 1e-5, "use_bias": False},
    "helium": {**_COMMON, "head_dim": 8, "hidden_act": "silu", "rms_norm_eps": 1e-5, "mlp_bias": False},
    "hunyuan_v1_dense": {**_COMMON, "head_dim": 16, "hidden_act": "silu", "rms_norm_eps": 1e-5, "use_qk_norm": True,
                         "attention_head_dim": 16, "eod_token_id": 3, "pretraining_tp": 1},
    "exaone": {**_COMMON, "hidden_act": "silu", "rms_norm_eps": 1e-5, "mlp_bias": False},
    "exaone4": {**_PLAIN, "hidden_act": "silu",
                "rms_norm_eps": 1e-5, "sliding_window": 5, "sliding_window_pattern": 2},
    "glm": {**_COMMON, "head_dim": 16, "hidden_act": "silu", "rms_norm_eps": 1e-5, "partial_rotary_factor": 0.5,
            "attention_bias": True},
    "glm4": {**_COMMON, "head_dim": 16, "hidden_act": "silu", "rms_norm_eps": 1e-5, "partial_rotary_factor": 0.5,
             "attention_bias": True},
    "nemotron": {**_COMMON, "hidden_act": "relu2", "norm_eps": 1e-5, "partial_rotary_factor": 0.5, "mlp_bias": False},
    "olmo": {**_COMMON, "hidden_act": "silu", "clip_qkv": 1.5},
    "olmo3": {**_COMMON, "hidden_act": "silu", "rms_norm_eps": 1e-5, "sliding_window": 5, "rope_theta": 500000.0,
              "num_hidden_layers": 4},
}  # fmt: skip
"""config.json of each family, in the spelling of transformers 4."""

CLASSES = {
    "gemma": "Gemma", "gemma2": "Gemma2", "gemma3_text": "Gemma3", "cohere": "Cohere", "cohere2": "Cohere2",
    "exaone": "Exaone", "exaone4": "Exaone4", "glm": "Glm", "glm4": "Glm4", "arcee": "Arcee", "seed_oss": "SeedOss",
    "ernie4_5": "Ernie4_5", "helium": "Helium", "hunyuan_v1_dense": "HunYuanDenseV1",
    "nemotron": "Nemotron", "olmo": "Olmo", "olmo3": "Olmo3",
}  # fmt: skip

TIED = dict.fromkeys(("gemma", "gemma2", "gemma3_text", "cohere", "cohere2", "ernie4_5"), True)
"""tie_word_embeddings where config.json has no such key: false for all but these."""

DEFAULTS: dict[str, tuple[str, ...]] = {
    "gemma": ("hidden_act", "attention_bias"),
    "gemma2": ("hidden_activation", "hidden_act", "attention_bias", "cache_implementation"),
    "gemma3_text": ("hidden_activation", "attention_bias", "attn_logit_softcapping", "final_logit_softcapping"),
    "cohere": ("hidden_act", "attention_bias", "layer_norm_eps", "use_qk_norm", "pretraining_tp"),
    "cohere2": ("hidden_act", "attention_bias", "layer_norm_eps", "position_embedding_type", "rotary_pct"),
    "arcee": ("hidden_act", "attention_bias", "mlp_bias", "rms_norm_eps"),
    "seed_oss": ("hidden_act", "attention_bias", "attention_out_bias", "mlp_bias"),
    "ernie4_5": ("hidden_act", "use_bias", "rms_norm_eps"),
    "helium": ("hidden_act", "attention_bias", "mlp_bias"),
    "hunyuan_v1_dense": ("hidden_act", "attention_bias", "rms_norm_eps", "use_qk_norm"),
    "exaone": ("hidden_act", "attention_bias", "mlp_bias", "rms_norm_eps"),
    "exaone4": ("hidden_act", "rms_norm_eps"),
    "glm": ("hidden_act", "attention_bias", "partial_rotary_factor"),
    "glm4": ("hidden_act", "attention_bias", "partial_rotary_factor"),
    "nemotron": ("hidden_act", "attention_bias", "norm_eps", "partial_rotary_factor", "mlp_bias"),
    "olmo": ("hidden_act", "attention_bias"),
    "olmo3": ("hidden_act", "attention_bias", "rope_theta", "rms_norm_eps"),
}
"""Keys of ``BASE`` that have there what transformers takes where they are missing."""

OWN: dict[str, Config] = {
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "sliding_window": 9, "query_pre_attn_scalar": 20, "attn_logit_softcapping": 5.0,
               "final_logit_softcapping": 4.0},
    "gemma3_text": {"head_dim": 8, "sliding_window": 9, "query_pre_attn_scalar": 20, "layer_types": None},
    "cohere": {"use_qk_norm": True, "logit_scale": 0.7},
    "cohere2": {"sliding_window": 9, "logit_scale": 1.5},
    "arcee": {"attention_bias": True, "mlp_bias": True},
    "seed_oss": {"head_dim": 8, "attention_out_bias": True},
    "ernie4_5": {"head_dim": 8, "use_bias": True},
    "helium": {"mlp_bias": True},
    "hunyuan_v1_dense": {"head_dim": 8, "attention_bias": True},
    "exaone": {"attention_bias": True, "mlp_bias": True},
    "exaone4": {"sliding_window": 9},
    "glm": {"head_dim": 8},
    "glm4": {"head_dim": 12, "attention_bias": False},
    "nemotron": {"attention_bias": True, "mlp_bias": True},
    "olmo": {"clip_qkv": 2.5},
    "olmo3": {"sliding_window": 9, "attention_bias": True},
}  # fmt: skip
"""Further values of random models of transformers."""


def _old(kind: str, key: str = "rope_type", **values: Any) -> Config:
    """Rotary keys as transformers 4 writes them, or with ``type`` as its first versions did."""
    return {"rope_scaling": {key: kind, **values}}


def _nested(full: Config, sliding: Config) -> Config:
    """Rotary keys by kinds of layers, as transformers 5 writes them."""
    return {"rope_theta": ..., "rope_local_base_freq": ..., "rope_parameters": {_FULL: full, _LOCAL: sliding}}


_HEADS_OF_10: Config = {"hidden_size": 50, "num_attention_heads": 5, "num_key_value_heads": 5, "num_hidden_layers": 1,
                        "vocab_size": 7, "intermediate_size": 1}  # fmt: skip

# ``...`` takes a key away; "dtype" is how the weights are stored.
VARIANTS: dict[str, tuple[str, Config]] = {
    "gemma": ("gemma", {}),
    "gemma, one key head, untied": ("gemma", {"num_key_value_heads": 1, "tie_word_embeddings": False,
                                              "hidden_act": "gelu_pytorch_tanh"}),
    "gemma, heads of 10": ("gemma", {**_HEADS_OF_10, "head_dim": 10}),
    "gemma, biases, halves": ("gemma", {"attention_bias": True, "dtype": "bfloat16", "rms_norm_eps": ...,
                                        "hidden_activation": "gelu_pytorch_tanh"}),
    "gemma, linear": ("gemma", _old("linear", "type", factor=2.5)),
    "gemma2": ("gemma2", {}),
    "gemma2, no caps": ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "gemma2, a window of the token itself, untied": (
        "gemma2", {"sliding_window": 1, "tie_word_embeddings": False, "num_key_value_heads": 6},
    ),
    "gemma2, layers by name, biases": (
        "gemma2", {"layer_types": [_FULL, _LOCAL, _LOCAL], "attention_bias": True, "dtype": "bfloat16"},
    ),
    "gemma2, heads of 10": ("gemma2", {**_HEADS_OF_10, "head_dim": 10, "sliding_window": 4}),
    "gemma3_text": ("gemma3_text", {}),
    "gemma3_text, caps, untied": ("gemma3_text", {"final_logit_softcapping": 20.0, "tie_word_embeddings": False,
                                                  "num_key_value_heads": 1}),
    "gemma3_text, linear": ("gemma3_text", {**_old("linear", factor=8.0), "dtype": "bfloat16"}),
    "gemma3_text, positions by kind": (
        "gemma3_text", {**_nested({"rope_type": "linear", "factor": 2.0, "rope_theta": 400.0},
                                  {"rope_type": "default", "rope_theta": 30.0}),
                        "layer_types": [_FULL, _LOCAL, _LOCAL]},
    ),
    "gemma3_text, positions of one kind": (
        "gemma3_text", {**_nested({"rope_type": "default"}, {"rope_type": "default", "rope_theta": 30.0}),
                        "sliding_window_pattern": 1},
    ),
    "gemma3_text, six layers": ("gemma3_text", {"num_hidden_layers": 6, "sliding_window_pattern": ...,
                                                "rope_local_base_freq": ..., "rope_theta": ..., "sliding_window": 2,
                                                "attention_bias": True}),
    "gemma3_text, heads of 10": ("gemma3_text", {**_HEADS_OF_10, "head_dim": 10}),
    "cohere": ("cohere", {}),
    "cohere, a norm for each head": ("cohere", {"use_qk_norm": True, "num_key_value_heads": 3, "dtype": "bfloat16"}),
    "cohere, biases, untied": ("cohere", {"attention_bias": True, "tie_word_embeddings": False, "logit_scale": 1.0,
                                          "num_key_value_heads": None}),
    "cohere, heads of 10": ("cohere", {**_HEADS_OF_10, "use_qk_norm": True, "logit_scale": ..., "rope_theta": ...}),
    "cohere, dynamic": ("cohere", _old("dynamic", factor=2.0)),
    "cohere2": ("cohere2", {}),
    "cohere2, five layers, untied": (
        "cohere2", {"num_hidden_layers": 5, "sliding_window_pattern": ..., "sliding_window": 2, "logit_scale": ...,
                    "tie_word_embeddings": False, "num_key_value_heads": 1},
    ),
    "cohere2, layers by name, biases": (
        "cohere2", {"layer_types": [_FULL, _LOCAL, _LOCAL], "attention_bias": True, "dtype": "bfloat16"},
    ),
    "cohere2, heads of 10": ("cohere2", {**_HEADS_OF_10, "sliding_window": 4}),
    "cohere2, no layer has positions": ("cohere2", {"sliding_window_pattern": 1}),
    "arcee": ("arcee", {}),
    "arcee, biases, one key head": ("arcee", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1,
                                              "dtype": "bfloat16"}),
    "arcee, heads of 10, tied": ("arcee", {**_HEADS_OF_10, "tie_word_embeddings": True}),
    "arcee, yarn, gelu": ("arcee", {**_old("yarn", factor=4.0, original_max_position_embeddings=16),
                                    "hidden_act": "gelu_new"}),
    "seed_oss": ("seed_oss", {}),
    "seed_oss, biases, tied": ("seed_oss", {"attention_out_bias": True, "mlp_bias": True, "dtype": "bfloat16",
                                            "tie_word_embeddings": True, "num_key_value_heads": 1}),
    "seed_oss, heads of 10, no biases": ("seed_oss", {**_HEADS_OF_10, "head_dim": 10, "attention_bias": False}),
    "ernie4_5": ("ernie4_5", {}),
    "ernie4_5, biases, untied": ("ernie4_5", {"use_bias": True, "tie_word_embeddings": False, "dtype": "bfloat16"}),
    "ernie4_5, heads of 10": ("ernie4_5", {**_HEADS_OF_10, "head_dim": 10, "rope_theta": ...}),
    "helium": ("helium", {}),
    "helium, biases, tied": ("helium", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True,
                                        "num_key_value_heads": 1, "dtype": "bfloat16"}),
    "helium, heads of 10": ("helium", {**_HEADS_OF_10, "head_dim": 10, "rope_theta": ..., "rms_norm_eps": ...}),
    "hunyuan_v1_dense": ("hunyuan_v1_dense", {}),
    "hunyuan_v1_dense, alpha, biases": ("hunyuan_v1_dense", {
        **_old("dynamic", "type", alpha=50.0, factor=1.0, mscale=1.0), "attention_bias": True, "dtype": "bfloat16",
        "num_key_value_heads": 1,
    }),
    "hunyuan_v1_dense, dynamic, tied": ("hunyuan_v1_dense", {**_old("dynamic", factor=2.0),
                                                             "tie_word_embeddings": True}),
    "hunyuan_v1_dense, heads of 10": ("hunyuan_v1_dense", {**_HEADS_OF_10, "head_dim": 10}),
    "exaone": ("exaone", {}),
    "exaone, llama3, biases": ("exaone", {
        **_old("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32),
        "attention_bias": True, "mlp_bias": True, "dtype": "bfloat16", "num_key_value_heads": None,
    }),
    "exaone, heads of 10, tied": ("exaone", {**_HEADS_OF_10, "tie_word_embeddings": True, "rope_theta": ...}),
    "exaone4": ("exaone4", {}),
    "exaone4, no windows, tied": ("exaone4", {"sliding_window": None, "tie_word_embeddings": True, "head_dim": 16,
                                              "layer_types": [_FULL] * 3}),
    "exaone4, layers by name, beside letters": (
        "exaone4", {"sliding_window_pattern": "LLLG", "layer_types": [_FULL, _LOCAL, _LOCAL], "dtype": "bfloat16",
                    "num_key_value_heads": 1},
    ),
    "exaone4, five layers, llama3": ("exaone4", {
        **_old("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32),
        "num_hidden_layers": 5, "sliding_window_pattern": ..., "sliding_window": 1,
    }),
    "exaone4, heads of 10": ("exaone4", {**_HEADS_OF_10, "sliding_window": 3}),
    "glm": ("glm", {}),
    "glm, tied, no biases": ("glm", {"tie_word_embeddings": True, "attention_bias": False, "num_key_value_heads": 6}),
    "glm, heads of 10": ("glm", {**_HEADS_OF_10, "head_dim": 10}),
    "glm, all of a head, halves": ("glm", {"partial_rotary_factor": 1.0, "dtype": "bfloat16", "rms_norm_eps": ...}),
    "glm, linear": ("glm", {"rope_theta": ..., "rope_parameters": {
        "rope_type": "linear", "factor": 3.0, "rope_theta": 300.0, "partial_rotary_factor": 0.25,
    }}),
    "glm4": ("glm4", {}),
    "glm4, tied, no biases": ("glm4", {"tie_word_embeddings": True, "attention_bias": False,
                                       "num_key_value_heads": 1, "dtype": "bfloat16"}),
    "glm4, an odd part of a head": ("glm4", {"partial_rotary_factor": 0.2}),
    "glm4, heads of 10": ("glm4", {**_HEADS_OF_10, "head_dim": 10, "rms_norm_eps": ...}),
    "nemotron": ("nemotron", {}),
    "nemotron, tied, one key head": ("nemotron", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    "nemotron, biases, wide heads": (
        "nemotron", {"attention_bias": True, "mlp_bias": True, "head_dim": 16, "partial_rotary_factor": 0.375,
                     "dtype": "bfloat16"},
    ),
    "nemotron, heads of 10, all of them": ("nemotron", {**_HEADS_OF_10, "partial_rotary_factor": 1.0,
                                                        "hidden_act": "gelu"}),
    "nemotron, an odd part of a head": ("nemotron", {"partial_rotary_factor": 0.4}),
    "nemotron, heads of 10, half of them": ("nemotron", {**_HEADS_OF_10, **_old("linear", factor=3.0)}),
    "nemotron, linear": ("nemotron", {"rope_theta": ..., "rope_parameters": {
        "rope_type": "linear", "factor": 3.0, "rope_theta": 300.0, "partial_rotary_factor": 0.25,
    }}),
    "olmo": ("olmo", {}),
    "olmo, no clip, tied": ("olmo", {"clip_qkv": None, "tie_word_embeddings": True, "num_key_value_heads": None}),
    "olmo, biases, halves": ("olmo", {"attention_bias": True, "dtype": "bfloat16", "num_key_value_heads": 1}),
    "olmo, heads of 10": ("olmo", {**_HEADS_OF_10, "clip_qkv": 0.5}),
    "olmo, dynamic": ("olmo", _old("dynamic", "type", factor=2.0)),
    "olmo3": ("olmo3", {}),
    "olmo3, yarn": ("olmo3", {**_old("yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=4.0),
                              "num_hidden_layers": 5, "sliding_window": 3}),
    "olmo3, positions by kind, biases": (
        "olmo3", {**_nested({"rope_type": "linear", "factor": 2.0, "rope_theta": 400.0},
                            {"rope_type": "default", "rope_theta": 30.0}),
                  "layer_types": [_FULL, _LOCAL, _FULL, _LOCAL], "attention_bias": True, "dtype": "bfloat16"},
    ),
    "olmo3, heads of 10, tied": ("olmo3", {**_HEADS_OF_10, "tie_word_embeddings": True, "sliding_window": 1}),
}  # fmt: skip
"""Name -> (family, what differs from its ``BASE``)."""

REFUSED: list[tuple[str, Config, str]] = [
    ("gemma", {"hidden_activation": "relu"}, "hidden_act and hidden_activation are 'gelu_tanh' and 'relu'"),
    ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention is true"),
    ("gemma", {"head_dim": ...}, r"has shape \[(96|32), 48\]"),  # whose default is 256
    ("gemma2", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar is '0'"),
    ("gemma2", {"attn_logit_softcapping": -1.0}, "attn_logit_softcapping is '-1.0'"),
    ("gemma2", {"final_logit_softcapping": "30"}, "final_logit_softcapping is '30'"),
    ("gemma2", {"sliding_window": None}, "sliding_window is null"),
    ("gemma2", {"layer_types": [_FULL, _LOCAL]}, "layer_types has 2 entries"),
    ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention is true"),
    ("gemma3_text", {"sliding_window_pattern": 0}, "sliding_window_pattern is '0'"),
    ("gemma3_text", {"rope_local_base_freq": "10"}, "rope_local_base_freq is '10'"),
    ("gemma3_text", {"rope_parameters": {"rope_type": "default", "rope_theta": 10.0}}, "parameters of full_attention"),
    ("gemma3_text", {"rope_parameters": {_FULL: 3}}, "full_attention of rope_parameters is '3'"),
    ("cohere", {"logit_scale": 0}, "logit_scale is '0'"),
    ("cohere", {"layer_norm_eps": "small"}, "layer_norm_eps is 'small'"),
    ("cohere", {"use_qk_norm": True}, r"missing tensors 'model\.layers\.0\.self_attn\.q_norm\.weight'"),
    ("cohere", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ("cohere2", {"use_qk_norm": True}, "use_qk_norm is 'True'"),
    ("cohere2", {"rotary_pct": 0.5}, "rotary_pct is '0.5', expected 1"),
    ("cohere2", {"use_parallel_block": False}, "use_parallel_block is 'False', expected True"),
    ("cohere2", {"position_embedding_type": "alibi"}, "position_embedding_type is 'alibi', expected rope_gptj"),
    ("cohere2", {"sliding_window": None}, "sliding_window is null"),
    ("arcee", {"hidden_act": "relu3"}, "hidden_act is 'relu3'"),
    ("seed_oss", {"attention_out_bias": True}, r"missing tensors 'model\.layers\.0\.self_attn\.o_proj\.bias'"),
    ("ernie4_5", {"use_bias": "no"}, "use_bias is 'no'"),
    ("helium", {"head_dim": ...}, r"has shape \[\d+, 48\]"),  # whose default is 128
    ("hunyuan_v1_dense", {"use_qk_norm": False}, "use_qk_norm is 'False'"),
    ("hunyuan_v1_dense", {"rope_scaling": {"type": "dynamic", "alpha": "50"}}, "alpha is '50'"),
    ("hunyuan_v1_dense", {"rope_scaling": {"type": "dynamic", "alpha": -2}}, "alpha is '-2'"),
    ("exaone", {"num_layers": 0}, "num_hidden_layers is '0'"),
    ("exaone", {"activation_function": "mish"}, "hidden_act is 'mish'"),
    ("exaone4", {"sliding_window_pattern": "LLX"}, "sliding_window_pattern is 'LLX'"),
    ("exaone4", {"sliding_window_pattern": ""}, "sliding_window_pattern is ''"),
    ("exaone4", {"sliding_window": None, "layer_types": [_LOCAL] * 3}, "sliding_window is null"),
    ("exaone4", {"sliding_window": 0}, "sliding_window is '0'"),
    ("glm", {"partial_rotary_factor": 1.5}, "partial_rotary_factor is '1.5'"),
    ("glm", {"attention_bias": False}, r"no use for tensors? 'model\.layers\.0\.self_attn\.[qkv]_proj\.bias'"),
    ("glm", {"model_type": "glm4"}, "missing tensors 'model.layers.0.post_self_attn_layernorm.weight'"),
    ("nemotron", {"hidden_act": "relu3"}, "hidden_act is 'relu3'"),
    ("nemotron", {"norm_eps": 0}, "norm_eps is '0'"),
    ("nemotron", {"partial_rotary_factor": 2}, "partial_rotary_factor is '2.0', expected a number above 0, up to 1"),
    ("nemotron", {"partial_rotary_factor": 0.1}, "0 rotary dims"),
    ("nemotron", {"partial_rotary_factor": 0.4, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "3 rotary dims"),
    ("nemotron", {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": [1]}}, "partial_rotary_factor"),
    ("olmo", {"clip_qkv": 0}, "clip_qkv is '0'"),
    ("olmo", {"clip_qkv": -8.0}, "clip_qkv is '-8.0'"),
    ("olmo3", {"sliding_window": None}, "sliding_window is null"),
    ("olmo3", {"layer_types": ["full_attention"] * 3}, "layer_types has 3 entries, expected 4"),
    ("olmo3", {"rope_parameters": {"rope_theta": 10.0}}, "parameters of full_attention"),
    ("gemma3_text", {"rope_parameters": {_LOCAL: {"rope_type": "none"}}}, "rotary positions"),
]
"""Each against the tensors of the family as it is: (family, what config.json says, words of the message)."""


FOUR_NORMS = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm",
              "post_feedforward_layernorm")  # fmt: skip


_EXAONE = {
    "model.embed_tokens.": "transformer.wte.", "model.layers.": "transformer.h.", "model.norm.": "transformer.ln_f.",
    ".self_attn.o_proj.": ".self_attn.out_proj.", ".self_attn.": ".attn.attention.", ".input_layernorm.": ".ln_1.",
    ".post_attention_layernorm.": ".ln_2.", "mlp.gate_proj.": "mlp.c_fc_0.", "mlp.up_proj.": "mlp.c_fc_1.",
    "mlp.down_proj.": "mlp.c_proj.",
}  # fmt: skip


def exaone_name(name: str) -> str:
    """What a tensor is called in EXAONE's own files."""
    for llama, own in _EXAONE.items():
        name = name.replace(llama, own)
    return name


def heads(c: Config) -> tuple[int, int, int]:
    """Heads of queries, heads of keys and values, dims of a head."""
    count = c["num_attention_heads"]
    return count, c.get("num_key_value_heads") or count, c.get("head_dim") or c["hidden_size"] // count


def shapes(c: Config, tied: bool) -> Shapes:
    """Tensors of ``…ForCausalLM`` by the names of transformers' files."""
    family, hidden, inner = c["model_type"], c["hidden_size"], c["intermediate_size"]
    queries, keys, size = heads(c)
    found: Shapes = {"model.embed_tokens.weight": (c["vocab_size"], hidden)}

    def linear(name: str, outputs: int, inputs: int, bias: Any = False) -> None:
        found[f"{name}.weight"] = (outputs, inputs)
        if bias:
            found[f"{name}.bias"] = (outputs,)

    def norm(name: str) -> None:
        found[f"{name}.weight"] = (hidden,)
        if family == "nemotron":
            found[f"{name}.bias"] = (hidden,)

    norms = {
        "gemma2": FOUR_NORMS, "gemma3_text": FOUR_NORMS, "cohere": FOUR_NORMS[:1], "cohere2": FOUR_NORMS[:1],
        "olmo": (), "olmo3": FOUR_NORMS[1::2], "exaone4": FOUR_NORMS[1::2],
        "glm4": (*FOUR_NORMS[:2], "post_self_attn_layernorm", "post_mlp_layernorm"),
    }.get(family, FOUR_NORMS[:2])  # fmt: skip
    bias = c.get("attention_bias", c.get("use_bias", False))
    output_bias = c.get("attention_out_bias", bias and family not in ("glm", "glm4", "helium"))
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        for name in norms:
            norm(f"{layer}.{name}")
        linear(f"{layer}.self_attn.q_proj", queries * size, hidden, bias)
        linear(f"{layer}.self_attn.k_proj", keys * size, hidden, bias)
        linear(f"{layer}.self_attn.v_proj", keys * size, hidden, bias)
        linear(f"{layer}.self_attn.o_proj", hidden, queries * size, output_bias)
        if family in ("gemma3_text", "exaone4"):
            found[f"{layer}.self_attn.q_norm.weight"] = found[f"{layer}.self_attn.k_norm.weight"] = (size,)
        if family == "hunyuan_v1_dense":
            found[f"{layer}.self_attn.query_layernorm.weight"] = (size,)
            found[f"{layer}.self_attn.key_layernorm.weight"] = (size,)
        elif c.get("use_qk_norm"):
            found[f"{layer}.self_attn.q_norm.weight"] = (queries, size)
            found[f"{layer}.self_attn.k_norm.weight"] = (keys, size)
        if family == "olmo3":
            found[f"{layer}.self_attn.q_norm.weight"] = (queries * size,)
            found[f"{layer}.self_attn.k_norm.weight"] = (keys * size,)
        inner_bias = c.get("mlp_bias", c.get("use_bias", False))
        if family in ("glm", "glm4"):
            linear(f"{layer}.mlp.gate_up_proj", 2 * inner, hidden)
        else:
            if family not in ("nemotron", "arcee"):
                linear(f"{layer}.mlp.gate_proj", inner, hidden, inner_bias)
            linear(f"{layer}.mlp.up_proj", inner, hidden, inner_bias)
        linear(f"{layer}.mlp.down_proj", hidden, inner, inner_bias)
    if norms:
        norm("model.norm")
    if not tied:
        linear("lm_head", c["vocab_size"], hidden)
    return found
