# SPDX-License-Identifier: MIT
"""Attention and transformer inference on CPUs."""

from typing import TYPE_CHECKING

try:
    from fastattn.attention import attention, attention_varlen
except ImportError:  # in a clone that was never built the source hides the installed package
    from fastattn.startup import extension_missing

    missing = extension_missing(__path__[0])
    if missing is None:
        raise
    raise ImportError(missing, name="fastattn._core", path=__path__[0]) from None
from fastattn.cpu import build_info, cpu_info
from fastattn.linear_attention import linear_attention
from fastattn.merge import merge_attention
from fastattn.ops import gelu, layer_norm, linear, rms_norm, silu, softmax
from fastattn.rope import rope, rope_table
from fastattn.similarity import similarity
from fastattn.threads import get_num_threads, set_num_threads
from fastattn.weights import PackedLinear, pack_linear

__version__ = "0.1.0"

__all__ = [
    "CacheFull",
    "DeadlineExceeded",
    "KVCache",
    "PackedLinear",
    "PagedKVCache",
    "TextTooLong",
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
    "similarity",
    "softmax",
]


# What a process may never need is brought in when it is asked for: caches, and with models json, mmap and the families.
_LATER = {
    "CacheFull": "fastattn.kvcache",
    "DeadlineExceeded": "fastattn.engine.stop",
    "KVCache": "fastattn.kvcache",
    "PagedKVCache": "fastattn.kvcache",
    "TextTooLong": "fastattn.text",
    "load": "fastattn.text",
    "open_weights": "fastattn.loaders",
    "pack": "fastattn.models.packing",
}
if TYPE_CHECKING:
    from fastattn.engine.stop import DeadlineExceeded
    from fastattn.kvcache import CacheFull, KVCache, PagedKVCache
    from fastattn.loaders import open_weights
    from fastattn.models.packing import pack
    from fastattn.text import TextTooLong, load


def __getattr__(name: str) -> object:
    module = _LATER.get(name)
    if module is None:
        raise AttributeError(f"module 'fastattn' has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
