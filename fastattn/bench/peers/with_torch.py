# SPDX-License-Identifier: MIT
"""PyTorch: scaled_dot_product_attention (its flash kernel for CPUs) and linear layers (MKL or oneDNN)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch  # type: ignore[import-not-found,unused-ignore]
from torch.nn.functional import (  # type: ignore[import-not-found,unused-ignore]
    linear,
    scaled_dot_product_attention,
)

from . import Peer

if TYPE_CHECKING:
    from fastattn.bench.attention import Inputs
    from fastattn.bench.shapes import AttentionCase, LinearCase

__all__ = ["TorchPeer"]


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

    def attention(self, case: AttentionCase, sets: Sequence[Inputs]) -> list[Callable[[int], Any]]:
        """Grouped heads by ``enable_gqa`` and by repeating them; masks boolean and, made once, additive."""
        tensors = [tuple(map(torch.from_numpy, (s.q, s.k, s.v))) for s in sets]
        triangle = case.causal and case.sq == case.sk
        masks: list[Any] = [None]
        if case.causal and not triangle:  # is_causal aligns at the top left
            masks = _both(torch.ones(case.sq, case.sk, dtype=torch.bool).tril(case.sk - case.sq))
        elif sets[0].mask is not None:
            mask = torch.from_numpy(sets[0].mask)
            masks = _both(mask) if mask.dtype == torch.bool else [mask]
        grouped = case.heads != case.kv_heads
        return [
            variant
            for mask in masks
            for variant in (
                _variants(tensors, mask, triangle, case.heads) if grouped else [_plain(tensors, mask, triangle, False)]
            )
        ]

    def linear(self, case: LinearCase, x: Any, weights: Sequence[Any], out: Any) -> list[Callable[[int], Any]]:
        """torch.nn.functional.linear, and the product with ``out=``."""
        rows, target = torch.from_numpy(x), torch.from_numpy(out)
        matrices = [torch.from_numpy(weight) for weight in weights]
        turned = [matrix.t() for matrix in matrices]
        return [lambda i: linear(rows, matrices[i]), lambda i: torch.mm(rows, turned[i], out=target)]


def _both(mask: Any) -> list[Any]:
    return [mask, torch.zeros(mask.shape).masked_fill_(~mask, float("-inf"))]


def _plain(tensors: Sequence[Any], mask: Any, causal: bool, grouped: bool) -> Callable[[int], Any]:
    def call(index: int) -> Any:
        q, k, v = tensors[index]
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=grouped)

    return call


def _variants(tensors: Sequence[Any], mask: Any, causal: bool, heads: int) -> list[Callable[[int], Any]]:
    def repeated(index: int) -> Any:
        q, k, v = tensors[index]
        times = heads // k.shape[1]
        k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)

    return [_plain(tensors, mask, causal, True), repeated]
