# SPDX-License-Identifier: MIT
"""What every encoder family shares: packing, groups of a bounded number of tokens, sentence vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np

from ..loaders.files import ModelFiles, as_files
from .inputs import Integers, PackedInputs, check_range, pack_inputs
from .workspace import Workspace, WorkspacePool

if TYPE_CHECKING:
    from ..loaders import WeightFile
    from .config import ConfigReader

__all__ = ["Embedder", "Encoder", "EncoderOutput", "Floats"]

Floats = np.ndarray[Any, np.dtype[np.float32]]


class EncoderOutput(NamedTuple):
    """What an encoder returns; the fields and shapes of transformers' output."""

    last_hidden_state: Floats
    """(B, S, H); zeros where the attention mask is 0."""
    pooler_output: Floats | None
    """(B, H); None where the checkpoint has no pooler."""


class Embedder(Protocol):
    """What ``Encoder.embed`` needs from the text layer above the models: a ``fastattn.text.TextEmbedder``."""

    def embed(
        self,
        texts: Iterable[str],
        batch_size: int | None = None,
        normalize: bool | None = None,
        *,
        progress: bool | None = None,
        num_threads: int | None = None,
    ) -> Floats:
        """Vectors (n, H) of n texts."""
        ...


class Encoder(ABC):
    """An encoder with its weights, ready to be called. Made by ``fastattn.load``.

    It is safe to call one model from many threads at once: weights are never written, and each call borrows its own
    scratch memory.
    """

    GROUP_TOKENS: ClassVar[int] = 2048
    """Tokens that go through the layers together. It bounds scratch memory and keeps it in the cache; a sequence is
    never split, and the bits of a result do not depend on this number."""

    path: Path
    """The folder the model was loaded from."""
    files: ModelFiles
    """The small files that came with the weights: configuration, tokenizer, pooling."""
    hidden_size: int
    """H, the width of hidden states and sentence vectors."""
    vocab_size: int
    """Token ids are 0 to ``vocab_size - 1``."""
    type_vocab_size: int
    """Token type ids are 0 to ``type_vocab_size - 1``."""
    max_positions: int
    """The longest sequence."""
    num_threads: int | None
    """Threads of each call; None for the library's setting."""

    def __init__(self, path: Path, num_threads: int | None) -> None:
        self.path = path
        self.files = as_files(path)
        self.num_threads = num_threads
        self._workspaces = WorkspacePool()
        self._embedder: Embedder | None = None
        self._make_embedder: Callable[[Encoder], Embedder] | None = None

    @classmethod
    @abstractmethod
    def build(cls, config: ConfigReader, weights: WeightFile, path: Path, num_threads: int | None) -> Self:
        """Check ``config`` and ``weights`` and build the model; ``ValueError`` for what does not fit."""

    @abstractmethod
    def _scratch_shapes(self, tokens: int) -> tuple[tuple[int, ...], ...]:
        """Shapes of the arrays that ``_forward`` carves from its workspace."""

    @abstractmethod
    def _forward(
        self,
        ids: Integers,
        type_ids: Integers,
        positions: Integers,
        cu_seqlens: Integers,
        *,
        workspace: Workspace,
        out: Floats | None,
        num_threads: int | None,
    ) -> Floats:
        """Hidden states (T, H) of packed sequences: in ``out``, else in an array of the workspace."""

    @abstractmethod
    def _pool_first(self, first: Floats, num_threads: int | None) -> Floats | None:
        """``pooler_output`` (n, H) of the hidden states (n, H) of first tokens; None where there is no pooler."""

    def encode_packed(
        self,
        ids: Integers,
        type_ids: Integers,
        positions: Integers,
        lengths: Integers,
        *,
        out: Floats | None = None,
        max_sequences: int | None = None,
        num_threads: int | None = None,
    ) -> Iterator[tuple[slice, slice, Integers, Floats]]:
        """Run packed sequences through the model, a group of whole sequences at a time.

        Parameters
        ----------
        ids, type_ids, positions
            (T,) int64, the tokens of all sequences one behind the other.
        lengths
            (n,) int64, at least 1 each, with sum T.
        out
            (T, H) float32 that takes the hidden states; without it they are in scratch memory.
        max_sequences
            Most sequences of a group; None for no limit but ``GROUP_TOKENS``.

        Yields
        ------
        (sequences, tokens, cu_seqlens, hidden)
            Which sequences and which tokens the group is, the ends of its sequences (n_group + 1,), and its hidden
            states (T_group, H): valid until the next step, which writes over them (unless ``out`` is given).

        Raises
        ------
        ValueError
            An id or a type id is outside the model's tables.
        """
        check_range("input_ids", ids, self.vocab_size, "vocab_size of the model")
        check_range("token_type_ids", type_ids, self.type_vocab_size, "type_vocab_size of the model")
        threads = self.num_threads if num_threads is None else num_threads
        ends = np.zeros(lengths.size + 1, np.int64)
        np.cumsum(lengths, out=ends[1:])
        groups = list(_groups(ends, self.GROUP_TOKENS, max_sequences))
        most = max((int(ends[stop] - ends[start]) for start, stop in groups), default=0)
        with self._workspaces.borrow(Workspace.size(*self._scratch_shapes(most))) as workspace:
            for start, stop in groups:
                tokens = slice(int(ends[start]), int(ends[stop]))
                cu_seqlens = ends[start : stop + 1] - ends[start]
                hidden = self._forward(
                    ids[tokens],
                    type_ids[tokens],
                    positions[tokens],
                    cu_seqlens,
                    workspace=workspace,
                    out=None if out is None else out[tokens],
                    num_threads=threads,
                )
                yield slice(start, stop), tokens, cu_seqlens, hidden

    def __call__(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        *,
        num_threads: int | None = None,
    ) -> EncoderOutput:
        """Hidden states of a batch of token ids.

        Parameters
        ----------
        input_ids
            (B, S) integers from 0 to ``vocab_size - 1``: an array, anything NumPy takes for one, or lists of equal
            length. S is at most ``max_positions``.
        attention_mask
            (B, S) of bool, or of the integers 0 and 1; 1 where a token is attended. Any pattern is allowed, with holes
            too. Excluded positions are neither read nor computed, so their ids may be anything. None attends to all.
        token_type_ids
            (B, S) integers from 0 to ``type_vocab_size - 1``; None for zeros.
        num_threads
            Threads of this call; None for what ``load`` was given.

        Returns
        -------
        EncoderOutput
            ``last_hidden_state`` (B, S, H) float32, zeros where the mask excludes, and ``pooler_output`` (B, H), None
            where the checkpoint has no pooler. The position of a token is its column, as in transformers, whatever the
            mask. A row whose first token is excluded has zeros in ``pooler_output``: it is made from that token alone,
            which is not computed.

        Raises
        ------
        ValueError
            Shapes that do not fit, ids outside the tables, too many columns, a mask of other values.
        TypeError
            Values that are not integers.

        Example
        -------
        >>> out = model([[101, 7592, 102], [101, 102, 0]], attention_mask=[[1, 1, 1], [1, 1, 0]])  # doctest: +SKIP
        >>> out.last_hidden_state.shape                                                            # doctest: +SKIP
        (2, 3, 384)
        """
        packed = pack_inputs(input_ids, attention_mask, token_type_ids, max_positions=self.max_positions)
        shape = (*packed.shape, self.hidden_size)
        dense = packed.where is None
        hidden_states: Floats = np.empty(shape, np.float32) if dense else np.zeros(shape, np.float32)
        self._fill(packed, hidden_states.reshape(-1, self.hidden_size), num_threads)
        return EncoderOutput(hidden_states, self._pooler_output(packed, hidden_states, num_threads))

    def _fill(self, packed: PackedInputs, target: Floats, num_threads: int | None) -> None:
        """Write the hidden states of the packed tokens to their rows of ``target`` (B * S, H)."""
        steps = self.encode_packed(
            packed.ids,
            packed.type_ids,
            packed.positions,
            packed.lengths[packed.lengths > 0],
            out=target if packed.where is None else None,
            num_threads=num_threads,
        )
        for _, tokens, _, hidden in steps:
            if packed.where is not None:
                target[packed.where[tokens]] = hidden

    def _pooler_output(self, packed: PackedInputs, hidden_states: Floats, num_threads: int | None) -> Floats | None:
        batch, columns = packed.shape
        rows = np.zeros(0, np.int64)
        if columns:
            first_there = packed.positions == 0
            starts = np.arange(batch) * columns if packed.where is None else packed.where[first_there]
            rows = starts // columns
        first = np.ascontiguousarray(hidden_states[rows, 0]) if columns else np.zeros((0, self.hidden_size), np.float32)
        pooled = self._pool_first(first, self.num_threads if num_threads is None else num_threads)
        if pooled is None or len(pooled) == batch:
            return pooled
        result = np.zeros((batch, self.hidden_size), np.float32)
        result[rows] = pooled
        return result

    def embed(
        self,
        texts: Iterable[str],
        batch_size: int | None = None,
        normalize: bool | None = None,
        *,
        progress: bool | None = None,
        num_threads: int | None = None,
    ) -> Floats:
        """Sentence vectors of ``texts``, one row each, in their order; see ``fastattn.text.TextEmbedder.embed``.

        Example
        -------
        >>> model.embed(["A sentence.", "Another one."]).shape        # doctest: +SKIP
        (2, 384)
        """
        return self.embedder.embed(texts, batch_size, normalize, progress=progress, num_threads=num_threads)

    @property
    def embedder(self) -> Embedder:
        """What turns text into vectors: made when it is first asked for, so that token ids need no tokenizer."""
        if self._embedder is None:
            if self._make_embedder is None:
                raise RuntimeError(
                    "a model from fastattn.models.load knows nothing of text; fastattn.load gives one that does"
                )
            self._embedder = self._make_embedder(self)
        return self._embedder

    def attach_embedder(self, make: Callable[[Encoder], Embedder]) -> None:
        """Have ``make(model)`` called for the embedder when the first text comes."""
        self._make_embedder, self._embedder = make, None


def _groups(ends: Integers, max_tokens: int, max_sequences: int | None) -> Iterator[tuple[int, int]]:
    """Cut n sequences, which end at ``ends[1:]``, into runs of at most so many tokens (or of one sequence)."""
    count, start = ends.size - 1, 0
    while start < count:
        stop = int(np.searchsorted(ends, ends[start] + max_tokens, side="right")) - 1
        if max_sequences is not None:
            stop = min(stop, start + max_sequences)
        stop = max(stop, start + 1)
        yield start, stop
        start = stop
