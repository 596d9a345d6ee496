# SPDX-License-Identifier: MIT
"""ONNX Runtime on graphs of one operator, built here; inputs and outputs are bound to the arrays' memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime  # type: ignore[import-not-found,unused-ignore]
from onnx import TensorProto, helper, numpy_helper  # type: ignore[import-not-found,unused-ignore]

from . import Form, NotOffered, Peer

if TYPE_CHECKING:
    from fastattn.bench.attention_shapes import AttentionCase
    from fastattn.bench.inputs import Inputs
    from fastattn.bench.operator_cases import Arrays, LinearAttentionCase
    from fastattn.bench.shapes import LinearCase

__all__ = ["OnnxRuntimePeer", "bound", "session_of"]

_ELEMENT = {
    "float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint16": TensorProto.BFLOAT16,
    "bool": TensorProto.BOOL, "int8": TensorProto.INT8, "int32": TensorProto.INT32, "int64": TensorProto.INT64,
}  # fmt: skip


def session_of(model: str | bytes, num_threads: int) -> onnxruntime.InferenceSession:
    """A session on the CPU for a file or a serialised model, with all graph optimisations and so many threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def bound(
    nodes: list[Any],
    inputs: Sequence[Mapping[str, np.ndarray]],
    outputs: Sequence[Mapping[str, np.ndarray]],
    num_threads: int,
    *,
    opset: int = 23,
    constants: Sequence[Any] = (),
) -> Callable[[int], Any]:
    """A call of a graph on the i-th inputs and outputs, in their memory; it returns the first output.

    Arrays are float32, float16, int8, int32, int64, bool, or uint16 for the bits of bfloat16.
    """
    given = [helper.make_tensor_value_info(n, _ELEMENT[a.dtype.name], a.shape) for n, a in inputs[0].items()]
    result = [helper.make_tensor_value_info(n, _ELEMENT[a.dtype.name], a.shape) for n, a in outputs[0].items()]
    graph = helper.make_graph(nodes, "one", given, result, list(constants))
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = session_of(model.SerializeToString(), num_threads)
    bindings = []  # each with its arrays: a binding knows only where they are
    for named, targets in zip(inputs, outputs, strict=True):
        binding = session.io_binding()
        for name, array in named.items():
            binding.bind_input(name, "cpu", 0, _ELEMENT[array.dtype.name], array.shape, array.ctypes.data)
        for name, array in targets.items():
            binding.bind_output(name, "cpu", 0, _ELEMENT[array.dtype.name], array.shape, array.ctypes.data)
        bindings.append((binding, named, targets))
    firsts = [next(iter(targets.values())) for targets in outputs]

    def call(index: int) -> np.ndarray:
        session.run_with_iobinding(bindings[index][0])
        return firsts[index]

    return call


class OnnxRuntimePeer(Peer):
    """Attention and MatMul of the standard, MultiHeadAttention and GroupQueryAttention of its own."""

    name = "onnxruntime"

    def __init__(self, num_threads: int) -> None:
        super().__init__(num_threads)
        self.version = onnxruntime.__version__

    def attention(self, case: AttentionCase, sets: Sequence[Inputs]) -> list[Form]:
        """See onnx_attention.py."""
        from .onnx_attention import forms

        return forms(case, sets, self.num_threads)

    def linear_attention(self, case: LinearAttentionCase, arrays: Arrays) -> list[Callable[[int], Any]]:
        """Its own LinearAttention, of the same meaning as ONNX's, which it takes apart into single operators."""
        over_time = (case.batch, case.tokens, -1)
        named = {name: getattr(arrays, name).reshape(over_time) for name in ("q", "k", "v")}
        gates = {name: gate.reshape(over_time) for name, gate in arrays.gates.items() if gate is not None}
        node = helper.make_node(
            "LinearAttention", ["q", "k", "v", "state", *(name if name in gates else "" for name in arrays.gates)],
            ["out", "state_out"], domain="com.microsoft", q_num_heads=case.heads, kv_num_heads=case.kv_heads,
            update_rule=case.rule,
        )  # fmt: skip
        out, after = np.zeros_like(arrays.out), [np.zeros_like(state) for state in arrays.states]
        inputs = [{**named, **gates, "state": state} for state in arrays.states]
        targets = [{"out": out.reshape(over_time), "state_out": state} for state in after]
        call = bound([node], inputs, targets, self.num_threads)
        return [lambda i: call(i).reshape(out.shape)]

    def linear(self, case: LinearCase, x: Any, weights: Sequence[Any], out: Any) -> list[Callable[[int], Any]]:
        """MatMul with constant weights, which the session packs; one session per set of weights. int8: its own
        DynamicQuantizeMatMul, a scale for each output and one for all of x.
        """
        if case.dtype not in ("float32", "int8"):
            raise NotOffered(f"{case.dtype} weights")
        if len(weights) * case.weight_bytes > 1 << 30:
            raise NotOffered("its sessions copy the weights")
        node = helper.make_node("MatMul", ["x", "w"], ["out"])
        calls = []
        if case.dtype == "int8":
            node = helper.make_node("DynamicQuantizeMatMul", ["x", "w", "s"], ["out"], domain="com.microsoft")
            for weight in weights:
                scale = np.abs(weight).max(1) / np.float32(127)
                rounded = np.rint(weight / scale[:, None]).astype(np.int8)
                constants = [
                    numpy_helper.from_array(np.ascontiguousarray(rounded.T), "w"),
                    numpy_helper.from_array(scale, "s"),
                ]
                calls.append(bound([node], [{"x": x}], [{"out": out}], self.num_threads, constants=constants))
            return [lambda i: calls[i](0)]
        for weight in weights:
            constant = numpy_helper.from_array(np.ascontiguousarray(weight.T), "w")
            calls.append(bound([node], [{"x": x}], [{"out": out}], self.num_threads, constants=[constant]))
        return [lambda i: calls[i](0)]
