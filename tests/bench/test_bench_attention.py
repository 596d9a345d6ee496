# SPDX-License-Identifier: MIT
"""What ``fastattn bench attention`` measures: its tables, inputs, peers and modes. No speed is asserted."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.shares import can_be

from fastattn import attention as our_attention
from fastattn import cli, reference
from fastattn.bench import (
    attention,
    compare,
    decode,
    inputs,
    long,
    peaks,
    peers,
    relations,
    report,
    scaling,
    shapes,
    timing,
)
from fastattn.bench.attention_shapes import least_sets
from fastattn.bench.shapes import AttentionCase

QUICK = timing.Plan(rounds=3)
TINY = AttentionCase("tiny", 1, 2, 2, 8, 8, 16)


def bench(*args: str, capsys: pytest.CaptureFixture[str]) -> Any:
    """The JSON object of a bench command in this process."""
    status = cli.main(["bench", "attention", *args, "--json"])
    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    return json.loads(out)


# ---- tables ----------------------------------------------------------------------------------------------------------


def test_the_grid_covers_what_it_promises() -> None:
    grid = shapes.ATTENTION
    for table in (grid, shapes.PEAK, shapes.RELATIONS, shapes.SCALING):
        assert len({case.name for case in table}) == len(table)
    assert len(grid) >= 40
    assert {16, 8192} <= {case.sq for case in grid} and {32, 64, 80, 128, 256} <= {case.d for case in grid}
    assert {None, "bool", "float", "padding", "block"} == {case.mask for case in grid}
    assert {"float32", "float16", "bfloat16", "int8"} == {case.kv_dtype for case in grid}
    for chosen in (
        lambda c: c.causal, lambda c: c.window, lambda c: c.alibi, lambda c: c.sinks, lambda c: c.softcap,
        lambda c: c.dv != c.d and not c.latent, lambda c: (c.heads, c.kv_heads, c.d, c.dv) == (16, 1, 576, 512),
        lambda c: c.sq == 1 and c.kv_heads == 1 and c.heads == 32, lambda c: c.sq == 1 and c.sk == 8192,
        lambda c: c.sq > 1 and c.sq != c.sk and not c.causal, lambda c: c.sq <= 128 and c.heads * c.batch >= 100,
    ):  # fmt: skip
        assert any(map(chosen, grid))
    assert all(case.heads % case.kv_heads == 0 for case in grid)
    for batch in (1, 8):
        stored = [case for case in grid if (case.batch, case.heads, case.kv_heads, case.sk) == (batch, 32, 8, 4096)]
        assert [case.kv_dtype for case in stored] == ["float32", "float16", "bfloat16", "int8"]
        assert all(least_sets(case, 1 << 27) >= 8 and 8 * case.kv_bytes >= 1 << 26 for case in stored)


def test_flops() -> None:
    assert AttentionCase("", 2, 3, 3, 5, 7, 11).flops == 4 * 2 * 3 * 5 * 7 * 11
    assert AttentionCase("", 1, 1, 1, 5, 7, 11, value_dim=3).flops == 2 * 5 * 7 * (11 + 3)
    assert AttentionCase("", 1, 1, 1, 8, 8, 2, causal=True).flops == 4 * 2 * 32
    assert AttentionCase("", 1, 1, 1, 2, 8, 1, causal=True).flops == 4 * (16 - 2)


@pytest.mark.parametrize("case", [
    AttentionCase("", 1, 1, 1, 9, 9, 1, window=(2, 1)), AttentionCase("", 1, 1, 1, 4, 9, 1, window=(2, None)),
    AttentionCase("", 1, 1, 1, 4, 9, 1, window=(None, 1)), AttentionCase("", 1, 1, 1, 150, 170, 1, mask="block"),
    AttentionCase("", 1, 1, 1, 4, 9, 1, window=(3, None), causal=True),
])  # fmt: skip
def test_pairs_are_those_the_mask_leaves(case: AttentionCase) -> None:
    (one,) = attention.make_inputs(case)
    seen = inputs.boolean(one)
    assert seen is not None and case.pairs == np.broadcast_to(seen, (1, 1, case.sq, case.sk)).sum()


def test_sizes() -> None:
    assert AttentionCase("", 1, 4, 2, 1, 8, 4).kv_bytes == 2 * 4 * 2 * 8 * 4
    for case in (
        AttentionCase("", 2, 4, 2, 1, 8, 4, value_dim=3, dtype="float16"),
        AttentionCase("", 2, 4, 2, 1, 8, 4, int8=True),
        AttentionCase("", 2, 4, 1, 1, 8, 4, value_dim=3, latent=True),
        AttentionCase("", 2, 4, 2, 1, 8, 4, dtype="bfloat16"),
    ):  # fmt: skip
        (one,) = attention.make_inputs(case)
        arrays = [one.k, None if case.latent else one.v, one.k_scale, one.v_scale]
        assert case.kv_bytes == sum(array.nbytes for array in arrays if array is not None)
        assert not case.latent or np.shares_memory(one.k, one.v)


def test_listing_needs_no_arrays(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "attention", "--list", "--shapes", "decode-gqa"]) == 0
    rows = [row.split() for row in capsys.readouterr().out.splitlines()]
    assert len(rows) == 10
    assert rows[3] == ["decode-gqa-b1-sk4096-d128-int8", "B1", "H32/8", "N1x4096", "D128", "int8", "KV"]
    for mode, count in (("--peak-shapes", 23), ("--decode", 8), ("--scaling", 7)):
        assert cli.main(["bench", "attention", "--list", mode]) == 0
        assert len(capsys.readouterr().out.splitlines()) == count


# ---- inputs ----------------------------------------------------------------------------------------------------------


def test_storage_types() -> None:
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    bits = inputs.narrowed(values, "bfloat16")
    assert bits.dtype == np.uint16 and np.abs(inputs.widened(bits) / values - 1).max() <= 2**-8
    assert inputs.narrowed(values, "float16").dtype == np.float16 and inputs.narrowed(values, "float32") is values
    (one,) = attention.make_inputs(replace(TINY, int8=True))
    assert one.k.dtype == np.int8 and one.float_kv[0].dtype == np.float32 and one.out.dtype == np.float32
    (one,) = attention.make_inputs(replace(TINY, dtype="bfloat16"))
    assert {one.q.dtype, one.k.dtype, one.v.dtype, one.out.dtype} == {np.dtype(np.uint16)}


def test_sets_are_apart_and_in_turn() -> None:
    case = replace(TINY, cold=True, int8=True)
    sets = attention.make_inputs(case, sets=3)
    for name in ("k", "v", "k_scale", "v_scale"):
        first, second = (getattr(s, name) for s in sets[:2])
        assert not np.shares_memory(first, second) and (first == second).all()
    walk = inputs.Walk(sets)
    assert [walk.next() for _ in range(5)] == [0, 1, 2, 0, 1]
    with pytest.raises(MemoryError, match="tiny: 10000000000000 caches"):
        attention.make_inputs(case, sets=10**13)


OPTIONS = [
    TINY, AttentionCase("causal", 1, 2, 2, 9, 9, 8, causal=True), AttentionCase("chunk", 2, 4, 2, 3, 9, 8, causal=True),
    AttentionCase("chunk-of-one-row", 1, 4, 2, 3, 9, 8, causal=True),
    AttentionCase("bool", 2, 4, 2, 5, 9, 8, mask="bool"), AttentionCase("padding", 3, 4, 2, 9, 9, 8, mask="padding"),
    AttentionCase("float", 2, 4, 2, 5, 9, 8, mask="float"), AttentionCase("decode", 2, 4, 1, 1, 9, 8),
    AttentionCase("window", 1, 4, 2, 9, 9, 8, window=(3, 2)),
    AttentionCase("causal-window", 1, 4, 2, 9, 9, 8, causal=True, window=(3, 0)),
    AttentionCase("dv", 1, 4, 2, 9, 9, 8, value_dim=16), AttentionCase("softcap", 1, 4, 2, 9, 9, 8, softcap=2.0),
    AttentionCase("cross", 2, 4, 4, 3, 9, 8),
    AttentionCase("fp16", 2, 4, 2, 9, 9, 16, dtype="float16"),
    AttentionCase("bf16", 2, 4, 2, 9, 9, 16, dtype="bfloat16"),
    AttentionCase("decode-fp16", 2, 4, 2, 1, 40, 16, dtype="float16"),
    AttentionCase("decode-int8", 2, 4, 2, 1, 40, 16, int8=True),
    AttentionCase("alibi", 1, 4, 2, 9, 9, 8, causal=True, alibi=True),
    AttentionCase("alibi-decode", 2, 4, 2, 1, 9, 8, alibi=True),
    AttentionCase("sinks", 1, 4, 2, 9, 9, 8, causal=True, window=(3, 0), sinks=True),
    AttentionCase("block", 1, 2, 2, 150, 170, 8, mask="block"),
    AttentionCase("latent", 1, 4, 1, 1, 9, 24, value_dim=16, latent=True),
]  # fmt: skip


@pytest.mark.parametrize("case", OPTIONS, ids=lambda case: case.name)
def test_options_say_what_the_masks_for_peers_say(case: AttentionCase) -> None:
    (one,) = attention.make_inputs(case)
    found = our_attention(one.q, one.k, one.v, **inputs.options(one))
    added = inputs.additive(one)
    k, v = one.float_kv
    plain = reference.attention(
        inputs.widened(one.q), inputs.widened(k), inputs.widened(v), mask=added, softcap=case.softcap, sinks=one.sinks
    )
    scale = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}[case.dtype]
    assert np.abs(inputs.widened(found) - plain.out).max() <= scale


# ---- peers -----------------------------------------------------------------------------------------------------------

MISSING = {
    "onnxruntime": {"bf16": "no bfloat16 kernels"},
    "openvino": {"softcap": "neither a soft cap", "sinks": "neither a soft cap"},
    "numpy": {"fp16": "float32", "bf16": "float32", "int8": "float32", "sinks": "no softmax with sinks"},
}
"""By peer and a part of the case's name: what the peer has not got, in its words."""


