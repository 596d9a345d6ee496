# SPDX-License-Identifier: MIT
"""What every task on texts shares: texts checked and taken in windows, sorted by length, run packed, counted."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..engine.stop import check_deadline
from .tokenizer import Tokens

if TYPE_CHECKING:
    from ..calllog import CallLog
    from ..engine.encoder import Encoder, Floats

__all__ = ["Progress", "as_count", "check_pair", "check_text", "run_sorted", "windows"]

Integers = np.ndarray[Any, np.dtype[np.int64]]
T = TypeVar("T")

_WINDOW = 8192  # texts whose tokens are in memory at one time
_WINDOW_CHARACTERS = 1 << 25  # of all of them together, about
_PART = 1 << 20  # characters of a long text that are looked at together
_TEXT_COLUMNS = ("text", "texts", "sentence", "sentences", "content", "body", "document", "passage")
_PROGRESS_FROM = 256  # texts below which a terminal is left alone
_PROGRESS_SECONDS = 0.2


def check_text(text: Any, name: str, deadline: int = 0) -> str:
    """``text`` itself; ``TypeError`` for what is no str, ``ValueError`` for what is no Unicode, both with ``name``.

    ``deadline``: of ``deadline_of``; ``DeadlineExceeded`` where it passes in the middle of a long text.
    """
    if not isinstance(text, str):
        raise TypeError(f"{name}: expected a str, got {type(text).__name__}{_column_hint(text, name)}")
    if not text.isascii():
        for start in range(0, len(text), _PART):  # a book is not encoded at once: memory, and other threads
            if start and deadline:
                check_deadline(deadline)
            try:
                (text[start : start + _PART] if len(text) > _PART else text).encode("utf-8")
            except UnicodeEncodeError as error:
                at = start + error.start
                raise ValueError(
                    f"{name}: half a surrogate pair, {text[at]!r}, at character {at}: not valid Unicode text"
                ) from None
    return text


def _column_hint(data: Any, name: str) -> str:
    """What was probably meant by a table, or a row of one, in place of texts: its column of texts."""
    columns = getattr(data, "column_names", None)  # of datasets and Arrow tables
    if columns is None:
        columns = list(data) if isinstance(data, Mapping) else getattr(data, "columns", None)
    if columns is None or not hasattr(data, "__getitem__"):
        return ""
    columns = list(columns)[:1000]
    named = [column for column in columns if isinstance(column, str)]
    likely = [column for usual in _TEXT_COLUMNS for column in named if column.lower() == usual]
    likely += [column for column in columns if _holds_text(data, column)]
    if not likely:
        return f" with columns {', '.join(map(repr, columns[:5])) or 'of no name'}; pass one that holds texts"
    return f"; its column {likely[0]!r} was probably meant, as in {name}[{likely[0]!r}]"


def _holds_text(data: Any, column: Any) -> bool:
    """Whether the first entry of a column is a text."""
    try:
        values = data[column]
        return isinstance(values, str) or isinstance(next(iter(values), None), str)
    except (TypeError, KeyError, IndexError, ValueError):
        return False


def check_pair(item: Any, name: str, deadline: int = 0) -> str | tuple[str, str]:
    """A text, or a pair of texts as a tuple or list of two."""
    if not isinstance(item, (tuple, list)):
        if not isinstance(item, str):
            hint = _column_hint(item, name)
            raise TypeError(f"{name}: expected a str or a pair of them, got {type(item).__name__}{hint}")
        return check_text(item, name, deadline)
    if len(item) != 2:
        raise ValueError(f"{name}: a {type(item).__name__} of {len(item)}, expected a str or a pair of them")
    return check_text(item[0], f"{name}[0]", deadline), check_text(item[1], f"{name}[1]", deadline)


def windows(
    texts: Any, check: Callable[[Any, str, int], T], name: str = "texts", log: CallLog | None = None, deadline: int = 0
) -> Iterator[list[T]]:
    """``texts`` in lists of a bounded size, every text checked and named by its index, and counted in ``log``.

    A list or tuple is checked as a whole before the first of them comes; anything else is read as it is needed.
    ``deadline`` is looked at after each text.
    """
    if isinstance(texts, (str, bytes)):
        raise TypeError(f"{name}: got one {type(texts).__name__}; pass a list of str, as in [text]")
    if hint := _column_hint(texts, name):
        raise TypeError(f"{name}: expected an iterable of str, got {type(texts).__name__}{hint}")
    try:
        items = iter(texts)
    except TypeError:
        raise TypeError(f"{name}: expected an iterable of str, got {type(texts).__name__}") from None
    checked: Iterator[T] = (check(text, f"{name}[{index}]", deadline) for index, text in enumerate(items))
    if deadline:
        checked = _timed(checked, deadline)
    found = _cut(list(checked) if isinstance(texts, (list, tuple)) else checked)
    return found if log is None else _counted(found, log)


def _timed(checked: Iterable[T], deadline: int) -> Iterator[T]:
    for text in checked:
        check_deadline(deadline)
        yield text


def _counted(windows: Iterable[list[T]], log: CallLog) -> Iterator[list[T]]:
    for window in windows:
        log.texts_came(len(window))
        yield window


def _cut(texts: Iterable[T]) -> Iterator[list[T]]:
    window: list[T] = []
    characters = 0
    for text in texts:
        window.append(text)
        parts: Any = (text,) if isinstance(text, str) else text
        characters += sum(map(len, parts))
        if len(window) >= _WINDOW or characters >= _WINDOW_CHARACTERS:
            yield window
            window, characters = [], 0
    if window:
        yield window


def as_count(value: Any, name: str) -> int | None:
    """None, or an int of at least 1."""
    if value is None:
        return None
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: expected an int or None, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name}: got {value}, expected at least 1")
    return int(value)


def run_sorted(
    model: Encoder,
    outputs: Sequence[str],
    tokens: Sequence[Tokens],
    max_sequences: int | None,
    num_threads: int | None,
    log: CallLog | None = None,
    *,
    more: Mapping[str, Any] | None = None,
    deadline: int = 0,
) -> Iterator[tuple[Integers, Integers, dict[str, Floats]]]:
    """Run texts through ``model``, the longest first, packed into groups that stay in the cache.

    ``outputs`` are names of the model's graph, ``more`` arrays for it. ``log`` gets the number of tokens, and the time
    until the last step has been used.

    Yields
    ------
    (rows, cu_seqlens, found)
        Indices of texts, the ends of their tokens (n + 1,), and outputs by name. Texts without tokens do not come.
    """
    lengths = np.fromiter((len(ids) for ids, _ in tokens), np.int64, len(tokens))
    if log is not None:
        log.tokens_came(int(lengths.sum()))
    check_deadline(deadline)
    order = np.argsort(-lengths, kind="stable")
    order = order[: np.count_nonzero(lengths)]
    if not order.size:
        return
    ids = np.concatenate([tokens[i][0] for i in order])
    typed = model.type_vocab_size > 1  # a model without types may come with a tokenizer that tells them
    types = np.concatenate([tokens[i][1] for i in order]) if typed else np.zeros_like(ids)
    sizes = lengths[order]
    columns = np.arange(ids.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    steps = model.run_packed(
        outputs, ids, types, columns, sizes, more=more, max_sequences=max_sequences, num_threads=num_threads,
        deadline=deadline,
    )  # fmt: skip
    for sequences, _, cu_seqlens, found in steps:
        yield order[sequences], cu_seqlens, found
    if log is not None:
        log.computed()


class Progress:
    """A count of texts on stderr, rewritten in place a few times a second. ``total`` is None where nobody knows."""

    def __init__(self, total: int | None, wanted: bool | None) -> None:
        self._total = total
        self._done = 0
        self._next = time.monotonic() + _PROGRESS_SECONDS
        self._stream = sys.stderr
        if wanted is None:
            many = total is None or total >= _PROGRESS_FROM
            wanted = many and self._stream is not None and self._stream.isatty()
        self._wanted = wanted and self._stream is not None
        self._written = False

    def __enter__(self) -> Progress:
        return self

    def advance(self, count: int) -> None:
        """``count`` more texts are done."""
        self._done += count
        if self._wanted and time.monotonic() >= self._next:
            self._write()
            self._next = time.monotonic() + _PROGRESS_SECONDS

    def _write(self) -> None:
        total = "" if self._total is None else f"/{self._total}"
        self._stream.write(f"\r{self._done}{total} texts")
        self._stream.flush()
        self._written = True

    def __exit__(self, *error: object) -> None:
        if self._written or (self._wanted and self._done):
            if error[0] is None:
                self._write()
            self._stream.write("\n")
            self._stream.flush()


def length_of(texts: Iterable[Any]) -> int | None:
    """How many ``texts`` there are, where that is known without reading them."""
    try:
        return len(texts)  # type: ignore[arg-type]
    except TypeError:
        return None
