# SPDX-License-Identifier: MIT
"""Files of sentence-transformers, key by key over the tables: obeyed, without effect, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_bert
from support.text_folders import write_json

import fastattn as fa
from fastattn.text import sidefiles
from fastattn.text.chain import class_of
from fastattn.text.notes import side_notes
from fastattn.text.sidefiles import Key
from fastattn.text.stconfig import StConfig, torch_class

pytest.importorskip("tokenizers")

ST = "sentence_transformers.models."
CHAIN = ("Transformer", "Pooling", "Dense", "LayerNorm", "Dropout", "Normalize")
TEXTS = ["The cat sat on the mat.", "a b c d a b c d", "ÜBER uber"]
BERT, CONFIG, MODULES = "sentence_bert_config.json", "config_sentence_transformers.json", "modules.json"
PLACES = {kind: f"{i}_{kind}/config.json" for i, kind in enumerate(CHAIN)}

# What each file says before a key is added to it.
PLAIN: dict[str, Any] = {
    BERT: {},
    CONFIG: {},
    PLACES["Pooling"]: {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True},
    PLACES["Dense"]: {"in_features": 32, "out_features": 8},
    PLACES["LayerNorm"]: {"dimension": 8},
    PLACES["Dropout"]: {},
    PLACES["Normalize"]: {},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chain of all modules; tests put back what they change."""
    folder = tiny_bert.save_text_folder(tmp_path_factory.mktemp("side") / "model")
    write_json(folder / MODULES, chain())
    for name, value in PLAIN.items():
        write_json(folder / name, value)
    dense = {"linear.weight": tiny_bert.uniform("w", (8, 32)), "linear.bias": tiny_bert.uniform("b", (8,))}
    tiny_bert.save_safetensors((folder / PLACES["Dense"]).parent / "model.safetensors", dense)
    norm = {"norm.weight": tiny_bert.uniform("n", (8,)), "norm.bias": tiny_bert.uniform("m", (8,))}
    tiny_bert.save_safetensors((folder / PLACES["LayerNorm"]).parent / "model.safetensors", norm)
    return folder


@pytest.fixture(scope="module")
def plain(folder: Path) -> Any:
    """What comes of it as it is."""
    return outcome(folder)


def chain(**change: Any) -> list[dict[str, Any]]:
    """modules.json, with ``change`` of its Pooling."""
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": ST + kind}
        for i, kind in enumerate(CHAIN)
    ]
    modules[1].update(change)
    return modules


def outcome(folder: Path, name: str | None = None, value: Any = None) -> Any:
    """Vectors and settings with ``value`` in the file ``name``, or the error."""
    if name is None:
        return fa.load(folder).embed(TEXTS).tobytes(), StConfig.read(folder)
    before = (folder / name).read_text()
    write_json(folder / name, value)
    try:
        return outcome(folder)
    except ValueError as error:
        assert str((folder / name).parent) in str(error)
        return str(error)
    finally:
        (folder / name).write_text(before)


def cases(table: Mapping[str, Key], fate: str, values: dict[str, Any], name: str, within: str = "") -> list[Any]:
    """A case for each key of ``table`` of this ``fate``, all of which ``values`` must have, and no others."""
    assert set(values) == {key for key, entry in table.items() if entry.fate == fate}, (name, fate)
    found = []
    for key, value in values.items():
        inner: Any = {key: value}
        for part in reversed(within.split("/")) if within else ():
            inner = {part: inner}
        found.append(pytest.param(name, inner, key, id=f"{name}:{within}:{key}"))
    return found


def _each(keys: str) -> dict[str, str]:
    return dict.fromkeys(keys.split(), "x")


