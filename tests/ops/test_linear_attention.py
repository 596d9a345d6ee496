# SPDX-License-Identifier: MIT
"""Linear attention: the oracle, and the same bits for any cut of a stream, batch, thread count and instruction set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st
from support import inputs
from support.compare import assert_accurate, assert_same_bits, assert_same_special
from support.dlpack import Producer
from support.inputs import generator, normal
from support.variants import assert_one_result

import fastattn as fa
from fastattn import _testing, ops, reference

RULES = ("linear", "gated", "delta", "gated_delta")
Options = dict[str, Any]
CANONICAL_NAN = 0x7FC00000


def problem(
    rng: np.random.Generator, rule: str, b: int, t: int, hq: int, hkv: int, dk: int, dv: int, *,
    by_row: bool = False, one_rate: bool = False, state: bool = True, forget: float = 0.1,
) -> tuple[tuple[np.ndarray, ...], Options]:  # fmt: skip
    """(q, k, v) and the options; keys of length 1 where the rule wants them."""
    q, k, v = normal(rng, b, t, hq, dk), normal(rng, b, t, hkv, dk), normal(rng, b, t, hkv, dv)
    options: Options = {"rule": rule}
    if "delta" in rule:
        k = ops.l2_normalize(k)
        options["beta"] = rng.random((b, t, 1 if one_rate else hkv)).astype(np.float32)
    if "gated" in rule:
        shape = (b, t, hkv, dk) if by_row else (b, t, hkv)
        options["decay"] = -np.abs(normal(rng, *shape, spread=forget))
    if state:
        options["state"] = normal(rng, b, hkv, dk, dv)
    return (q, k, v), options


def cut(arrays: tuple[np.ndarray, ...], options: Options, a: int, b: int) -> tuple[tuple[np.ndarray, ...], Options]:
    """Tokens a to b."""
    over_time = {name: x[:, a:b] for name, x in options.items() if name in ("decay", "beta")}
    return tuple(x[:, a:b] for x in arrays), {**options, **over_time}


def streamed(arrays: tuple[np.ndarray, ...], options: Options, cuts: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Several calls, each taking the state the last one gave."""
    state, parts = options.get("state"), []
    bounds = [0, *cuts, arrays[0].shape[1]]
    for a, b in zip(bounds, bounds[1:], strict=False):
        part, more = cut(arrays, options, a, b)
        result = fa.linear_attention(*part, **{**more, "state": state})
        state = result.state
        parts.append(result.out)
    return np.concatenate(parts, axis=1), state


def check(arrays: tuple[np.ndarray, ...], options: Options) -> Any:
    """One call against the oracle."""
    got = fa.linear_attention(*arrays, **options)
    rest = {name: x for name, x in options.items() if name not in ("rule", "out", "state_out")}
    ref = reference.linear_attention(*arrays, **rest)
    naive = reference.linear_attention(*arrays, dtype=np.float32, **rest)
    for i, what in enumerate(("out", "state")):

        def again(rng: np.random.Generator, i: int = i) -> np.ndarray:
            return reference.linear_attention(*arrays, dtype=np.float32, order=rng, **rest)[i]

        assert_accurate(got[i], ref[i], naive[i], what, again)
    return got


