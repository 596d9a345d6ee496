# SPDX-License-Identifier: MIT
"""Small folders of decoders with layer norms, GPT-2 and what came after it: their part of ``tiny_decoders``."""

from __future__ import annotations

from typing import Any

Shapes = dict[str, tuple[int, ...]]

_COMMON: dict[str, Any] = {
    "vocab_size": 101, "initializer_range": 0.02, "use_cache": True, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0,
}  # fmt: skip
_GPT: dict[str, Any] = {
    **_COMMON, "n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 96, "n_inner": None,
    "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new", "attn_pdrop": 0.1, "embd_pdrop": 0.1,
    "resid_pdrop": 0.1,
}  # fmt: skip
_SIZES = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6, "intermediate_size": 80,
          "max_position_embeddings": 96}  # fmt: skip
_PLAIN = {**_COMMON, **_SIZES, "layer_norm_eps": 1e-5}

BASE: dict[str, dict[str, Any]] = {
    "gpt2": {**_GPT, "n_ctx": 96, "summary_type": "cls_index", "summary_use_proj": True, "summary_activation": None,
             "summary_first_dropout": 0.1, "summary_proj_to_labels": True, "scale_attn_weights": True},
    "gptj": {**_GPT, "rotary": True, "rotary_dim": 4, "scale_attn_weights": True, "tie_word_embeddings": False,
             "summary_type": "cls_index"},
    "codegen": {**_GPT, "n_head": 8, "rotary_dim": 4, "n_ctx": 96, "tie_word_embeddings": False},
    "gpt_neox": {**_PLAIN, "hidden_act": "gelu", "rotary_pct": 0.25, "rotary_emb_base": 1000, "attention_dropout": 0.0,
                 "hidden_dropout": 0.0, "use_parallel_residual": True, "attention_bias": True,
                 "tie_word_embeddings": False, "rope_scaling": None, "classifier_dropout": 0.1},
    "phi": {**_PLAIN, "hidden_act": "gelu_new", "partial_rotary_factor": 0.5, "rope_theta": 1000.0, "embd_pdrop": 0.0,
            "resid_pdrop": 0.0, "qk_layernorm": False, "num_key_value_heads": None, "tie_word_embeddings": False,
            "rope_scaling": None, "attention_dropout": 0.0},
    "starcoder2": {**_COMMON, **_SIZES, "hidden_act": "gelu_pytorch_tanh", "norm_epsilon": 1e-5, "use_bias": True,
                   "num_key_value_heads": 2, "sliding_window": None, "rope_theta": 1000.0, "norm_type": "layer_norm",
                   "mlp_type": "default", "residual_dropout": 0.1, "embedding_dropout": 0.1, "attention_dropout": 0.1},
    "stablelm": {**_PLAIN, "hidden_act": "silu", "num_key_value_heads": 2, "partial_rotary_factor": 0.25,
                 "rope_theta": 1000, "use_qkv_bias": False, "qk_layernorm": False, "use_parallel_residual": False,
                 "tie_word_embeddings": False, "hidden_dropout": 0.0, "attention_dropout": 0.0},
    "falcon": {**_COMMON, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6, "alibi": False,
               "apply_residual_connection_post_layernorm": False, "bias": False, "hidden_dropout": 0.0,
               "attention_dropout": 0.0, "layer_norm_epsilon": 1e-5, "multi_query": True, "parallel_attn": True,
               "new_decoder_architecture": False, "max_position_embeddings": 96, "rope_theta": 1000.0},
    "bloom": {**_COMMON, "hidden_size": 48, "n_layer": 3, "n_head": 6, "layer_norm_epsilon": 1e-5, "seq_length": 96,
              "apply_residual_connection_post_layernorm": False, "attention_dropout": 0.0, "hidden_dropout": 0.0,
              "attention_softmax_in_fp32": True, "bias_dropout_fusion": True, "masked_softmax_fusion": True,
              "offset_alibi": 100, "pretraining_tp": 2, "skip_bias_add": True, "slow_but_exact": False,
              "n_inner": None},
    "mpt": {**_COMMON, "d_model": 48, "n_layers": 3, "n_heads": 4, "expansion_ratio": 4, "max_seq_len": 96,
            "attn_config": {"alibi": True, "alibi_bias_max": 8, "attn_impl": "torch", "attn_pdrop": 0,
                            "attn_type": "multihead_attention", "attn_uses_sequence_id": False, "clip_qkv": None,
                            "prefix_lm": False, "qk_ln": False, "softmax_scale": None},
            "emb_pdrop": 0, "resid_pdrop": 0, "embedding_fraction": 1.0, "init_device": "cpu", "learned_pos_emb": True,
            "logit_scale": None, "no_bias": True, "norm_type": "low_precision_layernorm", "verbose": 0,
            "use_cache": False, "layer_norm_epsilon": 1e-5},
    "opt": {**_COMMON, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6, "ffn_dim": 80,
            "max_position_embeddings": 96, "activation_function": "relu", "do_layer_norm_before": True,
            "word_embed_proj_dim": 48, "dropout": 0.1, "attention_dropout": 0.0, "layerdrop": 0.0, "init_std": 0.02,
            "_remove_final_layer_norm": False, "enable_bias": True, "layer_norm_elementwise_affine": True},
}  # fmt: skip
"""config.json of each family, as published files have it."""

