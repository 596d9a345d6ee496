# SPDX-License-Identifier: MIT
"""Folders of every architecture through llama.cpp's own converters: the bits of the folder.

Run with ``pytest -m parity`` where transformers is installed, with FASTATTN_LLAMA_CPP set to a folder of llama.cpp's
source (the source archive of llama-cpp-python has it as vendor/llama.cpp).
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_decoders, tiny_latent, tiny_moe, tiny_states

import fastattn as fa
from fastattn.models.gguf import ARCHITECTURES

pytestmark = pytest.mark.parity

SOURCE = Path(os.environ.get("FASTATTN_LLAMA_CPP", "llama.cpp"))
if not (SOURCE / "conversion").is_dir():
    pytest.skip("FASTATTN_LLAMA_CPP is not set to a folder of llama.cpp's source", allow_module_level=True)
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

_FULL = "full_attention"
_THETA = {"rope_theta": 10000.0}  # some write no other
_OLD = ("gpt_neox", "falcon", "mpt", "exaone")
"""Families whose config.json the converters know as it was before transformers 5."""

# what converters have no key for is left as llama.cpp has it: bases of positions, widths, windows
VARIANTS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "llama": (tiny_decoders, "llama", {}),
    "llama, biases, wide heads": (tiny_decoders, "llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 16}),
    "llama, linear": (tiny_decoders, "llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.5}}),
    "qwen2": (tiny_decoders, "qwen2", {}),
    "qwen3": (tiny_decoders, "qwen3", {"tie_word_embeddings": True}),
    "phi3": (tiny_decoders, "phi3", {"sliding_window": 6, "partial_rotary_factor": 0.5}),
    "smollm3": (tiny_decoders, "smollm3", {}),
    "granite": (tiny_decoders, "granite", {}),
    "olmo2": (tiny_decoders, "olmo2", {}),
    "olmo2 of OLMo 3": (tiny_decoders, "olmo3", {}),
    "gemma": (tiny_decoders, "gemma", _THETA),
    "gemma2": (tiny_decoders, "gemma2", {**_THETA, "query_pre_attn_scalar": 16}),
    "gemma3": (tiny_decoders, "gemma3_text", {"query_pre_attn_scalar": 16, "rope_local_base_freq": 10000.0,
                                              "sliding_window_pattern": 6, "num_hidden_layers": 7}),
    "command-r": (tiny_decoders, "cohere", {}),
    "cohere2": (tiny_decoders, "cohere2", {"sliding_window_pattern": 4, "num_hidden_layers": 5}),
    "chatglm": (tiny_decoders, "glm", {**_THETA, "head_dim": 8}),
    "glm4": (tiny_decoders, "glm4", {}),
    "arcee": (tiny_decoders, "arcee", {}),
    "ernie4_5": (tiny_decoders, "ernie4_5", {}),
    "seed_oss": (tiny_decoders, "seed_oss", {}),
    "hunyuan-dense": (tiny_decoders, "hunyuan_v1_dense", {}),
    "exaone": (tiny_decoders, "exaone", {"activation_function": "silu", "layer_norm_epsilon": 1e-5, "num_layers": 3}),
    "exaone4": (tiny_decoders, "exaone4", {}),
    "exaone4, no windows": (tiny_decoders, "exaone4", {"sliding_window": None, "layer_types": [_FULL] * 3}),
    "nemotron": (tiny_decoders, "nemotron", {}),
    "olmo": (tiny_decoders, "olmo", {}),
    "gptneox": (tiny_decoders, "gpt_neox", {"rotary_emb_base": 10000}),
    "gptneox, one after the other": (tiny_decoders, "gpt_neox", {"rotary_emb_base": 10000,
                                                                 "use_parallel_residual": False}),
    "phi2": (tiny_decoders, "phi", {**_THETA, "intermediate_size": 192}),
    "starcoder2": (tiny_decoders, "starcoder2", {"sliding_window": None}),
    "stablelm": (tiny_decoders, "stablelm", {}),
    "falcon": (tiny_decoders, "falcon", _THETA),
    "falcon, two norms": (tiny_decoders, "falcon", {**_THETA, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "bloom": (tiny_decoders, "bloom", {}),
    "mpt": (tiny_decoders, "mpt", {"attn_config": {"alibi": True, "alibi_bias_max": 8, "clip_qkv": 1.5}}),
    "gpt2": (tiny_decoders, "gpt2", {}),
    "mixtral": (tiny_moe, "mixtral", {}),
    "qwen2moe": (tiny_moe, "qwen2_moe", {"mlp_only_layers": []}),
    "qwen3moe": (tiny_moe, "qwen3_moe", {}),
    "olmoe": (tiny_moe, "olmoe", {"clip_qkv": None}),
    "granitemoe": (tiny_moe, "granitemoe", {}),
    "gpt-oss": (tiny_moe, "gpt_oss", {"swiglu_limit": 7.0}),
    "llama4": (tiny_moe, "llama4_text", {"attention_chunk_size": 8192, "floor_scale": 8192, "attn_scale": 0.1}),
    "deepseek_v2": (tiny_latent, "deepseek_v2", {}),
    "deepseek_v2, one head": (tiny_latent, "deepseek_v2", {"num_attention_heads": 1, "num_key_value_heads": 1}),
    "deepseek_v3": (tiny_latent, "deepseek_v3", {"rope_scaling": {
        "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24, "beta_fast": 32, "beta_slow": 1,
        "mscale": 1.0, "mscale_all_dim": 1.0,
    }}),
    "lfm2": (tiny_states, "lfm2", {}),
    "mamba2": (tiny_states, "mamba2", {}),
    "qwen3next": (tiny_states, "qwen3_next", {}),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _conversion() -> Iterator[None]:
    """Its own package ``gguf`` beside it, which may be newer than the installed one."""
    before = sys.path[:], {name: sys.modules.pop(name) for name in [*sys.modules] if name.split(".")[0] == "gguf"}
    sys.path[:0] = [str(SOURCE / "gguf-py"), str(SOURCE)]
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)
    for name in [name for name in sys.modules if name.split(".")[0] in ("gguf", "conversion")]:
        del sys.modules[name]
    sys.path[:], others = before
    sys.modules.update(others)


def converted(folder: Path, path: Path) -> Path:
    """The GGUF file that llama.cpp's converters make of the folder, with a vocabulary of its own."""
    import gguf
    from conversion import get_model_class
    from conversion.base import ModelBase, ModelType, get_model_architecture

    said = json.loads((folder / "config.json").read_text())
    old, family = {"hparams": said} if said["model_type"] in _OLD else {}, said["model_type"]
    name = get_model_architecture(old.get("hparams") or ModelBase.load_hparams(folder, False), ModelType.TEXT)
    above = get_model_class(name.replace("Mpt", "MPT"))

    def vocabulary(self: Any) -> None:
        self.gguf_writer.add_vocab_size(said["vocab_size"])
        self.gguf_writer.add_eos_token_id(said["eos_token_id"])

    own: dict[str, Any] = {"model_arch": above.model_arch, "set_vocab": vocabulary}
    if family == "qwen3_next":
        own["no_mtp"] = True
    with torch.inference_mode():
        kind = type(above.__name__, (above,), own)
        kind(folder, gguf.LlamaFileType.ALL_F32, path, eager=True, **old).write()
    return path


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_are_the_bits_of_the_folder(tmp_path: Path, name: str) -> None:
    tiny, family, overrides = VARIANTS[name]
    folder = tiny.make(tmp_path / "folder", family, **overrides)
    vocabulary = {"vocab": {f"t{i}": i for i in range(101)}, "merges": []}
    if family == "gemma3_text":  # whose converter counts them
        (folder / "tokenizer.json").write_text(json.dumps({"model": vocabulary, "added_tokens": []}))
    path = converted(folder, tmp_path / "m.gguf")
    (folder / "tokenizer.json").unlink(missing_ok=True)
    model, expected = fa.load(path, "float32"), fa.load(folder, "float32")
    ids = np.random.default_rng(3).integers(3, 100, (2, 40))
    got, logits = model(ids).logits, expected(ids).logits
    if family == "mamba2":  # exp(A_log) is torch's in the file
        assert np.abs(got - logits).max() <= 1e-5 * np.abs(logits).max()
    else:
        assert np.array_equal(got, logits)
    assert model.notes == []


def test_every_architecture_is_here(tmp_path: Path) -> None:
    found = {"olmo2 of OLMo 3": "olmo2", "mixtral": "llama", "deepseek_v2": "deepseek2", "deepseek_v3": "deepseek2"}
    names = {name.split(",")[0] for name in VARIANTS}
    assert {found.get(name, name) for name in names} == set(ARCHITECTURES)
