# SPDX-License-Identifier: MIT
"""What ``tokenizer_config.json`` and the files beside it ask of a tokenizer, put together as transformers does it."""

from __future__ import annotations

from ..loaders.files import ModelFiles
from .jsonkeys import OptionalJson, shown
from .sidefiles import SPECIAL_TOKENS_MAP, TOKENIZER_CONFIG, TOKENIZER_KWARGS, check_keys, object_at

__all__ = ["AS_IT_IS", "KNOWN_CLASSES", "TokenizerConfig", "is_text"]

# model_type of config.json -> the class transformers takes where no file names one.
_CLASS_OF_MODEL = {
    "albert": "AlbertTokenizer", "bert": "BertTokenizer", "camembert": "CamembertTokenizer",
    "deberta-v2": "DebertaV2Tokenizer", "distilbert": "DistilBertTokenizer", "electra": "ElectraTokenizer",
    "mpnet": "MPNetTokenizer", "nomic_bert": "BertTokenizer", "roberta": "RobertaTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
}  # fmt: skip

KNOWN_CLASSES = frozenset((*_CLASS_OF_MODEL.values(), "GPT2Tokenizer"))
"""Classes that make something of their own of tokenizer.json; see ``reconcile``."""
AS_IT_IS = frozenset(("PreTrainedTokenizer", "TokenizersBackend", "PythonBackend"))
"""Classes that take tokenizer.json as it is."""

# Classes that tell a model nothing of token types unless model_input_names does.
_UNTYPED = (
    "CamembertTokenizer", "DistilBertTokenizer", "GPT2Tokenizer", "MPNetTokenizer", "RobertaTokenizer",
    "XLMRobertaTokenizer",
)  # fmt: skip
# Those that transformers 4 had tell of them, and 5 does not.
_UNTYPED_SINCE_5 = ("AlbertTokenizer", "PreTrainedTokenizer")
_ONLY_5 = ("TokenizersBackend", "PythonBackend")


class TokenizerConfig(OptionalJson):
    """``tokenizer_config.json``; above it, where it lists no added tokens, ``special_tokens_map.json``; above both the
    tokenizer's arguments of ``sentence_bert_config.json``.

    Raises
    ------
    ValueError
        A file is damaged, or a key asks for what is not supported: file and key are named.
    """

    def __init__(self, files: ModelFiles, sentence: OptionalJson) -> None:
        super().__init__(files, "tokenizer_config.json")
        check_keys(self.values, TOKENIZER_CONFIG, self.path, closed=False)
        self._places: dict[str, str] = {}
        """Where keys are from that are not this file's, as messages call it."""
        if self.values.get("added_tokens_decoder") is None:
            above = OptionalJson(files, "special_tokens_map.json")
            check_keys(above.values, SPECIAL_TOKENS_MAP, above.path, closed=False)
            self._put_above(above)
        arguments = _arguments(sentence)
        self._arguments = arguments.values
        self._put_above(arguments)
        self.class_name, self.class_place = self._class(files)
        """The tokenizer's class without "Fast" ("" where there is none), and where it is named, as messages call it;
        "" where it is not, and the class is that of the model."""

    def _put_above(self, other: OptionalJson) -> None:
        given = {key: value for key, value in other.values.items() if value is not None}
        self.values = {**self.values, **given}
        self._places.update({key: other.where(key) for key in given})

    def is_argument(self, key: str) -> bool:
        """Whether ``sentence_bert_config.json`` has the last word on ``key``."""
        return key in self._arguments

    def where(self, key: str) -> str:
        return self._places.get(key) or super().where(key)

    def _class(self, files: ModelFiles) -> tuple[str, str]:
        model = OptionalJson(files, "config.json")
        model_type = model.values.get("model_type")
        if model_type == "modernbert":  # whose class is wrong in so many folders that transformers never minds it
            return "", ""
        for config in (self, model):
            name = config.values.get("tokenizer_class")
            if name is not None and not isinstance(name, str):
                raise config.wrong("tokenizer_class", "the name of a class")
            if name:
                return name.removesuffix("Fast"), config.where("tokenizer_class")
        return _CLASS_OF_MODEL.get(model_type, "") if isinstance(model_type, str) else "", ""

    def token_types(self) -> bool:
        """Whether the model is told which of two texts a token is from.

        Classes that differ between transformers 4 and 5 do as in the one that wrote the file: "backend" is a key of 5.
        """
        inputs = self.values.get("model_input_names")
        if inputs is None:
            of_5 = self.class_name in _UNTYPED_SINCE_5 and self.given("backend")
            return not (self.class_place and (of_5 or self.class_name in (*_UNTYPED, *_ONLY_5)))
        if not (isinstance(inputs, list) and all(isinstance(name, str) for name in inputs)):
            raise self.wrong("model_input_names", "a list of names")
        return "token_type_ids" in inputs

    def given(self, key: str) -> bool:
        """Whether ``key`` has a value."""
        return self.values.get(key) is not None

    def token(self, key: str) -> str | None:
        """The text of the special token ``key``, which may be described at length; None where it has none."""
        value = self.values.get(key)
        content = value.get("content") if isinstance(value, dict) else value
        if value is None or content == "":
            return None
        if not isinstance(content, str) or not is_text(content):
            raise self.wrong(key, "a token: its text, or an object with its content")
        return content


def is_text(value: str) -> bool:
    """Whether it is valid Unicode: JSON escapes can spell half a surrogate pair."""
    return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)


def _arguments(sentence: OptionalJson) -> OptionalJson:
    """Arguments of the tokenizer in ``sentence_bert_config.json``, under their older name or the newer one."""
    old, new = (
        object_at(sentence, key, TOKENIZER_KWARGS, TOKENIZER_CONFIG) for key in ("tokenizer_args", "processor_kwargs")
    )
    if old.values and new.values and old.values != new.values:
        raise ValueError(
            f"{sentence.path}: tokenizer_args is {shown(old.values)} and processor_kwargs is {shown(new.values)}; "
            "expected one of them, as they are two names of one thing"
        )
    chosen = old if old.values else new
    values = {key: value for key, value in chosen.values.items() if key not in TOKENIZER_KWARGS}
    return OptionalJson.of(values, chosen.path, chosen.within)
