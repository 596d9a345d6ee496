# SPDX-License-Identifier: MIT
"""GGUF files to measure with: one file's weights in other types, and a random model of 0.95 B parameters.

llama.cpp quantises (its package is a peer, as the package ``gguf`` is here): the files are what its users have.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from .random_model import random_tensor

__all__ = ["RANDOM_NAME", "RANDOM_SIZES", "TYPES", "make_files", "make_random", "quantise", "random_shapes"]

TYPES = {
    "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q4_K_M": 15, "Q5_K_M": 17, "Q6_K": 18, "IQ4_NL": 25,
    "IQ4_XS": 30, "F16": 1, "MXFP4": 38,
}  # fmt: skip
"""Name -> llama.cpp's number of that kind of file (llama_ftype)."""

RANDOM_NAME = "rand1b"
RANDOM_SIZES = {"layers": 14, "hidden": 2048, "inner": 8192, "heads": 32, "kv_heads": 8, "head": 64}
"""Llama-3.2-1B with two layers less: every row is a multiple of 256, which K types need."""

_MXFP4, _Q8_0 = 39, 8  # of ggml's numbers of types
_CONTEXT = 8192


def quantise(source: Path, target: Path, kind: str, num_threads: int) -> Path:
    """Writes the weights of the GGUF file ``source`` as ``kind`` of TYPES into ``target``, and returns that.

    MXFP4, which files of llama.cpp have for experts alone, is given to all matrices but the table of words and the
    head. Rows that a type cannot hold become the type that llama.cpp takes for them.

    Raises:
        ImportError: llama_cpp is not installed.
        ValueError: llama.cpp cannot.
    """
    import llama_cpp  # type: ignore[import-not-found,unused-ignore]

    from .peers.with_llama_cpp import silence

    silence()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.allow_requantize = TYPES[kind], num_threads, True
    overrides = (llama_cpp.llama_model_tensor_override * 3)()  # the last one, empty, is the end
    if kind == "MXFP4":
        for i, pattern in enumerate((rb"^token_embd\.", rb"^output\.")):
            overrides[i].pattern, overrides[i].type = pattern, _Q8_0
        params.pure = True
        params.tt_overrides = ctypes.cast(overrides, type(params.tt_overrides))
    with _written(target) as part:
        status = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(part), ctypes.byref(params))
        if status:
            raise ValueError(f"llama.cpp does not quantise {source} to {kind}: llama_model_quantize returns {status}")
    return target


@contextmanager
def _written(target: Path) -> Iterator[Path]:
    """A name to write to, which is ``target`` afterwards: a file that is there is whole."""
    part = target.with_name(f".{target.name}.part")
    try:
        yield part
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def random_shapes(vocab_size: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the random model's tensors, as GGUF files of Llama have them; the head is the table of words.

    >>> sum(int(np.prod(shape)) for shape in random_shapes(49152).values()) // 10**6
    952
    """
    sizes = RANDOM_SIZES
    hidden, inner = sizes["hidden"], sizes["inner"]
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocab_size, hidden), "output_norm.weight": (hidden,)}
    for layer in range(sizes["layers"]):
        parts: dict[str, tuple[int, ...]] = {
            "attn_norm": (hidden,),
            "attn_q": (sizes["heads"] * sizes["head"], hidden),
            "attn_k": (sizes["kv_heads"] * sizes["head"], hidden),
            "attn_v": (sizes["kv_heads"] * sizes["head"], hidden),
            "attn_output": (hidden, sizes["heads"] * sizes["head"]),
            "ffn_norm": (hidden,),
            "ffn_gate": (inner, hidden),
            "ffn_up": (inner, hidden),
            "ffn_down": (hidden, inner),
        }
        shapes.update({f"blk.{layer}.{name}.weight": shape for name, shape in parts.items()})
    return shapes


def make_random(source: Path, target: Path) -> Path:
    """Writes the random model as F16 into ``target``, with the tokenizer of the GGUF file ``source``; returns that.

    Raises:
        ImportError: the package ``gguf`` is not installed.
        ValueError: ``source`` has no tokenizer.
    """
    import gguf  # type: ignore[import-not-found,unused-ignore]

    fields = gguf.GGUFReader(source).fields
    tokens = fields.get("tokenizer.ggml.tokens")
    if tokens is None:
        raise ValueError(f"{source} has no tokenizer: tokenizer.ggml.tokens is missing")
    vocab_size, sizes = len(tokens.data), RANDOM_SIZES
    with _written(target) as part:
        writer = gguf.GGUFWriter(part, "llama")
        writer.add_name(f"random weights, {RANDOM_NAME}")
        writer.add_file_type(TYPES["F16"])
        writer.add_vocab_size(vocab_size)
        writer.add_context_length(_CONTEXT)
        writer.add_block_count(sizes["layers"])
        writer.add_embedding_length(sizes["hidden"])
        writer.add_feed_forward_length(sizes["inner"])
        writer.add_head_count(sizes["heads"])
        writer.add_head_count_kv(sizes["kv_heads"])
        writer.add_rope_dimension_count(sizes["head"])
        writer.add_rope_freq_base(500000.0)
        writer.add_layer_norm_rms_eps(1e-5)
        for name, field in fields.items():
            if name.startswith("tokenizer."):
                kind, inner = field.types[0], field.types[-1] if len(field.types) > 1 else None
                writer.add_key_value(name, field.contents(), kind, inner)
        shapes = random_shapes(vocab_size)
        for name, shape in shapes.items():
            dtype = np.dtype(np.float16 if len(shape) > 1 else np.float32)
            writer.add_tensor_info(name, shape, dtype, int(np.prod(shape)) * dtype.itemsize)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, shape in shapes.items():
            values = random_tensor(name, shape)
            writer.write_tensor_data(values.astype(np.float16) if len(shape) > 1 else values)
        writer.close()
    return target


def make_files(
    source: Path,
    folder: Path,
    types: Sequence[str],
    random_types: Sequence[str],
    num_threads: int,
    say: Callable[[str], Any] = lambda line: None,
) -> list[Path]:
    """Files of ``source`` in each of ``types`` and of the random model in each of ``random_types``, in ``folder``.

    Names begin as that of the source does, up to the first point or dash. Files that are there are left as they are;
    ``say`` is told of each other one.

    Raises:
        ImportError: llama_cpp or gguf is not installed, and there is something to make.
        ValueError: llama.cpp cannot make one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = re.split(r"[.-]", source.stem)[0]
    found = [_made(source, folder / f"{stem}-{kind}.gguf", kind, num_threads, say) for kind in types]
    if random_types:
        plain = folder / f"{RANDOM_NAME}-F16.gguf"
        if not plain.exists():
            _require("gguf", "gguf", plain)
            say(f"{plain.name}: random weights")
            make_random(source, plain)
        found += [_made(plain, folder / f"{RANDOM_NAME}-{kind}.gguf", kind, num_threads, say) for kind in random_types]
    return found


def _require(module: str, package: str, target: Path) -> None:
    if find_spec(module) is None:
        raise ImportError(f"{target}: making it needs {module}: pip install {package}")


def _made(source: Path, target: Path, kind: str, num_threads: int, say: Callable[[str], Any]) -> Path:
    if not target.exists():
        _require("llama_cpp", "llama-cpp-python", target)
        say(f"{target.name}: from {source.name}")
        quantise(source, target, kind, num_threads)
    return target
