# SPDX-License-Identifier: MIT
"""``fastattn bench``: how fast, how close to the machine's limit, and how much faster than what else there is."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from . import bench_generate, bench_gguf, bench_model, bench_modes
from .arguments import add_threads, path, positive_float, positive_int
from .bench_output import clock, header, print_determinism, print_grid, print_list, threads

__all__ = ["add_parser"]

_HELD_BACK = "OPENBLAS_CORETYPE"  # makes NumPy's BLAS use the kernels of another CPU
_METHOD = """Each round takes one sample of everything that is compared, in rotating order, and of the probes of the
machine's limits (fp32 FMA peak, memory read bandwidth). Shares and ratios are medians of those of the rounds; ratios
are peer / ours, so above 1 ours is faster. Buffers are warm."""
_EXAMPLES = {
    "peak": "  fastattn bench peak --threads 1",
    "attention": """  fastattn bench attention --threads 1 --compare torch
  fastattn bench attention --shapes decode,causal --seconds 3
  fastattn bench attention --threads 1 --compare torch,onnxruntime,openvino
  fastattn bench attention --peak-shapes --threads 1
  fastattn bench attention --decode --threads 1
  fastattn bench attention --scaling --threads 2
  fastattn bench attention --long --threads 1 --rounds 3
  fastattn bench attention --overhead
  fastattn bench attention --memory
  fastattn bench attention --check-determinism""",
    "linear": """  fastattn bench linear --threads 1 --compare numpy,torch
  fastattn bench linear --shapes 768x3072 --json
  fastattn bench linear --dtype int8,bfloat16 --compare torch,onnxruntime""",
    "linear-attention": """  fastattn bench linear-attention --threads 1 --compare torch,onnxruntime
  fastattn bench linear-attention --shapes step""",
    "similarity": """  fastattn bench similarity --threads 1 --compare numpy,torch
  fastattn bench similarity --shapes cosine --json""",
    "model": bench_model.EXAMPLES,
    "generate": bench_generate.EXAMPLES,
    "gguf": bench_gguf.EXAMPLES,
    "threads": "  fastattn bench threads --seconds 4\n  fastattn bench threads --model path/to/folder --json",
    "steps": "  fastattn bench steps --threads 1\n  fastattn bench steps --model path/to/folder --dtype int8 --json",
}
_HELP = {
    "peak": "the machine's limits: fp32 FMA peak, int8 peak and memory read bandwidth",
    "attention": "attention over a grid of shapes",
    "linear": "linear layers over a grid of sizes and rows",
    "linear-attention": "linear attention over prompts and single tokens",
    "similarity": "the best of 100000 vectors for some queries",
    "model": "a sentence encoder, token ids in, hidden states out",
    "generate": "a language model: prompts, new tokens, the way to the first one, memory",
    "gguf": "quantised language models beside llama.cpp: speed, exactness, loading",
    "threads": "what a team of threads costs, alone and beside busy processes",
    "steps": "a decoder's steps: prompts, tokens, and the part of a token that is bookkeeping",
}
_FLOPS = {
    "peak": "",
    "attention": "\n\nFLOPs: 2 Sq Sk (D + Dv) per head; causality, windows and block masks lessen the pairs.",
    "linear": "\n\nUp to 8 rows the weights come from memory: calls walk so many sets that no cache holds them.",
    "linear-attention": "\n\nFLOPs: 2 for update, retrieval and each read-out, 1 for a decay, Dk Dv times a token; so"
    " gated rules\nend at 5/6 of the FMA peak, gated_delta at 7/8. Single tokens: states come from and go to memory.",
    "similarity": "\n\nFLOPs: 2 D for each pair, whatever the metric. The vectors come from memory.",
    "model": "\n\nFLOPs are those of the tokens that are there; padding counts for nothing.",
    "generate": "\n\nA prompt's limit is its arithmetic, a new token's the bytes of weights, keys and values that"
    " it reads, or the\nother one where that takes longer. A call is a prompt to its first token, or all the new ones"
    " behind it.\nTransformers gets weights of the type ours are kept in, llama.cpp has those of the file and computes"
    " on\ntheir blocks. Drawn tokens: temperature 0.8, top_k 40, top_p 0.95.",
    "gguf": "\n\nWithout --threads: one, and all. llama.cpp runs with flash attention or without, weights repacked or"
    " as stored,\nK types in tiles or not, and as many threads or fewer: whatever is fastest for a case. New tokens"
    " read what\nthe file stores of the weights, and keys and values.",
    "threads": "\n\nTeams are those of FASTATTN_THREADS, each in processes of its own, which take turns.",
    "steps": "\n\nBookkeeping is what a step costs beside the program in C.",
}


_ONLY = {
    "peak-shapes": "share of the FMA peak; what causality saves, masks and storage types cost",
    "decode": "one new token over caches in memory, by storage type: share of the read bandwidth",
    "long": "N = 65536: time beside N = 8192 extrapolated, and resident memory (minutes)",
    "scaling": "all threads against one, beside what the machine's limits gain from them",
    "overhead": "what an empty call costs",
    "memory": "resident memory of one call, up to N = 32768",
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
    parser.set_defaults(run=lambda arguments: parser.error(f"expected one of {', '.join(_EXAMPLES)}"))
    kinds = parser.add_subparsers(metavar="WHAT", title="what is measured")
    runs = (
        _peak, _attention, _linear, _linear_attention, _similarity, _model, bench_generate.run, bench_gguf.run,
        bench_modes.team, bench_modes.steps,
    )  # fmt: skip
    for name, run in zip(_EXAMPLES, runs, strict=True):
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
        kind.add_argument(
            "--cpu-time", action="store_true", help="count CPU time (one thread, on a machine that is busy)"
        )
        if name not in ("peak", "generate", "gguf", "threads", "steps"):
            _add_grid_options(kind)
        if name == "linear":
            kind.add_argument(
                "--dtype", type=_weight_dtypes, default=["float32"], metavar="A,B",
                help="how weights are stored: float32, bfloat16, float16, int8 (beside ours with float32)",
            )  # fmt: skip
        if name == "attention":
            only = kind.add_mutually_exclusive_group()
            for mode, text in _ONLY.items():
                only.add_argument(f"--{mode}", action="store_true", help=text)
        if name == "model":
            bench_model.add_options(kind)
        if name == "generate":
            bench_generate.add_options(kind)
        if name == "gguf":
            bench_gguf.add_options(kind)
        if name == "threads":
            kind.add_argument("--model", type=path, metavar="PATH", help="model folder (default: random, as MiniLM's)")
        if name == "steps":
            kind.add_argument("--model", type=path, metavar="PATH", help="a decoder (default: random, like SmolLM2)")
            kind.add_argument(
                "--dtype", choices=("float32", "bfloat16", "float16", "int8", "int4"), help="of the weights (as stored)"
            )
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


def _weight_dtypes(text: str) -> list[str]:
    known = ("float32", "bfloat16", "float16", "int8")
    names = _names(text)
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is unknown, expected some of {','.join(known)}")
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

    found = measure_peaks(threads(arguments), arguments.seconds, arguments.rounds, clock(arguments))
    if arguments.json:
        print(json.dumps(found, indent=2))
        return 0
    print(f"{header(arguments)}, {found['rounds']} rounds")
    for title, key, unit in (
        ("fp32 FMA peak", "gflops", "GFLOP/s"),
        ("int8 peak", "int8_gops", "GOP/s"),
        ("memory read", "gbytes_per_second", "GB/s"),
    ):
        spread = f"p05 {found[f'{key}_p05']:.1f}, p95 {found[f'{key}_p95']:.1f}"
        print(f"{title:<14} median {found[key]:.1f} {unit} ({spread})")
    if found["disturbed"]:
        print(f"too low: {found['disturbed']}")
    return 0


def _attention(arguments: argparse.Namespace) -> int:
    from fastattn.bench import shapes

    for mode, (run, table) in _MODES.items():
        if getattr(arguments, mode):
            return run(arguments, _mode_cases(arguments, mode, table))
    known = [*shapes.PEAK, *shapes.RELATIONS] if arguments.peak_shapes else list(shapes.ATTENTION)
    chosen = _select(arguments, known)
    cases = [case for case in chosen if isinstance(case, shapes.AttentionCase)]
    related = [relation for relation in chosen if isinstance(relation, shapes.Relation)]
    if arguments.list:
        listed = [*((case.name, case) for case in cases), *((relation.name, relation.case) for relation in related)]
        return print_list([(name, case.shape_text) for name, case in listed])
    if arguments.check_determinism:
        from fastattn.bench.determinism import check_attention

        return print_determinism(arguments, check_attention([*cases, *(relation.case for relation in related)]))
    from fastattn.bench import attention

    after = bench_modes.relations(arguments, related) if related else None
    return _grid(arguments, attention.run, cases, [case.shape_text for case in cases], after)


def _mode_cases(arguments: argparse.Namespace, mode: str, table: str | None) -> list[Any]:
    """The cases of a mode, those --shapes names; usage errors for options that it cannot have."""
    from fastattn.bench import shapes

    for name in ("compare", "check_determinism", *(() if table else ("shapes", "list"))):
        if getattr(arguments, name):
            arguments.parser.error(f"argument --{name.replace('_', '-')}: not with --{mode}")
    return _select(arguments, getattr(shapes, table)) if table else []


_MODES = {
    "overhead": (bench_modes.overhead, None),
    "memory": (bench_modes.memory, None),
    "long": (bench_modes.long, None),
    "decode": (bench_modes.decode, "DECODE"),
    "scaling": (bench_modes.scaling, "SCALING"),
}
"""What ``attention`` measures instead of the grid, and the table its cases are from."""


def _linear(arguments: argparse.Namespace) -> int:
    from dataclasses import replace

    from fastattn.bench import shapes

    chosen = _select(arguments, shapes.LINEAR)
    cases = [replace(case, dtype=dtype) for dtype in arguments.dtype for case in chosen]
    texts = [case.shape_text for case in cases]
    if arguments.list:
        return print_list(zip([case.name for case in cases], texts, strict=True))
    if arguments.check_determinism:
        from fastattn.bench.determinism import check_linear

        return print_determinism(arguments, check_linear(cases))
    from fastattn.bench import linear

    if arguments.dtype != [linear.FLOAT32] and linear.FLOAT32 in arguments.dtype:
        arguments.parser.error("argument --dtype: float32 stands beside the others in their table; give it alone")
    own = [] if arguments.dtype == [linear.FLOAT32] else [linear.FLOAT32]
    return _grid(arguments, linear.run, cases, texts, own=own)


def _linear_attention(arguments: argparse.Namespace) -> int:
    from fastattn.bench import linear_attention

    cases = _select(arguments, linear_attention.LINEAR_ATTENTION)
    texts = [case.shape_text for case in cases]
    if arguments.list:
        return print_list(zip([case.name for case in cases], texts, strict=True))
    if arguments.check_determinism:
        return print_determinism(arguments, linear_attention.check_linear_attention(cases))
    return _grid(arguments, linear_attention.run, cases, texts)


def _similarity(arguments: argparse.Namespace) -> int:
    from fastattn.bench import similarity

    cases = _select(arguments, similarity.SIMILARITY)
    texts = [case.shape_text for case in cases]
    if arguments.list:
        return print_list(zip([case.name for case in cases], texts, strict=True))
    if arguments.check_determinism:
        return print_determinism(arguments, similarity.check_similarity(cases))
    return _grid(arguments, similarity.run, cases, texts)


def _model(arguments: argparse.Namespace) -> int:
    from fastattn.bench import shapes

    cases = _select(arguments, shapes.MODEL)
    _without_held_back_blas(arguments)
    return bench_model.run(arguments, cases)


def _grid(
    arguments: argparse.Namespace,
    run: Any,
    cases: Sequence[Any],
    texts: Sequence[str],
    after: Callable[[], dict[str, Any]] | None = None,
    own: Sequence[str] = (),
) -> int:
    """Runs the cases beside the peers, in this process, and prints them, then what ``after`` measures; ``own``: columns
    of ours beside those of the peers.
    """
    from fastattn.bench.peers import open_peers
    from fastattn.bench.timing import Plan

    _without_held_back_blas(arguments)
    count = threads(arguments)
    peers, notes = open_peers(arguments.compare, count)
    versions = {peer.name: peer.version for peer in peers}
    try:
        rows = run(cases, peers, count, Plan(arguments.rounds, arguments.seconds, clock=clock(arguments)))
        print_grid(arguments, versions, [*own, *versions], notes, cases, texts, rows, after=after)
    finally:
        for peer in peers:
            peer.close()
    return 0


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
