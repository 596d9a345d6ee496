# SPDX-License-Identifier: MIT
"""Whole encoders as the child processes of ``fastattn bench model`` run them: a folder, then batches of token ids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from fastattn.typing import WeightType

from . import NotOffered

__all__ = ["CONVERTERS", "LOADERS", "Loaded"]

Prepared = Callable[[], Any]


class Loaded:
    """A model that is ready: its library's version, and what makes a call from ids and mask (batch, sequence) int64.

    The call returns hidden states (batch, sequence, hidden), or what NumPy takes for such an array.
    """

    def __init__(self, version: str, prepare: Callable[[np.ndarray, np.ndarray], Prepared]) -> None:
        self.version = version
        self.prepare = prepare


def _fastattn(folder: Path, num_threads: int, dtype: str) -> Loaded:
    from fastattn import __version__, load

    model = load(folder, cast(WeightType, dtype), num_threads)

    def prepare(ids: np.ndarray, mask: np.ndarray) -> Prepared:
        return lambda: model(ids, mask).last_hidden_state

    return Loaded(__version__, prepare)


def _refuse(name: str, dtype: str, *offered: str) -> None:
    if dtype not in offered:
        raise NotOffered(f"{name} has no {dtype} on this CPU here")


def _torch_model(folder: Path) -> Any:
    import transformers  # type: ignore[import-not-found,unused-ignore]

    transformers.logging.set_verbosity_error()
    load = transformers.AutoModel.from_pretrained
    try:
        model = load(folder, attn_implementation="sdpa", local_files_only=True)
    except ValueError:  # a family with attention of its own, as DeBERTa
        model = load(folder, attn_implementation="eager", local_files_only=True)
    return model.eval().requires_grad_(False)


def _torch(folder: Path, num_threads: int, dtype: str) -> Loaded:
    """int8: weights per output, activations per tensor, quantised on the way. Half precision: the arithmetic, too."""
    import torch  # type: ignore[import-not-found,unused-ignore]

    torch.set_num_threads(num_threads)
    model = _torch_model(folder)
    if dtype == "int8":
        quantization = torch.ao.quantization
        model = quantization.quantize_dynamic(
            model, {torch.nn.Linear: quantization.per_channel_dynamic_qconfig}, dtype=torch.qint8
        )
    elif dtype != "float32":
        model = model.to(getattr(torch, dtype))

    def prepare(ids: np.ndarray, mask: np.ndarray) -> Prepared:
        tensors = torch.from_numpy(ids), torch.from_numpy(mask)

        def call() -> Any:
            with torch.inference_mode():
                return model(input_ids=tensors[0], attention_mask=tensors[1]).last_hidden_state.float()

        return call

    return Loaded(torch.__version__, prepare)


def _convert_onnxruntime(folder: Path, target: Path, dtype: str) -> None:
    import onnx  # type: ignore[import-not-found,unused-ignore]

    from .bert_onnx import bert_graph

    _refuse("onnxruntime", dtype, "float32", "int8")
    path = target / "model.onnx"
    onnx.save(bert_graph(folder), path)
    if dtype == "int8":
        from onnxruntime import quantization  # type: ignore[import-not-found,unused-ignore]

        # its own types of operators have no shape inference, so it has to be told what they give
        types = {"DefaultTensorType": onnx.TensorProto.FLOAT}
        quantization.quantize_dynamic(path, path, weight_type=quantization.QuantType.QInt8, extra_options=types)


def _onnxruntime(folder: Path, num_threads: int, dtype: str) -> Loaded:
    import onnxruntime  # type: ignore[import-not-found,unused-ignore]

    from .with_onnxruntime import session_of

    session = session_of(str(folder / "model.onnx"), num_threads)

    def prepare(ids: np.ndarray, mask: np.ndarray) -> Prepared:
        feed = {"input_ids": ids.astype(np.int32), "attention_mask": mask.astype(np.int32)}
        return lambda: session.run(None, feed)[0]

    return Loaded(onnxruntime.__version__, prepare)


def _convert_openvino(folder: Path, target: Path, dtype: str) -> None:
    import openvino  # type: ignore[import-not-found,unused-ignore]
    import torch

    _refuse("openvino", dtype, "float32", "int8", "bfloat16")
    model = _torch_model(folder)

    class Hidden(torch.nn.Module):  # type: ignore[misc,unused-ignore]
        def forward(self, ids: Any, mask: Any) -> Any:
            return model(input_ids=ids, attention_mask=mask).last_hidden_state

    example = torch.ones(2, 8, dtype=torch.int64)
    converted = openvino.convert_model(Hidden(), example_input=(example, example))
    if dtype == "int8":
        from .openvino_int8 import compress

        compress(converted)
    openvino.save_model(converted, target / "model.xml", compress_to_fp16=False)
    (target / "group").write_text(str(model.config.hidden_size))


def _openvino(folder: Path, num_threads: int, dtype: str) -> Loaded:
    import openvino

    from .with_openvino import compiled

    options: dict[str, Any] = {}
    if dtype == "int8":  # activations share a scale in groups of this size: the fastest that divides all products
        options["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = (folder / "group").read_text()
    precision = "bf16" if dtype == "bfloat16" else "f32"
    model = compiled(folder / "model.xml", num_threads, precision, **options)

    def prepare(ids: np.ndarray, mask: np.ndarray) -> Prepared:
        request = model.create_infer_request()
        return lambda: request.infer([ids, mask], share_inputs=True, share_outputs=True)[0]

    return Loaded(openvino.__version__, prepare)


def _convert_ctranslate2(folder: Path, target: Path, dtype: str) -> None:
    import ctranslate2  # type: ignore[import-not-found,unused-ignore]

    _refuse("ctranslate2", dtype, "float32", "int8")
    converter = ctranslate2.converters.TransformersConverter(str(folder))
    converter.convert(str(target), quantization="int8" if dtype == "int8" else None, force=True)


def _ctranslate2(folder: Path, num_threads: int, dtype: str) -> Loaded:
    import ctranslate2

    encoder = ctranslate2.Encoder(str(folder), device="cpu", compute_type=dtype, intra_threads=num_threads)

    def prepare(ids: np.ndarray, mask: np.ndarray) -> Prepared:
        rows = ctranslate2.StorageView.from_array(ids.astype(np.int32))
        lengths = ctranslate2.StorageView.from_array(mask.sum(axis=1).astype(np.int32))
        return lambda: encoder.forward_batch(rows, lengths).last_hidden_state

    return Loaded(ctranslate2.__version__, prepare)


LOADERS: dict[str, Callable[[Path, int, str], Loaded]] = {
    "fastattn": _fastattn,
    "torch": _torch,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "ctranslate2": _ctranslate2,
}
"""By name: loads the model of a folder for a number of threads, with weights of a type."""

CONVERTERS: dict[str, Callable[[Path, Path, str], None]] = {
    "onnxruntime": _convert_onnxruntime,
    "openvino": _convert_openvino,
    "ctranslate2": _convert_ctranslate2,
}
"""By name: writes the form a library reads, from a model folder to an empty one that its loader then gets."""
