# SPDX-License-Identifier: MIT
"""Chat templates give the texts that transformers gives, whatever they ask of Jinja."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from support.chat_templates import TEMPLATES
from test_chat_template import RUNS, TALK

from fastattn.text.chattemplate import render_chat
from fastattn.text.jinjabounds import TemplateError

pytestmark = pytest.mark.parity
rendering = pytest.importorskip("transformers.utils.chat_template_utils")

TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "<it> & é", "parameters": {"type": "object", "properties": {"a": {}}}},
}
CALL = {"type": "function", "id": "c1", "function": {"name": "f", "arguments": {"a": [1, "é"], "b": None}}}
TALKS: dict[str, list[dict[str, Any]]] = {
    "one": TALK[:1],
    "three": TALK,
    "system": [{"role": "system", "content": " Be brief. "}, *TALK],
    "tools": [
        TALK[0],
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "name": "f", "content": "3"},
        {"role": "assistant", "content": "Three.", "reasoning": "Well."},
        {"role": "user", "content": ""},
    ],
    "parts": [
        {"role": "user", "content": [{"type": "text", "text": "A"}, {"type": "image"}, {"type": "text", "text": "B"}]}
    ],
}
OWN = {
    "everything": "{{ messages|tojson }}|{{ tools|tojson(indent=2) }}|{{ documents }}|{{ add_generation_prompt }}",
    "printed": "{% for m in messages %}{{ m }}{% endfor %}{{ tools }}",
    **{name: source for name, (source, _) in RUNS.items()},
    **TEMPLATES,
}


def outcome(make: Any) -> str | None:
    """The text, or None where there is an error."""
    try:
        return str(make())
    except TemplateError:
        return None
    except Exception as error:
        if type(error).__module__.split(".")[0] in ("jinja2", "builtins"):
            return None
        raise


@pytest.mark.parametrize("name", OWN)
def test_transformers_gives_the_same_texts(name: str) -> None:
    kept = 0
    for talk, tools, more in itertools.product(TALKS.values(), (None, [TOOL]), (True, False)):
        options: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>", "enable_thinking": False}

        def theirs(talk: Any = talk, tools: Any = tools, more: bool = more, options: Any = options) -> str:
            found, _ = rendering.render_jinja_template(
                conversations=[[{k: v for k, v in m.items() if v is not None} for m in talk]], tools=tools,
                chat_template=OWN[name], add_generation_prompt=more, **options,
            )  # fmt: skip
            return str(found[0])

        def ours(talk: Any = talk, tools: Any = tools, more: bool = more, options: Any = options) -> str:
            return render_chat(
                {"default": OWN[name]}, "m", talk, tools=tools, add_generation_prompt=more, options=options
            )

        expected = outcome(theirs)
        assert outcome(ours) == expected
        kept += expected is not None
    assert kept > 0


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_last_message_goes_on(name: str) -> None:
    talk = [TALK[0], {"role": "assistant", "content": "It is  "}]

    def theirs() -> str:
        found, _ = rendering.render_jinja_template(
            conversations=[talk], chat_template=TEMPLATES[name], continue_final_message=True, bos_token="<s>"
        )
        return str(found[0])

    def ours() -> str:
        options = {"bos_token": "<s>"}
        return render_chat({"default": TEMPLATES[name]}, "m", talk, continue_final_message=True, options=options)

    assert outcome(ours) == outcome(theirs)
