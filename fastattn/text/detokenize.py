# SPDX-License-Identifier: MIT
"""Text of tokens that come one by one: whole characters, and joined exactly what decoding all of them gives.

Each stage of a tokenizer's decoder is followed token by token. What a later token can still change is held back: bytes
of a character that is not complete, and of SentencePiece's byte tokens a whole run, since one wrong byte in it spoils
all of it. A decoder that no stage here stands for decodes everything at the end.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from copy import copy, deepcopy
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from .stages import State, state_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["IncrementalDecoder", "byte_rule"]

_BYTE_TOKEN = re.compile(r"<0x(\+?[0-9A-Fa-f]|[0-9A-Fa-f]{2})>")
_CLEANED = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"),
    (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip


class IncrementalDecoder:
    """Turns token ids into text as they come. Made by ``ModelTokenizer.incremental``.

    ``special`` tokens are left out; ``check`` makes an id of what is pushed, ``decode`` a text of many ids.

    Example
    -------
    >>> decoder = model.tokenizer.incremental()                                 # doctest: +SKIP
    >>> pieces = [decoder.push(number) for number in ids] + [decoder.finish()]  # doctest: +SKIP
    >>> "".join(pieces) == model.tokenizer.decode(ids)                          # doctest: +SKIP
    True
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        special: frozenset[str],
        check: Callable[[Any], int],
        decode: Callable[[list[int]], str],
    ) -> None:
        self._tokenizer, self._special, self._check, self._decode = tokenizer, special, check, decode
        stages = _stages(state_of(tokenizer.decoder))
        self._stages: list[_Stage] | None = stages
        self._kept: list[int] = []
        """Ids, where there are no stages."""
        self._done = False

    def copy(self) -> IncrementalDecoder:
        """Another one with what has been pushed so far."""
        other = copy(self)
        other._stages, other._kept = deepcopy(self._stages), self._kept.copy()
        return other

    def push(self, number: int) -> str:
        """The text that is certain now that ``number`` is the next token; often "".

        Raises
        ------
        TypeError, ValueError
            ``number`` is no id of a token, or ``finish`` has been called.
        """
        number = self._check(number)
        if self._done:
            raise ValueError("push: the text is finished")
        token = self._tokenizer.id_to_token(number)
        if token is None or token in self._special:
            return ""
        if self._stages is None:
            self._kept.append(number)
            return ""
        return "".join(_through(self._stages, [token]))

    def finish(self) -> str:
        """The rest of the text. Bytes that are no whole character become U+FFFD; later calls return ""."""
        if self._done:
            return ""
        self._done = True
        if self._stages is None:
            return self._decode(self._kept)
        text = ""
        for at, stage in enumerate(self._stages):
            text += "".join(_through(self._stages[at + 1 :], stage.finish()))
        return text


class _Stage(Protocol):
    """A stage of a decoder: pieces go in one by one, those that are certain come out."""

    def push(self, piece: str) -> list[str]: ...
    def finish(self) -> list[str]: ...


def _through(stages: list[_Stage], pieces: list[str]) -> list[str]:
    for stage in stages:
        pieces = [made for piece in pieces for made in stage.push(piece)]
    return pieces


def _stages(state: State | None) -> list[_Stage] | None:
    """The stages of a decoder; None where one is not known here, or stands where it cannot work piece by piece."""
    if state is None:
        return [_Joined()]
    found: list[_Stage] = []
    fused = False  # the stages before make one piece of all
    for part in _parts(state):
        kind = part.get("type")
        if kind == "Strip" and not part["stop"]:
            found.append(_Strip(part["content"], part["start"], fused))
        elif fused and kind != "Fuse":
            return None
        elif kind == "Fuse":
            fused = True
        elif kind == "ByteLevel":
            found.append(_ByteLevel())
            fused = True
        elif kind == "ByteFallback":
            found.append(_ByteFallback())
        elif kind == "Replace" and part["pattern"].get("String"):
            found.append(_Replace(part["pattern"]["String"], part["content"]))
        elif kind == "Metaspace":
            found.append(_Metaspace(part["replacement"], part.get("prepend_scheme") != "never"))
        elif kind == "WordPiece":
            found.append(_WordPiece(part["prefix"], part["cleanup"]))
        elif kind == "BPEDecoder":
            found.append(_Suffix(part["suffix"]))
        else:
            return None
    return found


def _parts(state: State) -> list[State]:
    if state.get("type") != "Sequence":
        return [state]
    return [part for inner in state["decoders"] for part in _parts(inner)]


