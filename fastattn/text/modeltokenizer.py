# SPDX-License-Identifier: MIT
"""``model.tokenizer`` of language models: texts to ids and back, one by one too, and special tokens by their roles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..loaders.files import ModelFiles
from ..vocab.library import named_errors
from .addedtokens import SPECIAL_KEYS
from .detokenize import IncrementalDecoder, byte_rule
from .opening import TOKENIZER_JSON, open_tokenizer
from .sidefiles import sentence_bert
from .tokenizerconfig import TokenizerConfig, is_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["ModelTokenizer", "chat_templates"]

_SLOW = 1 << 15  # characters above which the library is called so that it lets other threads run
_TEMPLATE = "chat_template.jinja"


class ModelTokenizer:
    """Texts and token ids of a language model, as transformers' ``AutoTokenizer`` has them.

    Parameters
    ----------
    tokenizer
        Of the ``tokenizers`` library; it is changed.
    tokens
        Special tokens by their role: ``{"eos_token": "<|im_end|>"}``.
    templates
        Chat templates by their name, that of the usual one is "default".
    where
        What messages call its file.
    size
        Ids that the model has, where its tables have rows beyond the vocabulary: such ids decode to nothing.

    Example
    -------
    >>> tokenizer = fastattn.load("model.gguf").tokenizer                       # doctest: +SKIP
    >>> tokenizer.decode(tokenizer.encode("Hello"))                             # doctest: +SKIP
    'Hello'
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        tokens: Mapping[str, str | None],
        templates: Mapping[str, str],
        where: str,
        size: int | None = None,
    ) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self._tokens = {role: tokens.get(role) for role in SPECIAL_KEYS}
        self.chat_templates: dict[str, str] = dict(templates)
        """All chat templates that come with the model, by name."""
        self._where, self._size = where, size

    @classmethod
    def from_files(cls, files: ModelFiles, size: int | None = None) -> ModelTokenizer:
        """That of a model's small files: ``tokenizer.json``, and what the files beside it ask for.

        Raises
        ------
        ImportError
            The ``tokenizers`` library is not installed.
        FileNotFoundError
            There is no tokenizer.json.
        ValueError
            A file is damaged, or asks for what is not supported: file and key are named.
        """
        config = TokenizerConfig(files, sentence_bert(files))
        tokenizer = open_tokenizer(files, config, "read and write texts")
        tokens = {role: config.token(role) for role in SPECIAL_KEYS}
        return cls(tokenizer, tokens, chat_templates(files, config), files.describe(TOKENIZER_JSON), size)

    # ---- texts -----------------------------------------------------------------------------------------------------

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of ``text``, all of them. Special tokens that it spells out become their ids.

        Raises
        ------
        TypeError
            ``text`` is no str.
        ValueError
            It has half a surrogate pair, which no UTF-8 can hold.
        """
        if not isinstance(text, str):
            raise TypeError(f"text: expected a str, got {type(text).__name__}")
        if not is_text(text):
            at = next(i for i, letter in enumerate(text) if "\ud800" <= letter <= "\udfff")
            raise ValueError(f"text: half a surrogate pair at character {at}, expected valid Unicode")
        special = bool(add_special_tokens)
        with named_errors(f"{self._where}: the tokenizers library failed on a text"):
            if len(text) <= _SLOW:
                return list(self._tokenizer.encode(text, add_special_tokens=special).ids)
            return list(self._tokenizer.encode_batch([text], add_special_tokens=special)[0].ids)

    def decode(self, ids: int | Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of ``ids``, spaces as they are; bytes that are no character become U+FFFD.

        Raises
        ------
        TypeError, ValueError
            One of ``ids`` is no integer, or no id of a token.
        """
        numbers = self._ids(ids)
        with named_errors(f"{self._where}: the tokenizers library failed on these ids"):
            return str(self._tokenizer.decode(numbers, skip_special_tokens=bool(skip_special_tokens)))

    def incremental(self, skip_special_tokens: bool = True) -> IncrementalDecoder:
        """What decodes ids one by one: its pieces are whole characters, and joined what ``decode`` gives for all."""
        special = self._special if skip_special_tokens else frozenset()
        return IncrementalDecoder(self._tokenizer, special, self._id, lambda ids: self.decode(ids, False))

    def token_bytes(self, number: int) -> bytes:
        """The bytes of one token, its space before included; b"" of an id without a token.

        Raises
        ------
        TypeError, ValueError
            ``number`` is no id of a token, or the bytes of tokens depend on those beside them (WordPiece).
        """
        rule = self._byte_rule
        if rule is None:
            raise ValueError(f"{self._where}: its tokens have no bytes of their own, those beside them decide")
        token = self._tokenizer.id_to_token(self._id(number))
        return b"" if token is None else rule(token)

    def token_to_id(self, token: str) -> int | None:
        """The id of the token that is spelled ``token``; None where there is none."""
        if not isinstance(token, str):
            raise TypeError(f"token: expected a str, got {type(token).__name__}")
        found = self._tokenizer.token_to_id(token) if is_text(token) else None
        return None if found is None else int(found)

    def id_to_token(self, number: int) -> str | None:
        """The token of an id, as the vocabulary spells it; None for an id without one."""
        token = self._tokenizer.id_to_token(self._id(number))
        return None if token is None else str(token)

    # ---- what there is ---------------------------------------------------------------------------------------------

    @cached_property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary, without those that were added to it; ``len`` counts all."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=False))

    @cached_property
    def _length(self) -> int:
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def __len__(self) -> int:
        return self._length

    @property
    def chat_template(self) -> str | None:
        """The chat template that the model came with, in Jinja."""
        return self.chat_templates.get("default")

    def apply_chat_template(self, messages: Any, **options: Any) -> str:
        """See ``TextDecoder.apply_chat_template``."""
        from .chattemplate import render_chat

        return render_chat(self.chat_templates, self._where, messages, tokens=self._tokens, **options)

    def call_form(self, chat_template: str | None, tools: Any) -> str | None:
        """How the model writes calls of tools, as its chat template says it; see ``toolcalls``."""
        from .chattemplate import chosen_template
        from .toolcalls import call_form

        return call_form(chosen_template(self.chat_templates, self._where, chat_template, tools)[0])

    @property
    def all_special_tokens(self) -> list[str]:
        """The texts of all special tokens, in the order of their ids."""
        return [token for token in map(self._tokenizer.id_to_token, self.all_special_ids) if token is not None]

    @cached_property
    def all_special_ids(self) -> list[int]:
        """Ids of all special tokens, in order."""
        added = self._tokenizer.get_added_tokens_decoder()
        return sorted(int(number) for number, token in added.items() if token.special)

    @property
    def bos_token(self) -> str | None:
        """What texts begin with, where they do."""
        return self._tokens["bos_token"]

    @property
    def eos_token(self) -> str | None:
        """What ends a text."""
        return self._tokens["eos_token"]

    @property
    def pad_token(self) -> str | None:
        """What fills up shorter texts of a batch in other libraries."""
        return self._tokens["pad_token"]

    @property
    def unk_token(self) -> str | None:
        """What stands for letters that no token has."""
        return self._tokens["unk_token"]

    @property
    def bos_token_id(self) -> int | None:
        return self._role_id("bos_token")

    @property
    def eos_token_id(self) -> int | None:
        return self._role_id("eos_token")

    @property
    def pad_token_id(self) -> int | None:
        return self._role_id("pad_token")

    @property
    def unk_token_id(self) -> int | None:
        return self._role_id("unk_token")

    def _role_id(self, role: str) -> int | None:
        token = self._tokens[role]
        return None if token is None else self.token_to_id(token)

    @cached_property
    def _special(self) -> frozenset[str]:
        return frozenset(t.content for t in self._tokenizer.get_added_tokens_decoder().values() if t.special)

    @cached_property
    def _byte_rule(self) -> Any:
        return byte_rule(self._tokenizer)

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in ("_tokenizer", "_tokens", "chat_templates", "_where", "_size")}

    # ---- ids -------------------------------------------------------------------------------------------------------

    def _id(self, number: Any) -> int:
        """``number`` as an int, if it is the id of a token."""
        if isinstance(number, (bool, np.bool_)) or not isinstance(number, (int, np.integer)):
            raise TypeError(f"ids: expected integers, got {type(number).__name__}")
        number = int(number)
        if not 0 <= number < 2**31 or self._tokenizer.id_to_token(number) is None and number >= self._end:
            raise ValueError(f"ids: got {number}, expected at least 0 and less than {self._end}")
        return number

    @cached_property
    def _end(self) -> int:
        """One more than the largest id that is one."""
        added = self._tokenizer.get_added_tokens_decoder()
        return max(len(self), self._size or 0, *(int(number) + 1 for number in added))

    def _ids(self, ids: Any) -> list[int]:
        if isinstance(ids, (str, bytes, bool, np.bool_)):
            raise TypeError(f"ids: expected token ids, got {type(ids).__name__}")
        if isinstance(ids, (int, np.integer)):
            return [self._id(ids)]
        if isinstance(ids, np.ndarray) and ids.ndim > 1:
            raise ValueError(f"ids: got an array of {ids.ndim} dimensions, expected one")
        try:
            numbers = list(ids)
        except TypeError:
            raise TypeError(f"ids: expected token ids, got {type(ids).__name__}") from None
        return [self._id(number) for number in numbers]


def chat_templates(files: ModelFiles, config: TokenizerConfig) -> dict[str, str]:
    """Chat templates of a folder by their name: of a file of their own, else of ``tokenizer_config.json``."""
    value = config.values.get("chat_template")
    found: dict[str, str] = {}
    if isinstance(value, str):
        found["default"] = value
    elif isinstance(value, list):
        for entry in value:
            name, text = (entry.get("name"), entry.get("template")) if isinstance(entry, dict) else (None, None)
            if not (isinstance(name, str) and isinstance(text, str)):
                raise config.wrong("chat_template", "a text, or a list of objects with name and template")
            found[name] = text
    elif value is not None:
        raise config.wrong("chat_template", "a text, or a list of objects with name and template")
    if files.has(_TEMPLATE):
        try:
            found["default"] = files.read_bytes(_TEMPLATE).decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{files.describe(_TEMPLATE)}: not UTF-8 at byte {error.start}") from None
    return found
