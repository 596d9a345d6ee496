# SPDX-License-Identifier: MIT
"""Rows of figures as text, line by line while they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["Table", "duration", "percent", "share_errors"]


def duration(seconds: float) -> str:
    """Three digits and a unit that fits.

    >>> duration(0.0123)
    '12.3 ms'
    """
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def percent(share: float | None) -> str:
    """A share of a limit; a dash where there is none to show.

    >>> percent(0.876), percent(None)
    ('88 %', '-')
    """
    return "-" if share is None else f"{100 * share:.0f} %"


def share_errors(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each row without a share, with why."""
    wrong = [row for row in rows if row.get("share_error")]
    return [f"{row['name']}: no share of the limit: {row['share_error']}" for row in wrong]


def _times(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 100 else f"{ratio:.0f}"


def _title(peer: str) -> str:
    return f"{peer}/ours"


class Table:
    """The rows of compare() under one heading; a peer's column is how many times as long it takes, the last one that of
    the fastest."""

    def __init__(self, names: Sequence[str], shapes: Sequence[str], peers: Sequence[str]) -> None:
        self._name = max(map(len, ("case", *names)))
        self._shape = max(map(len, ("shape", *shapes)))
        self._peers = list(peers)

    def heading(self) -> str:
        """The line above the rows."""
        titles = list(map(_title, self._peers))
        return self._line("case", "shape", "median", "p95", "GFLOP/s", "GB/s", "limit", titles, "best rival")

    def row(self, figures: dict[str, Any]) -> str:
        """One row."""
        rate = figures["gbytes_per_second"]
        peers, best = [figures["peers"][name] for name in self._peers], figures["best"]
        return self._line(
            figures["name"],
            figures["shape"],
            duration(figures["median_s"]),
            duration(figures["p95_s"]),
            f"{figures['gflops']:.1f}",
            "" if rate is None else f"{rate:.1f}",
            f"{percent(figures['share'])} {figures['limit']}",
            ["-" if "error" in peer else _times(peer["ratio"]) for peer in peers],
            "-" if best is None else f"{_times(best['ratio']):>5} {best['name']}{'*' if best.get('coarse') else ''}",
        )

    def _line(
        self, name: str, shape: str, median: str, p95: str, flops: str, rate: str, limit: str, peers: list[str],
        best: str,
    ) -> str:  # fmt: skip
        left = f"{name:<{self._name}}  {shape:<{self._shape}}  {median:>8} {p95:>8}  {flops:>7} {rate:>6}  {limit:>10}"
        cells = [f"{cell:>{len(_title(peer))}}" for cell, peer in zip(peers, self._peers, strict=True)]
        if self._peers:
            cells.append(f"{best:<{max(10, 7 + max(map(len, self._peers)))}}")
        return "  ".join([left, *cells])

    @staticmethod
    def errors(rows: Sequence[dict[str, Any]]) -> list[str]:
        """A line for each way in which a peer could not take part, and how often."""
        found: dict[tuple[str, str], list[str]] = {}
        for row in rows:
            for name, peer in row["peers"].items():
                if "error" in peer:
                    found.setdefault((name, peer["error"]), []).append(row["name"])
        return [
            f"{name}: {error} ({cases[0]}{f' and {len(cases) - 1} more' if len(cases) > 1 else ''})"
            for (name, error), cases in found.items()
        ]

    def summary(self, means: dict[str, float], best: dict[str, Any] | None) -> list[str]:
        """The geometric means of each peer's ratios and of the best one's of each case."""
        lines = [f"geometric mean {name}/ours: {mean:.2f}" for name, mean in means.items()]
        if best is not None:
            least = best["least"]
            lines.append(
                f"geometric mean best rival/ours: {best['geometric_mean']:.2f} over {best['cases']} cases, "
                f"least {least['ratio']:.2f} ({least['case']}, {least['name']}), below 1 in {len(best['slower'])}"
            )
            if best["coarse"]:
                lines.append("  * its result is more than twice as far from that of float32 as ours")
            if len(best["by_dtype"]) > 1:
                lines.append("  " + ", ".join(f"{dtype} {mean:.2f}" for dtype, mean in best["by_dtype"].items()))
        return lines
