# SPDX-License-Identifier: MIT
"""Decoders on small folders: logits and greedy tokens of an independent NumPy model in double precision, storage
types, masks, and folders and calls that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import numpy_decoders, tiny_decoders, tiny_dense_a, tiny_dense_b
from golden.tiny_bert import save_safetensors
from golden.tiny_decoders import VARIANTS
from support.decoder_checks import Load, assert_greedy, assert_near, variant_fixtures

import fastattn as fa

Array = np.ndarray[Any, Any]

PLAIN = tuple(tiny_decoders.BASE)

folders, load = variant_fixtures(tiny_decoders)


# ---- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_logits(load: Load, folders: Callable[[str], Path], name: str) -> None:
    c, weights = numpy_decoders.load(folders(name))
    model = load(name)
    for columns in (23, 1):
        ids, mask = tiny_decoders.batch(c, columns)
        exact = numpy_decoders.logits(c, weights, ids, mask)
        got = model(ids, mask).logits
        assert got.dtype == np.float32
        assert_near(got, exact)
        assert not got[mask == 0].any()
        assert_near(model(ids).logits, numpy_decoders.logits(c, weights, ids))


@pytest.mark.parametrize("name", VARIANTS)
def test_greedy_tokens(load: Load, folders: Callable[[str], Path], name: str) -> None:
    """From within windows and the original length of longrope to beyond them."""
    c, weights = numpy_decoders.load(folders(name))
    prompts = [tiny_decoders.batch(c)[0][row, :length].tolist() for row, length in ((0, 9), (1, 1), (2, 17))]
    got = load(name).generate(prompts, max_new_tokens=12, ignore_eos=True)
    for prompt, answer in zip(prompts, got, strict=True):
        assert answer.finish_reason == "length" and len(answer.token_ids) == 12
        assert_greedy(list(answer.token_ids), *numpy_decoders.greedy(c, weights, prompt, 12))


@pytest.mark.parametrize("family", PLAIN)
def test_the_next_token_is_the_likeliest_of_the_last_row(load: Load, family: str) -> None:
    model, ids = load(family), [5, 9, 3, 77, 20]
    answer = model.generate([ids], max_new_tokens=6, ignore_eos=True)[0]
    tokens = [*ids, *answer.token_ids]
    logits = model(np.array([tokens])).logits[0]
    assert tokens[len(ids) :] == logits[len(ids) - 1 : -1].argmax(-1).tolist()


@pytest.mark.parametrize("family", PLAIN)
def test_prompts_have_the_same_answers_alone_and_together(load: Load, family: str) -> None:
    model = load(family)
    ids = tiny_decoders.batch(tiny_decoders.config(family))[0]
    prompts = [ids[0, :7].tolist(), ids[1, :3].tolist(), ids[0, :7].tolist()]
    answers = [answer.token_ids for answer in model.generate(prompts, max_new_tokens=8, ignore_eos=True)]
    alone = [model.generate([p], max_new_tokens=8, ignore_eos=True)[0].token_ids for p in prompts]
    assert list(map(list, answers)) == list(map(list, alone))


@pytest.mark.parametrize("family", PLAIN)
def test_nobody_sees_what_comes_later(load: Load, family: str) -> None:
    model = load(family)
    ids = tiny_decoders.batch(tiny_decoders.config(family))[0][:1]
    whole = model(ids).logits
    for length in (1, 2, 8, 22):
        assert model(ids[:, :length]).logits.tobytes() == whole[:, :length].tobytes()


def test_a_window_forgets(load: Load) -> None:
    """Three layers of a window of seven reach 18 tokens back, and no further."""
    model = load("mistral")
    ids = tiny_decoders.batch(tiny_decoders.config("mistral"))[0][:1]
    other = ids.copy()
    other[0, 0] = (ids[0, 0] + 1) % 101
    same = (model(ids).logits == model(other).logits).all(-1)[0]
    assert same[19:].all() and not same[:19].any()


# ---- storage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", PLAIN)
def test_files_of_every_type_hold_the_same_model(tmp_path: Path, load: Load, family: str) -> None:
    ids, mask = tiny_decoders.batch(tiny_decoders.config(family))
    expected = load(family)(ids, mask).logits.tobytes()
    for dtype in ("bfloat16", "float16"):
        folder = tiny_decoders.make(tmp_path / dtype, family, dtype=dtype)
        assert fa.load(folder, dtype="float32")(ids, mask).logits.tobytes() == expected
        stored = fa.load(folder)(ids, mask).logits  # as stored: the same weights, in half the memory
        assert stored.tobytes() == fa.load(folder, dtype=dtype)(ids, mask).logits.tobytes()
        assert_near(stored, np.frombuffer(expected, np.float32).reshape(stored.shape))


@pytest.mark.parametrize("family", PLAIN)
def test_tied_weights_may_be_stored_all_the_same(tmp_path: Path, family: str) -> None:
    c = tiny_decoders.config(family, tie_word_embeddings=True)
    ids, mask = tiny_decoders.batch(c)
    arrays = tiny_decoders.tensors(c)
    table, head = tiny_decoders.table_name(family), tiny_decoders.head_name(family)
    assert head not in arrays
    expected = fa.load(save(tmp_path / "tied", c, arrays), dtype="float32")(ids, mask).logits.tobytes()
    twice = {**arrays, head: arrays[table]}
    assert fa.load(save(tmp_path / "twice", c, twice), dtype="float32")(ids, mask).logits.tobytes() == expected
    # stored with other numbers, they are not tied, whatever config.json says: so does transformers 5
    other = {**arrays, head: tiny_decoders.tensors(c, seed=1)[table]}
    got = fa.load(save(tmp_path / "other", c, other), dtype="float32")(ids, mask).logits
    assert_near(got, numpy_decoders.logits({**c, "tie_word_embeddings": False}, other, ids, mask))


# ---- folders that are refused ---------------------------------------------------------------------------------------


def save(folder: Path, c: dict[str, Any], arrays: dict[str, Array]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({key: value for key, value in c.items() if value is not ...}))
    save_safetensors(folder / "model.safetensors", arrays)
    return folder


BASE = tiny_decoders.BASE
NESTED: Any = 0
for _ in range(200):
    NESTED = [NESTED]

# Each against the tensors of the family as it is: (family, what config.json says, words of the message)
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"hidden_size": 96}, r"has shape \[101, 48\]"),
    ("llama", {"vocab_size": 102}, r"has shape \[101, 48\]"),
    ("llama", {"intermediate_size": 81}, r"has shape \[80, 48\]"),
    ("llama", {"num_key_value_heads": 3}, r"has shape \[16, 48\]"),
    ("llama", {"head_dim": 16}, r"has shape \[48, 48\]"),
    ("llama", {"num_hidden_layers": 4}, r"missing tensors 'model\.layers\.3\."),
    ("llama", {"num_hidden_layers": 2}, r"no use for tensors? 'model\.layers\.2\."),
    ("llama", {"attention_bias": True}, r"missing tensors 'model\.layers\.0\.self_attn\.[qkvo]_proj\.bias'"),
    ("llama", {"mlp_bias": True}, r"missing tensors 'model\.layers\.0\.mlp\.(gate|up|down)_proj\.bias'"),
    ("qwen2", {"model_type": "llama"}, r"no use for tensors? 'model\.layers\.0\.self_attn\.[qkv]_proj\.bias'"),
    ("llama", {"model_type": "qwen2"}, r"missing tensors 'model\.layers\.0\.self_attn\.[qkv]_proj\.bias'"),
    ("qwen3", {"head_dim": ...}, r"has shape \[(96|32), 48\]"),  # whose default is 128
    ("phi3", {"num_key_value_heads": 3}, r"has shape \[80, 48\]"),
    ("phi3", {"intermediate_size": 40}, r"has shape \[160, 48\]"),
    ("llama", {"hidden_size": ...}, "'hidden_size' is missing"),
    ("llama", {"num_attention_heads": 0}, "num_attention_heads is '0'"),
    ("llama", {"num_attention_heads": 5}, "num_attention_heads"),
    ("llama", {"num_key_value_heads": 4}, "num_key_value_heads"),
    ("llama", {"num_key_value_heads": 12}, "num_key_value_heads"),
    ("llama", {"num_key_value_heads": -1}, "num_key_value_heads is '-1'"),
    ("llama", {"num_hidden_layers": 10**12}, "num_hidden_layers"),
    ("llama", {"max_position_embeddings": 0}, "max_position_embeddings is '0'"),
    ("llama", {"head_dim": 7}, "head_dim|rotary"),
    ("llama", {"hidden_act": "mish"}, "hidden_act is 'mish'"),
    ("llama", {"rms_norm_eps": -1.0}, "rms_norm_eps is '-1.0'"),
    ("llama", {"rms_norm_eps": "small"}, "rms_norm_eps is 'small'"),
    ("llama", {"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no'"),
    ("llama", {"attention_bias": 1}, "attention_bias is '1'"),
    ("llama", {"rope_theta": 0}, "rope_theta is '0'"),
    ("llama", {"rope_theta": 10**400}, "rope_theta"),
    ("llama", {"rope_scaling": {"type": "nonsense"}}, "rope_scaling.*nonsense|rotary.*nonsense"),
    ("llama", {"rope_scaling": {"type": "linear"}}, "factor"),
    ("llama", {"rope_scaling": {"type": "linear", "factor": "2"}}, "factor"),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 0}}, "factor"),
    ("llama", {"rope_scaling": [1, 2]}, "rope_scaling"),
    ("llama", {"rope_scaling": NESTED}, "rope_scaling|nested too deeply"),
    ("llama", {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor"),
    ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": -3}}, "rope_theta"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ("mistral", {"sliding_window": 0}, "sliding_window is '0'"),
    ("mistral", {"sliding_window": -4}, "sliding_window is '-4'"),
    ("mistral", {"sliding_window": 2.5}, "sliding_window is '2.5'"),
    ("qwen2", {"use_sliding_window": "yes"}, "use_sliding_window is 'yes'"),
    ("qwen2", {"use_sliding_window": True, "max_window_layers": -1}, "max_window_layers is '-1'"),
    ("qwen2", {"layer_types": ["full_attention"] * 2}, "layer_types"),
    ("qwen2", {"layer_types": ["full_attention", "chunked_attention", "full_attention"]}, "chunked_attention"),
    ("qwen2", {"layer_types": ["sliding_attention"] * 3}, "sliding_window|use_sliding_window"),
    ("qwen3", {"layer_types": "full_attention"}, "layer_types"),
    ("phi3", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "linear"),
    ("phi3", {"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 3, "long_factor": [2.0] * 4}},
     "short_factor"),
    ("phi3", {"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 3 + [0]}},
     "long_factor"),
    ("phi3", {"partial_rotary_factor": 1.5}, "partial_rotary_factor"),
    ("phi3", {"partial_rotary_factor": 0.0}, "partial_rotary_factor|rotary"),
    ("smollm3", {"no_rope_layers": [1, 1, 0]}, "no_rope_layers"),
    ("smollm3", {"no_rope_layers": [1, 1, 2, 0, 1]}, "no_rope_layers"),
    ("smollm3", {"no_rope_layers": "11101"}, "no_rope_layers"),
    ("smollm3", {"no_rope_layer_interval": 0}, "no_rope_layer_interval is '0'"),
    ("granite", {"logits_scaling": 0}, "logits_scaling is '0'"),
    ("granite", {"embedding_multiplier": "12"}, "embedding_multiplier is '12'"),
    ("granite", {"residual_multiplier": float("nan")}, "residual_multiplier is 'nan'|NaN"),
    ("granite", {"attention_multiplier": float("inf")}, "attention_multiplier is 'inf'|Infinity"),
    ("llama", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantization_config"),
    *tiny_dense_b.REFUSED,
]  # fmt: skip


@pytest.mark.parametrize(("family", "changes", "message"), REFUSED)
def test_refused_folders(tmp_path: Path, family: str, changes: dict[str, Any], message: str) -> None:
    c = tiny_decoders.config(family)
    with pytest.raises(ValueError, match=message) as caught:
        fa.load(save(tmp_path, {**c, **changes}, tiny_decoders.tensors(c)))
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("family", PLAIN)
def test_old_buffers_are_no_weights(tmp_path: Path, load: Load, family: str) -> None:
    """Files of transformers before 4.32 hold the frequencies, a number for each pair of dims."""
    c = tiny_decoders.config(family)
    arrays = tiny_decoders.tensors(c)
    for i in range(tiny_decoders.layers(c)):
        arrays[f"model.layers.{i}.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    ids, mask = tiny_decoders.batch(c)
    got = fa.load(save(tmp_path, c, arrays), dtype="float32")(ids, mask).logits
    assert got.tobytes() == load(family)(ids, mask).logits.tobytes()


DEFAULTS = {
    "llama": ("hidden_act", "attention_bias", "mlp_bias", "pretraining_tp", "tie_word_embeddings"),
    "mistral": ("hidden_act", "head_dim"),
    "qwen2": ("hidden_act", "use_sliding_window", "max_window_layers", "sliding_window"),
    "qwen3": ("hidden_act", "attention_bias", "use_sliding_window", "max_window_layers", "sliding_window"),
    "phi3": ("hidden_act", "sliding_window", "resid_pdrop", "original_max_position_embeddings"),
    "smollm3": ("hidden_act", "use_sliding_window", "no_rope_layer_interval", "attention_bias", "mlp_bias"),
    "granite": ("hidden_act", "attention_bias", "mlp_bias"),
    "olmo2": ("hidden_act", "attention_bias"),
    **tiny_dense_a.DEFAULTS,
    **tiny_dense_b.DEFAULTS,
}


@pytest.mark.parametrize("family", PLAIN)
def test_defaults_are_those_of_transformers(tmp_path: Path, load: Load, family: str) -> None:
    c = tiny_decoders.config(family)
    ids, mask = tiny_decoders.batch(c)
    folder = save(tmp_path, {**c, **dict.fromkeys(DEFAULTS[family], ...)}, tiny_decoders.tensors(c))
    assert fa.load(folder, dtype="float32")(ids, mask).logits.tobytes() == load(family)(ids, mask).logits.tobytes()


@pytest.mark.parametrize("family", PLAIN)
def test_warm_before_and_after_calls(load: Load, family: str) -> None:
    model = load(family)
    model.warm()
    expected = model.generate([1, 2], max_new_tokens=3, ignore_eos=True)
    model.warm()
    assert model.generate([1, 2], max_new_tokens=3, ignore_eos=True) == expected
    for wrong in ("int4", [], 8):
        with pytest.raises(ValueError, match="kv_dtype: got "):
            model.generate([1], max_new_tokens=1, kv_dtype=wrong)


# ---- calls that are refused -----------------------------------------------------------------------------------------

CALLS: list[tuple[Any, Any, type[Exception], str]] = [
    ([[101]], None, ValueError, "input_ids: got 101, expected 0 to 100"),
    ([[5, -1]], None, ValueError, "input_ids: got -1, expected 0 to 100"),
    ([[2**40]], None, ValueError, "input_ids"),
    ([[1.5]], None, (TypeError, ValueError), "input_ids"),  # type: ignore[list-item]
    ([[1, 2], [3]], None, (TypeError, ValueError), "input_ids"),  # type: ignore[list-item]
    ([1, 2, 3], None, ValueError, "input_ids"),
    (np.zeros((1, 97), int), None, ValueError, "97.*96"),
    ([[1, 2]], [[1]], ValueError, "attention_mask"),
    ([[1, 2]], [[1, 2]], ValueError, "attention_mask"),
]


@pytest.mark.parametrize(("ids", "mask", "error", "message"), CALLS)
@pytest.mark.parametrize("family", ["llama", "mistral", "phi3"])
def test_refused_calls(load: Load, family: str, ids: Any, mask: Any, error: type[Exception], message: str) -> None:
    model = load(family)
    with pytest.raises(error, match=message):
        model(ids, mask)
    assert model([[1, 2]]).logits.shape == (1, 2, 101)


def test_ids_that_the_mask_excludes_are_not_looked_at(load: Load) -> None:
    expected = load("llama")([[5, 6]], [[1, 0]]).logits.tobytes()
    for other in (101, -1, 2**60):
        assert load("llama")([[5, other]], [[1, 0]]).logits.tobytes() == expected


PROMPTS: list[tuple[Any, dict[str, Any], Any, str]] = [
    ([[]], {}, ValueError, "prompt"),
    ([[1], []], {}, ValueError, "prompt"),
    ([[101]], {}, ValueError, "101"),
    ([[5, -1]], {}, ValueError, "-1"),
    ([[True]], {}, (TypeError, ValueError), "prompt"),
    ([[1.5]], {}, (TypeError, ValueError), "prompt"),
    ([list(range(97))], {}, ValueError, "97.*96"),
    ([[1]], {"max_new_tokens": 0}, ValueError, "max_new_tokens"),
    ([[1]], {"max_new_tokens": -3}, ValueError, "max_new_tokens"),
    ([[1]], {"max_new_tokens": 2.5}, TypeError, "max_new_tokens"),
    (5, {}, TypeError, "prompt"),
    (None, {}, TypeError, "prompt"),
]


@pytest.mark.parametrize(("prompts", "options", "error", "message"), PROMPTS)
def test_refused_prompts(load: Load, prompts: Any, options: dict[str, Any], error: Any, message: str) -> None:
    model = load("llama")
    with pytest.raises(error, match=message):
        model.generate(prompts, **{"max_new_tokens": 2, **options})
    assert len(model.generate([[1, 2]], max_new_tokens=2, ignore_eos=True)[0].token_ids) == 2


def test_what_may_be_a_prompt(load: Load) -> None:
    """Token ids, or several of them; lists, tuples and arrays."""
    model, ids = load("llama"), [5, 9, 3]
    expected = list(model.generate([ids], max_new_tokens=4, ignore_eos=True)[0].token_ids)
    for prompts in (ids, tuple(ids), np.array(ids), [tuple(ids)], [np.array(ids, np.int32)], np.array([ids])):
        answers = model.generate(prompts, max_new_tokens=4, ignore_eos=True)
        assert [list(answer.token_ids) for answer in answers] == [expected]
    assert model.generate([], max_new_tokens=4) == []


def test_the_context_may_be_filled_to_its_end(load: Load) -> None:
    model = load("llama")
    assert model(np.full((1, 96), 7)).logits.shape == (1, 96, 101)
    answer = model.generate([[7] * 90], max_new_tokens=6, ignore_eos=True)[0]
    assert len(answer.token_ids) == 6 and answer.finish_reason == "length"


@pytest.mark.parametrize("listed", [False, True])
def test_an_answer_ends_with_the_token_that_says_so(tmp_path: Path, load: Load, listed: bool) -> None:
    """eos_token_id of config.json, an id or a list of them."""
    model, prompt = load("llama"), [5, 9, 3]
    tokens = list(model.generate([prompt], max_new_tokens=10, ignore_eos=True)[0].token_ids)
    last = next(token for token in tokens[2:] if token not in tokens[:2])
    folder = tiny_decoders.make(tmp_path, "llama", eos_token_id=[100, last] if listed else last)
    answer = fa.load(folder, dtype="float32").generate([prompt], max_new_tokens=10)[0]
    upto = tokens.index(last)
    assert answer.finish_reason == "stop" and list(answer.token_ids) in (tokens[:upto], tokens[: upto + 1])
    again = fa.load(folder, dtype="float32").generate([prompt], max_new_tokens=10, ignore_eos=True)[0]
    assert list(again.token_ids) == tokens and again.finish_reason == "length"
