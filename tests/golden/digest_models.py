# SPDX-License-Identifier: MIT
"""The models whose bits ``digests.py`` pins: every family with odd sizes, its variants, its heads; and their inputs.

Weights are integers of the hash of ``tiny_bert``, scaled by one multiplication (and moved by one addition) in float32:
the same bits with any NumPy on any machine.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import later_families, tiny_decoders, tiny_families, tiny_latent, tiny_moe, tiny_states
from .tiny_bert import Array, integers, save_safetensors, uniform

HEADS = {
    "none": "Model", "masked_lm": "ForMaskedLM", "sequence_classification": "ForSequenceClassification",
    "token_classification": "ForTokenClassification", "question_answering": "ForQuestionAnswering",
    "next_sentence": "ForNextSentencePrediction", "causal_lm": "ForCausalLM",
}  # fmt: skip
"""Name of a head -> the end of its class's name in transformers."""

_ALL = tuple(HEADS)[:-2]
_FEW = ("none", "masked_lm")


class Variant(NamedTuple):
    """A model of one of the makers of small folders, with other sizes."""

    case: str
    """Of ``tiny_families``, ``later_families`` or one of the makers of decoders."""
    changes: dict[str, Any]
    """Of its config.json."""
    heads: tuple[str, ...] = _FEW
    pooler: bool | None = None
    """Whether the encoder alone is stored with one; None: as its maker has it."""


_ODD = {"hidden_size": 48, "num_attention_heads": 3, "intermediate_size": 80, "vocab_size": 97,
        "max_position_embeddings": 140}  # fmt: skip
_NARROW = {**_ODD, "hidden_size": 33, "intermediate_size": 37}
_DISTIL = {"dim": 48, "n_heads": 3, "hidden_dim": 80, "vocab_size": 97, "max_position_embeddings": 140}
_NOMIC = {"n_embd": 48, "n_head": 3, "n_inner": 80, "vocab_size": 97, "n_positions": 140}

VARIANTS: dict[str, Variant] = {
    "bert": Variant("bert", _ODD, (*_ALL, "next_sentence")),
    "bert_narrow": Variant("bert", {**_NARROW, "hidden_act": "gelu_new", "num_hidden_layers": 3, "type_vocab_size": 3}),
    "bert_bare": Variant("bert", {**_ODD, "hidden_size": 52, "num_attention_heads": 2, "hidden_act": "silu"}, ("none",),
                         pooler=False),
    "bert_untied": Variant("bert", {**_ODD, "tie_word_embeddings": False}, ("masked_lm",)),
    "roberta": Variant("roberta", _ODD, _ALL),
    "roberta_types": Variant("roberta_types", {**_NARROW, "num_hidden_layers": 2}),
    "xlm-roberta": Variant("xlm-roberta", {**_ODD, "hidden_size": 40, "num_attention_heads": 5}, _ALL),
    "camembert": Variant("camembert", _ODD, _ALL),
    "distilbert": Variant("distilbert", _DISTIL, _ALL),
    "distilbert_relu": Variant("distilbert_relu", {**_DISTIL, "dim": 34, "n_heads": 1}),
    "electra": Variant("electra", {**_ODD, "embedding_size": 20}, _ALL),
    "electra_same_width": Variant("electra_same_width", {**_NARROW, "embedding_size": 33}),
    "albert": Variant("albert_groups", {**_ODD, "embedding_size": 20, "hidden_act": "gelu_new"}, _ALL),
    "albert_one": Variant("albert", {**_NARROW, "embedding_size": 33}),
    "mpnet": Variant("mpnet", _ODD, _ALL),
    "mpnet_buckets": Variant("mpnet", {**_NARROW, "relative_attention_num_buckets": 40}),
    "deberta": Variant("deberta", {**_ODD, "position_buckets": 16, "max_relative_positions": 48}, _ALL),
    "deberta_own": Variant("deberta_own", {**_NARROW, "embedding_size": 21}),
    "deberta_conv": Variant("deberta_conv", _ODD),
    "deberta_c2p": Variant("deberta_conv", {**_NARROW, "pos_att_type": ["c2p"], "share_att_key": False,
                                            "conv_kernel_size": 5, "conv_act": "gelu", "num_hidden_layers": 1}),
    "deberta_content": Variant("deberta", {**_ODD, "pos_att_type": []}, ("none",)),
    "deberta_newer_lm": Variant("deberta", {**_ODD, "legacy": False}, ("masked_lm",)),
    "modernbert": Variant("modernbert", {**_ODD, "local_attention": 16}, _ALL),
    "modernbert_biased": Variant("modernbert_biased", {**_ODD, "hidden_size": 42, "local_attention": 9}, _ALL),
    "nomic": Variant("nomic", _NOMIC, _ALL, pooler=True),
    "nomic_ungated": Variant("nomic_plain", _NOMIC),
    "nomic_stretched": Variant("nomic_stretched", {**_NOMIC, "n_embd": 42}),
    "nomic_transformers": Variant("gte", {**_ODD, "model_type": "nomic_bert", "hidden_act": "silu"}, _ALL, pooler=True),
    "new": Variant("new", _ODD, _ALL, pooler=True),
    "new_mixed": Variant("new_mixed", {**_ODD, "hidden_size": 42}),
    "new_apart": Variant("new_apart", _ODD),
    "gte": Variant("gte", _ODD, _ALL, pooler=True),
}  # fmt: skip
# Decoders: the plainest of each family, and those whose layers differ.
VARIANTS |= {
    name.replace(", ", "_").replace(" ", "_"): Variant(
        name, {tiny_decoders.positions_key(tiny_decoders.VARIANTS[name][0]): 140}, ("causal_lm",)
    )
    for name in (
        *tiny_decoders.BASE, "llama, biases, one key head", "llama, llama3", "mistral, a window of two, wide heads",
        "qwen2, layers by name", "qwen3, the last layer slides", "phi3, longrope, long", "smollm3, layers by name",
    )
}  # fmt: skip
VARIANTS |= {
    name.replace(", ", "_").replace(" ", "_"): Variant(
        name, {} if name.startswith("mamba2") else {"max_position_embeddings": 140}, ("causal_lm",)
    )
    for name in (
        *tiny_states.BASE, "lfm2, a convolution longer than any text", "mamba2, one layer, one group, biases, tied",
        "qwen3_next, layers by turns, some dense",
    )
}  # fmt: skip
VARIANTS |= {
    name.replace(", ", "_").replace(" ", "_"): Variant(name, {"max_position_embeddings": 140}, ("causal_lm",))
    for name in (*tiny_moe.BASE, *tiny_latent.BASE)
}
DECODERS: dict[str, Any] = {
    case: maker for maker in (tiny_decoders, tiny_states, tiny_moe, tiny_latent) for case in maker.VARIANTS
}
"""Case -> its maker."""
MODELS = [(name, head) for name, variant in VARIANTS.items() for head in variant.heads]
"""Every variant under each of its heads."""


