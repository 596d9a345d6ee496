# SPDX-License-Identifier: MIT
"""Where a long text may be cut so that the tokens of its pieces, one behind the other, are those of the whole.

A tokenizer is a chain: added tokens are found, a normaliser changes characters, a pre-tokenizer splits, and a model
makes tokens of each split. Where every stage is local and the pre-tokenizer splits for certain, a text can be cut. What
is known of the stages of the ``tokenizers`` library is written down here, and whatever is not known is not cut.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["MAX_RUN", "Cutter", "Piece", "TextTooLong"]

MAX_RUN = 100_000
"""Characters without a place to cut that are taken: they cost what a book of words does."""

_LEAST = 256
_MOST = 8192  # characters of a piece, where there are places to cut: a few milliseconds, which hold the interpreter

_ASCII_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_SPACES = " \t\r\n"
_IDEOGRAPHS = ("\u4e00", "\u9fff")  # as BertNormalizer surrounds them by spaces

# Letters and digits of scripts that every version of Unicode in use knows; what no normaliser drops.
_PLAIN = "0-9A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u03b1-\u03c9\u0410-\u044f\u05d0-\u05ea\u0621-\u063a"
_PLAIN += "\u0905-\u0939\u0e01-\u0e2e\u3042-\u3093\u30a2-\u30f3\uac00-\ud7a3"
_MARKS = "\u0300-\u036f"  # which belong to the letter before them, and which normalisers may drop
_PLAIN_OR_IDEOGRAPH = _PLAIN + "\u4e00-\u9fa5"

# Behind such a letter, digit or ideograph, a match of any of the expressions below ends in front of these. The
# apostrophe is none of them: some expressions join it to the word before ("don't").
_ENDS_A_WORD = ',.;:!?()[]{}<>"/\\*+=&%$#@|~^`-\u3001\u3002\uff0c\uff01\uff1f\uff1a\uff1b\u300c\u300d\u2026\u2014'

# What has to stand before a place to cut. White space and what normalisers may turn into it is no text.
_NO_TEXT = r"\s\x00-\x20\x7f-\xa0\xad\u0600-\u0605\u061c\u06dd\u070f\u180e"
_NO_TEXT += r"\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff\ufff9-\ufffb"
_BEHIND_SPACES, _BEHIND_TEXT, _BEHIND_WORDS, _BEHIND_PLAIN = (
    "", rf"(?<=[^{_NO_TEXT}])", r"(?<=[^\W_])", f"(?<=[{_PLAIN_OR_IDEOGRAPH}])"
)  # fmt: skip

# Splitting expressions of published byte-level tokenizers (GPT-2 and its successors). In all of them a match goes on
# beyond a letter or digit only with letters, digits, marks or an apostrophe.
_LETTERS = r"[^\r\n\p{L}\p{N}]?"
_TAILS = (
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
    r"\s+(?!\S)|\s+",
)
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SUFFIXES = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD_SPLITS = {
    _GPT2,
    *(
        f"{_SUFFIXES}|{_LETTERS}" + r"\p{L}+|" + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n" + slash + "]*|" + tail
        for digits in (r"\p{N}{1,3}", r"\p{N}", r"\p{N}+")
        for slash in ("", "/")
        for tail in _TAILS
    ),
}
_WHITE_SPLITS = {r"\s+", r"\s", " +", " "}  # of white space alone
_DIGIT_SPLITS = {r"\p{N}", r"\p{N}{1,3}", r"\p{N}+", r"\d", r"\d+", "[0-9]"}
_ALL_WHITE = {r"\s+", r"\s{2,}|[\n\r\t]"}
_COLLAPSED = {" {2,}", r"\s{2,}", " +", *_ALL_WHITE}  # replaced by a normaliser: runs of white space, some or all
_LOCAL_CHANGES = {
    "BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled", "Prepend", "Strip",
    "StripAccents",
}  # fmt: skip
_APART = {"Removed", "Isolated", "MergedWithNext", "Contiguous"}  # what is found does not stay with what is before it


class TextTooLong(ValueError):
    """A text that costs too much to tokenize, or is longer than the caller allows.

    Example
    -------
    >>> try:                                                                    # doctest: +SKIP
    ...     vectors = model.embed(texts, on_long="error")
    ... except fastattn.TextTooLong as error:
    ...     print(error)
    texts[3]: more than 256 tokens, and on_long is 'error'
    """


class Piece(NamedTuple):
    """Part of a text, or what stands for it."""

    text: str
    start: int
    """Where it begins in the whole text, in characters."""
    gap_at: int = -1
    """Where in ``text`` characters of the whole are left out that change no token; -1 for nowhere."""
    gap: int = 0
    """How many they are."""


def _never() -> None:
    """Nobody waits for the pieces."""


class Cutter:
    """Cuts texts for one tokenizer.

    Parameters
    ----------
    tokenizer
        Of the ``tokenizers`` library, with all its settings made.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._boundary = _boundary(tokenizer)
        self._word = _longest_word(tokenizer) if self._boundary is not None else None
        added = "".join(token.content for token in tokenizer.get_added_tokens_decoder().values())
        # White space alone is no word, unless it is one that was added: whole pieces of it need not be looked at.
        self._blank = self._word is not None and not any(letter.isspace() for letter in added)
        self._same_word = re.compile(f"[{_PLAIN}{_MARKS}]+") if self._word is not None else None
        self.lead, self.lead_tokens = self._find_lead(tokenizer)

    def _find_lead(self, tokenizer: Tokenizer) -> tuple[str, int]:
        """What is put in front of every piece but that which begins a text, and its number of tokens.

        With a letter before it, a piece is treated as in the middle of a text: nothing is stripped from its beginning,
        no space is put there, and places are counted as they are elsewhere.
        """
        for letter in "aeiotn01" if self._boundary is not None else "":
            try:
                return letter, len(tokenizer.encode(letter, add_special_tokens=False))
            except Exception:  # noqa: BLE001  bare, of the library: it knows neither the letter nor an unknown token
                continue
        self._boundary = self._word = None
        return "", 0

    @property
    def boundary(self) -> re.Pattern[str] | None:
        """What a piece may begin with; None where only a whole text will do."""
        return self._boundary

    def forward(self, text: str, first: int, look: Callable[[], None] = _never) -> Iterator[Piece]:
        """Pieces of ``text`` in order: about ``first`` characters, then more.

        ``look`` is called again and again, wherever the text is long, and may raise.

        Raises
        ------
        TextTooLong
            In the middle, when the pieces before it have come: there is no place to cut.
        """
        start, size, end = 0, max(min(max(first, _LEAST), _MOST), 2), len(text)
        while start < end:
            look()
            if end - start <= size:
                yield Piece(text[start:], start)
                return
            while self._blank and start < end and not text[start : start + size].strip(_SPACES):
                look()
                start += size - 1  # a piece begins with white space, where there was any
            stop = self._next_cut(text, start, size)
            if stop is None:
                yield (piece := self._one_word(text, start, look))
                start = piece.start + len(piece.text) + piece.gap
            else:
                yield Piece(text[start:stop], start)
                start = stop
            size = _MOST

    def backward(self, text: str, first: int, look: Callable[[], None] = _never) -> Iterator[Piece]:
        """Pieces of ``text`` from its end on: about ``first`` characters, then more. ``look`` and what is raised are as
        those of ``forward``.
        """
        stop, size = len(text), min(max(first, _LEAST), _MOST)
        while stop:
            look()
            if stop <= size:
                yield Piece(text[:stop], 0)
                return
            while self._blank and stop > size and not text[stop - size : stop].strip(_SPACES):
                look()
                stop -= size
            start = self._last_cut(text, stop, size)
            yield Piece(text[start:stop], start)
            stop, size = start, _MOST

    def _next_cut(self, text: str, start: int, size: int) -> int | None:
        """The first place behind ``start + size``, else the last before it; the end where that is near; or None."""
        end = len(text)
        furthest = start + (start > 0) + MAX_RUN  # what a piece begins with is no part of the run behind it
        if self._boundary is not None:
            behind = self._boundary.search(text, start + size, min(end, furthest + 1))
            if behind is not None:
                return behind.start()
            last = self._last_match(text, start + 1, min(end, start + size))
            if last is not None:
                return last
        return end if end <= furthest else None

    def _last_cut(self, text: str, stop: int, size: int) -> int:
        """The last place before ``stop - size``, else the first behind it, else the beginning where that is near."""
        least = max(1, stop - MAX_RUN - 1)
        if self._boundary is not None:
            reach = stop - size
            while reach > least:
                low = max(least, reach - size)
                last = self._last_match(text, low, reach)
                if last is not None:
                    return last
                reach = low
            match = self._boundary.search(text, max(stop - size, 1), stop)
            if match is not None and match.start() < stop:
                return match.start()
        if stop <= MAX_RUN:
            return 0
        raise self._too_long(stop - MAX_RUN)

    def _last_match(self, text: str, start: int, stop: int) -> int | None:
        """The last place to cut from ``start`` to before ``stop``."""
        last = None
        for match in self._boundary.finditer(text, start, stop) if self._boundary is not None else ():
            last = match.start()
        return last

    def _one_word(self, text: str, start: int, look: Callable[[], None]) -> Piece:
        """A piece that stands for a word of any length from ``start`` on, which is too long to be known.

        WordPiece makes one unknown token of every word of more than so many characters, whatever they are.
        """
        stop = start + MAX_RUN
        if self._word is not None and self._same_word is not None and self._boundary is not None:
            tail = max(start, stop - 4 * (self._word + 1))
            letters = len(re.sub(f"[{_MARKS}]", "", text[tail:stop]))
            if letters > self._word and self._same_word.fullmatch(text, tail, stop):
                end = stop
                while match := self._same_word.match(text, end, min(len(text), end + (1 << 16))):
                    look()
                    end = match.end()
                rest = self._boundary.search(text, end, min(len(text), end + MAX_RUN))
                after = len(text) if rest is None else rest.start()
                if rest is not None or after - end <= MAX_RUN:
                    return Piece(text[start:stop] + text[end:after], start, stop - start, end - stop)
        raise self._too_long(start)

    def _too_long(self, start: int) -> TextTooLong:
        if self._boundary is None:
            return TextTooLong(
                f"more than {MAX_RUN:,} characters, and the model's tokenizer has to see a text as a whole: cut it "
                "beforehand, at paragraphs for instance"
            )
        return TextTooLong(
            f"more than {MAX_RUN:,} characters from character {start:,} on without a place where the model's tokenizer "
            "splits for certain (white space, with some tokenizers punctuation): not a text, or to be cut beforehand"
        )


