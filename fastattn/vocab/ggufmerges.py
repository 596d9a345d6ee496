# SPDX-License-Identifier: MIT
"""Merges of a byte-pair vocabulary: those that a GGUF file lists, and those that scores of pieces come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .gguffields import Fields

__all__ = ["MERGES", "explain_merges", "listed_merges", "scored_merges"]

MERGES = "tokenizer.ggml.merges"

Merge = tuple[str, str]


def listed_merges(fields: Fields) -> list[Merge]:
    """The merges that the file lists, the first of which is done first.

    Raises
    ------
    WeightFileError
        There are none, or one is not two pieces with a space between; ``explain_merges`` finds those of absent tokens.
    """
    lines = fields.texts(MERGES)
    if lines is None:
        raise fields.wrong(MERGES, "is missing")
    merges: list[Merge] = [line.partition(" ")[::2] for line in lines]
    if all(map(all, merges)):  # nearly always: neither half is empty
        return merges
    for number, line in enumerate(lines):
        at = line.find(" ", 1)  # the left half may be a space itself
        if at < 0 or at + 1 == len(line):
            raise fields.wrong(MERGES, f"[{number}] is {line[:60]!r}, expected two pieces with a space between")
        merges[number] = (line[:at], line[at + 1 :])
    return merges


def explain_merges(fields: Fields, merges: Sequence[Merge], vocabulary: Mapping[str, int]) -> None:
    """Refuse the first of ``merges`` that takes or makes a piece which is not in the vocabulary."""
    for number, (left, right) in enumerate(merges):
        for piece in (left, right, left + right):
            if piece not in vocabulary:
                raise fields.wrong(
                    MERGES, f"[{number}] is {f'{left} {right}'[:60]!r}, but {piece[:60]!r} is not in the vocabulary"
                )


def scored_merges(pieces: Sequence[str], scores: Sequence[float], mergeable: Sequence[bool]) -> list[Merge]:
    """Merges that do what SentencePiece does with ``scores``: of all pairs that make a piece, the best one first.

    Every way to make a piece of two others is a merge. Of one piece, ways with a longer left part come first; that
    decides only for runs of one letter, where SentencePiece goes by what stands first in the text.

    Parameters
    ----------
    pieces, scores
        The vocabulary.
    mergeable
        Whether a piece can be part of a merge: control tokens and the like cannot.
    """
    known = {piece for piece, good in zip(pieces, mergeable, strict=True) if good}
    found: list[tuple[float, int, int, Merge]] = []
    for piece, score, good in zip(pieces, scores, mergeable, strict=True):
        if good:
            size = len(piece)
            for at in range(1, size):
                if piece[:at] in known and piece[at:] in known:
                    found.append((score, at, size - at, (piece[:at], piece[at:])))
    found.sort(key=lambda item: item[:3], reverse=True)
    return [merge for _, _, _, merge in found]
