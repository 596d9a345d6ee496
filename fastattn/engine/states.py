# SPDX-License-Identifier: MIT
"""What a call may be asked for beside its result: the hidden states of all layers, and their attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .outputs import Floats

if TYPE_CHECKING:
    from ..graph.graph import Trace
    from .inputs import Integers

__all__ = ["Attentions", "check_flag", "state_outputs"]


def check_flag(value: Any, name: str) -> bool:
    """``value`` itself, or ``TypeError`` where it is no bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected a bool, got {type(value).__name__}")
    return bool(value)


def state_outputs(trace: Trace) -> list[str]:
    """Names of the outputs that are the hidden states, in their order; the last is mostly what is called "hidden"."""
    outputs = trace.outputs
    hidden = outputs["hidden"]
    names: list[str] = []
    while (name := f"hidden_states.{len(names)}") in outputs:
        state = outputs[name]
        same = state.table is hidden.table and (state.first, state.width) == (hidden.first, hidden.width)
        names.append("hidden" if same else name)
    return names


class Attentions:
    """The probabilities (B, heads, S, S) of all layers, filled by one group of packed sequences after the other.

    Beside them there is at most what one group has: a sequence of neighbouring columns is written where it belongs.
    """

    def __init__(self, heads: Mapping[str, int], shape: tuple[int, int], rows: Integers) -> None:
        """``heads`` of each array by name; ``rows`` of the batch, of each sequence."""
        batch, columns = shape
        self._whole = {name: np.zeros((batch, count, columns, columns), np.float32) for name, count in heads.items()}
        self._rows = rows

    @property
    def layers(self) -> tuple[Floats, ...]:
        """(B, heads, S, S) of each layer; zeros for what the attention mask excludes."""
        return tuple(self._whole.values())

    def arrays(self, sequences: slice, cu_seqlens: Integers, columns: Integers) -> dict[str, Floats]:
        """Arrays (1, heads, T, most tokens of a sequence) by name, for a group of sequences."""
        at = self._direct(sequences, columns)
        if at is not None:
            return {name: whole[at] for name, whole in self._whole.items()}
        most = int(np.diff(cu_seqlens).max(initial=0))
        return {
            name: np.empty((1, whole.shape[1], columns.size, most), np.float32) for name, whole in self._whole.items()
        }

    def put(self, found: Mapping[str, Any], sequences: slice, cu_seqlens: Integers, columns: Integers) -> None:
        """What a run has written to the ``arrays`` of that group goes where it belongs."""
        if self._direct(sequences, columns) is not None:
            return
        rows, ends = self._rows[sequences].tolist(), cu_seqlens.tolist()
        for row, start, stop in zip(rows, ends[:-1], ends[1:], strict=True):
            places = columns[start:stop]
            at = np.ix_(places, places)
            for name, whole in self._whole.items():
                target = whole[row]
                for head, part in enumerate(found[name][0, :, start:stop, : stop - start]):
                    target[head][at] = part

    def _direct(self, sequences: slice, columns: Integers) -> Any:
        """Where in the whole a group of one sequence without holes is; None for others."""
        if sequences.stop - sequences.start != 1 or columns[-1] - columns[0] != columns.size - 1:
            return None
        row, part = int(self._rows[sequences.start]), slice(int(columns[0]), int(columns[-1]) + 1)
        return slice(row, row + 1), slice(None), part, part
