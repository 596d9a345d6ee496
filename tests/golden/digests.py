# SPDX-License-Identifier: MIT
"""SHA-256 of what every family computes: under every head, from every storage type, over odd shapes and masks.

``digests.json`` pins the bits that the models of ``digest_models`` give, and the tensors of the files they are packed
into: rewriting a model must move none of them, on any instruction set. From the root of the project:

    python -m tests.golden.digests             # compares, and names what moved
    python -m tests.golden.digests --all       # with every head, storage type and case on every instruction set
    python -m tests.golden.digests --write     # records, after a change that is meant to move bits

A key is ``variant/head/storage type``, and under it a case; those with ``holes`` in their names have masks with holes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import struct
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import fastattn as fa
from fastattn import _testing
from fastattn.typing import WeightType

from .digest_models import MODELS, SHAPES, VARIANTS, inputs, save_folder
from .tiny_bert import Array

RECORD = Path(__file__).with_suffix(".json")
DTYPES: tuple[WeightType, ...] = ("float32", "float16", "bfloat16", "int8", "int4")
PACKED = "packed"
"""Beside the names of cases: the tensors of the packed file."""

# What is run on other instruction sets than the machine's best, where nobody asks for more.
_FEW_DTYPES: tuple[WeightType, ...] = ("float32", "int8")
_FEW_HEADS = ("none",)
_MANY_TOKENS = ("long_holes", "groups")  # the scalar kernels take a while

Digests = dict[str, dict[str, str]]


def _short(digest: Any) -> str:
    return str(digest.hexdigest()[:16])


def digest_arrays(arrays: Iterable[tuple[str, Array | None]]) -> str:
    """Of names, shapes, dtypes and bytes; an array may be missing, which is something else than an empty one."""
    digest = hashlib.sha256()
    for name, array in arrays:
        digest.update(f"{name} {None if array is None else (array.dtype.str, array.shape)}\n".encode())
        if array is not None:
            digest.update(np.ascontiguousarray(array).tobytes())
    return _short(digest)


def digest_packed(path: Path) -> str:
    """Of names, dtypes, shapes and bytes of the tensors of a packed file, in the order of their names."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    digest = hashlib.sha256()
    for name in sorted(header):
        if name == "__metadata__" or name.startswith(("file:", "pad:")):
            continue
        start, stop = (8 + length + offset for offset in header[name]["data_offsets"])
        digest.update(f"{name} {header[name]['dtype']} {header[name]['shape']}\n".encode() + data[start:stop])
    return _short(digest)


def digest_outputs(model: Any, name: str, cases: Iterable[str]) -> dict[str, str]:
    """Case -> digest of all fields of the output of a variant."""
    return {case: digest_arrays(model(*inputs(name, case))._asdict().items()) for case in cases}


def measure(
    folder: Path, name: str, head: str, dtype: WeightType, *, cases: Iterable[str] = SHAPES, packed: bool = True
) -> dict[str, str]:
    """Case -> digest, for a folder that ``save_folder`` wrote.

    ``packed``: with that of the packed file. Where the model that is loaded from it gives another output, the digest
    of the case says so.
    """
    model = fa.load(folder, dtype)
    assert model.head_name == head, f"{name}: the head that was found is {model.head_name}, not {head}"
    digests = digest_outputs(model, name, cases)
    if packed:
        path = fa.pack(folder, folder / f"{dtype}.fastattn", dtype)
        for case, found in digest_outputs(fa.load(path), name, cases).items():
            if found != digests[case]:
                digests[case] += f", but {found} from the packed file"
        digests[PACKED] = digest_packed(path)
        path.unlink()
    return digests


def disagreements(found: Digests) -> list[tuple[str, str]]:
    """Keys and cases where a packed file and its checkpoint do not have the same results."""
    return [(key, case) for key, digests in found.items() for case in digests if "but" in digests[case]]


