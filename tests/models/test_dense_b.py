# SPDX-License-Identifier: MIT
"""Files of Gemma's, OLMo's, Cohere's, EXAONE's and GLM's models as they were published, in their other spellings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_decoders
from golden.tiny_bert import save_safetensors
from golden.tiny_dense_b import BASE, exaone_name
from support import gguf_models

import fastattn as fa

Array = np.ndarray[Any, Any]


def save(folder: Path, c: dict[str, Any], arrays: dict[str, Array]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({key: value for key, value in c.items() if value is not ...}))
    save_safetensors(folder / "model.safetensors", arrays)
    return folder


def logits(model: Any) -> bytes:
    ids, mask = tiny_decoders.batch({"vocab_size": 101})
    return bytes(model(ids, mask).logits.tobytes())


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_exaone_under_its_own_names(tmp_path: Path, prefix: str) -> None:
    """Of tensors and of keys: the bits of the same model under Llama's."""
    c = tiny_decoders.config("exaone")
    arrays = tiny_decoders.tensors(c)
    expected = logits(fa.load(save(tmp_path / "llama", c, arrays)))
    own = {exaone_name(name).replace("transformer.", prefix): array for name, array in arrays.items()}
    assert not own.keys() & arrays.keys() - {"lm_head.weight"}
    keys = {"num_layers": 3, "layer_norm_epsilon": 1e-5, "activation_function": "silu", "embed_dropout": 0.0}
    old = {**c, **keys, "num_hidden_layers": ..., "rms_norm_eps": ..., "hidden_act": ..., "embed_dropout": ...}
    model = fa.load(save(tmp_path / "own", old, own))
    assert logits(model) == expected and model.notes == []
    assert logits(fa.load(fa.pack(tmp_path / "own", tmp_path / "m.fastattn", "float32"))) == expected
    del own[f"{prefix}h.1.ln_2.weight"]
    with pytest.raises(ValueError, match=rf"missing tensor '{prefix}h\.1\.ln_2\.weight'"):
        fa.load(save(tmp_path / "less", old, own))


@pytest.mark.parametrize("family", BASE)
def test_the_plain_model_without_a_prefix(tmp_path: Path, family: str) -> None:
    """As ``...Model`` is saved: hidden states are those of the model with a head."""
    c = tiny_decoders.config(family)
    arrays = tiny_decoders.tensors(c)
    ids, mask = tiny_decoders.batch(c)
    whole = fa.load(save(tmp_path / "whole", c, arrays), head="none")(ids, mask).last_hidden_state
    bare = {name.removeprefix("model."): array for name, array in arrays.items() if "lm_head" not in name}
    known = [name.replace("ForCausalLM", "Model") for name in c["architectures"]]
    model = fa.load(save(tmp_path / "bare", {**c, "architectures": known}, bare))
    assert model(ids, mask).last_hidden_state.tobytes() == whole.tobytes() and model.notes == []


def test_letters_say_which_layers_have_windows(tmp_path: Path) -> None:
    c = tiny_decoders.config("exaone4", num_hidden_layers=5)
    arrays = tiny_decoders.tensors(c)
    for letters, slides in (("LLLG", "LLLGL"), ("LG", "LGLGL"), ("G", "GGGGG"), ("L", "LLLLL")):
        kinds = ["sliding_attention" if letter == "L" else "full_attention" for letter in slides]
        first = fa.load(save(tmp_path / "letters", {**c, "sliding_window_pattern": letters}, arrays))
        second = fa.load(save(tmp_path / "kinds", {**c, "layer_types": kinds}, arrays))
        assert logits(first) == logits(second)


def test_the_length_that_cohere_was_trained_for(tmp_path: Path) -> None:
    """model_max_length, where max_position_embeddings is less."""
    model = fa.load(tiny_decoders.make(tmp_path / "long", "cohere"))
    assert model(np.full((1, 150), 7)).logits.shape == (1, 150, 101)
    with pytest.raises(ValueError, match="201"):
        model(np.full((1, 201), 7))
    short = fa.load(tiny_decoders.make(tmp_path / "short", "cohere", model_max_length=...))
    with pytest.raises(ValueError, match="150"):
        short(np.full((1, 150), 7))


