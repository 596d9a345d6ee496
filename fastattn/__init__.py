# SPDX-License-Identifier: MIT
"""Attention and transformer inference on CPUs."""

from fastattn.attention import attention, attention_varlen
from fastattn.cpu import build_info, cpu_info
from fastattn.kvcache import CacheFull, KVCache, PagedKVCache
from fastattn.linear_attention import linear_attention
from fastattn.merge import merge_attention
from fastattn.ops import gelu, layer_norm, linear, rms_norm, silu, softmax
from fastattn.rope import rope, rope_table
from fastattn.threads import get_num_threads, set_num_threads
from fastattn.weights import PackedLinear, pack_linear

__version__ = "0.1.0"

__all__ = [
    "CacheFull",
    "KVCache",
    "PackedLinear",
    "PagedKVCache",
    "attention",
    "attention_varlen",
    "build_info",
    "cpu_info",
    "gelu",
    "get_num_threads",
    "layer_norm",
    "linear",
    "linear_attention",
    "load",
    "merge_attention",
    "open_weights",
    "pack",
    "pack_linear",
    "rms_norm",
    "rope",
    "rope_table",
    "set_num_threads",
    "silu",
    "softmax",
]


def __getattr__(name: str) -> object:
    """Loading brings in json, mmap and the model families: only when it is asked for."""
    if name == "load":
        from fastattn.text import load

        return load
    if name == "open_weights":
        from fastattn.loaders import open_weights

        return open_weights
    if name == "pack":
        from fastattn.models.packing import pack

        return pack
    raise AttributeError(f"module 'fastattn' has no attribute {name!r}")
