# SPDX-License-Identifier: MIT
"""``fastattn bench model --latency``: one short sentence at a time, and several Python threads that call at once."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import Any

from .child import Child, ChildError
from .model import Field, make_batch
from .quiet import Quiet
from .shapes import ModelCase
from .timing import median_ratio, percentile

__all__ = ["SENTENCE", "latency"]

SENTENCE = ModelCase("1x16", (16,))
"""What is measured: one sentence of 16 tokens."""

_BATCHES = 20  # of calls one after the other, between which the libraries take turns
_CALLER_SECONDS = 0.4
_CALLER_ROUNDS = 15


def latency(
    field: Field, calls: int = 2000, callers: int = 4, rounds: int = _CALLER_ROUNDS
) -> Iterator[dict[str, Any]]:
    """Ours and each peer of ``field``, one library after the other as they come.

    Of each: p50_s, p95_s, p99_s and worst_s of ``calls`` calls, in batches between which the libraries take turns;
    and calls per second of one caller (``one_rate``) and of ``callers`` Python threads at once (``many_rate``), each of
    which calls with the field's number of threads, with the median of the ratios of ``rounds`` rounds (``gain``). All
    of it in elapsed time; ``one_cpu_s`` and ``many_cpu_s`` are the CPU time of a call, for machines that are busy. A
    peer that cannot has ``error`` instead; one whose calls cannot be made at once has ``callers_error``.
    """
    ids, mask = make_batch(SENTENCE, field.vocab_size)
    samples: dict[str, list[float]] = {}
    errors: dict[str, str] = dict(field.failed)
    for name, child in field.children.items():
        if _tried(child, errors, child.prepare, ids, mask) is not None:
            samples[name] = []
            child.latencies(min(calls, 50))
    quiet = Quiet({name: child.pid for name, child in field.children.items()})
    batch = max(1, calls // _BATCHES)
    for start in range(0, calls, batch):
        for name in list(samples):
            child = field.children[name]
            if quiet.settle():  # threads of the one before
                _tried(child, errors, child.run, 1)
            taken = _tried(child, errors, child.latencies, min(batch, calls - start))
            if taken is None:
                del samples[name]
            else:
                samples[name] += taken
    for name in ("fastattn", *field.peers):
        if name not in samples:
            yield {"name": name, "error": errors[name]}
            continue
        found = samples[name]
        row = {"name": name, "calls": len(found), "p50_s": percentile(found, 0.5), "p95_s": percentile(found, 0.95),
               "p99_s": percentile(found, 0.99), "worst_s": max(found)}  # fmt: skip
        quiet.settle()
        yield {**row, **_throughput(field.children[name], callers, rounds)}


def _throughput(child: Child, callers: int, rounds: int) -> dict[str, Any]:
    one: list[tuple[float, float]] = []
    many: list[tuple[float, float]] = []
    try:
        for turn in range(rounds):
            for count, rates in ((1, one), (callers, many)) if turn % 2 else ((callers, many), (1, one)):
                rates.append(child.callers(count, _CALLER_SECONDS))
    except ChildError as error:
        return {"callers": callers, "callers_error": str(error)}
    (one_rate, one_cpu), (many_rate, many_cpu) = zip(*one, strict=True), zip(*many, strict=True)
    return {"callers": callers, "one_rate": statistics.median(one_rate), "many_rate": statistics.median(many_rate),
            "gain": median_ratio(many_rate, one_rate), "one_cpu_s": statistics.median(one_cpu),
            "many_cpu_s": statistics.median(many_cpu), "rounds": rounds}  # fmt: skip


def _tried(child: Child, errors: dict[str, str], call: Callable[..., Any], *arguments: Any) -> Any:
    """What the call gives; None where a peer fails, with why in ``errors``."""
    try:
        return call(*arguments)
    except ChildError as error:
        if child.name == "fastattn":
            raise
        errors[child.name] = str(error)
        return None
