# SPDX-License-Identifier: MIT
"""PyTorch: scaled_dot_product_attention (its flash kernel for CPUs) and linear layers (MKL or oneDNN)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch  # type: ignore[import-not-found,unused-ignore]
from torch.nn.functional import (  # type: ignore[import-not-found,unused-ignore]
    linear,
    scaled_dot_product_attention,
)

from fastattn.bench.inputs import additive, boolean

from . import Form, NotOffered, Peer

if TYPE_CHECKING:
    from fastattn.bench.attention_shapes import AttentionCase
    from fastattn.bench.inputs import Inputs
    from fastattn.bench.operator_cases import Arrays, LinearAttentionCase, SimilarityCase
    from fastattn.bench.shapes import LinearCase

__all__ = ["TorchPeer"]

_MOST_SCORES = 1 << 27  # bytes; a form that keeps them all is not tried beyond


class TorchPeer(Peer):
    """In inference mode, on tensors that share the arrays' memory."""

    name = "torch"

    def __init__(self, num_threads: int) -> None:
        super().__init__(num_threads)
        self._before = torch.get_num_threads()
        torch.set_num_threads(num_threads)
        self._mode = torch.inference_mode()
        self._mode.__enter__()
        self.version = torch.__version__

    def close(self) -> None:
        """Leaves inference mode; threads as before."""
        self._mode.__exit__(None, None, None)
        torch.set_num_threads(self._before)

    def attention(self, case: AttentionCase, sets: Sequence[Inputs]) -> list[Form]:
        """scaled_dot_product_attention, and the products and the softmax by themselves.

        Grouped heads by ``enable_gqa``, by repeating them in the call, and for a single query as rows of one head;
        masks boolean and additive, made once; int8 keys and values as float32, made once.
        """
        forms: list[Form] = []
        for title, mask, causal in _masks(case, sets[0]):
            if case.softcap is None and not case.sinks:
                for how, call in _FLASH.items():
                    if _fits(how, case):
                        forms.append(_form(call, f"{how}{title}", case, sets, mask, causal))
            if not causal and (mask is None or mask.dtype != torch.bool) and _score_bytes(case) <= _MOST_SCORES:
                forms.append(_form(_textbook, f"matmul and softmax{title}", case, sets, mask, False))
        return forms

    def linear_attention(self, case: LinearAttentionCase, arrays: Arrays) -> list[Callable[[int], Any]]:
        """The chunked form by products and a triangular solve, in chunks of several sizes; torch has no operator."""
        if case.by_row:
            raise NotOffered("the chunked form with a decay for each row overflows")
        return [
            lambda i, size=size: _chunked(case, arrays, arrays.states[i], size)  # type: ignore[misc]
            for size in ((16, 32, 64) if case.tokens > 1 else (1,))
        ]

    def linear(self, case: LinearCase, x: Any, weights: Sequence[Any], out: Any) -> list[Callable[[int], Any]]:
        """torch.nn.functional.linear, and the product with ``out=``; int8 by its dynamic quantisation, bf16 and fp16
        with x of that type, too.
        """
        if case.dtype != "float32":
            return self._stored(case, x, weights)
        rows, target = torch.from_numpy(x), torch.from_numpy(out)
        matrices = [torch.from_numpy(weight) for weight in weights]
        turned = [matrix.t() for matrix in matrices]
        return [lambda i: linear(rows, matrices[i]), lambda i: torch.mm(rows, turned[i], out=target)]

    def similarity(self, case: SimilarityCase, a: Any, b: Any) -> list[Callable[[], Any]]:
        """All scores by one product, rows being of length 1, or by cdist, then topk."""
        left, right = torch.from_numpy(a), torch.from_numpy(b)
        if case.metric in ("cosine", "dot"):
            return [lambda: torch.mm(left, right.t()).topk(case.k).values]
        power = 2.0 if case.metric == "euclidean" else 1.0
        return [lambda: -torch.cdist(left, right, p=power).topk(case.k, largest=False).values]

    def _stored(self, case: LinearCase, x: np.ndarray, weights: Sequence[Any]) -> list[Callable[[int], Any]]:
        rows = torch.from_numpy(x)
        if case.dtype == "int8":
            packed = []
            for weight in weights:
                layer = torch.nn.Linear(case.k, case.n, bias=False)
                layer.weight.data = torch.from_numpy(weight)
                layer.qconfig = torch.ao.quantization.per_channel_dynamic_qconfig
                packed.append(torch.ao.nn.quantized.dynamic.Linear.from_float(layer))
            return [lambda i: packed[i](rows)]
        kind = getattr(torch, case.dtype)
        matrices = [torch.from_numpy(weight).to(kind) for weight in weights]
        return [lambda i: linear(rows.to(kind), matrices[i]).float()]


def _score_bytes(case: AttentionCase) -> int:
    return 4 * case.batch * case.heads * case.sq * case.sk


def _tensor(array: np.ndarray) -> Any:
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if array.dtype == np.uint16 else tensor


def _read(result: Any) -> np.ndarray:
    return result.float().numpy()


