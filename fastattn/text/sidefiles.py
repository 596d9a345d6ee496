# SPDX-License-Identifier: MIT
"""What we know of the small files beside a model: one table per file, key by key.

Closed files (``modules.json``, the ``config.json`` of a module, ``sentence_bert_config.json``,
``config_sentence_transformers.json``) hold nothing but settings of sentence-transformers: each key is obeyed, known to
change nothing, or refused by name, and so is a key that no table knows. In the open ones (``tokenizer_config.json``,
``special_tokens_map.json``), where anybody may add what he likes, keys that no table knows are listed in the notes.

The tables say what sentence-transformers 2 to 6 and transformers 4.40 to 5 write and read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..loaders.files import ModelFiles
from .jsonkeys import OptionalJson, shown

__all__ = [
    "CONFIG_ST", "DENSE", "DROPOUT", "Key", "LAYER_NORM", "LOGIT_SCORE", "MODEL_KWARGS", "MODULE", "NORMALIZE",
    "POOLING", "PROCESSING", "PROCESSING_TEXT", "SENTENCE_BERT", "SPECIAL_TOKENS_MAP", "TOKENIZER_CONFIG",
    "TOKENIZER_KWARGS", "check_keys", "object_at", "sentence_bert",
]  # fmt: skip


class Key(NamedTuple):
    """What becomes of one key."""

    fate: str
    """"obeyed"; "no effect": nothing here depends on it; "refused": it would change results."""
    why: str = ""
    """Of a refused key: what it asks for."""
    harmless: tuple[Any, ...] = (None,)
    """Values of a refused key that ask for nothing."""


_YES = Key("obeyed")
_NONE = Key("no effect")


def _table(obeyed: str = "", no_effect: str = "", **refused: Key) -> dict[str, Key]:
    return {**dict.fromkeys(obeyed.split(), _YES), **dict.fromkeys(no_effect.split(), _NONE), **refused}


def _refused(why: str, *harmless: Any, null: bool = True) -> Key:
    return Key("refused", why, (*((None,) if null else ()), *harmless))


# ---- files of sentence-transformers: closed ------------------------------------------------------------------------

MODULE = _table("type path", "idx name kwargs")
"""Entries of ``modules.json``. Their order is that of the list; kwargs names arguments that no caller gives here."""

POOLING = _table(
    "word_embedding_dimension embedding_dimension pooling_mode include_prompt pooling_mode_cls_token "
    "pooling_mode_max_tokens pooling_mode_mean_tokens pooling_mode_mean_sqrt_len_tokens "
    "pooling_mode_weightedmean_tokens pooling_mode_lasttoken"
)
DENSE = _table("in_features out_features bias activation_function use_residual module_input_name module_output_name")
LAYER_NORM = _table("dimension")
NORMALIZE = _table("module_input_name module_output_name")
DROPOUT = _table("", "dropout")
LOGIT_SCORE = _table("true_token_id false_token_id module_input_name")

SENTENCE_BERT = _table(
    "max_seq_length do_lower_case processing_kwargs tokenizer_args processor_kwargs model_args model_kwargs "
    "config_args config_kwargs transformer_task modality_config module_output_name",
    "unpad_inputs cache_dir backend",
    query_length=_refused("it limits queries alone, and embed does not know queries from documents"),
    document_length=_refused("it limits documents alone, and embed does not know documents from queries"),
    query_expansion=_refused("queries of a multi-vector model are filled up with mask tokens"),
    tokenizer_name_or_path=_refused("it names the tokenizer of another folder"),
)

PROCESSING = _table("text common", "audio image video chat_template")
"""Keys of ``processing_kwargs``; those of "text" and "common" are arguments of the tokenizer, which follow."""

PROCESSING_TEXT = _table(
    "max_length return_token_type_ids",
    "padding padding_side pad_to_multiple_of return_tensors return_length return_offsets_mapping "
    "return_special_tokens_mask verbose stride logits_to_keep",
    # null is passed on to the tokenizer, which takes it for false here
    truncation=_refused(
        "texts are cut at the maximum length, of pairs the longer text first", True, "longest_first", null=False
    ),
    add_special_tokens=_refused("texts would get no special tokens", True, null=False),
    return_attention_mask=_refused("the model would attend to padding", True),
    return_overflowing_tokens=_refused("one text would have several rows", False),
    is_split_into_words=_refused("texts would have to be lists of words", False),
    split_special_tokens=_refused("special tokens in a text would be split", False),
)

MODEL_KWARGS = _table(
    "",
    "torch_dtype dtype attn_implementation device_map low_cpu_mem_usage offload_folder offload_state_dict max_memory "
    "use_safetensors trust_remote_code revision code_revision token use_auth_token cache_dir force_download proxies "
    "local_files_only add_pooling_layer unpad_inputs use_memory_efficient_attention provider provider_options export "
    "file_name use_cache",
    subfolder=_refused("the model would be in a folder of its own", ""),
    variant=_refused("the weights would be in files of another name"),
    quantization_config=_refused("weights would be quantised by another library"),
    adapter_kwargs=_refused("an adapter would be put into the model"),
)
"""Keys of ``model_args`` (``model_kwargs``). ``config_args`` may also repeat what config.json says."""

_HUB = (
    "trust_remote_code revision code_revision token use_auth_token cache_dir force_download proxies local_files_only "
    "use_fast"
)

TOKENIZER_KWARGS = _table(
    "",
    _HUB,
    subfolder=_refused("the tokenizer would be in a folder of its own", ""),
    tokenizer_type=_refused("another class of tokenizer would be taken"),
    tokenizer_class=_refused("another class of tokenizer would be taken"),
    tokenizer_file=_refused("another file would be taken for tokenizer.json", "tokenizer.json"),
    vocab_file=_refused("another vocabulary would be taken"),
    merges_file=_refused("other merges would be taken"),
    add_bos_token=_refused("texts would get another beginning"),
    add_eos_token=_refused("texts would get another end"),
)
"""Keys of ``tokenizer_args`` (``processor_kwargs``) that ``tokenizer_config.json`` cannot hold, or not with effect; all
others are those of that file, and win over it."""

_COLBERT = "it belongs to a multi-vector (ColBERT) model"

CONFIG_ST = _table(
    "prompts default_prompt_name truncate_dim similarity_fn_name model_type activation_fn",
    "__version__ requirements keep_in_fp32_modules",
    max_active_dims=_refused("it belongs to a sparse encoder"),
    query_prefix=_refused(_COLBERT),
    document_prefix=_refused(_COLBERT),
    query_length=_refused(_COLBERT),
    document_length=_refused(_COLBERT),
    query_expansion=_refused(_COLBERT),
    do_query_expansion=_refused(_COLBERT),
    attend_to_expansion_tokens=_refused(_COLBERT),
    attend_to_mask_tokens=_refused(_COLBERT),
    skiplist_words=_refused(_COLBERT),
)

# ---- files of transformers: open -----------------------------------------------------------------------------------

_SPECIAL = (
    "bos_token eos_token unk_token sep_token pad_token cls_token mask_token additional_special_tokens "
    "extra_special_tokens"
)

TOKENIZER_CONFIG = _table(
    f"{_SPECIAL} model_specific_special_tokens added_tokens_decoder tokenizer_class model_max_length max_len "
    "truncation_side model_input_names do_lower_case strip_accents tokenize_chinese_chars add_prefix_space "
    "trim_offsets keep_accents split_by_punct split_special_tokens backend",
    # of slow tokenizers, of decoding, of padding and of calls alone, or about the file itself
    "do_basic_tokenize never_split clean_text wordpieces_prefix remove_space sp_model_kwargs vocab_type legacy errors "
    "clean_up_tokenization_spaces clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output "
    "use_default_system_prompt chat_template response_template response_schema chat_control_tokens padding "
    "padding_side pad_to_multiple_of pad_token_type_id max_length truncation truncation_strategy stride "
    "add_bos_token add_eos_token name_or_path is_local local_files_only files_loaded processor_class verbose "
    "device_map slow_tokenizer_class special_tokens_map_file tokenizer_file vocab_file merges_file added_tokens_file "
    "transformers_version unk_id use_fast _commit_hash",
    auto_map=_refused("the tokenizer's class is code of the folder, which is not run"),
    init_inputs=_refused("it holds arguments of the tokenizer's class", []),
    from_slow=_refused("tokenizer.json would be made anew from other files", False),
    fast_tokenizer_files=_refused("another file would be taken for tokenizer.json", ["tokenizer.json"]),
    fix_mistral_regex=_refused("words would be split by another pattern", False),
    gguf_file=_refused("the tokenizer would come from a GGUF file"),
)
SPECIAL_TOKENS_MAP = _table(_SPECIAL)


# ---- what the tables are for ---------------------------------------------------------------------------------------


def check_keys(
    values: Mapping[str, Any], table: Mapping[str, Key], path: str, *, closed: bool, within: str = ""
) -> None:
    """Refuse the keys of ``values`` that ``table`` refuses, and of a closed file those it does not know.

    Raises
    ------
    ValueError
        It names ``path``, the key (behind ``within``, where that is an object inside the file), and what it asks for.
    """
    for key, value in values.items():
        entry = table.get(key)
        if entry is None:
            if closed:
                obeyed = [name for name, known in table.items() if known.fate == "obeyed"]
                names = obeyed or [name for name, known in table.items() if known.fate == "no effect"]
                raise ValueError(f"{path}: {within}{shown(key)[1:-1]} is not supported; supported: {', '.join(names)}")
        elif entry.fate == "refused" and not _is_one_of(value, entry.harmless):
            raise ValueError(f"{path}: {within}{key} is {shown(value)}, which is not supported: {entry.why}")


def _is_one_of(value: Any, values: tuple[Any, ...]) -> bool:
    """Whether ``value`` is among ``values``; 1 is not true here."""
    return any(type(value) is type(other) and value == other for other in values)


def object_at(config: OptionalJson, key: str, *tables: Mapping[str, Key]) -> OptionalJson:
    """The object that is the value of ``key``, an empty one where it is missing, whose keys ``tables`` must know."""
    value = config.values.get(key)
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise config.wrong(key, "an object")
    within = f"{config.within}{key}."
    if tables:
        known = {name: entry for table in reversed(tables) for name, entry in table.items()}  # the first table's wins
        check_keys(value, known, config.path, closed=True, within=within)
    return OptionalJson.of(value, config.path, within)


# Files of sentence-transformers 1 are named after the family; all newer ones "bert".
_SENTENCE_BERT = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)


def sentence_bert(files: ModelFiles) -> OptionalJson:
    """``sentence_bert_config.json``, or the file of an older name, with keys that are known and not refused."""
    config = OptionalJson(files, next(filter(files.has, _SENTENCE_BERT), _SENTENCE_BERT[0]))
    check_keys(config.values, SENTENCE_BERT, config.path, closed=True)
    return config
