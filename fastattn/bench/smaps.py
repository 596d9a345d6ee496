# SPDX-License-Identifier: MIT
"""The memory of a process as Linux counts it: /proc/PID/smaps and /proc/PID/status."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Memory", "read_memory", "sum_mappings"]


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. The mapping is that of the model's files; its ``pss`` counts a page of several processes in parts."""

    peak_rss: int
    """Resident memory at the most, so far, of the whole process."""
    mapping_rss: int
    """Resident pages of the mapping."""
    mapping_pss: int
    """The same, each page divided by the number of processes that map it."""
    private: int
    """What this process alone has, clean and dirty, without the mapping's clean pages (they are the file's)."""


def sum_mappings(lines: Iterable[str], below: str) -> tuple[int, int, int]:
    """Of the text of smaps: rss and pss of what is mapped from ``below`` (a file, or all in a folder), and all that is
    private but for the clean pages of that.

    >>> text = ["7f00-7f10 r--p 00000000 fe:00 17 /models/a", "Rss: 8 kB", "Pss: 4 kB", "Private_Clean: 1 kB",
    ...         "7f20-7f30 rw-p 00000000 00:00 0", "Rss: 2 kB", "Pss: 2 kB", "Private_Dirty: 2 kB"]
    >>> sum_mappings(text, "/models")
    (8192, 4096, 2048)
    """
    rss = pss = private = 0
    inside = False
    for line in lines:
        first, _, rest = line.partition(" ")
        if not first.endswith(":"):  # a mapping begins: addresses, permissions, offset, device, inode, path
            fields = line.split(maxsplit=5)
            path = fields[5].strip() if len(fields) == 6 else ""
            inside = path == below or path.startswith(f"{below}/")
            continue
        if first in ("Rss:", "Pss:") and inside:
            size = int(rest.split()[0]) << 10
            rss, pss = (rss + size, pss) if first == "Rss:" else (rss, pss + size)
        elif first == "Private_Dirty:" or (first == "Private_Clean:" and not inside):
            private += int(rest.split()[0]) << 10
    return rss, pss, private


def read_memory(pid: int, model: Path) -> Memory:
    """Of the process ``pid``, with the mapping of ``model``, a file or a folder.

    Raises:
        OSError: the system has no such files, or no such process.
    """
    with open(f"/proc/{pid}/smaps", encoding="utf-8", errors="replace") as file:
        rss, pss, private = sum_mappings(file, str(model.resolve()))
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        peak = next((int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM:")), None)
    if peak is None:
        raise OSError(f"/proc/{pid}/status has no VmHWM")
    return Memory(peak, rss, pss, private)
