# SPDX-License-Identifier: MIT
"""Decoders that keep states, on small folders: logits and greedy tokens of an independent NumPy model in double
precision that walks token by token, storage types, masks with holes, and configurations that are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import numpy_states, tiny_states
from golden.tiny_states import VARIANTS
from support.decoder_checks import Load, assert_greedy, assert_near, variant_fixtures

import fastattn as fa

Array = np.ndarray[Any, Any]


folders, load = variant_fixtures(tiny_states)


@pytest.mark.parametrize("name", VARIANTS)
def test_logits(load: Load, folders: Callable[[str], Path], name: str) -> None:
    """Of whole rows, padded ones, and one with holes, over which a state goes as if they were not there."""
    c, weights = numpy_states.load(folders(name))
    model = load(name)
    for columns in (23, 2, 1):
        ids, mask = tiny_states.batch(c, columns)
        exact = numpy_states.logits(c, weights, ids, mask)
        got = model(ids, mask).logits
        assert got.dtype == np.float32
        assert_near(got, exact)
        assert not got[mask == 0].any()
    assert model.notes == []


@pytest.mark.parametrize("name", VARIANTS)
def test_greedy_tokens(load: Load, folders: Callable[[str], Path], name: str) -> None:
    """Of prompts shorter than a convolution, and longer."""
    c, weights = numpy_states.load(folders(name))
    prompts = [tiny_states.batch(c)[0][row, :length].tolist() for row, length in ((0, 9), (1, 1), (2, 17))]
    got = load(name).generate(prompts, max_new_tokens=8, ignore_eos=True)
    for prompt, answer in zip(prompts, got, strict=True):
        assert_greedy(answer.token_ids, *numpy_states.greedy(c, weights, prompt, 8))


@pytest.mark.parametrize("family", tiny_states.BASE)
def test_prompts_have_the_same_answers_alone_and_together(load: Load, family: str) -> None:
    """And each is what the logits of one call over all of its tokens say."""
    model = load(family)
    ids = tiny_states.batch(tiny_states.config(family))[0]
    prompts = [ids[0, :7].tolist(), ids[1, :3].tolist(), ids[0, :7].tolist(), ids[2, :1].tolist()]
    answers = [list(answer.token_ids) for answer in model.generate(prompts, max_new_tokens=8, ignore_eos=True)]
    for prompt, answer in zip(prompts, answers, strict=True):
        assert list(model.generate([prompt], max_new_tokens=8, ignore_eos=True)[0].token_ids) == answer
        logits = model(np.array([prompt + answer])).logits[0]
        assert logits[len(prompt) - 1 : -1].argmax(-1).tolist() == answer


@pytest.mark.parametrize("family", tiny_states.BASE)
def test_beams_fork_states(load: Load, family: str) -> None:
    """The score of each text is that of the model over all of it; alone and in company they are the same."""
    model, prompts = load(family), [[5, 9, 3], [7]]
    made = model.generate(prompts, max_new_tokens=6, num_beams=3, n=3, length_penalty=0.0, ignore_eos=True)
    for i, prompt in enumerate(prompts):
        several = made[3 * i : 3 * i + 3]
        alone = model.generate([prompt], max_new_tokens=6, num_beams=3, n=3, length_penalty=0.0, ignore_eos=True)
        assert [(one.token_ids, one.score) for one in alone] == [(one.token_ids, one.score) for one in several]
        assert len({tuple(one.token_ids) for one in several}) == 3
        for one in several:
            logits = model(np.array([[*prompt, *one.token_ids]])).logits[0, len(prompt) - 1 : -1].astype(np.float64)
            of_all = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
            total = (logits[np.arange(6), list(one.token_ids)] - of_all).sum()
            assert abs(one.score - total) <= 1e-5 * abs(total)


@pytest.mark.parametrize("family", tiny_states.BASE)
def test_several_answers_and_drafts(load: Load, family: str) -> None:
    """Answers to one prompt begin where its states were left; drafts, which would take tokens back, change nothing."""
    model, prompt = load(family), [3, 5, 8, 3, 5, 8, 3, 5]
    options: dict[str, Any] = {"max_new_tokens": 7, "temperature": 3.0, "seed": 4, "ignore_eos": True}
    several = [one.token_ids for one in model.generate([prompt], n=3, **options)]
    assert len(set(map(tuple, several))) == 3
    for count in (1, 2):
        fewer = [one.token_ids for one in model.generate([[9], prompt], n=count, **options)][count:]
        assert fewer == several[:count]
    greedy = [
        model.generate([prompt], max_new_tokens=12, draft=draft, ignore_eos=True)[0].token_ids
        for draft in (None, "auto", "prompt_lookup", 4)
    ]
    assert all(one == greedy[0] for one in greedy)


@pytest.mark.parametrize("family", tiny_states.BASE)
def test_files_of_every_type_hold_the_same_model(tmp_path: Path, load: Load, family: str) -> None:
    ids, mask = tiny_states.batch(tiny_states.config(family))
    expected = load(family)(ids, mask).logits.tobytes()
    for dtype in ("bfloat16", "float16"):
        folder = tiny_states.make(tmp_path / dtype, family, dtype=dtype)
        assert fa.load(folder, dtype="float32")(ids, mask).logits.tobytes() == expected
        stored = fa.load(folder)(ids, mask).logits  # as stored: the same weights, in half the memory
        assert stored.tobytes() == fa.load(folder, dtype=dtype)(ids, mask).logits.tobytes()
        assert_near(stored, np.frombuffer(expected, np.float32).reshape(stored.shape))


@pytest.mark.parametrize("family", tiny_states.BASE)
def test_the_plain_model_gives_what_stands_below_the_logits(tmp_path: Path, load: Load, family: str) -> None:
    """Files without a head have no prefix."""
    c = tiny_states.config(family)
    tensors = {
        name.removeprefix("model.").removeprefix("backbone."): array
        for name, array in tiny_states.tensors(c).items()
        if not name.startswith("lm_head")
    }
    folder = tiny_states.make(tmp_path, family, architectures=[f"{tiny_states.CLASSES[family]}Model"])
    tiny_states.save_safetensors(folder / "model.safetensors", tensors)
    ids, mask = tiny_states.batch(c)
    plain = fa.load(folder, dtype="float32")
    expected = load(family)(ids, mask, output_hidden_states=True).hidden_states[-1]
    assert plain(ids, mask).last_hidden_state.tobytes() == expected.tobytes()


def test_old_files_of_mamba_2_have_a_table_of_another_name(tmp_path: Path, load: Load) -> None:
    c = tiny_states.config("mamba2")
    tensors = {name.replace("embeddings", "embedding"): array for name, array in tiny_states.tensors(c).items()}
    folder = tiny_states.make(tmp_path, "mamba2")
    tiny_states.save_safetensors(folder / "model.safetensors", tensors)
    ids, mask = tiny_states.batch(c)
    assert fa.load(folder, "float32")(ids, mask).logits.tobytes() == load("mamba2")(ids, mask).logits.tobytes()


def test_layers_that_guess_further_ahead_are_left_out(tmp_path: Path, load: Load) -> None:
    c = tiny_states.config("qwen3_next")
    folder = tiny_states.make(tmp_path, "qwen3_next")
    more = {"mtp.norm.weight": np.zeros(48, np.float32), "mtp.layers.0.mlp.gate.weight": np.zeros((5, 48), np.float32)}
    tiny_states.save_safetensors(folder / "model.safetensors", {**tiny_states.tensors(c), **more})
    ids, mask = tiny_states.batch(c)
    model = fa.load(folder, "float32")
    assert sorted(model.tensors.ignored) == sorted(more)
    assert model(ids, mask).logits.tobytes() == load("qwen3_next")(ids, mask).logits.tobytes()


def test_an_infinite_limit_is_none(tmp_path: Path, load: Load) -> None:
    ids = tiny_states.batch(tiny_states.config("mamba2"))[0]
    expected = load("mamba2")(ids).logits.tobytes()
    for name, limit in (("missing", ...), ("null", None), ("beyond", [0, 3e38])):
        model = fa.load(tiny_states.make(tmp_path / name, "mamba2", time_step_limit=limit), "float32")
        assert model(ids).logits.tobytes() == expected, name


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("lfm2", {"conv_L_cache": 0}, "conv_L_cache is '0', expected an integer from 1 to 64"),
    ("lfm2", {"conv_L_cache": 65}, "conv_L_cache is '65'"),
    ("lfm2", {"conv_bias": 1}, "conv_bias is '1', expected true or false"),
    ("lfm2", {"layer_types": ["conv"] * 2}, "layer_types has 2 entries, expected 3"),
    ("lfm2", {"layer_types": ["conv", "mamba", "conv"]}, "layer_types is .*expected a list of full_attention, conv"),
    ("lfm2", {"layer_types": ..., "full_attn_idxs": [3]}, "full_attn_idxs is .*expected numbers of layers below 3"),
    ("lfm2", {"layer_types": ..., "full_attn_idxs": 1}, "full_attn_idxs is '1'"),
    ("lfm2", {"layer_types": ..., "full_attn_idxs": [True]}, "full_attn_idxs is "),
    ("lfm2", {"block_ff_dim": 1}, "feed-forward layers of 0"),
    ("lfm2", {"block_ffn_dim_multiplier": 1e30}, "feed-forward layers of "),
    ("lfm2", {"block_ffn_dim_multiplier": "2"}, "block_ffn_dim_multiplier is '2'"),
    ("lfm2", {"num_key_value_heads": 4}, "num_attention_heads 6 is not a multiple of num_key_value_heads 4"),
    ("lfm2", {"hidden_size": 50}, "hidden_size 50 is not a multiple of num_attention_heads 6"),
    ("mamba2", {"n_groups": 4}, "num_heads 6 is not a multiple of n_groups 4"),
    ("mamba2", {"n_groups": 0}, "n_groups is '0'"),
    ("mamba2", {"expand": 3}, "num_heads 6 of head_dim 8, expected expand times hidden_size 24"),
    ("mamba2", {"state_size": 5000}, "state_size is '5000', expected an integer from 1 to 4096"),
    ("mamba2", {"conv_kernel": 65}, "conv_kernel is '65'"),
    ("mamba2", {"time_step_limit": [0.5, 0.1]}, "time_step_limit is .*expected two numbers"),
    ("mamba2", {"time_step_limit": [-1, 1]}, "time_step_limit is "),
    ("mamba2", {"time_step_limit": [{"__float__": "Infinity"}, {"__float__": "Infinity"}]}, "time_step_limit is "),
    ("mamba2", {"time_step_limit": [0, "inf"]}, "time_step_limit is "),
    ("mamba2", {"time_step_limit": 3}, "time_step_limit is '3'"),
    ("mamba2", {"hidden_act": "mish"}, "hidden_act is 'mish'"),
    ("qwen3_next", {"linear_num_key_heads": 3}, "linear_num_value_heads 4 is not a multiple of linear_num_key_heads 3"),
    ("qwen3_next", {"linear_key_head_dim": 0}, "linear_key_head_dim is '0'"),
    ("qwen3_next", {"linear_conv_kernel_dim": 1000}, "linear_conv_kernel_dim is '1000'"),
    ("qwen3_next", {"layer_types": ["conv"] * 3}, "layer_types is .*full_attention, linear_attention"),
    ("qwen3_next", {"layer_types": ["full_attention"]}, "layer_types has 1 entries, expected 3"),
    ("qwen3_next", {"partial_rotary_factor": 1.5}, "partial_rotary_factor is '1.5', expected a number up to 1"),
    ("qwen3_next", {"partial_rotary_factor": 0.03}, "0 rotary dims"),
    ("qwen3_next", {"num_experts_per_tok": 6}, "num_experts_per_tok is '6'"),
    ("qwen3_next", {"mlp_only_layers": "all"}, "mlp_only_layers is 'all'"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "changes", "message"), BAD)
def test_configurations_that_are_refused(tmp_path: Path, family: str, changes: dict[str, Any], message: str) -> None:
    folder = tiny_states.make(tmp_path, family)
    config = {**tiny_states.config(family), **changes}
    (folder / "config.json").write_text(tiny_states.json.dumps({k: v for k, v in config.items() if v is not ...}))
    with pytest.raises(ValueError, match=message) as caught:
        fa.load(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("kind", ["falcon_mamba", "mamba"])
def test_a_decay_for_every_number_of_a_state_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    folder = tiny_states.make(tmp_path, "mamba2")
    (folder / "config.json").write_text(tiny_states.json.dumps({**tiny_states.config("mamba2"), "model_type": kind}))
    with pytest.raises(ValueError, match=f"model_type is '{kind}'.* decay"):
        fa.load(folder)
