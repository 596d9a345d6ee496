# SPDX-License-Identifier: MIT
"""torch's scaled_dot_product_attention said in this library's words, on torch's own tensors."""

from __future__ import annotations

from typing import Any

import torch

import fastattn as fa


def scaled_dot_product_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    **options: Any,
) -> torch.Tensor:
    """Reads the tensors in place and writes into a tensor: nothing is copied but a float mask of another type.

    ``is_causal`` puts the first query on the first key ("top_left"); ``enable_gqa`` needs no word here.
    """
    assert enable_gqa or query.ndim < 3 or query.shape[-3] == key.shape[-3]
    if attn_mask is not None and attn_mask.dtype != torch.bool:
        attn_mask = attn_mask.float()
    out = torch.empty((*query.shape[:-1], value.shape[-1]), dtype=query.dtype)
    returned = fa.attention(
        query, key, value, mask=attn_mask, causal="top_left" if is_causal else False, scale=scale, out=out, **options
    )
    assert returned is out
    return out
