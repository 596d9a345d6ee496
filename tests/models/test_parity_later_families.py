# SPDX-License-Identifier: MIT
"""DeBERTa-v2, ModernBERT, NomicBERT and GTE beside transformers: random models as save_pretrained writes them.

Run with ``pytest -m parity`` where torch and transformers are installed; elsewhere ``test_later_families`` stands in.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden.tiny_bert import integers

import fastattn as fa
from fastattn.attention import distance_columns

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

Array = np.ndarray[Any, Any]

BASE: dict[str, Any] = {
    "vocab_size": 90, "hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": 3, "intermediate_size": 70,
    "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "DebertaV2": {
        "relative_attention": True, "position_buckets": 8, "max_relative_positions": 24, "norm_rel_ebd": "layer_norm",
        "share_att_key": True, "pos_att_type": "p2c|c2p", "position_biased_input": False, "type_vocab_size": 0,
    },
    "ModernBert": {
        "num_hidden_layers": 5, "local_attention": 10, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1,
        "sep_token_id": 2,
    },
    "NomicBert": {},
    "Gte": {"type_vocab_size": 2},
}  # fmt: skip
HEADS = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
NO_ANSWERS = ("NomicBert", "Gte")
TYPELESS = ("ModernBert",)

SHAPES: dict[str, dict[str, Any]] = {
    "one layer of one head, tiny vocabulary": {"hidden_size": 6, "num_attention_heads": 1, "intermediate_size": 7,
                                               "num_hidden_layers": 1, "vocab_size": 4},
    "heads of 2": {"hidden_size": 24, "num_attention_heads": 12, "intermediate_size": 1},
    "heads of 10": {"hidden_size": 30, "num_attention_heads": 3, "intermediate_size": 33},
    "heads of 24": {"hidden_size": 72, "num_attention_heads": 3, "intermediate_size": 130},
    "long": {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "max_position_embeddings": 650},
    "wide": {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536, "num_hidden_layers": 2},
}  # fmt: skip

NTK = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 500.0}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("DebertaV2", {"share_att_key": False}),
    ("DebertaV2", {"share_att_key": False, "pos_att_type": ["c2p"]}),
    ("DebertaV2", {"share_att_key": False, "pos_att_type": "p2c"}),
    ("DebertaV2", {"pos_att_type": ["c2p"]}),
    ("DebertaV2", {"pos_att_type": None}),
    ("DebertaV2", {"position_buckets": -1}),
    ("DebertaV2", {"position_buckets": -1, "max_relative_positions": -1}),
    ("DebertaV2", {"position_buckets": 7, "max_relative_positions": 40, "norm_rel_ebd": "none"}),
    ("DebertaV2", {"position_buckets": 256, "max_relative_positions": 512, "max_position_embeddings": 512}),
    ("DebertaV2", {"relative_attention": False}),
    ("DebertaV2", {"relative_attention": False, "pos_att_type": None, "position_biased_input": True}),
    ("DebertaV2", {"position_biased_input": True, "type_vocab_size": 3, "embedding_size": 20}),
    ("DebertaV2", {"hidden_size": 15, "num_attention_heads": 3, "hidden_act": "gelu_new"}),
    ("DebertaV2", {"hidden_size": 7, "num_attention_heads": 7, "num_hidden_layers": 1}),
    ("DebertaV2", {"conv_kernel_size": 3, "conv_act": "gelu"}),
    ("DebertaV2", {"conv_kernel_size": 5, "num_hidden_layers": 1}),
    ("DebertaV2", {"pooler_hidden_act": "tanh", "layer_norm_eps": 1e-5}),
    ("DebertaV2", {"max_position_embeddings": 1400, "num_attention_heads": 16, "hidden_size": 64}),
    ("ModernBert", {"norm_bias": True, "attention_bias": True, "mlp_bias": True, "classifier_bias": True}),
    ("ModernBert", {"classifier_pooling": "mean", "classifier_activation": "silu", "hidden_activation": "gelu_new"}),
    ("ModernBert", {"decoder_bias": False, "local_attention": 1}),
    ("ModernBert", {"layer_types": ["sliding_attention"] * 5, "local_attention": 7}),
    ("ModernBert", {"layer_types": ["full_attention"] * 2, "num_hidden_layers": 2}),
    ("ModernBert", {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 3.0, "rope_theta": 99.0},
                                        "sliding_attention": {"rope_type": "default", "rope_theta": 70.0}}}),
    ("NomicBert", {"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 100.0}}),
    ("NomicBert", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1000.0,
                                       "original_max_position_embeddings": 16}}),
    ("NomicBert", {"hidden_act": "gelu", "type_vocab_size": 1}),
    ("Gte", {"type_vocab_size": 0}),
    ("Gte", {"hidden_act": "relu", "rope_parameters": {"rope_type": "default", "rope_theta": 20.0}}),
]  # fmt: skip
PEAKED = ("q_proj.weight", "k_proj.weight", "query_proj.weight", "key_proj.weight")


def make(family: str, head: str, sizes: dict[str, Any]) -> Any:
    """A random model of transformers; queries and keys scaled up, without which softmax is nearly flat."""
    options = {**BASE, **OWN[family], "num_labels": 2 if head == "ForQuestionAnswering" else 4, **sizes}
    if family == "ModernBert" and "layer_types" not in sizes:
        options["num_hidden_layers"] = max(options["num_hidden_layers"], 2)
    if options["vocab_size"] < 5:
        options |= {key: 0 for key in options if key.endswith("_token_id")}
    torch.manual_seed(7)
    theirs = getattr(transformers, family + head)(getattr(transformers, family + "Config")(**options)).eval()
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            gain = 110 / weight.shape[-1] ** 0.5
            if name.endswith(PEAKED):
                weight *= gain
            elif name.endswith("Wqkv.weight"):
                weight[: len(weight) * 2 // 3] *= gain
            elif name.endswith("bias") or "norm" in name.lower():
                weight += torch.randn_like(weight) * 0.2  # made as zeros and ones, which hide a mistake
            elif "layer" not in name:
                weight *= 3.0  # embeddings and heads
    theirs.tie_weights()
    return theirs


def inputs(family: str, config: Any, columns: int) -> dict[str, Array]:
    """Rows: whole, padded on the right, padded on the left, with holes, whole."""
    arrays = {"input_ids": integers(f"{family}/ids", (5, columns), config.vocab_size)}
    mask = integers(f"{family}/mask", (5, columns), 2)
    mask[0] = mask[4] = 1
    mask[1] = np.arange(columns) < (columns + 1) // 2
    mask[2] = np.arange(columns) >= columns // 3
    mask[3, 0] = 1
    arrays["attention_mask"] = mask
    if family not in TYPELESS:
        limit = getattr(config, "type_vocab_size", 1) or 1
        arrays["token_type_ids"] = integers(f"{family}/types", (5, columns), limit)
    return arrays


def compare(folder: Path, theirs: Any, arrays: dict[str, Array]) -> None:
    """Every output of the model saved in ``folder`` within 2e-5 of ``theirs`` in double precision.

    Some random models magnify rounding so much that transformers in float32 is further off than that: there, at most
    twice as far as it.
    """
    tensors = {name: torch.tensor(array) for name, array in arrays.items()}
    with torch.no_grad():
        single = theirs.float()(**tensors)
        exact = theirs.double()(**tensors)
        theirs.float()
    got = fa.load(folder)(*arrays.values())._asdict()
    assert [name for name in got if got[name] is not None] == list(exact.keys())
    mask = arrays["attention_mask"] == 1
    for name, value in exact.items():
        assert got[name].shape == tuple(value.shape)
        where = mask if value.ndim > 1 and value.shape[:2] == mask.shape else mask[:, 0]
        if getattr(theirs.config, "classifier_pooling", "cls") == "mean" and value.ndim == 2:
            where = mask.any(axis=1)
        error = float(np.abs(got[name][where] - value.numpy()[where]).max())
        assert error <= max(2e-5, 2 * float(np.abs(single[name].numpy()[where] - value.numpy()[where]).max())), name


@pytest.mark.parametrize("family", OWN)
@pytest.mark.parametrize("shape", SHAPES)
def test_encoders(tmp_path: Path, family: str, shape: str) -> None:
    theirs = make(family, "Model", SHAPES[shape])
    theirs.save_pretrained(tmp_path)
    for columns in (theirs.config.max_position_embeddings, 1):
        compare(tmp_path, theirs, inputs(family, theirs.config, columns))


@pytest.mark.parametrize(("family", "head"), [(f, h) for f in OWN for h in HEADS[1:]])
def test_heads(tmp_path: Path, family: str, head: str) -> None:
    if family in NO_ANSWERS and head == "ForQuestionAnswering":
        pytest.skip("transformers has no such class")
    theirs = make(family, head, {})
    theirs.save_pretrained(tmp_path)
    compare(tmp_path, theirs, inputs(family, theirs.config, 33))
    assert fa.load(tmp_path).head is not None


@pytest.mark.parametrize(("family", "sizes"), VARIANTS)
@pytest.mark.parametrize("head", ["Model", "ForSequenceClassification"])
def test_variants(tmp_path: Path, family: str, sizes: dict[str, Any], head: str) -> None:
    theirs = make(family, head, sizes)
    theirs.save_pretrained(tmp_path)
    compare(tmp_path, theirs, inputs(family, theirs.config, theirs.config.max_position_embeddings))


@pytest.mark.parametrize("family", OWN)
@pytest.mark.parametrize("sizes", [{"tie_word_embeddings": False}, {"legacy": False}, {"embedding_size": 20}])
def test_language_models(tmp_path: Path, family: str, sizes: dict[str, Any]) -> None:
    if family != "DebertaV2" and "tie_word_embeddings" not in sizes:
        pytest.skip("a key of DeBERTa's")
    theirs = make(family, "ForMaskedLM", sizes)
    theirs.save_pretrained(tmp_path)
    compare(tmp_path, theirs, inputs(family, theirs.config, 33))


@pytest.mark.parametrize("family", ["NomicBert", "Gte"])
def test_frequencies_that_depend_on_the_length(tmp_path: Path, family: str) -> None:
    """A sequence goes by its own length, transformers by that of the batch: the same where all are of one length."""
    theirs = make(family, "Model", {"rope_parameters": NTK, "max_position_embeddings": 20})
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["rope_parameters"]["original_max_position_embeddings"] = 20
    config["max_position_embeddings"] = 64
    (tmp_path / "config.json").write_text(json.dumps(config))
    for columns in (20, 21, 57, 8):
        arrays = inputs(family, theirs.config, columns)
        arrays["attention_mask"][:] = 1
        compare(tmp_path, theirs, arrays)


def test_buckets_of_distances() -> None:
    from transformers.models.deberta_v2.modeling_deberta_v2 import build_relative_position

    for buckets, furthest in ((256, 512), (32, 128), (4, 9), (5, 9), (2, 9), (3, 20), (64, 512), (320, 640), (250, 512),
                              (128, 2048), (256, 1024), (32, 33), (32, 18), (48, 100), (512, 1024)):  # fmt: skip
        row = torch.zeros(1, 700, 1)
        theirs = build_relative_position(row, row, buckets, furthest)[0]
        columns = distance_columns(699, buckets, furthest)
        at = np.arange(700)
        expected = torch.clamp(theirs + buckets, 0, 2 * buckets - 1).numpy()
        assert np.array_equal(columns[at[:, None] - at[None, :] + 699], expected), (buckets, furthest)
