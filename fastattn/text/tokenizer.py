# SPDX-License-Identifier: MIT
"""The folder's tokenizer.json through the ``tokenizers`` library, with truncation as the folder's settings say."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..loaders.files import ModelFiles, as_files
from .settings import TextSettings

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["TextTokenizer"]

_NAME = "tokenizer.json"

# A text is looked at for a shorter prefix only where it is far longer than its tokens can need.
_CHARS_PER_TOKEN = 16
_CUT_ABOVE = 32


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
            hint = ""
            if files.has("vocab.txt"):
                hint = "; AutoTokenizer.from_pretrained(folder).save_pretrained(folder) of transformers writes it"
            raise FileNotFoundError(f"{path}: needed to embed text (token ids can be used without it){hint}")
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
        self._tokenizer = tokenizer
        self._settings = settings
        self._files = files
        self._path = path

    def encode(self, text: str) -> tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.int64]]]:
        """Token ids and token type ids of ``text``, (t,) each. The text must be encodable as UTF-8."""
        text = self._settings.prompt + text
        if self._settings.lowercase:
            text = text.lower()
        encoding = self._encode_prefix(text)
        if encoding is None:
            encoding = self._run(text)
        return np.array(encoding.ids, np.int64), np.array(encoding.type_ids, np.int64)

    def _run(self, text: str) -> Any:
        with _named_errors(f"{self._path}: the tokenizers library failed on a text"):
            return self._tokenizer.encode(text)

    @cached_property
    def _boundary(self) -> re.Pattern[str] | None:
        return _boundary(self._files.read_json(_NAME))

    def _encode_prefix(self, text: str) -> Any:
        """Encoding of a very long text from a prefix of it, or None where that may not be the same.

        The tokens of a prefix that ends at a boundary between words are the first tokens of the whole text (see
        ``_boundary``). So where such a prefix has more tokens than are kept, it has all of those that are kept, and
        a book costs no more than a page.
        """
        if len(text) <= _CUT_ABOVE * self.max_length or self._settings.truncation_side != "right":
            return None
        boundary = self._boundary
        if boundary is None:
            return None
        length = _CHARS_PER_TOKEN * self.max_length
        while length < len(text):
            match = boundary.search(text, length)
            if match is None:
                return None
            encoding = self._run(text[: match.start()])
            if encoding.overflowing:
                return encoding
            length = 4 * match.start()
        return None


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
        raise ImportError("embedding text needs the tokenizers library: pip install fastattn[text]") from error
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
