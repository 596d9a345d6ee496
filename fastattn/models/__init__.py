# SPDX-License-Identifier: MIT
"""Models by architecture: ``load(path)`` reads a folder's ``config.json`` and builds the class of its family.

A family is one file: a page of Python over ``fastattn.ops`` and ``fastattn.attention``. To add one, write the file and
name its class in ``registry.FAMILIES``.
"""

from __future__ import annotations

from .registry import load

__all__ = ["load"]
