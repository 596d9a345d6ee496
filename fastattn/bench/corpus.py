# SPDX-License-Identifier: MIT
"""Real English text that every Python installation has (in Debian: the package libpython3-stdlib and its like).

Sentences come from the language reference that ``help()`` shows (``pydoc_data.topics``); the retrieval task from the
docstrings of the standard library: the first line of one asks for the rest of it among those of all others. Text
differs a little between versions of Python, so figures are comparable within one.
"""

from __future__ import annotations

import ast
import re
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

__all__ = ["docstring_pairs", "real_sentences"]

_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


def real_sentences(count: int) -> list[str]:
    """``count`` different sentences of prose of 4 to 60 words, spread over the language reference.

    Raises:
        ValueError: there are not so many, or this Python comes without its reference.

    >>> len(set(real_sentences(50)))
    50
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise ValueError("this Python comes without pydoc_data.topics, whose text is measured with") from None
    found: dict[str, None] = {}
    for name in sorted(topics):
        for paragraph in re.split(r"\n\s*\n", topics[name]):
            if paragraph.startswith("   ") or "::=" in paragraph or "**" in paragraph[:3]:  # code, grammar, headings
                continue
            for sentence in _SENTENCE.split(" ".join(paragraph.split())):
                if 4 <= len(sentence.split()) <= 60 and sentence[0].isupper() and sentence[-1] in ".!?":
                    found[sentence] = None
    if len(found) < count:
        raise ValueError(f"sentences: got {count}, expected at most {len(found)}, which the language reference has")
    every = list(found)
    return [every[index * len(every) // count] for index in range(count)]


def docstring_pairs(count: int) -> list[tuple[str, str]]:
    """``count`` different (first line, rest) of docstrings, spread over the standard library's modules of one file.

    First lines have at least four words, rests at least 15, of which the first 100 are kept.

    Raises:
        ValueError: there are not so many; some installations have no sources.

    >>> all(len(question.split()) >= 4 for question, _ in docstring_pairs(20))
    True
    """
    library = Path(sysconfig.get_paths()["stdlib"])
    every = _all_pairs(library)
    if len(every) < count:
        raise ValueError(f"pairs: got {count}, expected at most {len(every)}, which the docstrings in {library} have")
    return [every[index * len(every) // count] for index in range(count)]


@lru_cache(maxsize=1)  # parsing takes seconds
def _all_pairs(library: Path) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for path in sorted(library.glob("*.py")):
        for text in _docstrings(path):
            title, _, rest = text.strip().partition("\n\n")
            title, words = " ".join(title.split()), rest.split()
            if 4 <= len(title.split()) <= 40 and len(words) >= 15:
                found.setdefault(title, " ".join(words[:100]))
    pairs = {body: title for title, body in reversed(found.items())}  # each body once, too
    return tuple((title, body) for body, title in sorted(pairs.items(), key=lambda pair: pair[1]))


def _docstrings(path: Path) -> Iterator[str]:
    try:
        with tokenize.open(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(file.read())
    except (SyntaxError, UnicodeDecodeError, OSError):  # examples of what no parser takes; files of other versions
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text:
                yield text
