# SPDX-License-Identifier: MIT
"""BERT and its relatives beside transformers: random models of many shapes as save_pretrained writes them.

Run with ``pytest -m parity`` where torch and transformers are installed; elsewhere ``test_families`` stands in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import numpy_families, tiny_families
from golden.tiny_bert import integers

import fastattn as fa

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

Array = np.ndarray[Any, Any]

FAMILIES = ("Bert", "Roberta", "XLMRoberta", "Camembert", "DistilBert", "Electra", "Albert", "MPNet")
HEADS = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
TYPELESS = ("DistilBert", "MPNet")
COUNTED = ("Roberta", "XLMRoberta", "Camembert", "MPNet")  # positions start behind the padding id

# Sizes by BERT's names: (hidden, heads, inner, layers, vocabulary, columns)
SHAPES: dict[str, dict[str, Any]] = {
    "one layer of one head, tiny vocabulary": {"hidden_size": 5, "num_attention_heads": 1, "intermediate_size": 7,
                                               "num_hidden_layers": 1, "vocab_size": 4},
    "heads of 5": {"hidden_size": 30, "num_attention_heads": 6, "hidden_act": "gelu_new"},
    "heads of 7": {"hidden_size": 21, "num_attention_heads": 3, "hidden_act": "relu", "layer_norm_eps": 1e-5},
    "heads of 24": {"hidden_size": 72, "num_attention_heads": 3, "hidden_act": "silu", "intermediate_size": 130},
    "heads of 1": {"hidden_size": 12, "num_attention_heads": 12, "intermediate_size": 1, "hidden_act": "tanh"},
    "long": {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "max_position_embeddings": 650},
    "wide": {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536, "num_hidden_layers": 2},
}  # fmt: skip

# What a family has beside them.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("Bert", {"type_vocab_size": 5}),
    ("Roberta", {"type_vocab_size": 1, "pad_token_id": 3}),
    ("XLMRoberta", {"type_vocab_size": 1, "pad_token_id": 0}),
    ("Camembert", {"type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    ("DistilBert", {"sinusoidal_pos_embds": True}),
    ("Electra", {"embedding_size": 30, "hidden_size": 30}),
    ("Electra", {"embedding_size": 200, "intermediate_size": 20}),
    ("Albert", {"num_hidden_layers": 7, "num_hidden_groups": 3, "inner_group_num": 2}),
    ("Albert", {"embedding_size": 30, "hidden_size": 30}),
    ("Albert", {"embedding_size": 200, "num_hidden_layers": 12}),
    ("MPNet", {"relative_attention_num_buckets": 40}),
    ("MPNet", {"max_position_embeddings": 400, "pad_token_id": 0}),
]


PEAKED = ("query.weight", "key.weight", "q_lin.weight", "k_lin.weight", "attn.q.weight", "attn.k.weight")


def make(family: str, head: str, sizes: dict[str, Any]) -> Any:
    """A random model of transformers; queries and keys scaled up, without which softmax is nearly flat."""
    options: dict[str, Any] = {
        "vocab_size": 90, "hidden_size": 30, "num_attention_heads": 5, "num_hidden_layers": 3, "intermediate_size": 48,
        "max_position_embeddings": 64, "num_labels": 2 if head == "ForQuestionAnswering" else 4,
    } | sizes  # fmt: skip
    if family in ("Electra", "Albert"):
        options.setdefault("embedding_size", 11)
    if family in ("XLMRoberta", "Camembert"):
        options.setdefault("pad_token_id", 1)
    if family == "DistilBert":
        other = {"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers",
                 "intermediate_size": "hidden_dim", "hidden_act": "activation"}  # fmt: skip
        options = {other.get(key, key): value for key, value in options.items() if key != "layer_norm_eps"}
    torch.manual_seed(7)
    theirs = getattr(transformers, family + head)(getattr(transformers, family + "Config")(**options)).eval()
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if name.endswith(PEAKED):
                weight *= 110 / weight.shape[1] ** 0.5  # scores of the same spread at any width
            elif "relative_attention_bias" in name:
                weight *= 50.0
            elif name.endswith("bias") or "norm" in name.lower():
                weight += torch.randn_like(weight) * 0.2  # made as zeros and ones, which hide a mistake
            elif "layer" not in name:
                weight *= 3.0  # embeddings and heads
    theirs.tie_weights()
    return theirs


def inputs(family: str, config: Any, columns: int) -> tuple[Array, ...]:
    """Rows: whole, padded on the right, padded on the left, with holes; the padding id also where it is attended."""
    ids = integers(f"{family}/ids", (5, columns), config.vocab_size)
    types = integers(f"{family}/types", (5, columns), getattr(config, "type_vocab_size", 1))
    mask = integers(f"{family}/mask", (5, columns), 2)
    mask[0] = mask[4] = 1
    mask[1] = np.arange(columns) < (columns + 1) // 2
    mask[2] = np.arange(columns) >= columns // 3
    mask[3, 0] = 1
    padding = 1 if family == "MPNet" else config.pad_token_id
    ids[1:3][mask[1:3] == 0] = padding
    return (ids, mask) if family in TYPELESS else (ids, mask, types)


def compare(folder: Path, theirs: Any, arguments: tuple[Array, ...]) -> float:
    """Largest error of the model saved in ``folder`` against ``theirs`` in double precision; at most 2e-5.

    Some random models magnify rounding so much that transformers in float32 is further off than that: there, at most
    twice as far as it.
    """
    names = ("input_ids", "attention_mask", "token_type_ids")
    tensors = {name: torch.tensor(array) for name, array in zip(names, arguments, strict=False)}
    with torch.no_grad():
        single = theirs.float()(**tensors)
        exact = theirs.double()(**tensors)
        theirs.float()
    got = fa.load(folder)(*arguments)._asdict()
    assert list(got) == list(exact.keys())
    mask = arguments[1] == 1
    worst = 0.0
    for name, value in exact.items():
        assert got[name].shape == tuple(value.shape)
        per_token = value.ndim == 3 or name in ("start_logits", "end_logits")
        where = mask if per_token else mask[:, 0]
        error = float(np.abs(got[name][where] - value.numpy()[where]).max())
        assert error <= max(2e-5, 2 * float(np.abs(single[name].numpy()[where] - value.numpy()[where]).max())), name
        worst = max(worst, error)
    return worst


def columns_of(family: str, config: Any) -> int:
    padding = 1 if family == "MPNet" else config.pad_token_id
    return min(config.max_position_embeddings - (padding + 1 if family in COUNTED else 0), 600)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_encoders(tmp_path: Path, family: str, shape: str) -> None:
    sizes = SHAPES[shape]
    theirs = make(family, "Model", sizes)
    theirs.save_pretrained(tmp_path)
    columns = columns_of(family, theirs.config)
    compare(tmp_path, theirs, inputs(family, theirs.config, columns))
    compare(tmp_path, theirs, inputs(family, theirs.config, 1))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("head", "tie"), [*((head, True) for head in HEADS[1:]), ("ForMaskedLM", False)])
def test_heads(tmp_path: Path, family: str, head: str, tie: bool) -> None:
    theirs = make(family, head, {"tie_word_embeddings": tie})
    theirs.save_pretrained(tmp_path)
    compare(tmp_path, theirs, inputs(family, theirs.config, 33))
    assert fa.load(tmp_path).head is not None


@pytest.mark.parametrize(("family", "sizes"), VARIANTS)
@pytest.mark.parametrize("head", HEADS[:3])
def test_variants(tmp_path: Path, family: str, sizes: dict[str, Any], head: str) -> None:
    theirs = make(family, head, sizes)
    theirs.save_pretrained(tmp_path)
    compare(tmp_path, theirs, inputs(family, theirs.config, columns_of(family, theirs.config)))


@pytest.mark.parametrize("problem", ["regression", "single_label_classification", "multi_label_classification"])
@pytest.mark.parametrize("family", FAMILIES)
def test_labels_and_problem_types(tmp_path: Path, family: str, problem: str) -> None:
    labels = {0: "score"} if problem == "regression" else {0: "no", 1: "yes", 2: "maybe"}
    theirs = make(family, "ForSequenceClassification", {
        "problem_type": problem, "num_labels": len(labels), "id2label": labels,
        "label2id": {label: i for i, label in labels.items()},
    })  # fmt: skip
    theirs.save_pretrained(tmp_path)
    compare(tmp_path, theirs, inputs(family, theirs.config, 9))
    head = fa.load(tmp_path).head
    assert head is not None and head.labels == tuple(labels.values()) and head.problem_type == problem


ENCODERS_BELOW = [
    ("Bert", "ForMultipleChoice"), ("Bert", "ForPreTraining"), ("Roberta", "ForMultipleChoice"),
    ("XLMRoberta", "ForMultipleChoice"), ("Camembert", "ForMultipleChoice"), ("DistilBert", "ForMultipleChoice"),
    ("Electra", "ForMultipleChoice"), ("Electra", "ForPreTraining"), ("Albert", "ForMultipleChoice"),
    ("Albert", "ForPreTraining"), ("MPNet", "ForMultipleChoice"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "head"), ENCODERS_BELOW)
def test_heads_that_are_left_out(tmp_path: Path, family: str, head: str) -> None:
    """The encoder alone, as AutoModel loads it."""
    theirs = make(family, head, {})
    theirs.save_pretrained(tmp_path)
    compare(tmp_path, theirs.base_model, inputs(family, theirs.config, 20))


def test_next_sentence_prediction(tmp_path: Path) -> None:
    theirs = make("Bert", "ForNextSentencePrediction", {})
    theirs.save_pretrained(tmp_path)
    compare(tmp_path, theirs, inputs("Bert", theirs.config, 20))


@pytest.mark.parametrize("case", tiny_families.CASES)
@pytest.mark.parametrize("head", tiny_families.HEADS)
def test_the_oracle_of_the_golden_tests(tmp_path: Path, case: str, head: str) -> None:
    """NumPy's models are transformers' to the last digits, so that the tests without torch prove as much."""
    tiny_families.save_folder(tmp_path, case, head)
    name = tiny_families.class_name(case, head)
    theirs = getattr(transformers, name).from_pretrained(tmp_path, attn_implementation="eager").double().eval()
    ids, mask, types = tiny_families.batch(case)
    arguments = [torch.tensor(ids), torch.tensor(mask)]
    typed = {} if name.startswith(TYPELESS) else {"token_type_ids": torch.tensor(types)}
    with torch.no_grad():
        theirs_out = theirs(*arguments, **typed)
    exact = numpy_families.outputs(
        tiny_families.config(case, head), tiny_families.tensors(case, head), ids, mask, types
    )
    assert list(exact) == list(theirs_out.keys())
    for field, value in exact.items():
        where = mask == 1 if value.shape[:2] == mask.shape else mask[:, 0] == 1
        assert np.abs(theirs_out[field].numpy() - value)[where].max() <= 1e-11