def _masks(case: AttentionCase, s: Inputs) -> list[tuple[str, Any, bool]]:
    """(title, tensor or None, is_causal) of the ways to say what is masked."""
    plain = s.mask is None and s.slopes is None and s.blocks is None and case.window is None
    triangle = case.causal and case.sq == case.sk  # is_causal aligns at the top left
    found: list[tuple[str, Any, bool]] = []
    if plain and (triangle or not case.causal or case.sq == 1):
        found.append(("", None, triangle))
        if not triangle:
            return found
    seen, added = boolean(s), additive(s)
    if seen is not None and not triangle and s.slopes is None and (s.mask is None or s.mask.dtype == bool):
        found.append((", boolean mask", torch.from_numpy(seen), False))
    if added is not None and not (triangle and plain and _score_bytes(case) > _MOST_SCORES):
        found.append((", additive mask", torch.from_numpy(added).to(_tensor(s.q[:0]).dtype), False))
    return found


def _fits(how: str, case: AttentionCase) -> bool:
    grouped = case.heads != case.kv_heads
    if how == "sdpa":
        return not grouped
    return grouped and (case.sq == 1 or how != "sdpa, groups as rows")


def _form(
    call: Callable[..., Any], name: str, case: AttentionCase, sets: Sequence[Inputs], mask: Any, causal: bool
) -> Form:
    def make() -> Callable[[int], Any]:
        tensors = [tuple(map(_tensor, (s.q, *s.float_kv))) for s in sets]
        sinks = None if sets[0].sinks is None else torch.from_numpy(sets[0].sinks)
        return lambda index: call(case, *tensors[index], mask, causal, sinks)

    return Form(name, make, _read)


def _plain(case: AttentionCase, q: Any, k: Any, v: Any, mask: Any, causal: bool, sinks: Any) -> Any:
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


def _enable_gqa(case: AttentionCase, q: Any, k: Any, v: Any, mask: Any, causal: bool, sinks: Any) -> Any:
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=True)


def _repeated(case: AttentionCase, q: Any, k: Any, v: Any, mask: Any, causal: bool, sinks: Any) -> Any:
    times = case.heads // case.kv_heads
    k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


def _as_rows(case: AttentionCase, q: Any, k: Any, v: Any, mask: Any, causal: bool, sinks: Any) -> Any:
    rows = q.view(case.batch, case.kv_heads, -1, case.d)
    if mask is not None and mask.shape[1] != 1:
        mask = mask.reshape(mask.shape[0], case.kv_heads, -1, case.sk)
    return scaled_dot_product_attention(rows, k, v, attn_mask=mask).view(case.batch, case.heads, 1, case.dv)


_FLASH = {
    "sdpa": _plain,
    "sdpa, enable_gqa": _enable_gqa,
    "sdpa, repeated heads": _repeated,
    "sdpa, groups as rows": _as_rows,
}


def _textbook(case: AttentionCase, q: Any, k: Any, v: Any, mask: Any, causal: bool, sinks: Any) -> Any:
    shape = (case.batch, case.kv_heads, case.heads // case.kv_heads * case.sq)
    scores = torch.matmul(q.reshape(*shape, case.d) * case.d**-0.5, k.transpose(-1, -2))
    if case.softcap is not None:
        scores = scores.div_(case.softcap).tanh_().mul_(case.softcap)
    scores = scores.view(case.batch, case.heads, case.sq, case.sk)
    if mask is not None:
        scores += mask
    if sinks is None:
        weights = scores.softmax(-1)
    else:
        column = sinks.to(scores.dtype).view(1, -1, 1, 1).expand(case.batch, -1, case.sq, 1)
        weights = torch.cat([scores, column], -1).softmax(-1)[..., :-1]
    return torch.matmul(weights.reshape(*shape, case.sk), v).view(case.batch, case.heads, case.sq, case.dv)


def _chunked(case: LinearAttentionCase, arrays: Arrays, state: Any, size: int) -> Any:
    """Tokens among themselves by a triangular matrix, with the past by the state that it has become, chunk by chunk."""
    heads_first = [torch.from_numpy(x).transpose(1, 2) for x in (arrays.q, arrays.k, arrays.v)]
    q, k, v = (x.reshape(case.batch, case.kv_heads, -1, *x.shape[2:]).contiguous() for x in heads_first)
    gates = [x if x is None else torch.from_numpy(x).transpose(1, 2)[:, :, None] for x in (arrays.decay, arrays.beta)]
    s, outs = torch.from_numpy(state)[:, :, None], []
    for at in range(0, case.tokens, size):
        part = slice(at, at + size)
        qc, kc, u = q[..., part, :] * case.dk**-0.5, k[..., part, :], v[..., part, :]
        g = torch.zeros(u.shape[:-1]) if gates[0] is None else gates[0][..., part].cumsum(-1)
        past = g.exp()[..., None]  # decay since the chunk began
        among = (g[..., :, None] - g[..., None, :]).tril().exp().tril()
        if gates[1] is not None:
            beta = gates[1][..., part, None]
            matrix = (beta * among * (kc @ kc.transpose(-1, -2))).tril(-1)
            u = beta * (u - past * (kc @ s))
            u = torch.linalg.solve_triangular(matrix, u, upper=False, unitriangular=True)
        outs.append(past * (qc @ s) + (among * (qc @ kc.transpose(-1, -2))) @ u)
        s = past[..., -1:, :] * s + (kc * among[..., -1, :, None]).transpose(-1, -2) @ u
    return torch.cat(outs, -2).reshape(case.batch, case.heads, case.tokens, case.dv).transpose(1, 2)
