# SPDX-License-Identifier: MIT
"""Options of generation: what the caller gives, else what the model's files say, else what transformers does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from ..engine.bans import Bans
from ..engine.optionvalues import token_ids, whole
from ..engine.sampling import Sampling, draws, sampling_of
from .beamoptions import BEAM_KEYS, check_answers, read_beams
from .runoptions import read_draft, read_prompt_logprobs
from .words import BREAKERS, bad_word_ids, with_breakers

if TYPE_CHECKING:
    from ..engine.beams import BeamRules
    from ..engine.drafts import DraftRules
    from ..loaders.files import ModelFiles
    from .prompted import PromptedDecoder

__all__ = ["SPELLINGS", "Options", "read_options"]

T = TypeVar("T")

_FILE = "generation_config.json"

SPELLINGS: Mapping[str, str] = {
    "max_tokens": "max_new_tokens", "min_tokens": "min_new_tokens", "repeat_penalty": "repetition_penalty",
    "stop_strings": "stop", "num_return_sequences": "n", "max_time": "timeout", "prompt_lookup_num_tokens": "draft",
}  # fmt: skip
"""Names of other libraries -> ours."""

_TOP_K = 50  # of transformers, where tokens are drawn and nobody says how many to draw from
_MOST_TOKENS = 1 << 31
_MOST_ANSWERS = 1 << 16

_HOW = ("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p", "xtc", "mirostat")
"""What says whether tokens are drawn."""
_CUTS = ("top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
"""What the file says of tokens to draw from: read where some are drawn, and not beside mirostat."""
_ALWAYS = {  # keys of the file that have a meaning with or without drawing -> our options
    "repetition_penalty": "repetition_penalty", "min_new_tokens": "min_new_tokens", "min_length": "min_length",
    "no_repeat_ngram_size": "no_repeat_ngram_size", "bad_words_ids": "bad_words", "suppress_tokens": "suppress_tokens",
    "begin_suppress_tokens": "begin_suppress_tokens", "sequence_bias": "sequence_bias",
    "forced_bos_token_id": "forced_bos_token_id", "forced_eos_token_id": "forced_eos_token_id",
    "exponential_decay_length_penalty": "exponential_decay_length_penalty",
}  # fmt: skip
_GIVEN = (
    "seed", "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias", "min_new_tokens", "logprobs",
    "temperature", "top_k", "top_p", "min_p", "typical_p", "xtc", "mirostat", "dry", "no_repeat_ngram_size",
    "bad_words", "allowed_token_ids",
)  # fmt: skip
_OF_FILE = (
    "do_sample", "temperature", "max_new_tokens", "max_length", "stop_strings", "num_return_sequences", *_CUTS,
    *_ALWAYS, *BEAM_KEYS,
    "xtc_probability", "xtc_threshold", "mirostat", "mirostat_tau", "mirostat_eta",  # of GGUF files
)  # fmt: skip
_OBEYED_ELSEWHERE = ("eos_token_id",)
_WITHOUT_EFFECT_BY_REASON = {
    "ids that no decoder needs, and what wrote the file": "bos_token_id pad_token_id decoder_start_token_id "
    "transformers_version trust_remote_code",
    "what a call returns besides": "return_dict_in_generate output_attentions output_hidden_states output_scores "
    "output_logits",
    "how keys are kept, and how transformers computes": "use_cache cache_implementation cache_config "
    "return_legacy_cache low_memory compile_config disable_compile prefill_chunk_size",
    "what no token depends on, where logits are numbers": "remove_invalid_values",
    "what only the scores of beams depend on, with which it is refused": "renormalize_logits",
    "drafts, which change no text": "is_assistant num_assistant_tokens num_assistant_tokens_schedule "
    "assistant_confidence_threshold prompt_lookup_num_tokens max_matching_ngram_size assistant_early_exit "
    "assistant_lookbehind target_lookbehind",
}
_WITHOUT_EFFECT = frozenset(" ".join(_WITHOUT_EFFECT_BY_REASON.values()).split())
_HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "num_beam_groups": (1,), "diversity_penalty": (0, 0.0),
    "encoder_no_repeat_ngram_size": (0,), "encoder_repetition_penalty": (1, 1.0),
    "guidance_scale": (1, 1.0), "token_healing": (False,), "top_h": (), "penalty_alpha": (0, 0.0), "dola_layers": (),
    "watermarking_config": (), "constraints": (), "force_words_ids": (), "max_time": (), "use_mtp": (False,),
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


def read_options(model: PromptedDecoder, given: Mapping[str, Any]) -> Options:
    """Decide on all options; those ``given`` are None where the caller leaves them.

    Raises
    ------
    ValueError, TypeError
        A value that cannot be, with its name; a key of generation_config.json that asks for what is not there.
    """
    files, vocab_size = model.files, model.vocab_size
    stored = _stored(files)
    where = files.describe(_FILE)
    how = [given.get(name) for name in _HOW]
    beams = read_beams(stored, where, given, draws(*how))
    if beams.width > 1:
        if stored.get("renormalize_logits") is True:  # it would change their scores, by which they are sorted
            raise ValueError(f"{where}: renormalize_logits is true: it is not supported with {beams.width} beams")
        drawn = False
    elif all(value is None for value in how):
        drawn = (
            _of_file(_flag, stored.get("do_sample"), f"{where}: do_sample", False) and stored.get("temperature") != 0
        )
    else:
        drawn = draws(*how)
    asked = {name: given[name] for name in _GIVEN if given.get(name) is not None}
    if asked.keys() & {"bad_words", "dry"}:
        tokenizer, missing = model.tokenizer if model.has_tokenizer else None, files.describe("tokenizer.json")
        if "bad_words" in asked:
            asked["bad_words"] = bad_word_ids(asked["bad_words"], tokenizer, vocab_size, missing)
        if "dry" in asked:
            asked["dry"] = with_breakers(asked["dry"], tokenizer, vocab_size, missing)
    # what is wrong is wrong even where it would not be used
    checked = sampling_of(vocab_size=vocab_size, ends=model.eos_token_ids, **asked)
    values = _drawing(stored, asked, checked) if drawn else {}
    for key, name in _ALWAYS.items():
        if stored.get(key) not in (None, []):
            values[name] = stored[key]
    if "min_new_tokens" in values or "min_new_tokens" in asked:
        values.pop("min_length", None)  # as transformers has it
    if stored:
        try:
            sampling_of(vocab_size=vocab_size, **values)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {str(error).replace('bad_words', 'bad_words_ids', 1)}") from None
    if not drawn:
        asked = {name: value for name, value in asked.items() if name not in (*_CUTS, "xtc", "mirostat")}
        asked["temperature"] = 0.0
    sampling = sampling_of(vocab_size=vocab_size, ends=model.eos_token_ids, **{**values, **asked})
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
    ends = given.get("stop_token_ids")
    ids = frozenset(() if ends is None else token_ids("stop_token_ids", ends, vocab_size))
    include = _flag(given.get("include_stop_str_in_output"), "include_stop_str_in_output", False)
    ignore = _flag(given.get("ignore_eos"), "ignore_eos", False)
    told = read_prompt_logprobs(given.get("prompt_logprobs"), vocab_size)
    drafts = read_draft(given.get("draft"))
    if new is not None and sampling.min_new_tokens > new:
        raise ValueError(f"min_new_tokens: got {sampling.min_new_tokens}, more than max_new_tokens, {new}")
    settings = {
        "max_new_tokens": new, "min_new_tokens": sampling.min_new_tokens, "n": n, "seed": sampling.seed,
        "do_sample": drawn, "temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p,
        "min_p": sampling.min_p, "typical_p": sampling.typical_p, **_told(sampling, given, model.has_tokenizer),
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty, "frequency_penalty": sampling.frequency_penalty,
        "logit_bias": dict(sampling.logit_bias) or None, "stop": list(stops), "stop_token_ids": sorted(ids),
        "include_stop_str_in_output": include, "ignore_eos": ignore, "logprobs": sampling.logprobs,
        "prompt_logprobs": told, "num_beams": beams.width, "length_penalty": beams.length_penalty,
        "early_stopping": beams.early_stopping, "draft": given.get("draft"),
    }  # fmt: skip
    return Options(sampling, new, most, n, beams, stops, ids, include, ignore, told, drafts, settings)


def _drawing(stored: Mapping[str, Any], asked: Mapping[str, Any], checked: Sampling) -> dict[str, Any]:
    """What the file says of how tokens are drawn, by our names, where the call leaves it open; else transformers'."""
    said = {name: value for name, value in stored.items() if value is not None}
    found: dict[str, Any] = {"temperature": said.get("temperature", 1.0)}
    cuts = asked.keys() & {*_CUTS, "xtc"}
    if "mirostat" not in asked and not cuts and said.get("mirostat", 0) != 0:
        names = {"version": "mirostat", "tau": "mirostat_tau", "eta": "mirostat_eta"}
        found["mirostat"] = {name: said[key] for name, key in names.items() if key in said}
    elif checked.mirostat is None:
        found |= {"top_k": _TOP_K, **{name: said[name] for name in _CUTS if name in said}}
        if "xtc_probability" in said:
            found["xtc"] = (said["xtc_probability"], said.get("xtc_threshold"))
    return found


