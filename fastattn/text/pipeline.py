# SPDX-License-Identifier: MIT
"""All a model can do with text: what ``TextEncoder.embed``, ``classify``, ``rerank``, ``tokens`` and ``answer`` call.

Those methods say what the arguments and results are. The tokenizer is read with the first text; what a folder says of
sentence vectors is read with the first of them, so that a classifier need not have any of it; and each task's code is
imported when it is first asked for, as most processes do one thing alone.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import proxy

from ..calllog import CallLog, begin
from ..engine.stop import check_deadline, deadline_of
from .settings import TextSettings
from .tokenizer import TextTokenizer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..engine.encoder import Encoder, Floats
    from ..typing import TextOrPair
    from .embedder import Embedder
    from .results import Answer, Classification, Ranked, Results, Token, Vectors

__all__ = ["TextPipeline"]

T = TypeVar("T")


class TextPipeline:
    """Texts through ``model``, which keeps what is made for it. Safe to be called from many threads at once."""

    def __init__(self, model: Encoder) -> None:
        self._model = model

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._model, "pipeline")

    @property
    def tokenizer(self) -> TextTokenizer:
        """The model's tokenizer."""
        return self._model.keep("tokenizer", self._make_tokenizer)

    def _make_tokenizer(self) -> TextTokenizer:
        return TextTokenizer(self._model.files, self._settings, self._model.max_positions)

    @property
    def embedder(self) -> Embedder:
        """What makes sentence vectors."""
        return self._model.keep("embedder", self._make_embedder)

    def _make_embedder(self) -> Embedder:
        from .embedder import Embedder

        model: Any = proxy(self._model)  # which keeps the result, and must not be held by it
        return Embedder(model, self.tokenizer)

    @cached_property
    def _settings(self) -> TextSettings:
        settings = TextSettings.read(self._model.files)
        return settings if settings.max_length else settings._replace(max_length=self._model.text_positions)

    def max_length(self) -> int:
        """Most tokens of a text, as the folder says."""
        return min(self._settings.max_length or self._model.max_positions, self._model.max_positions)

    def _limited(self, options: dict[str, Any]) -> dict[str, Any]:
        """``options`` of a call that begins: with its deadline, and with the length that was set for the model where it
        has none.
        """
        deadline = deadline_of(options.pop("timeout", None))
        length, chosen = options.get("max_length"), self._model.chosen_length
        if length is None and chosen is not None:
            length = self.tokenizer.check_length(chosen, "max_seq_length")
        options["max_length"] = length
        options["deadline"] = deadline
        return options

    def _told(self, log: CallLog | None, result: T) -> T:
        """``result`` of a call, whose ``log`` is written."""
        if log is not None:
            log.write(getattr(result, "truncated", 0))
        return result

    def warm(self, deadline: int = 0) -> None:
        """Make the tokenizer, and do once what the model is for: vectors, or what its head gives.

        ``deadline``: of ``deadline_of``.
        """
        model, tokenizer = self._model, self.tokenizer
        check_deadline(deadline)
        options: dict[str, Any] = {"max_length": None, "num_threads": None, "deadline": deadline}
        if model.head is None:
            self.embedder.embed(["a"], prompt="", deadline=deadline)
            return
        some = {"head": None, "on_long": "truncate", "batch_size": None, **options}
        if model.head.kind == "sequence_classification":
            from .classifier import classify

            classify(model, tokenizer, ["a"], top_k=None, activation=None, prompt="", prompt_name=None, **some)
        elif model.head.kind == "token_classification":
            from .tokens import label_tokens

            label_tokens(model, tokenizer, ["a"], aggregate=False, vectors=None, **some)
        elif model.head.kind == "question_answering":
            from .answers import answer

            answer(model, tokenizer, "a", "a", head=None, max_answer_tokens=1, **options)
        else:
            tokenizer.encode("a")

    def embed(
        self, texts: Iterable[str], batch_size: int | None = None, normalize: bool | None = None, **options: Any
    ) -> Vectors[Any]:
        log, options = begin("embed"), self._limited(options)
        found = self.embedder.embed(texts, batch_size, normalize, log=log, **options)
        return self._told(log, found)

    def embed_tokens(self, texts: Iterable[str], **options: Any) -> Results[Floats]:
        log, options = begin("embed_tokens"), self._limited(options)
        return self._told(log, self.embedder.embed_tokens(texts, log=log, **options))

    def dimension(self, truncate_dim: int | None = None) -> int:
        return self.embedder.dimension(truncate_dim)

    def classify(self, texts: Iterable[TextOrPair], **options: Any) -> Results[Classification]:
        log, options = begin("classify"), self._limited(options)
        from .classifier import classify

        found = classify(self._model, self.tokenizer, texts, log=log, **options)
        return self._told(log, found)

    def rerank(self, query: str, docs: Iterable[str], **options: Any) -> Results[Ranked]:
        log, options = begin("rerank"), self._limited(options)
        from .classifier import rerank

        found = rerank(self._model, self.tokenizer, query, docs, log=log, **options)
        return self._told(log, found)

    def rerank_by_answers(self, query: str, docs: Iterable[str], **options: Any) -> Results[Ranked]:
        log, options = begin("rerank"), self._limited(options)
        from .reranker import rerank_by_answers

        found = rerank_by_answers(self._model, self.tokenizer, query, docs, log=log, **options)
        return self._told(log, found)

    def tokens(self, texts: Iterable[str], **options: Any) -> Results[list[Token]]:
        log, options = begin("tokens"), self._limited(options)
        from .tokens import label_tokens

        found = label_tokens(self._model, self.tokenizer, texts, log=log, **options)
        return self._told(log, found)

    def answer(self, question: str, context: str, **options: Any) -> Answer:
        log, options = begin("answer"), self._limited(options)
        from .answers import answer

        found = answer(self._model, self.tokenizer, question, context, log=log, **options)
        return self._told(log, found)