CLASSES = {"gpt2": "GPT2", "gptj": "GPTJ", "codegen": "CodeGen", "gpt_neox": "GPTNeoX", "phi": "Phi",
           "starcoder2": "Starcoder2", "stablelm": "StableLm", "falcon": "Falcon", "bloom": "Bloom", "mpt": "Mpt",
           "opt": "OPT"}  # fmt: skip

TOPS = {"gpt2": "LMHeadModel"}
"""What the class with logits is called behind the family's name, where not ForCausalLM."""

TIED = dict.fromkeys(("gpt2", "starcoder2", "falcon", "bloom", "mpt", "opt"), True)

HEADS = {"gpt_neox": "embed_out"}
"""The layer that makes logits, where not lm_head."""

LABELS = dict.fromkeys(("gpt2", "gpt_neox", "falcon", "bloom", "mpt"), "classifier")
"""The layer that labels tokens, where not score."""

DEFAULTS = {
    "gptj": ("n_inner", "activation_function", "layer_norm_epsilon", "tie_word_embeddings"),
    "codegen": ("n_inner", "activation_function", "layer_norm_epsilon", "tie_word_embeddings"),
    "gpt_neox": ("hidden_act", "rotary_pct", "use_parallel_residual", "attention_bias", "layer_norm_eps"),
    "phi": ("hidden_act", "partial_rotary_factor", "qk_layernorm", "num_key_value_heads", "layer_norm_eps"),
    "starcoder2": ("hidden_act", "norm_epsilon", "use_bias", "num_key_value_heads", "sliding_window"),
    "stablelm": ("hidden_act", "partial_rotary_factor", "use_qkv_bias", "qk_layernorm", "use_parallel_residual"),
    "falcon": ("alibi", "bias", "multi_query", "parallel_attn", "new_decoder_architecture", "layer_norm_epsilon"),
    "bloom": ("layer_norm_epsilon", "apply_residual_connection_post_layernorm"),
    "mpt": ("attn_config", "expansion_ratio", "layer_norm_epsilon", "no_bias", "norm_type"),
    "opt": (
        "activation_function",
        "do_layer_norm_before",
        "word_embed_proj_dim",
        "enable_bias",
        "layer_norm_elementwise_affine",
        "_remove_final_layer_norm",
    ),
    "gpt2": ("n_inner", "activation_function", "layer_norm_epsilon", "scale_attn_weights", "tie_word_embeddings"),
}
"""Keys whose values in ``BASE`` are those of a missing key."""

POSITIONS = {**dict.fromkeys(("gpt2", "gptj", "codegen"), "n_positions"), "bloom": "seq_length", "mpt": "max_seq_len"}
"""What config.json calls max_position_embeddings, where not so."""

