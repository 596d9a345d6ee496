# SPDX-License-Identifier: MIT
"""The source of a chat template in one spelling, so that templates that do the same alike can be told by a hash.

Spaces inside tags, kinds of quotes, comments, ``a['b']`` for ``a.b``, and whether text stands outside of tags or as a
literal inside make no difference; anything else does. Nothing is run.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator

__all__ = ["fingerprint", "spelling"]

_NO_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\[^\n\\'\"abfnrtvuUxN0-7]")  # of which Python warns
_MOST = 200_000  # characters of a template that are looked at
_TOKEN = re.compile(
    r"""(?P<space>\s+)|(?P<string>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|(?P<word>\w+)"""
    r"""|(?P<sign>==|!=|<=|>=|//|\*\*|[^\s\w'"])""",
    re.S,
)
_REFUSAL = re.compile(r'raise_exception \( "(?:[^"\\]|\\.)*" \)')  # what it says is nobody's answer
_OPEN = re.compile(r"\{\{|\{%|\{#")
_CLOSERS = {"{{": "}}", "{%": "%}"}
_BRACKETS = {"(": ")", "[": "]", "{": "}"}


class _Strange(Exception):
    """Something that a template of a chat hardly has, and that is not told apart here."""


def fingerprint(template: str, free: re.Pattern[str]) -> tuple[str, str] | None:
    """A hash of what ``template`` says, and the text that ``free`` finds in it, which the hash does not depend on.

    That text is "" where there is none, or several that differ: then the hash depends on them. None for a template
    that is not understood, or is very long.
    """
    parts = spelling(template)
    if parts is None:
        return None
    found = {match[0] for kind, value in parts if kind == "text" for match in free.finditer(value)}
    text = found.pop() if len(found) == 1 else ""
    if text:
        parts = [[kind, free.sub("\0", value) if kind == "text" else value] for kind, value in parts]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32], text


def spelling(template: str) -> list[list[str]] | None:
    """``template`` as a list of ["text", it], ["print", expression] and ["do", statement]; None where it is strange."""
    if len(template) > _MOST:
        return None
    try:
        return _joined(_parts(template))
    except _Strange:
        return None


def _joined(parts: Iterator[tuple[str, str]]) -> list[list[str]]:
    """Texts beside each other put together."""
    result: list[list[str]] = []
    for kind, value in parts:
        if kind == "text" and result and result[-1][0] == "text":
            result[-1][1] += value
        elif kind != "text" or value:
            result.append([kind, value])
    return result


def _parts(template: str) -> Iterator[tuple[str, str]]:
    """Text, expressions and statements, in the way that transformers has Jinja read them.

    That is with trim_blocks and lstrip_blocks: a line that holds nothing but a statement leaves nothing behind.
    """
    source = re.sub(r"\r\n|\r", "\n", template).removesuffix("\n")
    at = 0
    fresh = True  # whether a line begins here
    while True:
        match = _OPEN.search(source, at)
        if match is None:
            yield "text", source[at:]
            return
        text, opener, start = source[at : match.start()], match[0], match.end()
        mark = source[start : start + 1]
        if mark == "-":
            text = text.rstrip()
        elif opener != "{{" and mark != "+":
            line = text.rfind("\n") + 1
            if (line > 0 or fresh) and text[line:].isspace():
                text = text[:line]
        yield "text", text
        if opener == "{#":
            end = source.find("#}", start)
            if end < 0:
                raise _Strange
            if end > start and source[end - 1] == "+":
                raise _Strange
            dash, at = end > start and source[end - 1] == "-", end + 2
        else:
            start += mark in "+-" if mark else 0
            tokens, dash, at = _tag(source, start, _CLOSERS[opener])
            yield from _printed(tokens) if opener == "{{" else iter((("do", _statement(tokens)),))
        fresh = False
        if dash:
            rest = re.compile(r"\s*").match(source, at)
            assert rest is not None
            fresh = rest[0].endswith("\n")
            at = rest.end()
        elif opener != "{{" and source.startswith("\n", at):
            at += 1
            fresh = True


def _tag(source: str, at: int, closer: str) -> tuple[list[str], bool, int]:
    """The tokens of a tag, whether it takes the spaces behind it along, and where it ends."""
    tokens: list[str] = []
    inside: list[str] = []
    while True:
        if not inside:
            if source.startswith("-" + closer, at):
                return tokens, True, at + 3
            if source.startswith(closer, at):
                return tokens, False, at + 2
            if source.startswith("+" + closer, at):
                raise _Strange
        match = _TOKEN.match(source, at)
        if match is None:
            raise _Strange
        at = match.end()
        token = match[0]
        if match["string"]:
            tokens.append(_literal(token))
        elif match["word"] or match["sign"]:
            if token in _BRACKETS:
                inside.append(_BRACKETS[token])
            elif inside and token == inside[-1]:
                inside.pop()
            elif token in ")]}":
                raise _Strange
            tokens.append(token)


def _literal(token: str) -> str:
    """A text in quotes, always in the same ones."""
    body = token[1:-1]
    if _NO_ESCAPE.search(body):
        raise _Strange
    try:
        value = body.encode("ascii", "backslashreplace").decode("unicode-escape")
    except UnicodeDecodeError:
        raise _Strange from None
    return json.dumps(value)


def _statement(tokens: list[str]) -> str:
    if not tokens or tokens[0] in ("raw", "import", "from", "include", "extends"):
        raise _Strange
    return " ".join(_dotted(tokens))


def _dotted(tokens: list[str]) -> list[str]:
    """``a['b']`` as ``a.b``, but for names that a dict has of its own."""
    result: list[str] = []
    at = 0
    while at < len(tokens):
        name = tokens[at + 1][1:-1] if tokens[at] == "[" and at + 2 < len(tokens) else ""
        before = result[-1] if result else ""
        index = before[-1:].isalnum() or before in (")", "]")
        if (
            name and index and tokens[at + 1][:1] == '"' and tokens[at + 2] == "]" and name.isidentifier()
            and not hasattr(dict, name) and before not in ("in", "if", "else", "or", "and", "not", "is")
        ):  # fmt: skip
            result += [".", name]
            at += 3
        else:
            result.append(tokens[at])
            at += 1
    return result


def _printed(tokens: list[str]) -> Iterator[tuple[str, str]]:
    """An expression that is printed: its terms, where it is a sum of texts."""
    depth = 0
    terms: list[list[str]] = [[]]
    for token in tokens:
        depth += (token in _BRACKETS) - (token in ")]}")
        if token == "+" and not depth:
            terms.append([])
        else:
            terms[-1].append(token)
    # Only filters and what stands inside brackets bind more tightly than a sum.
    loose = {"if", "else", "and", "or", "not", "in", "is", "~", "-", "==", "!=", "<", ">", "<=", ">=", ","}
    texts = any(len(term) == 1 and term[0].startswith('"') for term in terms)  # else it may be a sum of numbers
    if not texts or any(not term or loose & set(term) and not _bracketed(term, loose) for term in terms):
        terms = [tokens]
    for term in terms:
        if len(term) == 1 and term[0].startswith('"'):
            yield "text", json.loads(term[0])
        else:
            yield "print", _REFUSAL.sub("raise_exception ( )", " ".join(_dotted(term)))


def _bracketed(term: list[str], loose: set[str]) -> bool:
    """Whether all that binds loosely in ``term`` is inside brackets."""
    depth = 0
    for token in term:
        depth += (token in _BRACKETS) - (token in ")]}")
        if not depth and token in loose:
            return False
    return True
