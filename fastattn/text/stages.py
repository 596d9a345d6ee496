# SPDX-License-Identifier: MIT
"""The stages that transformers' classes of tokenizers have, put into a tokenizer that was read from tokenizer.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from .jsonkeys import shown
from .tokenizerconfig import TokenizerConfig

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = [
    "Wanted", "albert", "bert", "deberta_v2", "gpt2", "lowercase_first", "mpnet", "roberta", "state_of", "xlm_roberta",
]  # fmt: skip

State = dict[str, Any]

_SPACE = "▁"  # the mark of SentencePiece for white space


class Wanted:
    """What the files beside ``tokenizer``'s file want of it."""

    def __init__(self, tokenizer: Tokenizer, config: TokenizerConfig, path: str, tokens: Mapping[str, str]) -> None:
        self.tokenizer, self.config, self.path = tokenizer, config, path
        self.named = bool(config.class_place)
        """Whether a file names the class: then its defaults count, and it must know all stages."""
        self.normalizer_changed = False
        self._tokens = tokens

    def option(self, key: str, default: bool) -> bool | None:
        """What is given, else of a named class its default, else None: as in tokenizer.json."""
        if self.config.given(key):
            return self.config.flag(key)
        return default if self.named else None

    def token(self, key: str) -> str | None:
        """The special token that is given, else of a named class its default, else None: as in tokenizer.json."""
        return self.config.token(key) or self._tokens.get(key)

    def given(self, *keys: str) -> list[str]:
        """Those of ``keys`` that have a value."""
        return [key for key in keys if self.config.given(key)]

    def check(self, good: bool, stage: str, state: State | None) -> bool:
        """Whether tokenizer.json has a stage as the class has it; a named class is refused where it has not."""
        if self.named and not good:
            what = "none" if state is None else shown(json.dumps(state))
            raise ValueError(
                f"{self.config.class_place} is {self.config.class_name!r}, whose {stage} is another one than that of "
                f"{self.path}, {what}; tokenizer_class 'PreTrainedTokenizerFast' takes the latter as it is"
            )
        return good

    def refuse(self, key: str, stage: str) -> NoReturn:
        """An option that is given, and no stage that it could be obeyed in."""
        value = shown(self.config.values.get(key))
        raise ValueError(f"{self.config.where(key)} is {value}, but {self.path} has no {stage} that could do it")

    def set_normalizer(self, normalizer: Any) -> None:
        self.tokenizer.normalizer = normalizer
        self.normalizer_changed = True


def state_of(stage: Any) -> State | None:
    """What a stage of the library is, as tokenizer.json would have it; None for none."""
    if stage is None:
        return None
    state: State = json.loads(stage.__getstate__())
    return state


def _parts(state: State | None) -> list[State]:
    """The stages of a sequence, sequences in it spread out; one alone is a sequence of one."""
    if state is None:
        return []
    if state.get("type") != "Sequence":
        return [state]
    inner: list[State] = state["normalizers"] if "normalizers" in state else state["pretokenizers"]
    return [part for stage in inner for part in _parts(stage)]


def _normalizer(state: State) -> Any:
    """The normaliser that ``state`` describes."""
    from tokenizers import Regex, normalizers

    options = {key: value for key, value in state.items() if key != "type"}
    if state["type"] == "Replace":
        pattern = options["pattern"]
        return normalizers.Replace(
            pattern["String"] if "String" in pattern else Regex(pattern["Regex"]), options["content"]
        )
    if state["type"] == "Precompiled":
        import base64

        return normalizers.Precompiled(base64.b64decode(options["precompiled_charsmap"]))
    if state["type"] == "Strip":
        return normalizers.Strip(left=options["strip_left"], right=options["strip_right"])
    return getattr(normalizers, state["type"])(**options)


def _sequence(states: list[State]) -> Any:
    from tokenizers import normalizers

    if len(states) == 1:
        return _normalizer(states[0])
    return normalizers.Sequence([_normalizer(state) for state in states]) if states else None


# ---- WordPiece -----------------------------------------------------------------------------------------------------

_BERT_OPTIONS = {"do_lower_case": "lowercase", "strip_accents": "strip_accents",
                 "tokenize_chinese_chars": "handle_chinese_chars"}  # fmt: skip


def bert(wanted: Wanted) -> None:
    """BertTokenizer, DistilBertTokenizer, ElectraTokenizer."""
    _word_piece(wanted, doubled=False)


def mpnet(wanted: Wanted) -> None:
    """MPNetTokenizer."""
    _word_piece(wanted, doubled=True)


