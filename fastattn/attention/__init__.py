# SPDX-License-Identifier: MIT
"""Scaled dot-product attention over NumPy, buffer and DLPack arrays: dense, packed, and through caches.

Which keys a query sees, for Sq = 3 and Sk = 5 (1 = seen)::

    causal="top_left"      causal="bottom_right"    causal=True, q_offset=1    window=(1, 0), q_offset=2
      1 0 0 0 0              1 1 1 0 0                1 1 0 0 0                  0 1 1 0 0
      1 1 0 0 0              1 1 1 1 0                1 1 1 0 0                  0 0 1 1 0
      1 1 1 0 0              1 1 1 1 1                1 1 1 1 0                  0 0 0 1 1

    window=(1, 0), q_offset=2, sink_tokens=1         block_mask=(diagonal, (2, 3))
      1 1 1 0 0                                        1 1 1 0 0
      1 0 1 1 0                                        1 1 1 0 0
      1 0 0 1 1                                        0 0 0 1 1
"""

from fastattn.attention.dense import attention
from fastattn.attention.disentangled import disentangled_bias, distance_columns
from fastattn.attention.packed import attention_varlen
from fastattn.attention.result import AttentionResult
from fastattn.attention.stored import attend_stored

__all__ = [
    "AttentionResult", "attend_stored", "attention", "attention_varlen", "disentangled_bias", "distance_columns",
]  # fmt: skip
