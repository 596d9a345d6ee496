# SPDX-License-Identifier: MIT
"""A BERT encoder as an ONNX graph of ONNX Runtime's fused operators, the form its own optimiser aims at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper  # type: ignore[import-not-found,unused-ignore]

from fastattn.loaders import open_weights

from . import NotOffered

__all__ = ["bert_graph"]

_DOMAIN = "com.microsoft"


def bert_graph(folder: Path) -> Any:
    """The model of a folder: input_ids, attention_mask, both int32 (batch, sequence) -> last_hidden_state.

    Raises:
        NotOffered: the folder holds another architecture.
    """
    config = json.loads((folder / "config.json").read_text("utf-8"))
    if config.get("model_type") != "bert" or config.get("hidden_act") != "gelu":
        raise NotOffered("the graph is built here for BERT with GELU alone")
    with_weights = _Builder(folder, int(config["num_attention_heads"]), float(config["layer_norm_eps"]))
    return with_weights.model(int(config["num_hidden_layers"]))


class _Builder:
    def __init__(self, folder: Path, heads: int, epsilon: float) -> None:
        self._weights = open_weights(folder)
        self._prefix = "bert." if "bert.embeddings.LayerNorm.weight" in self._weights else ""
        self._heads, self._epsilon = heads, epsilon
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def _weight(self, name: str) -> np.ndarray:
        return self._weights.as_float32(self._prefix + name)

    def _constant(self, name: str, array: np.ndarray) -> str:
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def _named(self, name: str) -> str:
        return self._constant(name, self._weight(name))

    def _node(self, kind: str, inputs: list[str], output: str, domain: str = _DOMAIN, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(kind, inputs, [output], domain=domain, **attributes))
        return output

    def _matmul(self, x: str, name: str) -> str:
        weight = self._constant(f"{name}.weight", self._weight(f"{name}.weight").T)
        return self._node("MatMul", [x, weight], f"{name}.product", domain="")

    def _norm(self, x: str, skip: str, name: str, bias: str, output: str) -> str:
        inputs = [x, skip, self._named(f"{name}.weight"), self._named(f"{name}.bias"), self._named(bias)]
        return self._node("SkipLayerNormalization", inputs, output, epsilon=self._epsilon)

    def _embeddings(self) -> str:
        names = ("word_embeddings", "position_embeddings", "token_type_embeddings")
        tables = [self._named(f"embeddings.{name}.weight") for name in names]
        norm = [self._named(f"embeddings.LayerNorm.{name}") for name in ("weight", "bias")]
        inputs = ["input_ids", "token_type_ids", *tables, *norm]
        types = self._constant("zero", np.zeros((), np.int32))
        self._node("Mul", ["input_ids", types], "token_type_ids", domain="")
        outputs = ["embedded", "embedded_mask"]
        node = helper.make_node("EmbedLayerNormalization", inputs, outputs, domain=_DOMAIN, epsilon=self._epsilon)
        self._nodes.append(node)
        return "embedded"

    def _layer(self, x: str, index: int) -> str:
        at = f"encoder.layer.{index}"
        parts = [f"{at}.attention.self.{name}" for name in ("query", "key", "value")]
        weight = self._constant(f"{at}.qkv", np.concatenate([self._weight(f"{p}.weight").T for p in parts], axis=1))
        bias = self._constant(f"{at}.qkv_bias", np.concatenate([self._weight(f"{p}.bias") for p in parts]))
        mixed = self._node("Attention", [x, weight, bias, "attention_mask"], f"{at}.mixed", num_heads=self._heads)
        out = f"{at}.attention.output"
        x = self._norm(self._matmul(mixed, f"{out}.dense"), x, f"{out}.LayerNorm", f"{out}.dense.bias", f"{at}.middle")
        wide = self._matmul(x, f"{at}.intermediate.dense")
        wide = self._node("BiasGelu", [wide, self._named(f"{at}.intermediate.dense.bias")], f"{at}.wide")
        out = f"{at}.output"
        return self._norm(self._matmul(wide, f"{out}.dense"), x, f"{out}.LayerNorm", f"{out}.dense.bias", f"{at}.out")

    def model(self, layers: int) -> Any:
        x = self._embeddings()
        for index in range(layers):
            x = self._layer(x, index)
        self._node("Identity", [x], "last_hidden_state", domain="")
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT32, ["batch", "sequence"])
            for name in ("input_ids", "attention_mask")
        ]
        shape = ["batch", "sequence", "hidden"]
        outputs = [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, shape)]
        graph = helper.make_graph(self._nodes, "bert", inputs, outputs, self._constants)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid(_DOMAIN, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)
