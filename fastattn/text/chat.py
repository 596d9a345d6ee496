# SPDX-License-Identifier: MIT
"""``TextDecoder.chat``: messages in, a message out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .generation import Generation, generate
from .tokenizerconfig import is_text
from .toolcalls import call_id, split_calls

if TYPE_CHECKING:
    from .modeltokenizer import ModelTokenizer
    from .prompted import PromptedDecoder

__all__ = ["chat"]


def chat(
    model: PromptedDecoder,
    messages: Any,
    tools: Any,
    chat_template: str | None,
    asked: Mapping[str, Any],
    options: dict[str, Any],
) -> Generation:
    """``asked``: what else the template is given; ``options``: those of ``generate``."""
    for name in ("n", "num_return_sequences"):
        if options.get(name) not in (None, 1):
            raise ValueError(f"{name}: got {options[name]!r}, but a chat has one answer")
    codec = model.tokenizer
    if tools is not None and not isinstance(tools, (str, bytes, Mapping)):
        tools = list(tools)  # which is read twice
    prompt = codec.apply_chat_template(messages, tools=tools, chat_template=chat_template, **asked)
    found = generate(model, codec.encode(prompt, add_special_tokens=False), options)[0]
    form = codec.call_form(chat_template, tools) if tools else None
    return replace(found, message=_message(codec, found, form))


def _message(codec: ModelTokenizer, found: Generation, form: str | None) -> dict[str, Any]:
    plain = {"role": "assistant", "content": found.text}
    if form is None:
        return plain
    rest, calls = split_calls(_whole(codec, found), form)
    if not calls:
        return plain
    for special in codec.all_special_tokens:
        rest = rest.replace(special, "")
    listed = [
        {
            "id": call_id(found.token_ids, at),
            "type": "function",
            "function": {"name": call.name, "arguments": _json(call.arguments)},
        }
        for at, call in enumerate(calls)
    ]
    return {"role": "assistant", "content": rest.strip() or None, "tool_calls": listed}


def _json(value: Any) -> str:
    """As it is read, but for half surrogate pairs, which no UTF-8 can hold."""
    text = json.dumps(value, ensure_ascii=False)
    return text if is_text(text) else json.dumps(value)


def _whole(codec: ModelTokenizer, found: Generation) -> str:
    """The answer with special tokens, which marks of calls may be, but for what ended it."""
    ids = found.token_ids
    if found.finish_reason == "stop" and not isinstance(found.stop, str) and ids and ids[-1] in codec.all_special_ids:
        ids = ids[:-1]
    text = codec.decode(ids, skip_special_tokens=False)
    return text[: text.rfind(found.stop)] if isinstance(found.stop, str) and found.stop in text else text
