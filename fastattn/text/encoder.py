# SPDX-License-Identifier: MIT
"""``TextEncoder``: an encoder that takes text. The work is the pipeline's."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, overload

from ..engine.encoder import Encoder, Floats
from .pipeline import TextPipeline

if TYPE_CHECKING:
    from typing import Self

    import numpy as np
    from numpy.typing import ArrayLike

    from ..graph.build import Built
    from ..typing import OnLong, Precision, TextOrPair
    from .results import Answer, Classification, Ranked, Results, Token, Vectors

__all__ = ["TextEncoder"]


class TextEncoder(Encoder):
    """An encoder with its weights and its tokenizer. Made by ``fastattn.load``; see ``Encoder`` for calls by token ids.

    Texts are tokenized by the model's own tokenizer, truncated to ``max_seq_length``, sorted by length and run packed:
    nothing is spent on padding. A result has the same bits whatever it is computed together with, and whatever
    ``batch_size`` and ``num_threads`` are. A text costs what the tokens that are kept of it cost, however long it is.
    Results say under ``truncated`` how many texts were cut, and a ``TruncationWarning`` does so once for each call.
    Common to all methods:

    texts
        A list, tuple or any iterable, which is read a window at a time; only results are kept. The empty text is
        allowed.
    max_length
        Most tokens of a text or pair in this call, special ones included; None for ``max_seq_length``.
    on_long
        What becomes of longer ones: ``"truncate"`` cuts them, ``"error"`` refuses them.
    batch_size
        Most texts that go through the model together; None leaves it to a budget of tokens that fits the cache.
    head
        Name of one of ``model.heads``; None for the only one that fits.
    num_threads
        Threads of this call; None for what ``load`` was given.
    timeout
        Seconds that the call may take, texts read and the tokenizer made included; None for any number.

    Raises
    ------
    TypeError
        ``texts`` is a single string (pass a list), or one of them is no string: its index is given.
    ValueError
        A text holds half a surrogate pair, which is no valid Unicode; an argument is out of range; the model has no
        head for the task; its files are damaged or ask for something that is not supported.
    fastattn.TextTooLong
        A ValueError: ``on_long`` is "error" and a text has more tokens; or more than 100,000 characters of a text come
        without any place at which the tokenizer splits for certain, so that they would have to be tokenized as a whole.
        With published tokenizers white space is such a place, with some of them punctuation too.
    fastattn.DeadlineExceeded
        A TimeoutError: ``timeout`` has passed. There is no result, and the model can be called again.
    FileNotFoundError
        The model has no tokenizer.json.
    ImportError
        The ``tokenizers`` library is not installed.
    """

    @property
    def pipeline(self) -> TextPipeline:
        """What takes the texts. It holds the model, and the model keeps what it makes (see ``keep``) but not the
        pipeline itself: a model that nobody has a name for is freed at once.
        """
        return TextPipeline(self)

    def load_adapter(self, path: str | os.PathLike[str]) -> Self:
        """A model with a LoRA adapter merged into its weights. This one stays as it is.

        W + scale * (B A) is computed in float32, from the weights of the model's file, and stored as the model stores
        its layers. Layers without a change are shared by both models. Adapters of a model that has some already stay,
        and their sum is rounded once.

        Parameters
        ----------
        path
            A folder that PEFT wrote, a ``.gguf`` file of the type adapter, or a name as ``fastattn.load`` takes it.

        Raises
        ------
        FileNotFoundError
            No such path; no adapter there; the model's own files are gone.
        ValueError
            The adapter is no LoRA, or asks for what is not supported (DoRA among it); it is of another model: a tensor
            is not there or has another shape, or the architecture is another one; half of a pair is missing, or its
            rank is not that of the configuration; the weights are int8 in a packed file, or were replaced since the
            model was loaded. File and tensor are named.

        Example
        -------
        >>> tuned = fastattn.load("SmolLM2-135M").load_adapter("my-lora")          # doctest: +SKIP
        """
        from .adapting import build_with_adapter

        return self.over(build_with_adapter(self, path))

    def over(self, built: Built) -> Self:
        """For loaders: this model, as it was set and with the heads it was given, over other weights."""
        other = type(self)(built)
        other._notes, other._more_notes = [*self._notes, *built.notes], list(self._more_notes)
        for name in self.SETTABLE:
            setattr(other, name, getattr(self, name))
        for name, origin in self._added.items():
            other._put_head(name, self.heads[name], origin)
        return other

    def _warm_texts(self, deadline: int) -> None:
        if self.files.has("tokenizer.json"):
            self.pipeline.warm(deadline)

    @overload
    def embed(
        self, texts: Iterable[str], batch_size: int | None = ..., normalize: bool | None = ..., *,
        prompt: str | None = ..., prompt_name: str | None = ..., truncate_dim: int | None = ...,
        precision: Literal["float32"] = ..., ranges: ArrayLike | None = ..., max_length: int | None = ...,
        on_long: OnLong = ..., progress: bool | None = ..., num_threads: int | None = ...,
        timeout: float | None = ...,
    ) -> Vectors[np.float32]: ...  # fmt: skip
    @overload
    def embed(
        self, texts: Iterable[str], batch_size: int | None = ..., normalize: bool | None = ..., *,
        prompt: str | None = ..., prompt_name: str | None = ..., truncate_dim: int | None = ...,
        precision: Literal["int8", "binary"], ranges: ArrayLike | None = ..., max_length: int | None = ...,
        on_long: OnLong = ..., progress: bool | None = ..., num_threads: int | None = ...,
        timeout: float | None = ...,
    ) -> Vectors[np.int8]: ...  # fmt: skip
    @overload
    def embed(
        self, texts: Iterable[str], batch_size: int | None = ..., normalize: bool | None = ..., *,
        prompt: str | None = ..., prompt_name: str | None = ..., truncate_dim: int | None = ...,
        precision: Literal["uint8", "ubinary"], ranges: ArrayLike | None = ..., max_length: int | None = ...,
        on_long: OnLong = ..., progress: bool | None = ..., num_threads: int | None = ...,
        timeout: float | None = ...,
    ) -> Vectors[np.uint8]: ...  # fmt: skip
    @overload
    def embed(
        self, texts: Iterable[str], batch_size: int | None = ..., normalize: bool | None = ..., *,
        prompt: str | None = ..., prompt_name: str | None = ..., truncate_dim: int | None = ...,
        precision: Precision = ..., ranges: ArrayLike | None = ..., max_length: int | None = ...,
        on_long: OnLong = ..., progress: bool | None = ..., num_threads: int | None = ...,
        timeout: float | None = ...,
    ) -> Vectors[Any]: ...  # fmt: skip
    def embed(
        self,
        texts: Iterable[str],
        batch_size: int | None = None,
        normalize: bool | None = None,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        truncate_dim: int | None = None,
        precision: Precision = "float32",
        ranges: ArrayLike | None = None,
        max_length: int | None = None,
        on_long: OnLong = "truncate",
        progress: bool | None = None,
        num_threads: int | None = None,
        timeout: float | None = None,
    ) -> Vectors[Any]:
        """Sentence vectors of ``texts``, one row each, in their order.

        Pooling and what follows (Dense, LayerNorm, Normalize) are those of the folder's ``modules.json``, as
        sentence-transformers has them; mean pooling without normalisation where it says nothing.

        Parameters
        ----------
        texts, batch_size, max_length, on_long, num_threads, timeout
            See the class.
        normalize
            Whether to scale vectors to length 1; None does as the folder says.
        prompt, prompt_name
            What is put before every text, or its name among the folder's ``prompts``. None for both is the folder's
            default prompt, "" none at all. Models that were trained with prefixes, such as E5 (``"query: "``,
            ``"passage: "``), BGE and Arctic (queries alone), may not name them in their folder: their model card does.
        truncate_dim
            Numbers of each vector that are kept, for models trained that way ("Matryoshka"); None does as the folder
            says. Vectors are cut before they are scaled.
        precision
            What a vector is stored as: ``"float32"``; ``"int8"`` or ``"uint8"``, each number between its minimum and
            its maximum in 255 steps; ``"binary"`` or ``"ubinary"``, a bit for each number, set where it is above 0, in
            bytes of eight. The same as ``quantize_embeddings`` of sentence-transformers for the same ranges.
        ranges
            (2, dim) minima and maxima of each number, as found in a sample of vectors; for the int8 forms, which need
            them: they are never taken from the texts of a call, whose vectors would then depend on each other.
        progress
            Whether to count texts on stderr; None does so for many texts on a terminal.

        Returns
        -------
        (n, dim) float32, int8 or uint8; (n, dim / 8), rounded up, for bits
            A text without any token (only where the tokenizer adds no special ones) is a row of zeros. ``truncated`` is
            the number of texts that were cut.

        Raises
        ------
        TypeError, ValueError, fastattn.DeadlineExceeded, FileNotFoundError, ImportError
            See the class.

        Example
        -------
        >>> model = fastattn.load("e5-small-v2")                                       # doctest: +SKIP
        >>> model.embed(["How tall is the tower?"], prompt="query: ").shape            # doctest: +SKIP
        (1, 384)
        >>> model.embed(["It is 330 m tall.", "It is old."], prompt="passage: ").shape  # doctest: +SKIP
        (2, 384)
        """
        return self.pipeline.embed(
            texts, batch_size, normalize, prompt=prompt, prompt_name=prompt_name, truncate_dim=truncate_dim,
            precision=precision, ranges=ranges, max_length=max_length, on_long=on_long, progress=progress,
            num_threads=num_threads, timeout=timeout,
        )  # fmt: skip

    def embed_tokens(
        self,
        texts: Iterable[str],
        *,
        normalize: bool | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        max_length: int | None = None,
        on_long: OnLong = "truncate",
        batch_size: int | None = None,
        num_threads: int | None = None,
        timeout: float | None = None,
    ) -> Results[Floats]:
        """A vector for each token of each text, for late interaction. (Multi-vector folders themselves are refused.)

        Hidden states go through the Dense, LayerNorm and Normalize modules of the folder, each token by itself; pooling
        is left out.

        Parameters
        ----------
        texts, max_length, on_long, batch_size, num_threads, timeout
            See the class.
        normalize
            Whether to scale each vector to length 1; None does as the folder says.
        prompt, prompt_name
            As in ``embed``. Its tokens have vectors too.

        Returns
        -------
        list of (t, dim) float32
            Of each text: a row for each of its tokens, special ones included.

        Raises
        ------
        TypeError, ValueError, fastattn.DeadlineExceeded, FileNotFoundError, ImportError
            See the class.

        Example
        -------
        >>> model = fastattn.load("all-MiniLM-L6-v2")                                     # doctest: +SKIP
        >>> [len(matrix) for matrix in model.embed_tokens(["A cat.", "A cat sat there."])]  # doctest: +SKIP
        [5, 7]
        """
        return self.pipeline.embed_tokens(
            texts, normalize=normalize, prompt=prompt, prompt_name=prompt_name, max_length=max_length, on_long=on_long,
            batch_size=batch_size, num_threads=num_threads, timeout=timeout,
        )  # fmt: skip

    @property
    def max_seq_length(self) -> int:
        """Most tokens of a text, special ones included: ``max_seq_length`` of the folder's sentence_bert_config.json,
        else the tokenizer's ``model_max_length``, else ``text_positions`` (4096 where nothing is a limit). It can be
        set, up to ``max_positions``.

        Example
        -------
        >>> model = fastattn.load("all-MiniLM-L6-v2")                           # doctest: +SKIP
        >>> model.max_seq_length                                                # doctest: +SKIP
        256
        >>> model.max_seq_length = 512                                          # doctest: +SKIP
        """
        return self.pipeline.max_length() if self.chosen_length is None else self.chosen_length

    @max_seq_length.setter
    def max_seq_length(self, length: int) -> None:
        if isinstance(length, bool) or not hasattr(length, "__index__"):
            raise TypeError(f"max_seq_length: expected an int, got {type(length).__name__}")
        if not 1 <= length <= self.max_positions:
            raise ValueError(f"max_seq_length: got {length}, expected 1 to {self.max_positions}, the model's positions")
        self.chosen_length = int(length)

    def embedding_size(self, truncate_dim: int | None = None) -> int:
        """Width of the vectors that ``embed`` gives with this ``truncate_dim``."""
        return self.pipeline.dimension(truncate_dim)

    def classify(
        self,
        texts: Iterable[TextOrPair],
        *,
        head: str | None = None,
        top_k: int | None = None,
        activation: Literal["softmax", "sigmoid", "none"] | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        max_length: int | None = None,
        on_long: OnLong = "truncate",
        batch_size: int | None = None,
        num_threads: int | None = None,
        timeout: float | None = None,
    ) -> Results[Classification]:
        """Labels of texts, or of pairs of texts, by a sequence classification head.

        Scores are a softmax of the logits; with config.json's ``problem_type`` multi_label_classification, or a single
        label, a sigmoid of each; with ``regression`` the logits themselves. Labels are those of ``id2label``.

        Parameters
        ----------
        texts
            Texts, or pairs (a, b) as tuples or lists of two; see the class. Of a pair that is too long the longer text
            loses tokens first.
        top_k
            How many labels and scores to give, the best first; None for all.
        activation
            What makes scores of logits, in place of the above; ``"none"`` leaves them as they are.
        prompt, prompt_name
            What is put before every text, or before the first of a pair; as in ``embed``.
        head, max_length, on_long, batch_size, num_threads, timeout
            See the class.

        Returns
        -------
        list of Classification
            ``label``, ``score`` (the best), ``labels``, ``scores`` (best first), for each text in order.

        Raises
        ------
        TypeError, ValueError, fastattn.DeadlineExceeded, FileNotFoundError, ImportError
            See the class.

        Example
        -------
        >>> model = fastattn.load("distilbert-sst-2")                           # doctest: +SKIP
        >>> model.classify(["A delight.", "A bore."])[0].label                  # doctest: +SKIP
        'POSITIVE'
        """
        return self.pipeline.classify(
            texts, head=head, top_k=top_k, activation=activation, prompt=prompt, prompt_name=prompt_name,
            max_length=max_length, on_long=on_long, batch_size=batch_size, num_threads=num_threads, timeout=timeout,
        )  # fmt: skip

    def rerank(
        self,
        query: str,
        docs: Iterable[str],
        *,
        top_k: int | None = None,
        head: str | None = None,
        activation: Literal["sigmoid", "none"] | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        max_length: int | None = None,
        on_long: OnLong = "truncate",
        batch_size: int | None = None,
        num_threads: int | None = None,
        timeout: float | None = None,
    ) -> Results[Ranked]:
        """``docs`` in the order in which they answer ``query``, by a cross-encoder: a classifier with one label.

        A score is a sigmoid of the logit, or what the folder names instead (``activation_fn`` in
        config_sentence_transformers.json or under ``sentence_transformers`` in config.json; older files:
        ``sbert_ce_default_activation_function``).

        Parameters
        ----------
        query
            A text.
        docs
            Texts; see the class.
        top_k
            How many documents to give; None for all.
        activation
            What makes a score of the logit, in place of the above; ``"none"`` leaves it as it is.
        prompt, prompt_name
            What is put before the query, or its name among the folder's ``prompts``. None for both is the folder's
            default prompt, as sentence-transformers 5.4 and later have it.
        head, max_length, on_long, batch_size, num_threads, timeout
            See the class.

        Returns
        -------
        list of Ranked
            (index, score) of documents, the best first; of equal scores the first document.

        Raises
        ------
        TypeError, ValueError, fastattn.DeadlineExceeded, FileNotFoundError, ImportError
            See the class. A model without a classification head of one label is refused: ``embed`` and a dot product
            rank documents by an embedding model.

        Example
        -------
        >>> model = fastattn.load("ms-marco-MiniLM-L6-v2")                              # doctest: +SKIP
        >>> docs = ["It is 330 m tall.", "It opened in 1889."]                          # doctest: +SKIP
        >>> [docs[i] for i, score in model.rerank("When was it opened?", docs, top_k=1)]  # doctest: +SKIP
        ['It opened in 1889.']
        """
        return self.pipeline.rerank(
            query, docs, top_k=top_k, head=head, activation=activation, prompt=prompt, prompt_name=prompt_name,
            max_length=max_length, on_long=on_long, batch_size=batch_size, num_threads=num_threads, timeout=timeout,
        )  # fmt: skip

    def tokens(
        self,
        texts: Iterable[str],
        *,
        head: str | None = None,
        aggregate: bool = False,
        vectors: bool | None = None,
        max_length: int | None = None,
        on_long: OnLong = "truncate",
        batch_size: int | None = None,
        num_threads: int | None = None,
        timeout: float | None = None,
    ) -> Results[list[Token]]:
        """The tokens of each text: with labels from a token classification head, with their hidden states, or both.

        Special tokens, and tokens beyond the maximum length, are left out.

        Parameters
        ----------
        texts
            See the class.
        aggregate
            Join neighbouring tokens whose labels name one entity (B-PER, I-PER), and give the entities alone: the
            strategy "simple" of transformers' pipeline.
        vectors
            Whether to give hidden states; None gives them where there is no head. Entities have none.
        head, max_length, on_long, batch_size, num_threads, timeout
            See the class.

        Returns
        -------
        list of lists of Token
            ``text``, ``start``, ``end`` (in characters), ``label``, ``score``, ``vector``; None for what there is not.

        Raises
        ------
        TypeError, ValueError, fastattn.DeadlineExceeded, FileNotFoundError, ImportError
            See the class.

        Example
        -------
        >>> model = fastattn.load("bert-base-NER")                                             # doctest: +SKIP
        >>> [(e.text, e.label) for e in model.tokens(["Ada lives in London"], aggregate=True)[0]]  # doctest: +SKIP
        [('Ada', 'PER'), ('London', 'LOC')]
        """
        return self.pipeline.tokens(
            texts, head=head, aggregate=aggregate, vectors=vectors, max_length=max_length, on_long=on_long,
            batch_size=batch_size, num_threads=num_threads, timeout=timeout,
        )  # fmt: skip

    def answer(
        self,
        question: str,
        context: str,
        *,
        max_answer_tokens: int = 15,
        max_length: int | None = None,
        head: str | None = None,
        num_threads: int | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """The piece of ``context`` that answers ``question``, by a question answering head.

        All of the context is read: where it is too long, in windows that overlap by 128 tokens (or by half of what
        fits), one after the other, in bounded memory.

        Parameters
        ----------
        question, context
            Texts.
        max_answer_tokens
            Longest answer.
        max_length, head, num_threads, timeout
            See the class; ``max_length`` is that of a window with the question.

        Returns
        -------
        Answer
            ``text``, ``start``, ``end`` (in characters of the context), ``score``.

        Raises
        ------
        TypeError, ValueError, fastattn.DeadlineExceeded, FileNotFoundError, ImportError
            See the class; ``ValueError`` too where the question leaves no room for the context.

        Example
        -------
        >>> model = fastattn.load("distilbert-squad")                                       # doctest: +SKIP
        >>> model.answer("Where does Ada live?", "Ada has lived in London for years.").text  # doctest: +SKIP
        'London'
        """
        return self.pipeline.answer(
            question, context, max_answer_tokens=max_answer_tokens, max_length=max_length, head=head,
            num_threads=num_threads, timeout=timeout,
        )  # fmt: skip
