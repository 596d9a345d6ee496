# SPDX-License-Identifier: MIT
"""Stages of transformers' classes whose tokenizers are WordPiece (BERT's) or byte-level BPE (RoBERTa's)."""

from __future__ import annotations

from .stages import State, Wanted, ends_of, id_of, parts_of, set_ends, state_of

__all__ = ["bert", "gpt2", "mpnet", "roberta"]

# ---- WordPiece -----------------------------------------------------------------------------------------------------

_BERT_OPTIONS = {"do_lower_case": "lowercase", "strip_accents": "strip_accents",
                 "tokenize_chinese_chars": "handle_chinese_chars"}  # fmt: skip


def bert(wanted: Wanted) -> None:
    """BertTokenizer, DistilBertTokenizer, ElectraTokenizer."""
    _word_piece(wanted, doubled=False)


def mpnet(wanted: Wanted) -> None:
    """MPNetTokenizer."""
    _word_piece(wanted, doubled=True)


def _word_piece(wanted: Wanted, *, doubled: bool) -> None:
    from tokenizers import normalizers

    tokenizer, model = wanted.tokenizer, wanted.tokenizer.model
    state = state_of(tokenizer.normalizer)
    if state is None or state.get("type") != "BertNormalizer":
        for key in wanted.given(*_BERT_OPTIONS):
            if wanted.config.flag(key) or _does(state, key):
                wanted.refuse(key, "BertNormalizer")
        wanted.check(False, "normalizer", state)
    else:
        wanted.check(state["clean_text"] is True, "normalizer", state)
        options = {
            "lowercase": wanted.option("do_lower_case", True),
            "handle_chinese_chars": wanted.option("tokenize_chinese_chars", True),
        }
        new = {**state, **{key: value for key, value in options.items() if value is not None}}
        if wanted.named or "strip_accents" in wanted.config.values:  # null is a value: as lower-casing
            new["strip_accents"] = wanted.config.flag("strip_accents") if wanted.given("strip_accents") else None
        if new != state:
            new.pop("type")
            wanted.set_normalizer(normalizers.BertNormalizer(**new))
    pre_tokenizer = state_of(tokenizer.pre_tokenizer)
    wanted.check(pre_tokenizer == {"type": "BertPreTokenizer"}, "pre_tokenizer", pre_tokenizer)
    if wanted.named:
        limits = {"continuing_subword_prefix": model.continuing_subword_prefix,
                  "max_input_chars_per_word": model.max_input_chars_per_word}  # fmt: skip
        wanted.check(tuple(limits.values()) == ("##", 100), "model", limits)
    unknown = wanted.token("unk_token")
    if unknown is not None and unknown != model.unk_token:
        id_of(wanted, "unk_token", unknown)
        model.unk_token = unknown
    set_ends(wanted, ("cls_token", "sep_token"), doubled=doubled)


def _does(state: State | None, key: str) -> bool:
    """Whether a normaliser that is no BertNormalizer does what ``key`` may switch off."""
    kinds = {"do_lower_case": ("Lowercase", "BertNormalizer"), "strip_accents": ("StripAccents", "BertNormalizer"),
             "tokenize_chinese_chars": ("BertNormalizer",)}  # fmt: skip
    return any(part.get("type") in kinds[key] for part in parts_of(state))


# ---- byte-level BPE ------------------------------------------------------------------------------------------------


def roberta(wanted: Wanted) -> None:
    """RobertaTokenizer."""
    from tokenizers import processors

    prefix = _byte_level(wanted)
    set_ends(wanted, ("cls_token", "sep_token"), doubled=True)
    trim = wanted.option("trim_offsets", True)
    state = state_of(wanted.tokenizer.post_processor)
    if state is None or (state.get("type") != "RobertaProcessing" and not wanted.named):
        if wanted.given("trim_offsets"):
            wanted.refuse("trim_offsets", "RobertaProcessing")
        return
    flags = {"trim_offsets": trim, "add_prefix_space": prefix}
    new = {key: bool(state.get(key) if value is None else value) for key, value in flags.items()}
    if any(state.get(key) is not value for key, value in new.items()):
        first, last = ends_of(state)[:2]  # type: ignore[index]
        wanted.tokenizer.post_processor = processors.RobertaProcessing(last, first, **new)


def gpt2(wanted: Wanted) -> None:
    """GPT2Tokenizer, which leaves what stands around a text to tokenizer.json."""
    _byte_level(wanted)


def _byte_level(wanted: Wanted) -> bool | None:
    """Obeys add_prefix_space, and returns it."""
    from tokenizers import pre_tokenizers

    tokenizer = wanted.tokenizer
    normalizer = state_of(tokenizer.normalizer)
    wanted.check(normalizer is None, "normalizer", normalizer)
    state = state_of(tokenizer.pre_tokenizer)
    prefix = wanted.option("add_prefix_space", False)
    simple = state is not None and state.get("type") == "ByteLevel"
    if not simple and wanted.given("add_prefix_space"):
        there = [part["add_prefix_space"] for part in parts_of(state) if part.get("type") == "ByteLevel"]
        if there[:1] != [prefix]:
            wanted.refuse("add_prefix_space", "pre_tokenizer of ByteLevel alone")
    wanted.check(simple and state["use_regex"] is True, "pre_tokenizer", state)  # type: ignore[index]
    if simple and prefix is not None and state["add_prefix_space"] != prefix:  # type: ignore[index]
        new = {**state, "add_prefix_space": prefix}  # type: ignore[dict-item]
        new.pop("type")
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(**new)
    return prefix
