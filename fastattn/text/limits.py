# SPDX-License-Identifier: MIT
"""How long the texts of a job may be, and who is told of those that were longer."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

from ..engine.stop import check_deadline
from .cutting import TextTooLong

__all__ = ["Limit", "TruncationWarning"]

_PACKAGE = str(Path(__file__).parent.parent) + os.sep


class TruncationWarning(UserWarning):
    """Texts were longer than the model takes, and were cut."""


class Limit:
    """How long the texts of one job may be, how many of them were longer, and until when it may take."""

    def __init__(self, tokens: int, refuse: bool, what: str = "texts", deadline: int = 0) -> None:
        self.tokens = tokens
        """Most tokens of a text or pair, special ones included."""
        self.cut = 0
        """Texts that were longer."""
        self.seen = 0
        """Texts that came, which is the index of the next."""
        self._refuse, self._what, self._deadline = refuse, what, deadline

    def name(self, index: int) -> str:
        """What messages call the text that is ``index`` behind the last one that was counted."""
        return f"{self._what}[{self.seen + index}]"

    def count(self, index: int) -> None:
        """The text ``index`` behind the last counted one is too long: counted, or refused."""
        if self._refuse:
            raise TextTooLong(f"{self.name(index)}: more than {self.tokens} tokens, and on_long is 'error'")
        self.cut += 1

    @property
    def timed(self) -> bool:
        """Whether there is a time by which the job has to end."""
        return self._deadline != 0

    def look(self) -> None:
        """``DeadlineExceeded`` where the job has taken too long: asked for between pieces of texts."""
        if self._deadline:
            check_deadline(self._deadline)

    def warn(self) -> None:
        """One warning for all that was cut, at the line outside of this package that asked for the job."""
        if not self.cut:
            return
        level, frame = 1, sys._getframe()
        while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
            level, frame = level + 1, frame.f_back  # type: ignore[assignment]
        were = "was" if self.cut == 1 else "were"
        warnings.warn(
            f"{self.cut} of {self.seen} {self._what} had more than {self.tokens} tokens and {were} cut "
            "(max_length= and model.max_seq_length set the limit, on_long='error' refuses)",
            TruncationWarning,
            stacklevel=level,
        )
