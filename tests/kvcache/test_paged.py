# SPDX-License-Identifier: MIT
"""PagedKVCache against plain arrays, bit for bit: random programs of its operations, shared pages, a full pool."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.streams import DTYPES, Stream, as_query, attend

import fastattn as fa
from fastattn.kvcache.pages import PagePool


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


class Pair:
    """A PagedKVCache, the plain streams of its sequences, and the pages that they should take."""

    def __init__(self, layers: int, heads: int, dims: tuple[int, int], dtype: str, **pool: Any) -> None:
        self.cache = fa.PagedKVCache(layers, heads, dims[0], v_head_dim=dims[1], dtype=dtype, **pool)
        self.layers, self.heads, self.dims, self.dtype = layers, heads, dims, dtype
        self.streams: dict[int, list[Stream]] = {}
        self.lengths: dict[int, int] = {}

    def add(self) -> int:
        i = self.cache.add()
        self.streams[i] = [Stream(self.heads, self.dims, self.dtype) for _ in range(self.layers)]
        self.lengths[i] = 0
        return i

    def fork(self, i: int) -> int:
        new = self.cache.fork(i)
        self.streams[new], self.lengths[new] = [stream.copy() for stream in self.streams[i]], self.lengths[i]
        return new

    def append(self, layer: int, ids: list[int], counts: list[int], seed: int, **options: Any) -> None:
        cu = np.cumsum([0, *counts])
        k, v = (normal(seed + i, int(cu[-1]), self.heads, d) for i, d in enumerate(self.dims))
        self.cache.append(layer, ids, k, v, cu, **options)
        for i, (a, b) in zip(ids, pairwise(cu.tolist()), strict=True):
            self.streams[i][layer].append(k[a:b].transpose(1, 0, 2), v[a:b].transpose(1, 0, 2))

    def check(self, layer: int, ids: list[int], counts: list[int], seed: int, **options: Any) -> None:
        """Queries at the end of each sequence give the bits they have over plain arrays."""
        cu = np.cumsum([0, *counts])
        q = as_query(normal(seed, int(cu[-1]), 2 * self.heads, self.dims[0]), self.dtype)
        ours = self.cache.attend(layer, ids, q, cu, **options)
        assert ours.shape == (len(q), 2 * self.heads, self.dims[1])
        for i, (a, b) in zip(ids, pairwise(cu.tolist()), strict=True):
            stream = self.streams[i][layer]
            plain = attend([stream], q[a:b].transpose(1, 0, 2)[None], [len(stream) - (b - a)])
            assert ours.dtype == plain.dtype
            assert ours[a:b].transpose(1, 0, 2).tobytes() == np.ascontiguousarray(plain[0]).tobytes()

    def settle(self, i: int, length: int) -> None:
        self.lengths[i] = length
        for stream in self.streams[i]:
            stream.cut(length)

    def step(self, ids: list[int], counts: list[int], seed: int) -> None:
        for layer in range(self.layers):
            self.append(layer, ids, counts, seed + 10 * layer)
            self.check(layer, ids, counts, seed)
        self.cache.advance(ids, counts)
        for i, n in zip(ids, counts, strict=True):
            self.settle(i, self.lengths[i] + n)

    def pages(self) -> None:
        """What must hold of the pages after every operation."""
        cache, sequences = self.cache, self.cache._sequences
        assert cache.sequences == list(self.streams)
        assert cache.lengths().tolist() == list(self.lengths.values())
        holders: dict[int, int] = {}
        for seq in sequences.values():
            assert len(seq.pages) >= -(-seq.length // cache.page_size)
            for page in seq.pages:
                holders[page] = holders.get(page, 0) + 1
        assert holders == cache._pool._holders
        assert all(0 <= page < cache._pool.count for page in holders)
        assert cache.pages_used == len(holders) and cache.pages_free + cache.pages_used == cache._pool.count


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_any_program_gives_the_bits_of_plain_arrays(dtype: str, data: st.DataObject) -> None:
    draw = data.draw
    layers, heads = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    dims = (draw(st.sampled_from([1, 8, 20])), draw(st.sampled_from([1, 16, 24])))
    pool = {"num_pages": draw(st.integers(1, 40)), "page_size": draw(st.sampled_from([16, 48, 96]))}
    pair = Pair(layers, heads, dims, dtype, **pool)
    pair.add()
    for seed in range(0, 100 * draw(st.integers(1, 14)), 100):
        ids = list(pair.streams)
        what = draw(
            st.sampled_from(["step", "step", "step", "partly", "add", "fork", "fork", "truncate", "free", "reorder"])
        )
        some = draw(st.permutations(ids))[: draw(st.integers(1, 4))] if ids else []
        if what == "add" or not ids:
            pair.add()
        elif what == "fork":
            pair.fork(some[0])
        elif what == "free":
            pair.cache.free(some)
            for i in some:
                del pair.streams[i], pair.lengths[i]
        elif what == "truncate":
            to = [draw(st.integers(0, pair.lengths[i])) for i in some]
            pair.cache.truncate(some, to)
            for i, n in zip(some, to, strict=True):
                pair.settle(i, n)
        elif what == "reorder":
            sources = [draw(st.sampled_from(ids)) for _ in some]
            pair.cache.reorder(some, sources)
            before = {i: ([s.copy() for s in pair.streams[i]], pair.lengths[i]) for i in ids}
            for i, source in zip(some, sources, strict=True):
                pair.streams[i], pair.lengths[i] = [s.copy() for s in before[source][0]], before[source][1]
        else:
            counts = [draw(st.sampled_from([0, 1, 1, 2, 15, 16, 17, 50, 100])) for _ in some]
            used, free = pair.cache.pages_used, pair.cache.pages_free
            try:
                pair.append(0, some, counts, seed)
            except fa.CacheFull:
                assert (pair.cache.pages_used, pair.cache.pages_free) == (used, free)
            else:
                pair.check(0, some, counts, seed + 5)
                copy = pair.fork(some[0]) if what == "partly" else None
                for layer in range(1, layers):
                    try:
                        pair.append(layer, some, counts, seed + 10 * layer)
                    except fa.CacheFull:
                        assert copy is not None, "the first layer took the pages"
                        counts = [0] * len(some)
                        break
                    pair.check(layer, some, counts, seed + 5)
                kept = counts if what == "step" else [draw(st.integers(0, n)) for n in counts]
                pair.cache.advance(some, kept)
                for i, n in zip(some, kept, strict=True):
                    pair.settle(i, pair.lengths[i] + n)
                if copy is not None:  # it took over what had been appended, and lets it go
                    pair.check(0, [copy], [1], seed + 6)
                    pair.cache.truncate(copy, pair.lengths[copy])
                    pair.settle(copy, pair.lengths[copy])
        pair.pages()
    ids = list(pair.streams)
    for layer in range(layers):
        pair.check(layer, ids, [3] * len(ids), 1)
    pair.cache.free(ids)
    assert pair.cache.pages_used == 0 and pair.cache.sequences == []


def test_forks_share_pages_until_they_write() -> None:
    pair = Pair(2, 1, (8, 8), "float32", num_pages=20, page_size=16)
    prompt = pair.add()
    pair.step([prompt], [40], 0)
    assert pair.cache.pages_used == 3
    answers = [pair.fork(prompt) for _ in range(4)]
    assert pair.cache.pages_used == 3
    pair.step(answers, [1] * 4, 1)
    assert pair.cache.pages_used == 3 + 4
    pair.step([prompt], [1], 2)
    assert pair.cache.pages_used == 3 + 4, "the last holder of a page writes in place"
    pair.step([*answers, prompt], [30, 1, 2, 3, 4], 3)
    pair.cache.free(prompt)
    del pair.streams[prompt], pair.lengths[prompt]
    pair.step(answers, [1] * 4, 4)
    pair.pages()


def test_the_last_page_is_enough_for_the_last_of_two_holders() -> None:
    pair = Pair(1, 1, (8, 8), "float32", num_pages=2, page_size=16)
    a = pair.add()
    pair.step([a], [8], 0)
    b = pair.fork(a)
    pair.step([a, b], [1, 1], 1)
    assert pair.cache.pages_free == 0
    c = pair.fork(a)
    k = normal(0, 2, 1, 8)
    with pytest.raises(fa.CacheFull, match="k: 1 more pages needed, 0 of 2 are free"):
        pair.cache.append(0, [b, c], k, k)
    with pytest.raises(fa.CacheFull):
        pair.cache.append(0, b, normal(0, 8, 1, 8), normal(0, 8, 1, 8))
    pair.pages()
    pair.step([b], [7], 2)
    pair.cache.free([a, b])
    assert pair.cache.pages_free == 1
    for i in (a, b):
        del pair.streams[i], pair.lengths[i]
    pair.step([c], [20], 3)


def test_beams_are_reordered_without_copies() -> None:
    pair = Pair(1, 1, (8, 8), "float32", num_pages=30, page_size=16)
    beams = [pair.add()]
    pair.step(beams, [50], 0)
    beams += [pair.fork(beams[0]) for _ in range(2)]
    for seed in range(1, 20):
        pair.step(beams, [1, 1, 1], seed)
        sources = np.random.default_rng(seed).integers(0, 3, 3)
        used = pair.cache.pages_used
        pair.cache.reorder(beams, [beams[s] for s in sources])
        assert pair.cache.pages_used <= used
        before = [([s.copy() for s in pair.streams[i]], pair.lengths[i]) for i in beams]
        for i, s in zip(beams, sources, strict=True):
            pair.streams[i], pair.lengths[i] = [x.copy() for x in before[s][0]], before[s][1]
        pair.pages()


def test_reorder_and_fork_in_the_middle_of_a_step() -> None:
    pair = Pair(3, 1, (8, 8), "float32", num_pages=30, page_size=16)
    a, b = pair.add(), pair.add()
    pair.step([a, b], [20, 20], 0)
    pair.append(0, [a, b], [2, 2], 1)
    pair.cache.reorder([a], [b])
    pair.streams[a] = [stream.copy() for stream in pair.streams[b]]
    pair.append(1, [a, b], [2, 2], 2)
    c = pair.fork(a)
    pair.append(2, [a, b, c], [2, 2, 2], 3)
    for layer in range(3):
        pair.check(layer, [a, b, c], [2, 2, 2], 4)
    pair.cache.advance([a, b, c], 2)
    for i in (a, b, c):
        pair.settle(i, 22)
    pair.step([a, b, c], [1, 1, 1], 5)
    pair.pages()


def test_one_query_or_token_for_each_needs_no_bounds() -> None:
    pair = Pair(1, 1, (8, 8), "float32", num_pages=30)
    a, b = pair.add(), pair.add()
    pair.step([a, b], [5, 7], 0)
    k, q = normal(1, 2, 1, 8), normal(2, 2, 2, 8)
    pair.cache.append(0, [a, b], k, k)
    for i, row in ((a, 0), (b, 1)):
        pair.streams[i][0].append(k[row : row + 1].transpose(1, 0, 2), k[row : row + 1].transpose(1, 0, 2))
    pair.check(0, [a, b], [1, 1], 3)
    pair.check(0, [b, a, b], [2, 1, 4], 3)  # reading one twice is fine
    assert np.array_equal(pair.cache.attend(0, [a, b], q), pair.cache.attend(0, [a, b], q, [0, 1, 2]))
    assert np.array_equal(pair.cache.attend(0, b, q), pair.cache.attend(0, [b], q, [0, 2]))
    assert pair.cache.attend(0, [], q[:0]).shape == (0, 2, 8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_options_are_those_of_attention(dtype: str) -> None:
    pair = Pair(1, 2, (16, 8), dtype, num_pages=30, page_size=48)
    a, b = pair.add(), pair.add()
    pair.step([a, b], [100, 37], 0)
    pair.append(0, [a, b], [9, 2], 1)
    q, cu = as_query(normal(2, 11, 4, 16), dtype), [0, 9, 11]
    slopes = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    for options in (
        {"scale": 0.3, "softcap": 2.0, "return_lse": True},
        {"alibi_slopes": slopes, "return_scores": "bias"},
        {"sinks": slopes, "return_weights": True},
        {"relative_bias": (normal(3, 4, 8), False, 50), "return_scores": "qk"},
        {"window": (20, 0), "return_lse": True},
        {"window": (20, 0), "sink_tokens": 5, "num_threads": 2},
    ):
        ours = pair.cache.attend(0, [a, b], q, cu, **options)
        for i, (start, stop) in zip((a, b), pairwise(cu), strict=True):
            stream = pair.streams[i][0]
            n = len(stream)
            plain = attend([stream], q[start:stop].transpose(1, 0, 2)[None], [n - (stop - start)], **options)
            for x, y in zip(*((r,) if isinstance(r, np.ndarray) else r for r in (ours, plain)), strict=True):
                if x is not None:  # (Tq, Hq, ...) packed, (1, Hq, Sq, ...) plain; columns beyond a sequence are not its
                    mine = x[start:stop].swapaxes(0, 1)
                    mine = mine[..., :n] if mine.ndim == 3 and x is not ours and x is not ours[0] else mine
                    assert mine.tobytes() == y[0].tobytes(), sorted(options)


def test_a_pool_takes_memory_as_it_is_used() -> None:
    cache = fa.PagedKVCache(1, 1, 64, num_pages=1 << 14)
    k = normal(0, 10, 1, 64)
    cache.append(0, cache.add(), k, k)
    assert cache.pages_used == 1 and cache.nbytes == 2 * (1 << 14) * 96 * 64 * 4


def test_pages_return_in_any_order() -> None:
    pool = PagePool(5)
    pages = pool.take(5)
    pool.hold(pages[1:3])
    pool.drop(pages)
    assert (pool.free, pool.used) == (3, 2)
    assert sorted(pool.take(3)) == [0, 3, 4]
    with pytest.raises(fa.CacheFull, match="1 more pages needed, 0 of 5 are free"):
        pool.take(1)
    assert pool.take(0) == []


def test_threads_meet_an_error_not_a_race() -> None:
    cache = fa.PagedKVCache(1, 1, 8, num_pages=4)
    a, k = cache.add(), normal(0, 1, 1, 8)
    calls = [
        cache.add, cache.lengths, lambda: cache.fork(a), lambda: cache.free(a), lambda: cache.append(0, a, k, k),
        lambda: cache.attend(0, a, k), lambda: cache.advance(a, 0), lambda: cache.truncate(a, 0),
        lambda: cache.reorder([a], [a]),
    ]  # fmt: skip
    with cache._guard.writing:
        for call in calls:
            with pytest.raises(RuntimeError, match="another thread"):
                call()
    cache.append(0, a, k, k)


def test_two_threads_at_once_raise_and_do_no_harm() -> None:
    pair = Pair(1, 4, (64, 64), "float32", num_pages=60)
    a, b = pair.add(), pair.add()
    pair.step([a, b], [2000, 2000], 0)
    q, refused, done = normal(1, 400, 8, 64), [], []

    def work() -> None:
        for _ in range(10):
            try:
                done.append(pair.cache.attend(0, [a], q).tobytes())
            except RuntimeError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) + len(refused) == 30 and done and len(set(done)) == 1
    assert all("another thread" in words for words in refused)
    pair.step([a, b], [1, 1], 3)


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"layers": 0}, ValueError, "layers: 0"),
        ({"kv_heads": -3}, ValueError, "kv_heads: -3"),
        ({"head_dim": 0}, ValueError, "head_dim: 0"),
        ({"dtype": "int4"}, ValueError, "dtype: 'int4'"),
        ({"num_pages": 0}, ValueError, "num_pages: 0"),
        ({"num_pages": 1.0}, TypeError, "num_pages: float"),
        ({"page_size": 0}, ValueError, "page_size: 0"),
        ({"page_size": 24}, ValueError, "page_size: 24, expected a multiple of 16"),
        ({"num_pages": 1 << 31, "page_size": 1 << 31}, ValueError, "num_pages: arrays of"),
    ],
)
def test_a_pool_that_makes_no_sense(change: dict[str, Any], error: type[Exception], words: str) -> None:
    sizes: dict[str, Any] = {"layers": 1, "kv_heads": 1, "head_dim": 8, "num_pages": 4, **change}
    with pytest.raises(error) as caught:
        fa.PagedKVCache(**sizes)
    assert words in str(caught.value)


K = np.zeros((5, 1, 8), np.float32)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((2, [0], K, K), ValueError, "layer: 2"),
        ((0, [7], K, K), ValueError, "seq_ids: 7 was never given out"),
        ((0, [2], K, K), ValueError, "seq_ids: 2 was freed"),
        ((0, [-1], K, K), ValueError, "seq_ids: -1"),
        ((0, [0.0], K, K), TypeError, "seq_ids: dtype float64"),
        ((0, [[0]], K, K), ValueError, "seq_ids"),
        ((0, [0, 0], K, K, [0, 2, 5]), ValueError, "seq_ids: 0 more than once"),
        ((0, [0, 1], K, K), ValueError, "cu_seqlens: None with 5 tokens in k and 2 sequences"),
        ((0, [0, 1], K, K, [0, 5]), ValueError, "cu_seqlens: shape (2,), expected (3,)"),
        ((0, [0, 1], K, K, [0, 2, 4]), ValueError, "cu_seqlens: from 0 to 4, expected from 0 to 5"),
        ((0, [0, 1], K, K, [0, 7, 5]), ValueError, "cu_seqlens: [0, 7, 5], expected ascending"),
        ((0, [0], K[None], K), ValueError, "k: rank 4, expected 3"),
        ((0, [0], K, K[:3]), ValueError, "v: 3 tokens, expected 5"),
        ((0, [0], K.repeat(2, axis=1), K), ValueError, "k: 2 heads"),
        ((0, [0], K, K[..., :3].copy()), ValueError, "v: head size 3"),
        ((0, [0], K.astype(np.int8), K), TypeError, "k: dtype int8"),
    ],
)
def test_an_append_that_makes_no_sense(arguments: Any, error: type[Exception], words: str) -> None:
    cache = fa.PagedKVCache(1, 1, 8, num_pages=4)
    for _ in range(3):
        cache.add()
    cache.free(2)
    with pytest.raises(error) as caught:
        cache.append(*arguments)
    assert words in str(caught.value)
    assert cache.pages_used == 0


Q = np.zeros((5, 2, 8), np.float32)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((0, [0], Q[0]), {}, ValueError, "q: rank 2, expected 3"),
        ((0, [0, 1], Q), {}, ValueError, "cu_seqlens_q: None with 5 tokens in q and 2 sequences"),
        ((0, [0, 1], Q, [0, 1, 6]), {}, ValueError, "cu_seqlens_q: from 0 to 6"),
        ((0, [5], Q), {}, ValueError, "seq_ids: 5"),
        ((0, [0], Q[..., :4].copy()), {}, ValueError, "head size"),
        ((0, [0], Q), {"kv_lengths": [3]}, TypeError, "kv_lengths"),
        ((0, [0], Q), {"q_offset": 1, "causal": "bottom_right"}, ValueError, "q_offset"),
        ((0, [0], Q), {"window": (-1, 0)}, ValueError, "window: -1"),
        ((0, [0], Q), {"sink_tokens": -1, "window": (1, 0)}, ValueError, "sink_tokens: -1"),
        ((0, [0], Q), {"sink_tokens": 1}, ValueError, "sink_tokens"),
        ((0, [0], Q), {"flavour": 1}, TypeError, "flavour"),
    ],
)
def test_attention_that_makes_no_sense(arguments: Any, options: Any, error: type[Exception], words: str) -> None:
    cache = fa.PagedKVCache(1, 1, 8, num_pages=4)
    for i in (cache.add(), cache.add()):
        cache.append(0, i, K, K)
        cache.advance(i, 5)
    with pytest.raises(error) as caught:
        cache.attend(*arguments, **options)
    assert words in str(caught.value)


def test_lengths_that_make_no_sense() -> None:
    cache = fa.PagedKVCache(2, 1, 8, num_pages=4)
    a = cache.add()
    cache.append(0, a, K, K)
    with pytest.raises(ValueError, match="n: 5 for sequence 0, expected 0 to 0, the tokens appended to every layer"):
        cache.advance(a, 5)
    cache.append(1, a, K, K)
    cache.advance(a, 5)
    with pytest.raises(ValueError, match="n: 6 for sequence 0, expected 0 to 5, its length"):
        cache.truncate(a, 6)
    with pytest.raises(ValueError, match="sources: 2 ids, expected 1"):
        cache.reorder([a], [a, a])
    with pytest.raises(ValueError, match="seq_id: 9 was never given out"):
        cache.fork(9)
    with pytest.raises(ValueError, match="seq_ids: 9"):
        cache.free(9)
    assert cache.lengths(a).tolist() == [5]