@pytest.mark.parametrize("case", OPTIONS, ids=lambda case: case.name)
@pytest.mark.parametrize("name", [name for name in peers.NAMES if name != "ctranslate2"])
def test_peers_compute_the_same(name: str, case: AttentionCase) -> None:
    pytest.importorskip({"numpy": "threadpoolctl", "onnxruntime": "onnx"}.get(name, name))
    pytest.importorskip(name)
    found, notes = peers.open_peers([name], 1)
    assert not notes
    sets = attention.make_inputs(case, sets=2)
    before = [array.copy() for s in sets for array in (s.q, s.k, s.v)]
    try:
        rival = attention.peer_call(found[0], case, inputs.Walk(sets))
    finally:
        found[0].close()
    missing = [why for part, why in MISSING.get(name, {}).items() if part in case.name]
    if missing:
        assert isinstance(rival, str) and missing[0] in rival
        return
    assert not isinstance(rival, str), rival
    wrong = [form for form, why in rival.left_out.items() if "differs" in why]
    assert all(name == "openvino" and ", f16" in form for form in wrong), wrong  # its f16 is no better than bfloat16
    after = [array for s in sets for array in (s.q, s.k, s.v)]
    assert all((a == b).all() for a, b in zip(before, after, strict=True))


class Several(peers.Peer):
    """A peer with forms of every kind."""

    name = "several"

    def attention(self, case: AttentionCase, sets: Any) -> list[peers.Form]:
        def broken() -> Any:
            raise KeyError("kernel")

        def right(index: int) -> np.ndarray:
            return our_attention(sets[index].q, sets[index].k, sets[index].v)

        return [
            peers.Form("broken", broken),
            peers.Form("wrong", lambda: lambda index: right(index) * 1.01),
            peers.Form("another shape", lambda: lambda index: right(index)[0]),
            peers.Form("right", lambda: right),
        ]


