# SPDX-License-Identifier: MIT
"""One turn of chat for models whose chat template is one of the common ones.

Templates are programs in Jinja. They are not run here: those that are known are told by a hash of what they say, and
what each of them makes of one turn is written down. Anything else is not recognised, however much it looks alike.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .chatsource import fingerprint

__all__ = ["ChatShape", "recognise", "render_turn"]


class _Shape(NamedTuple):
    """What a template makes of one turn. In braces: bos, eos, system, user, and default, the template's own system."""

    plain: str | None
    """Without a system message; None where the template puts in the date."""
    told: str | None
    """With one; None where the template refuses it, or leaves it out."""
    trims: str = ""
    """"user", "both": messages that lose spaces at their ends. "whole": system and user together do."""
    skips_empty: bool = False
    """A system message that is empty is none."""


class ChatShape(NamedTuple):
    """A chat template that is known. Made by ``recognise``."""

    name: str
    """Of the shape: "chatml", "llama-3" and the like."""
    default_system: str
    """The system message that the template brings along; "" for none, or one that is part of the shape."""

    def render(self, system: str | None, user: str, bos: str, eos: str) -> str | None:
        """The prompt of one turn, as the template makes it, up to where the answer begins.

        None where it would hold the date of today. ``bos`` and ``eos`` are the special tokens of that name; the prompt
        is to be encoded without adding special tokens.

        Raises
        ------
        ValueError
            ``system`` is given, and the template refuses system messages.
        """
        shape = _SHAPES[self.name]
        if system == "" and shape.skips_empty:
            system = None
        form = shape.plain if system is None else shape.told
        if system is not None and form is None:
            raise ValueError(f"system: the model's chat template ({self.name}) takes no system message")
        if form is None:
            return None
        if shape.trims == "whole":
            whole = user if system is None else f"<<SYS>>\n{system}\n<</SYS>>\n\n{user}"
            return form.format(bos=bos, eos=eos, user=whole.strip())
        if shape.trims:
            user = user.strip()
        if shape.trims == "both" and system is not None:
            system = system.strip()
        return form.format(bos=bos, eos=eos, system=system, user=user, default=self.default_system)


def recognise(template: str) -> ChatShape | None:
    """The shape of a chat template; None where it is not one that is known with certainty.

    Example
    -------
    >>> template = (
    ...     "{% for message in messages %}{{'<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n'}}"
    ...     "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ... )
    >>> recognise(template).render(None, "Hello", "", "")
    '<|im_start|>user\\nHello<|im_end|>\\n<|im_start|>assistant\\n'
    """
    found = fingerprint(template, _DEFAULT)
    if found is None:
        return None
    name = _KNOWN.get(found[0])
    return None if name is None else ChatShape(name, found[1])


def render_turn(template: str, system: str | None, user: str, bos: str, eos: str) -> str | None:
    """The prompt of one turn of chat, exactly as ``template`` makes it; None where the template is not recognised.

    Raises
    ------
    ValueError
        ``system`` is given, and the template refuses system messages.
    """
    shape = recognise(template)
    return None if shape is None else shape.render(system, user, bos, eos)


_DEFAULT = re.compile(r"(?<=<\|im_start\|>system\n)[^<>{}]+(?=<\|im_end\|>\n)")
"""The system message of templates of ChatML, which differs from model to model."""

_CHATML_USER = "<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
_CHATML_SYSTEM = "<|im_start|>system\n{system}<|im_end|>\n"
_CHATML_DEFAULT = "<|im_start|>system\n{default}<|im_end|>\n"

_HEADER = "<|start_header_id|>{}<|end_header_id|>\n\n"
_LLAMA3_USER = _HEADER.format("user") + "{user}<|eot_id|>" + _HEADER.format("assistant")
_LLAMA31_DATES = _HEADER.format("system") + "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"

_PHI3_USER = "<|user|>\n{user}<|end|>\n<|assistant|>\n"
_PHI3_SYSTEM = "<|system|>\n{system}<|end|>\n"
_PHI4_USER = "<|im_start|>user<|im_sep|>{user}<|im_end|><|im_start|>assistant<|im_sep|>"
_GEMMA_TURN = "{{bos}}<start_of_turn>user\n{}{{user}}<end_of_turn>\n<start_of_turn>model\n"
_TULU_USER = "<|user|>\n{user}\n<|assistant|>\n"
_TULU_SYSTEM = "<|system|>\n{system}\n"
_ROLE = "<|start_of_role|>{}<|end_of_role|>"
_GRANITE_USER = _ROLE.format("user") + "{user}<|end_of_text|>\n" + _ROLE.format("assistant")
_GRANITE_SYSTEM = _ROLE.format("system") + "{system}<|end_of_text|>\n"

