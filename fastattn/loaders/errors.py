# SPDX-License-Identifier: MIT
"""The one exception type of this package."""

from __future__ import annotations

__all__ = ["WeightFileError"]


class WeightFileError(ValueError):
    """A file of weights (or the JSON beside it) is damaged, hostile, or of a kind that is not read here.

    The message always begins with the path of the file and names the field or tensor that is wrong.
    A path that does not exist, or may not be read, raises the usual ``OSError`` subclass instead.
    """
