# SPDX-License-Identifier: MIT
"""Linear attention: a state of fixed size in place of keys and values, updated and read token by token.

The state S of one head is a (Dk, Dv) matrix. For each token, with g its decay and b its beta::

    rule             update                                       needs
    "linear"         S = S + k v^T                                -
    "gated"          S = exp(g) S + k v^T                         decay
    "delta"          S = S + k (b (v - S^T k))^T                  beta
    "gated_delta"    S = exp(g) S, then as "delta"                decay, beta

    out = scale * S^T q
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastattn import _core
from fastattn.arrays import as_array, as_real, as_stored, check_layout, check_out, describe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastattn.typing import Array, Rule

__all__ = ["LinearAttentionResult", "linear_attention"]

_NEEDS_DECAY = {"linear": False, "gated": True, "delta": False, "gated_delta": True}
_NEEDS_BETA = {"linear": False, "gated": False, "delta": True, "gated_delta": True}
_TYPES = {"float32": "float32", "float16": "float16", "uint16": "bfloat16"}


class LinearAttentionResult(NamedTuple):
    """out (B, T, Hq, Dv) of q's dtype; state (B, Hkv, Dk, Dv) float32 after the last token."""

    out: NDArray[Any] | Any  # or, both, the caller's own tensor
    state: NDArray[np.float32] | Any


def linear_attention(
    q: Array, k: Array, v: Array, *,
    rule: Rule = "gated_delta", state: Array | None = None, decay: Array | None = None, beta: Array | None = None,
    scale: float | None = None, out: Array | None = None, state_out: Array | None = None,
    num_threads: int | None = None,
) -> LinearAttentionResult:  # fmt: skip
    """Linear attention with decay gates and the delta rule, from a state to a state: prompts and single tokens alike.

    The recurrence is computed token by token in one order, so a stream that is cut anywhere, each call taking the state
    the last one gave, has exactly the bits of one call over all of it; so has any batch, thread count and instruction
    set. Memory is constant over an endless stream. There is no chunked form to choose: on a CPU it needs as many
    multiplications as this one, whose state stays in the nearest cache.

    Arrays are NumPy arrays, buffers or DLPack CPU tensors, any strides with a unit last one, read in place. bfloat16 is
    ml_dtypes.bfloat16, a torch tensor, or its bits as uint16. Arithmetic is float32 whatever is stored.

    Args:
        q: (B, T, Hq, Dk), float32, float16 or bfloat16
        k: (B, T, Hkv, Dk) of q's dtype, Hq a multiple of Hkv: query head h reads the state of head h // (Hq // Hkv).
            For the delta rules rows of k should have length 1 (fastattn.ops.l2_normalize), or states may grow
        v: (B, T, Hkv, Dv) of q's dtype
        rule: "linear", "gated", "delta" or "gated_delta", see the head of this module
        state: (B, Hkv, Dk, Dv) before the first token, zeros if None; any of the three dtypes
        decay: (B, T, Hkv), or (B, T, Hkv, Dk) with a factor for each row of the state: logarithms, so usually below 0;
            any of the three dtypes. Required by the gated rules, refused by the others
        beta: (B, T, Hkv) or (B, T, 1), usually between 0 and 1; likewise, for the delta rules
        scale: factor of out, 1 / sqrt(Dk) if None; negative and 0 are allowed
        out: (B, T, Hq, Dv) of q's dtype to write into; must not share memory with the inputs
        state_out: float32 (B, Hkv, Dk, Dv) to write the new state into. It may be ``state`` itself, which is then
            updated in place: what token-by-token decoding wants. Without it ``state`` is never modified
        num_threads: at most this many threads; the process's setting if None

    Returns:
        LinearAttentionResult (out, state). Without tokens the state is what it was. NaN and infinities stay in their
        head and, in v and state, in their column.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: shapes, strides or values do not fit; the message names the argument, what came, what was expected.

    ONNX's LinearAttention (opset 27) packs heads into the last dimension: ``query.reshape(B, T, q_num_heads, -1)``
    unpacks them, likewise key and value with kv_num_heads, and a decay of Hkv * Dk factors. update_rule is ``rule``,
    scale 0 is ``scale=None``, chunk_size has no effect on results and none here; output is ``out.reshape(B, T, -1)``,
    present_state ``state``, in past_state's dtype after ``state.astype(...)``.

    Source: Katharopoulos et al. 2020 (linear); Yang et al. 2023 (gated); Schlag et al. 2021 (delta); Yang, Kautz,
    Hatamizadeh 2024 (gated delta).

    >>> import numpy as np, fastattn as fa
    >>> x = np.ones((1, 6, 2, 8), np.float32) / np.float32(8) ** 0.5      # (B, T, H, D)
    >>> gate = dict(decay=np.full((1, 6, 2), -0.1, np.float32), beta=np.full((1, 6, 1), 0.5, np.float32))
    >>> whole = fa.linear_attention(x, x, x, **gate)
    >>> whole.out.shape, whole.state.shape
    ((1, 6, 2, 8), (1, 2, 8, 8))
    >>> state, parts = None, []
    >>> for t in range(6):
    ...     now = {name: value[:, t : t + 1] for name, value in gate.items()}
    ...     part, state = fa.linear_attention(x[:, t : t + 1], x[:, t : t + 1], x[:, t : t + 1], state=state, **now)
    ...     parts.append(part)
    >>> bool((np.concatenate(parts, 1) == whole.out).all() and (state == whole.state).all())
    True
    """
    result = _core.run_linear_attention(q, k, v, rule, state, decay, beta, scale, out, state_out, num_threads)
    if result is not NotImplemented:
        return LinearAttentionResult(*result)
    # The same with every check and every kind of array.
    if not isinstance(rule, str):
        raise TypeError(f"rule: {describe(rule)}, expected a string")
    if rule not in _NEEDS_DECAY:
        raise ValueError(f"rule: {rule!r}, expected one of {', '.join(map(repr, _NEEDS_DECAY))}")
    _check_gate(rule, "decay", decay, _NEEDS_DECAY[rule])
    _check_gate(rule, "beta", beta, _NEEDS_BETA[rule])
    factor = None if scale is None else as_real(scale, "scale")
    queries, keys, values = _as_stored(q, "q"), _as_stored(k, "k"), _as_stored(v, "v")
    batch, tokens, heads, dk, kv_heads, dv = _check_qkv(queries, keys, values)
    inputs = {"q": queries, "k": keys, "v": values}
    state_shape = (batch, kv_heads, dk, dv)
    if decay is not None:
        inputs["decay"] = _as_stored(decay, "decay")
        _check_shape("decay", inputs["decay"], (batch, tokens, kv_heads), (batch, tokens, kv_heads, dk))
    if beta is not None:
        inputs["beta"] = _as_stored(beta, "beta")
        _check_shape("beta", inputs["beta"], (batch, tokens, kv_heads), (batch, tokens, 1))
    before = None
    if state is not None:
        before = _as_stored(state, "state")
        _check_shape("state", before, state_shape)
    shape = (batch, tokens, heads, dv)
    target = np.empty(shape, queries.dtype)
    if out is not None:
        apart = inputs if before is None else {**inputs, "state": before}
        target = check_out(_as_stored(out, "out"), shape, apart, "out", queries.dtype)
    after = np.empty(state_shape, np.float32)
    if state_out is not None:
        apart = {**inputs, "out": target}
        after = as_array(state_out, "state_out")
        if before is not None and not _same_place(before, after):
            apart["state"] = before
        after = check_out(after, state_shape, apart, "state_out")
    _core.run_linear_attention(
        queries, keys, values, rule, before, inputs.get("decay"), inputs.get("beta"), factor, target, after,
        num_threads, True,
    )  # fmt: skip
    if out is None and isinstance(q, np.ndarray) and q.dtype.name == "bfloat16":
        target = target.view(q.dtype)
    return LinearAttentionResult(target if out is None else out, after if state_out is None else state_out)


