# SPDX-License-Identifier: MIT
"""What every encoder family shares: packing, groups of a bounded number of tokens, heads."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from ..calllog import CallLog, begin
from ..loaders.files import ModelFiles
from .builder import Builder, Floats, TensorReport, listed
from .choice import choose_head
from .heads import OUTPUTS, BaseModelOutput, BaseModelOutputWithPooling, Head, HeadSpec, with_labels
from .inputs import NO_LIMIT, Integers, PackedInputs, check_range, pack_inputs
from .spans import Spans
from .texts import TextMethods
from .travel import Origin, reduce_model
from .workspace import Workspace, WorkspacePool, touch

if TYPE_CHECKING:
    from ..typing import ModelOutput, TokenIds

__all__ = ["Encoder", "Floats"]

Result = TypeVar("Result")

_WARM_TOKENS = 32  # enough for every thread and for the kernels of many rows

# Tensors of numbers that follow from the sizes: old versions of transformers saved them.
_BUFFER = re.compile(r"(.*\.)?(position_ids|token_type_ids)|.*rotary_emb\..*")


class Encoder(TextMethods, ABC):
    """An encoder with its weights, ready to be called. Made by ``fastattn.load``.

    It is safe to call one model from many threads at once: weights are never written, and each call borrows its own
    scratch memory.
    """

    GROUP_TOKENS: ClassVar[int] = 512
    """Tokens that go through the layers together. It bounds scratch memory and keeps it in the cache; a sequence is
    never split, and the bits of a result do not depend on this number."""

    UNLIMITED_TEXT: ClassVar[int] = 4096
    """Most tokens of a text, by default, for models that have no limit of their own."""

    SETTABLE: ClassVar[tuple[str, ...]] = ("num_threads", "chosen_length")
    """Attributes that a user may set, and that go with a pickled model."""

    architectures: ClassVar[Mapping[str, str | None]]
    """Class names under ``architectures`` in config.json -> name of the head it has; None for the encoder alone."""
    ignorable: ClassVar[re.Pattern[str]]
    """Full names of tensors that may be stored without being needed."""
    pooled_output: ClassVar[bool] = True
    """Whether the family's output has a ``pooler_output``."""

    path: Path
    """The folder the model was loaded from."""
    files: ModelFiles
    """The small files that came with the weights: configuration, tokenizer, pooling."""
    num_threads: int | None
    """Threads of each call; None for the library's setting."""
    tensors: TensorReport
    """Which tensors of the file the model was made from, and which were left."""
    hidden_size: int
    """H, the width of hidden states and sentence vectors."""
    vocab_size: int
    """Token ids are 0 to ``vocab_size - 1``."""
    type_vocab_size: int = 1
    """Token type ids are 0 to ``type_vocab_size - 1``."""
    max_positions: int
    """The longest sequence that can be run: the rows of the table of positions, ``inputs.NO_LIMIT`` without one."""
    trained_positions: int | None = None
    """The length a model without such a table is for, where its file says one."""
    pooler: Head | None = None
    """What makes ``pooler_output`` of the first token."""
    head: Head | None = None
    """The head that was asked for, or found in the file; None for the encoder alone."""
    head_name: str
    """What ``load`` takes for ``head`` to find it: "none" for the encoder alone."""
    heads: dict[str, Head]
    """Every head by name: that of the file under its kind, and those ``add_head`` put beside it."""

    _describe: str
    """Sizes, for repr()."""

    def __init__(self, builder: Builder) -> None:
        """Check the configuration and ask ``builder`` for the weights; ``ValueError`` for what does not fit."""
        self.heads = {}
        self.head_name = "none"
        self.origin: Origin | None = None
        """What ``pickle`` keeps of the model; None where it was not loaded from a path."""
        self._added: dict[str, Origin | None] = {}  # where the heads that were put beside its own are from
        self._notes: list[str] = []
        self._more_notes: list[Callable[[Encoder], Iterable[str]]] = []
        self._workspaces = WorkspacePool()
        self._looked_up = builder.tables

    def __repr__(self) -> str:
        head = self.head
        what = "" if head is None else f", {head.kind}"
        if head is not None and head.labels:
            what += f" ({len(head.labels)} label{'s' * (len(head.labels) != 1)})"
        return f"<{type(self).__name__} {str(self.path)!r}: {self._describe}{what}>"

    @property
    def notes(self) -> list[str]:
        """What was found in the model's files and not obeyed: unknown keys, tensors that are left out, a head that was
        found otherwise than the files say. A sentence each; none is an error.
        """
        return [*self._notes, *(note for more in self._more_notes for note in more(self))]

    def add_notes(self, more: Callable[[Encoder], Iterable[str]]) -> None:
        """For loaders: further ``notes``, looked for when they are asked for. ``more`` must not hold the model."""
        self._more_notes.append(more)

    def settle(
        self, path: Path, files: ModelFiles, tensors: TensorReport, notes: Iterable[str], unknown: Sequence[str] = ()
    ) -> None:  # fmt: skip
        """For loaders: where the built model is from, and what they found. ``unknown``: tensors of no known name."""
        self.path, self.files, self.tensors = path, files, tensors
        self._notes += notes
        if unknown:
            self._notes.append(f"{path}: left out as unknown: {listed(unknown)}")
        known = [name for name in tensors.ignored if name not in unknown and not _BUFFER.fullmatch(name)]
        if known:
            self._notes.append(f"{path}: not used: {listed(known)}")

    def add_pooler(self, spec: HeadSpec, builder: Builder) -> None:
        """For constructors: the pooler."""
        self.pooler = Head.build(spec, builder)

    def add_heads(self, builder: Builder, **specs: Callable[[], HeadSpec]) -> None:
        """For constructors: the one of the heads that ``choose_head`` finds."""
        choice = choose_head(builder, self.architectures, specs)
        self._notes += choice.notes
        if choice.kind is None:
            return
        self.head_name = choice.kind
        spec = with_labels(specs[choice.kind](), builder, silent=not choice.named)
        self.head = self.heads[spec.kind] = Head.build(spec, builder)

    def add_head(self, name: str, other: Encoder) -> None:
        """Put the head of another model beside this one's, for several tasks on one backbone.

        Parameters
        ----------
        name
            Under which ``heads`` and the ``head=`` of other methods know it.
        other
            A model of the same family and width, loaded from a folder with that head. Its encoder is not used: the head
            has to have been trained on this one (with a frozen backbone).

        Raises
        ------
        ValueError
            ``other`` has no head, or is of another family or width; ``name`` is taken.

        Example
        -------
        >>> model.add_head("topic", fastattn.load("topic-classifier"))            # doctest: +SKIP
        >>> sorted(model.run_heads([[101, 7592, 102]]))                          # doctest: +SKIP
        ['sequence_classification', 'topic']
        """
        if type(other) is not type(self) or other.hidden_size != self.hidden_size:
            raise ValueError(f"other: {other!r}, expected a {type(self).__name__} that is {self.hidden_size} wide")
        if other.head is None:
            raise ValueError(f"other: {other!r} has no head")
        if name in self.heads:
            raise ValueError(f"name: there is a head {name!r} already")
        self.heads[name] = other.head
        self._added[name] = other.origin

    def __reduce__(self) -> tuple[Any, ...]:
        state = {name: getattr(self, name) for name in self.SETTABLE}
        return reduce_model(self, self.origin, self._added, state)

    def __copy__(self) -> Encoder:
        """A model of its own over the same weights, which are never written."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.heads, other._added = dict(self.heads), dict(self._added)
        other._notes, other._more_notes = list(self._notes), list(self._more_notes)
        other._workspaces, other._kept = WorkspacePool(), None
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Encoder:
        memo[id(self)] = other = self.__copy__()
        return other

    @property
    def text_positions(self) -> int:
        """Most tokens of a text where neither the caller nor the files of the tokenizer say how many.

        Attention costs the square of a text: where nothing limits it, one text of a book would stop a service.
        """
        if self.trained_positions is not None:
            return self.trained_positions
        return self.max_positions if self.max_positions < NO_LIMIT else self.UNLIMITED_TEXT

    @abstractmethod
    def _scratch_shapes(self, tokens: int) -> tuple[tuple[int, ...], ...]:
        """Shapes of the arrays that ``_forward`` carves from its workspace."""

    @abstractmethod
    def _forward(
        self,
        ids: Integers,
        type_ids: Integers,
        positions: Integers,
        spans: Spans,
        *,
        workspace: Workspace,
        out: Floats | None,
        num_threads: int | None,
    ) -> Floats:
        """Hidden states (T, H) of packed sequences: in ``out``, else in an array of the workspace."""

    def _position_ids(self, ids: Integers, columns: Integers, lengths: Integers) -> Integers:
        """Rows of the table of positions, (T,), of whole rows of a batch: ``lengths`` ids each, padding included."""
        return columns

    def encode_packed(
        self,
        ids: Integers,
        type_ids: Integers,
        columns: Integers,
        lengths: Integers,
        *,
        positions: Integers | None = None,
        out: Floats | None = None,
        max_sequences: int | None = None,
        num_threads: int | None = None,
    ) -> Iterator[tuple[slice, slice, Integers, Floats]]:
        """Run packed sequences through the model, a group of whole sequences at a time.

        Parameters
        ----------
        ids, type_ids
            (T,) int64, the tokens of all sequences one behind the other.
        columns
            (T,) int64, where each token stands in its sequence, ascending.
        lengths
            (n,) int64, at least 1 each, with sum T.
        positions
            (T,) int64, rows of the table of positions; None: as the family makes them of ids without padding.
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
        if positions is None:
            positions = self._position_ids(ids, columns, lengths)
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
                    Spans(cu_seqlens, columns[tokens]),
                    workspace=workspace,
                    out=None if out is None else out[tokens],
                    num_threads=threads,
                )
                yield slice(start, stop), tokens, cu_seqlens, hidden

    def __call__(
        self,
        input_ids: TokenIds,
        attention_mask: TokenIds | None = None,
        token_type_ids: TokenIds | None = None,
        *,
        num_threads: int | None = None,
    ) -> ModelOutput:
        """Run a batch of token ids through the model.

        Parameters
        ----------
        input_ids
            (B, S) integers from 0 to ``vocab_size - 1``: an array, anything NumPy takes for one, or lists of equal
            length. S is at most ``max_positions``, which is beyond ``max_position_embeddings`` where the positions of
            the family have no table.
        attention_mask
            (B, S) of bool, or of the integers 0 and 1; 1 where a token is attended. Any pattern is allowed, with holes
            too. Excluded positions are not computed, and their ids may be anything (but families that count positions
            by their ids, as RoBERTa does, see whether they are padding). None attends to all.
        token_type_ids
            (B, S) integers from 0 to ``type_vocab_size - 1``; None for zeros.
        num_threads
            Threads of this call; None for what ``load`` was given.

        Returns
        -------
        named tuple
            The fields that transformers' output has for the architecture, float32: ``logits``; ``start_logits`` and
            ``end_logits``; or, without a head, ``last_hidden_state`` (B, S, H) and, in families with a pooler,
            ``pooler_output`` (B, H), None where the checkpoint has none. What the mask excludes is zeros. The position
            of a token is its column, as in transformers, whatever the mask. A row whose first token is excluded has
            zeros in what is made from that token alone, which is not computed.

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
        log = begin("model")
        packed = self._pack(input_ids, attention_mask, token_type_ids, log)
        return self._told(log, self._output(packed, num_threads))

    def _output(self, packed: PackedInputs, num_threads: int | None) -> ModelOutput:
        if self.head is not None:
            output: ModelOutput = self._run_heads(packed, {"": self.head}, num_threads)[""]
            return output
        shape = (*packed.shape, self.hidden_size)
        dense = packed.where is None
        hidden_states: Floats = np.empty(shape, np.float32) if dense else np.zeros(shape, np.float32)
        self._fill(packed, hidden_states.reshape(-1, self.hidden_size), num_threads)
        if not self.pooled_output:
            plain: Any = BaseModelOutput(hidden_states)  # it has some of the fields of ModelOutput
            return plain
        pooled: Any = BaseModelOutputWithPooling(hidden_states, self._pooler_output(packed, hidden_states, num_threads))
        return pooled

    def run_heads(
        self,
        input_ids: TokenIds,
        attention_mask: TokenIds | None = None,
        token_type_ids: TokenIds | None = None,
        *,
        heads: Sequence[str] | None = None,
        num_threads: int | None = None,
    ) -> dict[str, ModelOutput]:
        """Several heads in one pass through the encoder: the result of a call, for each of ``heads`` by name.

        ``heads``: names from ``self.heads``, None for all. The other arguments are those of a call.

        Raises
        ------
        ValueError
            There is no head of a name; and as a call does.
        """
        names = tuple(self.heads) if heads is None else tuple(heads)
        unknown = [name for name in names if name not in self.heads]
        if unknown:
            raise ValueError(f"heads: {unknown[0]!r}, expected some of {', '.join(map(repr, self.heads)) or 'none'}")
        log = begin("run_heads")
        packed = self._pack(input_ids, attention_mask, token_type_ids, log)
        outputs = self._run_heads(packed, {name: self.heads[name] for name in names}, num_threads)
        return self._told(log, outputs)

    def warm(self) -> None:
        """Do what the first call would have to do beside its work; for probes that tell when a service is ready.

        The tokenizer is made, memory is taken, the weights are read (of a mapped file all pages that calls need), and
        the model runs once for what it is: an encoder embeds a text, a classifier classifies one. Calls that follow
        take as long as later ones. A model without tokenizer.json is warmed for token ids alone. It may be called
        again, by several threads too, which costs such a run each time.

        Raises
        ------
        ImportError, ValueError
            The model cannot take text, though it has a tokenizer.json; see the class.

        Example
        -------
        >>> model = fastattn.load("all-MiniLM-L6-v2")                        # doctest: +SKIP
        >>> model.warm()                                                     # doctest: +SKIP
        """
        log = begin("warm")
        for table in self._looked_up:
            touch(table)
        with self._workspaces.borrow(Workspace.size(*self._scratch_shapes(self.GROUP_TOKENS))) as workspace:
            workspace.clear()
        packed = self._pack(np.zeros((1, min(_WARM_TOKENS, self.max_positions)), np.int64), None, None, log)
        self._output(packed, None)
        if len(self.heads) > 1:
            self._run_heads(packed, self.heads, None)
        if self._make_pipeline is not None and self.files.has("tokenizer.json"):
            self.pipeline.warm()
        self._told(log, None)

    def _told(self, log: CallLog | None, result: Result) -> Result:
        """``result`` of a call, whose ``log`` is written."""
        if log is not None:
            log.computed()
            log.write()
        return result

    def _pack(self, input_ids: Any, attention_mask: Any, token_type_ids: Any, log: CallLog | None) -> PackedInputs:
        packed = pack_inputs(
            input_ids,
            attention_mask,
            token_type_ids,
            max_positions=self.max_positions,
            position_ids=self._position_ids,
        )
        if log is not None:
            log.texts_came(packed.shape[0])
            log.tokens_came(packed.ids.size)
        return packed

    def _steps(
        self, packed: PackedInputs, out: Floats | None, num_threads: int | None
    ) -> Iterator[tuple[slice, slice, Integers, Floats]]:
        return self.encode_packed(
            packed.ids,
            packed.type_ids,
            packed.columns,
            packed.lengths[packed.lengths > 0],
            positions=packed.positions,
            out=out,
            num_threads=num_threads,
        )

    def _run_heads(self, packed: PackedInputs, heads: Mapping[str, Head], num_threads: int | None) -> dict[str, Any]:
        batch, columns = packed.shape
        results = {
            name: np.zeros((batch * columns if head.per_token else batch, head.outputs), np.float32)
            for name, head in heads.items()
        }
        rows = np.flatnonzero(packed.lengths)  # of the batch, of each sequence
        threads = self.num_threads if num_threads is None else num_threads
        for sequences, tokens, cu_seqlens, hidden in self._steps(packed, None, num_threads):
            for name, head in heads.items():
                outputs = head.apply(hidden, cu_seqlens, threads)
                if head.per_token:
                    results[name][tokens if packed.where is None else packed.where[tokens]] = outputs
                    continue
                if head.from_first:  # where column 0 is excluded, its hidden state is not known
                    outputs[packed.columns[tokens][cu_seqlens[:-1]] != 0] = 0
                results[name][rows[sequences]] = outputs
        shapes = {name: (batch, columns, head.outputs) for name, head in heads.items() if head.per_token}
        return {
            name: OUTPUTS[head.kind](results[name].reshape(shapes.get(name, results[name].shape)))
            for name, head in heads.items()
        }

    def _fill(self, packed: PackedInputs, target: Floats, num_threads: int | None) -> None:
        """Write the hidden states of the packed tokens to their rows of ``target`` (B * S, H)."""
        for _, tokens, _, hidden in self._steps(packed, target if packed.where is None else None, num_threads):
            if packed.where is not None:
                target[packed.where[tokens]] = hidden

    def _pooler_output(self, packed: PackedInputs, hidden_states: Floats, num_threads: int | None) -> Floats | None:
        if self.pooler is None:
            return None
        batch, columns = packed.shape
        if columns == 0:
            return np.zeros((batch, self.pooler.outputs), np.float32)
        rows: Any = slice(None) if packed.where is None else packed.where[packed.columns == 0] // columns
        first = np.ascontiguousarray(hidden_states[rows, 0])
        pooled = self.pooler.apply_rows(first, self.num_threads if num_threads is None else num_threads)
        if len(pooled) == batch:
            return pooled
        result = np.zeros((batch, self.pooler.outputs), np.float32)
        result[rows] = pooled
        return result


def _groups(ends: Integers, max_tokens: int, max_sequences: int | None) -> Iterator[tuple[int, int]]:
    """Cut n sequences, which end at ``ends[1:]``, into runs of at most so many tokens (or of one sequence)."""
    count, start = ends.size - 1, 0
    if count and max_sequences is None and ends[-1] <= max_tokens:
        yield 0, count
        return
    while start < count:
        stop = int(np.searchsorted(ends, ends[start] + max_tokens, side="right")) - 1
        if max_sequences is not None:
            stop = min(stop, start + max_sequences)
        stop = max(stop, start + 1)
        yield start, stop
        start = stop
