# SPDX-License-Identifier: MIT
"""KVCache against plain arrays, bit for bit: random programs of its operations, streams without end, growth, forks."""

from __future__ import annotations

import gc
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.streams import DTYPES, Stream, as_query, attend, stored
from support.variants import assert_one_result

import fastattn as fa
from fastattn.kvcache.store import runs, slot_of


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


class Pair:
    """A KVCache and the plain streams it has to agree with."""

    def __init__(self, layers: int, batch: int, heads: int, dims: tuple[int, int], dtype: str, **kept: Any) -> None:
        self.cache = fa.KVCache(layers, batch, heads, dims[0], v_head_dim=dims[1], dtype=dtype, **kept)
        self.layers, self.heads, self.dims, self.dtype = layers, heads, dims, dtype
        self.window, self.sinks = kept.get("window"), kept.get("sink_tokens", 0)
        self.streams = [[Stream(heads, dims, dtype) for _ in range(batch)] for _ in range(layers)]
        self.lengths = np.zeros(batch, np.int64)

    def append(self, layer: int, rows: int, seed: int, counts: list[int] | None = None) -> None:
        batch = len(self.lengths)
        k, v = (normal(seed + i, batch, self.heads, rows, d) for i, d in enumerate(self.dims))
        self.cache.append(layer, k, v, counts)
        for b, stream in enumerate(self.streams[layer]):
            n = rows if counts is None else counts[b]
            stream.append(k[b, :, :n], v[b, :, :n])

    def check(self, layer: int, queries: int, seed: int, offsets: Any, group: int = 2, **options: Any) -> None:
        """What the cache gives at its own default place equals attention at `offsets` over the plain streams."""
        q = as_query(normal(seed, len(self.lengths), self.heads * group, queries, self.dims[0]), self.dtype)
        ours = self.cache.attend(layer, q, **options)
        plain = attend(self.streams[layer], q, offsets, window=self.window, sink_tokens=self.sinks, **options)
        assert ours.dtype == plain.dtype and ours.tobytes() == plain.tobytes()

    def settle(self, lengths: np.ndarray) -> None:
        self.lengths = lengths
        for streams in self.streams:
            for stream, n in zip(streams, lengths.tolist(), strict=True):
                stream.cut(n)
        assert self.cache.lengths.tolist() == lengths.tolist()

    def step(self, rows: int, seed: int, counts: list[int] | None = None) -> None:
        """Every layer appends and attends, the lengths advance by all of it."""
        for layer in range(self.layers):
            self.append(layer, rows, seed + 10 * layer, counts)
            self.check(layer, rows, seed + 5, self.lengths)
        self.cache.advance(rows if counts is None else counts)
        self.settle(self.lengths + (rows if counts is None else np.array(counts)))

    def fork(self) -> Pair:
        new = Pair.__new__(Pair)
        new.__dict__.update(self.__dict__)
        new.cache = self.cache.fork()
        new.streams = [[stream.copy() for stream in streams] for streams in self.streams]
        return new

    def reorder(self, rows: list[int]) -> None:
        self.cache.reorder(rows)
        self.streams = [[streams[r].copy() for r in rows] for streams in self.streams]
        self.lengths = self.lengths[rows]
        assert self.cache.batch == len(rows)


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_any_program_gives_the_bits_of_plain_arrays(dtype: str, data: st.DataObject) -> None:
    draw = data.draw
    layers, batch, heads = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    dims = (draw(st.sampled_from([1, 8, 20, 32])), draw(st.sampled_from([1, 16, 24])))
    window = draw(st.none() | st.integers(1, 60))
    sinks = draw(st.integers(0, 20)) if window else 0
    pairs = [Pair(layers, batch, heads, dims, dtype, max_length=2000, window=window, sink_tokens=sinks)]
    for seed in range(0, 100 * draw(st.integers(1, 12)), 100):
        pair = draw(st.sampled_from(pairs))
        batch = len(pair.lengths)
        what = draw(
            st.sampled_from(["step", "step", "ragged", "twice", "partly", "truncate", "fork", "reorder", "last"])
        )
        rows = draw(st.sampled_from([0, 1, 2, 5, 17, 48, 90]))
        if what == "step":
            pair.step(rows, seed)
        elif what == "ragged":
            pair.step(rows, seed, draw(st.lists(st.integers(0, rows), min_size=batch, max_size=batch)))
        elif what == "twice":
            for layer in range(layers):
                pair.append(layer, rows, seed)
                pair.append(layer, 3, seed + 20)
                pair.check(layer, 3, seed, pair.lengths + rows)
            pair.cache.advance(rows + 3)
            pair.settle(pair.lengths + rows + 3)
        elif what == "partly":
            for layer in range(layers):
                pair.append(layer, rows, seed)
                pair.check(layer, rows, seed, pair.lengths)
            kept = draw(st.lists(st.integers(0, rows), min_size=batch, max_size=batch))
            pair.cache.advance(kept)
            pair.settle(pair.lengths + np.array(kept, np.int64))
        elif what == "truncate":
            back = draw(st.sampled_from([16, 40, 2000]))
            to = [draw(st.integers(max(0, n - back), n)) for n in pair.lengths.tolist()]
            try:
                pair.cache.truncate(to)
            except ValueError as error:
                assert window and "the ring holds" in str(error)
            else:
                pair.settle(np.array(to, np.int64))
        elif what == "fork" and len(pairs) < 4:
            pairs.append(pair.fork())
        elif what == "reorder":
            pair.reorder(draw(st.lists(st.integers(0, batch - 1), min_size=1, max_size=4)))
        elif what == "last":
            for layer in range(layers):
                try:
                    pair.check(layer, 1, seed, pair.lengths - 1)
                except ValueError as error:  # after a truncation the ring may lack the first key of this window
                    assert window and "the ring holds" in str(error)
    for pair in pairs:
        pair.step(2, 7)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sinks", [0, 4])
