# SPDX-License-Identifier: MIT
"""``python bench/run.py attention ...`` is ``fastattn bench attention ...`` on the checkout this file is in."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fastattn.cli import main  # noqa: E402 (this checkout, not an installed copy)

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
