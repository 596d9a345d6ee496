# SPDX-License-Identifier: MIT
"""Adapters beside PEFT, on folders that it wrote itself: models as it runs them, and as it merges them.

Run with ``pytest -m parity`` where torch, transformers and peft are installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_bert, tiny_decoders, tiny_families

import fastattn as fa

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "all linear layers": ("llama", {}, {"target_modules": "all-linear"}),
    "a rank and an alpha of some": ("qwen2", {}, {
        "target_modules": ["q_proj", "o_proj", "down_proj"], "r": 3, "lora_alpha": 7,
        "rank_pattern": {"down_proj": 5, r"layers\.1\.self_attn\.q_proj": 1}, "alpha_pattern": {"o_proj": 2},
    }),
    "the root of the rank": ("phi3", {}, {"target_modules": "all-linear", "r": 5, "use_rslora": True}),
    "whole modules": ("qwen3", {}, {"target_modules": ["v_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}),
    "biases": ("llama", {"attention_bias": True, "mlp_bias": True}, {"target_modules": ["q_proj"], "bias": "all"}),
    "biases of the layers": ("granite", {"attention_bias": True}, {"target_modules": ["k_proj"], "bias": "lora_only"}),
    "a bias of the LoRA": ("qwen2", {}, {"target_modules": ["q_proj", "k_proj"], "lora_bias": True}),
    "the table of words": ("olmo2", {}, {"target_modules": ["embed_tokens", "up_proj"]}),
    "the head": ("smollm3", {"tie_word_embeddings": False}, {"target_modules": ["lm_head", "gate_proj"]}),
    "some layers": ("mistral", {}, {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [0, 2]}),
    "other ways to begin": ("llama", {}, {"target_modules": ["q_proj"], "init_lora_weights": "gaussian"}),
    "a tied table": ("qwen2", {"tie_word_embeddings": True}, {"target_modules": ["embed_tokens", "q_proj"]}),
    "a tied head": ("qwen2", {"tie_word_embeddings": True}, {"target_modules": ["lm_head"]}),
    "a tied table, kept so": ("qwen2", {"tie_word_embeddings": True}, {
        "target_modules": ["embed_tokens"], "ensure_weight_tying": True,
    }),
    "a whole table, tied": ("llama", {"tie_word_embeddings": True}, {
        "target_modules": ["v_proj"], "modules_to_save": ["embed_tokens"],
    }),
    "a whole table, kept tied": ("llama", {"tie_word_embeddings": True}, {
        "target_modules": ["v_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True,
    }),
}  # fmt: skip
SPLIT = ("a tied table", "a tied head", "a tied table, kept so")
"""What it merges otherwise than it runs: into the one tensor that two layers have, twice where both have the LoRA."""


def trained(model: Any, **config: Any) -> Any:
    """The model with an adapter whose numbers are random."""
    torch.manual_seed(3)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**{"r": 4, "lora_alpha": 6, **config}))
    with torch.no_grad():
        for _, parameter in wrapped.named_parameters():
            if parameter.requires_grad:
                parameter += torch.randn_like(parameter) * 0.1
    return wrapped.eval()


def close(got: Any, expected: Any, mask: Any) -> None:
    real, wanted = np.asarray(mask, bool), expected.detach().numpy()
    assert np.abs(got - wanted)[real].max() < 2e-5 * max(1.0, float(np.abs(wanted[real]).max()))


@pytest.mark.parametrize("name", CASES)
def test_decoders(tmp_path: Path, name: str) -> None:
    family, overrides, config = CASES[name]
    base = tiny_decoders.make(tmp_path / "base", family, **overrides)
    theirs = trained(transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), **config)
    theirs.save_pretrained(tmp_path / "peft")
    ids, mask = tiny_decoders.batch({"vocab_size": 101})
    inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    model = fa.load(base)
    tuned = model.load_adapter(tmp_path / "peft")
    got, before = tuned(ids, mask).logits, model(ids, mask).logits
    assert np.abs(got - before)[np.asarray(mask, bool)].max() > 1e-2
    with torch.no_grad():
        close(got, theirs(**inputs).logits, mask)
        if name not in SPLIT:
            merged = theirs.merge_and_unload()
            close(got, merged(**inputs).logits, mask)
    assert tuned.notes == model.notes


@pytest.mark.parametrize(("family", "targets"), [
    ("bert", ["query", "value"]), ("distilbert", ["q_lin", "lin2"]), ("mpnet", ["q", "o"]),
])  # fmt: skip
def test_encoders(tmp_path: Path, family: str, targets: list[str]) -> None:
    if family == "bert":
        base, vocabulary = tiny_bert.save_folder(tmp_path / "base", "plain"), tiny_bert.config("plain")["vocab_size"]
    else:
        base = tiny_families.save_folder(tmp_path / "base", family)
        vocabulary = tiny_families.config(family)["vocab_size"]
    theirs = trained(transformers.AutoModel.from_pretrained(base, dtype=torch.float32), target_modules=targets)
    theirs.save_pretrained(tmp_path / "peft")
    ids = tiny_bert.integers("adapters/ids", (3, 11), vocabulary - 5) + 5
    mask = np.ones((3, 11), np.int64)
    got = fa.load(base).load_adapter(tmp_path / "peft")(ids, mask).last_hidden_state
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)).last_hidden_state
    close(got, expected, mask)
