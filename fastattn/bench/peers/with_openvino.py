# SPDX-License-Identifier: MIT
"""OpenVINO's CPU plugin on graphs of one operator, in float32, tensors shared with the arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino  # type: ignore[import-not-found,unused-ignore]
from openvino import opset13

from . import Peer

if TYPE_CHECKING:
    from fastattn.bench.attention import Inputs
    from fastattn.bench.shapes import AttentionCase, LinearCase

__all__ = ["OpenVinoPeer", "compiled"]


def compiled(model: Any, num_threads: int) -> Any:
    """The model for the CPU: float32 (left alone it takes bfloat16 where there is hardware for it), so many threads."""
    options = {"INFERENCE_NUM_THREADS": num_threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    return openvino.Core().compile_model(model, "CPU", options)


class OpenVinoPeer(Peer):
    """ScaledDotProductAttention and MatMul of opset 13."""

    name = "openvino"

    def __init__(self, num_threads: int) -> None:
        super().__init__(num_threads)
        self.version = openvino.__version__

    def attention(self, case: AttentionCase, sets: Sequence[Inputs]) -> list[Callable[[int], Any]]:
        """Grouped heads are broadcast inside the graph, as models exported from elsewhere have it."""
        first = sets[0]
        q, k, v = (opset13.parameter(array.shape, np.float32) for array in (first.q, first.k, first.v))
        mask = first.mask
        triangle = case.causal and case.sq == case.sk
        if case.causal and not triangle:
            mask = np.tril(np.ones((case.sq, case.sk), bool), case.sk - case.sq)
        parameters, extra = [q, k, v], {}
        if mask is not None:
            mask = np.broadcast_to(mask, (*mask.shape[:-2], case.sq, case.sk)).copy()
            parameters.append(opset13.parameter(mask.shape, mask.dtype))
            extra["attention_mask"] = parameters[-1]
        node = opset13.scaled_dot_product_attention(q, _wide(k, case), _wide(v, case), causal=triangle, **extra)
        model = compiled(openvino.Model([node], parameters), self.num_threads)
        requests = [_request(model, [s.q, s.k, s.v, *([] if mask is None else [mask])], s.out) for s in sets]
        return [_runner(requests, first.out)]

    def linear(self, case: LinearCase, x: Any, weights: Sequence[Any], out: Any) -> list[Callable[[int], Any]]:
        """MatMul with constant weights, which the plugin packs; one compiled model per set of weights."""
        requests = []
        for weight in weights:
            rows = opset13.parameter(x.shape, np.float32)
            node = opset13.matmul(rows, opset13.constant(weight, shared_memory=True), False, True)
            requests.append(_request(compiled(openvino.Model([node], [rows]), self.num_threads), [x], out))
        return [_runner(requests, out)]


def _wide(node: Any, case: AttentionCase) -> Any:
    group = case.heads // case.kv_heads
    if group == 1:
        return node
    shape = (case.batch, case.kv_heads, group, case.sk, case.d)
    axis = opset13.unsqueeze(node, np.int64(2))
    repeated = opset13.broadcast(axis, np.array(shape, np.int64))
    return opset13.reshape(repeated, np.array((case.batch, case.heads, case.sk, case.d), np.int64), False)


def _request(model: Any, arrays: Sequence[np.ndarray], out: np.ndarray) -> tuple[Any, Sequence[np.ndarray]]:
    """A request on the arrays' memory, with the arrays: a shared tensor only knows where they are."""
    request = model.create_infer_request()
    for index, array in enumerate(arrays):
        request.set_input_tensor(index, openvino.Tensor(array, shared_memory=True))
    request.set_output_tensor(0, openvino.Tensor(out, shared_memory=True))
    return request, arrays


def _runner(requests: Sequence[tuple[Any, Sequence[np.ndarray]]], out: np.ndarray) -> Callable[[int], Any]:
    def call(index: int) -> np.ndarray:
        requests[index][0].infer()
        return out

    return call
