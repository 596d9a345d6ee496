# SPDX-License-Identifier: MIT
"""``TextDecoder``: a language model that takes text where it is asked for what encoders do."""

from __future__ import annotations

from ..engine.decoder import Decoder
from .encoder import TextEncoder

__all__ = ["TextDecoder"]


class TextDecoder(Decoder, TextEncoder):
    """A language model with its weights. Made by ``fastattn.load``; ``generate`` continues prompts of token ids."""
