# SPDX-License-Identifier: MIT
"""``fastattn pack``: a checkpoint into one packed file, and the checksums of such files."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from typing import Any

from .arguments import add_threads, path
from .interrupt import UNFINISHED
from .outputs import tell_leftovers

__all__ = ["add_parser"]

_EPILOG = """examples:
  fastattn pack all-MiniLM-L6-v2 minilm.fastattn
  fastattn pack all-MiniLM-L6-v2 minilm-bf16.fastattn --dtype bfloat16 --verify
  fastattn pack SmolLM2-135M-Instruct.Q4_1.gguf smollm2.fastattn
  fastattn pack --verify minilm.fastattn
  fastattn embed --model minilm.fastattn "A sentence."

DST holds everything: weights in the kernels' own order, configuration, tokenizer, pooling. It is mapped into memory as
it is, so a process starts as fast as that goes, and processes that use the same file share its memory. If DST is a
folder, the file in it is called model.fastattn. DST appears when it is complete, or not at all. It replaces a packed
file of that name, and has its mode; one that cannot be replaced (a mount of that one file) is refused, since others may
have it mapped.

Without --dtype, layers of a GGUF file keep the halves that it has, and quantised blocks become float32: the line that
is printed names them.
"""


def add_parser(commands: Any) -> None:
    """Adds the command to the parser's sub-commands."""
    parser = commands.add_parser(
        "pack",
        help="a model into one file that starts fast and that processes share",
        description="Pack a checkpoint into one file that starts fast and whose memory processes share.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source",
        type=path,
        metavar="SRC",
        help="model folder, weights file or .gguf; with --verify alone, a packed file",
    )
    parser.add_argument(
        "target", type=path, metavar="DST", nargs="?", help="packed file to write, or an existing folder"
    )
    parser.add_argument(
        "--dtype",
        metavar="TYPE",
        help="weights of linear layers: int8, bfloat16, float16, float32 (default: int8; of a GGUF file as stored)",
    )
    parser.add_argument(
        "--head",
        metavar="NAME",
        help="the head to pack where the files do not say it: sequence_classification, token_classification, "
        "question_answering, masked_lm, next_sentence, none",
    )
    parser.add_argument(
        "--no-strict", dest="strict", action="store_false", help="leave tensors out that the architecture does not know"
    )
    parser.add_argument(
        "--verify", action="store_true", help="read the packed file and compare the checksums of all it holds"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    add_threads(parser)
    parser.set_defaults(run=_run, parser=parser)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.target is None and not arguments.verify:
        arguments.parser.error("expected DST, the packed file to write (or --verify, to check the packed file SRC)")
    if arguments.target is None and arguments.dtype is not None:
        arguments.parser.error("--dtype: nothing is packed without DST")
    if arguments.target is None and arguments.head is not None:
        arguments.parser.error("--head: nothing is packed without DST")
    place = arguments.source
    if arguments.target is not None:
        from fastattn.loaders.newfile import leftovers
        from fastattn.loaders.packed import FILE_IN_FOLDER
        from fastattn.models.packing import pack_noting

        into = arguments.target
        into = os.path.join(into, FILE_IN_FOLDER) if os.path.isdir(into) else into
        tell_leftovers(into, leftovers(into))
        place = pack_noting(
            UNFINISHED, place, arguments.target, arguments.dtype, arguments.threads, head=arguments.head,
            strict=arguments.strict,
        )  # fmt: skip
    from fastattn.loaders import open_weights
    from fastattn.loaders.packed import PackedFile

    packed = open_weights(place)
    if not isinstance(packed, PackedFile):
        raise ValueError(f"{place}: not a packed file, there are no checksums to compare")
    if arguments.verify:
        packed.verify()
    found = {
        "path": str(packed.path),
        "bytes": os.path.getsize(packed.path),
        "objects": len(packed.keys_of_objects()),
        "verified": arguments.verify,
        **{key: packed.metadata[key] for key in ("model_type", "dtype", "fastattn_version")},
        "dtypes": _layers(packed.metadata),
        **{key: packed.metadata.get(key, "").split() for key in ("gguf_types", "dequantized")},
        **{key: int(packed.metadata[key]) for key in ("format_version", "numerics_version")},
    }
    print(json.dumps(found, indent=2) if arguments.json else _text(found))
    return 0


def _layers(metadata: Mapping[str, str]) -> dict[str, int]:
    """Linear layers of each type, in a file where these differ; else nothing."""
    try:
        types = json.loads(metadata.get("dtypes", "{}"))
    except ValueError:
        types = {}
    names = [name for name in types.values() if isinstance(name, str)] if isinstance(types, dict) else []
    return {name: names.count(name) for name in sorted(set(names))}


def _text(found: dict[str, Any]) -> str:
    several = (f"{name} in {count} layer{'s' * (count != 1)}" for name, count in found["dtypes"].items())
    dtype = ", ".join(several) or found["dtype"]
    if found["gguf_types"]:
        dtype += f" (of {' '.join(found['gguf_types'])}"
        dtype += f", {' '.join(found['dequantized'])} dequantised)" if found["dequantized"] else ")"
    return (
        f"{found['path']}: {found['model_type']}, {dtype}, {found['bytes'] / 1e6:.1f} MB, format "
        f"{found['format_version']}, numerics {found['numerics_version']}, fastattn {found['fastattn_version']}"
        f"{', checksums good' if found['verified'] else ''}"
    )
