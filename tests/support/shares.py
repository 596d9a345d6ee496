# SPDX-License-Identifier: MIT
"""What holds for a benchmark's shares on any machine, however busy it is."""

from __future__ import annotations

from typing import Any

__all__ = ["can_be"]


def can_be(row: dict[str, Any], *names: str) -> bool:
    """Whether all shares are there and possible, or all are missing and the row says why."""
    shares = [row[name] for name in names or ("share",)]
    if row["share_error"] is not None:
        return shares == [None] * len(shares)
    return all(0 < share <= 1.03 for share in shares)
