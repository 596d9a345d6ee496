# SPDX-License-Identifier: MIT
"""llama.cpp by its C interface, as its Python package has it: that one's own loop takes one sequence at a time."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp  # type: ignore[import-not-found,unused-ignore]

from . import NotOffered
from .continuation import DRAWN, SEED, Call, Loaded

__all__ = ["load"]

_BFLOAT16 = 30  # of ggml's numbers of types; the package has no name for it
_STEP = 512  # tokens of a pass, its own default
_CELLS = 256  # the context of a sequence is a multiple of so many tokens


def load(path: Path, num_threads: int, kv_dtype: str | None) -> Loaded:
    """The model of a .gguf file, its weights as they are stored.

    Raises:
        NotOffered: another kind of file.
    """
    if path.suffix != ".gguf":
        raise NotOffered("llama.cpp reads .gguf files")
    llama_cpp.llama_log_set(_silent, None)
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    if not model:
        raise ValueError(f"llama.cpp does not load {path}")

    def prepare(prompts: Sequence[Sequence[int]], most: int, drawn: bool) -> Call:
        return _Sequences(model, prompts, most, drawn, num_threads, kv_dtype)

    return Loaded(llama_cpp.__version__, prepare)


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator,unused-ignore]
def _silent(level: int, text: bytes, data: Any) -> None:
    """What the library has to say: nobody wants it beside a table."""


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
    ) -> None:
        self._prompts = [list(prompt) for prompt in prompts]
        count, length = len(prompts), len(prompts[0])
        params = llama_cpp.llama_context_default_params()
        params.n_seq_max = count
        params.n_ctx = count * -(-(length + most) // _CELLS) * _CELLS
        params.n_batch = max(count * length, _STEP)
        params.n_ubatch = _STEP
        params.n_threads = params.n_threads_batch = num_threads
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED  # faster, and needed by coarse values
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
        self._samplers = [_sampler(drawn) for _ in prompts]
        for sampler in self._samplers:
            weakref.finalize(self, llama_cpp.llama_sampler_free, sampler)

    def __call__(self, count: int) -> list[list[int]]:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), False)
        for sampler in self._samplers:
            llama_cpp.llama_sampler_reset(sampler)
        made: list[list[int]] = [[] for _ in self._prompts]
        rows, position = self._prompts, 0
        while True:
            last = self._decode(rows, position)
            for tokens, sampler, row in zip(made, self._samplers, last, strict=True):
                tokens.append(int(llama_cpp.llama_sampler_sample(sampler, self._context, row)))
            if len(made[0]) == count:
                return made
            position += len(rows[0])
            rows = [tokens[-1:] for tokens in made]

    def _decode(self, rows: Sequence[Sequence[int]], position: int) -> list[int]:
        """The next tokens of each sequence; where the logits of each one's last are."""
        batch, at, last = self._batch, 0, []
        for sequence, tokens in enumerate(rows):
            for i, token in enumerate(tokens):
                batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, position + i, 1
                batch.seq_id[at][0] = sequence
                batch.logits[at] = i == len(tokens) - 1
                at += 1
            last.append(at - 1)
        batch.n_tokens = at
        status = llama_cpp.llama_decode(self._context, batch)
        if status:
            raise ValueError(f"llama_decode returns {status}")
        return last


def _sampler(drawn: bool) -> Any:
    params = llama_cpp.llama_sampler_chain_default_params()
    params.no_perf = True
    chain = llama_cpp.llama_sampler_chain_init(params)
    if not drawn:
        llama_cpp.llama_sampler_chain_add(chain, llama_cpp.llama_sampler_init_greedy())
        return chain
    for step in (
        llama_cpp.llama_sampler_init_top_k(int(DRAWN["top_k"])),
        llama_cpp.llama_sampler_init_top_p(DRAWN["top_p"], 1),
        llama_cpp.llama_sampler_init_temp(DRAWN["temperature"]),
        llama_cpp.llama_sampler_init_dist(SEED),
    ):  # the order that is its default
        llama_cpp.llama_sampler_chain_add(chain, step)
    return chain