def _told(sampling: Sampling, given: Mapping[str, Any], has_tokenizer: bool) -> dict[str, Any]:
    """What results tell of the options that have several parts, and of those that the file alone can have."""
    found: dict[str, Any] = {"xtc": None, "mirostat": None, "dry": None}
    if sampling.xtc is not None:
        found["xtc"] = dict(zip(("probability", "threshold"), sampling.xtc, strict=True))
    if sampling.mirostat is not None:
        found["mirostat"] = {name: getattr(sampling.mirostat, name) for name in ("version", "tau", "eta")}
    if sampling.dry is not None:
        names = ("multiplier", "base", "allowed_length", "penalty_last_n")
        found["dry"] = {name: getattr(sampling.dry, name) for name in names}
        breakers = given["dry"].get("sequence_breakers")
        usual = BREAKERS if has_tokenizer else ()
        found["dry"]["sequence_breakers"] = _listed(usual if breakers is None else breakers)
    bans = sampling.bans or Bans()
    words = given.get("bad_words")
    found["no_repeat_ngram_size"] = bans.no_repeat_ngram_size
    found["bad_words"] = (_plain(bans.bad_words) if words is None else _listed(words)) or None
    found["allowed_token_ids"] = _plain(bans.allowed_token_ids)
    for name in ("epsilon_cutoff", "eta_cutoff"):
        if getattr(sampling, name):
            found[name] = getattr(sampling, name)
    for name in _ALWAYS.values():
        if name not in found and getattr(bans, name, None):
            found[name] = _plain(getattr(bans, name))
    return found


def _listed(value: Any) -> Any:
    return _plain((value,) if isinstance(value, str) else value)


def _plain(value: Any) -> Any:
    """As JSON has it: lists of what is listed, and none of an array's own numbers."""
    if isinstance(value, np.ndarray | np.integer):
        return value.tolist()
    if isinstance(value, str):
        return str(value)
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


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
    return None if value is None else whole(name, value, 1, 1, most)


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