def _word_piece(wanted: Wanted, *, doubled: bool) -> None:
    from tokenizers import normalizers

    tokenizer, model = wanted.tokenizer, wanted.tokenizer.model
    state = state_of(tokenizer.normalizer)
    if state is None or state.get("type") != "BertNormalizer":
        for key in wanted.given(*_BERT_OPTIONS):
            if wanted.config.flag(key) or _does(state, key):
                wanted.refuse(key, "BertNormalizer")
        wanted.check(False, "normalizer", state)
    else:
        wanted.check(state["clean_text"] is True, "normalizer", state)
        options = {
            "lowercase": wanted.option("do_lower_case", True),
            "handle_chinese_chars": wanted.option("tokenize_chinese_chars", True),
        }
        new = {**state, **{key: value for key, value in options.items() if value is not None}}
        if wanted.named or "strip_accents" in wanted.config.values:  # null is a value: as lower-casing
            new["strip_accents"] = wanted.config.flag("strip_accents") if wanted.given("strip_accents") else None
        if new != state:
            new.pop("type")
            wanted.set_normalizer(normalizers.BertNormalizer(**new))
    pre_tokenizer = state_of(tokenizer.pre_tokenizer)
    wanted.check(pre_tokenizer == {"type": "BertPreTokenizer"}, "pre_tokenizer", pre_tokenizer)
    if wanted.named:
        limits = {"continuing_subword_prefix": model.continuing_subword_prefix,
                  "max_input_chars_per_word": model.max_input_chars_per_word}  # fmt: skip
        wanted.check(tuple(limits.values()) == ("##", 100), "model", limits)
    unknown = wanted.token("unk_token")
    if unknown is not None and unknown != model.unk_token:
        _id_of(wanted, "unk_token", unknown)
        model.unk_token = unknown
    _post_processor(wanted, ("cls_token", "sep_token"), doubled=doubled)


def _does(state: State | None, key: str) -> bool:
    """Whether a normaliser that is no BertNormalizer does what ``key`` may switch off."""
    kinds = {"do_lower_case": ("Lowercase", "BertNormalizer"), "strip_accents": ("StripAccents", "BertNormalizer"),
             "tokenize_chinese_chars": ("BertNormalizer",)}  # fmt: skip
    return any(part.get("type") in kinds[key] for part in _parts(state))


# ---- byte-level BPE ------------------------------------------------------------------------------------------------


def roberta(wanted: Wanted) -> None:
    """RobertaTokenizer."""
    from tokenizers import processors

    prefix = _byte_level(wanted)
    _post_processor(wanted, ("cls_token", "sep_token"), doubled=True)
    trim = wanted.option("trim_offsets", True)
    state = state_of(wanted.tokenizer.post_processor)
    if state is None or (state.get("type") != "RobertaProcessing" and not wanted.named):
        if wanted.given("trim_offsets"):
            wanted.refuse("trim_offsets", "RobertaProcessing")
        return
    flags = {"trim_offsets": trim, "add_prefix_space": prefix}
    new = {key: bool(state.get(key) if value is None else value) for key, value in flags.items()}
    if any(state.get(key) is not value for key, value in new.items()):
        first, last = _ends(state)[:2]  # type: ignore[index]
        wanted.tokenizer.post_processor = processors.RobertaProcessing(last, first, **new)


def gpt2(wanted: Wanted) -> None:
    """GPT2Tokenizer, which leaves what stands around a text to tokenizer.json."""
    _byte_level(wanted)


def _byte_level(wanted: Wanted) -> bool | None:
    """Obeys add_prefix_space, and returns it."""
    from tokenizers import pre_tokenizers

    tokenizer = wanted.tokenizer
    normalizer = state_of(tokenizer.normalizer)
    wanted.check(normalizer is None, "normalizer", normalizer)
    state = state_of(tokenizer.pre_tokenizer)
    prefix = wanted.option("add_prefix_space", False)
    simple = state is not None and state.get("type") == "ByteLevel"
    if not simple and wanted.given("add_prefix_space"):
        there = [part["add_prefix_space"] for part in _parts(state) if part.get("type") == "ByteLevel"]
        if there[:1] != [prefix]:
            wanted.refuse("add_prefix_space", "pre_tokenizer of ByteLevel alone")
    wanted.check(simple and state["use_regex"] is True, "pre_tokenizer", state)  # type: ignore[index]
    if simple and prefix is not None and state["add_prefix_space"] != prefix:  # type: ignore[index]
        new = {**state, "add_prefix_space": prefix}  # type: ignore[dict-item]
        new.pop("type")
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(**new)
    return prefix


# ---- SentencePiece -------------------------------------------------------------------------------------------------

_BLANKS = ({"Regex": " {2,}"}, {"Regex": r"\s{2,}|[\n\r\t]"})  # what runs of white space are replaced by their like


