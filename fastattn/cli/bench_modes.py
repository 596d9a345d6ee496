# SPDX-License-Identifier: MIT
"""``fastattn bench attention --overhead | --memory | --decode | --long | --scaling``, and the end of --peak-shapes;
``fastattn bench threads`` and ``steps``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .bench_output import clock, header, machine, print_list, threads

__all__ = ["decode", "long", "memory", "overhead", "relations", "scaling", "steps", "team"]

_LONG_ROUNDS = 5  # of a dozen seconds each


def overhead(arguments: argparse.Namespace, cases: Sequence[Any]) -> int:
    """What an empty call costs."""
    from fastattn.bench.overhead import empty_call

    threads(arguments)
    found = empty_call(arguments.seconds)
    if arguments.json:
        print(json.dumps({**machine(arguments), **found}, indent=2))
    else:
        print(f"{header(arguments)}: attention() with B = H = Sq = Sk = 1, D = 64, out= given")
        print(f"median {found['median_us']:.2f} us, p95 {found['p95_us']:.2f} us, {found['calls']} calls")
    return 0


def memory(arguments: argparse.Namespace, cases: Sequence[Any]) -> int:
    """Resident memory of one call."""
    from fastattn.bench.overhead import attention_memory

    count = threads(arguments)
    rows = []
    if not arguments.json:
        print(f"{header(arguments)}: resident memory while attention() runs, one head, D = 64")
    for n in (8192, 16384, 32768):
        rows.append(attention_memory(n, 64, count))
        if not arguments.json:
            arrays, scores = (rows[-1][f"{key}_bytes"] / 2**20 for key in ("array", "score"))
            grown = _growth(rows[-1])
            print(f"N = {n:5}: grows by {grown} (q, k, v, out: {arrays:.0f}; scores would be {scores:.0f})", flush=True)
    if arguments.json:
        print(json.dumps({**machine(arguments), "calls": rows}, indent=2))
    return 0


def _growth(found: dict[str, Any]) -> str:
    grown = found["growth_bytes"] / 2**20
    return f"{grown:.1f} MiB" if grown >= 0.3 else "less than 0.3 MiB"  # what the kernel's counter can tell


def long(arguments: argparse.Namespace, cases: Sequence[Any]) -> int:
    """A very long head beside a shorter one's time, extrapolated."""
    from fastattn.bench.long import run_long
    from fastattn.bench.report import duration
    from fastattn.bench.timing import Plan

    plan = Plan(arguments.rounds or _LONG_ROUNDS, clock=clock(arguments))
    if not arguments.json:
        print(header(arguments), flush=True)
    found = run_long(threads(arguments), plan)
    if arguments.json:
        print(json.dumps({**machine(arguments), **found}, indent=2))
        return 0
    expected = f"{duration(found['expected_s'])} from {duration(found['base_s'])} at N = {found['base_n']}"
    print(
        f"N = {found['n']}: {duration(found['median_s'])}, {found['ratio']:.3f} times the quadratic extrapolation "
        f"({expected}), {found['rounds']} rounds"
    )
    print(f"resident memory grows by {_growth(found)} (scores would be {found['score_bytes'] / 2**20:.0f})")
    return 0


def decode(arguments: argparse.Namespace, cases: Sequence[Any]) -> int:
    """One new token over caches in memory, by storage type."""
    from fastattn.bench.decode import run
    from fastattn.bench.report import duration, percent

    if arguments.list:
        return print_list([(case.name, case.shape_text) for case in cases])

    def line(row: dict[str, Any]) -> str:
        read = "-" if row["read_gbytes_per_second"] is None else f"{row['read_gbytes_per_second']:.1f}"
        return (
            f"{row['name']:<32} {row['sets']:>4}  {duration(row['median_s']):>8}  {row['gbytes_per_second']:>6.1f} "
            f"{read:>6}  {percent(row['read_share']):>7}  {percent(row['fma_share']):>7}  {row['ratio']:>8.2f}"
        )

    heading = f"{'case':<32} {'sets':>4}  {'median':>8}  {'GB/s':>6} {'read':>6}  {'share':>7}  {'of FMA':>7}  of first"
    return _rows(arguments, lambda: run(cases, threads(arguments), _plan(arguments)), heading, line)


def scaling(arguments: argparse.Namespace, cases: Sequence[Any]) -> int:
    """All threads against one."""
    from fastattn.bench.report import duration, percent
    from fastattn.bench.scaling import run

    if arguments.list:
        return print_list([(case.name, case.shape_text) for case in cases])
    if arguments.cpu_time:
        arguments.parser.error("argument --cpu-time: not with --scaling: CPU time of several threads is no duration")
    count = threads(arguments)
    if count < 2:
        arguments.parser.error("argument --scaling: needs at least two threads, got 1; use --threads N")

    def line(row: dict[str, Any]) -> str:
        read = "" if row["read_gain"] is None else f"{row['read_gain']:.2f}"
        return (
            f"{row['name']:<36} {duration(row['one_s']):>8} {duration(row['many_s']):>8}  {row['gain']:>5.2f}  "
            f"{row['fma_gain']:>8.2f} {read:>9}  {percent(row['share']):>7} {row['limit']}"
        )

    many = f"{count} threads"
    heading = f"{'case':<36} {'1 thread':>8} {many:>8}   gain  FMA gain read gain  share of limit's gain"
    return _rows(arguments, lambda: run(cases, count, _plan(arguments)), heading, line)


