# SPDX-License-Identifier: MIT
"""GGUF files of every architecture as llama.cpp reads them: its logits, with caches in F32.

Run with ``pytest -m parity`` where llama_cpp is installed. Decoders with states: ``test_parity_stateful_llama_cpp``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import gguf_dense_a, gguf_dense_b, gguf_latent, gguf_models, gguf_moe

import fastattn as fa
from fastattn.models.gguf import ARCHITECTURES

llama_cpp = pytest.importorskip("llama_cpp")
pytestmark = pytest.mark.parity

_FULL = "full_attention"
_STATES = {"lfm2", "mamba2", "qwen3next"}  # in the other file

# what llama.cpp has no key for is left as it has it: windows, scales, clips
DENSE: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1}),
    "llama, wide heads": ("llama", {"head_dim": 16, "num_key_value_heads": 3}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "qwen3, tied": ("qwen3", {"tie_word_embeddings": True, "rms_norm_eps": 1e-3}),
    "phi3": ("phi3", {}),
    "phi3, half of a head turns": ("phi3", {"partial_rotary_factor": 0.5}),
    "smollm3": ("smollm3", {}),
    "granite": ("granite", {}),
    "granite, biases": ("granite", {"attention_bias": True, "mlp_bias": True}),
    "olmo2": ("olmo2", {"num_key_value_heads": 6}),
    "olmo2 of OLMo 3": ("olmo3", {}),
    "gemma": ("gemma", {"rope_theta": 10000.0}),
    "gemma2": ("gemma2", {"rope_theta": 10000.0, "query_pre_attn_scalar": 16}),
    "gemma3": ("gemma3_text", {"query_pre_attn_scalar": 16, "rope_local_base_freq": 10000.0,
                               "sliding_window_pattern": 6, "num_hidden_layers": 7}),
    "command-r": ("cohere", {}),
    "cohere2": ("cohere2", {"sliding_window_pattern": 4, "num_hidden_layers": 5}),
    "chatglm": ("glm", {"head_dim": 8}),
    "glm4": ("glm4", {"head_dim": 8}),
    "arcee": ("arcee", {}),
    "ernie4_5": ("ernie4_5", {}),
    "seed_oss": ("seed_oss", {}),
    "hunyuan-dense": ("hunyuan_v1_dense", {}),
    "exaone": ("exaone", {}),
    "exaone4": ("exaone4", {"sliding_window": None, "layer_types": [_FULL] * 3}),
    "nemotron": ("nemotron", {}),
    "nemotron, biases": ("nemotron", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 3}),
    "olmo": ("olmo", {}),
    "gptneox": ("gpt_neox", {}),
    "gptneox, one after the other": ("gpt_neox", {"use_parallel_residual": False, "rotary_pct": 0.5}),
    "phi2": ("phi", {"num_key_value_heads": 6}),
    "starcoder2": ("starcoder2", {"sliding_window": None}),
    "stablelm": ("stablelm", {}),
    "stablelm, the largest": ("stablelm", {"qk_layernorm": True, "use_parallel_residual": True, "use_qkv_bias": True}),
    "falcon": ("falcon", {}),
    "falcon, two norms": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon, one norm": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 3, "num_ln_in_parallel_attn": 1}),
    "bloom": ("bloom", {}),
    "bloom, three heads": ("bloom", {"n_head": 3, "tie_word_embeddings": False}),
    "mpt": ("mpt", {}),
    "mpt, held within bounds": ("mpt", {"n_heads": 6, "attn_config": {"clip_qkv": 1.5}}),
    "gpt2": ("gpt2", {}),
    "gpt2, not tied": ("gpt2", {"tie_word_embeddings": False, "layer_norm_epsilon": 1e-3}),
}  # fmt: skip
SPARSE: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("mixtral", {}),
    "mixtral, one of two, tied": ("mixtral", {"num_local_experts": 2, "num_experts_per_tok": 1,
                                              "tie_word_embeddings": True}),
    "qwen2moe": ("qwen2_moe", {"mlp_only_layers": []}),
    "qwen3moe": ("qwen3_moe", {}),
    "olmoe": ("olmoe", {"num_key_value_heads": 6, "clip_qkv": None}),
    "granitemoe": ("granitemoe", {}),
    "gpt-oss": ("gpt_oss", {"swiglu_limit": 7.0}),
    "llama4": ("llama4_text", {"attention_chunk_size": 8192, "floor_scale": 8192, "attn_scale": 0.1}),
}  # fmt: skip
# norms of latents have an epsilon of their own in transformers, which is this one, and not in llama.cpp
LATENT: dict[str, tuple[str, dict[str, Any]]] = {
    "deepseek_v2": ("deepseek_v2", {"rms_norm_eps": 1e-6}),
    "deepseek_v3": ("deepseek_v3", {"rms_norm_eps": 1e-6}),
}
ROUNDED = {*gguf_dense_a.ARCHITECTURES, "gemma", "gemma2", "gemma3_text"} - {"stablelm"}
"""Families with GELU, for which llama.cpp has a table of halves."""


def logits_of(path: Path, ids: list[int]) -> Any:
    theirs = llama_cpp.Llama(
        str(path), n_ctx=96, n_threads=1, logits_all=True, verbose=False, type_k=0, type_v=0, yarn_attn_factor=-1.0,
        yarn_beta_fast=-1.0, yarn_beta_slow=-1.0,
    )  # fmt: skip
    theirs.eval(ids)
    found = np.array(theirs.scores[: len(ids)], np.float32)
    theirs.close()
    return found


def compare(make: Callable[..., Path], tmp_path: Path, family: str, overrides: dict[str, Any]) -> None:
    fields = gguf_models.plain_tokenizer(101)
    fields["tokenizer.ggml.tokens"][:3] = "t", "0", "t0"
    path = make(tmp_path / "m.gguf", family, dtype="float32", more=fields, **overrides)
    ids = np.random.default_rng(3).integers(3, 101, 60)
    expected, model = logits_of(path, ids.tolist()), fa.load(path, "float32")
    got = model(ids[None]).logits[0]
    assert np.abs(got - expected).max() <= (2e-3 if family in ROUNDED else 1e-5) * np.abs(expected).max()


@pytest.mark.parametrize("name", DENSE)
def test_dense(tmp_path: Path, name: str) -> None:
    compare(gguf_models.make, tmp_path, *DENSE[name])


@pytest.mark.parametrize("name", SPARSE)
def test_experts(tmp_path: Path, name: str) -> None:
    compare(gguf_moe.make, tmp_path, *SPARSE[name])


@pytest.mark.parametrize("name", LATENT)
def test_latents(tmp_path: Path, name: str) -> None:
    compare(gguf_latent.make, tmp_path, *LATENT[name])


def test_every_architecture_is_here() -> None:
    names = {**gguf_dense_a.ARCHITECTURES, **gguf_dense_b.ARCHITECTURES, **gguf_moe.ARCHITECTURES}
    names |= dict.fromkeys(("deepseek_v2", "deepseek_v3"), "deepseek2")
    families = [family for family, _ in (*DENSE.values(), *SPARSE.values(), *LATENT.values())]
    assert {names.get(family, family) for family in families} | _STATES == set(ARCHITECTURES)
