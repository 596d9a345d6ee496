# SPDX-License-Identifier: MIT
"""``fastattn bench gguf``: a prompt, a token, and a token of several sequences, beside llama.cpp at its best."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fastattn import cpu_info
from fastattn.loaders.gguf import GgufFile

from .child import ChildError
from .compare import compare
from .costs import Costs
from .generation import WriterCase, make_prompts
from .peaks import Limits
from .timing import Plan, geometric_mean
from .writers import Writer

__all__ = ["Race", "Settings", "cases_of", "main_type", "means", "read_bytes", "race", "tune"]

_CLOSE = 1.03  # settings that take no longer than so many times the fastest race as well
_HOPEFUL = 1.25  # those whose first call takes no longer than so many times the shortest one have another
_RACERS = 2
_SHORT = 4  # tokens of a prompt before tokens that are timed
_TRY = 8  # tokens of a sequence that settings are chosen by
_PLAIN = ("F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class Settings:
    """How llama.cpp runs: attention in one operator or not, weights repacked or as stored, K types by tiles or row by
    row (GGML_CPU_TILED_MM), and threads."""

    num_threads: int
    flash: bool = True
    repack: bool = True
    tiled: bool = True

    @property
    def name(self) -> str:
        """What is unlike its defaults, and the threads.

        >>> Settings(2).name, Settings(1, flash=False, tiled=False).name
        ('2 threads', '1 thread, no flash, no tiles')
        """
        words = {"no flash": self.flash, "no repack": self.repack, "no tiles": self.tiled}
        text = f"{self.num_threads} thread{'' if self.num_threads == 1 else 's'}"
        return ", ".join([text, *(word for word, on in words.items() if not on)])


def tune(
    first: Callable[[Settings], float], again: Callable[[Settings], float], num_threads: int, tiles: bool
) -> list[Settings]:
    """Those of the settings with at most ``num_threads`` that are fastest, the best first.

    One choice after the other, each with what was best before: attention, the form of the weights, fewer threads.

    Args:
        first: seconds of the first call, which sets things up
        again: seconds of another one; asked of those whose first call gives hope
        num_threads: at the most
        tiles: whether the file has types that tiles are for
    """
    begun: dict[Settings, float] = {}
    seconds: dict[Settings, float] = {}

    def best_of(candidates: Sequence[Settings]) -> Settings:
        for one in candidates:
            if one not in begun:
                begun[one] = first(one)
        least = min(begun[one] for one in candidates)
        hopeful = [one for one in candidates if one in seconds or begun[one] <= _HOPEFUL * least]
        for one in hopeful:
            seconds[one] = min(seconds.get(one, math.inf), again(one))
        return min(hopeful, key=seconds.__getitem__)

    start = Settings(num_threads)
    best = best_of([start, replace(start, flash=False)])
    forms = [(True, True), (False, True), *([(True, False), (False, False)] if tiles else [])]
    best = best_of([replace(best, repack=repack, tiled=tiled) for repack, tiled in forms])
    best = best_of([best, *(replace(best, num_threads=count) for count in range(1, num_threads))])
    ordered = sorted(seconds, key=seconds.__getitem__)[:_RACERS]
    return [one for one in ordered if seconds[one] <= _CLOSE * seconds[best]]


def cases_of(prompt: int, new: int, batch: int) -> dict[str, WriterCase]:
    """What is measured of each file, by name; tokens come behind a short prompt, half as many where there are several.

    >>> [case.shape_text for case in cases_of(512, 32, 8).values()]
    ['B1, 512 tokens', 'B1, 32 behind 4 tokens', 'B8, 16 behind 4 tokens']
    """
    short = min(prompt, _SHORT)
    return {
        "prefill": WriterCase(prompt),
        "decode": WriterCase(short, new),
        "batch": WriterCase(short, -(-new // 2), batch),
    }


def read_bytes(file: GgufFile) -> int:
    """Of the file's tensors those that a step reads: all but the table of words, where that is not the head as well,
    and experts, whose bytes depend on the tokens.
    """
    tied = "output.weight" not in file
    return sum(
        file.info(name).nbytes for name in file if len(file.shape(name)) < 3 and (tied or name != "token_embd.weight")
    )


def main_type(file: GgufFile) -> str:
    """The type of most of the bytes of matrices that are not the table of words or the head."""
    found: dict[str, int] = {}
    for name in file:
        if len(file.shape(name)) > 1 and not name.startswith(("token_embd.", "output.")):
            found[file.dtype(name)] = found.get(file.dtype(name), 0) + file.info(name).nbytes
    return max(found, key=found.__getitem__, default="F32")


class Race:
    """A file, loaded by ours and by llama.cpp in processes of their own. Ends with the ``with`` block.

    ``why`` says why llama.cpp takes no part, None where it does. ``chosen``: its settings by case and threads; those
    that are missing are looked for.

    Raises:
        ChildError: ours fails. WeightFileError: the file is damaged.
    """

    def __init__(
        self,
        path: Path,
        num_threads: int,
        activations: str | None = None,
        cpu_time: bool = False,
        why: str | None = None,
        kv_dtype: str | None = None,
        chosen: dict[tuple[str, int], list[Settings]] | None = None,
    ) -> None:
        self.path, self.why = path, why
        self._chosen = {} if chosen is None else chosen
        self._kv_dtype = kv_dtype
        self._cpu_time = cpu_time
        file = GgufFile(path)
        self.read_bytes, self.type = read_bytes(file), main_type(file)
        self._tiles = any("_K" in file.dtype(name) or file.dtype(name).startswith("IQ") for name in file)
        self._theirs: dict[tuple[bool, bool], Writer] = {}
        with ExitStack() as stack:
            options = {} if activations is None else {"activations": activations}
            ours = Writer("fastattn", path, num_threads, None, kv_dtype, cpu_time, options)
            self._ours = stack.enter_context(ours)
            self.costs = replace(Costs.from_json(ours.ready["costs"]), read_bytes=self.read_bytes)
            self.vocab_size, self._positions = int(ours.ready["vocab_size"]), int(ours.ready["max_positions"])
            self._stack = stack.pop_all()

    def __enter__(self) -> Race:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _their(self, repack: bool, tiled: bool) -> Writer:
        if (repack, tiled) not in self._theirs:
            environment = {"GGML_CPU_TILED_MM": str(int(tiled))}
            child = Writer(
                "llama.cpp", self.path, 1, None, self._kv_dtype, self._cpu_time, {"repack": repack}, environment
            )
            self._theirs[repack, tiled] = self._stack.enter_context(child)
            child.prepare([[0]], 0)  # the first touch of mapped weights is nothing of the first settings' time
            child.clear()
        return self._theirs[repack, tiled]

    def run(self, case: WriterCase, num_threads: int, plan: Plan) -> dict[str, Any]:
        """Figures of a case: those of compare(), where peers are the fastest settings of llama.cpp, by name, and
        tokens_per_second, of ours and of theirs.

        Raises:
            ValueError: the context has no room.
        """
        if case.prompt + 1 + case.new > self._positions:
            raise ValueError(
                f"{case.prompt} tokens and {1 + case.new} new ones: the context of the model has {self._positions}"
            )
        prompts = make_prompts(case, self.vocab_size)
        self._ours.clear()
        _, first, behind = self._ours.prepare(prompts, case.new, num_threads=num_threads)
        peers: dict[str, Callable[[int], float] | str] = {}
        if self.why is None:
            try:
                peers = self._rivals(case, prompts, num_threads)
            except ChildError as error:
                self._note(error)
        processes = {"fastattn": self._ours.pid}
        processes |= {f"llama.cpp {i}": child.pid for i, child in enumerate(self._theirs.values())}
        arithmetic: Literal["fma", "int8"] = "fma" if self.type in _PLAIN else "int8"
        clock = time.process_time if self._cpu_time else time.perf_counter
        limits = Limits(num_threads, True, clock, arithmetic, processes)
        flops, cold = self._floor(case)
        ours = behind if case.new else first
        try:
            found = compare(ours, peers, limits, plan, flops=flops, cold=cold)
        except ChildError as error:
            self._note(error)
            found = compare(ours, {}, limits, plan, flops=flops, cold=cold)
        for figures in (found, *found["peers"].values()):
            if "median_s" in figures:
                figures["tokens_per_second"] = case.tokens / figures["median_s"]
        return found

    def _rivals(
        self, case: WriterCase, prompts: list[list[int]], num_threads: int
    ) -> dict[str, Callable[[int], float] | str]:
        ready: dict[Settings, Callable[[int], float]] = {}

        def prepared(one: Settings, new: int) -> Callable[[int], float]:
            how: dict[str, Any] = {"flash": one.flash, "num_threads": one.num_threads}
            _, prompt, behind = self._their(one.repack, one.tiled).prepare(prompts, new, **how)
            return behind if new else prompt

        def first(one: Settings) -> float:
            ready[one] = prepared(one, min(case.new, _TRY))
            return self._their(one.repack, one.tiled).first_call_seconds

        for child in self._theirs.values():
            child.clear()
        key = case.name, num_threads
        if key not in self._chosen:
            self._chosen[key] = tune(first, lambda one: ready[one](1), num_threads, self._tiles)
            for child in self._theirs.values():
                child.clear()
        return {one.name: prepared(one, case.new) for one in self._chosen[key]}

    def _floor(self, case: WriterCase) -> tuple[float, float]:
        """Operations of a call, and bytes that come from memory; weights that a cache can hold do not."""
        cached = self.read_bytes <= cpu_info()["caches"].get("l3", 32 << 20)
        if not case.new:
            return self.costs.prompt_flops(case.prompt), 0.0 if cached else self.read_bytes
        cold = self.costs.decode_bytes(case.prompt, case.new, case.batch, self._kv_dtype or "float32")
        return self.costs.decode_flops(case.prompt, case.new, case.batch), 0.0 if cached else cold

    def _note(self, error: ChildError) -> None:
        """Leaves llama.cpp out from now on; ours cannot be."""
        if error.name == "fastattn":
            raise error
        self.why = str(error)


def race(
    paths: Sequence[Path],
    counts: Sequence[int],
    cases: dict[str, WriterCase],
    plan: Plan,
    *,
    activations: Sequence[str] = (),
    cpu_time: bool = False,
    why: str | None = None,
    kv_dtype: str | None = None,
) -> Iterator[dict[str, Any]]:
    """A row for each file, each of ``activations`` (none: load's default) and number of threads: name, path, type,
    activations, num_threads, read_bytes, figures by case, and error: why llama.cpp took no part, None where it did.

    Raises:
        ChildError: ours fails. ValueError: a context has no room; a file is damaged.
    """
    names: list[str | None] = list(activations) or [None]
    for path in paths:
        chosen: dict[tuple[str, int], list[Settings]] = {}
        for name in names:
            with Race(path, max(counts), name, cpu_time, why, kv_dtype, chosen) as contest:
                for count in counts:
                    figures = {key: contest.run(case, count, plan) for key, case in cases.items()}
                    yield {
                        "name": path.stem, "path": str(path), "type": contest.type, "activations": name,
                        "num_threads": count, "read_bytes": contest.read_bytes, "error": contest.why, **figures,
                    }  # fmt: skip


def means(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """For each of the activations and numbers of threads the geometric means of the ratios to llama.cpp's best, by
    case, over files of quantised types; over all where there are no such. And files, how many they are.
    """
    found = []
    for name, count in dict.fromkeys((row["activations"], row["num_threads"]) for row in rows):
        some = [row for row in rows if (row["activations"], row["num_threads"]) == (name, count)]
        some = [row for row in some if row["type"] not in _PLAIN] or some
        each = {key: [row[key]["best"]["ratio"] for row in some if row[key]["best"]] for key in names}
        ratios = {key: geometric_mean(values) for key, values in each.items() if values}
        found.append({"activations": name, "num_threads": count, "files": len(some), **ratios})
    return found