def xlm_roberta(wanted: Wanted) -> None:
    """XLMRobertaTokenizer, CamembertTokenizer."""
    tokenizer = wanted.tokenizer
    if type(tokenizer.normalizer).__name__ != "Precompiled":  # which is long, and as it should be
        state = state_of(tokenizer.normalizer)
        parts = _parts(state)
        if wanted.check(all(_is(part, "Precompiled", "Strip") for part in parts), "normalizer", state) and wanted.named:
            kept = [part for part in parts if part["type"] == "Precompiled"]
            if kept != parts:
                wanted.set_normalizer(_sequence(kept))
    _metaspace(wanted, split_white_space=True, otherwise="never")
    _post_processor(wanted, ("bos_token", "eos_token"), doubled=True)


def albert(wanted: Wanted) -> None:
    """AlbertTokenizer."""
    lower, keep = wanted.option("do_lower_case", True), wanted.option("keep_accents", False)
    state = state_of(wanted.tokenizer.normalizer)
    parts = _parts(state)
    quotes = [{"type": "Replace", "pattern": {"String": mark}, "content": '"'} for mark in ("``", "''")]
    usual = ("NFKD", "StripAccents", "Lowercase", "Precompiled", "Strip")
    if wanted.check(all(_is(part, *usual) or part in quotes for part in parts), "normalizer", state):
        kinds = [part["type"] for part in parts]
        lower = "Lowercase" in kinds if lower is None else lower
        keep = "StripAccents" not in kinds if keep is None else keep
        new = [
            *(quotes if wanted.named else [part for part in parts if part in quotes]),
            *([] if keep else [{"type": "NFKD"}, {"type": "StripAccents"}]),
            *([{"type": "Lowercase"}] if lower else []),
            *(part for part in parts if part["type"] == "Precompiled"),
        ]
        if new != [part for part in parts if part in quotes or part["type"] in usual[:-1]]:
            wanted.set_normalizer(_sequence(new))
    else:
        for key, kind, does in (("do_lower_case", "Lowercase", lower), ("keep_accents", "StripAccents", not keep)):
            if wanted.given(key) and does != any(part.get("type") == kind for part in parts):
                wanted.refuse(key, f"{kind} stage in its place")
    _metaspace(wanted, split_white_space=True, otherwise="never")
    _post_processor(wanted, ("cls_token", "sep_token"), doubled=False)


def deberta_v2(wanted: Wanted) -> None:
    """DebertaV2Tokenizer.

    Files that transformers 4 wrote have the character map of SentencePiece, which 5 does without: it is kept, as the
    models were trained with it.
    """
    lower = wanted.option("do_lower_case", False)
    state = state_of(wanted.tokenizer.normalizer)
    parts = _parts(state)
    if wanted.check(all(_is(part, "Lowercase", "NFC", "Precompiled", "Strip") for part in parts), "normalizer", state):
        rest = [part for part in parts if part["type"] != "Lowercase"]
        lower = len(rest) < len(parts) if lower is None else lower
        if wanted.named and not any(part["type"] == "Precompiled" for part in rest):
            blanks = {"type": "Replace", "pattern": _BLANKS[1], "content": " "}
            rest = [blanks, {"type": "NFC"}, {"type": "Strip", "strip_left": False, "strip_right": True}]
        new = [*([{"type": "Lowercase"}] if lower else []), *rest]
        if new != parts:
            wanted.set_normalizer(_sequence(new))
    elif wanted.given("do_lower_case") and lower != any(part.get("type") == "Lowercase" for part in parts):
        wanted.refuse("do_lower_case", "Lowercase stage in its place")
    _metaspace(wanted, split_white_space=False, otherwise="first")
    _post_processor(wanted, ("cls_token", "sep_token"), doubled=False)


def _is(part: State, *kinds: str) -> bool:
    """Whether ``part`` is of one of ``kinds``, or one that makes white space single."""
    return part.get("type") in kinds or (part.get("type") == "Replace" and part.get("pattern") in _BLANKS)