TABLES = {
    **dict.fromkeys(("gpt2", "gptj", "codegen"), "transformer.wte.weight"), "gpt_neox": "gpt_neox.embed_in.weight",
    **dict.fromkeys(("phi", "starcoder2", "stablelm"), "model.embed_tokens.weight"),
    **dict.fromkeys(("falcon", "bloom"), "transformer.word_embeddings.weight"), "mpt": "transformer.wte.weight",
    "opt": "model.decoder.embed_tokens.weight",
}  # fmt: skip
"""The table of embeddings."""

RANDOM: dict[str, dict[str, Any]] = {
    "gpt2": {}, "gptj": {"rotary_dim": 2}, "codegen": {"rotary_dim": 2},
    "gpt_neox": {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 1.0}},
    "phi": {"qk_layernorm": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 1.0}},
    "starcoder2": {"sliding_window": 9}, "stablelm": {
        "qk_layernorm": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 1.0},
    },
    "falcon": {"new_decoder_architecture": True}, "bloom": {}, "mpt": {}, "opt": {},
}  # fmt: skip
"""What random models of transformers have besides."""

_OF_GPT2 = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
            "intermediate_size": "n_inner", "max_position_embeddings": "n_positions",
            "num_key_value_heads": None}  # fmt: skip
_SPELLING: dict[str, dict[str, str | None]] = {
    **dict.fromkeys(("gpt2", "gptj", "codegen"), _OF_GPT2),
    "gpt_neox": {"num_key_value_heads": None},
    "falcon": {"num_key_value_heads": "num_kv_heads", "intermediate_size": "ffn_hidden_size"},
    "bloom": {"num_key_value_heads": None, "intermediate_size": None, "max_position_embeddings": "seq_length"},
    "mpt": {"num_key_value_heads": None, "intermediate_size": None, "max_position_embeddings": "max_seq_len"},
    "opt": {"num_key_value_heads": None, "intermediate_size": "ffn_dim"},
}


