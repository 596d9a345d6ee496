# SPDX-License-Identifier: MIT
"""Messages of a chat as the text that a model was made to read: its chat template, run.

As transformers does it (``apply_chat_template``): the same variables, filters and choices among several templates.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from .jinjabounds import BoundedTemplate, TemplateError

__all__ = ["TemplateError", "chosen_template", "render_chat"]

_DEEP = 64  # values in values
_TAG = "CONTINUE_FINAL_MESSAGE_TAG "  # where the last message is to go on; no template knows it
_OWN = ("messages", "tools", "documents", "add_generation_prompt")
_REASONING = ("reasoning_content", "thinking", "reasoning")  # names that models and programs have for one thing


def render_chat(
    templates: Mapping[str, str],
    where: str,
    messages: Any,
    *,
    tools: Any = None,
    documents: Any = None,
    chat_template: str | None = None,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    tokens: Mapping[str, Any] | None = None,
    options: Any = None,
) -> str:
    """The text of ``messages``; see ``TextDecoder.apply_chat_template``.

    ``templates``: those of the model by name; ``tokens``: special tokens by their roles; ``options``: more variables.
    """
    source, name = chosen_template(templates, where, chat_template, tools)
    chat = _chat(messages)
    if continue_final_message:
        _mark(chat[-1])
    values: dict[str, Any] = {role: token for role, token in (tokens or {}).items() if token is not None}
    values |= _options(options)
    values |= {
        "messages": chat,
        "tools": None if tools is None else _tools(tools),
        "documents": None if documents is None else _objects(documents, "documents"),
        "add_generation_prompt": bool(add_generation_prompt) and not continue_final_message,
    }
    text = _compiled(source, name).render(values)
    return _until_tag(text, name) if continue_final_message else text


@lru_cache(maxsize=16)
def _compiled(source: str, where: str) -> BoundedTemplate:
    return BoundedTemplate(source, where)


def chosen_template(templates: Mapping[str, str], where: str, asked: str | None, tools: Any) -> tuple[str, str]:
    """The template, and what messages call it."""
    if asked is not None:
        if not isinstance(asked, str):
            raise TypeError(f"chat_template: expected a str, got {type(asked).__name__}")
        if asked in templates:
            return templates[asked], f"{where}: chat template {asked!r}"
        if "{" not in asked:
            names = f"has {', '.join(map(repr, templates))}" if templates else "has none"
            raise ValueError(f"chat_template: got {asked[:60]!r}, but {where} {names}")
        return asked, "chat_template"
    for name in ("tool_use", "default") if tools is not None else ("default",):
        if name in templates:
            return templates[name], f"{where}: chat template" + ("" if name == "default" else f" {name!r}")
    if templates:
        raise ValueError(f"chat_template: {where} has no usual one, expected one of {', '.join(map(repr, templates))}")
    raise ValueError(f"{where} has no chat template; chat_template= takes one")


# ---- what is given ---------------------------------------------------------------------------------------------------


def _plain(value: Any, name: str, depth: int = 0) -> Any:
    """A copy of plain dicts, lists, texts, numbers, booleans and None, which is all that a template is given."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):  # without what a class of its own may add
            return kind(value) if kind is not str else str.__str__(value)
    if depth > _DEEP:
        raise ValueError(f"{name}: more than {_DEEP} values inside each other")
    if isinstance(value, Mapping):
        if bad := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"{name}: a key of type {type(bad[0]).__name__}, expected texts")
        return {str(key): _plain(item, f"{name}.{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray, memoryview)):
        return [_plain(item, f"{name}[{i}]", depth + 1) for i, item in enumerate(value)]
    raise TypeError(f"{name}: expected a dict, list, str, number, bool or None, got {type(value).__name__}")


def _objects(values: Any, name: str) -> list[dict[str, Any]]:
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise TypeError(f"{name}: expected a list of dicts, got {type(values).__name__}")
    found = []
    for i, value in enumerate(values):
        if not isinstance(value, Mapping):
            raise TypeError(f"{name}[{i}]: expected a dict, got {type(value).__name__}")
        found.append(_plain(value, f"{name}[{i}]"))
    return found


def _chat(messages: Any) -> list[dict[str, Any]]:
    # What is None is left out, as transformers does it: some programs give content or tool_calls of None, which few
    # templates expect.
    chat = [
        {key: value for key, value in message.items() if value is not None}
        for message in _objects(messages, "messages")
    ]
    if not chat:
        raise ValueError("messages: got none, expected at least one")
    for i, message in enumerate(chat):
        name = f"messages[{i}]"
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str):
            raise ValueError(f"{name}: expected a role, a str, got {role!r}")
        if not isinstance(content, (str, list, type(None))):
            raise TypeError(f"{name}.content: expected a str, a list of parts or None, got {type(content).__name__}")
        for at, part in enumerate(content if isinstance(content, list) else ()):
            if not isinstance(part, dict) or not isinstance(part.get("type"), str):
                raise TypeError(f"{name}.content[{at}]: expected a dict with a type")
        _read_calls(message.get("tool_calls"), f"{name}.tool_calls")
        reasoning = next((message[key] for key in _REASONING if key in message), None)
        if reasoning is not None:
            chat[i] = {"thinking": reasoning, **message, "reasoning_content": reasoning}
    return chat


def _read_calls(calls: Any, name: str) -> None:
    """Arguments as an object, as templates want them, where they are given as the text of one, as in OpenAI's API."""
    if calls is None:
        return
    if not isinstance(calls, list):
        raise TypeError(f"{name}: expected a list of dicts, got {type(calls).__name__}")
    for i, call in enumerate(calls):
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise TypeError(f"{name}[{i}]: expected a dict with a function that has a name")
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            try:
                read = json.loads(arguments or "{}")
            except ValueError as error:
                raise ValueError(f"{name}[{i}]: arguments are no JSON ({error})") from None
            if not isinstance(read, dict):
                raise ValueError(f"{name}[{i}]: arguments are a JSON {type(read).__name__}, expected an object")
            function["arguments"] = read


def _tools(tools: Any) -> list[dict[str, Any]]:
    if isinstance(tools, Iterable) and not isinstance(tools, (str, bytes, Mapping)):
        tools = list(tools)
        for i, tool in enumerate(tools):
            if callable(tool):
                raise TypeError(f"tools[{i}]: expected a dict with the function's JSON schema, got the function")
    found = _objects(tools, "tools")
    for i, tool in enumerate(found):
        function = tool.get("function", tool)
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise ValueError(f"tools[{i}]: expected a function with a name, a str")
        if not isinstance(function.get("parameters", {}), dict):
            raise TypeError(f"tools[{i}]: parameters: expected a JSON schema, a dict")
    return found


def _options(options: Any) -> dict[str, Any]:
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise TypeError(f"chat_template_kwargs: expected a dict, got {type(options).__name__}")
    found = _plain(options, "chat_template_kwargs")
    if taken := [name for name in _OWN if name in found]:
        raise ValueError(f"chat_template_kwargs: {taken[0]} is an argument of its own")
    assert isinstance(found, dict)
    return found


# ---- a last message that goes on -------------------------------------------------------------------------------------


def _mark(message: dict[str, Any]) -> None:
    content = message.get("content")
    if isinstance(content, str):
        message["content"] = content + _TAG
        return
    texts = [part for part in content or () if isinstance(part.get("text"), str)]
    if not texts:
        raise ValueError("continue_final_message: the last message has no text that could go on")
    texts[-1]["text"] += _TAG


def _until_tag(text: str, where: str) -> str:
    at = text.rfind(_TAG.strip())
    if at < 0:
        raise TemplateError(f"{where}: leaves out the last message, which was to go on")
    return text[:at] if text.startswith(_TAG, at) else text[:at].rstrip()
