# SPDX-License-Identifier: MIT
"""Stages of transformers' classes whose tokenizers come from SentencePiece (XLM-RoBERTa's, ALBERT's, DeBERTa's)."""

from __future__ import annotations

from typing import Any

from .stages import State, Wanted, parts_of, sequence_of, set_ends, state_of

__all__ = ["albert", "deberta_v2", "xlm_roberta"]

_SPACE = "▁"  # the mark of SentencePiece for white space
_BLANKS = ({"Regex": " {2,}"}, {"Regex": r"\s{2,}|[\n\r\t]"})  # what runs of white space are replaced by their like


def xlm_roberta(wanted: Wanted) -> None:
    """XLMRobertaTokenizer, CamembertTokenizer."""
    tokenizer = wanted.tokenizer
    if type(tokenizer.normalizer).__name__ != "Precompiled":  # which is long, and as it should be
        state = state_of(tokenizer.normalizer)
        parts = parts_of(state)
        if wanted.check(all(_is(part, "Precompiled", "Strip") for part in parts), "normalizer", state) and wanted.named:
            kept = [part for part in parts if part["type"] == "Precompiled"]
            if kept != parts:
                wanted.set_normalizer(sequence_of(kept))
    _metaspace(wanted, split_white_space=True, otherwise="never")
    set_ends(wanted, ("bos_token", "eos_token"), doubled=True)


def albert(wanted: Wanted) -> None:
    """AlbertTokenizer."""
    lower, keep = wanted.option("do_lower_case", True), wanted.option("keep_accents", False)
    state = state_of(wanted.tokenizer.normalizer)
    parts = parts_of(state)
    quotes = [{"type": "Replace", "pattern": {"String": mark}, "content": '"'} for mark in ("``", "''")]
    usual = ("NFKD", "StripAccents", "Lowercase", "Precompiled", "Strip")
    if wanted.check(all(_is(part, *usual) or part in quotes for part in parts), "normalizer", state):
        kinds = [part["type"] for part in parts]
        lower = "Lowercase" in kinds if lower is None else lower
        keep = "StripAccents" not in kinds if keep is None else keep
        new = [
            *(quotes if wanted.named else [part for part in parts if part in quotes]),
            *([] if keep else [{"type": "NFKD"}, {"type": "StripAccents"}]),
            *([{"type": "Lowercase"}] if lower else []),
            *(part for part in parts if part["type"] == "Precompiled"),
        ]
        if new != [part for part in parts if part in quotes or part["type"] in usual[:-1]]:
            wanted.set_normalizer(sequence_of(new))
    else:
        for key, kind, does in (("do_lower_case", "Lowercase", lower), ("keep_accents", "StripAccents", not keep)):
            if wanted.given(key) and does != any(part.get("type") == kind for part in parts):
                wanted.refuse(key, f"{kind} stage in its place")
    _metaspace(wanted, split_white_space=True, otherwise="never")
    # alone among these classes it leaves what stands around a text as it is in tokenizer.json
    wanted.check(wanted.tokenizer.post_processor is not None, "post_processor", None)


def deberta_v2(wanted: Wanted) -> None:
    """DebertaV2Tokenizer.

    Files that transformers 4 wrote have the character map of SentencePiece, which 5 does without: it is kept, as the
    models were trained with it.
    """
    lower = wanted.option("do_lower_case", False)
    state = state_of(wanted.tokenizer.normalizer)
    parts = parts_of(state)
    if wanted.check(all(_is(part, "Lowercase", "NFC", "Precompiled", "Strip") for part in parts), "normalizer", state):
        rest = [part for part in parts if part["type"] != "Lowercase"]
        lower = len(rest) < len(parts) if lower is None else lower
        if wanted.named and not any(part["type"] == "Precompiled" for part in rest):
            blanks = {"type": "Replace", "pattern": _BLANKS[1], "content": " "}
            rest = [blanks, {"type": "NFC"}, {"type": "Strip", "strip_left": False, "strip_right": True}]
        new = [*([{"type": "Lowercase"}] if lower else []), *rest]
        if new != parts:
            wanted.set_normalizer(sequence_of(new))
    elif wanted.given("do_lower_case") and lower != any(part.get("type") == "Lowercase" for part in parts):
        wanted.refuse("do_lower_case", "Lowercase stage in its place")
    _metaspace(wanted, split_white_space=False, otherwise="first")
    set_ends(wanted, ("cls_token", "sep_token"), doubled=False)


def _is(part: State, *kinds: str) -> bool:
    """Whether ``part`` is of one of ``kinds``, or one that makes white space single."""
    return part.get("type") in kinds or (part.get("type") == "Replace" and part.get("pattern") in _BLANKS)


def _metaspace(wanted: Wanted, *, split_white_space: bool, otherwise: str) -> None:
    """Obeys add_prefix_space and split_by_punct; ``otherwise`` is what stands for the former where it is false."""
    from tokenizers import pre_tokenizers

    tokenizer = wanted.tokenizer
    state = state_of(tokenizer.pre_tokenizer)
    parts = parts_of(state)
    kinds = [part.get("type") for part in parts]
    first = kinds[:1] if kinds[:1] == [("WhitespaceSplit" if split_white_space else "Punctuation")] else []
    prefix = wanted.option("add_prefix_space", True)
    punctuation = None if split_white_space else wanted.option("split_by_punct", False)
    good = kinds == [*first, "Metaspace"] and parts[-1].get("replacement") == _SPACE
    if not wanted.check(good, "pre_tokenizer", state):
        scheme = next((part.get("prepend_scheme") for part in parts if part.get("type") == "Metaspace"), None)
        if wanted.given("add_prefix_space") and scheme != ("always" if prefix else otherwise):
            wanted.refuse("add_prefix_space", "Metaspace in its place")
        if not split_white_space and wanted.given("split_by_punct") and punctuation != ("Punctuation" in kinds):
            wanted.refuse("split_by_punct", "place for Punctuation")
        return
    meta = dict(parts[-1])
    if prefix is not None:
        meta["prepend_scheme"] = "always" if prefix else otherwise
    if wanted.named:
        meta["split"] = True
    ahead = parts[:-1]
    if split_white_space and wanted.named:
        ahead = [{"type": "WhitespaceSplit"}]
    elif punctuation is not None:
        ahead = [{"type": "Punctuation", "behavior": "Isolated"}] if punctuation else []
    if [*ahead, meta] == parts:
        return
    meta.pop("type")
    stages: list[Any] = [
        pre_tokenizers.WhitespaceSplit() if part["type"] == "WhitespaceSplit" else
        pre_tokenizers.Punctuation(behavior=part["behavior"].lower())
        for part in ahead
    ]  # fmt: skip
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*stages, pre_tokenizers.Metaspace(**meta)])
