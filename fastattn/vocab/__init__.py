# SPDX-License-Identifier: MIT
"""Vocabularies of other formats as tokenizers of the ``tokenizers`` library, which is imported when one is built."""

from __future__ import annotations

__all__: list[str] = []
