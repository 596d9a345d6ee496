# SPDX-License-Identifier: MIT
"""The cases of attention in the words of ONNX Runtime's three operators.

Attention takes (B, H, S, D) as it lies. MultiHeadAttention and GroupQueryAttention take their queries, and where there
is no cache their keys and values too, as (B, S, H * D): models produce that, so it is made once and not timed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper  # type: ignore[import-not-found,unused-ignore]

from fastattn.bench.inputs import additive, boolean, widened

from . import Form, NotOffered
from .with_onnxruntime import bound

if TYPE_CHECKING:
    from fastattn.bench.attention_shapes import AttentionCase
    from fastattn.bench.inputs import Inputs

__all__ = ["forms"]


def forms(case: AttentionCase, sets: Sequence[Inputs], num_threads: int) -> list[Form]:
    """All that can say what ``case`` is; which of them have a kernel for its type turns out when they are made."""
    if case.dtype == "bfloat16":
        raise NotOffered("has no bfloat16 kernels on the CPU")
    makers: list[tuple[str, Callable[[], Callable[[int], Any]], Callable[[Any], np.ndarray]]] = []
    words = _Words(case, sets, num_threads)
    if not case.sinks:
        makers += [(f"Attention-{opset}", lambda o=opset: words.standard(o, False), widened) for opset in (24, 25)]  # type: ignore[misc]
        if case.mask in ("bool", "block", "padding"):
            makers.append(("Attention-24, additive mask", lambda: words.standard(24, True), widened))
    if case.softcap is None and not case.sinks:
        if case.heads == case.kv_heads:
            makers.append(("MultiHeadAttention", lambda: words.multi_head(False), words.unpacked))
        elif case.sq == 1:
            makers.append(("MultiHeadAttention, groups as rows", lambda: words.multi_head(True), words.unpacked_rows))
    if case.d == case.dv:
        makers.append(("GroupQueryAttention", words.group_query, words.unpacked))
    return [Form(*maker) for maker in makers]


def _packed(array: np.ndarray) -> np.ndarray:
    """(B, H, S, D) -> (B, S, H * D)."""
    batch, heads, length, features = array.shape
    return np.ascontiguousarray(array.swapaxes(1, 2)).reshape(batch, length, heads * features)


class _Words:
    def __init__(self, case: AttentionCase, sets: Sequence[Inputs], num_threads: int) -> None:
        self.case, self.sets, self.num_threads = case, sets, num_threads
        self.square = case.sq == case.sk
        self.ends_late = case.causal and not self.square and case.sq > 1  # aligned at the bottom right

    def unpacked(self, out: np.ndarray) -> np.ndarray:
        """(B, sq, heads * dv) -> (B, heads, sq, dv)."""
        case = self.case
        return widened(out).reshape(case.batch, case.sq, case.heads, case.dv).swapaxes(1, 2)

    def unpacked_rows(self, out: np.ndarray) -> np.ndarray:
        """(B, group, kv_heads * dv) -> (B, heads, 1, dv)."""
        case = self.case
        rows = widened(out).reshape(case.batch, -1, case.kv_heads, case.dv).swapaxes(1, 2)
        return rows.reshape(case.batch, case.heads, 1, case.dv)

    def _additive(self) -> np.ndarray | None:
        mask = additive(self.sets[0])
        if mask is None:
            return None
        full = np.broadcast_to(mask, (*mask.shape[:2], self.case.sq, self.case.sk))
        return np.ascontiguousarray(full, self.sets[0].q.dtype)

    def _only_flags(self) -> bool:
        """Whether nothing is left for a mask once causality is an attribute."""
        s = self.sets[0]
        return s.mask is None and s.blocks is None and s.slopes is None and self.case.window is None

    def standard(self, opset: int, as_sum: bool) -> Callable[[int], Any]:
        """Attention of the standard: bottom-right causality by nonpad_kv_seqlen, windows by attributes from 25 on."""
        case, s = self.case, self.sets[0]
        attributes: dict[str, Any] = {}
        if case.softcap is not None:
            attributes["softcap"] = case.softcap
        windows = case.window is not None and opset >= 25 and (case.sq == case.sk)
        mask: np.ndarray | None = None
        if self._only_flags() or (windows and s.mask is None and s.blocks is None and s.slopes is None):
            attributes["is_causal"] = int(case.causal and case.sq > 1)
            if windows and case.window is not None:
                left, right = case.window
                attributes["left_window_size"] = -1 if left is None else left
                attributes["right_window_size"] = -1 if right is None or case.causal else right
        elif as_sum or boolean(s) is None or s.slopes is not None or (s.mask is not None and s.mask.dtype != bool):
            mask = self._additive()
        else:
            seen = boolean(s)
            assert seen is not None
            mask = np.broadcast_to(seen, (*seen.shape[:2], case.sq, case.sk)).copy()
        names = ["q", "k", "v"]
        arrays = [{"q": each.q, "k": each.float_kv[0], "v": each.dense_v} for each in self.sets]
        if mask is not None:
            names.append("mask")
            for named in arrays:
                named["mask"] = mask
        if self.ends_late and mask is None:
            names += [""] * (6 - len(names)) + ["lengths"]
            for named in arrays:
                named["lengths"] = np.full(case.batch, case.sk, np.int64)
        node = helper.make_node("Attention", names, ["out"], **attributes)
        return bound([node], arrays, [{"out": s.out}] * len(arrays), self.num_threads, opset=opset)

    def multi_head(self, as_rows: bool) -> Callable[[int], Any]:
        """MultiHeadAttention; K and V of a cold case stay (B, H, S, D), which it takes if their shapes are the same."""
        case, s = self.case, self.sets[0]
        heads = case.kv_heads if as_rows else case.heads
        attributes: dict[str, Any] = {"num_heads": heads}
        names = ["q", "k", "v"]
        arrays = []
        for each in self.sets:
            q = each.q.reshape(case.batch, heads, -1, case.d)
            k, v = each.float_kv[0], each.dense_v
            if not case.cold or case.d != case.dv:
                k, v = _packed(k), _packed(v)
            arrays.append({"q": _packed(q), "k": k, "v": v})
        if self._only_flags() and case.causal and self.square:
            attributes["unidirectional"] = 1
        elif case.mask == "padding" and not case.causal and s.mask is not None:
            names += ["", "padding"]
            for named in arrays:
                named["padding"] = np.ascontiguousarray(s.mask[:, 0, 0, :], np.int32)
        else:
            mask = self._additive()
            if mask is not None:
                if as_rows and mask.shape[1] != 1:
                    mask = mask.reshape(mask.shape[0], heads, -1, case.sk)
                elif as_rows:
                    mask = np.repeat(mask, case.heads // heads, axis=2)
                names += ["", "", "mask"]
                for named in arrays:
                    named["mask"] = mask
        rows = case.heads * case.sq // heads
        out = np.zeros((case.batch, rows, heads * case.dv), s.q.dtype)
        node = helper.make_node("MultiHeadAttention", names, ["out"], domain="com.microsoft", **attributes)
        return bound([node], arrays, [{"out": out}] * len(arrays), self.num_threads)

    def group_query(self) -> Callable[[int], Any]:
        """GroupQueryAttention: a prompt without a cache, or the last sq tokens of a cache, which they are written to.

        The cache is past and present at once, in place, and the tokens written are those that were there.
        """
        case, s = self.case, self.sets[0]
        cached = not self.square
        if cached and not case.causal and case.sq > 1:
            raise NotOffered("a cache is causal")
        attributes: dict[str, Any] = {"num_heads": case.heads, "kv_num_heads": case.kv_heads}
        attributes["causal"] = int(case.causal or case.sq == 1)
        masked = additive(s) if self._needs_mask() else None
        if case.window is not None and masked is None:
            left = case.window[0]
            attributes["local_window_size"] = -1 if left is None else left + 1
        if case.softcap is not None:
            attributes["softcap"] = case.softcap
        names = ["q", "k", "v", *(("past_k", "past_v") if cached else ("", "")), "lengths", "total"]
        names += ["", "", "", "mask" if masked is not None else "", "sinks" if s.sinks is not None else ""]
        if case.int8:
            names += ["k_scale", "v_scale"]
            attributes |= {"k_quant_type": "PER_TENSOR", "v_quant_type": "PER_TENSOR", "kv_cache_bit_width": 8}
        while not names[-1]:
            names.pop()
        arrays, outputs = [], []
        out = np.zeros((case.batch, case.sq, case.heads * case.d), s.q.dtype)
        full = None if masked is None else np.broadcast_to(masked, (*masked.shape[:2], case.sq, case.sk))
        for each in self.sets:
            named = self._tokens(each, cached)
            if full is not None:
                named["mask"] = np.ascontiguousarray(full, s.q.dtype)
            if each.sinks is not None:
                named["sinks"] = each.sinks.astype(s.q.dtype)
            if each.k_scale is not None and each.v_scale is not None:
                named["k_scale"], named["v_scale"] = each.k_scale.reshape(-1)[:1], each.v_scale.reshape(-1)[:1]
            arrays.append(named)
            outputs.append({"out": out, **({"new_k": each.k, "new_v": each.v} if cached else {})})
        made = ["out", "new_k", "new_v"] if cached else ["out"]
        node = helper.make_node("GroupQueryAttention", names, made, domain="com.microsoft", **attributes)
        return bound([node], arrays, outputs, self.num_threads)

    def _needs_mask(self) -> bool:
        case, s = self.case, self.sets[0]
        if s.mask is not None or s.blocks is not None or s.slopes is not None:
            return True
        return case.window is not None and not case.causal

    def _tokens(self, s: Inputs, cached: bool) -> dict[str, np.ndarray]:
        case = self.case
        named = {"q": _packed(s.q)}
        if cached:
            k, v = s.k[:, :, -case.sq :], s.v[:, :, -case.sq :]
            if s.k_scale is not None and s.v_scale is not None:
                k, v = k * s.k_scale[:, :, -case.sq :, None], v * s.v_scale[:, :, -case.sq :, None]
            named |= {"k": _packed(k), "v": _packed(v), "past_k": s.k, "past_v": s.v}
        else:
            named |= {"k": _packed(s.float_kv[0]), "v": _packed(s.float_kv[1])}
        named["lengths"] = np.full(case.batch, case.sk - 1, np.int32)
        named["total"] = np.array(case.sk, np.int32)
        return named
