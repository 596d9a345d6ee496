# SPDX-License-Identifier: MIT
"""CTranslate2: whole models only."""

from __future__ import annotations

import ctranslate2  # type: ignore[import-not-found,unused-ignore]

from . import Peer

__all__ = ["CTranslate2Peer"]


class CTranslate2Peer(Peer):
    """Takes part in ``fastattn bench model`` alone."""

    name = "ctranslate2"

    def __init__(self, num_threads: int) -> None:
        super().__init__(num_threads)
        self.version = ctranslate2.__version__