def spelled(family: str, options: dict[str, Any]) -> dict[str, Any]:
    """Options of Llama's spelling in that of the family; None for those that it has not."""
    names = _SPELLING.get(family, {})
    if family == "codegen" and options["hidden_size"] % 4:
        options = {**options, "hidden_size": 8}
    return {names.get(key) or key: value for key, value in options.items() if names.get(key, key) is not None}


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "gpt2, not tied, heads of 10": ("gpt2", {"n_embd": 50, "n_head": 5, "n_inner": 77, "tie_word_embeddings": False,
                                             "n_layer": 1, "vocab_size": 13, "dtype": "bfloat16"}),
    "gptj": ("gptj", {}),
    "gptj, heads of 10, all dims turn": ("gptj", {"n_embd": 50, "n_head": 5, "n_inner": 77, "rotary_dim": 10,
                                                  "n_layer": 1, "vocab_size": 13, "dtype": "bfloat16"}),
    "gptj, two dims, tied": ("gptj", {"rotary_dim": 2, "tie_word_embeddings": True, "activation_function": "relu"}),
    "codegen": ("codegen", {}),
    "codegen, heads of 24": ("codegen", {"n_embd": 96, "n_head": 4, "rotary_dim": 6, "dtype": "bfloat16"}),
    "gpt_neox": ("gpt_neox", {}),
    "gpt_neox, one after the other": ("gpt_neox", {"use_parallel_residual": False, "rotary_pct": 0.75,
                                                   "hidden_act": "gelu_fast", "dtype": "bfloat16"}),
    "gpt_neox, heads of 10, no biases": ("gpt_neox", {
        "hidden_size": 50, "num_attention_heads": 5, "rotary_pct": 0.5, "attention_bias": False, "num_hidden_layers": 1,
        "intermediate_size": 1, "vocab_size": 7,
    }),
    "gpt_neox, tied, linear": ("gpt_neox", {"tie_word_embeddings": True, "rotary_pct": 1.0,
                                            "rope_scaling": {"type": "linear", "factor": 2.0}}),
    "gpt_neox, keys of transformers 5": ("gpt_neox", {"rotary_pct": ..., "rotary_emb_base": ..., "rope_scaling": ...,
                                                      "rope_parameters": {"rope_type": "default", "rope_theta": 77.0,
                                                                          "partial_rotary_factor": 0.5}}),
    "phi": ("phi", {}),
    "phi, norms of heads, shared keys": ("phi", {"qk_layernorm": True, "num_key_value_heads": 2,
                                                 "layer_norm_eps": 1e-3, "dtype": "bfloat16"}),
    "phi, heads of 10, one key head": ("phi", {
        "hidden_size": 50, "num_attention_heads": 5, "partial_rotary_factor": 0.4, "num_key_value_heads": 1,
        "num_hidden_layers": 1, "vocab_size": 7, "tie_word_embeddings": True, "hidden_act": "relu",
    }),
    "phi, yarn": ("phi", {"rope_theta": ..., "partial_rotary_factor": ..., "rope_scaling": ..., "rope_parameters": {
        "rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 16,
        "partial_rotary_factor": 0.5}}),
    "starcoder2": ("starcoder2", {}),
    "starcoder2, a window, no biases": ("starcoder2", {"sliding_window": 5, "use_bias": False, "dtype": "bfloat16",
                                                       "tie_word_embeddings": False, "num_key_value_heads": 1}),
    "starcoder2, heads of 10": ("starcoder2", {"hidden_size": 50, "num_attention_heads": 5, "num_key_value_heads": 5,
                                               "num_hidden_layers": 1, "norm_epsilon": 1e-3, "sliding_window": 1}),
    "stablelm": ("stablelm", {}),
    "stablelm, biases, all dims turn": ("stablelm", {"use_qkv_bias": True, "partial_rotary_factor": 1.0,
                                                     "num_key_value_heads": 6, "tie_word_embeddings": True}),
    "stablelm, norms of heads, beside each other": ("stablelm", {"qk_layernorm": True, "use_parallel_residual": True,
                                                                 "num_key_value_heads": 3, "dtype": "bfloat16"}),
    "stablelm, heads of 10": ("stablelm", {
        "hidden_size": 50, "num_attention_heads": 5, "num_key_value_heads": 1, "partial_rotary_factor": 0.2,
        "qk_layernorm": True, "num_hidden_layers": 1, "vocab_size": 7,
    }),
    "falcon": ("falcon", {}),
    "falcon, two norms": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2, "dtype": "bfloat16"}),
    "falcon, one norm": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 3, "num_ln_in_parallel_attn": 1,
                                    "bias": True, "ffn_hidden_size": 77, "tie_word_embeddings": False}),
    "falcon, one after the other, heads of 10": ("falcon", {
        "multi_query": False, "parallel_attn": False, "hidden_size": 50, "num_attention_heads": 5, "bias": True,
        "num_hidden_layers": 1, "vocab_size": 7, "activation": "relu",
    }),
    "falcon, keys of each head": ("falcon", {"multi_query": False, "rope_scaling": {"type": "linear", "factor": 2.0}}),
    "bloom": ("bloom", {}),
    "bloom, what norms make is added": ("bloom", {"apply_residual_connection_post_layernorm": True, "n_head": 8,
                                                  "tie_word_embeddings": False, "dtype": "bfloat16"}),
    "bloom, heads of 10": ("bloom", {"hidden_size": ..., "n_embed": 50, "n_head": ..., "num_attention_heads": 5,
                                     "n_layer": 1, "vocab_size": 7}),
    "mpt": ("mpt", {}),
    "mpt, heads of 10, held within bounds": ("mpt", {
        "d_model": 50, "n_heads": 5, "n_layers": 1, "vocab_size": 7, "tie_word_embeddings": False,
        "attn_config": {"clip_qkv": 0.75, "softmax_scale": 0.5},
    }),
    "mpt, three heads": ("mpt", {"n_heads": 3, "attn_config": {"clip_qkv": 6.0, "alibi": True}, "dtype": "bfloat16"}),
    "opt": ("opt", {}),
    "opt, projected, norms behind": ("opt", {"word_embed_proj_dim": 20, "do_layer_norm_before": False,
                                             "dtype": "bfloat16"}),
    "opt, projected, not tied": ("opt", {"word_embed_proj_dim": 60, "tie_word_embeddings": False}),
    "opt, Galactica": ("opt", {"enable_bias": False, "layer_norm_elementwise_affine": False,
                               "activation_function": "gelu", "hidden_size": 50, "num_attention_heads": 5,
                               "word_embed_proj_dim": 50, "num_hidden_layers": 1, "vocab_size": 7}),
    "gpt2, scores by layer": ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "activation_function": "gelu"}),
    "gpt2, scores as they are": ("gpt2", {"scale_attn_weights": False, "reorder_and_upcast_attn": True, "n_head": 24,
                                          "activation_function": "relu", "layer_norm_epsilon": 1e-3}),
}  # fmt: skip


