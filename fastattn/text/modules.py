# SPDX-License-Identifier: MIT
"""The modules of a sentence-transformers folder that stand behind the pooling, with their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..loaders.files import ModelFiles
from ..weights import PackedLinear, pack_linear
from .chain import Module
from .jsonkeys import OptionalJson
from .sidefiles import DENSE, LAYER_NORM, Key, check_keys
from .stconfig import torch_class
from .vectors import check_input

if TYPE_CHECKING:
    from ..graph.graph import Graph, Value
    from ..loaders import WeightFile
    from ..typing import Activation

__all__ = ["Step", "read_steps"]

Floats = np.ndarray[Any, np.dtype[np.float32]]

# Class of torch.nn -> activation of ops.linear.
_ACTIVATIONS: dict[str, Activation | None] = {
    "Tanh": "tanh", "Identity": None, "ReLU": "relu", "GELU": "gelu", "Sigmoid": "sigmoid", "SiLU": "silu",
}  # fmt: skip
_LAYER_NORM_EPS = 1e-5  # of torch.nn.LayerNorm, which sentence-transformers does not change


class _Dense(NamedTuple):
    layer: PackedLinear
    activation: Activation | None
    residual: PackedLinear | None
    """Added to the result: a product of the input, or with ``skip`` the input itself."""
    skip: bool

    def record(self, graph: Graph, x: Value) -> Value:
        y = graph.product(x, self.layer, self.activation)
        if self.skip or self.residual is not None:
            y = y + (x if self.residual is None else graph.product(x, self.residual))
        return y


class _LayerNorm(NamedTuple):
    weight: Floats
    bias: Floats

    def record(self, graph: Graph, x: Value) -> Value:
        return graph.norm(x, self.weight, self.bias, _LAYER_NORM_EPS)


class _Normalize:
    def record(self, graph: Graph, x: Value) -> Value:
        return graph.normalize(x)


Step = _Dense | _LayerNorm | _Normalize
"""Has ``record(graph, x)``: (n, inputs) -> (n, outputs)."""


def read_steps(files: ModelFiles, modules: Sequence[Module], size: int) -> tuple[list[Step], int]:
    """What ``modules`` do to vectors of ``size``, in their order, and the width of what the last of them gives.

    Raises
    ------
    FileNotFoundError
        A module has no config.json or no weights.
    ValueError
        A file is damaged; widths do not follow from each other; an activation or an option is not supported.
    """
    steps: list[Step] = []
    for module in modules:
        if module.kind == "Dense":
            step, size = _read_dense(files, module, size)
            steps.append(step)
        elif module.kind == "LayerNorm":
            steps.append(_read_layer_norm(files, module, size))
        else:
            steps.append(_Normalize())
    return steps, size


def _read_dense(files: ModelFiles, module: Module, inputs: int) -> tuple[_Dense, int]:
    config = _config(files, module, DENSE)
    check_input(config)
    outputs, has_bias = config.size("out_features"), config.flag("bias", True)
    if config.size("in_features") != inputs:
        raise config.wrong("in_features", f"{inputs}, the width of what comes before")
    activation = torch_class(config.values.get("activation_function", "torch.nn.modules.activation.Tanh"))
    if activation not in _ACTIVATIONS:
        names = ", ".join(_ACTIVATIONS)
        raise config.wrong("activation_function", f"one of torch's {names}")
    shapes: dict[str, tuple[int, ...]] = {"linear.weight": (outputs, inputs)}
    if has_bias:
        shapes["linear.bias"] = (outputs,)
    residual = config.flag("use_residual")
    if residual and inputs != outputs:
        shapes["residual.weight"] = (outputs, inputs)
    arrays = _weights(files, module, shapes)
    projection = arrays.get("residual.weight")
    step = _Dense(
        pack_linear(arrays["linear.weight"], arrays.get("linear.bias")),
        _ACTIVATIONS[activation],
        None if projection is None else pack_linear(projection),
        residual and projection is None,
    )
    return step, outputs


def _read_layer_norm(files: ModelFiles, module: Module, inputs: int) -> _LayerNorm:
    config = _config(files, module, LAYER_NORM)
    if config.size("dimension") != inputs:
        raise config.wrong("dimension", f"{inputs}, the width of what comes before")
    arrays = _weights(files, module, {"norm.weight": (inputs,), "norm.bias": (inputs,)})
    return _LayerNorm(arrays["norm.weight"], arrays["norm.bias"])


def _config(files: ModelFiles, module: Module, table: Mapping[str, Key]) -> OptionalJson:
    name = f"{module.folder}/config.json"
    if not files.has(name):
        raise FileNotFoundError(
            f"{files.describe(name)}: modules.json names this {module.kind} module, but it does not exist"
        )
    config = OptionalJson(files, name)
    check_keys(config.values, table, config.path, closed=True)
    return config


def _weights(files: ModelFiles, module: Module, shapes: Mapping[str, Sequence[int]]) -> dict[str, Floats]:
    """The tensors of a module as float32 arrays of their own."""
    name = f"{module.folder}/model.safetensors"
    if not files.has(name):
        hint = ""
        if files.has(f"{module.folder}/pytorch_model.bin"):
            hint = (
                "; pytorch_model.bin is a pickle, which can run any code and is not read: saving the model with "
                "sentence-transformers (save_pretrained) writes model.safetensors"
            )
        raise FileNotFoundError(f"{files.describe(name)}: the weights of a {module.kind} module are missing{hint}")
    weights: WeightFile = files.open_weights(name)
    missing = [key for key in shapes if key not in weights]
    unknown = [key for key in weights if key not in shapes]
    if missing or unknown:
        what = f"has no tensor {missing[0]!r}" if missing else f"has a tensor {unknown[0]!r} that has no place"
        raise ValueError(f"{files.describe(name)}: {what}; expected {', '.join(shapes)}")
    result = {}
    for key, shape in shapes.items():
        if tuple(weights.shape(key)) != tuple(shape):
            raise ValueError(
                f"{files.describe(name)}: tensor {key!r} has shape {list(weights.shape(key))}, expected {list(shape)} "
                "as config.json says"
            )
        result[key] = np.array(weights.as_float32(key), np.float32, order="C")
    return result
