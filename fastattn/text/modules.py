# SPDX-License-Identifier: MIT
"""The modules of a sentence-transformers folder that stand behind the pooling, with their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import ops
from ..loaders.files import ModelFiles
from ..weights import PackedLinear, pack_linear
from .jsonkeys import OptionalJson
from .vectors import Module, VectorSettings

if TYPE_CHECKING:
    from ..loaders import WeightFile

__all__ = ["VectorHead"]

Floats = np.ndarray[Any, np.dtype[np.float32]]

# Class of torch.nn -> activation of ops.linear.
_ACTIVATIONS = {
    "Tanh": "tanh", "Identity": None, "ReLU": "relu", "GELU": "gelu", "Sigmoid": "sigmoid", "SiLU": "silu",
}  # fmt: skip
_LAYER_NORM_EPS = 1e-5  # of torch.nn.LayerNorm, which sentence-transformers does not change


class _Dense(NamedTuple):
    layer: PackedLinear
    activation: str | None
    residual: PackedLinear | None
    """Added to the result: a product of the input, or with ``skip`` the input itself."""
    skip: bool

    def apply(self, x: Floats, num_threads: int | None) -> Floats:
        y: Floats = ops.linear(x, self.layer, activation=self.activation, num_threads=num_threads)
        if self.skip or self.residual is not None:
            other = x if self.residual is None else ops.linear(x, self.residual, num_threads=num_threads)
            rows = np.arange(len(x))
            y = ops.embedding([y, np.ascontiguousarray(other)], [rows, rows], num_threads=num_threads)
        return y


class _LayerNorm(NamedTuple):
    weight: Floats
    bias: Floats

    def apply(self, x: Floats, num_threads: int | None) -> Floats:
        return ops.layer_norm(x, self.weight, self.bias, _LAYER_NORM_EPS, num_threads=num_threads)


class _Normalize:
    def apply(self, x: Floats, num_threads: int | None) -> Floats:
        return ops.l2_normalize(x, num_threads=num_threads)


class VectorHead:
    """From hidden states to sentence vectors: pooling and what follows it, all of it in float32.

    Parameters
    ----------
    files
        The files of the model.
    settings
        What they say.
    hidden_size
        Width of hidden states.

    Raises
    ------
    FileNotFoundError
        A module has no config.json or no weights.
    ValueError
        A file is damaged; widths do not follow from each other; an activation or an option is not supported.
    """

    def __init__(self, files: ModelFiles, settings: VectorSettings, hidden_size: int) -> None:
        self._settings = settings
        self.pooled_size = hidden_size * len(settings.pooling)
        """Width of what pooling gives."""
        self.size = self.pooled_size
        """Width of a sentence vector before any truncation."""
        self._steps: list[_Dense | _LayerNorm | _Normalize] = []
        for module in settings.modules:
            if module.kind == "Dense":
                step, self.size = _read_dense(files, module, self.size)
                self._steps.append(step)
            elif module.kind == "LayerNorm":
                self._steps.append(_read_layer_norm(files, module, self.size))
            else:
                self._steps.append(_Normalize())

    def apply(
        self,
        hidden: Floats,
        cu_seqlens: Any,
        *,
        prompt_tokens: int = 0,
        dim: int | None = None,
        normalize: bool = False,
        num_threads: int | None = None,
    ) -> Floats:
        """Vectors (n, dim) of packed sequences (T, H), whose first ``prompt_tokens`` tokens are a prompt.

        ``dim`` cuts vectors before they are scaled to length 1 by ``normalize``.
        """
        skip = 0 if self._settings.include_prompt else prompt_tokens
        modes, width = self._settings.pooling, hidden.shape[1]
        x: Floats = np.empty((len(cu_seqlens) - 1, self.pooled_size), np.float32)
        for i, mode in enumerate(modes):
            part = x[:, i * width : (i + 1) * width]
            ops.pool(hidden, cu_seqlens, mode, skip=skip, out=part, num_threads=num_threads)
        for step in self._steps:
            x = step.apply(x, num_threads)
        if dim is not None and dim < self.size:
            x = np.ascontiguousarray(x[:, :dim])
        return ops.l2_normalize(x, num_threads=num_threads) if normalize else x


def _read_dense(files: ModelFiles, module: Module, inputs: int) -> tuple[_Dense, int]:
    config = _config(files, module)
    for key in ("module_input_name", "module_output_name"):
        config.choice(key, ("sentence_embedding",))
    outputs, has_bias = config.size("out_features"), config.flag("bias", True)
    if config.size("in_features") != inputs:
        raise config.wrong("in_features", f"{inputs}, the width of what comes before")
    name = config.values.get("activation_function", "torch.nn.modules.activation.Tanh")
    if not isinstance(name, str) or not name.startswith("torch.") or name.rpartition(".")[2] not in _ACTIVATIONS:
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
        _ACTIVATIONS[name.rpartition(".")[2]],
        None if projection is None else pack_linear(projection),
        residual and projection is None,
    )
    return step, outputs


def _read_layer_norm(files: ModelFiles, module: Module, inputs: int) -> _LayerNorm:
    config = _config(files, module)
    if config.size("dimension") != inputs:
        raise config.wrong("dimension", f"{inputs}, the width of what comes before")
    arrays = _weights(files, module, {"norm.weight": (inputs,), "norm.bias": (inputs,)})
    return _LayerNorm(arrays["norm.weight"], arrays["norm.bias"])


def _config(files: ModelFiles, module: Module) -> OptionalJson:
    name = f"{module.folder}/config.json"
    if not files.has(name):
        raise FileNotFoundError(
            f"{files.describe(name)}: modules.json names this {module.kind} module, but it does not exist"
        )
    return OptionalJson(files, name)


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
