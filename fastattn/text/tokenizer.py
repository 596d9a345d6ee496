# SPDX-License-Identifier: MIT
"""The folder's tokenizer.json through the ``tokenizers`` library, with truncation as the folder's settings say."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..loaders.files import ModelFiles, as_files
from .settings import TextSettings

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["TextTokenizer", "Tokens"]

Tokens = tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.int64]]]
"""Token ids and token type ids of a text, (t,) each."""

_NAME = "tokenizer.json"

# A text is looked at for a shorter prefix only where it is far longer than its tokens can need.
_CHARS_PER_TOKEN = 16
_CUT_ABOVE = 32

_AT_ONCE = 256  # texts whose encodings, which are many times the size of their ids, are in memory together

_OVERLAP = 128  # tokens that two neighbouring pieces of a long context share, as in transformers' pipeline


class TextTokenizer:
    """Tokens of a text: at most ``max_length`` of them, special ones included.

    Truncation and padding settings inside tokenizer.json are switched off: they are leftovers of training.

    Parameters
    ----------
    folder
        Where tokenizer.json is: a folder, or the files of a model.
    settings
        Of the same folder.
    max_positions
        The longest sequence of the model; texts are never longer.

    Raises
    ------
    ImportError
        The ``tokenizers`` library is not installed.
    FileNotFoundError
        The folder has no tokenizer.json.
    ValueError
        tokenizer.json is damaged, or the maximum length leaves no room for the special tokens.
    """

    def __init__(self, folder: ModelFiles | str | os.PathLike[str], settings: TextSettings, max_positions: int) -> None:
        files = as_files(folder)
        path = files.describe(_NAME)
        if not files.has(_NAME):
            from ..loaders.hints import missing_tokenizer_hint

            raise FileNotFoundError(
                f"{path}: needed to embed text or classify it (token ids can be used without it); "
                f"{missing_tokenizer_hint(files)}"
            )
        library = _library()
        data = files.read_bytes(_NAME)
        with _named_errors(f"{path}: the tokenizers library cannot read it"):
            tokenizer: Tokenizer = library.Tokenizer.from_buffer(data)
        self.max_length = min(settings.max_length or max_positions, max_positions)
        """Most tokens of a text."""
        special = tokenizer.num_special_tokens_to_add(False)
        if self.max_length < special:
            raise ValueError(
                f"{files.describe()}: texts of at most {self.max_length} tokens leave no room for {special} special "
                "tokens"
            )
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.max_length, direction=settings.truncation_side)
        self._special_of_pairs = tokenizer.num_special_tokens_to_add(True)
        self._tokenizer = tokenizer
        self._settings = settings
        self._files = files
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return TextTokenizer, (self._files, self._settings, self.max_length)

    def encode(self, text: str | tuple[str, str]) -> Tokens:
        """Token ids and token type ids of a text, or of a pair of texts. Texts must be encodable as UTF-8.

        Of a pair that is too long, the longer of its texts loses tokens first, as transformers' ``truncation=True`` has
        it.
        """
        if isinstance(text, str):
            return self._tokens(self._encoding(self._prepared(text)))
        return self._tokens(self._pair(self._prepared(text[0]), self._prepared(text[1])))

    def encode_many(self, texts: Sequence[str | tuple[str, str]]) -> list[Tokens]:
        """``encode`` of each of ``texts``, by fewer calls of the library where it may do them its way.

        That way is threads of its own, which TOKENIZERS_PARALLELISM switches on or off; where the variable is not set,
        this thread does it all, so that no more threads than asked for run and a later fork() meets none.
        """
        results: list[Tokens | None] = [self.encode(text) if self._is_long(text) else None for text in texts]
        rest = [i for i, tokens in enumerate(results) if tokens is None]
        own_way = os.environ.get("TOKENIZERS_PARALLELISM") is not None
        one = self._tokenizer.encode
        many = getattr(self._tokenizer, "encode_batch_fast", self._tokenizer.encode_batch)  # fast: without offsets
        for start in range(0, len(rest), _AT_ONCE):
            part = rest[start : start + _AT_ONCE]
            inputs = [self._input(texts[i]) for i in part]
            with _named_errors(f"{self._path}: the tokenizers library failed on a text"):
                encodings = many(inputs) if own_way else [one(x) if isinstance(x, str) else one(*x) for x in inputs]
            for i, encoding in zip(part, encodings, strict=True):
                results[i] = self._tokens(encoding)
        return results  # type: ignore[return-value]

    def _input(self, text: str | tuple[str, str]) -> str | tuple[str, str]:
        if isinstance(text, str):
            return self._prepared(text)
        self._check_pairs()
        return self._prepared(text[0]), self._prepared(text[1])

    def encode_offsets(self, text: str) -> tuple[Tokens, np.ndarray[Any, np.dtype[np.int64]]]:
        """Tokens of ``text``, and (t, 2) where in it each begins and ends, in characters; (-1, -1) for special ones."""
        encoding = self._encoding(self._prepared(text))
        offsets = self._offsets(encoding, text)
        offsets[np.array(encoding.special_tokens_mask, np.int64) == 1] = -1
        return self._tokens(encoding), offsets

    def encode_pieces(self, question: str, context: str) -> list[tuple[Tokens, np.ndarray[Any, np.dtype[np.int64]]]]:
        """``question`` with each of the pieces of ``context`` that fit beside it, which overlap.

        With the tokens of each: (t, 2) where in ``context``, in characters, a token begins and ends; (-1, -1) for
        tokens that are not of the context. ``ValueError`` where the question leaves no room.
        """
        self._check_pairs()
        original, question, context = context, self._prepared(question), self._prepared(context)
        with _named_errors(f"{self._path}: the tokenizers library failed on a question and its context"):
            first = self._splitter.encode(question, add_special_tokens=False)
            rest = self._splitter.encode(context, add_special_tokens=False)
        room = self.max_length - self._special_of_pairs - len(first.ids)
        if room < 2:
            raise ValueError(f"question: leaves no room for its context within {self.max_length} tokens")
        rest.truncate(room, stride=min(_OVERLAP, room // 2))
        pieces = []
        for piece in [rest, *rest.overflowing]:
            encoding = self._splitter.post_process(first, piece)
            offsets = self._offsets(encoding, original)
            offsets[np.array([sequence != 1 for sequence in encoding.sequence_ids], np.bool_)] = -1
            pieces.append((self._tokens(encoding), offsets))
        return pieces

    @cached_property
    def _splitter(self) -> Any:
        """Another tokenizer, which does not truncate: one's settings must not change while threads share it."""
        tokenizer = _library().Tokenizer.from_buffer(self._files.read_bytes(_NAME))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    def count_prompt(self, prompt: str) -> int:
        """Tokens that ``prompt`` takes at the beginning of a text, special ones before it included."""
        if not prompt:
            return 0
        encoding = self._encoding(self._prepared(prompt))
        return len(encoding.ids) - (encoding.special_tokens_mask[-1:] == [1])

    def _offsets(self, encoding: Any, text: str) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Where tokens begin and end in ``text``, (t, 2), which may have been lower-cased for the tokenizer."""
        offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2)
        if self._settings.lowercase and len(text.lower()) != len(text):
            ends = np.cumsum([0, *(len(letter.lower()) for letter in text)])  # of each letter, lower-cased
            offsets[:, 0] = np.searchsorted(ends, offsets[:, 0], side="right") - 1
            offsets[:, 1] = np.searchsorted(ends, offsets[:, 1], side="left")
            np.minimum(offsets, len(text), out=offsets)
        return offsets

    def _prepared(self, text: str) -> str:
        return text.lower() if self._settings.lowercase else text

    def _tokens(self, encoding: Any) -> Tokens:
        ids = np.array(encoding.ids, np.int64)
        return ids, np.array(encoding.type_ids, np.int64) if self._settings.token_types else np.zeros_like(ids)

    def _is_long(self, text: str | tuple[str, str]) -> bool:
        return (len(text) if isinstance(text, str) else max(map(len, text))) > _CUT_ABOVE * self.max_length

    def _run(self, text: str, pair: str | None = None) -> Any:
        with _named_errors(f"{self._path}: the tokenizers library failed on a text"):
            return self._tokenizer.encode(text, pair)

    def _encoding(self, text: str) -> Any:
        encoding = self._encode_prefix(text)
        return self._run(text) if encoding is None else encoding

    def _check_pairs(self) -> None:
        if self.max_length < self._special_of_pairs:
            raise ValueError(
                f"{self._files.describe()}: texts of at most {self.max_length} tokens leave no room for the "
                f"{self._special_of_pairs} special tokens of a pair"
            )

    def _pair(self, first: str, second: str) -> Any:
        """Encoding of a pair. Where the second text is very long, and the first is not, a prefix of it will do."""
        self._check_pairs()
        if self._is_long(second) and not self._is_long(first) and not self._run(first).overflowing:
            _, length = self._long_prefix(second)
            second = second[:length]
        return self._run(first, second)

    @cached_property
    def _boundary(self) -> re.Pattern[str] | None:
        return _boundary(self._files.read_json(_NAME))

    def _encode_prefix(self, text: str) -> Any:
        """Encoding of a very long text from a prefix of it, or None where that may not be the same."""
        return self._long_prefix(text)[0] if self._is_long(text) else None

    def _long_prefix(self, text: str) -> tuple[Any, int]:
        """The truncated encoding of a very long text and the length of a prefix that has it; (None, all) without one.

        The tokens of a prefix that ends at a boundary between words are the first tokens of the whole text (see
        ``_boundary``). So where such a prefix has more tokens than are kept, it has all of those that are kept, and
        a book costs no more than a page.
        """
        boundary = self._boundary if self._settings.truncation_side == "right" else None
        length = _CHARS_PER_TOKEN * self.max_length
        while boundary is not None and length < len(text):
            match = boundary.search(text, length)
            if match is None:
                break
            encoding = self._run(text[: match.start()])
            if encoding.overflowing:
                return encoding, match.start()
            length = 4 * match.start()
        return None, len(text)


@contextmanager
def _named_errors(message: str) -> Iterator[None]:
    """ValueError for what the library raises: bare Exception, and for a panic in Rust a BaseException of its own."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        raise ValueError(f"{message} ({error})") from None


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError("text needs the tokenizers library: pip install fastattn[text]") from error
    return tokenizers


def _boundary(description: dict[str, Any]) -> re.Pattern[str] | None:
    """Where a text may be cut so that the tokens before are the same with and without what follows; None: nowhere.

    It holds for the pipeline of BERT alone, whose every stage is local: the normaliser works on single characters (and
    on combining marks, which never reach across white space), words end at white space and around CJK ideographs
    (which it surrounds by spaces), and WordPiece works within words. Added tokens must not hold a boundary themselves.
    """
    stages = [description.get(key) for key in ("normalizer", "pre_tokenizer", "model")]
    kinds = [stage.get("type") if isinstance(stage, dict) else None for stage in stages]
    if kinds != ["BertNormalizer", "BertPreTokenizer", "WordPiece"]:
        return None
    cjk = "\u4e00-\u9fff" if stages[0].get("handle_chinese_chars") is True else ""  # type: ignore[union-attr]
    boundary = re.compile(f"[ \t\r\n{cjk}]")
    added = description.get("added_tokens")
    for token in added if isinstance(added, list) else []:
        if not isinstance(token, dict) or boundary.search(str(token.get("content", " "))):
            return None
    return boundary