def test_an_endless_stream_takes_constant_memory(dtype: str, sinks: int) -> None:
    pair = Pair(1, 1, 1, (8, 8), dtype, max_length=None, window=40, sink_tokens=sinks)
    sizes = set()
    for step in range(3000):
        if step % 100 < 2 or step > 2990:
            pair.step(1, step)
        else:
            pair.append(0, 1, step)
            pair.cache.advance(1)
            pair.settle(pair.lengths + 1)
        if step > 200:
            sizes.add(pair.cache.nbytes)
    assert len(sizes) == 1
    token = 2 * (8 * np.dtype(np.int8 if dtype == "int8" else np.float32).itemsize + 4)
    assert sizes.pop() <= (40 + 16 + 16 + 16) * token


@pytest.mark.parametrize("rows", [16, 17, 57, 200, 1000])
def test_an_append_longer_than_the_ring_sees_its_whole_window(rows: int) -> None:
    pair = Pair(2, 2, 1, (16, 16), "float32", max_length=None, window=50, sink_tokens=3)
    for seed in range(0, 600, 100):
        pair.step(1, seed)
        pair.step(rows, seed + 50)
    at_rest = pair.cache.nbytes
    pair.step(1, 1)
    assert pair.cache.nbytes == at_rest <= 4 * 2 * 64 * 2 * 2 * (16 + 50 + 16 + 16)
    pair.cache.truncate(pair.lengths - 16)
    pair.settle(pair.lengths - 16)
    pair.step(5, 2)


def test_a_long_window_costs_what_the_stream_needs() -> None:
    cache = fa.KVCache(1, 1, 1, 8, max_length=None, window=1 << 40)
    k = normal(0, 1, 1, 100, 8)
    cache.append(0, k, k)
    assert cache.nbytes <= 2 * 112 * 8 * 4


