# SPDX-License-Identifier: MIT
"""BERT's relatives on small folders, with every head: values of an independent NumPy model in double precision."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import numpy_families, tiny_families

import fastattn as fa
from fastattn.text import TextEncoder

Array = np.ndarray[Any, Any]
Load = Callable[..., TextEncoder]

UNTIED = {"tie_word_embeddings": False}
MODELS = [(case, head, {}) for case in tiny_families.CASES for head in tiny_families.HEADS]
MODELS += [(case, "ForMaskedLM", UNTIED) for case in tiny_families.CASES]
NAMES = [f"{case}-{head}{'-untied' * bool(changes)}" for case, head, changes in MODELS]
TYPELESS = ("distilbert", "mpnet")


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """The tiny model of a case under a head, built once."""
    models: dict[str, TextEncoder] = {}

    def model(case: str, head: str = "Model", **changes: Any) -> TextEncoder:
        key = f"{case}-{head}-{changes}"
        if key not in models:
            models[key] = fa.load(tiny_families.save_folder(tmp_path_factory.mktemp(case), case, head, **changes))
        return models[key]

    return model


def arguments(case: str) -> tuple[Array, ...]:
    """The batch of a case, without types where a family has none."""
    ids, mask, types = tiny_families.batch(case)
    return (ids, mask) if tiny_families.CASES[case]["model_type"] in TYPELESS else (ids, mask, types)


def attended(field: Array, mask: Array) -> Array:
    """The part of an output that the mask does not exclude: tokens, or rows whose first token is there."""
    return field[mask == 1] if field.shape[:2] == mask.shape else field[mask[:, 0] == 1]


@pytest.mark.parametrize(("case", "head", "changes"), MODELS, ids=NAMES)
def test_golden(load: Load, case: str, head: str, changes: dict[str, Any]) -> None:
    config = tiny_families.config(case, head, **changes)
    mask = tiny_families.batch(case)[1]
    exact = numpy_families.outputs(config, tiny_families.tensors(case, head, **changes), *tiny_families.batch(case))
    got = load(case, head, **changes)(*arguments(case))._asdict()
    assert list(got) == list(exact)
    for name, value in exact.items():
        assert got[name].shape == value.shape and got[name].dtype == np.float32
        error = np.abs(attended(got[name], mask) - attended(value, mask))
        assert error.max() <= 2e-5, name
        excluded = got[name][mask == 0] if value.shape[:2] == mask.shape else got[name][mask[:, 0] == 0]
        assert not excluded.any()


@pytest.mark.parametrize("case", ["roberta", "mpnet", "roberta_types"])
def test_positions_count_what_is_not_padding(load: Load, case: str) -> None:
    """Padding on the left moves no token, and neither does what the mask says: positions go by ids alone."""
    model = load(case)
    padding = tiny_families.CASES[case]["pad_token_id"]
    ids = np.where(tiny_families.batch(case)[0][:1] == padding, 5, tiny_families.batch(case)[0][:1])
    expected = model(ids).last_hidden_state
    padded = np.pad(ids, ((0, 0), (4, 0)), constant_values=padding)
    mask = np.pad(np.ones_like(ids), ((0, 0), (4, 0)))
    assert model(padded, mask).last_hidden_state[:, 4:].tobytes() == expected.tobytes()
    other = np.where(mask == 1, padded, 7)
    assert model(other, mask).last_hidden_state[:, 4:].tobytes() != expected.tobytes()


@pytest.mark.parametrize("case", ["roberta", "mpnet"])
def test_the_longest_sequence(load: Load, case: str) -> None:
    """Two rows of the table of positions belong to no token: those below the padding id, and its own."""
    model = load(case)
    assert model.max_positions == 38
    ids = np.full((1, 38), 5)
    config = tiny_families.config(case)
    exact = numpy_families.hidden_states(
        config, tiny_families.tensors(case), ids, np.ones_like(ids), np.zeros_like(ids)
    )
    assert np.abs(model(ids).last_hidden_state - exact).max() <= 2e-5
    with pytest.raises(ValueError, match="39 columns, but the model has 38 positions"):
        model(np.full((1, 39), 5))


@pytest.mark.parametrize("case", ["distilbert", "mpnet", "roberta"])
def test_types_where_there_is_only_one(load: Load, case: str) -> None:
    model = load(case)
    expected = model([[3, 4]]).last_hidden_state.tobytes()
    assert model([[3, 4]], token_type_ids=[[0, 0]]).last_hidden_state.tobytes() == expected
    with pytest.raises(ValueError, match="token_type_ids: got 1, expected 0 to 0"):
        model([[3, 4]], token_type_ids=[[0, 1]])


@pytest.mark.parametrize("case", tiny_families.CASES)
def test_packed_sequences_without_a_batch(load: Load, case: str) -> None:
    """What the text layer does: positions come from the ids of each sequence, of whatever length."""
    model = load(case)
    ids = tiny_families.batch(case)[0][0]
    lengths = np.array([5, 1, 11])
    columns = np.concatenate([np.arange(length) for length in lengths])
    types = np.zeros(17, np.int64)
    steps = model.run_packed(["hidden"], ids[:17], types, columns, lengths, max_sequences=2)
    hidden = np.concatenate([found["hidden"] for _, _, _, found in steps])
    expected = [model(part[None]).last_hidden_state[0] for part in np.split(ids[:17], np.cumsum(lengths)[:-1])]
    assert hidden.tobytes() == np.concatenate(expected).tobytes()


@pytest.mark.parametrize("case", tiny_families.CASES)
def test_int8_weights_point_the_same_way(tmp_path: Path, load: Load, case: str) -> None:
    """On models of 20 to 30 columns, where rounding averages out less than anywhere."""
    mask = tiny_families.batch(case)[1]
    exact = attended(load(case)(*arguments(case)).last_hidden_state, mask).astype(np.float64)
    got = attended(fa.load(load(case).path, dtype="int8")(*arguments(case)).last_hidden_state, mask).astype(np.float64)
    cosines = (exact * got).sum(1) / np.sqrt((exact**2).sum(1) * (got**2).sum(1))
    assert cosines.mean() >= 0.998 and got.tobytes() != exact.tobytes()


# ---- what files may look like --------------------------------------------------------------------------------------


def save(folder: Path, config: dict[str, Any], arrays: dict[str, Array]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))
    tiny_families.save_safetensors(folder / "model.safetensors", arrays)
    return folder


def result(folder: Path, case: str) -> bytes:
    return b"".join(field.tobytes() for field in fa.load(folder)(*arguments(case)))


PLAIN = [case for case in tiny_families.CASES if case == tiny_families.CASES[case]["model_type"]]


@pytest.mark.parametrize("case", PLAIN)
@pytest.mark.parametrize("tie", [True, False])
def test_decoders_that_are_stored_all_the_same(tmp_path: Path, load: Load, case: str, tie: bool) -> None:
    """A tied decoder may be stored as well, or alone; one of its own needs its weights."""
    config = tiny_families.config(case, "ForMaskedLM", tie_word_embeddings=tie)
    _, _, decoder, bias = tiny_families.LM_HEADS[config["model_type"]]
    words = f"{tiny_families.prefix(config['model_type'])}embeddings.word_embeddings.weight"
    arrays = tiny_families.tensors(case, "ForMaskedLM", tie_word_embeddings=tie)
    if not tie:
        del arrays[f"{decoder}.weight"]
        with pytest.raises(ValueError, match=f"missing tensor '{decoder}.weight'"):
            fa.load(save(tmp_path, config, arrays))
        return
    expected = load(case, "ForMaskedLM")(*arguments(case)).logits.tobytes()
    arrays[f"{decoder}.weight"], arrays[f"{decoder}.bias"] = arrays[words], arrays[bias]
    assert result(save(tmp_path, config, arrays), case) == expected
    del arrays[words]
    assert result(save(tmp_path, config, arrays), case) == expected
    del arrays[bias]
    if bias != f"{decoder}.bias":
        arrays[f"{decoder}.bias"] = tiny_families.tensors(case, "ForMaskedLM")[bias]
        assert result(save(tmp_path, config, arrays), case) == expected


@pytest.mark.parametrize("case", PLAIN)
def test_a_head_that_nobody_asks_for(tmp_path: Path, load: Load, case: str) -> None:
    """The file of a masked language model as an encoder: with the encoder's class, with none, with old buffers."""
    expected = load(case)(*arguments(case)).last_hidden_state.tobytes()
    arrays = tiny_families.tensors(case, "ForMaskedLM")
    below = tiny_families.prefix(tiny_families.CASES[case]["model_type"])
    arrays[f"{below}embeddings.position_ids"] = np.arange(40)[None]
    for suffix in ("Model", "ForPreTraining"):
        config = tiny_families.config(case, architectures=[tiny_families.class_name(case, suffix)])
        model = fa.load(save(tmp_path, config, arrays))
        out = model(*arguments(case))
        assert out.last_hidden_state.tobytes() == expected
        assert getattr(out, "pooler_output", None) is None
        assert model.head is None and any("not used" in note for note in model.notes)


