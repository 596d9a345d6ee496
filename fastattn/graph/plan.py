# SPDX-License-Identifier: MIT
"""Where values lie: a table has columns from the step that writes it to the last one that reads it.

Offsets are columns, so one plan serves any number of rows. Elementwise steps take the place of an input that dies with
them; the rest is placed largest first, into the smallest gap.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .graph import Node, Table, Value

__all__ = ["Places", "plan", "used_nodes"]

_COLUMNS = 16  # every table starts at a multiple of so many


class _Slot:
    """Columns for one table, or for several of which each takes the place of the one before."""

    __slots__ = ("at", "first", "last", "rows", "width")

    def __init__(self, rows: str, width: int, step: int) -> None:
        self.rows, self.width, self.first, self.last, self.at = rows, width, step, step, -1


class Places(NamedTuple):
    """What a plan says."""

    at: dict[Table, int]
    """Columns before each table, of those that have a place in the program's own memory."""
    columns: dict[str, int]
    """Of all tables of a kind of rows."""


def used_nodes(nodes: Sequence[Node], wanted: Iterable[Value]) -> list[Node]:
    """The steps that ``wanted`` are made by, in their order."""
    live = {value.table for value in wanted}
    used = []
    for node in reversed(nodes):
        if node.out.table in live:
            used.append(node)
            live.update(value.table for value in node.inputs if value is not None)
    return used[::-1]


def plan(nodes: Sequence[Node], outside: Iterable[Table], *, reuse: bool = True) -> Places:
    """Places for the tables that ``nodes`` write, but for those that lie ``outside``, in arrays of the batch.

    ``reuse=False``: no step takes the place of its input, which changes no result.
    """
    apart = set(outside)
    last: dict[Table, int] = {}
    for i, node in enumerate(nodes):
        for value in (node.out, *node.inputs):
            if value is not None:
                last[value.table] = i
    slots: dict[Table, _Slot] = {}
    for i, node in enumerate(nodes):
        table = node.out.table
        if table in apart or table in slots:  # or changed in place, or written part by part
            continue
        slot = _dying(node, i, slots, last) if reuse and node.reuse else None
        if slot is None:
            slot = _Slot(table.rows, table.width, i)
        slots[table] = slot
        slot.last = max(slot.last, last[table])
    places = Places({}, {})
    distinct = {id(slot): slot for slot in slots.values()}
    for rows in {slot.rows for slot in distinct.values()}:
        places.columns[rows] = _place([slot for slot in distinct.values() if slot.rows == rows])
    places.at.update((table, slot.at) for table, slot in slots.items())
    return places


def _dying(node: Node, number: int, slots: dict[Table, _Slot], last: dict[Table, int]) -> _Slot | None:
    """The slot of an input of ``node`` that nobody reads afterwards."""
    for value in node.inputs:
        slot = None if value is None else slots.get(value.table)
        if value is None or slot is None or not value.whole or value.width != node.out.width:
            continue
        if value.rows == node.out.rows and last[value.table] == number and slot.last <= number:
            return slot
    return None


def _place(slots: list[_Slot]) -> int:
    """Give each slot its columns; how many there are of them in all."""
    total = 0
    placed: list[_Slot] = []
    for slot in sorted(slots, key=lambda slot: (-slot.width, slot.first)):
        size = _padded(slot.width)
        taken = sorted(
            (other.at, other.at + _padded(other.width))
            for other in placed
            if other.first <= slot.last and slot.first <= other.last
        )
        best, least, end = -1, -1, 0
        for start, stop in taken:
            if start - end >= size and (least < 0 or start - end < least):
                best, least = end, start - end
            end = max(end, stop)
        slot.at = end if best < 0 else best
        total = max(total, slot.at + size)
        placed.append(slot)
    return total


def _padded(width: int) -> int:
    return -(-width // _COLUMNS) * _COLUMNS
