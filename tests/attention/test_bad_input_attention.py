# SPDX-License-Identifier: MIT
"""Options of attention that make no sense, alone or together, are refused by name and leave everything as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.dlpack import Producer
from support.inputs import generator, normal, qkv
from support.refusals import check_refused

import fastattn as fa

Arguments = dict[str, Any]
Case = tuple[str, Callable[[Arguments], Any], Any, list[str]]
NAN, INF = float("nan"), float("inf")
EITHER = (ValueError, TypeError)


def good() -> Arguments:
    """q (2, 4, 5, 8), k (2, 2, 7, 8), v (2, 2, 7, 6)."""
    q, k, v = qkv(generator("bad options"), 2, 4, 2, 5, 7, 8, 6)
    return {"q": q, "k": k, "v": v}


def call(arguments: Arguments) -> Any:
    rest = {name: value for name, value in arguments.items() if name not in ("q", "k", "v")}
    return fa.attention(arguments["q"], arguments["k"], arguments["v"], **rest)


def f32(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def quantised(a: Arguments, **more: Any) -> Arguments:
    """int8 keys and values with their scales; arguments of None are left out."""
    k, v = (np.ones(a[name].shape, np.int8) for name in "kv")
    made = {"k": k, "v": v, "k_scale": f32(*k.shape[:-1]), "v_scale": f32(*v.shape[:-1]), **more}
    return {name: value for name, value in made.items() if value is not None}


def blocks(*shape: int, sides: Any = (2, 3)) -> Arguments:
    return {"block_mask": (np.ones(shape, bool), sides)}


def csr(indptr: Any, indices: Any, sides: Any = (2, 3)) -> Arguments:
    return {"block_mask": ((indptr, indices), sides)}


def table(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def ints(*values: int, dtype: Any = np.int64) -> np.ndarray:
    return np.array(values, dtype)


# 5 queries and 7 keys in blocks of 2 by 3: 3 block rows, 3 block columns
INDPTR, INDICES = ints(0, 1, 3, 4), ints(0, 0, 1, 2)

# fmt: off
CASES: list[Case] = [
    # --- where the queries stand
    *[(f"q_offset with {corner}", lambda a, corner=corner: {"causal": corner, "q_offset": np.array([0, 1])}, ValueError,
       ["q_offset", corner]) for corner in ("top_left", "bottom_right")],
    ("causal True of 5 queries and 7 keys with lengths", lambda a: {"causal": True, "kv_lengths": ints(5, 5)},
     ValueError, ["causal"]),
    # --- window and the tokens beside it
    *[(f"window {w}", lambda a, w=w: {"window": w}, ValueError, ["window", "-"])
      for w in ((-1, 0), (0, -1), (None, -3), (-2, None))],
    ("sink_tokens without a window", lambda a: {"sink_tokens": 1}, ValueError, ["sink_tokens", "window"]),
    ("sink_tokens negative", lambda a: {"sink_tokens": -1, "window": (2, 0)}, ValueError, ["sink_tokens", "-1"]),
    ("sink_tokens negative without a window", lambda a: {"sink_tokens": -1}, ValueError, ["sink_tokens", "-1"]),
    *[(f"sink_tokens {x!r}", lambda a, x=x: {"sink_tokens": x, "window": (2, 0)}, TypeError, ["sink_tokens"])
      for x in (1.0, "1", None, [1], True, NAN)],
    ("sink_tokens beyond int64", lambda a: {"sink_tokens": -(2 ** 70), "window": (2, 0)}, ValueError, ["sink_tokens"]),
    # --- ALiBi
    *[(f"alibi_slopes of shape {shape}", lambda a, shape=shape: {"alibi_slopes": f32(*shape)}, ValueError,
       ["alibi_slopes", str(shape), "4"])
      for shape in ((3,), (2,), (5,), (), (4, 2), (3, 4), (2, 3), (2, 4, 1), (1, 2, 4), (0,))],
    *[(f"alibi_slopes of {np.dtype(kind)}", lambda a, kind=kind: {"alibi_slopes": np.ones(4, kind)}, TypeError,
       ["alibi_slopes", str(np.dtype(kind)), "float32"]) for kind in (np.float64, np.int64, np.bool_)],
    ("alibi_slopes a number", lambda a: {"alibi_slopes": 0.5}, EITHER, ["alibi_slopes"]),
    ("alibi_slopes True", lambda a: {"alibi_slopes": True}, EITHER, ["alibi_slopes"]),
    ("alibi_slopes words", lambda a: {"alibi_slopes": "abcd"}, EITHER, ["alibi_slopes"]),
    # --- learned sinks
    *[(f"sinks of shape {shape}", lambda a, shape=shape: {"sinks": f32(*shape)}, ValueError, ["sinks", str(shape), "4"])
      for shape in ((3,), (2,), (5,), (), (2, 4), (4, 1), (0,))],
    *[(f"sinks of {np.dtype(kind)}", lambda a, kind=kind: {"sinks": np.ones(4, kind)}, TypeError,
       ["sinks", str(np.dtype(kind)), "float32"]) for kind in (np.float64, np.int32, np.bool_)],
    ("sinks a number", lambda a: {"sinks": 1.0}, EITHER, ["sinks"]),
    # --- bias by relative position
    *[(f"relative_bias table of shape {shape}", lambda a, shape=shape: {"relative_bias": (table(*shape), True, 128)},
       ValueError, ["relative_bias", str(shape)]) for shape in ((3, 32), (32,), (2, 4, 32), (32, 4), ())],
    ("relative_bias of an odd number of buckets for two directions",
     lambda a: {"relative_bias": (table(4, 33), True, 128)}, ValueError, ["relative_bias", "33"]),
    *[(f"relative_bias of {n} buckets, bidirectional {both}",
       lambda a, n=n, both=both: {"relative_bias": (table(4, n), both, 128)}, ValueError, ["relative_bias", str(n)])
      for n, both in ((1, False), (2, True), (0, False), (0, True))],
    *[(f"relative_bias up to {most} of {n}, bidirectional {both}",
       lambda a, n=n, both=both, most=most: {"relative_bias": (table(4, n), both, most)}, ValueError,
       ["relative_bias", str(most)])
      for n, both, most in ((32, True, 8), (32, False, 16), (32, True, 0), (32, True, -128), (2, False, 1),
                            (8, True, 2 ** 63))],
    *[(f"relative_bias up to {most!r}", lambda a, most=most: {"relative_bias": (table(4, 32), True, most)}, EITHER,
       ["relative_bias"]) for most in (128.0, "128", None, True)],
    *[(f"relative_bias bidirectional {both!r}", lambda a, both=both: {"relative_bias": (table(4, 32), both, 128)},
       TypeError, ["relative_bias"]) for both in (None, 1, "yes")],
    *[(f"relative_bias table of {np.dtype(kind)}",
       lambda a, kind=kind: {"relative_bias": (np.zeros((4, 32), kind), True, 128)}, TypeError,
       ["relative_bias", str(np.dtype(kind)), "float32"]) for kind in (np.float64, np.int64)],
    ("relative_bias a table alone", lambda a: {"relative_bias": table(4, 32)}, EITHER, ["relative_bias"]),
    ("relative_bias of two parts", lambda a: {"relative_bias": (table(4, 32), True)}, EITHER, ["relative_bias"]),
    ("relative_bias of four parts", lambda a: {"relative_bias": (table(4, 32), True, 128, 0)}, EITHER,
     ["relative_bias"]),
    ("relative_bias a dictionary", lambda a: {"relative_bias": {"table": table(4, 32)}}, EITHER, ["relative_bias"]),
    # --- block masks
    *[(f"blocks of shape {shape}", lambda a, shape=shape: blocks(*shape), ValueError, ["block_mask", str(shape[-2])])
      for shape in ((2, 3), (3, 2), (4, 3), (3, 4), (4, 2, 3), (3, 3, 3), (3, 4, 3, 3), (1, 2, 4, 3, 3), (0, 3),
                    (7, 5))],
    *[(f"blocks of {sides}", lambda a, sides=sides: blocks(3, 3, sides=sides), ValueError, ["block_mask"])
      for sides in ((1, 3), (2, 4), (3, 3), (0, 3), (2, 0), (-2, 3), (2, -3), (5, 7))],
    *[(f"blocks of {sides!r}", lambda a, sides=sides: blocks(3, 3, sides=sides), EITHER, ["block_mask"])
      for sides in ((2.0, 3), (2, None), 2, (2,), (2, 3, 1), "23", None, (True, 3), (2 ** 70, 3))],
    *[(f"blocks of {np.dtype(kind)}", lambda a, kind=kind: {"block_mask": (np.ones((3, 3), kind), (2, 3))}, TypeError,
       ["block_mask", str(np.dtype(kind)), "bool"]) for kind in (np.uint8, np.int64, np.float32)],
    ("blocks without their size", lambda a: {"block_mask": np.ones((3, 3), bool)}, EITHER, ["block_mask"]),
    ("block_mask None and a size", lambda a: {"block_mask": (None, (2, 3))}, EITHER, ["block_mask"]),
    ("block_mask of three", lambda a: {"block_mask": (np.ones((3, 3), bool), (2, 3), 1)}, EITHER, ["block_mask"]),
    ("CSR of a row too few", lambda a: csr(INDPTR[:-1], INDICES[:3]), ValueError, ["block_mask"]),
    ("CSR of a row too many", lambda a: csr(ints(0, 1, 3, 4, 4), INDICES), ValueError, ["block_mask"]),
    ("CSR for three heads", lambda a: csr(np.tile(INDPTR, (3, 1)), INDICES), ValueError, ["block_mask"]),
    ("CSR of three dimensions", lambda a: csr(np.tile(INDPTR, (2, 4, 1)), INDICES), ValueError, ["block_mask"]),
    ("CSR with indices of two dimensions", lambda a: csr(INDPTR, INDICES[None]), ValueError, ["block_mask"]),
    ("CSR that falls", lambda a: csr(ints(0, 3, 1, 4), INDICES), ValueError, ["block_mask"]),
    ("CSR that begins below zero", lambda a: csr(ints(-1, 1, 3, 4), INDICES), ValueError, ["block_mask", "-1"]),
    ("CSR that ends beyond its indices", lambda a: csr(ints(0, 1, 3, 5), INDICES), ValueError, ["block_mask", "5"]),
    ("CSR far outside", lambda a: csr(ints(0, 1, 2 ** 62, 4), INDICES), ValueError, ["block_mask"]),
    ("CSR of nothing", lambda a: csr(ints(), ints()), ValueError, ["block_mask"]),
    *[(f"CSR index {x}", lambda a, x=x: csr(INDPTR, ints(0, x, 1, 2)), ValueError, ["block_mask", str(x)])
      for x in (-1, 3, 2 ** 40, -(2 ** 63))],
    *[(f"CSR indptr of {np.dtype(kind)}", lambda a, kind=kind: csr(INDPTR.astype(kind), INDICES), TypeError,
       ["block_mask", str(np.dtype(kind))]) for kind in (np.float32, np.float64, np.bool_)],
    *[(f"CSR indices of {np.dtype(kind)}", lambda a, kind=kind: csr(INDPTR, INDICES.astype(kind)), TypeError,
       ["block_mask", str(np.dtype(kind))]) for kind in (np.float32, np.bool_, np.complex64)],
    ("CSR of one array", lambda a: {"block_mask": ((INDPTR,), (2, 3))}, EITHER, ["block_mask"]),
    ("CSR of three arrays", lambda a: {"block_mask": ((INDPTR, INDICES, INDICES), (2, 3))}, EITHER, ["block_mask"]),
    # --- int8 and its scales
    ("int8 without scales", lambda a: quantised(a, k_scale=None, v_scale=None), ValueError, ["k_scale", "int8"]),
    ("int8 without a scale for keys", lambda a: quantised(a, k_scale=None), ValueError, ["k_scale", "int8"]),
    ("int8 without a scale for values", lambda a: quantised(a, v_scale=None), ValueError, ["v_scale", "int8"]),
    *[(f"{name} without int8", lambda a, name=name: {name: f32(2, 2, 7)}, ValueError, [name, "int8"])
      for name in ("k_scale", "v_scale")],
    ("both scales without int8", lambda a: {"k_scale": f32(2, 2, 7), "v_scale": f32(2, 2, 7)}, ValueError,
     ["k_scale", "int8"]),
    *[(f"{name} of shape {shape}", lambda a, name=name, shape=shape: quantised(a, **{name: f32(*shape)}), ValueError,
       [name, str(shape), "(2, 2, 7)"])
      for name in ("k_scale", "v_scale")
      for shape in ((2, 2, 8), (2, 4, 7), (2, 2), (7,), (2, 2, 7, 1), (1, 2, 7), ())],
    *[(f"{name} of {np.dtype(kind)}", lambda a, name=name, kind=kind: quantised(a, **{name: np.ones((2, 2, 7), kind)}),
       TypeError, [name, str(np.dtype(kind)), "float32"])
      for name in ("k_scale", "v_scale") for kind in (np.float64, np.int32, np.int8)],
    ("k_scale a number", lambda a: quantised(a, k_scale=0.1), EITHER, ["k_scale"]),
    ("q of int8", lambda a: quantised(a, q=np.ones((2, 4, 5, 8), np.int8)), TypeError, ["q", "int8"]),
    ("int8 keys beside float32 values", lambda a: quantised(a, v=a["v"], v_scale=None), TypeError, ["v", "int8"]),
    ("float32 keys beside int8 values", lambda a: quantised(a, k=a["k"], k_scale=None), TypeError, ["v", "int8"]),
    # --- storage types
    *[(f"k of {np.dtype(one)}, v of {np.dtype(other)}",
       lambda a, one=one, other=other: {"k": a["k"].astype(one), "v": a["v"].astype(other)}, TypeError,
       ["v", str(np.dtype(other)), str(np.dtype(one))])
      for one, other in ((np.float16, np.float32), (np.float32, np.float16), (np.float16, np.uint16),
                         (np.uint16, np.float32))],
    *[(f"all of {np.dtype(kind)}", lambda a, kind=kind: {n: a[n].astype(kind) for n in "qkv"}, TypeError,
       ["q", str(np.dtype(kind)), "float32"])
      for kind in (np.float64, np.int16, np.int32, np.uint8, np.complex64, np.bool_)],
    ("all of float16 in foreign byte order",
     lambda a: {n: a[n].astype(np.dtype(np.float16).newbyteorder()) for n in "qkv"}, TypeError, ["q"]),
    ("float16 with a last stride of two",
     lambda a: {n: np.repeat(a[n].astype(np.float16), 2, axis=-1)[..., ::2] for n in "qkv"}, ValueError,
     ["q", "stride", "4", "2"]),
    ("float16 misaligned",
     lambda a: {"q": np.frombuffer(b"x" + a["q"].astype(np.float16).tobytes(), np.uint8)[1:].view(np.float16)
                .reshape(2, 4, 5, 8), "k": a["k"].astype(np.float16), "v": a["v"].astype(np.float16)}, ValueError,
     ["q", "align"]),
    ("out of float32 for float16",
     lambda a: {**{n: a[n].astype(np.float16) for n in "qkv"}, "out": f32(2, 4, 5, 6)}, TypeError,
     ["out", "float32", "float16"]),
    ("out of float16 for float32", lambda a: {"out": np.ones((2, 4, 5, 6), np.float16)}, TypeError,
     ["out", "float16", "float32"]),
    ("out of float16 for bfloat16 bits",
     lambda a: {**{n: a[n].astype(np.uint16) for n in "qkv"}, "out": np.ones((2, 4, 5, 6), np.float16)}, TypeError,
     ["out", "float16"]),
    ("bfloat16 of 32 bits by DLPack", lambda a: {n: Producer(a[n], code=4) for n in "qkv"}, TypeError, ["q"]),
    # --- what to return
    *[(f"return_scores {stage!r}", lambda a, stage=stage: {"return_scores": stage}, ValueError,
       ["return_scores", stage, "qk", "softcap", "bias"]) for stage in ("softmax", "QK", "weights", "scores", "")],
    *[(f"return_scores {stage!r}", lambda a, stage=stage: {"return_scores": stage}, TypeError, ["return_scores", "qk"])
      for stage in (True, 0, 1, b"qk", ("qk",))],
    # --- numbers
    *[(f"scale {x}", lambda a, x=x: {"scale": x, "softcap": 3.0, "sinks": f32(4)}, ValueError, ["scale", str(x)])
      for x in (NAN, INF)],
    ("softcap nan with a bias", lambda a: {"softcap": NAN, "alibi_slopes": f32(4)}, ValueError, ["softcap", "nan"]),
    # --- masks beside storage types
    *[(f"mask of {np.dtype(kind)} beside float16",
       lambda a, kind=kind: {**{n: a[n].astype(np.float16) for n in "qkv"}, "mask": np.ones((5, 7), kind)}, TypeError,
       ["mask", str(np.dtype(kind)), "bool", "float32"]) for kind in (np.float64, np.int8, np.uint8)],
]
# fmt: on


@pytest.mark.parametrize(("spoil", "error", "words"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_attention_refuses(spoil: Callable[[Arguments], Any], error: Any, words: list[str]) -> None:
    arguments = good()
    before = call(arguments).tobytes()
    check_refused(call, {**arguments, **spoil(arguments)}, error, words)
    assert call(arguments).tobytes() == before


def test_what_the_cases_are_made_from_is_accepted() -> None:
    a = good()
    halves = {name: x.astype(np.float16) for name, x in a.items()}
    for more in (
        {"window": (2, 0), "sink_tokens": 0},
        {"window": (2, 0), "sink_tokens": 100},
        {"sink_tokens": 0},
        {"alibi_slopes": f32(4)},
        {"alibi_slopes": f32(2, 4)},
        {"sinks": f32(4)},
        {"sinks": np.array([1, -INF, 2, 3], np.float32)},
        {"relative_bias": (table(4, 32), True, 128)},
        {"relative_bias": (table(4, 33), False, 17)},
        {"relative_bias": (table(4, 4), True, 2)},
        {"relative_bias": (table(4, 32), np.True_, np.int64(128))},
        blocks(3, 3),
        blocks(2, 4, 3, 3),
        blocks(1, 4, 3, 3),
        blocks(4, 1, 1),
        blocks(1, 1, sides=(64, 64)),
        csr(INDPTR, INDICES),
        csr(INDPTR.astype(np.int32), INDICES.astype(np.int32)),
        csr(ints(0, 1, 3, 4, 5, 7, 8, 9, 11, 12, 13, 15, 16)[np.add.outer(3 * np.arange(4), np.arange(4))],
            np.tile(INDICES, 4)),
        csr(ints(0, 0, 0, 0), ints()),
        quantised(a),
        halves,
        {name: x.astype(np.uint16) for name, x in a.items()},
        {**halves, "mask": f32(5, 7)},
        {"return_scores": "qk"},
        {"return_scores": "bias", "return_weights": True},
    ):  # fmt: skip
        call({**a, **more})


# ---- packed sequences ------------------------------------------------------------------------------------------------


def packed() -> Arguments:
    """q (9, 4, 8), k (12, 2, 8), v (12, 2, 6) in two sequences of 4 and 5 queries, 5 and 7 keys."""
    rng = generator("bad packed options")
    return {"q": normal(rng, 9, 4, 8), "k": normal(rng, 12, 2, 8), "v": normal(rng, 12, 2, 6),
            "cu_seqlens_q": ints(0, 4, 9), "cu_seqlens_k": ints(0, 5, 12)}  # fmt: skip


def call_packed(arguments: Arguments) -> Any:
    names = ("q", "k", "v", "cu_seqlens_q", "cu_seqlens_k")
    return fa.attention_varlen(
        *(arguments[name] for name in names), **{n: v for n, v in arguments.items() if n not in names}
    )


# fmt: off
PACKED: list[Case] = [
    ("sink_tokens without a window", lambda a: {"sink_tokens": 1}, ValueError, ["sink_tokens", "window"]),
    ("sink_tokens negative", lambda a: {"sink_tokens": -1, "window": (2, 0)}, ValueError, ["sink_tokens", "-1"]),
    *[(f"alibi_slopes of shape {shape}", lambda a, shape=shape: {"alibi_slopes": f32(*shape)}, ValueError,
       ["alibi_slopes", str(shape)]) for shape in ((3,), (3, 4), (2, 3), (9, 4), ())],
    *[(f"sinks of shape {shape}", lambda a, shape=shape: {"sinks": f32(*shape)}, ValueError, ["sinks", str(shape)])
      for shape in ((3,), (2, 4), ())],
    ("relative_bias of three heads", lambda a: {"relative_bias": (table(3, 32), True, 128)}, ValueError,
     ["relative_bias", "(3, 32)"]),
    *[(f"blocks of shape {shape}", lambda a, shape=shape: blocks(*shape), ValueError, ["block_mask", str(shape[-2])])
      for shape in ((2, 3), (3, 2), (3, 3, 3), (3, 4, 3, 3))],
    ("CSR index 3", lambda a: csr(INDPTR, ints(0, 3, 1, 2)), ValueError, ["block_mask", "3"]),
    ("CSR that falls", lambda a: csr(ints(0, 3, 1, 4), INDICES), ValueError, ["block_mask"]),
    ("int8 without scales", lambda a: quantised(a, k_scale=None, v_scale=None), ValueError, ["k_scale", "int8"]),
    ("k_scale of another shape", lambda a: quantised(a, k_scale=f32(2, 12)), ValueError, ["k_scale", "(2, 12)"]),
    ("k_scale without int8", lambda a: {"k_scale": f32(12, 2)}, ValueError, ["k_scale", "int8"]),
    ("k and v of different types", lambda a: {"k": a["k"].astype(np.float16)}, TypeError, ["v", "float32", "float16"]),
    ("all of float64", lambda a: {n: a[n].astype(float) for n in "qkv"}, TypeError, ["q", "float64"]),
    ("return_scores unknown", lambda a: {"return_scores": "softmax"}, ValueError, ["return_scores", "softmax"]),
]
# fmt: on


@pytest.mark.parametrize(("spoil", "error", "words"), [case[1:] for case in PACKED], ids=[case[0] for case in PACKED])
def test_attention_varlen_refuses(spoil: Callable[[Arguments], Any], error: Any, words: list[str]) -> None:
    arguments = packed()
    check_refused(call_packed, {**arguments, **spoil(arguments)}, error, words)
    call_packed(packed())


def test_what_the_packed_cases_are_made_from_is_accepted() -> None:
    a = packed()
    for more in (
        {"window": (2, 0), "sink_tokens": 3},
        {"alibi_slopes": f32(4)},
        {"alibi_slopes": f32(2, 4)},
        {"sinks": f32(4)},
        {"relative_bias": (table(4, 32), True, 128)},
        blocks(3, 3),
        blocks(2, 4, 3, 3),
        csr(INDPTR, INDICES),
        quantised(a),
        {name: a[name].astype(np.float16) for name in "qkv"},
        {"return_scores": "bias"},
    ):
        call_packed({**a, **more})
