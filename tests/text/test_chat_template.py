# SPDX-License-Identifier: MIT
"""Chat templates that are run: what they find, what they may not do, and how messages have to look."""

from __future__ import annotations

import json
import random
import threading
from pathlib import Path
from typing import Any

import pytest
from support import prompted_folders

import fastattn as fa
from fastattn.text import TemplateError
from fastattn.text.chattemplate import render_chat
from fastattn.text.jinjabounds import BoundedTemplate

pytest.importorskip("jinja2")

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "So"}]


def run(source: str, **values: Any) -> str:
    return BoundedTemplate(source, "it").render(values)


# ---- what templates find ---------------------------------------------------------------------------------------------

# What is asked of Jinja by templates of models that people use.
RUNS: dict[str, tuple[str, str]] = {
    "loop": (
        "{% for m in messages %}{{ loop.index }}/{{ loop.length }}{% if not loop.last %},{% endif %}{% endfor %}",
        "1/3,2/3,3/3",
    ),
    "neighbours": (
        "{% for m in messages %}{% if not loop.first %}{{ loop.previtem.role }}<{{ m.role }} {% endif %}{% endfor %}",
        "user<assistant assistant<user ",
    ),
    "break": (
        "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% elif i == 4 %}{% break %}{% endif %}{{ i }}"
        "{% endfor %}",
        "013",
    ),
    "namespace": (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + loop.index %}{% endfor %}{{ ns.n }}",
        "6",
    ),
    "macro": ("{% macro f(x, y=2) %}[{{ x }}{{ y }}]{% endmacro %}{{ f(1) }}{{ f(y=4, x=3) }}", "[12][34]"),
    "caller": ("{% macro f() %}<{{ caller() }}>{% endmacro %}{% call f() %}in{% endcall %}", "<in>"),
    "recursive": (
        "{% for x in [[1, [2]], 3] recursive %}{% if x is number %}{{ x }}{% else %}({{ loop(x) }}){% endif %}"
        "{% endfor %}",
        "(1(2))3",
    ),
    "slices": ("{{ messages[1:]|length }}{{ messages[::-1][0].content }}{{ 'abc'[:2] }}{{ 'abc'[-1] }}", "2Soabc"),
    "tojson": (
        "{{ {'b': [1, 'é<'], 'a': none}|tojson }}{{ {'a': 1}|tojson(indent=2) }}",
        '{"b": [1, "é<"], "a": null}{\n  "a": 1\n}',
    ),
    "filters": (
        "{{ messages|map(attribute='role')|unique|join('+') }}{{ messages|selectattr('role', 'equalto', 'user')|list|"
        "length }}{{ ' x '|trim|upper }}{{ 'a'|replace('a', 'b') }}{{ [3, 1]|sort|first }}"
        "{{ none|default('d', true) }}",
        "user+assistant2Xb1d",
    ),
    "generation": ("{% generation %}{{ messages[0].content }}{% endgeneration %}!", "Hi!"),
    "joined": (
        "{{ 1 ~ 'a' ~ none ~ missing }}{{ 'a' in 'cat' }}{{ '%s-%02d' % ('x', 3) }}{{ '{:>3}'.format(7) }}",
        "1aNoneTruex-03  7",
    ),
    "trimmed": ("{% if true %}\n  x\n  {%- endif %}\n\ny\n", "  x\ny"),
    "formats": (
        "{{ '**%s** 123456 * %5.1f' % ('x', 2) }} {{ '{{a: {}}} 123456 {:>3}'.format(1, 2) }} "
        "{{ '%% %-3d|'|format(4) }}",
        "**x** 123456 *   2.0 {a: 1} 123456   2 % 4  |",
    ),
    "set block": ("{% set x %}a{{ 1 }}{% endset %}{{ x }}{{ x|length }}", "a12"),
    "tests": (
        "{{ messages is iterable }}{{ messages[0] is mapping }}{{ missing is defined }}{{ 'a' is string }}",
        "TrueTrueFalseTrue",
    ),
    "dicts": (
        "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}{{ v }}{% endfor %}{{ dict(a=1).get('z', 9) }}",
        "a1b29",
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_what_templates_find(name: str) -> None:
    source, expected = RUNS[name]
    assert run(source, messages=TALK) == expected


def test_the_date_of_today() -> None:
    assert run("{{ strftime_now('%Y-%m-%d') }}").count("-") == 2


# ---- bounds ----------------------------------------------------------------------------------------------------------

BIG = "{% set s = 'x' * 4000000 %}"
GROWS = "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = "
REFUSED: dict[str, tuple[str, str]] = {
    "loops": ("{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3, "takes more than 2000000 steps"),
    "loops over what stands there": (
        "{% for i in [1,2,3,4,5,6,7,8] %}" * 12 + "{% endfor %}" * 12,
        "more than 2000000 steps",
    ),
    "recursive loops": ("{% for x in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}", "calls deep|without end"),
    "macros": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "more than 40 calls deep"),
    "a text": ("{{ 'x' * 99999999 }}", "makes a text of 99999999 characters, at most 4194304"),
    "texts that double": (
        "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "makes a text of",
    ),
    "the same by +": (
        "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "makes a text of",
    ),
    "what is printed": ("{% for i in range(99999) %}" + "a" * 50 + "{% endfor %}", "makes a text of"),
    "a block": ("{% set x %}{% for i in range(99999) %}" + "a" * 50 + "{% endfor %}{% endset %}", "makes a text of"),
    "many texts": (
        BIG + "{% set ns = namespace(l=[]) %}{% for i in range(999) %}{% set ns.l = ns.l + [s[1:]] %}{% endfor %}",
        "makes texts of more than",
    ),
    "many texts by a filter": (
        BIG + "{{ (['a'] * 99999)|map('replace', 'a', s)|join|length }}",
        "makes texts of more than",
    ),
    "joined": (BIG + "{{ [s, s]|join }}", "makes a text of"),
    "joined by a method": (BIG + "{{ ''.join([s, s]) }}", "makes a text of"),
    "replaced": (BIG + "{{ 'aaa'.replace('a', s) }}", "makes a text of"),
    "replaced between letters": (BIG + "{{ 'aaa'|replace('', s) }}", "makes a text of"),
    "padded": ("{{ 'x'.ljust(999999999) }}", "makes a text of 999999999"),
    "centered": ("{{ 'x'|center(999999999) }}", "filter center: an argument of more than 10000"),
    "indented": (BIG + "{{ ('x\n' * 9999)|indent(9999) }}", "makes a text of"),
    "formatted": ("{{ '%999999999d' % 1 }}", "a format with a width that is long"),
    "a long precision": ("{{ '%(a)-.99999f' % {'a': 1.5} }}", "a format with a width that is long"),
    "a long date": ("{{ strftime_now('%_99999d') }}", "a format with a width that is long"),
    "formatted behind braces": ("{{ '{{{:>99999}'.format(1) }}", "a format with a width that is long"),
    "formatted by a filter": ("{{ '%*d'|format(999999999, 1) }}", "a format with a width that is long"),
    "formatted by a method": ("{{ '{:>999999999}'.format(1) }}", "a format with a width that is long"),
    "formatted from elsewhere": ("{{ '{:>{}}'.format(1, 999999999) }}", "a format with a width that is long"),
    "a number": ("{{ 9 ** (9 ** 9) }}", "a number of more than 4096 bits"),
    "numbers that grow": (
        "{% set ns = namespace(x=9) %}{% for i in range(60) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
        "a number of more than 4096 bits",
    ),
    "a list": ("{{ [0] * 9999999 }}", "makes a list of 9999999 items"),
    "a list in a list": (GROWS + "[ns.x, ns.x] %}{% endfor %}{{ ns.x }}", "a value that holds more than 400000 others"),
    "a name in a name": (
        GROWS + "namespace(a=ns.x, b=ns.x) %}{% endfor %}{{ ns.x }}",
        "a value that holds more than 400000 others",
    ),
    "itself": ("{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns }}", "a value that holds more than 400000 others"),
    "rows": ("{{ range(999999999)|list }}", "OverflowError"),
    "texts for nothing": ("{{ lipsum(n=9) }}", "'lipsum' is undefined"),
    "the interpreter": ("{{ ''.__class__.__mro__ }}", "asks for what a template may not have"),
    "the interpreter by a filter": (
        "{{ ''|attr('__class__') }}{{ (''|attr('__class__')).x }}",
        "may not have|undefined",
    ),
    "the interpreter by a name": ("{% set ns = namespace(_x=1) %}", "the name '_x' of a namespace"),
    "a change": ("{{ messages.append(1) }}", "asks for what a template may not have"),
    "a file": ("{% include '/etc/passwd' %}", "no loader"),
    "another template": ("{% import 'x' as y %}", "no loader"),
    "nothing": ("{{ 1 / 0 }}", "ZeroDivisionError"),
    "an unknown name": ("{{ a.b.c }}", "'a' is undefined"),
    "a refusal": ("{{ raise_exception('roles must alternate') }}", "refuses it: roles must alternate"),
    "half a tag": ("{% for %}", "line 1: Expected an expression"),
    "no end": ("x\n{% if a %}", "line 2: Unexpected end of template"),
    "an unknown filter": ("{{ 1|nosuch }}", "No filter named 'nosuch'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bounds(name: str) -> None:
    source, message = REFUSED[name]
    with pytest.raises(TemplateError, match=f"^it: .*({message})"):
        run(source, messages=TALK)


def test_a_template_that_is_too_long() -> None:
    with pytest.raises(TemplateError, match="it: 1048577 characters, expected at most 1048576"):
        BoundedTemplate("x" * ((1 << 20) + 1), "it")


def test_long_chats_are_within_bounds() -> None:
    talk = [{"role": "user", "content": "word " * 20} for _ in range(5000)]
    source = "{% for m in messages %}{% if loop.index0 < messages|length %}{{ m.role ~ m.content|trim }}{% endif %}"
    source += "{% endfor %}"
    assert len(run(source, messages=talk)) == 5000 * (4 + 99)


def test_runs_at_once() -> None:
    """Each has a count of its own."""
    template, found = BoundedTemplate("{% for i in range(30000) %}{{ i % 10 }}{% endfor %}", "it"), []
    threads = [threading.Thread(target=lambda: found.append(template.render({}))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["0123456789" * 3000] * 4


# ---- messages --------------------------------------------------------------------------------------------------------


def chat(messages: Any, template: str = CHATML, **options: Any) -> str:
    return render_chat({"default": template}, "m", messages, **options)


def test_messages() -> None:
    assert chat(TALK[:1]) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert chat(TALK[:1], add_generation_prompt=False) == "<|im_start|>user\nHi<|im_end|>\n"


def test_the_last_message_goes_on() -> None:
    assert chat(TALK[:2], continue_final_message=True).endswith("<|im_start|>assistant\nYes?")
    trims = CHATML.replace("m['content']", "m['content']|trim")
    assert chat([{"role": "assistant", "content": " Yes "}], trims, continue_final_message=True).endswith(
        "assistant\nYes"
    )
    parts = [{"role": "assistant", "content": [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]}]
    every = "{% for p in messages[0].content %}{{ p.text }}{% endfor %}END"
    assert chat(parts, every, continue_final_message=True) == "AB"
    with pytest.raises(ValueError, match="the last message has no text"):
        chat([{"role": "assistant", "tool_calls": []}], every, continue_final_message=True)
    with pytest.raises(TemplateError, match="leaves out the last message"):
        chat(TALK, "nothing", continue_final_message=True)


def test_which_template() -> None:
    templates = {"default": "usual", "tool_use": "with tools", "rag": "with documents"}
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    assert render_chat(templates, "m", TALK) == "usual"
    assert render_chat(templates, "m", TALK, tools=[tool]) == "with tools"
    assert render_chat(templates, "m", TALK, chat_template="rag") == "with documents"
    assert render_chat(templates, "m", TALK, chat_template="{{ messages[0].content }}") == "Hi"
    with pytest.raises(ValueError, match="chat_template: got 'other', but m has 'default', 'tool_use', 'rag'"):
        render_chat(templates, "m", TALK, chat_template="other")
    with pytest.raises(ValueError, match="m has no usual one, expected one of 'rag'"):
        render_chat({"rag": ""}, "m", TALK)
    with pytest.raises(ValueError, match="m has no chat template"):
        render_chat({}, "m", TALK)
    with pytest.raises(TemplateError, match="m: chat template 'rag': line 1"):
        render_chat({"rag": "{% x"}, "m", TALK, chat_template="rag")


def test_what_is_given_besides() -> None:
    every = "{{ bos_token }}{{ pad_token is defined }}{{ enable_thinking }}{{ documents[0].text }}{{ tools }}"
    options = {"tokens": {"bos_token": "<s>", "pad_token": None}, "options": {"enable_thinking": False}}
    assert chat(TALK, every, documents=[{"text": "T"}], **options) == "<s>FalseFalseTNone"
    for name in ("messages", "tools"):
        with pytest.raises(ValueError, match=f"chat_template_kwargs: {name} is an argument of its own"):
            chat(TALK, every, options={name: 1})


def test_calls_and_what_is_none() -> None:
    """Arguments become objects, reasoning has all its names, and what is None is not there."""
    source = "{% for m in messages %}{{ m|tojson }}{% endfor %}"
    call = {"type": "function", "id": "1", "function": {"name": "f", "arguments": '{"a": [1]}'}}
    message = {"role": "assistant", "content": None, "tool_calls": [call], "reasoning": "R"}
    read = {**call, "function": {"name": "f", "arguments": {"a": [1]}}}
    expected = {"thinking": "R", "role": "assistant", "tool_calls": [read], "reasoning": "R", "reasoning_content": "R"}
    assert chat([message], source) == json.dumps(expected)
    assert call["function"]["arguments"] == '{"a": [1]}'  # the caller's own are as they were


Wrong = tuple[Any, type[Exception], str]
WRONG: dict[str, Wrong] = {
    "a text": ("Hi", TypeError, "messages: expected a list of dicts, got str"),
    "one message": (TALK[0], TypeError, "messages: expected a list of dicts, got dict"),
    "a number": (3, TypeError, "messages: expected a list of dicts, got int"),
    "none": ([], ValueError, "messages: got none"),
    "texts": (["Hi"], TypeError, r"messages\[0\]: expected a dict, got str"),
    "no role": ([{"content": "x"}], ValueError, r"messages\[0\]: expected a role, a str, got None"),
    "a role": ([{"role": 1}], ValueError, r"messages\[0\]: expected a role, a str, got 1"),
    "content": ([{"role": "user", "content": 1}], TypeError, r"messages\[0\].content: expected a str, a list of parts"),
    "parts": (
        [{"role": "user", "content": ["a"]}],
        TypeError,
        r"messages\[0\].content\[0\]: expected a dict with a type",
    ),
    "bytes": (
        [{"role": "user", "content": "a", "x": b"a"}],
        TypeError,
        r"messages\[0\].x: expected a dict, list, .* got bytes",
    ),
    "keys": ([{"role": "user", 1: "a"}], TypeError, r"messages\[0\]: a key of type int, expected texts"),
    "calls": (
        [{"role": "assistant", "tool_calls": {}}],
        TypeError,
        r"messages\[0\].tool_calls: expected a list of dicts",
    ),
    "a call": (
        [{"role": "assistant", "tool_calls": [{"function": {}}]}],
        TypeError,
        r"tool_calls\[0\]: expected a dict with a",
    ),
    "arguments": (
        [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}],
        ValueError,
        r"tool_calls\[0\]: arguments are no JSON",
    ),
    "a list of arguments": (
        [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}],
        ValueError,
        r"tool_calls\[0\]: arguments are a JSON list, expected an object",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_messages_of_another_form(name: str) -> None:
    messages, kind, text = WRONG[name]
    with pytest.raises(kind, match=text):
        chat(messages)


def test_values_in_values_without_end() -> None:
    message: dict[str, Any] = {"role": "user", "content": "x"}
    message["self"] = message
    with pytest.raises(ValueError, match="more than 64 values inside each other"):
        chat([message])


def test_tools_of_another_form() -> None:
    wrong: list[Wrong] = [
        ("f", TypeError, "tools: expected a list of dicts, got str"),
        ([print], TypeError, r"tools\[0\]: expected a dict with the function's JSON schema, got the function"),
        ([{}], ValueError, r"tools\[0\]: expected a function with a name"),
        ([{"function": {"name": 1}}], ValueError, r"tools\[0\]: expected a function with a name"),
        ([{"name": "f", "parameters": []}], TypeError, r"tools\[0\]: parameters: expected a JSON schema"),
    ]
    for tools, kind, text in wrong:
        with pytest.raises(kind, match=text):
            chat(TALK, tools=tools)


def test_of_a_model(tmp_path: Path) -> None:
    model = fa.load(prompted_folders.save_gguf(tmp_path / "m.gguf"))
    assert model.apply_chat_template(TALK[:1]) == chat(TALK[:1])
    assert model.apply_chat_template(TALK[:2], continue_final_message=True).endswith("Yes?")
    assert model.apply_chat_template(TALK, chat_template="{{ x }}", chat_template_kwargs={"x": 5}) == "5"
    with pytest.raises(ValueError, match="has no chat template; chat_template= takes one"):
        fa.load(prompted_folders.save_gguf(tmp_path / "n.gguf", tokenizer__chat_template=None)).apply_chat_template(
            TALK
        )


def test_damaged_templates_raise_and_do_no_more() -> None:
    """Letters that are swapped, doubled, left out or put in from elsewhere."""
    draw = random.Random(5)
    sources = [source for source, _ in (*RUNS.values(), *REFUSED.values()) if len(source) < 400] + [CHATML]
    failed = 0
    for _ in range(600):
        letters = list(draw.choice(sources))
        for _ in range(draw.randint(1, 4)):
            at, other = draw.randrange(len(letters)), draw.choice(draw.choice(sources))
            letters[at : at + draw.randint(0, 2)] = draw.choice(["", other, letters[at] * 2, "{{", "}}", "|", "("])
            letters = letters or ["x"]
        try:
            assert len(run("".join(letters), messages=TALK)) <= 4 << 20
        except TemplateError:
            failed += 1
    assert 50 < failed < 600
