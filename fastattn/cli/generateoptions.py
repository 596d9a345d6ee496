# SPDX-License-Identifier: MIT
"""The options of ``fastattn generate`` that are those of the library's ``generate``, and errors that name them."""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Iterator
from typing import Any

from .arguments import positive_int

__all__ = ["add_options", "check", "named_by_option", "utf8", "values"]

_DTYPES = ("float32", "float16", "bfloat16", "int8")
_EARLY: dict[str, Any] = {"true": True, "false": False, "never": "never"}
_PARTS = {
    "xtc": ("probability", "threshold"),
    "mirostat": ("version", "tau", "eta"),
    "dry": ("multiplier", "base", "allowed_length", "penalty_last_n"),
}
"""Options of several numbers, with commas between them -> what the library calls each."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds them."""
    parser.add_argument("--max-new-tokens", type=positive_int, metavar="N", help="most tokens to generate")
    parser.add_argument(
        "--min-new-tokens", type=_natural, metavar="N", help="tokens before the first one that may end it"
    )
    parser.add_argument("-n", type=positive_int, metavar="N", help="so many answers; with --json alone")
    _add_drawing(parser)
    _add_penalties(parser)
    _add_beams(parser)
    parser.add_argument(
        "--stop", type=_some_text, action="append", metavar="TEXT",
        help="what ends the text, and is not part of it; may come again",
    )  # fmt: skip
    parser.add_argument("--stop-token-ids", type=_ids, metavar="ID,ID", help="tokens that end it")
    parser.add_argument("--include-stop-str-in-output", action="store_true", help="what ended the text is part of it")
    parser.add_argument("--ignore-eos", action="store_true", help="go on behind the model's own end")
    parser.add_argument(
        "--logprobs", type=_natural, metavar="K", help="the K likeliest tokens of each place; for --json"
    )
    parser.add_argument(
        "--prompt-logprobs", type=_natural, metavar="K", help="the same of the places in the prompt; for --json"
    )
    parser.add_argument(
        "--draft", type=_draft, default="auto", metavar="HOW",
        help="tokens guessed from repetitions, which changes no text: auto, prompt_lookup, none, or how many (auto)",
    )  # fmt: skip
    parser.add_argument("--kv-dtype", choices=_DTYPES, help="of kept keys and values (float32)")


def _add_drawing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=_natural, default=0, metavar="N", help="of the random numbers (default: 0)")
    parser.add_argument("--do-sample", action="store_true", default=None, help="draw tokens, whatever the file says")
    parser.add_argument(
        "--temperature", type=_number, metavar="X", help="what logits are divided by; 0 takes the likeliest token"
    )
    parser.add_argument("--top-k", type=_natural, metavar="N", help="how many tokens may be drawn; 0 for all")
    for name, what in (
        ("top-p", "how likely the tokens that may be drawn are together"),
        ("min-p", "how likely each of them is beside the likeliest"),
        ("typical-p", "how likely those are together whose surprise is nearest to the mean"),
    ):
        parser.add_argument(f"--{name}", type=_number, metavar="X", help=what)
    parser.add_argument(
        "--xtc", type=_numbers("xtc"), metavar="P[,T]",
        help="with probability P, of tokens at least as likely as T (0.1) the least likely alone",
    )  # fmt: skip
    parser.add_argument(
        "--mirostat", type=_numbers("mirostat"), metavar="V[,TAU[,ETA]]",
        help="version 1 or 2: keep to a surprise of TAU (5.0) bits, following by ETA (0.1)",
    )  # fmt: skip


