# SPDX-License-Identifier: MIT
"""Calls of tools in what a model has written, in the ways that families of models write them.

How a model writes them stands in its chat template, which puts earlier calls into the prompt: the marks that are found
there say which form it is. What does not parse stays text.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from math import isfinite
from typing import Any, NamedTuple

from .tokenizerconfig import is_text

__all__ = ["Call", "call_form", "call_id", "split_calls"]


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _finite(number: str) -> float:
    value = float(number)
    return value if isfinite(value) else _no_number(number)


_JSON = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite)
_MOST = 256  # calls of one answer


class Call(NamedTuple):
    """What a model wants to have called."""

    name: str
    arguments: dict[str, Any]


class _Wrong(Exception):
    """It is no call."""


Found = Iterator[tuple[int, int, list[Call]]]  # from where to where in the text, and the calls that stand there
Form = Callable[[str], Found]


def call_form(template: str) -> str | None:
    """The name of the form that a chat template has for calls; None where it has none that is known.

    Example
    -------
    >>> call_form("{{ '<tool_call>\\n' + call|tojson + '\\n</tool_call>' }}")
    'hermes'
    """
    return next((name for name, (marks, _) in _FORMS.items() if all(mark in template for mark in marks)), None)


def split_calls(text: str, form: str) -> tuple[str, list[Call]]:
    """What is no call of ``text``, special tokens spelled out, and the calls in it, in their order.

    Example
    -------
    >>> split_calls('Let me see. <tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>', "hermes")
    ('Let me see. ', [Call(name='f', arguments={'x': 1})])
    """
    rest: list[str] = []
    calls: list[Call] = []
    at = 0
    for start, end, found in _FORMS[form][1](text):
        if len(calls) + len(found) > _MOST:
            break
        rest.append(text[at:start])
        at = end
        calls += found
    return "".join(rest) + text[at:], calls


# ---- objects ---------------------------------------------------------------------------------------------------------


def _value(text: str, at: int) -> tuple[Any, int]:
    """A JSON value from there on, and where it ends."""
    while at < len(text) and text[at].isspace():
        at += 1
    try:
        return _JSON.raw_decode(text, at)
    except (ValueError, RecursionError):
        raise _Wrong from None


def _call(value: Any) -> Call:
    """Of the object that most models write, whatever they call its parts."""
    if not isinstance(value, dict):
        raise _Wrong
    function = value.get("function")
    inside = function if isinstance(function, dict) else value
    name = next((inside[key] for key in ("name", "tool_name", "function") if isinstance(inside.get(key), str)), None)
    arguments: Any = next((inside[key] for key in ("arguments", "parameters", "args") if key in inside), {})
    if isinstance(arguments, str):
        text = arguments
        arguments, end = _value(text, 0)
        if text[end:].strip():
            raise _Wrong
    if not name or not is_text(name) or not isinstance(arguments, dict):
        raise _Wrong
    return Call(name, arguments)


def _calls(value: Any) -> list[Call]:
    return [_call(one) for one in (value if isinstance(value, list) else [value])]


def _guess(text: str) -> Any:
    """The value of an argument that is written as it is: JSON where it is that, else a text."""
    try:
        return _JSON.decode(text)
    except (ValueError, RecursionError):
        return text


# ---- forms -----------------------------------------------------------------------------------------------------------


def _sections(text: str, opening: str, closing: str) -> Iterator[tuple[int, int, int, int]]:
    """From where to where they are, marks included, and what is in them; the last mark may be missing at the end."""
    at = text.find(opening)
    while at >= 0:
        start = at + len(opening)
        following = text.find(opening, start)
        end = text.find(closing, start, len(text) if following < 0 else following)
        if end >= 0:
            yield at, end + len(closing), start, end
        elif following < 0:
            yield at, len(text), start, len(text)
        at = following


def _between(opening: str, closing: str, read: Callable[[str], list[Call]]) -> Form:
    def form(text: str) -> Found:
        for start, end, first, last in _sections(text, opening, closing):
            try:
                calls = read(text[first:last])
            except _Wrong:
                continue
            if calls:
                yield start, end, calls

    return form


def _objects(text: str) -> list[Call]:
    """A JSON value alone: an object, or a list of them."""
    value, end = _value(text, 0)
    if text[end:].strip():
        raise _Wrong
    return _calls(value)


def _qwen_coder(text: str) -> list[Call]:
    """``<function=name>``, and of each argument ``<parameter=name>``, a line of its own with the value, and its end."""
    opening, *parts = text.split("<parameter=")
    name, closed, _ = opening.strip().removeprefix("<function=").partition(">")
    if not opening.strip().startswith("<function=") or not closed or not name:
        raise _Wrong
    arguments = {}
    for part in parts:
        key, closed, rest = part.partition(">")
        value, ended, _ = rest.partition("</parameter>")
        if not key or not closed or not ended:
            raise _Wrong
        arguments[key] = _guess(value.removeprefix("\n").removesuffix("\n"))
    return [Call(name, arguments)]


def _glm(text: str) -> list[Call]:
    """A name, and of each argument its key and its value between marks."""
    name, *parts = text.split("<arg_key>")
    if not name.strip() or "<" in name:
        raise _Wrong
    arguments = {}
    for part in parts:
        key, closed, rest = part.partition("</arg_key>")
        before, opened, value = rest.partition("<arg_value>")
        value, ended, _ = value.partition("</arg_value>")
        if not closed or before.strip() or not opened or not ended:
            raise _Wrong
        arguments[key.strip()] = _guess(value)
    return [Call(name.strip(), arguments)]


def _python(text: str) -> list[Call]:
    """``[f(x=1), g()]``, or lines in a block of code: constants alone, nothing is computed."""
    code = text.strip().removeprefix("```python").removesuffix("```").strip()
    try:
        lines = [line.value if isinstance(line, ast.Expr) else line for line in ast.parse(code).body]
        calls = []
        for node in [one for line in lines for one in (line.elts if isinstance(line, ast.List) else [line])]:
            if not isinstance(node, ast.Call) or node.args:
                raise _Wrong
            named = {part.arg: ast.literal_eval(part.value) for part in node.keywords if part.arg is not None}
            if len(named) != len(node.keywords):
                raise _Wrong
            calls.append(Call(ast.unparse(node.func), named))
        json.dumps([call.arguments for call in calls], allow_nan=False)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise _Wrong from None
    return calls


def _llama(text: str) -> Found:
    """Objects that are all of the answer, one or several behind each other, with or without the mark before them."""
    start = len(text) - len(text.lstrip())
    at = start + len("<|python_tag|>") if text.startswith("<|python_tag|>", start) else start
    calls = []
    try:
        while True:
            value, at = _value(text, at)
            calls += _calls(value)
            rest = text[at:].lstrip()
            if not rest:
                break
            if rest[0] != ";" or len(calls) > _MOST:
                return
            at = len(text) - len(rest) + 1
    except _Wrong:
        return
    yield 0, len(text), calls


_NAMED = re.compile(r"\s*([\w.-]+)\s*(?:\[CALL_ID\]\s*[\w-]+\s*)?(?:\[ARGS\])?\s*(?=\{)")


def _mistral(text: str) -> Found:
    """``[TOOL_CALLS]`` and a list of objects, or a name and its arguments; newer ones with ``[ARGS]`` between them."""
    mark = "[TOOL_CALLS]"
    before, *pieces = text.split(mark)
    at = len(before)
    for piece in pieces:
        start = at + len(mark)
        named = _NAMED.match(piece)
        try:
            value, end = _value(piece, 0 if named is None else named.end())
            if named is not None and not isinstance(value, dict):
                raise _Wrong
            yield at, start + end, _calls(value) if named is None else [Call(named[1], value)]
        except _Wrong:
            pass
        at = start + len(piece)


def _marked(text: str, opening: str, between: str, closing: str) -> list[tuple[str, str]]:
    """What stands before and behind the mark in the middle, of all that have it."""
    found = []
    for part in text.split(opening)[1:]:
        name, middle, rest = part.partition(between)
        if not middle:
            raise _Wrong
        found.append((name.strip(), rest.partition(closing)[0]))
    return found


def _deepseek(text: str) -> list[Call]:
    """Version 3 and R1 have "function" before the name and a block of code, 3.1 has neither."""
    calls = []
    for name, rest in _marked(text, "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"):
        if name == "function":
            name, _, rest = rest.partition("\n")
            rest = rest.strip().removeprefix("```json").removeprefix("```").removesuffix("```")
        calls.append(_call({"name": name.strip(), "arguments": rest}))
    return calls


def _kimi(text: str) -> list[Call]:
    """Names are like ``functions.f:0``."""
    marks = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"
    return [
        _call({"name": re.sub(r":\d+$", "", name.removeprefix("functions.")), "arguments": rest})
        for name, rest in _marked(text, *marks)
    ]


_HARMONY = re.compile(
    r"(?:<\|start\|>assistant)?(?: to=functions\.([\w.-]+))?<\|channel\|>commentary(?: to=functions\.([\w.-]+))?"
    r"[^<]*(?:<\|constrain\|>\w+)?<\|message\|>"
)


def _harmony(text: str) -> Found:
    """Of gpt-oss: messages to ``functions.name`` in the channel of comments, named before the channel or behind it."""
    for found in _HARMONY.finditer(text):
        name = found[1] or found[2]
        ends = [(text.find(mark, found.end()), len(mark)) for mark in ("<|call|>", "<|end|>")]
        end, mark = min([(at, size) for at, size in ends if at >= 0], default=(len(text), 0))
        try:
            call = _call({"name": name, "arguments": text[found.end() : end]})
        except _Wrong:
            continue
        yield found.start(), end + mark, [call]


# The first whose marks are all in the template.
_FORMS: dict[str, tuple[Sequence[str], Form]] = {
    "deepseek": (("<｜tool▁calls▁begin｜>",), _between("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", _deepseek)),
    "kimi": (
        ("<|tool_calls_section_begin|>",),
        _between("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", _kimi),
    ),
    "harmony": (("<|channel|>", "functions."), _harmony),
    "command-r": (("<|START_ACTION|>",), _between("<|START_ACTION|>", "<|END_ACTION|>", _objects)),
    "lfm2": (("<|tool_call_start|>",), _between("<|tool_call_start|>", "<|tool_call_end|>", _python)),
    "mistral": (("[TOOL_CALLS]",), _mistral),
    "jamba": (("<tool_calls>", "</tool_calls>"), _between("<tool_calls>", "</tool_calls>", _objects)),
    "qwen-coder": (("<tool_call>", "<function=", "<parameter="), _between("<tool_call>", "</tool_call>", _qwen_coder)),
    "glm": (("<tool_call>", "<arg_key>"), _between("<tool_call>", "</tool_call>", _glm)),
    "hermes": (("<tool_call>",), _between("<tool_call>", "</tool_call>", _objects)),
    "phi": (("<|tool_call|>",), _between("<|tool_call|>", "<|/tool_call|>", _objects)),
    "phi-4": (("<|tool|>", "<|/tool|>"), _between("<|tool_call|>", "<|/tool_call|>", _objects)),
    "functools": (("functools[",), _between("functools", "<|end|>", _objects)),
    "llama": (("<|python_tag|>",), _llama),
    "llama-json": (('{"name": function name', "parameters"), _llama),
}


def call_id(token_ids: Sequence[int], at: int) -> str:
    """Nine letters, as Mistral's models want them, that are those of this call of this answer every time."""
    return hashlib.sha256(f"{list(map(int, token_ids))} {at}".encode()).hexdigest()[:9]
