# SPDX-License-Identifier: MIT
"""The tokenizer inside a GGUF file, as an object of the ``tokenizers`` library.

Four kinds are read, by ``tokenizer.ggml.model``: byte-level BPE (gpt2), SentencePiece's BPE by scores (llama) and with
merges (gemma4), its Unigram (t5), and WordPiece (bert). Texts become the ids that llama.cpp and transformers make of
them; neither normalises what the model's own tokenizer.json may have normalised (NFC, of Qwen and others), so it is not
done here either.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..loaders.errors import WeightFileError
from .gguffields import Fields
from .ggufmerges import explain_merges, listed_merges, scored_merges
from .ggufpre import Pre, pre_tokenizer
from .library import library, named_errors

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

__all__ = ["GgufVocabulary", "build_tokenizer", "gguf_tokenizer", "tokenizer_json"]

_TOKENS, _TYPES, _SCORES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.scores"
_NORMAL, _UNKNOWN, _CONTROL, _USER, _BYTE = 1, 2, 3, 4, 6
_SPECIAL = (_UNKNOWN, _CONTROL)

_SPACE = "\u2581"  # what SentencePiece writes for a space
_BYTE_PIECE = re.compile(r"<0x[0-9A-Fa-f]{2}>")

# Ids of special tokens where the file says nothing of them, by the kind of vocabulary.
_DEFAULT_IDS: dict[str, dict[str, int]] = {
    "llama": {"bos": 1, "eos": 2, "unknown": 0},
    "bert": {"bos": 101, "unknown": 100, "seperator": 102, "padding": 0, "mask": 103},
    "t5": {"eos": 1, "unknown": 2, "padding": 0},
}
# Whether texts begin and end with special tokens where the file does not say.
_DEFAULT_ENDS = {"llama": (True, False), "bert": (True, True), "t5": (False, True), "gemma4": (True, False)}


class GgufVocabulary:
    """What a GGUF file says of its tokens: texts, types, special ones. Checked, nothing is built yet.

    Raises
    ------
    WeightFileError
        A key is missing or damaged, or the kind of tokenizer is not known: file and key are named.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        fields = self.fields = Fields(values, where)
        kind = fields.text("tokenizer.ggml.model")
        if kind is None:
            raise fields.wrong("tokenizer.ggml.model", "is missing: the file has no tokenizer")
        if kind not in _BUILDERS:
            raise fields.wrong(
                "tokenizer.ggml.model", f"is {kind[:100]!r}, which is not supported; supported: {', '.join(_BUILDERS)}"
            )
        self.kind = kind
        tokens = fields.texts(_TOKENS)
        if not tokens:
            raise fields.wrong(_TOKENS, "is missing" if tokens is None else "is empty")
        if "" in tokens:  # an id without a token: it keeps its place
            tokens = [token or f"[EMPTY_{number}]" for number, token in enumerate(tokens)]
        self.types: list[int] = fields.numbers(_TYPES, "int32 uint32", len(tokens)) or []
        self._kinds = set(self.types)
        if kind == "bert":
            types = self.types or [_NORMAL] * len(tokens)
            tokens = [_word(token, type_) for token, type_ in zip(tokens, types, strict=True)]
        self.tokens = tokens
        self.ids = dict(zip(tokens, range(len(tokens)), strict=True))
        if len(self.ids) != len(tokens):
            number = next(i for i, token in enumerate(tokens) if self.ids[token] != i)
            raise fields.wrong(
                _TOKENS, f"has {tokens[number][:60]!r} twice, as [{number}] and as [{self.ids[tokens[number]]}]"
            )
        if kind in ("llama", "gemma4", "t5"):
            for number in self.numbers_of(_BYTE):
                if not _BYTE_PIECE.fullmatch(tokens[number]):
                    raise fields.wrong(
                        _TOKENS, f"[{number}] is {tokens[number][:60]!r}, expected <0x00> to <0xFF>: its type is byte"
                    )

    def numbers_of(self, kind: int) -> list[int]:
        """Ids of the tokens of one type."""
        return [number for number, other in enumerate(self.types) if other == kind] if kind in self._kinds else []

    def special_id(self, role: str) -> int | None:
        """The id of the special token ``role`` (bos, eos, eot, eom, unknown, seperator, padding, cls, mask)."""
        number = self.fields.number(f"tokenizer.ggml.{role}_token_id", len(self.tokens))
        if number is None:
            number = _DEFAULT_IDS.get(self.kind, {}).get(role)
            return number if number is not None and number < len(self.tokens) else None
        return number

    def special_token(self, role: str) -> str | None:
        """The text of the special token ``role``."""
        number = self.special_id(role)
        return None if number is None else self.tokens[number]

    def pre(self) -> Pre | None:
        """How a byte-level vocabulary splits texts into words; None for the other kinds."""
        if self.kind != "gpt2":
            return None
        architecture = self.fields.text("general.architecture") or ""
        return pre_tokenizer(self.fields.text("tokenizer.ggml.pre"), architecture, self.fields.where)

    def ends(self) -> tuple[str | None, str | None]:
        """The tokens that are put before and behind a text; None for none.

        Raises
        ------
        WeightFileError
            The file asks for a token that it does not name.
        """
        if self.kind == "bert":
            roles = ("cls" if self.fields.has("tokenizer.ggml.cls_token_id") else "bos", "seperator")
        else:
            roles = ("bos", "eos")
        pre = self.pre()
        defaults = (pre.add_bos, False) if pre is not None else _DEFAULT_ENDS[self.kind]
        found: list[str | None] = []
        for role, key, default in zip(roles, ("add_bos_token", "add_eos_token"), defaults, strict=True):
            # texts of an encoder always have both
            asked = default if self.kind == "bert" else self.fields.flag(f"tokenizer.ggml.{key}", default)
            token = self.special_token(role) if asked else None
            if asked and token is None and (self.kind == "bert" or self.fields.has(f"tokenizer.ggml.{key}")):
                raise self.fields.wrong(f"tokenizer.ggml.{role}_token_id", "is missing, but texts are to have it")
            found.append(token)
        return found[0], found[1]


