# SPDX-License-Identifier: MIT
"""Where sequences and texts end, and the nulls of config.json that say something."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import later_families, tiny_bert, tiny_families

import fastattn as fa
from fastattn.graph.family import NO_LIMIT
from fastattn.text import TextEncoder

Array = np.ndarray[Any, Any]
LONG = 131  # tokens; the models say 40
ENDLESS = (
    "deberta",
    "deberta_conv",
    "modernbert",
    "nomic",
    "nomic_plain",
    "nomic_stretched",
    "new",
    "new_mixed",
    "gte",
)


def save(folder: Path, case: str, head: str = "Model", **changes: Any) -> Path:
    """A small folder with keys of config.json changed; ``...`` deletes one."""
    families: Any = later_families if case in later_families.CASES else tiny_families
    families.save_folder(folder, case, head)
    config = {**json.loads((folder / "config.json").read_text()), **changes}
    text = json.dumps({key: value for key, value in config.items() if value is not ...})
    (folder / "config.json").write_text(text)
    return folder


def with_tokenizer(folder: Path, **settings: Any) -> Path:
    (folder / "tokenizer.json").write_text(json.dumps(tiny_bert.tokenizer()))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def states(folder: Path, ids: Any = None) -> bytes:
    ids = np.arange(3, 33).reshape(2, 15) if ids is None else ids
    result: bytes = fa.load(folder)(ids).last_hidden_state.tobytes()
    return result


@pytest.mark.parametrize("case", ENDLESS)
def test_what_has_no_table_of_positions_has_no_end(tmp_path: Path, case: str) -> None:
    """Beyond max_position_embeddings: the values of the published definition, and the same bits in any batch."""
    model = fa.load(save(tmp_path / "model", case))
    assert model.max_positions == NO_LIMIT
    ids = np.random.default_rng(3).integers(3, 50, (2, LONG))
    mask = np.ones_like(ids)
    mask[1, 101:] = 0
    exact = later_families.run(case, "Model", ids, mask, np.zeros_like(ids))[0]["last_hidden_state"]
    got = model(ids, mask).last_hidden_state
    assert np.abs((got - exact)[mask == 1]).max() <= 3e-5
    for row, length in ((0, LONG), (1, 101)):
        alone = model(ids[row : row + 1, :length]).last_hidden_state
        assert alone.tobytes() == got[row : row + 1, :length].tobytes()


def test_texts_without_any_limit_are_bounded_all_the_same(tmp_path: Path) -> None:
    """Attention costs the square of a text; whoever wants longer ones says so."""
    case = next(case for case in ENDLESS if case.startswith("deberta"))
    model = fa.load(save(tmp_path / "model", case))
    assert model.max_seq_length == model.text_positions == 4096 < model.max_positions
    model.max_seq_length = 100_000
    assert model.max_seq_length == 100_000


@pytest.mark.parametrize("case", ["bert", "roberta", "distilbert", "electra", "albert", "mpnet", "deberta_own"])
def test_a_table_of_positions_is_an_end(tmp_path: Path, case: str) -> None:
    model = fa.load(save(tmp_path / "model", case))
    last = 38 if case in ("roberta", "mpnet") else 40
    assert model.max_positions == model.text_positions == last
    assert model(np.full((1, last), 5)).last_hidden_state.shape[1] == last
    with pytest.raises(ValueError, match=f"input_ids: {last + 1} columns, but the model has {last} positions"):
        model(np.full((1, last + 1), 5))


def tokens_of(model: TextEncoder, text: str) -> int:
    """How many tokens of it the model sees: each has a vector of its own."""
    return len(model.tokens([text])[0])


@pytest.mark.parametrize(
    ("case", "settings", "expected"),
    [
        ("deberta", {}, 200),
        ("deberta", {"model_max_length": 1000000000000000019884624838656}, 200),
        ("deberta", {"model_max_length": 52}, 50),
        ("deberta_own", {}, 38),
        ("deberta_own", {"model_max_length": 52}, 38),
        ("modernbert", {}, 38),
        ("modernbert", {"model_max_length": 1000000000000000019884624838656}, 38),
        ("modernbert", {"model_max_length": 52}, 50),
        ("nomic", {"model_max_length": 52}, 50),
        ("gte", {"model_max_length": 30}, 28),
    ],
)
def test_where_texts_end(tmp_path: Path, case: str, settings: dict[str, Any], expected: int) -> None:
    """model_max_length, else max_position_embeddings, else nowhere; a table of positions ends them all."""
    pytest.importorskip("tokenizers")
    model = fa.load(with_tokenizer(save(tmp_path / "model", case, "ForTokenClassification"), **settings))
    assert tokens_of(model, "the cat " * 100) == expected


# ---- nulls ----------------------------------------------------------------------------------------------------------


def test_null_base_of_local_layers_is_that_of_the_others(tmp_path: Path) -> None:
    def bits(name: str, **changes: Any) -> bytes:
        return states(save(tmp_path / name, "modernbert", **changes))

    both = bits("both", local_rope_theta=200.0)
    assert bits("null", local_rope_theta=None) == both
    assert bits("missing", local_rope_theta=...) == bits("default", local_rope_theta=10000.0) != both
    assert bits("all missing", local_rope_theta=None, global_rope_theta=...) == bits(
        "all default", local_rope_theta=160000.0, global_rope_theta=160000.0
    )
    rope = {"rope_type": "default"}
    new = {"full_attention": {**rope, "rope_theta": 50.0}, "sliding_attention": {**rope, "rope_theta": 7.0}}
    expected = bits("old", global_rope_theta=50.0, local_rope_theta=7.0)
    assert bits("new", rope_parameters=new, global_rope_theta=..., local_rope_theta=...) == expected
    assert bits("new goes first", rope_parameters=new, local_rope_theta=None) == expected
    old_inside = {"full_attention": None, "sliding_attention": rope}
    assert bits("old fills up", rope_parameters=old_inside, global_rope_theta=50.0, local_rope_theta=7.0) == expected


def test_rope_scaling_beside_other_keys(tmp_path: Path) -> None:
    """As transformers 5 reads them: rope_scaling goes before rope_parameters, and both may leave the base out."""

    def bits(name: str, case: str, **changes: Any) -> bytes:
        return states(save(tmp_path / name, case, **changes))

    linear = {"rope_type": "linear", "factor": 4.0}
    expected = bits("whole", "gte", rope_parameters={**linear, "rope_theta": 60.0})
    assert bits("outside", "gte", rope_parameters=linear, rope_theta=60.0) == expected
    assert bits("scaling", "gte", rope_parameters={"rope_theta": 9.0}, rope_scaling={**linear, "rope_theta": 60.0}) == (
        expected
    )
    assert bits("empty", "gte", rope_parameters={}, rope_theta=60.0) == bits("flat", "gte", rope_theta=60.0,
                                                                            rope_parameters=None)  # fmt: skip
    modern = {kind: {**linear, "rope_theta": 60.0} for kind in ("full_attention", "sliding_attention")}
    assert bits("modern", "modernbert", rope_scaling=linear, global_rope_theta=60.0, local_rope_theta=None) == bits(
        "modern new", "modernbert", rope_parameters=modern
    )


@pytest.mark.parametrize(
    ("case", "key"),
    [
        ("deberta_own", "position_biased_input"),
        ("modernbert", "attention_bias"),
        ("bert", "tie_word_embeddings"),
        ("bert", "is_decoder"),
        ("new", "logn_attention_scale"),
        ("nomic", "mlp_fc1_bias"),
    ],
)
def test_null_is_false_for_a_flag(tmp_path: Path, case: str, key: str) -> None:
    """Even where a missing key is true, since Python takes None so."""
    assert states(save(tmp_path / "null", case, **{key: None})) == states(save(tmp_path / "no", case, **{key: False}))


@pytest.mark.parametrize("case", ["bert", "roberta", "albert", "modernbert", "gte"])
def test_null_unties_a_decoder(tmp_path: Path, case: str) -> None:
    """So that it has to be stored, as it has to be where the key is false."""
    fa.load(save(tmp_path / "missing", case, "ForMaskedLM"))
    for value in (None, False):
        with pytest.raises(ValueError, match=r"missing tensors? '.*decoder\.(weight|bias)'"):
            fa.load(save(tmp_path / str(value), case, "ForMaskedLM", tie_word_embeddings=value))


@pytest.mark.parametrize("case", ["bert", "roberta", "camembert", "electra", "albert"])
def test_null_position_embedding_type_is_refused(tmp_path: Path, case: str) -> None:
    """It leaves positions out in transformers 4 and not in 5."""
    with pytest.raises(ValueError, match=r"config\.json: position_embedding_type is null, which leaves positions out"):
        fa.load(save(tmp_path / "model", case, position_embedding_type=None))


@pytest.mark.parametrize("case", ["distilbert", "mpnet", "gte"])
def test_null_where_a_family_has_no_such_key(tmp_path: Path, case: str) -> None:
    expected = states(save(tmp_path / "missing", case, position_embedding_type=...))
    assert states(save(tmp_path / "null", case, position_embedding_type=None)) == expected


@pytest.mark.parametrize("case", ["roberta", "xlm-roberta", "camembert"])
def test_null_padding_of_roberta_is_refused(tmp_path: Path, case: str) -> None:
    with pytest.raises(ValueError, match=r"config\.json: pad_token_id is null, but RoBERTa's positions are counted"):
        fa.load(save(tmp_path / "null", case, pad_token_id=None))
    assert states(save(tmp_path / "missing", case, pad_token_id=...)) == states(
        save(tmp_path / "one", case, pad_token_id=1)
    )


@pytest.mark.parametrize("case", ["bert", "distilbert", "electra", "albert", "mpnet", "deberta", "modernbert", "gte"])
def test_null_padding_of_others_changes_nothing(tmp_path: Path, case: str) -> None:
    expected = states(save(tmp_path / "missing", case, pad_token_id=...))
    for value in (None, -1, 7):
        assert states(save(tmp_path / str(value), case, pad_token_id=value)) == expected


@pytest.mark.parametrize(
    ("case", "key", "same"),
    [
        ("deberta_conv", "position_buckets", (None, -1, 0, ...)),
        ("deberta_conv", "max_relative_positions", (None, -1, 0, ...)),
        ("deberta", "conv_kernel_size", (None, -1, 0, ...)),
        ("deberta", "embedding_size", (None, 24, ...)),
        ("modernbert", "layer_types", (None, ...)),
        ("modernbert", "rope_parameters", (None, {}, ...)),
        ("new_apart", "rope_scaling", (None, {}, ...)),
        ("nomic", "rotary_scaling_factor", (None, ...)),
        ("albert", "classifier_dropout_prob", (None, 0, ...)),
    ],
)
def test_ways_to_say_none(tmp_path: Path, case: str, key: str, same: tuple[Any, ...]) -> None:
    found = {states(save(tmp_path / str(number), case, **{key: value})) for number, value in enumerate(same)}
    assert len(found) == 1
