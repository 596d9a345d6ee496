# SPDX-License-Identifier: MIT
"""Tokens that the files beside tokenizer.json add to it: special ones by their role, and others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..loaders.files import ModelFiles
from .jsonkeys import OptionalJson, shown
from .tokenizerconfig import TokenizerConfig, is_text

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

__all__ = ["SPECIAL_KEYS", "add_tokens", "describe_token"]

SPECIAL_KEYS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def add_tokens(
    tokenizer: Tokenizer,
    files: ModelFiles,
    config: TokenizerConfig,
    defaults: Mapping[str, str],
    more: Iterable[str],
) -> None:
    """Add to ``tokenizer`` the tokens that it lacks of those that the files name.

    A token that its vocabulary has keeps its id there, and is now found as a whole wherever it stands in a text. Others
    get new ids, in the order of transformers: those with ids of their own, special ones by their role, and the rest. An
    id may be beyond the model's table of embeddings; that is an error when a text has the token.

    Parameters
    ----------
    defaults, more
        Special tokens by their role, and others, where the files name none.

    Raises
    ------
    ValueError
        A token is not described as one, or has another id in tokenizer.json than the file beside it says.
    """
    there = {token.content: token for token in tokenizer.get_added_tokens_decoder().values()}
    new: list[AddedToken] = []
    ids: dict[str, tuple[int, str]] = {}
    for number, token, where in _numbered(files, config):
        ids[token.content] = (number, where)
        if repr(there.get(token.content)) != repr(token):
            new.append(token)
    known = {*there, *ids}
    for token in _special(config, defaults, more):
        if token.content not in known:
            known.add(token.content)
            new.append(token)
    if new:
        tokenizer.add_tokens(new)
    for content, (number, where) in ids.items():
        got = tokenizer.token_to_id(content)
        if got != number:
            raise ValueError(
                f"{where}: token {shown(content)} has the id {number}, but with {files.describe('tokenizer.json')} it "
                f"is {got}"
            )


def _numbered(files: ModelFiles, config: TokenizerConfig) -> Iterator[tuple[int, AddedToken, str]]:
    """Tokens with their ids and where they are named, in the order of ids."""
    decoder = config.values.get("added_tokens_decoder")
    special = {config.token(key) for key in SPECIAL_KEYS}
    if decoder is not None:
        if not isinstance(decoder, dict):
            raise config.wrong("added_tokens_decoder", "an object of ids and tokens")
        where = config.where("added_tokens_decoder")
        items = []
        for key, value in decoder.items():
            if not (key.isascii() and key.isdigit() and len(key) < 10):
                raise ValueError(f"{where}: {shown(key)} is not the id of a token")
            items.append((int(key), value))
        for number, value in sorted(items, key=lambda item: item[0]):
            token = describe_token(value, where)
            token.special = token.special or token.content in special
            yield number, token, where
        return
    added = OptionalJson(files, "added_tokens.json")
    special.update(token.content for token in _others(config))
    for content, number in added.values.items():
        if type(number) is not int or not 0 <= number < 2**31 or not content:
            raise added.wrong(content, "the id of a token")
    for content, number in sorted(added.values.items(), key=lambda item: int(item[1])):
        is_special = content in special
        yield number, describe_token({"content": content, "special": is_special}, added.path), added.path


def _special(config: TokenizerConfig, defaults: Mapping[str, str], more: Iterable[str]) -> Iterator[AddedToken]:
    """Special tokens: those of the seven roles, those of roles that folders invent, and others."""
    invented = [
        key
        for key, value in config.values.items()
        if key.endswith("_token") and key not in (*SPECIAL_KEYS, "add_bos_token", "add_eos_token")
        and isinstance(value, (str, dict))
    ]  # fmt: skip
    for key in (*SPECIAL_KEYS, *invented):
        content = config.token(key)
        if content is not None:
            yield describe_token(config.values[key], config.where(key), special=True)
        elif key in defaults:
            yield describe_token(defaults[key], "", special=True)
    yield from _others(config)
    if not (config.given("additional_special_tokens") or config.given("extra_special_tokens")):
        for content in more:
            yield describe_token(content, "", special=True)


def _others(config: TokenizerConfig) -> Iterator[AddedToken]:
    """Special tokens without a role, or with one that they bring along."""
    for key in ("model_specific_special_tokens", "extra_special_tokens", "additional_special_tokens"):
        value = config.values.get(key)
        if value is None:
            continue
        if not isinstance(value, (list, dict)):
            raise config.wrong(key, "a list of tokens")
        for token in value.values() if isinstance(value, dict) else value:
            yield describe_token(token, config.where(key), special=True)


def describe_token(value: Any, where: str, *, special: bool | None = None) -> AddedToken:
    """The token that ``value`` is or describes; ``where`` is what messages call its place.

    Raises
    ------
    ValueError
        It is no text and no object with its content and flags.
    """
    from tokenizers import AddedToken

    token = {"content": value} if isinstance(value, str) else value
    if isinstance(token, dict):
        flags = {key: flag for key, flag in token.items() if key not in ("content", "__type", "id")}
        content = token.get("content")
        good = isinstance(content, str) and content and is_text(content)
        if good and all(key in _FLAGS and type(flag) is bool for key, flag in flags.items()):
            return AddedToken(content, **{**flags, **({} if special is None else {"special": special})})
    raise ValueError(f"{where}: {shown(value)} is not a token: expected its text, or an object with content and flags")
