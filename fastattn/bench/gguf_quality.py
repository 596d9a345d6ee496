# SPDX-License-Identifier: MIT
"""``fastattn bench gguf --quality``: logits of quantised models beside those of the same weights in float32."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from .child import ChildError, Process, answering, peak_rss
from .corpus import real_sentences

__all__ = ["Logits", "distance", "measure_quality", "serve"]

_SENTENCES = 200
_ROWS = 32  # of logits in float64 at a time


def distance(logits: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """How far ``logits`` (t, V) are from ``expected``.

    Returns:
        kl: mean over rows of the sum of p (log p - log q), p the probabilities of ``expected``; kl_most, of a row;
        changes: rows whose likeliest token is another one; rms: of the differences of logits, each row without its
        mean.

    >>> distance(np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]]))["changes"]
    1
    """
    kl, squares, changes = [], [], 0
    for start in range(0, len(expected), _ROWS):
        found, right = (
            logits[start : start + _ROWS].astype(np.float64),
            expected[start : start + _ROWS].astype(np.float64),
        )
        log_q, log_p = _log_softmax(found), _log_softmax(right)
        kl.append((np.exp(log_p) * (log_p - log_q)).sum(axis=1))
        gap = found - right
        gap -= gap.mean(axis=1, keepdims=True)
        squares.append((gap * gap).mean(axis=1))
        changes += int((found.argmax(axis=1) != right.argmax(axis=1)).sum())
    every = np.concatenate(kl)
    return {
        "kl": float(every.mean()),
        "kl_most": float(every.max()),
        "changes": changes,
        "rms": float(np.sqrt(np.concatenate(squares).mean())),
    }


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(axis=1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(axis=1, keepdims=True)))


class Logits(Process):
    """A process that has loaded ``path`` with the library ``name`` and gives logits; ends with the ``with`` block.

    ``options``: kv_dtype, of keys and values (each library's way without a memory, or its default), and further ones of
    loading, ours alone.

    Raises:
        ChildError: it could not, in what the library says.
    """

    def __init__(self, name: str, path: Path, num_threads: int, options: dict[str, Any] | None = None) -> None:
        super().__init__(name, __name__, "serve", [name, str(path), str(num_threads), json.dumps(options or {})])

    def tokens(self, count: int) -> list[int]:
        """The first tokens of real English text; ours alone."""
        return list(self._ask({"tokens": count})["tokens"])

    def of(self, tokens: Sequence[int]) -> np.ndarray:
        """Logits (t, V) of all ``tokens``, one after the other in one sequence."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "logits.npy"
            self._ask({"logits": list(map(int, tokens)), "to": str(path)})
            found: np.ndarray = np.load(path, allow_pickle=False)
        return found


def serve() -> None:
    """The child's side: arguments are the library, the model's path, threads, and an object of options. Ends when
    stdin does."""
    from .peers import one_line

    answer = answering()
    name, path, threads, options = sys.argv[1:]
    loaders = {"fastattn": _ours, "llama.cpp": _llama_cpp}
    try:
        version, tokens, logits = loaders[name](Path(path), int(threads), json.loads(options))
        answer(version=version)
        _serve(tokens, logits, sys.stdin.buffer, answer)
    except Exception as error:  # whatever a library raises: it is for the table
        answer(error=one_line(error))


_Tokens = Callable[[int], list[int]]
_Call = Callable[[Sequence[int]], np.ndarray]


def _serve(tokens: _Tokens, logits: _Call, questions: IO[bytes], answer: Callable[..., None]) -> None:
    for line in questions:
        question = json.loads(line)
        if "logits" in question:
            np.save(question["to"], logits(question["logits"]))
            answer(done=True)
        elif "tokens" in question:
            answer(tokens=tokens(question["tokens"]))
        else:
            answer(bytes=peak_rss())


def _ours(path: Path, num_threads: int, options: dict[str, Any]) -> tuple[str, _Tokens, _Call]:
    from fastattn import __version__, load

    kv_dtype = options.pop("kv_dtype", None)
    model: Any = load(path, num_threads=num_threads, **options)
    model.check_logits()

    def tokens(count: int) -> list[int]:
        count = min(count, model.max_positions)
        if not model.has_tokenizer:  # any will do: weights without a vocabulary are a test's
            return [int(token) for token in np.random.default_rng(0).integers(model.vocab_size, size=count)]
        text = " ".join(real_sentences(_SENTENCES))
        found = [int(token) for token in model.tokenizer.encode(text)]
        if len(found) < count:
            raise ValueError(f"tokens: got {count}, expected at most {len(found)}, which the text has")
        return found[:count]

    def logits(ids: Sequence[int]) -> np.ndarray:
        if kv_dtype is None:
            return np.asarray(model([list(ids)]).logits[0])
        return _from_memory(model, ids, kv_dtype)

    return __version__, tokens, logits


def _from_memory(model: Any, ids: Sequence[int], kv_dtype: str) -> np.ndarray:
    """Logits where keys and values are kept and read as generate() does."""
    from fastattn._core import Blocks
    from fastattn.engine.decode import Steps
    from fastattn.engine.memory import PAGE, PagedMemory

    trace = model.graph.trace
    memory = PagedMemory(trace, [len(ids) // PAGE + 2] * len(trace.groups), kv_dtype)
    steps = Steps(model.graph, model.program(["logits"]), Blocks(), memory)
    return steps.run([memory.add()], [np.array(ids, np.int64)], [len(ids)])


def _llama_cpp(path: Path, num_threads: int, options: dict[str, Any]) -> tuple[str, _Tokens, _Call]:
    import llama_cpp  # type: ignore[import-not-found,unused-ignore]

    from .peers.with_llama_cpp import all_logits, load_model

    model = load_model(path)

    def tokens(count: int) -> list[int]:
        raise ValueError("tokens come from ours")

    return llama_cpp.__version__, tokens, lambda ids: all_logits(model, ids, num_threads, options.get("kv_dtype"))


def measure_quality(
    paths: Sequence[Path],
    num_threads: int,
    count: int,
    activations: Sequence[str],
    why: str | None = None,
    kv_dtype: str | None = None,
) -> Iterator[dict[str, Any]]:
    """A row for each file: name, path, tokens (how many), libraries: by name what distance() gives, or error.

    Ours is there once for each of ``activations``, or as it is by default where there are none. All are compared with
    ours with the weights dequantised, ``dtype="float32"``.

    Args:
        paths: GGUF files
        num_threads: of each library
        count: tokens of real English text, in one sequence; fewer where the context is shorter
        activations: those of fastattn.load
        why: llama.cpp is left out, None where it is not
        kv_dtype: how both keep keys and values; None for ours as they are, and llama.cpp's default

    Raises:
        ChildError: ours fails.
    """
    for path in paths:
        with Logits("fastattn", path, num_threads, {"dtype": "float32"}) as exact:
            tokens = exact.tokens(count)
            expected = exact.of(tokens)
        found: dict[str, Any] = {}
        keys = {} if kv_dtype is None else {"kv_dtype": kv_dtype}
        for name in activations or [""]:
            with Logits("fastattn", path, num_threads, {**keys, **({"activations": name} if name else {})}) as ours:
                found[f"fastattn {name}".strip()] = distance(ours.of(tokens), expected)
        found["llama.cpp"] = {"error": why} if why else _theirs(path, num_threads, keys, tokens, expected)
        yield {"name": path.stem, "path": str(path), "tokens": len(tokens), "libraries": found}


def _theirs(
    path: Path, num_threads: int, keys: dict[str, Any], tokens: Sequence[int], expected: np.ndarray
) -> dict[str, Any]:
    try:
        with Logits("llama.cpp", path, num_threads, keys) as theirs:
            return distance(theirs.of(tokens), expected)
    except ChildError as error:
        return {"error": str(error)}
