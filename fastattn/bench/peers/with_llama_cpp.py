# SPDX-License-Identifier: MIT
"""llama.cpp by its C interface, as its Python package has it: that one's own loop takes one sequence at a time."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import llama_cpp  # type: ignore[import-not-found,unused-ignore]
import numpy as np

from . import NotOffered
from .continuation import DRAWN, SEED, Call, Loaded

__all__ = ["all_logits", "load", "load_model", "silence"]

_BFLOAT16 = 30  # of ggml's numbers of types; the package has no name for it
_STEP = 512  # tokens of a pass, its own default
_CELLS = 256  # the context of a sequence is a multiple of so many tokens


def load(path: Path, num_threads: int, kv_dtype: str | None, repack: bool = True) -> Loaded:
    """The model of a .gguf file, its weights as they are stored, or with ``repack`` turned to rows side by side where
    it has kernels for that. prepare() takes ``flash`` (attention in one operator) and ``num_threads`` by keyword.

    Raises:
        NotOffered: another kind of file.
    """
    model = load_model(path, repack)

    def prepare(
        prompts: Sequence[Sequence[int]], most: int, drawn: bool, flash: bool = True, num_threads: int = num_threads
    ) -> Call:
        return _Sequences(model, prompts, most, drawn, num_threads, kv_dtype, flash)

    return Loaded(llama_cpp.__version__, prepare)


def load_model(path: Path, repack: bool = True, vocab_only: bool = False) -> Any:
    """The library's own object, see load().

    Raises:
        NotOffered: another kind of file. ValueError: the library does not take it.
    """
    if path.suffix != ".gguf":
        raise NotOffered("llama.cpp reads .gguf files")
    silence()
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.use_extra_bufts, params.vocab_only = repack, vocab_only
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        raise ValueError(f"llama.cpp does not load {path}")
    return model


def all_logits(model: Any, tokens: Sequence[int], num_threads: int, kv_dtype: str | None = None) -> np.ndarray:
    """Logits (t, V) float32 of ``tokens``, in passes of 512, its default.

    Raises:
        ValueError: the library does not say why.
    """
    sequence = _Sequences(model, [tokens], 1, False, num_threads, kv_dtype)
    sequence.decode([tokens], 0, every=True)
    return sequence.logits(range(len(tokens)))


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator,unused-ignore]
def _silent(level: int, text: bytes, data: Any) -> None:
    """What the library has to say: nobody wants it beside a table."""


def silence() -> None:
    """The library says nothing from now on."""
    llama_cpp.llama_log_set(_silent, None)


class _Sequences:
    """A context with room for ``prompts`` of one length, ``most`` new tokens each, and what draws them."""

    def __init__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        most: int,
        drawn: bool,
        num_threads: int,
        kv_dtype: str | None,
        flash: bool = True,
    ) -> None:
        self._drawn = drawn
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self._prompts = [list(prompt) for prompt in prompts]
        count, length = len(prompts), len(prompts[0])
        params = llama_cpp.llama_context_default_params()
        params.n_seq_max = count
        params.n_ctx = count * -(-(length + most) // _CELLS) * _CELLS
        params.n_batch = max(count * length, _STEP)
        params.n_ubatch = _STEP
        params.n_threads = params.n_threads_batch = num_threads
        kinds = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED, llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.flash_attn_type = kinds[flash]  # mostly faster, and needed by coarse values
        params.no_perf = True
        if kv_dtype is not None:
            types = {
                "float32": llama_cpp.GGML_TYPE_F32,
                "float16": llama_cpp.GGML_TYPE_F16,
                "bfloat16": _BFLOAT16,
                "int8": llama_cpp.GGML_TYPE_Q8_0,
            }
            params.type_k = params.type_v = types[kv_dtype]
        self._context = llama_cpp.llama_init_from_model(model, params)
        if not self._context:
            raise ValueError(f"llama.cpp makes no context of {params.n_ctx} tokens for {count} sequences")
        weakref.finalize(self, llama_cpp.llama_free, self._context)
        self._batch = llama_cpp.llama_batch_init(params.n_batch, 0, 1)
        weakref.finalize(self, llama_cpp.llama_batch_free, self._batch)
        self._samplers = [_sampler() for _ in prompts if drawn]
        for sampler in self._samplers:
            weakref.finalize(self, llama_cpp.llama_sampler_free, sampler)

    def __call__(self, count: int) -> list[list[int]]:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), False)
        for sampler in self._samplers:
            llama_cpp.llama_sampler_reset(sampler)
        made: list[list[int]] = [[] for _ in self._prompts]
        rows, position = self._prompts, 0
        while True:
            last = self.decode(rows, position)
            if self._drawn:
                drawn = [
                    int(llama_cpp.llama_sampler_sample(sampler, self._context, row))
                    for sampler, row in zip(self._samplers, last, strict=True)
                ]
            else:  # its own sampler makes a list of structures of all logits first
                drawn = [int(self._row(row).argmax()) for row in last]
            for tokens, token in zip(made, drawn, strict=True):
                tokens.append(token)
            if len(made[0]) == count:
                return made
            position += len(rows[0])
            rows = [tokens[-1:] for tokens in made]

    def logits(self, rows: Iterable[int]) -> np.ndarray:
        """Those (n, V) of the last pass, by the places of their tokens."""
        return np.stack([self._row(row) for row in rows])

    def _row(self, row: int) -> np.ndarray:
        """One of them, where the library has it."""
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self._context, row), (self._vocab_size,))

    def decode(self, rows: Sequence[Sequence[int]], position: int, every: bool = False) -> list[int]:
        """The next tokens of each sequence; where the logits of each one's last are. With ``every`` all have some."""
        batch, at, last = self._batch, 0, []
        for sequence, tokens in enumerate(rows):
            for i, token in enumerate(tokens):
                batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, position + i, 1
                batch.seq_id[at][0] = sequence
                batch.logits[at] = every or i == len(tokens) - 1
                at += 1
            last.append(at - 1)
        batch.n_tokens = at
        status = llama_cpp.llama_decode(self._context, batch)
        if status:
            raise ValueError(f"llama_decode returns {status}")
        return last


def _sampler() -> Any:
    params = llama_cpp.llama_sampler_chain_default_params()
    params.no_perf = True
    chain = llama_cpp.llama_sampler_chain_init(params)
    for step in (
        llama_cpp.llama_sampler_init_top_k(int(DRAWN["top_k"])),
        llama_cpp.llama_sampler_init_top_p(DRAWN["top_p"], 1),
        llama_cpp.llama_sampler_init_temp(DRAWN["temperature"]),
        llama_cpp.llama_sampler_init_dist(SEED),
    ):  # the order that is its default
        llama_cpp.llama_sampler_chain_add(chain, step)
    return chain
