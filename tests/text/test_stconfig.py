# SPDX-License-Identifier: MIT
"""config_sentence_transformers.json, for vectors and for pairs: prompts, activations, kinds of models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.text_folders import save_task_folder, write_json

import fastattn as fa
from fastattn.loaders.adapters import refuse_adapters
from fastattn.loaders.files import FolderFiles
from fastattn.text.stconfig import StConfig
from fastattn.text.vectors import VectorSettings

pytest.importorskip("tokenizers")

CONFIG, BERT, MODULES = "config_sentence_transformers.json", "sentence_bert_config.json", "modules.json"
TRANSFORMER = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}
PROMPTS = {"prompts": {"query": "the cat ", "none": ""}, "default_prompt_name": "query"}
HEAD = {
    "transformer_task": "sequence-classification", "module_output_name": "scores",
    "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cross-encoder as versions 5.4 and later save it."""
    save_task_folder(tmp_path / "model", "sequence_classification", ["score"])
    write_json(tmp_path / "model" / MODULES, [TRANSFORMER])
    write_json(tmp_path / "model" / BERT, HEAD)
    write_json(tmp_path / "model" / CONFIG, {"model_type": "CrossEncoder", **PROMPTS})
    return tmp_path / "model"


def pairs(folder: Path) -> StConfig:
    files = FolderFiles(folder)
    return StConfig.read(files).for_pairs(files)


def test_prompts_of_a_cross_encoder_are_for_pairs_alone(folder: Path) -> None:
    assert pairs(folder).default_prompt == "the cat "
    assert VectorSettings.read(folder, 32) == VectorSettings()
    model = fa.load(folder)
    assert [doc for doc, _ in model.rerank("the cat", ["a", "b c"])]
    plain = model.embed(["sat on the mat."])
    assert np.array_equal(plain, model.embed(["sat on the mat."], prompt=""))


@pytest.mark.parametrize(
    ("config", "modules", "expected"),
    [
        ({"model_type": "CrossEncoder"}, [TRANSFORMER], "the cat "),
        ({"model_type": "CrossEncoder"}, None, "the cat "),
        ({}, None, "the cat "),
        ({}, [TRANSFORMER], ""),
        ({"model_type": "SentenceTransformer"}, None, ""),
        ({"model_type": "SentenceTransformer"}, [TRANSFORMER], ""),
    ],
)
def test_whose_prompts_they_are(folder: Path, config: Any, modules: Any, expected: str) -> None:
    write_json(folder / CONFIG, {**PROMPTS, **config, "activation_fn": "torch.nn.modules.activation.Tanh"})
    write_json(folder / BERT, {})
    if modules is None:
        (folder / MODULES).unlink()
    assert pairs(folder).default_prompt == expected and pairs(folder).activation == "tanh"
    vectors = VectorSettings.read(folder, 32)
    assert vectors.prompt == ("" if config.get("model_type") == "CrossEncoder" else "the cat ")


@pytest.mark.parametrize("model_type", ["SparseEncoder", "MultiVectorEncoder", "ColBERT"])
def test_other_vectors_are_refused_by_what_they_are(folder: Path, model_type: str) -> None:
    write_json(folder / CONFIG, {"model_type": model_type, "similarity_fn_name": "maxsim"})
    model = fa.load(folder)
    assert model([[1, 2]]).logits is not None
    with pytest.raises(ValueError, match=rf"{CONFIG}: model_type is '{model_type}', which is not supported: "):
        model.embed(["a"])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (MODULES, [TRANSFORMER, {**TRANSFORMER, "name": "1"}], "Transformer, Transformer are not supported"),
        (
            MODULES,
            [TRANSFORMER, {"path": "1_LogitScore", "type": "sentence_transformers.cross_encoder.modules.LogitScore"}],
            "made of a decoder",
        ),
        (
            MODULES,
            [TRANSFORMER, {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}],
            "made of several modules",
        ),
        (MODULES, [{**TRANSFORMER, "type": "mine.Transformer"}], "module 0 is of the class 'mine.Transformer'"),
        (BERT, {**HEAD, "transformer_task": "text-generation"}, "transformer_task is 'text-generation', expected sequ"),
        (BERT, {**HEAD, "module_output_name": "logits"}, "module_output_name is 'logits', expected scores"),
        (
            BERT,
            {"modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}}},
            r"modality_config\.text\.method_output_name is 'pooler_output', expected logits",
        ),
        (CONFIG, {"model_type": "Mine"}, "model_type is 'Mine', expected SentenceTransformer or CrossEncoder"),
    ],
)
def test_cross_encoders_that_are_not_read(folder: Path, name: str, value: Any, message: str) -> None:
    write_json(folder / name, value)
    with pytest.raises(ValueError, match=message) as caught:
        pairs(folder)
    assert str(folder / name) in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("transformer_task", "sequence-classification", "transformer_task is 'sequence-classification', expected feat"),
        ("transformer_task", "fill-mask", "expected feature-extraction"),
        ("module_output_name", "sentence_embedding", "expected token_embeddings"),
        (
            "modality_config",
            {"text": {"method": "forward", "method_output_name": "pooler_output"}},
            "expected last_hidden_state",
        ),
    ],
)
def test_vectors_that_are_not_made_of_hidden_states(folder: Path, key: str, value: Any, message: str) -> None:
    (folder / CONFIG).unlink()
    write_json(folder / BERT, {key: value})
    with pytest.raises(ValueError, match=message) as caught:
        fa.load(folder).embed(["a"])
    assert str(folder / BERT) in str(caught.value)


