# SPDX-License-Identifier: MIT
"""Questions about a query and a document: templates in both spellings, and those that are not read."""

from __future__ import annotations

import time

import pytest
from support.vector_decoders import MESSAGE

from fastattn.text.pairtemplate import PairTemplate

ALL = (
    f'{{%- set instruction = {MESSAGE["system"]} | default("Find it") -%}}\n'
    f"{{%- set query_text = {MESSAGE['query']} -%}}\n"
    f"{{%- set document_text = {MESSAGE['document']} -%}}\n"
    "<|im_start|>user\n<Instruct>: {{ instruction }}\n<Query>: {{ query_text }}\n"
    "<Document>: {{ document_text }}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
DIRECT = f"Q: {{{{ {MESSAGE['query']} }}}}\nD: {{{{ {MESSAGE['document']} }}}}"

KNOWN = {
    "braces": ("Q: {query} D: {document} A:", ("Q: why D: ", " A:"), None),
    "a query behind": ("{document}\n{query}?", ("", "\nwhy?"), None),
    "a query twice": ("{query} {query} {document}", ("why why ", ""), None),
    "other braces": ("{query} {this} {x} } {document}{", ("why {this} {x} } ", "{"), None),
    "an instruction": (
        "<Instruct>: Find it\n<Query>: {query}\n<Document>: {document}<end>\n",
        ("<Instruct>: Find it\n<Query>: why\n<Document>: ", "<end>\n"),
        ("<Instruct>: Judge\n<Query>: why\n<Document>: ", "<end>\n"),
    ),
    "names": (
        ALL,
        ("<|im_start|>user\n<Instruct>: Find it\n<Query>: why\n<Document>: ",
         "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n"),
        ("<|im_start|>user\n<Instruct>: Judge\n<Query>: why\n<Document>: ",
         "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n"),
    ),
    "places": (DIRECT, ("Q: why\nD: ", ""), None),
    "other quotes": (DIRECT.replace('"', "'").replace("'eq'", "'=='"), ("Q: why\nD: ", ""), None),
    "signs that take spaces away": (DIRECT.replace("{{", "{{-").replace("}}", "-}}"), ("Q:why" + "D:", ""), None),
    "comments and literals": (
        "{# a note #}\n" + DIRECT + "{{ '\t!' }}  {# another #}", ("Q: why\nD: ", "\t!  "), None,
    ),
    "statements on lines of their own": (
        f"one\n  {{% set d = {MESSAGE['document']} %}}\n  two {{{{ {MESSAGE['query']} }}}} {{{{ d }}}}\r\n\n",
        ("one\n  two why ", "\n"), None,
    ),
    "statements in a line": (
        f"{{% set d = {MESSAGE['document']} %}}  {{% set e = d %}} {{{{ {MESSAGE['query']} }}}}{{{{ e }}}}",
        ("   why", ""), None,
    ),
    "no instruction of its own": (
        f"{{{{ {MESSAGE['system']} }}}}." + DIRECT, (".Q: why\nD: ", ""), ("Judge.Q: why\nD: ", ""),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_known(name: str) -> None:
    source, plain, told = KNOWN[name]
    template = PairTemplate.read(source)
    assert template is not None
    assert template.around("why") == plain
    assert template.takes_instruction == (told is not None)
    if told is not None:
        assert template.around("why", "Judge") == told


@pytest.mark.parametrize("name", [name for name in KNOWN if "{{" in KNOWN[name][0]])
@pytest.mark.parity
def test_as_jinja_has_it(name: str) -> None:
    """As transformers' chat templates are rendered."""
    sandbox = pytest.importorskip("jinja2.sandbox")
    source = KNOWN[name][0]
    made = sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(source)
    pair = [{"role": "query", "content": "why"}, {"role": "document", "content": "<<it>>"}]
    template = PairTemplate.read(source)
    assert template is not None
    assert "<<it>>".join(template.around("why")) == made.render(messages=pair)
    system = {"role": "system", "content": "Judge"}
    assert "<<it>>".join(template.around("why", "Judge")) == made.render(messages=[system, *pair])


@pytest.mark.parametrize(
    "source",
    [
        "", "no places", "{query}", "{document}", "{query} {document} {document}",
        DIRECT + "{% if true %}x{% endif %}", DIRECT + "{{ bos_token }}", DIRECT + "{{", DIRECT + "{% set a = 1 %}",
        DIRECT.replace("first", "last"), DIRECT.replace('"query"', '"user"'), DIRECT.replace('"eq"', '"ne"'),
        DIRECT.replace("map(", "list | map("), "{% for m in messages %}{{ m.content }}{% endfor %}",
        DIRECT + f"{{{{ {MESSAGE['document']} }}}}", f"{{{{ {MESSAGE['query']} }}}}",
        "{{ (" + MESSAGE["query"] + ") }}" + DIRECT, "{{ '\\n' }}" + DIRECT, "x" * 300_000 + "{query} {document}",
    ],
)  # fmt: skip
def test_not_read(source: str) -> None:
    assert PairTemplate.read(source) is None


@pytest.mark.parametrize(
    "source", ["{%" * 90_000, "{{ a }}" * 25_000, "<Instruct>: " * 16_000, "{# #}" * 40_000, "{{ x " + "|" * 190_000,
               "{{ messages " + " " * 190_000 + "}}", "{% set " + "a" * 190_000 + "%}"]
)  # fmt: skip
def test_long_ones_cost_no_more_than_their_length(source: str) -> None:
    start = time.monotonic()
    assert PairTemplate.read(source) is None
    assert time.monotonic() - start < 2