def _stages(part: Any, children: str) -> list[dict[str, Any]] | None:
    """The stages of a normaliser or pre-tokenizer one behind the other; None where they cannot be told."""
    if part is None:
        return []
    try:
        state = json.loads(part.__getstate__())
    except Exception:  # noqa: BLE001  a stage of somebody's own: the library raises bare Exception
        return None
    result: list[dict[str, Any]] = []
    waiting = [state]
    while waiting:
        stage = waiting.pop(0)
        if not isinstance(stage, dict):
            return None
        if stage.get("type") == "Sequence":
            waiting[:0] = stage.get(children) or []
        else:
            result.append(stage)
    return result


def _longest_word(tokenizer: Tokenizer) -> int | None:
    """Characters of the longest word that the model looks at, where longer ones become one unknown token."""
    splits = _stages(tokenizer.pre_tokenizer, "pretokenizers")
    limit = getattr(tokenizer.model, "max_input_chars_per_word", None)
    known = type(tokenizer.model).__name__ == "WordPiece" and isinstance(limit, int) and 0 < limit <= 10_000
    changes = _stages(tokenizer.normalizer, "normalizers")
    local = changes is not None and {stage.get("type") for stage in changes} <= {"BertNormalizer", "Lowercase"}
    if not known or not local or splits is None or [s.get("type") for s in splits] != ["BertPreTokenizer"]:
        return None
    return int(limit)  # type: ignore[arg-type]


