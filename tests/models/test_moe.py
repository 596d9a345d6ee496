# SPDX-License-Identifier: MIT
"""Decoders with experts on small folders: logits and greedy tokens of an independent NumPy model in double precision,
all forms in which files have experts, and counts that disagree."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import numpy_moe, tiny_moe
from golden.tiny_bert import save_safetensors
from golden.tiny_moe import VARIANTS
from support.decoder_checks import Load, assert_greedy, variant_fixtures

import fastattn as fa
from fastattn.graph.build import trace_page
from fastattn.graph.config import ConfigReader
from fastattn.graph.packed import Packed
from fastattn.loaders import open_weights
from fastattn.loaders.packed import PackedFile
from fastattn.models.registry import build_checkpoint, family_of, open_source

Array = np.ndarray[Any, Any]


folders, load = variant_fixtures(tiny_moe)


def save(folder: Path, c: dict[str, Any], tensors: dict[str, Array]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(c))
    save_safetensors(folder / "model.safetensors", tensors)
    return folder


# ---- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_logits(load: Load, folders: Callable[[str], Path], name: str) -> None:
    c, weights = numpy_moe.load(folders(name))
    model = load(name)
    assert model.notes == []
    for columns in (23, 1):
        ids, mask = tiny_moe.batch(c, columns)
        exact, got = numpy_moe.logits(c, weights, ids, mask), model(ids, mask).logits
        assert got.shape == exact.shape and not got[mask == 0].any()
        assert np.abs(got - exact).max() <= 1e-5 * np.abs(exact).max()


@pytest.mark.parametrize("name", VARIANTS)
def test_greedy_tokens(load: Load, folders: Callable[[str], Path], name: str) -> None:
    c, weights = numpy_moe.load(folders(name))
    prompts = [tiny_moe.batch(c)[0][row, :length].tolist() for row, length in ((0, 9), (1, 1))]
    answers = load(name).generate(prompts, max_new_tokens=8, ignore_eos=True)
    for prompt, answer in zip(prompts, answers, strict=True):
        assert_greedy(answer.token_ids, *numpy_moe.greedy(c, weights, prompt, 8))


@pytest.mark.parametrize("family", tiny_moe.BASE)
def test_prompts_have_the_same_answers_alone_and_together(load: Load, family: str) -> None:
    model, ids = load(family), tiny_moe.batch(tiny_moe.config(family))[0]
    prompts = [ids[0, :7].tolist(), ids[1, :3].tolist(), ids[2, :20].tolist(), ids[0, :7].tolist()]
    answers = [list(answer.token_ids) for answer in model.generate(prompts, max_new_tokens=8, ignore_eos=True)]
    alone = [list(model.generate([p], max_new_tokens=8, ignore_eos=True)[0].token_ids) for p in prompts]
    assert answers == alone


def test_more_rows_than_are_sorted_together(load: Load) -> None:
    """Each row of a call has the bits that it has in a call of few."""
    model = load("qwen3_moe")
    ids = np.random.default_rng(3).integers(0, 101, (60, 40))
    together = model(ids).logits
    for row in (0, 25, 26, 51, 59):
        assert model(ids[row : row + 1]).logits.tobytes() == together[row : row + 1].tobytes()


def test_some_experts_are_taken_by_nobody(folders: Callable[[str], Path]) -> None:
    """As the variant's name says: what the test above stands on."""
    c, weights = numpy_moe.load(folders("mixtral, nobody takes most"))
    x = np.random.default_rng(1).standard_normal((40, c["hidden_size"]))
    chosen, _ = numpy_moe.routes(c, weights, "model.layers.0.block_sparse_moe", x)
    assert 2 < len(np.unique(chosen)) < 81 < tiny_moe.experts(c)


# ---- forms of files -------------------------------------------------------------------------------------------------

FORMS = [name for name, (family, _) in VARIANTS.items() if family not in ("granitemoe", "gpt_oss")]


@pytest.mark.parametrize("name", FORMS)
def test_experts_in_one_tensor(tmp_path: Path, load: Load, name: str) -> None:
    """As transformers keeps them in memory: the bits of a tensor for each, packed as well."""
    family, overrides = VARIANTS[name]
    c = tiny_moe.config(family, **overrides)
    arrays = tiny_moe.stacked(tiny_moe.tensors(c))
    assert any(array.ndim == 3 for array in arrays.values()) and not any(".experts.0." in key for key in arrays)
    folder, batch = save(tmp_path / "f", c, arrays), tiny_moe.batch(c)
    expected = load(name)(*batch).logits.tobytes()
    assert fa.load(folder, "float32")(*batch).logits.tobytes() == expected
    packed = fa.pack(folder, tmp_path / "m.fastattn", "float32")
    assert fa.load(packed)(*batch).logits.tobytes() == expected


