# SPDX-License-Identifier: MIT
"""How byte-level vocabularies of GGUF files split a text into words, by the names of ``tokenizer.ggml.pre``.

The patterns are those of the models' own tokenizer.json, since merges were learned on the words that they make. A
wrong one is no error anywhere: it costs a tenth more tokens and much of a model's sense. So a name that is not in the
table is refused, and a file without one is too, but for architectures whose models all split alike.
"""

from __future__ import annotations

from typing import NamedTuple

from ..loaders.errors import WeightFileError

__all__ = ["PRE_TOKENIZERS", "Pre", "pre_tokenizer"]


class Pre(NamedTuple):
    """How a text becomes words."""

    splits: tuple[str, ...]
    """Patterns, one after the other: each cuts what the ones before have left, into its matches and what is between."""
    whole_words: bool = False
    """A word that is a token is that token, whatever the merges make of it."""
    add_bos: bool = False
    """Texts begin with the first token, where the file does not say whether they do."""


_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_ENDS = r"\s*[\r\n]+|\s+(?!\S)|\s+"

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_DIGIT = r"\p{N}"
_LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_ENDS}"
_QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_ENDS}"
_QWEN35 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_ENDS}"
)
_SEED = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_ENDS}"
_BAILING = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
_JAIS2 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|"
    r"\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|"
    r"\s{1,2}(?!\S)|\s{1}"
)
# Words in upper, then lower case: those of GPT-4o take a contraction with them, those of Tekken do not.
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _cased(contraction: str, numbers: str) -> str:
    before = r"[^\r\n\p{L}\p{N}]?"
    return (
        rf"{before}{_UPPER}*{_LOWER}+{contraction}|{before}{_UPPER}+{_LOWER}*{contraction}|"
        rf"{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_ENDS}"
    )


_TEKKEN = _cased("", r"\p{N}")
_GPT4O = _cased(f"{_CONTRACTIONS}?", r"\p{N}{1,3}")

# Letters with two cases, of an older Unicode; hexadecimal.
_DEEPSEEK_LETTERS = (
    "B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A 38C 38E-3A1 3A3-3F5 "
    "3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77 1D79-1D9A "
    "1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE "
    "1FC2-1FC4 1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D "
    "2124 2126 2128 212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE "
    "2CF2 2CF3 A640-A66D A680-A69B A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A "
    "FF41-FF5A 10400-1044F 104B0-104D3 104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943"
)
_DEEPSEEK_SIGNS = "FF01-FF0F FF1A-FF5E 2018-201F 3000-3002"


def _class(ranges: str) -> str:
    """What stands between the brackets of a class of these code points."""
    return "".join("-".join(chr(int(end, 16)) for end in part.split("-")) for part in ranges.split())


_LETTERS = rf"\s?[A-Za-z{_class(_DEEPSEEK_LETTERS)}]+"
_SIGNS = rf"\s?[!-/:-~{_class(_DEEPSEEK_SIGNS)}]+"
_CJK = f"[{_class('4E00-9FA5 800-4E00 AC00-D7FF')}]+"
_CJK_KANA = f"[{_class('4E00-9FA5 3040-309F 30A0-30FF')}]+"
_PUNCTUATED = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"""
    rf"{_ENDS}"
)

_PLAIN = Pre((_GPT2,))
_DIGITS = Pre((_DIGIT, _GPT2))
_LLAMA_3 = Pre((_LLAMA3,), whole_words=True, add_bos=True)
_THREES = Pre((_LLAMA3,))
_DEEPSEEK3 = Pre((r"\p{N}{1,3}", _CJK_KANA, _PUNCTUATED))

_BY_NAMES: dict[str, Pre] = {
    "gpt-2 mpt olmo phi-2 jais trillion exaone4 gigachat a.x-4.0 mellum modern-bert granite-docling jina-es jina-de "
    "jina-v2-es jina-v2-de jina-v1-en jina-v2-code roberta-bpe": _PLAIN,
    # As transformers reads such files. llama.cpp cuts digits out first: several spaces or ends of lines in front of one
    # are a single token there.
    "smollm": _PLAIN,
    "starcoder refact command-r codeshell exaone minerva-7b mellum2": _DIGITS,
    "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano": _LLAMA_3,
    "dbrx smaug-bpe chatglm-bpe": _THREES,
    "glm4 glm5": Pre((_LLAMA3,), whole_words=True),
    "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez hunyuan solar-open stablelm2 grok-2": Pre((_QWEN2,)),
    "qwen35": Pre((_QWEN35,)),
    "tekken": Pre((_TEKKEN,), whole_words=True, add_bos=True),
    "gpt-4o llama4 kanana2 talkie minimax-m2": Pre((_GPT4O,)),
    "deepseek-llm": Pre(
        (r"[\r\n]", _LETTERS, _SIGNS, r"\s+$", _CJK, _DIGIT)
    ),
    "deepseek-coder": Pre((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, _DIGIT)),
    "deepseek-v3 hunyuan-dense joyai-llm hy_v4": _DEEPSEEK3,
    "falcon": Pre((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, r"[0-9][0-9][0-9]")),
    "seed-coder": Pre((_SEED,)),
    "bailingmoe bailingmoe2 llada-moe": Pre((_BAILING,)),
    "jais-2": Pre((_JAIS2,)),
    "minicpm5": Pre(
        (r"\p{N}{1,3}", _QWEN2.replace(r"|\p{N}|", r"|\p{N}+|")), whole_words=True
    ),
    # What llama.cpp does for files that were written before there were names.
    "default": Pre((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
}  # fmt: skip

PRE_TOKENIZERS: dict[str, Pre] = {name: pre for names, pre in _BY_NAMES.items() for name in names.split()}
"""Every name that is known."""

# Architectures whose models all split alike: files that are older than the names are read for these.
_OF_ARCHITECTURE = {
    "falcon": "falcon", "gpt2": "gpt-2", "gptneox": "gpt-2", "mpt": "mpt", "qwen2": "qwen2", "qwen2moe": "qwen2",
    "qwen3": "qwen2", "qwen3moe": "qwen2", "refact": "refact", "starcoder": "starcoder", "starcoder2": "starcoder",
}  # fmt: skip


def pre_tokenizer(name: str | None, architecture: str, where: str) -> Pre:
    """The splitting that ``name`` stands for; None is a file without one, of this architecture.

    Raises
    ------
    WeightFileError
        The name is not known, or there is none: those that are known are listed.
    """
    known = ", ".join(sorted(PRE_TOKENIZERS))
    if name is None:
        name = _OF_ARCHITECTURE.get(architecture)
        if name is None:
            raise WeightFileError(
                f"{where}: tokenizer.ggml.pre is missing, without which it is not known how texts are split (the file "
                f"is older than the key; newer ones of most models say); known are {known}"
            )
    pre = PRE_TOKENIZERS.get(name)
    if pre is None:
        raise WeightFileError(f"{where}: tokenizer.ggml.pre is {name[:100]!r}, which is not known; known are {known}")
    return pre
