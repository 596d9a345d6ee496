# SPDX-License-Identifier: MIT
"""Texts to vectors: tokenize, sort by length, run packed, pool, normalise, put back in order."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import ops
from .settings import TextSettings
from .tokenizer import TextTokenizer

if TYPE_CHECKING:
    from ..models.encoder import Encoder, Floats

__all__ = ["TextEmbedder"]

_WINDOW = 8192  # texts whose tokens are in memory at one time
_PROGRESS_FROM = 256  # texts below which a terminal is left alone
_PROGRESS_SECONDS = 0.2


class TextEmbedder:
    """Sentence vectors from an encoder, as the folder it was loaded from describes them."""

    def __init__(self, model: Encoder) -> None:
        self._model = model
        self.settings = TextSettings.read(model.files, model.hidden_size)
        """What the folder says about pooling, normalisation and length."""
        self.tokenizer = TextTokenizer(model.files, self.settings, model.max_positions)
        """The folder's tokenizer."""

    def embed(
        self,
        texts: Iterable[str],
        batch_size: int | None = None,
        normalize: bool | None = None,
        *,
        progress: bool | None = None,
        num_threads: int | None = None,
    ) -> Floats:
        """Sentence vectors of ``texts``.

        Texts are sorted by length and run packed, so that nothing is spent on padding. A vector has the same bits
        whatever it is embedded together with, and whatever ``batch_size`` and ``num_threads`` are.

        Parameters
        ----------
        texts
            n texts; the empty one is allowed. Texts longer than the folder's maximum length are truncated.
        batch_size
            Most texts that go through the model together; None leaves it to a budget of tokens.
        normalize
            Whether to scale vectors to length 1; None does as the folder says.
        progress
            Whether to count texts on stderr; None does so for many texts on a terminal.
        num_threads
            Threads of this call; None for what ``load`` was given.

        Returns
        -------
        (n, hidden) float32
            In the order of ``texts``, which may be none. A text without any token (only where the tokenizer adds no
            special ones) is a row of zeros.

        Raises
        ------
        TypeError
            ``texts`` is a single string (pass a list), or one of them is no string: its index is given.
        ValueError
            A text holds half a surrogate pair, which is no valid Unicode; ``batch_size`` is below 1.
        """
        items = _check_texts(texts)
        if batch_size is not None and (isinstance(batch_size, bool) or not hasattr(batch_size, "__index__")):
            raise TypeError(f"batch_size: expected an int or None, got {type(batch_size).__name__}")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size: got {batch_size}, expected at least 1")
        if normalize is not None and not isinstance(normalize, (bool, np.bool_)):
            raise TypeError(f"normalize: expected a bool or None, got {type(normalize).__name__}")
        scaled = self.settings.normalize if normalize is None else bool(normalize)

        result: Floats = np.zeros((len(items), self._model.hidden_size), np.float32)
        with _Progress(len(items), progress) as report:
            for start in range(0, len(items), _WINDOW):
                window = items[start : start + _WINDOW]
                self._embed_window(window, result[start : start + _WINDOW], batch_size, scaled, num_threads, report)
        return result

    def _embed_window(
        self,
        texts: list[str],
        result: Floats,
        batch_size: int | None,
        normalize: bool,
        num_threads: int | None,
        report: _Progress,
    ) -> None:
        tokens = [self.tokenizer.encode(text) for text in texts]
        lengths = np.array([len(ids) for ids, _ in tokens], np.int64)
        order = np.argsort(-lengths, kind="stable")
        order = order[: np.count_nonzero(lengths)]
        if not order.size:
            return
        threads = self._model.num_threads if num_threads is None else num_threads
        steps = self._model.encode_packed(
            np.concatenate([tokens[i][0] for i in order]),
            np.concatenate([tokens[i][1] for i in order]),
            np.concatenate([np.arange(lengths[i]) for i in order]),
            lengths[order],
            max_sequences=None if batch_size is None else int(batch_size),
            num_threads=num_threads,
        )
        for sequences, _, cu_seqlens, hidden in steps:
            vectors = ops.pool(hidden, cu_seqlens, self.settings.pooling, num_threads=threads)
            if normalize:
                vectors = ops.l2_normalize(vectors, num_threads=threads)
            rows = order[sequences]
            result[rows] = vectors
            report.advance(rows.size)


def _check_texts(texts: Any) -> list[str]:
    if isinstance(texts, (str, bytes)):
        raise TypeError(f"texts: got one {type(texts).__name__}; pass a list of str, as in embed([text])")
    try:
        items = list(texts)
    except TypeError:
        raise TypeError(f"texts: expected an iterable of str, got {type(texts).__name__}") from None
    for index, text in enumerate(items):
        if not isinstance(text, str):
            raise TypeError(f"texts[{index}]: expected a str, got {type(text).__name__}")
        if not text.isascii():
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"texts[{index}]: half a surrogate pair, {text[error.start]!r}, at character {error.start}: not "
                    "valid Unicode text"
                ) from None
    return items


class _Progress:
    """A count of texts on stderr, rewritten in place a few times a second."""

    def __init__(self, total: int, wanted: bool | None) -> None:
        self._total = total
        self._done = 0
        self._next = time.monotonic() + _PROGRESS_SECONDS
        self._stream = sys.stderr
        if wanted is None:
            wanted = total >= _PROGRESS_FROM and self._stream is not None and self._stream.isatty()
        self._wanted = wanted and self._stream is not None
        self._written = False

    def __enter__(self) -> _Progress:
        return self

    def advance(self, count: int) -> None:
        """``count`` more texts are done."""
        self._done += count
        if self._wanted and time.monotonic() >= self._next:
            self._write()
            self._next = time.monotonic() + _PROGRESS_SECONDS

    def _write(self) -> None:
        self._stream.write(f"\r{self._done}/{self._total} texts")
        self._stream.flush()
        self._written = True

    def __exit__(self, *error: object) -> None:
        if self._written or (self._wanted and self._done):
            if error[0] is None:
                self._write()
            self._stream.write("\n")
            self._stream.flush()