def test_what_the_layers_of_a_gguf_file_are(tmp_path: Path) -> None:
    """By flags, by a period, or as its readers take a file that is silent."""
    kinds = {(0,): "SSSSS", (1,): "FFFFF", (2,): "SFSFS", (): "SSSFS", (True, False, False, True, True): "SFFSS"}
    names = {"S": "sliding_attention", "F": "full_attention"}
    for said, expected in kinds.items():
        pattern: Any = list(said) if len(said) > 1 else said[0] if said else None
        more = {} if pattern is None else {"cohere2.attention.sliding_window_pattern": pattern}
        file = gguf_models.make(tmp_path / "m.gguf", "cohere2", more=more, num_hidden_layers=5)
        folder = tiny_decoders.make(
            tmp_path / expected, "cohere2", dtype="float16", num_hidden_layers=5,
            layer_types=[names[letter] for letter in expected],
        )  # fmt: skip
        assert logits(fa.load(file)) == logits(fa.load(folder))
    for wrong in ([True] * 4, [1.0] * 5, -1, "yes"):
        more = {"cohere2.attention.sliding_window_pattern": wrong}
        file = gguf_models.make(tmp_path / "w.gguf", "cohere2", more=more, num_hidden_layers=5)
        with pytest.raises(ValueError, match=r"cohere2\.attention\.sliding_window_pattern"):
            fa.load(file)


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        ("olmo", "olmo.attention.layer_norm_epsilon", 1e-3),
        ("olmo", "olmo.attention.clamp_kqv", -1.0),
        ("gemma2", "gemma2.rope.freq_base_swa", 3.0),
        ("gemma2", "gemma2.final_logit_softcapping", float("nan")),
        ("gemma3_text", "gemma3.attention.sliding_window", -3),
        ("olmo3", "olmo2.rope.freq_base_swa", 3.0),
        ("cohere2", "cohere2.attention.sliding_window", 0),
        ("glm4", "glm4.rope.dimension_count", 17),
    ],
)
def test_fields_of_families_that_cannot_be(tmp_path: Path, family: str, key: str, value: Any) -> None:
    file = gguf_models.make(tmp_path / "m.gguf", family, more={key: value})
    with pytest.raises(ValueError, match=f"{key.rsplit('.', 1)[1]}|clip_qkv") as caught:
        fa.load(file)
    assert str(tmp_path) in str(caught.value)


def test_the_largest_gemmas_divide_scores_by_another_width(tmp_path: Path) -> None:
    """Of 46 and 62 layers: a head's share of the hidden states, as their files have no key for it."""
    for family, layers in (("gemma2", 46), ("gemma3_text", 62)):
        sizes: dict[str, Any] = {"num_hidden_layers": layers, "rope_local_base_freq": 1e4} if layers == 62 else {
            "num_hidden_layers": layers
        }  # fmt: skip
        file = gguf_models.make(tmp_path / "m.gguf", family, **sizes)
        folder = tiny_decoders.make(tmp_path / family, family, dtype="float16", query_pre_attn_scalar=8, **sizes)
        assert logits(fa.load(file)) == logits(fa.load(folder))


def test_parts_of_a_head_that_no_short_fraction_says(tmp_path: Path) -> None:
    """30 of 44 dims: 44 times 30 / 44 is less than 30 in floating point."""
    sizes: dict[str, Any] = {"head_dim": 44, "num_attention_heads": 2, "num_key_value_heads": 1}
    file = gguf_models.make(tmp_path / "m.gguf", "glm4", more={"glm4.rope.dimension_count": 30}, **sizes)
    folder = tiny_decoders.make(tmp_path / "f", "glm4", dtype="float16", partial_rotary_factor=0.69, **sizes)
    assert logits(fa.load(file)) == logits(fa.load(folder))