CLOSED = [
    # table, file, object inside it; values that are obeyed, that change nothing, that are refused
    (
        sidefiles.SENTENCE_BERT, BERT, "",
        {"max_seq_length": 4, "do_lower_case": True, "processing_kwargs": {"text": {"max_length": 4}},
         "tokenizer_args": {"do_lower_case": True}, "processor_kwargs": {"do_lower_case": True},
         "model_args": {"subfolder": "x"}, "model_kwargs": {"variant": "fp16"}, "config_args": {"hidden_size": 48},
         "config_kwargs": {"num_hidden_layers": 1}, "transformer_task": "fill-mask",
         "modality_config": {"text": {"method": "get_text_features", "method_output_name": "last_hidden_state"}},
         "module_output_name": "sentence_embedding"},
        {"unpad_inputs": False, "cache_dir": "/nowhere", "backend": "onnx"},
        {"query_length": 32, "document_length": 180, "query_expansion": {"strategy": "fixed", "length": 32},
         "tokenizer_name_or_path": "bert-base-uncased"},
    ),
    (sidefiles.PROCESSING, BERT, "processing_kwargs", {"text": {"max_length": 4}, "common": {"max_length": 4}},
     {"audio": {"padding": True}, "image": {}, "video": {"x": 1}, "chat_template": {"add_generation_prompt": True}},
     {}),
    *[
        (
            sidefiles.PROCESSING_TEXT, BERT, f"processing_kwargs/{part}",
            {"max_length": 4, "return_token_type_ids": "yes"},
            {"padding": "max_length", "padding_side": "left", "pad_to_multiple_of": 8, "return_tensors": "pt",
             "return_length": True, "return_offsets_mapping": True, "return_special_tokens_mask": True,
             "verbose": False, "stride": 3, "logits_to_keep": 0},
            {"truncation": False, "add_special_tokens": False, "return_attention_mask": False,
             "return_overflowing_tokens": True, "is_split_into_words": True, "split_special_tokens": True},
        ) for part in ("text", "common")
    ],
    *[
        (
            sidefiles.MODEL_KWARGS, BERT, part, {},
            _each(
                "torch_dtype dtype attn_implementation device_map low_cpu_mem_usage offload_folder offload_state_dict "
                "max_memory use_safetensors trust_remote_code revision code_revision token use_auth_token cache_dir "
                "force_download proxies local_files_only add_pooling_layer unpad_inputs use_memory_efficient_attention "
                "provider provider_options export file_name use_cache"
            ),
            {"subfolder": "x", "variant": "fp16", "quantization_config": {}, "adapter_kwargs": {}},
        ) for part in ("model_args", "config_kwargs")
    ],
    *[
        (
            sidefiles.TOKENIZER_KWARGS, BERT, part, {},
            _each("trust_remote_code revision code_revision token use_auth_token cache_dir force_download proxies "
                  "local_files_only use_fast"),
            {"subfolder": "x", "tokenizer_type": "bert", "tokenizer_class": "BertTokenizer",
             "tokenizer_file": "other.json", "vocab_file": "vocab.txt",
             "merges_file": "merges.txt", "add_bos_token": True, "add_eos_token": True},
        ) for part in ("tokenizer_args", "processor_kwargs")
    ],
    (
        sidefiles.CONFIG_ST, CONFIG, "",
        {"prompts": {"q": "query : "}, "default_prompt_name": "q", "truncate_dim": 4, "similarity_fn_name": "dot",
         "model_type": "SparseEncoder", "activation_fn": "torch.nn.modules.activation.Tanh"},
        {"__version__": {"sentence_transformers": "5.4.0"}, "requirements": {"peft": ">=9"},
         "keep_in_fp32_modules": ["0.model.classifier"]},
        {"max_active_dims": 9, "query_prefix": "[Q] ", "document_prefix": "[D] ", "query_length": 32,
         "document_length": 180, "query_expansion": {}, "do_query_expansion": False,
         "attend_to_expansion_tokens": False, "attend_to_mask_tokens": True, "skiplist_words": ["!"]},
    ),
    (
        sidefiles.POOLING, PLACES["Pooling"], "",
        {"word_embedding_dimension": 31, "embedding_dimension": 31, "pooling_mode": "cls", "include_prompt": 1,
         "pooling_mode_cls_token": True, "pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": False,
         "pooling_mode_mean_sqrt_len_tokens": True, "pooling_mode_weightedmean_tokens": True,
         "pooling_mode_lasttoken": True},
        {}, {},
    ),
    (
        sidefiles.DENSE, PLACES["Dense"], "",
        {"in_features": 31, "out_features": 9, "bias": False, "activation_function": "torch.nn.ReLU",
         "use_residual": True, "module_input_name": "token_embeddings", "module_output_name": "scores"},
        {}, {},
    ),
    (sidefiles.LAYER_NORM, PLACES["LayerNorm"], "", {"dimension": 9}, {}, {}),
    (sidefiles.NORMALIZE, PLACES["Normalize"], "",
     {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}, {}, {}),
    (sidefiles.DROPOUT, PLACES["Dropout"], "", {}, {"dropout": 0.5}, {}),
]  # fmt: skip


