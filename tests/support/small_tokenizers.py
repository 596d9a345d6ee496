# SPDX-License-Identifier: MIT
"""Tokenizers small enough to see through, of the kinds that the families have, made without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Berlin", "berlin", "café", "cafe", "東", "京", "東京", "the",
         "THE", ".", "##s"]  # fmt: skip
FAIRSEQ = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
GOOGLE = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
_PIECES = ["▁", "a", "b", "c", "e", "é", "A", "B", "-", ",", "1", "▁a", "▁b", "▁A", "a-", '"', "``", "fi"]


def word_piece(normalizer: Any = None, pre_tokenizer: Any = None, **bert: Any) -> Tokenizer:
    """As BERT has it; without a normaliser one of BERT with these options, which lower-cases nothing by itself."""
    result = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    result.normalizer = normalizer or normalizers.BertNormalizer(**{"lowercase": False, **bert})
    result.pre_tokenizer = pre_tokenizer or pre_tokenizers.BertPreTokenizer()
    result.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return result


def mpnet(**bert: Any) -> Tokenizer:
    """As MPNet has it."""
    words = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>", *WORDS[5:]]
    result = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    result.normalizer = normalizers.BertNormalizer(**{"lowercase": False, **bert})
    result.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    result.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B:1 </s>:1", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return result


def byte_level(add_prefix_space: bool = False, normalizer: Any = None) -> Tokenizer:
    """As RoBERTa has it."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [*FAIRSEQ, *letters, "Ġa", "Ġb", "ab"]
    merges = [("Ġ", "a"), ("Ġ", "b"), ("a", "b")]
    result = Tokenizer(models.BPE({piece: i for i, piece in enumerate(vocabulary)}, merges))
    if normalizer is not None:
        result.normalizer = normalizer
    result.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    result.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, add_prefix_space)
    return result


def unigram(normalizer: Any = None, pre_tokenizer: Any = None, special: list[str] = FAIRSEQ) -> Tokenizer:
    """As XLM-RoBERTa has it, or with other special tokens as ALBERT or DeBERTa."""
    pieces = [(token, 0.0) for token in special] + [(piece, -2.0 - len(piece) % 2) for piece in _PIECES]
    result = Tokenizer(models.Unigram(pieces, special.index("<unk>" if "<unk>" in special else "[UNK]")))
    if normalizer is not None:
        result.normalizer = normalizer
    result.pre_tokenizer = pre_tokenizer or pre_tokenizers.Metaspace()
    first, last = ("<s>", "</s>") if special is FAIRSEQ else ("[CLS]", "[SEP]")
    pair = f"{first} $A {last} {last} $B {last}" if special is FAIRSEQ else f"{first} $A {last} $B:1 {last}:1"
    result.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", pair=pair,
        special_tokens=[(token, special.index(token)) for token in (first, last)],
    )  # fmt: skip
    return result


def save_tokenizer(folder: Path, tokenizer: Tokenizer, model_type: str, **files: Any) -> Path:
    """A folder of ``tokenizer`` and of JSON files, whose names here are without ".json"; there are no weights."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder
