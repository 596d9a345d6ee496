# SPDX-License-Identifier: MIT
"""Small folders of BERT's relatives, with and without a head; weights from the integer hash of ``tiny_bert``.

Tensors are named and left out as transformers' save_pretrained does it: a prefix before everything below a head, no
pooler where a head has no use for one, no decoder where it is the table of word embeddings.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from .tiny_bert import Array, integers, save_safetensors, uniform

Shapes = dict[str, tuple[int, ...]]

_COMMON: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 28, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 50,
    "max_position_embeddings": 40, "type_vocab_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-5,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
_ROBERTA = {**_COMMON, "type_vocab_size": 1}
_MPNET = {key: value for key, value in _COMMON.items() if key != "type_vocab_size"}
_DISTILBERT: dict[str, Any] = {
    "vocab_size": 60, "dim": 30, "n_layers": 2, "n_heads": 6, "hidden_dim": 44, "max_position_embeddings": 40,
    "activation": "gelu", "pad_token_id": 0,
}  # fmt: skip
_PROJECTED = {**_COMMON, "embedding_size": 12, "pad_token_id": 0, "layer_norm_eps": 1e-12}

# Heads of 5, 7 and 24, one layer, other activations; "gain" scales queries and keys, so that softmax has peaks.
CASES: dict[str, dict[str, Any]] = {
    "bert": {**_COMMON, "model_type": "bert", "pad_token_id": 0, "gain": 2.0},
    "roberta": {**_ROBERTA, "model_type": "roberta", "gain": 2.0},
    "roberta_types": {**_ROBERTA, "model_type": "roberta", "type_vocab_size": 3, "hidden_size": 24,
                      "num_attention_heads": 1, "num_hidden_layers": 1, "hidden_act": "relu", "pad_token_id": 0},
    "xlm-roberta": {**_ROBERTA, "model_type": "xlm-roberta", "hidden_size": 20, "gain": 2.0},
    "camembert": {**_ROBERTA, "model_type": "camembert", "hidden_size": 24, "hidden_act": "gelu_new", "gain": 2.0},
    "distilbert": {**_DISTILBERT, "model_type": "distilbert", "gain": 2.0},
    "distilbert_relu": {**_DISTILBERT, "model_type": "distilbert", "n_layers": 1, "n_heads": 1, "activation": "relu",
                        "sinusoidal_pos_embds": True},
    "electra": {**_PROJECTED, "model_type": "electra", "gain": 2.0},
    "electra_same_width": {**_PROJECTED, "model_type": "electra", "embedding_size": 28, "hidden_act": "silu"},
    "albert": {**_PROJECTED, "model_type": "albert", "num_hidden_layers": 3, "hidden_act": "gelu_new", "gain": 2.0,
               "num_hidden_groups": 1, "inner_group_num": 1},
    "albert_groups": {**_PROJECTED, "model_type": "albert", "num_hidden_layers": 5, "num_hidden_groups": 2,
                      "inner_group_num": 2, "hidden_size": 20, "embedding_size": 20},
    "mpnet": {**_MPNET, "model_type": "mpnet", "relative_attention_num_buckets": 32, "gain": 2.0},
    "mpnet_long": {**_MPNET, "model_type": "mpnet", "relative_attention_num_buckets": 32, "hidden_size": 20,
                   "max_position_embeddings": 700, "vocab_size": 9, "num_hidden_layers": 1},
}  # fmt: skip

_CLASSES = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta", "camembert": "Camembert",
            "distilbert": "DistilBert", "electra": "Electra", "albert": "Albert", "mpnet": "MPNet"}  # fmt: skip
_BELOW_HEADS = {"xlm-roberta": "roberta", "camembert": "roberta"}
HEADS = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
_HAVE_POOLER = {"bert", "roberta", "xlm-roberta", "camembert", "albert", "mpnet"}
_POOLER_BELOW_CLASSIFIER = {"bert", "albert"}

_BERT_LAYER = {
    "query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value",
    "mix": "attention.output.dense", "first_norm": "attention.output.LayerNorm", "up": "intermediate.dense",
    "down": "output.dense", "last_norm": "output.LayerNorm",
}  # fmt: skip
LAYERS = {
    "bert": _BERT_LAYER, "roberta": _BERT_LAYER, "xlm-roberta": _BERT_LAYER, "camembert": _BERT_LAYER,
    "electra": _BERT_LAYER,
    "distilbert": {
        "query": "attention.q_lin", "key": "attention.k_lin", "value": "attention.v_lin", "mix": "attention.out_lin",
        "first_norm": "sa_layer_norm", "up": "ffn.lin1", "down": "ffn.lin2", "last_norm": "output_layer_norm",
    },
    "albert": {
        "query": "attention.query", "key": "attention.key", "value": "attention.value", "mix": "attention.dense",
        "first_norm": "attention.LayerNorm", "up": "ffn", "down": "ffn_output", "last_norm": "full_layer_layer_norm",
    },
    "mpnet": {
        "query": "attention.attn.q", "key": "attention.attn.k", "value": "attention.attn.v", "mix": "attention.attn.o",
        "first_norm": "attention.LayerNorm", "up": "intermediate.dense", "down": "output.dense",
        "last_norm": "output.LayerNorm",
    },
}  # fmt: skip
"""What the parts of a layer are called, by family."""


def class_name(case: str, head: str) -> str:
    """transformers' class: ``RobertaForMaskedLM``."""
    return _CLASSES[CASES[case]["model_type"]] + head


def config(case: str, head: str = "Model", **changes: Any) -> dict[str, Any]:
    """config.json of a case under a head."""
    values = {key: value for key, value in CASES[case].items() if key != "gain"}
    values["architectures"] = [class_name(case, head)]
    labels = 2 if head == "ForQuestionAnswering" else 3
    values["id2label"] = {str(i): f"label {i}" for i in range(labels)}
    values["label2id"] = {f"label {i}": i for i in range(labels)}
    return {**values, **changes}


def layer_prefixes(c: dict[str, Any]) -> list[str]:
    """The stored layers in the order in which they run, ALBERT's as often as they do."""
    if c["model_type"] == "albert":
        count, groups = c["num_hidden_layers"], c["num_hidden_groups"]
        return [
            f"encoder.albert_layer_groups.{int(i / (count / groups))}.albert_layers.{j}."
            for i in range(count)
            for j in range(c["inner_group_num"])
        ]
    if c["model_type"] == "distilbert":
        return [f"transformer.layer.{i}." for i in range(c["n_layers"])]
    return [f"encoder.layer.{i}." for i in range(c["num_hidden_layers"])]


def width(c: dict[str, Any]) -> int:
    """Of the hidden states."""
    return c["dim"] if "dim" in c else c["hidden_size"]


def _backbone(c: dict[str, Any], pooler: bool) -> Shapes:
    family, hidden = c["model_type"], width(c)
    inner = c["hidden_dim"] if "dim" in c else c["intermediate_size"]
    narrow = c.get("embedding_size", hidden)
    shapes: Shapes = {}

    def linear(name: str, outputs: int, inputs: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs), (outputs,)

    def norm(name: str, size: int) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (size,)

    shapes["embeddings.word_embeddings.weight"] = (c["vocab_size"], narrow)
    shapes["embeddings.position_embeddings.weight"] = (c["max_position_embeddings"], narrow)
    if family not in ("distilbert", "mpnet"):
        shapes["embeddings.token_type_embeddings.weight"] = (c["type_vocab_size"], narrow)
    norm("embeddings.LayerNorm", narrow)
    if family == "electra" and narrow != hidden:
        linear("embeddings_project", hidden, narrow)
    if family == "albert":
        linear("encoder.embedding_hidden_mapping_in", hidden, narrow)
    if family == "mpnet":
        shapes["encoder.relative_attention_bias.weight"] = (
            c["relative_attention_num_buckets"], c["num_attention_heads"],
        )  # fmt: skip
    names = LAYERS[family]
    for prefix in layer_prefixes(c):
        for part in ("query", "key", "value", "mix"):
            linear(prefix + names[part], hidden, hidden)
        norm(prefix + names["first_norm"], hidden)
        linear(prefix + names["up"], inner, hidden)
        linear(prefix + names["down"], hidden, inner)
        norm(prefix + names["last_norm"], hidden)
    if pooler:
        linear("pooler" if family == "albert" else "pooler.dense", hidden, hidden)
    return shapes


# A language model's head: its dense layer, its norm, its decoder, the decoder's bias where it is tied.
LM_HEADS = {
    "bert": ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.decoder",
             "cls.predictions.bias"),
    "roberta": ("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias"),
    "distilbert": ("vocab_transform", "vocab_layer_norm", "vocab_projector", "vocab_projector.bias"),
    "electra": ("generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head",
                "generator_lm_head.bias"),
    "albert": ("predictions.dense", "predictions.LayerNorm", "predictions.decoder", "predictions.bias"),
}  # fmt: skip
LM_HEADS |= dict.fromkeys(("xlm-roberta", "camembert", "mpnet"), LM_HEADS["roberta"])

# Dense layers from the state of the first token to the logits.
CLASSIFIERS = {
    "bert": ("classifier",), "albert": ("classifier",), "distilbert": ("pre_classifier", "classifier"),
} | dict.fromkeys(("roberta", "xlm-roberta", "camembert", "electra", "mpnet"),
                  ("classifier.dense", "classifier.out_proj"))  # fmt: skip


def _head(c: dict[str, Any], head: str) -> Shapes:
    family, hidden, labels = c["model_type"], width(c), len(c["id2label"])
    shapes: Shapes = {}
    if head == "ForMaskedLM":
        dense, norm, decoder, bias = LM_HEADS[family]
        narrow = c.get("embedding_size", hidden)
        shapes |= {f"{dense}.weight": (narrow, hidden), f"{dense}.bias": (narrow,)}
        shapes |= {f"{norm}.weight": (narrow,), f"{norm}.bias": (narrow,), bias: (c["vocab_size"],)}
        if not c.get("tie_word_embeddings", True):
            shapes |= {f"{decoder}.weight": (c["vocab_size"], narrow), f"{decoder}.bias": (c["vocab_size"],)}
    elif head == "ForSequenceClassification":
        *before, last = CLASSIFIERS[family]
        for name in before:
            shapes |= {f"{name}.weight": (hidden, hidden), f"{name}.bias": (hidden,)}
        shapes |= {f"{last}.weight": (labels, hidden), f"{last}.bias": (labels,)}
    elif head in ("ForTokenClassification", "ForQuestionAnswering"):
        name = "classifier" if head == "ForTokenClassification" else "qa_outputs"
        shapes |= {f"{name}.weight": (labels, hidden), f"{name}.bias": (labels,)}
    return shapes


def prefix(family: str) -> str:
    """What stands before the names of the backbone under a head."""
    return _BELOW_HEADS.get(family, family) + "."


def tensors(case: str, head: str = "Model", **changes: Any) -> dict[str, Array]:
    """Weights by the names of transformers' files."""
    c = config(case, head, **changes)
    family = c["model_type"]
    pooler = family in _HAVE_POOLER and head == "Model"
    pooler |= family in _POOLER_BELOW_CLASSIFIER and head == "ForSequenceClassification"
    below = "" if head == "Model" else prefix(family)
    shapes = {below + name: shape for name, shape in _backbone(c, pooler).items()} | _head(c, head)
    gain = CASES[case].get("gain", 1.0)
    peaked = tuple(f"{LAYERS[family][part]}.weight" for part in ("query", "key"))

    def numbers(name: str, shape: tuple[int, ...]) -> Array:
        values = uniform(f"{case}/{name.removeprefix(below)}", shape)
        if "norm" in name.lower():
            return values * np.float32(0.5) + np.float32(name.endswith("weight"))
        if len(shape) == 1:
            return values * np.float32(0.25)
        if "embeddings.weight" in name or "relative" in name:
            return values * np.float32(1.0 if "word" in name or "relative" in name else 0.5)
        return values * np.float32(math.sqrt(3 / shape[1]) * (gain if name.endswith(peaked) else 1.0))

    return {name: numbers(name, shape) for name, shape in shapes.items()}


def save_folder(folder: Path, case: str, head: str = "Model", **changes: Any) -> Path:
    """Write config.json and model.safetensors, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(case, head, **changes)))
    save_safetensors(folder / "model.safetensors", tensors(case, head, **changes))
    return folder


def batch(case: str) -> tuple[Array, Array, Array]:
    """Token ids, attention mask and token types (6, S).

    The rows: whole, padded on the right, on the left, with holes, a single token in the middle, and one that holds the
    padding token where it is attended and others where it is not.
    """
    c = CASES[case]
    columns = 600 if case.endswith("long") else 19
    shape = (6, columns)
    ids = integers(f"{case}/ids", shape, c["vocab_size"])
    types = integers(f"{case}/types", shape, c.get("type_vocab_size", 1))
    mask = np.ones(shape, np.int64)
    mask[1, columns // 2 :] = 0
    mask[2, : columns // 3] = 0
    mask[3] = integers(f"{case}/mask", (columns,), 2)
    mask[3, 0] = 1
    mask[4] = 0
    mask[4, columns // 2] = 1
    pad = c["pad_token_id"]
    ids[(mask == 0) & (np.arange(6) < 3)[:, None]] = pad
    ids[5, 3:6] = pad
    mask[5, 7:9] = 0
    return ids, mask, types