def test_granite_under_its_later_names(tmp_path: Path, load: Load) -> None:
    c = tiny_moe.config("granitemoe")
    names = {"input_linear.weight": "experts.gate_up_proj", "output_linear.weight": "experts.down_proj",
             "router.layer.weight": "router.weight"}  # fmt: skip
    arrays = {}
    for name, array in tiny_moe.tensors(c).items():
        layer, mark, rest = name.partition("block_sparse_moe.")
        arrays[layer + mark + names.get(rest, rest)] = array
    batch = tiny_moe.batch(c)
    folder = save(tmp_path / "f", c, arrays)
    assert fa.load(folder, "float32")(*batch).logits.tobytes() == load("granitemoe")(*batch).logits.tobytes()


@pytest.mark.parametrize("family", tiny_moe.BASE)
def test_the_model_alone(tmp_path: Path, load: Load, family: str) -> None:
    """A file without a head, whose names have no prefix."""
    c = tiny_moe.config(family)
    arrays = {
        name.removeprefix("model."): array for name, array in tiny_moe.tensors(c).items() if name != "lm_head.weight"
    }
    alone = fa.load(
        save(tmp_path / "f", {**c, "architectures": [tiny_moe.CLASSES[family] + "Model"]}, arrays), "float32"
    )
    ids, mask = tiny_moe.batch(c)
    hidden, expected = alone(ids, mask), load(family)(ids, mask, output_hidden_states=True)
    assert hidden.last_hidden_state.tobytes() == expected.hidden_states[-1].tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("family", tiny_moe.BASE)
def test_files_of_every_type_hold_the_same_model(tmp_path: Path, load: Load, family: str, dtype: str) -> None:
    ids, mask = tiny_moe.batch(tiny_moe.config(family))
    folder = tiny_moe.make(tmp_path, family, dtype=dtype)
    expected = load(family)(ids, mask).logits.tobytes()
    for asked in (None, "float32"):
        assert fa.load(folder, asked)(ids, mask).logits.tobytes() == expected


def test_experts_of_several_types_are_float32(tmp_path: Path) -> None:
    """As they are stored where all are halves of one kind; a packed file says which."""
    c = tiny_moe.config("qwen3_moe")
    arrays, wide = tiny_moe.tensors(c, dtype="float16"), tiny_moe.tensors(c)
    name = "model.layers.1.mlp.experts.4.up_proj.weight"
    model = fa.load(save(tmp_path / "f", c, {**arrays, name: wide[name]}))
    stored = {key: made for key, made in _types(tmp_path, model.path).items() if "experts" in key}
    assert stored["model.layers.1.mlp.experts.gate_up"] == "float32"
    assert {kind for key, kind in stored.items() if key != "model.layers.1.mlp.experts.gate_up"} == {"float16"}


def _types(tmp_path: Path, folder: Path) -> dict[str, str]:
    made = build_checkpoint(open_source(folder, None, None))[1].made
    return {key: layer.dtype for key, layer in made.items() if isinstance(layer, fa.PackedLinear)}


def test_routers_are_float32_in_every_storage_type(tmp_path: Path) -> None:
    folder = tiny_moe.make(tmp_path / "f", "qwen2_moe")
    for dtype in ("int8", "float16", "bfloat16"):
        made = build_checkpoint(open_source(folder, dtype, None))[1].made
        kinds = {key: layer.dtype for key, layer in made.items() if isinstance(layer, fa.PackedLinear)}
        routers = {key for key, kind in kinds.items() if kind == "float32"}
        assert routers == {
            f"model.layers.{i}.mlp.{part}" for i in (0, 2) for part in ("gate", "shared_expert_gate")
        }  # fmt: skip


# ---- what is refused ------------------------------------------------------------------------------------------------


def refused(folder: Path, family: str, message: str, arrays: dict[str, Array] | None = None, **changes: Any) -> None:
    c = {**tiny_moe.config(family), **changes}
    tensors = tiny_moe.tensors(tiny_moe.config(family)) if arrays is None else arrays
    with pytest.raises(ValueError, match=message):
        fa.load(save(folder, c, tensors))


def test_counts_that_disagree_with_tensors(tmp_path: Path) -> None:
    """Named by tensor and key, before each tensor of a number that may be anything is asked for."""
    refused(tmp_path, "mixtral", r"missing tensor 'model\.layers\.0\.block_sparse_moe\.experts\.5\.w1\.weight': "
            r"num_local_experts is 6", num_local_experts=6)  # fmt: skip
    refused(tmp_path, "mixtral", r"experts\.5\.w1\.weight': num_local_experts is 60000", num_local_experts=60000)
    refused(tmp_path, "mixtral", r"no use for tensor '.*\.experts\.4\.w1\.weight': num_local_experts is 4",
            num_local_experts=4)  # fmt: skip
    refused(tmp_path, "qwen3_moe", r"missing tensor '.*\.mlp\.experts\.7\.gate_proj\.weight': num_experts is 9",
            num_experts=9)  # fmt: skip
    arrays = tiny_moe.stacked(tiny_moe.tensors(tiny_moe.config("olmoe")))
    refused(tmp_path, "olmoe", r"tensor 'model\.layers\.0\.mlp\.experts\.gate_up_proj' has shape \[6, 48, 48\], but "
            r"config.json asks for \[8, 48, 48\]: num_experts is 8", arrays, num_experts=8)  # fmt: skip
    refused(tmp_path, "granitemoe", r"input_linear\.weight' has shape \[4, 40, 48\], .*num_local_experts is 3",
            num_local_experts=3)  # fmt: skip
    refused(tmp_path, "gpt_oss", r"experts\.gate_up_proj' has shape \[4, 48, 48\], .*num_local_experts is 5",
            num_local_experts=5)  # fmt: skip
    refused(tmp_path, "qwen2_moe", "num_experts is 6, but num_local_experts is 5", num_local_experts=5)


