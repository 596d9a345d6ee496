# SPDX-License-Identifier: MIT
"""tokenizer_config.json and its like, key by key over the tables, and the tokens that these files add."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.text_folders import write_json

pytest.importorskip("tokenizers")

from support.small_tokenizers import GOOGLE, byte_level, save_tokenizer, unigram, word_piece
from tokenizers import AddedToken, Tokenizer, normalizers

from fastattn.loaders.files import FolderFiles
from fastattn.text import TextSettings, TextTokenizer, sidefiles
from fastattn.text.reconcile import reconcile

TEXTS = ["Berlin THE café 東京 the.", "ab Ab, é-a 1 ", "[MASK] <mask> <new> [CLS]", "``a''", "a b c d e f g h i"]
TOKENIZER, SPECIAL, ADDED = "tokenizer_config", "special_tokens_map", "added_tokens"


def outcome(folder: Path) -> Any:
    """All that these files can change, or the error."""
    try:
        settings = TextSettings.read(folder)
        tokenizer = TextTokenizer(folder, settings, 64)
        items: list[Any] = [*TEXTS, ("the Berlin", "ab é")]
        tokens = [[part.tolist() for part in tokenizer.encode(item)] for item in items]
        return settings, tokens, [tokenizer.encode_offsets(text)[1].tolist() for text in TEXTS]
    except ValueError as error:
        assert str(folder) in str(error)
        return str(error)


PLAIN: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "bert": (word_piece, "bert", {"tokenizer_class": "BertTokenizer", "do_lower_case": False}),
    "roberta": (byte_level, "roberta", {"tokenizer_class": "RobertaTokenizer"}),
    "albert": (
        lambda: unigram(normalizers.Replace("``", '"'), special=GOOGLE), "albert",
        {"tokenizer_class": "AlbertTokenizer"},
    ),
    "deberta": (
        lambda: unigram(special=GOOGLE), "deberta-v2", {"tokenizer_class": "DebertaV2Tokenizer", "unk_token": "<unk>"},
    ),
}  # fmt: skip
_NEW = {
    "content": "<new>",
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "single_word": False,
    "special": True,
}
OBEYED: dict[str, tuple[str, Any]] = {
    "bos_token": ("bert", "<new>"), "eos_token": ("bert", "<new>"), "pad_token": ("bert", "Berlin THE"),
    "unk_token": ("bert", "the"), "sep_token": ("bert", "[MASK]"), "cls_token": ("bert", "[MASK]"),
    "mask_token": ("bert", "<mask>"), "additional_special_tokens": ("bert", ["<new>"]),
    "extra_special_tokens": ("bert", {"image_token": "<new>"}),
    "model_specific_special_tokens": ("bert", {"x": "<new>"}),
    "added_tokens_decoder": ("bert", {"16": _NEW}), "tokenizer_class": ("bert", "PreTrainedTokenizerFast"),
    "model_max_length": ("bert", 5), "max_len": ("bert", 5), "truncation_side": ("bert", "left"),
    "model_input_names": ("bert", ["input_ids"]), "do_lower_case": ("bert", True), "strip_accents": ("bert", True),
    "tokenize_chinese_chars": ("bert", False), "split_special_tokens": ("bert", True),
    "add_prefix_space": ("roberta", True), "trim_offsets": ("roberta", False), "keep_accents": ("albert", True),
    "split_by_punct": ("deberta", True), "backend": ("albert", "tokenizers"),
}  # fmt: skip
NO_EFFECT: dict[str, Any] = {
    "do_basic_tokenize": False, "never_split": ["the"], "clean_text": False, "wordpieces_prefix": "@@",
    "remove_space": False, "sp_model_kwargs": {"enable_sampling": True}, "vocab_type": "spm", "legacy": False,
    "errors": "strict", "clean_up_tokenization_spaces": True,
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": True,
    "use_default_system_prompt": True, "chat_template": "{{ messages }}", "response_template": "x",
    "response_schema": {}, "chat_control_tokens": ["x"], "padding": "max_length", "padding_side": "left",
    "pad_to_multiple_of": 8, "pad_token_type_id": 1, "max_length": 3, "truncation": True,
    "truncation_strategy": "only_first", "stride": 2, "add_bos_token": True, "add_eos_token": True,
    "name_or_path": "somewhere/else", "is_local": True, "local_files_only": True,
    "files_loaded": ["x"], "processor_class": "X", "verbose": True, "device_map": "auto", "slow_tokenizer_class": "X",
    "special_tokens_map_file": "/other.json", "tokenizer_file": "/other.json", "vocab_file": "/other.txt",
    "merges_file": "/other.txt", "added_tokens_file": "/other.json", "transformers_version": "4.40.0", "unk_id": 7,
    "use_fast": False, "_commit_hash": "0",
}  # fmt: skip
REFUSED: dict[str, Any] = {
    "auto_map": {"AutoTokenizer": ["mine.Slow", "mine.Fast"]}, "init_inputs": ["vocab.txt"], "from_slow": True,
    "fast_tokenizer_files": ["tokenizer.4.0.0.json", "tokenizer.json"], "fix_mistral_regex": True,
    "gguf_file": "x.gguf",
}  # fmt: skip


def save(folder: Path, family: str, given: Any, name: str = TOKENIZER) -> Path:
    make, model_type, config = PLAIN[family]
    files = {TOKENIZER: {**config, **given}} if name == TOKENIZER else {TOKENIZER: config, name: given}
    return save_tokenizer(folder, make(), model_type, **files)


def keys(fate: str) -> set[str]:
    return {key for key, entry in sidefiles.TOKENIZER_CONFIG.items() if entry.fate == fate}


def test_every_key_of_the_tables_is_here() -> None:
    assert (keys("obeyed"), keys("no effect"), keys("refused")) == (set(OBEYED), set(NO_EFFECT), set(REFUSED))
    assert all(entry.fate == "obeyed" and key in OBEYED for key, entry in sidefiles.SPECIAL_TOKENS_MAP.items())


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What comes of each family's files as they are."""
    return {family: outcome(save(tmp_path_factory.mktemp(family), family, {})) for family in PLAIN}


