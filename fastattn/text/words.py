# SPDX-License-Identifier: MIT
"""Strings in options of drawing, as token ids: words that may not come, and what repetitions do not reach across."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from .tokenizerconfig import is_text

if TYPE_CHECKING:
    from .modeltokenizer import ModelTokenizer

__all__ = ["BREAKERS", "bad_word_ids", "breaker_ids", "with_breakers"]

BREAKERS = ("\n", ":", '"', "*")
"""Of llama.cpp, where nobody says what breaks repetitions."""
_MOST_BYTES = 40  # of a breaker
_MOST_TAIL = 20  # tokens behind its first one that are looked at
_MOST_KNOWN = 64  # breakers that are remembered: services may take them from whoever asks

_tables: WeakKeyDictionary[ModelTokenizer, list[bytes]] = WeakKeyDictionary()
_found: WeakKeyDictionary[ModelTokenizer, dict[str, list[list[int]]]] = WeakKeyDictionary()


def bad_word_ids(words: Any, tokenizer: ModelTokenizer | None, vocab_size: int, where: str) -> list[Any]:
    """``bad_words`` as sequences of ids: of a string two, with a space before it and without one.

    Raises
    ------
    TypeError, ValueError
        What is given is no list of strings and ids; a string is empty, or no text, or there is no tokenizer, which
        ``where`` would be.
    """
    several = [words] if isinstance(words, str) else words
    if not isinstance(several, list | tuple):
        raise TypeError(f"bad_words: expected a str or a list of str or token ids, got {type(words).__name__}")
    found: list[Any] = []
    for i, word in enumerate(several):
        name = f"bad_words[{i}]"
        if not isinstance(word, str):
            found.append(word)
            continue
        _check(word, tokenizer, name, where)
        assert tokenizer is not None
        for text in (word, f" {word}"):
            ids = tokenizer.encode(text, add_special_tokens=False)
            if ids and max(ids) < vocab_size:  # others never come
                found.append(ids)
    return found


def with_breakers(dry: Any, tokenizer: ModelTokenizer | None, vocab_size: int, where: str) -> Any:
    """``dry`` with ``sequence_breakers`` as ids; left as it is where it is no mapping."""
    if not isinstance(dry, Mapping):
        return dry
    name = "dry['sequence_breakers']"
    breakers = dry.get("sequence_breakers")
    if breakers is None:
        breakers = () if tokenizer is None else BREAKERS
    if isinstance(breakers, str):
        breakers = (breakers,)
    if not isinstance(breakers, list | tuple):
        return dry  # which nobody takes
    found: list[Any] = []
    for one in breakers:
        if not isinstance(one, str):
            found.append(one)
            continue
        _check(one, tokenizer, name, where)
        if len(one.encode()) > _MOST_BYTES:
            raise ValueError(f"{name}: got a string of {len(one.encode())} bytes, expected at most {_MOST_BYTES}")
        assert tokenizer is not None
        found += [ids for ids in breaker_ids(one, tokenizer) if max(ids) < vocab_size]
    return {**dry, "sequence_breakers": found}


def breaker_ids(text: str, tokenizer: ModelTokenizer) -> list[list[int]]:
    """Sequences of ids that hold ``text``: its own tokens; each token that has it in it; and each that ends as ``text``
    begins, with the tokens of the rest behind it.
    """
    known = _found.setdefault(tokenizer, {})
    sequences = known.get(text)
    if sequences is None:
        wanted = text.encode()
        heads = {wanted[:size] for size in range(1, len(wanted))}
        rests: dict[int, list[int] | None] = {}
        whole = tokenizer.encode(text, add_special_tokens=False)[: _MOST_TAIL + 1]
        found: dict[tuple[int, ...], None] = {tuple(whole): None} if whole else {}
        for token, spelled in enumerate(_spellings(tokenizer)):
            if wanted in spelled:
                found[(token,)] = None
                continue
            for size in range(1, min(len(spelled) + 1, len(wanted))) if heads else ():
                if spelled.endswith(wanted[:size]):
                    if size not in rests:
                        rests[size] = _tail(wanted[size:], tokenizer)
                    rest = rests[size]
                    if rest is not None:
                        found[(token, *rest)] = None
        sequences = [list(ids) for ids in found]
        while len(known) >= _MOST_KNOWN:
            known.pop(next(iter(known)), None)
        known[text] = sequences
    return sequences


def _tail(rest: bytes, tokenizer: ModelTokenizer) -> list[int] | None:
    """The tokens of the rest of a text; None where it begins within a character."""
    try:
        return tokenizer.encode(rest.decode(), add_special_tokens=False)[:_MOST_TAIL]
    except UnicodeDecodeError:
        return None


def _spellings(tokenizer: ModelTokenizer) -> list[bytes]:
    """The bytes of each token; where those depend on what is beside them, how the vocabulary spells it."""
    if tokenizer not in _tables:
        table = []
        for token in range(len(tokenizer)):
            try:
                table.append(tokenizer.token_bytes(token))
            except ValueError:
                table.append((tokenizer.id_to_token(token) or "").encode())
        _tables[tokenizer] = table
    return _tables[tokenizer]


def _check(text: str, tokenizer: ModelTokenizer | None, name: str, where: str) -> None:
    if not text:
        raise ValueError(f"{name}: an empty string")
    if not is_text(text):
        raise ValueError(f"{name}: half a surrogate pair, expected valid Unicode")
    if tokenizer is None:
        raise ValueError(f"{name}: a string needs the tokenizer of the model, and {where} is missing")
