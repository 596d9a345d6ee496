# SPDX-License-Identifier: MIT
"""How a language model is asked whether a document answers a query: text around the two, and around an instruction.

There are two spellings. Of the one, ``{query}`` and ``{document}`` stand for themselves, as in the "rerank" template of
GGUF files. The other is a chat template in Jinja, for messages whose roles are "query" and "document" and, for an
instruction, "system", as sentence-transformers has them. Templates are programs, and are not run here: those are read
that say of each message where it stands, and nothing else.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["PairTemplate"]

_MOST = 200_000  # characters of a template that are looked at
_BRACES = re.compile(r"(\{query\}|\{document\})")
_INSTRUCT = "<Instruct>: "  # of Qwen's rerankers and those made after them

_CLOSERS = {"{%": "%}", "{{": "}}", "{#": "#}"}
_OPEN = re.compile(r"\{[%{#]")
_SET = re.compile(r"set\s+([A-Za-z_]\w*)\s*=(.*)", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_]\w*")
_QUOTED = r"""(?:"([^"\\]*)"|'([^'\\]*)')"""
_LITERAL = re.compile(_QUOTED)
_MESSAGE = re.compile(
    rf"""messages \s*\|\s*
    selectattr\( \s*["']role["']\s*,\s*["'](?:eq|==|equalto)["']\s*,\s*["'](\w+)["']\s* \) \s*\|\s*
    map\( \s*attribute\s*=\s*["']content["']\s* \) \s*\|\s*
    first (?: \s*\|\s* default\( \s*{_QUOTED}\s* \) )?""",
    re.VERBOSE,
)
_ROLES = {"query": "query", "document": "document", "system": "instruction"}

_Part = tuple[str, str]
"""("text", what it says), or ("query", ""), ("document", ""), ("instruction", what it is if nobody says)."""


class PairTemplate(NamedTuple):
    """Text with places for a query, a document and perhaps an instruction."""

    before: tuple[_Part, ...]
    """What stands before the document."""
    after: tuple[_Part, ...]
    """What stands behind it."""

    @classmethod
    def read(cls, text: str) -> PairTemplate | None:
        """The template ``text`` in either spelling; None where it is no such template, or does more.

        Example
        -------
        >>> PairTemplate.read("{query} Is it answered by: {document}?").around("Why?")
        ('Why? Is it answered by: ', '?')
        """
        if len(text) > _MOST:
            return None
        parts = _jinja(text) if _OPEN.search(text) else _plain(text)
        kinds = [] if parts is None else [kind for kind, _ in parts]
        if parts is None or kinds.count("document") != 1 or "query" not in kinds:
            return None
        at = kinds.index("document")
        return cls(tuple(parts[:at]), tuple(parts[at + 1 :]))

    @property
    def takes_instruction(self) -> bool:
        """Whether there is a place for an instruction."""
        return any(kind == "instruction" for kind, _ in (*self.before, *self.after))

    def around(self, query: str, instruction: str = "") -> tuple[str, str]:
        """What stands before the document and behind it; of no instruction, the template's own."""
        values = {"query": query, "instruction": instruction}
        before, after = (
            "".join(values.get(kind) or text if kind != "query" else query for kind, text in parts)
            for parts in (self.before, self.after)
        )
        return before, after


def _plain(text: str) -> list[_Part]:
    parts: list[_Part] = []
    known = False
    for piece in _BRACES.split(text):
        if piece in ("{query}", "{document}"):
            parts.append((piece[1:-1], ""))
            continue
        first = -1 if known else piece.find(_INSTRUCT)
        last = piece.find("\n", first)
        if first < 0 or last < 0:
            parts.append(("text", piece))
            continue
        known, first = True, first + len(_INSTRUCT)
        parts += [("text", piece[:first]), ("instruction", piece[first:last]), ("text", piece[last:])]
    return parts


def _jinja(source: str) -> list[_Part] | None:
    """Of a template that sets names to messages, and puts them into text; with the spaces that transformers keeps:
    those that a sign in a tag takes away are gone, and the lines that statements stand in.
    """
    names: dict[str, _Part] = {}
    parts: list[_Part] = []
    source = source.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")
    at, begins, strips = 0, True, False  # whether a line begins, and whether the tag before takes spaces away
    while True:
        found = _OPEN.search(source, at)
        text = source[at : len(source) if found is None else found.start()]
        if strips:
            text = text.lstrip()
        if found is None:
            return [*parts, ("text", text)]
        end = source.find(_CLOSERS[found[0]], found.end())
        if end < 0:
            return None
        inside = source[found.end() : end]
        if inside.startswith("-"):
            text = text.rstrip()
        elif found[0] != "{{":
            line = text.rstrip(" \t")
            text = line if line.endswith("\n") or (not line and begins) else text
        part = _tag(found[0], inside.removeprefix("-").removesuffix("-").strip(), names)
        if part is None:
            return None
        parts += [("text", text), part]
        at, begins, strips = end + 2, False, inside.endswith("-")
        if found[0] != "{{" and not strips and source.startswith("\n", at):
            at, begins = at + 1, True


def _tag(kind: str, inside: str, names: dict[str, _Part]) -> _Part | None:
    """What a tag puts into the text; None for what is not understood."""
    if kind == "{#":
        return "text", ""
    if kind == "{{":
        return _value(inside, names)
    match = _SET.fullmatch(inside)
    value = None if match is None else _value(match[2].strip(), names)
    if match is None or value is None:
        return None
    names[match[1]] = value
    return "text", ""


def _value(expression: str, names: dict[str, _Part]) -> _Part | None:
    if _NAME.fullmatch(expression):
        return names.get(expression)
    literal = _LITERAL.fullmatch(expression)
    if literal is not None:
        return "text", literal[1] or literal[2] or ""
    message = _MESSAGE.fullmatch(expression)
    if message is None or message[1] not in _ROLES:
        return None
    return _ROLES[message[1]], (message[2] or message[3] or "") if message[1] == "system" else ""