@pytest.mark.parametrize("dtype", DTYPES)
def test_growth_doubles_keeps_what_is_there_and_ends_at_max_length(dtype: str) -> None:
    pair = Pair(1, 2, 1, (8, 8), dtype, max_length=700)
    token = 2 * 2 * (8 * {"float32": 4, "int8": 1}.get(dtype, 2) + (4 if dtype == "int8" else 0))
    moves, before = 0, 0
    for step in range(0, 700, 7):
        pair.step(7, step) if step % 70 == 0 else pair.append(0, 7, step)
        if step % 70:
            pair.cache.advance(7)
            pair.settle(pair.lengths + 7)
        assert pair.cache.nbytes <= token * (2 * (step + 7) + 16)
        moves, before = moves + (pair.cache.nbytes != before), pair.cache.nbytes
    assert moves <= 8 and pair.cache.nbytes <= token * 704
    k = normal(0, 2, 1, 1, 8)
    with pytest.raises(fa.CacheFull, match="max_length"):
        pair.cache.append(0, k, k)
    pair.check(0, 1, 3, pair.lengths - 1)
    pair.cache.truncate(699)
    pair.settle(np.full(2, 699))
    pair.step(1, 4)


def test_a_full_cache_is_as_it_was() -> None:
    pair = Pair(1, 2, 1, (8, 8), "float32", max_length=10)
    pair.step(8, 0, [8, 3])
    k = normal(1, 2, 1, 3, 8)
    with pytest.raises(fa.CacheFull, match="k: 3 tokens behind 8 of row 0, expected at most 10"):
        pair.cache.append(0, k, k)
    pair.step(3, 2, [2, 3])
    assert issubclass(fa.CacheFull, ValueError)


def test_lengths_are_a_copy_and_pending_tokens_count_later() -> None:
    cache = fa.KVCache(2, 2, 1, 8, max_length=10)
    k = normal(0, 2, 1, 3, 8)
    cache.append(0, k, k)
    assert cache.lengths.tolist() == [0, 0]
    with pytest.raises(ValueError, match="layer 1"):
        cache.advance(3)
    cache.append(1, k, k)
    cache.advance(3)
    cache.lengths[0] = 7
    assert cache.lengths.tolist() == [3, 3]
    cache.truncate(1)
    assert cache.lengths.tolist() == [1, 1]


def test_a_fork_shares_until_one_of_the_two_writes() -> None:
    pair = Pair(1, 1, 1, (8, 8), "float32", max_length=1000)
    pair.step(100, 0)
    store = pair.cache._layers[0].store
    other = pair.fork()
    assert other.cache._layers[0].store is store
    other.step(1, 1)
    assert other.cache._layers[0].store is not store and pair.cache._layers[0].store is store
    pair.step(1, 2)
    assert pair.cache._layers[0].store is store, "alone again: no copy"
    third = pair.fork()
    del third
    gc.collect()
    pair.step(1, 3)
    assert pair.cache._layers[0].store is store, "a fork that is gone shares nothing"
    pair.cache.append(0, normal(0, 1, 1, 2, 8), normal(1, 1, 1, 2, 8))
    fourth = pair.cache.fork()
    fourth.advance(2)
    pair.cache.advance(1)
    assert (fourth.lengths.tolist(), pair.cache.lengths.tolist()) == ([104], [103])


def test_reorder_copies_rows_in_place_where_it_can() -> None:
    pair = Pair(1, 4, 1, (8, 8), "float32", max_length=1000)
    pair.step(40, 0, [40, 7, 0, 33])
    store = pair.cache._layers[0].store
    pair.reorder([0, 0, 3, 3])
    assert pair.cache._layers[0].store is store
    pair.step(2, 1)
    pair.reorder([1, 0, 3, 2])
    pair.step(2, 2)
    pair.reorder([3, 3, 3, 3, 3, 0])
    pair.step(2, 3)


