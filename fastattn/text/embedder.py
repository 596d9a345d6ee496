# SPDX-License-Identifier: MIT
"""Texts to vectors: tokenize, sort by length, run packed, pool, normalise, put back in order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from .batches import Progress, as_count, check_text, length_of, run_sorted, windows
from .precision import check_precision, quantize, quantized_width
from .results import Results, Vectors
from .stconfig import StConfig
from .vectors import VectorSettings

if TYPE_CHECKING:
    from ..calllog import CallLog
    from ..engine.encoder import Encoder, Floats
    from ..graph.graph import Value
    from ..loaders.files import ModelFiles
    from ..typing import OnLong, Precision
    from .modules import Step
    from .tokenizer import TextTokenizer

__all__ = ["Embedder"]


class _VectorHead:
    """From hidden states to sentence vectors: pooling and what follows it, all of it in float32, behind the model."""

    def __init__(self, files: ModelFiles, settings: VectorSettings, hidden_size: int) -> None:
        self._settings = settings
        self._pooled_size = self.size = hidden_size * len(settings.pooling)  # the latter before any truncation
        self._steps: list[Step] = []
        if settings.modules:
            from .modules import read_steps

            self._steps, self.size = read_steps(files, settings.modules, self.size)
        self._width = hidden_size

    def output(self, model: Encoder, *, skip: bool, dim: int, normalize: bool) -> str:
        """The output of ``model`` that is vectors (n, dim); with ``skip`` a batch says how many tokens are left out.

        They are cut to ``dim`` before they are scaled to length 1 by ``normalize``.
        """

        def steps() -> Value:
            graph = model.graph
            x = graph.pool(graph.trace.outputs["hidden"], self._settings.pooling, skip=skip)
            for step in self._steps:
                x = step.record(graph, x)
            x = x.columns(0, dim)
            return graph.normalize(x) if normalize else x

        return model.record(f"vectors.{skip}.{dim}.{normalize}", steps)

    @property
    def token_size(self) -> int:
        """Width of the vectors of tokens."""
        if self._steps and self._pooled_size != self._width:
            raise ValueError(
                "embed_tokens: the folder's modules take vectors of several pooling modes side by side, which a token "
                "has none of"
            )
        return self.size if self._steps else self._width

    def token_output(self, model: Encoder, *, normalize: bool) -> str:
        """The output of ``model`` that is vectors (T, dim) of tokens, each through what stands behind the pooling."""

        def steps() -> Value:
            graph = model.graph
            x = graph.trace.outputs["hidden"]
            for step in self._steps:
                x = step.record(graph, x)
            return graph.normalize(x) if normalize else x

        return model.record(f"token_vectors.{normalize}", steps)


class Embedder:
    """Sentence vectors from an encoder, as the folder it was loaded from describes them."""

    def __init__(self, model: Encoder, tokenizer: TextTokenizer) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self.settings = VectorSettings.read(model.files, model.hidden_size)
        """What the folder says about pooling, prompts and normalisation."""
        self._prompts = StConfig(prompts=self.settings.prompts, default_prompt=self.settings.prompt)
        self._head = _VectorHead(model.files, self.settings, model.hidden_size)

    def dimension(self, truncate_dim: int | None = None) -> int:
        """Width of the vectors that ``embed`` gives with this ``truncate_dim``; ``ValueError`` where it gives none."""
        dim, size = as_count(truncate_dim, "truncate_dim"), self._head.size
        if dim is not None and dim > size:
            raise ValueError(f"truncate_dim: got {dim}, expected at most {size}, the width of the model's vectors")
        if dim is None:
            dim = self.settings.truncate_dim
            if dim is not None and dim > size:
                where = self._model.files.describe("config_sentence_transformers.json")
                raise ValueError(f"{where}: truncate_dim is {dim}, expected at most {size}, the width of the vectors")
        return size if dim is None else dim

    def embed(
        self,
        texts: Iterable[str],
        batch_size: int | None = None,
        normalize: bool | None = None,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        truncate_dim: int | None = None,
        precision: Precision = "float32",
        ranges: Any = None,
        max_length: int | None = None,
        on_long: OnLong = "truncate",
        progress: bool | None = None,
        num_threads: int | None = None,
        log: CallLog | None = None,
        deadline: int = 0,
    ) -> Vectors[Any]:
        """See ``TextEncoder.embed``."""
        most = as_count(batch_size, "batch_size")
        scaled = self._scaled(normalize)
        width = self.dimension(truncate_dim)
        plain = precision == "float32" and ranges is None
        ends = None if plain else check_precision(precision, ranges, width)
        before = self._prompt(prompt, prompt_name)
        skipped = 0 if self.settings.include_prompt else self._tokenizer.count_prompt(before, deadline)
        threads = self._model.num_threads if num_threads is None else num_threads

        output = self._head.output(self._model, skip=skipped > 0, dim=width, normalize=scaled)
        more = {"skip": np.array([skipped], np.int64)} if skipped else None
        limit = self._tokenizer.limit(max_length, on_long, deadline=deadline)
        batches = windows(texts, check_text, log=log, deadline=deadline)
        total = length_of(texts)
        blocks: list[np.ndarray[Any, Any]] = []
        with Progress(total, progress) as report:
            for window in batches:
                vectors = np.zeros((len(window), width), np.float32)
                tokens = self._tokenizer.encode_many([before + text for text in window] if before else window, limit)
                steps = run_sorted(
                    self._model, [output], tokens, most, num_threads, log, more=more, deadline=deadline
                )  # fmt: skip
                for rows, _, found in steps:
                    vectors[rows] = found[output]
                    report.advance(rows.size)
                blocks.append(vectors if plain else quantize(vectors, precision, ends, threads))
        limit.warn()
        whole = blocks[0] if len(blocks) == 1 else _joined(blocks, quantized_width(precision, width), _dtype(precision))
        return Vectors.of(whole, limit.cut)

    def embed_tokens(
        self,
        texts: Iterable[str],
        *,
        normalize: bool | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        max_length: int | None = None,
        on_long: OnLong = "truncate",
        batch_size: int | None = None,
        num_threads: int | None = None,
        log: CallLog | None = None,
        deadline: int = 0,
    ) -> Results[Floats]:
        """See ``TextEncoder.embed_tokens``."""
        most = as_count(batch_size, "batch_size")
        scaled = self._scaled(normalize)
        before = self._prompt(prompt, prompt_name)
        output = self._head.token_output(self._model, normalize=scaled)
        limit = self._tokenizer.limit(max_length, on_long, deadline=deadline)
        results: list[Floats] = []
        for window in windows(texts, check_text, log=log, deadline=deadline):
            found: list[Floats] = [np.empty((0, self._head.token_size), np.float32)] * len(window)
            tokens = self._tokenizer.encode_many([before + text for text in window] if before else window, limit)
            steps = run_sorted(self._model, [output], tokens, most, num_threads, log, deadline=deadline)
            for rows, cu_seqlens, made in steps:
                for i, row in enumerate(rows):
                    found[row] = made[output][cu_seqlens[i] : cu_seqlens[i + 1]].copy()
            results += found
        limit.warn()
        return Results(results, limit.cut)

    def _prompt(self, prompt: Any, prompt_name: Any) -> str:
        return check_text(self._prompts.prompt(prompt, prompt_name), "prompt")

    def _scaled(self, normalize: Any) -> bool:
        if normalize is not None and not isinstance(normalize, (bool, np.bool_)):
            raise TypeError(f"normalize: expected a bool or None, got {type(normalize).__name__}")
        return self.settings.normalize if normalize is None else bool(normalize)


def _dtype(precision: str) -> type[np.generic]:
    """What vectors of a precision are made of."""
    return np.float32 if precision == "float32" else np.uint8 if precision.startswith("u") else np.int8


def _joined(blocks: list[np.ndarray[Any, Any]], width: int, dtype: type[np.generic]) -> np.ndarray[Any, Any]:
    """One array of all blocks, each let go as soon as it is copied."""
    result = np.empty((sum(map(len, blocks)), width), dtype)
    end = len(result)
    while blocks:
        block = blocks.pop()
        result[end - len(block) : end] = block
        end -= len(block)
    return result
