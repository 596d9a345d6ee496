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

BASE: dict[str, dict[str, Any]] = {
    "gpt2": {**_GPT, "n_ctx": 96, "summary_type": "cls_index", "summary_use_proj": True, "summary_activation": None,
             "summary_first_dropout": 0.1, "summary_proj_to_labels": True, "scale_attn_weights": True},
}  # fmt: skip
"""config.json of each family, as published files have it."""

CLASSES = {"gpt2": "GPT2"}

TOPS = {"gpt2": "LMHeadModel"}
"""What the class with logits is called behind the family's name, where not ForCausalLM."""

TIED = {"gpt2": True}

DEFAULTS = {
    "gpt2": ("n_inner", "activation_function", "layer_norm_epsilon", "scale_attn_weights", "tie_word_embeddings"),
}
"""Keys whose values in ``BASE`` are those of a missing key."""

POSITIONS = {"gpt2": "n_positions"}
"""What config.json calls max_position_embeddings, where not so."""

TABLES = {"gpt2": "transformer.wte.weight"}
"""The table of embeddings."""

RANDOM: dict[str, dict[str, Any]] = {
    "gpt2": {},
}
"""What random models of transformers have besides."""

_SPELLING = {"gpt2": {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
                      "intermediate_size": "n_inner", "max_position_embeddings": "n_positions",
                      "num_key_value_heads": None}}  # fmt: skip


def spelled(family: str, options: dict[str, Any]) -> dict[str, Any]:
    """Options of Llama's spelling in that of the family; None for those that it has not."""
    names = _SPELLING[family]
    return {names.get(key) or key: value for key, value in options.items() if names.get(key, key) is not None}


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "gpt2, not tied, heads of 10": ("gpt2", {"n_embd": 50, "n_head": 5, "n_inner": 77, "tie_word_embeddings": False,
                                             "n_layer": 1, "vocab_size": 13, "dtype": "bfloat16"}),
    "gpt2, scores by layer": ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "activation_function": "gelu"}),
    "gpt2, scores as they are": ("gpt2", {"scale_attn_weights": False, "reorder_and_upcast_attn": True, "n_head": 24,
                                          "activation_function": "relu", "layer_norm_epsilon": 1e-3}),
}  # fmt: skip


def heads(c: dict[str, Any]) -> tuple[int, int, int]:
    """Heads of queries, heads of keys and values, dims of a head."""
    count, hidden = c.get("n_head") or c["num_attention_heads"], c.get("n_embd") or c["hidden_size"]
    return count, c.get("num_key_value_heads") or count, hidden // count


def layers(c: dict[str, Any]) -> int:
    """How many layers there are."""
    return int(c.get("n_layer") or c["num_hidden_layers"])


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


_SHAPES = {"gpt2": _gpt2}


def shapes(c: dict[str, Any]) -> Shapes:
    """Tensors of the class with logits by the names of published files."""
    family = c["model_type"]
    found = _SHAPES[family](c)
    if not c.get("tie_word_embeddings", TIED.get(family, False)):
        vocab, hidden = found[TABLES[family]]
        found["lm_head.weight"] = (vocab, hidden)
    return found
