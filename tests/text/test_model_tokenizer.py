# SPDX-License-Identifier: MIT
"""``model.tokenizer``: decoding id by id gives what decoding all of them gives; roles, templates, bad input."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.gguf_vocabularies import (
    SPACE,
    byte_level,
    model_tokenizer,
    sentencepiece,
    tokenizer_config_json,
    unigram,
    word_piece,
)

from fastattn.loaders.files import FolderFiles

tokenizers = pytest.importorskip("tokenizers")

from tokenizers import Tokenizer, decoders, models  # noqa: E402

from fastattn.text.modeltokenizer import ModelTokenizer  # noqa: E402
from fastattn.vocab.ggufconfig import gguf_stop_ids  # noqa: E402
from fastattn.vocab.ggufvocab import GgufVocabulary, tokenizer_json  # noqa: E402

KINDS = {"bytes": byte_level, "sentencepiece": sentencepiece, "unigram": unigram, "word piece": word_piece}
WORDS = ["<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "<0xFF>", "<0x41>", f"{SPACE}a", "b", f"{SPACE}{SPACE}", "##c", ".",
         " .", "n't", "é", "d</w>", "</w>", "<s>", "<0x+1>", "<0x1g>", SPACE]  # fmt: skip
DECODERS: dict[str, Any] = {
    "none": None,
    "byte level": decoders.ByteLevel(),
    "fallback": decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]),
    "llama": decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    ),
    "strip two": decoders.Sequence([decoders.Replace(SPACE, " "), decoders.Fuse(), decoders.Strip(" ", 2, 0)]),
    "strip each": decoders.Sequence([decoders.Replace(SPACE, " "), decoders.Strip(" ", 1, 0)]),
    "strip ends": decoders.Sequence([decoders.Fuse(), decoders.Strip(".", 0, 1)]),
    "metaspace": decoders.Metaspace(SPACE, "always"),
    "metaspace, never": decoders.Metaspace(SPACE, "never"),
    "word piece": decoders.WordPiece("##", True),
    "word piece, not cleaned": decoders.WordPiece("##", False),
    "bpe": decoders.BPEDecoder("</w>"),
    "after fuse": decoders.Sequence([decoders.Fuse(), decoders.Replace("b.", "x")]),
    "regex": decoders.Sequence([decoders.Replace(tokenizers.Regex("[ab]"), "x"), decoders.Fuse()]),
    "ctc": decoders.CTC("b", "d", True),
}


def joined(tokenizer: ModelTokenizer, ids: list[int], skip: bool = True) -> str:
    decoder = tokenizer.incremental(skip_special_tokens=skip)
    pieces = [decoder.push(number) for number in ids]
    end = decoder.finish()
    assert decoder.finish() == ""
    return "".join([*pieces, end])


@pytest.mark.parametrize("name", DECODERS)
def test_pieces_are_the_whole(name: str) -> None:
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="b"))
    inner.add_special_tokens(["<s>"])
    if DECODERS[name] is not None:
        inner.decoder = DECODERS[name]
    tokenizer = ModelTokenizer(inner, {}, {}, "x")
    rng = np.random.default_rng(1)
    for _ in range(400):
        ids = rng.integers(0, len(WORDS), rng.integers(0, 9)).tolist()
        for skip in (True, False):
            try:
                expected = tokenizer.decode(ids, skip_special_tokens=skip)
            except ValueError as error:  # the library cannot strip the end of nothing
                assert name == "strip ends" and "the tokenizers library failed on these ids" in str(error)
                with pytest.raises(ValueError, match="the tokenizers library failed on these ids"):
                    joined(tokenizer, ids, skip)
            else:
                assert joined(tokenizer, ids, skip) == expected, ids


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_are_the_whole_of_random_ids(kind: str) -> None:
    tokenizer = model_tokenizer(KINDS[kind](), "x.gguf")
    rng = np.random.default_rng(2)
    for _ in range(200):
        ids = rng.integers(0, len(tokenizer), rng.integers(0, 40)).tolist()
        for skip in (True, False):
            assert joined(tokenizer, ids, skip) == tokenizer.decode(ids, skip_special_tokens=skip)


def test_characters_are_never_cut() -> None:
    tokenizer = model_tokenizer(byte_level(), "x.gguf")
    decoder = tokenizer.incremental()
    ids = tokenizer.encode("a😀é")
    assert [decoder.push(number) for number in ids] == ["a", "", "", "", "😀", "", "é"]
    assert decoder.finish() == ""


def test_bytes_that_are_no_character_come_out_once_that_is_certain() -> None:
    tokenizer = model_tokenizer(byte_level(), "x.gguf")
    decoder = tokenizer.incremental()
    assert [decoder.push(number) for number in (0xF0, 0x9F, 0x41, 0xFF, 0xC3)] == ["", "", "\ufffdA", "\ufffd", ""]
    assert decoder.finish() == "\ufffd"
    with pytest.raises(ValueError, match="push: the text is finished"):
        decoder.push(65)


def test_one_token_costs_what_the_first_did() -> None:
    tokenizer = model_tokenizer(sentencepiece(), "x.gguf")
    decoder = tokenizer.incremental()
    for number in tokenizer.encode("é") * 3000:
        decoder.push(number)
    assert len(vars(decoder)["_kept"]) == 0
    for _ in range(3000):
        decoder.push(3 + 0x41)  # a run of bytes is held back until it ends
    assert decoder.push(tokenizer.encode("a")[-1]) == "é" + "A" * 3000 + " a"


def test_bytes_of_tokens() -> None:
    tokenizer = model_tokenizer(byte_level("gpt-2", (" hé",)), "x.gguf")
    ids = tokenizer.encode(" hé\xff<tool>")
    assert b"".join(map(tokenizer.token_bytes, ids)) == " hé\xff<tool>".encode()
    assert tokenizer.token_bytes(0xF0) == b"\xf0"
    tokenizer = model_tokenizer(sentencepiece(), "x.gguf")
    assert [tokenizer.token_bytes(number) for number in tokenizer.encode("hello é")] == [
        b"<s>", b" hello", b" ", b"\xc3", b"\xa9",
    ]  # fmt: skip
    assert model_tokenizer(unigram(), "x").token_bytes(11) == b" a"
    with pytest.raises(ValueError, match="its tokens have no bytes of their own"):
        model_tokenizer(word_piece(), "x.gguf").token_bytes(7)


def test_roles() -> None:
    fields = byte_level("llama-bpe", chat_template="{{ bos_token }}", ggml__unknown_token_id=3)
    fields.update({"tokenizer.chat_templates": ["tools"], "tokenizer.chat_template.tools": "{{ tools }}"})
    tokenizer = model_tokenizer(fields, "x.gguf")
    size = len(fields["tokenizer.ggml.tokens"])
    assert (tokenizer.vocab_size, len(tokenizer)) == (size, size)
    assert (tokenizer.bos_token, tokenizer.bos_token_id) == ("<|bos|>", size - 3)
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|end|>", size - 2)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == (None, None)
    assert (tokenizer.unk_token_id, tokenizer.all_special_ids) == (None, [size - 3, size - 2])
    assert tokenizer.decode([3]) == "\x03"
    assert tokenizer.chat_template == "{{ bos_token }}"
    assert tokenizer.chat_templates == {"default": "{{ bos_token }}", "tools": "{{ tools }}"}
    assert tokenizer.token_to_id("<tool>") == size - 1 and tokenizer.token_to_id("nothing") is None
    assert tokenizer.id_to_token(size - 1) == "<tool>"
    assert tokenizer.decode([size - 3, 65, size - 1]) == "A<tool>"
    assert tokenizer.decode([size - 3, 65], skip_special_tokens=False) == "<|bos|>A"
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.encode("a<|end|>") == tokenizer.encode("a<|end|>") == [size - 3, 97, size - 2]


def test_a_template_that_is_listed_must_be_there() -> None:
    with pytest.raises(ValueError, match=r"x.gguf: tokenizer.chat_template.tools is missing, but tokenizer.chat_templ"):
        model_tokenizer({**byte_level(), "tokenizer.chat_templates": ["tools"]}, "x.gguf")


def test_what_ends_an_answer() -> None:
    fields = byte_level(ggml__eot_token_id=5)
    fields["tokenizer.ggml.tokens"][-3] = "<|im_end|>"
    size = len(fields["tokenizer.ggml.tokens"])
    assert gguf_stop_ids(GgufVocabulary(fields, "x")) == [5, size - 3, size - 2]
    fields["tokenizer.ggml.tokens"][-1] = "<|eot_id|>"  # of no special type: a text
    assert gguf_stop_ids(GgufVocabulary(fields, "x")) == [5, size - 3, size - 2]


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_a_gguf_are_as_good_as_itself(kind: str, tmp_path: Path) -> None:
    fields = {**KINDS[kind](), "tokenizer.chat_template": "{{ 'ä' }}"}
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_json(fields, "x.gguf"))
    (tmp_path / "tokenizer_config.json").write_bytes(tokenizer_config_json(fields, "x.gguf"))
    direct, kept = model_tokenizer(fields, "x.gguf"), ModelTokenizer.from_files(FolderFiles(tmp_path))
    for text in ("hello a", " a  hello ", "ä <|end|> </s>", "", "a\nb"):
        assert direct.encode(text) == kept.encode(text)
        assert direct.encode(text, add_special_tokens=False) == kept.encode(text, add_special_tokens=False)
    assert (direct.eos_token, direct.unk_token) == (kept.eos_token, kept.unk_token)
    assert (direct.bos_token_id, direct.pad_token_id) == (kept.bos_token_id, kept.pad_token_id)
    assert direct.chat_template == kept.chat_template == "{{ 'ä' }}"


def folder(path: Path, **config: Any) -> FolderFiles:
    (path / "tokenizer.json").write_bytes(tokenizer_json(byte_level(), "x.gguf"))
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return FolderFiles(path)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"chat_template": "a"}, {"default": "a"}),
        ({"chat_template": [{"name": "default", "template": "a"}, {"name": "b", "template": "c"}]},
         {"default": "a", "b": "c"}),
        ({"chat_template": None}, {}),
        ({}, {}),
    ],
)  # fmt: skip
def test_templates_of_a_folder(tmp_path: Path, config: dict[str, Any], expected: dict[str, str]) -> None:
    files = folder(tmp_path, **config)
    assert ModelTokenizer.from_files(files).chat_templates == expected
    (tmp_path / "chat_template.jinja").write_text("from its file")
    assert ModelTokenizer.from_files(files).chat_template == "from its file"


@pytest.mark.parametrize("template", [1, [1], [{"name": "a"}], [{"name": 1, "template": "b"}], {}])
def test_templates_that_are_none(tmp_path: Path, template: Any) -> None:
    with pytest.raises(ValueError, match=r"tokenizer_config.json: chat_template is .*expected a text, or a list"):
        ModelTokenizer.from_files(folder(tmp_path, chat_template=template))


def test_a_template_that_is_not_utf8(tmp_path: Path) -> None:
    files = folder(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(b"ab\xff")
    with pytest.raises(ValueError, match=r"chat_template.jinja: not UTF-8 at byte 2"):
        ModelTokenizer.from_files(files)


def test_flags_of_llama_s_class(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_json(sentencepiece(), "x.gguf"))
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "add_bos_token": False}
    for flags, expected in (
        ({"legacy": False}, ["<s>", f"{SPACE}a", "</s>", "a"]),
        ({"legacy": True}, ["<s>", f"{SPACE}a", "</s>", f"{SPACE}a"]),
        ({"add_prefix_space": False}, ["<s>", "a", "</s>", "a"]),
    ):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, **flags}))
        tokenizer = ModelTokenizer.from_files(FolderFiles(tmp_path))
        assert [tokenizer.id_to_token(number) for number in tokenizer.encode("a</s>a")] == expected
        assert tokenizer.decode(tokenizer.encode("hello a")) == "hello a"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "legacy": 1}))
    with pytest.raises(ValueError, match=r"tokenizer_config.json: legacy is '1', expected true or false"):
        ModelTokenizer.from_files(FolderFiles(tmp_path))


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"tokenizer.json: needed to read and write texts"):
        ModelTokenizer.from_files(FolderFiles(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer.json: the tokenizers library cannot read it"):
        ModelTokenizer.from_files(FolderFiles(tmp_path))


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (b"a", TypeError, "text: expected a str, got bytes"),
        (None, TypeError, "text: expected a str, got NoneType"),
        (["a"], TypeError, "text: expected a str, got list"),
        ("a\ud800", ValueError, "text: half a surrogate pair at character 1"),
    ],
)
def test_texts_that_are_none(text: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        model_tokenizer(byte_level(), "x.gguf").encode(text)


BAD_IDS: list[tuple[Any, type[Exception], str]] = [
    (-1, ValueError, "ids: got -1, expected at least 0 and less than 26"),
    (10**6, ValueError, "ids: got 1000000, expected"),
    (2**40, ValueError, "ids: got 1099511627776, expected"),
    (10**400, ValueError, "ids: got 1000"),
    (True, TypeError, "ids: expected (integers|token ids), got bool"),
    (np.True_, TypeError, "ids: expected (integers|token ids), got bool"),
    (1.0, TypeError, "ids: expected (integers|token ids), got float"),
    ("1", TypeError, "ids: expected (integers|token ids), got str"),
    (None, TypeError, "ids: expected (integers|token ids), got NoneType"),
]


@pytest.mark.parametrize(("number", "error", "message"), BAD_IDS, ids=range(len(BAD_IDS)))
def test_ids_that_are_none(number: Any, error: type[Exception], message: str) -> None:
    tokenizer = model_tokenizer(byte_level(), "x.gguf")
    for call in (
        lambda: tokenizer.decode([65, number]), lambda: tokenizer.decode(number), lambda: tokenizer.token_bytes(number),
        lambda: tokenizer.incremental().push(number), lambda: tokenizer.id_to_token(number),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            call()


def test_ids_of_many_kinds() -> None:
    tokenizer = model_tokenizer(byte_level(), "x.gguf", size=400)
    ids = tokenizer.encode("ab")
    for form in (tuple(ids), np.array(ids), np.array(ids, np.uint8), iter(ids), range(ids[0], ids[1] + 1)):
        assert tokenizer.decode(form) == "ab"
    assert tokenizer.decode(np.int64(ids[0])) == "a"
    assert tokenizer.decode([]) == ""
    assert tokenizer.decode([399, ids[0]]) == "a" and tokenizer.token_bytes(399) == b""  # rows without a token
    with pytest.raises(ValueError, match="ids: got 400, expected at least 0 and less than 400"):
        tokenizer.decode([400])
    with pytest.raises(ValueError, match="ids: got an array of 2 dimensions, expected one"):
        tokenizer.decode(np.zeros((2, 2), np.int64))
