# SPDX-License-Identifier: MIT
"""From text to vectors, labels and tokens in every family, beside transformers with the same tokenizer.

What differs between families shows here: special tokens of single texts and pairs, token types that a tokenizer makes
and a model has no table for, the padding id and the positions that follow from it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

import fastattn as fa

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

from test_parity_families import FAMILIES, make  # noqa: E402

TEXTS = [
    "A sentence about attention.", "Short", "", "scores " * 60, "a <pad> b [PAD] c: padding that a text spells out",
    "The quick brown fox jumps over the lazy dog, and runs away; é à ü 東京.",
]  # fmt: skip
PAIRS = list(zip(TEXTS, TEXTS[::-1], strict=True))
TYPED = ("Bert", "Electra", "Albert")  # whose tokenizers in transformers pass token types on
LONGEST = 48

_FAIRSEQ = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
_GOOGLE = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]",
           "mask_token": "[MASK]"}  # fmt: skip


def tokenizer(family: str) -> tuple[Tokenizer, dict[str, str]]:
    """A small tokenizer of the kind the family has, and its special tokens."""
    special = _FAIRSEQ if family in ("Roberta", "XLMRoberta", "Camembert", "MPNet", "Albert") else _GOOGLE
    known = {"special_tokens": list(special.values()), "show_progress": False}
    if family == "Roberta":
        result = Tokenizer(models.BPE())
        result.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        result.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, **known))
        result.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    elif family in ("XLMRoberta", "Camembert", "Albert"):
        result = Tokenizer(models.Unigram())
        result.normalizer = normalizers.NFKC()
        result.pre_tokenizer = pre_tokenizers.Metaspace()
        result.train_from_iterator(TEXTS, trainers.UnigramTrainer(vocab_size=120, unk_token="<unk>", **known))
        second = "$B:1 </s>:1" if family == "Albert" else "</s> $B </s>"
        result.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", pair=f"<s> $A </s> {second}", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
    else:
        result = Tokenizer(models.WordPiece(unk_token=special["unk_token"]))
        result.normalizer = normalizers.BertNormalizer()
        result.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        result.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=120, **known))
        result.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        if family == "MPNet":
            result.post_processor = processors.TemplateProcessing(
                single="<s>:0 $A:0 </s>:0", pair="<s>:0 $A:0 </s>:0 </s>:0 $B:1 </s>:1",
                special_tokens=[("<s>", 0), ("</s>", 2)],
            )  # fmt: skip
    return result, special


def save(folder: Path, family: str, head: str) -> tuple[Any, Any]:
    """A random model with a tokenizer in ``folder``; transformers' own two."""
    small, special = tokenizer(family)
    sizes = {"vocab_size": small.get_vocab_size(), "max_position_embeddings": 64, "num_labels": 3}
    if special is _FAIRSEQ:
        sizes["pad_token_id"] = 1
    if family in ("Roberta", "XLMRoberta", "Camembert"):
        sizes["type_vocab_size"] = 1
    theirs = make(family, head, sizes)
    theirs.save_pretrained(folder)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=small, model_max_length=LONGEST, **special,
        model_input_names=["input_ids", "attention_mask", *(["token_type_ids"] if family in TYPED else [])],
    )  # fmt: skip
    fast.save_pretrained(folder)
    return theirs.double(), fast


def run(theirs: Any, fast: Any, *texts: list[str]) -> tuple[Any, np.ndarray[Any, Any]]:
    """What transformers makes of a padded batch, and its mask."""
    batch = fast(*texts, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
    with torch.no_grad():
        return theirs(**batch), batch["attention_mask"].numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors(tmp_path: Path, family: str) -> None:
    theirs, fast = save(tmp_path, family, "Model")
    out, mask = run(theirs, fast, TEXTS)
    weights = mask[:, :, None] / mask.sum(axis=1)[:, None, None]
    expected = (out.last_hidden_state.numpy() * weights).sum(axis=1)
    model = fa.load(tmp_path)
    assert np.abs(model.embed(TEXTS, normalize=False) - expected).max() <= 1e-5
    assert model.embed(TEXTS, batch_size=1).tobytes() == model.embed(TEXTS).tobytes()


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_of_texts_and_pairs(tmp_path: Path, family: str) -> None:
    theirs, fast = save(tmp_path, family, "ForSequenceClassification")
    model = fa.load(tmp_path)
    for texts, columns in ((TEXTS, (TEXTS,)), (PAIRS, (TEXTS, TEXTS[::-1]))):
        expected = torch.softmax(run(theirs, fast, *columns)[0].logits, dim=1).numpy()
        for row, found in zip(expected, model.classify(texts), strict=True):
            names = [theirs.config.id2label[i] for i in np.argsort(-row)]
            assert list(found.labels) == names
            assert np.abs(np.array(found.scores) - np.sort(row)[::-1]).max() <= 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_of_tokens(tmp_path: Path, family: str) -> None:
    theirs, fast = save(tmp_path, family, "ForTokenClassification")
    expected = torch.softmax(run(theirs, fast, TEXTS)[0].logits, dim=2).numpy()
    batch = fast(TEXTS, padding=True, truncation=True, max_length=LONGEST, return_special_tokens_mask=True)
    for row, special, found in zip(
        expected, batch["special_tokens_mask"], fa.load(tmp_path).tokens(TEXTS), strict=True
    ):
        own = row[np.array(special) == 0]
        assert [token.label for token in found] == [theirs.config.id2label[i] for i in own.argmax(axis=1).tolist()]
        assert all(abs(token.score - best) <= 1e-5 for token, best in zip(found, own.max(axis=1), strict=True))
