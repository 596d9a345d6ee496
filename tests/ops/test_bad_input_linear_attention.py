# SPDX-License-Identifier: MIT
"""Linear attention refuses what it cannot do: the argument, what came and what was expected; nothing is written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastattn as fa

B, T, HQ, HKV, DK, DV = 2, 3, 4, 2, 8, 12


def z(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


def good() -> dict[str, Any]:
    return {
        "q": z(B, T, HQ, DK), "k": z(B, T, HKV, DK), "v": z(B, T, HKV, DV), "rule": "gated_delta",
        "state": z(B, HKV, DK, DV), "decay": z(B, T, HKV), "beta": z(B, T, HKV),
    }  # fmt: skip


def frozen(*shape: int) -> np.ndarray:
    x = z(*shape)
    x.setflags(write=False)
    return x


def swapped(*shape: int) -> np.ndarray:
    return z(*shape).astype(np.dtype(np.float32).newbyteorder())


def misaligned(*shape: int) -> np.ndarray:
    raw = np.zeros(int(np.prod(shape)) * 4 + 1, np.uint8)
    return raw[1:].view(np.float32).reshape(shape)


# fmt: off
CASES: dict[str, tuple[dict[str, Any], Any, list[str]]] = {
    "q no array": ({"q": [[1.0]]}, TypeError, ["q", "list"]),
    "q rank": ({"q": z(T, HQ, DK)}, ValueError, ["q", "rank 3", "4"]),
    "k rank": ({"k": z(1, B, T, HKV, DK)}, ValueError, ["k", "rank 5", "4"]),
    "v rank": ({"v": z()}, ValueError, ["v", "rank 0", "4"]),
    "q float64": ({"q": z(B, T, HQ, DK, dtype=np.float64)}, TypeError, ["q", "float64", "float32"]),
    "v int8": ({"v": z(B, T, HKV, DV, dtype=np.int8)}, TypeError, ["v", "int8"]),
    "k another type": ({"k": z(B, T, HKV, DK, dtype=np.float16)}, TypeError, ["k", "float16", "float32 as q"]),
    "v bfloat16": ({"v": z(B, T, HKV, DV, dtype=np.uint16)}, TypeError, ["v", "bfloat16", "float32 as q"]),
    "q byte order": ({"q": swapped(B, T, HQ, DK)}, TypeError, ["q", "byte order"]),
    "q last stride": ({"q": z(B, T, HQ, 2 * DK)[..., ::2]}, ValueError, ["q", "last stride 8", "expected 4"]),
    "q misaligned": ({"q": misaligned(B, T, HQ, DK)}, ValueError, ["q", "aligned"]),
    "k batch": ({"k": z(1, T, HKV, DK)}, ValueError, ["k", "(1, 3, 2, 8)", "(2, 3, 2, 8)"]),
    "k tokens": ({"k": z(B, T + 1, HKV, DK)}, ValueError, ["k", "(2, 4, 2, 8)", "(2, 3, 2, 8)"]),
    "k head size": ({"k": z(B, T, HKV, DK + 1)}, ValueError, ["k", "(2, 3, 2, 9)", "(2, 3, 2, 8)"]),
    "k heads": ({"k": z(B, T, 3, DK)}, ValueError, ["k", "3 heads", "4 heads of q"]),
    "no heads": ({"k": z(B, T, 0, DK)}, ValueError, ["k", "0 heads"]),
    "v heads": ({"v": z(B, T, 1, DV)}, ValueError, ["v", "(2, 3, 1, 12)", "(2, 3, 2, 12)"]),
    "no head size": ({"q": z(B, T, HQ, 0)}, ValueError, ["q", "head size 0", "1 to 4096"]),
    "v no head size": ({"v": z(B, T, HKV, 0)}, ValueError, ["v", "head size 0"]),
    "v head size": ({"v": np.broadcast_to(z(1), (B, T, HKV, 5000)).copy()}, ValueError, ["v", "5000", "4096"]),
    "rule": ({"rule": "retention"}, ValueError, ["rule", "'retention'", "'gated_delta'"]),
    "rule no text": ({"rule": 3}, TypeError, ["rule", "int"]),
    "decay missing": ({"decay": None}, ValueError, ["decay", "None", "gated_delta"]),
    "beta missing": ({"beta": None}, ValueError, ["beta", "None", "gated_delta"]),
    "decay refused": ({"rule": "delta"}, ValueError, ["decay", "'delta'"]),
    "beta refused": ({"rule": "gated"}, ValueError, ["beta", "'gated'"]),
    "both refused": ({"rule": "linear"}, ValueError, ["decay", "'linear'"]),
    "decay heads": ({"decay": z(B, T, HQ)}, ValueError, ["decay", "(2, 3, 4)", "(2, 3, 2)", "(2, 3, 2, 8)"]),
    "decay one head": ({"decay": z(B, T, 1)}, ValueError, ["decay", "(2, 3, 1)"]),
    "decay one row": ({"decay": z(B, T, HKV, 1)}, ValueError, ["decay", "(2, 3, 2, 1)"]),
    "decay scalar": ({"decay": z()}, ValueError, ["decay", "()"]),
    "decay type": ({"decay": -0.5}, TypeError, ["decay", "float"]),
    "decay float64": ({"decay": z(B, T, HKV, dtype=np.float64)}, TypeError, ["decay", "float64"]),
    "beta shape": ({"beta": z(B, T)}, ValueError, ["beta", "(2, 3)", "(2, 3, 2)", "(2, 3, 1)"]),
    "beta rank": ({"beta": z(1, B, T, HKV)}, ValueError, ["beta", "(1, 2, 3, 2)"]),
    "beta int": ({"beta": z(B, T, HKV, dtype=np.int64)}, TypeError, ["beta", "int64"]),
    "state shape": ({"state": z(B, HKV, DV, DK)}, ValueError, ["state", "(2, 2, 12, 8)", "(2, 2, 8, 12)"]),
    "state heads": ({"state": z(B, HQ, DK, DV)}, ValueError, ["state", "(2, 4, 8, 12)"]),
    "state float64": ({"state": z(B, HKV, DK, DV, dtype=np.float64)}, TypeError, ["state", "float64"]),
    "scale nan": ({"scale": float("nan")}, ValueError, ["scale", "nan", "finite"]),
    "scale inf": ({"scale": float("inf")}, ValueError, ["scale", "inf", "finite"]),
    "scale too large": ({"scale": 1e39}, ValueError, ["scale", "1e+39", "finite"]),
    "scale text": ({"scale": "1"}, TypeError, ["scale", "str", "real number"]),
    "scale bool": ({"scale": True}, TypeError, ["scale", "bool"]),
    "out shape": ({"out": z(B, T, HKV, DV)}, ValueError, ["out", "(2, 3, 2, 12)", "(2, 3, 4, 12)"]),
    "out rank": ({"out": z(T, HQ, DV)}, ValueError, ["out", "(3, 4, 12)"]),
    "out type": ({"out": z(B, T, HQ, DV, dtype=np.float16)}, TypeError, ["out", "float16", "float32"]),
    "out float64": ({"out": z(B, T, HQ, DV, dtype=np.float64)}, TypeError, ["out", "float64"]),
    "out read-only": ({"out": frozen(B, T, HQ, DV)}, ValueError, ["out", "read-only"]),
    "out repeats": ({"out": np.lib.stride_tricks.as_strided(z(DV), (B, T, HQ, DV), (0, 0, 0, 4))}, ValueError,
                    ["out", "share memory"]),
    "out no array": ({"out": "here"}, TypeError, ["out", "str"]),
    "state_out shape": ({"state_out": z(B, HKV, DV, DK)}, ValueError, ["state_out", "(2, 2, 8, 12)"]),
    "state_out half": ({"state_out": z(B, HKV, DK, DV, dtype=np.float16)}, TypeError, ["state_out", "float16"]),
    "state_out read-only": ({"state_out": frozen(B, HKV, DK, DV)}, ValueError, ["state_out", "read-only"]),
    "threads": ({"num_threads": 0}, ValueError, ["num_threads", "0"]),
    "threads type": ({"num_threads": 1.5}, TypeError, ["num_threads"]),
}
# fmt: on


@pytest.mark.parametrize("name", CASES)
def test_refused_by_name(name: str) -> None:
    change, error, words = CASES[name]
    arguments = {**good(), **change}
    with pytest.raises(error) as caught:
        fa.linear_attention(**arguments)
    message = str(caught.value)
    assert message.startswith(words[0]), message
    assert all(word in message for word in words), message


def test_the_good_one_is_good() -> None:
    result = fa.linear_attention(**good())
    assert result.out.shape == (B, T, HQ, DV) and result.state.shape == (B, HKV, DK, DV)


@pytest.mark.parametrize("other", ["q", "k", "v", "state", "decay", "beta"])
@pytest.mark.parametrize("name", ["out", "state_out"])
def test_shared_memory_is_refused(name: str, other: str) -> None:
    """One element in common is enough; only state_out may be state, all of it."""
    arguments = good()
    shape = {"out": (B, T, HQ, DV), "state_out": (B, HKV, DK, DV)}[name]
    size, inside = int(np.prod(shape)), arguments[other].size
    block = np.zeros(size + inside, np.float32)
    for start in (0, size - 1):
        arguments[other] = block[start : start + inside].reshape(arguments[other].shape)
        arguments[name] = block[:size].reshape(shape)
        if name == "state_out" and other == "state" and start == 0:
            fa.linear_attention(**arguments)
            continue
        with pytest.raises(ValueError, match=f"^{name}: shares memory with {other}"):
            fa.linear_attention(**arguments)


def test_outputs_share_no_memory() -> None:
    block = np.zeros(B * HKV * DK * DV, np.float32)
    arguments = {**good(), "state_out": block.reshape(B, HKV, DK, DV)}
    with pytest.raises(ValueError, match="^state_out: shares memory with out"):
        fa.linear_attention(**arguments, out=block[: B * T * HQ * DV].reshape(B, T, HQ, DV))


def test_state_out_is_state_in_another_order() -> None:
    """The same memory, but not the same elements at the same places."""
    square = np.zeros((1, 1, 8, 8), np.float32)
    x = np.zeros((1, 2, 1, 8), np.float32)
    with pytest.raises(ValueError, match="^state_out: shares memory with state"):
        fa.linear_attention(x, x, x, rule="linear", state=square, state_out=square[:, :, ::-1])


def test_nothing_is_written_when_refused() -> None:
    arguments = good()
    out, state_out = np.full((B, T, HQ, DV), 7, np.float32), np.full((B, HKV, DK, DV), 7, np.float32)
    with pytest.raises(ValueError, match="^beta"):
        fa.linear_attention(**{**arguments, "beta": np.zeros((B, T, 5), np.float32)}, out=out, state_out=state_out)
    assert (out == 7).all() and (state_out == 7).all()
