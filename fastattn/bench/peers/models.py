# SPDX-License-Identifier: MIT
"""Whole encoders as the child processes of ``fastattn bench model`` run them: a folder, then batches of token ids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["CONVERTERS", "LOADERS", "Loaded"]

Prepared = Callable[[], Any]


class Loaded:
    """A model that is ready: its library's version, and what makes a call from ids and mask (batch, sequence) int64.

    The call returns hidden states (batch, sequence, hidden), or what NumPy takes for such an array.
    """

    def __init__(self, version: str, prepare: Callable[[np.ndarray, np.ndarray], Prepared]) -> None:
        self.version = version
        self.prepare = prepare


def _fastattn(folder: Path, num_threads: int) -> Loaded:
    from fastattn import __version__, models

    model = models.load(folder, num_threads=num_threads)

    def prepare(ids: np.ndarray, mask: np.ndarray) -> Prepared:
        return lambda: model(ids, mask).last_hidden_state

    return Loaded(__version__, prepare)


def _torch_model(folder: Path) -> Any:
    import transformers  # type: ignore[import-not-found,unused-ignore]

    transformers.logging.set_verbosity_error()
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="sdpa", local_files_only=True)
    return model.eval().requires_grad_(False)


def _torch(folder: Path, num_threads: int) -> Loaded:
    import torch  # type: ignore[import-not-found,unused-ignore]

    torch.set_num_threads(num_threads)
    model = _torch_model(folder)

    def prepare(ids: np.ndarray, mask: np.ndarray) -> Prepared:
        tensors = torch.from_numpy(ids), torch.from_numpy(mask)

        def call() -> Any:
            with torch.inference_mode():
                return model(input_ids=tensors[0], attention_mask=tensors[1]).last_hidden_state

        return call

    return Loaded(torch.__version__, prepare)


def _convert_onnxruntime(folder: Path, target: Path) -> None:
    import onnx  # type: ignore[import-not-found,unused-ignore]

    from .bert_onnx import bert_graph

    onnx.save(bert_graph(folder), target / "model.onnx")


def _onnxruntime(folder: Path, num_threads: int) -> Loaded:
    import onnxruntime  # type: ignore[import-not-found,unused-ignore]

    from .with_onnxruntime import session_of

    session = session_of(str(folder / "model.onnx"), num_threads)

    def prepare(ids: np.ndarray, mask: np.ndarray) -> Prepared:
        feed = {"input_ids": ids.astype(np.int32), "attention_mask": mask.astype(np.int32)}
        return lambda: session.run(None, feed)[0]

    return Loaded(onnxruntime.__version__, prepare)


def _convert_openvino(folder: Path, target: Path) -> None:
    import openvino  # type: ignore[import-not-found,unused-ignore]
    import torch

    model = _torch_model(folder)

    class Hidden(torch.nn.Module):  # type: ignore[misc,unused-ignore]
        def forward(self, ids: Any, mask: Any) -> Any:
            return model(input_ids=ids, attention_mask=mask).last_hidden_state

    example = torch.ones(2, 8, dtype=torch.int64)
    converted = openvino.convert_model(Hidden(), example_input=(example, example))
    openvino.save_model(converted, target / "model.xml", compress_to_fp16=False)


def _openvino(folder: Path, num_threads: int) -> Loaded:
    import openvino

    from .with_openvino import compiled

    request = compiled(folder / "model.xml", num_threads).create_infer_request()

    def prepare(ids: np.ndarray, mask: np.ndarray) -> Prepared:
        return lambda: request.infer([ids, mask], share_inputs=True, share_outputs=True)[0]

    return Loaded(openvino.__version__, prepare)


def _convert_ctranslate2(folder: Path, target: Path) -> None:
    import ctranslate2  # type: ignore[import-not-found,unused-ignore]

    ctranslate2.converters.TransformersConverter(str(folder)).convert(str(target), force=True)


def _ctranslate2(folder: Path, num_threads: int) -> Loaded:
    import ctranslate2

    encoder = ctranslate2.Encoder(str(folder), device="cpu", compute_type="float32", intra_threads=num_threads)

    def prepare(ids: np.ndarray, mask: np.ndarray) -> Prepared:
        rows = ctranslate2.StorageView.from_array(ids.astype(np.int32))
        lengths = ctranslate2.StorageView.from_array(mask.sum(axis=1).astype(np.int32))
        return lambda: encoder.forward_batch(rows, lengths).last_hidden_state

    return Loaded(ctranslate2.__version__, prepare)


LOADERS: dict[str, Callable[[Path, int], Loaded]] = {
    "fastattn": _fastattn,
    "torch": _torch,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "ctranslate2": _ctranslate2,
}
"""By name: loads the model of a folder for a number of threads."""

CONVERTERS: dict[str, Callable[[Path, Path], None]] = {
    "onnxruntime": _convert_onnxruntime,
    "openvino": _convert_openvino,
    "ctranslate2": _convert_ctranslate2,
}
"""By name: writes the form a library reads, from a model folder to an empty one that its loader then gets."""
