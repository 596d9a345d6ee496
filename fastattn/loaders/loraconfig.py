# SPDX-License-Identifier: MIT
"""adapter_config.json of PEFT: how the two halves of a LoRA are scaled, and what is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .errors import WeightFileError

__all__ = ["LoraConfig"]

# Keys that change what an adapter computes in a way that is not done here; harmless where their value says no.
_REFUSED = (
    "use_dora", "use_qalora", "use_bdlora", "alora_invocation_tokens", "layer_replication", "target_parameters",
    "trainable_token_indices", "megatron_config", "arrow_config", "kasa_config", "monteclora_config", "velora_config",
)  # fmt: skip

# Keys of training, of where an adapter is from, of which layers it is for, which its tensors say, and of how layers lie
# in files, which pages know.
_FACTS = {
    "alora_offsets", "auto_mapping", "base_model_class", "base_model_name_or_path", "corda_config", "eva_config",
    "exclude_modules", "fan_in_fan_out", "inference_mode", "invocation_string", "layers_pattern", "layers_to_transform",
    "loftq_config", "lora_bias", "lora_dropout", "lora_ga_config", "megatron_core", "modules_to_save", "parent_library",
    "peft_version", "qalora_group_size", "revision", "runtime_config", "target_modules", "task_type",
}  # fmt: skip

_OBEYED = {
    "alpha_pattern", "bias", "ensure_weight_tying", "init_lora_weights", "lora_alpha", "peft_type",
    "r", "rank_pattern", "use_rslora",
}  # fmt: skip

# Ways to begin a training that leave the model's own weights as they are.
_PLAIN_STARTS = ("eva", "gaussian", "orthogonal")

_MOST_RANK = 1 << 20
_MOST_PATTERNS = 4096
_PATTERN = re.compile(r"(?:[\w\-.^$|()*+?]|\\[.\-_dw]|\[[\w\-^]*\])*", re.ASCII)
_REPEATED = re.compile(r"(?<!\\)[*+?]")


class LoraConfig(NamedTuple):
    """What an adapter_config.json says."""

    path: str
    r: int
    alpha: float
    ranks: tuple[tuple[re.Pattern[str], int], ...]
    alphas: tuple[tuple[re.Pattern[str], float], ...]
    rooted: bool
    """Divide by the root of the rank instead of the rank."""
    tied: bool
    notes: tuple[str, ...]

    @classmethod
    def read(cls, values: Mapping[str, Any], path: str) -> LoraConfig:
        """From the JSON object ``values``; ``WeightFileError`` names the key that is wrong or not supported."""

        def error(key: str, expected: str) -> WeightFileError:
            value = values.get(key)
            return WeightFileError(f"{path}: {key} is {'missing' if value is None else _shown(value)}, {expected}")

        def flag(key: str) -> bool:
            value = values.get(key)
            if value is not None and not isinstance(value, bool):
                raise error(key, "expected true or false")
            return bool(value)

        kind = values.get("peft_type")
        if not (isinstance(kind, str) and kind.upper() == "LORA"):
            raise error("peft_type", "expected LORA: other adapters are not supported")
        for key in _REFUSED:
            if values.get(key) not in (None, False, 0, [], {}, ""):
                raise error(key, "which is not supported: merge the adapter with peft")
        start = values.get("init_lora_weights", True)
        if start is not None and not isinstance(start, bool) and start not in _PLAIN_STARTS:
            raise error("init_lora_weights", "which changes the model's own weights too: convert it to a plain LoRA")
        if values.get("bias", "none") not in ("none", "all", "lora_only"):
            raise error("bias", "expected none, all or lora_only")
        if not _is_rank(values.get("r")):
            raise error("r", "expected a number from 1")
        if not _is_real(values.get("lora_alpha")):
            raise error("lora_alpha", "expected a finite number")
        return cls(
            path, values["r"], float(values["lora_alpha"]), _patterns(values, path, "rank_pattern", _is_rank),
            _patterns(values, path, "alpha_pattern", _is_real), flag("use_rslora"), flag("ensure_weight_tying"),
            _unknown(values, path),
        )  # fmt: skip

    def rank(self, module: str) -> int:
        """The rank of the layer ``module``."""
        return next((rank for pattern, rank in self.ranks if pattern.fullmatch(module)), self.r)

    def scale(self, module: str) -> float:
        """What its product is multiplied by."""
        rank = self.rank(module)
        alpha = next((alpha for pattern, alpha in self.alphas if pattern.fullmatch(module)), self.alpha)
        return alpha / (math.sqrt(rank) if self.rooted else rank)


def _shown(value: Any) -> str:
    try:
        return repr(value)[:100]
    except RecursionError:  # nested as deeply as the parser takes, and a little less than can be printed
        return "nested too deeply"


def _is_rank(value: Any) -> bool:
    return type(value) is int and 1 <= value <= _MOST_RANK


def _is_real(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e30


def _unknown(values: Mapping[str, Any], path: str) -> tuple[str, ...]:
    known = _OBEYED.union(_FACTS, _REFUSED)
    rest = [key for key, value in values.items() if key not in known and value not in (None, False, [], {}, "")]
    if not rest:
        return ()
    more = f" and {len(rest) - 20} more" if len(rest) > 20 else ""
    names = ", ".join(repr(key[:100]) for key in rest[:20])
    return (f"{path}: unknown key{'s' * (len(rest) > 1)} {names}{more}",)


def _patterns(
    values: Mapping[str, Any], path: str, key: str, right: Callable[[Any], bool]
) -> tuple[tuple[re.Pattern[str], Any], ...]:
    """The first one whose end of a module's name it is decides, as in PEFT.

    They are regular expressions out of a file: those that could take long are refused.
    """
    found = values.get(key) or {}
    if not isinstance(found, dict) or len(found) > _MOST_PATTERNS:
        raise WeightFileError(f"{path}: {key} is {_shown(found)}, expected at most {_MOST_PATTERNS} names")
    patterns = []
    for name, value in found.items():
        if not right(value):
            raise WeightFileError(f"{path}: {key}: {name[:100]!r} is {_shown(value)}, expected a number")
        repeats = _REPEATED.findall(name)
        simple = len(name) <= 300 and _PATTERN.fullmatch(name) and len(repeats) <= 2 and "(?" not in name
        try:
            if not simple or re.search(r"\)[*+?]", name):
                raise re.error("not simple")
            # PEFT matches from the start and up to the end, so that a name is that of a module or ends it
            patterns.append((re.compile(rf"(?:.*\.)?(?:{name})"), value))
        except re.error:
            raise WeightFileError(
                f"{path}: {key}: {name[:100]!r}, expected a module's name or a simple pattern of one"
            ) from None
    return tuple(patterns)
