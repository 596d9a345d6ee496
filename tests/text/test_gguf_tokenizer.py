# SPDX-License-Identifier: MIT
"""Tokenizers of GGUF files: what small vocabularies make of texts, and what is refused of files that lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.gguf_vocabularies import BYTE, CONTROL, SPACE, byte_level, sentencepiece, spelled, unigram, word_piece

from fastattn.loaders.errors import WeightFileError

tokenizers = pytest.importorskip("tokenizers")

from fastattn.vocab.ggufpre import PRE_TOKENIZERS  # noqa: E402
from fastattn.vocab.ggufvocab import gguf_tokenizer, tokenizer_json  # noqa: E402

Fields = dict[str, Any]

TEXTS = ["", " ", "  ", "\t", "\n", "\n\n", "\r\n", "a\r\nb", " hello", "hello  ", "hello   a", "café über", "東京",
         "नमस्ते", "😀👍🏽", "\x00\x01\x7f", "\u200b\ufeff\u00a0", "a" * 300, " " * 300, "1234 5.6", "it's I'LL",
         "don\u2019t", "e\u0301", "<|end|>a<tool> b<|bos|>", "</s> a<|user|> b", "\ufffd", "ﬁ½²",
         "\u2028\u2029"]  # fmt: skip


def words(fields: Fields, text: str, special: bool = False) -> list[str]:
    """Tokens of ``text`` as the vocabulary spells them."""
    ids = gguf_tokenizer(fields, "x.gguf").encode(text, add_special_tokens=special).ids
    return [fields["tokenizer.ggml.tokens"][number] for number in ids]


@pytest.mark.parametrize("pre", sorted(PRE_TOKENIZERS))
def test_bytes_of_every_text_come_back(pre: str) -> None:
    built = gguf_tokenizer(byte_level(pre, (" hello", "it's")), "x.gguf")
    again = tokenizers.Tokenizer.from_str(built.to_str())
    for text in TEXTS:
        ids = built.encode(text, add_special_tokens=False).ids
        assert built.decode(ids, skip_special_tokens=False) == text
        assert again.encode(text, add_special_tokens=False).ids == ids


@pytest.mark.parametrize(
    ("pre", "text", "expected"),
    [
        ("gpt-2", "1234 the", ["123", "4", " the"]),
        ("gpt-2", "a  1", ["a", " ", " ", "1"]),
        ("smollm", "a  1", ["a", " ", " ", "1"]),
        ("starcoder", "a  1", ["a", "  ", "1"]),
        ("starcoder", "1234", ["1", "2", "3", "4"]),
        ("llama-bpe", "1234", ["123", "4"]),
        ("qwen2", "1234", ["1", "2", "3", "4"]),
        ("tekken", "12", ["1", "2"]),
        ("gpt-4o", "1234", ["123", "4"]),
        ("falcon", "1234", ["123", "4"]),
        ("refact", "the the12", ["t", "h", "e", " the", "1", "2"]),
        ("deepseek-llm", "12\n\n", ["1", "2", "\n", "\n"]),
        ("gpt-2", "\n\n", ["\n\n"]),
    ],
)
def test_names_split_in_their_way(pre: str, text: str, expected: list[str]) -> None:
    assert words(byte_level(pre), text) == [spelled(word) for word in expected]


def test_words_that_are_tokens_need_no_merges_where_the_name_says_so() -> None:
    fields = byte_level("llama-bpe", ("cat",))
    fields["tokenizer.ggml.merges"] = [line for line in fields["tokenizer.ggml.merges"] if "a t" not in line][:-1]
    fields["tokenizer.ggml.merges"] = ["c a"]
    assert words(fields, "cat") == ["cat"]
    fields["tokenizer.ggml.pre"] = "gpt-2"
    assert words(fields, "cat") == ["ca", "t"]


def test_control_and_user_tokens_are_whole() -> None:
    fields = byte_level()
    assert words(fields, "a<|end|> <tool><|bo") == ["a", "<|end|>", spelled(" "), "<tool>", "<", "|", "b", "o"]
    assert (
        gguf_tokenizer(fields, "x").decode(
            [*range(65, 67), *(len(fields["tokenizer.ggml.tokens"]) - i for i in (3, 2, 1))]
        )
        == "AB<tool>"
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (byte_level("gpt-2"), (False, False)),
        (byte_level("llama-bpe"), (True, False)),
        (byte_level("tekken"), (True, False)),
        (byte_level("llama-bpe", ggml__add_bos_token=False), (False, False)),
        (byte_level("gpt-2", ggml__add_bos_token=True, ggml__add_eos_token=True), (True, True)),
        (sentencepiece(), (True, False)),
        (sentencepiece(ggml__add_bos_token=False, ggml__add_eos_token=True), (False, True)),
        (unigram(), (False, True)),
    ],
)
def test_ends_as_the_file_says(fields: Fields, expected: tuple[bool, bool]) -> None:
    inner, whole = words(fields, "a"), words(fields, "a", special=True)
    tokens = fields["tokenizer.ggml.tokens"]
    bos = tokens[fields.get("tokenizer.ggml.bos_token_id", 0)]
    eos = tokens[fields.get("tokenizer.ggml.eos_token_id", 1)]
    assert whole == [bos] * expected[0] + inner + [eos] * expected[1]


def test_sentencepiece() -> None:
    fields = sentencepiece()
    assert words(fields, "hello") == [f"{SPACE}hello"]
    assert words(fields, " hello") == [SPACE, f"{SPACE}hello"]
    assert words(fields, "a hello") == [f"{SPACE}a", f"{SPACE}hello"]
    assert words(fields, "é") == [SPACE, "<0xC3>", "<0xA9>"]
    assert words(fields, "ä") == [SPACE, "ä"]
    assert words(fields, "<0x41>")[:2] == [SPACE, "<0x3C>"]  # not a token of a text
    assert words(fields, "a</s>a<|user|> a") == [f"{SPACE}a", "</s>", f"{SPACE}a", "<|user|>", SPACE, f"{SPACE}a"]
    assert words({**fields, "tokenizer.ggml.add_space_prefix": False}, "hello") == ["he", "llo"]
    built = gguf_tokenizer(fields, "x.gguf")
    for text in TEXTS:
        if "</s>" not in text and SPACE not in text:
            assert built.decode(built.encode(text).ids) == text


def test_the_best_score_is_merged_first() -> None:
    fields = sentencepiece()
    pieces = fields["tokenizer.ggml.tokens"]
    scores = fields["tokenizer.ggml.scores"]
    assert words(fields, "aa") == [f"{SPACE}a", "a"]
    scores[pieces.index("aa")] = 5.0
    assert words(fields, "aa") == [SPACE, "aa"]


def test_special_tokens_of_phi_3_take_spaces_along() -> None:
    fields = {**sentencepiece(), "general.name": "Phi-3-mini"}
    assert words(fields, "<|user|>\n a<s> a") == ["<|user|>", f"{SPACE}a", "<s>", SPACE, f"{SPACE}a"]


def test_unigram() -> None:
    fields = unigram()
    assert words(fields, "  hello   a ") == [f"{SPACE}hello", f"{SPACE}a"]
    assert words(fields, "xab") == [SPACE, "<unk>", "ab"]


def test_word_piece() -> None:
    fields = word_piece()
    built = gguf_tokenizer(fields, "x.gguf")
    assert built.encode("Hello, WORLDS 東.").tokens == [
        "[CLS]", "hello", "[UNK]", "wor", "##ld", "##s", "東", ".", "[SEP]",
    ]  # fmt: skip
    assert built.encode("Hélló").tokens == ["[CLS]", "hello", "[SEP]"]
    assert built.encode("a", "a").tokens == ["[CLS]", "a", "[SEP]", "a", "[SEP]"]
    assert built.encode("a", "a").type_ids == [0, 0, 0, 1, 1]
    assert "[UNK]" in gguf_tokenizer(word_piece(ggml__normalizer__lowercase=False), "x").encode("Hello").tokens
    assert built.decode(built.encode("hello worlds").ids) == "hello worlds"


def test_json_is_the_tokenizer() -> None:
    odd = byte_level(words=("#version1", "#version12"))
    tokens = odd["tokenizer.ggml.tokens"]
    tokens[tokens.index(spelled("\x01"))] = " b"  # a piece that no line of merges can hold
    odd["tokenizer.ggml.merges"].append("a  b")
    tokens[tokens.index(spelled("\x02"))] = "a b"
    for fields in (byte_level(), odd, sentencepiece(), unigram(), word_piece()):
        again = tokenizers.Tokenizer.from_buffer(tokenizer_json(fields, "x.gguf"))
        built = gguf_tokenizer(fields, "x.gguf")
        for text in (*TEXTS, "a#version12 a"):
            assert again.encode(text).ids == built.encode(text).ids


def test_files_without_a_name_are_read_where_the_architecture_says_enough() -> None:
    fields = byte_level(None)
    with pytest.raises(WeightFileError, match=r"x.gguf: tokenizer.ggml.pre is missing.*known are .*llama-bpe.*tekken"):
        gguf_tokenizer(fields, "x.gguf")
    assert words({**fields, "general.architecture": "gpt2"}, "1234") == ["123", "4"]
    assert words({**fields, "general.architecture": "starcoder"}, "12") == ["1", "2"]


# ---- files that lie ------------------------------------------------------------------------------------------------


def changed(make: Callable[[], Fields], **values: Any) -> Fields:
    fields = make()
    for key, value in values.items():
        name = f"tokenizer.ggml.{key}"
        fields[name] = value(fields[name]) if callable(value) else value
    return fields


def without(make: Callable[[], Fields], key: str) -> Fields:
    fields = make()
    del fields[f"tokenizer.ggml.{key}"]
    return fields


def put(tokens: list[str], number: int, token: Any) -> list[Any]:
    return [*tokens[:number], token, *tokens[number + 1 :]]


CHARSMAP = np.frombuffer((8).to_bytes(4, "little") + bytes(8) + b"a\0", np.uint8)

LIES: list[tuple[Fields, str]] = [
    (without(byte_level, "model"), "tokenizer.ggml.model is missing"),
    (changed(byte_level, model="rwkv"), "tokenizer.ggml.model is 'rwkv', which is not supported; supported: gpt2"),
    (changed(byte_level, model=3), "tokenizer.ggml.model is 3, expected a string"),
    (changed(byte_level, pre="gpt-5"), "tokenizer.ggml.pre is 'gpt-5', which is not known; known are .*qwen2"),
    (changed(byte_level, pre=True), "tokenizer.ggml.pre is True, expected a string"),
    (without(byte_level, "tokens"), "tokenizer.ggml.tokens is missing"),
    (changed(byte_level, tokens=[]), "tokenizer.ggml.tokens is empty"),
    (changed(byte_level, tokens="abc"), "tokenizer.ggml.tokens is 'abc', expected an array of strings"),
    (changed(byte_level, tokens=np.arange(3)), "tokenizer.ggml.tokens is an array of int64, expected an array of str"),
    (changed(byte_level, tokens=lambda t: put(t, 5, 7)), r"tokenizer.ggml.tokens\[5\] is 7, expected a string"),
    (changed(byte_level, tokens=lambda t: put(t, 5, b"\xff")), r"tokenizer.ggml.tokens\[5\] is b'.xff', expected a st"),
    (changed(byte_level, tokens=lambda t: put(t, 5, "\ud800")), r"tokenizer.ggml.tokens\[5\] is not valid UTF-8"),
    (changed(byte_level, tokens=lambda t: put(t, 5, t[6])), r"has '\u0106' twice, as \[5\] and as \[6\]"),
    (changed(byte_level, tokens=lambda t: t[:-1]), "token_type has 26. values, expected one for each of 26. tokens"),
    (changed(byte_level, tokens=lambda t: [*t, "more"]), "token_type has 26. values, expected one for each of 26."),
    (changed(byte_level, token_type=lambda t: t.astype(np.uint8)), "token_type is an array of uint8, expected int32"),
    (changed(byte_level, token_type=lambda t: t.astype(np.float32)), "token_type is an array of float32, expected int"),
    (changed(byte_level, token_type=lambda t: t.tolist()), "token_type is an array, expected an array of int32"),
    (changed(byte_level, token_type=3), "token_type is 3, expected an array of int32"),
    (without(byte_level, "merges"), "tokenizer.ggml.merges is missing"),
    (changed(byte_level, merges=lambda m: [*m, "ab"]), r"merges\[\d+\] is 'ab', expected two pieces"),
    (changed(byte_level, merges=lambda m: [*m, "a "]), r"merges\[\d+\] is 'a ', expected two pieces"),
    (changed(byte_level, merges=lambda m: ["", *m]), r"merges\[0\] is '', expected two pieces"),
    (changed(byte_level, merges=lambda m: ["q zz", *m]), r"merges\[0\] is 'q zz', but 'zz' is not in the vocabulary"),
    (changed(byte_level, merges=lambda m: ["q z", *m]), r"merges\[0\] is 'q z', but 'qz' is not in the vocabulary"),
    (changed(byte_level, merges=lambda m: ["q z x", *m]), r"merges\[0\] is 'q z x', but 'z x' is not in the vocabul"),
    (changed(byte_level, merges=[1]), r"merges\[0\] is 1, expected a string"),
    (changed(byte_level, merges=np.zeros(3, np.uint8)), "merges is an array of uint8, expected an array of strings"),
    (changed(byte_level, bos_token_id=10**6), "bos_token_id is 1000000, expected one of the 26. ids"),
    (changed(byte_level, eos_token_id=2**32 - 1), "eos_token_id is 4294967295, expected one of the 26. ids"),
    (changed(byte_level, eos_token_id=-1), "eos_token_id is -1, expected one of the"),
    (changed(byte_level, bos_token_id="a"), "bos_token_id is 'a', expected an integer"),
    (changed(byte_level, bos_token_id=True), "bos_token_id is True, expected an integer"),
    (changed(byte_level, bos_token_id=1.0), "bos_token_id is 1.0, expected an integer"),
    (changed(byte_level, add_bos_token=1), "add_bos_token is 1, expected true or false"),
    (changed(lambda: without(byte_level, "bos_token_id"), add_bos_token=True), "bos_token_id is missing, but texts"),
    (without(sentencepiece, "scores"), "scores is missing"),
    (changed(sentencepiece, scores=lambda s: s[:-1]), "scores has 2.. values, expected one for each of 2.. tokens"),
    (changed(sentencepiece, scores=lambda s: s.astype(np.uint8)), "scores is an array of uint8, expected float32"),
    (changed(sentencepiece, scores=lambda s: s.astype(np.float64)), "scores is an array of float64, expected float32"),
    (changed(sentencepiece, scores=lambda s: np.where(s == 0, np.nan, s)), r"scores\[0\] is not a number"),
    (changed(sentencepiece, scores=lambda s: s[None]), "scores is an array of float32"),
    (changed(sentencepiece, tokens=lambda t: put(t, 3, "<0x-1>")), r"tokens\[3\] is '<0x-1>', expected <0x00> to"),
    (changed(sentencepiece, tokens=lambda t: put(t, 9, "<0x123>")), r"tokens\[9\] is '<0x123>', expected <0x00> to"),
    (changed(sentencepiece, token_type=lambda t: np.where(t == CONTROL, BYTE, t).astype(np.int32)), "is '<s>', expec"),
    (changed(sentencepiece, unknown_token_id=9999), "unknown_token_id is 9999, expected one of"),
    (changed(sentencepiece, add_space_prefix=0), "add_space_prefix is 0, expected true or false"),
    (without(unigram, "scores"), "scores is missing"),
    (changed(unigram, scores=lambda s: s - np.float32(np.inf)), r"scores\[0\] is -inf, expected a finite number"),
    (changed(unigram, precompiled_charsmap=CHARSMAP[:3]), "precompiled_charsmap has 3 bytes, fewer than the 4"),
    (changed(unigram, precompiled_charsmap=CHARSMAP[:12]), "precompiled_charsmap has 12 bytes, but its trie"),
    (changed(unigram, precompiled_charsmap=CHARSMAP[:-1]), "precompiled_charsmap has a text without end"),
    (changed(unigram, precompiled_charsmap=CHARSMAP.astype(np.int32)), "precompiled_charsmap is an array of int32"),
    (changed(unigram, precompiled_charsmap="abc"), "precompiled_charsmap is 'abc', expected an array of bytes"),
    (changed(word_piece, tokens=lambda t: put(t, 6, f"{SPACE}a")), "has 'a' twice"),
    (changed(word_piece, seperator_token_id=99), "seperator_token_id is 99, expected one of the 13 ids"),
    (changed(word_piece, **{"normalizer.lowercase": "yes"}), "normalizer.lowercase is 'yes', expected true or false"),
]


@pytest.mark.parametrize(("fields", "message"), LIES, ids=range(len(LIES)))
def test_what_cannot_be_is_refused_by_key(fields: Fields, message: str) -> None:
    with pytest.raises(WeightFileError, match=message) as caught:
        gguf_tokenizer(fields, "lies.gguf")
    assert str(caught.value).startswith("lies.gguf: ")


def test_ids_without_a_token_keep_their_place() -> None:
    fields = byte_level()
    fields["tokenizer.ggml.tokens"] = [*fields["tokenizer.ggml.tokens"], "", ""]
    fields["tokenizer.ggml.token_type"] = np.append(fields["tokenizer.ggml.token_type"], [1, 1]).astype(np.int32)
    built = gguf_tokenizer(fields, "x.gguf")
    assert built.get_vocab_size() == len(fields["tokenizer.ggml.tokens"])
    assert built.id_to_token(len(fields["tokenizer.ggml.tokens"]) - 1) is not None


def test_random_changes_are_refused_or_work() -> None:
    rng = np.random.default_rng(3)
    for _ in range(300):
        fields = [byte_level, sentencepiece, unigram, word_piece][rng.integers(4)]()
        key = sorted(fields)[rng.integers(len(fields))]
        value = fields[key]
        if isinstance(value, np.ndarray):
            value = value.copy()
            value[rng.integers(len(value))] = rng.integers(-9, 9)
        elif isinstance(value, list):
            value = put(value, int(rng.integers(len(value))), ["", "a b c", "\0", "<s>", None, SPACE][rng.integers(6)])
        else:
            value = [None, -1, 2**63, "", "\ufffd", [], {}, 1.5][rng.integers(8)]
        try:
            built = gguf_tokenizer({**fields, key: value}, "x.gguf")
        except WeightFileError as error:
            assert str(error).startswith("x.gguf: ")
        else:
            built.encode("hello <s> a").ids.count(0)
