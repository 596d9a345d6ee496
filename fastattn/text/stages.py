# SPDX-License-Identifier: MIT
"""What the stages of a tokenizer are, and what the files beside tokenizer.json want of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from .jsonkeys import shown
from .tokenizerconfig import TokenizerConfig

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = [
    "State", "Wanted", "ends_of", "id_of", "lowercase_first", "parts_of", "sequence_of", "set_ends", "state_of",
]  # fmt: skip

State = dict[str, Any]
"""A stage as tokenizer.json would have it."""


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
        if key in self.config.values:  # some classes take null for false, others fail on it
            raise self.config.wrong(key, "true or false")
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


def parts_of(state: State | None) -> list[State]:
    """The stages of a sequence, sequences in it spread out; one alone is a sequence of one."""
    if state is None:
        return []
    if state.get("type") != "Sequence":
        return [state]
    inner: list[State] = state["normalizers"] if "normalizers" in state else state["pretokenizers"]
    return [part for stage in inner for part in parts_of(stage)]


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


def sequence_of(states: list[State]) -> Any:
    from tokenizers import normalizers

    if len(states) == 1:
        return _normalizer(states[0])
    return normalizers.Sequence([_normalizer(state) for state in states]) if states else None


def lowercase_first(tokenizer: Tokenizer) -> None:
    """What sentence-transformers makes of its do_lower_case: a stage before all others, where there is none."""
    from tokenizers import normalizers

    state = state_of(tokenizer.normalizer)
    if not any(part.get("type") == "Lowercase" for part in parts_of(state)):
        rest = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *rest])


# ---- what stands around a text -------------------------------------------------------------------------------------

End = tuple[str, int]


def set_ends(wanted: Wanted, roles: tuple[str, str], *, doubled: bool) -> None:
    """Put the tokens of ``roles`` before and behind a text; ``doubled``: the latter twice between two texts."""
    from tokenizers import processors

    tokenizer = wanted.tokenizer
    state = state_of(tokenizer.post_processor)
    ends = ends_of(state)
    if ends is None or ends[2] is not doubled:
        wanted.check(False, "post_processor", state)
        return
    names = [wanted.token(role) or end[0] for role, end in zip(roles, ends[:2], strict=True)]
    new = [
        end if name == end[0] else (name, id_of(wanted, role, name))
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


def id_of(wanted: Wanted, key: str, token: str) -> int:
    """The id of a special token, which must be in the vocabulary or among the added tokens."""
    number = wanted.tokenizer.token_to_id(token)
    if number is None:
        where = wanted.config.where(key) if wanted.config.given(key) else f"{wanted.config.class_place}: {key}"
        raise ValueError(f"{where} is {shown(token)}, which {wanted.path} has no id for")
    return int(number)


def ends_of(state: State | None) -> tuple[End, End, bool] | None:
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
