# SPDX-License-Identifier: MIT
"""How likely a model finds the tokens of sequences that are there already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from .decode import Steps
from .memory import PagedMemory, pages_needed
from .requests import STEP_LOGITS, STEP_ROWS
from .sampling import Sampling, check_drawn
from .stop import check_deadline

if TYPE_CHECKING:
    from .decoder import Decoder

__all__ = ["token_logprobs"]

Integers = np.ndarray[Any, np.dtype[np.int64]]


def token_logprobs(
    model: Decoder, sequences: Sequence[Integers], num_threads: int | None = None, deadline: int = 0
) -> list[list[float]]:
    """Of each sequence (t,) the log-probabilities of its tokens but the first, each after all before it, t - 1.

    Raises
    ------
    DeadlineExceeded
    """
    trace, threads = model.graph.trace, model.num_threads if num_threads is None else num_threads
    rows = min(STEP_ROWS, max(STEP_LOGITS // model.vocab_size, 1))
    longest = max((ids.size for ids in sequences), default=1)
    memory = PagedMemory(trace, [pages_needed(group, longest, rows) for group in trace.groups])
    steps = Steps(model.graph, model.program(["logits"]), model.blocks, memory)
    found = []
    raw = Sampling(logprobs=0)
    for ids in sequences:
        check_deadline(deadline)
        kept, told = memory.add(), []
        for start in range(0, ids.size - 1, rows):
            piece = ids[start : min(start + rows, ids.size - 1)]
            after = ids[start + 1 : start + 1 + piece.size]
            logits = steps.run(
                [kept], [piece], [piece.size], lengths=[ids.size], num_threads=threads, deadline=deadline
            )
            tokens, logprobs, _, _ = _core.sample(
                logits, [raw] * piece.size, given=after.tolist(), strict=False, blocks=model.blocks, num_threads=threads
            )
            check_drawn(tokens, model.path)
            assert logprobs is not None
            told += logprobs.tolist()
        memory.free(kept)
        found.append(told)
    return found
