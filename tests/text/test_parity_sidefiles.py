# SPDX-License-Identifier: MIT
"""Side files beside transformers and sentence-transformers: what they write is known, what they make of it is done.

Run with ``pytest -m parity`` where torch, transformers and sentence-transformers are installed.
"""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_bert
from support.text_folders import save_task_folder, write_json

pytest.importorskip("tokenizers")

from support.small_tokenizers import FAIRSEQ, GOOGLE, byte_level, mpnet, save_tokenizer, unigram, word_piece
from tokenizers import Regex, normalizers, pre_tokenizers

import fastattn as fa
from fastattn.text import TextSettings, TextTokenizer, sidefiles
from fastattn.text.chain import class_of
from fastattn.text.notes import side_notes
from fastattn.text.stconfig import StConfig

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
st = pytest.importorskip("sentence_transformers")
pytestmark = pytest.mark.parity

TEXTS = ["Berlin THE café 東京 the.", " the  thes ", "[MASK] the [CLS] <mask> <new>", "ab Ab, é-a 1  b", "x\ty\n``z''"]


def assert_same_tokens(folder: Path, **options: Any) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(folder, **options)
    ours = TextTokenizer(folder, TextSettings.read(folder), 512)
    for text in TEXTS:
        assert ours.encode(text)[0].tolist() == theirs(text)["input_ids"], text
        assert ours.encode((text, "the ab"))[0].tolist() == theirs(text, "the ab")["input_ids"], text


# ---- tokenizers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer", "ElectraTokenizerFast"])
@pytest.mark.parametrize("file", [{}, {"lowercase": True}, {"strip_accents": True}, {"handle_chinese_chars": False}])
@pytest.mark.parametrize(
    "given",
    [
        {}, {"do_lower_case": True}, {"do_lower_case": False}, {"strip_accents": False}, {"strip_accents": True},
        {"tokenize_chinese_chars": False}, {"do_lower_case": False, "strip_accents": None}, {"cls_token": "[MASK]"},
        {"unk_token": "the", "sep_token": "[PAD]"}, {"extra_special_tokens": ["the"]}, {"split_special_tokens": True},
        {"additional_special_tokens": ["<new>", "THE"]}, {"image_token": "<new>"},
        {"added_tokens_decoder": {"16": {"content": "<new>", "lstrip": True, "special": False}}},
    ],
)  # fmt: skip
def test_word_piece(tmp_path: Path, name: str, file: Any, given: Any) -> None:
    save_tokenizer(tmp_path, word_piece(**file), "bert", tokenizer_config={"tokenizer_class": name, **given})
    assert_same_tokens(tmp_path)


@pytest.mark.parametrize("name", ["BertTokenizer", "PreTrainedTokenizerFast"])
@pytest.mark.parametrize(
    "files",
    [
        {"added_tokens": {"<new>": 16}},
        {"special_tokens_map": {"cls_token": "[MASK]", "sep_token": {"content": "the", "lstrip": True}}},
        {"special_tokens_map": {"extra_special_tokens": ["<new>"]}, "added_tokens": {"<newer>": 16}},
    ],
)
def test_files_beside(tmp_path: Path, name: str, files: Any) -> None:
    save_tokenizer(tmp_path, word_piece(), "bert", tokenizer_config={"tokenizer_class": name}, **files)
    assert_same_tokens(tmp_path)


@pytest.mark.parametrize("name", ["RobertaTokenizer", "GPT2Tokenizer"])
@pytest.mark.parametrize("file", [False, True])
@pytest.mark.parametrize("given", [{}, {"add_prefix_space": True}, {"trim_offsets": False}, {"mask_token": "a"}])
def test_bytes(tmp_path: Path, name: str, file: bool, given: Any) -> None:
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"} if name == "GPT2Tokenizer" else {}
    config = {"tokenizer_class": name, **special, **given}
    save_tokenizer(tmp_path, byte_level(file), "roberta", tokenizer_config=config)
    assert_same_tokens(tmp_path)


@pytest.mark.parametrize("file", [{}, {"lowercase": True, "handle_chinese_chars": False}])
@pytest.mark.parametrize(
    "given", [{}, {"do_lower_case": False}, {"tokenize_chinese_chars": False}, {"sep_token": "the"}]
)
def test_mpnet(tmp_path: Path, file: Any, given: Any) -> None:
    save_tokenizer(tmp_path, mpnet(**file), "mpnet", tokenizer_config={"tokenizer_class": "MPNetTokenizer", **given})
    assert_same_tokens(tmp_path)


SPACES = normalizers.Sequence([normalizers.Strip(left=False), normalizers.Replace(Regex(" {2,}"), "▁")])
WORDS = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])