def gguf_tokenizer(fields: Mapping[str, Any], where: str) -> Tokenizer:
    """The tokenizer that a GGUF file describes.

    Parameters
    ----------
    fields
        Keys and values of the file: ``fastattn.open_weights(path).fields``.
    where
        What messages call the file.

    Raises
    ------
    ImportError
        The ``tokenizers`` library is not installed.
    WeightFileError
        A key is missing or damaged, the kind of tokenizer (``tokenizer.ggml.model``) or of splitting
        (``tokenizer.ggml.pre``) is not known: file, key and value are named.

    Example
    -------
    >>> fields = fastattn.open_weights("model.gguf").fields                     # doctest: +SKIP
    >>> gguf_tokenizer(fields, "model.gguf").encode("Hello").ids                # doctest: +SKIP
    [28120]
    """
    return build_tokenizer(GgufVocabulary(fields, where))


def build_tokenizer(vocabulary: GgufVocabulary) -> Tokenizer:
    """``gguf_tokenizer`` of a file whose keys have been read. Raises as that does."""
    library()
    where = vocabulary.fields.where
    message = f"{where}: the tokenizers library cannot build its tokenizer"
    with named_errors(message, ValueError, ImportError, kind=WeightFileError):
        tokenizer = _BUILDERS[vocabulary.kind](vocabulary)
        added = list(_added_tokens(vocabulary))
        if added:
            tokenizer.add_tokens(added)
        _set_ends(tokenizer, vocabulary)
    return tokenizer


def tokenizer_json(fields: Mapping[str, Any], where: str) -> bytes:
    """``gguf_tokenizer`` as a tokenizer.json, as folders and packed files have it. Raises as that does.

    Merges are written as lines, which the library reads in two thirds of the time that it needs for pairs.
    """
    content = json.loads(gguf_tokenizer(fields, where).to_str())
    merges = content["model"].get("merges") or []
    # A line is cut at its only space, and one that begins as the header of merges.txt is skipped.
    if not any(" " in left or " " in right or left.startswith("#version") for left, right in merges):
        content["model"]["merges"] = [f"{left} {right}" for left, right in merges]
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


# ---- kinds ---------------------------------------------------------------------------------------------------------


