# SPDX-License-Identifier: MIT
"""Long texts are tokenized in pieces: the tokens of the pieces are those of the whole, or the text is not cut."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastattn.text import TextSettings, TextTokenizer, cutting, tokenizer
from fastattn.text.cutting import MAX_RUN, Cutter, TextTooLong

tokenizers = pytest.importorskip("tokenizers")
models, normalizers, pre_tokenizers, trainers = (
    tokenizers.models, tokenizers.normalizers, tokenizers.pre_tokenizers, tokenizers.trainers
)  # fmt: skip
Regex = tokenizers.Regex

CORPUS = [
    "the cat sat on the mat, and the cats don't know why; it's 12345 o'clock!",
    "Ein Satz über Bäume. 東京は晴れです。 한국어 문장 (with brackets) and_underscores x=1+2",
    "def f(a, b):\n    return a['x'] + b[0]  # comment\n\n\nthe end",
    "हिन्दी में वाक्य ไทยไม่มีช่องว่าง",
]
PARTS = [
    "a", "b", "the", "cat", "cats", "don't", "it's", "'", "’", "''", "``", "12", "3456", "東", "京", "東京", ".", ",",
    "!", "...", "…", "。", "、", "(", ")", "_", "__", "-", "+", "=", "$", " ", " ", " ", " ", "  ", "   ", "\n",
    "\n\n", "\r\n", "\t", "\u00a0", "\u3000", "e\u0301", "\u0301", "Ü", "Σ", "ΑΣ", "İ", "ﬁ", "½", "²", "¨", "\x00",
    "\x1f", "\u200b", "\u200d", "\u2028", "\xad", "\u2581", "[MASK]", "<mask>", "</s>", "[", "MASK]", "x" * 130, "é",
    "😀", "👩\u200d👧", "\U00020000", "\ufeff", "ह", "ि", "न्दी", "ไ", "ท", "ม่", "ab cd", "//", "https://a.b/c?d=e",
]  # fmt: skip

GPT2 = pre_tokenizers.ByteLevel
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def trained(model: str, pre: Any, norm: Any = None, added: Any = (), special: Any = ("<unk>",)) -> Any:
    """A tokenizer of a few hundred pieces."""
    made = {
        "bpe": lambda: (models.BPE(), trainers.BpeTrainer(
            vocab_size=500, show_progress=False, special_tokens=list(special), initial_alphabet=GPT2.alphabet())),
        "unigram": lambda: (models.Unigram(), trainers.UnigramTrainer(
            vocab_size=120, show_progress=False, special_tokens=list(special), unk_token="<unk>")),
        "wordpiece": lambda: (models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer(
            vocab_size=300, show_progress=False, special_tokens=["[UNK]", "[MASK]"])),
        "wordlevel": lambda: (models.WordLevel(unk_token="<unk>"), trainers.WordLevelTrainer(
            vocab_size=300, show_progress=False, special_tokens=list(special))),
    }[model]()  # fmt: skip
    result = tokenizers.Tokenizer(made[0])
    if norm is not None:
        result.normalizer = norm
    result.pre_tokenizer = pre
    result.train_from_iterator(CORPUS * 3, made[1])
    result.add_special_tokens(list(added))
    return result


def token(content: str, **options: Any) -> Any:
    return tokenizers.AddedToken(content, **options)


BERT = pre_tokenizers.BertPreTokenizer
SPACED = pre_tokenizers.WhitespaceSplit
JOINED = pre_tokenizers.Metaspace
CHAIN, NORMS = pre_tokenizers.Sequence, normalizers.Sequence
MASK = token("<mask>", lstrip=True, special=True, normalized=False)
ALL_WHITE = normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " ")
COLLAPSE = normalizers.Replace(Regex(" {2,}"), " ")

LOCAL: dict[str, Callable[[], Any]] = {
    "bert": lambda: trained("wordpiece", BERT(), normalizers.BertNormalizer()),
    "bert, cased": lambda: trained("wordpiece", BERT(), normalizers.BertNormalizer(lowercase=False)),
    "bert, no ideographs": lambda: trained("wordpiece", BERT(), normalizers.BertNormalizer(handle_chinese_chars=False)),
    "bert, accents kept": lambda: trained("wordpiece", BERT(), normalizers.BertNormalizer(strip_accents=False)),
    "bert, other normalisers": lambda: trained(
        "wordpiece", BERT(), NORMS([normalizers.NFKC(), normalizers.Lowercase(), normalizers.StripAccents()])
    ),
    "bert, no normaliser": lambda: trained("wordpiece", BERT()),
    "bert, added": lambda: trained(
        "wordpiece", BERT(), normalizers.BertNormalizer(), list(map(token, ("the cat", "東京", "a.b", "it's")))
    ),
    "bert, single word": lambda: trained(
        "wordpiece", BERT(), normalizers.BertNormalizer(), [token("cat", single_word=True), MASK]
    ),
    "roberta": lambda: trained("bpe", GPT2(add_prefix_space=False), added=[MASK]),
    "roberta, prefix": lambda: trained("bpe", GPT2(add_prefix_space=True), added=[MASK]),
    "modernbert": lambda: trained("bpe", GPT2(add_prefix_space=False), normalizers.NFC(), [token("   "), token("\n")]),
    "llama3": lambda: trained(
        "bpe", CHAIN([pre_tokenizers.Split(Regex(LLAMA3), "isolated"), GPT2(add_prefix_space=False, use_regex=False)])
    ),
    "digits": lambda: trained(
        "bpe", CHAIN([pre_tokenizers.Digits(individual_digits=True), GPT2(add_prefix_space=False)])
    ),
    "xlm-roberta": lambda: trained(
        "unigram", CHAIN([SPACED(), JOINED()]), NORMS([normalizers.NFKC(), COLLAPSE]), [MASK]
    ),
    "first": lambda: trained("unigram", CHAIN([SPACED(), JOINED(prepend_scheme="first")]), normalizers.NFKC()),
    "deberta": lambda: trained(
        "unigram", JOINED(),
        NORMS([normalizers.Strip(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), "\u2581")]),
    ),
    "deberta of transformers 5": lambda: trained(
        "unigram", CHAIN([JOINED()]),
        NORMS([normalizers.Lowercase(), ALL_WHITE, normalizers.NFC(), normalizers.Strip(left=False)]), [MASK],
    ),
    "all white space": lambda: trained(
        "unigram", CHAIN([pre_tokenizers.Punctuation("isolated"), JOINED(prepend_scheme="first")]),
        normalizers.Replace(Regex(r"\s+"), " "),
    ),
    "deberta, punctuation": lambda: trained("unigram", CHAIN([pre_tokenizers.Punctuation(), JOINED()]), COLLAPSE),
    "albert": lambda: trained(
        "unigram", CHAIN([SPACED(), JOINED()]),
        NORMS([normalizers.Replace("``", '"'), normalizers.Replace("''", '"'), normalizers.NFKD(),
               normalizers.StripAccents(), normalizers.Lowercase()]),
    ),
    "prepended": lambda: trained("unigram", JOINED(), normalizers.Prepend("\u2581")),
    "stripped": lambda: trained("bpe", GPT2(add_prefix_space=False), normalizers.Strip()),
    "whitespace": lambda: trained("wordlevel", pre_tokenizers.Whitespace(), normalizers.Lowercase()),
    "words at white space": lambda: trained("wordlevel", pre_tokenizers.Split(Regex(r"\s+"), "removed")),
    "spaces with what follows": lambda: trained("bpe", pre_tokenizers.Split(" ", "merged_with_next")),
}  # fmt: skip

WHOLE: dict[str, Callable[[], Any]] = {
    "no pre-tokenizer": lambda: trained("bpe", GPT2()),
    "spaces with what is before": lambda: trained("bpe", pre_tokenizers.Split(" ", "merged_with_previous")),
    "unknown expression": lambda: trained("bpe", pre_tokenizers.Split(Regex(r"\w+ \w+"), "isolated")),
    "spaces replaced": lambda: trained("wordlevel", SPACED(), normalizers.Replace(" ", "x")),
    "scripts": lambda: trained("bpe", CHAIN([pre_tokenizers.UnicodeScripts(), SPACED()])),
    "white space taken along": lambda: trained("bpe", GPT2(), added=[token("cat", rstrip=True)]),
}  # fmt: skip


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "_LEAST", 1)
    monkeypatch.setattr(cutting, "_MOST", 7)


def texts(rng: random.Random, count: int, parts: int = 60) -> Iterator[str]:
    for _ in range(count):
        yield "".join(rng.choice(PARTS) for _ in range(rng.randrange(parts)))


def ids_of(whole: Any, cutter: Cutter, pieces: list[cutting.Piece]) -> list[int]:
    ids: list[int] = []
    for piece in pieces:
        lead = cutter.lead if piece.start else ""
        more = whole.encode(lead + piece.text, add_special_tokens=False).ids
        ids += more[cutter.lead_tokens :] if lead else more
    return ids


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("name", LOCAL)
def test_pieces_have_the_tokens_of_the_whole(name: str) -> None:
    whole = LOCAL[name]()
    cutter = Cutter(whole)
    assert cutter.boundary is not None
    rng = random.Random(name)
    cuts = 0
    for text in texts(rng, 100):
        expected = whole.encode(text, add_special_tokens=False).ids
        size = rng.randrange(1, 30)
        for pieces in (list(cutter.forward(text, size)), list(cutter.backward(text, size))[::-1]):
            assert "".join(piece.text for piece in pieces) == text or cutter._blank
            got = ids_of(whole, cutter, pieces)
            assert got == expected, (text, [piece.text for piece in pieces])
            cuts += len(pieces) - 1
    assert cuts > 100


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_not_local_is_not_cut(name: str) -> None:
    whole = WHOLE[name]()
    if name == "no pre-tokenizer":
        whole = tokenizers.Tokenizer(models.BPE())
    cutter = Cutter(whole)
    assert cutter.boundary is None
    text = "the cat " * (MAX_RUN // 8)
    assert [piece.text for piece in cutter.forward(text, 100)] == [text]
    for direction in (cutter.forward, cutter.backward):
        with pytest.raises(TextTooLong, match=r"more than 100,000 characters, and the model's tokenizer"):
            list(direction(text + "a", 100))


@pytest.mark.parametrize("name", ["roberta", "deberta", "deberta of transformers 5", "xlm-roberta", "bert"])
@pytest.mark.parametrize("letter", ["x", "東", "\u0301", "_"])
def test_a_run_without_a_place_to_cut(name: str, letter: str) -> None:
    cutter = Cutter(LOCAL[name]())
    free = name == "bert" and letter != "\u0301"  # punctuation, ideographs, and words of any length
    for count, refused in ((MAX_RUN, False), (MAX_RUN + 1, not free)):
        for direction in (cutter.forward, cutter.backward):
            text = "a " + letter * count + " a"
            if letter == "\u0301" and count == MAX_RUN:  # a mark belongs to the letter before it
                text = "a " + letter * (count - 10) + " a"
            if refused and not (free and direction == cutter.forward):
                with pytest.raises(TextTooLong, match="more than 100,000 characters from character"):
                    list(direction(text, 100))
            elif not (letter == "x" and direction == cutter.backward and count > MAX_RUN):
                assert sum(len(piece.text) + piece.gap for piece in direction(text, 100)) == len(text)


@pytest.mark.parametrize("word", ["x", "é", "Я", "한", "カ", "xй9", "e\u0301", "a\u0327\u0301"])
@pytest.mark.parametrize("rest", ["", " the cat", "é the cat", "\u0301.", "😀 a", ".", "東"])
def test_words_longer_than_wordpiece_looks_at(word: str, rest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are one unknown token, however long; the pieces say where what was left out was."""
    monkeypatch.setattr(cutting, "MAX_RUN", 500)
    monkeypatch.setattr(cutting, "_MOST", 400)
    for change in ({}, {"handle_chinese_chars": False}, {"strip_accents": False}, {"lowercase": False}):
        whole = trained("wordpiece", BERT(), normalizers.BertNormalizer(**change))
        text = "the cat " + word * (2000 // len(word)) + rest
        expected = whole.encode(text, add_special_tokens=False)
        pieces = list(Cutter(whole).forward(text, 300))
        assert sum(len(piece.text) for piece in pieces) < 1000
        assert ids_of(whole, Cutter(whole), pieces) == expected.ids


def saved(whole: Any, folder: Path) -> TextTokenizer:
    whole.save(str(folder / "tokenizer.json"))
    return TextTokenizer(folder, TextSettings(), 10**6)


@pytest.fixture
def short_first(monkeypatch: pytest.MonkeyPatch, small_pieces: None) -> None:
    monkeypatch.setattr(tokenizer, "_LEAST_AT_FIRST", 1)
    monkeypatch.setattr(tokenizer, "_MOST_AT_FIRST", 9)


@pytest.mark.usefixtures("short_first")
@pytest.mark.parametrize(
    "name",
    ["bert", "roberta", "roberta, prefix", "xlm-roberta", "deberta", "deberta of transformers 5", "whitespace"],
)
@pytest.mark.parametrize("side", ["right", "left"])
def test_limits_and_offsets_of_texts_in_pieces(name: str, side: str, tmp_path: Path) -> None:
    whole = LOCAL[name]()
    pair = {"bert": ("[UNK]", "[MASK]")}.get(name, ("<unk>", "<unk>"))
    special = [(token, whole.token_to_id(token)) for token in dict.fromkeys(pair)]
    trim = tokenizers.processors.ByteLevel(trim_offsets=True) if "roberta" in name else None
    template = tokenizers.processors.TemplateProcessing(
        single=f"{pair[0]} $A {pair[1]}", pair=f"{pair[0]} $A {pair[1]} $B:1 {pair[1]}:1", special_tokens=special
    )
    whole.post_processor = template if trim is None else tokenizers.processors.Sequence([trim, template])
    ours = saved(whole, tmp_path)
    ours._settings = TextSettings(truncation_side=side)
    rng = random.Random(name)
    for text in texts(rng, 60, 40):
        length = rng.randrange(5, 40)
        whole.enable_truncation(length, direction=side)
        expected = whole.encode(text)
        ids, types = ours.encode(text, length)
        assert (ids.tolist(), types.tolist()) == (expected.ids, expected.type_ids)
        limit = ours.limit(length)
        (ids, _), offsets = ours.encode_offsets(text, limit)
        assert ids.tolist() == expected.ids and limit.cut == bool(expected.overflowing)
        inside = [i for i, special in enumerate(expected.special_tokens_mask) if not special]
        if side == "left":  # the library trims what is left of a text as if it began there
            inside = inside[1:]
        assert [tuple(offsets[i]) for i in inside] == [expected.offsets[i] for i in inside], text
        other = "".join(rng.choice(PARTS) for _ in range(rng.randrange(40)))
        expected = whole.encode(text, other)
        limit = ours.limit(length)
        ids, types = ours.encode_many([(text, other)], limit)[0]
        assert (ids.tolist(), types.tolist()) == (expected.ids, expected.type_ids), (text, other)
        assert limit.cut == bool(expected.overflowing)


@pytest.mark.usefixtures("short_first")
def test_windows_of_a_context_are_those_of_the_library(tmp_path: Path) -> None:
    whole = LOCAL["roberta"]()
    whole.post_processor = tokenizers.processors.RobertaProcessing(
        ("</s>", whole.token_to_id("<unk>")), ("<s>", whole.token_to_id("<unk>")), True, False
    )
    ours = saved(whole, tmp_path)
    rng = random.Random(5)
    for context in texts(rng, 100, 80):
        length = rng.randrange(12, 60)
        question = rng.choice(["the cat", "a", ""])
        room = length - 4 - len(whole.encode(question, add_special_tokens=False).ids)
        whole.enable_truncation(length, stride=min(128, room // 2), strategy="only_second")
        first = whole.encode(question, context)
        expected = [first, *first.overflowing]
        whole.no_truncation()
        got = list(ours.encode_windows(question, context, length))
        assert [window[0][0].tolist() for window in got] == [encoding.ids for encoding in expected]
        for (_, offsets), encoding in zip(got, expected, strict=True):
            inside = [i for i, sequence in enumerate(encoding.sequence_ids) if sequence == 1]
            assert [tuple(offsets[i]) for i in inside] == [encoding.offsets[i] for i in inside]


@pytest.mark.parametrize("sizes", [(5, 5), (50, 40), (40, 50), (70, 69), (69, 70), (70, 70), (2, 70), (70, 2)])
def test_which_of_two_long_texts_keeps_one_more_token(sizes: tuple[int, int], tmp_path: Path) -> None:
    whole = LOCAL["bert"]()
    special = [("[MASK]", whole.token_to_id("[MASK]"))]
    whole.post_processor = tokenizers.processors.TemplateProcessing(
        single="[MASK] $A", pair="[MASK] $A [MASK] $B [MASK]", special_tokens=special
    )
    ours = saved(whole, tmp_path)
    a, b = ("the cat sat on it " * size for size in sizes)
    for length in (20, 21, 50, 51):
        whole.enable_truncation(length)
        assert ours.encode((a, b), length)[0].tolist() == whole.encode(a, b).ids


def test_a_tokenizer_that_does_more_than_to_frame_a_text(tmp_path: Path) -> None:
    whole = LOCAL["bert"]()
    whole.post_processor = tokenizers.processors.TemplateProcessing(
        single="[MASK] $A [MASK] $A", pair="$A $B", special_tokens=[("[MASK]", whole.token_to_id("[MASK]"))]
    )
    with pytest.raises(ValueError, match="tokenizer.json: its post-processor does more than to put special tokens"):
        saved(whole, tmp_path)
