# SPDX-License-Identifier: MIT
"""Chats: an answer is that of the rendered prompt, and calls of tools are found in what models write."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from support import prompted_folders

import fastattn as fa
from fastattn.text import chat as chatting
from fastattn.text.toolcalls import _FORMS, Call, call_form, call_id, split_calls

TALK = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
F, G = Call("f", {"x": 1, "y": "a b"}), Call("g", {})
OBJECT = '{"name": "f", "arguments": {"x": 1, "y": "a b"}}'
OTHER = '{"name": "g", "parameters": {}}'

# Form -> what models write, and what is found: the text that is left, and the calls.
WRITTEN: list[tuple[str, str, str, list[Call]]] = [
    ("hermes", f"So. <tool_call>\n{OBJECT}\n</tool_call>", "So. ", [F]),
    ("hermes", f"<tool_call>{OBJECT}</tool_call>\n<tool_call>{OTHER}</tool_call>", "\n", [F, G]),
    ("hermes", f"<tool_call>{OBJECT}", "", [F]),
    ("hermes", f"a <tool_call> is <tool_call>{OBJECT}</tool_call>", "a <tool_call> is ", [F]),
    ("hermes", "<tool_call>{'name': 'f'}</tool_call>", "<tool_call>{'name': 'f'}</tool_call>", []),
    (
        "hermes",
        '<tool_call>{"name": "f", "arguments": {"x": NaN}}',
        '<tool_call>{"name": "f", "arguments": {"x": NaN}}',
        [],
    ),
    ("hermes", f"<tool_call>{OBJECT} x</tool_call>", f"<tool_call>{OBJECT} x</tool_call>", []),
    ("hermes", '<tool_call>{"name": "f", "arguments": "{\\"x\\": 1, \\"y\\": \\"a b\\"}"}</tool_call>', "", [F]),
    ("llama", '{"name": "f", "parameters": {"x": 1, "y": "a b"}}', "", [F]),
    ("llama", f'<|python_tag|>{OBJECT}; {{"type": "function", "function": {OTHER}}}', "", [F, G]),
    ("llama", f"Well: {OBJECT}", f"Well: {OBJECT}", []),
    ("llama", f"{OBJECT} and more", f"{OBJECT} and more", []),
    ("mistral", f'[TOOL_CALLS] [{OBJECT[:-1]}, "id": "abcdefghi"}}, {OTHER}]', "", [F, G]),
    ("mistral", 'So[TOOL_CALLS]f[ARGS]{"x": 1, "y": "a b"}[TOOL_CALLS]g[CALL_ID]abc[ARGS]{}', "So", [F, G]),
    ("mistral", 'So[TOOL_CALLS]f{"x": 1, "y": "a b"}', "So", [F]),
    ("mistral", "[TOOL_CALLS] none", "[TOOL_CALLS] none", []),
    (
        "qwen-coder",
        "<tool_call>\n<function=f>\n<parameter=x>\n1\n</parameter>\n<parameter=y>\na b\n</parameter>\n</function>\n"
        "</tool_call>",
        "",
        [F],
    ),
    ("qwen-coder", "<tool_call><function=g></function></tool_call>", "", [G]),
    ("qwen-coder", "<tool_call>\n<function=f>\n<parameter=x>\n1", "<tool_call>\n<function=f>\n<parameter=x>\n1", []),
    (
        "glm",
        "<tool_call>f\n<arg_key>x</arg_key>\n<arg_value>1</arg_value>\n<arg_key>y</arg_key>\n"
        "<arg_value>a b</arg_value>\n"
        "</tool_call>",
        "",
        [F],
    ),
    ("glm", "<tool_call>g</tool_call>", "", [G]),
    (
        "command-r",
        '<|START_ACTION|>[\n{"tool_call_id": "0", "tool_name": "f", '
        '"parameters": {"x": 1, "y": "a b"}}\n]<|END_ACTION|>',
        "",
        [F],
    ),
    (
        "deepseek",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n"
        '{"x": 1, "y": "a b"}\n```<｜tool▁call▁end｜>'
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>g\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "",
        [F, G],
    ),
    (
        "deepseek",
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{"x": 1, "y": "a b"}<｜tool▁call▁end｜>',
        "",
        [F],
    ),
    (
        "kimi",
        '<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{"x": 1, "y": "a b"}'
        "<|tool_call_end|><|tool_call_begin|>functions.g:1<|tool_call_argument_begin|>{}<|tool_call_end|>"
        "<|tool_calls_section_end|>",
        "",
        [F, G],
    ),
    ("lfm2", '<|tool_call_start|>[f(x=1, y="a b"), g()]<|tool_call_end|>Done', "Done", [F, G]),
    (
        "lfm2",
        "<|tool_call_start|>[f(x=open('a'))]<|tool_call_end|>",
        "<|tool_call_start|>[f(x=open('a'))]<|tool_call_end|>",
        [],
    ),
    ("lfm2", "<|tool_call_start|>[f(1)]<|tool_call_end|>", "<|tool_call_start|>[f(1)]<|tool_call_end|>", []),
    (
        "lfm2",
        "<|tool_call_start|>[f(x=1e999)]<|tool_call_end|>",
        "<|tool_call_start|>[f(x=1e999)]<|tool_call_end|>",
        [],
    ),
    (
        "harmony",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.f "
        "<|constrain|>json"
        '<|message|>{"x": 1, "y": "a b"}<|call|>',
        "<|channel|>analysis<|message|>Hm.<|end|>",
        [F],
    ),
    ("harmony", "<|start|>assistant to=functions.g<|channel|>commentary json<|message|>{}", "", [G]),
    ("phi", f"<|tool_call|>[{OBJECT}]", "", [F]),
    ("phi-4", f"<|tool_call|>[{OBJECT}]<|/tool_call|>", "", [F]),
    ("functools", f"functools[{OBJECT}, {OTHER}]", "", [F, G]),
]
WRITTEN += [
    ("lfm2", "So <|tool_call_start|>\n```python\nf(x=1, y='a b')\ng()\n```\n<|tool_call_end|>", "So ", [F, G]),
    ("lfm2", "<|tool_call_start|>import os<|tool_call_end|>", "<|tool_call_start|>import os<|tool_call_end|>", []),
    ("jamba", f"<tool_calls>[{OBJECT}, {OTHER}]</tool_calls>", "", [F, G]),
]
WRITTEN += [
    ("hermes", text, text, [])
    for text in ('<tool_call>{"name": "f", "arguments": {"x": 1e999}}', '<tool_call>{"name": "\\ud800"}')
]
MARKS = {name: "".join(marks) for name, (marks, _) in _FORMS.items()}


@pytest.mark.parametrize("case", range(len(WRITTEN)))
def test_calls(case: int) -> None:
    form, text, rest, calls = WRITTEN[case]
    assert split_calls(text, form) == (rest, calls)


def test_every_form_is_tried() -> None:
    assert {form for form, *_ in WRITTEN} | {"llama-json"} == set(_FORMS)


@pytest.mark.parametrize("form", _FORMS)
def test_templates_say_the_form(form: str) -> None:
    assert call_form(f"{{{{ x }}}}{MARKS[form]}{{% if y %}}") == form
    assert call_form("{{ x }}") is None


@pytest.mark.parametrize("form", _FORMS)
def test_texts_that_are_damaged(form: str) -> None:
    """Nothing is raised, nothing is lost, and it takes no time."""
    draw = random.Random(form)
    texts = [text for name, text, *_ in WRITTEN if name == form] or [OBJECT]
    for _ in range(300):
        letters = list(draw.choice(texts))
        for _ in range(draw.randint(1, 5)):
            at = draw.randrange(len(letters))
            letters[at : at + draw.randint(0, 9)] = draw.choice(["", "{", "]", '"', MARKS[form], "<", "é"])
            letters = letters or ["x"]
        text = "".join(letters)
        rest, calls = split_calls(text, form)
        assert calls or rest == text
        json.dumps([call.arguments for call in calls], allow_nan=False)
    start = time.process_time()
    for piece in (MARKS[form], text[:40], text[:40] + "{", "[" * 99, *(mark for mark in _FORMS[form][0])):
        split_calls(piece * (300_000 // max(len(piece), 1)), form)
    assert time.process_time() - start < 30


def test_most_calls() -> None:
    rest, calls = split_calls(f"<tool_call>{OBJECT}</tool_call>" * 300, "hermes")
    assert len(calls) == 256 and rest.count("<tool_call>") == 44


def test_names_of_calls_are_always_the_same() -> None:
    assert call_id((1, 2), 0) == call_id([1, 2], 0) != call_id((1, 2), 1) and call_id((1,), 0).isalnum()
    assert len(call_id((), 0)) == 9


# ---- of a model ------------------------------------------------------------------------------------------------------


def test_an_answer(tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    model = fa.load(prompted_folders.save_gguf(tmp_path / "m.gguf"))
    prompt = model.tokenizer.encode(model.apply_chat_template(TALK), add_special_tokens=False)
    plain = model.generate(prompt, max_new_tokens=12)[0]
    found = model.chat(TALK, max_new_tokens=12)
    assert (found.token_ids, found.text, found.settings) == (plain.token_ids, plain.text, plain.settings)
    assert found.message == {"role": "assistant", "content": plain.text} and plain.message is None
    assert model.chat(TALK, max_new_tokens=12, tools=iter([TOOL])).message == found.message
    for name in ("n", "num_return_sequences"):
        with pytest.raises(ValueError, match=f"{name}: got 2, but a chat has one answer"):
            model.chat(TALK, **{name: 2})
    with pytest.raises(TypeError, match="messages: expected a list of dicts"):
        model.chat("Hi")
    with pytest.raises(TypeError, match="nonsense"):
        model.chat(TALK, nonsense=1)


class Codec:
    """Ids are letters; those above 255 are the special tokens."""

    all_special_tokens = ["<end>", "[TOOL_CALLS]"]
    all_special_ids = [256, 257]

    def decode(self, ids: Any, skip_special_tokens: bool) -> str:
        assert skip_special_tokens is False
        return "".join(chr(i) if i < 256 else self.all_special_tokens[i - 256] for i in ids)


def answer(text: str, *special: tuple[int, int], **more: Any) -> Any:
    ids = list(map(ord, text))
    for at, token in special:
        ids.insert(at, token)
    values = {"finish_reason": "stop", "stop": None, "logprobs": None, "score": None, "seed": 0, "prompt_tokens": 1}
    return fa.text.Generation(text=text, token_ids=tuple(ids), **{**values, **more})


def test_messages_with_calls() -> None:
    """Marks that are special tokens count, and are in no content."""
    codec: Any = Codec()
    found = answer(f"So {OBJECT}", (3, 257), (len(OBJECT) + 4, 256))
    message = chatting._message(codec, found, "mistral")
    calls = message.pop("tool_calls")
    assert message == {"role": "assistant", "content": "So"}
    assert [(call["type"], call["function"]["name"], call["id"]) for call in calls] == [
        ("function", "f", call_id(found.token_ids, 0))
    ]
    assert json.loads(calls[0]["function"]["arguments"]) == F.arguments
    assert chatting._message(codec, answer(OBJECT, (0, 257)), "mistral")["content"] is None
    half = answer('[{"name": "f", "arguments": {"x": "\\ud800é"}}]', (0, 257))
    (call,) = chatting._message(codec, half, "mistral")["tool_calls"]
    assert call["function"]["arguments"] == '{"x": "\\ud800\\u00e9"}'
    assert chatting._message(codec, found, None) == {"role": "assistant", "content": found.text}
    stopped = answer(f"{OBJECT}STOP", (0, 257), stop="STOP")
    assert len(chatting._message(codec, stopped, "mistral")["tool_calls"]) == 1