def _byte_level(vocabulary: GgufVocabulary) -> Tokenizer:
    """Byte-level BPE: bytes are written as letters, and words are merged from them."""
    from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers

    pre = vocabulary.pre()
    assert pre is not None
    tokenizer = Tokenizer(_bpe(vocabulary, listed_merges(vocabulary.fields), ignore_merges=pre.whole_words))
    splits: list[Any] = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in pre.splits]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(vocabulary: GgufVocabulary) -> Tokenizer:
    """SentencePiece's BPE: pieces are merged by their scores, and bytes stand for what no piece has."""
    from tokenizers import Tokenizer, normalizers

    fields, tokens = vocabulary.fields, vocabulary.tokens
    scores = fields.numbers(_SCORES, "float32 int32", len(tokens))
    if scores is None:
        raise fields.wrong(_SCORES, "is missing")
    for number, score in enumerate(scores):
        if score != score:
            raise fields.wrong(_SCORES, f"[{number}] is not a number")
    never = {_UNKNOWN, _CONTROL, _BYTE}
    mergeable = [kind not in never for kind in vocabulary.types] or [True] * len(tokens)
    tokenizer = Tokenizer(_bpe(vocabulary, scored_merges(tokens, scores, mergeable), **_byte_fallback(vocabulary)))
    prefix = fields.flag("tokenizer.ggml.add_space_prefix", True)
    spaces = normalizers.Replace(" ", _SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if prefix else spaces
    tokenizer.decoder = _fallback_decoder(prefix)
    return tokenizer


def _gemma4(vocabulary: GgufVocabulary) -> Tokenizer:
    """Merges over whole lines, spaces written as SentencePiece writes them."""
    from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

    tokenizer = Tokenizer(_bpe(vocabulary, listed_merges(vocabulary.fields), **_byte_fallback(vocabulary)))
    prefix = vocabulary.fields.flag("tokenizer.ggml.add_space_prefix", False)
    spaces = normalizers.Replace(" ", _SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if prefix else spaces
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n+"), behavior="isolated")
    tokenizer.decoder = _fallback_decoder(prefix)
    return tokenizer


def _unigram(vocabulary: GgufVocabulary) -> Tokenizer:
    """SentencePiece's Unigram: of all ways to write a text in pieces, the one of the best sum of scores."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    fields, tokens = vocabulary.fields, vocabulary.tokens
    scores = fields.numbers(_SCORES, "float32 int32", len(tokens))
    if scores is None:
        raise fields.wrong(_SCORES, "is missing")
    pieces: list[tuple[str, float]] = []
    for number, (token, score) in enumerate(zip(tokens, scores, strict=True)):
        if not -3.5e38 < score < 3.5e38:
            raise fields.wrong(_SCORES, f"[{number}] is {score}, expected a finite number")
        pieces.append((token, float(score)))
    complete = len(vocabulary.numbers_of(_BYTE)) == 256
    tokenizer = Tokenizer(models.Unigram(pieces, vocabulary.special_id("unknown"), complete))
    stages: list[Any] = []
    charsmap = fields.data("tokenizer.ggml.precompiled_charsmap")
    if charsmap is not None:
        _check_charsmap(fields, charsmap)
        stages.append(normalizers.Precompiled(charsmap))
    one_space = fields.flag("tokenizer.ggml.remove_extra_whitespaces", False)
    if one_space:
        stages += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if stages:
        tokenizer.normalizer = normalizers.Sequence(stages)
    prefix = fields.flag("tokenizer.ggml.add_space_prefix", one_space)
    scheme = "always" if prefix else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, scheme)
    tokenizer.decoder = decoders.Metaspace(_SPACE, scheme)
    return tokenizer


def _word_piece(vocabulary: GgufVocabulary) -> Tokenizer:
    """BERT's: the longest token that a word begins with, then the longest continuation, and so on."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    fields = vocabulary.fields
    unknown = vocabulary.special_token("unknown")
    if unknown is None:
        raise fields.wrong("tokenizer.ggml.unknown_token_id", "is missing")
    tokenizer = Tokenizer(models.WordPiece(vocabulary.ids, unk_token=unknown))
    lower = fields.flag("tokenizer.ggml.normalizer.lowercase", True)
    strip = fields.flag("tokenizer.ggml.normalizer.strip_accents", lower)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower, strip_accents=strip)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


_BUILDERS: dict[str, Callable[[GgufVocabulary], Tokenizer]] = {
    "gpt2": _byte_level,
    "llama": _sentencepiece,
    "t5": _unigram,
    "bert": _word_piece,
    "gemma4": _gemma4,
}


# ---- parts ---------------------------------------------------------------------------------------------------------


def _bpe(vocabulary: GgufVocabulary, merges: list[tuple[str, str]], **options: Any) -> Any:
    """The library's model; merges that it refuses are explained."""
    from tokenizers import models

    try:
        return models.BPE(vocabulary.ids, merges, **options)
    except Exception:
        explain_merges(vocabulary.fields, merges, vocabulary.ids)
        raise


def _byte_fallback(vocabulary: GgufVocabulary) -> dict[str, Any]:
    unknown = vocabulary.special_token("unknown")
    return {
        "byte_fallback": bool(vocabulary.numbers_of(_BYTE)) or "<0x00>" in vocabulary.ids,
        "fuse_unk": True,
        **({} if unknown is None else {"unk_token": unknown}),
    }


def _fallback_decoder(prefix: bool) -> Any:
    from tokenizers import decoders

    stages: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*stages, decoders.Strip(content=" ", left=1)] if prefix else stages)


