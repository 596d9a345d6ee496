# SPDX-License-Identifier: MIT
"""Options of generation: what the caller gives, else what the model's files say, else what transformers does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from ..engine.sampling import Sampling, draws, sampling_of
from .beamoptions import BEAM_KEYS, check_answers, read_beams
from .runoptions import read_draft, read_prompt_logprobs

if TYPE_CHECKING:
    from ..engine.beams import BeamRules
    from ..engine.drafts import DraftRules
    from ..loaders.files import ModelFiles

__all__ = ["SPELLINGS", "Options", "read_options"]

T = TypeVar("T")

_FILE = "generation_config.json"

SPELLINGS: Mapping[str, str] = {
    "max_tokens": "max_new_tokens", "min_tokens": "min_new_tokens", "repeat_penalty": "repetition_penalty",
    "stop_strings": "stop", "num_return_sequences": "n", "max_time": "timeout",
}  # fmt: skip
"""Names of other libraries -> ours."""

_TOP_K = 50  # of transformers, where tokens are drawn and nobody says how many to draw from
_MOST_TOKENS = 1 << 31
_MOST_ANSWERS = 1 << 16

_OF_FILE = (
    "do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_new_tokens", "max_length",
    "min_new_tokens", "stop_strings", "num_return_sequences", *BEAM_KEYS,
)  # fmt: skip
_OBEYED_ELSEWHERE = ("eos_token_id",)
_WITHOUT_EFFECT_BY_REASON = {
    "ids that no decoder needs, and what wrote the file": "bos_token_id pad_token_id decoder_start_token_id "
    "transformers_version trust_remote_code",
    "what a call returns besides": "return_dict_in_generate output_attentions output_hidden_states output_scores "
    "output_logits",
    "how keys are kept, and how transformers computes": "use_cache cache_implementation cache_config "
    "return_legacy_cache low_memory compile_config disable_compile prefill_chunk_size",
    "drafts, which change no text": "is_assistant num_assistant_tokens num_assistant_tokens_schedule "
    "assistant_confidence_threshold prompt_lookup_num_tokens max_matching_ngram_size assistant_early_exit "
    "assistant_lookbehind target_lookbehind",
}
_WITHOUT_EFFECT = frozenset(" ".join(_WITHOUT_EFFECT_BY_REASON.values()).split())
_HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "num_beam_groups": (1,), "diversity_penalty": (0, 0.0),
    "typical_p": (1, 1.0), "no_repeat_ngram_size": (0,), "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1, 1.0), "epsilon_cutoff": (0, 0.0), "eta_cutoff": (0, 0.0), "min_length": (0,),
    "guidance_scale": (1, 1.0), "remove_invalid_values": (False,), "renormalize_logits": (False,),
    "token_healing": (False,), "top_h": (), "penalty_alpha": (0, 0.0), "dola_layers": (),
}  # fmt: skip
"""Keys of processors that are not there -> values with which those do nothing; null always is one."""


class Options(NamedTuple):
    """What was decided for one call."""

    sampling: Sampling
    max_new_tokens: int | None
    """None for what is left of the context."""
    max_length: int | None
    """Tokens with those of the prompt, as the file says, where nobody says how many new ones."""
    n: int
    beams: BeamRules
    stop: tuple[str, ...]
    stop_token_ids: frozenset[int]
    include_stop: bool
    ignore_eos: bool
    prompt_logprobs: int | None
    drafts: DraftRules
    settings: Mapping[str, Any]
    """All of it by name, as results tell it."""


def read_options(files: ModelFiles, vocab_size: int, given: Mapping[str, Any]) -> Options:
    """Decide on all options; those ``given`` are None where the caller leaves them.

    Raises
    ------
    ValueError, TypeError
        A value that cannot be, with its name; a key of generation_config.json that asks for what is not there.
    """
    stored = _stored(files)
    where = files.describe(_FILE)
    how = [given.get(name) for name in ("do_sample", "temperature", "top_k", "top_p", "min_p")]
    beams = read_beams(stored, where, given, draws(*how))
    if beams.width > 1:
        drawn = False
    elif all(value is None for value in how):
        drawn = (
            _of_file(_flag, stored.get("do_sample"), f"{where}: do_sample", False) and stored.get("temperature") != 0
        )
    else:
        drawn = draws(*how)
    values: dict[str, Any] = {"temperature": 1.0, "top_k": _TOP_K} if drawn else {}
    of_file = ("temperature", "top_k", "top_p", "min_p") if drawn else ()
    for name in (*of_file, "repetition_penalty", "min_new_tokens"):
        if stored.get(name) is not None:
            values[name] = stored[name]
    if stored.keys() & values.keys():
        try:
            sampling_of(vocab_size=vocab_size, **values)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {error}") from None
    named = (
        "seed", "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias", "min_new_tokens",
        "logprobs", "temperature", "top_k", "top_p", "min_p",
    )  # fmt: skip
    asked = {name: given[name] for name in named if given.get(name) is not None}
    sampling_of(vocab_size=vocab_size, **asked)  # what is wrong is wrong even where it would not be used
    if not drawn:
        asked = {name: value for name, value in asked.items() if name not in ("top_k", "top_p", "min_p")}
        asked["temperature"] = 0.0
    sampling = sampling_of(vocab_size=vocab_size, **{**values, **asked})
    new = _count(given.get("max_new_tokens"), "max_new_tokens", _MOST_TOKENS)
    if new is None:
        new = _of_file(_count, stored.get("max_new_tokens"), f"{where}: max_new_tokens", _MOST_TOKENS)
    most = None
    if new is None:
        most = _of_file(_count, stored.get("max_length"), f"{where}: max_length", _MOST_TOKENS)
    n, named_n = _count(given.get("n"), "n", _MOST_ANSWERS), "n"
    if n is None:
        named_n = f"{where}: num_return_sequences"
        n = _of_file(_count, stored.get("num_return_sequences"), named_n, _MOST_ANSWERS) or 1
    check_answers(n, named_n, beams, drawn)
    stops = _strings(given.get("stop"), "stop")
    if given.get("stop") is None:
        stops = _of_file(_strings, stored.get("stop_strings"), f"{where}: stop_strings")
    ids = _ids(given.get("stop_token_ids"), vocab_size)
    include = _flag(given.get("include_stop_str_in_output"), "include_stop_str_in_output", False)
    ignore = _flag(given.get("ignore_eos"), "ignore_eos", False)
    told = read_prompt_logprobs(given.get("prompt_logprobs"), vocab_size)
    drafts = read_draft(given.get("draft"))
    if new is not None and sampling.min_new_tokens > new:
        raise ValueError(f"min_new_tokens: got {sampling.min_new_tokens}, more than max_new_tokens, {new}")
    settings = {
        "max_new_tokens": new, "min_new_tokens": sampling.min_new_tokens, "n": n, "seed": sampling.seed,
        "do_sample": drawn, "temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p,
        "min_p": sampling.min_p, "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty, "frequency_penalty": sampling.frequency_penalty,
        "logit_bias": dict(sampling.logit_bias) or None, "stop": list(stops), "stop_token_ids": sorted(ids),
        "include_stop_str_in_output": include, "ignore_eos": ignore, "logprobs": sampling.logprobs,
        "prompt_logprobs": told, "num_beams": beams.width, "length_penalty": beams.length_penalty,
        "early_stopping": beams.early_stopping, "draft": given.get("draft"),
    }  # fmt: skip
    return Options(sampling, new, most, n, beams, stops, ids, include, ignore, told, drafts, settings)


def _stored(files: ModelFiles) -> Mapping[str, Any]:
    """The values of generation_config.json; ``ValueError`` for a key that is not obeyed."""
    if not files.has(_FILE):
        return {}
    values = files.read_json(_FILE)
    for key, value in values.items():
        known = key in _OF_FILE or key in _OBEYED_ELSEWHERE or key in _WITHOUT_EFFECT or key.startswith("_")
        if known or value is None or value in ([], {}, ""):
            continue
        harmless = _HARMLESS.get(key, ())
        if not any(type(value) is type(one) and value == one for one in harmless):
            what = "is not supported" if key in _HARMLESS else "is not known"
            raise ValueError(f"{files.describe(_FILE)}: {key} is {str(value)[:100]!r}: it {what}")
    return values


def _of_file(read: Callable[..., T], value: Any, name: str, *more: Any) -> T:
    """``read(value, name, *more)``; a value of a wrong type is no less a fault of the file than one out of range."""
    try:
        return read(value, name, *more)
    except TypeError as error:
        raise ValueError(str(error)) from None


def _flag(value: Any, name: str, default: bool) -> bool:
    if value is None:
        return default
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected a bool, got {type(value).__name__}")
    return bool(value)


def _count(value: Any, name: str, most: int) -> int | None:
    """An integer from 1, or None."""
    if value is None:
        return None
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: expected an int or None, got {type(value).__name__}")
    if not 1 <= int(value) <= most:
        raise ValueError(f"{name}: got {_shown(value)}, expected 1 to {most}")
    return int(value)


def _shown(value: Any) -> str:
    """An integer, if it has not hundreds of digits."""
    return str(int(value)) if abs(int(value)) < 10**24 else "an integer of many digits"


def _strings(value: Any, name: str) -> tuple[str, ...]:
    """A string or several, none of them empty; those of a set in their order."""
    several = () if value is None else (value,) if isinstance(value, str) else value
    if isinstance(several, (set, frozenset)):
        several = sorted(several, key=str)
    if not isinstance(several, (list, tuple)):
        raise TypeError(f"{name}: expected a str or a list of str, got {type(value).__name__}")
    for one in several:
        if not isinstance(one, str):
            raise TypeError(f"{name}: expected str, got {type(one).__name__}")
        if not one:
            raise ValueError(f"{name}: an empty string, which would end every text at once")
    return tuple(several)


def _ids(value: Any, vocab_size: int) -> frozenset[int]:
    several = () if value is None else value
    if isinstance(several, np.ndarray):
        several = several.tolist()
    if isinstance(several, (str, bytes)) or not isinstance(several, (list, tuple, set, frozenset, range)):
        raise TypeError(f"stop_token_ids: expected a list of int, got {type(value).__name__}")
    for one in several:
        if isinstance(one, (bool, np.bool_)) or not hasattr(one, "__index__"):
            raise TypeError(f"stop_token_ids: expected int, got {type(one).__name__}")
        if not 0 <= int(one) < vocab_size:
            raise ValueError(f"stop_token_ids: got {_shown(one)}, expected 0 to {vocab_size - 1}")
    return frozenset(int(one) for one in several)