def config(name: str, head: str) -> dict[str, Any]:
    """config.json of a variant under a head."""
    variant = VARIANTS[name]
    if variant.case in DECODERS:
        maker = DECODERS[variant.case]
        family, changes = maker.VARIANTS[variant.case]
        changes = {key: value for key, value in changes.items() if key != "dtype"}
        found: dict[str, Any] = maker.config(family, **{**changes, **variant.changes})
        return found
    module: Any = tiny_families if variant.case in tiny_families.CASES else later_families
    values: dict[str, Any] = module.config(variant.case, HEADS[head], **variant.changes)
    if values["model_type"] == "nomic_bert" and "hidden_size" in values:
        values["architectures"] = ["NomicBert" + HEADS[head]]
    return values


def tensors(name: str, head: str) -> dict[str, Array]:
    """Tensors of a variant under a head, by the names of transformers' files (or of those published)."""
    variant, c = VARIANTS[name], config(name, head)
    if variant.case in DECODERS:
        found: dict[str, Array] = DECODERS[variant.case].tensors(c)
        return found
    # The makers do not know these heads: they take the place of another one.
    added = head == "next_sentence" or (head == "masked_lm" and c.get("legacy") is False)
    suffix = HEADS["token_classification" if added else head]
    if variant.case in tiny_families.CASES:
        arrays = tiny_families.tensors(variant.case, suffix, **variant.changes)
    else:
        token = np.array([[3]])
        changes = {**variant.changes, "model_type": later_families.CASES[variant.case]["model_type"]}
        arrays = later_families.run(variant.case, suffix, token, token // token, 0 * token, **changes)[1]
    if c["model_type"] == "nomic_bert" and "hidden_size" in c:
        arrays = _as_nomic(arrays)
    shapes: dict[str, tuple[int, ...]] = {}
    if added:
        arrays = {key: array for key, array in arrays.items() if not key.startswith("classifier.")}
        shapes = _added_head(head, c)
    if head == "none" and variant.pooler is not None:
        arrays = {key: array for key, array in arrays.items() if not key.startswith("pooler.")}
        width = tiny_families.width(c) if "n_embd" not in c else c["n_embd"]
        shapes |= {"pooler.dense.weight": (width, width), "pooler.dense.bias": (width,)} if variant.pooler else {}
    return arrays | {key: _numbers(f"{name}/{key}", key, shape) for key, shape in shapes.items()}


def _numbers(seed: str, key: str, shape: tuple[int, ...]) -> Array:
    gain = 0.25 if len(shape) == 1 else math.sqrt(3 / shape[-1])
    return uniform(seed, shape) * np.float32(gain) + np.float32(key.endswith("LayerNorm.weight"))


def _added_head(head: str, c: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden = c["hidden_size"]
    if head == "next_sentence":
        below = "bert.pooler.dense"
        return {
            f"{below}.weight": (hidden, hidden), f"{below}.bias": (hidden,),
            "cls.seq_relationship.weight": (2, hidden), "cls.seq_relationship.bias": (2,),
        }  # fmt: skip
    below = "lm_predictions.lm_head."
    return {
        f"{below}dense.weight": (hidden, hidden), f"{below}dense.bias": (hidden,), f"{below}bias": (c["vocab_size"],),
        f"{below}LayerNorm.weight": (hidden,), f"{below}LayerNorm.bias": (hidden,),
    }  # fmt: skip


def _as_nomic(arrays: dict[str, Array]) -> dict[str, Array]:
    """GTE's tensors by the names of NomicBERT in transformers, which has the same layers but for their biases."""
    renamed = {}
    for key, array in arrays.items():
        name = f"nomic_bert.{key.removeprefix('gte.')}" if key.startswith("gte.") else key
        name = name.replace("lm_head.decoder", "cls.predictions").replace("lm_head.", "cls.predictions.transform.")
        if not name.endswith(("_proj.bias", "transform.dense.bias")):
            renamed[name] = array
    return renamed


def save_folder(folder: Path, name: str, head: str) -> dict[str, Array]:
    """Write config.json and model.safetensors of a variant under a head, and return the tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = tensors(name, head)
    (folder / "config.json").write_text(json.dumps(config(name, head)))
    save_safetensors(folder / "model.safetensors", arrays)
    return arrays


# ---- inputs ----------------------------------------------------------------------------------------------------------

Arguments = tuple[Array | None, ...]

SHAPES = {
    "one": (1, 1), "batch": (3, 7), "right": (4, 19), "left": (3, 19), "holes": (5, 23), "long": (1, 131),
    "long_holes": (2, 131), "groups": (5, 131),
}  # fmt: skip
"""Name of a case -> (B, S).

One token. A batch without a mask. Padding on the right, a row of nothing with it; on the left. Holes: any columns, the
first one there or not, a single token. More tokens than any window and than a block of keys; with holes longer than the
windows. More tokens than go through the layers together.
"""


def inputs(name: str, case: str) -> Arguments:
    """Token ids, mask or None, token types or None, for a case of a variant."""
    c, shape = config(name, "none"), SHAPES[case]
    ids = integers(f"{name}/{case}/ids", shape, c["vocab_size"])
    types = 1 if c["model_type"] == "mpnet" else c.get("type_vocab_size", 1)
    kinds = integers(f"{name}/{case}/types", shape, types) if types > 1 and case not in ("one", "batch") else None
    mask = _mask(case, shape)
    if mask is not None and "holes" not in case:
        ids[mask == 0] = c.get("pad_token_id", 0)
    elif case == "holes":
        ids[:, 4:6] = c.get("pad_token_id", 0)  # attended in some rows
    return ids, mask, kinds


def _mask(case: str, shape: tuple[int, int]) -> Array | None:
    if case in ("one", "batch", "long"):
        return None
    rows, columns = shape
    at = np.arange(columns)
    if case == "left":
        return (at >= np.array([[0], [7], [columns - 2]])).astype(np.int64)
    if "holes" not in case:
        lengths = {"right": [columns, 11, 1, 0], "groups": [131, 130, 97, 131, 64]}[case]
        return (at < np.array(lengths)[:, None]).astype(np.int64)
    mask = integers(f"{case}/mask", shape, 2)
    mask[:, 0] = [1, 0, 1, 1, 0][:rows]
    if case == "holes":
        mask[3, 5:20] = 0
        mask[4] = at == 9
    else:
        mask[0, 20:70] = 0
        mask[1, :60] |= at[:60] % 7 > 0
    return mask