@pytest.mark.parametrize("key", OBEYED)
def test_obeyed(tmp_path: Path, plain: dict[str, Any], key: str) -> None:
    family, value = OBEYED[key]
    got = outcome(save(tmp_path, family, {key: value}))
    assert not isinstance(got, str) and not isinstance(plain[family], str) and got != plain[family]


@pytest.mark.parametrize("key", [key for key in OBEYED if key not in sidefiles.TOKENIZER_KWARGS])
def test_obeyed_among_the_tokenizers_arguments(tmp_path: Path, key: str) -> None:
    """They win over tokenizer_config.json."""
    family, value = OBEYED[key]
    expected = outcome(save(tmp_path / "a", family, {key: value}))
    for name in ("tokenizer_args", "processor_kwargs"):
        folder = save(tmp_path / name, family, {})
        write_json(folder / "sentence_bert_config.json", {name: {key: value}})
        assert outcome(folder) == expected
        write_json(folder / "sentence_bert_config.json", {name: {key: ["no such value"]}})
        got = outcome(folder)
        if isinstance(got, str):
            assert f"sentence_bert_config.json: {name}.{key}" in got


@pytest.mark.parametrize("key", sidefiles.SPECIAL_TOKENS_MAP)
def test_special_tokens_map(tmp_path: Path, plain: dict[str, Any], key: str) -> None:
    """It counts, and wins, where tokenizer_config.json lists no added tokens."""
    family, value = OBEYED[key]
    folder = save(tmp_path / "a", family, {key: value}, SPECIAL)
    assert outcome(folder) == outcome(save(tmp_path / "b", family, {key: value})) != plain[family]
    config = PLAIN[family][2]
    other = "[SEP]" if isinstance(value, str) else ["[SEP]"]
    write_json(folder / f"{TOKENIZER}.json", {**config, key: other})
    assert outcome(folder) == outcome(tmp_path / "b")
    write_json(folder / f"{TOKENIZER}.json", {**config, "added_tokens_decoder": {}})
    assert outcome(folder) == plain[family]


@pytest.mark.parametrize("key", NO_EFFECT)
@pytest.mark.parametrize("family", PLAIN)
def test_without_effect(tmp_path: Path, plain: dict[str, Any], key: str, family: str) -> None:
    assert outcome(save(tmp_path, family, {key: NO_EFFECT[key]})) == plain[family]


@pytest.mark.parametrize("key", REFUSED)
def test_refused(tmp_path: Path, key: str) -> None:
    got = outcome(save(tmp_path, "bert", {key: REFUSED[key]}))
    assert isinstance(got, str) and f"tokenizer_config.json: {key} is " in got
    for value in sidefiles.TOKENIZER_CONFIG[key].harmless:
        assert not isinstance(outcome(save(tmp_path, "bert", {key: value})), str)


