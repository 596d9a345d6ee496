# SPDX-License-Identifier: MIT
"""``fastattn info``: what this machine and this build are, what is used of them and why; or what a model is."""

from __future__ import annotations

import argparse
import json
from typing import Any

from .arguments import add_threads, path

__all__ = ["add_parser"]

_EPILOG = """examples:
  fastattn info
  fastattn info --json
  fastattn info --families
  FASTATTN_ISA=avx2 fastattn info --threads 1
  fastattn info SmolLM2-135M-Instruct.Q4_1.gguf
  fastattn info all-MiniLM-L6-v2 --json

Of a model it tells what its files say, from headers and small files (weights are not read, templates not run): format,
architecture, types of tensors, sizes, context, tokenizer, chat template; and whether this library runs it, or why not.
"""


def add_parser(commands: Any) -> None:
    """Adds the command to the parser's sub-commands."""
    parser = commands.add_parser(
        "info",
        help="what a model is; or instruction set, threads and why, caches, build, measured peaks",
        description="This machine and this build: instruction set, threads and why, caches, build, measured peaks. "
        "With PATH, what a model is.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "path", type=path, metavar="PATH", nargs="?", help="model folder, .gguf, .safetensors or packed file"
    )
    parser.add_argument("--families", action="store_true", help="which families of models there are, as Markdown")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    add_threads(parser)
    parser.set_defaults(run=_run, parser=parser)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.families:
        return _families(arguments)
    if arguments.path is not None:
        return _model(arguments)
    from fastattn import build_info, cpu_info, set_num_threads
    from fastattn.bench.peaks import measure_peaks
    from fastattn.threads import resolve, thread_policy

    if arguments.threads is not None:
        set_num_threads(arguments.threads)
    found = {
        "cpu": cpu_info(),
        "threads": thread_policy(),
        "build": build_info(),
        "peaks": measure_peaks(resolve(None), seconds=0.3),
    }
    print(json.dumps(found, indent=2) if arguments.json else _text(found))
    return 0


def _model(arguments: argparse.Namespace) -> int:
    """What the model at PATH is."""
    if arguments.threads is not None:
        arguments.parser.error("argument --threads: without PATH alone")
    from .modelinfo import describe
    from .modeltext import as_text
    from .streams import escaping

    found = describe(arguments.path)
    with escaping():
        print(json.dumps(found, indent=2) if arguments.json else as_text(found))
    return 0


def _families(arguments: argparse.Namespace) -> int:
    """What can be loaded."""
    from fastattn.models.families import as_markdown, families

    if arguments.path is not None or arguments.threads is not None:
        arguments.parser.error("argument --families: alone, or with --json")
    print(json.dumps([row._asdict() for row in families()], indent=2) if arguments.json else as_markdown())
    return 0


def _text(found: dict[str, Any]) -> str:
    from fastattn.cpu import numerics_changes

    cpu, threads, build, peaks = found["cpu"], found["threads"], found["build"], found["peaks"]
    moved = "; ".join(numerics_changes(0))
    others = [name for name in cpu["isas_supported"] if name != cpu["isa"]]
    rows = [
        ("version", f"{build['version']}, numerics version {build['numerics_version']} (new in {moved})"),
        ("cpu", f"{cpu['brand'] or cpu['vendor'] or 'unknown'} ({cpu['machine']})"),
        ("instruction set", f"{cpu['isa']} ({cpu['isa_source']}; also {', '.join(others) or 'none'})"),
        ("threads", threads["explanation"]),
        *(("", note) for note in threads["notes"]),
        ("caches", ", ".join(f"{name} {_bytes(size)}" for name, size in cpu["caches"].items()) or "unknown"),
        ("compiler", f"{build['compiler']}, OpenMP {build['openmp']}"),
        ("flags", build["flags"]),
        *build["environment"].items(),
        *([("left out", " ".join(build["left_out"]))] if build["left_out"] else []),
        ("fixed order", ", ".join(f"{name} {value}" for name, value in build["constants"].items())),
        ("fp32 FMA peak", f"{peaks['gflops']:.1f} GFLOP/s with {_threads(peaks['num_threads'])}"),
        ("memory read", f"{peaks['gbytes_per_second']:.1f} GB/s with {_threads(peaks['num_threads'])}"),
    ]
    return "\n".join(f"{name:<17}{value}" for name, value in rows)


def _bytes(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"


def _threads(count: int) -> str:
    return f"{count} thread" if count == 1 else f"{count} threads"
