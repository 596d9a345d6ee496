# SPDX-License-Identifier: MIT
"""tokenizer.json against the files beside it, class by class; values of transformers itself are under parity."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.text_folders import write_json

pytest.importorskip("tokenizers")

from golden import tiny_bert
from support.small_tokenizers import GOOGLE, byte_level, mpnet, save_tokenizer, unigram, word_piece
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers, processors

import fastattn as fa
from fastattn.loaders.files import FolderFiles
from fastattn.text import TextSettings, TextTokenizer, sidefiles
from fastattn.text.reconcile import reconcile
from fastattn.text.stages import state_of

TEXTS = ["Berlin THE café 東京 the.", " the  thes ", "[MASK] the [CLS] <new>", "ab Ab, é-a 1", "", "\tfi ``a'' x\n"]
PAIR = ("the Berlin", "café 東京")
BERTS = ["BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer", "ElectraTokenizerFast"]


def ids(folder: Path) -> list[list[int]]:
    """Tokens of the texts and of a pair, as the folder has them."""
    tokenizer = TextTokenizer(folder, TextSettings.read(folder), 512)
    return [tokenizer.encode(text)[0].tolist() for text in [*TEXTS, PAIR]]


def of(tokenizer: Tokenizer) -> list[list[int]]:
    """Tokens of the same, as the library has them."""
    return [tokenizer.encode(text).ids for text in TEXTS] + [tokenizer.encode(*PAIR).ids]


def with_special(tokenizer: Tokenizer, *tokens: str) -> Tokenizer:
    tokenizer.add_special_tokens(list(tokens or ("[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]")))
    return tokenizer


def reconciled(folder: Path) -> Tokenizer:
    return reconcile(Tokenizer.from_file(str(folder / "tokenizer.json")), FolderFiles(folder))


def states(folder: Path) -> list[Any]:
    tokenizer = reconciled(folder)
    return [state_of(stage) for stage in (tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.post_processor)]


# ---- BERT and its kin ----------------------------------------------------------------------------------------------

FILES = [{}, {"lowercase": True}, {"lowercase": True, "strip_accents": False}, {"strip_accents": True},
         {"lowercase": True, "handle_chinese_chars": False}]  # fmt: skip
GIVEN = [
    ({}, {"lowercase": True}),
    ({"do_lower_case": True}, {"lowercase": True}),
    ({"do_lower_case": False}, {"lowercase": False}),
    ({"do_lower_case": True, "strip_accents": False}, {"lowercase": True, "strip_accents": False}),
    ({"do_lower_case": False, "strip_accents": True}, {"lowercase": False, "strip_accents": True}),
    ({"tokenize_chinese_chars": False}, {"lowercase": True, "handle_chinese_chars": False}),
    ({"strip_accents": None}, {"lowercase": True}),
]


@pytest.mark.parametrize("name", BERTS[:2])
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(("given", "options"), GIVEN)
def test_options_of_a_named_class_win_and_so_do_its_defaults(
    tmp_path: Path, name: str, file: Any, given: Any, options: Any
) -> None:
    save_tokenizer(tmp_path, word_piece(**file), "bert", tokenizer_config={"tokenizer_class": name, **given})
    assert ids(tmp_path) == of(with_special(word_piece(**options)))


@pytest.mark.parametrize("name", BERTS)
def test_kin_of_bert(tmp_path: Path, name: str) -> None:
    save_tokenizer(tmp_path, word_piece(), "bert", tokenizer_config={"tokenizer_class": name, "strip_accents": False})
    assert ids(tmp_path) == of(with_special(word_piece(lowercase=True, strip_accents=False)))


@pytest.mark.parametrize("file", FILES[:3])
@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({}, {}),
        ({"do_lower_case": True}, {"lowercase": True}),
        ({"do_lower_case": False}, {"lowercase": False}),
        ({"strip_accents": True}, {"strip_accents": True}),
        ({"strip_accents": None}, {"strip_accents": None}),
        ({"tokenize_chinese_chars": False}, {"handle_chinese_chars": False}),
    ],
)
@pytest.mark.parametrize("model_type", ["bert", "distilbert", "electra"])
def test_without_a_class_what_is_given_wins(
    tmp_path: Path, file: Any, given: Any, options: Any, model_type: str
) -> None:
    save_tokenizer(tmp_path, word_piece(**file), model_type, tokenizer_config=given)
    assert ids(tmp_path) == of(word_piece(**{**file, **options}))


def test_the_class_may_be_named_in_config_json(tmp_path: Path) -> None:
    save_tokenizer(tmp_path, word_piece(), "bert", config={"model_type": "bert", "tokenizer_class": "BertTokenizer"})
    assert ids(tmp_path) == of(with_special(word_piece(lowercase=True)))


@pytest.mark.parametrize(
    "name", ["PreTrainedTokenizerFast", "TokenizersBackend", "PreTrainedTokenizer", "OthersTokenizer"]
)
def test_classes_that_take_the_file_as_it_is(tmp_path: Path, name: str) -> None:
    config = {"tokenizer_class": name, "do_lower_case": True, "strip_accents": True, "add_prefix_space": True}
    save_tokenizer(tmp_path, word_piece(), "bert", tokenizer_config=config)
    assert ids(tmp_path) == of(word_piece())


def test_modernbert_takes_the_file_as_it_is_whatever_is_named(tmp_path: Path) -> None:
    save_tokenizer(tmp_path, word_piece(), "modernbert", tokenizer_config={"tokenizer_class": "BertTokenizer"})
    assert ids(tmp_path) == of(word_piece())


KINDS = {"WordPiece": word_piece, "BPE": byte_level, "Unigram": unigram}
CLASSES = {
    "BertTokenizer": "WordPiece", "DistilBertTokenizer": "WordPiece", "ElectraTokenizer": "WordPiece",
    "MPNetTokenizer": "WordPiece", "RobertaTokenizer": "BPE", "GPT2Tokenizer": "BPE", "XLMRobertaTokenizer": "Unigram",
    "CamembertTokenizer": "Unigram", "AlbertTokenizer": "Unigram", "DebertaV2Tokenizer": "Unigram",
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CLASSES)
def test_a_file_of_another_kind_than_the_class_is_right(tmp_path: Path, name: str, kind: str) -> None:
    if CLASSES[name] != kind:
        options = {"do_lower_case": True, "add_prefix_space": True, "split_by_punct": True, "cls_token": "a"}
        save_tokenizer(tmp_path, KINDS[kind](), "bert", tokenizer_config={"tokenizer_class": name, **options})
        assert ids(tmp_path) == of(with_special(KINDS[kind](), "a"))


@pytest.mark.parametrize(
    ("tokenizer", "given", "message"),
    [
        (word_piece(normalizers.NFC()), {"do_lower_case": True}, "do_lower_case is 'True', but .* no BertNormalizer"),
        (word_piece(normalizers.NFC()), {"strip_accents": True}, "strip_accents is 'True', but"),
        (word_piece(normalizers.NFC()), {"tokenize_chinese_chars": True}, "tokenize_chinese_chars is 'True', but"),
        (word_piece(normalizers.Lowercase()), {"do_lower_case": False}, "do_lower_case is 'False', but"),
        (
            word_piece(normalizers.Sequence([normalizers.BertNormalizer()])),
            {"do_lower_case": False},
            "do_lower_case is",
        ),
        (unigram(normalizers.NFKC(), special=GOOGLE), {"do_lower_case": True}, "do_lower_case is 'True', but"),
        (byte_level(), {"cls_token": "<none>"}, "cls_token is '<none>', which .* has no id for"),
        (word_piece(), {"unk_token": "<none>"}, "unk_token is '<none>', which .* has no id for"),
    ],
)
@pytest.mark.parametrize("named", [False, True])
def test_what_cannot_be_reconciled(tmp_path: Path, tokenizer: Tokenizer, given: Any, message: str, named: bool) -> None:
    """Both files and the key are named."""
    kind = type(tokenizer.model).__name__
    model_type, name = {"WordPiece": ("bert", "BertTokenizer"), "BPE": ("roberta", "RobertaTokenizer"),
                        "Unigram": ("deberta-v2", "DebertaV2Tokenizer")}[kind]  # fmt: skip
    config = {**given, **({"tokenizer_class": name} if named else {})}
    save_tokenizer(tmp_path, tokenizer, model_type, tokenizer_config=config)
    expected = message if not (named and kind == "Unigram") else "whose normalizer is another one"
    with pytest.raises(ValueError, match=expected) as caught:
        ids(tmp_path)
    for name in ("tokenizer_config.json", "tokenizer.json"):
        assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize(
    ("tokenizer", "name", "stage"),
    [
        (word_piece(normalizers.NFC()), "BertTokenizer", "normalizer"),
        (word_piece(clean_text=False), "BertTokenizer", "normalizer"),
        (word_piece(None, pre_tokenizers.Whitespace()), "ElectraTokenizer", "pre_tokenizer"),
        (byte_level(normalizer=normalizers.NFC()), "RobertaTokenizer", "normalizer"),
        (byte_level(normalizer=normalizers.Lowercase()), "GPT2Tokenizer", "normalizer"),
        (unigram(normalizers.NFKC()), "XLMRobertaTokenizer", "normalizer"),
        (unigram(normalizers.Lowercase()), "CamembertTokenizer", "normalizer"),
        (unigram(normalizers.NFKC(), special=GOOGLE), "AlbertTokenizer", "normalizer"),
        (unigram(pre_tokenizer=pre_tokenizers.Whitespace()), "XLMRobertaTokenizer", "pre_tokenizer"),
        (unigram(special=GOOGLE), "XLMRobertaTokenizer", "post_processor"),
    ],
)
def test_stages_that_a_named_class_does_not_have(tmp_path: Path, tokenizer: Tokenizer, name: str, stage: str) -> None:
    """Versions 4 of transformers keep them, 5 drops them; where no class is named they are right."""
    save_tokenizer(tmp_path, tokenizer, "bert", tokenizer_config={"tokenizer_class": name})
    with pytest.raises(ValueError, match=f"tokenizer_class is '{name}', whose {stage} is another one than") as caught:
        ids(tmp_path)
    assert str(tmp_path / "tokenizer.json") in str(caught.value)
    for config in ({}, {"tokenizer_class": "PreTrainedTokenizerFast"}):
        write_json(tmp_path / "tokenizer_config.json", config)
        assert ids(tmp_path) == of(tokenizer)


# ---- byte-level BPE, SentencePiece ---------------------------------------------------------------------------------


@pytest.mark.parametrize("file", [False, True])
@pytest.mark.parametrize(("given", "expected"), [({}, False), ({"add_prefix_space": True}, True),
                                                 ({"add_prefix_space": False}, False)])  # fmt: skip
@pytest.mark.parametrize("name", ["RobertaTokenizer", "RobertaTokenizerFast", "GPT2Tokenizer", None])
def test_prefix_space_of_bytes(tmp_path: Path, file: bool, given: Any, expected: bool, name: str | None) -> None:
    config = given if name is None else {"tokenizer_class": name, **given}
    save_tokenizer(tmp_path, byte_level(file), "roberta", tokenizer_config=config)
    expected = file if name is None and not given else expected
    assert ids(tmp_path) == of(byte_level(expected))
    if name != "GPT2Tokenizer":
        assert states(tmp_path)[2]["add_prefix_space"] is expected


def test_trimmed_offsets(tmp_path: Path) -> None:
    for trim in (True, False):
        config = {"tokenizer_class": "RobertaTokenizer", "trim_offsets": trim}
        save_tokenizer(tmp_path, byte_level(), "roberta", tokenizer_config=config)
        _, offsets = TextTokenizer(tmp_path, TextSettings.read(tmp_path), 64).encode_offsets("a b")
        assert offsets[2].tolist() == ([2, 3] if trim else [1, 3])


@pytest.mark.parametrize("name", ["XLMRobertaTokenizer", "CamembertTokenizer"])
@pytest.mark.parametrize(("given", "scheme"), [({}, "always"), ({"add_prefix_space": False}, "never")])
@pytest.mark.parametrize("split", [False, True])
def test_fairseq_sentencepiece(tmp_path: Path, name: str, given: Any, scheme: str, split: bool) -> None:
    pieces = pre_tokenizers.Metaspace(prepend_scheme="first")
    file = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pieces]) if split else pieces
    tokenizer = unigram(
        normalizers.Sequence([normalizers.Strip(left=False), normalizers.Replace(Regex(" {2,}"), "▁")]), file
    )
    save_tokenizer(tmp_path, tokenizer, "xlm-roberta", tokenizer_config={"tokenizer_class": name, **given})
    normalizer, pre_tokenizer, _ = states(tmp_path)
    meta = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": True}
    assert normalizer is None
    assert pre_tokenizer == {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, meta]}


def test_the_character_map_of_sentencepiece_is_kept(tmp_path: Path) -> None:
    """Of the stages around it, those that make white space single are not needed where words are split at it."""
    # the shortest map that the library takes: a table of one unit, and no replacements
    chars = normalizers.Precompiled(b"\4\0\0\0\0\0\0\0")
    blanks = normalizers.Replace(Regex(" {2,}"), " ")
    for stages in ([chars], [chars, blanks], [normalizers.Strip(), chars, blanks]):
        tokenizer = unigram(normalizers.Sequence(stages))
        save_tokenizer(tmp_path, tokenizer, "xlm-roberta", tokenizer_config={"tokenizer_class": "XLMRobertaTokenizer"})
        kept = states(tmp_path)[0]
        assert (kept["normalizers"][0] if kept["type"] == "Sequence" else kept)["type"] == "Precompiled"
        assert len(kept.get("normalizers", [kept])) == 1
    deberta = unigram(normalizers.Sequence([normalizers.Strip(), chars, blanks]), special=GOOGLE)
    config = {"tokenizer_class": "DebertaV2Tokenizer", "do_lower_case": True, "unk_token": "<unk>"}
    save_tokenizer(tmp_path, deberta, "deberta-v2", tokenizer_config=config)
    assert [part["type"] for part in states(tmp_path)[0]["normalizers"]] == [
        "Lowercase",
        "Strip",
        "Precompiled",
        "Replace",
    ]


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("lower", [False, True, None])
@pytest.mark.parametrize("keep", [False, True, None])
@pytest.mark.parametrize("file", ["both", "neither"])
def test_albert(tmp_path: Path, named: bool, lower: bool | None, keep: bool | None, file: str) -> None:
    quotes = [normalizers.Replace(mark, '"') for mark in ("``", "''")]
    both = [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    tokenizer = unigram(normalizers.Sequence([*quotes, *(both if file == "both" else [])]), special=GOOGLE)
    given = {key: value for key, value in (("do_lower_case", lower), ("keep_accents", keep)) if value is not None}
    name = {"tokenizer_class": "AlbertTokenizer"} if named else {}
    save_tokenizer(tmp_path, tokenizer, "albert", tokenizer_config={**given, **name})
    kinds = [part["type"] for part in states(tmp_path)[0]["normalizers"]]
    expected_lower = lower if lower is not None else named or file == "both"
    expected_keep = keep if keep is not None else not (named or file == "both")
    assert ("Lowercase" in kinds) is expected_lower and ("StripAccents" in kinds) is not expected_keep
    assert kinds[:2] == ["Replace", "Replace"]


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("given", [{"cls_token": "[MASK]"}, {"sep_token": "<pad>"}, {"bos_token": "[SEP]"}])
def test_what_albert_puts_around_a_text_is_as_in_the_file(tmp_path: Path, named: bool, given: Any) -> None:
    quotes = normalizers.Sequence([normalizers.Replace(mark, '"') for mark in ("``", "''")])
    tokenizer = unigram(quotes, special=GOOGLE)
    name = {"tokenizer_class": "AlbertTokenizer"} if named else {}
    save_tokenizer(tmp_path, tokenizer, "albert", tokenizer_config={**given, **name})
    assert states(tmp_path)[2] == json.loads(tokenizer.to_str())["post_processor"]
    tokenizer.post_processor = processors.TemplateProcessing("$A [SEP]", "$A $B:1", [("[SEP]", 3)])
    save_tokenizer(tmp_path, tokenizer, "albert", tokenizer_config={**given, **name})
    assert states(tmp_path)[2] == json.loads(tokenizer.to_str())["post_processor"]


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("lower", [False, True, None])
@pytest.mark.parametrize("punctuation", [False, True, None])
@pytest.mark.parametrize("file", [False, True])
def test_deberta(tmp_path: Path, named: bool, lower: bool | None, punctuation: bool | None, file: bool) -> None:
    spaces = [normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "), normalizers.NFC(), normalizers.Strip(left=False)]
    split = [pre_tokenizers.Punctuation("isolated")] if file else []
    tokenizer = unigram(
        normalizers.Sequence([*([normalizers.Lowercase()] if file else []), *spaces]),
        pre_tokenizers.Sequence([*split, pre_tokenizers.Metaspace()]), special=GOOGLE,
    )  # fmt: skip
    given = {
        key: value for key, value in (("do_lower_case", lower), ("split_by_punct", punctuation)) if value is not None
    }
    name = {"tokenizer_class": "DebertaV2Tokenizer", "unk_token": "<unk>"} if named else {}
    save_tokenizer(tmp_path, tokenizer, "deberta-v2", tokenizer_config={**given, **name})
    normalizer, pre_tokenizer, _ = states(tmp_path)
    kinds = [part["type"] for part in normalizer["normalizers"]]
    assert kinds[-3:] == ["Replace", "NFC", "Strip"]
    assert ("Lowercase" in kinds) is (lower if lower is not None else file and not named)
    kinds = [part["type"] for part in pre_tokenizer["pretokenizers"]]
    assert ("Punctuation" in kinds) is (punctuation if punctuation is not None else file and not named)


# ---- class tokens --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokenizer", "name", "given", "first", "last"),
    [
        (word_piece(), "BertTokenizer", {"cls_token": "[MASK]", "sep_token": "[PAD]"}, "[MASK]", "[PAD]"),
        (word_piece(), "BertTokenizer", {"sep_token": {"content": "the", "lstrip": True}}, "[CLS]", "the"),
        (byte_level(), "RobertaTokenizer", {"cls_token": "<mask>"}, "<mask>", "</s>"),
        (unigram(), "XLMRobertaTokenizer", {"eos_token": "<mask>"}, "<s>", "<mask>"),
        (unigram(), "XLMRobertaTokenizer", {"sep_token": "<mask>"}, "<s>", "</s>"),
        (
            unigram(special=GOOGLE),
            "DebertaV2Tokenizer",
            {"cls_token": "[MASK]", "unk_token": "<unk>"},
            "[MASK]",
            "[SEP]",
        ),
        (word_piece(), None, {"cls_token": "[MASK]"}, "[MASK]", "[SEP]"),
        (word_piece(), "PreTrainedTokenizerFast", {"cls_token": "[MASK]"}, "[CLS]", "[SEP]"),
    ],
)
def test_class_tokens(
    tmp_path: Path, tokenizer: Tokenizer, name: str | None, given: Any, first: str, last: str
) -> None:
    config = given if name is None else {"tokenizer_class": name, **given}
    save_tokenizer(tmp_path, tokenizer, "bert", tokenizer_config=config)
    one, pair = (reconciled(tmp_path).encode(*texts).tokens for texts in (("a",), ("a", "a")))
    assert (one[0], one[-1]) == (pair[0], pair[-1]) == (first, last)
    assert pair.count(last) == (3 if name in ("RobertaTokenizer", "XLMRobertaTokenizer") else 2)


def test_mpnet_has_the_last_token_twice_between_texts(tmp_path: Path) -> None:
    config = {"tokenizer_class": "MPNetTokenizer", "do_lower_case": True, "sep_token": "<mask>"}
    save_tokenizer(tmp_path, mpnet(), "mpnet", tokenizer_config=config)
    assert reconciled(tmp_path).encode("THE", "berlin").tokens == ["<s>", "the", "<mask>", "<mask>", "berlin", "<mask>"]


def test_a_bert_file_of_the_library_that_has_no_template(tmp_path: Path) -> None:
    tokenizer = word_piece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    save_tokenizer(tmp_path, tokenizer, "bert", tokenizer_config={"tokenizer_class": "BertTokenizer"})
    assert ids(tmp_path) == of(with_special(word_piece(lowercase=True)))


def test_the_unknown_token(tmp_path: Path) -> None:
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": False, "unk_token": "the"}
    save_tokenizer(tmp_path, word_piece(), "bert", tokenizer_config=config)
    assert reconciled(tmp_path).encode("nothing").ids == [2, 12, 3]


# ---- nothing to do, strange files ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokenizer", "model_type", "config"),
    [
        (with_special(word_piece(lowercase=True)), "bert", {"tokenizer_class": "BertTokenizer", "do_lower_case": True}),
        (with_special(word_piece()), "bert", {"tokenizer_class": "BertTokenizerFast", "do_lower_case": False}),
        (word_piece(), "bert", None),
        (word_piece(), "bert", {"model_max_length": 9}),
        (byte_level(), "roberta", {"add_prefix_space": False}),
        (unigram(), "xlm-roberta", None),
    ],
)
def test_where_files_agree_nothing_is_changed(
    tmp_path: Path, tokenizer: Tokenizer, model_type: str, config: Any
) -> None:
    save_tokenizer(tmp_path, tokenizer, model_type, **({} if config is None else {"tokenizer_config": config}))
    read = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    before = read.to_str()
    after = reconcile(read, FolderFiles(tmp_path))
    assert after is read and after.to_str() == before


def test_tokens_that_are_normalised_follow_the_normaliser(tmp_path: Path) -> None:
    tokenizer = word_piece()
    tokenizer.add_tokens([AddedToken("Berlin THE", normalized=True)])
    save_tokenizer(tmp_path, tokenizer, "bert", tokenizer_config={"tokenizer_class": "BertTokenizer"})
    assert reconciled(tmp_path).encode("berlin the BERLIN THE").ids == [2, 16, 16, 3]


def test_lower_casing_by_sentence_transformers(tmp_path: Path) -> None:
    """A stage before all others, so that added tokens are found first and offsets are those of the text."""
    tokenizer = with_special(word_piece())
    save_tokenizer(tmp_path, tokenizer, "bert", sentence_bert_config={"do_lower_case": True})
    got = TextTokenizer(tmp_path, TextSettings.read(tmp_path), 64)
    assert got.encode("BERLIN [MASK] THE")[0].tolist() == [2, 6, 4, 12, 3]
    assert got.encode_offsets("İİ the")[1][-2].tolist() == [3, 6]
    assert [part["type"] for part in states(tmp_path)[0]["normalizers"]] == ["Lowercase", "BertNormalizer"]
    write_json(
        tmp_path / "sentence_bert_config.json", {"do_lower_case": True, "tokenizer_args": {"do_lower_case": True}}
    )
    assert reconciled(tmp_path).encode("BERLIN").ids == [2, 6, 3]


VALUES = [None, True, 3, -1, 10**30, 1e308, "", "x", "the", "\ud800", [], {}, ["the"], [3], {"content": "the"},
          {"content": 3}, {"the": "the"}, {"0": "the"}, {"0": {"content": "the"}}, {"99999999999": "the"},
          [[[[]]]]]  # fmt: skip


@pytest.mark.parametrize("name", [None, "BertTokenizer"])
@pytest.mark.parametrize("key", [key for key, entry in sidefiles.TOKENIZER_CONFIG.items() if entry.fate != "no effect"])
def test_no_value_of_any_key_is_worse_than_refused(tmp_path: Path, key: str, name: str | None) -> None:
    save_tokenizer(tmp_path, word_piece(), "bert")
    for value in VALUES:
        config = {"tokenizer_class": name} if name else {}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, key: value}))
        try:
            ids(tmp_path)
        except ValueError as error:
            assert str(tmp_path) in str(error) and len(str(error)) < 1000


def test_packed_files_have_all_of_it(tmp_path: Path) -> None:
    folder = tiny_bert.save_text_folder(tmp_path / "model")
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    last, first = tiny_bert.config("plain")["vocab_size"], len(tiny_bert.WORDS)
    write_json(folder / "added_tokens.json", {f"<{i}>": i for i in range(first, last + 1)})
    texts = ["The CAT sat", "über Über", f"abc <{first}> <{last - 1}>"]
    expected = fa.load(folder).embed(texts)
    fa.pack(folder, tmp_path / "packed.fastattn", dtype="float32")
    assert fa.load(tmp_path / "packed.fastattn").embed(texts).tobytes() == expected.tobytes()
    for file in (folder, tmp_path / "packed.fastattn"):
        with pytest.raises(ValueError, match=str(last)):  # which is beyond the model's table
            fa.load(file).embed([f"a <{last}> b"])