def of_fate(number: int, fate: str) -> list[Any]:
    return [case for row in CLOSED for case in cases(row[0], fate, row[number], row[1], row[2])]


def test_all_closed_tables_are_here() -> None:
    tables = {id(row[0]) for row in CLOSED} | {id(sidefiles.MODULE), id(sidefiles.LOGIT_SCORE)}  # of other folders
    open_ones = {id(sidefiles.TOKENIZER_CONFIG), id(sidefiles.SPECIAL_TOKENS_MAP)}
    for name in sidefiles.__all__:
        if name.isupper():
            assert id(getattr(sidefiles, name)) in tables | open_ones, name


@pytest.mark.parametrize(("name", "value", "key"), of_fate(3, "obeyed"))
def test_obeyed(folder: Path, plain: Any, name: str, value: Any, key: str) -> None:
    """It changes vectors or settings, or is refused with a value that cannot be obeyed."""
    if key.startswith("pooling_mode_") and value[key]:
        value = {**value, "pooling_mode_mean_tokens": False}  # two modes would be too wide for Dense
    got = outcome(folder, name, {**PLAIN[name], **value})
    if name == PLACES["Dense"] and isinstance(got, str) and "tensor" in got:
        return  # weights of another shape, or others, are wanted
    assert key in got if isinstance(got, str) else got != plain


@pytest.mark.parametrize(("name", "value", "key"), of_fate(4, "no effect"))
def test_without_effect(folder: Path, plain: Any, name: str, value: Any, key: str) -> None:
    assert outcome(folder, name, {**PLAIN[name], **value}) == plain


@pytest.mark.parametrize(("name", "value", "key"), of_fate(5, "refused"))
def test_refused(folder: Path, name: str, value: Any, key: str) -> None:
    got = outcome(folder, name, {**PLAIN[name], **value})
    assert isinstance(got, str) and f"{key} is " in got and "not supported: " in got


@pytest.mark.parametrize(
    ("row", "key", "harmless"),
    [
        pytest.param(row, key, value, id=f"{row[1]}:{row[2]}:{key}={value}")
        for row in CLOSED
        for key, entry in row[0].items()
        if entry.fate == "refused"
        for value in entry.harmless
    ],
)
def test_refused_keys_may_ask_for_nothing(folder: Path, plain: Any, row: Any, key: str, harmless: Any) -> None:
    inner: Any = {key: harmless}
    for part in reversed(row[2].split("/")) if row[2] else ():
        inner = {part: inner}
    assert outcome(folder, row[1], {**PLAIN[row[1]], **inner}) == plain


@pytest.mark.parametrize("row", CLOSED, ids=lambda row: f"{row[1]}:{row[2]}")
@pytest.mark.parametrize("value", [None, True, {}, "x"])
def test_unknown_keys_are_refused_by_name(folder: Path, row: Any, value: Any) -> None:
    inner: Any = {"of_the_future": value}
    for part in reversed(row[2].split("/")) if row[2] else ():
        inner = {part: inner}
    got = outcome(folder, row[1], {**PLAIN[row[1]], **inner})
    where = ".".join([*(row[2].split("/") if row[2] else ()), "of_the_future"])
    assert isinstance(got, str) and f"{where} is not supported; supported: " in got


@pytest.mark.parametrize("key", sidefiles.MODULE)
def test_keys_of_modules(folder: Path, key: str) -> None:
    values = {"type": ST + "Dense", "path": "nowhere", "idx": 9, "name": "pool", "kwargs": ["task"]}
    before = (folder / MODULES).read_text()
    try:
        write_json(folder / MODULES, chain(**{key: values[key]}))
        if sidefiles.MODULE[key].fate == "no effect":
            plain = fa.load(folder).embed(TEXTS).tobytes()
            write_json(folder / MODULES, chain())
            assert fa.load(folder).embed(TEXTS).tobytes() == plain
        else:
            with pytest.raises((ValueError, FileNotFoundError), match=r"modules\.json"):
                fa.load(folder).embed(TEXTS)
        write_json(folder / MODULES, chain(of_the_future=1))
        with pytest.raises(ValueError, match="module 1: of_the_future is not supported; supported: type, path"):
            fa.load(folder).embed(TEXTS)
    finally:
        (folder / MODULES).write_text(before)