def heads(c: dict[str, Any]) -> tuple[int, int, int]:
    """Heads of queries, heads of keys and values, dims of a head."""
    count = c.get("n_head") or c.get("n_heads") or c["num_attention_heads"]
    shared = c.get("num_key_value_heads") or count
    if c["model_type"] == "falcon":
        new = c.get("new_decoder_architecture", False)
        shared = 1 if c.get("multi_query", True) and not new else c.get("num_kv_heads") or count
    return count, shared, width(c) // count


def width(c: dict[str, Any]) -> int:
    """Columns of the hidden states."""
    return int(next(c[key] for key in ("n_embd", "n_embed", "d_model", "hidden_size") if key in c))


def layers(c: dict[str, Any]) -> int:
    """How many layers there are."""
    return int(c.get("n_layer") or c.get("n_layers") or c["num_hidden_layers"])


class _Names:
    """Tensors by their names, collected."""

    def __init__(self) -> None:
        self.found: Shapes = {}

    def vector(self, name: str, size: int, bias: bool = True) -> None:
        """A norm."""
        self.found[f"{name}.weight"] = (size,)
        if bias:
            self.found[f"{name}.bias"] = (size,)

    def linear(self, name: str, outputs: int, inputs: int, bias: bool = True, transposed: bool = False) -> None:
        self.found[f"{name}.weight"] = (inputs, outputs) if transposed else (outputs, inputs)
        if bias:
            self.found[f"{name}.bias"] = (outputs,)


def _gpt2(c: dict[str, Any]) -> Shapes:
    n, hidden, inner = _Names(), c["n_embd"], c.get("n_inner") or 4 * c["n_embd"]
    n.found["transformer.wte.weight"] = (c["vocab_size"], hidden)
    n.found["transformer.wpe.weight"] = (c["n_positions"], hidden)
    for i in range(c["n_layer"]):
        layer = f"transformer.h.{i}"
        n.vector(f"{layer}.ln_1", hidden)
        n.linear(f"{layer}.attn.c_attn", 3 * hidden, hidden, transposed=True)
        n.linear(f"{layer}.attn.c_proj", hidden, hidden, transposed=True)
        n.vector(f"{layer}.ln_2", hidden)
        n.linear(f"{layer}.mlp.c_fc", inner, hidden, transposed=True)
        n.linear(f"{layer}.mlp.c_proj", hidden, inner, transposed=True)
    n.vector("transformer.ln_f", hidden)
    return n.found


def _gptj(c: dict[str, Any]) -> Shapes:
    n, hidden, inner = _Names(), c["n_embd"], c.get("n_inner") or 4 * c["n_embd"]
    n.found["transformer.wte.weight"] = (c["vocab_size"], hidden)
    for i in range(c["n_layer"]):
        layer = f"transformer.h.{i}"
        n.vector(f"{layer}.ln_1", hidden)
        if c["model_type"] == "codegen":
            n.linear(f"{layer}.attn.qkv_proj", 3 * hidden, hidden, False)
        else:
            for part in "qkv":
                n.linear(f"{layer}.attn.{part}_proj", hidden, hidden, False)
        n.linear(f"{layer}.attn.out_proj", hidden, hidden, False)
        n.linear(f"{layer}.mlp.fc_in", inner, hidden)
        n.linear(f"{layer}.mlp.fc_out", hidden, inner)
    n.vector("transformer.ln_f", hidden)
    n.found["lm_head.bias"] = (c["vocab_size"],)
    return n.found