def _add_penalties(parser: argparse.ArgumentParser) -> None:
    for name, what in (
        ("repetition-penalty", "on tokens in prompt and answer"),
        ("presence-penalty", "on tokens in the answer"),
        ("frequency-penalty", "on tokens in the answer, as often as they are there"),
    ):
        parser.add_argument(f"--{name}", type=_number, metavar="X", help=what)
    parser.add_argument(
        "--dry", type=_numbers("dry"), metavar="M[,B[,N[,LAST]]]",
        help="what goes on with N (2) repeated tokens or more loses M * B (1.75) ** (how many - N); among the LAST "
        "(64) tokens, -1 for all",
    )  # fmt: skip
    parser.add_argument(
        "--dry-breaker", type=utf8, action="append", metavar="TEXT",
        help="what no repetition of --dry reaches across (newline, colon, quotation mark, asterisk); '' for nothing; "
        "may come again",
    )  # fmt: skip
    parser.add_argument(
        "--no-repeat-ngram-size", type=_natural, metavar="N", help="no N tokens come twice, in prompt and answer"
    )
    parser.add_argument(
        "--bad-words",
        type=_some_text,
        action="append",
        metavar="TEXT",
        help="what may not be in the text; may come again",
    )
    parser.add_argument("--allowed-token-ids", type=_ids, metavar="ID,ID", help="the only tokens that may come")
    parser.add_argument(
        "--logit-bias", type=_bias, action="append", metavar="ID=X",
        help="added to the logit of a token; -inf for one that never comes; may come again",
    )  # fmt: skip


def _add_beams(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--num-beams", type=positive_int, metavar="N",
        help="search the likeliest text with N beams; printed when it is complete",
    )  # fmt: skip
    parser.add_argument(
        "--length-penalty", type=_number, metavar="X", help="of beams: the larger, the better are long texts (1.0)"
    )
    parser.add_argument(
        "--early-stopping", choices=list(_EARLY),
        help="of beams: true ends with the first N complete texts, never only where none can become better (false)",
    )  # fmt: skip


# ---- types -----------------------------------------------------------------------------------------------------------


def _natural(word: str) -> int:
    """An integer from 0 in plain digits."""
    if not word.isascii() or not word.isdigit() or len(word) > 20:
        raise argparse.ArgumentTypeError(f"{word[:80]!r} is not an integer from 0")
    return int(word)


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word[:80]!r} is not a number") from None


class _numbers:  # noqa: N801 - argparse shows a type by its name
    """Up to so many numbers with commas between them, by their names."""

    def __init__(self, option: str) -> None:
        self._names = _PARTS[option]

    def __call__(self, word: str) -> dict[str, Any]:
        parts = word.split(",")
        if len(parts) > len(self._names):
            raise argparse.ArgumentTypeError(f"{len(parts)} numbers, expected at most {len(self._names)}")
        digits = re.compile(r"-?[0-9]{1,20}")
        return {
            name: int(part) if digits.fullmatch(part) else _number(part)
            for name, part in zip(self._names, parts, strict=False)
        }


def _ids(word: str) -> list[int]:
    """Token ids with commas between them."""
    return [_natural(part) for part in word.split(",")]


def _bias(word: str) -> tuple[int, float]:
    """A token id and a number."""
    token, equals, number = word.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{word[:80]!r} is not ID=X")
    return _natural(token), _number(number)


def _draft(word: str) -> str | int | None:
    """How tokens are guessed, as the library takes it."""
    if word in ("auto", "prompt_lookup"):
        return word
    if word == "none":
        return None
    if not word.isascii() or not word.isdigit():
        raise argparse.ArgumentTypeError(f"{word[:80]!r} is none of auto, prompt_lookup, none, and no number of tokens")
    return _natural(word)


def utf8(word: str) -> str:
    """A text; what a shell handed over as other bytes than UTF-8 is none."""
    for at, letter in enumerate(word):
        if "\ud800" <= letter <= "\udfff":
            raise argparse.ArgumentTypeError(f"not UTF-8 at character {at}")
    return word


def _some_text(word: str) -> str:
    """A text that ends another, or is not in it."""
    if not word:
        raise argparse.ArgumentTypeError("an empty string, which is in every text")
    return utf8(word)


# ---- values ----------------------------------------------------------------------------------------------------------

