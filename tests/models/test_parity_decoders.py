# SPDX-License-Identifier: MIT
"""Decoders beside transformers: random models of many shapes as save_pretrained writes them, and the tiny folders.

Run with ``pytest -m parity`` where torch and transformers are installed; elsewhere ``test_decoders`` stands in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_decoders, tiny_dense_a, tiny_dense_b
from golden.tiny_bert import integers
from golden.tiny_decoders import CLASSES, VARIANTS

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
STEPS = 12

SHAPES: dict[str, dict[str, Any]] = {
    "one layer of one head, tiny vocabulary": {"hidden_size": 6, "num_attention_heads": 1, "num_key_value_heads": 1,
                                               "intermediate_size": 7, "num_hidden_layers": 1, "vocab_size": 5},
    "heads of 2": {"hidden_size": 24, "num_attention_heads": 12, "num_key_value_heads": 4, "intermediate_size": 1},
    "heads of 24": {"hidden_size": 72, "num_attention_heads": 3, "num_key_value_heads": 1, "intermediate_size": 130},
    "heads of 128": {"hidden_size": 256, "num_attention_heads": 2, "num_key_value_heads": 2},
    "many layers": {"num_hidden_layers": 12},
    "wide": {"hidden_size": 384, "num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 1024,
             "num_hidden_layers": 2, "vocab_size": 700},
}  # fmt: skip
BASE: dict[str, Any] = {
    "vocab_size": 90, "hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2, "num_hidden_layers": 4,
    "intermediate_size": 70, "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "mistral": {"sliding_window": 9},
    "qwen2": {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1},
    "qwen3": {},
    "phi3": {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.5}},
    "smollm3": {"no_rope_layer_interval": 2},
    "olmo2": {"attention_bias": True},
    "granite": {"embedding_multiplier": 6.0, "attention_multiplier": 0.1, "residual_multiplier": 0.4,
                "logits_scaling": 3.0},
    **tiny_dense_a.RANDOM,
    **tiny_dense_b.OWN,
}  # fmt: skip
PEAKED = ("q_proj.weight", "k_proj.weight")


def make(family: str, sizes: dict[str, Any]) -> Any:
    """A random model of transformers; queries and keys scaled up, without which softmax is nearly flat."""
    options = {**BASE, **OWN[family], **sizes}
    if family in tiny_dense_a.BASE:
        options = tiny_dense_a.spelled(family, options)
    if family == "qwen3":
        options.setdefault("head_dim", options["hidden_size"] // options["num_attention_heads"] * 2)
    if family == "helium":  # whose attention is as wide as its hidden states
        options["head_dim"] = options["hidden_size"] // options["num_attention_heads"]
    if family == "phi3" and options["hidden_size"] // options["num_attention_heads"] % 4:
        options.pop("rope_parameters")
    torch.manual_seed(7)
    others = exact_torch.OF_OTHERS
    name = f"{others[family]}ForCausalLM" if family in others else tiny_decoders.class_name(family)
    theirs = getattr(transformers, name)(transformers.AutoConfig.for_model(family, **options)).eval()
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            gain = 80 / weight.shape[-1] ** 0.5
            if name.endswith(PEAKED):
                weight *= gain
            elif name.endswith("qkv_proj.weight"):
                weight[: len(weight) // 2] *= gain
            elif name.endswith("bias") or "norm" in name:
                weight += torch.randn_like(weight) * 0.2  # made as zeros and ones, which hide a mistake
            else:
                weight *= 10 / weight.shape[-1] ** 0.25
    theirs.tie_weights()
    return theirs


def rows(vocabulary: int, columns: int) -> tuple[Array, Array]:
    """Rows: whole, padded on the right, padded on the left, with holes, whole."""
    ids = integers("parity/ids", (5, columns), vocabulary)
    mask = integers("parity/mask", (5, columns), 2)
    mask[0] = mask[4] = 1
    mask[1] = np.arange(columns) < (columns + 1) // 2
    mask[2] = np.arange(columns) >= columns // 3
    mask[3, 0] = 1
    return ids, mask


def compare(folder: Path, theirs: Any, ids: Array, mask: Array) -> None:
    """Logits of the model in ``folder`` within 1e-5 of the largest of transformers in double precision throughout, or
    at most twice as far off as ``theirs``, which is it in float32.

    After ``.double()`` alone its angles are float32's still, a position times a rounded frequency: at position 90 of a
    longrope that is 3e-5 of the largest logit, by which a right answer would miss the bound.
    """
    tensors = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    family = theirs.config.model_type
    with torch.no_grad():
        single = theirs(**tensors).logits.numpy()
        with exact_torch.double_throughout(family):
            exact = exact_torch.load_double(folder, family)(**tensors).logits.numpy()
    got = fa.load(folder, dtype="float32")(ids, mask).logits
    seen = mask == 1
    assert got.shape == exact.shape
    error = np.abs(got - exact)[seen].max()
    assert error <= max(1e-5 * np.abs(exact[seen]).max(), 2 * np.abs(single - exact)[seen].max())


@pytest.mark.parametrize("family", CLASSES)
@pytest.mark.parametrize("shape", SHAPES)
def test_logits(tmp_path: Path, family: str, shape: str) -> None:
    theirs = make(family, SHAPES[shape])
    theirs.save_pretrained(tmp_path)
    for columns in (300, 1):
        compare(tmp_path, theirs, *rows(theirs.config.vocab_size, columns))


@pytest.mark.parametrize("name", VARIANTS)
def test_variants(tmp_path: Path, name: str) -> None:
    tiny_decoders.variant(tmp_path, name)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ids, mask = rows(theirs.config.vocab_size, 90)
    if "longrope" in name:  # goes by the length of the batch there, of each sequence here
        mask[:] = 1
    compare(tmp_path, theirs, ids, mask)


def assert_greedy(got: list[int], theirs: Any, prompt: list[int]) -> int:
    """The tokens of ``theirs`` in float64; 1 where they part at a near tie, else 0."""
    with torch.no_grad():
        ids = torch.tensor([prompt])
        out = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=len(got), do_sample=False, output_logits=True,
            return_dict_in_generate=True, use_cache=getattr(theirs.config, "sliding_window", None) != 1,
        )  # fmt: skip
    expected = out.sequences[0, len(prompt) :].tolist()
    assert len(expected) == len(got)
    for step, (mine, other) in enumerate(zip(got, expected, strict=True)):
        if mine != other:
            logits = out.logits[step][0].double().numpy()
            gap = logits[other] - logits[mine]
            print(f"{theirs.config.model_type}, step {step}: {mine} for {other}, which is {gap:.2e} likelier")
            assert 0 <= gap <= NEAR_TIE * np.abs(logits).max()
            return 1
    return 0


@pytest.mark.parametrize("family", CLASSES)
def test_greedy_tokens(tmp_path: Path, family: str) -> None:
    names = [name for name, (own, _) in VARIANTS.items() if own == family]
    ties, count = 0, 0
    for name in names:
        folder = tiny_decoders.variant(tmp_path / str(count), name)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
        theirs.generation_config.eos_token_id = None
        ids = rows(theirs.config.vocab_size, 30)[0]
        prompts = [ids[row, : 1 + 7 * row].tolist() for row in (0, 1, 4)]
        answers = fa.load(folder, dtype="float32").generate(prompts, max_new_tokens=STEPS, ignore_eos=True)
        for prompt, answer in zip(prompts, answers, strict=True):
            ties += assert_greedy(list(answer.token_ids), theirs, prompt)
            count += 1
    assert ties <= max(1, MOST_TIES * count)
