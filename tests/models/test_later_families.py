# SPDX-License-Identifier: MIT
"""DeBERTa-v2, ModernBERT, NomicBERT and GTE on small folders: values of NumPy models in double precision."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import later_families as families
from golden.tiny_bert import save_safetensors

import fastattn as fa
from fastattn.text import TextEncoder

Array = np.ndarray[Any, Any]
Load = Callable[..., TextEncoder]
MODELS = [(case, head) for case in families.CASES for head in families.HEADS]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """The small model of a case under a head, built once."""
    models: dict[tuple[str, str], TextEncoder] = {}

    def model(case: str, head: str = "Model") -> TextEncoder:
        if (case, head) not in models:
            models[case, head] = fa.load(families.save_folder(tmp_path_factory.mktemp(case), case, head))
        return models[case, head]

    return model


@pytest.mark.parametrize(("case", "head"), MODELS)
def test_golden(load: Load, case: str, head: str) -> None:
    ids, mask, types = families.batch(case)
    exact = families.run(case, head, ids, mask, types)[0]
    model = load(case, head)
    got = {name: field for name, field in model(ids, mask, types)._asdict().items() if field is not None}
    assert list(got) == list(exact)
    for name, value in exact.items():
        assert got[name].shape == value.shape and got[name].dtype == np.float32
        where = mask == 1 if value.shape[:2] == mask.shape else mask[:, 0] == 1
        if model.head is not None and not model.head.per_token and not model.head.from_first:
            where = mask.any(axis=1)
        assert np.abs(got[name][where] - value[where]).max() <= 2e-5, name
        assert not got[name][~where].any()


# ---- what files may look like ---------------------------------------------------------------------------------------


def save(folder: Path, case: str, arrays: dict[str, Array], **changes: Any) -> Path:
    config = {**families.config(case), **changes}
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))
    save_safetensors(folder / "model.safetensors", arrays)
    return folder


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("deberta", {"z_steps": 2}, "z_steps is '2'"),
    ("deberta", {"position_buckets": 5000}, "position_buckets, max_relative_positions: span: 5000"),
    ("deberta", {"max_relative_positions": 4}, "max_distance: 4, expected more than 4"),
    ("deberta", {"pos_att_type": "p2p"}, "pos_att_type is .*p2p.*, expected a list of c2p, p2c"),
    ("deberta", {"pos_att_type": 3}, "pos_att_type is '3', expected a list"),
    ("deberta", {"norm_rel_ebd": "rms"}, "norm_rel_ebd is .*rms"),
    ("deberta", {"attention_head_size": 9}, "attention_head_size is not hidden_size divided"),
    ("deberta", {"hidden_size": 25}, "hidden_size 25 is not a multiple"),
    ("deberta", {"position_buckets": 8}, r"has shape \[12, 24\], but config.json asks for \[16, 24\]"),
    ("deberta", {"conv_kernel_size": 3}, r"missing tensors 'encoder\.conv\.conv\.weight'"),
    ("deberta_conv", {"conv_kernel_size": 4}, "conv_kernel_size is 4, expected an odd number"),
    ("deberta_conv", {"conv_groups": 2}, "conv_groups is not 1"),
    ("modernbert", {"layer_types": ["full_attention"]}, "layer_types has 1 entries, expected 4"),
    ("modernbert", {"layer_types": ["half_attention"] * 4}, "layer_types is .*half_attention"),
    ("modernbert", {"local_attention": 0}, "local_attention is '0'"),
    ("modernbert", {"num_attention_heads": 8}, "3 rotary dims, expected an even number"),
    ("modernbert", {"global_rope_theta": 0.5}, "rotary positions: base: 0.5"),
    ("modernbert", {"rope_parameters": {"full_attention": 3}}, "rope_parameters has '3' for full_attention"),
    ("modernbert", {"classifier_pooling": "max"}, "classifier_pooling is 'max', expected one of cls, mean"),
    ("nomic", {"prenorm": True}, "prenorm is 'True': this variant"),
    ("nomic", {"num_experts": 8}, "num_experts is '8'"),
    ("nomic", {"activation_function": "mish"}, "activation_function is 'mish'"),
    ("nomic", {"rotary_emb_fraction": 0.4}, "3 rotary dims, expected an even number"),
    ("nomic", {"rotary_emb_fraction": 1.5}, "rotary_emb_fraction is 1.5, expected at most 1"),
    ("nomic", {"n_inner": ...}, r"has shape \[20, 24\], but config.json asks for \[96, 24\]"),
    ("new", {"position_embedding_type": "absolute"}, "position_embedding_type is 'absolute', expected one of rope"),
    ("new", {"rope_scaling": {"type": "ntk"}}, "rotary positions: scaling: no 'factor'"),
    ("new", {"rope_scaling": [1]}, "rope_scaling is .*expected an object"),
    ("new", {"rope_scaling": {"type": "spiral"}}, "rotary positions: scaling: rope_type 'spiral'"),
    ("new", {"logn_attention_scale": True}, "logn_attention_scale is 'True'"),
    ("gte", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
    ("gte", {"rope_parameters": {"rope_theta": "big"}}, "rope_parameters has rope_theta 'big'"),
]


@pytest.mark.parametrize(("case", "changes", "message"), REFUSED)
def test_refused_configs(tmp_path: Path, case: str, changes: dict[str, Any], message: str) -> None:
    arrays = families.run(case, "Model", *families.batch(case))[1]
    with pytest.raises(ValueError, match=message) as caught:
        fa.load(save(tmp_path, case, arrays, **changes))
    assert str(tmp_path) in str(caught.value)


def test_a_head_that_is_not_stored_or_not_asked_for(tmp_path: Path, load: Load) -> None:
    for case in ("deberta", "modernbert", "nomic", "new", "gte"):
        expected = load(case)(*families.batch(case)).last_hidden_state.tobytes()
        folder = families.save_folder(tmp_path / case, case, "ForMaskedLM")
        config = json.loads((folder / "config.json").read_text())
        config["architectures"] = families.config(case)["architectures"]
        (folder / "config.json").write_text(json.dumps(config))
        assert fa.load(folder)(*families.batch(case)).last_hidden_state.tobytes() == expected