def _word(token: str, kind: int) -> str:
    """A token of WordPiece as BERT spells it: there continuations have a mark, in GGUF files beginnings."""
    if token.startswith(_SPACE) and len(token) > 1:
        return token[1:]
    bracketed = token.startswith("[") and token.endswith("]") and len(token) > 2
    return token if kind in (*_SPECIAL, _USER) or bracketed else f"##{token}"


def _check_charsmap(fields: Fields, data: bytes) -> None:
    """Refuse a map of characters whose parts do not fit: a count of bytes, the trie of so many, texts that end in 0."""
    key = "tokenizer.ggml.precompiled_charsmap"
    if len(data) < 4:
        raise fields.wrong(key, f"has {len(data)} bytes, fewer than the 4 of its header")
    size = int.from_bytes(data[:4], "little")
    if size % 4 or size < 4 or 4 + size >= len(data):
        raise fields.wrong(key, f"has {len(data)} bytes, but its trie is said to have {size}")
    if data[-1]:
        raise fields.wrong(key, "has a text without end")
    try:
        data[4 + size :].decode()
    except UnicodeDecodeError:
        raise fields.wrong(key, "has a text that is not UTF-8") from None


def _added_tokens(vocabulary: GgufVocabulary) -> Iterator[AddedToken]:
    """Tokens that are found as a whole wherever they stand in a text, before anything else is done to it."""
    from tokenizers import AddedToken

    tokens = vocabulary.tokens
    strips = _strip_right(vocabulary)
    if not vocabulary.types:  # a file without types: the tokens that have a role are special
        roles = ("bos", "eos", "unknown", "seperator", "padding", "cls", "mask", "eot", "eom")
        for number in sorted({number for role in roles if (number := vocabulary.special_id(role)) is not None}):
            yield AddedToken(tokens[number], normalized=False, special=True)
        return
    users = set(vocabulary.numbers_of(_USER))
    ends = {number for role in ("bos", "eos") if (number := vocabulary.special_id(role)) is not None}
    for number in sorted(users.union(ends, *map(vocabulary.numbers_of, _SPECIAL))):
        right = strips and tokens[number] not in ("<unk>", "<s>", "<|endoftext|>")
        yield AddedToken(tokens[number], normalized=False, special=number not in users, rstrip=right)


def _strip_right(vocabulary: GgufVocabulary) -> bool:
    """Whether special tokens take the spaces behind them along, as those of Phi-3 do; no key of the file says so."""
    name = (vocabulary.fields.text("general.name") or "").lower()
    return vocabulary.kind == "llama" and ("phi-3" in name or "phi3" in name)


def _set_ends(tokenizer: Tokenizer, vocabulary: GgufVocabulary) -> None:
    """Special tokens before and behind texts, as the file wants them."""
    from tokenizers import processors

    first, last = vocabulary.ends()
    if first is None and last is None:
        return
    before, behind = ([] if token is None else [token] for token in (first, last))
    between = before
    if vocabulary.kind == "bert":
        between = []
    elif vocabulary.fields.flag("tokenizer.ggml.add_sep_token", False):
        separator = vocabulary.special_token("seperator")
        between = [] if separator is None else [separator]
    ends = {token: vocabulary.ids[token] for token in (*before, *behind, *between)}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *behind],
        pair=[*before, "$A", *behind, *(f"{token}:1" for token in between), "$B:1", *(f"{t}:1" for t in behind)],
        special_tokens=list(ends.items()),
    )