@pytest.mark.parametrize("name", ["XLMRobertaTokenizer", "CamembertTokenizer"])
@pytest.mark.parametrize("normalizer", [None, SPACES])
@pytest.mark.parametrize("pieces", [None, WORDS, pre_tokenizers.Metaspace(prepend_scheme="first")])
@pytest.mark.parametrize("given", [{}, {"add_prefix_space": False}, {"bos_token": "<mask>"}])
def test_fairseq(tmp_path: Path, name: str, normalizer: Any, pieces: Any, given: Any) -> None:
    model_type = "camembert" if name == "CamembertTokenizer" else "xlm-roberta"
    save_tokenizer(
        tmp_path, unigram(normalizer, pieces), model_type, tokenizer_config={"tokenizer_class": name, **given}
    )
    assert_same_tokens(tmp_path)


@pytest.mark.parametrize("name", ["AlbertTokenizer", "DebertaV2Tokenizer"])
@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("given", [{}, {"keep_accents": True}, {"split_by_punct": True}, {"add_prefix_space": False}])
def test_google(tmp_path: Path, name: str, lower: bool, given: Any) -> None:
    config = {"tokenizer_class": name, "do_lower_case": lower, "unk_token": "<unk>", "pad_token": "<pad>", **given}
    model_type = {"AlbertTokenizer": "albert", "DebertaV2Tokenizer": "deberta-v2"}[name]
    save_tokenizer(tmp_path, unigram(special=GOOGLE), model_type, tokenizer_config=config)
    assert_same_tokens(tmp_path)


@pytest.mark.parametrize("name", ["PreTrainedTokenizerFast", "TokenizersBackend"])
@pytest.mark.parametrize("make", [word_piece, byte_level, unigram])
def test_files_as_they_are(tmp_path: Path, name: str, make: Any) -> None:
    config = {"tokenizer_class": name, "do_lower_case": True, "strip_accents": True, "mask_token": "a"}
    save_tokenizer(tmp_path, make(), "bert", tokenizer_config=config)
    assert_same_tokens(tmp_path)


@pytest.mark.parametrize("name", ["AlbertTokenizer", "TokenizersBackend", "DebertaV2Tokenizer", "XLMRobertaTokenizer"])
@pytest.mark.parametrize("given", [{}, {"cls_token": "a-"}, {"model_input_names": ["input_ids", "token_type_ids"]}])
def test_token_types_of_pairs_in_folders_of_transformers_5(tmp_path: Path, name: str, given: Any) -> None:
    small = unigram(special=FAIRSEQ if name.startswith("XLM") else GOOGLE)
    small.add_special_tokens(["[UNK]"])
    config = {"tokenizer_class": name, "backend": "tokenizers", **given}
    save_tokenizer(tmp_path, small, "albert", tokenizer_config=config)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    theirs.save_pretrained(tmp_path)
    for pair in (("a b", "ab"), ("the", ""), ("", "é-")):
        expected = theirs([pair[0]], [pair[1]])
        ids, types = TextTokenizer(tmp_path, TextSettings.read(tmp_path), 64).encode(pair)
        assert ids.tolist() == expected["input_ids"][0]
        assert types.tolist() == expected.get("token_type_ids", [[0] * len(ids)])[0]


CLASSES = ["BertTokenizer", "DistilBertTokenizer", "MPNetTokenizer", "RobertaTokenizer", "XLMRobertaTokenizer",
           "CamembertTokenizer", "AlbertTokenizer", "DebertaV2Tokenizer", "GPT2Tokenizer"]  # fmt: skip


@pytest.mark.parametrize("name", CLASSES)
def test_what_transformers_writes_is_known_and_changes_nothing(tmp_path: Path, name: str) -> None:
    theirs = getattr(transformers, name)()  # of no vocabulary but special tokens
    theirs.add_tokens(["abc", "the"])
    theirs.save_pretrained(tmp_path)
    write_json(tmp_path / "config.json", {"model_type": "bert"})
    ours = TextTokenizer(tmp_path, TextSettings.read(tmp_path), 512)
    for text in ("the abc", "theabc", "the  abc the"):
        try:
            expected = theirs(text)["input_ids"]
        except Exception:  # noqa: BLE001 - a vocabulary without the unknown token fails there too
            continue
        assert ours.encode(text)[0].tolist() == expected
    assert side_notes(fa.loaders.files.FolderFiles(tmp_path)) == []


# ---- sentence-transformers -----------------------------------------------------------------------------------------


def test_the_tables_know_all_arguments() -> None:
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Dropout, LayerNorm, Pooling

    for kind, table in ((Transformer, sidefiles.SENTENCE_BERT), (Pooling, sidefiles.POOLING), (Dense, sidefiles.DENSE),
                        (Normalize, sidefiles.NORMALIZE), (LayerNorm, sidefiles.LAYER_NORM),
                        (Dropout, sidefiles.DROPOUT)):  # fmt: skip
        known = {*table, "self", "model_name_or_path", "init_weight", "init_bias", "return"}
        assert set(kind.config_keys) <= known
        assert set(inspect.signature(kind.__init__).parameters) <= known, kind
    assert set(Transformer._VALID_PROCESSING_KWARGS_KEYS) == set(sidefiles.PROCESSING)


