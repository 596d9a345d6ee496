# SPDX-License-Identifier: MIT
"""A model of token ids: inputs are packed, run a group of sequences at a time, and results put where they belong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from .._core import Blocks
from ..calllog import CallLog, begin
from ..graph.family import NO_LIMIT, columns_as_positions
from ..graph.heads import Head
from ..graph.program import Compiled, compile_trace
from ..graph.source import listed, touch
from ..graph.tasks import head_output
from .inputs import Integers, PackedInputs, check_range, has_holes, pack_inputs
from .kept import Kept
from .outputs import OUTPUTS, BaseModelOutput, BaseModelOutputWithPooling, Floats, with_states
from .states import Attentions, check_flag, state_outputs
from .stop import check_deadline, deadline_of
from .travel import Origin, reduce_model

if TYPE_CHECKING:
    from ..graph.build import Built
    from ..typing import ModelOutput, TokenIds

__all__ = ["Encoder", "Floats"]

Result = TypeVar("Result")

_WARM_TOKENS = 32  # enough for every thread and for the kernels of many rows
_TOUCHED = 1 << 22  # numbers of a table that are read between two looks at the clock

# Tensors of numbers that follow from the sizes: old versions of transformers saved them.
_BUFFER = re.compile(r"(.*\.)?(position_ids|token_type_ids|(self_)?att(entio)?n\.(masked_)?bias)|.*rotary_emb\..*")


class Encoder:
    """A model with its weights, ready to be called with token ids. Made by ``fastattn.load``.

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

    chosen_length: int | None = None
    """What ``max_seq_length`` was set to."""

    def __init__(self, built: Built) -> None:
        facts, tasks = built.facts, built.graph.tasks
        self.family = built.family
        """What its family is called, and its page."""
        self.path: Path = built.path
        """The folder the model was loaded from."""
        self.files = built.files
        """The small files that came with the weights: configuration, tokenizer, pooling."""
        self.num_threads = built.num_threads
        """Threads of each call; None for the library's setting."""
        self.tensors = built.tensors
        """Which tensors of the file the model was made from, and which were left."""
        self.hidden_size = facts.hidden_size
        """H, the width of hidden states and sentence vectors."""
        self.vocab_size = facts.vocab_size
        """Token ids are 0 to ``vocab_size - 1``."""
        self.type_vocab_size = facts.type_vocab_size
        """Token type ids are 0 to ``type_vocab_size - 1``."""
        self.max_positions = facts.max_positions
        """The longest sequence that can be run: the rows of the table of positions, ``NO_LIMIT`` without one."""
        self.trained_positions = facts.trained_positions
        """The length a model without such a table is for, where its file says one."""
        self.pooled_output = built.family.pooled_output
        """Whether the family's output has a ``pooler_output``."""
        self.pooler = tasks.pooler
        """What makes ``pooler_output`` of the first token."""
        self.head = tasks.head
        """The head that was asked for, or found in the file; None for the encoder alone."""
        self.head_name = tasks.name
        """What ``load`` takes for ``head`` to find it: "none" for the encoder alone."""
        self.heads: dict[str, Head] = {} if tasks.head is None else {tasks.head.kind: tasks.head}
        """Every head by name: that of the file under its kind, and those ``add_head`` put beside it."""
        self.origin: Origin | None = built.origin
        """What ``pickle`` keeps of the model."""
        self.graph = built.graph
        """What the family's page has recorded, and what was put behind it since."""
        self._positions, self._attended = facts.positions or columns_as_positions, facts.attended
        self._describe = facts.text
        self._added: dict[str, Origin | None] = {}  # where the heads that were put beside its own are from
        self._notes = [*tasks.notes, *built.notes]
        if built.unknown:
            self._notes.append(f"{built.path}: left out as unknown: {listed(built.unknown)}")
        unused = [name for name in built.tensors.ignored if name not in built.unknown and not _BUFFER.fullmatch(name)]
        if unused:
            self._notes.append(f"{built.path}: not used: {listed(unused)}")
        self._more_notes: list[Callable[[Any], Iterable[str]]] = []
        self._blocks, self._kept = Blocks(), Kept()

    def __repr__(self) -> str:
        head = self.head
        what = "" if head is None else f", {head.kind}"
        if head is not None and head.labels:
            what += f" ({len(head.labels)} label{'s' * (len(head.labels) != 1)})"
        return f"<{self.family.name} {str(self.path)!r}: {self._describe}{what}>"

    # ---- what a model is ----

    @property
    def notes(self) -> list[str]:
        """What was found in the model's files and not obeyed: unknown keys, tensors that are left out, a head that was
        found otherwise than the files say. A sentence each; none is an error.
        """
        return [*self._notes, *(note for more in self._more_notes for note in more(self))]

    def add_notes(self, more: Callable[[Any], Iterable[str]]) -> None:
        """For loaders: further ``notes``, looked for when they are asked for. ``more`` must not hold the model."""
        self._more_notes.append(more)

    def keep(self, name: Any, make: Callable[[], Result]) -> Result:
        """What ``make()`` returned when ``name`` was first asked for: once, even if many threads ask at once.

        What is kept must not hold the model (but a ``weakref.proxy`` of it), or it would never be freed.
        """
        return self._kept.get(name, make)

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
        if getattr(other, "family", None) is not self.family or other.hidden_size != self.hidden_size:
            raise ValueError(f"other: {other!r}, expected a {self.family.name} that is {self.hidden_size} wide")
        if other.head is None:
            raise ValueError(f"other: {other!r} has no head")
        if name in self.heads:
            raise ValueError(f"name: there is a head {name!r} already")
        self._put_head(name, other.head, other.origin)

    def _put_head(self, name: str, head: Head, origin: Origin | None) -> None:
        self.record(head_output(name), lambda: head.record(self.graph, self.graph.trace.outputs["hidden"]))
        self.heads[name] = head
        self._added[name] = origin

    def record(self, name: str, steps: Callable[[], Any]) -> str:
        """Put further ``steps`` behind the model, once: what they return is the output ``name``."""

        def once() -> str:
            if name not in self.graph.trace.outputs:
                self.graph.output(name, steps())
            return name

        return self.keep(("output", name), once)

    def __reduce__(self) -> tuple[Any, ...]:
        state = {name: getattr(self, name) for name in self.SETTABLE}
        return reduce_model(self, self.origin, self._added, state)

    def __copy__(self) -> Encoder:
        """A model of its own over the same weights, which are never written."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.heads, other._added = dict(self.heads), dict(self._added)
        other._notes, other._more_notes = list(self._notes), list(self._more_notes)
        other.graph = self.graph.copy()
        other._blocks, other._kept = Blocks(), Kept()
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

    # ---- runs ----

    def program(self, outputs: Sequence[str], attentions: bool = False) -> Compiled:
        """What computes these outputs of the graph; with ``attentions`` the probabilities of all layers too."""
        names = tuple(outputs)
        return self.keep(
            ("program", names, attentions), lambda: compile_trace(self.graph.trace, names, attentions=attentions)
        )

    def run_packed(
        self,
        outputs: Sequence[str],
        ids: Integers,
        type_ids: Integers,
        columns: Integers,
        lengths: Integers,
        *,
        positions: Integers | None = None,
        into: Mapping[str, Floats] | None = None,
        more: Mapping[str, Any] | None = None,
        max_sequences: int | None = None,
        attentions: Attentions | None = None,
        num_threads: int | None = None,
        deadline: int = 0,
        reserve: bool = False,
    ) -> Iterator[tuple[slice, slice, Integers, dict[str, Floats]]]:
        """Run packed sequences through the model, a group of whole sequences at a time.

        Parameters
        ----------
        outputs
            Names of outputs of the graph.
        ids, type_ids
            (T,) int64, the tokens of all sequences one behind the other.
        columns
            (T,) int64, where each token stands in its sequence, ascending.
        lengths
            (n,) int64, at least 1 each, with sum T.
        positions
            (T,) int64, rows of the table of positions; None: as the family makes them of ids without padding.
        into
            Arrays of all T tokens, or n sequences, that take outputs; the others get arrays of their own.
        more
            Further arrays of every batch, by name.
        max_sequences
            Most sequences of a group; None for no limit but ``GROUP_TOKENS``.
        attentions
            What takes the probabilities of all layers.
        deadline
            Of ``deadline_of``.
        reserve
            Take the scratch memory of each group, and run nothing.

        Yields
        ------
        (sequences, tokens, cu_seqlens, found)
            Which sequences and which tokens the group is, the ends of its sequences (n_group + 1,), and its outputs by
            name, (T_group, width) or (n_group, width).

        Raises
        ------
        ValueError
            An id or a type id is outside the model's tables.
        DeadlineExceeded
        """
        check_range("input_ids", ids, self.vocab_size, "vocab_size of the model")
        check_range("token_type_ids", type_ids, self.type_vocab_size, "type_vocab_size of the model")
        threads = self.num_threads if num_threads is None else num_threads
        if positions is None:
            positions = self._positions(ids, columns, lengths)
        ends = np.zeros(lengths.size + 1, np.int64)
        np.cumsum(lengths, out=ends[1:])
        program = self.program(outputs, attentions is not None)
        rotaries = self.graph.trace.rotaries
        for start, stop in _groups(ends, self.GROUP_TOKENS, max_sequences):
            tokens, sequences = slice(int(ends[start]), int(ends[stop])), slice(start, stop)
            cu_seqlens = ends[start : stop + 1] - ends[start]
            rows = {"tokens": tokens.stop - tokens.start, "sequences": stop - start}
            arrays: dict[str, Any] = {
                "ids": ids[tokens],
                "types": type_ids[tokens],
                "positions": positions[tokens],
                "places": columns[tokens],
                "ends": cu_seqlens,
                **(more or {}),
            }
            if "columns" in program.arrays and has_holes(columns[tokens], cu_seqlens):
                arrays["columns"] = columns[tokens]
            for name, make in self.graph.trace.made.items():
                if name in program.arrays:
                    arrays[name] = make(columns[tokens], cu_seqlens)
            for name, make in self.graph.trace.chosen.items():
                if name in program.arrays:
                    arrays[name] = make(ids[tokens], cu_seqlens)
            for i, rotary in enumerate(rotaries):
                if f"rope{i}.cos" in program.arrays:
                    table = rotary.rows(positions[tokens], cu_seqlens)
                    arrays[f"rope{i}.cos"], arrays[f"rope{i}.sin"], arrays[f"rope{i}.rows"] = table
            found: dict[str, Floats] = {}
            for name, (kind, width) in program.outputs.items():
                whole = None if into is None else into.get(name)
                if whole is None:
                    found[name] = np.empty((rows[kind], width), np.float32)
                else:
                    found[name] = whole[tokens if kind == "tokens" else sequences]
                arrays[f"out.{name}"] = found[name]
            if attentions is not None:
                arrays.update(attentions.arrays(sequences, cu_seqlens, columns[tokens]))
            check_deadline(deadline)
            done = program.run(
                rows, arrays, self._blocks, num_threads=threads, deadline=deadline, reserve=reserve
            )  # fmt: skip
            check_deadline(0, done)
            if attentions is not None:
                attentions.put(arrays, sequences, cu_seqlens, columns[tokens])
            yield sequences, tokens, cu_seqlens, found

    def __call__(
        self,
        input_ids: TokenIds,
        attention_mask: TokenIds | None = None,
        token_type_ids: TokenIds | None = None,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        num_threads: int | None = None,
        timeout: float | None = None,
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
        output_hidden_states, output_attentions
            Whether the result has the further fields ``hidden_states`` and ``attentions``.
        num_threads
            Threads of this call; None for what ``load`` was given.
        timeout
            Seconds that the call may take; None for any number.

        Returns
        -------
        named tuple
            The fields that transformers' output has for the architecture, float32: ``logits``; ``start_logits`` and
            ``end_logits``; or, without a head, ``last_hidden_state`` (B, S, H) and, in families with a pooler,
            ``pooler_output`` (B, H), None where the checkpoint has none. What the mask excludes is zeros. The position
            of a token is its column, as in transformers, whatever the mask. A row whose first token is excluded has
            zeros in what is made from that token alone, which is not computed.

            ``hidden_states``, where they are asked for: a tuple of (B, S, H), what the embeddings give and what each
            layer gives, the last of them ``last_hidden_state``, behind the final norm of families that have one.
            ``attentions``: a tuple of (B, heads, S, S), the probabilities of each layer, zeros for excluded keys and in
            the rows of excluded tokens. They take the memory that these shapes say. Fields that nobody asked for are
            None and no part of the tuple.

        Raises
        ------
        ValueError
            Shapes that do not fit, ids outside the tables, too many columns, a mask of other values.
        TypeError
            Values that are not integers.
        fastattn.DeadlineExceeded
            ``timeout`` has passed. The model can be called again.

        Example
        -------
        >>> out = model([[101, 7592, 102], [101, 102, 0]], attention_mask=[[1, 1, 1], [1, 1, 0]])  # doctest: +SKIP
        >>> out.last_hidden_state.shape                                                            # doctest: +SKIP
        (2, 3, 384)
        """
        log, deadline = begin("model"), deadline_of(timeout)
        states = check_flag(output_hidden_states, "output_hidden_states")
        attentions = check_flag(output_attentions, "output_attentions")
        packed = self._pack(input_ids, attention_mask, token_type_ids, log)
        return self._told(log, self._output(packed, num_threads, deadline, states=states, attentions=attentions))

    def _output(
        self, packed: PackedInputs, num_threads: int | None, deadline: int = 0, *, states: bool = False,
        attentions: bool = False,
    ) -> ModelOutput:  # fmt: skip
        if self.head is not None:
            outputs = [head_output(self.head.kind)]
        else:
            outputs = ["hidden"] if self.pooler is None else ["hidden", "pooler"]
        names = state_outputs(self.graph.trace) if states else []
        outputs += [name for name in names if name not in outputs]
        seen = None
        if attentions:
            heads = self.program(outputs, True).attentions
            seen = Attentions(heads, packed.shape, np.flatnonzero(packed.lengths))
        found = self._spread(packed, outputs, num_threads, deadline, seen)
        output: Any = self._named(packed, found)
        more: dict[str, Any] = {"hidden_states": tuple(found[name] for name in names)} if states else {}
        if seen is not None:
            more["attentions"] = seen.layers
        result: ModelOutput = with_states(output, **more) if more else output
        return result

    def _named(self, packed: PackedInputs, found: Mapping[str, Floats]) -> Any:
        """The result of a call, of its outputs."""
        if self.head is not None:
            return self._head_result(packed, self.head, found[head_output(self.head.kind)])
        if not self.pooled_output:
            return BaseModelOutput(found["hidden"])
        if self.pooler is not None and packed.shape[1]:
            self._clear_unseen(packed, found["pooler"])
        return BaseModelOutputWithPooling(found["hidden"], found.get("pooler"))

    def _spread(
        self, packed: PackedInputs, outputs: Sequence[str], num_threads: int | None, deadline: int,
        attentions: Attentions | None = None,
    ) -> dict[str, Floats]:  # fmt: skip
        """Outputs of a batch (B, S, width) or (B, width): zeros where nothing was computed."""
        batch, columns = packed.shape
        rows = np.flatnonzero(packed.lengths)  # of the batch, of each sequence
        kinds = self.program(outputs, attentions is not None).outputs
        whole, into = {}, {}
        for name, (kind, width) in kinds.items():
            count = batch * columns if kind == "tokens" else batch
            direct = packed.where is None if kind == "tokens" else rows.size == batch
            whole[name] = np.empty((count, width), np.float32) if direct else np.zeros((count, width), np.float32)
            if direct:
                into[name] = whole[name]
        steps = self.run_packed(
            outputs, packed.ids, packed.type_ids, packed.columns, packed.lengths[rows], positions=packed.positions,
            into=into, attentions=attentions, num_threads=num_threads, deadline=deadline,
        )  # fmt: skip
        for sequences, tokens, _, found in steps:
            for name, array in found.items():
                if name in into:
                    continue
                per_token = kinds[name][0] == "tokens"
                at: Any = packed.where[tokens] if per_token and packed.where is not None else rows[sequences]
                whole[name][at] = array
        return {
            name: array.reshape(batch, columns, -1) if kinds[name][0] == "tokens" and array.size else
            array.reshape(*((batch, columns) if kinds[name][0] == "tokens" else (batch,)), kinds[name][1])
            for name, array in whole.items()
        }  # fmt: skip

    @staticmethod
    def _clear_unseen(packed: PackedInputs, outputs: Floats) -> None:
        """Where column 0 is excluded, its hidden state is not known."""
        if packed.where is None:
            return
        starts = np.cumsum(packed.lengths) - packed.lengths
        rows = np.flatnonzero(packed.lengths)
        outputs[rows[packed.columns[starts[rows]] != 0]] = 0

    def run_heads(
        self,
        input_ids: TokenIds,
        attention_mask: TokenIds | None = None,
        token_type_ids: TokenIds | None = None,
        *,
        heads: Sequence[str] | None = None,
        num_threads: int | None = None,
        timeout: float | None = None,
    ) -> dict[str, ModelOutput]:
        """Several heads in one pass through the encoder: the result of a call, for each of ``heads`` by name.

        ``heads``: names from ``self.heads``, None for all. The other arguments are those of a call.

        Raises
        ------
        ValueError, TypeError, fastattn.DeadlineExceeded
            There is no head of a name; and as a call does.
        """
        names = tuple(self.heads) if heads is None else tuple(heads)
        unknown = [name for name in names if name not in self.heads]
        if unknown:
            raise ValueError(f"heads: {unknown[0]!r}, expected some of {', '.join(map(repr, self.heads)) or 'none'}")
        log, deadline = begin("run_heads"), deadline_of(timeout)
        packed = self._pack(input_ids, attention_mask, token_type_ids, log)
        return self._told(
            log, self._run_heads(packed, {name: self.heads[name] for name in names}, num_threads, deadline)
        )

    def warm(self, *, timeout: float | None = None) -> None:
        """Do what the first call would have to do beside its work; for probes that tell when a service is ready.

        The tokenizer is made, memory is taken, the weights are read (of a mapped file all pages that calls need), and
        the model runs once for what it is: an encoder embeds a text, a classifier classifies one. Calls that follow
        take as long as later ones. A model without tokenizer.json is warmed for token ids alone. It may be called
        again, by several threads too, which costs such a run each time.

        Parameters
        ----------
        timeout
            Seconds that it may take; None for any number. A tokenizer that is being made is made to its end.

        Raises
        ------
        ImportError, ValueError
            The model cannot take text, though it has a tokenizer.json; see the class.
        fastattn.DeadlineExceeded
            ``timeout`` has passed. What is warm by then stays so.

        Example
        -------
        >>> model = fastattn.load("all-MiniLM-L6-v2")                        # doctest: +SKIP
        >>> model.warm()                                                     # doctest: +SKIP
        """
        log, deadline = begin("warm"), deadline_of(timeout)
        for table in self.graph.tables:
            flat = table.reshape(-1)
            for start in range(0, flat.size, _TOUCHED):
                touch(flat[start : start + _TOUCHED])
                check_deadline(deadline)
        packed = self._pack(np.zeros((1, min(_WARM_TOKENS, self.max_positions)), np.int64), None, None, log)
        self._output(packed, None, deadline)
        if len(self.heads) > 1:
            self._run_heads(packed, self.heads, None, deadline)
        self._warm_texts(deadline)
        self._reserve(deadline)
        self._told(log, None)

    def _reserve(self, deadline: int) -> None:
        """Take the memory that a whole group needs, of one long text or of many short ones, for all that ran so far."""
        programs = [name[1] for name in self._kept.names() if isinstance(name, tuple) and name[0] == "program"]
        for length in (min(self.GROUP_TOKENS, self.max_positions), 1):
            count = self.GROUP_TOKENS // length
            ids, lengths = np.zeros(count * length, np.int64), np.full(count, length)
            columns, more = np.tile(np.arange(length), count), {"skip": np.zeros(1, np.int64)}
            for outputs in programs:
                if "logits" in outputs or any(name.startswith("answer.") for name in outputs):
                    continue  # what has batches of its own: a decoder's steps, its answers
                for _ in self.run_packed(
                    outputs, ids, ids, columns, lengths, more=more, deadline=deadline, reserve=True
                ):
                    pass

    def _warm_texts(self, deadline: int) -> None:
        """What is above token ids gets warm too, until ``deadline``, of ``deadline_of``."""

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
            position_ids=self._positions,
            attended=self._attended,
        )
        if log is not None:
            log.texts_came(packed.shape[0])
            log.tokens_came(packed.ids.size)
        return packed

    def _run_heads(
        self, packed: PackedInputs, heads: Mapping[str, Head], num_threads: int | None, deadline: int
    ) -> dict[str, Any]:
        found = self._spread(packed, [head_output(name) for name in heads], num_threads, deadline)
        return {name: self._head_result(packed, head, found[head_output(name)]) for name, head in heads.items()}

    def _head_result(self, packed: PackedInputs, head: Head, logits: Floats) -> Any:
        if head.from_first:
            self._clear_unseen(packed, logits)
        return OUTPUTS[head.kind](logits)


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
