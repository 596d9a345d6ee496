# SPDX-License-Identifier: MIT
"""What an option costs or saves: the same inputs with it and without it, in the same rounds."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fastattn import _core

from .attention import our_call
from .attention_shapes import Relation
from .inputs import Inputs, Walk, make_inputs
from .timing import Contestant, Plan, median_ratio, run_rounds, timed

__all__ = ["run", "run_relation"]


def run_relation(relation: Relation, num_threads: int, plan: Plan) -> dict[str, Any]:
    """Times of both and their ratio; with an additive mask also the time of reading it, and what is left beside that.

    Returns:
        name, shape, base_s and median_s (medians), ratio (median over rounds of case / base), rounds, read_s and
        beyond_reading (median over rounds of (case - read) / base), both None without an additive mask.
    """
    (inputs,) = make_inputs(relation.case)
    base = Contestant("base", timed(our_call(Walk([_without(inputs, relation)]), num_threads), plan.clock))
    case = Contestant("case", timed(our_call(Walk([inputs]), num_threads), plan.clock))
    read = _reader(inputs.mask, num_threads, plan) if relation.case.mask == "float" else None
    run_rounds([base, case, *([] if read is None else [read])], plan)
    left = None
    if read is not None:
        rounds = zip(case.samples, read.samples, base.samples, strict=True)
        left = statistics.median((taken - reading) / least for taken, reading, least in rounds)
    return {
        "name": relation.name,
        "shape": relation.case.shape_text,
        "base_s": statistics.median(base.samples),
        "median_s": statistics.median(case.samples),
        "ratio": median_ratio(case.samples, base.samples),
        "rounds": len(case.samples),
        "read_s": None if read is None else statistics.median(read.samples),
        "beyond_reading": left,
    }


def _without(inputs: Inputs, relation: Relation) -> Inputs:
    """The same arrays for the case without the option; arrays of its own where it is stored in another type."""
    if relation.base.kv_dtype != relation.case.kv_dtype:
        return make_inputs(relation.base)[0]
    return replace(inputs, case=relation.base, mask=None, out=np.zeros_like(inputs.out))


def _reader(mask: np.ndarray | None, num_threads: int, plan: Plan) -> Contestant:
    assert mask is not None
    flat = mask.reshape(-1)
    return Contestant("read", timed(lambda: _core.probe_read(flat, num_threads), plan.clock))


def run(relations: Sequence[Relation], num_threads: int, plan: Plan) -> Iterator[dict[str, Any]]:
    """Figures of each relation, as they come."""
    for relation in relations:
        yield run_relation(relation, num_threads, plan)
