# SPDX-License-Identifier: MIT
"""``python -m fastattn`` is the ``fastattn`` command."""

from __future__ import annotations

import sys

from fastattn.cli import main

if __name__ == "__main__":
    sys.exit(main())