_SHAPES = {
    "chatml": _Shape(_CHATML_USER, _CHATML_SYSTEM + _CHATML_USER),
    "chatml-default": _Shape(_CHATML_DEFAULT + _CHATML_USER, _CHATML_SYSTEM + _CHATML_USER),
    "chatml-bos": _Shape("{bos}" + _CHATML_USER, "{bos}" + _CHATML_SYSTEM + _CHATML_USER),
    "llama-2": _Shape("{bos}[INST] {user} [/INST]", "{bos}[INST] {user} [/INST]", "whole"),
    "llama-3": _Shape(
        "{bos}" + _LLAMA3_USER, "{bos}" + _HEADER.format("system") + "{system}<|eot_id|>" + _LLAMA3_USER, "both"
    ),
    "llama-3.1": _Shape(
        "{bos}" + _LLAMA31_DATES + "<|eot_id|>" + _LLAMA3_USER,
        "{bos}" + _LLAMA31_DATES + "{system}<|eot_id|>" + _LLAMA3_USER, "both",
    ),
    "mistral-v1": _Shape("{bos}[INST] {user} [/INST]", None),
    "mistral-v3": _Shape("{bos}[INST] {user}[/INST]", "{bos}[INST] {system}\n\n{user}[/INST]"),
    "mistral-v3-tekken": _Shape("{bos}[INST]{user}[/INST]", "{bos}[INST]{system}\n\n{user}[/INST]"),
    "mistral-v7": _Shape(
        "{bos}[INST] {user}[/INST]", "{bos}[SYSTEM_PROMPT] {system}[/SYSTEM_PROMPT][INST] {user}[/INST]"
    ),
    "phi-3": _Shape(_PHI3_USER, _PHI3_SYSTEM + _PHI3_USER),
    "phi-3-bos": _Shape("{bos}" + _PHI3_USER, "{bos}" + _PHI3_SYSTEM + _PHI3_USER),
    "phi-3-mini": _Shape("{bos}" + _PHI3_USER, None),  # it leaves system messages out, which nobody wants who gives one
    "phi-3.5": _Shape(_PHI3_USER, _PHI3_SYSTEM + _PHI3_USER, skips_empty=True),
    "phi-4": _Shape(_PHI4_USER, "<|im_start|>system<|im_sep|>{system}<|im_end|>" + _PHI4_USER),
    "zephyr": _Shape(
        "<|user|>\n{user}{eos}\n<|assistant|>\n", "<|system|>\n{system}{eos}\n<|user|>\n{user}{eos}\n<|assistant|>\n"
    ),
    "gemma": _Shape(_GEMMA_TURN.format(""), None, "user"),
    "gemma-3": _Shape(_GEMMA_TURN.format(""), _GEMMA_TURN.format("{system}\n\n"), "user"),
    "olmo-2": _Shape("{bos}" + _TULU_USER, "{bos}" + _TULU_SYSTEM + _TULU_USER),
    "tulu-3": _Shape(_TULU_USER, _TULU_SYSTEM + _TULU_USER),
    "granite-3": _Shape(_GRANITE_USER, _GRANITE_SYSTEM + _GRANITE_USER),
    "granite-3-dated": _Shape(None, _GRANITE_SYSTEM + _GRANITE_USER),
}  # fmt: skip

# What templates say, and which shape they have; the names are of models that ship one.
_KNOWN: dict[str, str] = {
    "80c27f2e9f37c340a47f932e0fa88a65": "chatml",  # OpenHermes 2.5
    "ec9f439b454f45ad33ee533e1426964b": "chatml",  # the same, guarded
    "5cc6ad3ae4eb770db5a117f69a99562c": "chatml",  # Qwen3
    "4bb18272548e05740588e7add04a88a7": "chatml",  # Qwen3 Coder
    "08083a75bf0691e554c366278822c991": "chatml-bos",  # MiniCPM5
    "dc5b4446ed37c5ee473cef8765b181d9": "chatml-default",  # SmolLM2, Qwen1.5, Qwen2
    "00ecd3e4ff14f126552f5adc8aa53575": "chatml-default",  # Qwen2.5
    "48e187bf331049cd632de20ec5c14374": "chatml-default",  # MiMo VL
    "a8ebf522a96909f2067e1eb3a6cd0cea": "llama-2",
    "2397397049ace2c1533773e5f2013f1b": "llama-3",
    "d8dd9df3b04f1e22fb15f1d603f4d1af": "llama-3",  # its first version
    "9c0ad923ee8a6ff5b7d7f798e9c4e2f8": "llama-3.1",  # and 3.3
    "b709dabcabeccb2f6dbe37b819245f62": "mistral-v1",  # 7B v0.2
    "d4804d069394f722c064946e5c9c3805": "mistral-v1",  # 7B v0.1
    "c9ad3937aaed951ca79a0fd0a76e0607": "mistral-v3",  # Large 2407
    "6a230daf3c6e2014cbe58b35b64f3e98": "mistral-v3-tekken",  # Nemo
    "c35e629b86cd5256e7c696df7b4b0cd8": "mistral-v7",  # Large 2411
    "1e7913e3efac749b78d8c5f55a046053": "phi-3",
    "853328c32b207be827133e9eb49a8e30": "phi-3",  # vision
    "a4a54768fdc7821f4aa5ae4f1c3c3876": "phi-3-bos",  # small
    "05d93805a197d4950f60c36e5cb5e285": "phi-3-mini",  # its first version
    "5d4b7c0042cabfea5737909ce38267f4": "phi-3.5",
    "7bbb9aaedc9bf6a368a3370b84fc58c3": "phi-4",
    "f26483268916b7e5e91f8777f04b3949": "phi-4",  # its first version
    "39901944df1c64287fb8372e72c5dcc6": "zephyr",  # and TinyLlama
    "5bf4788e5ba7abd5aeeba25b2c307557": "gemma",  # 1 and 2
    "52508f686792f62203a485540c7ff0c8": "gemma-3",
    "95ccd0ce1aeeea544c227846b7793f40": "olmo-2",
    "5ad7626c0cd494a5922886dfd4883de3": "tulu-3",
    "300cff9b57043cf824eea2d9e71414dd": "granite-3",
    "561e7ac8d446525bca156aba405bdc07": "granite-3",  # 3.x, without tools
    "5ffe48cdb1af73cd4958a2cf4fbc78f3": "granite-3-dated",  # 3.3
}