def test_forms_that_fail_are_left_out_and_said() -> None:
    row = attention.run_case(TINY, [Several(1)], peaks.Limits(1, read=False), QUICK)
    found = row["peers"]["several"]
    assert found["form"] == "right" and found["deviation"] == 0 and row["deviation"] is None
    assert found["ratio"] > 0 and row["best"]["name"] == "several"
    table = report.Table(["tiny"], [row["shape"]], ["several"])
    assert " several" in table.row(row) and not table.errors([row])
    assert list(found["left_out"]) == ["broken", "wrong", "another shape"]
    assert found["left_out"]["broken"] == "KeyError: 'kernel'"
    assert "differs by" in found["left_out"]["wrong"] and "has shape (2, 8, 16)" in found["left_out"]["another shape"]


def test_half_precision_is_measured_from_float32() -> None:
    class Coarse(peers.Peer):
        name = "coarse"

        def attention(self, case: AttentionCase, sets: Any) -> list[peers.Form]:
            def call(index: int) -> np.ndarray:
                s = sets[index]
                return our_attention(s.q, s.k, s.v).astype(np.float32) * np.float32(1.003)

            return [peers.Form("only", lambda: call)]

    row = attention.run_case(replace(TINY, dtype="float16"), [Coarse(1)], peaks.Limits(1, read=False), QUICK)
    assert 0 < row["deviation"] < 2e-3 < row["peers"]["coarse"]["deviation"] < 1e-2
    assert row["best"]["coarse"] is True and row["dtype"] == "float16"
    table = report.Table(["tiny"], [row["shape"]], ["coarse"])
    assert "coarse*" in table.row(row) and "  * its" in table.summary({}, compare.best_rivals([row]))[1]