def test_names_of_classes_are_those_of_the_library() -> None:
    """Wherever it hands on a class of modules, the name is known; and names that are known are its."""
    for package in ("base.modules", "sentence_transformer.modules", "cross_encoder.modules", "sparse_encoder.modules",
                    "multi_vector_encoder.modules", "models", "sparse_encoder.models"):  # fmt: skip
        module = importlib.import_module(f"sentence_transformers.{package}")
        for name in getattr(module, "__all__", []):
            kind = getattr(module, name)
            if inspect.isclass(kind) and name not in ("Module", "InputModule", "BaseTokenPooling"):
                assert class_of(f"sentence_transformers.{package}.{name}") == name
                assert class_of(f"{kind.__module__}.{kind.__name__}") == kind.__name__


def save_bert(folder: Path) -> Path:
    tiny_bert.save_text_folder(folder)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "model_max_length": 40,
                                                  "do_lower_case": False})  # fmt: skip
    return folder


SENTENCES = ["The cat sat on the mat.", "a b c d a b c d a b c d", "CATS, longer cats!", "[MASK] a [SEP] B"]


@pytest.mark.parametrize(
    "given",
    [
        {}, {"max_seq_length": 6}, {"do_lower_case": True}, {"tokenizer_args": {"do_lower_case": True}},
        {"processor_kwargs": {"model_max_length": 5, "strip_accents": True}},
        {"processing_kwargs": {"text": {"max_length": 6, "truncation": True}}},
        {"processing_kwargs": {"text": {"max_length": 6}, "common": {"padding": "longest"}}, "max_seq_length": 9},
        {"model_args": {"attn_implementation": "eager", "torch_dtype": "float32"}, "unpad_inputs": False},
        {"config_args": {"use_cache": False}},
        {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings",
         "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}},
    ],
)  # fmt: skip
def test_sentence_bert_config(tmp_path: Path, given: Any) -> None:
    folder = save_bert(tmp_path / "model")
    write_json(folder / "modules.json", [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling",
         "type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling"},
    ])  # fmt: skip
    write_json(folder / "1_Pooling" / "config.json", {"embedding_dimension": 32, "pooling_mode": "mean"})
    write_json(folder / "sentence_bert_config.json", given)
    theirs = st.SentenceTransformer(str(folder), device="cpu")
    assert np.abs(theirs.encode(SENTENCES) - fa.load(folder).embed(SENTENCES)).max() <= 1e-5


def test_what_sentence_transformers_writes_is_read(tmp_path: Path) -> None:
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Dropout, LayerNorm, Pooling

    torch.manual_seed(0)
    transformer = Transformer(str(save_bert(tmp_path / "bert")), processing_kwargs={"text": {"max_length": 9}})
    modules = [transformer, Pooling(32, "cls"), Dropout(0.1), Dense(32, 8), Normalize(), LayerNorm(8)]
    theirs = st.SentenceTransformer(modules=modules, prompts={"q": "query : "}, default_prompt_name="q", truncate_dim=6,
                                    similarity_fn_name="dot", device="cpu")  # fmt: skip
    theirs.save(str(tmp_path / "saved"))
    ours = fa.load(tmp_path / "saved")
    assert np.abs(theirs.encode(SENTENCES) - ours.embed(SENTENCES)).max() <= 1e-5
    config = StConfig.read(tmp_path / "saved")
    assert (config.similarity, config.truncate_dim, config.default_prompt) == ("dot", 6, "query : ")
    assert side_notes(ours.files) == []


@pytest.mark.parametrize("activation", ["Identity", "Sigmoid", "Tanh"])
def test_cross_encoders_that_it_writes_are_read(tmp_path: Path, activation: str) -> None:
    """The prompt goes before the first text of a pair, which for a ranking is the query."""
    folder = save_task_folder(tmp_path / "model", "sequence_classification", ["score"])
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": False})
    theirs = st.CrossEncoder(str(folder), prompts={"query": "the long "}, default_prompt_name="query", device="cpu",
                             activation_fn=getattr(torch.nn, activation)())  # fmt: skip
    theirs.save(str(tmp_path / "saved"))
    theirs = st.CrossEncoder(str(tmp_path / "saved"), device="cpu")
    ours = fa.load(tmp_path / "saved")
    config = StConfig.read(ours.files).for_pairs(ours.files)
    docs = ["sat on the mat.", "a b c", "cats"]
    expected = {entry["corpus_id"]: entry["score"] for entry in theirs.rank("cat", docs)}
    assert config.activation == {"Identity": "none"}.get(activation, activation.lower())
    for i, score in ours.rerank(config.default_prompt + "cat", docs, **without_prompt(ours)):
        assert abs(score - expected[i]) <= 1e-5
    assert {"model_type", "prompts"} <= set(
        json.loads((tmp_path / "saved/config_sentence_transformers.json").read_text())
    )


def without_prompt(model: Any) -> dict[str, str]:
    """An empty prompt, for models whose rerank takes one."""
    return {"prompt": ""} if "prompt" in inspect.signature(model.rerank).parameters else {}
