# SPDX-License-Identifier: MIT
"""Text in, sentence vectors out: the folder's own tokenizer, pooling and normalisation around an encoder.

Needs the ``tokenizers`` library (``pip install fastattn[text]``), which is imported when the first text comes.
"""

from __future__ import annotations

from .embedder import TextEmbedder
from .settings import TextSettings
from .tokenizer import TextTokenizer

__all__ = ["TextEmbedder", "TextSettings", "TextTokenizer"]