def test_best_rivals() -> None:
    def row(name: str, **ratios: float) -> dict[str, Any]:
        best = min(ratios, key=ratios.__getitem__, default="")
        entry = {"name": best, "ratio": ratios[best]} if best else None
        return {"name": name, "dtype": "float32" if name == "a" else "int8", "best": entry}

    rows = [row("a", x=2.0, y=8.0), row("b"), row("c", x=2.0, y=0.5)]
    found = compare.best_rivals(rows)
    assert found is not None and found["geometric_mean"] == pytest.approx(1.0) and found["cases"] == 2
    assert found["least"] == {"case": "c", "name": "y", "ratio": 0.5} and found["slower"] == ["c"]
    assert found["by_dtype"] == pytest.approx({"float32": 2.0, "int8": 0.5})
    assert compare.best_rivals([row("b")]) is None


# ---- modes -----------------------------------------------------------------------------------------------------------


def test_peak_shapes_and_relations(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    size = {"sq": 64, "sk": 64}
    small = [shapes.Relation(r.name, replace(r.base, **size), replace(r.case, **size)) for r in shapes.RELATIONS]
    monkeypatch.setattr(shapes, "RELATIONS", tuple(small))
    args = ("--peak-shapes", "--shapes", "peak-n96-d64,causal,float,bf16-n2048-d64", "--rounds", "3", "--threads", "1")
    found = bench(*args, capsys=capsys)
    assert [row["name"] for row in found["cases"]] == ["peak-n96-d64"] and can_be(found["cases"][0])
    chosen = [r.name for r in small if r.name.startswith(("causal", "float")) or r.name == "bf16-n2048-d64"]
    assert [row["name"] for row in found["relations"]] == chosen
    for row in found["relations"]:
        additive = row["name"].startswith("float")
        assert row["ratio"] > 0 and row["rounds"] == 3
        assert (row["read_s"] is not None) == (row["beyond_reading"] is not None) == additive
    assert cli.main(["bench", "attention", *args[:3], *args[3:]]) == 0
    out = capsys.readouterr().out
    assert "of reading the mask" in out and "peak-n96-d64" in out


def test_a_relation_changes_the_option_alone() -> None:
    for relation in shapes.RELATIONS:
        base, case = relation.base, relation.case
        assert (base.mask, base.causal, base.kv_dtype) == (None, False, "float32")
        assert case.mask or case.causal or case.kv_dtype != "float32"
        plain = replace(case, name="", mask=None, causal=False, dtype="float32", int8=False, cached=False)
        assert plain == replace(base, name="")
    small = replace(shapes.RELATIONS[0].base, sq=32, sk=32)
    relation = shapes.Relation("float", small, replace(small, name="float", mask="float"))
    (one,) = attention.make_inputs(relation.case)
    bare = relations._without(one, relation)
    assert bare.mask is None and bare.q is one.q and bare.k is one.k and not inputs.options(bare)
    half = shapes.Relation("fp16", small, replace(small, name="fp16", dtype="float16"))
    assert relations._without(attention.make_inputs(half.case)[0], half).k.dtype == np.float32


def test_decode_types_share_their_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    cases = [AttentionCase("one", 1, 4, 2, 1, 64, 32, cold=True), AttentionCase("two", 1, 4, 2, 1, 64, 32, cold=True)]
    limits = peaks.Limits(1)
    first, second = decode.run_batch([replace(case, cold=False) for case in cases], limits, QUICK)
    assert first["ratio"] == 1 and second["ratio"] > 0 and first["rounds"] == second["rounds"] == 3
    for row in (first, second):
        assert can_be(row, "read_share", "fma_share") and row["gbytes_per_second"] > 0
    assert [len(list(group)) for group in _groups(shapes.DECODE)] == [4, 4]


def _groups(cases: Any) -> list[list[AttentionCase]]:
    from itertools import groupby

    return [list(group) for _, group in groupby(cases, decode._alike)]


def test_decode_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = [AttentionCase(f"small-{i}", 1, 4, 2, 1, 64, 32) for i in range(2)]
    monkeypatch.setattr(shapes, "DECODE", tuple(small))
    found = bench("--decode", "--rounds", "3", "--threads", "1", capsys=capsys)
    assert [row["name"] for row in found["cases"]] == ["small-0", "small-1"]
    assert cli.main(["bench", "attention", "--decode", "--shapes", "small-1", "--rounds", "2"]) == 0
    assert "small-1" in capsys.readouterr().out


def test_decode_refuses_more_than_the_memory_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "available_memory", lambda: 1 << 20)
    with pytest.raises(MemoryError, match="MiB of caches are more than half"):
        decode.run_batch(shapes.DECODE[:1], peaks.Limits(1, read=False), QUICK)