# ---- classes of modules --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(len(CHAIN)))
@pytest.mark.parametrize(
    "name",
    ["custom_st.{}", "{}", "sentence_transformers.{}", "sentence_transformers.my.{}", "modeling_mine.{}",
     "my.sentence_transformers.models.{}", "sentence_transformers.models.my.{}",
     "sentence_transformers.models.{}.x.{}"],
)  # fmt: skip
def test_classes_of_foreign_code_are_refused(folder: Path, number: int, name: str) -> None:
    modules = chain()
    modules[number]["type"] = name.format(CHAIN[number], CHAIN[number])
    got = outcome(folder, MODULES, modules)
    assert isinstance(got, str) and f"module {number} is of the class '{modules[number]['type']}'" in got


@pytest.mark.parametrize(
    "spelling",
    ["sentence_transformers.models.{0}", "sentence_transformers.models.{0}.{0}",
     "sentence_transformers.sentence_transformer.modules.{0}", "sentence_transformers.base.modules.{0}",
     "sentence_transformers.sentence_transformer.modules.{1}.{0}", "sentence_transformers.base.modules.{1}.{0}",
     "sentence_transformers.cross_encoder.modules.{0}", "sentence_transformers.sparse_encoder.modules.{0}"],
)  # fmt: skip
def test_official_spellings(folder: Path, plain: Any, spelling: str) -> None:
    files = {"LayerNorm": "layer_norm"}
    modules = chain()
    for module, kind in zip(modules, CHAIN, strict=True):
        module["type"] = spelling.format(kind, files.get(kind, kind.lower()))
    assert outcome(folder, MODULES, modules) == plain


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("sentence_transformers.models.CLIPModel", "images and texts"),
        ("sentence_transformers.models.StaticEmbedding", "without a transformer"),
        ("sentence_transformers.models.WordEmbeddings", "word vectors"),
        ("sentence_transformers.models.BoW", "counts of words"),
        ("sentence_transformers.models.Asym", "queries and documents"),
        ("sentence_transformers.base.modules.router.Router", "queries and documents"),
        ("sentence_transformers.sparse_encoder.models.MLMTransformer", "sparse encoder"),
        ("sentence_transformers.sparse_encoder.modules.mlm_transformer.MLMTransformer", "sparse encoder"),
        ("sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask", "ColBERT"),
    ],
)
def test_other_models_say_what_they_are(folder: Path, tmp_path: Path, name: str, what: str) -> None:
    first = {"idx": 0, "name": "0", "path": "", "type": name}
    got = outcome(folder, MODULES, [first])
    assert isinstance(got, str) and what in got and (class_of(name) or "") in got
    write_json(tmp_path / MODULES, [first])  # without config.json, as such folders are
    with pytest.raises(ValueError, match=rf"modules\.json: module 0 is a {class_of(name)}: .*{what}"):
        fa.load(tmp_path)


def test_names_of_activations() -> None:
    for name in ("torch.nn.Tanh", "torch.nn.modules.Tanh", "torch.nn.modules.activation.Tanh"):
        assert torch_class(name) == "Tanh"
    for other in (
        "mine.Tanh",
        "torch.Tanh",
        "torch.nn.functional.Tanh",
        "torch.nn.modules.linear.Tanh",
        "Tanh",
        3,
        None,
    ):
        assert torch_class(other) is None
    assert torch_class("torch.nn.modules.linear.Identity") == "Identity"


