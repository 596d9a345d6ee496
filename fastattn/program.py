# SPDX-License-Identifier: MIT
"""Several operators in one call: a layer's steps noted once and run without the GIL.

What a short text costs beside its arithmetic is mostly the way into C and back, for every operator of every layer; and
threads that call a model at once would wait for each other there.
"""

from __future__ import annotations

from fastattn._core import Program

__all__ = ["Program"]
