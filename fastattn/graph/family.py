# SPDX-License-Identifier: MIT
"""What a family is beside its page: names of classes, tensors that nobody misses."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from .facts import NO_LIMIT, Facts, Tasks, columns_as_positions
from .graph import Graph

__all__ = ["NO_LIMIT", "Facts", "Family", "Tasks", "columns_as_positions"]


class Family(NamedTuple):
    """A family of models: its page, and what loaders have to know."""

    name: str
    """Of its models in repr()."""
    build: Callable[[Graph], Facts]
    """The page."""
    architectures: Mapping[str, str | None]
    """Class names in config.json -> the head they have, None for the encoder alone."""
    ignorable: re.Pattern[str]
    """Full names of tensors that the model may leave unused."""
    pooled_output: bool = True
    """Whether the family's output has a ``pooler_output``."""
    decoder: bool = False
    """Whether it generates."""
