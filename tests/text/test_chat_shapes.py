# SPDX-License-Identifier: MIT
"""Chat templates of the common shapes: what is recognised, what one turn becomes, what is left alone."""

from __future__ import annotations

import re

import pytest
from support.chat_templates import TEMPLATES

from fastattn.text.chatshapes import recognise, render_turn
from fastattn.text.chatsource import fingerprint, spelling

SMOLLM2 = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
EXPECTED: dict[str, tuple[str | None, str | None]] = {
    "chatml": (
        "<|im_start|>user\n U <|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>system\n S <|im_end|>\n<|im_start|>user\n U <|im_end|>\n<|im_start|>assistant\n",
    ),
    "smollm2": (
        f"<|im_start|>system\n{SMOLLM2}<|im_end|>\n<|im_start|>user\n U <|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>system\n S <|im_end|>\n<|im_start|>user\n U <|im_end|>\n<|im_start|>assistant\n",
    ),
    "llama 2": ("<B>[INST] U [/INST]", "<B>[INST] <<SYS>>\n S \n<</SYS>>\n\n U [/INST]"),
    "llama 3": (
        "<B><|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "<B><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nU"
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "mistral v1": ("<B>[INST]  U  [/INST]", None),
    "phi 3": ("<|user|>\n U <|end|>\n<|assistant|>\n", "<|system|>\n S <|end|>\n<|user|>\n U <|end|>\n<|assistant|>\n"),
    "zephyr": ("<|user|>\n U <E>\n<|assistant|>\n", "<|system|>\n S <E>\n<|user|>\n U <E>\n<|assistant|>\n"),
    "gemma": ("<B><start_of_turn>user\nU<end_of_turn>\n<start_of_turn>model\n", None),
    "gemma 3": (
        "<B><start_of_turn>user\nU<end_of_turn>\n<start_of_turn>model\n",
        "<B><start_of_turn>user\n S \n\nU<end_of_turn>\n<start_of_turn>model\n",
    ),
    "olmo 2": ("<B><|user|>\n U \n<|assistant|>\n", "<B><|system|>\n S \n<|user|>\n U \n<|assistant|>\n"),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_one_turn(name: str) -> None:
    plain, told = EXPECTED[name]
    assert render_turn(TEMPLATES[name], None, " U ", "<B>", "<E>") == plain
    if told is None:
        with pytest.raises(ValueError, match=r"system: the model's chat template \(.*\) takes no system message"):
            render_turn(TEMPLATES[name], " S ", " U ", "<B>", "<E>")
    else:
        assert render_turn(TEMPLATES[name], " S ", " U ", "<B>", "<E>") == told


def test_all_are_recognised() -> None:
    assert [name for name, template in TEMPLATES.items() if recognise(template) is None] == []


def test_messages_are_not_read() -> None:
    for message in ("{{ 7 }}", "{user} {0}", "<|im_end|>", "", "\n"):
        assert render_turn(TEMPLATES["chatml"], None, message, "", "") == (
            f"<|im_start|>user\n{message}<|im_end|>\n<|im_start|>assistant\n"
        )


SAME = [
    lambda t: t.replace("'", '"'),
    lambda t: t.replace("{{'", "{{ '").replace("'\n'}}", "'\n' }}"),
    lambda t: t.replace("message['role']", "message.role").replace("message['content']", "message . content"),
    lambda t: t.replace("{% endfor %}", "{#- a comment -#}{%- endfor -%}"),
    lambda t: t.replace("{% if", "\n{% if"),  # a line of its own, which Jinja leaves nothing of
    lambda t: t.replace("'<|im_start|>' + ", "'<|im_' + 'start|>' + "),
    lambda t: t.replace("{{'<|im_start|>' + ", "<|im_start|>{{"),
    lambda t: t + "\n",
    lambda t: t.replace("\n", "\\n"),
    lambda t: t.replace("\n", "\r\n"),
]
OTHER = [
    lambda t: t.replace("<|im_end|>", "<|im_end|> "),
    lambda t: t.replace("message['content']", "message['content'] | trim"),
    lambda t: t.replace("message['content']", "message['contents']"),
    lambda t: t.replace("{% for message in messages %}", "{% for message in messages[1:] %}"),
    lambda t: t.replace("assistant\n", "assistant\n<think>"),
    lambda t: t.replace("{% if add_generation_prompt %}", "{% if not add_generation_prompt %}"),
    lambda t: t.replace("{% endfor %}", " {% endfor %} x"),
    lambda t: t + "{{ strftime_now('%d') }}",
    lambda t: t.replace("{{'<|im_start|>' + ", " {{'<|im_start|>' + "),
    lambda t: "{% raw %}" + t + "{% endraw %}",
    lambda t: t.replace("'\n'", "'\n' * 2"),
]


@pytest.mark.parametrize("change", SAME, ids=range(len(SAME)))
def test_the_same_in_other_words(change) -> None:  # type: ignore[no-untyped-def]
    template = change(TEMPLATES["chatml"])
    assert template != TEMPLATES["chatml"]
    shape = recognise(template)
    assert shape is not None and shape.name == "chatml"


@pytest.mark.parametrize("change", OTHER, ids=range(len(OTHER)))
def test_what_only_looks_alike_is_not_recognised(change) -> None:  # type: ignore[no-untyped-def]
    template = change(TEMPLATES["chatml"])
    assert template != TEMPLATES["chatml"]
    assert recognise(template) is None and render_turn(template, None, "U", "", "") is None


def test_the_default_of_chatml_is_the_file_s() -> None:
    template = TEMPLATES["smollm2"].replace(SMOLLM2, "Be brief. It's ok")
    assert recognise(template) is None  # the quote ends the text
    template = TEMPLATES["smollm2"].replace(SMOLLM2, "Be brief.\nVery.")
    made = render_turn(template, None, "U", "", "")
    assert made is not None and made.startswith("<|im_start|>system\nBe brief.\nVery.<|im_end|>\n<|im_start|>user")


@pytest.mark.parametrize(
    "template",
    ["", "hello", "{{", "{% for", "{{ 'a }}", "{# never ends", "{{ a ] }}", "{{ [a) }}", "{% %}", "{%", "{{}}",
     "{{ '\\x4' }}", "{{ '\\N{NOTHING}' }}", "{% include 'x' %}", "{{ a +}}", "{{ a }", "}}", "%}",
     "{{ {'a': {}} }}" * 500, "{{" * 9999, "'" * 99999,
     "{{ '" + "\\" * 9999 + "' }}", "{{ " + "(" * 9999, "x" * 10**6, "{%-" + " " * 99999],
)  # fmt: skip
def test_templates_that_are_none(template: str) -> None:
    assert recognise(template) is None


def test_spelling() -> None:
    assert spelling("a{{ 'b' + x['y'] + \"c\" }}\n  {% if a %}\nd{% endif %}") == [
        ["text", "ab"], ["print", "x . y"], ["text", "c\n"], ["do", "if a"], ["text", "d"], ["do", "endif"],
    ]  # fmt: skip
    assert spelling("{{ x['items'] }}{{ a + b }}{{ 'a' if b else 'c' + 'd' }}") == [
        ["print", 'x [ "items" ]'], ["print", "a + b"], ["print", '"a" if b else "c" + "d"'],
    ]  # fmt: skip
    assert spelling("a \n {%- if a -%} \n b {%+ if c %}\n\nd") == [
        ["text", "a"], ["do", "if a"], ["text", "b "], ["do", "if c"], ["text", "\nd"],
    ]  # fmt: skip
    assert fingerprint("a", re.compile("b")) == fingerprint("{{'a'}}", re.compile("b"))
    assert fingerprint("abc", re.compile("b")) == (fingerprint("a\0c", re.compile("b"))[0], "b")  # type: ignore[index]
