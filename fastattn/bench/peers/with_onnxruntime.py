# SPDX-License-Identifier: MIT
"""ONNX Runtime on graphs of one operator, built here; inputs and outputs are bound to the arrays' memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime  # type: ignore[import-not-found,unused-ignore]
from onnx import TensorProto, helper, numpy_helper  # type: ignore[import-not-found,unused-ignore]

from . import NotOffered, Peer

if TYPE_CHECKING:
    from fastattn.bench.attention import Inputs
    from fastattn.bench.shapes import AttentionCase, LinearCase

__all__ = ["OnnxRuntimePeer", "session_of"]

_OPSET = 23  # the first with Attention
_ELEMENT = {"float32": TensorProto.FLOAT, "bool": TensorProto.BOOL, "int64": TensorProto.INT64}


def session_of(model: str | bytes, num_threads: int) -> onnxruntime.InferenceSession:
    """A session on the CPU for a file or a serialised model, with all graph optimisations and so many threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class OnnxRuntimePeer(Peer):
    """The standard's own Attention and MatMul."""

    name = "onnxruntime"

    def __init__(self, num_threads: int) -> None:
        super().__init__(num_threads)
        self.version = onnxruntime.__version__

    def attention(self, case: AttentionCase, sets: Sequence[Inputs]) -> list[Callable[[int], Any]]:
        """Attention of opset 23; an additive mask where the causal one would have to be aligned at the bottom right."""
        first = sets[0]
        arrays = [{"q": s.q, "k": s.k, "v": s.v} for s in sets]
        mask = first.mask
        if case.causal and case.sq != case.sk:
            mask = np.tril(np.ones((case.sq, case.sk), bool), case.sk - case.sq)
        if mask is not None:
            mask = np.broadcast_to(mask, (*mask.shape[:-2], case.sq, case.sk)).copy()
            for named in arrays:
                named["mask"] = mask
        node = helper.make_node("Attention", [*arrays[0]], ["out"], is_causal=int(case.causal and case.sq == case.sk))
        return [self._bound([node], arrays, first.out, [])]

    def linear(self, case: LinearCase, x: Any, weights: Sequence[Any], out: Any) -> list[Callable[[int], Any]]:
        """MatMul with constant weights, which the session packs; one session per set of weights."""
        if len(weights) * case.weight_bytes > 1 << 30:
            raise NotOffered("its sessions copy the weights")
        node = helper.make_node("MatMul", ["x", "w"], ["out"])
        calls = [
            self._bound([node], [{"x": x}], out, [numpy_helper.from_array(np.ascontiguousarray(weight.T), "w")])
            for weight in weights
        ]
        return [lambda i: calls[i](0)]

    def _bound(
        self, nodes: list[Any], arrays: Sequence[dict[str, np.ndarray]], out: np.ndarray, constants: list[Any]
    ) -> Callable[[int], Any]:
        inputs = [helper.make_tensor_value_info(name, _ELEMENT[a.dtype.name], a.shape) for name, a in arrays[0].items()]
        outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, out.shape)]
        graph = helper.make_graph(nodes, "one", inputs, outputs, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)
        session = session_of(model.SerializeToString(), self.num_threads)
        bindings = []  # each with its arrays: a binding knows only where they are
        for named in arrays:
            binding = session.io_binding()
            for name, array in named.items():
                binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
            binding.bind_output("out", "cpu", 0, out.dtype, out.shape, out.ctypes.data)
            bindings.append((binding, named))

        def call(index: int) -> np.ndarray:
            session.run_with_iobinding(bindings[index][0])
            return out

        return call
