# SPDX-License-Identifier: MIT
"""Adapters that are no LoRA, not of this model, or not whole: each is refused with a sentence that names it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_decoders
from hypothesis import given, settings
from hypothesis import strategies as st
from support import gguf_models
from support.lora_files import Array, gguf_adapter, pair, pairs, peft_tensors, save_peft

import fastattn as fa
from fastattn.loaders import WeightFileError
from fastattn.loaders.lora import open_adapter
from fastattn.loaders.loraconfig import LoraConfig

Q = "base_model.model.model.layers.0.self_attn.q_proj"
C = tiny_decoders.config("llama")
FOUND = pairs(tiny_decoders.shapes(C), ("layers.0.self_attn.q_proj", "layers.1.mlp.down_proj"))
TENSORS = peft_tensors(FOUND)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("models")
    folder = tiny_decoders.make(place / "base", "llama")
    return {
        "folder": fa.load(folder), "gguf": fa.load(gguf_models.make(place / "m.gguf", "llama", dtype="float32")),
        "packed": fa.load(fa.pack(folder, place / "m.fastattn", "float32")),
    }  # fmt: skip


# ---- adapter_config.json --------------------------------------------------------------------------------------------

CONFIGS: list[tuple[dict[str, Any], str]] = [
    *(({"peft_type": kind}, "peft_type is") for kind in ("IA3", "ADALORA", "PROMPT_TUNING", None, 3, ["LORA"], ...)),
    ({"use_dora": True}, "use_dora is True, which is not supported"),
    ({"use_qalora": True}, "use_qalora is True"),
    ({"layer_replication": [[0, 4], [2, 5]]}, r"layer_replication is \[\[0, 4\], \[2, 5\]\]"),
    ({"trainable_token_indices": [1]}, r"trainable_token_indices is \[1\]"),
    ({"target_parameters": ["experts"]}, "target_parameters is"),
    ({"alora_invocation_tokens": [3]}, "alora_invocation_tokens is"),
    *(({"init_lora_weights": start}, "init_lora_weights is .* changes the model's own weights")
      for start in ("pissa", "pissa_niter_4", "olora", "loftq", "corda", "new", ["gaussian"], 3)),
    *(({"bias": value}, "bias is .*expected none, all or lora_only") for value in ("some", True, ["none"], {})),
    *(({"r": value}, "r is .*expected a number from 1") for value in (0, -1, 2.0, "4", True, None, 10**30, ...)),
    *(({"lora_alpha": value}, "lora_alpha is .*expected a finite number")
      for value in ("8", None, True, 1e31, -1e300, [8], 10**39, ...)),
    *(({key: value}, f"{key} is .*expected true or false")
      for key in ("use_rslora", "ensure_weight_tying") for value in (1, "yes", [True])),
    *(({"rank_pattern": value}, "rank_pattern") for value in ([4], "q_proj", {"q_proj": 0}, {"q_proj": "4"}, 4)),
    *(({"alpha_pattern": value}, "alpha_pattern") for value in ([4], {"q_proj": None}, {"q_proj": 1e31})),
    *(({"alpha_pattern": {name: 4}}, "expected a module's name or a simple pattern")
      for name in ("(a+)+$", "(a*)*b", "a*b*c*", "(?=a)", "[", "(", "a{9999}", "é", "a b", r"\1", "(a|b)?", "x" * 301)),
    ({"alpha_pattern": {f"l{i}": 1 for i in range(5000)}}, "expected at most 4096 names"),
    ({"r": 5}, "have the rank 4, but .*adapter_config.json says 5"),
    ({"rank_pattern": {"q_proj": 3}}, "q_proj.* have the rank 4, but .*adapter_config.json says 3"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "words"), CONFIGS)
def test_configurations(tmp_path: Path, models: dict[str, Any], config: dict[str, Any], words: str) -> None:
    adapter = save_peft(tmp_path / "peft", TENSORS, **config)
    with pytest.raises(WeightFileError, match=words) as caught:
        models["folder"].load_adapter(adapter)
    assert str(tmp_path / "peft") in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"peft_type": "LORA", "peft_type": "IA3"}', "\xff", "[" * 100000]
)
def test_configurations_that_are_no_object(tmp_path: Path, models: dict[str, Any], text: str) -> None:
    adapter = save_peft(tmp_path / "peft", TENSORS)
    (adapter / "adapter_config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(WeightFileError, match=r"adapter_config\.json"):
        models["folder"].load_adapter(adapter)


def test_nested_values(tmp_path: Path) -> None:
    """As deep as the parser takes them."""
    for depth in (50, 500, 900, 950, 980, 990):
        deep: Any = []
        for _ in range(depth):
            deep = [deep]
        for key in ("r", "peft_type", "rank_pattern", "init_lora_weights", "bias", "use_dora", "use_rslora", "other"):
            values = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, key: deep}
            try:
                LoraConfig.read(values, "x")
            except WeightFileError as error:
                assert key in str(error)


def test_patterns_take_no_time(tmp_path: Path) -> None:
    """The slowest ones that are let through, on names as long as a file may have them."""
    values = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "alpha_pattern": {".*a.*b": 1, "(a|b|ab).*.+c": 2}}
    config = LoraConfig.read(values, "x")
    start = time.perf_counter()
    config.scale("a." * 100 + "ab" * 50)
    assert time.perf_counter() - start < 2


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(
    st.sampled_from(["peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "bias", "use_rslora", "use_dora",
                     "init_lora_weights", "fan_in_fan_out", "x"]),
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("LORA"),
                 lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
                 max_leaves=4), max_size=8,
))  # fmt: skip
def test_any_values(values: dict[str, Any]) -> None:
    try:
        config = LoraConfig.read({"peft_type": "LORA", "r": 4, "lora_alpha": 8, **values}, "x")
    except WeightFileError:
        return
    assert np.isfinite(np.float32(config.scale("a.b"))) and config.rank("a.b") >= 1


# ---- its tensors ----------------------------------------------------------------------------------------------------


def _with(**changes: Any) -> dict[str, Array]:
    tensors = {**TENSORS, **{key.replace("Q", Q).replace("__", "."): value for key, value in changes.items()}}
    return {name: array for name, array in tensors.items() if array is not None}


A, B = TENSORS[f"{Q}.lora_A.weight"], TENSORS[f"{Q}.lora_B.weight"]
ONE = np.ones(48, np.float32)
HALVES: list[tuple[dict[str, Array], str]] = [
    (_with(Q__lora_A__weight=None), r"q_proj\.lora_B\.weight' is there without its lora_A"),
    (_with(Q__lora_B__weight=None), r"q_proj\.lora_A\.weight' is there without its lora_B"),
    (_with(Q__lora_A__weight=A[:3]), r"have shapes \[3, 48\] and \[48, 4\], expected \[r, inputs\]"),
    (_with(Q__lora_B__weight=B[:, :1]), r"have shapes \[4, 48\] and \[48, 1\]"),
    (_with(Q__lora_A__weight=A[:0], Q__lora_B__weight=B[:, :0]), r"have shapes \[0, 48\] and \[48, 0\]"),
    (_with(Q__lora_A__weight=A[None]), r"have shapes \[1, 4, 48\]"),
    (_with(Q__lora_A__weight=A.ravel()), r"have shapes \[192\]"),
    (_with(Q__lora_A__weight=np.float32(3)), r"have shapes \[\]"),
    (_with(Q__lora_A__weight=A[:2], Q__lora_B__weight=B[:, :2]), "have the rank 2, but .* says 4"),
    (_with(Q__lora_A__weight=A.astype(np.int64)), r"q_proj\.lora_A\.weight' has dtype I64"),
    (_with(Q__lora_A__weight=np.where(A[1, 1] == A, np.float32(np.nan), A)), "lora_A.weight' holds NaN or infinity"),
    (_with(Q__lora_B__weight=B + np.float32(np.inf)), "lora_B.weight' holds NaN or infinity"),
    (_with(Q__lora_A__default__weight=A), "is there a second time"),
    (_with(Q__lora_magnitude_vector=ONE), "lora_magnitude_vector', which use_dora adds is not supported"),
    (_with(Q__lora_magnitude_vector__weight=ONE), "lora_magnitude_vector.weight', which use_dora adds"),
    (_with(Q__lora_E=ONE), "lora_E' is not supported"),
    (_with(Q__lora_A__bias=ONE), r"lora_A\.bias' is not supported"),
    (_with(other__lora_B__bias=ONE), "expected one dimension and a lora_A and lora_B beside it"),
    (_with(Q__lora_B__bias=ONE[None]), r"of shape \[1, 48\], expected one dimension"),
    (_with(Q__lora_embedding_A=A, Q__lora_embedding_B=B), "has a LoRA as a layer and one as a table"),
    (_with(Q__scale=ONE), "is neither part of a LoRA nor a weight or bias"),
    ({}, "there are no tensors"),
    (peft_tensors({"m.a": FOUND["model.layers.0.self_attn.q_proj"]}, ".x")
     | peft_tensors({"m.b": FOUND["model.layers.0.self_attn.q_proj"]}, ".y"), "tensors of several adapters: x, y"),
    (_with(Q__weight=np.ones((48, 48), np.float32), Q__base_layer__weight=np.ones((48, 48), np.float32)),
     "is there a second time"),
]  # fmt: skip


@pytest.mark.parametrize(("tensors", "words"), HALVES)
def test_tensors(tmp_path: Path, models: dict[str, Any], tensors: dict[str, Array], words: str) -> None:
    adapter = save_peft(tmp_path / "peft", tensors)
    with pytest.raises(WeightFileError, match=words) as caught:
        models["folder"].load_adapter(adapter)
    assert str(tmp_path / "peft") in str(caught.value)


def _renamed(name: str, shape: tuple[int, ...] = (48, 48)) -> dict[str, Array]:
    return peft_tensors({name: pair(name, shape)})


OTHERS: list[tuple[dict[str, Array], str]] = [
    (_renamed("model.layers.3.self_attn.q_proj"), r"the model has no tensor 'model\.layers\.3\.self_attn\.q_proj\.w"),
    (_renamed("model.layers.0.attn.q_proj"), "the model has no tensor"),
    (_renamed("transformer.h.0.attn.c_attn"), "the model has no tensor"),
    (_renamed("model.model.model.layers.0.self_attn.q_proj"), "the model has no tensor"),
    (_renamed("weight"), "the model has no tensor"),
    (_renamed("model.layers.0.self_attn.q_proj", (48, 64)), r"q_proj.* make a change of \[48, 64\], but .*\[48, 48\]"),
    (_renamed("model.layers.0.self_attn.k_proj"), r"make a change of \[48, 48\], but .*\[16, 48\]"),
    (_renamed("model.layers.0.input_layernorm", (48, 48)), r"make a change of \[48, 48\], but .*\[48\]"),
    ({"base_model.model.lm_head.weight": np.ones((103, 48), np.float32)}, r"has shape \[103, 48\], but .*\[101, 48\]"),
    ({"base_model.model.score.weight": np.ones((3, 48), np.float32)}, r"no tensor 'score\.weight'"),
    ({"base_model.model.model.layers.0.self_attn.q_proj.bias": ONE}, r"no tensor 'model\.layers.*\.bias'"),
    (_renamed("model.layers.0.self_attn.q_proj") | _renamed("layers.0.self_attn.q_proj"), "both change"),
]  # fmt: skip


@pytest.mark.parametrize("base", ["folder", "gguf", "packed"])
@pytest.mark.parametrize(("tensors", "words"), OTHERS)
def test_another_model(
    tmp_path: Path, models: dict[str, Any], base: str, tensors: dict[str, Array], words: str
) -> None:  # fmt: skip
    adapter = save_peft(tmp_path / "peft", tensors)
    with pytest.raises(WeightFileError, match=words) as caught:
        models[base].load_adapter(adapter)
    assert "adapter_model.safetensors: tensor" in str(caught.value)


def test_a_model_without_the_head(tmp_path: Path) -> None:
    folder = tiny_decoders.make(tmp_path / "base", "llama")
    model = fa.load(folder, head="none")
    with pytest.raises(WeightFileError, match=r"no tensor 'lm_head\.weight'.*\(head='none'\)"):
        model.load_adapter(save_peft(tmp_path / "peft", _renamed("lm_head", (101, 48))))


# ---- GGUF -----------------------------------------------------------------------------------------------------------

_A, _B = "blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b"
_OK = {_A: A, _B: B}
GGUF: list[tuple[dict[str, Any], dict[str, Array], str]] = [
    ({"general__type": "model"}, _OK, "general.type is 'model', expected 'adapter'"),
    ({"general__type": ...}, _OK, "general.type is missing, expected 'adapter'"),
    ({"adapter__type": "control_vector"}, _OK, "adapter.type is 'control_vector', expected 'lora'"),
    ({"adapter__type": ...}, _OK, "adapter.type is missing"),
    ({"adapter__type": [1.0, 2.0]}, _OK, "adapter.type is"),
    ({"general__architecture": 3}, _OK, "general.architecture is 3, expected a name"),
    ({"general__architecture": "qwen2"}, _OK, "general.architecture is 'qwen2', but that of the model .* is llama"),
    ({"general__architecture": "nobody"}, _OK, "general.architecture is 'nobody', but that of the model"),
    ({"adapter__lora__alpha": "8"}, _OK, "adapter.lora.alpha is '8', expected a finite number"),
    ({"adapter__lora__alpha": float("nan")}, _OK, "adapter.lora.alpha is nan, expected a finite number"),
    ({"adapter__alora__invocation_tokens": [3, 4]}, _OK, "'adapter.alora.invocation_tokens' asks for what is not"),
    ({}, {_A: A}, r"attn_q\.weight\.lora_a' is there without its lora_b"),
    ({}, {_B: B}, r"attn_q\.weight\.lora_b' is there without its lora_a"),
    ({}, {}, "there are no tensors"),
    ({}, {**_OK, "blk.0.attn_k.weight": A}, "expected names that end in .lora_a or .lora_b"),
    ({}, {**_OK, "lora_a": A}, "expected names that end in .lora_a or .lora_b"),
    ({}, {_A: A, _B: B[:, :2]}, r"have shapes \[4, 48\] and \[48, 2\], expected \[r, inputs\]"),
    ({}, {_A: A, _B: B[:36]}, r"make a change of \[36, 48\], but the model's tensor has shape \[48, 48\]"),
    ({}, {_A: A, _B: B[:30]}, r"attn_q\.weight\.lora_b' has shape \[30, 4\], expected 6 heads of pairs"),
    ({}, {_A: A[:, :40], _B: B}, r"make a change of \[48, 40\]"),
    ({}, {_A: A + np.float32(np.nan), _B: B}, "lora_a' holds NaN or infinity"),
    ({}, {_A.replace("0", "7"): A, _B.replace("0", "7"): B}, r"'blk\.7\.attn_q\.weight' is changed, but the model"),
    ({}, {**_OK, "blk.0.attn_norm.weight": ONE[:40]}, r"attn_norm.weight' has shape \[40\], but .* has \[48\]"),
    ({}, {**_OK, "blk.0.x_norm.weight": ONE}, "'blk.0.x_norm.weight' is changed, but the model .* has none"),
    ({}, {"token_embd.weight.lora_a": np.ones((9, 4), np.float32), "token_embd.weight.lora_b": B},
     r"make a change of \[9, 48\], but .*\[101, 48\]"),
]  # fmt: skip


@pytest.mark.parametrize("base", ["folder", "gguf", "packed"])
@pytest.mark.parametrize(("fields", "tensors", "words"), GGUF)
def test_gguf(
    tmp_path: Path, models: dict[str, Any], base: str, fields: dict[str, Any], tensors: dict[str, Array], words: str
) -> None:  # fmt: skip
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    adapter = gguf_adapter(tmp_path / "a.gguf", C, {}, tensors, **fields)
    with pytest.raises(WeightFileError, match=words) as caught:
        models[base].load_adapter(adapter)
    assert str(adapter) in str(caught.value)


# ---- paths ----------------------------------------------------------------------------------------------------------


def _nothing(place: Path) -> Path:
    return place / "nothing"


def _empty(place: Path) -> Path:
    (place / "empty").mkdir()
    return place / "empty"


def _pickled(place: Path) -> Path:
    folder = save_peft(place / "peft", TENSORS)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    return folder


def _no_weights(place: Path) -> Path:
    folder = save_peft(place / "peft", TENSORS)
    (folder / "adapter_model.safetensors").unlink()
    return folder


def _cut(place: Path) -> Path:
    path = save_peft(place / "peft", TENSORS) / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    return path.parent


def _text(place: Path) -> Path:
    (place / "a.txt").write_text("GGUX")
    return place / "a.txt"


def _cut_gguf(place: Path) -> Path:
    path = gguf_adapter(place / "a.gguf", C, FOUND)
    path.write_bytes(path.read_bytes()[:-50])
    return path


def _whole_model(place: Path) -> Path:
    return gguf_models.make(place / "m.gguf", "llama")


@pytest.mark.parametrize(("make", "error", "words"), [
    (_nothing, FileNotFoundError, "nothing"), (_empty, FileNotFoundError, r"adapter_config\.json: no such file"),
    (_pickled, WeightFileError, r"adapter_model\.bin"),
    (_no_weights, FileNotFoundError, r"adapter_model\.safetensors: no such file"),
    (_cut, WeightFileError, r"adapter_model\.safetensors"), (_text, WeightFileError, r"a\.txt: expected an adapter"),
    (_cut_gguf, WeightFileError, r"a\.gguf"), (_whole_model, WeightFileError, "expected 'adapter'"),
])  # fmt: skip
def test_paths(
    tmp_path: Path, models: dict[str, Any], make: Callable[[Path], Path], error: type[Exception], words: str
) -> None:  # fmt: skip
    with pytest.raises(error, match=words):
        models["folder"].load_adapter(make(tmp_path))


@pytest.mark.parametrize("path", [None, 3, b"x", ["x"]])
def test_no_paths(models: dict[str, Any], path: Any) -> None:
    with pytest.raises(TypeError, match="path: expected a"):
        models["folder"].load_adapter(path)


def test_a_folder_of_an_adapter_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"an adapter of \"org/base\".*load_adapter.*merge_and_unload"):
        fa.load(save_peft(tmp_path / "peft", TENSORS))


def test_damaged_bytes(tmp_path: Path) -> None:
    """Anything but the two errors of files is a fault of the reader."""
    folder = save_peft(tmp_path / "peft", TENSORS)
    gguf = gguf_adapter(tmp_path / "a.gguf", C, FOUND)
    rng = np.random.default_rng(0)
    for path, where in ((folder / "adapter_model.safetensors", folder), (gguf, gguf)):
        whole = path.read_bytes()
        for _ in range(150):
            data = bytearray(whole)
            for place in rng.integers(0, min(len(data), 1500), 2):
                data[place] = rng.integers(0, 256)
            path.write_bytes(data)
            try:
                open_adapter(where)
            except WeightFileError as error:
                assert str(path.parent) in str(error)
        path.write_bytes(whole)