@pytest.mark.parametrize("family", tiny_moe.BASE)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts_per_tok": 0}, "num_experts_per_tok is '0', expected an integer from 1 to"),
        ({"num_experts_per_tok": 8}, "num_experts_per_tok is '8', expected an integer from 1 to"),
        ({"num_experts_per_tok": 2.0}, "num_experts_per_tok is '2.0'"),
        ({"num_experts_per_tok": None}, "key 'num_experts_per_tok' is missing"),
        ({"num_local_experts": 0, "num_experts": None}, "num_local_experts is '0', expected an integer from 1"),
        ({"num_local_experts": 1 << 20, "num_experts": None}, "num_local_experts is '1048576', expected .* to 65536"),
        ({"num_local_experts": None, "num_experts": None}, "key 'num_experts' is missing"),
        ({"num_local_experts": [4], "num_experts": None}, "num_local_experts is .*, expected an integer"),
    ],
)
def test_counts_that_cannot_be(tmp_path: Path, family: str, changes: dict[str, Any], message: str) -> None:
    refused(tmp_path, family, message, **changes)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("qwen2_moe", {"decoder_sparse_step": 0}, "decoder_sparse_step is '0'"),
        ("qwen2_moe", {"mlp_only_layers": 1}, "mlp_only_layers is '1', expected a list of numbers of layers"),
        ("qwen3_moe", {"mlp_only_layers": ["0"]}, "mlp_only_layers is .*expected a list of numbers of layers"),
        ("qwen2_moe", {"shared_expert_intermediate_size": 0}, "shared_expert_intermediate_size is '0'"),
        (
            "qwen2_moe",
            {"shared_expert_intermediate_size": 34},
            r"shared_expert\.gate_proj\.weight' has shape \[33, 48\]",
        ),
        ("qwen2_moe", {"moe_intermediate_size": 21}, r"experts\.0\.gate_proj\.weight' has shape \[20, 48\]"),
        ("qwen2_moe", {"mlp_only_layers": []}, r"missing tensor"),
        ("qwen2_moe", {"layer_types": ["sliding_attention"] * 3}, "layer_types has sliding_attention, but"),
        ("qwen3_moe", {"norm_topk_prob": "yes"}, "norm_topk_prob is 'yes', expected true or false"),
        ("olmoe", {"clip_qkv": -1.0}, "clip_qkv is '-1.0', expected a finite number above 0"),
        ("gpt_oss", {"swiglu_limit": 0}, "swiglu_limit is '0', expected a finite number above 0"),
        ("gpt_oss", {"swiglu_alpha": "1.7"}, "swiglu_alpha is '1.7'"),
        ("gpt_oss", {"layer_types": ["full_attention"]}, "layer_types has 1 entries, expected 3"),
        ("gpt_oss", {"quantization_config": {"quant_method": "mxfp4"}}, "quantised checkpoints are not supported"),
    ],
)
def test_keys_that_cannot_be(tmp_path: Path, family: str, changes: dict[str, Any], message: str) -> None:
    refused(tmp_path, family, message, **changes)


@pytest.mark.parametrize("family", tiny_moe.BASE)
def test_keys_of_training_change_nothing(tmp_path: Path, load: Load, family: str) -> None:
    c = {
        **tiny_moe.config(family),
        "router_jitter_noise": 0.3,
        "router_aux_loss_coef": 7.0,
        "output_router_logits": True,
    }
    model = fa.load(save(tmp_path, c, tiny_moe.tensors(tiny_moe.config(family))), "float32")
    batch = tiny_moe.batch(c)
    assert model.notes == [] and model(*batch).logits.tobytes() == load(family)(*batch).logits.tobytes()


@pytest.mark.parametrize("changes", [{"num_experts": 5}, {"num_experts": 8}, {"intermediate_size": 23}])
def test_a_packed_file_of_other_sizes(tmp_path: Path, changes: dict[str, int]) -> None:
    packed = open_weights(fa.pack(tiny_moe.make(tmp_path / "f", "olmoe"), tmp_path / "m.fastattn", "float32"))
    assert isinstance(packed, PackedFile)
    config = ConfigReader("config.json", {**tiny_moe.config("olmoe"), **changes})
    with pytest.raises(ValueError, match=r"'model\.layers\.0\.mlp\.\S+' does not fit config\.json: "):
        trace_page(family_of("olmoe"), Packed(config, packed, None))
