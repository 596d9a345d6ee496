# SPDX-License-Identifier: MIT
"""The folder's tokenizer.json through the ``tokenizers`` library: ids of texts and pairs, cut to what a model takes.

The library makes tokens; where they are cut, and the special ones around them, are decided here, so that a text costs
what its first (or last) tokens cost, and a pair what its two texts cost.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..loaders.files import ModelFiles, as_files
from ..vocab.library import named_errors
from .cutting import Cutter, Piece, TextTooLong
from .frames import Frame, Offsets
from .limits import Limit
from .opening import TOKENIZER_JSON, open_tokenizer
from .settings import TextSettings
from .sidefiles import sentence_bert
from .tokenizerconfig import TokenizerConfig

if TYPE_CHECKING:
    from ..typing import OnLong

__all__ = ["TextTokenizer", "Tokens"]

Tokens = tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.int64]]]
"""Token ids and token type ids of a text, (t,) each."""

_CHARS_PER_TOKEN = 6  # of the first piece of a text: most texts that are cut need no second one
_LEAST_AT_FIRST, _MOST_AT_FIRST = 256, 8192
_SLOW = 1 << 15  # characters of a piece above which the library is called so that it lets other threads run
_COMPARED = 1 << 16  # tokens up to which two texts that are both too long are told apart by length

_AT_ONCE = 256  # texts whose encodings, which are many times the size of their ids, are in memory together
_CHARS_AT_ONCE = 1 << 16  # of texts that the library encodes in one call, where a deadline is to be met

_OVERLAP = 128  # tokens that two neighbouring windows of a long context share, as in transformers' pipeline


class TextTokenizer:
    """Tokens of a text: at most ``max_length`` of them, special ones included.

    Truncation and padding settings inside tokenizer.json are switched off: they are leftovers of training.

    Parameters
    ----------
    folder
        Where tokenizer.json is: a folder, or the files of a model.
    settings
        Of the same folder.
    max_positions
        The longest sequence of the model; texts are never longer.

    Raises
    ------
    ImportError
        The ``tokenizers`` library is not installed.
    FileNotFoundError
        The folder has no tokenizer.json.
    ValueError
        tokenizer.json is damaged, or the maximum length leaves no room for the special tokens.
    """

    def __init__(self, folder: ModelFiles | str | os.PathLike[str], settings: TextSettings, max_positions: int) -> None:
        files = as_files(folder)
        config = TokenizerConfig(files, sentence_bert(files))
        tokenizer = open_tokenizer(files, config, "embed text or classify it")
        self.max_positions = max_positions
        self.max_length = min(settings.max_length or max_positions, max_positions)
        """Most tokens of a text, where a call says nothing else."""
        self._tokenizer = tokenizer
        self._settings = settings
        self._where = files.describe()
        self._path = files.describe(TOKENIZER_JSON)
        self.check_length(self.max_length, self._where)

    def __getstate__(self) -> dict[str, Any]:
        kept = ("max_positions", "max_length", "_tokenizer", "_settings", "_where", "_path")
        return {name: self.__dict__[name] for name in kept}  # what is found out from these is found out again

    def check_length(self, length: int, name: str) -> int:
        """``length`` itself where it is one that texts can be cut to; ``ValueError`` with ``name`` otherwise."""
        special = self._single.special
        if length < special:
            raise ValueError(f"{name}: texts of at most {length} tokens leave no room for {special} special tokens")
        if length > self.max_positions:
            raise ValueError(f"{name}: got {length}, expected at most {self.max_positions}, the model's positions")
        return length

    def limit(
        self, max_length: int | None = None, on_long: OnLong = "truncate", what: str = "texts", deadline: int = 0
    ) -> Limit:
        """The limit of one job, with the arguments of ``embed`` and its like."""
        if on_long not in ("truncate", "error"):
            kind = ValueError if isinstance(on_long, str) else TypeError
            raise kind(f"on_long: got {on_long!r}, expected 'truncate' or 'error'")
        length = self.max_length
        if max_length is not None:
            if isinstance(max_length, (bool, np.bool_)) or not hasattr(max_length, "__index__"):
                raise TypeError(f"max_length: expected an int or None, got {type(max_length).__name__}")
            length = self.check_length(int(max_length), "max_length")
        return Limit(length, on_long == "error", what, deadline)

    def encode(self, text: str | tuple[str, str], max_length: int | None = None) -> Tokens:
        """Token ids and token type ids of a text, or of a pair of texts. Texts must be encodable as UTF-8.

        Of a pair that is too long, the longer of its texts loses tokens first, as transformers' ``truncation=True`` has
        it. Raises ``TextTooLong`` where a text cannot be cut and is too long to be taken as a whole.
        """
        return self.encode_many([text], self.limit(max_length))[0]

    def encode_many(self, texts: Sequence[str | tuple[str, str]], limit: Limit | None = None) -> list[Tokens]:
        """``encode`` of each of ``texts``, by fewer calls of the library where it may do them its way.

        That way is threads of its own, which TOKENIZERS_PARALLELISM switches on or off; where the variable is not set,
        this thread does it all, so that no more threads than asked for run and a later fork() meets none. ``limit``
        counts the texts, and those that were cut.
        """
        limit = self.limit() if limit is None else limit
        results: list[Tokens] = []
        longest = self._first_size(limit.tokens)  # longer ones are not looked for, which would hash all of them
        known: tuple[str, list[int], bool] | None = None  # the first text of the last pair: a query comes many times
        for start in range(0, len(texts), _AT_ONCE):
            part = texts[start : start + _AT_ONCE]
            short = self._short(part, limit)
            for i, text in enumerate(part):
                index = start + i
                if isinstance(text, str):
                    frame = self._single
                    room = limit.tokens - frame.special
                    ids, cut = short[text] if len(text) <= longest else self._first_tokens(text, room, limit, index)
                    if len(ids) > room:
                        ids, cut = self._kept(ids, room), True
                    made = frame.build(ids)
                else:
                    frame = self._pair_frame(limit.tokens)
                    room = limit.tokens - frame.special
                    if known is None or known[0] != text[0]:
                        known = (text[0], *self._first_tokens(text[0], room, limit, index))
                    other = text[1]
                    second = short[other] if len(other) <= longest else self._first_tokens(other, room, limit, index)
                    first_ids, second_ids, cut = self._fit(text, known[1:], second, room, limit, index)
                    made = frame.build(first_ids, second_ids)
                if cut:
                    limit.count(index)
                ids_array = np.array(made[0], np.int64)
                typed = self._settings.token_types
                results.append((ids_array, np.array(made[1], np.int64) if typed else np.zeros_like(ids_array)))
        limit.seen += len(texts)
        return results

    def plain_ids(self, text: str) -> list[int]:
        """Ids of a short text, without special tokens around it."""
        return list(self._encode(text).ids)

    def encode_between(self, before: str, texts: Sequence[str], after: str, limit: Limit) -> list[Tokens]:
        """Of each of ``texts`` the ids of before + text + after, without special tokens around them.

        Of what is too long the text alone loses tokens. ``limit`` counts the texts, and those that were cut.
        ``ValueError`` where the rest leaves no room for it.
        """
        edges = [self._first_tokens(edge, limit.tokens, limit, 0, "query") for edge in (before, after)]
        room = limit.tokens - sum(len(ids) for ids, _ in edges)
        if room < 0:
            raise ValueError(f"query: leaves no room for a document within {limit.tokens} tokens")
        results: list[Tokens] = []
        for index, text in enumerate(texts):
            limit.look()
            own: list[int] = []
            cut = False
            if len(text) > self._first_size(limit.tokens):
                own, cut = self._first_tokens(text, limit.tokens, limit, index)
            ids = [] if cut else self._encode(before + text + after).ids
            if cut or len(ids) > limit.tokens:
                own = own or self._encode(text).ids
                limit.count(index)
                if len(own) > room:
                    own = self._kept(own, room)
                ids = [*edges[0][0], *own, *edges[1][0]]
            array = np.array(ids, np.int64)
            results.append((array, np.zeros_like(array)))
        limit.seen += len(texts)
        return results

    def _short(self, texts: Sequence[str | tuple[str, str]], limit: Limit) -> dict[str, tuple[list[int], bool]]:
        """Ids of texts, and of second texts of pairs, that are encoded as a whole: without special ones, not cut."""
        own_way = os.environ.get("TOKENIZERS_PARALLELISM") is not None
        longest = self._first_size(limit.tokens)
        whole = dict.fromkeys(
            text for text in (item if isinstance(item, str) else item[1] for item in texts) if len(text) <= longest
        )
        one = self._tokenizer.encode
        many = getattr(self._tokenizer, "encode_batch_fast", self._tokenizer.encode_batch)  # without offsets
        found: dict[str, tuple[list[int], bool]] = {}
        for several in _parts(list(whole), limit.timed):
            limit.look()
            with named_errors(f"{self._path}: the tokenizers library failed on a text"):
                if own_way:
                    encodings = many(several, add_special_tokens=False)
                else:
                    encodings = [one(text, add_special_tokens=False) for text in several]
                found.update((text, (encoding.ids, False)) for text, encoding in zip(several, encodings, strict=True))
        return found

    @staticmethod
    def _first_size(tokens: int) -> int:
        """Characters that are encoded together at first, for so many tokens."""
        return min(_MOST_AT_FIRST, max(_LEAST_AT_FIRST, _CHARS_PER_TOKEN * tokens))

    def _first_tokens(
        self, text: str, room: int, limit: Limit, index: int, name: str | None = None
    ) -> tuple[list[int], bool]:
        """The ``room`` ids of ``text`` that are kept, and whether there are more: then they are ``room + 1``."""
        ids: list[int] = []
        with self._naming(name or limit.name(index)):
            for piece in self._pieces(text, room, limit, backward=self._from_end):
                more = self._piece_ids(piece)
                ids = more + ids if self._from_end else ids + more
                if len(ids) > room:
                    return self._kept(ids, room + 1), True
        return ids, False

    def _kept(self, ids: list[int], count: int) -> list[int]:
        return ids[len(ids) - count :] if self._from_end else ids[:count]

    def _fit(
        self, pair: tuple[str, str], first: tuple[list[int], bool], second: tuple[list[int], bool], room: int,
        limit: Limit, index: int,
    ) -> tuple[list[int], list[int], bool]:  # fmt: skip
        """Ids of two texts that fit into ``room`` together, and whether tokens were lost.

        The longer text loses tokens until both are of one length, then both do; of an odd number the longer one keeps
        one more (of equal ones the second), as in the tokenizers library.
        """
        a, b = len(first[0]), len(second[0])
        if a + b <= room and not first[1] and not second[1]:
            return first[0], second[0], False
        half = room // 2
        if min(a, b) <= half:
            sizes = (a, room - a) if a <= b else (room - b, b)
        elif room % 2 and self._is_longer(pair, first, second, limit, index):
            sizes = (half + 1, half)
        else:
            sizes = (half, room - half)
        return self._kept(first[0], sizes[0]), self._kept(second[0], sizes[1]), True

    def _is_longer(
        self, pair: tuple[str, str], first: tuple[list[int], bool], second: tuple[list[int], bool], limit: Limit,
        index: int,
    ) -> bool:  # fmt: skip
        """Whether the first text has more tokens than the second. Of two that are endless, characters decide."""
        counts, ends = [0, 0], [False, False]
        flows: list[Iterator[Piece]] = []
        for i, (text, (ids, more)) in enumerate(zip(pair, (first, second), strict=True)):
            flows.append(self._pieces(text, 1 << 10, limit, backward=False))
            counts[i], ends[i] = (0, False) if more else (len(ids), True)
        with self._naming(limit.name(index)):
            while not all(ends):
                if ends[1] and counts[0] > counts[1] or ends[0] and counts[1] >= counts[0]:
                    break
                if not any(ends) and min(counts) >= _COMPARED:
                    return len(pair[0]) > len(pair[1])
                behind = int(ends[0] or not ends[1] and counts[1] < counts[0])
                piece = next(flows[behind], None)
                ends[behind] = piece is None
                counts[behind] += 0 if piece is None else len(self._piece_ids(piece))
        return counts[0] > counts[1]

    def encode_offsets(self, text: str, limit: Limit | None = None, index: int = 0) -> tuple[Tokens, Offsets]:
        """Tokens of ``text``, and (t, 2) where in it each begins and ends, in characters; (-1, -1) for special ones.

        ``limit`` counts the text where it is cut; ``index`` is its place behind the last one that was counted.
        """
        limit = self.limit() if limit is None else limit
        frame = self._single
        room = limit.tokens - frame.special
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        with self._naming(limit.name(index)):
            for piece in self._pieces(text, room, limit, backward=self._from_end):
                more, places = self._encode_places(piece)
                ids = more + ids if self._from_end else ids + more
                offsets = places + offsets if self._from_end else offsets + places
                if len(ids) > room:
                    limit.count(index)
                    ids = self._kept(ids, room)
                    offsets = offsets[-len(ids) or len(offsets) :] if self._from_end else offsets[: len(ids)]
                    break
        return self._tokens(*frame.build(ids)), frame.build_offsets(0, offsets)

    def encode_windows(
        self, question: str, context: str, max_length: int | None = None, deadline: int = 0
    ) -> Iterator[tuple[Tokens, Offsets]]:
        """``question`` with each of the windows of ``context`` that fit beside it, which overlap.

        With the tokens of each: (t, 2) where in ``context``, in characters, a token begins and ends; (-1, -1) for
        tokens that are not of the context. They are made as they are asked for. ``ValueError`` where the question
        leaves no room.
        """
        limit = self.limit(max_length, deadline=deadline)
        length = limit.tokens
        frame = self._pair_frame(length)
        asked, cut = self._first_tokens(question, length, limit, 0, "question")
        room = length - frame.special - len(asked)
        if room < 2 or cut:
            raise ValueError(f"question: leaves no room for its context within {length} tokens")
        step = room - min(_OVERLAP, room // 2)
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        begun = False
        with self._naming("context"):
            for piece in self._pieces(context, 1 << 10, limit, backward=False):
                more, places = self._encode_places(piece)
                ids += more
                offsets += places
                while len(ids) > room:
                    begun = True
                    yield self._window(frame, asked, ids[:room], offsets[:room])
                    del ids[:step], offsets[:step]
        # What is left is more than the windows before have seen, or all there is.
        if not begun or len(ids) > room - step:
            yield self._window(frame, asked, ids, offsets)

    def _window(
        self, frame: Frame, question: list[int], ids: list[int], offsets: list[tuple[int, int]]
    ) -> tuple[Tokens, Offsets]:
        return self._tokens(*frame.build(question, ids)), frame.build_offsets(1, offsets, len(question), len(ids))

    def check_cost(self, text: str, name: str, deadline: int = 0) -> None:
        """``TextTooLong`` with ``name`` for a text that cannot be cut and is too long to be taken as a whole."""
        self._first_tokens(text, self.max_length, self.limit(deadline=deadline), 0, name)

    def count_prompt(self, prompt: str, deadline: int = 0) -> int:
        """Tokens that ``prompt`` takes at the beginning of a text, special ones before it included."""
        if not prompt:
            return 0
        ids, _ = self._first_tokens(prompt, self.max_length, self.limit(deadline=deadline), 0, "prompt")
        before = 0
        for text, own, _ in self._single.parts:
            if text >= 0:
                break
            before += len(own)
        return before + len(ids)

    @property
    def _from_end(self) -> bool:
        """Whether a text that is too long loses tokens at its beginning."""
        return self._settings.truncation_side == "left"

    def _pieces(self, text: str, tokens: int, limit: Limit, *, backward: bool) -> Iterator[Piece]:
        """``text`` in pieces, the first of which is likely to have so many tokens."""
        limit.look()
        size = self._first_size(tokens)
        if len(text) <= size:
            return iter((Piece(text, 0),))
        return (self._cutter.backward if backward else self._cutter.forward)(text, size, limit.look)

    def _encode(self, text: str) -> Any:
        """What the library makes of a piece, without special tokens."""
        with named_errors(f"{self._path}: the tokenizers library failed on a text"):
            if len(text) <= _SLOW:
                return self._tokenizer.encode(text, add_special_tokens=False)
            return self._tokenizer.encode_batch([text], add_special_tokens=False)[0]

    def _piece_ids(self, piece: Piece) -> list[int]:
        """Ids of a piece."""
        if not piece.start:
            return self._encode(piece.text).ids
        return self._encode(self._cutter.lead + piece.text).ids[self._cutter.lead_tokens :]

    def _encode_places(self, piece: Piece) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of a piece, and where in the whole text their characters are."""
        encoding = self._encode(self._cutter.lead + piece.text if piece.start else piece.text)
        offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2)
        ids: list[int] = encoding.ids
        if piece.start:
            ids, offsets = ids[self._cutter.lead_tokens :], offsets[self._cutter.lead_tokens :] - len(self._cutter.lead)
        if piece.gap:
            offsets[offsets >= piece.gap_at] += piece.gap
        offsets += piece.start
        return ids, [(a, b) for a, b in offsets.tolist()]

    @cached_property
    def _cutter(self) -> Cutter:
        return Cutter(self._tokenizer)

    @cached_property
    def _single(self) -> Frame:
        return self._frame(1)

    @cached_property
    def _pair(self) -> Frame:
        return self._frame(2)

    @cached_property
    def _sample(self) -> tuple[str, int]:
        """A text of some tokens, and how many they are."""
        size = min(self._tokenizer.get_vocab_size(), 4096)
        for text in ("a", "the", ".", *filter(None, map(self._tokenizer.id_to_token, range(size)))):
            with contextlib.suppress(ValueError):
                if count := len(self._encode(text)):
                    return text, count
        raise ValueError(f"{self._path}: no text has tokens")

    def _frame(self, count: int) -> Frame:
        """What the tokenizer puts around ``count`` texts, read off an example."""
        sample, tokens = self._sample
        with named_errors(f"{self._path}: the tokenizers library failed on a text"):
            whole = self._tokenizer.encode(sample, sample if count > 1 else None)
        parts: list[tuple[int, list[int], list[int]]] = []
        found = [0] * count
        for token, kind, text in zip(whole.ids, whole.type_ids, whole.sequence_ids, strict=True):
            number = -1 if text is None else int(text)
            if number >= 0:
                found[number] += 1
            if parts and parts[-1][0] == number:
                if number < 0:
                    parts[-1][1].append(token)
                    parts[-1][2].append(kind)
            else:
                parts.append((number, [token], [kind]) if number < 0 else (number, [], [kind]))
        orders = [number for number, _, _ in parts if number >= 0]
        if found != [tokens] * count or sorted(orders) != list(range(count)):
            raise ValueError(
                f"{self._path}: its post-processor does more than to put special tokens around texts, which alone is "
                "supported"
            )
        return Frame(tuple(parts), sum(len(ids) for _, ids, _ in parts))

    def _pair_frame(self, length: int) -> Frame:
        frame = self._pair
        if length < frame.special:
            raise ValueError(
                f"{self._where}: texts of at most {length} tokens leave no room for the {frame.special} special tokens "
                "of a pair"
            )
        return frame

    def _tokens(self, ids: list[int], types: list[int]) -> Tokens:
        array = np.array(ids, np.int64)
        return array, np.array(types, np.int64) if self._settings.token_types else np.zeros_like(array)

    @contextmanager
    def _naming(self, name: str) -> Iterator[None]:
        """The text that is too long has a name."""
        try:
            yield
        except TextTooLong as error:
            text = str(error)
            raise TextTooLong(text if text.startswith(name) else f"{name}: {text}") from None


def _parts(texts: list[str], timed: bool) -> Iterator[list[str]]:
    """``texts`` that one call of the library may take together: all of them, but where the call is ``timed``."""
    if not timed:
        yield texts
        return
    part: list[str] = []
    size = 0
    for text in texts:
        if part and size + len(text) > _CHARS_AT_ONCE:
            yield part
            part, size = [], 0
        part.append(text)
        size += len(text)
    yield part