def _gpt_neox(c: dict[str, Any]) -> Shapes:
    n, hidden, inner, bias = _Names(), c["hidden_size"], c["intermediate_size"], c.get("attention_bias", True)
    n.found["gpt_neox.embed_in.weight"] = (c["vocab_size"], hidden)
    for i in range(c["num_hidden_layers"]):
        layer = f"gpt_neox.layers.{i}"
        n.vector(f"{layer}.input_layernorm", hidden)
        n.vector(f"{layer}.post_attention_layernorm", hidden)
        n.linear(f"{layer}.attention.query_key_value", 3 * hidden, hidden, bias)
        n.linear(f"{layer}.attention.dense", hidden, hidden, bias)
        n.linear(f"{layer}.mlp.dense_h_to_4h", inner, hidden)
        n.linear(f"{layer}.mlp.dense_4h_to_h", hidden, inner)
    n.vector("gpt_neox.final_layer_norm", hidden)
    return n.found


def _like_llama(c: dict[str, Any]) -> Shapes:
    """Phi, StarCoder 2, StableLM."""
    family, n, hidden, inner = c["model_type"], _Names(), c["hidden_size"], c["intermediate_size"]
    count, shared, size = heads(c)
    turned = {"phi": True, "starcoder2": c.get("use_bias", True), "stablelm": c.get("use_qkv_bias", False)}[family]
    bias = family != "stablelm" and turned
    n.found["model.embed_tokens.weight"] = (c["vocab_size"], hidden)
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        n.vector(f"{layer}.input_layernorm", hidden)
        if not (family == "phi" or c.get("use_parallel_residual", False)):
            n.vector(f"{layer}.post_attention_layernorm", hidden)
        n.linear(f"{layer}.self_attn.q_proj", count * size, hidden, turned)
        n.linear(f"{layer}.self_attn.k_proj", shared * size, hidden, turned)
        n.linear(f"{layer}.self_attn.v_proj", shared * size, hidden, turned)
        n.linear(f"{layer}.self_attn.{'dense' if family == 'phi' else 'o_proj'}", hidden, hidden, bias)
        if c.get("qk_layernorm", False):
            for part, many in (("q", count), ("k", shared)):
                if family == "phi":
                    n.vector(f"{layer}.self_attn.{part}_layernorm", size)
                else:
                    for head in range(many):
                        n.vector(f"{layer}.self_attn.{part}_layernorm.norms.{head}", size, False)
        up, down = {"phi": ("fc1", "fc2"), "starcoder2": ("c_fc", "c_proj")}.get(family, ("up_proj", "down_proj"))
        if family == "stablelm":
            n.linear(f"{layer}.mlp.gate_proj", inner, hidden, False)
        n.linear(f"{layer}.mlp.{up}", inner, hidden, bias)
        n.linear(f"{layer}.mlp.{down}", hidden, inner, bias)
    n.vector("model.final_layernorm" if family == "phi" else "model.norm", hidden)
    if family == "phi":
        n.found["lm_head.bias"] = (c["vocab_size"],)
    return n.found


def _falcon(c: dict[str, Any]) -> Shapes:
    n, hidden, bias = _Names(), c["hidden_size"], c.get("bias", False)
    count, shared, size = heads(c)
    inner, new = c.get("ffn_hidden_size") or 4 * hidden, c.get("new_decoder_architecture", False)
    n.found["transformer.word_embeddings.weight"] = (c["vocab_size"], hidden)
    for i in range(c["num_hidden_layers"]):
        layer = f"transformer.h.{i}"
        n.linear(f"{layer}.self_attention.query_key_value", (count + 2 * shared) * size, hidden, bias)
        n.linear(f"{layer}.self_attention.dense", hidden, hidden, bias)
        n.linear(f"{layer}.mlp.dense_h_to_4h", inner, hidden, bias)
        n.linear(f"{layer}.mlp.dense_4h_to_h", hidden, inner, bias)
        two = new and c.get("num_ln_in_parallel_attn", 2) == 2
        for norm in ("ln_attn", "ln_mlp") if two else ("input_layernorm",):
            n.vector(f"{layer}.{norm}", hidden)
        if not c.get("parallel_attn", True):
            n.vector(f"{layer}.post_attention_layernorm", hidden)
    n.vector("transformer.ln_f", hidden)
    return n.found


