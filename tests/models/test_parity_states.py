# SPDX-License-Identifier: MIT
"""hidden_states and attentions beside transformers: random models of every family, with eager attention.

Run with ``pytest -m parity`` where torch and transformers are installed; elsewhere ``test_states`` stands in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden.tiny_bert import integers

import fastattn as fa

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

Array = np.ndarray[Any, Any]

BASE: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 24, "num_attention_heads": 4, "num_hidden_layers": 4, "intermediate_size": 30,
    "max_position_embeddings": 40, "pad_token_id": 0,
}  # fmt: skip
DEBERTA: dict[str, Any] = {
    "relative_attention": True, "position_buckets": 8, "max_relative_positions": 24, "norm_rel_ebd": "layer_norm",
    "share_att_key": True, "pos_att_type": "p2c|c2p", "position_biased_input": False, "type_vocab_size": 0,
}  # fmt: skip
MODERN: dict[str, Any] = {
    "local_attention": 10, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2,
}  # fmt: skip
FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("Bert", {}),
    ("Roberta", {"pad_token_id": 1}),
    ("XLMRoberta", {"pad_token_id": 1}),
    ("Camembert", {"pad_token_id": 1}),
    ("DistilBert", {}),
    ("Electra", {"embedding_size": 12}),
    ("Albert", {"embedding_size": 12}),
    ("Albert", {"embedding_size": 12, "num_hidden_groups": 2, "inner_group_num": 3}),
    ("MPNet", {"pad_token_id": 1}),
    ("DebertaV2", DEBERTA),
    ("DebertaV2", {**DEBERTA, "conv_kernel_size": 3, "share_att_key": False, "pos_att_type": "c2p"}),
    ("DebertaV2", {**DEBERTA, "relative_attention": False, "position_biased_input": True, "type_vocab_size": 2}),
    ("ModernBert", MODERN),
    ("ModernBert", {**MODERN, "num_hidden_layers": 1}),
    ("NomicBert", {}),
    ("Gte", {}),
]
TYPELESS = ("DistilBert", "MPNet", "ModernBert", "DebertaV2")
PEAKED = ("query.weight", "key.weight", "q_lin.weight", "k_lin.weight", "attn.q.weight", "attn.k.weight",
          "q_proj.weight", "k_proj.weight", "query_proj.weight", "key_proj.weight")  # fmt: skip


def make(family: str, head: str, sizes: dict[str, Any]) -> Any:
    """A random model of transformers; queries and keys scaled up, without which softmax is nearly flat."""
    options = {**BASE, **sizes}
    if family == "DistilBert":
        other = {"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers",
                 "intermediate_size": "hidden_dim"}  # fmt: skip
        options = {other.get(key, key): value for key, value in options.items()}
    config = getattr(transformers, family + "Config")(**options)
    config._attn_implementation = "eager"
    torch.manual_seed(7)
    theirs = getattr(transformers, family + head)(config).eval()
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            gain = 110 / weight.shape[-1] ** 0.5
            if name.endswith(PEAKED):
                weight *= gain
            elif name.endswith("Wqkv.weight"):
                weight[: len(weight) * 2 // 3] *= gain
            elif name.endswith("bias") or "norm" in name.lower():
                weight += torch.randn_like(weight) * 0.2
    theirs.tie_weights()
    return theirs


@pytest.mark.parametrize("head", ["Model", "ForTokenClassification", "ForMaskedLM"])
@pytest.mark.parametrize(("family", "sizes"), FAMILIES)
def test_every_layer(tmp_path: Path, family: str, sizes: dict[str, Any], head: str) -> None:
    """As many as transformers has, in its order: the last hidden states behind a final norm, if there is one."""
    theirs = make(family, head, sizes)
    theirs.save_pretrained(tmp_path)
    ids = integers(f"{family}/ids", (4, 21), 57) + 3
    mask = np.ones_like(ids)
    # No padding further from a token than local attention sees: there transformers has NaN, which spreads.
    mask[1, 16:], mask[2, :5] = 0, 0
    mask[3] = np.arange(21) % 3 != 1
    arrays = {"input_ids": ids, "attention_mask": mask}
    if family not in TYPELESS:
        arrays["token_type_ids"] = integers(f"{family}/types", ids.shape, getattr(theirs.config, "type_vocab_size", 1))
    asked = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        single = theirs(**{name: torch.tensor(array) for name, array in arrays.items()}, **asked)
        exact = theirs.double()(**{name: torch.tensor(array) for name, array in arrays.items()}, **asked)
    out = fa.load(tmp_path)(*arrays.values(), **asked)
    seen = mask == 1
    pairs = np.broadcast_to((seen[:, :, None] & seen[:, None, :])[:, None], exact.attentions[0].shape)
    names = [name for name in exact if name != "cross_attentions"]
    assert [name for name in out._fields if name in names] == names
    for name, where in (("hidden_states", seen), ("attentions", pairs)):
        ours = getattr(out, name)
        assert len(ours) == len(exact[name])
        for mine, value, rounded in zip(ours, exact[name], single[name], strict=True):
            assert mine.shape == tuple(value.shape)
            far = float(np.abs(rounded.numpy() - value.numpy())[where].max())
            assert np.abs(mine - value.numpy())[where].max() <= max(2e-5, 2 * far)
            assert not mine[~where].any()