# ---- checks ----------------------------------------------------------------------------------------------------------


def _check_gate(rule: str, name: str, value: Any, needed: bool) -> None:
    if needed and value is None:
        raise ValueError(f"{name}: None, required by rule {rule!r}")
    if not needed and value is not None:
        raise ValueError(f"{name}: {describe(value)}, expected None: rule {rule!r} has no use for it")


def _as_stored(value: Any, name: str) -> np.ndarray:
    """A float32, float16 or uint16 array, the last for bfloat16, with a unit last stride and aligned elements."""
    array, _ = as_stored(value, name)
    check_layout(array, name)
    return array


def _check_qkv(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> tuple[int, int, int, int, int, int]:
    """(B, T, Hq, Dk, Hkv, Dv)"""
    for name, array in (("q", q), ("k", k), ("v", v)):
        if array.ndim != 4:
            raise ValueError(f"{name}: rank {array.ndim}, expected 4: (batch, tokens, heads, head size)")
        if array.dtype != q.dtype:
            raise TypeError(f"{name}: dtype {_TYPES[array.dtype.name]}, expected {_TYPES[q.dtype.name]} as q has")
    batch, tokens, heads, dk = q.shape
    for name, size in (("q", dk), ("v", v.shape[3])):
        if not 1 <= size <= 4096:
            raise ValueError(f"{name}: head size {size}, expected 1 to 4096")
    kv_heads = k.shape[2]
    if kv_heads < 1 or heads % kv_heads:
        raise ValueError(f"k: {kv_heads} heads, expected a number that divides the {heads} heads of q")
    _check_shape("k", k, (batch, tokens, kv_heads, dk))
    _check_shape("v", v, (batch, tokens, kv_heads, v.shape[3]))
    return batch, tokens, heads, dk, kv_heads, v.shape[3]


def _check_shape(name: str, array: np.ndarray, *shapes: tuple[int, ...]) -> None:
    if array.shape not in shapes:
        raise ValueError(f"{name}: shape {array.shape}, expected {' or '.join(map(str, dict.fromkeys(shapes)))}")


def _same_place(a: np.ndarray, b: np.ndarray) -> bool:
    """Exactly the same elements in the same order: every step of every dimension that has one."""
    strides = zip(a.shape, a.strides, b.strides, strict=True) if a.shape == b.shape else ()
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
        and all(size == 1 or one == other for size, one, other in strides)
    )
