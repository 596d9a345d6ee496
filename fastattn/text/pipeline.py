# SPDX-License-Identifier: MIT
"""All a model can do with text: what ``Encoder.embed``, ``classify``, ``rerank``, ``tokens`` and ``answer`` call.

Those methods say what the arguments and results are. The tokenizer is read with the first text; what a folder says of
sentence vectors is read with the first of them, so that a classifier need not have any of it; and each task's code is
imported when it is first asked for, as most processes do one thing alone.
"""

from __future__ import annotations

from functools import cached_property
from threading import RLock
from typing import TYPE_CHECKING, Any

from .settings import TextSettings
from .tokenizer import TextTokenizer

if TYPE_CHECKING:
    from ..models.encoder import Encoder, Floats
    from .embedder import Embedder
    from .results import Answer, Classification, Ranked, Results, Token, Vectors

__all__ = ["TextPipeline"]


class TextPipeline:
    """Texts through ``model``. Safe to be called from many threads at once."""

    def __init__(self, model: Encoder) -> None:
        self._model = model
        self._lock = RLock()  # many threads may bring the first text: what it takes is made once
        self._tokenizer: TextTokenizer | None = None
        self._embedder: Embedder | None = None
        self._max_length: int | None = None

    @cached_property
    def _settings(self) -> TextSettings:
        settings = TextSettings.read(self._model.files)
        return settings if settings.max_length else settings._replace(max_length=self._model.text_positions)

    @property
    def tokenizer(self) -> TextTokenizer:
        """The model's tokenizer."""
        if self._tokenizer is None:
            with self._lock:
                if self._tokenizer is None:
                    made = TextTokenizer(self._model.files, self._settings, self._model.max_positions)
                    if self._max_length is not None:
                        made.max_length = made.check_length(self._max_length, "max_seq_length")
                    self._tokenizer = made
        return self._tokenizer

    @property
    def embedder(self) -> Embedder:
        """What makes sentence vectors."""
        if self._embedder is None:
            tokenizer = self.tokenizer
            with self._lock:
                if self._embedder is None:
                    from .embedder import Embedder

                    self._embedder = Embedder(self._model, tokenizer)
        return self._embedder

    @property
    def max_seq_length(self) -> int:
        """Most tokens of a text."""
        if self._tokenizer is not None:
            return self._tokenizer.max_length
        most = self._model.max_positions
        return self._max_length or min(self._settings.max_length or most, most)

    @max_seq_length.setter
    def max_seq_length(self, length: int) -> None:
        if isinstance(length, bool) or not hasattr(length, "__index__"):
            raise TypeError(f"max_seq_length: expected an int, got {type(length).__name__}")
        most = self._model.max_positions
        if not 1 <= length <= most:
            raise ValueError(f"max_seq_length: got {length}, expected 1 to {most}, the model's positions")
        with self._lock:
            if self._tokenizer is not None:
                self._tokenizer.max_length = self._tokenizer.check_length(int(length), "max_seq_length")
            self._max_length = int(length)

    def warm(self) -> None:
        ids, types = self.tokenizer.encode("")
        if ids.size:
            self._model(ids[None], token_type_ids=types[None] if self._model.type_vocab_size > 1 else None)

    def embed(self, texts: Any, batch_size: Any = None, normalize: Any = None, **options: Any) -> Vectors:
        return self.embedder.embed(texts, batch_size, normalize, **options)

    def embed_tokens(self, texts: Any, **options: Any) -> Results[Floats]:
        return self.embedder.embed_tokens(texts, **options)

    def dimension(self, truncate_dim: Any = None) -> int:
        return self.embedder.dimension(truncate_dim)

    def classify(self, texts: Any, **options: Any) -> Results[Classification]:
        from .classifier import classify

        return classify(self._model, self.tokenizer, texts, **options)

    def rerank(self, query: Any, docs: Any, **options: Any) -> Results[Ranked]:
        from .classifier import rerank

        return rerank(self._model, self.tokenizer, query, docs, **options)

    def tokens(self, texts: Any, **options: Any) -> Results[list[Token]]:
        from .tokens import label_tokens

        return label_tokens(self._model, self.tokenizer, texts, **options)

    def answer(self, question: Any, context: Any, **options: Any) -> Answer:
        from .answers import answer

        return answer(self._model, self.tokenizer, question, context, **options)
