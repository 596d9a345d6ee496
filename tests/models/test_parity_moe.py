# SPDX-License-Identifier: MIT
"""Decoders with experts beside transformers: random models of odd shapes as save_pretrained writes them, in both forms,
and the tiny folders.

Run with ``pytest -m parity`` where torch and transformers are installed; elsewhere ``test_moe`` stands in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_latent, tiny_moe
from golden.tiny_bert import integers
from golden.tiny_moe import CLASSES

import fastattn as fa

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
exact_torch = pytest.importorskip("support.exact_torch")
one_thread = exact_torch.one_thread
pytestmark = [
    pytest.mark.parity,
]

Array = np.ndarray[Any, Any]

NEAR_TIE = 1e-4
MOST_TIES = 0.005  # of all prompts

COUNTS = {
    family: "num_local_experts" if family in ("mixtral", "granitemoe", "gpt_oss", "llama4_text") else "num_experts"
    for family in CLASSES
}
CONFIGS = {"llama4_text": "Llama4Text"}  # of the language model alone
SHAPES: dict[str, dict[str, Any]] = {
    "one layer, two experts, tiny vocabulary": {"hidden_size": 6, "num_attention_heads": 1, "num_key_value_heads": 1,
                                                "intermediate_size": 7, "num_hidden_layers": 1, "vocab_size": 5,
                                                "experts": 2, "num_experts_per_tok": 1},
    "one expert": {"experts": 1, "num_experts_per_tok": 1, "intermediate_size": 1},
    "all of seven": {"experts": 7, "num_experts_per_tok": 7, "num_key_value_heads": 3},
    "most are taken by nobody": {"experts": 200, "num_experts_per_tok": 5, "num_hidden_layers": 1,
                                 "intermediate_size": 9},
    "wide": {"hidden_size": 384, "num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 300,
             "num_hidden_layers": 2, "vocab_size": 300, "experts": 8, "num_experts_per_tok": 2},
}  # fmt: skip
BASE: dict[str, Any] = {
    "vocab_size": 90, "hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2, "num_hidden_layers": 3,
    "intermediate_size": 30, "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "mixtral": {"sliding_window": 9},
    "qwen2_moe": {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1},
    "qwen3_moe": {"norm_topk_prob": True},
    "olmoe": {"clip_qkv": 2.0},
    "granitemoe": {"embedding_multiplier": 6.0, "attention_multiplier": 0.1, "residual_multiplier": 0.4,
                   "logits_scaling": 3.0},
    "gpt_oss": {"sliding_window": 7, "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "truncate": False,
                                                         "original_max_position_embeddings": 128, "rope_theta": 500.0}},
    "llama4_text": {"interleave_moe_layer_step": 2, "intermediate_size_mlp": 40, "attention_chunk_size": 9,
                    "floor_scale": 7},
}  # fmt: skip


MAKERS: dict[str, Any] = {name: maker for maker in (tiny_moe, tiny_latent) for name in maker.VARIANTS}
"""Variant -> what makes it: those of latent attention have experts too."""


def make(family: str, shape: dict[str, Any]) -> Any:
    """A random model of transformers; queries, keys and routers scaled up, without which softmax is nearly flat."""
    options = {**BASE, **OWN[family], **shape}
    options[COUNTS[family]] = options.pop("experts")
    options["head_dim"] = options["hidden_size"] // options["num_attention_heads"]
    if family.startswith("qwen"):
        options |= {"moe_intermediate_size": options["intermediate_size"], "shared_expert_intermediate_size": 11}
    torch.manual_seed(7)
    config = getattr(transformers, CONFIGS.get(family, CLASSES[family]) + "Config")(**options)
    theirs = getattr(transformers, CLASSES[family] + "ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if name.endswith("bias") or "norm" in name or "sinks" in name:
                weight += torch.randn_like(weight) * 0.2  # made as zeros and ones, which hide a mistake
            elif name.endswith(("q_proj.weight", "k_proj.weight")):
                weight *= 80 / weight.shape[-1] ** 0.5
            else:  # routers are made as zeros
                weight.copy_(torch.randn_like(weight) * 0.2 / max(weight.shape[-1] / 48, 1) ** 0.5)
    theirs.set_experts_implementation("eager")
    theirs.tie_weights()
    return theirs


def rows(vocabulary: int, columns: int) -> tuple[Array, Array]:
    """Rows: whole, padded on the right, padded on the left, with holes."""
    ids = integers("parity/moe", (4, columns), vocabulary)
    mask = integers("parity/mask", (4, columns), 2)
    mask[0] = 1
    mask[1] = np.arange(columns) < (columns + 1) // 2
    mask[2] = np.arange(columns) >= columns // 3
    mask[3, 0] = 1
    return ids, mask


def load(folder: Path, dtype: Any) -> Any:
    eager = {"attn_implementation": "eager", "experts_implementation": "eager"}
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **eager).eval()


def compare(folder: Path, family: str, ids: Array, mask: Array) -> Array:
    """Logits within 1e-5 of the largest of transformers in double precision throughout, or at most twice as far off as
    it is itself in float32; the logits."""
    tensors = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    with torch.no_grad():
        single = load(folder, torch.float32)(**tensors).logits.numpy()
        with exact_torch.double_throughout(family):
            exact = load(folder, torch.float64)(**tensors).logits.numpy()
    assert exact.dtype == np.float64
    got = fa.load(folder, dtype="float32")(ids, mask).logits
    seen = mask == 1
    error = np.abs(got - exact)[seen].max()
    assert error <= max(1e-5 * np.abs(exact[seen]).max(), 2 * np.abs(single - exact)[seen].max())
    found: Array = got
    return found


@pytest.mark.parametrize("family", CLASSES)
@pytest.mark.parametrize("shape", SHAPES)
def test_logits(tmp_path: Path, family: str, shape: str) -> None:
    """Both forms of files hold the same bits."""
    theirs = make(family, SHAPES[shape])
    theirs.save_pretrained(tmp_path / "each")
    theirs.save_pretrained(tmp_path / "all", save_original_format=False)
    batch = rows(theirs.config.vocab_size, 120)
    got = compare(tmp_path / "each", family, *batch)
    assert fa.load(tmp_path / "all", dtype="float32")(*batch).logits.tobytes() == got.tobytes()


@pytest.mark.parametrize("name", MAKERS)
def test_variants(tmp_path: Path, name: str) -> None:
    MAKERS[name].variant(tmp_path, name)
    family, overrides = MAKERS[name].VARIANTS[name]
    compare(tmp_path, family, *rows(overrides.get("vocab_size", 101), 60))


def test_gpt_oss_without_rotary_keys(tmp_path: Path) -> None:
    tiny_moe.make(tmp_path, "gpt_oss", rope_parameters=..., max_position_embeddings=131072)
    compare(tmp_path, "gpt_oss", *rows(101, 60))


@pytest.mark.parametrize("family", (*CLASSES, *tiny_latent.CLASSES))
def test_greedy_tokens(tmp_path: Path, family: str) -> None:
    ties, count = 0, 0
    for name in [name for name, maker in MAKERS.items() if maker.VARIANTS[name][0] == family]:
        folder = MAKERS[name].variant(tmp_path / str(count), name)
        theirs = load(folder, torch.float64)
        theirs.generation_config.eos_token_id = None
        ids = rows(MAKERS[name].VARIANTS[name][1].get("vocab_size", 101), 30)[0]
        prompts = [ids[row, : 1 + 7 * row].tolist() for row in (0, 1, 3)]
        answers = fa.load(folder, dtype="float32").generate(prompts, max_new_tokens=12, ignore_eos=True)
        for prompt, answer in zip(prompts, answers, strict=True):
            ties += parts(list(answer.token_ids), theirs, prompt)
            count += 1
    assert ties <= max(1, MOST_TIES * count)


def parts(got: list[int], theirs: Any, prompt: list[int]) -> int:
    """1 where the tokens part at a near tie, 0 where they do not; anything else fails."""
    ids = torch.tensor([prompt])
    with torch.no_grad():
        out = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=len(got), do_sample=False, output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip
    expected = out.sequences[0, len(prompt) :].tolist()
    for step, (mine, other) in enumerate(zip(got, expected, strict=True)):
        if mine != other:
            logits = out.logits[step][0].double().numpy()
            gap = logits[other] - logits[mine]
            print(f"{theirs.config.model_type}, step {step}: {mine} for {other}, which is {gap:.2e} likelier")
            assert 0 <= gap <= NEAR_TIE * np.abs(logits).max()
            return 1
    return 0