@cache
def byte_letters() -> dict[str, int]:
    """The letters that byte-level vocabularies write bytes as: printable ones as themselves, others from U+0100 on."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in plain]
    return {**{chr(byte): byte for byte in plain}, **{chr(256 + at): byte for at, byte in enumerate(others)}}


def _byte_level(token: str) -> bytes:
    letters = byte_letters()
    try:
        return bytes([letters[letter] for letter in token])
    except KeyError:  # a token that was added as a text
        return token.encode()


def byte_rule(tokenizer: Tokenizer) -> Callable[[str], bytes] | None:
    """What gives the bytes of one token; None where they depend on the tokens beside it."""
    state = state_of(tokenizer.decoder)
    parts = [] if state is None else _parts(state)
    kinds = [part.get("type") for part in parts]
    if kinds and kinds[0] == "ByteLevel":
        return _byte_level
    if not parts or not set(kinds) <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}:
        return None
    fallback = "ByteFallback" in kinds
    swaps: list[tuple[str, str]] = []
    for part in parts:
        if part.get("type") == "Replace":
            if not part["pattern"].get("String"):
                return None
            swaps.append((part["pattern"]["String"], part["content"]))
        elif part.get("type") == "Metaspace":
            swaps.append((part["replacement"], " "))

    def rule(token: str) -> bytes:
        match = _BYTE_TOKEN.fullmatch(token) if fallback else None
        if match is not None:
            return bytes([int(match[1], 16)])
        for old, new in swaps:
            token = token.replace(old, new)
        return token.encode()

    return rule


# ---- stages --------------------------------------------------------------------------------------------------------


class _Plain:
    """A stage that holds nothing back."""

    def finish(self) -> list[str]:
        return []


class _Joined(_Plain):
    """No decoder at all: tokens with spaces between."""

    def __init__(self) -> None:
        self._between = ""

    def push(self, piece: str) -> list[str]:
        before, self._between = self._between, " "
        return [before + piece]


class _Replace(_Plain):
    def __init__(self, old: str, new: str) -> None:
        self._old, self._new = old, new

    def push(self, piece: str) -> list[str]:
        return [piece.replace(self._old, self._new)]


class _Strip(_Plain):
    """Up to ``count`` letters at the beginning of each piece, or, where they were made one before, of the first."""

    def __init__(self, letter: str, count: int, fused: bool) -> None:
        self._letter, self._count, self._fused = letter, count, fused
        self._left = count

    def push(self, piece: str) -> list[str]:
        left = self._left if self._fused else self._count
        at = 0
        while at < min(left, len(piece)) and piece[at] == self._letter:
            at += 1
        if self._fused:
            self._left = left - at if at == len(piece) else 0
        return [piece[at:]]


class _ByteLevel:
    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, piece: str) -> list[str]:
        return [self._decoder.decode(_byte_level(piece))]

    def finish(self) -> list[str]:
        return [self._decoder.decode(b"", True)]


class _ByteFallback:
    """A run of byte tokens is one text, or where it is not UTF-8, as many U+FFFD as it has bytes."""

    def __init__(self) -> None:
        self._run = bytearray()

    def push(self, piece: str) -> list[str]:
        match = _BYTE_TOKEN.fullmatch(piece) if len(piece) == 6 else None
        if match is None:
            return [*self.finish(), piece]
        self._run.append(int(match[1], 16))
        return []

    def finish(self) -> list[str]:
        if not self._run:
            return []
        run, self._run = self._run, bytearray()
        try:
            return [run.decode()]
        except UnicodeDecodeError:
            return ["\ufffd"] * len(run)


class _Metaspace(_Plain):
    def __init__(self, mark: str, prepended: bool) -> None:
        self._mark, self._first = mark, prepended

    def push(self, piece: str) -> list[str]:
        space = "" if self._first else " "
        self._first = False
        return [piece.replace(self._mark, space)]


class _WordPiece(_Plain):
    def __init__(self, prefix: str, cleanup: bool) -> None:
        self._prefix, self._cleanup, self._first = prefix, cleanup, True

    def push(self, piece: str) -> list[str]:
        if self._first:
            self._first = False
        elif piece.startswith(self._prefix):
            piece = piece[len(self._prefix) :]
        else:
            piece = f" {piece}"
        if self._cleanup:
            for old, new in _CLEANED:
                piece = piece.replace(old, new)
        return [piece]


class _Suffix:
    """What ends a word becomes a space, but for the last token's."""

    def __init__(self, suffix: str) -> None:
        self._suffix = suffix
        self._last: str | None = None

    def push(self, piece: str) -> list[str]:
        last, self._last = self._last, piece
        return [] if last is None else [last.replace(self._suffix, " ")]

    def finish(self) -> list[str]:
        last, self._last = self._last, None
        return [] if last is None else [last.replace(self._suffix, "")]