def _bloom(c: dict[str, Any]) -> Shapes:
    n, hidden = _Names(), width(c)
    n.found["transformer.word_embeddings.weight"] = (c["vocab_size"], hidden)
    n.vector("transformer.word_embeddings_layernorm", hidden)
    for i in range(layers(c)):
        layer = f"transformer.h.{i}"
        n.vector(f"{layer}.input_layernorm", hidden)
        n.linear(f"{layer}.self_attention.query_key_value", 3 * hidden, hidden)
        n.linear(f"{layer}.self_attention.dense", hidden, hidden)
        n.vector(f"{layer}.post_attention_layernorm", hidden)
        n.linear(f"{layer}.mlp.dense_h_to_4h", 4 * hidden, hidden)
        n.linear(f"{layer}.mlp.dense_4h_to_h", hidden, 4 * hidden)
    n.vector("transformer.ln_f", hidden)
    return n.found


def _mpt(c: dict[str, Any]) -> Shapes:
    n, hidden = _Names(), c["d_model"]
    n.found["transformer.wte.weight"] = (c["vocab_size"], hidden)
    for i in range(c["n_layers"]):
        layer = f"transformer.blocks.{i}"
        n.vector(f"{layer}.norm_1", hidden, False)
        n.linear(f"{layer}.attn.Wqkv", 3 * hidden, hidden, False)
        n.linear(f"{layer}.attn.out_proj", hidden, hidden, False)
        n.vector(f"{layer}.norm_2", hidden, False)
        n.linear(f"{layer}.ffn.up_proj", 4 * hidden, hidden, False)
        n.linear(f"{layer}.ffn.down_proj", hidden, 4 * hidden, False)
    n.vector("transformer.norm_f", hidden, False)
    return n.found


def _opt(c: dict[str, Any]) -> Shapes:
    n, hidden, bias = _Names(), c["hidden_size"], c.get("enable_bias", True)
    words, learned = c.get("word_embed_proj_dim") or hidden, c.get("layer_norm_elementwise_affine", True)
    n.found["model.decoder.embed_tokens.weight"] = (c["vocab_size"], words)
    n.found["model.decoder.embed_positions.weight"] = (c["max_position_embeddings"] + 2, hidden)
    if words != hidden:
        n.linear("model.decoder.project_in", hidden, words, False)
        n.linear("model.decoder.project_out", words, hidden, False)
    for i in range(c["num_hidden_layers"]):
        layer = f"model.decoder.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            n.linear(f"{layer}.self_attn.{part}", hidden, hidden, bias)
        n.linear(f"{layer}.fc1", c["ffn_dim"], hidden, bias)
        n.linear(f"{layer}.fc2", hidden, c["ffn_dim"], bias)
        if learned:
            n.vector(f"{layer}.self_attn_layer_norm", hidden)
            n.vector(f"{layer}.final_layer_norm", hidden)
    if learned and c.get("do_layer_norm_before", True):
        n.vector("model.decoder.final_layer_norm", hidden)
    return n.found


_SHAPES = {
    "gpt2": _gpt2, "gptj": _gptj, "codegen": _gptj, "gpt_neox": _gpt_neox, "falcon": _falcon, "bloom": _bloom,
    "mpt": _mpt, "opt": _opt, **dict.fromkeys(("phi", "starcoder2", "stablelm"), _like_llama),
}  # fmt: skip


def shapes(c: dict[str, Any]) -> Shapes:
    """Tensors of the class with logits by the names of published files."""
    family = c["model_type"]
    found = _SHAPES[family](c)
    if not c.get("tie_word_embeddings", TIED.get(family, False)):
        vocab, hidden = found[TABLES[family]]
        found[HEADS.get(family, "lm_head") + ".weight"] = (vocab, hidden)
    return found
