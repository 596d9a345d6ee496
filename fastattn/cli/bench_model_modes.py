# SPDX-License-Identifier: MIT
"""``fastattn bench model --latency | --cold | --quality | --families | --stream``: what they print."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .arguments import model_path
from .bench_model import dtype, model_folder, peers_of
from .bench_output import clock, header, machine, threads

__all__ = ["cold", "families", "latency", "quality", "stream"]

_MIB = 2**20


def _begin(arguments: argparse.Namespace, what: str, notes: Iterable[str] = ()) -> None:
    if not arguments.json:
        print("\n".join([header(arguments), what, *notes]), flush=True)


def _end(arguments: argparse.Namespace, **found: Any) -> int:
    if arguments.json:
        print(json.dumps({**machine(arguments), **found}, indent=2))
    return 0


def latency(arguments: argparse.Namespace) -> int:
    """One sentence at a time; several threads at once."""
    from fastattn.bench.latency import latency as measure
    from fastattn.bench.model import Field

    if arguments.cpu_time:
        arguments.parser.error("argument --cpu-time: not with --latency: what callers wait for is elapsed time")
    peers, notes = peers_of(arguments)
    kind, callers, count = dtype(arguments), arguments.callers or 4, threads(arguments)
    rows = []
    with model_folder(arguments) as folder, Field(folder, peers, count, kind) as field:
        _begin(arguments, f"model {arguments.random or folder}, {kind}: one sentence of 16 tokens, elapsed time", notes)
        if not arguments.json:
            times = " ".join(f"{title:>9}" for title in ("p50", "p95", "p99", "worst"))
            print(f"\n{'':<12} {times}   calls/s: one caller {callers:>5} callers   gain  CPU/call")
        for row in measure(field, arguments.calls or 2000, callers, arguments.rounds or 15):
            rows.append(row)
            if not arguments.json:
                print(_latency_line(row), flush=True)
    return _end(arguments, model=arguments.random or str(folder), dtype=kind, notes=notes, libraries=rows)


def _latency_line(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"{row['name']:<12} {row['error']}"
    times = " ".join(f"{1e3 * row[key]:>6.2f} ms" for key in ("p50_s", "p95_s", "p99_s", "worst_s"))
    if "callers_error" in row:
        return f"{row['name']:<12} {times}   {row['callers_error']}"
    cpu = f"{1e3 * row['one_cpu_s']:.2f}, {1e3 * row['many_cpu_s']:.2f} ms"
    rates = f"{row['one_rate']:>19.1f} {row['many_rate']:>13.1f}   {row['gain']:>4.2f}"
    return f"{row['name']:<12} {times}   {rates}  {cpu}"


def cold(arguments: argparse.Namespace) -> int:
    """From a new process to the first vector; workers on one file."""
    from fastattn.bench.cold import cold_start, worker_memory

    if arguments.cpu_time:
        arguments.parser.error("argument --cpu-time: not with --cold, which prints both times")
    kind, workers = dtype(arguments), arguments.workers or 4
    threads(arguments)
    with _packed(arguments, kind) as path:
        _begin(arguments, f"{kind}, packed file of {path.stat().st_size / _MIB:.0f} MiB in the page cache")
        start = cold_start(path, arguments.rounds or 15)
        if not arguments.json:
            _print_start(start)
        memory = worker_memory(path, workers)
        if not arguments.json:
            _print_memory(memory)
    return _end(arguments, dtype=kind, cold_start=start, memory=memory)


@contextmanager
def _packed(arguments: argparse.Namespace, kind: Any) -> Iterator[Path]:
    """The model the arguments name if it is a packed file, else packed for the occasion."""
    from fastattn import pack
    from fastattn.loaders.packed import is_packed

    path = model_path(arguments.model)
    if path.is_file() and is_packed(path):
        if arguments.dtype is not None:
            arguments.parser.error("argument --dtype: a packed file has its own")
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="fastattn-") as folder:
        yield pack(path, Path(folder) / "model.fastattn", kind)


def _print_start(found: dict[str, Any]) -> None:
    names = {"python": "python -c pass", "numpy": "import numpy", "load": "load, embed one sentence",
             "command": "fastattn embed \"...\""}  # fmt: skip
    title = f"whole process, medians of {found['rounds']} rounds"
    print(f"\n{title:<43} elapsed      CPU  beyond import numpy: elapsed      CPU")
    for name, text in names.items():
        row = found[name]
        line = f"{text:<43} {row['median_s']:>5.3f} s  {row['median_cpu_s']:>5.3f} s"
        if "beyond_numpy_s" in row:
            line += f"  {row['beyond_numpy_s']:>25.3f} s  {row['beyond_numpy_cpu_s']:>5.3f} s"
        print(line, flush=True)


def _print_memory(found: dict[str, Any]) -> None:
    def mib(count: float) -> str:
        return f"{count / _MIB:.1f} MiB"

    base, one = found["base"], found["one"]
    peak = f"{mib(one['peak_rss_bytes'])} with the model ({mib(one['mapping_rss_bytes'])} of them the file's)"
    print(f"\nresident at the most: {mib(base['peak_rss_bytes'])} with numpy and the tokenizer, {peak}:")
    print(f"{mib(found['beyond_base_bytes'])} beyond both")
    ratio = "no mapping" if found["pss_ratio"] is None else f"{found['pss_ratio']:.3f} times one worker's"
    together = f"{found['workers']} workers together {mib(found['all_pss_bytes'])}"
    print(f"PSS of the mapping: one worker {mib(one['mapping_pss_bytes'])}, {together}: {ratio}")
    each = ", ".join(mib(count) for count in found["private_bytes"])
    print(f"private: {each}; at most {mib(found['private_beyond_base_bytes'])} beyond numpy and the tokenizer")


def quality(arguments: argparse.Namespace) -> int:
    """Vectors and rankings of coarser weights."""
    from fastattn.bench.quality import quality as measure

    peers, notes = peers_of(arguments)
    kind = arguments.dtype or "int8"
    count = arguments.sentences or 1000
    what = (
        f"cosines with float32: {count} sentences of Python's language reference; ranking: docstrings, by first lines"
    )
    _begin(arguments, what, notes)
    if not arguments.json:
        print(f"\n{'':<22} sentences: mean    worst  tokens: mean   lowest  random   nDCG@10  MRR@10  recall@1")
    rows = []
    for row in measure(model_path(arguments.model), kind, peers, threads(arguments), count):
        rows.append(row)
        if not arguments.json:
            print(_quality_line(row), flush=True)
    return _end(arguments, dtype=kind, sentences=count, notes=notes, rows=rows)


def _quality_line(row: dict[str, Any]) -> str:
    name = f"{row['name']} {row['dtype']}"
    if "error" in row:
        return f"{name:<22} {row['error']}"
    keys = ("sentence_mean", "sentence_worst", "token_mean", "token_lowest", "random_token_lowest")
    cells = [f"{row[key]:.5f}" if key in row else "" for key in keys]
    cosines = f"{cells[0]:>16} {cells[1]:>8} {cells[2]:>13} {cells[3]:>8} {cells[4]:>7}"
    return f"{name:<22} {cosines}   {row['ndcg_10']:>7.4f} {row['mrr_10']:>7.4f} {row['recall_1']:>9.4f}"


def stream(arguments: argparse.Namespace) -> int:
    """Many texts through the command."""
    from fastattn.bench.stream import watch_stream

    if arguments.cpu_time:
        arguments.parser.error("argument --cpu-time: not with --stream")
    kind, count = dtype(arguments), arguments.stream
    with _packed(arguments, kind) as path:
        _begin(arguments, f"{count} generated texts through `fastattn embed`, {kind}")
        found = watch_stream(path, count, threads(arguments))
    if not arguments.json:
        rate = f"{found['seconds']:.1f} s, {found['texts_per_second']:.0f} texts/s"
        print(f"{rate}, {found['cpu_seconds']:.1f} s of CPU time")
        rss = ", ".join(f"{size / _MIB:.0f}" for size in found["rss_bytes"])
        print(f"resident memory while each tenth was read, MiB: {rss}")
        print(f"growth after the second tenth: {found['growth_bytes'] / _MIB:.1f} MiB")
    return _end(arguments, dtype=kind, **found)


def families(arguments: argparse.Namespace) -> int:
    """Every family's speed."""
    from fastattn.bench.families import CASES, CONFIGS, run
    from fastattn.bench.model import SAMPLE_SECONDS
    from fastattn.bench.report import Table, share_errors
    from fastattn.bench.timing import Plan

    clock(arguments)
    peers, notes = peers_of(arguments)
    table = Table([f"{family} {case.name}" for family in CONFIGS for case in CASES], ["B8 S127, 487 tokens"], peers)
    _begin(arguments, f"random weights of base size, {dtype(arguments)}", notes)
    if not arguments.json:
        print(f"\n{table.heading()}")
    plan = Plan(arguments.rounds, arguments.seconds, most=50, sample=SAMPLE_SECONDS)
    rows = []
    for row in run(list(CONFIGS), peers, threads(arguments), plan, dtype(arguments), arguments.cpu_time):
        rows.append(row)
        if not arguments.json:
            print(f"{row['name']}: {row['error']}" if "error" in row else table.row(row), flush=True)
    if not arguments.json:
        measured = [row for row in rows if "error" not in row]
        print("\n".join([*table.errors(measured), *share_errors(measured)]))
    return _end(arguments, dtype=dtype(arguments), notes=notes, cases=rows)
