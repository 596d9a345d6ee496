# SPDX-License-Identifier: MIT
"""One record for each call of a model, at debug level, through ``logging.getLogger("fastattn")``.

A record says how much went through and how long it took: never a text, an id or a result. Its message is for people;
the same numbers are in its attribute ``fastattn``, a dict, for programs. Nothing is made for a call that nobody listens
to, and ``logging`` itself is not imported here before a program does.
"""

from __future__ import annotations

import sys
from time import perf_counter
from typing import TYPE_CHECKING, Any

from fastattn.threads import granted

if TYPE_CHECKING:
    from logging import Logger

__all__ = ["CallLog", "begin"]

_DEBUG = 10  # logging.DEBUG
_logger: Logger | None = None


class CallLog:
    """What one call has done so far. A call that raises writes no record."""

    __slots__ = ("_call", "_mark", "_model", "_started", "_texts", "_tokenizer", "_tokens")

    def __init__(self, call: str) -> None:
        self._call = call
        self._texts = self._tokens = 0
        self._tokenizer = self._model = 0.0
        granted(forget=True)
        self._started = self._mark = perf_counter()

    def texts_came(self, count: int) -> None:
        """``count`` more texts (or pairs, or pieces of one) are here: what follows is the tokenizer's time."""
        self._texts += count
        self._mark = perf_counter()

    def tokens_came(self, count: int) -> None:
        """They are ``count`` tokens: what follows is the model's time, with pooling and heads."""
        now = perf_counter()
        self._tokens += count
        self._tokenizer += now - self._mark
        self._mark = now

    def computed(self) -> None:
        """What was to be computed of these tokens is there."""
        now = perf_counter()
        self._model += now - self._mark
        self._mark = now

    def write(self, truncated: int = 0) -> None:
        """The record of a call that has cut ``truncated`` texts."""
        if _logger is None:
            return
        threads = granted()  # 0: nothing had to be computed
        numbers: dict[str, Any] = {
            "call": self._call,
            "texts": self._texts,
            "tokens": self._tokens,
            "truncated": truncated,
            "tokenizer_seconds": self._tokenizer,
            "model_seconds": self._model,
            "seconds": perf_counter() - self._started,
            "threads": threads,
        }
        _logger.debug(
            "%s: %d text%s (%d cut), %d tokens, tokenizer %.6f s, model %.6f s, %d thread%s",
            self._call, self._texts, "" if self._texts == 1 else "s", truncated, self._tokens, self._tokenizer,
            self._model, threads, "" if threads == 1 else "s", extra={"fastattn": numbers},
        )  # fmt: skip


def begin(call: str) -> CallLog | None:
    """The log of a call that begins now, by its name; None where nobody listens."""
    global _logger
    if _logger is None:
        if "logging" not in sys.modules:  # so nobody has configured it
            return None
        import logging

        logger = logging.getLogger("fastattn")
        logger.addHandler(logging.NullHandler())
        _logger = logger
    return CallLog(call) if _logger.isEnabledFor(_DEBUG) else None
