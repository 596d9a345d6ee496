# SPDX-License-Identifier: MIT
"""What the ``fastattn bench`` commands share: threads, clock, heading, and figures as a table or as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

__all__ = ["clock", "header", "machine", "print_determinism", "print_grid", "print_list", "threads"]


def threads(arguments: argparse.Namespace) -> int:
    """Sets the process's thread count where one is given; what holds in the end."""
    from fastattn import get_num_threads, set_num_threads

    if arguments.threads is not None:
        set_num_threads(arguments.threads)
    return get_num_threads()


def clock(arguments: argparse.Namespace) -> Callable[[], float]:
    """Elapsed time, or the process's CPU time."""
    import time

    if not arguments.cpu_time:
        return time.perf_counter
    if threads(arguments) != 1:
        arguments.parser.error("argument --cpu-time: CPU time of several threads is no duration; use --threads 1")
    return time.process_time


def machine(arguments: argparse.Namespace) -> dict[str, Any]:
    """What ran where: the head of a JSON object."""
    from fastattn import build_info, cpu_info

    cpu = cpu_info()
    return {
        "version": build_info()["version"],
        "cpu": cpu["brand"] or cpu["vendor"] or "unknown CPU",
        "isa": cpu["isa"],
        "num_threads": threads(arguments),
        "clock": "cpu" if getattr(arguments, "cpu_time", False) else "wall",
    }


def header(arguments: argparse.Namespace) -> str:
    """The same as the first line of a table."""
    found = machine(arguments)
    count = found["num_threads"]
    text = f"fastattn {found['version']} on {found['cpu']}, {found['isa']}, {count} thread{'' if count == 1 else 's'}"
    return f"{text}, CPU time" if getattr(arguments, "cpu_time", False) else text


def print_grid(
    arguments: argparse.Namespace,
    versions: dict[str, str],
    peers: Sequence[str],
    notes: Sequence[str],
    cases: Sequence[Any],
    texts: Sequence[str],
    rows: Iterable[dict[str, Any]],
    processes: Callable[[], dict[str, Any]] = dict,
    after: Callable[[], dict[str, Any]] | None = None,
) -> None:
    """Rows as they come, or one JSON object at the end; ``after`` measures more, prints it or adds to the object."""
    from fastattn.bench.compare import best_rivals, geometric_means
    from fastattn.bench.report import Table, duration, share_errors

    table = Table([case.name for case in cases], texts, peers)
    done = []
    if not arguments.json:
        others = [f"{name} {version}" for name, version in versions.items() if name != "fastattn"]
        for line in (header(arguments), *others, *notes, "", *([table.heading()] if cases else [])):
            print(line, flush=True)
    for row in rows:
        done.append(row)
        if not arguments.json:
            print(table.row(row), flush=True)
    means, best, each = geometric_means(done), best_rivals(done), processes()
    if not arguments.json:
        for line in (*table.summary(means, best), *table.errors(done), *share_errors(done)):
            print(line, flush=True)
    more = after() if after else {}
    if arguments.json:
        found = {"peers": versions, "notes": notes, "cases": done, "geometric_mean": means, "best_rival": best}
        print(json.dumps({**machine(arguments), **found, "processes": each, **more}, indent=2))
        return
    for name, figures in each.items():
        print(f"{name}: loaded in {duration(figures['load_s'])}, {figures['peak_rss_bytes'] / 1e6:.0f} MB at the most")


def print_determinism(arguments: argparse.Namespace, rows: Iterable[dict[str, Any]]) -> int:
    """A line for each case; the exit status, 1 where bits differ."""
    found = []
    for row in rows:
        found.append(row)
        if not arguments.json:
            skipped = f", without {', '.join(row['skipped'])}" if row["skipped"] else ""
            verdict = "DIFFERENT: " + "; ".join(row["different"]) if row["different"] else "same bits"
            print(f"{row['name']:<28} {row['variants']} variants{skipped}: {verdict}", flush=True)
    wrong = [row["name"] for row in found if row["different"]]
    if arguments.json:
        print(json.dumps({**machine(arguments), "cases": found, "same": not wrong}, indent=2))
    elif not wrong:
        print(f"{len(found)} cases: the same bits over threads, instruction sets, kernels, and repeated")
    if wrong:
        print(f"fastattn: results differ in {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


def print_list(rows: Iterable[tuple[str, str]]) -> int:
    """Names and what they stand for; the exit status, 0."""
    for name, text in rows:
        print(f"{name:<28} {text}")
    return 0
