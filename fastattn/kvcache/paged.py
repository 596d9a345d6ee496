# SPDX-License-Identifier: MIT
"""PagedKVCache: sequences of any lengths in pages of one pool, prefixes shared until someone writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NoReturn, SupportsIndex, overload

import numpy as np

from fastattn import _core
from fastattn.arrays import as_array, as_indices, describe
from fastattn.attention import attend_stored
from fastattn.kvcache.checks import (
    HEAD_DIM_MAX,
    STORAGE,
    Guard,
    as_count,
    as_kv,
    as_layer,
    as_rope,
    as_rows,
    as_storage,
    check_addressable,
)
from fastattn.kvcache.pages import PagePool, Sequence, pages_for, table_of, to_copy
from fastattn.kvcache.places import first_positions, own_options, visible
from fastattn.kvcache.store import rounding
from fastattn.threads import resolve

if TYPE_CHECKING:
    from typing import Unpack

    from numpy.typing import NDArray

    from fastattn.attention import AttentionResult
    from fastattn.typing import (
        Array,
        Causal,
        Indices,
        OutT,
        PackedOptions,
        RopeTables,
        ScoreStage,
        StorageType,
        StoredT,
        Window,
    )

__all__ = ["PagedKVCache"]


class _Plan:
    """Where the rows of an append go; the layers of one step share it, as long as no sequence changes."""

    __slots__ = ("bounds", "ends", "ids", "last", "placed", "positions", "slots", "starts", "table")

    def __init__(self, ids: list[int], starts: list[int], bounds: np.ndarray) -> None:
        counts = np.diff(bounds).tolist()
        self.ids, self.starts, self.bounds = ids, starts, bounds.copy()
        self.ends = [start + count for start, count in zip(starts, counts, strict=True)]
        self.last = max((end for end, count in zip(self.ends, counts, strict=True) if count), default=0)
        self.placed = False
        self.table = self.slots = self.positions = np.empty((1, 0), np.int64)

    def place(self, table: np.ndarray, page_size: int) -> None:
        """Slots as fa_kv_store counts them and positions in the streams, (1, T) each, from the page tables."""
        counts = np.diff(self.bounds)
        owner = np.repeat(np.arange(len(counts)), counts)
        at = np.arange(len(owner)) - self.bounds[owner] + np.array(self.starts, np.int64)[owner]
        self.placed, self.table = True, table
        self.slots = (table[owner, at // page_size] * page_size + at % page_size)[None]
        self.positions = at[None]


class PagedKVCache:
    """Keys and values of many sequences that come and go, for every layer of a model, in a pool of fixed pages.

    Sequences have ids. A step works on any of them, packed without padding; until the lengths advance a layer sees what
    it has appended itself::

        a, b = cache.add(), cache.add()
        for layer in range(layers):
            cache.append(layer, [a, b], k, v, cu_seqlens)        # (T, Hkv, D), (T, Hkv, Dv), (3,)
            out = cache.attend(layer, [a, b], q, cu_seqlens)     # (T, Hq, D) -> (T, Hq, Dv), causal
        cache.advance([a, b], [5, 7])

    fork gives a sequence that shares all pages with the first one; a page is copied when one of its holders writes into
    it. Attending gives the bits of fa.attention on plain arrays of the same storage type; with int8 it goes by products
    of integers, as KVCache says.

    Args:
        layers, kv_heads, head_dim: sizes, at least 1
        v_head_dim: head size of the values, head_dim if None
        dtype: "float32", "float16", "bfloat16", or "int8" with a float32 scale for each key and head that the cache
            finds and keeps
        num_pages: pages of the pool; one page holds page_size tokens of one sequence in all layers. The operating
            system gives the memory as pages are first written
        page_size: tokens of a page, a multiple of 16

    Raises:
        TypeError, ValueError: an argument does not fit, or a sequence id is not there; the message names it, what came,
            what was expected.
        CacheFull: (a ValueError) too few pages are free; nothing was changed.
        RuntimeError: two threads use the cache at the same time. It is not thread-safe, and it notices.

    Source: paged attention: Kwon et al. 2023.

    >>> import numpy as np, fastattn as fa
    >>> cache = fa.PagedKVCache(layers=1, kv_heads=1, head_dim=8, num_pages=10)
    >>> prompt = cache.add()
    >>> k = np.ones((100, 1, 8), np.float32)
    >>> cache.append(0, prompt, k, k)
    >>> cache.advance(prompt, 100)
    >>> answers = [cache.fork(prompt) for _ in range(4)]
    >>> cache.pages_used
    2
    >>> cache.append(0, answers, k[:4], k[:4])
    >>> cache.attend(0, answers, np.ones((4, 2, 8), np.float32)).shape
    (4, 2, 8)
    >>> cache.pages_used
    6
    """

    def __init__(
        self, layers: int, kv_heads: int, head_dim: int, *, v_head_dim: int | None = None,
        dtype: StorageType = "float32", num_pages: int, page_size: int = 96,
    ) -> None:  # fmt: skip
        self._n_layers = as_count(layers, "layers")
        self._heads = as_count(kv_heads, "kv_heads")
        head_dim = as_count(head_dim, "head_dim", high=HEAD_DIM_MAX)
        self._dims = (head_dim, head_dim if v_head_dim is None else as_count(v_head_dim, "v_head_dim", 1, HEAD_DIM_MAX))
        self._dtype = as_storage(dtype)
        self._pool = PagePool(as_count(num_pages, "num_pages", high=1 << 31))
        self._page_size = as_count(page_size, "page_size", 16, 1 << 31)
        if self._page_size % 16:
            raise ValueError(f"page_size: {page_size}, expected a multiple of 16")
        shape = (self._pool.count, self._heads, self._page_size)
        check_addressable("num_pages", *shape, self._n_layers, sum(self._dims))
        kind = STORAGE[self._dtype]
        self._k = [np.empty((*shape, self._dims[0]), kind) for _ in range(self._n_layers)]
        self._v = [np.empty((*shape, self._dims[1]), kind) for _ in range(self._n_layers)]
        scales = self._n_layers if self._dtype == "int8" else 0
        self._k_scale = [np.empty(shape, np.float32) for _ in range(scales)]
        self._v_scale = [np.empty(shape, np.float32) for _ in range(scales)]
        self._sequences: dict[int, Sequence] = {}
        self._next_id = 0
        self._plan: _Plan | None = None  # of the last append, gone when any sequence has changed since
        self._guard = Guard(shared_reads=False)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a PagedKVCache is the memory of running sequences and is neither copied nor pickled: run their tokens "
            "again where they are needed (within one cache fork(seq_id) copies a sequence)"
        )

    def __repr__(self) -> str:
        return (
            f"PagedKVCache(layers={self._n_layers}, kv_heads={self._heads}, head_dim={self._dims[0]}, "
            f"dtype={self._dtype!r}, page_size={self._page_size}, sequences={len(self._sequences)}, "
            f"pages_used={self.pages_used}, pages_free={self.pages_free})"
        )

    @property
    def pages_free(self) -> int:
        """Pages that no sequence holds."""
        return self._pool.free

    @property
    def pages_used(self) -> int:
        """Pages that at least one sequence holds; a shared one counts once."""
        return self._pool.used

    @property
    def page_size(self) -> int:
        """Tokens of a page."""
        return self._page_size

    @property
    def sequences(self) -> list[int]:
        """The ids that are there, oldest first."""
        return list(self._sequences)

    @property
    def nbytes(self) -> int:
        """Bytes of the pool's arrays, as addresses; memory is taken as pages are first written."""
        return sum(array.nbytes for array in (*self._k, *self._v, *self._k_scale, *self._v_scale))

    def lengths(self, seq_ids: Indices | None = None) -> NDArray[np.int64]:
        """Tokens of the sequences given, or of all in the order of `sequences`: (n,) int64.

        >>> import fastattn as fa
        >>> cache = fa.PagedKVCache(1, 1, 8, num_pages=10)
        >>> cache.lengths([cache.add(), cache.add()])
        array([0, 0])
        """
        with self._guard.reading:
            ids = list(self._sequences) if seq_ids is None else self._ids(seq_ids)
            return np.array([self._sequences[i].length for i in ids], np.int64)

    # ---- sequences come, part, go ------------------------------------------------------------------------------------

    def add(self) -> int:
        """A new empty sequence; its id, which no other sequence will ever have.

        >>> import fastattn as fa
        >>> fa.PagedKVCache(1, 1, 8, num_pages=10).add()
        0
        """
        with self._guard.writing:
            return self._enter(Sequence(self._n_layers))

    def fork(self, seq_id: int) -> int:
        """A new sequence with the same tokens, pending ones included, in the same pages; its id. It copies nothing.

        >>> import fastattn as fa
        >>> cache = fa.PagedKVCache(1, 1, 8, num_pages=10)
        >>> cache.fork(cache.add())
        1
        """
        with self._guard.writing:
            new, self._plan = self._one(seq_id).copy(), None
            self._pool.hold(new.pages)
            return self._enter(new)

    def free(self, seq_ids: Indices) -> None:
        """Ends sequences, an id or several; pages that no other sequence holds become free.

        >>> import fastattn as fa
        >>> cache = fa.PagedKVCache(1, 1, 8, num_pages=10)
        >>> cache.free(cache.add())
        >>> cache.sequences
        []
        """
        with self._guard.writing:
            ids, self._plan = self._ids(seq_ids, distinct=True), None
            for i in ids:
                self._pool.drop(self._sequences.pop(i).pages)

    def truncate(self, seq_ids: Indices, n: Indices) -> None:
        """Shortens sequences to n tokens, an int or one for each; pending tokens are dropped, whole pages become free.

        >>> import fastattn as fa
        >>> cache = fa.PagedKVCache(1, 1, 8, num_pages=10)
        >>> cache.truncate(cache.add(), 0)
        """
        with self._guard.writing:
            ids = self._ids(seq_ids, distinct=True)
            wanted = self._numbers(n, "n", ids, lambda seq: seq.length, "its length")
            for i, length in zip(ids, wanted, strict=True):
                self._settle(self._sequences[i], length)

    def reorder(self, seq_ids: Indices, sources: Indices) -> None:
        """Sequence seq_ids[i] gets the tokens that sequence sources[i] had before: beam search, without copies.

        >>> import fastattn as fa
        >>> cache = fa.PagedKVCache(1, 1, 8, num_pages=10)
        >>> beams = [cache.add() for _ in range(3)]
        >>> cache.reorder(beams, [beams[0], beams[0], beams[2]])
        """
        with self._guard.writing:
            ids = self._ids(seq_ids, distinct=True)
            origins = self._ids(sources, "sources")
            if len(origins) != len(ids):
                raise ValueError(f"sources: {len(origins)} ids, expected {len(ids)} as seq_ids has")
            new, self._plan = [self._sequences[i].copy() for i in origins], None
            for seq in new:
                self._pool.hold(seq.pages)
            for i, seq in zip(ids, new, strict=True):
                self._pool.drop(self._sequences[i].pages)
                self._sequences[i] = seq

    # ---- a step ------------------------------------------------------------------------------------------------------

    def append(
        self, layer: int, seq_ids: Indices, k: Array, v: Array, cu_seqlens: Indices | None = None, *,
        rope: RopeTables | None = None, num_threads: int | None = None,
    ) -> None:  # fmt: skip
        """Writes keys and values of one layer behind what the sequences hold; the lengths stay as they are.

        Args:
            layer: 0 to layers - 1
            seq_ids: an id, or several different ones
            k: (T, Hkv, D) float32, float16 or bfloat16 (as uint16), stored as the cache's dtype as KVCache.append says
            v: (T, Hkv, Dv)
            cu_seqlens: (n + 1,), the tokens of the i-th sequence are rows cu[i] to cu[i + 1]. If None, one token for
                each sequence, or all for a single one
            rope, num_threads: as in KVCache.append

        Raises:
            CacheFull: too few pages are free. TypeError, ValueError. After an error nothing has changed.

        >>> import numpy as np, fastattn as fa
        >>> cache = fa.PagedKVCache(1, 1, 8, num_pages=10, dtype="bfloat16")
        >>> k = np.ones((5, 1, 8), np.float32)
        >>> cache.append(0, [cache.add(), cache.add()], k, k, [0, 2, 5])
        """
        with self._guard.writing:
            layer = as_layer(layer, self._n_layers)
            ids = self._ids(seq_ids, distinct=True)
            k = as_kv(k, "k", 3, self._heads, self._dims[0])
            v = as_kv(v, "v", 3, self._heads, self._dims[1])
            if len(v) != len(k):
                raise ValueError(f"v: {len(v)} tokens, expected {len(k)} as k has")
            if num_threads is not None:
                resolve(num_threads)  # refused before pages are taken
            bounds = self._bounds(cu_seqlens, "cu_seqlens", "k", len(k), len(ids))
            starts = [self._sequences[i].end(layer) for i in ids]
            plan = self._plan
            if plan is None or plan.ids != ids or plan.starts != starts or plan.bounds.tobytes() != bounds.tobytes():
                plan = _Plan(ids, starts, bounds)
            turn = {} if rope is None else as_rope(rope, self._dims[0], plan.last)
            if not len(k):
                return
            if not plan.placed:
                seqs = [self._sequences[i] for i in ids]
                self._make_room(seqs, starts, plan.ends)
                plan.place(table_of(seqs, [len(seq.pages) for seq in seqs]), self._page_size)
                self._plan = plan
            if turn:
                turn["position_ids"] = plan.positions
            k_scale, v_scale = self._scales(layer)
            k, v = k.transpose(1, 0, 2)[None], v.transpose(1, 0, 2)[None]
            as_keys, as_values = rounding(self._dtype)
            _core.kv_store(
                self._k[layer], k, plan.slots, scale=k_scale, integers=as_keys, num_threads=num_threads, **turn
            )
            _core.kv_store(self._v[layer], v, plan.slots, scale=v_scale, integers=as_values, num_threads=num_threads)
            for i, start, end in zip(ids, starts, plan.ends, strict=True):
                self._sequences[i].pending[layer] += end - start

    @overload
    def attend(
        self, layer: int, seq_ids: Indices, q: NDArray[StoredT], cu_seqlens_q: Indices | None = ..., *,
        return_lse: Literal[False] = ..., return_weights: Literal[False] = ..., return_scores: None = ...,
        out: None = ..., **options: Unpack[PackedOptions],
    ) -> NDArray[StoredT]: ...  # fmt: skip
    @overload
    def attend(
        self, layer: int, seq_ids: Indices, q: Array, cu_seqlens_q: Indices | None = ..., *,
        return_lse: Literal[False] = ..., return_weights: Literal[False] = ..., return_scores: None = ...,
        out: None = ..., **options: Unpack[PackedOptions],
    ) -> NDArray[Any]: ...  # fmt: skip
    @overload
    def attend(
        self, layer: int, seq_ids: Indices, q: Array, cu_seqlens_q: Indices | None = ..., *,
        return_lse: Literal[False] = ..., return_weights: Literal[False] = ..., return_scores: None = ...,
        out: OutT, **options: Unpack[PackedOptions],
    ) -> OutT: ...  # fmt: skip
    @overload
    def attend(
        self, layer: int, seq_ids: Indices, q: Array, cu_seqlens_q: Indices | None = ..., *,
        return_lse: Literal[True], return_weights: bool = ..., return_scores: ScoreStage | None = ...,
        out: Array | None = ..., **options: Unpack[PackedOptions],
    ) -> AttentionResult: ...  # fmt: skip
    @overload
    def attend(
        self, layer: int, seq_ids: Indices, q: Array, cu_seqlens_q: Indices | None = ..., *,
        return_lse: bool = ..., return_weights: Literal[True], return_scores: ScoreStage | None = ...,
        out: Array | None = ..., **options: Unpack[PackedOptions],
    ) -> AttentionResult: ...  # fmt: skip
    @overload
    def attend(
        self, layer: int, seq_ids: Indices, q: Array, cu_seqlens_q: Indices | None = ..., *,
        return_lse: bool = ..., return_weights: bool = ..., return_scores: ScoreStage,
        out: Array | None = ..., **options: Unpack[PackedOptions],
    ) -> AttentionResult: ...  # fmt: skip
    @overload
    def attend(
        self, layer: int, seq_ids: Indices, q: Array, cu_seqlens_q: Indices | None = ..., *,
        return_lse: bool = ..., return_weights: bool = ..., return_scores: ScoreStage | None = ...,
        out: OutT | None = ..., **options: Unpack[PackedOptions],
    ) -> OutT | NDArray[Any] | AttentionResult: ...  # fmt: skip
    def attend(
        self, layer: int, seq_ids: Indices, q: Array, cu_seqlens_q: Indices | None = None, *, causal: Causal = True,
        q_offset: Indices | None = None, window: Window | None = None, sink_tokens: SupportsIndex = 0, **options: Any,
    ) -> Any:  # fmt: skip
        """Attention of packed queries over what a layer holds of their sequences, pending tokens included.

        Args:
            layer: 0 to layers - 1
            seq_ids: an id or several; one may come more than once
            q: (Tq, Hq, D), Hq a multiple of Hkv
            cu_seqlens_q: (n + 1,), the queries of the i-th sequence are rows cu[i] to cu[i + 1]. If None, one query for
                each sequence, or all for a single one
            causal: True: the queries are the last of each sequence and see up to themselves. False: they see what comes
                after them as well. "bottom_right" as True; "top_left": they are the first
            q_offset: int or one for each sequence: the position of its first query instead
            window, sink_tokens: as in fa.attention
            options: the others of fa.attention_varlen (scale, softcap, alibi_slopes, sinks, relative_bias, return_*,
                out, num_threads)

        Returns:
            (Tq, Hq, Dv), or an AttentionResult where a return_* is set.

        >>> import numpy as np, fastattn as fa
        >>> cache = fa.PagedKVCache(1, 1, 8, num_pages=10)
        >>> a, k = cache.add(), np.ones((5, 1, 8), np.float32)
        >>> cache.append(0, a, k, k)
        >>> cache.attend(0, a, np.ones((5, 4, 8), np.float32), window=(2, 0), return_lse=True).lse.shape
        (5, 4)
        """
        with self._guard.reading:
            layer = as_layer(layer, self._n_layers)
            own_options(options)
            ids = self._ids(seq_ids)
            q = as_array(q, "q")
            if q.ndim != 3:
                raise ValueError(f"q: rank {q.ndim}, expected 3: (tokens, heads, head size)")
            bounds = self._bounds(cu_seqlens_q, "cu_seqlens_q", "q", len(q), len(ids))
            seqs = [self._sequences[i] for i in ids]
            total = np.array([seq.end(layer) for seq in seqs], np.int64)
            queries = np.diff(bounds)
            offsets, is_causal = first_positions(causal, q_offset, total - queries, total, queries)
            window, sinks = visible(None, 0, window, sink_tokens, is_causal)
            if self._plan is not None and self._plan.ids == ids:
                table = self._plan.table
            else:
                table = table_of(seqs, [pages_for(int(n), self._page_size) for n in total])
            k_scale, v_scale = self._scales(layer)
            return attend_stored(
                q, self._k[layer], self._v[layer], total, k_scale=k_scale, v_scale=v_scale, cu_seqlens_q=bounds,
                page_table=table, q_offset=offsets, causal=is_causal, window=window, sink_tokens=sinks, **options,
            )  # fmt: skip

    def advance(self, seq_ids: Indices, n: Indices) -> None:
        """Moves the lengths of sequences by n tokens, an int or one for each; what was appended beyond that is dropped.

        Raises ValueError if a layer has not appended as many.

        >>> import numpy as np, fastattn as fa
        >>> cache = fa.PagedKVCache(1, 1, 8, num_pages=10)
        >>> a, k = cache.add(), np.ones((5, 1, 8), np.float32)
        >>> cache.append(0, a, k, k)
        >>> cache.advance(a, 5)
        """
        with self._guard.writing:
            ids = self._ids(seq_ids, distinct=True)
            steps = self._numbers(n, "n", ids, lambda seq: min(seq.pending), "the tokens appended to every layer")
            for i, step in zip(ids, steps, strict=True):
                seq = self._sequences[i]
                self._settle(seq, seq.length + step)

    # ---- within ------------------------------------------------------------------------------------------------------

    def _enter(self, seq: Sequence) -> int:
        self._next_id += 1
        self._sequences[self._next_id - 1] = seq
        return self._next_id - 1

    def _one(self, seq_id: Any, name: str = "seq_id") -> Sequence:
        i = as_count(seq_id, name, 0)
        if i not in self._sequences:
            raise ValueError(f"{name}: {i} {'was freed' if i < self._next_id else 'was never given out'}")
        return self._sequences[i]

    def _ids(self, seq_ids: Any, name: str = "seq_ids", distinct: bool = False) -> list[int]:
        """One id or several, all of them there."""
        array = as_indices(seq_ids, name)
        if array.ndim > 1:
            raise ValueError(f"{name}: {describe(seq_ids)}, expected an id or several, shape (n,)")
        ids: list[int] = array.reshape(-1).tolist()
        for i in ids:
            self._one(i, name)
        if distinct and len(set(ids)) != len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise ValueError(f"{name}: {twice} more than once, expected different sequences")
        return ids

    def _numbers(self, value: Any, name: str, ids: list[int], limit: Any, what: str) -> list[int]:
        """An int, or one for each sequence, from 0 to that sequence's limit."""
        numbers: list[int] = as_rows(value, name, len(ids)).tolist()
        for i, number in zip(ids, numbers, strict=True):
            most = limit(self._sequences[i])
            if not 0 <= number <= most:
                raise ValueError(f"{name}: {number} for sequence {i}, expected 0 to {most}, {what}")
        return numbers

    @staticmethod
    def _bounds(cu: Any, name: str, of: str, tokens: int, sequences: int) -> np.ndarray:
        if cu is None:
            if sequences == 1:
                return np.array([0, tokens], np.int64)
            if tokens != sequences:
                raise ValueError(
                    f"{name}: None with {tokens} tokens in {of} and {sequences} sequences, expected (n + 1,)"
                )
            return np.arange(sequences + 1, dtype=np.int64)
        bounds = as_indices(cu, name)
        if bounds.shape != (sequences + 1,):
            raise ValueError(f"{name}: shape {bounds.shape}, expected ({sequences + 1},) for {sequences} sequences")
        if bounds[0] != 0 or bounds[-1] != tokens:
            raise ValueError(
                f"{name}: from {bounds[0]} to {bounds[-1]}, expected from 0 to {tokens}, the tokens of {of}"
            )
        if (bounds[1:] < bounds[:-1]).any():
            raise ValueError(f"{name}: {bounds.tolist()}, expected ascending numbers")
        return bounds

    def _scales(self, layer: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        return (self._k_scale[layer], self._v_scale[layer]) if self._k_scale else (None, None)

    def _make_room(self, seqs: list[Sequence], starts: list[int], ends: list[int]) -> None:
        """Pages of their own for the tokens starts..ends of each sequence, all or none."""
        copies = to_copy(seqs, starts, ends, self._page_size, self._pool)
        more = [max(pages_for(end, self._page_size) - len(seq.pages), 0) for seq, end in zip(seqs, ends, strict=True)]
        pages = self._pool.take(sum(map(len, copies)) + sum(more))[::-1]
        for seq, places, count in zip(seqs, copies, more, strict=True):
            for at in places:
                old, new = seq.pages[at], pages.pop()
                for array in (*self._k, *self._v, *self._k_scale, *self._v_scale):
                    array[new] = array[old]
                seq.pages[at] = new
                self._pool.drop([old])
            seq.pages.extend(pages.pop() for _ in range(count))

    def _settle(self, seq: Sequence, length: int) -> None:
        """A new length, nothing pending, no page beyond it."""
        kept = pages_for(length, self._page_size)
        self._pool.drop(seq.pages[kept:])
        del seq.pages[kept:]
        seq.length = length
        seq.pending = [0] * self._n_layers
        self._plan = None