def _boundary(tokenizer: Tokenizer) -> re.Pattern[str] | None:
    changes = _stages(tokenizer.normalizer, "normalizers")
    splits = _stages(tokenizer.pre_tokenizer, "pretokenizers")
    if changes is None or not splits:
        return None
    places, inside = _places(splits, changes), _looked_at(changes, splits)
    if places is None or inside is None:
        return None
    for token in tokenizer.get_added_tokens_decoder().values():
        if token.rstrip and not places[_BEHIND_SPACES]:  # it takes the white space behind it along
            return None
        if token.single_word:  # what stands beside it counts
            inside.add("_")
            if not token.content[:1].isalnum():
                return None
        for form in (token.content, unicodedata.normalize("NFKC", token.content).lower()):
            inside.update(form[1:])
    alternatives = []
    for behind, letters in places.items():
        kept = [x for x in dict.fromkeys(letters) if x not in inside]
        if kept:
            alternatives.append(f"{behind}[{''.join(map(re.escape, kept))}]")
    if _ideographs(splits, changes):
        low, high = _IDEOGRAPHS
        not_these = "".join(sorted(letter for letter in inside if low <= letter <= high))
        alternatives.append((f"(?![{not_these}])" if not_these else "") + f"[{low}-{high}]")
    return re.compile("|".join(alternatives)) if alternatives else None