@pytest.mark.parametrize("case", PLAIN)
def test_classes_that_are_none_of_the_family(tmp_path: Path, load: Load, case: str) -> None:
    """Without any tensor of a head it is the encoder, as it is for transformers' AutoModel."""
    expected = load(case)(*arguments(case)).last_hidden_state.tobytes()
    arrays = tiny_families.tensors(case)
    for head in ("ForCausalLM", "LMHeadModel", "Reranker"):
        name = tiny_families.class_name(case, head)
        model = fa.load(save(tmp_path, tiny_families.config(case, architectures=[name]), arrays))
        assert model.head is None and model(*arguments(case)).last_hidden_state.tobytes() == expected


REFUSED = [
    ("roberta", {"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key', expected"),
    ("electra", {"position_embedding_type": "relative_key_query"}, "position_embedding_type is 'relative_key_query'"),
    ("albert", {"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
    ("camembert", {"is_decoder": True}, "is_decoder is 'True'"),
    ("electra", {"add_cross_attention": True}, "add_cross_attention"),
    ("distilbert", {"pruned_heads": {"0": [1]}}, "pruned_heads"),
    ("mpnet", {"quantization_config": {"bits": 4}}, "quantization_config"),
    ("roberta", {"pad_token_id": -1}, "pad_token_id is '-1', expected an integer from 0 to 38"),
    ("roberta", {"pad_token_id": 39}, "pad_token_id is '39', expected an integer from 0 to 38"),
    ("mpnet", {"max_position_embeddings": 2}, "max_position_embeddings is '2', expected an integer from 3 to "),
    ("mpnet", {"relative_attention_num_buckets": 16}, "relative_attention_num_buckets is '16', expected .* from 32"),
    ("mpnet", {"relative_attention_num_buckets": 64}, r"has shape \[32, 4\], but config.json asks for \[64, 4\]"),
    ("albert", {"num_hidden_groups": 4}, "num_hidden_groups is '4', expected an integer from 1 to 3"),
    ("albert", {"inner_group_num": 334}, "inner_group_num is '334', expected an integer from 1 to 333"),
    ("albert", {"inner_group_num": 2}, r"missing tensors 'encoder.albert_layer_groups.0.albert_layers.1.attention"),
    ("albert", {"embedding_size": 13}, r"has shape \[60, 12\], but config.json asks for \[60, 13\]"),
    ("electra", {"embedding_size": 28}, r"has shape \[60, 12\], but config.json asks for \[60, 28\]"),
    ("electra_same_width", {"embedding_size": 27}, "missing tensors 'embeddings_project.weight'"),
    ("distilbert", {"n_heads": 7}, "dim 30 is not a multiple of n_heads 7"),
    ("distilbert", {"dim": ...}, "key 'dim' is missing"),
    ("distilbert", {"activation": "mish"}, "activation is 'mish', expected one of gelu"),
    ("xlm-roberta", {"num_attention_heads": 3}, "hidden_size 20 is not a multiple of num_attention_heads 3"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "changes", "message"), REFUSED)
def test_refused_configs(tmp_path: Path, case: str, changes: dict[str, Any], message: str) -> None:
    arrays = tiny_families.tensors(case)
    with pytest.raises(ValueError, match=message) as caught:
        fa.load(save(tmp_path, {**tiny_families.config(case), **changes}, arrays))
    assert str(tmp_path) in str(caught.value)


DEFAULTS = {
    "roberta": ("hidden_act", "pad_token_id", "tie_word_embeddings"),
    "distilbert": ("activation", "tie_word_embeddings"),
    "electra": ("type_vocab_size", "hidden_act", "layer_norm_eps"),
    "albert": ("type_vocab_size", "hidden_act", "layer_norm_eps", "num_hidden_groups", "inner_group_num"),
    "mpnet": ("hidden_act", "relative_attention_num_buckets", "pad_token_id"),
}


@pytest.mark.parametrize("case", DEFAULTS)
def test_defaults_are_those_of_transformers(tmp_path: Path, load: Load, case: str) -> None:
    expected = b"".join(field.tobytes() for field in load(case)(*arguments(case)))
    config = {**tiny_families.config(case), **dict.fromkeys(DEFAULTS[case], ...)}
    assert result(save(tmp_path, config, tiny_families.tensors(case)), case) == expected


# ---- the oracle itself ---------------------------------------------------------------------------------------------


def test_buckets_of_the_oracle() -> None:
    """Decided by integers there; by a logarithm in the definition, which falls on a boundary at powers of two only."""
    for distance in range(8, 1000):
        exact = 8 + math.log(distance / 8) / math.log(16) * 8
        bucket = numpy_families._bucket(distance) - 16
        assert bucket == numpy_families._bucket(-distance)
        assert bucket == min(15, int(exact + 1e-9))
