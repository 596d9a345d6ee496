# SPDX-License-Identifier: MIT
"""Attention refuses what it cannot do: a typed error that names the argument, what came and what was expected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.compare import assert_same_bits
from support.dlpack import CUDA, FLOAT, Producer
from support.inputs import generator, normal, qkv
from support.refusals import check_refused

import fastattn as fa

Arguments = dict[str, Any]
NAN, INF = float("nan"), float("inf")


def good() -> Arguments:
    q, k, v = qkv(generator("bad input"), 2, 4, 2, 5, 7, 8, 6)
    return {"q": q, "k": k, "v": v}


def call(arguments: Arguments) -> Any:
    rest = {name: value for name, value in arguments.items() if name not in ("q", "k", "v")}
    return fa.attention(arguments["q"], arguments["k"], arguments["v"], **rest)


def zeros(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


def read_only(*shape: int) -> np.ndarray:
    x = zeros(*shape)
    x.setflags(write=False)
    return x


def every_other(x: np.ndarray) -> np.ndarray:
    return np.repeat(x, 2, axis=-1)[..., ::2]


def misaligned(x: np.ndarray) -> np.ndarray:
    return np.frombuffer(b"x" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)


class Exploding:
    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0

    def __dlpack__(self, **keywords: Any) -> Any:
        raise BufferError("not today")


class Lying(Exploding):
    def __dlpack__(self, **keywords: Any) -> Any:
        return "no capsule"


# (what is wrong, how, error, words the message has to hold: the argument first, then what came or was expected)
# fmt: off
CASES: list[tuple[str, Callable[[Arguments], Any], type[Exception], list[str]]] = [
    # --- shapes
    ("q of rank 1", lambda a: {"q": zeros(8)}, ValueError, ["q", "1", "2"]),
    ("q of rank 0", lambda a: {"q": zeros()}, ValueError, ["q"]),
    ("q of rank 9", lambda a: dict.fromkeys("qkv", zeros(*[1] * 9)), ValueError, ["q", "9", "8"]),
    ("k of another rank", lambda a: {"k": a["k"][0]}, ValueError, ["k", "3", "4"]),
    ("v of another rank", lambda a: {"v": a["v"][None]}, ValueError, ["v", "5", "4"]),
    ("head sizes differ", lambda a: {"k": zeros(2, 2, 7, 9)}, ValueError, ["k", "9", "8"]),
    ("head size 0", lambda a: {"q": zeros(2, 4, 5, 0), "k": zeros(2, 2, 7, 0)}, ValueError, ["q", "0"]),
    ("value size 0", lambda a: {"v": zeros(2, 2, 7, 0)}, ValueError, ["v", "0"]),
    ("numbers of keys differ", lambda a: {"v": zeros(2, 2, 8, 6)}, ValueError, ["v", "8", "7"]),
    ("heads do not divide", lambda a: {"k": zeros(2, 3, 7, 8), "v": zeros(2, 3, 7, 6)}, ValueError, ["k", "3", "4"]),
    ("more key heads than query heads", lambda a: {"k": zeros(2, 8, 7, 8), "v": zeros(2, 8, 7, 6)}, ValueError,
     ["k", "8", "4"]),
    ("no key heads", lambda a: {"k": zeros(2, 0, 7, 8), "v": zeros(2, 0, 7, 6)}, ValueError, ["k", "0", "4"]),
    ("heads of k and v differ", lambda a: {"v": zeros(2, 1, 7, 6)}, ValueError, ["v", "1", "2"]),
    ("batches of q and k differ", lambda a: {"k": zeros(3, 2, 7, 8)}, ValueError, ["k", "3", "2"]),
    ("batches of q and v differ", lambda a: {"v": zeros(1, 2, 7, 6)}, ValueError, ["v", "1", "2"]),
    # --- dtypes and kinds of arrays
    *[(f"{name} of {np.dtype(kind)}", lambda a, name=name, kind=kind: {name: a[name].astype(kind)}, TypeError,
       [name, str(np.dtype(kind)), "float32"])
      for name in "qkv" for kind in (np.float64, np.int32, np.int8, np.bool_, np.complex64)],
    ("q of the other byte order", lambda a: {"q": a["q"].astype(np.dtype(np.float32).newbyteorder())}, TypeError,
     ["q", "float32"]),
    ("q of objects", lambda a: {"q": a["q"].astype(object)}, TypeError, ["q"]),
    ("q of structures", lambda a: {"q": np.zeros((2, 4, 5, 8), [("x", "f4")])}, TypeError, ["q"]),
    ("q a list", lambda a: {"q": a["q"].tolist()}, TypeError, ["q", "list"]),
    ("q None", lambda a: {"q": None}, TypeError, ["q", "None"]),
    ("k a string", lambda a: {"k": "keys"}, TypeError, ["k", "str"]),
    ("v a number", lambda a: {"v": 1.0}, TypeError, ["v", "float"]),
    ("v masked", lambda a: {"v": np.ma.masked_array(a["v"], a["v"] > 0)}, TypeError, ["v", "mask"]),
    ("q on another device", lambda a: {"q": Producer(a["q"], device=CUDA)}, TypeError, ["q", "CPU"]),
    ("q of an unknown DLPack type", lambda a: {"q": Producer(a["q"], code=9)}, TypeError, ["q"]),
    ("q of many lanes", lambda a: {"q": Producer(a["q"], lanes=4)}, TypeError, ["q"]),
    ("q of a DLPack from the future", lambda a: {"q": Producer(a["q"], versioned=True, major=2)}, TypeError, ["q"]),
    ("q of rank 9 by DLPack", lambda a: {"q": Producer(zeros(*[1] * 9), code=FLOAT)}, ValueError, ["q", "9", "8"]),
    ("q that does not export", lambda a: {"q": Exploding()}, TypeError, ["q"]),
    ("q that exports nonsense", lambda a: {"q": Lying()}, TypeError, ["q"]),
    # --- strides
    *[(f"{name} with a last stride of two", lambda a, name=name: {name: every_other(a[name])}, ValueError,
      [name, "stride", "8", "4"])
      for name in "qkv"],
    ("q with a negative last stride", lambda a: {"q": a["q"][..., ::-1]}, ValueError, ["q", "stride", "-4"]),
    ("k transposed", lambda a: {"k": np.ascontiguousarray(a["k"].swapaxes(-1, -2)).swapaxes(-1, -2)}, ValueError,
     ["k", "stride"]),
    ("v with a zero last stride", lambda a: {"v": np.broadcast_to(zeros(2, 2, 7, 1), (2, 2, 7, 6))}, ValueError,
     ["v", "stride", "0"]),
    ("q misaligned", lambda a: {"q": misaligned(a["q"])}, ValueError, ["q", "align"]),
    ("k of rows 33 bytes apart", lambda a: {"k": np.zeros((2, 2, 7), [("x", "f4", 8), ("y", "u1")])["x"]}, ValueError,
     ["k", "align"]),
    # --- out
    ("out of another shape", lambda a: {"out": zeros(2, 4, 5, 8)}, ValueError, ["out", "(2, 4, 5, 8)", "(2, 4, 5, 6)"]),
    ("out of another rank", lambda a: {"out": zeros(4, 5, 6)}, ValueError, ["out", "(4, 5, 6)", "(2, 4, 5, 6)"]),
    ("out that would broadcast", lambda a: {"out": zeros(1, 4, 5, 6)}, ValueError, ["out", "(1, 4, 5, 6)"]),
    ("out of float64", lambda a: {"out": zeros(2, 4, 5, 6, dtype=np.float64)}, TypeError,
     ["out", "float64", "float32"]),
    ("out of int32", lambda a: {"out": zeros(2, 4, 5, 6, dtype=np.int32)}, TypeError, ["out", "int32", "float32"]),
    ("out read-only", lambda a: {"out": read_only(2, 4, 5, 6)}, ValueError, ["out", "read-only"]),
    ("out read-only by DLPack", lambda a: {"out": Producer(zeros(2, 4, 5, 6), versioned=True, read_only=True)},
     ValueError, ["out", "read-only"]),
    ("out with a last stride of two", lambda a: {"out": zeros(2, 4, 5, 12)[..., ::2]}, ValueError, ["out", "stride"]),
    ("out with rows on top of each other",
     lambda a: {"out": np.lib.stride_tricks.as_strided(zeros(2, 4, 1, 6), (2, 4, 5, 6), (96, 24, 0, 4))},
     ValueError, ["out"]),
    ("out with rows that overlap",
     lambda a: {"out": np.lib.stride_tricks.as_strided(zeros(999), (2, 4, 5, 6), (480, 120, 20, 4))},
     ValueError, ["out"]),
    ("out a list", lambda a: {"out": [[0.0]]}, TypeError, ["out", "list"]),
    ("out is q", lambda a: {"v": zeros(2, 2, 7, 8), "out": a["q"]}, ValueError, ["out", "q"]),
    ("out inside k", lambda a: {"k": (big := zeros(2, 5, 7, 8))[:, :2], "out": big[:, :4, :5, :6]}, ValueError,
     ["out", "k"]),
    ("out overlaps v by one element", lambda a: overlapping_v(), ValueError, ["out", "v"]),
    ("out overlaps the mask", lambda a: overlapping_mask(), ValueError, ["out", "mask"]),
    # --- mask
    ("mask that does not broadcast", lambda a: {"mask": zeros(5, 6, dtype=bool)}, ValueError,
     ["mask", "(5, 6)", "(2, 4, 5, 7)"]),
    ("mask of a key too few", lambda a: {"mask": zeros(2, 4, 5, 6)}, ValueError,
     ["mask", "(2, 4, 5, 6)", "(2, 4, 5, 7)"]),
    ("mask of shape (B, Sk)", lambda a: {"mask": zeros(2, 7, dtype=bool)}, ValueError,
     ["mask", "(2, 7)", "(2, 4, 5, 7)"]),
    ("mask of too many dimensions", lambda a: {"mask": zeros(1, 2, 4, 5, 7, dtype=bool)}, ValueError,
     ["mask", "(1, 2, 4, 5, 7)"]),
    ("mask of no keys", lambda a: {"mask": zeros(5, 0, dtype=bool)}, ValueError, ["mask", "(5, 0)"]),
    *[(f"mask of {np.dtype(kind)}", lambda a, kind=kind: {"mask": zeros(5, 7, dtype=kind)}, TypeError,
      ["mask", str(np.dtype(kind)), "bool", "float32"])
      for kind in (np.int64, np.uint8, np.float64)],
    ("mask a list", lambda a: {"mask": [[True] * 7] * 5}, TypeError, ["mask", "list"]),
    ("mask a flag", lambda a: {"mask": True}, TypeError, ["mask", "bool"]),
    # --- causal, q_offset
    ("causal of another shape than square", lambda a: {"causal": True}, ValueError, ["causal", "5", "7", "q_offset"]),
    *[(f"causal {word!r}", lambda a, word=word: {"causal": word}, ValueError,
      ["causal", word, "top_left", "bottom_right"])
      for word in ("lower_right", "TOP_LEFT", "top-left", "true", "")],
    *[(f"causal {thing!r}", lambda a, thing=thing: {"causal": thing}, TypeError, ["causal", "top_left", "bottom_right"])
      for thing in (None, 1, 0, 1.0, ("top_left",), b"top_left")],
    *[(f"q_offset with {corner}", lambda a, corner=corner: {"causal": corner, "q_offset": 0}, ValueError,
      ["q_offset", corner])
      for corner in ("top_left", "bottom_right")],
    ("q_offset for three", lambda a: {"q_offset": np.arange(3)}, ValueError, ["q_offset", "(3,)", "(2,)"]),
    ("q_offset of two dimensions", lambda a: {"q_offset": zeros(2, 1, dtype=np.int64)}, ValueError,
     ["q_offset", "(2, 1)", "(2,)"]),
    ("q_offset a float", lambda a: {"q_offset": 1.0}, TypeError, ["q_offset", "int"]),
    ("q_offset floats", lambda a: {"q_offset": [1.0, 2.0]}, TypeError, ["q_offset", "int"]),
    ("q_offset a flag", lambda a: {"q_offset": True}, TypeError, ["q_offset"]),
    ("q_offset a word", lambda a: {"q_offset": "3"}, TypeError, ["q_offset"]),
    ("q_offset beyond int64", lambda a: {"causal": True, "q_offset": 2 ** 70}, (ValueError, TypeError), ["q_offset"]),
    ("q_offset the largest int64", lambda a: {"causal": True, "q_offset": 2 ** 63 - 1}, ValueError, ["q_offset"]),
    ("q_offset the smallest int64", lambda a: {"causal": True, "q_offset": -(2 ** 63)}, ValueError, ["q_offset"]),
    # --- window
    *[(f"window {w!r}", lambda a, w=w: {"window": w}, (ValueError, TypeError), ["window"])
      for w in ((-1, 0), (0, -1), (-(2 ** 70), 0), (1,), (1, 2, 3), 3, "12", (1.0, 2), (1, "2"), (True, 1),
       {1: 2, 3: 4}, (NAN, 1), ())],
    # --- kv_lengths
    *[(f"kv_lengths {list(n)}", lambda a, n=n: {"kv_lengths": np.array(n)}, ValueError, ["kv_lengths", str(bad), "7"])
      for n, bad in (((-1, 3), -1), ((3, 8), 8), ((2 ** 40, 0), 2 ** 40), ((0, -(2 ** 63)), -(2 ** 63)))],
    ("kv_lengths beyond int64", lambda a: {"kv_lengths": np.array([2 ** 64 - 1, 3], np.uint64)}, ValueError,
     ["kv_lengths", str(2 ** 64 - 1)]),
    ("kv_lengths for one", lambda a: {"kv_lengths": np.array([3])}, ValueError, ["kv_lengths", "(1,)", "(2,)"]),
    ("kv_lengths of two dimensions", lambda a: {"kv_lengths": np.array([[3], [4]])}, ValueError,
     ["kv_lengths", "(2, 1)", "(2,)"]),
    ("kv_lengths a number", lambda a: {"kv_lengths": 3}, ValueError, ["kv_lengths", "()", "(2,)"]),
    ("kv_lengths floats", lambda a: {"kv_lengths": np.array([3.0, 4.0])}, TypeError, ["kv_lengths", "float64", "int"]),
    ("kv_lengths flags", lambda a: {"kv_lengths": np.array([True, False])}, TypeError, ["kv_lengths", "bool", "int"]),
    ("kv_lengths objects", lambda a: {"kv_lengths": [None, 3]}, TypeError, ["kv_lengths"]),
    ("kv_lengths words", lambda a: {"kv_lengths": ["3", "4"]}, TypeError, ["kv_lengths"]),
    # --- numbers
    *[(f"scale {x!r}", lambda a, x=x: {"scale": x}, ValueError, ["scale", str(x)])
     for x in (NAN, INF, -INF, 1e39, -1e300)],
    *[(f"scale {x!r}", lambda a, x=x: {"scale": x}, TypeError, ["scale"]) for x in ("0.5", (1.0,), 1j, True)],
    *[(f"softcap {x!r}", lambda a, x=x: {"softcap": x}, ValueError, ["softcap", str(x)])
     for x in (0.0, -1.0, NAN, INF, 0)],
    *[(f"softcap {x!r}", lambda a, x=x: {"softcap": x}, TypeError, ["softcap"]) for x in ("30", [30.0], True)],
    *[(f"num_threads {x!r}", lambda a, x=x: {"num_threads": x}, ValueError, ["num_threads", str(x)])
     for x in (0, -1, -(2 ** 40))],
    *[(f"num_threads {x!r}", lambda a, x=x: {"num_threads": x}, TypeError, ["num_threads"])
     for x in (1.5, "2", (1,), True)],
    ("an option of another name", lambda a: {"is_causal": True}, TypeError, ["is_causal"]),
]
# fmt: on


def overlapping_v() -> Arguments:
    memory = zeros(2 * 2 * 7 * 6 + 2 * 4 * 5 * 6 - 1)
    return {"v": memory[:168].reshape(2, 2, 7, 6), "out": memory[167:].reshape(2, 4, 5, 6)}


def overlapping_mask() -> Arguments:
    memory = zeros(2 * 4 * 5 * 7)
    return {"mask": memory.reshape(2, 4, 5, 7), "out": memory[:240].reshape(2, 4, 5, 6)}


@pytest.mark.parametrize(("spoil", "error", "words"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_attention_refuses(spoil: Callable[[Arguments], Any], error: type[Exception], words: list[str]) -> None:
    arguments = good()
    call(arguments)
    check_refused(call, {**arguments, **spoil(arguments)}, error, words)
    call(good())


def test_positional_options_are_refused() -> None:
    a = good()
    with pytest.raises(TypeError):
        fa.attention(a["q"], a["k"], a["v"], None)


def test_the_last_axis_may_have_any_stride_when_it_holds_one_element() -> None:
    q, k, v = qkv(generator("one wide"), 1, 2, 2, 5, 6, 1)
    wide = np.repeat(q, 4, axis=-1)[..., :1]
    assert_same_bits(fa.attention(wide, k, v), fa.attention(q, k, v), "a last axis of one")


# ---- packed sequences ----------------------------------------------------------------------------------------------


def packed() -> Arguments:
    rng = generator("bad packed")
    return {
        "q": normal(rng, 9, 4, 8),
        "k": normal(rng, 12, 2, 8),
        "v": normal(rng, 12, 2, 6),
        "cu_seqlens_q": np.array([0, 4, 9]),
        "cu_seqlens_k": np.array([0, 5, 12]),
    }


def call_packed(arguments: Arguments) -> Any:
    names = ("q", "k", "v", "cu_seqlens_q", "cu_seqlens_k")
    return fa.attention_varlen(
        *(arguments[name] for name in names), **{n: v for n, v in arguments.items() if n not in names}
    )


def cu(name: str, *values: int, dtype: Any = np.int64) -> Callable[[Arguments], Arguments]:
    return lambda a: {name: np.array(values, dtype)}


BIG = 2**63 - 1
# fmt: off
PACKED: list[tuple[str, Callable[[Arguments], Any], Any, list[str]]] = [
    ("decreasing", cu("cu_seqlens_q", 0, 5, 4, 9), ValueError, ["cu_seqlens_q", "5", "4"]),
    ("decreasing keys", cu("cu_seqlens_k", 0, 13, 12), ValueError, ["cu_seqlens_k", "13", "12"]),
    ("negative", cu("cu_seqlens_q", 0, -4, 9), ValueError, ["cu_seqlens_q", "-4"]),
    ("negative start", cu("cu_seqlens_q", -1, 4, 9), ValueError, ["cu_seqlens_q", "-1", "0"]),
    ("late start", cu("cu_seqlens_k", 1, 5, 12), ValueError, ["cu_seqlens_k", "1", "0"]),
    ("too large", cu("cu_seqlens_q", 0, 4, 10), ValueError, ["cu_seqlens_q", "10", "9"]),
    ("too small", cu("cu_seqlens_k", 0, 4, 11), ValueError, ["cu_seqlens_k", "11", "12"]),
    ("wraps around", cu("cu_seqlens_q", 0, BIG, -5, 9), ValueError, ["cu_seqlens_q"]),
    ("wraps around among keys", cu("cu_seqlens_k", 0, BIG, -(2 ** 63), 12), ValueError, ["cu_seqlens_k"]),
    ("beyond int64", cu("cu_seqlens_k", 0, 2 ** 64 - 1, 12, dtype=np.uint64), ValueError, ["cu_seqlens_k"]),
    ("other numbers of sequences", cu("cu_seqlens_k", 0, 12), ValueError, ["cu_seqlens_k", "1", "2"]),
    ("empty", cu("cu_seqlens_q"), ValueError, ["cu_seqlens_q", "(0,)"]),
    ("two dimensions", lambda a: {"cu_seqlens_q": np.array([[0, 4, 9]])}, ValueError, ["cu_seqlens_q", "(1, 3)"]),
    ("a number", lambda a: {"cu_seqlens_q": 9}, ValueError, ["cu_seqlens_q"]),
    ("floats", lambda a: {"cu_seqlens_k": np.array([0.0, 5.0, 12.0])}, TypeError, ["cu_seqlens_k", "float64", "int"]),
    ("flags", lambda a: {"cu_seqlens_k": np.array([False, True])}, TypeError, ["cu_seqlens_k", "bool", "int"]),
    ("None", lambda a: {"cu_seqlens_q": None}, TypeError, ["cu_seqlens_q"]),
    ("a batch dimension", lambda a: {"q": a["q"][None]}, ValueError, ["q", "4", "3"]),
    ("no head dimension", lambda a: {"k": a["k"][:, 0]}, ValueError, ["k", "2", "3"]),
    ("heads do not divide", lambda a: {"k": zeros(12, 3, 8), "v": zeros(12, 3, 6)}, ValueError, ["k", "3", "4"]),
    ("head sizes differ", lambda a: {"k": zeros(12, 2, 7)}, ValueError, ["k", "7", "8"]),
    ("numbers of keys differ", lambda a: {"v": zeros(11, 2, 6)}, ValueError, ["v", "11", "12"]),
    ("float64", lambda a: {"q": a["q"].astype(float)}, TypeError, ["q", "float64", "float32"]),
    ("last stride", lambda a: {"v": every_other(a["v"])}, ValueError, ["v", "stride"]),
    ("causal of unequal lengths", lambda a: {"causal": True}, ValueError, ["causal", "4", "5"]),
    ("causal unknown", lambda a: {"causal": "left"}, ValueError, ["causal", "left", "top_left"]),
    ("q_offset with a corner", lambda a: {"causal": "top_left", "q_offset": 1}, ValueError, ["q_offset", "top_left"]),
    ("q_offset for three", lambda a: {"causal": True, "q_offset": [1, 2, 3]}, ValueError, ["q_offset", "(3,)", "(2,)"]),
    ("mask", lambda a: {"mask": zeros(9, 12, dtype=bool)}, TypeError, ["mask"]),
    ("kv_lengths", lambda a: {"kv_lengths": np.array([5, 7])}, TypeError, ["kv_lengths"]),
    ("out of another shape", lambda a: {"out": zeros(9, 4, 8)}, ValueError, ["out", "(9, 4, 8)", "(9, 4, 6)"]),
    ("out is q", lambda a: {"v": zeros(12, 2, 8), "out": a["q"]}, ValueError, ["out", "q"]),
    ("scale", lambda a: {"scale": NAN}, ValueError, ["scale", "nan"]),
    ("softcap", lambda a: {"softcap": 0.0}, ValueError, ["softcap", "0"]),
    ("window", lambda a: {"window": (-1, -1)}, ValueError, ["window", "-1"]),
    ("num_threads", lambda a: {"num_threads": 0}, ValueError, ["num_threads", "0"]),
]
# fmt: on


@pytest.mark.parametrize(("spoil", "error", "words"), [case[1:] for case in PACKED], ids=[case[0] for case in PACKED])
def test_attention_varlen_refuses(spoil: Callable[[Arguments], Any], error: Any, words: list[str]) -> None:
    arguments = packed()
    call_packed(arguments)
    check_refused(call_packed, {**arguments, **spoil(arguments)}, error, words)
    call_packed(packed())