def _metaspace(wanted: Wanted, *, split_white_space: bool, otherwise: str) -> None:
    """Obeys add_prefix_space and split_by_punct; ``otherwise`` is what stands for the former where it is false."""
    from tokenizers import pre_tokenizers

    tokenizer = wanted.tokenizer
    state = state_of(tokenizer.pre_tokenizer)
    parts = _parts(state)
    kinds = [part.get("type") for part in parts]
    first = kinds[:1] if kinds[:1] == [("WhitespaceSplit" if split_white_space else "Punctuation")] else []
    prefix = wanted.option("add_prefix_space", True)
    punctuation = None if split_white_space else wanted.option("split_by_punct", False)
    good = kinds == [*first, "Metaspace"] and parts[-1].get("replacement") == _SPACE
    if not wanted.check(good, "pre_tokenizer", state):
        scheme = next((part.get("prepend_scheme") for part in parts if part.get("type") == "Metaspace"), None)
        if wanted.given("add_prefix_space") and scheme != ("always" if prefix else otherwise):
            wanted.refuse("add_prefix_space", "Metaspace in its place")
        if not split_white_space and wanted.given("split_by_punct") and punctuation != ("Punctuation" in kinds):
            wanted.refuse("split_by_punct", "place for Punctuation")
        return
    meta = dict(parts[-1])
    if prefix is not None:
        meta["prepend_scheme"] = "always" if prefix else otherwise
    if wanted.named:
        meta["split"] = True
    ahead = parts[:-1]
    if split_white_space and wanted.named:
        ahead = [{"type": "WhitespaceSplit"}]
    elif punctuation is not None:
        ahead = [{"type": "Punctuation", "behavior": "Isolated"}] if punctuation else []
    if [*ahead, meta] == parts:
        return
    meta.pop("type")
    stages: list[Any] = [
        pre_tokenizers.WhitespaceSplit() if part["type"] == "WhitespaceSplit" else
        pre_tokenizers.Punctuation(behavior=part["behavior"].lower())
        for part in ahead
    ]  # fmt: skip
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*stages, pre_tokenizers.Metaspace(**meta)])


def lowercase_first(tokenizer: Tokenizer) -> None:
    """What sentence-transformers makes of its do_lower_case: a stage before all others, where there is none."""
    from tokenizers import normalizers

    state = state_of(tokenizer.normalizer)
    if not any(part.get("type") == "Lowercase" for part in _parts(state)):
        rest = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *rest])


# ---- what stands around a text -------------------------------------------------------------------------------------

End = tuple[str, int]


def _post_processor(wanted: Wanted, roles: tuple[str, str], *, doubled: bool) -> None:
    """Put the tokens of ``roles`` before and behind a text; ``doubled``: the latter twice between two texts."""
    from tokenizers import processors

    tokenizer = wanted.tokenizer
    state = state_of(tokenizer.post_processor)
    ends = _ends(state)
    if ends is None or ends[2] is not doubled:
        wanted.check(False, "post_processor", state)
        return
    names = [wanted.token(role) or end[0] for role, end in zip(roles, ends[:2], strict=True)]
    new = [
        end if name == end[0] else (name, _id_of(wanted, role, name))
        for role, name, end in zip(roles, names, ends[:2], strict=True)
    ]
    if tuple(new) == ends[:2]:
        return
    (first, last), (first_id, last_id) = names, (new[0][1], new[1][1])
    if state is not None and state.get("type") == "RobertaProcessing":
        flags = {key: state[key] for key in ("trim_offsets", "add_prefix_space")}
        tokenizer.post_processor = processors.RobertaProcessing((last, last_id), (first, first_id), **flags)
        return
    ahead, begin, end = "$A:0", _special(first), _special(last)
    between = [*([_special(last)] if doubled else []), f"$B:{int(not doubled)}", _special(last, int(not doubled))]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[begin, ahead, end],
        pair=[begin, ahead, end, *between],
        special_tokens=[(first, first_id), (last, last_id)],
    )


def _special(token: str, kind: int = 0) -> str:
    return f"{token}:{kind}"


def _id_of(wanted: Wanted, key: str, token: str) -> int:
    """The id of a special token, which must be in the vocabulary or among the added tokens."""
    number = wanted.tokenizer.token_to_id(token)
    if number is None:
        where = wanted.config.where(key) if wanted.config.given(key) else f"{wanted.config.class_place}: {key}"
        raise ValueError(f"{where} is {shown(token)}, which {wanted.path} has no id for")
    return int(number)


def _ends(state: State | None) -> tuple[End, End, bool] | None:
    """The tokens before and behind a text, and whether the latter stands twice between two; None for another shape."""
    if state is None:
        return None
    if state.get("type") in ("BertProcessing", "RobertaProcessing"):
        return tuple(state["cls"]), tuple(state["sep"]), state["type"] == "RobertaProcessing"
    if state.get("type") != "TemplateProcessing":
        return None
    single, pair = ([next(iter(part.items())) for part in state[key]] for key in ("single", "pair"))
    texts = [kind if kind == "SpecialToken" else value["id"] for kind, value in single]
    if texts != ["SpecialToken", "A", "SpecialToken"]:
        return None
    first, last = single[0][1]["id"], single[2][1]["id"]
    shape = [value["id"] for _, value in pair]
    shapes = {False: [first, "A", last, "B", last], True: [first, "A", last, last, "B", last]}
    for doubled, expected in shapes.items():
        if shape == expected:
            ids = [state["special_tokens"][name]["ids"] for name in (first, last)]
            tokens = [state["special_tokens"][name]["tokens"] for name in (first, last)]
            if all(len(items) == 1 for items in (*ids, *tokens)):
                return (tokens[0][0], ids[0][0]), (tokens[1][0], ids[1][0]), doubled
    return None
