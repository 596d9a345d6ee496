# SPDX-License-Identifier: MIT
"""All a model can do with text: what ``Encoder.embed``, ``classify``, ``rerank``, ``tokens`` and ``answer`` call.

Those methods say what the arguments and results are. The tokenizer is read with the first text; what a folder says of
sentence vectors is read with the first of them, so that a classifier need not have any of it; and each task's code is
imported when it is first asked for, as most processes do one thing alone.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from .settings import TextSettings
from .tokenizer import TextTokenizer

if TYPE_CHECKING:
    from ..models.encoder import Encoder, Floats
    from .embedder import Embedder
    from .results import Answer, Classification, Ranked, Token

__all__ = ["TextPipeline"]


class TextPipeline:
    """Texts through ``model``. Safe to be called from many threads at once."""

    def __init__(self, model: Encoder) -> None:
        self._model = model

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        """The model's tokenizer."""
        model = self._model
        settings = TextSettings.read(model.files)
        if settings.max_length is None:
            settings = settings._replace(max_length=model.text_positions)
        return TextTokenizer(model.files, settings, model.max_positions)

    @cached_property
    def embedder(self) -> Embedder:
        """What makes sentence vectors."""
        from .embedder import Embedder

        return Embedder(self._model, self.tokenizer)

    def embed(self, texts: Any, batch_size: Any = None, normalize: Any = None, **options: Any) -> Floats:
        return self.embedder.embed(texts, batch_size, normalize, **options)

    def dimension(self, truncate_dim: Any = None) -> int:
        return self.embedder.dimension(truncate_dim)

    def classify(self, texts: Any, **options: Any) -> list[Classification]:
        from .classifier import classify

        return classify(self._model, self.tokenizer, texts, **options)

    def rerank(self, query: Any, docs: Any, **options: Any) -> list[Ranked]:
        from .classifier import rerank

        return rerank(self._model, self.tokenizer, query, docs, **options)

    def tokens(self, texts: Any, **options: Any) -> list[list[Token]]:
        from .tokens import label_tokens

        return label_tokens(self._model, self.tokenizer, texts, **options)

    def answer(self, question: Any, context: Any, **options: Any) -> Answer:
        from .answers import answer

        return answer(self._model, self.tokenizer, question, context, **options)
