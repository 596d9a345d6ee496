# SPDX-License-Identifier: MIT
"""tokenizer.json after the files beside it have had their say, class by class, as in transformers.

A class of transformers that is named in ``tokenizer_config.json`` (or config.json) has options, which win over the
stages of tokenizer.json, and defaults, which do so too. What ``transformers`` 4.40 to 5 have in common is done; where
they differ it is as in 5, and where tokenizer.json has stages that the class knows nothing of (4 keeps them, 5 drops
them), it is refused. Where no class is named, or the file is of another kind than the class (a BPE under the name of
BertTokenizer), tokenizer.json is right, but for options that are given and whose stage it has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ..loaders.files import ModelFiles
from ..vocab.library import named_errors
from . import piecestages, wordstages
from .addedtokens import add_tokens
from .sidefiles import sentence_bert
from .stages import Wanted, lowercase_first
from .tokenizerconfig import TokenizerConfig

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["reconcile"]


class _Class(NamedTuple):
    """A class of transformers."""

    model: str
    """The kind of model its tokenizer.json has."""
    apply: Callable[[Wanted], None]
    """Gives the tokenizer the stages that the class has."""
    tokens: dict[str, str]
    """Special tokens where the files name none."""
    more: tuple[str, ...] = ()
    """Further special tokens where the files name none."""


_BERT = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
_FAIRSEQ = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>", "pad_token": "<pad>",
            "cls_token": "<s>", "mask_token": "<mask>"}  # fmt: skip
_DEBERTA = {"bos_token": "[CLS]", "eos_token": "[SEP]", **_BERT}
_ALBERT = {**_DEBERTA, "unk_token": "<unk>", "pad_token": "<pad>"}
_GPT2 = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
_NOT_USED = ("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED")

_CLASSES = {
    "AlbertTokenizer": _Class("Unigram", piecestages.albert, _ALBERT),
    "BertTokenizer": _Class("WordPiece", wordstages.bert, _BERT),
    "CamembertTokenizer": _Class("Unigram", piecestages.xlm_roberta, _FAIRSEQ, _NOT_USED),
    "DebertaV2Tokenizer": _Class("Unigram", piecestages.deberta_v2, _DEBERTA),
    "DistilBertTokenizer": _Class("WordPiece", wordstages.bert, _BERT),
    "ElectraTokenizer": _Class("WordPiece", wordstages.bert, _BERT),
    "GPT2Tokenizer": _Class("BPE", wordstages.gpt2, _GPT2),
    "MPNetTokenizer": _Class("WordPiece", wordstages.mpnet, {**_FAIRSEQ, "unk_token": "[UNK]"}),
    "RobertaTokenizer": _Class("BPE", wordstages.roberta, _FAIRSEQ),
    "XLMRobertaTokenizer": _Class("Unigram", piecestages.xlm_roberta, _FAIRSEQ),
}


def reconcile(tokenizer: Tokenizer, files: ModelFiles) -> Tokenizer:
    """``tokenizer``, which the library made of tokenizer.json, with what the files beside it ask for.

    It is changed in place, but for rare cases in which another one is made of it. Where the files agree, which is
    nearly always, nothing is changed, and it takes a fraction of a millisecond.

    Raises
    ------
    ValueError
        The files cannot be reconciled, or one of them is damaged: both files and the key are named.

    Example
    -------
    >>> built = tokenizers.Tokenizer.from_file("model/tokenizer.json")          # doctest: +SKIP
    >>> tokenizer = reconcile(built, FolderFiles("model"))                      # doctest: +SKIP
    """
    sentence = sentence_bert(files)
    config = TokenizerConfig(files, sentence)
    path = files.describe("tokenizer.json")
    kind = _CLASSES.get(config.class_name)
    named = bool(config.class_place)
    with named_errors(f"{path}: the tokenizers library cannot do what {config.path} asks for", ValueError, OSError):
        if kind is not None and kind.model == type(tokenizer.model).__name__:
            wanted = Wanted(tokenizer, config, path, kind.tokens if named else {})
            kind.apply(wanted)
            if wanted.normalizer_changed and any(t.normalized for t in tokenizer.get_added_tokens_decoder().values()):
                # before 0.23 the library keeps what the former normaliser made of these tokens
                tokenizer = type(tokenizer).from_str(tokenizer.to_str())
            defaults, more = (kind.tokens, kind.more) if named else ({}, ())
        else:
            defaults, more = {}, ()
        add_tokens(tokenizer, files, config, defaults, more)
        if config.flag("split_special_tokens"):
            tokenizer.encode_special_tokens = True
        if sentence.flag("do_lower_case"):
            lowercase_first(tokenizer)
    return tokenizer
