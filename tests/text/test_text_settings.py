# SPDX-License-Identifier: MIT
"""What is said about folders whose text settings are damaged or ask for something else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from golden import tiny_bert
from support.text_folders import sentence_folder, write_json

import fastattn as fa
from fastattn.text.vectors import VectorSettings

pytest.importorskip("tokenizers")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_bert.save_text_folder(tmp_path / "model")


POOLING = "1_Pooling/config.json"
SENTENCE = "sentence_bert_config.json"
TOKENIZER = "tokenizer_config.json"
PROMPTS = "config_sentence_transformers.json"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (POOLING, {}, "no pooling mode is set, expected one of pooling_mode_cls_token"),
        (POOLING, {"pooling_mode_mean_tokens": 1}, "pooling_mode_mean_tokens is '1', expected true or false"),
        (POOLING, {"pooling_mode_from_the_future": True}, "pooling_mode_from_the_future is not supported"),
        (POOLING, {"pooling_mode": "weighted"}, "pooling_mode is 'weighted', expected one of cls, max, mean, "),
        (POOLING, {"pooling_mode": []}, "pooling_mode is "),
        (POOLING, {"pooling_mode": ["mean", 3]}, "pooling_mode is "),
        (POOLING, {"pooling_mode": ["mean", "cls", "mean"]}, "pooling_mode is .* a list of them without repetition"),
        (
            POOLING,
            {"pooling_mode_mean_tokens": True, "word_embedding_dimension": 31},
            "word_embedding_dimension is '31'",
        ),
        (POOLING, [], "expected a JSON object, got list"),
        (SENTENCE, {"max_seq_length": 0}, "max_seq_length is '0', expected an integer of at least 1"),
        (SENTENCE, {"max_seq_length": -1}, "max_seq_length"),
        (SENTENCE, {"max_seq_length": 2.5}, "max_seq_length"),
        (SENTENCE, {"max_seq_length": "256"}, "max_seq_length"),
        (SENTENCE, {"max_seq_length": True}, "max_seq_length"),
        (SENTENCE, {"do_lower_case": "yes"}, "do_lower_case is 'yes', expected true or false"),
        (TOKENIZER, {"model_max_length": -1}, "model_max_length"),
        (TOKENIZER, {"truncation_side": "middle"}, "truncation_side is 'middle', expected one of right, left"),
        (TOKENIZER, {"truncation_side": ["left"]}, "truncation_side"),
        (PROMPTS, {"default_prompt_name": "q"}, "default_prompt_name is 'q', expected the name of one of the prompts"),
        (
            PROMPTS,
            {"default_prompt_name": "q", "prompts": {"q": 3}},
            "prompts is .* an object whose values are strings",
        ),
        (PROMPTS, {"prompts": ["q"]}, "prompts is .* an object whose values are strings"),
        (PROMPTS, {"truncate_dim": 0}, "truncate_dim is '0', expected an integer of at least 1"),
        (PROMPTS, {"truncate_dim": "8"}, "truncate_dim is '8', expected an integer of at least 1"),
        (PROMPTS, {"truncate_dim": 33}, "truncate_dim is 33, expected at most 32, the width of the vectors"),
        (PROMPTS, {"default_prompt_name": ["q"], "prompts": {"q": "x"}}, "default_prompt_name"),
    ],
)
def test_refused(folder: Path, name: str, value: Any, message: str) -> None:
    write_json(folder / name, value)
    model = fa.load(folder)  # token ids work without any of this
    assert model([[1, 2]]).last_hidden_state.shape == (1, 2, 32)
    with pytest.raises(ValueError, match=message) as caught:
        model.embed(["the cat"])
    assert str(folder / name) in str(caught.value)


@pytest.mark.parametrize("name", [POOLING, SENTENCE, TOKENIZER, PROMPTS, "modules.json", "tokenizer.json"])
@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'"text"', b"\0" * 100])
def test_damaged_files(folder: Path, name: str, data: bytes) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        fa.load(folder).embed(["the cat"])


def module(kind: Any, path: Any = "") -> dict[str, Any]:
    return {"idx": 0, "name": "0", "path": path, "type": kind}


ST = "sentence_transformers.models."
TRANSFORMER = module(ST + "Transformer")


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ({}, "expected a list of modules, got dict"),
        ([], "modules of no type are not supported"),
        ([3], "module 0 is not an object with a type"),
        ([module(None)], "module 0 is not an object with a type"),
        ([module("sentence_transformers.models.CLIPModel")], "modules CLIPModel are not supported"),
        ([TRANSFORMER, module(ST + "Pooling", "1_Pooling"), module(ST + "Dense")], "module 2: path is '', expected"),
        ([TRANSFORMER, module(ST + "Pooling", "1_Pooling"), module(ST + "CNN")], "Transformer, Pooling, CNN are not"),
        ([module(ST + "Pooling", "1_Pooling"), TRANSFORMER], "Pooling, Transformer are not supported"),
        ([TRANSFORMER, module(ST + "Dense", "1_Dense")], "Transformer, Dense are not supported"),
        ([TRANSFORMER, module(ST + "Normalize")], "modules Transformer, Normalize are not supported"),
        ([TRANSFORMER, module(ST + "Pooling", "../elsewhere")], "path is '../elsewhere', expected a folder beside it"),
        ([TRANSFORMER, module(ST + "Pooling", "/etc")], "path is '/etc'"),
        ([TRANSFORMER, module(ST + "Pooling", "a/../../b")], "path is"),
        ([TRANSFORMER, module(ST + "Pooling", "C:\\x")], "path is"),
        ([TRANSFORMER, module(ST + "Pooling", "")], "path is ''"),
        ([TRANSFORMER, module(ST + "Pooling", 3)], "path is '3'"),
    ],
)
def test_modules(folder: Path, modules: Any, message: str) -> None:
    write_json(folder / "modules.json", modules)
    with pytest.raises(ValueError, match=message) as caught:
        fa.load(folder).embed(["the cat"])
    assert str(folder / "modules.json") in str(caught.value)


def test_pooling_config_that_is_not_there(folder: Path) -> None:
    write_json(folder / "modules.json", [TRANSFORMER, module(ST + "Pooling", "1_Pooling")])
    with pytest.raises(FileNotFoundError, match="modules.json names this pooling configuration"):
        fa.load(folder).embed(["the cat"])


def test_transformer_alone_is_mean_without_normalisation(folder: Path) -> None:
    write_json(folder / "modules.json", [TRANSFORMER])
    assert VectorSettings.read(folder, 32) == VectorSettings()


def test_a_layout_of_the_past(folder: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    folder.rename(old / "0_Transformer")
    write_json(old / "modules.json", [module("sentence_transformers.models.Transformer", "0_Transformer")])
    with pytest.raises(FileNotFoundError, match=r"modules\.json: the model is in '0_Transformer', a layout that sent"):
        fa.load(old)
    write_json(old / "modules.json", [module("sentence_transformers.models.Transformer", "elsewhere")])
    for missing in (old, tmp_path / "nothing"):
        with pytest.raises(FileNotFoundError) as caught:
            fa.load(missing)
        assert "no longer writes" not in str(caught.value)


def test_no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    model = fa.load(folder)
    assert model([[1, 2]]).last_hidden_state.shape == (1, 2, 32)
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json: needed to embed text"):
        model.embed(["the cat"])
    (folder / "vocab.txt").write_text("a")
    with pytest.raises(FileNotFoundError, match="AutoTokenizer"):
        model.embed(["the cat"])


def test_no_room_for_special_tokens(folder: Path) -> None:
    write_json(folder / SENTENCE, {"max_seq_length": 1})
    with pytest.raises(ValueError, match="at most 1 tokens leave no room for 2 special tokens"):
        fa.load(folder).embed(["the cat"])


def test_tokenizer_of_an_unknown_kind(folder: Path) -> None:
    write_json(folder / "tokenizer.json", {**tiny_bert.tokenizer(), "model": {"type": "Telepathy"}})
    with pytest.raises(ValueError, match=r"tokenizer\.json: the tokenizers library cannot read it"):
        fa.load(folder).embed(["the cat"])


def test_tokenizer_that_fails_on_a_text(folder: Path) -> None:
    """It reads well, but has no token for unknown words."""
    description = tiny_bert.tokenizer()
    description["model"]["unk_token"] = "[NOTHING]"
    write_json(folder / "tokenizer.json", description)
    model = fa.load(folder)
    assert model.embed(["the cat"]).shape == (1, 32)
    with pytest.raises(ValueError, match=r"tokenizer\.json: the tokenizers library failed on a text \(.*Missing"):
        model.embed(["xyz"])


def test_without_the_tokenizers_library(folder: Path) -> None:
    code = (
        "import sys; sys.modules['tokenizers'] = None; import fastattn as fa\n"
        f"model = fa.load({str(folder)!r}); assert model([[1, 2]]).last_hidden_state.shape == (1, 2, 32)\n"
        "try:\n    model.embed(['a'])\nexcept ImportError as error:\n    print(error)"
    )
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "pip install fastattn[text]" in result.stdout


def test_settings_are_read_once_and_kept(folder: Path) -> None:
    model = fa.load(folder)
    before = model.embed(["the cat"])
    sentence_folder(folder, pooling_mode_cls_token=True)
    assert model.embed(["the cat"]).tobytes() == before.tobytes()
    assert fa.load(folder).embed(["the cat"]).tobytes() != before.tobytes()
    assert json.loads((folder / "modules.json").read_text())
