# SPDX-License-Identifier: MIT
"""Folders and files that are something else: the error says what they are, and the command that helps."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from golden import tiny_bert

import fastattn as fa
from fastattn.loaders import WeightFileError
from fastattn.loaders.files import FolderFiles
from fastattn.loaders.hints import foreign_content, missing_tokenizer_hint

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 90868376\n"
PAGES = [b"<!DOCTYPE html>\n<html><title>Not Found</title></html>", b"\xef\xbb\xbf  <html>", b"<?xml version='1.0'?>"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_bert.save_folder(tmp_path / "model", "plain")


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(b"x")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["pytorch_model.bin"], r"pytorch_model\.bin: pickled .*safe_serialization=True\) writes"),
        (["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"], r"pytorch_model-00001.*pickled"),
        (["model.pt"], r"model\.pt: pickled"),
        (["consolidated.00.pth"], "pickled"),
        (["tf_model.h5"], r"tf_model\.h5: TensorFlow .*from_tf=True"),
        (["flax_model.msgpack"], r"flax_model\.msgpack: Flax .*from_flax=True"),
        (["tf_model.h5", "pytorch_model.bin"], "pickled"),  # the one that more people can convert
        (["model.onnx"], r"model\.onnx: an ONNX graph .*model\.safetensors"),
        (["onnx/model.onnx", "onnx/model_quantized.onnx"], r"onnx/model\.onnx: an ONNX graph"),
        (["openvino_model.xml", "openvino_model.bin"], r"openvino_model\.xml: an OpenVINO model"),
        (["openvino/openvino_model.xml"], "OpenVINO"),
        (["model.bin", "shared_vocabulary.json"], r"model\.bin: a model of CTranslate2"),
        (["model.bin", "vocabulary.txt"], "CTranslate2"),
    ],
)
def test_folders_with_other_weights(folder: Path, names: list[str], message: str) -> None:
    touch(folder, "training_args.bin", *names)
    fa.load(folder)  # beside model.safetensors they do not matter
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightFileError, match=message):
        fa.load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(WeightFileError, match=message):
        fa.load(folder)


def test_folders_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")
    touch(folder, "training_args.bin", "notes.xml")
    with pytest.raises(FileNotFoundError, match=r"neither .*to open model\.fp16\.safetensors, give its own path"):
        fa.load(folder)
    (folder / "model.fp16.safetensors").unlink()
    touch(folder, "router_config.json")
    with pytest.raises(FileNotFoundError, match="a Router of sentence-transformers"):
        fa.load(folder)


@pytest.mark.parametrize("name", ["m.onnx", "m.h5", "m.msgpack", "m.xml", "m.tflite", "m.pt", "m.bin"])
def test_files_of_other_kinds(folder: Path, name: str) -> None:
    touch(folder, name)
    with pytest.raises(WeightFileError, match=re.escape(name) + ": .*(not read|pickled)"):
        fa.load(folder / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (POINTER, r"pointer of Git LFS .*`git lfs install && git lfs pull`"),
        *((page, "a web page") for page in PAGES),
        (b"GGUF\1\0\0\0" + b"\0" * 100, "GGUF"),
        (b"\x89HDF\r\n\x1a\n" + b"\xff" * 100, "TensorFlow"),
        (b"PK\x03\x04" + b"\xff" * 100, "torch.save"),
        (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "torch.save"),
    ],
)
def test_contents_of_another_kind(folder: Path, content: bytes, message: str) -> None:
    """As weights under any name, and as configuration."""
    good = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content)
    for path in (folder, folder / "model.safetensors"):
        with pytest.raises(WeightFileError, match=rf"model\.safetensors: .*{message}"):
            fa.load(path)
    for name in ("w.fastattn", "weights", "w.dat"):
        (folder / name).write_bytes(content)
        with pytest.raises(WeightFileError, match=rf"{name}: .*{message}"):
            fa.load(folder / name)
    (folder / "model.safetensors").write_bytes(good)
    if content.isascii() or content.startswith(b"\xef"):
        (folder / "config.json").write_bytes(content)
        with pytest.raises(WeightFileError, match=r"config\.json: "):
            fa.load(folder)


@pytest.mark.parametrize("content", [b"", POINTER, PAGES[0]])
def test_small_files_of_another_kind(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    expected = re.escape(str(foreign_content(content)))
    with pytest.raises(WeightFileError, match=rf"config\.json: not valid JSON \({expected}"):
        fa.load(folder)


def test_contents_that_are_not_known() -> None:
    for content in (b"\0" * 8, b"{}", b"version 3", b"\x80\x00\x00", b"a < b", b"<"):
        assert foreign_content(content) is None


# ---- adapters, static embeddings, other architectures --------------------------------------------------------------


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("base", [{"base_model_name_or_path": "org/base"}, {}, {"base_model_name_or_path": 3}])
def test_adapters(folder: Path, beside: bool, base: dict[str, object]) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **base}))
    (folder / "adapter_model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    if not beside:
        (folder / "model.safetensors").unlink()
        (folder / "config.json").unlink()
    paths = [folder, folder / "adapter_model.safetensors", *([folder / "model.safetensors"] if beside else [])]
    for path in paths:
        with pytest.raises(ValueError, match=r"adapter_config\.json: an adapter.*merge_and_unload.*save_pre") as error:
            fa.load(path)
        assert ("org/base" in str(error.value)) == (base.get("base_model_name_or_path") == "org/base")


def test_a_packed_file_beside_an_adapter(folder: Path) -> None:
    path = fa.pack(folder, folder / "model.fastattn", "float32")
    (folder / "adapter_config.json").write_text("{}")
    assert fa.load(path).hidden_size == 32


@pytest.mark.parametrize("names", [["embedding.weight"], ["embeddings"], ["embeddings", "weights", "mapping"]])
def test_static_embeddings(folder: Path, names: list[str]) -> None:
    tiny_bert.save_safetensors(folder / "model.safetensors", {name: np.ones((4, 2), np.float32) for name in names})
    (folder / "config.json").write_text(json.dumps({"model_type": "model2vec", "architectures": ["StaticModel"]}))
    with pytest.raises(ValueError, match=r"static embeddings \(model2vec, .* not supported"):
        fa.load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match="static embeddings"):
        fa.load(folder)


def test_model_types(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "qwen" + "x" * 10**5}))
    with pytest.raises(
        ValueError, match="model_type 'qwenx*' is not supported; supported: albert, arcee, bert, "
    ) as error:
        fa.load(folder)
    assert len(str(error.value)) < 1000
    (folder / "config.json").write_text(json.dumps({**config, "model_type": None, "architectures": None}))
    with pytest.raises(ValueError, match=r"key 'model_type' is missing: it says which .*\"model_type\": \"bert\""):
        fa.load(folder)


# ---- tokenizers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["vocab.txt"], r"vocab\.txt is a WordPiece .*pip install transformers\).*AutoTokenizer.*writes tokenizer"),
        (["vocab.json", "merges.txt"], r"vocab\.json and merges\.txt are a byte pair .*AutoTokenizer"),
        (["vocab.json"], r"half of a byte pair vocabulary: get merges\.txt too"),
        (["merges.txt"], r"half of a byte pair vocabulary: get vocab\.json too"),
        (["sentencepiece.bpe.model"], r"is a SentencePiece .*pip install transformers sentencepiece protobuf\)"),
        (["spiece.model"], r"spiece\.model is a SentencePiece .*sentencepiece"),
        (["spm.model"], r"spm\.model is a SentencePiece .*sentencepiece"),
        (["tokenizer.model"], r"tokenizer\.model is a SentencePiece or tiktoken .*tiktoken\)"),
        (["qwen.tiktoken"], r"qwen\.tiktoken is a tiktoken .*pip install transformers tiktoken\)"),
        (["tiktoken.model"], "is a tiktoken"),
        (["tekken.json"], "mistral-common"),
        ([], r"there is no other vocabulary either: .*`hf download ORG/NAME tokenizer\.json"),
        (["tokenizer_config.json"], "there is no other vocabulary either"),
    ],
)
def test_folders_without_a_tokenizer(folder: Path, names: list[str], message: str) -> None:
    for name in names:
        (folder / name).write_text("{}")
    assert re.search(message, missing_tokenizer_hint(FolderFiles(folder)))
    pytest.importorskip("tokenizers")
    with pytest.raises(FileNotFoundError, match=rf"tokenizer\.json: needed to embed text .*{message}"):
        fa.load(folder).embed(["a"])