# (B, T, Hq, Hkv, Dk, Dv): odd sizes around panels of 16 to 64 columns and blocks of 32 tokens; groups; one head
SHAPES = [
    (1, 1, 1, 1, 1, 1), (2, 5, 4, 4, 8, 8), (1, 33, 2, 2, 17, 33), (1, 70, 6, 2, 32, 48), (2, 3, 3, 1, 15, 100),
    (1, 64, 5, 1, 24, 16), (1, 2, 16, 2, 64, 64), (3, 31, 2, 1, 40, 129), (1, 65, 9, 1, 20, 64),
    (1, 40, 8, 8, 128, 128),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_oracle_and_one_result(rule: str, shape: tuple[int, ...]) -> None:
    rng = generator("linear attention", rule, shape)
    arrays, options = problem(rng, rule, *shape, by_row=shape[1] % 2 == 0, one_rate=shape[0] > 1)
    check(arrays, options)
    assert_one_result(
        lambda num_threads: tuple(fa.linear_attention(*arrays, **options, num_threads=num_threads)),
        f"{rule} {shape}", kernels=(), slow=int(np.prod(shape[:2])) * shape[3] * shape[4] * shape[5] > 10**6,
    )  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", [(2, 67, 4, 2, 32, 40), (1, 67, 1, 1, 64, 96), (1, 40, 9, 1, 16, 64)], ids=str)
def test_a_stream_cut_anywhere(rule: str, shape: tuple[int, ...]) -> None:
    arrays, options = problem(generator("cut", rule, shape), rule, *shape)
    whole = tuple(fa.linear_attention(*arrays, **options))
    for cuts in ([1], [32], [33, 34], [2, 5, 5, 38], list(range(1, shape[1]))):
        assert_same_bits(streamed(arrays, options, cuts), whole, f"{rule} {shape} {cuts}")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("heads", [(17, 17), (34, 17)], ids=str)
def test_states_that_come_from_memory(rule: str, heads: tuple[int, int]) -> None:
    """More than a MiB of them, used in place: one token, and a few."""
    arrays, options = problem(generator("memory", rule, heads), rule, 1, 5, *heads, 128, 128)
    whole = tuple(fa.linear_attention(*arrays, **options))
    for cuts in ([1], [2], [2, 3], [3]):
        assert_same_bits(streamed(arrays, options, cuts), whole, f"{rule} {cuts}")
    for tokens in (1, 3):
        part, more = cut(arrays, options, 0, tokens)
        assert_one_result(
            lambda num_threads, part=part, more=more: tuple(
                fa.linear_attention(*part, **more, num_threads=num_threads)
            ),
            f"{rule} {tokens}", kernels=(),
        )  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_a_batch_row_alone(rule: str) -> None:
    (q, k, v), options = problem(generator("alone", rule), rule, 3, 20, 4, 2, 24, 72)
    whole = fa.linear_attention(q, k, v, **options)
    for b in range(3):
        one = {name: x[b : b + 1] for name, x in options.items() if name != "rule"}
        alone = fa.linear_attention(q[b : b + 1], k[b : b + 1], v[b : b + 1], rule=rule, **one)
        assert_same_bits(tuple(alone), (whole.out[b : b + 1], whole.state[b : b + 1]), f"row {b}")
        for h in range(2):
            mine = {name: x[b : b + 1, ..., h : h + 1] for name, x in options.items() if name in ("decay", "beta")}
            state = options["state"][b : b + 1, h : h + 1]
            single = fa.linear_attention(
                q[b : b + 1, :, 2 * h : 2 * h + 2], k[b : b + 1, :, h : h + 1], v[b : b + 1, :, h : h + 1], rule=rule,
                state=state, **mine,
            )  # fmt: skip
            assert_same_bits(single.state, whole.state[b : b + 1, h : h + 1], f"row {b}, head {h}")
            assert_same_bits(single.out, whole.out[b : b + 1, :, 2 * h : 2 * h + 2], f"row {b}, head {h}")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("tokens", [1, 2, 50])
def test_columns_are_their_own(rule: str, tokens: int) -> None:
    """NaN and infinity in a column of v or of the state reach that column alone, as one NaN everywhere."""
    (q, k, v), options = problem(generator("columns", rule, tokens), rule, 1, tokens, 2, 1, 20, 70)
    clean = fa.linear_attention(q, k, v, **options)
    v, state = v.copy(), options["state"].copy()
    v[0, tokens // 2, 0, 3] = np.float32(np.nan) * -1
    v[0, 0, 0, 69] = np.inf
    state[0, 0, 5, 40] = np.nan
    state.view(np.uint32)[0, 0, 6, 41] = 0xFFC12345
    bad = [3, 69, 40, 41]
    good = [c for c in range(70) if c not in bad]
    options["state"] = state
    got = assert_one_result(
        lambda num_threads: tuple(fa.linear_attention(q, k, v, **options, num_threads=num_threads)), "NaN", kernels=()
    )
    ref = reference.linear_attention(q, k, v, **{name: x for name, x in options.items() if name != "rule"})
    for i in range(2):
        assert_same_bits(got[i][..., good], clean[i][..., good], "the other columns")
        assert_same_special(got[i][..., [3, 40, 41]], ref[i][..., [3, 40, 41]])
        assert (got[i][np.isnan(got[i])].view(np.uint32) == CANONICAL_NAN).all()
    assert not np.isfinite(got[1][..., 69]).any()


def test_nan_stays_in_its_head() -> None:
    (q, k, v), options = problem(generator("heads"), "gated_delta", 2, 9, 4, 2, 16, 32)
    clean = fa.linear_attention(q, k, v, **options)
    for name in ("k", "decay", "beta", "q"):
        arrays = {"q": q, "k": k, "v": v, **{n: x.copy() for n, x in options.items() if n != "rule"}}
        arrays[name] = arrays[name].copy()
        arrays[name][0, 4, 0] = np.nan
        got = fa.linear_attention(**arrays, rule="gated_delta")
        hit = slice(0, 1) if name == "q" else slice(0, 2)
        assert np.isnan(got.out[0, 4, hit]).all(), name
        assert_same_bits(got.out[0, :4], clean.out[0, :4], name)
        assert_same_bits(got.out[1], clean.out[1], name)
        assert_same_bits(got.out[0, :, hit.stop :], clean.out[0, :, hit.stop :], name)
        assert_same_bits(got.state[1], clean.state[1], name)


@pytest.mark.parametrize("rule", RULES)
def test_extreme_values(rule: str) -> None:
    for spread in (1e-30, 1e12):
        (q, k, v), options = problem(generator("extreme", rule, spread), rule, 1, 40, 2, 2, 16, 16, state=False)
        check((q, k, v * np.float32(spread)), options)
    if "gated" in rule:
        (q, k, v), options = problem(generator("forget", rule), rule, 1, 40, 2, 1, 16, 16, forget=30.0)
        options["decay"][0, 7] = -np.inf  # forgets everything
        options["decay"][0, 9] = -200.0
        options["decay"][0, 11] = 0.5  # grows
        check((q, k, v), options)
    if "delta" in rule:
        (q, k, v), options = problem(generator("same key", rule), rule, 1, 60, 1, 1, 32, 20)
        k[:] = k[:, :1]  # the state's row in this direction is written again and again
        options["beta"][:] = 1.0
        check((k, k, v), options)


@pytest.mark.parametrize("rule", RULES)
def test_a_long_stream_stays_accurate(rule: str) -> None:
    arrays, options = problem(generator("long", rule), rule, 1, 700, 2, 1, 32, 24, by_row=True)
    check(arrays, options)


# ---- storage types ---------------------------------------------------------------------------------------------------


def bf16(x: np.ndarray) -> np.ndarray:
    """Bits of the nearest bfloat16."""
    bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_precision(kind: str, rule: str) -> None:
    """Stored in half precision, computed in float32: the bits of the widened call, rounded once."""
    narrow = bf16 if kind == "bfloat16" else lambda x: x.astype(np.float16)
    wide = reference.widen if kind == "bfloat16" else lambda x: x.astype(np.float32)
    for shape in [(1, 37, 6, 2, 24, 40), (2, 1, 2, 2, 64, 64), (1, 3, 1, 1, 16, 16)]:
        arrays, options = problem(generator(kind, rule, shape), rule, *shape)
        halves = tuple(narrow(x) for x in arrays)
        small = {name: narrow(x) if name != "rule" else x for name, x in options.items()}
        large = {name: wide(x) if name != "rule" else x for name, x in small.items()}
        expected = fa.linear_attention(*(wide(x) for x in halves), **large)
        got = assert_one_result(
            lambda num_threads, a=halves, o=small: tuple(fa.linear_attention(*a, **o, num_threads=num_threads)),
            f"{kind} {rule} {shape}", kernels=(),
        )  # fmt: skip
        assert got[0].dtype == halves[0].dtype
        assert_same_bits(got[0], narrow(expected.out), "out")
        assert_same_bits(got[1], expected.state, "state")
        mixed = fa.linear_attention(*halves, **{**small, **{n: x for n, x in large.items() if n in ("decay", "state")}})
        assert_same_bits(tuple(mixed), got, "gates and state in float32")


def test_bfloat16_arrays_give_bfloat16_arrays() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    (q, k, v), options = problem(generator("ml_dtypes"), "gated", 1, 9, 2, 2, 16, 24)
    halves = [x.astype(ml_dtypes.bfloat16) for x in (q, k, v)]
    raw = fa.linear_attention(*(x.view(np.uint16) for x in halves), **options)
    got = fa.linear_attention(*halves, **options)
    assert got.out.dtype == ml_dtypes.bfloat16
    assert_same_bits(got.out.view(np.uint16), raw.out)
    out = np.empty_like(halves[2])
    assert fa.linear_attention(*halves, **options, out=out).out is out
    assert_same_bits(out.view(np.uint16), raw.out)


# ---- layouts, out, state_out -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 3, 40])
def test_layouts(tokens: int) -> None:
    (q, k, v), options = problem(generator("layouts", tokens), "gated_delta", 2, tokens, 4, 2, 32, 48, by_row=True)
    expected = tuple(fa.linear_attention(q, k, v, **options))
    for layout in (inputs.bshd, inputs.sliced, inputs.reversed_rows, inputs.unaligned):
        moved = {name: layout(x) for name, x in options.items() if name in ("decay", "state")}
        got = fa.linear_attention(layout(q), layout(k), layout(v), **{**options, **moved})
        assert_same_bits(tuple(got), expected, layout.__name__)
        out = layout(np.zeros_like(expected[0]))
        state_out = layout(np.zeros_like(expected[1]))
        got = fa.linear_attention(q, k, v, **options, out=out, state_out=state_out)
        assert got.out is out and got.state is state_out
        assert_same_bits((out, state_out), expected, layout.__name__)
    fused = np.concatenate([q, k, v[..., :32]], axis=2)  # heads of one projection, as views
    views = fused[:, :, :4], fused[:, :, 4:6], fused[:, :, 6:]
    narrow = {**options, "state": options["state"][..., :32]}
    plain = fa.linear_attention(*(np.ascontiguousarray(x) for x in views), **narrow)
    assert_same_bits(tuple(fa.linear_attention(*views, **narrow)), tuple(plain), "views of one array")
    tensors = fa.linear_attention(*(Producer(x) for x in (q, k, v)), **options)
    assert_same_bits(tuple(tensors), expected, "DLPack")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dv", [16, 40, 128])
def test_state_in_place(rule: str, dv: int) -> None:
    arrays, options = problem(generator("in place", rule, dv), rule, 2, 5, 4, 2, 32, dv)
    before = options["state"].copy()
    expected = fa.linear_attention(*arrays, **options)
    assert_same_bits(options["state"], before, "state is not modified")
    state = options["state"]
    for t in range(5):
        part, more = cut(arrays, options, t, t + 1)
        result = fa.linear_attention(*part, **more, state_out=state)
        assert result.state is state
        assert_same_bits(result.out, expected.out[:, t : t + 1], f"token {t}")
    assert_same_bits(state, expected.state, "state")
    turned = before.swapaxes(0, 1).copy().swapaxes(0, 1)  # not the order of memory: the long way
    assert fa.linear_attention(*arrays, **{**options, "state": turned}, state_out=turned).state is turned
    assert_same_bits(turned, expected.state, "state in another layout")


@pytest.mark.parametrize("rule", RULES)
def test_nothing_to_do(rule: str) -> None:
    arrays, options = problem(generator("nothing", rule), rule, 2, 0, 4, 2, 8, 20)
    got = fa.linear_attention(*arrays, **options)
    assert got.out.shape == (2, 0, 4, 20)
    assert_same_bits(got.state, options["state"], "no tokens")
    assert got.state is not options["state"]
    del options["state"]
    assert not fa.linear_attention(*arrays, **options).state.any()
    arrays, options = problem(generator("nothing", rule), rule, 0, 3, 4, 2, 8, 20)
    got = fa.linear_attention(*arrays, **options)
    assert got.out.shape == (0, 3, 4, 20) and got.state.shape == (0, 2, 8, 20)
    (q, k, v), options = problem(generator("zeros", rule), rule, 1, 4, 2, 2, 8, 20, state=False)
    zeros = np.zeros((1, 2, 8, 20), np.float32)
    assert_same_bits(
        tuple(fa.linear_attention(q, k, v, **options)), tuple(fa.linear_attention(q, k, v, **options, state=zeros)), ""
    )


def test_scale() -> None:
    (q, k, v), options = problem(generator("scale"), "linear", 1, 7, 2, 2, 16, 16)
    plain = fa.linear_attention(q, k, v, **options, scale=1)
    assert_same_bits(fa.linear_attention(q, k, v, **options).out, plain.out * np.float32(0.25), "1 / sqrt(Dk)")
    assert_same_bits(fa.linear_attention(q, k, v, **options, scale=-2.0).out, plain.out * np.float32(-2), "-2")
    assert not fa.linear_attention(q, k, v, **options, scale=np.float32(0)).out.any()


SIZES = st.one_of(st.integers(1, 20), st.sampled_from([31, 32, 33, 48, 63, 64, 65, 100]))


@given(data=st.data())
@settings(max_examples=150)
def test_any_options_against_the_oracle(data: st.DataObject) -> None:
    draw = data.draw
    rule = draw(st.sampled_from(RULES))
    hq, hkv = draw(st.sampled_from([(1, 1), (2, 1), (4, 2), (3, 3), (5, 1), (9, 1)]))
    b, t, dk, dv = draw(st.integers(1, 3)), draw(SIZES), draw(SIZES), draw(SIZES)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    arrays, options = problem(
        rng, rule, b, t, hq, hkv, dk, dv, by_row=draw(st.booleans()), one_rate=draw(st.booleans()),
        state=draw(st.booleans()), forget=draw(st.sampled_from([0.01, 0.5, 5.0])),
    )  # fmt: skip
    if draw(st.booleans()):
        options["scale"] = draw(st.sampled_from([1.0, 0.0, -0.7]))
    note(f"{[x.shape for x in arrays]} {rule}")
    got = tuple(check(arrays, options))
    cuts = sorted(draw(st.lists(st.integers(0, t), max_size=3)))
    assert_same_bits(streamed(arrays, options, cuts), got, f"cut at {cuts}")
    with _testing.use_isa(draw(st.sampled_from(_testing.isas()))):
        assert_same_bits(tuple(fa.linear_attention(*arrays, **options, num_threads=3)), got, "another ISA")