@pytest.mark.parametrize(
    ("family", "key"),
    [("bert", "do_lower_case"), ("bert", "tokenize_chinese_chars"), ("roberta", "add_prefix_space"),
     ("albert", "do_lower_case"), ("albert", "keep_accents"), ("deberta", "split_by_punct")],
)  # fmt: skip
def test_null_is_no_option(tmp_path: Path, family: str, key: str) -> None:
    got = outcome(save(tmp_path, family, {key: None}))
    assert isinstance(got, str) and f"{key} is 'None', expected true or false" in got


def test_unknown_keys_are_not_refused(tmp_path: Path, plain: dict[str, Any]) -> None:
    assert outcome(save(tmp_path, "bert", {"x": 1, "y": [{}]})) == plain["bert"]


@pytest.mark.parametrize(
    ("name", "typed"),
    [("BertTokenizer", True), ("ElectraTokenizerFast", True), ("DistilBertTokenizer", False), ("MPNetTokenizer", False),
     ("RobertaTokenizerFast", False), ("XLMRobertaTokenizer", False), ("CamembertTokenizer", False),
     ("AlbertTokenizer", True), ("PreTrainedTokenizerFast", True), ("TokenizersBackend", False), (None, True)],
)  # fmt: skip
def test_token_types_where_nothing_is_said_of_inputs(tmp_path: Path, name: str | None, typed: bool) -> None:
    write_json(tmp_path / f"{TOKENIZER}.json", {} if name is None else {"tokenizer_class": name})
    assert TextSettings.read(tmp_path).token_types is typed
    write_json(
        tmp_path / "sentence_bert_config.json", {"processing_kwargs": {"text": {"return_token_type_ids": not typed}}}
    )
    assert TextSettings.read(tmp_path).token_types is not typed


@pytest.mark.parametrize(
    ("name", "typed"),
    [("BertTokenizer", True), ("AlbertTokenizer", False), ("PreTrainedTokenizerFast", False), (None, True),
     ("TokenizersBackend", False), ("PythonBackend", False), ("DebertaV2Tokenizer", True), ("MPNetTokenizer", False)],
)  # fmt: skip
def test_token_types_of_files_of_transformers_5(tmp_path: Path, name: str | None, typed: bool) -> None:
    config = {"backend": "tokenizers", **({} if name is None else {"tokenizer_class": name})}
    write_json(tmp_path / f"{TOKENIZER}.json", config)
    assert TextSettings.read(tmp_path).token_types is typed
    write_json(tmp_path / f"{TOKENIZER}.json", {**config, "model_input_names": ["input_ids", "token_type_ids"]})
    assert TextSettings.read(tmp_path).token_types


# ---- added tokens --------------------------------------------------------------------------------------------------


def encode(folder: Path, text: str) -> list[int]:
    got = reconcile(Tokenizer.from_file(str(folder / "tokenizer.json")), FolderFiles(folder)).encode(text).ids
    assert isinstance(got, list)
    return got


@pytest.mark.parametrize("name", [None, "BertTokenizer", "PreTrainedTokenizerFast"])
@pytest.mark.parametrize(
    "files",
    [
        {ADDED: {"<new>": 16}},
        {ADDED: {"<newer>": 17, "<new>": 16}},
        {TOKENIZER: {"extra_special_tokens": ["<new>"]}},
        {TOKENIZER: {"additional_special_tokens": [_NEW, "<newer>"]}},
        {TOKENIZER: {"image_token": "<new>"}},
        {TOKENIZER: {"mask_token": {"__type": "AddedToken", **_NEW}}},
        {TOKENIZER: {"added_tokens_decoder": {"12": {"content": "the"}, "16": _NEW}}},
        {SPECIAL: {"extra_special_tokens": ["<new>"]}},
        {SPECIAL: {"mask_token": _NEW}},
    ],
)
def test_new_tokens(tmp_path: Path, name: str | None, files: Any) -> None:
    """They get the next ids, and are found wherever they stand."""
    config = {"do_lower_case": False, **({"tokenizer_class": name} if name else {}), **files.get(TOKENIZER, {})}
    tokenizer = word_piece()
    tokenizer.add_special_tokens(["[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"])
    save_tokenizer(tmp_path, tokenizer, "bert", **{**files, TOKENIZER: config})
    assert encode(tmp_path, "the<new>Berlin") == [2, 12, 16, 5, 3]


