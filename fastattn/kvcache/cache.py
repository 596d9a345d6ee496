# SPDX-License-Identifier: MIT
"""KVCache: one row of keys and values for each batch row, in one piece or as a ring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NoReturn, SupportsIndex, overload

import numpy as np

from fastattn import _core
from fastattn.arrays import as_array, as_indices
from fastattn.attention import attend_stored
from fastattn.kvcache.checks import (
    HEAD_DIM_MAX,
    POSITION_MAX,
    CacheFull,
    Guard,
    as_count,
    as_kv,
    as_layer,
    as_rope,
    as_rows,
    as_storage,
    check_addressable,
)
from fastattn.kvcache.places import check_kept, first_positions, order_of, own_options, visible
from fastattn.kvcache.store import Store, oldest, round_up, rounding, slot_of

if TYPE_CHECKING:
    from typing import Unpack

    from numpy.typing import NDArray

    from fastattn.attention import AttentionResult
    from fastattn.typing import (
        Array,
        AttendOptions,
        Causal,
        Indices,
        OutT,
        RopeTables,
        ScoreStage,
        StorageType,
        StoredT,
        Window,
    )

__all__ = ["KVCache"]


class _Layer:
    """A layer's store, and what has been appended to it since the last advance."""

    __slots__ = ("low", "pending", "rows", "start", "store")

    def __init__(self, store: Store, batch: int) -> None:
        self.store = store
        self.low = np.zeros(batch, np.int64)  # by row: a ring has written over the keys below
        self.settle(batch)

    def settle(self, batch: int) -> None:
        self.pending = np.zeros(batch, np.int64)  # tokens behind the common lengths
        self.start = self.pending  # where the last append began
        self.rows = 0  # and how many rows it had; 0: nothing since the last advance

    def copy(self, owner: object) -> _Layer:
        new = _Layer.__new__(_Layer)
        for name in self.__slots__:
            setattr(new, name, getattr(self, name))
        self.store.sharers.add(owner)
        return new


class _Step:
    """Where the rows of an append go; the layers of one step share it."""

    __slots__ = ("any", "end", "last", "pending", "rows", "slots", "start")

    def __init__(self, rows: int, start: np.ndarray, end: np.ndarray, pending: np.ndarray) -> None:
        self.rows, self.start, self.end, self.pending = rows, start, end, pending
        self.last = int(end.max())
        self.any = bool((end > start).any())
        self.slots: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def places(self, store: Store, first: int) -> tuple[np.ndarray, np.ndarray]:
        """Slots of the rows as fa_kv_store counts them, -1 for those that do not count, and their positions: (B, S)."""
        key = (store.slots, store.size)
        if key not in self.slots:
            at = self.start[:, None] + np.arange(self.rows)
            slots = slot_of(at, first, store.size) + (np.arange(len(at)) * store.slots)[:, None]
            beyond = at >= self.end[:, None]
            slots[beyond], at[beyond] = -1, 0
            self.slots[key] = slots, at
        return self.slots[key]


