# SPDX-License-Identifier: MIT
"""``fastattn bench model --families``: every family, random weights of base size, beside what else runs it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fastattn.models.registry import FAMILIES

from .child import ChildError
from .model import Field
from .random_model import RANDOM, write_folder
from .shapes import ModelCase
from .timing import Plan

__all__ = ["CASES", "CONFIGS", "run"]

CASES = (
    ModelCase("1x16", (16,)),
    ModelCase("1x128", (128,)),
    ModelCase("8-mixed-8..127", (8, 11, 17, 26, 41, 64, 93, 127)),
)
"""The batches each family runs."""

_VOCABULARY = 8192  # what is looked up costs nothing; a small file is made sooner
_BERT = {**RANDOM["bert-base"], "vocab_size": _VOCABULARY}
_ROBERTA = {**_BERT, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1}


def _other(base: dict[str, Any], model_type: str, architecture: str, **changes: Any) -> dict[str, Any]:
    return {**base, "model_type": model_type, "architectures": [architecture], **changes}


CONFIGS: dict[str, dict[str, Any]] = {
    "bert": _BERT,
    "roberta": _other(_ROBERTA, "roberta", "RobertaModel"),
    "xlm-roberta": _other(_ROBERTA, "xlm-roberta", "XLMRobertaModel"),
    "camembert": _other(_ROBERTA, "camembert", "CamembertModel"),
    "distilbert": {
        "model_type": "distilbert", "architectures": ["DistilBertModel"], "vocab_size": _VOCABULARY, "dim": 768,
        "n_layers": 6, "n_heads": 12, "hidden_dim": 3072, "max_position_embeddings": 512, "activation": "gelu",
        "pad_token_id": 0, "sinusoidal_pos_embds": False,
    },
    "electra": _other(_BERT, "electra", "ElectraModel", embedding_size=768),
    "albert": _other(
        _BERT, "albert", "AlbertModel", embedding_size=128, num_hidden_groups=1, inner_group_num=1,
        hidden_act="gelu_new",
    ),
    "mpnet": _other(_ROBERTA, "mpnet", "MPNetModel", relative_attention_num_buckets=32),
    "deberta-v2": _other(
        _BERT, "deberta-v2", "DebertaV2Model", type_vocab_size=0, layer_norm_eps=1e-7, relative_attention=True,
        max_relative_positions=-1, position_buckets=256, norm_rel_ebd="layer_norm", share_att_key=True,
        pos_att_type=["p2c", "c2p"], position_biased_input=False,
    ),
    "modernbert": {
        "model_type": "modernbert", "architectures": ["ModernBertModel"], "vocab_size": _VOCABULARY, "hidden_size": 768,
        "num_hidden_layers": 22, "num_attention_heads": 12, "intermediate_size": 1152, "hidden_activation": "gelu",
        "max_position_embeddings": 8192, "norm_eps": 1e-5, "norm_bias": False, "attention_bias": False,
        "mlp_bias": False, "local_attention": 128, "global_attn_every_n_layers": 3, "global_rope_theta": 160000.0,
        "local_rope_theta": 10000.0, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1,
        "sep_token_id": 2,
    },
    "nomic_bert": _other(
        _BERT, "nomic_bert", "NomicBertModel", hidden_act="silu", max_position_embeddings=2048, rope_theta=1000.0
    ),
    "gte": _other(
        _BERT, "gte", "GteModel", type_vocab_size=1, max_position_embeddings=8192, rope_theta=160000.0, pad_token_id=1,
        position_embedding_type="rope",
    ),
}  # fmt: skip
"""Family -> config.json of its base size (vocabularies are small)."""


def run(
    families: Sequence[str],
    peers: Sequence[str],
    num_threads: int,
    plan: Plan,
    dtype: str = "float32",
    cpu_time: bool = False,
) -> Iterator[dict[str, Any]]:
    """Rows as ``fastattn bench model`` has them, named "family case"; for a family that is not supported, or whose
    random model does not load, one row with name and error."""  # fmt: skip
    for family in families:
        if CONFIGS[family]["model_type"] not in FAMILIES:
            yield {"name": family, "error": "not supported by this version"}
            continue
        try:
            with tempfile.TemporaryDirectory(prefix="fastattn-") as folder:
                write_folder(Path(folder), CONFIGS[family])
                with Field(Path(folder), peers, num_threads, dtype, cpu_time) as field:
                    for row in field.run(CASES, plan):
                        yield {**row, "name": f"{family} {row['name']}"}
        except (ChildError, ValueError) as error:
            yield {"name": family, "error": str(error)}
