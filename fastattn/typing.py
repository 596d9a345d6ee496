# SPDX-License-Identifier: MIT
"""Types of arguments and results, for annotations and for editors: nothing here does anything.

``import fastattn`` does not bring this module in. It is for programs that pass arguments on::

    from fastattn.typing import Array, Causal

    def block(x: Array, causal: Causal = True) -> NDArray[np.float32]: ...

Which dtype and shape an array must have, docstrings say and calls check.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol, SupportsIndex, TypeAlias, TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Activation", "Array", "AttendOptions", "AttentionOptions", "BlockMask", "Causal", "HeadName", "Indices", "Metric",
    "ModelOutput", "OnLong", "PackedOptions", "PoolMode", "Precision", "RelativeBias", "RopeTables", "Rule",
    "ScoreStage", "StorageType", "SupportsArray", "SupportsBuffer", "SupportsDLPack", "TextOrPair", "TokenIds",
    "VarlenOptions", "WeightType", "Window",
]  # fmt: skip

# ---- arrays that come in ---------------------------------------------------------------------------------------------


class SupportsBuffer(Protocol):
    """The buffer protocol: memoryview, array.array, mmap, and what C extensions make."""

    def __buffer__(self, flags: int, /) -> memoryview: ...


class SupportsDLPack(Protocol):
    """The DLPack protocol: CPU tensors of torch, JAX and others."""

    def __dlpack__(self) -> Any: ...
    def __dlpack_device__(self) -> tuple[Any, int]: ...


class SupportsArray(Protocol):
    """What NumPy asks for an array: pandas and Arrow columns, tensors."""

    def __array__(self) -> Any: ...


Array: TypeAlias = NDArray[Any] | SupportsBuffer | SupportsDLPack
"""An array that is read in place; lists would have to be copied, and are refused."""

_Integer: TypeAlias = int | np.integer[Any]
# Not one alias that holds itself: a str, which is a sequence of str, would be one.
_Integers: TypeAlias = Sequence[_Integer] | Sequence[Sequence[_Integer]] | Sequence[Sequence[Sequence[_Integer]]]

TokenIds: TypeAlias = NDArray[Any] | SupportsArray | SupportsBuffer | _Integers
"""Integers of at least one dimension: an array, what NumPy takes for one, or lists."""

Indices: TypeAlias = _Integer | TokenIds | SupportsDLPack
"""Integers: one, or an array, a tensor, or lists of them."""

OutT = TypeVar("OutT", bound=Array)
"""``out=``, which is what comes back."""

StoredT = TypeVar("StoredT", bound=np.generic)
"""What an array is stored as, where results are stored as the same."""

# ---- options ---------------------------------------------------------------------------------------------------------

Causal: TypeAlias = bool | Literal["top_left", "bottom_right"]
Window: TypeAlias = tuple[SupportsIndex | None, SupportsIndex | None]
"""(left, right), None for unbounded."""
ScoreStage: TypeAlias = Literal["qk", "softcap", "bias"]
RelativeBias: TypeAlias = tuple[Array, bool, SupportsIndex]
"""(table, bidirectional, max_distance)"""
BlockMask: TypeAlias = tuple[
    Array | list[list[bool]] | tuple[Indices, Indices],
    tuple[SupportsIndex, SupportsIndex],
]
"""(blocks, (rows, cols)); blocks of bool, or (indptr, indices)."""
RopeTables: TypeAlias = tuple[Array, Array] | tuple[Array, Array, bool]
"""(cos, sin) or (cos, sin, interleaved)"""

Activation: TypeAlias = Literal["relu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid"]
PoolMode: TypeAlias = Literal["mean", "mean_sqrt_len", "weighted_mean", "cls", "last", "max"]
Rule: TypeAlias = Literal["linear", "gated", "delta", "gated_delta"]
Metric: TypeAlias = Literal["cosine", "dot", "euclidean", "manhattan"]
WeightType: TypeAlias = Literal["float32", "bfloat16", "float16", "int8", "int4"]
StorageType: TypeAlias = Literal["float32", "bfloat16", "float16", "int8"] | np.dtype[Any] | type[np.generic]
"""A name, or NumPy's type of that name."""
HeadName: TypeAlias = Literal[
    "sequence_classification", "token_classification", "question_answering", "masked_lm", "next_sentence",
    "causal_lm", "none",
]  # fmt: skip
Precision: TypeAlias = Literal["float32", "int8", "uint8", "binary", "ubinary"]
OnLong: TypeAlias = Literal["truncate", "error"]
TextOrPair: TypeAlias = str | tuple[str, str] | list[str]
"""A text, or two as a tuple or list."""


class PackedOptions(TypedDict, total=False):
    """Options of ``PagedKVCache.attend`` that say what is computed."""

    causal: Causal
    q_offset: Indices | None
    window: Window | None
    sink_tokens: SupportsIndex
    scale: float | None
    softcap: float | None
    alibi_slopes: Array | None
    sinks: Array | None
    relative_bias: RelativeBias | None
    block_mask: BlockMask | None
    num_threads: int | None


class AttendOptions(PackedOptions, total=False):
    """Options of ``KVCache.attend``."""

    mask: Array | None


class VarlenOptions(PackedOptions, total=False):
    """Options of ``attention_varlen``."""

    k_scale: Array | None
    v_scale: Array | None


class AttentionOptions(VarlenOptions, total=False):
    """Options of ``attention``."""

    mask: Array | None
    kv_lengths: Indices | None


# ---- results ---------------------------------------------------------------------------------------------------------


class ModelOutput(Protocol):
    """What a call of a model gives: a named tuple with those of these fields that its head has.

    The others are not there: which they are depends on the files the model was loaded from.
    """

    @property
    def last_hidden_state(self) -> NDArray[np.float32]:
        """(B, S, H), of an encoder without a head."""
        ...

    @property
    def pooler_output(self) -> NDArray[np.float32] | None:
        """(B, H), of families with a pooler; None where the checkpoint has none."""
        ...

    @property
    def logits(self) -> NDArray[np.float32]:
        """(B, labels) of sequences, (B, S, labels) of tokens, (B, S, vocabulary) of a masked language model."""
        ...

    @property
    def start_logits(self) -> NDArray[np.float32]:
        """(B, S), of question answering."""
        ...

    @property
    def end_logits(self) -> NDArray[np.float32]:
        """(B, S), of question answering."""
        ...

    @property
    def hidden_states(self) -> tuple[NDArray[np.float32], ...] | None:
        """(B, S, H) of the embeddings and of each layer; None, and no part of the tuple, unless asked for."""
        ...

    @property
    def attentions(self) -> tuple[NDArray[np.float32], ...] | None:
        """(B, heads, S, S) of each layer; None, and no part of the tuple, unless asked for."""
        ...

    def __getitem__(self, index: int, /) -> Any: ...
    def __iter__(self) -> Iterator[Any]: ...
    def __len__(self) -> int: ...
    def _asdict(self) -> dict[str, Any]: ...
