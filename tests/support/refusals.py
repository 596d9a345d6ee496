# SPDX-License-Identifier: MIT
"""Refused calls: the right error, the right words, nothing written."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

Arguments = dict[str, Any]


def check_refused(function: Callable[[Arguments], Any], arguments: Arguments, error: Any, words: list[str]) -> None:
    """`function` raises `error` with all the words in its message, the first as a name of its own; out= stays."""
    given = arguments.get("out")
    before = given.tobytes() if isinstance(given, np.ndarray) else None
    with pytest.raises(error) as caught:
        function(arguments)
    message = str(caught.value)
    assert re.search(rf"\b{words[0]}\b", message), f"{message!r} does not name {words[0]}"
    for word in words[1:]:
        assert word in message, f"{message!r} lacks {word!r}"
    if before is not None:
        assert given.tobytes() == before, "out was touched"