def test_special_tokens_are_added_in_the_order_of_their_roles(tmp_path: Path) -> None:
    given = {"mask_token": "<m>", "bos_token": "<b>", "extra_special_tokens": ["<x>"], "z_token": "<z>"}
    save_tokenizer(tmp_path, word_piece(), "bert", tokenizer_config=given, added_tokens={"<a>": 16})
    assert encode(tmp_path, "<a> <b> <m> <z> <x>") == [2, 16, 17, 18, 19, 20, 3]


def test_words_of_the_vocabulary_become_whole(tmp_path: Path) -> None:
    save_tokenizer(tmp_path, word_piece(), "bert", tokenizer_config={"extra_special_tokens": ["the"]})
    assert encode(tmp_path, "thes Berlinthe") == [2, 12, 1, 5, 12, 3]


def test_flags_of_added_tokens(tmp_path: Path) -> None:
    token = {**_NEW, "lstrip": True, "normalized": True}
    config = {
        "tokenizer_class": "BertTokenizer",
        "added_tokens_decoder": {"16": {**token, "content": "NEW", "special": False}},
    }
    save_tokenizer(tmp_path, word_piece(), "bert", tokenizer_config=config)
    assert encode(tmp_path, "the  new") == [2, 12, 16, 3]
    file = word_piece()
    file.add_tokens([AddedToken("NEW", normalized=False)])
    save_tokenizer(tmp_path, file, "bert", tokenizer_config=config)
    assert encode(tmp_path, "the  new") == [2, 12, 16, 3]  # what tokenizer_config.json says of a token counts


def test_splitting_special_tokens(tmp_path: Path) -> None:
    config = {"tokenizer_class": "BertTokenizer", "split_special_tokens": True}
    save_tokenizer(tmp_path, word_piece(), "bert", tokenizer_config=config)
    assert encode(tmp_path, "[MASK]") == [2, 1, 1, 1, 3]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({ADDED: {"<new>": 20}}, "token '<new>' has the id 20, but with .*tokenizer.json it is 16"),
        ({ADDED: {"the": 3}}, "token 'the' has the id 3, but with .*tokenizer.json it is 12"),
        ({ADDED: {"<new>": "16"}}, "<new> is '16', expected the id of a token"),
        ({ADDED: {"<new>": -1}}, "<new> is '-1'"),
        ({ADDED: {"<new>": True}}, "<new> is 'True'"),
        ({ADDED: {"": 16}}, "expected the id of a token"),
        ({ADDED: ["<new>"]}, "expected a JSON object, got list"),
        ({TOKENIZER: {"added_tokens_decoder": {"20": _NEW}}}, "token '<new>' has the id 20, but with"),
        ({TOKENIZER: {"added_tokens_decoder": {"x": _NEW}}}, "added_tokens_decoder: 'x' is not the id of a token"),
        ({TOKENIZER: {"added_tokens_decoder": {"16": 3}}}, "added_tokens_decoder: '3' is not a token"),
        ({TOKENIZER: {"added_tokens_decoder": {"16": {**_NEW, "lstrip": 1}}}}, "is not a token"),
        ({TOKENIZER: {"added_tokens_decoder": {"16": {**_NEW, "future": True}}}}, "is not a token"),
        (
            {TOKENIZER: {"added_tokens_decoder": [3]}},
            "added_tokens_decoder is .*, expected an object of ids and tokens",
        ),
        ({TOKENIZER: {"cls_token": 3}}, "cls_token is '3', expected a token"),
        ({TOKENIZER: {"cls_token": {"content": 3}}}, "cls_token is .*, expected a token"),
        ({TOKENIZER: {"extra_special_tokens": "<new>"}}, "extra_special_tokens is '<new>', expected a list of tokens"),
        ({TOKENIZER: {"extra_special_tokens": [3]}}, "extra_special_tokens: '3' is not a token"),
        ({SPECIAL: {"cls_token": 3}}, "special_tokens_map.json: cls_token is '3'"),
        ({SPECIAL: {"extra_special_tokens": [None]}}, "special_tokens_map.json: extra_special_tokens: 'None' is not"),
    ],
)
def test_tokens_that_are_none(tmp_path: Path, files: Any, message: str) -> None:
    save_tokenizer(tmp_path, word_piece(), "bert", **files)
    with pytest.raises(ValueError, match=message) as caught:
        encode(tmp_path, "a")
    assert str(tmp_path) in str(caught.value)