_SAMPLING = (
    "seed", "temperature", "top_k", "top_p", "min_p", "typical_p", "xtc", "mirostat", "dry", "repetition_penalty",
    "presence_penalty", "frequency_penalty", "no_repeat_ngram_size", "logit_bias", "allowed_token_ids",
    "min_new_tokens", "logprobs",
)  # fmt: skip
_DRAWING = ("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p", "xtc", "mirostat")
_BEAMS = ("num_beams", "length_penalty", "early_stopping")
_OPTIONS = (
    *_SAMPLING, *_BEAMS, "do_sample", "max_new_tokens", "bad_words", "stop", "stop_token_ids",
    "include_stop_str_in_output", "ignore_eos", "prompt_logprobs", "draft", "kv_dtype",
)  # fmt: skip


def values(arguments: argparse.Namespace) -> dict[str, Any]:
    """What ``generate`` takes, by its names, but for ``n`` and ``timeout``."""
    found = {name: getattr(arguments, name) for name in _OPTIONS}
    if arguments.logit_bias is not None:
        found["logit_bias"] = dict(arguments.logit_bias)
    if arguments.early_stopping is not None:
        found["early_stopping"] = _EARLY[arguments.early_stopping]
    if arguments.dry_breaker is not None and arguments.dry is not None:
        found["dry"] = {**arguments.dry, "sequence_breakers": [one for one in arguments.dry_breaker if one]}
    return found


def check(arguments: argparse.Namespace) -> None:
    """Leaves with a usage error where options are wrong whatever the model is: before it is loaded."""
    parser = arguments.parser
    for name in ("n", "logprobs", "prompt_logprobs"):
        if getattr(arguments, name) is not None and not arguments.json:
            parser.error(f"argument {_flag(name)}: with --json alone")
    if arguments.dry_breaker is not None and arguments.dry is None:
        parser.error("argument --dry-breaker: with --dry alone")
    try:
        with named_by_option():
            _check(arguments)
    except (ValueError, TypeError) as error:
        parser.error(f"argument {error}")
    least, most = arguments.min_new_tokens, arguments.max_new_tokens
    if least is not None and most is not None and least > most:
        parser.error(f"argument --min-new-tokens: {least} is more than --max-new-tokens, {most}")


def _check(arguments: argparse.Namespace) -> None:
    from fastattn.engine.sampling import draws, sampling_of
    from fastattn.text.beamoptions import read_beams
    from fastattn.text.runoptions import read_draft, read_prompt_logprobs

    given = {**values(arguments), "dry": arguments.dry}  # strings are ids only with a model
    sampling_of(**{name: given[name] for name in _SAMPLING})
    read_draft(given["draft"])
    read_prompt_logprobs(given["prompt_logprobs"], 1 << 31)
    if given["num_beams"] is not None:
        read_beams({}, "", given, draws(*(given[name] for name in _DRAWING)))
    else:  # there may be some, as the file says
        read_beams({}, "", {**given, "num_beams": 2}, False)


def _flag(name: str) -> str:
    """The option that stands for an argument of ``generate``."""
    return "-n" if name == "n" else f"--{name.replace('_', '-')}"


_NAMES = "|".join((*_OPTIONS, "activations", "dtype", "system", "n"))
_ARGUMENT = re.compile(rf"(?<![\w/.-])({_NAMES})(?![\w/.-])")
_PART = re.compile(rf"({_NAMES})(?:\['?(\w+)'?\])?")


@contextlib.contextmanager
def named_by_option() -> Iterator[None]:
    """Errors about arguments of ``load`` and ``generate`` name the options instead."""
    try:
        yield
    except (ValueError, TypeError) as error:
        name, colon, rest = str(error).partition(": ")
        part = _PART.fullmatch(name)
        if re.fullmatch(r"prompts?(\[0\])?", name):
            name = "PROMPT"
        elif name == "dry['sequence_breakers']":
            name = "--dry-breaker"
        elif colon and part is not None:
            name = _flag(part[1]) if part[2] is None else f"{_flag(part[1])}: {part[2]}"
        elif colon and all(_ARGUMENT.fullmatch(one) for one in name.split(", ")):
            name = ", ".join(map(_flag, name.split(", ")))
        else:
            raise
        # of words in the rest only those that nobody writes but as the name of an argument
        rest = _ARGUMENT.sub(lambda found: _flag(found[0]) if "_" in found[0] else found[0], rest)
        raise type(error)(f"{name}: {rest}") from None
