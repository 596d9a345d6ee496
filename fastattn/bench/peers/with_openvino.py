# SPDX-License-Identifier: MIT
"""OpenVINO's CPU plugin on graphs of one operator, tensors shared with the arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino  # type: ignore[import-not-found,unused-ignore]
from openvino import opset13

from fastattn.bench.inputs import additive, boolean, widened

from . import Form, NotOffered, Peer

if TYPE_CHECKING:
    from fastattn.bench.attention_shapes import AttentionCase
    from fastattn.bench.inputs import Inputs
    from fastattn.bench.shapes import LinearCase

__all__ = ["OpenVinoPeer", "compiled"]

_HINTS = {"float32": ("f32",), "float16": ("f16", "f32"), "bfloat16": ("bf16", "f32")}


def compiled(model: Any, num_threads: int, precision: str = "f32", **more: Any) -> Any:
    """The model for the CPU: float32 (left alone it takes bfloat16 where there is hardware for it), so many threads."""
    options = {"INFERENCE_NUM_THREADS": num_threads, "PERFORMANCE_HINT": "LATENCY", **more}
    return openvino.Core().compile_model(model, "CPU", {**options, "INFERENCE_PRECISION_HINT": precision})


class OpenVinoPeer(Peer):
    """ScaledDotProductAttention and MatMul of opset 13."""

    name = "openvino"

    def __init__(self, num_threads: int) -> None:
        super().__init__(num_threads)
        self.version = openvino.__version__

    def attention(self, case: AttentionCase, sets: Sequence[Inputs]) -> list[Form]:
        """Grouped heads are broadcast inside the graph, as models exported from elsewhere have it, and for a single
        query as rows of one head; masks boolean and additive; int8 keys and values as float32, made once.

        Arithmetic in the storage type, where the plugin has it, and in float32.
        """
        if case.softcap is not None or case.sinks:
            raise NotOffered("ScaledDotProductAttention has neither a soft cap nor sinks")
        first = sets[0]
        plain = first.mask is None and first.slopes is None and first.blocks is None and case.window is None
        triangle = plain and case.causal and case.sq == case.sk
        seen, added = (None, None) if triangle else (boolean(first), additive(first))
        masks = [("", added)] if added is None or seen is None else [(", additive mask", added)]
        if seen is not None and first.slopes is None and (first.mask is None or first.mask.dtype == bool):
            masks.append((", boolean mask", seen))
        heads = ["broadcast heads", "groups as rows"] if case.heads != case.kv_heads else [""]
        return [
            self._form(case, sets, mask, title, how, precision, triangle)
            for title, mask in masks
            for how in (heads if case.sq == 1 else heads[:1])
            for precision in _HINTS[case.dtype]
        ]

    def _form(
        self, case: AttentionCase, sets: Sequence[Inputs], mask: np.ndarray | None, title: str, how: str,
        precision: str, triangle: bool,
    ) -> Form:  # fmt: skip
        def make() -> Callable[[int], Any]:
            return self._sdpa(case, sets, mask, how == "groups as rows", precision, triangle)

        name = ", ".join(filter(None, ["sdpa", how, precision])) + title
        return Form(name, make, lambda out: widened(out).reshape(case.batch, case.heads, case.sq, case.dv))

    def _sdpa(
        self, case: AttentionCase, sets: Sequence[Inputs], mask: np.ndarray | None, as_rows: bool, precision: str,
        triangle: bool,
    ) -> Callable[[int], Any]:  # fmt: skip
        def rows(array: np.ndarray) -> np.ndarray:
            if not as_rows or array.shape[1] == 1:
                return array
            return array.reshape(array.shape[0], case.kv_heads, -1, array.shape[-1])

        arrays = [[rows(s.q), s.float_kv[0], s.dense_v] for s in sets]
        parameters = [opset13.parameter(array.shape, _type(array)) for array in arrays[0]]
        extra = {}
        if mask is not None:
            full = np.broadcast_to(mask, (*mask.shape[:2], case.sq, case.sk))
            full = np.array(full, mask.dtype, order="C")  # its own: the plugin insists on memory it may write to
            parameters.append(opset13.parameter(rows(full).shape, _type(full)))
            extra["attention_mask"] = parameters[-1]
            if mask.dtype != bool and case.dtype != "float32":
                extra["attention_mask"] = opset13.convert(parameters[-1], _type(arrays[0][0]))
            for each in arrays:
                each.append(rows(full))
        q, k, v = parameters[:3]
        if not as_rows:
            k, v = _wide(k, case, case.d), _wide(v, case, case.dv)
        node = opset13.scaled_dot_product_attention(q, k, v, causal=triangle, **extra)
        model = compiled(openvino.Model([node], parameters), self.num_threads, precision)
        out = rows(sets[0].out)
        return _runner([_request(model, each, out) for each in arrays], out)

    def linear(self, case: LinearCase, x: Any, weights: Sequence[Any], out: Any) -> list[Callable[[int], Any]]:
        """MatMul with constant weights, which the plugin packs; one compiled model per set of weights."""
        if case.dtype != "float32":
            raise NotOffered(f"{case.dtype} weights")
        requests = []
        for weight in weights:
            rows = opset13.parameter(x.shape, np.float32)
            node = opset13.matmul(rows, opset13.constant(weight, shared_memory=True), False, True)
            requests.append(_request(compiled(openvino.Model([node], [rows]), self.num_threads), [x], out))
        return [_runner(requests, out)]


def _type(array: np.ndarray) -> Any:
    return openvino.Type.bf16 if array.dtype == np.uint16 else openvino.Type(array.dtype)


def _wide(node: Any, case: AttentionCase, features: int) -> Any:
    group = case.heads // case.kv_heads
    if group == 1:
        return node
    shape = (case.batch, case.kv_heads, group, case.sk, features)
    axis = opset13.unsqueeze(node, np.int64(2))
    repeated = opset13.broadcast(axis, np.array(shape, np.int64))
    return opset13.reshape(repeated, np.array((case.batch, case.heads, case.sk, features), np.int64), False)


def _tensor(array: np.ndarray) -> Any:
    if array.dtype == np.uint16:
        return openvino.Tensor(array, array.shape, openvino.Type.bf16)
    return openvino.Tensor(array, shared_memory=True)


def _request(model: Any, arrays: Sequence[np.ndarray], out: np.ndarray) -> tuple[Any, Sequence[np.ndarray]]:
    """A request on the arrays' memory, with the arrays: a shared tensor only knows where they are."""
    request = model.create_infer_request()
    for index, array in enumerate(arrays):
        request.set_input_tensor(index, _tensor(array))
    request.set_output_tensor(0, _tensor(out))
    return request, arrays


def _runner(requests: Sequence[tuple[Any, Sequence[np.ndarray]]], out: np.ndarray) -> Callable[[int], Any]:
    def call(index: int) -> np.ndarray:
        requests[index][0].infer()
        return out

    return call