def test_long_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    one, base = AttentionCase("long", 1, 1, 1, 512, 512, 64), AttentionCase("base", 1, 1, 1, 128, 128, 64)
    found = long.run_long(1, QUICK, one, base)
    assert (found["n"], found["base_n"], found["rounds"]) == (512, 128, 3)
    assert found["ratio"] > 0 and found["expected_s"] > found["base_s"] and found["growth_bytes"] < 16 << 20
    assert found["score_bytes"] == 4 * 512**2
    monkeypatch.setattr(long, "run_long", lambda threads, plan: {**found, "rounds": plan.rounds})
    assert bench("--long", capsys=capsys)["rounds"] == 5
    assert cli.main(["bench", "attention", "--long", "--rounds", "2"]) == 0
    assert "times the quadratic extrapolation" in capsys.readouterr().out


def test_scaling_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = [AttentionCase("warm", 1, 8, 8, 64, 64, 64), AttentionCase("cold", 1, 8, 8, 1, 64, 64, cold=True)]
    monkeypatch.setattr(shapes, "SCALING", tuple(small))
    monkeypatch.setattr(inputs, "cold_bytes", lambda: 1 << 20)
    warm, cold = bench("--scaling", "--threads", "2", "--rounds", "3", capsys=capsys)["cases"]
    assert (warm["num_threads"], warm["read_gain"], warm["limit"], warm["rounds"]) == (2, None, "fma", 3)
    assert cold["read_gain"] > 0 and all(row["gain"] > 0 and can_be(row) for row in (warm, cold))
    assert cli.main(["bench", "attention", "--scaling", "--threads", "2", "--rounds", "2", "--shapes", "warm"]) == 0
    assert "2 threads" in capsys.readouterr().out


@pytest.mark.parametrize("args", [
    ["--scaling", "--threads", "1"], ["--decode", "--compare", "torch"], ["--long", "--shapes", "n65536"],
    ["--long", "--list"], ["--scaling", "--check-determinism"], ["--overhead", "--compare", "numpy"],
    ["--decode", "--long"], ["--decode", "--shapes", "nonsense"], ["--peak-shapes", "--decode"],
], ids=" ".join)  # fmt: skip
def test_what_makes_no_sense_is_a_usage_error(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "attention", *args]) == 2
    assert "error: argument" in capsys.readouterr().err


def test_scaling_says_what_binds() -> None:
    one, many = peaks.Limits(1, read=False), peaks.Limits(2, read=False)
    row = scaling.run_case(TINY, one, many, QUICK)
    assert row["limit"] == "fma" and row["one_s"] > 0 and row["many_s"] > 0


def test_the_peak_is_that_of_the_instruction_set() -> None:
    from fastattn import _core

    before = _core.current_isa()
    try:
        _core.select_isa("scalar")
        scalar = peaks.measure_peaks(1, rounds=3)
    finally:
        _core.select_isa(before)
    best = peaks.measure_peaks(1, rounds=3)
    assert scalar["isa"] == "scalar" and (before == "scalar" or scalar["gflops"] < best["gflops"] / 4)