def _ideographs(splits: list[dict[str, Any]], changes: list[dict[str, Any]]) -> bool:
    """Whether every ideograph is a word of its own."""
    surrounded = any(stage.get("handle_chinese_chars") is True for stage in changes)
    return surrounded and [stage.get("type") for stage in splits] == ["BertPreTokenizer"]


def _places(splits: list[dict[str, Any]], changes: list[dict[str, Any]]) -> dict[str, str] | None:
    """Where the pre-tokenizers ``splits`` split for certain: what has to be before -> in front of which characters.

    None where one of them is not local.
    """
    kinds = [stage.get("type") for stage in splits]
    if kinds == ["BertPreTokenizer"]:
        return {_BEHIND_SPACES: _SPACES + "\u3000" + _ASCII_PUNCTUATION}
    found = {_BEHIND_SPACES: "", _BEHIND_TEXT: "", _BEHIND_WORDS: "", _BEHIND_PLAIN: ""}
    for stage in splits:
        kind, pattern, behavior = stage.get("type"), stage.get("pattern"), stage.get("behavior")
        if kind in ("BertPreTokenizer", "Whitespace", "WhitespaceSplit"):
            found[_BEHIND_SPACES] += _SPACES
            found[_BEHIND_PLAIN] += "" if kind == "WhitespaceSplit" else _ENDS_A_WORD
        elif kind == "Punctuation":
            found[_BEHIND_PLAIN] += _ENDS_A_WORD if behavior in _APART else ""
        elif kind == "Metaspace":
            found[_BEHIND_TEXT] += (_SPACES if _makes_spaces(changes) else " ") if stage.get("split", True) else ""
        elif kind == "ByteLevel" and not stage.get("use_regex", True):
            pass
        elif kind == "ByteLevel" or _is_word_split(stage):
            found[_BEHIND_TEXT] += " "
            found[_BEHIND_WORDS] += _SPACES
            found[_BEHIND_PLAIN] += _ENDS_A_WORD
        elif kind == "Split" and isinstance(pattern, dict):
            text = pattern.get("Regex", pattern.get("String"))
            if text in _WHITE_SPLITS and behavior in _APART and not stage.get("invert"):
                found[_BEHIND_TEXT] += _SPACES if "s" in text else " "
            elif text not in _DIGIT_SPLITS:
                return None
        elif kind != "Digits":
            return None
    return found


def _makes_spaces(changes: list[dict[str, Any]]) -> bool:
    """Whether a normaliser turns every run of white space, of newlines too, into a space."""
    return any(
        stage.get("type") == "Replace"
        and isinstance(stage.get("pattern"), dict)
        and stage["pattern"].get("Regex") in _ALL_WHITE
        and stage.get("content") == " "
        for stage in changes
    )


def _is_word_split(stage: dict[str, Any]) -> bool:
    """Whether a Split stage is the splitting expression of a byte-level tokenizer, which matches all of a text."""
    pattern, behavior = stage.get("pattern"), stage.get("behavior")
    return (
        stage.get("type") == "Split"
        and isinstance(pattern, dict)
        and pattern.get("Regex") in _WORD_SPLITS
        and (behavior == "Isolated" or (behavior == "Removed" and stage.get("invert") is True))
    )


def _looked_at(changes: list[dict[str, Any]], splits: list[dict[str, Any]]) -> set[str] | None:
    """Characters that the normalisers ``changes`` look at together with those before them; None: not local."""
    joined = any(stage.get("type") == "Metaspace" for stage in splits)
    inside: set[str] = set()
    for stage in changes:
        kind = stage.get("type")
        if kind == "Replace":
            pattern, content = stage.get("pattern"), stage.get("content")
            if not isinstance(pattern, dict) or not isinstance(content, str):
                return None
            space = content == " " or content == "\u2581" and joined  # that is where Metaspace splits
            text = pattern.get("String")
            if text is None:
                if pattern.get("Regex") not in _COLLAPSED or not space:
                    return None
            elif not isinstance(text, str) or not text or (any(x.isspace() for x in text) and not space):
                return None
            else:
                inside.update(text if content[:1] != text[0] and not space else text[1:])
        elif kind not in _LOCAL_CHANGES:
            return None
    return inside