def relations(arguments: argparse.Namespace, chosen: Sequence[Any]) -> Callable[[], dict[str, Any]]:
    """What causality saves, masks and storage types cost: called once the shares of the peak have been printed."""

    def after() -> dict[str, Any]:
        from fastattn.bench.relations import run
        from fastattn.bench.report import duration

        rows = []
        if not arguments.json:
            print("\ntimes with an option, beside those without it")
        for row in run(chosen, threads(arguments), _plan(arguments)):
            rows.append(row)
            if not arguments.json:
                times = f"{duration(row['median_s']):>8} / {duration(row['base_s']):>8} = {row['ratio']:.3f}"
                text = f"{row['name']:<20} {row['shape']:<29} {times}"
                if row["read_s"] is not None:
                    text += f"; {row['beyond_reading']:.3f} without the {duration(row['read_s'])} of reading the mask"
                print(text, flush=True)
        return {"relations": rows}

    return after


def team(arguments: argparse.Namespace) -> int:
    """What a team costs, and short calls beside busy processes."""
    from pathlib import Path

    from fastattn.bench.report import duration
    from fastattn.bench.threads import beside_busy, team_costs

    if arguments.cpu_time:
        arguments.parser.error("argument --cpu-time: not with threads: their CPU time stands beside the elapsed one")
    count = threads(arguments)

    def say(text: str) -> None:
        if not arguments.json:
            print(text, flush=True)

    say(f"{header(arguments)}\n")
    costs = []
    for row in team_costs(count, arguments.seconds, arguments.rounds):
        costs.append(row)
        regions = ", ".join(f"{n}: {duration(ns * 1e-9)}" for n, ns in row["region_ns"].items())
        chain = ", ".join(f"{n}: {duration(us * 1e-6)}" for n, us in row["chain_us"].items())
        say(f"{row['team']:<8} an empty region, by threads: {regions}; 250 small operators: {chain}")
    say(f"\none sentence of 16 tokens, p50 and CPU time a call\n{'busy':>4}  {'default':>17}  {'one thread':>17}  "
        f"{'OpenMP, passive':>17}  default / better other")  # fmt: skip
    rows = []
    for row in beside_busy(
        Path(arguments.model) if arguments.model else None, count, arguments.seconds, arguments.rounds
    ):
        rows.append(row)
        cells = [
            f"{duration(row[name]['p50_s']):>8} {duration(row[name]['cpu_s']):>8}" if name in row else f"{'-':>17}"
            for name in ("default", "one thread", "passive")
        ]
        say(f"{row['busy']:>4}  {'  '.join(cells)}  p50 {row['p50_ratio']:.2f}, CPU {row['cpu_ratio']:.2f}")
    if arguments.json:
        print(json.dumps({**machine(arguments), "teams": costs, "beside_busy": rows}, indent=2))
    return 0


def steps(arguments: argparse.Namespace) -> int:
    """A decoder's steps."""
    from pathlib import Path

    from fastattn.bench.report import duration
    from fastattn.bench.steps import SMALL, measure_steps

    if arguments.cpu_time:
        arguments.parser.error("argument --cpu-time: not with steps")
    count = threads(arguments)
    if not arguments.json:
        print(f"{header(arguments)}: {arguments.model or f'random weights of the sizes of {SMALL}'}, prompts of 64\n")
        print("sequences   prompts, tokens/s   a step   tokens/s   bookkeeping   share of the step")
    rows = []
    model = Path(arguments.model) if arguments.model else None
    for row in measure_steps(model, arguments.dtype, count, arguments.seconds, arguments.rounds):
        rows.append(row)
        if not arguments.json:
            print(
                f"{row['sequences']:>9}   {row['prefill_tokens_per_second']:>17.0f}   {duration(row['step_s']):>6}   "
                f"{row['tokens_per_second']:>8.0f}   {duration(row['bookkeeping_s']):>11}   {row['share']:>8.1%}",
                flush=True,
            )
    if arguments.json:
        print(json.dumps({**machine(arguments), "cases": rows}, indent=2))
    return 0


def _plan(arguments: argparse.Namespace) -> Any:
    from fastattn.bench.timing import Plan

    return Plan(arguments.rounds, arguments.seconds, clock=clock(arguments))


def _rows(
    arguments: argparse.Namespace,
    run: Callable[[], Iterable[dict[str, Any]]],
    heading: str,
    line: Callable[[dict[str, Any]], str],
) -> int:
    """Rows as they come, then why some have no share; or one JSON object at the end."""
    from fastattn.bench.report import share_errors

    if not arguments.json:
        print(f"{header(arguments)}\n\n{heading}", flush=True)
    rows = []
    for row in run():
        rows.append(row)
        if not arguments.json:
            print(line(row), flush=True)
    if arguments.json:
        print(json.dumps({**machine(arguments), "cases": rows}, indent=2))
        return 0
    for text in share_errors(rows):
        print(text, flush=True)
    return 0
