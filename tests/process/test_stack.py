# SPDX-License-Identifier: MIT
"""Callers with little stack: threads of 64 KiB, Python's own frames among them (musl gives 128, others 64 and more).

What each operator takes of it, to the byte, the C tests measure (tests/c/stack.h).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_bert
from support.inputs import generator, normal
from support.processes import TESTS, run_python

import fastattn as fa
from fastattn import _testing, ops

KIB = 64
Calls = dict[str, Callable[[], Any]]


def attention_calls() -> Calls:
    """name -> f(), with what the driver and the kernels do beside the ordinary: each has frames of its own."""
    rng = generator("small stacks, attention")
    q, k, v = normal(rng, 1, 4, 40, 32), normal(rng, 1, 2, 110, 32), normal(rng, 1, 2, 110, 48)
    half = [x.astype(np.float16) for x in (q, k, v)]
    i8, scale = (k * 40).astype(np.int8), np.full((1, 2, 110), 0.025, np.float32)
    seen = rng.random((1, 1, 40, 110)) < 0.7
    seen[..., 100:], seen[..., 0] = False, True
    added = np.where(seen, normal(rng, 1, 1, 40, 110), np.float32(-np.inf))
    forms = {
        "mask": added, "causal": "bottom_right", "window": (30, 0), "sink_tokens": 4, "softcap": 3.0,
        "alibi_slopes": np.float32([0.1, 0.2, 0.3, 0.4]), "relative_bias": (normal(rng, 4, 32), True, 128),
        "sinks": np.float32([1, 2, 3, 4]), "return_lse": True,
    }  # fmt: skip
    nan = v.copy()  # NaN behind excluded keys: the driver repeats the rows with care
    nan[:, :, 100:] = np.nan
    few, long_k, long_v = q[:, :1, :20], normal(rng, 1, 1, 2000, 32), normal(rng, 1, 1, 2000, 32)
    long_nan = long_v.copy()
    long_nan[:, :, 1900:] = np.nan
    colliding = normal(rng, 1, 2, 40, 1024)[..., :32]
    flat_q, flat_k = normal(rng, 40, 4, 32), normal(rng, 110, 2, 32)
    cu_q, cu_k = np.array([0, 1, 20, 40]), np.array([0, 60, 61, 110])

    def cached(kind: Any) -> Any:
        cache = fa.KVCache(1, 1, 2, 32, dtype=kind, max_length=64)
        cache.append(0, k[:, :, :40], k[:, :, 40:80])
        cache.advance(40)
        return cache.attend(0, q[:, :, :1])

    calls: Calls = {
        "causal": lambda: fa.attention(q, k, v, causal="bottom_right", return_lse=True),
        "half": lambda: fa.attention(*half),
        "int8": lambda: fa.attention(q, i8, i8, k_scale=scale, v_scale=scale),
        "bool mask, weights": lambda: fa.attention(q, k, v, mask=seen, return_weights=True),
        "forms": lambda: fa.attention(q, k, v, **forms, return_weights=True),
        "forms, scores": lambda: fa.attention(q, k, v, **forms, return_scores="bias"),
        "excluded NaN": lambda: fa.attention(q, k, nan, mask=seen),
        "excluded NaN, forms": lambda: fa.attention(q, k, nan, **forms),
        "in parts": lambda: fa.attention(few, long_k, long_v),
        "in parts, excluded NaN": lambda: fa.attention(few, long_k, long_nan, mask=np.arange(2000) < 1900),
        "colliding rows": lambda: fa.attention(colliding, colliding, colliding),
        "varlen": lambda: fa.attention_varlen(flat_q, flat_k, flat_k, cu_q, cu_k),
        "decode": lambda: fa.attention(q[:, :, :1], k, v),
        "decode, half": lambda: fa.attention(half[0][:, :, :1], *half[1:]),
        "decode, int8": lambda: fa.attention(q[:, :, :1], i8, i8, k_scale=scale, v_scale=scale),
        "decode, excluded NaN": lambda: fa.attention(q[:, :, :1], k, nan, mask=seen[:, :, :1]),
        "decode, in parts": lambda: fa.attention(few[:, :, :1], long_k, long_v),
        "merge": lambda: fa.merge_attention([q, q], [q[..., 0].copy(), q[..., 1].copy()]),
    }
    calls |= {f"cache of {kind}": lambda kind=kind: cached(kind) for kind in ("float32", "bfloat16", "int8")}
    return {f"attention, {name}": call for name, call in calls.items()}


def other_calls() -> Calls:
    """name -> f(): the operators beside attention."""
    rng = generator("small stacks, others")
    x, w, b = normal(rng, 70, 131), normal(rng, 131), normal(rng, 131)
    token, decay = normal(rng, 1, 9, 2, 64) / np.float32(8), np.full((1, 9, 2), -0.1, np.float32)
    beta, turned = np.full((1, 9, 2), 0.5, np.float32), normal(rng, 1, 2, 30, 64)
    table = fa.rope_table(np.arange(30), 64)
    calls: Calls = {
        "linear_attention": lambda: fa.linear_attention(token, token, token, decay=decay, beta=beta),
        "layer_norm": lambda: fa.layer_norm(x, w, b, residual=x),
        "rms_norm": lambda: fa.rms_norm(x, w),
        "softmax": lambda: fa.softmax(x),
        "gelu": lambda: fa.gelu(x),
        "gated": lambda: ops.gated(x, x, "silu"),
        "l2_normalize": lambda: ops.l2_normalize(x),
        "pool": lambda: ops.pool(x, np.array([0, 3, 70])),
        "embedding": lambda: ops.embedding([x], [np.array([3, 69, 0])]),
        "rope": lambda: fa.rope(turned, *table, position_ids=np.arange(30)),
        "rope_table": lambda: fa.rope_table(np.arange(30), 64),
        "similarity": lambda: fa.similarity(x, x[:33]),
        "top_k": lambda: fa.similarity(x, x[:33], "euclidean", 5),
        "quantize": lambda: ops.quantize(x, np.stack([x.min(0), x.max(0)])),
    }
    for dtype in ("float32", "float16", "bfloat16", "int8"):
        calls[f"pack_linear, {dtype}"] = lambda dtype=dtype: fa.linear(x[:1], fa.pack_linear(x, w[:70], dtype))
        layer = fa.pack_linear(x, w[:70], dtype)
        for n in (1, 7, 70):
            calls[f"linear, {dtype}, {n} rows"] = lambda n=n, layer=layer: fa.linear(x[:n], layer, activation="gelu")
    return calls


def as_bytes(result: Any) -> list[bytes]:
    """Every array of a result."""
    parts = result if isinstance(result, (tuple, list)) else [result]
    return [np.ascontiguousarray(part).tobytes() for part in parts if part is not None]


def in_small_thread(call: Callable[[], Any]) -> Any:
    """The result of `call` in a thread of KIB KiB."""
    before = threading.stack_size(KIB << 10)
    try:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(call).result()
    finally:
        threading.stack_size(before)


def compare(calls: Calls) -> None:
    """In a process that a stack too small would end: what is running is printed first."""
    for name, call in calls.items():
        print(name, flush=True)
        assert as_bytes(in_small_thread(call)) == as_bytes(call()), name


def compare_operators() -> None:
    calls = attention_calls() | other_calls()
    for isa in _testing.isas():
        print(f"[{isa}]")
        with _testing.use_isa(isa):
            compare(calls)


def compare_model(folder: str) -> None:
    model = fa.load(folder, num_threads=1)
    texts = ["a b c", "the cat", ""] * 4
    ids = np.full((4, 30), 5)
    compare({"tokens": lambda: model(ids)[0], "texts": lambda: model.embed(texts)})


def run_child(function: str, *args: str) -> str:
    """What the child printed; its end by a signal names the call that was running."""
    code = f"import sys; sys.path[:0] = sys.argv[1:3]; import test_stack; test_stack.{function}(*sys.argv[3:])"
    done = run_python(code, str(Path(__file__).parent), TESTS, *args)
    assert done.returncode == 0, f"status {done.returncode} in {done.stdout.splitlines()[-1:]}: {done.stderr[-2000:]}"
    return done.stdout


def test_operators_in_a_thread_with_a_small_stack() -> None:
    printed = run_child("compare_operators")
    assert all(f"[{isa}]" in printed for isa in _testing.isas())


def test_model_in_a_thread_with_a_small_stack(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    assert "texts" in run_child("compare_model", str(tiny_bert.save_text_folder(tmp_path / "model")))
