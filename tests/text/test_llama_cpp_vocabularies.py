# SPDX-License-Identifier: MIT
"""llama.cpp's own vocabularies with the ids that it expects of them, read where its source is unpacked.

Set FASTATTN_LLAMA_CPP to that folder (the source archive of llama-cpp-python has it as vendor/llama.cpp).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.gguf_vocabularies import fields_of, model_tokenizer

pytest.importorskip("tokenizers")
pytest.importorskip("gguf")


SOURCE = Path(os.environ.get("FASTATTN_LLAMA_CPP", "llama.cpp"))
NAMES = ("bert-bge", "command-r", "deepseek-coder", "deepseek-llm", "falcon", "gemma-4", "gpt-2", "llama-bpe",
         "llama-spm", "mpt", "phi-3", "qwen2", "qwen35", "refact", "starcoder")  # fmt: skip
BETWEEN = "\n__ggml_vocab_test__\n"

pytestmark = pytest.mark.skipif(
    not (SOURCE / "models").is_dir(), reason="FASTATTN_LLAMA_CPP is not set to a folder of llama.cpp's source"
)


@pytest.mark.parametrize("name", NAMES)
def test_ids(name: str) -> None:
    path = SOURCE / "models" / f"ggml-vocab-{name}.gguf"
    texts = Path(f"{path}.inp").read_bytes().decode().split(BETWEEN)
    texts = texts if texts[-1] else texts[:-1]
    expected = [list(map(int, line.split())) for line in Path(f"{path}.out").read_text("utf-8").split("\n")]
    assert len(texts) >= 46
    tokenizer = model_tokenizer(fields_of(path), str(path))
    for text, ids in zip(texts, expected, strict=False):
        assert tokenizer.encode(text, add_special_tokens=False) == ids, text
        decoder = tokenizer.incremental(skip_special_tokens=False)
        pieces = [decoder.push(number) for number in ids]
        assert "".join([*pieces, decoder.finish()]) == tokenizer.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("name", ["baichuan", "gpt-neox", "nomic-bert-moe"])
def test_others_are_read(name: str) -> None:
    path = SOURCE / "models" / f"ggml-vocab-{name}.gguf"
    tokenizer = model_tokenizer(fields_of(path), str(path))
    for text in ("Hello world", " Hello  again\n", "größe 東京 😀"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids).split() == text.split()


def test_a_file_without_a_name_is_refused() -> None:
    path = SOURCE / "models" / "ggml-vocab-aquila.gguf"
    with pytest.raises(ValueError, match="tokenizer.ggml.pre is missing"):
        model_tokenizer(fields_of(path), str(path))