# ---- what is not a matter of one key -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bert", "tokenizer", "expected"),
    [
        ({"processing_kwargs": {"text": {"max_length": 4}}, "max_seq_length": 9}, {"model_max_length": 7}, 4),
        ({"processing_kwargs": {"text": {"max_length": 4}, "common": {"max_length": 5}}}, {}, 5),
        ({"processing_kwargs": {"text": {"truncation": True}}, "max_seq_length": 9}, {"model_max_length": 7}, 9),
        ({"tokenizer_args": {"model_max_length": 6}}, {"model_max_length": 7}, 6),
        ({"processor_kwargs": {"model_max_length": 6}, "max_seq_length": 6}, {"model_max_length": 7}, 6),
        ({"tokenizer_args": {"model_max_length": 6}, "max_seq_length": 8}, {}, "max_seq_length, which is 8"),
        ({"tokenizer_args": {"model_max_length": 6}, "processor_kwargs": {"model_max_length": 7}}, {}, "two names"),
        ({}, {"max_len": 6}, 6),
        ({"processing_kwargs": {"text": {"max_length": 0}}}, {}, "processing_kwargs.text.max_length is '0'"),
        ({"processing_kwargs": {"text": 3}}, {}, "processing_kwargs.text is '3', expected an object"),
        ({"processing_kwargs": [3]}, {}, "processing_kwargs is .*, expected an object"),
        ({"modality_config": {"message": {"method": "forward"}}}, {}, "expected an object with a key 'text'"),
        ({"modality_config": {"text": {}, "message": {}}}, {}, "message is not supported: texts would go through"),
        ({"modality_config": {"text": {"future": 1}}}, {}, r"modality_config\.text\.future is not supported"),
        ({"modality_config": {"text": {}, "smell": {}}}, {}, r"modality_config\.smell is not supported"),
        ({"modality_config": {"text": {}, "image+text": {}}}, {}, 40),
        (
            {"transformer_task": ["feature-extraction"]},
            {},
            "transformer_task is .*, expected one of feature-extraction",
        ),
        ({"config_args": {"hidden_size": 32}}, {}, 40),
    ],
)
def test_limits_and_tasks(tmp_path: Path, bert: Any, tokenizer: Any, expected: Any) -> None:
    folder = tiny_bert.save_text_folder(tmp_path / "model")
    write_json(folder / BERT, bert)
    write_json(folder / "tokenizer_config.json", tokenizer)
    model = fa.load(folder)
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected) as caught:
            model.embed(["a"])
        assert str(folder / BERT) in str(caught.value)
        return
    long = "a b c d " * 20
    ids = model.pipeline.tokenizer.encode(long)[0].tolist()  # type: ignore[attr-defined]
    assert len(ids) == min(expected, model.max_positions)
    assert np.array_equal(model.embed([long]), model.embed([" ".join(long.split()[: len(ids) - 2])]))


def test_a_null_that_means_something(folder: Path) -> None:
    for name, value, key in (
        (BERT, {"processing_kwargs": {"text": {"truncation": None}}}, "processing_kwargs.text.truncation"),
        (BERT, {"processing_kwargs": {"common": {"add_special_tokens": None}}}, "add_special_tokens"),
        (PLACES["Pooling"], {**PLAIN[PLACES["Pooling"]], "include_prompt": None}, "include_prompt"),
    ):
        got = outcome(folder, name, value)
        assert isinstance(got, str) and f"{key} is 'None'" in got


def test_pooling_that_says_its_width_alone_is_a_mean(folder: Path, plain: Any) -> None:
    assert outcome(folder, PLACES["Pooling"], {"word_embedding_dimension": 32}) == plain


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (BERT, {"processing_kwargs": {"text": {"max_length": 10**400}}}),
        (BERT, {"max_seq_length": 1e300}),
        (BERT, {"x" * 10_000: 1}),
        (BERT, {"tokenizer_args": {"\x00\n": [[[]]]}}),
        (CONFIG, {"model_type": {}}),
        (CONFIG, {"model_type": ["CrossEncoder"]}),
        (CONFIG, {"similarity_fn_name": ["dot"]}),
        (CONFIG, {"similarity_fn_name": "maxsim"}),
        (CONFIG, {"activation_fn": "mine.Sigmoid"}),
        (CONFIG, {"activation_fn": 3}),
    ],
)
def test_strange_values(folder: Path, plain: Any, name: str, value: Any) -> None:
    got = outcome(folder, name, value)
    assert got == plain or (isinstance(got, str) and len(got) < 1000)


def test_notes(tmp_path: Path) -> None:
    folder = tiny_bert.save_text_folder(tmp_path / "model")
    write_json(folder / "tokenizer_config.json", {"do_lower_case": False, "my_key": 1, "image_token": "a",
                                                  "tokenizer_class": "MineTokenizerFast"})  # fmt: skip
    write_json(folder / "special_tokens_map.json", {"pad_token": "[PAD]", "other": 1})
    assert side_notes(fa.load(folder).files) == [
        "tokenizer_config.json: 'my_key' is not known, and not obeyed",
        "tokenizer_config.json: tokenizer_class 'MineTokenizerFast' is not known; tokenizer.json is taken as it is",
        "special_tokens_map.json: 'other' is not known, and not obeyed",
    ]
    (folder / "tokenizer_config.json").write_text("{")
    assert "not valid JSON" in side_notes(fa.load(folder).files)[0]
    assert json.loads((folder / "special_tokens_map.json").read_text())