def test_reorder_and_fork_in_the_middle_of_a_step() -> None:
    pair = Pair(3, 3, 1, (8, 8), "float32", max_length=None, window=40)
    pair.step(30, 0, [30, 7, 18])
    pair.append(0, 25, 1)
    pair.reorder([2, 0, 0])
    pair.append(1, 25, 2)
    other = pair.fork()
    for each in (pair, other):
        each.append(2, 25, 3)
        for layer in range(3):
            each.check(layer, 25, 4, each.lengths)
        each.cache.advance(25)
        each.settle(each.lengths + 25)
        each.step(1, 5)


@pytest.mark.parametrize(("size_from", "size_to"), [(0, 0), (16, 32), (48, 16), (32, 32), (0, 64)])
def test_runs_between_two_rings_cover_every_key_once(size_from: int, size_to: int) -> None:
    for low, high in ((0, 100), (16, 45), (7, 7), (90, 131)):
        keys = []
        for before, after, count in runs(low, high, 16, size_from, size_to):
            j = np.arange(low + len(keys), low + len(keys) + count)
            assert count > 0
            assert np.array_equal(slot_of(j, 16, size_from), before + np.arange(count))
            assert np.array_equal(slot_of(j, 16, size_to), after + np.arange(count))
            keys += j.tolist()
        assert keys == list(range(low, high))


@pytest.mark.parametrize("window", [None, 30])
def test_where_queries_stand(window: int | None) -> None:
    pair = Pair(1, 2, 1, (8, 8), "float32", max_length=1000, window=window)
    pair.step(20, 0, [20, 9])
    pair.append(0, 5, 1, [2, 5])
    pair.check(0, 5, 2, pair.lengths)  # as many as were appended: where their tokens are
    pair.check(0, 1, 2, pair.lengths + [1, 4])  # the last ones of each row
    q, streams = normal(3, 2, 2, 3, 8), pair.streams[0]
    for offset in (4, [4, 6], np.array([-1, 2])):
        plain = attend(streams, q, np.broadcast_to(offset, 2), window=window)
        assert np.array_equal(pair.cache.attend(0, q, q_offset=offset), plain)
    plain = attend(streams, q, pair.lengths + [-1, 2], window=window)
    assert np.array_equal(pair.cache.attend(0, q, causal="bottom_right"), plain)
    assert np.array_equal(pair.cache.attend(0, q, causal="top_left"), attend(streams, q, [0, 0], window=window))
    narrow = pair.cache.attend(0, q, window=(4, 0))
    assert np.array_equal(narrow, attend(streams, q, pair.lengths + [-1, 2], window=5))


def test_queries_may_look_ahead() -> None:
    cache = fa.KVCache(1, 1, 2, 8, max_length=100)
    k, v, q = normal(0, 1, 2, 30, 8), normal(1, 1, 2, 30, 8), normal(2, 1, 4, 30, 8)
    cache.append(0, k, v)
    assert np.array_equal(cache.attend(0, q, causal=False), fa.attention(q, k, v))
    ring = fa.KVCache(1, 1, 2, 8, max_length=None, window=8)
    ring.append(0, k, v)
    assert np.array_equal(ring.attend(0, q, causal=False), fa.attention(q, k, v, window=(7, None)))
    assert np.array_equal(ring.attend(0, q, causal=False, window=(3, 5)), fa.attention(q, k, v, window=(3, 5)))