@pytest.mark.parametrize(
    ("torch", "name"),
    [("linear.Identity", "none"), ("activation.Sigmoid", "sigmoid"), ("activation.Tanh", "tanh"),
     ("activation.ReLU", "relu"), ("activation.Softmax", "softmax")],
)  # fmt: skip
def test_activations_in_all_their_places(folder: Path, torch: str, name: str) -> None:
    full = f"torch.nn.modules.{torch}"
    config = FolderFiles(folder).read_json("config.json")
    write_json(folder / CONFIG, {"activation_fn": full})
    assert StConfig.read(folder).activation == name
    write_json(folder / CONFIG, {})
    for key, value in (("sentence_transformers", {"activation_fn": full, "version": "4.0.1"}),
                       ("sbert_ce_default_activation_function", full)):  # fmt: skip
        write_json(folder / "config.json", {**config, key: value})
        assert StConfig.read(folder).activation == name
        write_json(folder / "config.json", {**config, key: str(value).replace("torch", "mine") if value == full else
                                            {"activation_fn": "mine.Sigmoid"}})  # fmt: skip
        with pytest.raises(ValueError, match=r"config\.json: .*, expected one of torch's Identity, Sigmoid"):
            StConfig.read(folder)
    write_json(folder / "config.json", config)
    assert StConfig.read(folder).activation is None


def test_prompts_by_name() -> None:
    config = StConfig(prompts={"a": "x ", "b": ""}, default_prompt="x ")
    assert [config.prompt(None, None), config.prompt("", None), config.prompt(None, "b")] == ["x ", "", ""]
    for arguments, error in ((("x", "a"), ValueError), ((None, "c"), ValueError), ((None, 3), TypeError)):
        with pytest.raises(error, match="^prompt_name: "):
            config.prompt(*arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected one of none, as the model names no prompts"):
        StConfig().prompt(None, "query")


def test_similarities(folder: Path) -> None:
    for name, expected in (("dot_product", "dot"), ("cosine", "cosine"), (None, None)):
        write_json(folder / CONFIG, {"similarity_fn_name": name})
        assert StConfig.read(folder).similarity == expected


def test_adapters(folder: Path) -> None:
    files = FolderFiles(folder)
    refuse_adapters(files)
    said: list[tuple[Any, str]] = [
        ({"base_model_name_or_path": "org/base"}, 'an adapter of "org/base", which'), ({}, "an adapter,"),
        ([], "an adapter,"), ({"base_model_name_or_path": 3}, "an adapter,"),
    ]  # fmt: skip
    for value, message in said:
        write_json(folder / "adapter_config.json", value)
        with pytest.raises(ValueError, match=message) as caught:
            refuse_adapters(files)
        assert str(folder / "adapter_config.json") in str(caught.value) and "merge_and_unload" in str(caught.value)
    (folder / "adapter_config.json").write_bytes(b"\xff{")
    with pytest.raises(ValueError, match="an adapter,"):
        refuse_adapters(files)