class KVCache:
    """Keys and values of a batch of streams, for every layer of a model.

    One step of a model: each layer appends its new keys and values and attends; then the lengths, which all layers
    share, advance. Until then a layer sees what it has appended itself::

        for layer in range(layers):
            cache.append(layer, k, v)          # (B, Hkv, S, D), (B, Hkv, S, Dv)
            out = cache.attend(layer, q)       # (B, Hq, S, D) -> (B, Hq, S, Dv), causal, q at the end
        cache.advance(S)

    Attending gives the bits of fa.attention on plain arrays of the same storage type; but with int8, where it goes by
    products of integers: queries are rounded to 8 bits as keys and values are, and the result is as close to that of
    unrounded ones as 8 bits allow (a cosine of about 0.9999). A key or value with NaN or infinity, which int8 cannot
    hold, makes the queries that see it NaN, and no others; so does a query itself.

    Memory: without a window, contiguous arrays that double as they grow, up to max_length tokens. With a window, a
    ring for the sink tokens and the window (and an eighth more, so that short appends of several tokens find room):
    the stream has no end and memory stays as it is. An append of S tokens that the ring cannot take without losing
    what its own queries see makes the ring larger, for window - 1 + S tokens, until the next advance.

    Args:
        layers, batch, kv_heads, head_dim: sizes, at least 1
        v_head_dim: head size of the values, head_dim if None
        dtype: how keys and values are stored: "float32", "float16", "bfloat16", or "int8" with a float32 scale for
            each key and head that the cache finds and keeps
        max_length: the most tokens of a row. With a window it says nothing and may be None: streams have no end
        window: None, or W: a query sees the last W positions, its own included, as window=(W - 1, 0) of fa.attention
        sink_tokens: the first so many tokens stay visible beside the window

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it, what came, what was expected.
        CacheFull: (a ValueError) an append does not fit into max_length; nothing was changed.
        RuntimeError: a thread changes the cache while another one uses it. Attending from several threads is fine.

    Source: incremental decoding: Shazeer 2019; sinks beside a window: Xiao et al. 2023.

    >>> import numpy as np, fastattn as fa
    >>> cache = fa.KVCache(layers=1, batch=2, kv_heads=1, head_dim=8, max_length=100)
    >>> k = np.ones((2, 1, 3, 8), np.float32)
    >>> cache.append(0, k, k)
    >>> cache.attend(0, np.ones((2, 4, 3, 8), np.float32)).shape
    (2, 4, 3, 8)
    >>> cache.advance(3)
    >>> cache.lengths
    array([3, 3])
    """

    def __init__(
        self, layers: int, batch: int, kv_heads: int, head_dim: int, *, v_head_dim: int | None = None,
        dtype: StorageType = "float32", max_length: int | None, window: int | None = None, sink_tokens: int = 0,
    ) -> None:  # fmt: skip
        n_layers = as_count(layers, "layers")
        self._batch = as_count(batch, "batch")
        self._heads = as_count(kv_heads, "kv_heads")
        head_dim = as_count(head_dim, "head_dim", high=HEAD_DIM_MAX)
        self._dims = (head_dim, head_dim if v_head_dim is None else as_count(v_head_dim, "v_head_dim", 1, HEAD_DIM_MAX))
        check_addressable("batch", n_layers, self._batch, self._heads, sum(self._dims))
        self._dtype = as_storage(dtype)
        self._window = None if window is None else as_count(window, "window")
        self._sinks = as_count(sink_tokens, "sink_tokens", 0)
        if self._sinks and window is None:
            raise ValueError(f"sink_tokens: {sink_tokens} without a window, expected 0: every token stays visible")
        if max_length is None and window is None:
            raise ValueError("max_length: None without a window, expected the most tokens of a row")
        self._max_length = POSITION_MAX if max_length is None else as_count(max_length, "max_length")
        if self._window is None:
            self._first, self._base, self._reach = 0, 0, 0
        else:
            self._max_length = POSITION_MAX
            self._first = round_up(self._sinks)
            self._reach = self._window - 1
            self._base = round_up(self._window + max(16, self._window // 8))
        self._lengths = np.zeros(self._batch, np.int64)
        self._step: _Step | None = None  # that of the lengths as they are
        self._guard = Guard(shared_reads=True)
        self._layers = [_Layer(self._empty_store(), self._batch) for _ in range(n_layers)]
        for each in self._layers:
            each.store.sharers.add(self)

    def _empty_store(self) -> Store:
        return Store(self._batch, self._heads, 0, self._dims, self._dtype, self._base)

    def __repr__(self) -> str:
        kept = "" if self._window is None else f", window={self._window}, sink_tokens={self._sinks}"
        return (
            f"KVCache(layers={len(self._layers)}, batch={self._batch}, kv_heads={self._heads}, "
            f"head_dim={self._dims[0]}, dtype={self._dtype!r}{kept}, lengths={self._lengths.tolist()})"
        )

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, (B,) int64, a copy; what was appended counts from the next advance on."""
        return self._lengths.copy()

    @property
    def batch(self) -> int:
        """Rows; reorder may change their number."""
        return self._batch

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays that this cache holds, those it shares with forks included."""
        return sum(each.store.nbytes for each in self._layers)

    # ---- a step ------------------------------------------------------------------------------------------------------

    def append(
        self,
        layer: int,
        k: Array,
        v: Array,
        lengths: Indices | None = None,
        *,
        rope: RopeTables | None = None,
        num_threads: int | None = None,
    ) -> None:
        """Writes keys and values of one layer behind what it holds; the lengths stay as they are.

        Several appends to a layer before an advance follow one another.

        Args:
            layer: 0 to layers - 1
            k: (B, Hkv, S, D) float32, float16 or bfloat16 (as uint16), stored as the cache's dtype: rounded to nearest
                even, or with int8 as round(x / scale), scale = max|x| / 127 by row, keys after a Hadamard transform
                that makes their elements alike
            v: (B, Hkv, S, Dv)
            lengths: int or (B,): how many of the S tokens of each row count, all if None
            rope: (cos, sin) or (cos, sin, interleaved): the keys are rotated by their positions in the stream before
                they are stored; tables (positions, rotary_dim / 2) float32 as fa.rope takes them
            num_threads: at most this many threads; the process's setting if None

        Raises:
            CacheFull: beyond max_length. TypeError, ValueError: as said above. After an error nothing has changed.

        >>> import numpy as np, fastattn as fa
        >>> cache = fa.KVCache(1, 2, 1, 8, max_length=100, dtype="int8")
        >>> k = np.ones((2, 1, 5, 8), np.float32)
        >>> cache.append(0, k, k, lengths=[5, 2])
        >>> cache.advance([5, 2])
        """
        with self._guard.writing:
            each = self._layers[as_layer(layer, len(self._layers))]
            k = as_kv(k, "k", 4, self._heads, self._dims[0])
            v = as_kv(v, "v", 4, self._heads, self._dims[1])
            rows = k.shape[2]
            for name, array in (("k", k), ("v", v)):
                if array.shape[0] != self._batch:
                    raise ValueError(f"{name}: {array.shape[0]} batch rows, expected {self._batch} as the cache has")
            if v.shape[2] != rows:
                raise ValueError(f"v: {v.shape[2]} tokens, expected {rows} as k has")
            step = self._step
            if step is None or step.rows != rows or each.rows or lengths is not None:
                step = self._plan(each, rows, lengths)
            turn = {} if rope is None else as_rope(rope, self._dims[0], step.last if step.any else 0)
            if not rows:
                return
            if step.any:
                store = self._room(each, step)
                slots, positions = step.places(store, self._first)
                if turn:
                    turn["position_ids"] = positions
                as_keys, as_values = rounding(store.dtype)
                _core.kv_store(
                    store.k, k, slots, scale=store.k_scale, integers=as_keys, num_threads=num_threads, **turn
                )
                _core.kv_store(store.v, v, slots, scale=store.v_scale, integers=as_values, num_threads=num_threads)
                self._take(each, store)
                if store.wrapped(self._first, step.last):
                    each.low = oldest(each.low, step.end, store.size)
            each.pending, each.start, each.rows = step.pending, step.start, rows

    @overload
    def attend(
        self, layer: int, q: NDArray[StoredT], *,
        return_lse: Literal[False] = ..., return_weights: Literal[False] = ..., return_scores: None = ...,
        out: None = ..., **options: Unpack[AttendOptions],
    ) -> NDArray[StoredT]: ...  # fmt: skip
    @overload
    def attend(
        self, layer: int, q: Array, *,
        return_lse: Literal[False] = ..., return_weights: Literal[False] = ..., return_scores: None = ...,
        out: None = ..., **options: Unpack[AttendOptions],
    ) -> NDArray[Any]: ...  # fmt: skip
    @overload
    def attend(
        self, layer: int, q: Array, *,
        return_lse: Literal[False] = ..., return_weights: Literal[False] = ..., return_scores: None = ...,
        out: OutT, **options: Unpack[AttendOptions],
    ) -> OutT: ...  # fmt: skip
    @overload
    def attend(
        self, layer: int, q: Array, *,
        return_lse: Literal[True], return_weights: bool = ..., return_scores: ScoreStage | None = ...,
        out: Array | None = ..., **options: Unpack[AttendOptions],
    ) -> AttentionResult: ...  # fmt: skip
    @overload
    def attend(
        self, layer: int, q: Array, *,
        return_lse: bool = ..., return_weights: Literal[True], return_scores: ScoreStage | None = ...,
        out: Array | None = ..., **options: Unpack[AttendOptions],
    ) -> AttentionResult: ...  # fmt: skip
    @overload
    def attend(
        self, layer: int, q: Array, *,
        return_lse: bool = ..., return_weights: bool = ..., return_scores: ScoreStage,
        out: Array | None = ..., **options: Unpack[AttendOptions],
    ) -> AttentionResult: ...  # fmt: skip
    @overload
    def attend(
        self, layer: int, q: Array, *,
        return_lse: bool = ..., return_weights: bool = ..., return_scores: ScoreStage | None = ...,
        out: OutT | None = ..., **options: Unpack[AttendOptions],
    ) -> OutT | NDArray[Any] | AttentionResult: ...  # fmt: skip
    def attend(
        self, layer: int, q: Array, *, causal: Causal = True, q_offset: Indices | None = None,
        window: Window | None = None, sink_tokens: SupportsIndex | None = None, **options: Any,
    ) -> Any:  # fmt: skip
        """fa.attention of q over what a layer holds, with what was appended since the last advance.

        Where queries stand: with as many of them as the last append to this layer had tokens (S), each stands at the
        position of its token, so padded rows of a ragged append keep theirs at the end. With any other number, or after
        an advance, they are the last of each row: length - Sq + i. q_offset says otherwise.

        Args:
            layer: 0 to layers - 1
            q: (B, Hq, Sq, D), Hq a multiple of Hkv
            causal: True; False lets a query see what comes after it as well; "bottom_right" places q at the end of each
                row whatever was appended, "top_left" at its beginning
            q_offset: int or (B,), position of the first query in each row's stream
            window: (left, right) as in fa.attention. A cache with a window W has (W - 1, 0), or (W - 1, None) with
                causal=False, and takes a narrower one
            sink_tokens: at most the cache's, which is the default; without a window in the cache, as in fa.attention
            options: the others of fa.attention (scale, softcap, mask, block_mask, alibi_slopes, sinks, relative_bias,
                return_*, out, num_threads), over the longest row's keys: Sk = max(lengths with what was appended).
                kv_lengths, k_scale and v_scale are the cache's own. Of keys that a ring has let go return_scores="bias"
                says -inf; "qk" and "softcap", which want them all, are refused then

        Returns:
            as fa.attention: (B, Hq, Sq, Dv), or an AttentionResult where a return_* is set.

        >>> import numpy as np, fastattn as fa
        >>> cache = fa.KVCache(1, 1, 2, 8, max_length=None, window=32, sink_tokens=4)
        >>> k = np.ones((1, 2, 500, 8), np.float32)
        >>> cache.append(0, k, k)
        >>> cache.attend(0, np.ones((1, 4, 500, 8), np.float32), return_lse=True).lse.shape
        (1, 4, 500)
        """
        with self._guard.reading:
            each = self._layers[as_layer(layer, len(self._layers))]
            own_options(options)
            q = as_array(q, "q")
            if q.ndim != 4:
                raise ValueError(f"q: rank {q.ndim}, expected 4: (batch, heads, queries, head size)")
            if q.shape[0] != self._batch:
                raise ValueError(f"q: {q.shape[0]} batch rows, expected {self._batch} as the cache has")
            store, total = each.store, self._lengths + each.pending
            at_end = each.start if each.rows and each.rows == q.shape[2] else total - q.shape[2]
            offsets, is_causal = first_positions(causal, q_offset, at_end, total, q.shape[2])
            seen, sinks = visible(self._window, self._sinks, window, sink_tokens, is_causal)
            if self._window is not None and seen is not None and seen[0] is not None and q.shape[2]:
                check_kept(each.low, self._first, offsets, seen[0], options.get("return_scores"))
            ring = (self._first, store.size) if store.wrapped(self._first, int(total.max())) else None
            return attend_stored(
                q, store.k, store.v, total, k_scale=store.k_scale, v_scale=store.v_scale, ring=ring, q_offset=offsets,
                causal=is_causal, window=seen, sink_tokens=sinks, **options,
            )  # fmt: skip

    def advance(self, n: Indices) -> None:
        """Moves the lengths of all layers by n tokens, int or (B,); what was appended beyond that is dropped.

        Raises ValueError if a layer has not appended as many.

        >>> import numpy as np, fastattn as fa
        >>> cache = fa.KVCache(1, 2, 1, 8, max_length=100)
        >>> k = np.ones((2, 1, 4, 8), np.float32)
        >>> cache.append(0, k, k)
        >>> cache.advance([4, 2])                    # of the second row's four tokens two are kept
        >>> cache.lengths
        array([4, 2])
        """
        with self._guard.writing:
            steps = as_rows(n, "n", self._batch)
            if int(steps.min()) < 0:
                raise ValueError(f"n: {int(steps.min())}, expected at least 0")
            for layer, each in enumerate(self._layers):
                if (steps > each.pending).any():
                    row = int(np.flatnonzero(steps > each.pending)[0])
                    raise ValueError(
                        f"n: {steps[row]} tokens for row {row}, expected at most {each.pending[row]}, as many as were "
                        f"appended to layer {layer}"
                    )
            self._settle(self._lengths + steps)

    # ---- other changes -----------------------------------------------------------------------------------------------

    def truncate(self, n: Indices) -> None:
        """Shortens rows: an int cuts those that are longer, (B,) gives each row its length. Pending tokens are dropped.

        With a window, only as far back as the ring still holds what the next query sees, ValueError beyond: always an
        eighth of the window, or 16 tokens, from where the stream was longest, and always to 0.

        >>> import numpy as np, fastattn as fa
        >>> cache = fa.KVCache(1, 1, 1, 8, max_length=100)
        >>> k = np.ones((1, 1, 9, 8), np.float32)
        >>> cache.append(0, k, k)
        >>> cache.advance(9)
        >>> cache.truncate(4)
        >>> cache.lengths
        array([4])
        """
        with self._guard.writing:
            wanted = as_rows(n, "n", self._batch)
            held = np.full(self._batch, self._lengths.max()) if as_indices(n, "n").ndim == 0 else self._lengths
            if (wanted < 0).any() or (wanted > held).any():
                row = int(np.flatnonzero((wanted < 0) | (wanted > held))[0])
                raise ValueError(f"n: {wanted[row]} for row {row}, expected 0 to {held[row]}, its length")
            wanted = np.minimum(wanted, self._lengths)
            needed = np.maximum(wanted - self._reach, self._first)
            for each in self._layers if self._window is not None else ():
                lost = (each.low > needed) & (needed < wanted)
                if lost.any():
                    row = int(np.flatnonzero(lost)[0])
                    raise ValueError(
                        f"n: {wanted[row]} for row {row} of {self._lengths[row]} tokens, expected more: the window "
                        f"would begin at {needed[row]}, the ring holds tokens from {each.low[row]} on"
                    )
            self._settle(wanted)

    def fork(self) -> KVCache:
        """An independent copy, with what was appended. Arrays are shared until one of the two appends to them.

        >>> import fastattn as fa
        >>> fa.KVCache(1, 1, 1, 8, max_length=100).fork().lengths
        array([0])
        """
        with self._guard.writing:
            new = KVCache.__new__(KVCache)
            new.__dict__.update(self.__dict__)
            new._lengths = self._lengths.copy()
            new._guard = Guard(shared_reads=True)
            new._layers = [each.copy(new) for each in self._layers]
            return new

    __copy__ = fork

    def __deepcopy__(self, memo: dict[int, Any]) -> KVCache:
        memo[id(self)] = new = self.fork()
        return new

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a KVCache is the memory of running sequences and is not pickled: run their tokens again where they are "
            "needed (within a process fork() copies it)"
        )

    def reorder(self, rows: Indices) -> None:
        """Row i becomes a copy of row rows[i], as beam search asks for; there may be more rows or fewer than before.

        Only rows that change are copied where the memory of the others can stay.

        >>> import fastattn as fa
        >>> cache = fa.KVCache(1, 2, 1, 8, max_length=100)
        >>> cache.reorder([1, 1, 0])
        >>> cache.batch
        3
        """
        with self._guard.writing:
            order = order_of(rows, "rows", self._batch)
            pairs = [(f, t) for t, f in enumerate(order.tolist()) if f != t]
            in_place = len(order) == self._batch and not {f for f, _ in pairs} & {t for _, t in pairs}
            moved: list[Store | None] = []
            for each in self._layers:
                ends = self._lengths + each.pending
                if in_place and (len(each.store.sharers) == 1 or not pairs):
                    moved.append(None)
                else:
                    slots, size = each.store.slots, each.store.size
                    moved.append(each.store.moved(order, ends[order], each.low[order], self._first, slots, size))
            for each, store in zip(self._layers, moved, strict=True):
                if store is None:
                    each.store.copy_rows(pairs, self._lengths + each.pending, each.low, self._first)
                else:
                    self._take(each, store)
                each.pending, each.start, each.low = each.pending[order], each.start[order], each.low[order]
            self._batch, self._lengths, self._step = len(order), self._lengths[order], None

    # ---- storage -----------------------------------------------------------------------------------------------------

    def _plan(self, each: _Layer, rows: int, lengths: Any) -> _Step:
        """Where `rows` tokens behind what a layer holds go, `lengths` of them for each batch row."""
        start = self._lengths + each.pending
        count = np.full(self._batch, rows, np.int64)
        if lengths is not None:
            count = as_rows(lengths, "lengths", self._batch)
            if int(count.min()) < 0 or int(count.max()) > rows:
                bad = int(count[(count < 0) | (count > rows)][0])
                raise ValueError(f"lengths: {bad}, expected 0 to {rows}, the number of tokens given")
        end = start + count
        step = _Step(rows, start, end, end - self._lengths)
        if step.last > self._max_length:
            row = int(end.argmax())
            raise CacheFull(
                f"k: {count[row]} tokens behind {start[row]} of row {row}, expected at most {self._max_length} "
                "in all, the cache's max_length"
            )
        if lengths is None and not each.rows:
            self._step = step
        return step

    def _room(self, each: _Layer, step: _Step) -> Store:
        """A store with room for a step, this cache's alone: the layer's own or a new one with its rows."""
        store, last = each.store, step.last
        size = store.size
        if store.wrapped(self._first, last):
            # everything that the first pending token sees has to outlive the last one's arrival
            size = max(size, round_up(self._reach + int(step.pending.max())))
        slots, needed = store.slots, min(last, self._first + size) if size else last
        if needed > slots:
            limit = self._first + size if size else round_up(self._max_length)
            slots = min(round_up(max(needed, 2 * slots)), limit)
        if slots == store.slots and size == store.size and len(store.sharers) == 1:
            return store
        check_addressable("k", self._batch, self._heads, slots, sum(self._dims))
        low = oldest(each.low, step.start, size)
        return store.moved(np.arange(self._batch), step.start, low, self._first, slots, size)

    def _take(self, each: _Layer, store: Store) -> None:
        """The layer goes over to another store; whoever shared the old one may have it alone now."""
        if store is not each.store:
            store.sharers.add(self)
            old, each.store = each.store, store
            old.sharers.discard(self)

    def _settle(self, lengths: np.ndarray) -> None:
        """New common lengths, nothing pending, and rings that a long append has stretched at their size again."""
        moved = []
        for each in self._layers:
            store, low = each.store, np.minimum(each.low, lengths)
            if store.size > self._base:
                slots, low = (
                    min(self._first + self._base, round_up(int(lengths.max()))),
                    oldest(low, lengths, self._base),
                )
                store = store.moved(np.arange(self._batch), lengths, low, self._first, slots, self._base)
            moved.append((store, low))
        for each, (store, low) in zip(self._layers, moved, strict=True):
            self._take(each, store)
            each.low = low
            each.settle(self._batch)
        self._lengths, self._step = lengths, None