def test_arrays_of_other_layouts_are_read_in_place() -> None:
    pair = Pair(1, 2, 3, (8, 16), "float32", max_length=100)
    k, v = normal(0, 2, 9, 3, 8), normal(1, 2, 9, 4, 16)
    pair.cache.append(0, k.transpose(0, 2, 1, 3), v[:, :, :3].transpose(0, 2, 1, 3))
    for b, stream in enumerate(pair.streams[0]):
        stream.append(k[b].transpose(1, 0, 2), v[b, :, :3].transpose(1, 0, 2))
    pair.check(0, 9, 2, [0, 0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("given_as", ["float16", "bfloat16"])
def test_narrow_keys_are_stored_as_the_cache_stores(dtype: str, given_as: str) -> None:
    k16, v16 = (stored(normal(i, 1, 1, 20, 8), given_as)[0] for i in range(2))
    if given_as == "float16":
        k, v = k16.astype(np.float32), v16.astype(np.float32)
    else:
        k, v = ((x.astype(np.uint32) << 16).view(np.float32) for x in (k16, v16))
    narrow, wide = (fa.KVCache(1, 1, 1, 8, dtype=dtype, max_length=100) for _ in range(2))
    narrow.append(0, k16, v16)
    wide.append(0, k, v)
    q = as_query(normal(3, 1, 2, 20, 8), dtype)
    assert narrow.attend(0, q).tobytes() == wide.attend(0, q).tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("interleaved", "rotary_dim"), [(False, 16), (True, 16), (False, 6)])
def test_rotation_on_the_way_in(dtype: str, interleaved: bool, rotary_dim: int) -> None:
    cos, sin = fa.rope_table(200, rotary_dim)
    cache = fa.KVCache(1, 2, 3, 16, dtype=dtype, max_length=None, window=60)
    streams = [Stream(3, (16, 16), dtype) for _ in range(2)]
    for seed, counts in enumerate([[7, 3], [1, 1], [0, 90], [20, 0], [0, 0], [1, 1]]):
        rows = max(counts)
        k, v, q = normal(seed, 2, 3, rows, 16), normal(seed + 1, 2, 3, rows, 16), normal(seed + 2, 2, 6, rows, 16)
        start = cache.lengths
        positions = np.minimum(start[:, None] + np.arange(rows), 199)
        turned = fa.rope(k, cos, sin, position_ids=positions, interleaved=interleaved)
        for b, stream in enumerate(streams):
            stream.append(turned[b, :, : counts[b]], v[b, :, : counts[b]])
        cache.append(0, k, v, counts, rope=(cos, sin, interleaved) if interleaved else (cos, sin))
        q = as_query(q, dtype)
        assert cache.attend(0, q).tobytes() == attend(streams, q, start, window=60).tobytes()
        cache.advance(counts)


def test_options_are_those_of_attention() -> None:
    pair = Pair(1, 2, 2, (16, 8), "float32", max_length=1000)
    pair.step(70, 0, [70, 33])
    pair.append(0, 10, 1, [10, 6])
    table = normal(2, 4, 8)
    blocks = np.random.default_rng(3).random((2, 4, 1, 2)) < 0.7
    for options in (
        {"scale": 0.3, "softcap": 2.0},
        {"alibi_slopes": np.array([0.1, 0.2, 0.3, 0.4], np.float32), "return_lse": True},
        {"sinks": np.array([0.1, -3.0, 2.0, 0.4], np.float32), "return_weights": True},
        {"relative_bias": (table, False, 50), "return_scores": "bias"},
        {"mask": np.random.default_rng(4).random((2, 1, 10, 80)) < 0.8},
        {"mask": normal(5, 10, 80), "num_threads": 2},
        {"block_mask": (blocks, (16, 64))},
    ):
        q = normal(6, 2, 4, 10, 16)
        ours, plain = pair.cache.attend(0, q, **options), attend(pair.streams[0], q, pair.lengths, **options)
        for a, b in zip(*((x,) if isinstance(x, np.ndarray) else x for x in (ours, plain)), strict=True):
            assert (a is None) == (b is None) and (a is None or a.tobytes() == b.tobytes())
    out = np.empty((2, 4, 10, 8), np.float32)
    assert pair.cache.attend(0, q, out=out) is out


@pytest.mark.parametrize("queries", [1, 20])
def test_options_over_a_ring_that_has_come_round(queries: int) -> None:
    pair = Pair(1, 2, 2, (16, 16), "float32", max_length=None, window=40)
    pair.step(200, 0, [200, 120])
    pair.append(0, queries, 1)
    count = 200 + queries
    random = np.random.default_rng(2)
    slopes = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    for options in (
        {"softcap": 2.0, "return_lse": True},
        {"alibi_slopes": slopes, "return_scores": "bias"},
        {"sinks": slopes, "return_weights": True},
        {"relative_bias": (normal(3, 4, 8), False, 50)},
        {"mask": random.random((2, 1, queries, count)) < 0.8},
        {"mask": normal(5, queries, count)},
        {"block_mask": (random.random((2, 4, 1, -(-count // 16))) < 0.8, (32, 16))},
    ):
        q = normal(6, 2, 4, queries, 16)
        ours = pair.cache.attend(0, q, **options)
        plain = attend(pair.streams[0], q, pair.lengths, window=40, **options)
        for a, b in zip(*((x,) if isinstance(x, np.ndarray) else x for x in (ours, plain)), strict=True):
            assert (a is None) == (b is None) and (a is None or a.tobytes() == b.tobytes())
    for stage in ("qk", "softcap"):
        with pytest.raises(ValueError, match=f"return_scores: '{stage}' from a ring"):
            pair.cache.attend(0, q, return_scores=stage)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bits_on_every_isa_kernel_and_thread_count(dtype: str) -> None:
    k, v, q = normal(0, 1, 2, 1200, 24), normal(1, 1, 2, 1200, 16), as_query(normal(2, 1, 4, 3, 24), dtype)

    def call(num_threads: int | None) -> list[np.ndarray]:
        results = []
        for window in (None, 200):
            cache = fa.KVCache(1, 1, 2, 24, v_head_dim=16, dtype=dtype, max_length=2000, window=window, sink_tokens=0)
            cache.append(0, k[:, :, :1197], v[:, :, :1197], num_threads=num_threads)
            cache.advance(1197)
            cache.append(0, k[:, :, 1197:], v[:, :, 1197:], num_threads=num_threads)
            results.append(cache.attend(0, q, num_threads=num_threads))
        return results

    assert_one_result(call, dtype)


def test_threads_meet_an_error_not_a_race() -> None:
    cache = fa.KVCache(1, 1, 1, 8, max_length=10)
    k = normal(0, 1, 1, 1, 8)
    with cache._guard.writing:
        for call in (lambda: cache.append(0, k, k), lambda: cache.attend(0, k), lambda: cache.advance(0), cache.fork):
            with pytest.raises(RuntimeError, match="another thread"):
                call()
    with cache._guard.reading:
        assert cache.attend(0, k).shape == (1, 1, 1, 8)  # reading together is fine
        with pytest.raises(RuntimeError, match="another thread"):
            cache.append(0, k, k)
    cache.append(0, k, k)
    cache.advance(1)
    results: list[bytes] = []
    threads = [threading.Thread(target=lambda: results.append(cache.attend(0, k).tobytes())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8 and len(set(results)) == 1


def test_bfloat16_arrays_of_ml_dtypes() -> None:
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    k, v, q = (normal(i, 1, 1, 20, 8).astype(bfloat16) for i in range(3))
    cache = fa.KVCache(1, 1, 1, 8, dtype=bfloat16, max_length=100)
    cache.append(0, k, v)
    out = cache.attend(0, q)
    assert out.dtype == bfloat16 and out.tobytes() == fa.attention(q, k, v, causal=True).tobytes()


@pytest.mark.parametrize("sinks", [0, 5])
def test_a_ring_starts_afresh(sinks: int) -> None:
    pair = Pair(2, 2, 1, (8, 8), "float32", max_length=None, window=20, sink_tokens=sinks)
    for rows in (100, 1, 1, 30):
        pair.step(rows, rows)
    pair.cache.truncate(sinks)
    pair.settle(np.full(2, sinks))
    for rows in (1, 100, 3):
        pair.step(rows, rows)
    other = pair.fork()
    other.cache.truncate(0)
    other.settle(np.zeros(2, np.int64))
    pair.step(1, 1)
    other.step(7, 1)