def measure_variant(folder: Path, name: str) -> tuple[dict[str, str], Digests]:
    """Everything of a variant on the selected instruction set: digests of its weights by head, and all others."""
    weights: dict[str, str] = {}
    digests: Digests = {}
    for variant, head in MODELS:
        if variant == name:
            place = folder / name / head
            weights[f"{name}/{head}"] = digest_arrays(sorted(save_folder(place, name, head).items()))
            digests |= {f"{name}/{head}/{dtype}": measure(place, name, head, dtype) for dtype in DTYPES}
    return weights, digests


def measure_few(folder: Path, isa: str, *, everything: bool = False) -> Iterator[tuple[str, dict[str, str]]]:
    """Key -> digests on the instruction set ``isa``: of encoders alone, in two storage types; or of ``everything``.

    Models are saved in ``folder`` where they are not yet. Their weights are packed on ``isa``, too.
    """
    cases = [case for case in SHAPES if everything or isa != "scalar" or case not in _MANY_TOKENS]
    with _testing.use_isa(isa):
        for name, head in MODELS:
            if not everything and head not in _FEW_HEADS:
                continue
            place = folder / name / head
            if not place.exists():
                save_folder(place, name, head)
            for dtype in DTYPES if everything else _FEW_DTYPES:
                yield f"{name}/{head}/{dtype}", measure(place, name, head, dtype, cases=cases, packed=everything)


def read_record() -> dict[str, Any]:
    """What ``digests.json`` holds."""
    record: dict[str, Any] = json.loads(RECORD.read_text())
    return record


def moved(record: Mapping[str, Any], found: Digests, weights: Mapping[str, str] | None = None) -> list[str]:
    """What is not as it was recorded: ``key: cases``, in the order in which it was found."""
    lines = [f"{key}: the weights" for key, digest in (weights or {}).items() if record["weights"].get(key) != digest]
    for key, digests in found.items():
        before = record["digests"].get(key, {})
        cases = [case for case, digest in digests.items() if before.get(case) != digest]
        lines += [f"{key}: {', '.join(cases)}"] if cases else []
    return lines


def explain(record: Mapping[str, Any], lines: Iterable[str], isa: str) -> str:
    """A message about what ``moved``."""
    recorded, own = record["numerics_version"], fa.build_info()["numerics_version"]
    versions = f"all of numerics version {own}" if recorded == own else f"recorded of version {recorded}, now {own}"
    hint = "record them with `python -m tests.golden.digests --write` if they are meant to"
    return "\n".join((f"results moved on {isa} ({versions}; {hint}):", *lines))


def main(arguments: list[str] | None = None) -> int:
    """Compare or record; see the module. The exit status is 1 where something moved."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden.digests", description="Digests of all models.")
    parser.add_argument("--write", action="store_true", help="record the digests of this build")
    parser.add_argument("--all", action="store_true", help="everything on every instruction set, which takes minutes")
    options = parser.parse_args(arguments)
    weights: dict[str, str] = {}
    found: Digests = {}
    best = fa.cpu_info()["isa"]
    complaints = []
    with tempfile.TemporaryDirectory() as folder:
        for name in VARIANTS:
            made, digests = measure_variant(Path(folder), name)
            weights |= made
            found |= digests
        version = fa.build_info()["numerics_version"]
        own: dict[str, Any] = {"numerics_version": version, "weights": weights, "digests": found}
        record = own if options.write else read_record()
        lines = moved(record, found, weights)
        lines += [f"{key}: recorded, but there is no such model" for key in sorted(record["digests"].keys() - found)]
        lines += [f"{key}: {case}: {found[key][case]}" for key, case in disagreements(found)] if options.write else []
        complaints += [explain(record, lines, best)] if lines else []
        for isa in _testing.isas():
            if isa != best:
                lines = moved(record, dict(measure_few(Path(folder), isa, everything=options.all)))
                complaints += [explain(record, lines, isa)] if lines else []
    if not complaints and record["numerics_version"] != version:
        complaints.append(f"nothing moved, but {RECORD.name} is of numerics version {record['numerics_version']}")
    if options.write and not complaints:  # never what instruction sets or packed files do not agree on
        RECORD.write_text(json.dumps(own, indent=1, sort_keys=True) + "\n")
    count = sum(map(len, found.values()))
    print("\n".join(complaints) or f"{count} digests of {len(found)} models: every instruction set agrees")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
